//! `kiln check`: everything that would stop a compilation, at once, without compiling.

use super::failure::{Failure, Result};
use super::{options, output};
use std::path::PathBuf;

/// List everything that would stop a compilation of a model
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A directory of Hugging Face or of a pointer network, or a .kir text graph
    model: PathBuf,
    #[command(flatten)]
    load: options::Load,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let report = kiln_frontend::check(&args.model, &args.load.options());
    let error = |e: &kiln_frontend::ImportError| {
        serde_json::json!({
            "code": options::code_of(e).name(), "file": e.file, "place": e.place, "expected": e.expected,
            "found": e.found, "help": e.help,
        })
    };
    let object = serde_json::json!({
        "ok": report.errors.is_empty(),
        "format": report.format.map(|f| f.name()),
        "errors": report.errors.iter().map(error).collect::<Vec<_>>(),
        "notes": report.notes,
    });
    let notes = || report.notes.iter().map(|n| format!("note: {n}\n")).collect::<String>();
    let kind = report.format.map_or("a model", |f| f.describe());
    if report.errors.is_empty() {
        return output::facts(args.json, object, || {
            format!("{}{}: {kind}, no errors\n", notes(), args.model.display())
        });
    }
    if args.json {
        output::facts(true, object, String::new)?;
    }
    Err(Failure::all(report.errors.iter().map(|e| (options::code_of(e), e))))
}
