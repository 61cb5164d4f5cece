//! Arena offsets of temporaries: lifetimes, lending, and slots that temporaries share one after the other.
//!
//! Sizes are formulas, so memory is divided into slots rather than packed: a slot is as large as the largest of its
//! temporaries for every value of the symbols, and stands after the slots before it. Two temporaries share a slot only
//! if they do not live at the same time.

use crate::size::size_expr;
use kiln_ir::{Dim, SymbolFacts};
use kiln_runtime::format::SizeExpr;
use std::ops::Range;

/// What one step does to temporaries.
#[derive(Clone, Debug)]
pub(super) struct Use {
    pub(super) at: usize,
    pub(super) reads: Vec<u32>,
    pub(super) writes: Vec<u32>,
    /// Those whose memory the first written one may take over, if they are not used later.
    pub(super) lenders: Vec<u32>,
}

/// Which temporaries share memory.
pub(super) struct Slots {
    /// For each slot its size in bytes, as alternatives for a maximum.
    sizes: Vec<Vec<Dim>>,
    /// By temporary; none for one that is not used.
    of: Vec<Option<usize>>,
}

/// Slots one after the other; in bytes, by temporary.
pub(super) struct Arena<T> {
    pub(super) offsets: Vec<T>,
    pub(super) bytes: T,
}

const ALIGN: i64 = 64;
/// What a size that nothing bounds is taken for when slots are chosen.
const USUAL: i64 = 128;

/// A class of temporaries that lend each other their memory, or one alone.
struct Life {
    first: usize,
    last: usize,
    /// Largest bytes of any member, as alternatives for a maximum.
    sizes: Vec<Dim>,
}

/// `bytes[t]` is the size of temporary `t`; what is used inside a range of `loops` and lived before it lives to its end.
pub(super) fn assign(bytes: &[Dim], uses: &[Use], loops: &[Range<usize>], symbols: &[SymbolFacts]) -> Slots {
    let mut spans: Vec<Option<(usize, usize)>> = vec![None; bytes.len()];
    for u in uses {
        for t in u.reads.iter().chain(&u.writes) {
            let span = spans[*t as usize].get_or_insert((u.at, u.at));
            span.1 = u.at;
        }
    }
    // Inner loops come before the loops around them.
    for range in loops {
        for span in spans.iter_mut().flatten() {
            if span.0 < range.start && span.1 >= range.start {
                span.1 = span.1.max(range.end);
            }
        }
    }
    let mut class: Vec<usize> = (0..bytes.len()).collect();
    let mut lives: Vec<Option<Life>> = spans
        .iter()
        .zip(bytes)
        .map(|(span, size)| span.map(|(first, last)| Life { first, last, sizes: vec![size.clone()] }))
        .collect();
    for u in uses {
        let Some(written) = u.writes.first().map(|t| *t as usize) else { continue };
        let begins = spans[written].is_some_and(|s| s.0 == u.at) && class[written] == written;
        for lender in u.lenders.iter().map(|t| *t as usize) {
            let ends = lender != written && spans[lender].is_some_and(|s| s.1 == u.at);
            if !begins || !ends || class[written] != written {
                continue;
            }
            let to = class[lender];
            let (Some(taken), Some(life)) = (lives[written].take(), lives[to].as_mut()) else { continue };
            life.last = life.last.max(taken.last);
            add_size(&mut life.sizes, &taken.sizes[0], symbols);
            class[written] = to;
        }
    }
    let mut order: Vec<usize> = (0..bytes.len()).filter(|t| lives[*t].is_some()).collect();
    order.sort_by_key(|t| lives[*t].as_ref().map(|l| (l.first, *t)));
    let mut slots: Vec<(usize, Vec<Dim>)> = vec![];
    let mut slot_of = vec![None; bytes.len()];
    for t in order {
        let Some(life) = &lives[t] else { continue };
        let size = usual(&life.sizes, symbols);
        // Best: the slot that grows least; of those the one that wastes least.
        let free = slots.iter().enumerate().filter(|(_, (until, _))| *until < life.first);
        let cost = |(i, (_, sizes)): (usize, &(usize, Vec<Dim>))| {
            let has = usual(sizes, symbols);
            ((size - has).max(0), (has - size).max(0), i)
        };
        let best = free.map(cost).min();
        let slot = match best {
            // Growing a small slot is no better than a new one, which leaves the small one for others.
            Some((grows, _, i)) if grows * 2 <= size => i,
            _ => {
                slots.push((0, vec![]));
                slots.len() - 1
            }
        };
        slots[slot].0 = life.last;
        for size in &life.sizes {
            add_size(&mut slots[slot].1, size, symbols);
        }
        slot_of[t] = Some(slot);
    }
    let of = (0..bytes.len()).map(|t| slot_of[class[t]]).collect();
    Slots { sizes: slots.into_iter().map(|(_, sizes)| sizes).collect(), of }
}

impl Slots {
    /// As formulas.
    pub(super) fn formulas(&self, symbols: &[SymbolFacts]) -> Arena<SizeExpr> {
        let size = |sizes: &Vec<Dim>| {
            let exprs = sizes.iter().map(|d| size_expr(d, symbols));
            let size = exprs.reduce(SizeExpr::max).unwrap_or_else(|| SizeExpr::constant(0));
            let divides = sizes.iter().all(|d| d.divisor(symbols) % ALIGN == 0);
            if divides { size } else { size.align_to(ALIGN) }
        };
        self.lay(SizeExpr::constant(0), size)
    }

    /// As sizes.
    pub(super) fn dims(&self) -> Arena<Dim> {
        let size = |sizes: &Vec<Dim>| {
            let size = sizes.iter().cloned().reduce(|a, b| a.max_with(&b)).unwrap_or(0.into());
            size.ceil_div(&ALIGN.into()) * ALIGN.into()
        };
        self.lay(0.into(), size)
    }

    fn lay<T: Clone + std::ops::Add<Output = T>>(&self, zero: T, size: impl Fn(&Vec<Dim>) -> T) -> Arena<T> {
        let mut starts = vec![];
        let mut end = zero.clone();
        for sizes in &self.sizes {
            starts.push(end.clone());
            end = end + size(sizes);
        }
        let offsets = self.of.iter().map(|slot| slot.map_or(zero.clone(), |s| starts[s].clone()));
        Arena { offsets: offsets.collect(), bytes: end }
    }
}

/// Adds an alternative to a maximum, unless another is never smaller.
fn add_size(sizes: &mut Vec<Dim>, size: &Dim, symbols: &[SymbolFacts]) {
    let covers = |a: &Dim, b: &Dim| {
        let times = a.exact_div(b).is_some_and(|q| q.range(symbols).0 >= 1);
        times || a == b || (a.clone() - b.clone()).range(symbols).0 >= 0
    };
    if sizes.iter().any(|s| covers(s, size)) {
        return;
    }
    sizes.retain(|s| !covers(size, s));
    sizes.push(size.clone());
}

/// The size for usual values of the symbols.
fn usual(sizes: &[Dim], symbols: &[SymbolFacts]) -> i64 {
    let value = |s| symbols.iter().find(|f| f.symbol == s).map(|f| USUAL.clamp(f.min, f.max));
    sizes.iter().map(|d| d.eval(&value).unwrap_or(i64::MAX / 4)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(at: usize, reads: &[u32], writes: &[u32], lenders: &[u32]) -> Use {
        Use { at, reads: reads.to_vec(), writes: writes.to_vec(), lenders: lenders.to_vec() }
    }

    fn offsets(arena: &Arena<SizeExpr>) -> Vec<Option<i64>> {
        arena.offsets.iter().map(SizeExpr::as_constant).collect()
    }

    #[test]
    fn slots_are_shared_by_what_never_meets() {
        let bytes: Vec<Dim> = [100, 100, 100].map(Dim::from).into();
        let chain =
            [step(0, &[], &[0], &[]), step(1, &[0], &[1], &[]), step(2, &[1], &[2], &[]), step(3, &[2], &[], &[])];
        let arena = assign(&bytes, &chain, &[], &[]).formulas(&[]);
        assert_eq!(offsets(&arena), [Some(0), Some(128), Some(0)]);
        assert_eq!(arena.bytes.as_constant(), Some(256));
    }

    #[test]
    fn a_dying_operand_lends_its_memory_and_a_living_one_does_not() {
        let bytes: Vec<Dim> = [64, 64, 64].map(Dim::from).into();
        let mut uses = vec![step(0, &[], &[0], &[]), step(1, &[0], &[1], &[0]), step(2, &[1], &[2], &[1])];
        let arena = assign(&bytes, &uses, &[], &[]).formulas(&[]);
        assert_eq!(arena.bytes.as_constant(), Some(64));
        uses.push(step(3, &[0, 2], &[], &[]));
        let arena = assign(&bytes, &uses, &[], &[]).formulas(&[]);
        let found = offsets(&arena);
        assert_ne!(found[0], found[1]);
        assert_ne!(found[0], found[2]);
    }

    #[test]
    fn what_a_loop_reads_lives_as_long_as_the_loop() {
        let bytes: Vec<Dim> = [64, 64, 64].map(Dim::from).into();
        let uses =
            [step(0, &[], &[0], &[]), step(1, &[0], &[1], &[0]), step(2, &[1], &[2], &[]), step(3, &[], &[], &[])];
        let arena = assign(&bytes, &uses, std::slice::from_ref(&(1..3)), &[]).formulas(&[]);
        let found = offsets(&arena);
        assert!(found[0] != found[1] && found[0] != found[2]);
    }
}
