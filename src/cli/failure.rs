//! What went wrong, in the form in which it is shown: problems, each with a code, and what to do.

use super::explain::Code;
use kiln_runtime::plain_lines;
use std::fmt::Display;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// More problems than this are counted and not shown.
const SHOWN: usize = 20;

/// A verb that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// All that is known to be wrong, each with its place first; the first one decides the exit code.
    problems: Vec<(Code, String)>,
    help: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Display) -> Failure {
        Failure::all([(code, message)])
    }

    pub(crate) fn all(problems: impl IntoIterator<Item = (Code, impl Display)>) -> Failure {
        Failure { problems: problems.into_iter().map(|(c, m)| (c, m.to_string())).collect(), help: None }
    }

    pub(crate) fn help(self, help: impl Display) -> Failure {
        Failure { help: Some(help.to_string()), ..self }
    }

    /// The failure of reading a file.
    pub(crate) fn io(path: &std::path::Path, error: &std::io::Error) -> Failure {
        Failure::new(Code::Read, format_args!("{}: {error}", path.display()))
    }

    /// The exit code of the program.
    pub(crate) fn status(&self) -> u8 {
        self.problems.first().map_or(1, |(code, _)| code.status())
    }

    /// All problems with their codes.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        let problem = |(c, m): &(Code, String)| serde_json::json!({"code": c.name(), "message": m});
        self.problems.iter().map(problem).collect()
    }

    /// The failure as the user reads it.
    pub(crate) fn report(&self) -> String {
        let shown = &self.problems[..self.problems.len().min(SHOWN)];
        let mut text: String = shown.iter().map(|(c, m)| format!("error[{}]: {m}\n", c.name())).collect();
        if shown.len() < self.problems.len() {
            text += &format!("and {} more\n", self.problems.len() - shown.len());
        }
        if let Some(help) = &self.help {
            text += &format!("help: {help}\n");
        }
        let mut codes: Vec<&str> = shown.iter().map(|(c, _)| c.name()).collect();
        codes.sort_unstable();
        codes.dedup();
        codes.into_iter().for_each(|code| text += &format!("more: kiln explain {code}\n"));
        // Names in messages are those of files and of what is in them.
        plain_lines(&text).into_owned()
    }
}
