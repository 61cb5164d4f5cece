//! The runtime's verbs and errors, as this program shows them.

use super::explain::Code;
use super::failure::{Failure, Result};
use kiln_runtime::cli::CliError;
use kiln_runtime::codec::CodecError;
use kiln_runtime::format::Entry;
use kiln_runtime::{Artifact, Error};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Runs one of the runtime's verbs on standard output.
pub(crate) fn verb(verb: impl FnOnce(&mut dyn Write) -> Result<(), CliError>) -> Result<()> {
    match verb(&mut std::io::stdout().lock()) {
        // A reader that has left, as `head` does, has all it wants.
        Err(CliError::Output(e)) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Failure {
        let message = error.to_string();
        match error {
            CliError::Runtime(e) => e.into(),
            CliError::Artifact { source, .. } => Failure::new(code(&source), message),
            CliError::File { .. } => Failure::new(Code::Tensors, message),
            CliError::Read { .. } => Failure::new(Code::Read, message),
            CliError::Write { .. } => Failure::new(Code::Write, message),
            CliError::Overwrites { .. } => Failure::new(Code::Overwrite, message),
            CliError::Input(_) => Failure::new(Code::Option, message),
            CliError::Output(_) => Failure::new(Code::Write, message),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::new(code(&error), error)
    }
}

fn code(error: &Error) -> Code {
    match error {
        Error::Io { .. } => Code::Read,
        Error::NotAnArtifact { .. } => Code::NotAnArtifact,
        Error::UnsupportedVersion { .. } => Code::Version,
        Error::Truncated { .. } | Error::Corrupt { .. } => Code::Damaged,
        Error::Signature(_) => Code::Signature,
        Error::NoTarget { .. } | Error::UnknownTarget { .. } | Error::NoGpu(_) => Code::Machine,
        Error::Code { .. } => Code::Load,
        Error::NoEntry { .. } => Code::Entry,
        Error::Input { .. } | Error::Tensor(_) | Error::StateFull { .. } => Code::Inputs,
        Error::Size { .. } | Error::Memory { .. } => Code::Memory,
        Error::IndexOutOfRange { .. } | Error::Values { .. } => Code::Index,
        Error::LoopLimit { .. } => Code::Loop,
        Error::Threads(_) => Code::Threads,
        Error::Kernel { .. } | Error::Gpu { .. } | Error::GpuLost { .. } | Error::Panicked => Code::Kernel,
        Error::Codec(CodecError::Rows(_) | CodecError::Value { .. } | CodecError::Impossible { .. }) => Code::Inputs,
        Error::Codec(CodecError::NoCircuit | CodecError::Refused(_)) => Code::Circuit,
        Error::Codec(CodecError::Write(_)) => Code::Write,
        Error::Codec(_) => Code::Stream,
        // Malformed or misaligned, and whatever a later runtime adds.
        _ => Code::Malformed,
    }
}

/// Opens an artifact; the message names its file.
pub(crate) fn open(path: &Path) -> Result<Artifact> {
    Artifact::open(path).map_err(|e| match e {
        Error::Io { .. } => e.into(),
        e => Failure::new(code(&e), format_args!("{}: {e}", path.display())),
    })
}

/// The entry that is asked for: by default `forward`, or the only one.
pub(crate) fn entry<'a>(artifact: &'a Artifact, name: Option<&str>) -> Result<&'a Entry> {
    let entries = &artifact.manifest().entries;
    let find = |name: &str| entries.iter().find(|e| e.name == name);
    let has = || entries.iter().map(|e| e.name.clone()).collect::<Vec<_>>();
    match (name, &entries[..]) {
        (None, [only]) => Ok(only),
        (None, _) => find("forward").ok_or_else(|| {
            Failure::new(Code::Option, format_args!("choose one of the entries with --entry: {}", has().join(", ")))
        }),
        (Some(name), _) => find(name).ok_or_else(|| Error::NoEntry { name: name.to_owned(), has: has() }.into()),
    }
}
