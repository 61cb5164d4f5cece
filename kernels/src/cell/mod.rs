//! One step of a recurrent cell for a batch of rows: the product of the state with the recurrent weight, and what the
//! gates make of it.
//!
//! With `[i, f, g, o] = gx + h . w` an LSTM gives `c' = sigmoid(f) c + sigmoid(i) tanh(g)`, `h' = sigmoid(o) tanh(c')`.
//! With `[xr, xz, xn] = gx` and `[hr, hz, hn] = h . w + bias` a GRU gives, for `r = sigmoid(xr + hr)`,
//! `z = sigmoid(xz + hz)` and `n = tanh(xn + r hn)`, the state `(1 - z) n + z h`.
//!
//! The weight is packed at compile time as `[ceil(H / 16)][H][gates][16]`, hidden units beyond the last filled up with
//! zeros ([`crate::matmul::pack`] with gates side by side): a vector of units has all of its gates in registers, and one
//! row reads the weight once, in order. Sums are in f32 (f64 if the state is f64), each over *H* in order from 0 on, so
//! that a row's result depends on that row alone. In units in the last place of the result, against the same formulas
//! with exact functions of the same sums, `h'` and `c'` are within 4 plus what the sum of their two terms cancels.
//!
//! At the start of a sequence, where the state is all zeros, there is a kernel without the product.
//!
//! A task is 16 hidden units of up to [`ROWS`] rows. `c'` may lie on `c`; `h'` lies on nothing that is read.

mod cuda;
mod emit;

use crate::{
    Access, Buffer, Cost, Family,
    abi::ModuleBuilder,
    access::{self, Operand},
    build::V,
    cpu::Cpu,
    cuda::{Grid, Sm},
    matmul::pack::PANEL,
    scalar::functions,
};
use kiln_ir::{Dim, ElemType};

/// What the gates do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Cell {
    /// The cell's own state, and the place of the next one: of rank 2, `[rows, hidden]`.
    Lstm { c: Access, next: Access },
    /// The bias of the recurrent product, of rank 1.
    Gru { bias: Option<Access> },
}

/// Along hidden units and gates all strides are 1.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    pub cell: Cell,
    pub rows: Dim,
    /// Hidden units.
    pub hidden: i64,
    /// The element type of the packed weight, which is aligned to 64 bytes.
    pub weight: ElemType,
    /// Whether `h` is all zeros, so that the sums are zeros whatever the weight holds.
    pub starts: bool,
    /// The input's part of the gates, `[rows, gates * hidden]`.
    pub gx: Access,
    /// The state, `[rows, hidden]`.
    pub h: Access,
    /// The next state, `[rows, hidden]`.
    pub output: Access,
}

/// The most rows of a task.
pub const ROWS: i64 = 48;

impl Cell {
    /// Gates of a hidden unit.
    pub fn gates(&self) -> i64 {
        match self {
            Cell::Lstm { .. } => 4,
            Cell::Gru { .. } => 3,
        }
    }
}

impl Spec {
    /// The type sums are in.
    pub fn sum_elem(&self) -> ElemType {
        if self.h.elem == ElemType::F64 { ElemType::F64 } else { ElemType::F32 }
    }

    fn blocks(&self) -> i64 {
        (self.hidden + PANEL - 1) / PANEL
    }

    /// What is read and written, but for the weight: `gx, h, c, bias, h', c'`.
    fn operands(&self) -> Vec<Operand<'_>> {
        let state = || vec![self.rows.clone(), self.hidden.into()];
        let wide = Dim::from(self.cell.gates() * self.hidden);
        let mut list = vec![(&self.gx, vec![self.rows.clone(), wide.clone()], false), (&self.h, state(), false)];
        match &self.cell {
            Cell::Lstm { c, next } => {
                list.extend([(c, state(), false), (&self.output, state(), true), (next, state(), true)]);
            }
            Cell::Gru { bias } => {
                list.extend(bias.as_ref().map(|b| (b, vec![wide], false)));
                list.push((&self.output, state(), true));
            }
        }
        list
    }

    fn weight_elements(&self) -> i64 {
        self.blocks() * self.hidden * self.cell.gates() * PANEL
    }
}

/// The place of the packed weight among the buffers.
const WEIGHT: usize = 2;

impl Family for Spec {
    const NAME: &'static str = "cell";

    /// `gx`, `h`, the weight, `c` or the bias if there is one; the next `h`, the next `c`.
    fn buffers(&self) -> Vec<Buffer> {
        let mut buffers = access::buffers(&self.operands());
        let weight = Buffer { elem: self.weight, elements: self.weight_elements().into(), written: false };
        buffers.insert(WEIGHT, weight);
        buffers
    }

    fn size_args(&self) -> Vec<Dim> {
        access::size_args([&self.rows], self.operands().into_iter().map(|(access, ..)| access))
    }

    fn tasks(&self) -> Dim {
        self.rows.ceil_div(&ROWS.into()) * self.blocks().into()
    }

    /// The sums of a tile of rows.
    fn scratch_bytes(&self) -> Dim {
        (emit::TALLEST * self.cell.gates() * PANEL * self.sum_elem().bytes() as i64).into()
    }

    fn cost(&self) -> Cost {
        let units = self.rows.clone() * self.hidden.into();
        let (products, weight) = match self.starts {
            true => (0, 0),
            false => (2 * self.cell.gates() * self.hidden, self.weight_elements() * self.weight.bytes() as i64),
        };
        Cost { flops: units * (products + 30).into(), bytes: access::bytes(&self.operands()) + weight.into() }
    }

    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
        module.kernel(symbol, &self.size_args(), |kernel| {
            emit::Emitter::new(self, kernel, cpu).tasks();
            None
        });
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

/// The next `h` and `c` of an LSTM from `[i, f, g, o]` and `c`.
fn lstm<'k>([i, f, g, o]: [V<'k>; 4], c: V<'k>) -> [V<'k>; 2] {
    let [new, of] = functions::tanh_fraction(g);
    let kept = c / functions::sigmoid_denominator(f);
    let c = kept + new / (of * functions::sigmoid_denominator(i));
    let [new, of] = functions::tanh_fraction(c);
    [new / (of * functions::sigmoid_denominator(o)), c]
}

/// The next state of a GRU from `[xr, xz, xn]`, `[hr, hz, hn]` and the state.
fn gru<'k>([xr, xz, xn]: [V<'k>; 3], [hr, hz, hn]: [V<'k>; 3], h: V<'k>) -> V<'k> {
    let reset = hn / functions::sigmoid_denominator(hr + xr);
    let [new, of] = functions::tanh_fraction(xn + reset);
    let n = new / of;
    n + (h - n) / functions::sigmoid_denominator(hz + xz)
}
