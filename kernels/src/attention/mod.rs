//! Softmax attention by online softmax: scores are never stored beyond one tile.
//!
//! The lanes of vectors are queries: scores are computed transposed, so that maxima, sums and rescaling need nothing
//! across lanes, keys and values are read by broadcasts, and only queries and results are transposed. Dao,
//! "FlashAttention-2" (2023); Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018).

mod blocks;
mod cuda;
mod emit;
mod tile;

use crate::{
    Access, Buffer, Cost, Family,
    abi::ModuleBuilder,
    access::{self, Operand},
    cpu::Cpu,
    cuda::{Grid, Sm},
};
use blocks::QUERIES;
use kiln_ir::{Dim, ElemType, scalar::Literal};

/// `output[b,h,s,e] = sum over t of softmax over t(scale * q[b,h,s,..] . k[b,g,t,..] + mask[b,h,s,t]) * v[b,g,t,e]`,
/// where key head `g` is `h / (heads / kv_heads)`. Arithmetic is in f64 for f64, otherwise in f32.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    pub batch: Dim,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: Dim,
    pub kv_heads: Dim,
    pub queries: Dim,
    pub keys: Dim,
    /// Depth of queries and keys, a constant.
    pub depth: i64,
    /// Depth of values and results, a constant.
    pub value_depth: i64,
    pub scale: Literal,
    /// Query `s` sees the keys up to `s + keys - queries` only.
    pub causal: bool,
    /// Index space `batch, heads, queries, depth`; any float type, the same for `k`, `v` and `output`.
    pub q: Access,
    /// Index space `batch, kv_heads, keys, depth`.
    pub k: Access,
    /// Index space `batch, kv_heads, keys, value_depth`.
    pub v: Access,
    /// Index space `batch, heads, queries, keys`; a float is added to the scaled score, a false `i1` takes the key out.
    pub mask: Option<Access>,
    /// Index space `batch, heads, queries, value_depth`; overlaps no input. A query that sees no key gives 0.
    pub output: Access,
}

impl Spec {
    fn accesses(&self) -> impl Iterator<Item = &Access> {
        [&self.q, &self.k, &self.v].into_iter().chain(&self.mask).chain([&self.output])
    }

    fn is_wide(&self) -> bool {
        self.accesses().any(|a| a.elem == ElemType::F64)
    }

    fn mask_varies_over_queries(&self) -> bool {
        self.mask.as_ref().is_some_and(|m| !m.strides[2].is(0))
    }

    fn operands(&self) -> Vec<Operand<'_>> {
        let space =
            |heads: &Dim, length: &Dim, depth: &Dim| [&self.batch, heads, length, depth].map(Dim::clone).to_vec();
        let (depth, value_depth) = (self.depth.into(), self.value_depth.into());
        let mut operands = vec![
            (&self.q, space(&self.heads, &self.queries, &depth), false),
            (&self.k, space(&self.kv_heads, &self.keys, &depth), false),
            (&self.v, space(&self.kv_heads, &self.keys, &value_depth), false),
        ];
        operands.extend(self.mask.iter().map(|m| (m, space(&self.heads, &self.queries, &self.keys), false)));
        operands.push((&self.output, space(&self.heads, &self.queries, &value_depth), true));
        operands
    }

    fn query_heads_per_key_head(&self) -> Option<i64> {
        self.heads.exact_div(&self.kv_heads)?.as_const()
    }
}

impl Family for Spec {
    const NAME: &'static str = "attention";

    /// `q`, `k`, `v`, the mask if there is one, the output.
    fn buffers(&self) -> Vec<Buffer> {
        access::buffers(&self.operands())
    }

    fn size_args(&self) -> Vec<Dim> {
        let dims = [&self.batch, &self.heads, &self.kv_heads, &self.queries, &self.keys];
        access::size_args(dims, self.accesses())
    }

    /// A task is a run of queries of one head.
    fn tasks(&self) -> Dim {
        self.batch.clone() * self.heads.clone() * self.queries.ceil_div(&QUERIES.into())
    }

    fn scratch_bytes(&self) -> Dim {
        blocks::Scratch::new(self).bytes.into()
    }

    fn cost(&self) -> Cost {
        let scores = access::product([&self.batch, &self.heads, &self.queries, &self.keys]);
        let flops = scores * (2 * (self.depth + self.value_depth) + 4).into();
        Cost { flops, bytes: access::bytes(&self.operands()) }
    }

    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
        module.kernel(symbol, &self.size_args(), |kernel| {
            emit::Task::new(self, kernel, cpu).run();
            None
        });
    }

    fn grid(&self, sm: Sm) -> Grid {
        cuda::grid(self, sm)
    }

    fn emit_cuda(&self, module: &mut ModuleBuilder<'_>, symbol: &str, sm: Sm) {
        cuda::emit(self, sm, module, symbol);
    }
}
