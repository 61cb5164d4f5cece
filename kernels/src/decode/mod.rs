//! Attention of a few queries over the valid part of a cache of keys and values: decoding.
//!
//! The query heads that share a key head go through the cache together, so it is read once. On a processor a task is a
//! key head of a sequence. On a GPU the tiles of keys of all heads and sequences are one list, of which each block that
//! runs takes an equal part ([`schedule`]). Sanovar et al., "LeanAttention" (2024).

mod cuda;
mod emit;
pub mod schedule;

use crate::{
    Access, Buffer, Cost, Family,
    abi::{BAD_INDEX_BYTES, ModuleBuilder},
    access::{self, Operand},
    cpu::Cpu,
    cuda::{Grid, Sm},
};
use kiln_ir::{Dim, ElemType, scalar::Literal};

/// `output[b,h,i,e] = sum over t of softmax over t(scale * q[b,h,i,..] . k[b,g,t,..]) * v[b,g,t,e]` for the keys `t` before
/// `lengths[b] - queries + 1 + i`, where key head `g` is `h / (heads / kv_heads)`; 0 where there are none. Arithmetic is in
/// f64 for f64, otherwise in f32. Keys and values from `lengths[b]` on are not read. Those before it that only later
/// queries see have to be finite, or what earlier ones give may be NaN. For a length below 0 or above `keys` the status is
/// 1, on a CPU with a note, and nothing of the sequence is written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    pub batch: Dim,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: Dim,
    pub kv_heads: Dim,
    pub queries: Dim,
    /// Keys that the cache has room for.
    pub keys: Dim,
    /// Depth of queries and keys, a constant.
    pub depth: i64,
    /// Depth of values and results, a constant.
    pub value_depth: i64,
    pub scale: Literal,
    /// On a GPU, the parts that the keys of a head are cut into; none for parts of equal work.
    pub splits: Option<i64>,
    /// Index space `batch, heads, queries, depth`; any float type, the same for `k`, `v` and `output`.
    pub q: Access,
    /// Index space `batch, kv_heads, keys, depth`.
    pub k: Access,
    /// Index space `batch, kv_heads, keys, value_depth`.
    pub v: Access,
    /// Index space `batch`, of i64.
    pub lengths: Access,
    /// Index space `batch, heads, queries, value_depth`; overlaps no input.
    pub output: Access,
}

impl Spec {
    fn operands(&self) -> [Operand<'_>; 5] {
        let space = |heads: &Dim, length: &Dim, depth: i64| {
            [&self.batch, heads, length, &depth.into()].map(Dim::clone).to_vec()
        };
        [
            (&self.q, space(&self.heads, &self.queries, self.depth), false),
            (&self.k, space(&self.kv_heads, &self.keys, self.depth), false),
            (&self.v, space(&self.kv_heads, &self.keys, self.value_depth), false),
            (&self.lengths, vec![self.batch.clone()], false),
            (&self.output, space(&self.heads, &self.queries, self.value_depth), true),
        ]
    }

    fn is_wide(&self) -> bool {
        self.q.elem == ElemType::F64
    }

    /// Queries that share a key head.
    fn rows(&self) -> Dim {
        let group = self.heads.exact_div(&self.kv_heads);
        group.unwrap_or_else(|| panic!("{} heads for {}", self.heads, self.kv_heads)) * self.queries.clone()
    }
}

impl Family for Spec {
    const NAME: &'static str = "decode";

    /// `q`, `k`, `v`, the lengths, the output.
    fn buffers(&self) -> Vec<Buffer> {
        access::buffers(&self.operands())
    }

    fn size_args(&self) -> Vec<Dim> {
        let rows = self.rows();
        let dims = [&self.batch, &self.heads, &self.kv_heads, &self.queries, &self.keys, &rows];
        access::size_args(dims, [&self.q, &self.k, &self.v, &self.lengths, &self.output])
    }

    /// A task is a key head of a sequence.
    fn tasks(&self) -> Dim {
        self.batch.clone() * self.kv_heads.clone()
    }

    fn scratch_bytes(&self) -> Dim {
        emit::Scratch::new(self).row_bytes() * self.rows() + BAD_INDEX_BYTES.into()
    }

    /// As if all keys were valid.
    fn cost(&self) -> Cost {
        let scores = access::product([&self.batch, &self.heads, &self.queries, &self.keys]);
        let flops = scores * (2 * (self.depth + self.value_depth) + 4).into();
        Cost { flops, bytes: access::bytes(&self.operands()) }
    }

    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
        module.kernel(symbol, &self.size_args(), |kernel| Some(emit::Task::new(self, kernel, cpu).run()));
    }

    fn grid(&self, _: Sm) -> Grid {
        cuda::grid(self)
    }

    fn emit_cuda(&self, module: &mut ModuleBuilder<'_>, symbol: &str, _: Sm) {
        cuda::emit(self, module, symbol);
    }
}
