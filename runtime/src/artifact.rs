//! An open artifact: its metadata, its bytes, and the check of its weights.

use crate::code::Program;
use crate::error::{Error, Result};
use crate::format::{
    Header, Manifest, Parsed, Plan, SIGNATURE_AT, Section, SectionKind, WEIGHT_ALIGN, parse, section_of,
};
use crate::memory::{AlignedBytes, Source};
use crate::session::SessionOptions;
use crate::verify::{Span, Verifier, Verify};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A model file made ready to run. Clones share everything.
///
/// The file must not change while it is open: its weights are read in place.
#[derive(Clone)]
pub struct Artifact {
    inner: Arc<Inner>,
}

struct Inner {
    source: Arc<Source>,
    parsed: Parsed,
    verifier: Verifier,
    /// The loaded code, by target.
    programs: Mutex<Vec<Option<Arc<Program>>>>,
    #[cfg(feature = "cuda")]
    gpu_programs: Mutex<Vec<Option<Arc<crate::cuda::Program>>>>,
}

/// How to open an artifact.
#[derive(Clone, Copy, Default, Debug)]
pub struct OpenOptions {
    pub verify: Verify,
    /// Refuse an artifact that this Ed25519 key has not signed.
    pub require_key: Option<[u8; 32]>,
}

impl Artifact {
    /// Maps the file. Weights are read from it as kernels touch them.
    pub fn open(path: impl AsRef<Path>) -> Result<Artifact> {
        OpenOptions::default().open(path)
    }

    /// Copies the bytes. [`Artifact::from_static`] and [`Artifact::from_shared`] do not.
    pub fn from_bytes(bytes: &[u8]) -> Result<Artifact> {
        OpenOptions::default().from_bytes(bytes)
    }

    /// Uses the bytes in place; they must start at a multiple of 64, as [`include_artifact!`](crate::include_artifact)
    /// makes them.
    pub fn from_static(bytes: &'static [u8]) -> Result<Artifact> {
        OpenOptions::default().from_static(bytes)
    }

    /// Uses the bytes in place; they must start at a multiple of 64 and stay where they are.
    pub fn from_shared(bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Result<Artifact> {
        OpenOptions::default().from_shared(bytes)
    }

    /// What the artifact takes, gives and runs on.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.parsed.manifest
    }

    /// The plans of one of the manifest's targets, by entry. None for an index that is not there.
    pub fn plans(&self, target: usize) -> &[Plan] {
        self.inner.parsed.plans.get(target).map_or(&[], Vec::as_slice)
    }

    /// The sections of the file, in order.
    pub fn sections(&self) -> &[Section] {
        &self.inner.parsed.header.sections
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.inner.parsed.header.file_len
    }

    /// The hash over everything, which identifies the artifact.
    pub fn root(&self) -> [u8; 32] {
        self.inner.parsed.header.root
    }

    /// The key that signed the artifact.
    pub fn signer(&self) -> Option<[u8; 32]> {
        Some(self.inner.parsed.header.key).filter(|key| *key != [0; 32])
    }

    /// The record of the rewrites that made it. Waits for the check of the file's hashes.
    pub fn rewrites(&self) -> Result<&[u8]> {
        self.verify()?;
        Ok(self.section(SectionKind::Rewrites, 0))
    }

    /// Waits for the verdict on the weights; see [`Verify`].
    pub fn verify(&self) -> Result<()> {
        self.inner.verifier.wait()
    }

    /// The index of the best target that this machine runs: the one that a session takes that is told nothing else.
    pub fn best_target(&self) -> Result<usize> {
        self.target_for(&SessionOptions::default())
    }

    /// The index of the target that a session with these options takes on this machine. Asks the processor, and the GPU
    /// and its driver where there is code for one; loads none of the code.
    ///
    /// # Errors
    /// [`Error::NoTarget`], with what each target lacks.
    pub fn target_for(&self, options: &SessionOptions) -> Result<usize> {
        crate::session::target(self, options)
    }

    pub(crate) fn section(&self, kind: SectionKind, index: u32) -> &[u8] {
        section_of(self.sections(), kind, index).map_or(&[], |s| &self.inner.source.bytes()[s.range()])
    }

    /// The targets, the best ones first. Of two with one level, the one that asks for more was made for machines that have
    /// it.
    pub(crate) fn by_preference(&self) -> Vec<usize> {
        let targets = &self.manifest().targets;
        let mut order: Vec<usize> = (0..targets.len()).collect();
        order
            .sort_by_key(|i| std::cmp::Reverse((targets[*i].level, targets[*i].features.len(), std::cmp::Reverse(*i))));
        order
    }

    /// The code and the weights of a target on a GPU, loaded once for all sessions.
    #[cfg(feature = "cuda")]
    pub(crate) fn gpu_program(
        &self,
        target: usize,
        driver: Option<&Arc<crate::cuda::Driver>>,
    ) -> Result<Arc<crate::cuda::Program>> {
        let mut programs = self.inner.gpu_programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(target).cloned().flatten().filter(|p| p.loaded_by(driver)) {
            return Ok(program);
        }
        let code = self.section(SectionKind::Code, target as u32);
        let weights = self.section(SectionKind::Weights, 0);
        let target_info = &self.manifest().targets[target];
        let program = Arc::new(crate::cuda::Program::load(driver, target_info, code, weights)?);
        programs[target] = Some(program.clone());
        Ok(program)
    }

    /// The code of a target, loaded once for all sessions.
    pub(crate) fn program(&self, target: usize, loader: crate::Loader) -> Result<Arc<Program>> {
        let mut programs = self.inner.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(target).cloned().flatten().filter(|p| p.loaded_by(loader)) {
            return Ok(program);
        }
        let code = self.section(SectionKind::Code, target as u32);
        let program = Arc::new(Program::load(&self.manifest().targets[target], code, loader)?);
        programs[target] = Some(program.clone());
        Ok(program)
    }
}

impl OpenOptions {
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Artifact> {
        let path = path.as_ref();
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            return Err(io(std::io::ErrorKind::IsADirectory.into()));
        }
        if metadata.len() == 0 {
            return self.from_bytes(&[]);
        }
        // SAFETY: the caller keeps the file as it is, as `Artifact` asks.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        self.finish(Source::Map { map, file }, &path.display().to_string())
    }

    pub fn from_bytes(&self, bytes: &[u8]) -> Result<Artifact> {
        self.finish(Source::Owned(AlignedBytes::copy_of(bytes, "a copy of the artifact")?), "the artifact")
    }

    pub fn from_static(&self, bytes: &'static [u8]) -> Result<Artifact> {
        self.finish(Source::Static(bytes), "the artifact")
    }

    pub fn from_shared(&self, bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Result<Artifact> {
        self.finish(Source::Shared(bytes), "the artifact")
    }

    /// `name` is what errors call the whole.
    fn finish(&self, source: Source, name: &str) -> Result<Artifact> {
        let align = WEIGHT_ALIGN as usize;
        if !source.bytes().as_ptr().addr().is_multiple_of(align) {
            return Err(Error::Misaligned { align });
        }
        let parsed = parse(source.bytes())?;
        check_signature(&parsed.header, self.require_key)?;
        let source = Arc::new(source);
        let verifier = Verifier::new(source.clone(), unverified(&parsed, name), self.verify);
        if self.verify == Verify::Full {
            verifier.wait()?;
        }
        let programs = Mutex::new(vec![None; parsed.manifest.targets.len()]);
        #[cfg(feature = "cuda")]
        let gpu_programs = Mutex::new(vec![None; parsed.manifest.targets.len()]);
        Ok(Artifact {
            inner: Arc::new(Inner {
                source,
                parsed,
                verifier,
                programs,
                #[cfg(feature = "cuda")]
                gpu_programs,
            }),
        })
    }
}

/// The chunks that `parse` leaves to the verifier.
fn unverified(parsed: &Parsed, name: &str) -> Vec<Span> {
    let sections = &parsed.header.sections;
    let chunks = parsed.header.chunks().zip(&parsed.hashes);
    let left = chunks.filter(|((i, _), _)| !sections[*i].kind.is_verified_first());
    left.map(|((i, bytes), hash)| {
        let place = format!("{} in bytes {}..{} of {name}", sections[i].label(), bytes.start, bytes.end);
        Span { bytes, hash: *hash, place }
    })
    .collect()
}

fn check_signature(header: &Header, required: Option<[u8; 32]>) -> Result<()> {
    let fail = |text: String| Err(Error::Signature(text));
    if header.key == [0; 32] {
        return match required {
            Some(key) => fail(format!("there is none, expected one by the key {}", hex(&key))),
            None if header.signature != [0; SIGNATURE_AT.end - SIGNATURE_AT.start] => {
                fail("there is no key to it".into())
            }
            None => Ok(()),
        };
    }
    let signature = ed25519_dalek::Signature::from_bytes(&header.signature);
    let key = ed25519_dalek::VerifyingKey::from_bytes(&header.key);
    if key.and_then(|k| k.verify_strict(&header.root, &signature)).is_err() {
        return fail("it does not match the artifact".to_owned());
    }
    match required {
        Some(key) if key != header.key => {
            fail(format!("it is by the key {}, expected one by {}", hex(&header.key), hex(&key)))
        }
        _ => Ok(()),
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of an artifact as part of the program, aligned for [`Artifact::from_static`]. The path is as for
/// `include_bytes!`.
#[macro_export]
macro_rules! include_artifact {
    ($path:expr) => {{
        #[repr(C, align(64))]
        struct Aligned<T: ?Sized>(T);
        const ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &ALIGNED.0
    }};
}

#[cfg(test)]
mod tests {
    #[test]
    fn included_bytes_are_aligned() {
        static BYTES: &[u8] = crate::include_artifact!("artifact.rs");
        assert_eq!(BYTES, include_bytes!("artifact.rs"));
        assert!(BYTES.as_ptr().addr().is_multiple_of(64));
    }
}
