//! Errors of the front end: the model's files are at fault.

use std::{fmt, path::Path};

/// One thing that is wrong with a model file: where, what was expected, what was found, and what to do if that is known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ImportError {
    /// The file, by the path under which it was reached.
    pub file: String,
    /// A key, a tensor, a position.
    pub place: Option<String>,
    pub expected: String,
    pub found: String,
    pub help: Option<Box<str>>,
    /// Whether the file is not there or cannot be read, whatever it would hold.
    pub unreadable: bool,
}

impl ImportError {
    pub(crate) fn new(file: &Path, expected: impl Into<String>, found: impl Into<String>) -> ImportError {
        let file = file.display().to_string();
        ImportError { file, place: None, expected: expected.into(), found: found.into(), help: None, unreadable: false }
    }

    /// From a message that may itself say what was expected and what was found.
    pub(crate) fn said(file: &Path, expected: &str, message: &str) -> ImportError {
        match message.strip_prefix("expected ").and_then(|m| m.rsplit_once(", found ")) {
            Some((expected, found)) => ImportError::new(file, expected, found),
            None => ImportError::new(file, expected, message),
        }
    }

    pub(crate) fn at(mut self, place: impl Into<String>) -> ImportError {
        self.place = Some(place.into());
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> ImportError {
        self.help = Some(help.into().into_boxed_str());
        self
    }

    pub(crate) fn unreadable(mut self) -> ImportError {
        self.unreadable = true;
        self
    }

    pub(crate) fn io(file: &Path, expected: &str, e: &std::io::Error) -> ImportError {
        ImportError::new(file, expected, e.to_string()).unreadable()
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "expected {}, found {}", self.expected, self.found)?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a model, in the order in which it was found.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ImportErrors {
    pub list: Vec<ImportError>,
    /// Errors beyond those listed.
    pub omitted: usize,
}

impl fmt::Display for ImportErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.list.iter().enumerate() {
            write!(f, "{}{e}", if i > 0 { "\n" } else { "" })?;
        }
        if self.omitted > 0 {
            write!(f, "\nand {} more", self.omitted)?;
        }
        Ok(())
    }
}

/// Errors are listed up to here, so that a hostile file cannot fill the memory with them.
const MAX_LISTED: usize = 200;

/// Collects errors.
#[derive(Default, Debug)]
pub(crate) struct Errors {
    list: Vec<ImportError>,
    omitted: usize,
}

impl Errors {
    pub(crate) fn push(&mut self, e: ImportError) {
        if self.list.len() < MAX_LISTED {
            self.list.push(e);
        } else {
            self.omitted += 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are; compare two counts to learn whether a step went well.
    pub(crate) fn len(&self) -> usize {
        self.list.len() + self.omitted
    }

    pub(crate) fn finish(self) -> ImportErrors {
        ImportErrors { list: self.list, omitted: self.omitted }
    }
}

/// Text from a model file as it may stand in a message: escaped and cut to a readable length.
pub(crate) fn shown(text: &str) -> String {
    // Escaping makes text longer, so it is enough to look at its beginning.
    cut(text.chars().take(MAX_SHOWN + 1).flat_map(char::escape_debug).collect())
}

const MAX_SHOWN: usize = 160;

/// Text without control characters, cut to a readable length.
pub(crate) fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_SHOWN) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}
