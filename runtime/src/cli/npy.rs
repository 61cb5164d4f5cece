//! NumPy's array files: a header that is a Python literal, then the elements.

use crate::format::ElemType;
use std::io::Read;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy's own limit for what it parses without being told to trust the file.
const MAX_HEADER: usize = 10_000;

/// The element types with their NumPy names.
const TYPES: [(&str, ElemType); 12] = [
    ("<f8", ElemType::F64),
    ("<f4", ElemType::F32),
    ("<f2", ElemType::F16),
    ("|b1", ElemType::I1),
    ("|i1", ElemType::I8),
    ("<i2", ElemType::I16),
    ("<i4", ElemType::I32),
    ("<i8", ElemType::I64),
    ("|u1", ElemType::U8),
    ("<u2", ElemType::U16),
    ("<u4", ElemType::U32),
    ("<u8", ElemType::U64),
];

/// What an array file says about its elements.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) elem: ElemType,
    pub(super) shape: Vec<usize>,
    /// The first dimension varies fastest.
    pub(super) fortran: bool,
    /// Bytes before the elements.
    pub(super) len: usize,
}

/// The header of an array file in version 1, whose length is a multiple of 64. None for types that NumPy lacks.
pub(super) fn header(elem: ElemType, shape: &[usize]) -> Option<Vec<u8>> {
    header_with_room(elem, shape, shape)
}

/// The same, as long as that of the array of the other shape.
pub(super) fn header_with_room(elem: ElemType, shape: &[usize], room: &[usize]) -> Option<Vec<u8>> {
    let descr = TYPES.iter().find(|(_, e)| *e == elem)?.0;
    let text = |shape: &[usize]| {
        let dims: String = shape.iter().map(|d| format!("{d}, ")).collect();
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", dims.trim_end())
    };
    let padded = (text(room).len() + 11).next_multiple_of(64) - 11;
    let mut text = text(shape);
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    text.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend(u16::try_from(text.len()).ok()?.to_le_bytes());
    bytes.extend(text.into_bytes());
    Some(bytes)
}

/// Reads the header from the start of an array file.
pub(super) fn read_header(file: &mut dyn Read) -> Result<Header, String> {
    let mut read = |bytes: &mut [u8]| file.read_exact(bytes).map_err(|e| format!("its header: {e}"));
    let mut start = [0; 8];
    read(&mut start)?;
    if start[..6] != *MAGIC {
        return Err("it is not a NumPy array".to_owned());
    }
    let (len, before) = match start[6] {
        1 => {
            let mut len = [0; 2];
            read(&mut len)?;
            (usize::from(u16::from_le_bytes(len)), 10)
        }
        2 | 3 => {
            let mut len = [0; 4];
            read(&mut len)?;
            (u32::from_le_bytes(len) as usize, 12)
        }
        version => return Err(format!("NumPy format version {version}, expected 1 to 3")),
    };
    if len > MAX_HEADER {
        return Err(format!("its header has {len} bytes, at most {MAX_HEADER} are read"));
    }
    let mut text = vec![0; len];
    read(&mut text)?;
    let text = std::str::from_utf8(&text).map_err(|e| format!("its header: {e}"))?;
    parse(text, before + len).ok_or_else(|| format!("its header is not understood: {}", text.trim_end()))?
}

/// The header's dictionary. None if the text is not one; an error if it says something that cannot be taken.
fn parse(text: &str, len: usize) -> Option<Result<Header, String>> {
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        let after = match key {
            "descr" if value.starts_with('[') => return Some(Err("it has a structured type".to_owned())),
            "descr" => {
                let (name, after) = quoted(value)?;
                descr = Some(name);
                after
            }
            "fortran_order" => {
                fortran = Some(value.starts_with("True"));
                value.strip_prefix("True").or_else(|| value.strip_prefix("False"))?
            }
            "shape" => {
                let (dims, after) = value.strip_prefix('(')?.split_once(')')?;
                let dims = dims.split(',').map(str::trim).filter(|d| !d.is_empty());
                shape = Some(dims.map(|d| d.parse().ok()).collect::<Option<Vec<usize>>>()?);
                after
            }
            _ => return None,
        };
        rest = after.trim_start();
        rest = if rest.is_empty() { rest } else { rest.strip_prefix(',')?.trim_start() };
    }
    let (descr, shape) = (descr?, shape?);
    // One-byte types have no order, and a writer may spell little-endian as native.
    let same = |name: &str| {
        name[1..] == *descr.get(1..).unwrap_or("") && (descr.starts_with(['<', '=']) || descr.starts_with('|'))
    };
    Some(match TYPES.iter().find(|(name, _)| same(name)) {
        Some((_, elem)) => Ok(Header { elem: *elem, shape, fortran: fortran?, len }),
        None => Err(format!("it has the type {descr}, expected one of {}", TYPES.map(|(name, _)| name).join(" "))),
    })
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// Reorders elements of `size` bytes from first-dimension-fastest to last-dimension-fastest.
pub(super) fn from_fortran(bytes: &[u8], shape: &[usize], size: usize, out: &mut [u8]) {
    let mut strides = vec![size; shape.len()];
    for i in 1..shape.len() {
        strides[i] = strides[i - 1] * shape[i - 1];
    }
    let mut index = vec![0; shape.len()];
    for element in out.chunks_exact_mut(size) {
        let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
        element.copy_from_slice(&bytes[at..at + size]);
        for (i, extent) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *extent {
                break;
            }
            *i = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Header, String> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.bytes());
        read_header(&mut &bytes[..])
    }

    #[test]
    fn headers_round_trip() {
        for (_, elem) in TYPES {
            for shape in [vec![], vec![7], vec![1, 128], vec![0, 3, 5, 1_000_000]] {
                let bytes = header(elem, &shape).unwrap();
                assert_eq!(bytes.len() % 64, 0);
                let expected = Header { elem, shape, fortran: false, len: bytes.len() };
                assert_eq!(read_header(&mut &bytes[..]), Ok(expected));
            }
        }
        assert_eq!(header(ElemType::Bf16, &[1]), None);
    }

    #[test]
    fn what_numpy_writes_is_read() {
        let h = read("{'descr': '<i8', 'fortran_order': True, 'shape': (2, 3), }      \n").unwrap();
        assert_eq!((h.elem, &h.shape[..], h.fortran), (ElemType::I64, &[2, 3][..], true));
        assert!(read("{'descr': '>f4', 'fortran_order': False, 'shape': (), }").unwrap_err().contains(">f4"));
        assert!(read("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }").is_err());
        for bad in [
            "",
            "{",
            "{'shape': (1}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
            "{'a': 1}",
            "{'descr': 'é",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fortran_order_is_undone() {
        let mut out = [0; 6];
        from_fortran(&[0, 3, 1, 4, 2, 5], &[2, 3], 1, &mut out);
        assert_eq!(out, [0, 1, 2, 3, 4, 5]);
    }
}
