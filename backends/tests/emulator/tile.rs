//! Tensor maps, and the copies of tiles that they describe. A copy arrives when nothing else can go on, the last one first.

use super::{
    ptx::{Inst, Kind, Operand, Ty},
    run::{Memory, Thread},
    shared::Shared,
};
use kiln_runtime::cuda::{Address, Status};
use std::{
    ffi::{c_int, c_uint, c_void},
    sync::{PoisonError, RwLock},
};

const ADDRESS: Ty = Ty { kind: Kind::Bits, bits: 64 };
const COORDINATE: Ty = Ty { kind: Kind::Signed, bits: 32 };
const INVALID_VALUE: Status = 1;
/// The first word of a map.
const MARK: u64 = u64::from_le_bytes(*b"tensormp");

struct Map {
    base: u64,
    element: u64,
    dims: Vec<u64>,
    /// Bytes; that of the first dimension is an element.
    strides: Vec<u64>,
    tile: Vec<u64>,
    swizzle: u32,
}

/// All that were made: a map is a mark and its number.
static MAPS: RwLock<Vec<Map>> = RwLock::new(vec![]);

/// What happens to an address in a tile: bits of it are added to those of its chunk without a carry.
pub fn swizzled(address: u64, mode: u32) -> u64 {
    let bits = match mode {
        0 => 0,
        1 => 1,
        2 => 3,
        _ => 7,
    };
    address ^ (((address >> 7) & bits) << 4)
}

/// `cuTensorMapEncodeTiled`
pub unsafe extern "C" fn encode(
    map: *mut c_void,
    elem: c_int,
    rank: c_uint,
    base: Address,
    dims: *const u64,
    strides: *const u64,
    tile: *const c_uint,
    element_strides: *const c_uint,
    interleave: c_int,
    swizzle: c_int,
    _promotion: c_int,
    fill: c_int,
) -> Status {
    // f16 and bf16
    let element = if matches!(elem, 6 | 9) { 2 } else { return INVALID_VALUE };
    if !(1..=5).contains(&rank) || !map.addr().is_multiple_of(64) || !base.is_multiple_of(16) {
        return INVALID_VALUE;
    }
    let rank = rank as usize;
    let dims = unsafe { std::slice::from_raw_parts(dims, rank) }.to_vec();
    let mut all = vec![element];
    all.extend(unsafe { std::slice::from_raw_parts(strides, rank - 1) });
    let tile: Vec<u64> = unsafe { std::slice::from_raw_parts(tile, rank) }.iter().map(|n| u64::from(*n)).collect();
    let steps = unsafe { std::slice::from_raw_parts(element_strides, rank) };
    let width = tile[0] * element;
    let spans = [u64::MAX, 32, 64, 128];
    let well = dims.iter().all(|n| (1..=1 << 32).contains(n))
        && all[1..].iter().all(|n| n.is_multiple_of(16) && *n < 1 << 40)
        && tile.iter().all(|n| (1..=256).contains(n))
        && steps.iter().all(|n| *n == 1)
        && width.is_multiple_of(16)
        && spans.get(swizzle as usize).is_some_and(|span| width <= *span)
        && (interleave, fill) == (0, 0);
    if !well {
        return INVALID_VALUE;
    }
    let mut maps = MAPS.write().unwrap_or_else(PoisonError::into_inner);
    maps.push(Map { base, element, dims, strides: all, tile, swizzle: swizzle as u32 });
    unsafe { map.cast::<[u64; 2]>().write([MARK, maps.len() as u64 - 1]) };
    0
}

/// A copy that is under way.
pub struct TileCopy {
    map: usize,
    to: u64,
    coordinates: Vec<i64>,
    barrier: u64,
}

/// `cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [to], [map, {..}], [barrier]`
pub fn begin(thread: &Thread<'_>, inst: &Inst, shared: &Shared<'_>) -> Result<TileCopy, String> {
    let words: Vec<&str> = inst.words.iter().map(String::as_str).collect();
    let ["async", "bulk", "tensor", rank, "shared::cluster", "global", "mbarrier::complete_tx::bytes"] = words[..]
    else {
        return Err("another form".into());
    };
    let [to, Operand::Group(source), barrier] = &inst.operands[..] else { return Err("other operands".into()) };
    let [Operand::At(map, 0), Operand::Group(coordinates)] = &source[..] else {
        return Err("no map and coordinates".into());
    };
    let to = thread.shared_place(to, 128)?;
    let barrier = thread.shared_place(barrier, 8)?;
    shared.barriers.is_shown(barrier)?;
    let at = thread.operand(&Operand::Reg(*map), ADDRESS)?;
    if !at.is_multiple_of(64) || !thread.is_parameter(at) {
        return Err(format!("{at:#x} is no parameter, or not aligned to 64"));
    }
    // It lies within a parameter of 128 bytes.
    let [mark, number] = unsafe { (at as *const [u64; 2]).read() };
    if mark != MARK {
        return Err("a map that was never made".into());
    }
    let coordinates: Vec<i64> = coordinates
        .iter()
        .map(|c| thread.operand(c, COORDINATE).map(|c| i64::from(c as u32 as i32)))
        .collect::<Result<_, _>>()?;
    let maps = MAPS.read().unwrap_or_else(PoisonError::into_inner);
    let map = &maps[number as usize];
    let bytes = map.tile.iter().product::<u64>() * map.element;
    // Some devices stop with an illegal instruction.
    if coordinates[0] * map.element as i64 % 16 != 0 {
        return Err(format!("a tile that begins at element {} of a row", coordinates[0]));
    }
    if map.dims.len() != coordinates.len() || rank != format!("{}d", coordinates.len()) || !shared.allows(to, bytes) {
        return Err(format!(
            "{} coordinates, {} dimensions, {bytes} bytes to {to:#x}",
            coordinates.len(),
            map.dims.len()
        ));
    }
    Ok(TileCopy { map: number as usize, to, coordinates, barrier })
}

impl TileCopy {
    /// It arrives. What lies outside of the tensor becomes zero.
    pub fn arrive(&self, memory: &dyn Memory, shared: &Shared<'_>) -> Result<(), String> {
        let maps = MAPS.read().unwrap_or_else(PoisonError::into_inner);
        let map = &maps[self.map];
        let count = map.tile.iter().product::<u64>();
        for i in 0..count {
            let (mut rest, mut from, mut inside) = (i, map.base, true);
            for (axis, extent) in map.tile.iter().enumerate() {
                let at = self.coordinates[axis] + (rest % extent) as i64;
                rest /= extent;
                inside &= (0..map.dims[axis] as i64).contains(&at);
                from = from.wrapping_add((at as u64).wrapping_mul(map.strides[axis]));
            }
            let mut value = 0u16;
            if inside {
                if !memory.allows(from, 2) {
                    return Err(format!("a copy of a tile: 2 bytes at {from:#x} are not allocated"));
                }
                // Checked just now.
                value = unsafe { (from as *const u16).read_unaligned() };
            }
            // Checked when the copy began.
            unsafe { (swizzled(self.to + i * map.element, map.swizzle) as *mut u16).write(value) };
        }
        shared.barriers.complete(self.barrier, (count * map.element) as i64)
    }
}
