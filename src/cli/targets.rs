//! `kiln targets`: what code can be generated for.

use super::failure::Result;
use super::output;
use kiln_ir::target::{TARGETS, Target, TargetKind};
use kiln_kernels::cuda::Sm;
use kiln_runtime::{cuda, format::Level, machine};

/// List the targets that code can be generated for
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The kind of GPU that it is, if it is one.
fn sm(target: &Target) -> Option<Sm> {
    let named = |sm: &Sm| target.kind == TargetKind::Cuda && target.name.ends_with(sm.name());
    Sm::ALL.into_iter().find(named)
}

/// What code for it is made of.
fn code(target: &Target) -> String {
    match sm(target).map(Sm::ptx) {
        Some((major, minor)) => format!("PTX {major}.{minor}"),
        None => format!("{:>3}-bit vectors", target.vector_bits),
    }
}

/// Whether this machine runs code for it.
fn runs_here(target: &Target) -> bool {
    let Some(sm) = sm(target) else { return machine::levels().any(|l| format!("cpu:{l}") == target.name) };
    let (level, (major, minor)) = (Level::ALL.into_iter().find(|l| l.name() == sm.name()), sm.ptx());
    level.is_some_and(|level| cuda::serves(None, level, &[format!("ptx{major}.{minor}")]).is_ok())
}

pub(crate) fn run(args: Args) -> Result<()> {
    let native = machine::describe();
    let cpu: Vec<String> = kiln_backends::code::DEFAULT.iter().map(|l| format!("cpu:{}", l.name())).collect();
    let row = |t: &Target| {
        let mut row = serde_json::json!({"name": t.name, "runs_here": runs_here(t)});
        match sm(t).map(Sm::ptx) {
            Some((major, minor)) => row["ptx"] = format!("{major}.{minor}").into(),
            None => row["vector_bits"] = t.vector_bits.into(),
        }
        row
    };
    let targets: Vec<_> = TARGETS.iter().map(row).collect();
    let object = serde_json::json!({"native": native, "cpu": cpu, "targets": targets});
    output::facts(args.json, object, || {
        let line = |t: &Target| {
            let runs = if runs_here(t) { "runs here" } else { "cross-compiled only" };
            format!("{:<16} {:<15}  {runs}\n", t.name, code(t))
        };
        let lines: String = TARGETS.iter().map(line).collect();
        let cpu = cpu.join(", ");
        format!("{lines}{:<16} {cpu}, of which the loader takes the best\n{:<16} {native}\n", "cpu", "cpu:native")
    })
}
