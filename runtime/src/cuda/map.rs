//! Tensor maps: what the driver makes of the description of a tensor that a kernel copies tiles of.

use super::driver::Address;
use crate::error::{Error, Result};
use crate::format::{ElemType, SizeError, Swizzle, TensorMap};
use std::ffi::{c_int, c_uint, c_void};

/// Dimensions of a map, at most.
const RANK: usize = 5;
/// The alignment of a map's base.
const BASE: u64 = 16;

/// A map in the driver's own form.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Encoded([u64; 16]);

/// The driver's number of an element type; none of those without tensor cores.
fn number(elem: ElemType) -> Option<c_int> {
    match elem {
        ElemType::F16 => Some(6),
        ElemType::Bf16 => Some(9),
        _ => None,
    }
}

/// Makes the map of a tensor at an address. Where the tensor has no elements or the address is no multiple of 16 bytes, it is
/// a map of nothing: the kernel does not use it.
pub(super) fn encode(
    device: &super::Device,
    what: &str,
    map: &TensorMap,
    symbols: &[i64],
    at: Address,
) -> Result<Encoded> {
    let fail = |problem: &str| Error::Gpu { what: what.to_owned(), problem: problem.to_owned() };
    let size = |source: SizeError| Error::Size { what: what.to_owned(), source };
    let make = device.driver().functions().encode_map.ok_or_else(|| fail("the driver makes no tensor maps"))?;
    let elem = number(map.elem).ok_or_else(|| fail("no tensor map has such elements"))?;
    let (mut dims, mut strides, mut tile) = ([1u64; RANK], [BASE; RANK], [1 as c_uint; RANK]);
    for (to, dim) in dims.iter_mut().zip(&map.dims) {
        *to = dim.eval_size(symbols).map_err(size)? as u64;
    }
    for (to, stride) in strides.iter_mut().zip(&map.strides) {
        *to = stride.eval_size(symbols).map_err(size)? as u64;
    }
    tile.iter_mut().zip(&map.tile).for_each(|(to, n)| *to = *n);
    let mut encoded = Encoded([0; 16]);
    let at = at + map.offset.eval_size(symbols).map_err(size)? as u64;
    if dims.contains(&0) || !at.is_multiple_of(BASE) {
        return Ok(encoded);
    }
    let swizzle = match map.swizzle {
        Swizzle::None => 0,
        Swizzle::Bytes32 => 1,
        Swizzle::Bytes64 => 2,
        Swizzle::Bytes128 => 3,
    };
    /// Lines that are brought to the second cache at a time: 256 bytes.
    const PROMOTION: c_int = 3;
    let steps = [1 as c_uint; RANK];
    let rank = map.dims.len() as c_uint;
    let to = std::ptr::from_mut(&mut encoded).cast::<c_void>();
    device.call(what, |_| {
        let (dims, strides, tile, steps) = (dims.as_ptr(), strides.as_ptr(), tile.as_ptr(), steps.as_ptr());
        // SAFETY: there are as many of each as the rank says, and `to` has 128 bytes aligned to 64.
        unsafe { make(to, elem, rank, at, dims, strides, tile, steps, 0, swizzle, PROMOTION, 0) }
    })?;
    Ok(encoded)
}
