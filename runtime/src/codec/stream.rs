//! Streams of coded rows.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | [`MAGIC`] |
//! | 8..10 | version |
//! | 10 | the rows' element type, as in artifacts |
//! | 11 | 0 |
//! | 12..16 | columns |
//! | 16..48 | hash of the circuit's tables |
//!
//! Then blocks: rows u32, bytes u32, so many bytes of message (see `rans`), and the first 8 bytes of a BLAKE3 hash, keyed
//! with the hash of the header, of the block's number u64, rows, bytes and message. A block without rows ends the
//! stream; its message is the number of all rows, u64. Inside a message rows stand in groups of [`LANES`], the last
//! of a block smaller, and in a group variable by variable, each for all its rows. All integers are little-endian.

use super::error::CodecError;
use super::group::{Content, Misfit, Worker};
use super::rans::{self, Interval};
use super::sparse::LANES;
use super::{Codec, Model};
use crate::artifact::hex;
use crate::error::Result;
use crate::format::ElemType;
use crate::{Tensor, TensorView};
use std::io::{self, Read, Write};
use std::sync::Arc;

/// A byte that no text has, letters, and line ends that a text-mode copy would change.
pub const MAGIC: [u8; 8] = *b"\x89KLNC\r\n\x1a";
pub const VERSION: u16 = 1;

const HEADER: usize = 48;
const HASH: usize = 8;
/// Symbols that a block may have, or those of one group of rows if it has more.
const BLOCK: usize = 1 << 20;

type Key = [u8; 32];

/// What a stream holds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Summary {
    pub rows: u64,
    /// The whole stream.
    pub bytes: u64,
    /// The messages in it: what is left of the rows. The rest is the header, and 16 bytes a block.
    pub message_bytes: u64,
    pub blocks: u64,
    /// The rows' content, `-log2 P`; only known to the encoder.
    pub ideal_bits: f64,
}

/// Writes a stream. What it holds in memory does not grow with the rows.
pub struct Encoder<W: Write> {
    model: Arc<Model>,
    elem: ElemType,
    out: W,
    key: Key,
    worker: Worker,
    /// Values of rows that do not make a group yet.
    group: Vec<u32>,
    block: Vec<Interval>,
    block_rows: usize,
    content: Content,
    summary: Summary,
}

impl<W: Write> Encoder<W> {
    /// Starts a stream of rows with elements of this type.
    ///
    /// # Errors
    /// If the type is none of integers or truth values, or the header cannot be written.
    pub fn new(codec: &Codec, elem: ElemType, mut out: W) -> Result<Encoder<W>> {
        if !is_integer(elem) {
            let text = format!("the rows have the type {elem}, expected integers: only they come back as they were");
            return Err(CodecError::Rows(text).into());
        }
        let header = header(codec, elem);
        out.write_all(&header).map_err(CodecError::Write)?;
        let summary = Summary { rows: 0, bytes: HEADER as u64, message_bytes: 0, blocks: 0, ideal_bits: 0.0 };
        Ok(Encoder {
            model: codec.model.clone(),
            elem,
            out,
            key: *blake3::hash(&header).as_bytes(),
            worker: Worker::new(&codec.model),
            group: vec![],
            block: vec![],
            block_rows: 0,
            content: Content::new(),
            summary,
        })
    }

    /// Appends rows: a tensor `[rows, variables]` of the stream's type.
    ///
    /// # Errors
    /// A shape or type that is not the stream's, a value outside of a variable's range, a row of probability 0, or a
    /// failure to write. The stream is of no use then.
    pub fn push(&mut self, rows: TensorView<'_>) -> Result<()> {
        let variables = self.model.alphabets.len();
        if rows.elem() != self.elem || rows.shape().len() != 2 || rows.shape()[1] != variables {
            let (elem, found, shape) = (self.elem, rows.elem(), rows.shape());
            return Err(CodecError::Rows(format!("expected {elem}[rows, {variables}], found {found}{shape:?}")).into());
        }
        for bytes in rows.bytes().chunks_exact(self.elem.size() * variables) {
            for (variable, bytes) in bytes.chunks_exact(self.elem.size()).enumerate() {
                let (value, values) = (integer(self.elem, bytes), self.model.alphabets[variable].values() as u32);
                let Some(known) = u32::try_from(value).ok().filter(|v| *v < values) else {
                    let (row, variable, value) = (self.summary.rows, variable as u32, value.to_string());
                    return Err(CodecError::Value { row, variable, value, values }.into());
                };
                self.group.push(known);
            }
            self.summary.rows += 1;
            if self.group.len() == LANES * variables {
                self.end_group()?;
            }
            if self.block_rows + self.group.len() / variables == rows_of_a_block(variables) {
                self.end_block()?;
            }
        }
        Ok(())
    }

    /// Ends the block, so that all rows so far can be decoded. Blocks end by themselves when they are large; each costs
    /// some 20 bytes.
    ///
    /// # Errors
    /// As [`Encoder::push`].
    pub fn flush(&mut self) -> Result<()> {
        self.end_block()?;
        Ok(self.out.flush().map_err(CodecError::Write)?)
    }

    /// Writes what is left and the end of the stream.
    ///
    /// # Errors
    /// As [`Encoder::push`].
    pub fn finish(mut self) -> Result<(W, Summary)> {
        self.end_block()?;
        self.write_block(0, &self.summary.rows.to_le_bytes())?;
        self.out.flush().map_err(CodecError::Write)?;
        self.summary.ideal_bits = self.content.bits();
        Ok((self.out, self.summary))
    }

    fn end_group(&mut self) -> Result<()> {
        let variables = self.model.alphabets.len();
        let count = self.group.len() / variables;
        let done = self.worker.encode(&self.model, &self.group, &mut self.block, &mut self.content);
        if let Err(Misfit { row, variable }) = done {
            let value = self.group[row * variables + variable as usize];
            let row = self.summary.rows - (count - row) as u64;
            return Err(CodecError::Impossible { row, variable, value }.into());
        }
        self.group.clear();
        self.block_rows += count;
        Ok(())
    }

    fn end_block(&mut self) -> Result<()> {
        if !self.group.is_empty() {
            self.end_group()?;
        }
        if self.block_rows == 0 {
            return Ok(());
        }
        let message = rans::encode(self.block.iter().copied());
        self.write_block(self.block_rows as u32, &message)?;
        self.summary.message_bytes += message.len() as u64;
        self.summary.blocks += 1;
        self.block.clear();
        self.block_rows = 0;
        Ok(())
    }

    fn write_block(&mut self, rows: u32, message: &[u8]) -> Result<()> {
        let hash = hash(&self.key, self.summary.blocks, rows, message);
        let (rows, len) = (rows.to_le_bytes(), (message.len() as u32).to_le_bytes());
        for part in [&rows[..], &len, message, &hash] {
            self.out.write_all(part).map_err(CodecError::Write)?;
            self.summary.bytes += part.len() as u64;
        }
        Ok(())
    }
}

/// Reads a stream, block by block.
pub struct Decoder<R: Read> {
    model: Arc<Model>,
    elem: ElemType,
    input: R,
    key: Key,
    worker: Worker,
    summary: Summary,
    ended: bool,
}

impl<R: Read> Decoder<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// If it is none, or that of another circuit's stream.
    pub fn new(codec: &Codec, mut input: R) -> Result<Decoder<R>> {
        let mut found = [0; HEADER];
        let known = read_up_to(&mut input, &mut found)?;
        let start = &found[..known.min(MAGIC.len())];
        if start != &MAGIC[..start.len()] || start.is_empty() {
            return Err(CodecError::NotAStream { found: start.to_vec(), expected: MAGIC }.into());
        }
        if known < HEADER {
            return Err(CodecError::Truncated { place: "the header".to_owned() }.into());
        }
        let version = u16::from_le_bytes([found[8], found[9]]);
        if version != VERSION {
            return Err(CodecError::Version { found: version, supported: VERSION }.into());
        }
        if found[16..] != codec.hash() {
            let (stream, artifact) = (hex(&found[16..]), hex(&codec.hash()));
            return Err(CodecError::OtherCircuit { stream, artifact }.into());
        }
        let elem = ElemType::try_from(found[10]).ok().filter(|e| is_integer(*e));
        let elem = elem.ok_or_else(|| CodecError::corrupt("the header", format!("the element type {}", found[10])))?;
        if found != header(codec, elem) {
            let columns = u32::from_le_bytes([found[12], found[13], found[14], found[15]]);
            let problem = format!("{columns} columns of a circuit with {} variables", codec.variables());
            return Err(CodecError::corrupt("the header", problem).into());
        }
        let summary = Summary { rows: 0, bytes: HEADER as u64, message_bytes: 0, blocks: 0, ideal_bits: f64::NAN };
        Ok(Decoder {
            model: codec.model.clone(),
            elem,
            input,
            key: *blake3::hash(&found).as_bytes(),
            worker: Worker::new(&codec.model),
            summary,
            ended: false,
        })
    }

    /// The type of the rows' elements.
    pub fn elem(&self) -> ElemType {
        self.elem
    }

    /// What was read so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// The rows of the next block, `[rows, variables]`; None at the end. What follows the end is not read.
    ///
    /// # Errors
    /// If the stream is cut or damaged, or cannot be read.
    #[expect(clippy::should_implement_trait, reason = "an iterator would go on behind an error")]
    pub fn next(&mut self) -> Result<Option<Tensor>> {
        if self.ended {
            return Ok(None);
        }
        let number = self.summary.blocks;
        let cut = || CodecError::Truncated { place: format!("block {number}, {} rows in", self.summary.rows) };
        let damaged = |problem: String| CodecError::corrupt(format!("block {number}"), problem);
        let mut start = [0; 8];
        if read_up_to(&mut self.input, &mut start)? < start.len() {
            return Err(cut().into());
        }
        let [rows, len] = [0, 4].map(|at| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]));
        let variables = self.model.alphabets.len();
        let most_rows = rows_of_a_block(variables);
        // No symbol has more than 28 bits, and the state no more than 8 bytes.
        let most_bytes = 4 * most_rows as u64 * variables as u64 + 8;
        if rows as usize > most_rows || u64::from(len) > most_bytes {
            return Err(damaged(format!("{rows} rows in {len} bytes, at most {most_rows} in {most_bytes}")).into());
        }
        let mut message = vec![];
        let read = (&mut self.input).take(u64::from(len) + HASH as u64).read_to_end(&mut message);
        read.map_err(CodecError::Read)?;
        if message.len() < len as usize + HASH {
            return Err(cut().into());
        }
        let (message, expected) = message.split_at(len as usize);
        if hash(&self.key, number, rows, message) != *expected {
            return Err(damaged("its hash does not match".to_owned()).into());
        }
        self.summary.bytes += (start.len() + message.len() + HASH) as u64;
        if rows == 0 {
            if message != self.summary.rows.to_le_bytes() {
                return Err(damaged(format!("it ends {} rows in", self.summary.rows)).into());
            }
            self.ended = true;
            return Ok(None);
        }
        let decoded = self.decode(rows as usize, message).map_err(damaged)?;
        self.summary.rows += u64::from(rows);
        self.summary.message_bytes += message.len() as u64;
        self.summary.blocks += 1;
        Ok(Some(decoded))
    }

    /// Checks that nothing follows the stream in its input.
    ///
    /// # Errors
    /// If something does, or the input cannot be read.
    pub fn check_end(&mut self) -> Result<()> {
        let follows = read_up_to(&mut self.input, &mut [0])? > 0;
        if !follows { Ok(()) } else { Err(CodecError::corrupt("the end", "more bytes follow it").into()) }
    }

    fn decode(&mut self, rows: usize, message: &[u8]) -> Result<Tensor, String> {
        let bad = || "its message is none of this circuit".to_owned();
        let (variables, size) = (self.model.alphabets.len(), self.elem.size());
        let mut decoder = rans::Decoder::new(message).ok_or_else(bad)?;
        let mut tensor = Tensor::zeros(self.elem, &[rows, variables]).map_err(|e| e.to_string())?;
        let mut group = vec![0; LANES * variables];
        for bytes in tensor.bytes_mut().chunks_mut(LANES * variables * size) {
            let group = &mut group[..bytes.len() / size];
            if !self.worker.decode(&self.model, &mut decoder, group) {
                return Err(bad());
            }
            for (bytes, value) in bytes.chunks_exact_mut(size).zip(group) {
                if !put(self.elem, *value, bytes) {
                    return Err(format!("the value {value} in rows of {}", self.elem));
                }
            }
        }
        if decoder.is_done() { Ok(tensor) } else { Err(bad()) }
    }
}

/// Makes the hashes of a stream right again after its bytes were changed, so that tests and fuzzers reach what stands
/// behind them. What no longer is a block stays.
#[cfg(any(test, feature = "write"))]
pub fn reseal(stream: &mut [u8]) {
    let Some(header) = stream.get(..HEADER) else { return };
    let (key, mut at, mut block) = (*blake3::hash(header).as_bytes(), HEADER, 0);
    while let Some(start) = stream.get(at..at + 8) {
        let [rows, len] = [0, 4].map(|i| u32::from_le_bytes([start[i], start[i + 1], start[i + 2], start[i + 3]]));
        let message = at + 8..(at + 8).saturating_add(len as usize);
        let Some(hash) = stream.get(message.clone()).map(|m| hash(&key, block, rows, m)) else { return };
        let Some(place) = stream.get_mut(message.end..message.end + HASH) else { return };
        place.copy_from_slice(&hash);
        (at, block) = (message.end + HASH, block + 1);
    }
}

fn rows_of_a_block(variables: usize) -> usize {
    (BLOCK / variables / LANES).max(1) * LANES
}

fn header(codec: &Codec, elem: ElemType) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[10] = elem as u8;
    header[12..16].copy_from_slice(&(codec.variables() as u32).to_le_bytes());
    header[16..].copy_from_slice(&codec.hash());
    header
}

fn hash(key: &Key, block: u64, rows: u32, message: &[u8]) -> [u8; HASH] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&block.to_le_bytes()).update(&rows.to_le_bytes());
    hasher.update(&(message.len() as u32).to_le_bytes()).update(message);
    let mut hash = [0; HASH];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..HASH]);
    hash
}

fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, CodecError> {
    let mut known = 0;
    while known < buffer.len() {
        match input.read(&mut buffer[known..]) {
            Ok(0) => break,
            Ok(n) => known += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(CodecError::Read(e)),
        }
    }
    Ok(known)
}

fn is_integer(elem: ElemType) -> bool {
    !matches!(elem, ElemType::F64 | ElemType::F32 | ElemType::F16 | ElemType::Bf16)
}

fn is_signed(elem: ElemType) -> bool {
    matches!(elem, ElemType::I8 | ElemType::I16 | ElemType::I32 | ElemType::I64)
}

/// The number that these native bytes of an integer type are.
pub(crate) fn integer(elem: ElemType, bytes: &[u8]) -> i128 {
    let bits = 8 * bytes.len();
    let byte = |i: usize| u64::from(bytes[if cfg!(target_endian = "little") { i } else { bytes.len() - 1 - i }]);
    let value = (0..bytes.len()).fold(0, |value, i| value | byte(i) << (8 * i));
    if is_signed(elem) { i128::from((value << (64 - bits)) as i64 >> (64 - bits)) } else { i128::from(value) }
}

/// Writes a value as the native bytes of an integer type; false if the type does not hold it.
fn put(elem: ElemType, value: u32, bytes: &mut [u8]) -> bool {
    let bits = if elem == ElemType::I1 { 1 } else { 8 * elem.size() - usize::from(is_signed(elem)) };
    let len = bytes.len();
    for (i, byte) in u64::from(value).to_le_bytes()[..len].iter().enumerate() {
        bytes[if cfg!(target_endian = "little") { i } else { len - 1 - i }] = *byte;
    }
    bits >= 32 || value >> bits == 0
}
