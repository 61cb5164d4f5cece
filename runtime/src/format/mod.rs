//! The artifact's file format: what the compiler writes and the runtime reads.
//!
//! ```text
//! 0      header, 4096 bytes     magic, version, section table, root hash, signature (see `header`)
//! 4096   weights                tensors at 64-byte boundaries, used in place
//! ...    manifest               `Manifest`, in postcard
//! ...    plans, one a target    `Vec<Plan>`, one for each entry, in postcard
//! ...    code, one a target     an ELF shared object without undefined symbols, or PTX text
//! ...    rewrites               opaque bytes
//! ...    codec, if a circuit    `codec::Section`, in postcard
//! ...    hashes                 BLAKE3 of every 1 MiB chunk of every section, padding included
//! ```
//!
//! All integers of the header are little-endian. Sections follow each other without gaps: the bytes from the end of a
//! section to the start of the next are zeros and belong to the first one's last chunk. The root is the BLAKE3 hash of
//! the header (its root and signature zeroed) and of the hashes, so there is no byte in the file that it does not cover.

mod elem;
mod expr;
mod header;
mod manifest;
mod plan;
mod read;
mod validate;
#[cfg(feature = "write")]
mod write;

pub use elem::ElemType;
pub use expr::{MAX_EXTENT, SizeError, SizeExpr, SizeOp};
pub use header::{CHUNK, FORMAT_VERSION, HEADER_LEN, MAGIC, Section, SectionKind, WEIGHT_ALIGN};
pub(crate) use header::{Header, SIGNATURE_AT, section_of};
pub use manifest::{
    Accepts, Change, Condition, Entry, Grid, Growth, Kernel, Level, Lifetime, MAX_KEY_LEN, Manifest, Port, State,
    StateUse, Swizzle, Symbol, TargetInfo, TensorMap, UNBOUNDED,
};
pub use plan::{Arg, BAD_INDEX, BadIndexNote, Block, COUNTERS, Count, Plan, Step};
pub(crate) use read::{Parsed, parse};
pub use validate::{MAX_ARGS, MAX_NESTING, check_manifest, check_plans};
#[cfg(feature = "write")]
pub use write::{Summary, TargetCode, Writer, reseal};
