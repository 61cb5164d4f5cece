//! `inspect`: what is in an artifact.

use super::{CliError, OpenArgs, check_overwrites, line, report, unpack_record};
use crate::artifact::hex;
use crate::format::{Arg, Count, Manifest, Plan, Port, SectionKind, Step, UNBOUNDED};
use crate::text::plain_lines;
use crate::{Artifact, machine};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

/// Show what is in an artifact
#[derive(clap::Args, Clone, Debug)]
pub struct InspectArgs {
    /// The artifact
    #[arg(value_name = "ART")]
    pub artifact: PathBuf,
    /// The rewrites that made it
    #[arg(long)]
    pub rewrites: bool,
    /// The steps of every entry, for the target that this machine would use
    #[arg(long)]
    pub plan: bool,
    /// What the memory is used for
    #[arg(long)]
    pub memory: bool,
    /// Write all of it as one page
    #[arg(long, value_name = "REPORT.html")]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub open: OpenArgs,
    /// Print one JSON object on the last line
    #[arg(long)]
    pub json: bool,
}

/// Prints the artifact's manifest, and its plans, memory and rewrites as asked. Its whole content is verified first.
pub fn inspect(args: &InspectArgs, out: &mut dyn Write) -> Result<(), CliError> {
    check_overwrites(args.html.as_deref().as_slice(), &[&args.artifact])?;
    let artifact = args.open.open(&args.artifact)?;
    artifact.verify()?;
    let manifest = artifact.manifest();
    line!(out, "{} by {}", manifest.model_name, manifest.producer)?;
    line!(out, "root {}", hex(&artifact.root()))?;
    match artifact.signer() {
        Some(key) => line!(out, "signed by {}", hex(&key))?,
        None => line!(out, "not signed")?,
    }
    for entry in &manifest.entries {
        let ports = |ports: &[Port]| ports.iter().map(|p| manifest.describe(p)).collect::<Vec<_>>().join(", ");
        line!(out, "entry {}({}) -> ({})", entry.name, ports(&entry.inputs), ports(&entry.outputs))?;
    }
    for s in &manifest.symbols {
        let max = if s.max == UNBOUNDED { "any".to_owned() } else { s.max.to_string() };
        line!(out, "symbol {}: {} to {max}, in steps of {}", s.name, s.min, s.multiple_of)?;
    }
    for s in &manifest.states {
        let dims: Vec<String> = s.dims.iter().map(|d| d.display(&[] as &[&str])).collect();
        let grows = s.grows.map(|g| format!(", grows along axis {}", g.axis)).unwrap_or_default();
        line!(out, "state {}: {}[{}]{grows}, kept for the {:?}", s.name, s.elem, dims.join(", "), s.lifetime)?;
    }
    let best = artifact.best_target().ok();
    for (i, target) in manifest.targets.iter().enumerate() {
        let code = artifact.section(SectionKind::Code, i as u32).len();
        let here = if Some(i) == best { ", used on this machine" } else { "" };
        line!(out, "target {}: {} kernels, {code} bytes of code{here}", target.name, target.functions())?;
    }
    for (key, value) in &manifest.metadata {
        line!(out, "metadata {key}: {value}")?;
    }
    for section in artifact.sections() {
        line!(out, "section {}: {} bytes at {}", section.label(), section.len, section.offset)?;
    }
    line!(out, "file: {} bytes", artifact.file_bytes())?;
    if args.memory {
        memory(&artifact, best, out)?;
    }
    if args.plan {
        plans(&artifact, best, out)?;
    }
    let rewrites = unpack_record(artifact.rewrites()?).map_err(|e| CliError::file(&args.artifact, e))?;
    if args.rewrites && !args.json {
        writeln!(out, "{}", plain_lines(&rewrites))?;
    }
    if let Some(path) = &args.html {
        let page = report::page(&artifact, best, &rewrites);
        crate::write_output(path, |file| file.write_all(page.as_bytes())).map_err(CliError::write(path))?;
    }
    if args.json {
        let mut facts = facts(&artifact, best);
        if args.rewrites {
            facts["rewrites"] = serde_json::from_str(&rewrites).unwrap_or(Value::String(rewrites));
        }
        writeln!(out, "{facts}")?;
    }
    out.flush()?;
    Ok(())
}

/// The plans of the target that would run here, or else of the first.
pub(super) fn shown(artifact: &Artifact, best: Option<usize>) -> impl Iterator<Item = (&str, &Plan)> {
    let names = artifact.manifest().entries.iter().map(|e| e.name.as_str());
    names.zip(artifact.plans(best.unwrap_or(0)))
}

fn memory(artifact: &Artifact, best: Option<usize>, out: &mut dyn Write) -> Result<(), CliError> {
    let names = artifact.manifest().symbol_names();
    let weights = artifact.section(SectionKind::Weights, 0).len();
    line!(out, "memory: {weights} bytes of weights, used in place")?;
    for (name, plan) in shown(artifact, best) {
        let (arena, scratch) = (plan.arena_bytes.display(&names), plan.scratch_bytes.display(&names));
        line!(out, "memory of {name}: arena {arena}; scratch of each thread {scratch}")?;
    }
    Ok(())
}

fn plans(artifact: &Artifact, best: Option<usize>, out: &mut dyn Write) -> Result<(), CliError> {
    for (name, plan) in shown(artifact, best) {
        line!(out, "plan of {name}:")?;
        for (i, block) in plan.blocks.iter().enumerate() {
            if plan.blocks.len() > 1 {
                line!(out, "  block {i}:")?;
            }
            for step in &block.steps {
                line!(out, "    {}", step_text(artifact.manifest(), best.unwrap_or(0), step))?;
            }
        }
    }
    Ok(())
}

pub(super) fn step_text(manifest: &Manifest, target: usize, step: &Step) -> String {
    let names = manifest.symbol_names();
    let arg = |a: &Arg| match a {
        Arg::Arena { offset } => format!("arena+{}", offset.display(&names)),
        Arg::Weight { offset } => format!("weight+{offset}"),
        Arg::Input { index, offset } => format!("input{index}+{}", offset.display(&names)),
        Arg::Output { index, offset } => format!("output{index}+{}", offset.display(&names)),
        Arg::State { index, offset } => format!("state{index}+{}", offset.display(&names)),
    };
    match step {
        Step::Launch { kernel, args, sizes, tasks, .. } => {
            let kernel = &manifest.targets[target].kernels[*kernel as usize];
            let args: Vec<String> = args.iter().map(arg).collect();
            let sizes: Vec<String> = sizes.iter().map(|s| s.display(&names)).collect();
            let (args, sizes, tasks) = (args.join(", "), sizes.join(", "), tasks.display(&names));
            format!("{}({args}; {sizes}) in {tasks} tasks  // {}", kernel.symbol, kernel.label)
        }
        Step::If { cond, then, otherwise } => format!("if {} block {then} else block {otherwise}", arg(cond)),
        Step::While { cond, body, max, label } => {
            format!("while {} block {body}, at most {} times  // {label}", arg(cond), max.display(&names))
        }
        Step::For { count, index, body } => {
            let count = match count {
                Count::Size(expr) => expr.display(&names),
                Count::Scalar(a) => arg(a),
            };
            let index = index.as_ref().map(|a| format!(", index in {}", arg(a))).unwrap_or_default();
            format!("for {count} times block {body}{index}")
        }
    }
}

fn facts(artifact: &Artifact, best: Option<usize>) -> Value {
    let manifest = artifact.manifest();
    let names = manifest.symbol_names();
    let port = |p: &Port| {
        let dims: Vec<String> = p.dims.iter().map(|d| d.display(&names)).collect();
        let accepts = p.accepts.as_ref().map(|a| a.display(&names));
        json!({"name": p.name, "elem": p.elem.name(), "dims": dims, "accepts": accepts})
    };
    let entries = manifest.entries.iter().zip(artifact.plans(best.unwrap_or(0))).map(|(e, plan)| {
        json!({"name": e.name, "inputs": e.inputs.iter().map(port).collect::<Vec<_>>(),
            "outputs": e.outputs.iter().map(port).collect::<Vec<_>>(),
            "launches": plan.blocks.iter().flat_map(|b| &b.steps).filter(|s| matches!(s, Step::Launch { .. })).count(),
            "arena_bytes": plan.arena_bytes.display(&names), "scratch_bytes": plan.scratch_bytes.display(&names)})
    });
    let symbols = manifest.symbols.iter().map(|s| {
        let max = Some(s.max).filter(|m| *m != UNBOUNDED);
        json!({"name": s.name, "min": s.min, "max": max, "multiple_of": s.multiple_of})
    });
    let targets = manifest.targets.iter().enumerate().map(|(i, t)| {
        json!({"name": t.name, "features": t.features, "kernels": t.functions(),
            "code_bytes": artifact.section(SectionKind::Code, i as u32).len(), "used_here": Some(i) == best})
    });
    let states = manifest.states.iter().map(|s| {
        let dims: Vec<_> = s.dims.iter().map(|d| d.as_constant()).collect();
        json!({"name": s.name, "elem": s.elem.name(), "dims": dims, "grows": s.grows.map(|g| g.axis),
            "lifetime": format!("{:?}", s.lifetime)})
    });
    let sections = artifact.sections().iter().map(|s| json!({"name": s.label(), "offset": s.offset, "bytes": s.len}));
    json!({
        "model": manifest.model_name, "producer": manifest.producer, "root": hex(&artifact.root()),
        "signer": artifact.signer().map(|k| hex(&k)), "file_bytes": artifact.file_bytes(),
        "entries": entries.collect::<Vec<_>>(), "symbols": symbols.collect::<Vec<_>>(),
        "targets": targets.collect::<Vec<_>>(), "states": states.collect::<Vec<_>>(),
        "sections": sections.collect::<Vec<_>>(), "metadata": manifest.metadata, "machine": machine::describe(),
    })
}
