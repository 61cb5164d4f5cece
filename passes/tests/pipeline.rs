//! The whole pipeline: on an encoder layer as an exporter writes it, on random graphs, and what its options refuse.

mod support;

use kiln_ir::{Attrs, Dim, ElemType, Module, Op, Symbol, Target, Type, Value, parse, verify};
use kiln_passes::{Options, PASSES, PassError, run_pipeline};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn options() -> Options<'static> {
    Options { check: true, ..Options::new(Target::from_name("cpu:x86-64-v3").unwrap()) }
}

fn encoder() -> Module {
    let m = parse(include_str!("pipeline/encoder_layer.kir")).unwrap();
    verify(&m).unwrap();
    m
}

/// Kernels by the op that names them: anchors of fusions, `map` where there is none; views and weights aside.
fn kernels(m: &Module) -> BTreeMap<&'static str, usize> {
    let mut weights: BTreeSet<Value> = m.params.values().map(|p| p.value).collect();
    weights.extend(m.consts.values().map(|c| c.value));
    let mut found = BTreeMap::new();
    for node in &m.regions[m.entries[0].body].nodes {
        let data = &m.nodes[*node];
        if data.inputs().all(|v| weights.contains(&v)) {
            weights.extend(&data.results);
            continue;
        }
        let name = match data.op {
            Op::Reshape | Op::Transpose | Op::Broadcast | Op::Slice => continue,
            Op::Fusion => {
                let inside = m.regions[data.regions[0]].nodes.iter().map(|n| m.nodes[*n].op);
                inside.filter(|op| !op.is_scalar()).map(Op::name).next().unwrap_or("map")
            }
            op if op.is_scalar() => "map",
            op => op.name(),
        };
        *found.entry(name).or_insert(0) += 1;
    }
    found
}

#[test]
fn an_encoder_layer_is_seven_kernels() {
    let before = encoder();
    let mut after = before.clone();
    run_pipeline(&mut after, &options()).unwrap();
    for round in 0..2 {
        support::assert_same(&before, &after, round);
    }
    // Two lookups, the mask and the sum under the first norm come once; the layer is four products, attention, two norms.
    let expected = [("attention", 1), ("gather", 2), ("layer_norm", 3), ("linear", 4), ("map", 1)];
    assert_eq!(kernels(&after), BTreeMap::from(expected), "{after}");
    let attention = after.live_nodes().into_iter().find(|n| after.nodes[*n].op == Op::Attention).unwrap();
    assert_eq!(after.nodes[attention].attrs.word("layout"), Some("bshd"));
    assert!(!after.live_nodes().iter().any(|n| {
        let data = &after.nodes[*n];
        data.op == Op::Transpose && after.ty(data.result()).const_dims().is_none()
    }));
}

#[test]
fn a_chain_of_any_length_becomes_kernels_of_bounded_length() {
    let mut text =
        "module @chain stage=imported {\n  dim B = 1..9\n  entry @f(%x: f32[B]) -> (y: f32[B]) {\n".to_string();
    let value = |n: usize| if n == 0 { "%x".into() } else { format!("%{n}") };
    for n in 0..1500 {
        let op = ["exp", "sin", "tanh"][n % 3];
        text.push_str(&format!("    {} = {op} {} : f32[B]\n", value(n + 1), value(n)));
    }
    text.push_str("    return %1500\n  }\n}\n");
    let mut m = parse(&text).unwrap();
    run_pipeline(&mut m, &options()).unwrap();
    let fusions: Vec<_> = m.live_nodes().into_iter().filter(|n| m.nodes[*n].op == Op::Fusion).collect();
    let lengths: Vec<usize> = fusions.iter().map(|n| m.regions[m.nodes[*n].regions[0]].nodes.len()).collect();
    assert_eq!((lengths.len(), lengths.iter().sum::<usize>()), (3, 1500), "{lengths:?}");
    assert!(lengths.iter().all(|n| *n <= 512), "{lengths:?}");
}

#[test]
fn every_rewrite_can_be_switched_off_alone() {
    let before = encoder();
    let record = run_pipeline(&mut before.clone(), &options()).unwrap();
    let indices: Vec<usize> = record.rewrites.iter().map(|r| r.index).collect();
    assert!(indices.is_sorted() && indices.len() > 10, "{indices:?}");
    for off in record.rewrites.iter().filter(|r| !matches!(r.pass.as_str(), "canonicalize" | "cse")) {
        let mut after = before.clone();
        let options = Options { disable_rewrites: BTreeSet::from([off.index]), ..options() };
        let left = run_pipeline(&mut after, &options).unwrap();
        assert!(left.rewrites.iter().all(|r| r.index != off.index), "{off:?}");
        support::assert_same(&before, &after, 0);
    }
}

#[test]
fn unknown_passes_are_listed_with_the_known_ones() {
    let only = Options { only: Some(vec!["dce".into(), "dse".into()]), disable: vec!["cce".into()], ..options() };
    let error = run_pipeline(&mut encoder(), &only).unwrap_err();
    assert!(
        matches!(&error, PassError::Unknown { unknown, known } if unknown.len() == 2 && known.len() == PASSES.len())
    );
    let text = error.to_string();
    assert!(text.starts_with("unknown pass dse, unknown pass cce; known are canonicalize, "), "{text}");
}

#[test]
fn a_required_pass_cannot_be_disabled() {
    let options = Options { disable: vec!["legalize".into(), "dce".into()], ..options() };
    let error = run_pipeline(&mut encoder(), &options).unwrap_err();
    assert_eq!(error.to_string(), "legalize cannot be disabled: backends rely on it");
}

#[test]
fn only_some_passes_run_and_the_hook_sees_each_that_changed() {
    let seen = std::cell::RefCell::new(vec![]);
    let hook = |p: &kiln_passes::Pass, _: &Module| seen.borrow_mut().push(p.name);
    let mut m = encoder();
    let only = Options {
        only: Some(vec!["fuse-gelu".into(), "fold-constants".into()]),
        print_changed: Some(&hook),
        ..options()
    };
    run_pipeline(&mut m, &only).unwrap();
    assert_eq!(*seen.borrow(), ["canonicalize", "fuse-gelu", "legalize"]);
    let mut m = encoder();
    seen.borrow_mut().clear();
    run_pipeline(&mut m, &Options { keep_required: false, ..only }).unwrap();
    assert_eq!(*seen.borrow(), ["fuse-gelu"]);
    assert_eq!(m.stage, kiln_ir::Stage::Imported);
}

#[test]
fn at_e0_nothing_is_reassociated() {
    let mut m = encoder();
    let record = run_pipeline(&mut m, &Options { exactness: kiln_passes::Exactness::E0, ..options() }).unwrap();
    assert!(record.rewrites.iter().all(|r| r.class == kiln_passes::Exactness::E0));
    assert!(!m.live_nodes().iter().any(|n| matches!(m.nodes[*n].op, Op::Attention | Op::LayerNorm | Op::Linear)));
}

#[test]
fn a_malformed_module_is_refused() {
    let mut m = parse("module @m stage=imported {\n  entry @f(%x: f32[2]) -> (y: f32[3]) {\n    %0 = exp %x : f32[3]\n    return %0\n  }\n}\n").unwrap();
    assert!(matches!(run_pipeline(&mut m, &options()), Err(PassError::Malformed(_))));
}

/// Adds one step to a graph: an op or a whole spelling, on values chosen by the numbers.
fn step(m: &mut Module, values: &mut Vec<Value>, weights: &[Value], [op, a, b, c]: [u8; 4]) {
    let body = m.entries[0].body;
    let pick = |n: u8| values[n as usize % values.len()];
    let (x, y) = (pick(a), pick(b));
    let rank = m.ty(x).rank();
    let axis = if rank == 0 { 0 } else { i64::from(c) % rank as i64 };
    let none = Attrs::default;
    let mut add = |op: Op, operands: Vec<Value>, attrs: Attrs| -> Option<Value> {
        m.append(body, op, operands, attrs, None).ok().map(|r| r[0])
    };
    let kind = ["sum", "mean", "max", "min"][c as usize % 4];
    let along = |kind: &'static str, keep: bool| {
        Attrs::from([("kind", kind.into()), ("axes", vec![axis].into()), ("keep", keep.into())])
    };
    let made = match op % 20 {
        0 => add(Op::Add, vec![x, y], none()),
        1 => add(Op::Sub, vec![x, y], none()),
        2 => add(Op::Mul, vec![x, y], none()).and_then(|v| add(Op::Tanh, vec![v], none())),
        3 => add([Op::Tanh, Op::Erf, Op::Sigmoid, Op::Neg, Op::Sin][c as usize % 5], vec![x], none()),
        4 => add(Op::Max, vec![x, y], none()),
        5 => add(Op::Softmax, vec![x], [("axis", axis.into())].into()),
        6 => add(Op::Reduce, vec![x], along(kind, c % 2 == 0)),
        7 | 8 => {
            let perm: Vec<i64> = (0..rank as i64).map(|i| (i + i64::from(c)) % rank.max(1) as i64).collect();
            add(Op::Transpose, vec![x], [("perm", perm.into())].into())
        }
        9 => {
            let mut dims = m.ty(x).dims.clone();
            dims.insert(axis as usize, 1.into());
            m.append(body, Op::Reshape, [x], [("to", dims.into())], None).ok().map(|r| r[0])
        }
        10 => {
            let dims = m.ty(x).dims.iter().map(|d| if d.is(1) { 3.into() } else { d.clone() }).collect::<Vec<Dim>>();
            m.append(body, Op::Broadcast, [x], [("to", dims.into())], None).ok().map(|r| r[0])
        }
        11 => add(Op::Matmul, vec![x, weights[c as usize % weights.len()]], none()),
        12 => add(Op::Concat, vec![x, y], [("axis", axis.into())].into()),
        13 => add(
            Op::Slice,
            vec![x],
            [("axis", axis.into()), ("start", Dim::from(0).into()), ("end", Dim::from(1).into())].into(),
        ),
        14 => {
            let half = m.number(ElemType::F32, [0.5, 1.0, 0.0, 2.0][c as usize % 4]);
            let op = [Op::Mul, Op::Add, Op::Sub, Op::Mul][b as usize % 4];
            m.append(body, op, [x, half], [], None).ok().map(|r| r[0])
        }
        15 => spelled_layer_norm(m, x, rank),
        16 | 17 => spelled_attention(m, x, y),
        18 => spelled_gelu(m, x),
        _ => add(Op::Add, vec![x, weights[c as usize % weights.len()]], none()),
    };
    values.extend(made);
}

fn push(m: &mut Module, op: Op, operands: &[Value], attrs: impl Into<Attrs>) -> Option<Value> {
    let body = m.entries[0].body;
    m.append(body, op, operands.iter().copied(), attrs, None).ok().map(|r| r[0])
}

fn spelled_gelu(m: &mut Module, x: Value) -> Option<Value> {
    let [scale, one, half] = [std::f64::consts::FRAC_1_SQRT_2, 1.0, 0.5].map(|n| m.number(ElemType::F32, n));
    let scaled = push(m, Op::Mul, &[x, scale], [])?;
    let erf = push(m, Op::Erf, &[scaled], [])?;
    let sum = push(m, Op::Add, &[erf, one], [])?;
    let product = push(m, Op::Mul, &[x, sum], [])?;
    push(m, Op::Mul, &[half, product], [])
}

fn spelled_layer_norm(m: &mut Module, x: Value, rank: usize) -> Option<Value> {
    let mean = || Attrs::from([("kind", "mean".into()), ("axes", vec![rank as i64 - 1].into()), ("keep", true.into())]);
    let centre = push(m, Op::Reduce, &[x], mean())?;
    let centred = push(m, Op::Sub, &[x, centre], [])?;
    let squared = push(m, Op::Mul, &[centred, centred], [])?;
    let variance = push(m, Op::Reduce, &[squared], mean())?;
    let eps = m.number(ElemType::F32, 0.25);
    let sum = push(m, Op::Add, &[variance, eps], [])?;
    let root = push(m, Op::Sqrt, &[sum], [])?;
    push(m, Op::Div, &[centred, root], [])
}

fn spelled_attention(m: &mut Module, q: Value, k: Value) -> Option<Value> {
    let rank = m.ty(q).rank() as i64;
    let mut perm: Vec<i64> = (0..rank).collect();
    perm.swap(rank.checked_sub(2).filter(|r| *r >= 0)? as usize, rank as usize - 1);
    let kt = push(m, Op::Transpose, &[k], [("perm", perm.into())])?;
    let scores = push(m, Op::Matmul, &[q, kt], [])?;
    let scale = m.number(ElemType::F32, 0.25);
    let scaled = push(m, Op::Mul, &[scores, scale], [])?;
    let weights = push(m, Op::Softmax, &[scaled], [("axis", (-1i64).into())])?;
    push(m, Op::Matmul, &[weights, k], [])
}

fn graph(steps: &[[u8; 4]]) -> Module {
    let mut m = Module::new("random");
    let s = m.add_symbol(Symbol::new("S").unwrap(), 1, 9, 1);
    let file = m.files.push("w".into());
    let dims = |d: [Dim; 3]| Type::new(ElemType::F32, d);
    let inputs = [
        ("x".to_string(), dims([2.into(), s.clone(), 5.into()])),
        ("z".to_string(), dims([2.into(), s, 5.into()])),
        ("q".to_string(), Type::new(ElemType::F32, [2, 2, 3, 5])),
    ];
    let body = m.add_entry("forward", inputs);
    let weights = [
        m.add_param("w", Type::new(ElemType::F32, [5, 5]), file, "w"),
        m.add_param("u", Type::new(ElemType::F32, [5, 3]), file, "u"),
        m.add_param("b", Type::new(ElemType::F32, [5]), file, "b"),
    ];
    let mut values = m.regions[body].args.clone();
    for numbers in steps {
        step(&mut m, &mut values, &weights, *numbers);
    }
    let mut outputs: Vec<(String, Value)> = vec![];
    for (n, v) in values.iter().rev().take(3).enumerate() {
        outputs.push((format!("y{n}"), *v));
    }
    m.set_outputs(body, outputs);
    m
}

proptest! {
    // The seed is fixed: a comparison of rounded constants must not depend on the day.
    #![proptest_config(ProptestConfig { cases: 200, rng_seed: proptest::test_runner::RngSeed::Fixed(17), failure_persistence: None, ..Default::default() })]
    #[test]
    fn random_graphs_compute_the_same(steps in prop::collection::vec(any::<[u8; 4]>(), 1..24)) {
        let before = graph(&steps);
        verify(&before).unwrap();
        let mut after = before.clone();
        run_pipeline(&mut after, &options()).unwrap_or_else(|e| panic!("{e}\n{before}"));
        support::assert_same(&before, &after, 0);
    }
}

#[test]
fn a_circuit_is_made_smaller_and_keeps_its_meaning() {
    let before = parse(include_str!("pipeline/circuit.kir")).unwrap();
    verify(&before).unwrap();
    let mut after = before.clone();
    let record = run_pipeline(&mut after, &options()).unwrap();
    for round in 0..2 {
        support::assert_same(&before, &after, round);
    }
    let fired: BTreeSet<&str> = record.rewrites.iter().map(|r| r.pass.as_str()).collect();
    for pass in [
        "prove-determinism",
        "drop-unit-sums",
        "merge-subcircuits",
        "collapse-chains",
        "layer-circuits",
        "choose-space",
    ] {
        assert!(fired.contains(pass), "{pass}: {fired:?}");
    }
    let c = after.circuits.values().next().unwrap();
    assert!(c.deterministic && c.levels().is_sorted(), "{after}");
    let asked = after.live_nodes().iter().filter(|n| after.nodes[**n].op == Op::CircuitQuery).count();
    assert_eq!(asked, 4, "{after}");
}
