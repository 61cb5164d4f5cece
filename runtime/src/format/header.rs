//! The header: a fixed page that says where everything is and holds the root hash.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | [`MAGIC`] |
//! | 8..12 | format version |
//! | 12..16 | number of sections |
//! | 16..24 | length of the file |
//! | 24..32 | offset of the hashes, the last thing in the file |
//! | 32..64 | root hash |
//! | 64..96 | Ed25519 public key, zeros in an unsigned artifact |
//! | 96..160 | Ed25519 signature of the root hash, zeros likewise |
//! | 192.. | sections, 24 bytes each: kind u32, index u32, offset u64, length u64 |

use crate::error::{Error, Result};
use std::ops::Range;

/// A byte that no text has, the name, and line ends that a text-mode copy would change.
pub const MAGIC: [u8; 8] = *b"\x89KILN\r\n\x1a";
pub const FORMAT_VERSION: u32 = 8;
/// Bytes before the first section: one page, so that weights start on one.
pub const HEADER_LEN: u64 = 4096;
/// Bytes under one hash.
pub const CHUNK: u64 = 1 << 20;
/// Alignment of a tensor in the weights section, and of every section.
pub const WEIGHT_ALIGN: u64 = 64;

pub(crate) const SIGNATURE_AT: Range<usize> = 96..160;
const ROOT_AT: Range<usize> = 32..64;
const KEY_AT: Range<usize> = 64..96;
const TABLE_AT: usize = 192;
const ROW: usize = 24;
const MAX_SECTIONS: usize = (HEADER_LEN as usize - TABLE_AT) / ROW;

/// What a section holds. The discriminants are part of the file format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum SectionKind {
    Weights = 1,
    Manifest = 2,
    Plans = 3,
    Code = 4,
    Rewrites = 5,
    /// What coding rows with a circuit needs, see [`codec`](crate::codec).
    Codec = 6,
}

impl SectionKind {
    const ALL: [SectionKind; 6] = [
        SectionKind::Weights,
        SectionKind::Manifest,
        SectionKind::Plans,
        SectionKind::Code,
        SectionKind::Rewrites,
        SectionKind::Codec,
    ];

    /// Whether its bytes are compared with their hashes as the artifact is opened, rather than when they are used.
    pub(crate) fn is_verified_first(self) -> bool {
        !matches!(self, SectionKind::Weights | SectionKind::Rewrites | SectionKind::Codec)
    }

    pub fn name(self) -> &'static str {
        match self {
            SectionKind::Weights => "weights",
            SectionKind::Manifest => "manifest",
            SectionKind::Plans => "plans",
            SectionKind::Code => "code",
            SectionKind::Rewrites => "rewrites",
            SectionKind::Codec => "codec",
        }
    }
}

/// One row of the section table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    pub kind: SectionKind,
    /// The target, for plans and code; 0 for the others.
    pub index: u32,
    pub offset: u64,
    pub len: u64,
}

impl Section {
    pub(crate) fn range(&self) -> Range<usize> {
        self.offset as usize..(self.offset + self.len) as usize
    }

    /// The section's name for errors, such as `code 1`.
    pub fn label(&self) -> String {
        match self.kind {
            SectionKind::Plans | SectionKind::Code => format!("{} {}", self.kind.name(), self.index),
            kind => kind.name().to_owned(),
        }
    }
}

/// The decoded header. Its offsets are checked against each other and against the file's length.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) sections: Vec<Section>,
    pub(crate) hashes_at: u64,
    pub(crate) file_len: u64,
    pub(crate) root: [u8; 32],
    pub(crate) key: [u8; 32],
    pub(crate) signature: [u8; 64],
}

impl Header {
    /// The bytes that section `i` is hashed over: up to the next section, or to the hashes.
    pub(crate) fn extent(&self, i: usize) -> Range<u64> {
        let end = self.sections.get(i + 1).map_or(self.hashes_at, |next| next.offset);
        self.sections[i].offset..end
    }

    /// All hashed chunks, in order: the section each is part of, and its bytes.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (usize, Range<u64>)> + '_ {
        (0..self.sections.len()).flat_map(move |i| {
            let extent = self.extent(i);
            let end = extent.end;
            extent.step_by(CHUNK as usize).map(move |start| (i, start..end.min(start + CHUNK)))
        })
    }

    fn chunk_count(&self) -> u64 {
        (0..self.sections.len()).map(|i| (self.extent(i).end - self.extent(i).start).div_ceil(CHUNK)).sum()
    }

    /// Reads the header of a file of `file_len` bytes; `bytes` holds its first page, or less if the file has less.
    pub(crate) fn decode(bytes: &[u8], file_len: u64) -> Result<Header> {
        let bad = |problem: &str| Error::malformed("header", problem);
        let page = HEADER_LEN as usize;
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(Error::NotAnArtifact { found: bytes[..known].to_vec(), expected: MAGIC });
        }
        if bytes.len() >= 12 && u32_at(bytes, 8) != FORMAT_VERSION {
            return Err(Error::UnsupportedVersion { found: u32_at(bytes, 8), supported: FORMAT_VERSION });
        }
        if bytes.len() < page {
            let expected = if bytes.len() >= 24 { u64_at(bytes, 16).max(HEADER_LEN) } else { HEADER_LEN };
            return Err(Error::Truncated { expected, found: file_len });
        }
        let declared = u64_at(bytes, 16);
        if declared > file_len {
            return Err(Error::Truncated { expected: declared, found: file_len });
        }
        if declared < file_len {
            return Err(bad(&format!("it declares {declared} bytes, the file has {file_len}")));
        }
        let count = u32_at(bytes, 12) as usize;
        if count > MAX_SECTIONS {
            return Err(bad(&format!("{count} sections, at most {MAX_SECTIONS} fit")));
        }
        let mut sections = Vec::with_capacity(count);
        for row in bytes[TABLE_AT..TABLE_AT + count * ROW].chunks_exact(ROW) {
            let tag = u32_at(row, 0);
            let kind = SectionKind::ALL.into_iter().find(|k| *k as u32 == tag);
            let kind = kind.ok_or_else(|| bad(&format!("no section kind has the tag {tag}")))?;
            sections.push(Section { kind, index: u32_at(row, 4), offset: u64_at(row, 8), len: u64_at(row, 16) });
        }
        let header = Header {
            sections,
            hashes_at: u64_at(bytes, 24),
            file_len,
            root: array_at(bytes, ROOT_AT.start),
            key: array_at(bytes, KEY_AT.start),
            signature: array_at(bytes, SIGNATURE_AT.start),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        let bad = |problem: String| Err(Error::malformed("header", problem));
        let mut at = HEADER_LEN;
        for (i, section) in self.sections.iter().enumerate() {
            let label = section.label();
            if section.offset != at.next_multiple_of(WEIGHT_ALIGN) {
                return bad(format!("section {label} starts at {}, the one before ends at {at}", section.offset));
            }
            if self.sections[..i].iter().any(|s| (s.kind, s.index) == (section.kind, section.index)) {
                return bad(format!("section {label} stands twice"));
            }
            at = match section.offset.checked_add(section.len) {
                Some(end) if end <= self.file_len => end,
                _ => return bad(format!("section {label} ends beyond the file")),
            };
        }
        if self.hashes_at != at.next_multiple_of(WEIGHT_ALIGN) || self.hashes_at > self.file_len {
            return bad(format!("the hashes start at {}, the last section ends at {at}", self.hashes_at));
        }
        let hashes = self.chunk_count() * 32;
        if self.file_len - self.hashes_at != hashes {
            return bad(format!("{} bytes of hashes, expected {hashes}", self.file_len - self.hashes_at));
        }
        Ok(())
    }

    /// The header's bytes; those of the root and the signature are as given.
    #[cfg(feature = "write")]
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        if self.sections.len() > MAX_SECTIONS {
            return Err(Error::malformed("header", format!("more than {MAX_SECTIONS} sections")));
        }
        let mut page = vec![0u8; HEADER_LEN as usize];
        page[..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        page[12..16].copy_from_slice(&(self.sections.len() as u32).to_le_bytes());
        page[16..24].copy_from_slice(&self.file_len.to_le_bytes());
        page[24..32].copy_from_slice(&self.hashes_at.to_le_bytes());
        page[ROOT_AT].copy_from_slice(&self.root);
        page[KEY_AT].copy_from_slice(&self.key);
        page[SIGNATURE_AT].copy_from_slice(&self.signature);
        for (row, s) in page[TABLE_AT..].chunks_exact_mut(ROW).zip(&self.sections) {
            row[..4].copy_from_slice(&(s.kind as u32).to_le_bytes());
            row[4..8].copy_from_slice(&s.index.to_le_bytes());
            row[8..16].copy_from_slice(&s.offset.to_le_bytes());
            row[16..24].copy_from_slice(&s.len.to_le_bytes());
        }
        Ok(page)
    }
}

/// The root hash over a header page and the bytes of the hashes.
pub(crate) fn root_of(page: &[u8], hashes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&page[..ROOT_AT.start]).update(&[0; 32]).update(&page[ROOT_AT.end..SIGNATURE_AT.start]);
    hasher.update(&[0; 64]).update(&page[SIGNATURE_AT.end..]).update(hashes);
    hasher.finalize().into()
}

/// The section of that kind and index.
pub(crate) fn section_of(sections: &[Section], kind: SectionKind, index: u32) -> Option<&Section> {
    sections.iter().find(|s| s.kind == kind && s.index == index)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
