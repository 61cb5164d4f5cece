//! `kiln encode` and `kiln decode`: the runtime's verbs, which here also take a circuit's model file for its artifact.

use super::explain::Code;
use super::failure::{Failure, Result};
use super::{artifact, output};
use kiln_backends::codec::of_module;
use kiln_frontend::LoadOptions;
use kiln_runtime::cli::{DecodeArgs, EncodeArgs, OpenArgs, decode_with, encode_with, open_codec};
use kiln_runtime::codec::Codec;
use kiln_runtime::format::MAGIC;
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub(crate) fn encode(args: &EncodeArgs) -> Result<()> {
    output::overwrites(&[&args.output], &args.artifact, &[&args.data])?;
    let codec = codec(&args.artifact, &args.open)?;
    artifact::verb(|out| encode_with(&codec, args, out))
}

pub(crate) fn decode(args: &DecodeArgs) -> Result<()> {
    output::overwrites(&[&args.output], &args.artifact, &[&args.input])?;
    let codec = codec(&args.artifact, &args.open)?;
    artifact::verb(|out| decode_with(&codec, args, out))
}

/// The codec of an artifact, or of a model file, which is the same.
fn codec(path: &Path, open: &OpenArgs) -> Result<Codec> {
    let mut start = [0; MAGIC.len()];
    let is_model = File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok() && start != MAGIC);
    if !is_model {
        return Ok(open_codec(path, open)?);
    }
    let fail = |reason: String| Failure::new(Code::Circuit, format_args!("{}: {reason}", path.display()));
    let loaded = kiln_frontend::load(path, &LoadOptions::default())?;
    let section = of_module(&loaded.module).ok_or_else(|| fail("the model is no circuit".to_owned()))?;
    let tables = section.map_err(|reason| fail(format!("the circuit does not code rows: {reason}")))?;
    Codec::from_tables(tables).map_err(fail)
}
