//! Circuits made at random: text and back, and every query against sums over all rows.

mod support;

use kiln_ir::{
    Module,
    circuit::{Builder, Circuit, Determinism, Distribution, Domain, NodeId, Origin, Property, Vtree, VtreeNode},
};
use support::Random;

fn unit(r: &mut Random) -> f64 {
    (r.below(1000) + 1) as f64 / 1001.0
}

fn weights(r: &mut Random, n: usize) -> Vec<f64> {
    let w: Vec<f64> = (0..n).map(|_| unit(r)).collect();
    let sum: f64 = w.iter().sum();
    w.iter().map(|w| (w / sum).ln()).collect()
}

/// An input over a discrete variable.
fn input(r: &mut Random, b: &mut Builder, var: u32, only: Option<u32>) -> NodeId {
    let k = b.variables()[var as usize].values().unwrap();
    let d = match (only, r.below(6)) {
        (Some(value), _) => Distribution::Indicator { value },
        (_, 0) => Distribution::Indicator { value: r.below(k as usize) as u32 },
        (_, 1) => Distribution::Binomial { trials: k - 1, log_p: unit(r).ln() },
        (_, 2) => Distribution::Logistic { mean: 2.0 * unit(r), scale: unit(r), values: k },
        (_, 3) => {
            let low = r.below(k as usize) as f64;
            let width = f64::from(k) - low;
            Distribution::Histogram { breaks: vec![low, f64::from(k)], log_density: vec![-width.ln()] }
        }
        _ => Distribution::Categorical { log_p: weights(r, k as usize) },
    };
    b.input(var, d, Origin::default()).unwrap()
}

/// A smooth, decomposable circuit over these variables; with `decide`, sums decide on their first variable.
fn scope(r: &mut Random, b: &mut Builder, vars: &[u32], decide: bool, depth: usize) -> NodeId {
    let o = Origin::default();
    if let [var] = vars {
        let k = b.variables()[*var as usize].values().unwrap();
        if decide && k > 1 && r.below(2) == 0 {
            let inputs: Vec<NodeId> = (0..k).map(|v| input(r, b, *var, Some(v))).collect();
            let w = weights(r, inputs.len());
            return b.sum(&inputs, &w, o).unwrap();
        }
        return input(r, b, *var, None);
    }
    if decide {
        let k = b.variables()[vars[0] as usize].values().unwrap();
        let terms: Vec<NodeId> = (0..k)
            .map(|v| {
                let first = input(r, b, vars[0], Some(v));
                let rest = scope(r, b, &vars[1..], decide, depth + 1);
                b.product(&[first, rest], o).unwrap()
            })
            .collect();
        let w = weights(r, terms.len());
        return b.sum(&terms, &w, o).unwrap();
    }
    let n = if depth > 2 { 1 } else { 1 + r.below(3) };
    let terms: Vec<NodeId> = (0..n)
        .map(|_| {
            let at = 1 + r.below(vars.len() - 1);
            let (left, right) = vars.split_at(at);
            let parts = [scope(r, b, left, decide, depth + 1), scope(r, b, right, decide, depth + 1)];
            b.product(&parts, o).unwrap()
        })
        .collect();
    let w = weights(r, terms.len());
    b.sum(&terms, &w, o).unwrap()
}

fn circuit(seed: u64, decide: bool) -> Circuit {
    let r = &mut Random(seed);
    let n = 1 + r.below(4);
    let domains: Vec<Domain> = (0..n).map(|_| Domain::Discrete(1 + r.below(3) as u32)).collect();
    let mut b = Builder::new("c", domains);
    let vars: Vec<u32> = (0..n as u32).collect();
    let root = scope(r, &mut b, &vars, decide, 0);
    b.finish(root).0
}

/// Every complete row that agrees with the given cells.
fn completions(c: &Circuit, row: &[f64]) -> Vec<Vec<f64>> {
    let mut rows = vec![vec![]];
    for (cell, domain) in row.iter().zip(&c.variables) {
        let values: Vec<f64> =
            if cell.is_nan() { (0..domain.values().unwrap()).map(f64::from).collect() } else { vec![*cell] };
        rows = rows.iter().flat_map(|r| values.iter().map(|v| [r.as_slice(), &[*v]].concat())).collect();
    }
    rows
}

fn masked(r: &mut Random, c: &Circuit) -> Vec<f64> {
    let cell = |d: &Domain, r: &mut Random| match r.below(2) {
        0 => f64::NAN,
        _ => r.below(d.values().unwrap() as usize) as f64,
    };
    c.variables.iter().map(|d| cell(d, r)).collect()
}

fn close(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= 1e-12 * (1.0 + a.abs())
}

#[test]
fn queries_agree_with_sums_over_all_rows() {
    for seed in 0..600 {
        let c = circuit(seed, seed % 2 == 0);
        let r = &mut Random(seed);
        let p = |row: &[f64]| c.log_likelihood(row).exp();
        let all = vec![f64::NAN; c.variables.len()];
        let total: f64 = completions(&c, &all).iter().map(|x| p(x)).sum();
        assert!(close(total, 1.0), "seed {seed}: {total}");
        for _ in 0..4 {
            let row = masked(r, &c);
            let rows = completions(&c, &row);
            let sum: f64 = rows.iter().map(|x| p(x)).sum();
            assert!(close(p(&row), sum), "seed {seed}: {row:?}");
            let (state, value) = c.mpe(&row);
            if seed % 2 == 0 && sum > 0.0 {
                let best = rows.iter().map(|x| p(x)).fold(0.0, f64::max);
                assert!(close(value.exp(), best) && close(p(&state), best), "seed {seed}: {row:?}");
            }
            let (k, marginals, means) = (c.max_values() as usize, c.marginals(&row), c.expectation(&row));
            for v in 0..c.variables.len() {
                let without: Vec<f64> =
                    row.iter().enumerate().map(|(i, x)| if i == v { f64::NAN } else { *x }).collect();
                let sum = p(&without);
                for value in 0..k {
                    let mut with = without.clone();
                    with[v] = value as f64;
                    let found = marginals[v * k + value];
                    let is_right = if sum > 0.0 {
                        (found - p(&with) / sum).abs() < 1e-12
                    } else {
                        found.is_nan() || value >= c.variables[v].values().unwrap() as usize
                    };
                    assert!(is_right, "seed {seed}: {row:?}, {v} = {value}: {found}");
                }
                if row[v].is_nan() && sum > 0.0 {
                    let mean: f64 = rows.iter().map(|x| x[v] * p(x)).sum::<f64>() / sum;
                    assert!((means[v] - mean).abs() < 1e-12, "seed {seed}: {row:?}, {v}");
                } else if !row[v].is_nan() {
                    assert_eq!(means[v], row[v]);
                }
            }
        }
    }
}

#[test]
fn draws_have_the_distribution_of_the_circuit() {
    const DRAWS: i64 = 4000;
    for seed in [3, 5, 8, 13, 21, 34] {
        let c = circuit(seed, false);
        let mut row = masked(&mut Random(seed), &c);
        if c.log_likelihood(&row) == f64::NEG_INFINITY {
            row.fill(f64::NAN);
        }
        let rows = completions(&c, &row);
        let mut counts = vec![0; rows.len()];
        for s in 0..DRAWS {
            let drawn = c.sample(&row, s);
            assert_eq!(drawn, c.sample(&row, s));
            counts[rows.iter().position(|x| *x == drawn).unwrap()] += 1;
        }
        // Chi-square, far beyond any usual level.
        let (mut chi, mut freedom) = (0.0, 0.0);
        for (x, count) in rows.iter().zip(&counts) {
            let expected = (c.log_likelihood(x) - c.log_likelihood(&row)).exp() * DRAWS as f64;
            if expected > 0.0 {
                chi += (f64::from(*count) - expected).powi(2) / expected;
                freedom += 1.0;
            } else {
                assert_eq!(*count, 0);
            }
        }
        assert!(chi < freedom + 6.0 * (2.0f64 * freedom).sqrt() + 10.0, "seed {seed}: {chi} of {freedom}");
    }
}

#[test]
fn text_reads_back_as_the_same_circuit() {
    for seed in 0..300 {
        let mut m = Module::new("m");
        let mut c = circuit(seed, seed % 2 == 0);
        c.deterministic = c.prove_determinism() == Determinism::Proved;
        m.circuits.push(c);
        let text = m.to_string();
        let again = kiln_ir::parse(&text).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        assert_eq!(again.circuits.values().next(), m.circuits.values().next(), "seed {seed}\n{text}");
        kiln_ir::verify(&m).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
    }
}

#[test]
fn determinism_is_proved_where_sums_decide_and_never_where_it_is_false() {
    for seed in 0..600 {
        let c = circuit(seed, seed % 2 == 0);
        let proved = c.prove_determinism() == Determinism::Proved;
        assert!(proved || seed % 2 == 1, "seed {seed}: {:?}", c.prove_determinism());
        let mut values = vec![];
        for row in completions(&c, &vec![f64::NAN; c.variables.len()]) {
            c.up(&row, &mut values);
            for n in c.nodes() {
                let terms = c.children(n).iter().zip(c.log_weights(n));
                let positive = terms.filter(|(child, w)| values[child.as_u32() as usize] + **w > f64::NEG_INFINITY);
                assert!(!proved || positive.count() <= 1, "seed {seed}");
            }
        }
    }
}

#[test]
fn violations_name_their_property() {
    let o = Origin::default();
    let two = || Builder::new("c", vec![Domain::Discrete(2); 3]);
    let literal = |b: &mut Builder, var, value| b.input(var, Distribution::Indicator { value }, o).unwrap();
    let mut b = two();
    let (x, y, z) = (literal(&mut b, 0, 1), literal(&mut b, 1, 1), literal(&mut b, 2, 0));
    let left = b.product(&[x, y], o).unwrap();
    let all = b.product(&[left, z], o).unwrap();
    let tree = |pairs: &[(u32, u32)]| {
        let leaves = (0..3).map(|var| VtreeNode::Leaf { var });
        Vtree::new(leaves.chain(pairs.iter().map(|(l, r)| VtreeNode::Inner { left: *l, right: *r })).collect()).unwrap()
    };
    let report = |mut b: Builder, root, vtree| {
        b.set_vtree(vtree);
        let r = b.finish(root).0.check();
        Property::ALL.iter().map(|p| r.is(*p).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(report(b.clone(), all, tree(&[(0, 1), (3, 2)])), [true, true, true, true]);
    assert_eq!(report(b.clone(), all, tree(&[(1, 2), (0, 3)])), [true, true, true, false]);
    let sum = b.sum(&[all, left], &[0.5f64.ln(), 0.5f64.ln()], o).unwrap();
    assert_eq!(report(b.clone(), sum, tree(&[(0, 1), (3, 2)])), [false, true, true, true]);
    let twice = b.product(&[all, x], o).unwrap();
    assert_eq!(report(b.clone(), twice, tree(&[(0, 1), (3, 2)])), [true, false, true, false]);
    let heavy = b.sum(&[all, all], &[0.0, 0.0], o).unwrap();
    assert_eq!(report(b, heavy, tree(&[(0, 1), (3, 2)])), [true, true, false, true]);
}

#[test]
fn what_the_root_does_not_reach_is_dropped() {
    let o = |id| Origin::line(id, id + 10);
    let mut b = Builder::new("c", vec![Domain::Discrete(2)]);
    let d = |p: f64| Distribution::bernoulli(p.ln());
    let first = b.input(0, d(0.25), o(7)).unwrap();
    let other = b.input(0, d(0.5), o(8)).unwrap();
    let same = b.input(0, d(0.25), o(9)).unwrap();
    let root = b.sum(&[same, same], &[-1.0, -2.0], o(11)).unwrap();
    assert!(first < other);
    let (c, dropped) = b.finish(root);
    assert_eq!((dropped, c.len(), c.edges(), c.distributions().len()), (2, 2, 2, 1));
    assert_eq!(
        (c.place(c.children(c.root())[0]), c.place(c.root())),
        ("node 9, line 19".into(), "node 11, line 21".into())
    );
}
