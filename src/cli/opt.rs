//! `kiln opt`: passes on a graph, text in and text out.

use super::explain::Code;
use super::failure::{Failure, Result};
use super::{options, output};
use kiln_passes::{Pass, PassError, Record};
use std::cell::RefCell;
use std::path::PathBuf;

/// Run passes on a graph and print it
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A .kir text graph, or a model
    #[arg(value_name = "IN")]
    model: PathBuf,
    /// Exactly these passes, in this order; by default the whole pipeline
    #[arg(long, value_name = "A,B", value_delimiter = ',', conflicts_with = "disable")]
    passes: Option<Vec<String>>,
    #[command(flatten)]
    choice: options::Exactness,
    /// What the graph is for
    #[arg(long, value_parser = options::target, default_value = "cpu:native")]
    target: &'static kiln_ir::Target,
    /// Print the graph after each pass that changed it
    #[arg(long)]
    print_changed: bool,
    /// Where to write the graph; by default to standard output
    #[arg(short, long, value_name = "OUT.kir")]
    output: Option<PathBuf>,
    #[command(flatten)]
    load: options::Load,
    /// Print one JSON object with what the passes did
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    output::overwrites(args.output.as_deref().as_slice(), &args.model, &[])?;
    let mut module = args.load.load(&args.model)?.module;
    let printed = RefCell::new(Ok(()));
    let print = |pass: &Pass, module: &kiln_ir::Module| {
        let text = format!("// after {}\n{module}\n", pass.name);
        let mut printed = printed.borrow_mut();
        if printed.is_ok() {
            *printed = output::print(text);
        }
    };
    let mut settings = kiln_passes::Options::new(args.target);
    settings.check = true;
    args.choice.apply(&mut settings.exactness, &mut settings.disable);
    settings.print_changed = args.print_changed.then_some(&print);
    let record = match &args.passes {
        None => kiln_passes::run_pipeline(&mut module, &settings)?,
        Some(names) => {
            let mut record = Record::default();
            for pass in options::passes(names)? {
                let (_, one) = kiln_passes::run_pass(pass, &mut module, &settings)?;
                record.rewrites.extend(one.rewrites);
                record.notes.extend(one.notes);
            }
            record
        }
    };
    printed.into_inner()?;
    let text = module.to_string();
    match &args.output {
        Some(path) => output::file(path, text.as_bytes())?,
        // What was printed after the last change is the result already.
        None if args.print_changed && !record.rewrites.is_empty() => {}
        None => output::print(text)?,
    }
    if args.json {
        output::facts(true, serde_json::json!({"rewrites": record.rewrites, "notes": record.notes}), String::new)?;
    }
    Ok(())
}

impl From<PassError> for Failure {
    fn from(error: PassError) -> Failure {
        let code = match error {
            PassError::Unknown { .. } | PassError::Required { .. } => Code::Option,
            PassError::Malformed(_) => Code::Graph,
            PassError::Broke { .. } | PassError::Changed { .. } | PassError::Rule { .. } => Code::Pass,
        };
        Failure::new(code, error)
    }
}
