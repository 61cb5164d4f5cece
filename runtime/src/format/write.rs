//! Writing artifacts: weights are streamed, the rest follows, and nothing appears under the final name before it is whole.

use super::header::root_of;
use super::{
    CHUNK, HEADER_LEN, Header, Manifest, Plan, Section, SectionKind, WEIGHT_ALIGN, check_manifest, check_plans,
};
use crate::destination::Destination;
use crate::error::{Error, Result};
use ed25519_dalek::Signer;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What one target adds to an artifact.
pub struct TargetCode<'a> {
    /// One for each entry of the manifest, in its order.
    pub plans: &'a [Plan],
    /// An ELF shared object without undefined symbols, or PTX text.
    pub code: &'a [u8],
}

/// What has been written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    pub file_bytes: u64,
    pub weight_bytes: u64,
    /// The hash that identifies the artifact.
    pub root: [u8; 32],
}

/// Writes one artifact: first the weights, by [`Writer::weight`] or [`Writer::stream_weight`], then [`Writer::finish`].
///
/// Memory does not grow with the weights. The same calls write the same bytes, wherever and whenever. A writer that is
/// dropped before `finish` leaves no file.
pub struct Writer<W: Write + Seek = BufWriter<File>> {
    sink: Sink<W>,
    destination: Option<(PathBuf, Destination)>,
    secret: Option<[u8; 32]>,
    codec: Option<Vec<u8>>,
}

impl Writer {
    /// Starts an artifact that will stand at `path`. Until `finish` it has no name, or where the file system
    /// has no such files a hidden one in the same directory; a device at `path` is written as it is.
    pub fn create(path: impl AsRef<Path>) -> Result<Writer> {
        let path = path.as_ref().to_owned();
        match Destination::create(&path) {
            Ok((file, to)) => Writer::start(BufWriter::with_capacity(1 << 18, file), Some((path, to))),
            Err(source) => Err(Error::Io { path, source }),
        }
    }
}

impl<W: Write + Seek> Writer<W> {
    /// Starts an artifact in `out`, such as an `io::Cursor<Vec<u8>>`, which must be empty.
    pub fn new(out: W) -> Result<Writer<W>> {
        Writer::start(out, None)
    }

    fn start(out: W, destination: Option<(PathBuf, Destination)>) -> Result<Writer<W>> {
        let mut writer = Writer { sink: Sink::new(out), destination, secret: None, codec: None };
        let begun = writer
            .sink
            .out
            .write_all(&[0; HEADER_LEN as usize])
            .and_then(|()| writer.sink.begin(SectionKind::Weights, 0));
        begun.map_err(|e| writer.io(e))?;
        Ok(writer)
    }

    /// Appends a tensor and returns its offset in the weights section, a multiple of [`WEIGHT_ALIGN`].
    pub fn weight(&mut self, bytes: &[u8]) -> Result<u64> {
        self.stream_weight(|out| out.write_all(bytes))
    }

    /// Appends the tensor that `fill` writes, in as many pieces as it likes, and returns its offset as `weight` does.
    pub fn stream_weight(&mut self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<u64> {
        let sink = &mut self.sink;
        let start = sink.align().map(|()| sink.at - HEADER_LEN);
        start.and_then(|offset| fill(sink).map(|()| offset)).map_err(|e| self.io(e))
    }

    /// Signs the artifact with an Ed25519 secret key.
    pub fn sign_with(mut self, secret: [u8; 32]) -> Writer<W> {
        self.secret = Some(secret);
        self
    }

    /// Adds the section that [`codec::encode_section`](crate::codec::encode_section) made of a circuit.
    pub fn set_codec(&mut self, section: Vec<u8>) {
        self.codec = Some(section);
    }

    /// Bytes of weights so far.
    pub fn weight_bytes(&self) -> u64 {
        self.sink.at - HEADER_LEN
    }

    /// Writes the rest and gives the file its name. `targets` go with `manifest.targets`; `rewrites` may be empty.
    pub fn finish(mut self, manifest: &Manifest, targets: &[TargetCode], rewrites: &[u8]) -> Result<Summary> {
        let weight_bytes = self.weight_bytes();
        check_manifest(manifest)?;
        if targets.len() != manifest.targets.len() {
            let problem = format!("{} targets in the manifest, {} with code", manifest.targets.len(), targets.len());
            return Err(Error::malformed("manifest", problem));
        }
        for (i, target) in targets.iter().enumerate() {
            check_plans(manifest, i, target.plans, weight_bytes)?;
        }
        let written = self.write_rest(manifest, targets, rewrites);
        let (file_bytes, root) = written.map_err(|e| self.io(e))?;
        if let Some((path, destination)) = self.destination.take() {
            destination.commit().map_err(|source| Error::Io { path, source })?;
        }
        Ok(Summary { file_bytes, weight_bytes, root })
    }

    fn write_rest(
        &mut self,
        manifest: &Manifest,
        targets: &[TargetCode],
        rewrites: &[u8],
    ) -> io::Result<(u64, [u8; 32])> {
        let sink = &mut self.sink;
        sink.section(SectionKind::Manifest, 0, &encode(manifest)?)?;
        for (i, target) in targets.iter().enumerate() {
            sink.section(SectionKind::Plans, i as u32, &encode(target.plans)?)?;
        }
        for (i, target) in targets.iter().enumerate() {
            sink.section(SectionKind::Code, i as u32, target.code)?;
        }
        sink.section(SectionKind::Rewrites, 0, rewrites)?;
        if let Some(codec) = &self.codec {
            sink.section(SectionKind::Codec, 0, codec)?;
        }
        sink.end()?;
        let mut header = Header {
            sections: std::mem::take(&mut sink.sections),
            hashes_at: sink.at,
            file_len: sink.at + sink.hashes.len() as u64,
            root: [0; 32],
            key: [0; 32],
            signature: [0; 64],
        };
        let signing = self.secret.map(|secret| ed25519_dalek::SigningKey::from_bytes(&secret));
        header.key = signing.as_ref().map_or([0; 32], |key| key.verifying_key().to_bytes());
        header.root = root_of(&header.encode().map_err(io::Error::other)?, &sink.hashes);
        header.signature = signing.map_or([0; 64], |key| key.sign(&header.root).to_bytes());
        sink.out.write_all(&sink.hashes)?;
        sink.out.seek(SeekFrom::Start(0))?;
        sink.out.write_all(&header.encode().map_err(io::Error::other)?)?;
        sink.out.flush()?;
        Ok((header.file_len, header.root))
    }

    fn io(&self, source: io::Error) -> Error {
        let path = self.destination.as_ref().map_or_else(|| PathBuf::from("artifact"), |(path, _)| path.clone());
        Error::Io { path, source }
    }
}

fn encode<T: Serialize + ?Sized>(value: &T) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(io::Error::other)
}

/// Makes the hashes of an artifact right again after its bytes were changed, so that tests and fuzzers reach what
/// stands behind them. The signature is dropped.
pub fn reseal(file: &mut [u8]) -> Result<()> {
    let page = &file[..file.len().min(HEADER_LEN as usize)];
    let mut header = Header::decode(page, file.len() as u64)?;
    let hash = |(_, bytes): (usize, std::ops::Range<u64>)| -> [u8; 32] {
        blake3::hash(&file[bytes.start as usize..bytes.end as usize]).into()
    };
    let hashes = header.chunks().map(hash).collect::<Vec<_>>().concat();
    (header.key, header.signature, header.root) = ([0; 32], [0; 64], [0; 32]);
    header.root = root_of(&header.encode()?, &hashes);
    file[..HEADER_LEN as usize].copy_from_slice(&header.encode()?);
    file[header.hashes_at as usize..].copy_from_slice(&hashes);
    Ok(())
}

/// Appends to the file, hashing chunk by chunk.
struct Sink<W> {
    out: W,
    at: u64,
    sections: Vec<Section>,
    chunk: blake3::Hasher,
    chunk_len: u64,
    hashes: Vec<u8>,
}

impl<W: Write> Sink<W> {
    fn new(out: W) -> Sink<W> {
        let chunk = blake3::Hasher::new();
        Sink { out, at: HEADER_LEN, sections: Vec::new(), chunk, chunk_len: 0, hashes: Vec::new() }
    }

    fn section(&mut self, kind: SectionKind, index: u32, bytes: &[u8]) -> io::Result<()> {
        self.begin(kind, index)?;
        self.write_all(bytes)
    }

    fn begin(&mut self, kind: SectionKind, index: u32) -> io::Result<()> {
        self.end()?;
        self.sections.push(Section { kind, index, offset: self.at, len: 0 });
        Ok(())
    }

    /// Ends the current section: notes its length and pads.
    fn end(&mut self) -> io::Result<()> {
        if let Some(section) = self.sections.last_mut() {
            section.len = self.at - section.offset;
        }
        self.align()?;
        if self.chunk_len > 0 {
            self.end_chunk();
        }
        Ok(())
    }

    fn align(&mut self) -> io::Result<()> {
        let padding = self.at.next_multiple_of(WEIGHT_ALIGN) - self.at;
        self.write_all(&[0; WEIGHT_ALIGN as usize][..padding as usize])
    }

    fn end_chunk(&mut self) {
        self.hashes.extend_from_slice(self.chunk.finalize().as_bytes());
        self.chunk.reset();
        self.chunk_len = 0;
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (CHUNK - self.chunk_len).min(bytes.len() as u64) as usize;
        let n = self.out.write(&bytes[..room])?;
        self.chunk.update(&bytes[..n]);
        self.chunk_len += n as u64;
        self.at += n as u64;
        if self.chunk_len == CHUNK {
            self.end_chunk();
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
