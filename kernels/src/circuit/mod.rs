//! Queries of probabilistic circuits, by walking tables ([`table`]) for a block of rows at a time, or by straight-line code
//! where a circuit is small.
//!
//! Values are plain numbers under constant scales where the plan has found that to do, so a sum is one multiplication
//! and one fused multiply-add a term; a row that leaves the range is done again in logarithms. Every row is computed in
//! one order of operations, alone or in a block, so results do not depend on the number of rows.

mod active;
mod cuda;
mod emit;
mod leaves;
mod runs;
pub mod table;
mod trace;
mod walk;

use crate::{
    Access, Buffer, Cost, Family, Level,
    abi::ModuleBuilder,
    access::{self, Operand},
    cpu::Cpu,
    cuda::{Grid, Sm},
};
use kiln_ir::{Dim, ElemType};
use table::{Listing, RUN_FIELDS, Shape, VARIABLE_FIELDS};

/// What is asked, with the outputs in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Query {
    /// `ln P(given cells)`, `[rows]`. With `incomplete`, of rows with a missing cell only; others are not written.
    Evidence { output: Access, incomplete: bool },
    /// `ln P` of the rows without a missing cell, `[rows]`; others are not written. The circuit is deterministic, its
    /// inputs are indicators, its numbers logarithms, and no two of its nodes share a slot.
    ///
    /// On GPUs, behind the positions of a run of sums or pairs stands the batch of each of them, of so many that there are
    /// `places` for; without places complete rows are left to the other kernel.
    Complete { output: Access, places: i64 },
    /// The rows completed to the most probable ones, of the type of `x`, and their log-values. This and the following
    /// want numbers in logarithms, no shared slots and inputs without a table; behind the positions of a
    /// run of sums or pairs stands the smallest variable below each of them.
    Mpe { states: Access, value: Access },
    /// The rows completed by draws, of the type of `x`; `seed` is i64.
    Sample { seed: Access, states: Access },
    /// The distributions of all variables given the other cells, `[rows, variables, values]`.
    Marginals { values: i64, output: Access },
    /// The rows with expected values for missing cells.
    Expectation { output: Access },
}

/// Which targets a launch is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum On {
    All,
    Cpu,
    Gpu,
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
    /// What the tables say, where the code is to be made for it.
    pub listing: Option<Listing>,
    pub query: Query,
    pub on: On,
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
        1 + usize::from(self.mask.is_some()) + usize::from(self.seed().is_some())
    }

    fn seed(&self) -> Option<&Access> {
        if let Query::Sample { seed, .. } = &self.query { Some(seed) } else { None }
    }

    /// The outputs with their index spaces.
    fn results(&self) -> Vec<Operand<'_>> {
        let row = [self.rows.clone(), self.shape.variables.into()];
        let space = |output: &Access| match (&self.query, output.rank()) {
            (Query::Marginals { values, .. }, 3) => [&row[..], &[(*values).into()]].concat(),
            (_, rank) => row[..rank.min(2)].to_vec(),
        };
        self.query.outputs().into_iter().map(|o| (o, space(o), true)).collect()
    }

    fn task_rows(&self) -> i64 {
        match self.query {
            Query::Evidence { .. } => self.shape.block,
            Query::Complete { .. } => COMPLETE_ROWS,
            _ => 1,
        }
    }
}

impl Family for Spec {
    const NAME: &'static str = "circuit";

    /// `x`, the mask and the seeds if there are any, the tables (runs, index, number, variables, breaks), the outputs.
    fn buffers(&self) -> Vec<Buffer> {
        let s = &self.shape;
        let table = |elem, elements: i64| Buffer { elem, elements: elements.into(), written: false };
        let mut buffers = access::buffers(&self.cells());
        if let Some(seed) = self.seed() {
            buffers.extend(access::buffers(&[(seed, vec![self.rows.clone()], false)]));
        }
        buffers.extend([
            table(ElemType::U32, s.runs * RUN_FIELDS),
            table(s.index, s.indices),
            table(s.value, s.numbers),
            table(ElemType::U32, s.variables * VARIABLE_FIELDS),
            table(ElemType::F64, s.breaks),
        ]);
        buffers.extend(access::buffers(&self.results()));
        buffers
    }

    fn size_args(&self) -> Vec<Dim> {
        let accesses = [&self.x].into_iter().chain(&self.mask).chain(self.seed()).chain(self.query.outputs());
        access::size_args([&self.rows], accesses)
    }

    fn tasks(&self) -> Dim {
        self.rows.ceil_div(&self.task_rows().into())
    }

    fn scratch_bytes(&self) -> Dim {
        match self.query {
            Query::Evidence { .. } => emit::scratch(&self.shape).bytes.into(),
            Query::Complete { .. } => active::bytes(&self.shape).into(),
            Query::Marginals { values, .. } => trace::bytes(self, values).into(),
            _ => trace::bytes(self, 3).into(),
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
                Query::Complete { output, .. } => active::complete(self, kernel, cpu, output),
                _ => trace::trace(self, kernel, cpu),
            }
            None
        });
    }

    fn serves(&self, level: Level) -> bool {
        match self.on {
            On::All => true,
            On::Cpu => matches!(level, Level::Cpu(_)),
            On::Gpu => matches!(level, Level::Cuda(_)),
        }
    }

    fn grid(&self, _: Sm) -> Grid {
        cuda::grid(self, false)
    }

    fn block_grid(&self, _: Sm) -> Grid {
        cuda::grid(self, true)
    }

    fn emit_cuda(&self, module: &mut ModuleBuilder<'_>, symbol: &str, _: Sm) {
        cuda::emit(self, module, symbol);
    }
}
