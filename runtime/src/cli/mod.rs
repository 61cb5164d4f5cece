//! The verbs that `kiln-run` and `kiln` share: `run`, `bench`, `encode`, `decode`, and `inspect` of an artifact.
//!
//! Each is a clap argument struct and a function that writes to what it is given. With `--json` the last line is one
//! JSON object. [`exit`] turns a result into an exit code: 0 done, 1 the input or the environment is at fault, 2 the
//! command line is.

mod bench;
mod check;
mod coding;
mod image;
mod inspect;
mod npy;
mod record;
mod report;
mod rows;
mod run;
mod tensors;
mod trace;
mod values;

pub use bench::{BenchArgs, bench};
pub use coding::{DecodeArgs, EncodeArgs, decode, decode_with, encode, encode_with, open_codec};
pub use inspect::{InspectArgs, inspect};
pub use record::{pack_record, unpack_record};
pub use run::{RunArgs, run};
pub use tensors::{check_output, read_tensors, write_tensors};

/// Refuses outputs that are files which are read, or are one file; asked before any work is done for them.
pub fn check_overwrites(outputs: &[&Path], read: &[&Path]) -> Result<(), CliError> {
    for (i, output) in outputs.iter().enumerate() {
        let read = read.iter().map(|other| (other, "which is read"));
        let before = outputs[..i].iter().map(|other| (other, "which is another output"));
        if let Some((other, role)) = read.chain(before).find(|(other, _)| same_file(output, other)) {
            return Err(CliError::Overwrites { output: output.into(), other: other.into(), role });
        }
    }
    Ok(())
}

use crate::text::plain_lines;
use crate::{Artifact, OpenOptions, Session, SessionOptions, Tensor, same_file};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Writes one line of text, of which parts may come from a file.
macro_rules! line {
    ($out:expr, $($text:tt)*) => { writeln!($out, "{}", $crate::text::plain(&format!($($text)*))) };
}
use line;

/// Why a verb did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Runtime(#[from] crate::Error),
    /// A file itself is at fault, and `source` does not name it.
    #[error("{path}: {source}", path = .path.display())]
    Artifact { path: PathBuf, source: crate::Error },
    /// A file could be read or written, but its content is at fault.
    #[error("{path}: {problem}", path = .path.display())]
    File { path: PathBuf, problem: String },
    #[error("{path}: {source}", path = .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {source}", path = .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{output}: expected an output of its own, found {other}, {role}", output = .output.display(), other = .other.display())]
    Overwrites { output: PathBuf, other: PathBuf, role: &'static str },
    #[error("{0}")]
    Input(String),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

impl CliError {
    fn file(path: &Path, problem: impl ToString) -> CliError {
        CliError::File { path: path.to_owned(), problem: problem.to_string() }
    }

    fn read(path: &Path) -> impl FnOnce(io::Error) -> CliError {
        |source| CliError::Read { path: path.to_owned(), source }
    }

    fn write(path: &Path) -> impl FnOnce(io::Error) -> CliError {
        |source| CliError::Write { path: path.to_owned(), source }
    }
}

/// To be called once, as the program starts: a file that outgrows the limit of this process is then an error of the write,
/// which takes the file back, and not the end of the program.
pub fn begin() {
    // SAFETY: no handler is installed, so nothing of ours runs in one.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Reports an error on standard error and gives the exit code. Whoever closed our standard output has seen enough.
pub fn exit(result: Result<(), CliError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            use io::Write;
            // Nobody is left to tell when standard error is closed too.
            let _ = writeln!(io::stderr(), "error: {}", plain_lines(&e.to_string()));
            ExitCode::from(match e {
                // The command line names an entry that is not there, or should name one, or an output that is an input.
                CliError::Input(_) | CliError::Overwrites { .. } | CliError::Runtime(crate::Error::NoEntry { .. }) => 2,
                _ => 1,
            })
        }
    }
}

/// What `run` and `bench` both take.
#[derive(clap::Args, Clone, Debug)]
pub struct EntryArgs {
    /// The artifact
    #[arg(value_name = "ART")]
    pub artifact: PathBuf,
    /// The entry; the default is `forward`, or the only one there is
    #[arg(long)]
    pub entry: Option<String>,
    /// Inputs by name: .npz or .safetensors, or a .png for an entry that takes pictures
    #[arg(long, value_name = "FILE")]
    pub inputs: Option<PathBuf>,
    /// Where to write the outputs: .npz or .safetensors
    #[arg(long, value_name = "FILE")]
    pub outputs: Option<PathBuf>,
    /// Number of threads; the default is what affinity and quota leave to this process
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Use the code for this target instead of the best one; `cpu` is the best one for processors
    #[arg(long)]
    pub target: Option<String>,
    #[command(flatten)]
    pub open: OpenArgs,
    /// Say on standard error which target runs, and why no better one does
    #[arg(long, short)]
    pub verbose: bool,
    /// Print one JSON object on the last line
    #[arg(long)]
    pub json: bool,
}

/// How to open an artifact.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct OpenArgs {
    /// Refuse an artifact that this Ed25519 public key (64 hexadecimal digits) has not signed
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    pub require_key: Option<[u8; 32]>,
}

fn parse_key(text: &str) -> Result<[u8; 32], String> {
    let bytes = (0..32).map(|i| text.get(2 * i..2 * i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()));
    let bytes: Option<Vec<u8>> = bytes.collect();
    let key = bytes.and_then(|b| b.try_into().ok()).filter(|_| text.len() == 64);
    key.ok_or_else(|| "expected 64 hexadecimal digits".to_owned())
}

impl OpenArgs {
    pub(crate) fn open(&self, path: &Path) -> Result<Artifact, CliError> {
        let options = OpenOptions { require_key: self.require_key, ..OpenOptions::default() };
        options.open(path).map_err(|e| match e {
            e @ crate::Error::Io { .. } => e.into(),
            source => CliError::Artifact { path: path.to_owned(), source },
        })
    }
}

impl EntryArgs {
    /// Whether all outputs of a verb, of which `--outputs` is one, can go where they are to go.
    pub(crate) fn check_outputs<'a>(&'a self, outputs: &[Option<&'a Path>]) -> Result<(), CliError> {
        check_output(self.outputs.as_deref())?;
        let given = |paths: &[Option<&'a Path>]| paths.iter().flatten().copied().collect::<Vec<_>>();
        check_overwrites(&given(outputs), &given(&[Some(&self.artifact), self.inputs.as_deref()]))
    }

    pub(crate) fn session_options(&self) -> SessionOptions {
        let threads = self.threads.map(usize::from);
        SessionOptions { threads, target: self.target.clone(), ..SessionOptions::default() }
    }

    /// A session, of which `--verbose` hears what it runs on.
    pub(crate) fn session(&self, artifact: &Artifact, options: SessionOptions) -> Result<Session, CliError> {
        let session = Session::new(artifact, options)?;
        if self.verbose {
            let passed_over = session.passed_over().iter().map(|why| format!("; {why}"));
            let why: String = passed_over.collect();
            let text = format!("target {}{why}", artifact.manifest().targets[session.target()].name);
            // Nobody is left to tell when standard error is closed.
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{}\n", plain_lines(&text)));
        }
        Ok(session)
    }

    /// The name of the entry that is meant.
    pub(crate) fn entry_name(&self, artifact: &Artifact) -> Result<String, CliError> {
        let entries = &artifact.manifest().entries;
        if let Some(name) = &self.entry {
            return Ok(name.clone());
        }
        match &entries[..] {
            [only] => Ok(only.name.clone()),
            _ if artifact.manifest().entry_index("forward").is_some() => Ok("forward".to_owned()),
            _ => {
                let names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
                let names = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
                Err(CliError::Input(format!("choose one of the entries with --entry: {names}")))
            }
        }
    }

    /// The inputs of the entry, by name.
    pub(crate) fn read_inputs(&self, session: &mut Session, entry: &str) -> Result<Vec<(String, Tensor)>, CliError> {
        let Some(path) = &self.inputs else { return Ok(Vec::new()) };
        let manifest = session.artifact().manifest().clone();
        if image::is_png(path)? {
            return image::read(path, &manifest, entry);
        }
        let kinds = if manifest.metadata.contains_key("image.size") {
            "expected .npz, .safetensors or .png"
        } else {
            tensors::KINDS
        };
        let handle = session.entry(entry)?;
        tensors::read(path, kinds, |types| handle.check(types).map_err(CliError::from))
    }
}

/// Borrowed inputs for a session.
pub(crate) fn views(tensors: &[(String, Tensor)]) -> Vec<(&str, crate::TensorView<'_>)> {
    tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect()
}
