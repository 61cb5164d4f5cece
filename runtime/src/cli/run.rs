//! `run`: one run of one entry.

use super::values::{Class, classes, summary};
use super::{CliError, EntryArgs, check, line, trace::Counter, views, write_tensors};
use crate::Outputs;
use crate::format::Manifest;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Run an artifact once
#[derive(clap::Args, Clone, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub entry: EntryArgs,
    /// Say what was executed: launches, time, memory
    #[arg(long)]
    pub stats: bool,
    /// Say whether the answers of a pointer network are tours or hulls, and how long or large
    #[arg(long)]
    pub check: bool,
}

/// Runs the entry on the inputs, and writes the outputs or a short summary of them.
pub fn run(args: &RunArgs, out: &mut dyn Write) -> Result<(), CliError> {
    args.entry.check_outputs(&[args.entry.outputs.as_deref()])?;
    let artifact = args.entry.open.open(&args.entry.artifact)?;
    let entry = args.entry.entry_name(&artifact)?;
    let task = args.check.then(|| check::task(artifact.manifest(), &entry)).transpose()?;
    let counter = args.stats.then(Arc::<Counter>::default);
    let mut options = args.entry.session_options();
    options.profile = counter.clone().map(|c| c as _);
    let mut session = args.entry.session(&artifact, options)?;
    let target = artifact.manifest().targets[session.target()].name.as_str();
    let inputs = args.entry.read_inputs(&mut session, &entry)?;
    let start = Instant::now();
    let outputs = session.entry(&entry)?.run(&views(&inputs))?;
    let seconds = start.elapsed().as_secs_f64();
    let file = args.entry.inputs.as_deref().unwrap_or(Path::new("inputs"));
    let checked = task.map(|task| check::check(task, file, &inputs, &outputs)).transpose()?;
    let classes = classes(artifact.manifest(), &outputs);

    if let Some(path) = &args.entry.outputs {
        let tensors: Vec<_> = outputs.iter().map(|(name, tensor)| (name, tensor.view())).collect();
        write_tensors(path, &tensors)?;
    } else {
        print_outputs(artifact.manifest(), &entry, &outputs, out)?;
    }
    for class in &classes {
        line!(out, "class {}: {} ({:.1} %)", class.index, class.label, 100.0 * class.probability)?;
    }
    if let Some(checked) = &checked {
        write!(out, "{}", checked.text())?;
    }
    let stats = counter.map(|counter| {
        let (launches, memory) = (counter.launches(), session.memory_bytes());
        let threads = session.threads();
        json!({"target": target, "launches": launches, "seconds": seconds, "memory_bytes": memory, "threads": threads})
    });
    if let Some(stats) = &stats {
        for (key, value) in stats.as_object().into_iter().flatten() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            line!(out, "{key}: {text}")?;
        }
    }
    if args.entry.json {
        let mut facts = facts(args, &entry, &outputs, &classes, stats, seconds);
        facts["target"] = target.into();
        if let Some(checked) = &checked {
            facts["check"] = checked.json();
        }
        writeln!(out, "{facts}")?;
    }
    out.flush()?;
    Ok(())
}

fn print_outputs(manifest: &Manifest, entry: &str, outputs: &Outputs, out: &mut dyn Write) -> Result<(), CliError> {
    for (name, tensor) in outputs.iter() {
        line!(out, "{name}: {tensor:?}  {}", summary(tensor).text())?;
    }
    if outputs.iter().next().is_none() {
        line!(out, "entry {entry} of {} has no outputs", manifest.model_name)?;
    }
    Ok(())
}

fn facts(
    args: &RunArgs,
    entry: &str,
    outputs: &Outputs,
    classes: &[Class],
    stats: Option<Value>,
    seconds: f64,
) -> Value {
    let tensors = outputs.iter().map(|(name, tensor)| {
        let mut facts = summary(tensor).json();
        facts["name"] = name.into();
        facts["elem"] = tensor.elem().name().into();
        facts["shape"] = json!(tensor.shape());
        facts
    });
    let mut facts = json!({"entry": entry, "seconds": seconds, "outputs": tensors.collect::<Vec<_>>()});
    if let Some(path) = &args.entry.outputs {
        facts["outputs_path"] = path.to_string_lossy().into();
    }
    if !classes.is_empty() {
        let class = |c: &Class| json!({"index": c.index, "label": c.label, "probability": c.probability});
        facts["classes"] = classes.iter().map(class).collect();
    }
    if let Some(stats) = stats {
        facts["stats"] = stats;
    }
    facts
}
