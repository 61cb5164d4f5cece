//! What can go wrong between rows and a coded stream.

use std::io;

/// Why rows were not encoded, or a stream not decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    #[error("the artifact holds no circuit, so there is no distribution to code with")]
    NoCircuit,

    #[error("the artifact's circuit does not code rows: {0}")]
    Refused(String),

    #[error("not a coded stream: it starts with {found:02x?}, expected {expected:02x?}")]
    NotAStream { found: Vec<u8>, expected: [u8; 8] },

    #[error("the stream has format version {found}, this runtime reads version {supported}")]
    Version { found: u16, supported: u16 },

    /// Their hashes, in hexadecimal digits.
    #[error("the stream was coded with the circuit {stream}, this artifact holds {artifact}")]
    OtherCircuit { stream: String, artifact: String },

    #[error("the stream is cut: it ends in {place}")]
    Truncated { place: String },

    #[error("the stream is damaged: {place}: {problem}")]
    Corrupt { place: String, problem: String },

    #[error("the rows hold more than the {max} bytes that were allowed")]
    TooLarge { max: u64 },

    #[error("{0}")]
    Rows(String),

    #[error("row {row}, variable {variable}: the value {value} is outside of the circuit's 0..{values}")]
    Value { row: u64, variable: u32, value: String, values: u32 },

    #[error(
        "row {row}, variable {variable}: given the variables coded before it, the circuit gives the value {value} \
         probability 0, and what cannot occur has no code"
    )]
    Impossible { row: u64, variable: u32, value: u32 },

    #[error("reading the stream: {0}")]
    Read(io::Error),

    #[error("writing the stream: {0}")]
    Write(io::Error),
}

impl CodecError {
    pub(super) fn corrupt(place: impl Into<String>, problem: impl Into<String>) -> CodecError {
        CodecError::Corrupt { place: place.into(), problem: problem.into() }
    }
}
