//! `kiln check`: everything that would stop a compilation, at once, without compiling.

use super::failure::{Failure, Result};
use super::{options, output};
use kiln::Error;
use kiln_frontend::ImportError;
use kiln_runtime::plain;
use std::path::PathBuf;

/// List everything that would stop a compilation of a model
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A directory of Hugging Face or of a pointer network, a circuit, or a .kir text graph
    model: PathBuf,
    /// What code would be generated for, as for `kiln compile` (repeatable)
    #[arg(long = "target", value_name = "TARGET", default_value = "cpu", value_parser = options::targets)]
    targets: Vec<String>,
    #[command(flatten)]
    load: options::Load,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let load = args.load.options();
    let format = load.format.or_else(|| kiln_frontend::detect(&args.model).ok());
    let options = kiln::Options { load, targets: args.targets, ..kiln::Options::default() };
    let (notes, errors, failure) = match kiln::check(&args.model, &options) {
        Ok(notes) => (notes, vec![], None),
        Err(Error::Import(e)) => (vec![], e.list.iter().map(import).collect(), Some(e.into())),
        Err(e) => {
            let failure = Failure::from(e);
            (vec![], failure.json(), Some(failure))
        }
    };
    let object = serde_json::json!({
        "ok": failure.is_none(),
        "format": format.map(|f| f.name()),
        "errors": errors,
        "notes": notes,
    });
    match failure {
        None => output::facts(args.json, object, || {
            let notes: String = notes.iter().map(|n| format!("note: {}\n", plain(n))).collect();
            let kind = format.map_or("a model", |f| f.describe());
            format!("{notes}{}: {kind}, no errors\n", args.model.display())
        }),
        Some(failure) => {
            if args.json {
                output::facts(true, object, String::new)?;
            }
            Err(failure)
        }
    }
}

/// An error of the front end with its parts.
fn import(e: &ImportError) -> serde_json::Value {
    serde_json::json!({
        "code": options::code_of(e).name(), "message": e.to_string(), "file": e.file, "place": e.place,
        "expected": e.expected, "found": e.found, "help": e.help,
    })
}
