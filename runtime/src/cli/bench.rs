//! `bench`: repeated runs of one entry, timed one by one.

use super::trace::Trace;
use super::{CliError, EntryArgs, line, views, write_tensors};
use crate::artifact::hex;
use crate::{Artifact, Session, Tensor};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Time an artifact
#[derive(clap::Args, Clone, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    pub entry: EntryArgs,
    /// Timed runs
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: u32,
    /// Runs before the timed ones
    #[arg(long, default_value_t = 2)]
    pub warmup: u32,
    /// Write a Chrome trace of the launches of a few more runs
    #[arg(long, value_name = "TRACE.json")]
    pub profile: Option<PathBuf>,
}

/// Runs that a profile records.
const PROFILED_RUNS: u32 = 10;

/// Times the entry on the inputs. The latency of a run is that of the call that writes into existing outputs.
pub fn bench(args: &BenchArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let start = Instant::now();
    let artifact = args.entry.open.open(&args.entry.artifact)?;
    let entry = args.entry.entry_name(&artifact)?;
    let outputs = args.entry.outputs.clone().or_else(|| args.entry.json.then(|| default_outputs(&artifact, &entry)));
    args.entry.check_outputs(&[outputs.as_deref(), args.profile.as_deref()])?;
    let mut session = args.entry.session(&artifact, args.entry.session_options())?;
    let opened = start.elapsed();
    let inputs = args.entry.read_inputs(&mut session, &entry)?;
    let start = Instant::now();
    let mut runner = Runner::new(&mut session, &entry, &inputs)?;
    // Up to where the first launch could start.
    let load_s = (opened + start.elapsed()).as_secs_f64();
    for _ in 0..args.warmup {
        runner.run(&mut session)?;
    }
    let mut latencies = Vec::with_capacity(args.iterations as usize);
    for _ in 0..args.iterations {
        let start = Instant::now();
        runner.run(&mut session)?;
        latencies.push(start.elapsed().as_secs_f64());
    }
    let peak_rss = peak_rss_bytes();

    let mut sorted = latencies.clone();
    sorted.sort_by(f64::total_cmp);
    let at = |q: f64| 1e3 * sorted[((sorted.len() - 1) as f64 * q).round() as usize];
    let (threads, target) = (session.threads(), artifact.manifest().targets[session.target()].name.clone());
    line!(
        out,
        "{entry} on {target}, {threads} threads: median {:.3} ms, min {:.3} ms, 90th percentile {:.3} ms of {} runs",
        at(0.5),
        at(0.0),
        at(0.9),
        sorted.len()
    )?;
    writeln!(out, "load {:.3} ms, peak resident memory {:.1} MiB", 1e3 * load_s, peak_rss as f64 / 1048576.0)?;
    let mut facts = json!({"latencies_s": latencies, "peak_rss_bytes": peak_rss, "load_s": load_s, "threads": threads,
        "entry": entry, "target": target});
    if let Some(path) = &args.profile {
        facts["profile"] = profile(args, &artifact, &entry, &inputs, path, out)?;
    }
    if let Some(path) = outputs {
        let tensors: Vec<_> = runner.outputs.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
        write_tensors(&path, &tensors)?;
        facts["outputs"] = path.to_string_lossy().into();
    }
    if args.entry.json {
        writeln!(out, "{facts}")?;
    }
    out.flush()?;
    Ok(())
}

struct Runner<'a> {
    entry: &'a str,
    inputs: Vec<(&'a str, crate::TensorView<'a>)>,
    outputs: Vec<(String, Tensor)>,
}

impl<'a> Runner<'a> {
    fn new(session: &mut Session, entry: &'a str, inputs: &'a [(String, Tensor)]) -> Result<Runner<'a>, CliError> {
        let inputs = views(inputs);
        let mut handle = session.entry(entry)?;
        let shapes = handle.output_shapes(&inputs)?;
        let ports = handle.signature().outputs.iter().zip(&shapes);
        let zeros = ports.map(|(port, shape)| Ok((port.name.clone(), Tensor::zeros(port.elem, shape)?)));
        let outputs = zeros.collect::<Result<_, crate::Error>>()?;
        Ok(Runner { entry, inputs, outputs })
    }

    fn run(&mut self, session: &mut Session) -> Result<(), CliError> {
        let mut outputs: Vec<_> = self.outputs.iter_mut().map(|(name, t)| (name.as_str(), t.view_mut())).collect();
        session.entry(self.entry)?.run_into(&self.inputs, &mut outputs)?;
        Ok(())
    }
}

/// Where outputs go that nobody gave a place: one file an artifact and entry, so that they do not pile up.
fn default_outputs(artifact: &Artifact, entry: &str) -> PathBuf {
    let entry: String = entry.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    std::env::temp_dir().join(format!("kiln-bench-{}-{entry}.npz", hex(&artifact.root()[..8])))
}

/// Writes the trace of a few runs in a session of their own, as tracing costs time.
fn profile(
    args: &BenchArgs,
    artifact: &Artifact,
    entry: &str,
    inputs: &[(String, Tensor)],
    path: &Path,
    out: &mut dyn Write,
) -> Result<serde_json::Value, CliError> {
    let mut options = args.entry.session_options();
    let trace = Arc::new(Trace::new());
    options.profile = Some(trace.clone());
    let mut session = Session::new(artifact, options)?;
    let mut runner = Runner::new(&mut session, entry, inputs)?;
    let runs = args.iterations.min(PROFILED_RUNS);
    for _ in 0..runs {
        runner.run(&mut session)?;
    }
    let write = |file: &mut std::fs::File| -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(file);
        serde_json::to_writer(&mut file, &trace.json())?;
        file.flush()
    };
    crate::write_output(path, write).map_err(CliError::write(path))?;
    let rows = trace.by_kernel();
    let total: f64 = rows.iter().map(|row| row.1).sum();
    for (kernel, us, count) in &rows {
        let (ms, share) = (us / 1e3 / f64::from(runs), 100.0 * us / total);
        line!(out, "{ms:9.3} ms {share:5.1} % {:5} launches  {kernel}", count / runs as usize)?;
    }
    let row = |(kernel, us, count): &(String, f64, usize)| json!({"kernel": kernel, "seconds": us / 1e6 / f64::from(runs), "launches": count / runs as usize});
    Ok(json!({"trace": path.to_string_lossy(), "kernels": rows.iter().map(row).collect::<Vec<_>>()}))
}

/// The most memory this process has had in use.
fn peak_rss_bytes() -> u64 {
    // SAFETY: zeros are a valid `rusage`, which the call fills in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024
}
