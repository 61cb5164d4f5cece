//! Loads and stores through pointers.

use super::{Builder, Elem, Ix, Ty, V};
use melior::ir::attribute::{DenseI32ArrayAttribute, TypeAttribute};

/// Stands for "an operand" in the `rawConstantIndices` of `llvm.getelementptr`.
const DYNAMIC: i32 = i32::MIN;

/// An address. Loads and stores assume the alignment of one element unless a larger one is stated.
#[derive(Clone, Copy)]
pub struct Ptr<'k>(pub V<'k>);

impl<'k> Ptr<'k> {
    fn k(self) -> &'k Builder<'k> {
        self.0.k
    }

    /// The address `by` elements of `elem` further on.
    pub fn offset(self, elem: Elem, by: impl Into<Ix<'k>>) -> Ptr<'k> {
        let (k, by) = (self.k(), by.into());
        if by.is(0) {
            return self;
        }
        // A small constant becomes part of the instruction, anything else an operand.
        let (index, operands) = match by {
            Ix::Const(c) if i32::try_from(c).is_ok_and(|c| c != DYNAMIC) => (c as i32, vec![self.0]),
            by => (DYNAMIC, vec![self.0, by.v(k)]),
        };
        let elem = if elem == Elem::I1 { Elem::I8 } else { elem };
        let attrs = [
            ("rawConstantIndices", DenseI32ArrayAttribute::new(k.context(), &[index]).into()),
            ("elem_type", TypeAttribute::new(Ty::new(elem, 1).mlir(k.context())).into()),
        ];
        Ptr(k.op1("llvm.getelementptr", &operands, Ty::PTR, &attrs))
    }

    /// The address `by` bytes further on.
    pub fn bytes(self, by: impl Into<Ix<'k>>) -> Ptr<'k> {
        self.offset(Elem::I8, by)
    }

    /// Loads a value whose address is aligned to `align` bytes.
    pub fn load_aligned(self, ty: Ty, align: u32) -> V<'k> {
        let k = self.k();
        debug_assert_ne!(ty.elem, Elem::I1, "i1 is a byte in memory");
        k.op1("llvm.load", &[self.0], ty, &[("alignment", k.int_attr(64, align as i64))])
    }

    pub fn load(self, ty: Ty) -> V<'k> {
        self.load_aligned(ty, ty.elem.bits() / 8)
    }

    /// Loads a scalar of `ty` and gives it to every lane.
    pub fn load_broadcast(self, ty: Ty) -> V<'k> {
        self.load(Ty::new(ty.elem, 1)).broadcast(ty.lanes)
    }

    /// Loads lane `i` from `i * stride` elements on; the lanes are loaded one by one.
    pub fn load_strided(self, ty: Ty, stride: impl Into<Ix<'k>>) -> V<'k> {
        let (k, stride) = (self.k(), stride.into());
        let scalar = Ty::new(ty.elem, 1);
        let mut vector = k.op1("llvm.mlir.poison", &[], ty, &[]);
        for i in 0..ty.lanes as i64 {
            let lane = self.offset(ty.elem, stride * i).load(scalar);
            vector = k.op1("llvm.insertelement", &[vector, lane, k.int(Ty::I32, i)], ty, &[]);
        }
        vector
    }

    /// Loads the lanes that `mask` selects; the others are zero and their memory is not touched.
    pub fn load_masked(self, ty: Ty, mask: V<'k>) -> V<'k> {
        let k = self.k();
        if ty.lanes == 1 {
            return k.if_else(mask, || vec![self.load(ty)], || vec![k.zero(ty)])[0];
        }
        let align = k.int_attr(32, (ty.elem.bits() / 8) as i64);
        k.op1("llvm.intr.masked.load", &[self.0, mask, k.zero(ty)], ty, &[("alignment", align)])
    }

    pub fn store_aligned(self, value: V<'k>, align: u32) {
        let k = self.k();
        debug_assert_ne!(value.ty.elem, Elem::I1, "i1 is a byte in memory");
        k.op("llvm.store", &[value.raw(), self.0.raw()], &[], &[("alignment", k.int_attr(64, align as i64))]);
    }

    pub fn store(self, value: V<'k>) {
        self.store_aligned(value, value.ty.elem.bits() / 8);
    }

    /// Stores a value that other threads may store at the same time: one of them stays.
    pub fn store_relaxed(self, value: V<'k>) {
        const MONOTONIC: i64 = 2;
        let (k, bytes) = (self.k(), value.ty.elem.bits() / 8);
        let attrs = [("alignment", k.int_attr(64, bytes.into())), ("ordering", k.int_attr(64, MONOTONIC))];
        k.op("llvm.store", &[value.raw(), self.0.raw()], &[], &attrs);
    }

    /// Stores the lanes that `mask` selects.
    pub fn store_masked(self, value: V<'k>, mask: V<'k>) {
        let k = self.k();
        if value.ty.lanes == 1 {
            return k.if_(mask, || self.store(value));
        }
        let align = k.int_attr(32, (value.ty.elem.bits() / 8) as i64);
        k.op("llvm.intr.masked.store", &[value.raw(), self.0.raw(), mask.raw()], &[], &[("alignment", align)]);
    }

    /// Asks for the cache line at the address: `locality` 3 for every cache level, 0 for data used once.
    pub fn prefetch(self, locality: i64) {
        let k = self.k();
        let attrs = [("rw", k.int_attr(32, 0)), ("hint", k.int_attr(32, locality)), ("cache", k.int_attr(32, 1))];
        k.op("llvm.intr.prefetch", &[self.0.raw()], &[], &attrs);
    }
}

impl<'k> V<'k> {
    /// The pointer a value is.
    pub fn ptr(self) -> Ptr<'k> {
        debug_assert_eq!(self.ty, Ty::PTR);
        Ptr(self)
    }
}

impl<'k> Builder<'k> {
    /// The mask of the first `count` of `lanes` lanes.
    pub fn first_lanes(&'k self, lanes: u32, count: impl Into<Ix<'k>>) -> V<'k> {
        let ty = Ty::new(Elem::I32, lanes);
        let count = count.into().v(self).int_to(Elem::I32, true).broadcast(lanes);
        self.iota(ty).cmp(super::Cmp::Lt, count)
    }
}
