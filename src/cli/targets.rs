//! `kiln targets`: what code can be generated for.

use super::failure::Result;
use super::output;
use kiln_ir::target::{TARGETS, Target, TargetKind};
use kiln_kernels::cuda::Sm;

/// List the targets that code can be generated for
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What code for it is made of.
fn code(target: &Target) -> String {
    let sm = Sm::ALL.into_iter().find(|sm| target.kind == TargetKind::Cuda && target.name.ends_with(sm.name()));
    match sm.map(Sm::ptx) {
        Some((major, minor)) => format!("PTX {major}.{minor}"),
        None => format!("{:>3}-bit vectors", target.vector_bits),
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    let native = kiln_runtime::machine::describe();
    let levels: Vec<String> = kiln_runtime::machine::levels().map(|l| format!("cpu:{l}")).collect();
    let cpu: Vec<String> = kiln_backends::code::DEFAULT.iter().map(|l| format!("cpu:{}", l.name())).collect();
    let object = serde_json::json!({
        "native": native,
        "cpu": cpu,
        "targets": TARGETS.iter().map(|t| serde_json::json!({
            "name": t.name,
            "vector_bits": t.vector_bits,
            "runs_here": levels.iter().any(|l| l == t.name),
        })).collect::<Vec<_>>(),
    });
    output::facts(args.json, object, || {
        let line = |t: &Target| {
            let runs = if levels.iter().any(|l| l == t.name) { "runs here" } else { "cross-compiled only" };
            format!("{:<16} {:<15}  {runs}\n", t.name, code(t))
        };
        let lines: String = TARGETS.iter().map(line).collect();
        let cpu = cpu.join(", ");
        format!("{lines}{:<16} {cpu}, of which the loader takes the best\n{:<16} {native}\n", "cpu", "cpu:native")
    })
}
