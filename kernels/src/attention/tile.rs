//! The inner loops of attention on one tile of queries and one block of keys, all in scratch memory.

use super::blocks::Blocks;
use crate::{
    build::{Cmp, Ix, K, Ptr, Ty, V},
    scalar::functions::exp_nonpositive,
    view::at,
};

/// How the scores of a block are changed before the maximum is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Adjust {
    /// Not at all.
    None,
    /// A value of each key is added, or is an upper bound (infinite, either way); padding keys have -inf.
    Add,
    Cap,
    /// The same with a value of each key and query.
    AddTile,
    CapTile,
}

/// What the loops need of a task.
pub(super) struct Tile<'k> {
    pub k: K<'k>,
    pub blocks: Blocks,
    pub keys: Ptr<'k>,
    pub values: Ptr<'k>,
    pub bias: Ptr<'k>,
    pub scores: Ptr<'k>,
    /// Of this tile.
    pub queries: Ptr<'k>,
    pub results: Ptr<'k>,
    pub state: Ptr<'k>,
}

impl<'k> Tile<'k> {
    fn vector(&self) -> Ty {
        Ty::new(self.blocks.elem, self.blocks.lanes)
    }

    fn load(&self, from: Ptr<'k>, element: impl Into<Ix<'k>>) -> V<'k> {
        let ty = self.vector();
        at(from, ty, element).load_aligned(ty, ty.elem.bits() / 8 * ty.lanes)
    }

    fn store(&self, to: Ptr<'k>, element: impl Into<Ix<'k>>, value: V<'k>) {
        let ty = self.vector();
        at(to, ty, element).store_aligned(value, ty.elem.bits() / 8 * ty.lanes);
    }

    fn load_row(&self, from: Ptr<'k>, element: impl Into<Ix<'k>>) -> Vec<V<'k>> {
        let (element, lanes) = (element.into(), self.blocks.lanes as i64);
        (0..self.blocks.vectors as i64).map(|j| self.load(from, element + j * lanes)).collect()
    }

    fn store_row(&self, to: Ptr<'k>, element: impl Into<Ix<'k>>, row: &[V<'k>]) {
        let (element, lanes) = (element.into(), self.blocks.lanes as i64);
        for (j, v) in row.iter().enumerate() {
            self.store(to, element + j as i64 * lanes, *v);
        }
    }

    pub(super) fn splat(&self, value: f64) -> Vec<V<'k>> {
        vec![self.k.float(self.vector(), value); self.blocks.vectors]
    }

    /// `-inf` as the maximum and 0 as the sum and the result: nothing seen.
    pub(super) fn clear(&self) {
        self.store_row(self.state, 0, &self.splat(f64::NEG_INFINITY));
        self.store_row(self.state, self.blocks.tile, &self.splat(0.0));
        let (tile, zero) = (self.blocks.tile, self.splat(0.0));
        self.k.for_(0, self.blocks.value_rows, 1, |row| self.store_row(self.results, row * tile, &zero));
    }

    /// Takes `count` keys into the state. `limit` holds the last key that each query of the tile sees, counted from the
    /// first key of the block.
    pub(super) fn block(&self, depth: i64, count: Ix<'k>, adjust: Adjust, limit: Option<&[V<'k>]>) {
        let (k, tile) = (self.k, self.blocks.tile);
        let before = self.load_row(self.state, 0);
        let max = self.scores(depth, count, adjust, limit, &before);
        let infinite = k.float(self.vector(), f64::NEG_INFINITY);
        let zero = k.float(self.vector(), 0.0);
        // Where nothing is seen yet 0 stands for the maximum, so that all weights become 0 and none NaN.
        let base: Vec<V> = max.iter().map(|m| m.cmp(Cmp::Eq, infinite).select(zero, *m)).collect();
        let rescale: Vec<V> = before.iter().zip(&base).map(|(m, base)| exp_nonpositive(*m - *base)).collect();
        self.store_row(self.state, 0, &max);
        let sums = k.for_carry(0, count, 1, &self.splat(0.0), |key, sums| {
            let scores = self.load_row(self.scores, key * tile);
            let weights: Vec<V> = scores.iter().zip(&base).map(|(s, base)| exp_nonpositive(*s - *base)).collect();
            self.store_row(self.scores, key * tile, &weights);
            sums.iter().zip(&weights).map(|(s, w)| *s + *w).collect()
        });
        let old = self.load_row(self.state, tile);
        let sums: Vec<V> = (0..sums.len()).map(|j| old[j].fma(rescale[j], sums[j])).collect();
        self.store_row(self.state, tile, &sums);
        self.accumulate(count, &rescale);
    }

    /// Writes the adjusted scores of the block; returns the maxima over them and `max`.
    fn scores(&self, depth: i64, count: Ix<'k>, adjust: Adjust, limit: Option<&[V<'k>]>, max: &[V<'k>]) -> Vec<V<'k>> {
        let (k, Blocks { tile, lanes, vectors, keys, key_pitch, elem, .. }) = (self.k, self.blocks);
        let (ty, scalar) = (self.vector(), Ty::new(elem, 1));
        k.for_carry(0, count, keys, max, |key, max| {
            let rows = at(self.keys, scalar, key * key_pitch);
            let zero = vec![k.float(ty, 0.0); keys as usize * vectors];
            let sums = k.for_carry(0, depth, 1, &zero, |d, sums| {
                let query = self.load_row(self.queries, d * tile);
                let mut next = vec![];
                for i in 0..keys {
                    let component = at(rows, scalar, d + i * key_pitch).load_broadcast(ty);
                    for q in &query {
                        next.push(component.fma(*q, sums[next.len()]));
                    }
                }
                next
            });
            let mut scores = vec![];
            for i in 0..keys {
                for j in 0..vectors {
                    let mut score = sums[scores.len()];
                    let place = (key + i) * tile + j as i64 * lanes as i64;
                    let bias = || at(self.bias, scalar, key + i).load_broadcast(ty);
                    score = match adjust {
                        Adjust::None => score,
                        Adjust::Add => score + bias(),
                        Adjust::Cap => score.min_or(bias()),
                        Adjust::AddTile => score + self.load(self.bias, place),
                        Adjust::CapTile => score.min_or(self.load(self.bias, place)),
                    };
                    if let Some(limit) = limit {
                        let position = (key + i).v(k).int_to(elem.int(), true).broadcast(lanes);
                        let seen = position.cmp(Cmp::Le, limit[j]);
                        score = seen.select(score, score.like(f64::NEG_INFINITY));
                    }
                    self.store(self.scores, place, score);
                    scores.push(score);
                }
            }
            // By halves: the chain of maxima would otherwise be waited for. A NaN may get lost here, as the weights
            // and so the sum are NaN all the same.
            let mut width = scores.len() / 2;
            while width >= vectors {
                scores = (0..width).map(|i| scores[i].max_or(scores[i + width])).collect();
                width /= 2;
            }
            scores.iter().zip(max).map(|(score, max)| score.max_or(*max)).collect()
        })
    }

    /// `results = rescale * results + weights . values`.
    fn accumulate(&self, count: Ix<'k>, rescale: &[V<'k>]) {
        let (k, Blocks { tile, components, value_pitch, value_rows, elem, .. }) = (self.k, self.blocks);
        let (ty, scalar) = (self.vector(), Ty::new(elem, 1));
        k.for_(0, value_rows, components, |first| {
            let columns = at(self.values, scalar, first);
            let mut init = vec![];
            for i in 0..components {
                let old = self.load_row(self.results, (first + i) * tile);
                init.extend(old.iter().zip(rescale).map(|(o, r)| *o * *r));
            }
            let sums = k.for_carry(0, count, 1, &init, |key, sums| {
                let weights = self.load_row(self.scores, key * tile);
                let mut next = vec![];
                for i in 0..components {
                    let component = at(columns, scalar, key * value_pitch + i).load_broadcast(ty);
                    for w in &weights {
                        next.push(component.fma(*w, sums[next.len()]));
                    }
                }
                next
            });
            for (i, row) in sums.chunks(self.blocks.vectors).enumerate() {
                self.store_row(self.results, (first + i as i64) * tile, row);
            }
        });
    }
}
