//! What the tests of passes share: seeded evaluation and comparison.

use kiln_ir::{
    Dim, Module, Param, Symbol, Type,
    eval::{self, Data, Tensor},
    ops::Tolerance,
    sample::{self, Domain, Random},
};
use std::collections::HashMap;

/// A size for each symbol: small, different from the others where its range allows.
fn sizes(m: &Module, round: usize) -> HashMap<Symbol, i64> {
    let small = [2, 3, 5, 4, 7, 6];
    let pick = |(i, f): (usize, &kiln_ir::SymbolFacts)| (f.symbol, sample::size(f, small[(i + round) % small.len()]));
    m.symbols.iter().enumerate().map(pick).collect()
}

fn shape(ty: &Type, sizes: &HashMap<Symbol, i64>) -> Vec<usize> {
    let size = |d: &Dim| d.eval(&|s| sizes.get(&s).copied()).and_then(|v| usize::try_from(v).ok());
    ty.dims.iter().map(|d| size(d).unwrap_or_else(|| panic!("{ty} has no size"))).collect()
}

/// The same tensor for the same name and round.
fn seeded(name: &str, round: usize, ty: &Type, sizes: &HashMap<Symbol, i64>) -> Tensor {
    sample::tensor(&mut Random::named(name, round as u64), ty.elem, &shape(ty, sizes), Domain::Small)
}

/// Outputs of every entry on seeded inputs and weights; the same for modules with the same interface.
pub(crate) fn outputs(m: &Module, round: usize) -> Vec<(String, Tensor)> {
    let sizes = sizes(m, round);
    let weights = |p: Param| {
        let data = &m.params[p];
        Ok(seeded(&data.key, round, m.ty(data.value), &sizes))
    };
    let mut all = vec![];
    for entry in &m.entries {
        let args = m.regions[entry.body].args.iter();
        let inputs = args
            .map(|a| {
                let name = m.show(*a).trim_start_matches('%').to_string();
                let tensor = seeded(&name, round, m.ty(*a), &sizes);
                (name, tensor)
            })
            .collect();
        let results = eval::run(m, &entry.name, &inputs, &weights).unwrap_or_else(|e| panic!("{e}\n{m}"));
        all.extend(results.into_iter().map(|(n, t)| (format!("@{} {n}", entry.name), t)));
    }
    all
}

/// The widest tolerance among the ops of both modules.
pub(crate) fn tolerance(before: &Module, after: &Module) -> f64 {
    let of = |m: &Module| {
        let ops = m.live_nodes().into_iter().map(|n| match m.nodes[n].op.def().tolerance {
            Tolerance::Exact => 0.0,
            Tolerance::Relative(r) => r,
        });
        ops.fold(0.0, f64::max)
    };
    of(before).max(of(after))
}

/// Fails where outputs differ by more than the tolerance in relative L2; NaN never passes.
pub(crate) fn assert_same(before: &Module, after: &Module, round: usize) {
    let limit = tolerance(before, after);
    let (a, b) = (outputs(before, round), outputs(after, round));
    assert_eq!(a.len(), b.len());
    for ((name, x), (_, y)) in a.iter().zip(&b) {
        assert_eq!((x.elem, &x.shape), (y.elem, &y.shape), "{name}");
        match (&x.data, &y.data) {
            (Data::F(x), Data::F(y)) => {
                let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|e| e * e).sum::<f64>().sqrt();
                let size = norm(&mut x.iter().copied());
                let difference = norm(&mut x.iter().zip(y).map(|(a, b)| if a == b { 0.0 } else { a - b }));
                assert!(size.is_finite(), "{name} is not finite before the pass:\n{before}");
                assert!(
                    difference <= limit * size,
                    "{name}: off by {difference:e} of {size:e}, limit {limit:e}\n{after}"
                );
            }
            _ => assert_eq!(x.data, y.data, "{name}"),
        }
    }
}
