//! Pointer networks, evaluated by the reference interpreter, against PyTorch in float64.

use super::{golden::read, support::Model};
use kiln_frontend::{LoadOptions, Loaded, load};
use kiln_ir::{
    ElemType, Module, Op, Param, Value,
    eval::{self, Data, Tensor},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

fn zoo(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/zoo").join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no {}", path.display());
    None
}

type Outputs = HashMap<String, Tensor>;

fn run(loaded: &Loaded, entry: &str, inputs: &[(&str, Tensor)]) -> Result<Outputs, String> {
    let weights = |p: Param| {
        let data = &loaded.module.params[p];
        let t = loaded.weights.tensor(data.file, &data.key).ok_or("no such tensor")?;
        Tensor::from_bytes(t.elem, t.shape, t.bytes).ok_or("no such type".to_string())
    };
    let inputs = inputs.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
    let found = eval::run(&loaded.module, entry, &inputs, &weights).map_err(|e| e.to_string())?;
    Ok(found.into_iter().collect())
}

fn ints(t: &Tensor) -> &[i64] {
    match &t.data {
        Data::I(v) => v,
        Data::F(_) => panic!("floats"),
    }
}

fn floats(t: &Tensor) -> &[f64] {
    match &t.data {
        Data::F(v) => v,
        Data::I(_) => panic!("integers"),
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn assert_near(name: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.shape, expected.shape, "{name}");
    for (i, (a, b)) in floats(found).iter().zip(floats(expected)).enumerate() {
        assert!(a == b || (a - b).abs() <= tolerance * b.abs().max(1.0), "{name}[{i}]: expected {b}, found {a}");
    }
}

/// All entries of a small model; constants of a graph are f32.
fn small(name: &str) {
    let loaded = load(&golden(name), &LoadOptions::default()).unwrap();
    let reference = read(&golden(name).join("reference.safetensors"));
    let input = |key: &str| reference[key].clone();
    let (points, lengths) = (("points", input("points")), ("lengths", input("lengths")));
    let width = ("width", Tensor::ints(ElemType::I8, [reference["beam.length"].shape[1]], vec![0; 3]));
    let given = ("indices", input("score.indices"));
    let runs: [(&str, Vec<(&str, Tensor)>); 4] = [
        ("forward", vec![points.clone()]),
        ("forward_padded", vec![points.clone(), lengths.clone()]),
        ("beam", vec![points.clone(), lengths.clone(), width]),
        ("score", vec![points, lengths, given]),
    ];
    for (entry, inputs) in runs {
        let found = run(&loaded, entry, &inputs).unwrap();
        for (output, tensor) in found {
            let key = format!("{entry}.{output}");
            let place = format!("{name}, {key}");
            match output.as_str() {
                "log_probability" => assert_near(&place, &tensor, &reference[&key], 1e-5),
                _ => assert_eq!(
                    (&tensor.shape, ints(&tensor)),
                    (&reference[&key].shape, ints(&reference[&key])),
                    "{place}"
                ),
            }
        }
    }
}

#[test]
fn gru_in_both_directions_with_an_end_symbol() {
    small("pointer-gru");
}

#[test]
fn glimpses_over_embedded_points() {
    small("pointer-glimpse");
}

#[test]
fn layers_that_start_from_zeros() {
    small("pointer-lstm-layers");
}

#[test]
fn attention_model_with_statistics() {
    small("pointer-attention-batch");
}

#[test]
fn attention_model_normalised_by_row() {
    small("pointer-attention-instance");
}

/// Appends values of the body of the entry's last scan, stacked along its axis, to the outputs of the entry.
fn stack(m: &mut Module, entry: &str, values: &[(&str, Value)]) {
    let body = m.entry(entry).unwrap().body;
    let scan = *m.regions[body].nodes.iter().rfind(|n| m.nodes[**n].op == Op::Scan).unwrap();
    let old = m.nodes[scan].clone();
    m.regions[old.regions[0]].results.extend(values.iter().map(|(_, v)| *v));
    let new = m.create_node(Op::Scan, old.operands, old.attrs, old.regions, old.source).unwrap();
    let results = m.nodes[new].results.clone();
    m.replace_uses(&old.results.iter().copied().zip(results.iter().copied()).collect());
    let at = m.regions[body].nodes.iter().position(|n| *n == scan).unwrap();
    m.regions[body].nodes[at] = new;
    let names = m.entry(entry).unwrap().outputs.clone();
    let outputs = names.into_iter().zip(m.regions[body].results.clone());
    let stacked = values.iter().map(|(n, _)| n.to_string()).zip(results[old.results.len()..].to_vec());
    let outputs: Vec<_> = outputs.chain(stacked).collect();
    m.set_outputs(body, outputs);
}

/// Step `at` of a stacked tensor `[1,T,..]`.
fn step(t: &Tensor, at: usize) -> Tensor {
    let size: usize = t.shape[2..].iter().product();
    let shape: Vec<usize> = [&t.shape[..1], &t.shape[2..]].concat();
    Tensor::floats(t.elem, shape, floats(t)[at * size..(at + 1) * size].to_vec())
}

/// What the reference has besides the picks: the encoder's outputs and last state, the keys, the decoder's first state,
/// and the scores of every step before the mask. The sequences are those of the reference, fed through `score`.
fn intermediate(task: &str) {
    let Some(dir) = zoo(&format!("models/ptrnet-{task}")) else { return };
    let Some(reference) = zoo(&format!("reference/ptrnet-{task}.safetensors")) else { return };
    let reference = read(&reference);
    let mut loaded = load(&dir, &LoadOptions::default()).unwrap();
    let m = &mut loaded.module;
    let body = m.entry("score").unwrap().body;
    let scans: Vec<_> = m.regions[body].nodes.iter().copied().filter(|n| m.nodes[*n].op == Op::Scan).collect();
    let steps = m.nodes[scans[1]].regions[0];
    let find = |op: Op, source: &str| {
        let nodes = m.regions[steps].nodes.iter().map(|n| &m.nodes[*n]);
        nodes.filter(|d| d.op == op && d.source.as_deref() == Some(source)).collect::<Vec<_>>()
    };
    let scores = find(Op::Select, "decode.mask")[0].operand(2);
    let keys = find(Op::Matmul, "w1")[0].result();
    // The body yields the next input and then h and c.
    let state = m.regions[steps].results.clone();
    let encoder = m.nodes[scans[0]].results.clone();
    stack(m, "score", &[("scores", scores), ("keys", keys), ("decoder_h", state[1]), ("decoder_c", state[2])]);
    let names = m.entry("score").unwrap().outputs.clone();
    let outputs = names.into_iter().zip(m.regions[body].results.clone());
    let more = ["encoder_h", "encoder_c", "encoder_outputs"].map(String::from).into_iter().zip(encoder);
    let outputs: Vec<_> = outputs.chain(more).collect();
    m.set_outputs(body, outputs);
    for case in 0..4 {
        let get = |name: &str| reference.get(&format!("case{case}.{name}"));
        let (points, pointers) = (get("points").unwrap(), get("pointers").unwrap());
        let n = points.shape[1];
        let lengths = Tensor::ints(ElemType::I64, [1], vec![n as i64]);
        let inputs = [("points", points.clone()), ("lengths", lengths), ("indices", pointers.clone())];
        let found = run(&loaded, "score", &inputs).unwrap();
        let expected = get("logits").unwrap();
        for at in 0..ints(pointers).iter().filter(|p| **p >= 0).count() {
            let scores = step(&found["scores"], at);
            assert_near(&format!("{task} {case}: scores of step {at}"), &scores, &step(expected, at), 1e-5);
        }
        for (name, tensor) in [
            ("encoder_outputs", found["encoder_outputs"].clone()),
            ("encoder_h", found["encoder_h"].clone()),
            ("encoder_c", found["encoder_c"].clone()),
            ("keys", step(&found["keys"], 0)),
            ("decoder_h1", step(&found["decoder_h"], 0)),
            ("decoder_c1", step(&found["decoder_c"], 0)),
        ] {
            if let Some(expected) = get(name) {
                assert_near(&format!("{task} {case}: {name}"), &tensor, expected, 1e-6);
            }
        }
    }
}

#[test]
fn inside_of_a_tour() {
    intermediate("tsp");
}

#[test]
fn inside_of_a_hull() {
    intermediate("hull");
}

/// Every held-out instance of the zoo, all sizes in one batch: the reference's picks, and so its accuracy.
fn evaluation(task: &str, expected_accuracy: f64) {
    let Some(dir) = zoo(&format!("models/ptrnet-{task}")) else { return };
    let Some(data) = zoo(&format!("reference/ptrnet-{task}-eval.safetensors")) else { return };
    let data = read(&data);
    let loaded = load(&dir, &LoadOptions::default()).unwrap();
    let rows = data["sizes"].shape[0];
    let lengths = Tensor::ints(ElemType::I64, [rows], ints(&data["sizes"]).to_vec());
    let found = run(&loaded, "forward_padded", &[("points", data["points"].clone()), ("lengths", lengths)]).unwrap();
    let (greedy, indices) = (&data["greedy"], &found["indices"]);
    assert_eq!(indices.shape, greedy.shape);
    let width = greedy.shape[1];
    let row = |t: &Tensor, b: usize| ints(t)[b * width..(b + 1) * width].to_vec();
    // The interpreter computes in f64, so that not even a close decision falls otherwise.
    let different: Vec<usize> = (0..rows).filter(|b| row(greedy, *b) != row(indices, *b)).collect();
    assert!(different.is_empty(), "{task}: other picks in {different:?}");
    let hits = (0..rows).filter(|b| {
        let n = ints(&data["sizes"])[*b];
        let cycle = |t: &Tensor| -> Vec<i64> { row(t, *b).into_iter().filter(|i| (0..n).contains(i)).collect() };
        let (got, mut want) = (cycle(indices), cycle(&data["labels"]));
        let forwards = same_cycle(&got, &want);
        // A tour may also be walked the other way.
        want.reverse();
        forwards || (task == "tsp" && same_cycle(&got, &want))
    });
    let accuracy = hits.count() as f64 / rows as f64;
    assert!((accuracy - expected_accuracy).abs() < 1e-9, "{task}: accuracy {accuracy}");
}

/// Whether both are one cycle, wherever they begin.
fn same_cycle(a: &[i64], b: &[i64]) -> bool {
    let start = b.iter().position(|i| a.first() == Some(i));
    a.len() == b.len() && start.is_some_and(|s| (0..a.len()).all(|i| a[i] == b[(s + i) % b.len()]))
}

#[test]
fn tours_of_the_evaluation_set() {
    evaluation("tsp", 0.730);
}

#[test]
fn hulls_of_the_evaluation_set() {
    evaluation("hull", 0.739);
}

/// Points that look random.
fn scattered(rows: usize, n: usize) -> Tensor {
    let value = |i: usize| ((i as f64 * 0.754_877_666 + 0.3).fract() as f32) as f64;
    Tensor::floats(ElemType::F32, [rows, n, 2], (0..rows * n * 2).map(|i| value(i * i + 7 * i)).collect())
}

fn is_permutation(indices: &[i64]) -> bool {
    let mut sorted = indices.to_vec();
    sorted.sort_unstable();
    sorted.into_iter().eq(0..indices.len() as i64)
}

#[test]
fn any_number_of_points() {
    let loaded = load(&golden("pointer-glimpse"), &LoadOptions::default()).unwrap();
    for n in [1, 2, 3, 40, 200] {
        let found = run(&loaded, "forward", &[("points", scattered(2, n))]).unwrap();
        for row in ints(&found["indices"]).chunks(n) {
            assert!(is_permutation(row), "{n}: {row:?}");
        }
        assert_eq!(ints(&found["length"]), [n as i64; 2]);
    }
    let e = run(&loaded, "forward", &[("points", scattered(1, 0))]).unwrap_err();
    assert!(e.contains("N") && e.contains("expected 1..1024, found 0"), "{e}");
    let e = run(&loaded, "forward", &[("points", scattered(1, 1025))]).unwrap_err();
    assert!(e.contains("expected 1..1024, found 1025"), "{e}");
    let mut options = LoadOptions::default();
    options.add_max("N=9").unwrap();
    let limited = load(&golden("pointer-glimpse"), &options).unwrap();
    let e = run(&limited, "forward", &[("points", scattered(1, 10))]).unwrap_err();
    assert!(e.contains("expected 1..9, found 10"), "{e}");
}

#[test]
fn lengths_and_indices_that_do_not_exist() {
    let loaded = load(&golden("pointer-gru"), &LoadOptions::default()).unwrap();
    let lengths = |n: i64| ("lengths", Tensor::ints(ElemType::I64, [1], vec![n]));
    for n in [0, -1, 6, i64::MAX] {
        let e = run(&loaded, "forward_padded", &[("points", scattered(1, 5)), lengths(n)]).unwrap_err();
        assert_eq!(e, format!("input lengths[0] is {n}, expected 1 to 5"));
    }
    let score = |indices: Vec<i64>| {
        let indices = ("indices", Tensor::ints(ElemType::I64, [1, indices.len()], indices));
        run(&loaded, "score", &[("points", scattered(1, 5)), lengths(4), indices])
            .map(|o| floats(&o["log_probability"])[0])
    };
    assert_eq!(score(vec![0, 7]).unwrap_err(), "input indices[0, 1] is 7, expected 0 to 5");
    let misplaced = "input indices[0, 0] is -1, expected -1 only behind all others, found 2 behind it";
    assert_eq!(score(vec![-1, 2, 1]).unwrap_err(), misplaced);
    assert!(score(vec![0, 4]).unwrap().is_finite());
    // A filler, and what stands behind the end or beyond the row's own points.
    assert_eq!(score(vec![-1, -1]).unwrap(), 0.0);
    assert_eq!(score(vec![4, 0]).unwrap(), f64::NEG_INFINITY);
    assert_eq!(score(vec![5]).unwrap(), f64::NEG_INFINITY);
    // As many as the row has candidates, and one more.
    assert!(score(vec![0, 1, 0, 1, 0, -1]).unwrap().is_finite());
    assert_eq!(score(vec![0, 1, 0, 1, 0, 1]).unwrap(), f64::NEG_INFINITY);
}

#[test]
fn everything_masked() {
    let loaded = load(&golden("pointer-glimpse"), &LoadOptions::default()).unwrap();
    let lengths = ("lengths", Tensor::ints(ElemType::I64, [1], vec![2]));
    let indices = ("indices", Tensor::ints(ElemType::I64, [1, 3], vec![1, 0, 1]));
    let found = run(&loaded, "score", &[("points", scattered(1, 3)), lengths, indices]).unwrap();
    assert_eq!(floats(&found["log_probability"]), [f64::NEG_INFINITY]);
}

#[test]
fn more_beams_than_sequences() {
    for name in ["pointer-glimpse", "pointer-gru"] {
        let loaded = load(&golden(name), &LoadOptions::default()).unwrap();
        let lengths = ("lengths", Tensor::ints(ElemType::I64, [1], vec![1]));
        let width = ("width", Tensor::ints(ElemType::I8, [20], vec![0; 20]));
        let found = run(&loaded, "beam", &[("points", scattered(1, 2)), lengths, width]).unwrap();
        let real = floats(&found["log_probability"]).iter().take_while(|p| p.is_finite()).count();
        // One point, with an end symbol: nothing, the point and the end, the point twice.
        assert_eq!(real, if name == "pointer-gru" { 3 } else { 1 }, "{name}");
        assert!(floats(&found["log_probability"])[real..].iter().all(|p| *p == f64::NEG_INFINITY));
        assert!(ints(&found["length"])[..real].iter().all(|n| *n > 0));
        assert!(ints(&found["length"])[real..].iter().all(|n| *n == 0));
        let steps = found["indices"].shape[2];
        assert!(ints(&found["indices"])[real * steps..].iter().all(|i| *i == -1));
    }
}

#[test]
fn coordinates_that_are_not_numbers_and_equal_points() {
    for name in ["pointer-glimpse", "pointer-gru", "pointer-attention-batch"] {
        let loaded = load(&golden(name), &LoadOptions::default()).unwrap();
        let mut values = floats(&scattered(2, 4)).to_vec();
        values[3] = f64::NAN;
        let points = Tensor::floats(ElemType::F32, [2, 4, 2], values);
        let refused = run(&loaded, "forward", &[("points", points)]).unwrap_err();
        assert_eq!(refused, "input points[0, 1, 1] is NaN, expected a finite number", "{name}");
        let points = Tensor::floats(ElemType::F32, [1, 4, 2], vec![0.5; 8]);
        let found = run(&loaded, "forward", &[("points", points)]).unwrap();
        assert!(floats(&found["log_probability"])[0].is_finite(), "{name}");
        assert!(name == "pointer-gru" || is_permutation(ints(&found["indices"])), "{name}");
    }
}

#[test]
fn configurations_that_are_refused() {
    let refused = |name: &str, edit: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let model = Model::copy(name);
        model.edit_json("config.json", |c| edit(c));
        model.errors()
    };
    let errors = refused("pointer-gru", &|c| {
        c.insert("attention".into(), "bilinear".into());
        c.insert("gate_order".into(), "rzr".into());
        c.insert("decoding".into(), "sampled".into());
        c.insert("dropout_everywhere".into(), 1.into());
        c.insert("max_points".into(), (1u64 << 40).into());
        c.insert("hidden_size".into(), 0.into());
        c.insert("glimpses".into(), (-1).into());
        c.insert("end_symbol".into(), "<eos>".into());
    });
    for key in [
        "attention",
        "gate_order",
        "decoding",
        "dropout_everywhere",
        "max_points",
        "hidden_size",
        "glimpses",
        "end_symbol",
    ] {
        let place = format!("config.json: {key}: expected ");
        assert_eq!(errors.iter().filter(|e| e.starts_with(&place)).count(), 1, "{key}: {errors:#?}");
    }
    assert_eq!(errors.len(), 8, "{errors:#?}");
    let errors = refused("pointer-gru", &|c| drop(c.insert("num_layers".into(), 2_000_000_000.into())));
    assert!(errors[0].starts_with("config.json: num_layers: expected at most "), "{errors:?}");
    let errors = refused("pointer-gru", &|c| drop(c.insert("hidden_size".into(), (1u64 << 31).into())));
    assert!(errors.iter().any(|e| e.contains("expected shape")), "{errors:?}");
    let errors = refused("pointer-attention-batch", &|c| {
        c.insert("n_heads".into(), 3.into());
        c.insert("mask_visited".into(), false.into());
        c.insert("cell".into(), "lstm".into());
    });
    assert_eq!(
        errors,
        [
            "config.json: n_heads: expected a divisor of embedding_dim, 8, found 3",
            "config.json: mask_visited: expected true, as this model visits every point once, found false",
            "config.json: cell: expected only keys whose meaning is known, as any may change the computation, found \"lstm\"",
        ]
    );
    let errors = refused("pointer-glimpse", &|c| drop(c.insert("bidirectional".into(), true.into())));
    assert_eq!(errors, ["config.json: bidirectional: expected null, \"sum\" or \"concat\", found true"]);
}

#[test]
fn snapshot() {
    let loaded = load(&golden("pointer-gru"), &LoadOptions::default()).unwrap();
    let text = loaded.module.to_string();
    let end = text.find("  entry @beam").unwrap();
    insta::assert_snapshot!(&text[..end]);
}
