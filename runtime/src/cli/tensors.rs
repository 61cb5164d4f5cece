//! Tensors in files: NumPy's .npz, and .safetensors.

use super::{CliError, npy};
use crate::format::ElemType;
use crate::text::plain;
use crate::{Tensor, TensorView, write_output};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, View};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// All tensors of a compressed file together may not be larger: a small one can claim to hold any amount.
const MAX_UNPACKED: u64 = 4 << 30;

const DTYPES: [(Dtype, ElemType); 13] = [
    (Dtype::F64, ElemType::F64),
    (Dtype::F32, ElemType::F32),
    (Dtype::F16, ElemType::F16),
    (Dtype::BF16, ElemType::Bf16),
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

type Named = Vec<(String, Tensor)>;

/// What a file of another kind is told.
pub(super) const KINDS: &str = "expected .npz or .safetensors";

/// Reads all tensors of an .npz or .safetensors file, whichever the content is. `accept` sees names, types and shapes
/// before anything of their size is allocated.
pub fn read_tensors(
    path: &Path,
    accept: impl FnOnce(&[(&str, ElemType, &[usize])]) -> Result<(), CliError>,
) -> Result<Named, CliError> {
    read(path, KINDS, accept)
}

/// [`read_tensors`], where other kinds of files than these may be meant.
pub(super) fn read(
    path: &Path,
    kinds: &str,
    accept: impl FnOnce(&[(&str, ElemType, &[usize])]) -> Result<(), CliError>,
) -> Result<Named, CliError> {
    let mut file = File::open(path).map_err(CliError::read(path))?;
    let mut start = [0; 4];
    let known = read_up_to(&mut file, &mut start).map_err(CliError::read(path))?;
    if start[..known].starts_with(b"PK\x03\x04") || start[..known].starts_with(b"PK\x05\x06") {
        read_npz(path, file, accept)
    } else {
        read_safetensors(path, &file, kinds, accept)
    }
}

pub(super) fn read_up_to(file: &mut impl Read, mut buffer: &mut [u8]) -> io::Result<usize> {
    let len = buffer.len();
    while !buffer.is_empty() {
        match file.read(buffer)? {
            0 => break,
            n => buffer = &mut buffer[n..],
        }
    }
    Ok(len - buffer.len())
}

fn read_npz(
    path: &Path,
    file: File,
    accept: impl FnOnce(&[(&str, ElemType, &[usize])]) -> Result<(), CliError>,
) -> Result<Named, CliError> {
    let fail = |e: &dyn ToString| CliError::file(path, e.to_string());
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| fail(&e))?;
    if archive.has_duplicate_names() {
        return Err(fail(&"two of its arrays have one name"));
    }
    let (mut headers, mut total) = (Vec::new(), 0u64);
    for i in 0..archive.len() {
        let mut member = archive.by_index(i).map_err(|e| fail(&e))?;
        let name = member.name().map_err(|e| fail(&e))?.into_owned();
        let name = name.strip_suffix(".npy").unwrap_or(&name).to_owned();
        let bad = |e: String| CliError::file(path, format!("array {}: {e}", plain(&name)));
        let header = npy::read_header(&mut member).map_err(bad)?;
        let bytes =
            crate::tensor::byte_len(header.elem, &header.shape).map(|len| (len as u64, (len + header.len) as u64));
        match bytes {
            Some((len, whole)) if whole == member.size() => total = total.saturating_add(len),
            _ => {
                let (elem, shape, held) = (header.elem, &header.shape, member.size());
                return Err(bad(format!("it says {elem}{shape:?}, but holds {held} bytes with its header")));
            }
        }
        headers.push((name, header));
    }
    let types: Vec<_> = headers.iter().map(|(name, h)| (name.as_str(), h.elem, &h.shape[..])).collect();
    // `a` and `a.npy` are two members, but one array.
    let mut names = BTreeSet::new();
    if let Some((twice, ..)) = types.iter().find(|(name, ..)| !names.insert(*name)) {
        return Err(fail(&format!("array {}: it stands twice", plain(twice))));
    }
    accept(&types)?;
    if total > MAX_UNPACKED {
        return Err(fail(&format!("its arrays have {total} bytes, at most {MAX_UNPACKED} are read from one file")));
    }
    let mut tensors = Vec::with_capacity(headers.len());
    for (i, (name, header)) in headers.into_iter().enumerate() {
        let mut member = archive.by_index(i).map_err(|e| fail(&e))?;
        let bad = |e: &dyn ToString| CliError::file(path, format!("array {}: {}", plain(&name), e.to_string()));
        npy::read_header(&mut member).map_err(|e| bad(&e))?;
        let mut tensor = Tensor::zeros(header.elem, &header.shape)?;
        member.read_exact(tensor.bytes_mut()).map_err(|e| bad(&e))?;
        // The checksum is compared where the data ends.
        io::copy(&mut member, &mut io::sink()).map_err(|e| bad(&e))?;
        if header.fortran && header.shape.len() > 1 {
            let mut ordered = Tensor::zeros(header.elem, &header.shape)?;
            npy::from_fortran(tensor.bytes(), &header.shape, header.elem.size(), ordered.bytes_mut());
            tensor = ordered;
        }
        normalise(&mut tensor);
        drop(member);
        tensors.push((name, tensor));
    }
    Ok(tensors)
}

fn read_safetensors(
    path: &Path,
    file: &File,
    kinds: &str,
    accept: impl FnOnce(&[(&str, ElemType, &[usize])]) -> Result<(), CliError>,
) -> Result<Named, CliError> {
    let fail = |e: &dyn ToString| CliError::file(path, e.to_string());
    // SAFETY: the file is only read, here, and every position is checked by the parser; a file that shrinks meanwhile
    // ends the process, as it would for any program that maps it.
    let map = unsafe { Mmap::map(file) }.map_err(|e| fail(&e))?;
    let parsed = SafeTensors::deserialize(&map).map_err(|e| fail(&format!("{e}; {kinds}")))?;
    let mut found = Vec::new();
    for (name, view) in parsed.iter() {
        let elem = DTYPES.iter().find(|(dtype, _)| *dtype == view.dtype()).map(|(_, elem)| *elem);
        let elem = elem.ok_or_else(|| fail(&format!("tensor {}: it has the type {:?}", plain(name), view.dtype())))?;
        found.push((name.to_owned(), elem, view));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let types: Vec<_> = found.iter().map(|(name, elem, view)| (name.as_str(), *elem, view.shape())).collect();
    accept(&types)?;
    let copy = |(name, elem, view): &(String, ElemType, safetensors::tensor::TensorView)| {
        let mut tensor = Tensor::zeros(*elem, view.shape())?;
        if tensor.bytes().len() != view.data().len() {
            return Err(fail(&format!("tensor {}: {} bytes for {tensor:?}", plain(name), view.data().len())));
        }
        tensor.bytes_mut().copy_from_slice(view.data());
        normalise(&mut tensor);
        Ok((name.clone(), tensor))
    };
    found.iter().map(copy).collect()
}

/// Truth values become 0 or 1, which is all that kernels know.
fn normalise(tensor: &mut Tensor) {
    if tensor.elem() == ElemType::I1 {
        tensor.bytes_mut().iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
}

/// Writes tensors to an .npz or .safetensors file, by the extension of its name. A failure leaves no partial file
/// under that name.
pub fn write_tensors(path: &Path, tensors: &[(&str, TensorView)]) -> Result<(), CliError> {
    let bytes = format_of(path)?(tensors).map_err(|e| CliError::file(path, e))?;
    write_output(path, |file| file.write_all(&bytes)).map_err(CliError::write(path))
}

/// Whether outputs can go to a file of this name; asked before any work is done for them.
pub fn check_output(path: Option<&Path>) -> Result<(), CliError> {
    path.map_or(Ok(()), |path| format_of(path).map(drop))
}

type Format = fn(&[(&str, TensorView)]) -> Result<Vec<u8>, String>;

fn format_of(path: &Path) -> Result<Format, CliError> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("npz") => Ok(npz),
        Some("safetensors") => Ok(safetensors),
        _ => Err(CliError::file(path, "outputs go to .npz or .safetensors")),
    }
}

/// The archive in memory: its writer has no quiet way to give up when a disk is full.
fn npz(tensors: &[(&str, TensorView)]) -> Result<Vec<u8>, String> {
    let room: usize = tensors.iter().map(|(_, t)| t.bytes().len() + 512).sum();
    let mut archive = ZipWriter::new(Cursor::new(Vec::with_capacity(room)));
    for (name, tensor) in tensors {
        let elem = tensor.elem();
        let header = npy::header(elem, tensor.shape());
        let header = header.ok_or_else(|| format!("{}: .npz has no {elem}, .safetensors has", plain(name)))?;
        let large = tensor.bytes().len() as u64 + header.len() as u64 > u64::from(u32::MAX);
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(large);
        archive.start_file(format!("{name}.npy"), options).map_err(|e| e.to_string())?;
        archive.write_all(&header).and_then(|()| archive.write_all(tensor.bytes())).map_err(|e| e.to_string())?;
    }
    Ok(archive.finish().map_err(|e| e.to_string())?.into_inner())
}

struct Borrowed<'a>(Dtype, TensorView<'a>);

impl View for Borrowed<'_> {
    fn dtype(&self) -> Dtype {
        self.0
    }

    fn shape(&self) -> &[usize] {
        self.1.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.1.bytes())
    }

    fn data_len(&self) -> usize {
        self.1.bytes().len()
    }
}

fn safetensors(tensors: &[(&str, TensorView)]) -> Result<Vec<u8>, String> {
    let borrow = |(name, tensor): &(&'_ str, TensorView<'_>)| {
        let dtype = DTYPES.iter().find(|(_, elem)| *elem == tensor.elem()).map(|(dtype, _)| *dtype);
        dtype.ok_or_else(|| format!("{}: .safetensors has no {}", plain(name), tensor.elem()))
    };
    let dtypes = tensors.iter().map(borrow).collect::<Result<Vec<_>, _>>()?;
    let views = tensors.iter().zip(dtypes).map(|((name, tensor), dtype)| (*name, Borrowed(dtype, *tensor)));
    safetensors::serialize(views, None).map_err(|e| e.to_string())
}
