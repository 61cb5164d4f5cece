//! Made-up tensors, the same on every run and machine: for comparisons, tests and fuzzing.

use crate::{
    Accepts, ElemType, Entry, Module, Symbol, SymbolFacts, Type,
    eval::{self, EvalError, Limits, Tensor},
    types::Kind,
};
use std::collections::HashMap;

/// SplitMix64 (Steele, Lea, Flood, 2014): a fixed sequence of numbers that look random.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A sequence of its own for each name and seed.
    pub fn named(name: &str, seed: u64) -> Random {
        // FNV-1a.
        Random(name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)))
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 for 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    /// In -1..1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// One of the items, of which there is at least one.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// What values a tensor takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domain {
    /// Floats in -3..3, integers over their whole range where it is small and in -1000..1000 elsewhere.
    Any,
    /// Floats in 0.1..3, integers in 1..5, true.
    Positive,
    /// Floats in -1..1, integers 0 or 1: small enough to be indices, and values of masks.
    Small,
    /// As `Any`, but integers from 0 to below this.
    Below(u64),
    /// As `Small`, but integers between the two; the first element is the larger one.
    Between(i64, i64),
    /// As `Small`, but each row along the last axis counts from the first to the second and is filled up with -1.
    Count(i64, i64),
}

/// A tensor of random elements, rounded to their type.
pub fn tensor(random: &mut Random, elem: ElemType, shape: &[usize], domain: Domain) -> Tensor {
    let n = shape.iter().product::<usize>();
    if elem.is_float() {
        let (middle, reach) = match domain {
            Domain::Positive => (1.55, 1.45),
            Domain::Small | Domain::Between(..) | Domain::Count(..) => (0.0, 1.0),
            Domain::Any | Domain::Below(_) => (0.0, 3.0),
        };
        let exact = Tensor::floats(elem, shape, (0..n).map(|_| middle + reach * f64::from(random.float())).collect());
        return Tensor::from_bytes(elem, shape, &exact.to_bytes()).unwrap_or(exact);
    }
    let bits = 8 * elem.bytes() as u32;
    let row = shape.last().copied().unwrap_or(1).max(1);
    let int = |at: usize| {
        let mut below = |n: u64| (random.bits() % n.max(1)) as i64;
        match (domain, elem.kind()) {
            (Domain::Positive, Kind::Bool) => 1,
            (_, Kind::Bool) | (Domain::Small, _) => below(2),
            (Domain::Below(n), _) => below(n),
            (Domain::Between(_, max), _) if at == 0 => max,
            (Domain::Between(min, max), _) => min.saturating_add(below(max.abs_diff(min).saturating_add(1))),
            (Domain::Count(min, max), _) => {
                Some(min.saturating_add((at % row) as i64)).filter(|v| *v <= max).unwrap_or(-1)
            }
            (Domain::Positive, _) => 1 + below(4),
            (Domain::Any, Kind::Signed) if bits <= 16 => below(1 << bits) - (1 << (bits - 1)),
            (Domain::Any, Kind::Signed) => below(2000) - 1000,
            (Domain::Any, _) if bits <= 16 => below(1 << bits),
            (Domain::Any, _) => below(1000),
        }
    };
    Tensor::ints(elem, shape, (0..n).map(int).collect())
}

/// The value nearest to `wanted` that a symbol may take.
pub fn size(facts: &SymbolFacts, wanted: i64) -> i64 {
    let step = facts.multiple_of.max(1);
    let up = |n: i64| n.saturating_add(step - 1) / step * step;
    up(wanted.max(facts.min)).min(facts.max / step * step)
}

/// Runs every entry on small inputs and weights within limits; what comes out does not matter. An entry is left out
/// where a tensor would have more than `limits.elements` elements.
pub fn exercise(m: &Module, limits: Limits) -> Vec<Result<(), EvalError>> {
    let value = |s: Symbol| m.symbols.iter().find(|f| f.symbol == s).map(|f| size(f, 1));
    let made = |name: &str, ty: &Type, domain: Domain| {
        let dims = ty.dims.iter().map(|d| d.eval(&value).and_then(|n| usize::try_from(n).ok()));
        let shape: Vec<usize> = dims.collect::<Option<_>>()?;
        let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul((*d).max(1)));
        count.filter(|n| *n <= limits.elements)?;
        Some(tensor(&mut Random::named(name, 0), ty.elem, &shape, domain))
    };
    let accepted = |accepts: Option<&Accepts>| match accepts {
        Some(Accepts::Range { min, max, filled }) => {
            let max = max.eval(&value).unwrap_or(*min);
            if *filled { Domain::Count(*min, max) } else { Domain::Between(*min, max) }
        }
        Some(Accepts::Finite | Accepts::Size) | None => Domain::Small,
    };
    let weights = |p| {
        let param = &m.params[p];
        made(&param.key, m.ty(param.value), Domain::Small).ok_or_else(|| "too large".to_string())
    };
    let run = |entry: &Entry| {
        let args = m.regions[entry.body].args.iter().enumerate().map(|(n, a)| (n, m.name_of(*a), m.ty(*a)));
        let inputs = args.map(|(n, name, ty)| made(&name, ty, accepted(entry.accepts.get(&n))).map(|t| (name, t)));
        let inputs: HashMap<String, Tensor> = inputs.collect::<Option<_>>()?;
        Some(eval::run_with(m, &entry.name, &inputs, &weights, &mut HashMap::new(), limits).map(drop))
    };
    m.entries.iter().filter_map(run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_fixed() {
        let mut r = Random(0);
        // The reference implementation's first numbers from seed 0.
        assert_eq!([r.bits(), r.bits()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
        assert_ne!(Random::named("x", 0).bits(), Random::named("y", 0).bits());
        assert_ne!(Random::named("x", 0).bits(), Random::named("x", 1).bits());
        assert_eq!((r.below(0), r.below(1)), (0, 0));
    }

    #[test]
    fn tensors_hold_values_of_their_type_and_domain() {
        for elem in ElemType::ALL.iter().copied() {
            let domains = [
                Domain::Any,
                Domain::Positive,
                Domain::Small,
                Domain::Below(3),
                Domain::Between(2, 5),
                Domain::Count(0, 4),
            ];
            for domain in domains {
                if matches!(domain, Domain::Count(..)) && elem.kind() == Kind::Unsigned {
                    continue; // There is no -1.
                }
                let t = tensor(&mut Random(5), elem, &[7, 11], domain);
                assert_eq!(t.check(), Ok(()), "{elem} {domain:?}");
                let values = (0..77).filter_map(|i| t.data.get(i)).map(|v| v.as_f64());
                let range = values.fold((f64::INFINITY, f64::NEG_INFINITY), |r, v| (r.0.min(v), r.1.max(v)));
                let allowed = match domain {
                    _ if elem == ElemType::I1 => (0.0, 1.0),
                    Domain::Positive => (0.09, 5.0),
                    Domain::Between(..) if !elem.is_float() => (2.0, 5.0),
                    Domain::Count(..) if !elem.is_float() => (-1.0, 4.0),
                    Domain::Small | Domain::Between(..) | Domain::Count(..) => (-1.0, 1.0),
                    Domain::Below(_) if !elem.is_float() => (0.0, 2.0),
                    Domain::Any | Domain::Below(_) => (-32768.0, 65535.0),
                };
                let varies = range.0 < range.1 || (elem, domain) == (ElemType::I1, Domain::Positive);
                assert!(varies, "{elem} {domain:?}");
                assert!(allowed.0 <= range.0 && range.1 <= allowed.1, "{elem} {domain:?}: {range:?}");
            }
        }
    }

    #[test]
    fn sizes_are_admissible() {
        let facts = |min, max, multiple_of| {
            let symbol = Symbol::new("S").expect("a letter");
            SymbolFacts { symbol, min, max, multiple_of }
        };
        let cases =
            [((1, 512, 1), 3, 3), ((8, 512, 8), 3, 8), ((1, 2, 1), 7, 2), ((1, 13, 4), 100, 12), ((5, 5, 1), 1, 5)];
        for ((min, max, step), wanted, expected) in cases {
            assert_eq!(size(&facts(min, max, step), wanted), expected);
        }
        assert_eq!(size(&facts(i64::MAX - 1, i64::MAX, 1), 1), i64::MAX - 1);
    }
}
