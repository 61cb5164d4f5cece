//! `encode` and `decode`: rows to a small file and back, with the probabilities of a circuit.

use super::rows::{Reader, Target};
use super::{CliError, OpenArgs, check_overwrites};
use crate::artifact::hex;
use crate::codec::{Codec, CodecError, Decoder, Encoder, Summary};
use crate::format::ElemType;
use crate::{Destination, Error};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Compress rows with the probabilities of a circuit
#[derive(clap::Args, Clone, Debug)]
pub struct EncodeArgs {
    /// The artifact of a circuit; `kiln` also takes the circuit's model file
    #[arg(value_name = "ART")]
    pub artifact: PathBuf,
    /// Rows of integers, a column for each variable: .npy, .npz or .safetensors (array x, or the only one), .csv, .csv.gz
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// Where to write them
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    #[command(flatten)]
    pub open: OpenArgs,
    /// Print one JSON object on the last line
    #[arg(long)]
    pub json: bool,
}

/// Give rows back that `encode` compressed with the same circuit
#[derive(clap::Args, Clone, Debug)]
pub struct DecodeArgs {
    /// The artifact of the circuit; `kiln` also takes the circuit's model file
    #[arg(value_name = "ART")]
    pub artifact: PathBuf,
    /// What `encode` wrote
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// Where to write the rows: .npy, .npz or .safetensors (array x), .csv, .csv.gz
    #[arg(short, long, value_name = "DATA")]
    pub output: PathBuf,
    #[command(flatten)]
    pub open: OpenArgs,
    /// Print one JSON object on the last line
    #[arg(long)]
    pub json: bool,
}

/// Encodes a file of rows. A failure leaves what was at the output's path.
pub fn encode(args: &EncodeArgs, out: &mut dyn Write) -> Result<(), CliError> {
    encode_with(&open_codec(&args.artifact, &args.open)?, args, out)
}

/// The same with a codec that is at hand.
pub fn encode_with(codec: &Codec, args: &EncodeArgs, out: &mut dyn Write) -> Result<(), CliError> {
    check_overwrites(&[&args.output], &[&args.artifact, &args.data])?;
    let mut rows = Reader::open(&args.data, codec)?;
    let blame = |e: Error| match e {
        Error::Codec(CodecError::Write(_)) => at(&args.output, e),
        e => at(&args.data, e),
    };
    let (file, destination) = Destination::create(&args.output).map_err(|e| CliError::file(&args.output, e))?;
    let mut encoder = Encoder::new(codec, rows.elem(), BufWriter::new(file)).map_err(blame)?;
    let mut seconds = 0.0;
    while let Some(rows) = rows.next()? {
        let start = Instant::now();
        encoder.push(rows.view()).map_err(blame)?;
        seconds += start.elapsed().as_secs_f64();
    }
    let start = Instant::now();
    let (_, summary) = encoder.finish().map_err(blame)?;
    seconds += start.elapsed().as_secs_f64();
    destination.commit().map_err(|e| CliError::file(&args.output, e))?;
    let mut facts = facts(codec, &summary, rows.elem(), seconds, &args.output);
    facts["ideal_bits"] = summary.ideal_bits.into();
    facts["ideal_bits_per_row"] = per_row(summary.ideal_bits, &summary);
    let (raw, bytes) = (raw_bytes(codec, &summary, rows.elem()), summary.bytes);
    let percent = if raw == 0 { 100.0 } else { 100.0 * bytes as f64 / raw as f64 };
    let each = |bits: f64| if summary.rows == 0 { 0.0 } else { bits / summary.rows as f64 };
    let (found, ideal) = (each(8.0 * summary.message_bytes as f64), each(summary.ideal_bits));
    writeln!(out, "{} rows: {raw} bytes to {bytes} ({percent:.2} %)", summary.rows)?;
    writeln!(out, "bits a row: {found:.4} in the message, {ideal:.4} by the circuit")?;
    report(codec, &facts, args.json, out)
}

/// Decodes a file that `encode` wrote. A failure leaves what was at the output's path.
pub fn decode(args: &DecodeArgs, out: &mut dyn Write) -> Result<(), CliError> {
    decode_with(&open_codec(&args.artifact, &args.open)?, args, out)
}

/// The same with a codec that is at hand.
pub fn decode_with(codec: &Codec, args: &DecodeArgs, out: &mut dyn Write) -> Result<(), CliError> {
    check_overwrites(&[&args.output], &[&args.artifact, &args.input])?;
    let target = Target::of(&args.output)?;
    let file = File::open(&args.input).map_err(|e| CliError::file(&args.input, e))?;
    let mut input = BufReader::new(file);
    let mut decoder = Decoder::new(codec, &mut input).map_err(|e| at(&args.input, e))?;
    let (elem, mut seconds) = (decoder.elem(), 0.0);
    let mut summary = decoder.summary();
    target.write(&args.output, elem, codec.variables(), || {
        let start = Instant::now();
        let rows = decoder.next().map_err(|e| at(&args.input, e))?;
        seconds += start.elapsed().as_secs_f64();
        summary = decoder.summary();
        if rows.is_none() {
            decoder.check_end().map_err(|e| at(&args.input, e))?;
        }
        Ok(rows)
    })?;
    let facts = facts(codec, &summary, elem, seconds, &args.output);
    let raw = raw_bytes(codec, &summary, elem);
    writeln!(out, "{} rows of {}: {} bytes to {raw}", summary.rows, elem, summary.bytes)?;
    report(codec, &facts, args.json, out)
}

/// The codec of an artifact.
pub fn open_codec(path: &Path, open: &OpenArgs) -> Result<Codec, CliError> {
    Codec::new(&open.open(path)?).map_err(|e| at(path, e))
}

/// An error with the file that it is of.
fn at(path: &Path, source: Error) -> CliError {
    CliError::Artifact { path: path.to_owned(), source }
}

fn raw_bytes(codec: &Codec, summary: &Summary, elem: ElemType) -> u64 {
    summary.rows * codec.variables() as u64 * elem.size() as u64
}

fn per_row(total: f64, summary: &Summary) -> Value {
    if summary.rows == 0 { Value::Null } else { (total / summary.rows as f64).into() }
}

fn facts(codec: &Codec, summary: &Summary, elem: ElemType, seconds: f64, output: &Path) -> Value {
    let raw = raw_bytes(codec, summary, elem);
    json!({
        "rows": summary.rows, "variables": codec.variables(), "elem": elem.name(), "raw_bytes": raw,
        "bytes": summary.bytes, "message_bytes": summary.message_bytes, "blocks": summary.blocks,
        "bits_per_row": per_row(8.0 * summary.message_bytes as f64, summary),
        "seconds": seconds, "mb_per_s": if seconds > 0.0 { raw as f64 / 1e6 / seconds } else { 0.0 },
        "visits_per_row": codec.visits(), "naive_visits_per_row": codec.naive_visits(),
        "ordered": codec.is_ordered(), "circuit": hex(&codec.hash()), "output": output.to_string_lossy(),
    })
}

fn report(codec: &Codec, facts: &Value, json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    writeln!(
        out,
        "{:.2} s, {:.2} MB/s",
        facts["seconds"].as_f64().unwrap_or(0.0),
        facts["mb_per_s"].as_f64().unwrap_or(0.0)
    )?;
    let (visits, naive) = (codec.visits(), codec.naive_visits());
    let how = if codec.is_ordered() { "ordered" } else { "not ordered: the circuit is not structured" };
    writeln!(out, "products and terms looked at for a row: {visits}, {naive} the naive way ({how})")?;
    if json {
        writeln!(out, "{facts}")?;
    }
    out.flush()?;
    Ok(())
}
