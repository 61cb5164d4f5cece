//! Copies of tiles by the threads of a group, where a tensor does not begin where the hardware could copy from.

use super::{Swizzle, TensorMap, aligned, block::Block, hopper::GROUP};
use crate::{
    abi::Kernel,
    build::{Bool, Elem, Ix, Ptr, Ty},
};

/// Elements of a chunk.
const CHUNK: i64 = 8;
/// What bases of tensor maps are multiples of.
const BASE: i64 = 16;

/// Whether the tensors of a kernel begin where the hardware copies tiles from.
pub fn can_copy<'k>(kernel: &Kernel<'k>, maps: &[TensorMap]) -> Bool<'k> {
    aligned(&maps.iter().map(|map| base(kernel, map)).collect::<Vec<_>>(), &[], BASE)
}

fn base<'k>(kernel: &Kernel<'k>, map: &TensorMap) -> Ptr<'k> {
    kernel.buffer(map.buffer).offset(Elem::I16, kernel.size(&map.offset))
}

/// Copies a tile to shared memory as [`Block::copy_tile`] does, by the threads of a group, of which this is number `thread`.
pub fn copy<'k>(block: Block<'k>, kernel: &Kernel<'k>, map: &TensorMap, to: Ptr<'k>, first: &[Ix<'k>], thread: Ix<'k>) {
    let (k, ty) = (block.k, Ty::new(Elem::I16, 1));
    let tile: Vec<i64> = map.tile.iter().map(|n| i64::from(*n)).collect();
    let from = base(kernel, map);
    k.for_(thread, tile.iter().product::<i64>(), GROUP, |element| {
        let (mut rest, mut source, mut inside) = (element, Ix::Const(0), Bool::Const(true));
        for (axis, extent) in tile.iter().enumerate() {
            let at = first[axis] + rest.rem(*extent);
            rest = rest.div(*extent);
            inside = inside.and(at.lt(kernel.size(&map.dims[axis])));
            source = source + at * axis.checked_sub(1).map_or(1.into(), |far| kernel.size(&map.strides[far]));
        }
        let load = || vec![from.offset(Elem::I16, source).load(ty)];
        let value = k.if_else(inside, load, || vec![k.zero(ty)])[0];
        let (row, column) = (element.div(tile[0]), element.rem(tile[0]));
        let turn = match map.swizzle {
            Swizzle::Bytes32 => row.div(4).rem(2),
            Swizzle::Bytes128 => row.rem(8),
        };
        let place = row * tile[0] + column.div(CHUNK).xor(turn) * CHUNK + column.rem(CHUNK);
        to.offset(Elem::I16, place).store(value);
    });
}
