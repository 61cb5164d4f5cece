//! Attention on GPUs: a block has some queries of a head and goes through the keys with running maxima and sums. Dao,
//! "FlashAttention-2" (2023).

mod fma;
mod hopper;
mod tensor;

use super::Spec;
use crate::{
    Access, Family,
    abi::{Kernel, ModuleBuilder},
    build::{Bool, Cmp, Ix, K, Ptr, Ty, V},
    cpu::{Converts, ONE_LANE},
    cuda::{
        Grid, Sm, aligned,
        block::{Block, CHUNK, CHUNK_BYTES},
    },
    scalar,
};
use kiln_ir::{ElemType, types::Kind};

/// Queries of a block, and keys of a step.
const QUERIES: i64 = 64;
const KEYS: i64 = 64;
const TILE: Tile = Tile { queries: QUERIES, keys: KEYS };

#[derive(Clone, Copy)]
struct Tile {
    queries: i64,
    keys: i64,
}

/// Lanes that have a row of sums of tensor cores, and the columns of which each of them has two neighbours.
const QUAD: i64 = 4;
const COLUMNS: i64 = 8;

/// Exponentials are powers of two.
const LOG2_E: f64 = std::f64::consts::LOG2_E;

enum Way {
    /// A task a thread, as on a processor with one lane.
    Plain,
    Fma,
    Tensor,
    Hopper,
}

impl Way {
    fn of(spec: &Spec, sm: Sm) -> Way {
        match () {
            () if sm == Sm::Sm90a && hopper::serves(spec) => Way::Hopper,
            () if tensor::serves(spec) => Way::Tensor,
            () if fma::serves(spec) => Way::Fma,
            () => Way::Plain,
        }
    }
}

pub(super) fn grid(spec: &Spec, sm: Sm) -> Grid {
    let tasks = |queries: i64| spec.batch.clone() * spec.heads.clone() * spec.queries.ceil_div(&queries.into());
    let threads = match Way::of(spec, sm) {
        Way::Hopper => return hopper::grid(spec, tasks(hopper::TILE.queries)),
        Way::Plain => return Grid::plain(spec),
        Way::Fma => fma::THREADS,
        Way::Tensor => tensor::THREADS,
    };
    Grid::new(tasks(QUERIES), threads as u32, 1)
}

pub(super) fn emit(spec: &Spec, sm: Sm, module: &mut ModuleBuilder<'_>, symbol: &str) {
    match Way::of(spec, sm) {
        Way::Plain => spec.emit(module, symbol, &ONE_LANE),
        Way::Fma => fma::emit(spec, module, symbol),
        Way::Tensor => tensor::emit(spec, module, symbol),
        Way::Hopper => hopper::emit(spec, module, symbol),
    }
}

/// The matrix of a head in a buffer.
#[derive(Clone, Copy)]
struct Head<'k> {
    base: Ptr<'k>,
    row: Ix<'k>,
    column: Ix<'k>,
    access: scalar::Access,
}

impl<'k> Head<'k> {
    fn at(&self, row: Ix<'k>, column: Ix<'k>) -> Ptr<'k> {
        self.base.offset(self.access.memory().elem, row * self.row + column * self.column)
    }
}

/// What a block has to do: queries from `first` on of a head, and what belongs to them.
struct Place<'s, 'k> {
    spec: &'s Spec,
    k: K<'k>,
    block: Block<'k>,
    tile: Tile,
    /// What scores are multiplied by within the exponentials, where that is not done before.
    late: Option<V<'k>>,
    batch: Ix<'k>,
    head: Ix<'k>,
    kv_head: Ix<'k>,
    first: Ix<'k>,
    /// The numbers of queries and keys.
    queries: Ix<'k>,
    keys: Ix<'k>,
    q: Head<'k>,
    key: Head<'k>,
    value: Head<'k>,
    mask: Option<Head<'k>>,
    output: Head<'k>,
}

impl<'s, 'k> Place<'s, 'k> {
    fn new(spec: &'s Spec, kernel: &Kernel<'k>, block: Block<'k>, task: Ix<'k>, tile: Tile) -> Place<'s, 'k> {
        let [heads, kv_heads, queries, keys] =
            [&spec.heads, &spec.kv_heads, &spec.queries, &spec.keys].map(|d| kernel.size(d));
        let (parts, all) = (queries.ceil_div(tile.queries), kernel.size(&spec.batch) * heads);
        // Under a causal mask the last queries see the most keys: they come first in all heads, so that what is left for the
        // end is short. Otherwise blocks that run at once share keys.
        let (part, of) = match spec.causal {
            true => (parts - 1 - task.div(all), task.rem(all)),
            false => (task.rem(parts), task.div(parts)),
        };
        let (batch, h) = (of.div(heads), of.rem(heads));
        let group = h.div(heads.div(kv_heads));
        let head = |buffer: usize, access: &Access, h: Ix<'k>| {
            let stride = |axis: usize| kernel.size(&access.strides[axis]);
            let offset = kernel.size(&access.offset) + batch * stride(0) + h * stride(1);
            Head {
                base: kernel.buffer(buffer).offset(scalar::memory(access.elem), offset),
                row: stride(2),
                column: stride(3),
                access: scalar::Access { elem: access.elem, lanes: 1, converts: Converts::F16AndBf16 },
            }
        };
        let mask = spec.mask.as_ref().map(|access| head(3, access, h));
        let output = head(3 + usize::from(mask.is_some()), &spec.output, h);
        Place {
            spec,
            k: kernel.k,
            block,
            tile,
            late: None,
            batch,
            head: h,
            kv_head: group,
            first: part * tile.queries,
            queries,
            keys,
            q: head(0, &spec.q, h),
            key: head(1, &spec.k, group),
            value: head(2, &spec.v, group),
            mask,
            output,
        }
    }

    /// How many keys more than its own number a query sees under a causal mask, but for itself.
    fn ahead(&self) -> Ix<'k> {
        self.keys - self.queries
    }

    /// Runs of keys that any query of the block sees.
    fn steps(&self) -> Ix<'k> {
        let end = match self.spec.causal {
            true => (self.first + self.tile.queries + self.ahead()).min(self.keys).max(0),
            false => self.keys,
        };
        end.ceil_div(self.tile.keys)
    }

    /// What makes scores exponents of two.
    fn scale(&self) -> V<'k> {
        self.k.float(Ty::F32, self.spec.scale.as_f64() * LOG2_E)
    }

    /// Has scores be scaled within the exponentials, which saves a multiplication. They are compared before that, and masks
    /// are not scaled: so only without one, and not by a negative number.
    fn scale_late(&mut self) {
        if self.mask.is_none() && self.spec.scale.as_f64() > 0.0 {
            self.late = Some(self.scale());
        }
    }

    /// Scores as exponents of two unless that comes [late](Place::scale_late), minus infinity where a query does not see the key, for the keys from `first` on;
    /// `place(i)` is the query and the key of score `i`.
    fn seen(&self, first: Ix<'k>, scores: &[V<'k>], place: impl Fn(i64) -> (Ix<'k>, Ix<'k>)) -> Vec<V<'k>> {
        let (k, count) = (self.k, self.tile.keys);
        let scaled: Vec<V> = match self.late {
            Some(_) => scores.to_vec(),
            None => scores.iter().map(|s| *s * self.scale()).collect(),
        };
        let all = (first + count).le(self.keys);
        let all = match (self.spec.causal, &self.mask) {
            (_, Some(_)) => Bool::Const(false),
            (true, None) => all.and((first + count).le(self.first + self.ahead() + 1)),
            (false, None) => all,
        };
        let some = || scaled.iter().enumerate().map(|(i, score)| self.seen_one(place(i as i64), *score)).collect();
        k.if_else(all, || scaled.clone(), some)
    }

    fn seen_one(&self, (query, key): (Ix<'k>, Ix<'k>), score: V<'k>) -> V<'k> {
        let k = self.k;
        let never = || vec![score.like(f64::NEG_INFINITY)];
        let mut sees = key.lt(self.keys);
        if self.spec.causal {
            sees = sees.and(key.le(query + self.ahead()));
        }
        let Some(mask) = &self.mask else {
            return sees.v(k).select(score, never()[0]);
        };
        let masked = || {
            let value = mask.access.load(mask.at(query, key));
            vec![match mask.access.elem.kind() {
                Kind::Bool => value.select(score, never()[0]),
                _ => value.fma(score.like(LOG2_E), score),
            }]
        };
        k.if_else(sees.and(query.lt(self.queries)), masked, never)[0]
    }

    /// `2^x`, to about two units in the last place, and 0 below the normal numbers.
    fn power(&self, x: V<'k>) -> V<'k> {
        self.k.call_intrinsic("llvm.nvvm.ex2.approx.ftz", &[x], Ty::F32)
    }

    /// Makes the scores of a row, of which `lanes` neighbouring lanes each have some, its shares: powers of two. The state
    /// is the maximum, and the sum of this lane's shares. Returns what earlier results are multiplied by.
    fn share(&self, scores: &mut [V<'k>], lanes: i64, [max, sum]: [&mut V<'k>; 2]) -> V<'k> {
        let larger = |a: V<'k>, b: V<'k>| self.k.call_intrinsic("llvm.nvvm.fmax.f", &[a, b], Ty::F32);
        let own = chains(scores, larger);
        let all = larger(self.block.combine(&[own], lanes, |a, b| vec![larger(a[0], b[0])])[0], *max);
        // Where no key has been seen yet nothing is subtracted: infinities would leave NaN.
        let nothing = all.cmp(Cmp::Eq, all.like(f64::NEG_INFINITY));
        let from = nothing.select(all.like(0.0), all);
        let exponent: Box<dyn Fn(V<'k>) -> V<'k>> = match self.late {
            None => Box::new(|score| score - from),
            Some(scale) => {
                let from = -(from * scale);
                Box::new(move |score| score.fma(scale, from))
            }
        };
        scores.iter_mut().for_each(|score| *score = self.power(exponent(*score)));
        let scale = self.power(exponent(*max));
        *sum = *sum * scale + chains(scores, |a, b| a + b);
        *max = all;
        scale
    }

    /// What results are multiplied by, given the sums of the lanes: 0 where a query has seen no key.
    fn finish(&self, sums: &[V<'k>], lanes: i64) -> Vec<V<'k>> {
        let all = self.block.combine(sums, lanes, |a, b| a.iter().zip(b).map(|(a, b)| *a + *b).collect());
        let share = |sum: &V<'k>| {
            let none = sum.cmp(Cmp::Eq, sum.like(0.0));
            none.select(sum.like(0.0), sum.like(1.0) / *sum)
        };
        all.iter().map(share).collect()
    }

    /// Divides results by the sums of the lanes of a quad and stores them. A lane has them as tensor cores leave them: of every
    /// eight columns two of its row, of which `row` is the first, and two of the row eight further down.
    fn store(&self, row: Ix<'k>, results: &[V<'k>], sums: &[V<'k>]) {
        let (k, access, lane) = (self.k, self.output.access, self.block.lane.rem(QUAD));
        let halves = matches!(self.spec.output.elem, ElemType::F16 | ElemType::BF16) && self.output.column.is(1);
        let well = match halves {
            true => aligned(&[self.output.base], &[self.output.row * 2], CHUNK_BYTES),
            false => Bool::Const(false),
        };
        for (r, share) in self.finish(sums, QUAD).into_iter().enumerate() {
            let query = row + r as i64 * 8;
            let there = query.lt(self.queries);
            let own: Vec<V> = results.chunks(2).skip(r).step_by(2).flatten().map(|result| *result * share).collect();
            // Four times eight columns go to the lanes of the quad, eight each; what is left are pairs.
            let chunks = || {
                let bf16 = self.spec.output.elem == ElemType::BF16;
                let words: Vec<V> = own.chunks(2).map(|pair| self.block.pair(bf16, pair[0], pair[1])).collect();
                let (fours, rest) = words.as_chunks::<4>();
                let turned: Vec<V> = fours.iter().map(|four| k.vector(&self.block.turn_quad(*four))).collect();
                k.if_(there, || {
                    for (i, chunk) in turned.iter().enumerate() {
                        let column = (lane + i as i64 * QUAD) * CHUNK;
                        self.output.at(query, column).store_aligned(*chunk, CHUNK_BYTES as u32);
                    }
                    for (i, pair) in (fours.len() as i64 * QUAD..).zip(rest) {
                        self.output.at(query, lane * 2 + i * COLUMNS).store_aligned(*pair, 4);
                    }
                });
                vec![]
            };
            let one_by_one = || {
                k.if_(there, || {
                    for (i, result) in (0..).zip(&own) {
                        access.store(self.output.at(query, lane * 2 + (i / 2 * COLUMNS + i % 2)), *result);
                    }
                });
                vec![]
            };
            k.if_else(well, chunks, one_by_one);
        }
    }
}

/// What `combine` makes of values, in four chains, whose steps wait for no other.
fn chains<'k>(values: &[V<'k>], combine: impl Fn(V<'k>, V<'k>) -> V<'k>) -> V<'k> {
    let chain = |i: usize| values.iter().copied().skip(i).step_by(4).reduce(&combine);
    (0..4).filter_map(chain).reduce(&combine).expect("there are values")
}
