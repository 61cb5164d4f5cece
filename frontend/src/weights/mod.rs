//! Weights by reference: safetensors files, mapped and checked, never copied.
//!
//! Opening reads only the headers. [`Weights::tensor`] gives the bytes in the mapping; after streaming them,
//! [`Weights::release`] gives the pages back, so that memory does not grow with the model.

pub mod header;
mod index;

pub(crate) use index::plain_name;

pub use header::{HeaderError, check_header};

use crate::error::{Errors, ImportError, shown};
use kiln_ir::{ElemType, WeightFile};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::{fs::File, path::Path};

/// The weights of a model: one or more safetensors files, numbered as in [`kiln_ir::Module::files`].
#[derive(Debug, Default)]
pub struct Weights {
    files: Vec<Mapped>,
}

#[derive(Debug)]
struct Mapped {
    name: String,
    map: Mmap,
    /// Where the data begins in the file.
    start: usize,
    metadata: Metadata,
}

/// One stored tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    pub elem: ElemType,
    pub shape: &'a [usize],
    /// Row-major, little-endian, at any alignment.
    pub bytes: &'a [u8],
}

/// A tensor as the file declares it.
pub(crate) struct Stored<'a> {
    pub(crate) file: WeightFile,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
}

impl Weights {
    /// Opens the weights of a Hugging Face directory: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names.
    pub(crate) fn open_directory(dir: &Path, errors: &mut Errors) -> Option<Weights> {
        let single = "model.safetensors";
        let index = dir.join("model.safetensors.index.json");
        if dir.join(single).exists() {
            return Weights::open_files(dir, &[single.to_string()], errors);
        }
        if index.exists() {
            return index::open(dir, &index, errors);
        }
        let pickled = dir.join("pytorch_model.bin").exists() || dir.join("pytorch_model.bin.index.json").exists();
        let found = if pickled { "only pickled weights, pytorch_model.bin" } else { "neither" };
        let e = ImportError::new(dir, "model.safetensors or model.safetensors.index.json", found);
        errors.push(if pickled { e.help("save the model with `safe_serialization=True`") } else { e.unreadable() });
        None
    }

    /// Opens files beside each other, in this order; names are plain file names in `dir`.
    pub(crate) fn open_files(dir: &Path, names: &[String], errors: &mut Errors) -> Option<Weights> {
        let before = errors.len();
        let files: Vec<Mapped> = names.iter().filter_map(|name| Mapped::open(dir, name, errors)).collect();
        (errors.len() == before).then_some(Weights { files })
    }

    /// Names of the files, in the order of their numbers.
    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|f| f.name.as_str())
    }

    /// The names of all tensors, file by file.
    pub fn keys(&self) -> impl Iterator<Item = (WeightFile, String)> {
        let named = self.files.iter().enumerate();
        named.flat_map(|(n, f)| f.metadata.tensors().into_keys().map(move |key| (WeightFile::from_u32(n as u32), key)))
    }

    /// The tensor `key` of a file; `None` when the file has none of that name or its elements are of a type that the IR
    /// does not know. The module's params are checked when they are loaded, so for them there always is one.
    pub fn tensor(&self, file: WeightFile, key: &str) -> Option<TensorRef<'_>> {
        let file = self.files.get(file.as_u32() as usize)?;
        let info = file.metadata.info(key)?;
        let (begin, end) = info.data_offsets;
        let bytes = file.map.get(file.start.checked_add(begin)?..file.start.checked_add(end)?)?;
        Some(TensorRef { elem: elem_type(info.dtype)?, shape: &info.shape, bytes })
    }

    /// Gives the memory behind `bytes`, a part of a tensor of these weights, back to the system. It may be read again;
    /// it is then read from the file again. Bytes from elsewhere are left alone.
    pub fn release(&self, bytes: &[u8]) {
        let at = bytes.as_ptr() as usize;
        for file in &self.files {
            let base = file.map.as_ptr() as usize;
            if at >= base && at + bytes.len() <= base + file.map.len() && !bytes.is_empty() {
                // SAFETY: the mapping is read-only and of a file, so pages that are dropped come back with the same
                // contents. The range lies in the mapping.
                let advised =
                    unsafe { file.map.unchecked_advise_range(UncheckedAdvice::DontNeed, at - base, bytes.len()) };
                // Where the system does not take the advice, nothing but memory use is different.
                drop(advised);
            }
        }
    }

    /// The tensor of this name in whichever file has it.
    pub(crate) fn find(&self, key: &str) -> Option<Stored<'_>> {
        self.files.iter().enumerate().find_map(|(n, f)| {
            let info = f.metadata.info(key)?;
            Some(Stored { file: WeightFile::from_u32(n as u32), dtype: info.dtype, shape: &info.shape })
        })
    }

    /// Number of tensors in all files.
    pub(crate) fn count(&self) -> usize {
        self.files.iter().map(|f| f.metadata.offset_keys().len()).sum()
    }

    fn info(&self, file: usize, key: &str) -> Option<&TensorInfo> {
        self.files[file].metadata.info(key)
    }
}

impl Mapped {
    fn open(dir: &Path, name: &str, errors: &mut Errors) -> Option<Mapped> {
        let path = dir.join(name);
        let expected = "a readable safetensors file";
        let mut fail = |e: ImportError| {
            errors.push(e);
            None
        };
        // Asked before opening, since opening a pipe would wait for its other end.
        match std::fs::metadata(&path) {
            Ok(m) if !m.is_file() => return fail(ImportError::new(&path, "a file", "a directory or a device")),
            Ok(m) if m.len() < 8 => {
                let found = format!("{} bytes", m.len());
                return fail(ImportError::new(&path, "8 bytes that hold the header's length", found));
            }
            Ok(_) => {}
            Err(e) => return fail(ImportError::io(&path, expected, &e)),
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) => return fail(ImportError::io(&path, expected, &e)),
        };
        // SAFETY: as with every mapped file, nobody may truncate it while it is in use; other changes only give other
        // numbers, since offsets are checked against the mapping's length once and held apart from it.
        let map = match unsafe { Mmap::map(&file) } {
            Ok(map) => map,
            Err(e) => return fail(ImportError::io(&path, expected, &e)),
        };
        match header::check(&map) {
            Ok(header) => {
                Some(Mapped { name: name.to_string(), map, start: header.data_start, metadata: header.metadata })
            }
            Err(found) => {
                for e in found {
                    let error = ImportError::new(&path, e.expected, e.found);
                    errors.push(match e.tensor {
                        Some(tensor) => error.at(format!("tensor {}", shown(&tensor))),
                        None => error.at("header"),
                    });
                }
                None
            }
        }
    }
}

/// The IR's type for a stored one, where it has one.
pub(crate) fn elem_type(dtype: Dtype) -> Option<ElemType> {
    const TABLE: &[(Dtype, ElemType)] = &[
        (Dtype::F64, ElemType::F64),
        (Dtype::F32, ElemType::F32),
        (Dtype::F16, ElemType::F16),
        (Dtype::BF16, ElemType::BF16),
        (Dtype::BOOL, ElemType::I1),
        (Dtype::I8, ElemType::I8),
        (Dtype::I16, ElemType::I16),
        (Dtype::I32, ElemType::I32),
        (Dtype::I64, ElemType::I64),
        (Dtype::U8, ElemType::U8),
        (Dtype::U16, ElemType::U16),
        (Dtype::U32, ElemType::U32),
        (Dtype::U64, ElemType::U64),
    ];
    TABLE.iter().find(|(d, _)| *d == dtype).map(|(_, e)| *e)
}
