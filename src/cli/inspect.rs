//! `kiln inspect`: what is in an artifact, or in a model as the compiler reads it.

use super::explain::Code;
use super::failure::{Failure, Result};
use super::{artifact, interpret, options, output};
use kiln_frontend::Loaded;
use kiln_passes::Record;
use kiln_runtime::cli::{InspectArgs, OpenArgs, unpack_record};
use kiln_runtime::{Artifact, plain, plain_lines};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Show what is in an artifact or a model
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// An artifact, or a model
    #[arg(value_name = "ART|MODEL")]
    path: PathBuf,
    /// The rewrites that made an artifact
    #[arg(long)]
    rewrites: bool,
    /// The steps of every entry of an artifact, for the target that this machine would use
    #[arg(long)]
    plan: bool,
    /// What an artifact's memory is used for
    #[arg(long)]
    memory: bool,
    /// Write all that is in an artifact as one page
    #[arg(long, value_name = "REPORT.html")]
    html: Option<PathBuf>,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    load: options::Load,
    /// Print one JSON object on the last line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    if !is_artifact(&args.path)? {
        let of_artifacts = [
            ("--rewrites", args.rewrites),
            ("--plan", args.plan),
            ("--memory", args.memory),
            ("--html", args.html.is_some()),
        ];
        let wrong = of_artifacts.iter().filter(|(_, given)| *given);
        let text = |name| format!("{}: {name} is for artifacts, this is none", args.path.display());
        let wrong: Vec<_> = wrong.map(|(name, _)| (Code::Option, text(*name))).collect();
        if !wrong.is_empty() {
            return Err(Failure::all(wrong));
        }
        return model(&args);
    }
    let Args { path, rewrites: show_rewrites, plan, memory, html, open, json, .. } = args;
    // As text, the record is shown here, where its form is known.
    let inner = InspectArgs { artifact: path.clone(), rewrites: show_rewrites && json, plan, memory, html, open, json };
    artifact::verb(|out| kiln_runtime::cli::inspect(&inner, out))?;
    if show_rewrites && !json {
        output::print(&*plain_lines(&rewrites(&record(&path, &artifact::open(&path)?)?)))?;
    }
    Ok(())
}

fn is_artifact(path: &Path) -> Result<bool> {
    if path.extension().is_some_and(|e| e == "kiln") {
        return Ok(true);
    }
    if path.is_dir() {
        return Ok(false);
    }
    let mut start = vec![];
    let file = std::fs::File::open(path).map_err(|e| Failure::io(path, &e))?;
    file.take(8).read_to_end(&mut start).map_err(|e| Failure::io(path, &e))?;
    Ok(start == kiln_runtime::format::MAGIC)
}

/// The record of rewrites that an artifact holds.
fn record(path: &Path, artifact: &Artifact) -> Result<Record> {
    let bad = |e: String| Failure::new(Code::Malformed, format_args!("{}: {e}", path.display()));
    let text = unpack_record(artifact.rewrites()?).map_err(bad)?;
    serde_json::from_str(&text).map_err(|e| bad(format!("rewrite record: {e}")))
}

/// Rewrites for people.
pub(crate) fn rewrites(record: &Record) -> String {
    let mut text = String::new();
    for r in &record.rewrites {
        let (class, costs) = (r.class.name(), format!("{} -> {} cycles", r.cost_before, r.cost_after));
        text += &format!("rewrite {}: {} {} at {} ({class}, {costs})\n", r.index, r.pass, r.rule, r.place);
        r.before.iter().for_each(|line| text += &format!("  - {line}\n"));
        r.after.iter().for_each(|line| text += &format!("  + {line}\n"));
    }
    for n in &record.notes {
        text += &format!("left alone: {} {} at {}: {}\n", n.pass, n.rule, n.place, n.reason);
    }
    text
}

fn model(args: &Args) -> Result<()> {
    let Loaded { module, notes, .. } = args.load.load(&args.path)?;
    let elements = |v| module.ty(v).const_dims().map_or(0, |dims| dims.iter().product::<i64>());
    let count: i64 = module.params.values().map(|p| elements(p.value)).sum();
    let size = |v: kiln_ir::Value| elements(v) as u64 * module.ty(v).elem.bytes() as u64;
    let bytes: u64 = module.params.values().map(|p| size(p.value)).sum();
    let mut ops = BTreeMap::<&str, usize>::new();
    module.live_nodes().iter().for_each(|n| *ops.entry(module.nodes[*n].op.name()).or_default() += 1);
    let signatures: Vec<String> = module.entries.iter().map(|e| interpret::signature(&module, &e.name)).collect();
    let symbols: Vec<_> = module.symbols.iter().map(|s| (s.symbol.to_string(), s.min, s.max, s.multiple_of)).collect();
    let object = serde_json::json!({
        "model": module.name,
        "stage": module.stage.name(),
        "entries": signatures,
        "symbols": symbols.iter().map(|(name, min, max, multiple)| serde_json::json!({
            "name": name, "min": min, "max": max, "multiple_of": multiple,
        })).collect::<Vec<_>>(),
        "parameters": count,
        "weight_bytes": bytes,
        "ops": ops,
        "metadata": module.metadata,
        "notes": notes,
    });
    output::facts(args.json, object, || {
        let mut text = format!("{}, {}\n", plain(&module.name), module.stage.name());
        signatures.iter().for_each(|s| text += &format!("entry {}\n", plain(s)));
        for (name, min, max, multiple) in &symbols {
            text += &format!("symbol {name}: {min} to {max}, in steps of {multiple}\n");
        }
        text += &format!("weights: {count} parameters, {}\n", output::bytes(bytes));
        let ops: Vec<String> = ops.iter().map(|(name, n)| format!("{n} {name}")).collect();
        text += &format!("ops: {}\n", ops.join(", "));
        module.metadata.iter().for_each(|(key, value)| text += &format!("metadata {}: {}\n", plain(key), plain(value)));
        notes.iter().for_each(|n| text += &format!("note: {}\n", plain(n)));
        text
    })
}
