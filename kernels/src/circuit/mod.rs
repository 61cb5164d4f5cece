//! Queries of probabilistic circuits, by walking tables ([`table`]) for a block of rows at a time.
//!
//! Values are plain numbers under constant scales where the plan has found that to do, so a sum is one multiplication
//! and one fused multiply-add a term; a row that leaves the range is done again in logarithms. Every row is computed in
//! one order of operations, alone or in a block, so results do not depend on the number of rows.

//mod active;
mod emit;
mod leaves;
mod runs;
pub mod table;
mod walk;

use crate::{
    Access, Buffer, Cost, Family,
    abi::ModuleBuilder,
    access::{self, Operand},
    cpu::Cpu,
};
use kiln_ir::{Dim, ElemType};
use table::{RUN_FIELDS, Shape, VARIABLE_FIELDS};

/// What is asked, with the outputs in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Query {
    /// `ln P(given cells)`, `[rows]`. With `incomplete`, of rows with a missing cell only; others are not written.
    Evidence { output: Access, incomplete: bool },
    /// `ln P` of the rows without a missing cell, `[rows]`; others are not written. The circuit is deterministic, its
    /// inputs are indicators, its numbers logarithms, and no two of its nodes share a slot.
    Complete { output: Access },
}

impl Query {
    fn outputs(&self) -> Vec<&Access> {
        match self {
            Query::Evidence { output, .. } | Query::Complete { output } => vec![output],
        }
    }
}

/// A query of the rows of `x`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    pub rows: Dim,
    /// `[rows, variables]`: f32, f64 or integers.
    pub x: Access,
    /// `[rows, variables]` of i1: whether a cell is given. A NaN is missing too.
    pub mask: Option<Access>,
    pub shape: Shape,
    pub query: Query,
}

/// Rows of one task of the active trees.
const COMPLETE_ROWS: i64 = 256;

impl Spec {
    fn cells(&self) -> Vec<Operand<'_>> {
        let space = || vec![self.rows.clone(), self.shape.variables.into()];
        let x = [(&self.x, space(), false)].into_iter();
        x.chain(self.mask.as_ref().map(|mask| (mask, space(), false))).collect()
    }

    /// Buffers of cells: `x` and perhaps the mask.
    fn first_table(&self) -> usize {
        1 + usize::from(self.mask.is_some())
    }

    fn task_rows(&self) -> i64 {
        match self.query {
            Query::Evidence { .. } => self.shape.block,
            Query::Complete { .. } => COMPLETE_ROWS,
        }
    }
}

impl Family for Spec {
    const NAME: &'static str = "circuit";

    /// `x`, the mask if there is one, the tables (runs, index, number, variables, breaks), the outputs.
    fn buffers(&self) -> Vec<Buffer> {
        let s = &self.shape;
        let table = |elem, elements: i64| Buffer { elem, elements: elements.into(), written: false };
        let mut buffers = access::buffers(&self.cells());
        buffers.extend([
            table(ElemType::U32, s.runs * RUN_FIELDS),
            table(s.index, s.indices),
            table(s.value, s.numbers),
            table(ElemType::U32, s.variables * VARIABLE_FIELDS),
            table(ElemType::F64, s.breaks),
        ]);
        let outputs: Vec<Operand<'_>> =
            self.query.outputs().into_iter().map(|o| (o, vec![self.rows.clone()], true)).collect();
        buffers.extend(access::buffers(&outputs));
        buffers
    }

    fn size_args(&self) -> Vec<Dim> {
        let accesses = [&self.x].into_iter().chain(&self.mask).chain(self.query.outputs());
        access::size_args([&self.rows], accesses)
    }

    fn tasks(&self) -> Dim {
        self.rows.ceil_div(&self.task_rows().into())
    }

    fn scratch_bytes(&self) -> Dim {
        match self.query {
            Query::Evidence { .. } => emit::scratch(&self.shape).bytes.into(),
            Query::Complete { .. } => 0.into(),
        }
    }

    /// Of the tables, all are read once a block.
    fn cost(&self) -> Cost {
        let s = &self.shape;
        let tables = (s.indices * s.index.bytes() as i64 + s.numbers * s.value.bytes() as i64).into();
        Cost {
            flops: self.rows.clone() * (s.numbers * 2 + s.indices).into(),
            bytes: access::bytes(&self.cells()) + tables,
        }
    }

    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
        module.kernel(symbol, &self.size_args(), |kernel| {
            match &self.query {
                Query::Evidence { output, incomplete } => emit::evidence(self, kernel, cpu, output, *incomplete),
                Query::Complete { output } => {}
            }
            None
        });
    }
}
