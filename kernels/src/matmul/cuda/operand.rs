//! *A* and *B* of a product as the rows or columns of *C* see them: an outer axis, *M* or *N*, and the depth *K*.

use crate::{
    abi::Kernel,
    build::{Bool, Ix, Ptr},
    cuda::aligned,
    matmul::{Matrix, Rhs, Spec, pack::PANEL},
    scalar::memory,
};
use kiln_ir::ElemType;

/// Along which axis neighbours in memory lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    Depth,
    Outer,
}

impl Layout {
    pub(super) fn of_a(spec: &Spec) -> Option<Layout> {
        match (spec.a.col.is(1), spec.a.row.is(1)) {
            (true, _) => Some(Layout::Depth),
            (_, true) => Some(Layout::Outer),
            _ => None,
        }
    }

    pub(super) fn of_b(spec: &Spec) -> Option<Layout> {
        match &spec.b {
            Rhs::Packed(_) => Some(Layout::Outer),
            Rhs::Strided(b) if b.col.is(1) => Some(Layout::Outer),
            Rhs::Strided(b) if b.row.is(1) => Some(Layout::Depth),
            Rhs::Strided(_) => None,
        }
    }
}

/// One of the two in one of the matrices of the batch.
pub(super) struct Operand<'k> {
    base: Ptr<'k>,
    pub(super) elem: ElemType,
    /// Elements along the outer axis and along the depth.
    pub(super) outer: Ix<'k>,
    pub(super) depth: Ix<'k>,
    outer_stride: Ix<'k>,
    depth_stride: Ix<'k>,
    /// Whether the outer axis is cut into panels.
    panels: bool,
    /// Of the outer axis if neighbours lie along none.
    pub(super) layout: Layout,
    contiguous: bool,
}

impl<'k> Operand<'k> {
    pub(super) fn a(spec: &Spec, kernel: &Kernel<'k>, batch: &[Ix<'k>]) -> Operand<'k> {
        let layout = Layout::of_a(spec);
        Operand {
            base: matrix(kernel, 0, &spec.a, batch),
            elem: spec.a.elem,
            outer: kernel.size(&spec.m),
            depth: kernel.size(&spec.k),
            outer_stride: kernel.size(&spec.a.row),
            depth_stride: kernel.size(&spec.a.col),
            panels: false,
            layout: layout.unwrap_or(Layout::Outer),
            contiguous: layout.is_some(),
        }
    }

    pub(super) fn b(spec: &Spec, kernel: &Kernel<'k>, batch: &[Ix<'k>]) -> Operand<'k> {
        let (outer, depth) = (kernel.size(&spec.n), kernel.size(&spec.k));
        let layout = Layout::of_b(spec);
        let (layout, contiguous) = (layout.unwrap_or(Layout::Outer), layout.is_some());
        match &spec.b {
            Rhs::Packed(elem) => Operand {
                base: kernel.buffer(1),
                elem: *elem,
                outer,
                depth,
                outer_stride: 1.into(),
                depth_stride: PANEL.into(),
                panels: true,
                layout,
                contiguous,
            },
            Rhs::Strided(b) => Operand {
                base: matrix(kernel, 1, b, batch),
                elem: b.elem,
                outer,
                depth,
                outer_stride: kernel.size(&b.col),
                depth_stride: kernel.size(&b.row),
                panels: false,
                layout,
                contiguous,
            },
        }
    }

    /// The address of an element.
    pub(super) fn at(&self, outer: Ix<'k>, depth: Ix<'k>) -> Ptr<'k> {
        let across = match self.panels {
            true => outer.div(PANEL) * PANEL * self.depth + outer.rem(PANEL),
            false => outer * self.outer_stride,
        };
        self.base.offset(memory(self.elem), across + depth * self.depth_stride)
    }

    /// Whether neighbours from whole vectors of `bytes` bytes on, a power of two, can be moved at once.
    pub(super) fn is_aligned(&self, bytes: i64) -> Bool<'k> {
        if !self.contiguous || self.panels {
            return Bool::Const(self.contiguous);
        }
        let far = if self.layout == Layout::Depth { self.outer_stride } else { self.depth_stride };
        aligned(&[self.base], &[far * self.elem.bytes() as i64], bytes)
    }

    /// How many of `count` neighbours from an element on there are.
    pub(super) fn left(&self, outer: Ix<'k>, depth: Ix<'k>, count: i64) -> Ix<'k> {
        let (along, end, other, bound) = match self.layout {
            Layout::Depth => (depth, self.depth, outer, self.outer),
            Layout::Outer => (outer, self.outer, depth, self.depth),
        };
        // What fills up a panel is there too.
        let end = if self.panels { end.ceil_div(PANEL) * PANEL } else { end };
        other.lt(bound).choose((end - along).min(count).max(0), 0)
    }
}

/// The matrix of a batch in buffer `buffer`.
pub(super) fn matrix<'k>(kernel: &Kernel<'k>, buffer: usize, matrix: &Matrix, batch: &[Ix<'k>]) -> Ptr<'k> {
    let offset = batch.iter().zip(&matrix.batch).fold(Ix::Const(0), |sum, (i, d)| sum + *i * kernel.size(d));
    kernel.buffer(buffer).offset(memory(matrix.elem), offset)
}
