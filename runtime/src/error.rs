//! Everything that can go wrong between a file and its outputs.

use crate::codec::CodecError;
use crate::format::SizeError;
use crate::text::plain;
use std::fmt;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an artifact could not be read, loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: std::io::Error },

    #[error("not a kiln artifact: it starts with {found:02x?}, expected {expected:02x?}")]
    NotAnArtifact { found: Vec<u8>, expected: [u8; 8] },

    #[error(
        "the artifact has format version {found}, this runtime reads version {supported}; \
         compile the model again, or use the runtime of the compiler that wrote it"
    )]
    UnsupportedVersion { found: u32, supported: u32 },

    #[error("the artifact is cut: it has {found} bytes, expected {expected}")]
    Truncated { expected: u64, found: u64 },

    #[error("the artifact is damaged: the hash of {place} does not match")]
    Corrupt { place: String },

    #[error("the artifact is malformed: {}: {}", plain(place), plain(problem))]
    Malformed { place: String, problem: String },

    #[error("the artifact's signature: {0}")]
    Signature(String),

    #[error("the bytes of the artifact start at an address that is not a multiple of {align}")]
    Misaligned { align: usize },

    #[error("the artifact has code for {}, this machine runs {machine}", list(.has))]
    NoTarget { has: Vec<String>, machine: String },

    #[error("no target `{}`; the artifact has {}", plain(name), list(.has))]
    UnknownTarget { name: String, has: Vec<String> },

    #[error("the code for {target} does not load: {problem}")]
    Code { target: String, problem: String },

    #[error("{0}")]
    NoGpu(String),

    #[error("the GPU: {what}: {problem}")]
    Gpu { what: String, problem: String },

    /// The device works no more for this process: whatever it is asked, it answers with an error.
    #[error("the GPU is lost to this process, which has to be started anew: {what}: {problem}")]
    GpuLost { what: String, problem: String },

    #[error("no entry `{}`; the artifact has {}", plain(name), list(.has))]
    NoEntry { name: String, has: Vec<String> },

    #[error("{}\n{takes}", .problems.join("\n"))]
    Input { problems: Vec<String>, takes: String },

    /// Elements of inputs are not what the entry accepts.
    #[error("{}", .problems.join("\n"))]
    Values { problems: Vec<String> },

    /// A run would append more to a state than it has room for.
    #[error(
        "state {} is full: it holds {held} of {capacity}, and {asked} more are asked for; reset it, or compile it larger",
        plain(state)
    )]
    StateFull { state: String, capacity: i64, held: i64, asked: i64 },

    #[error("tensor: {0}")]
    Tensor(String),

    #[error("{what}: {source}")]
    Size { what: String, source: SizeError },

    #[error("no memory for {what}: {bytes} bytes")]
    Memory { what: &'static str, bytes: u64 },

    #[error("{}: {} (kernel {})", plain(label), display(.index), plain(kernel))]
    IndexOutOfRange { label: String, kernel: String, index: Option<Box<BadIndex>> },

    #[error("{}: the kernel {} failed with code {code}", plain(label), plain(kernel))]
    Kernel { label: String, kernel: String, code: i32 },

    #[error("{label}: a loop would run more than the {max} times that it may")]
    LoopLimit { label: String, max: i64 },

    #[error("a thread of the executor panicked")]
    Panicked,

    #[error("threads: {0}")]
    Threads(String),

    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// The first index out of range that a kernel met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadIndex {
    pub value: i64,
    /// Indices from 0 up to below this are in range.
    pub size: i64,
    /// The input that holds it and its coordinates there; none for an index that was computed.
    pub input: Option<(String, Vec<usize>)>,
}

impl fmt::Display for BadIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.input {
            Some((name, at)) => write!(f, "input {}{at:?} is {}", plain(name), self.value)?,
            None => write!(f, "a computed index is {}", self.value)?,
        }
        match self.size {
            0 => f.write_str(", but the table is empty"),
            size => write!(f, ", expected an index from 0 to {}", size - 1),
        }
    }
}

fn display(index: &Option<Box<BadIndex>>) -> String {
    index.as_ref().map_or_else(|| "an index is out of range".to_owned(), |index| index.to_string())
}

impl Error {
    pub(crate) fn malformed(place: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Malformed { place: place.into(), problem: problem.into() }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { plain(&names.join(", ")).into_owned() }
}
