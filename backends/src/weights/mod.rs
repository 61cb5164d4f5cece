//! Weights: what the artifact stores of a model's parameters, described by reference and written as a stream.
//!
//! A [`Source`] is a tensor known at compile time: a parameter in a file, a constant, or an expression of other sources.
//! A [`Part`] is a strided view of one. An [`Item`] is a tensor of the artifact. All three are interned by structure, so
//! that entries and targets share what is equal; nothing is read before it is written, a block at a time.

mod element;
mod params;
mod read;

pub use element::{decode, encode};
pub use params::{Params, WeightError};
pub use read::Reader;

use crate::plan::layout::Layout;
use kiln_ir::{ElemType, Param, Value, scalar::Expr};
use std::{collections::HashMap, hash::Hash};

/// A tensor known at compile time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SourceId(pub u32);

/// A tensor of the artifact.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ItemId(pub u32);

/// Its elements are row-major.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Source {
    pub elem: ElemType,
    pub dims: Vec<i64>,
    pub data: Data,
}

/// Where the elements of a [`Source`] come from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Data {
    /// A parameter; of several that stand for one tensor of a file, the first.
    Param(Param),
    /// The bytes themselves.
    Inline(Vec<u8>),
    Concat {
        axis: usize,
        parts: Vec<Part>,
    },
    /// What the interpreter makes of a value that depends on parameters and constants only.
    Evaluated(Value),
    /// Element by element from inputs of the same sizes.
    Map {
        inputs: Vec<Part>,
        expr: Expr,
    },
}

/// A strided view of a source: element `(i0, ..)` is element `offset + sum(i_d * strides[d])` of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Part {
    pub source: SourceId,
    pub dims: Vec<i64>,
    pub strides: Vec<i64>,
    pub offset: i64,
}

impl Part {
    /// `None` when the layout has symbolic sizes.
    pub fn new(source: SourceId, layout: &Layout) -> Option<Part> {
        let all = |list: &[kiln_ir::Dim]| list.iter().map(kiln_ir::Dim::as_const).collect::<Option<Vec<i64>>>();
        let (dims, strides) = (all(&layout.dims)?, all(&layout.strides)?);
        Some(Part { source, dims, strides, offset: layout.offset.as_const()? })
    }

    pub fn elements(&self) -> i64 {
        self.dims.iter().product()
    }
}

/// What a tensor of the artifact holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Item {
    /// All of a source, row-major.
    Plain(SourceId),
    /// A matrix `[K, gates * H]` in the panels of the matmul kernels (one gate) or of the recurrent cells, stored as
    /// `elem`: `[ceil(H / 16)][K][gates][16]`.
    Packed { matrix: Part, gates: i64, elem: ElemType },
}

/// Everything that a plan refers to.
#[derive(Default)]
pub struct Weights {
    sources: Interner<Source>,
    items: Interner<Item>,
}

impl Weights {
    pub fn source(&mut self, source: Source) -> SourceId {
        SourceId(self.sources.intern(source))
    }

    pub fn item(&mut self, item: Item) -> ItemId {
        ItemId(self.items.intern(item))
    }

    pub fn get(&self, id: SourceId) -> &Source {
        &self.sources.list[id.0 as usize]
    }

    /// All sources; those that one is made of come before it.
    pub fn sources(&self) -> impl Iterator<Item = (SourceId, &Source)> {
        self.sources.list.iter().enumerate().map(|(n, s)| (SourceId(n as u32), s))
    }

    /// The items in the order in which they are written.
    pub fn items(&self) -> &[Item] {
        &self.items.list
    }
}

struct Interner<T> {
    list: Vec<T>,
    known: HashMap<T, u32>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Interner { list: vec![], known: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    fn intern(&mut self, value: T) -> u32 {
        let next = self.list.len() as u32;
        *self.known.entry(value).or_insert_with_key(|value| {
            self.list.push(value.clone());
            next
        })
    }
}
