//! `kiln doctor`: the tools and the machine, as a bug report wants them.

use super::failure::Result;
use super::output;

/// Show tool versions, the processor's level, the thread quota and devices
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let llvm = kiln_backends::llvm::version();
    let level = kiln_runtime::machine::describe();
    let features = kiln_runtime::machine::features();
    let processor = processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let gpu = kiln_runtime::cuda::describe().map_err(|e| e.to_string());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let object = serde_json::json!({
        "kiln": env!("CARGO_PKG_VERSION"),
        "format": kiln_runtime::format::FORMAT_VERSION,
        "llvm": llvm,
        "rustc": env!("KILN_RUSTC"),
        "processor": processor,
        "level": level,
        "features": features,
        "threads": threads,
        "gpu": gpu.as_ref().ok(),
    });
    output::facts(args.json, object, || {
        let rows = [
            (
                "kiln",
                format!("{}, artifact format {}", env!("CARGO_PKG_VERSION"), kiln_runtime::format::FORMAT_VERSION),
            ),
            ("LLVM and MLIR", llvm),
            ("built with", env!("KILN_RUSTC").to_owned()),
            ("processor", format!("{processor}, {level}")),
            ("features", features.join(" ")),
            ("threads", format!("{threads} (affinity and control group)")),
            ("GPU", gpu.unwrap_or_else(|why| format!("none: {why}"))),
        ];
        rows.iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
    })
}

/// The processor's name where Linux tells it.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
