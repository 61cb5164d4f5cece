//! Reading an artifact's metadata: everything but the weights, verified and checked.

use super::header::root_of;
use super::{HEADER_LEN, Header, Manifest, Plan, Section, SectionKind, check_manifest, check_plans, section_of};
use crate::error::{Error, Result};
use serde::de::DeserializeOwned;

/// Decoding holds at most some thirty times the encoded bytes, so these bound the memory that a hostile file can take.
const MAX_MANIFEST: u64 = 16 << 20;
const MAX_PLANS: u64 = 16 << 20;

/// The metadata of one artifact.
pub(crate) struct Parsed {
    pub(crate) header: Header,
    /// The hash of each of [`Header::chunks`], in their order; authentic, as the root covers them.
    pub(crate) hashes: Vec<[u8; 32]>,
    pub(crate) manifest: Manifest,
    /// By target, then by entry.
    pub(crate) plans: Vec<Vec<Plan>>,
}

/// Reads the metadata of the artifact in `file`. Verified here: the header and every section but weights, rewrites and codec.
pub(crate) fn parse(file: &[u8]) -> Result<Parsed> {
    let page = &file[..file.len().min(HEADER_LEN as usize)];
    let header = Header::decode(page, file.len() as u64)?;
    let table = &file[header.hashes_at as usize..];
    if root_of(page, table) != header.root {
        return Err(Error::Corrupt { place: "the header or the hashes".to_owned() });
    }
    let hashes: Vec<[u8; 32]> = table.as_chunks::<32>().0.to_vec();
    for ((i, bytes), hash) in header.chunks().zip(&hashes) {
        let section = &header.sections[i];
        if section.kind.is_verified_first() && blake3::hash(&file[bytes.start as usize..bytes.end as usize]) != *hash {
            return Err(Error::Corrupt { place: section.label() });
        }
    }
    let manifest: Manifest = decode(file, require(&header, SectionKind::Manifest, 0)?, MAX_MANIFEST)?;
    check_manifest(&manifest)?;
    let weights = require(&header, SectionKind::Weights, 0)?.len;
    let mut plans = Vec::new();
    for target in 0..manifest.targets.len() {
        require(&header, SectionKind::Code, target as u32)?;
        let section = require(&header, SectionKind::Plans, target as u32)?;
        let of_target: Vec<Plan> = decode(file, section, MAX_PLANS)?;
        check_plans(&manifest, target, &of_target, weights)?;
        plans.push(of_target);
    }
    Ok(Parsed { header, hashes, manifest, plans })
}

fn require(header: &Header, kind: SectionKind, index: u32) -> Result<&Section> {
    let missing = || Error::malformed("header", format!("there is no section {} {index}", kind.name()));
    section_of(&header.sections, kind, index).ok_or_else(missing)
}

fn decode<T: DeserializeOwned>(file: &[u8], section: &Section, max: u64) -> Result<T> {
    let bad = |problem: String| Error::malformed(section.label(), problem);
    if section.len > max {
        return Err(bad(format!("{} bytes, at most {max} are read", section.len)));
    }
    match postcard::take_from_bytes(&file[section.range()]) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(bad(format!("{} bytes follow its end", rest.len()))),
        Err(e) => Err(bad(e.to_string())),
    }
}
