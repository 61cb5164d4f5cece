//! Pointer networks the whole way: compiled, against PyTorch, against the interpreter and against exact solvers.
//!
//! The evaluation sets are not part of the tree; where they are absent, those tests say that they skip.

use kiln_frontend::LoadOptions;
use kiln_ir::ElemType;
use kiln_ir::eval::{Data, Tensor};
use kiln_runtime::{Artifact, Error, Session, SessionOptions};
use kiln_tests::support::{from_runtime, interpret, root, shared, stored, to_runtime};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A pick that differs from the reference's counts where the reference's two best scores are further apart.
const GAP: f64 = 1e-5;

fn golden(name: &str) -> PathBuf {
    root().join("frontend/tests/golden").join(name)
}

type Outputs = HashMap<String, Tensor>;

/// A compiled model, and the same in the interpreter.
struct Model {
    dir: PathBuf,
    artifact: Artifact,
}

/// The example's model, which several tests run.
fn tsp() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model::compile(root().join("examples/models/ptrnet-tsp")))
}

/// Another one, small.
fn gru() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model::compile(golden("pointer-gru")))
}

impl Model {
    fn compile(dir: PathBuf) -> Model {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model.kiln");
        let options = kiln::Options { targets: vec!["cpu:native".into()], ..Default::default() };
        kiln::compile(&dir, &options, &out).unwrap_or_else(|e| panic!("{e}"));
        Model { dir, artifact: Artifact::open(&out).unwrap() }
    }

    fn run(&self, entry: &str, inputs: &[(&str, Tensor)], threads: usize) -> Result<Outputs, Error> {
        let options = SessionOptions { threads: Some(threads), ..Default::default() };
        let mut session = Session::new(&self.artifact, options)?;
        let owned: Vec<_> = inputs.iter().map(|(name, t)| (*name, to_runtime(t))).collect();
        let views: Vec<_> = owned.iter().map(|(name, t)| (*name, t.view())).collect();
        let outputs = session.entry(entry)?.run(&views)?;
        Ok(outputs.iter().map(|(name, t)| (name.to_owned(), from_runtime(t))).collect())
    }

    fn interpret(&self, entry: &str, inputs: &[(&str, Tensor)]) -> Outputs {
        let model = kiln_frontend::load(&self.dir, &LoadOptions::default()).unwrap();
        let inputs: Vec<_> = inputs.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
        interpret(&model, entry, &inputs).into_iter().collect()
    }
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

fn lengths(values: Vec<i64>) -> (&'static str, Tensor) {
    ("lengths", Tensor::ints(ElemType::I64, [values.len()], values))
}

/// Points of the unit square that look random and are no two equal, as f32 holds them.
fn scattered(rows: usize, n: usize) -> (&'static str, Tensor) {
    let mut state = 0x9e37_79b9_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    ("points", Tensor::floats(ElemType::F32, [rows, n, 2], (0..rows * n * 2).map(|_| next()).collect()))
}

fn near(name: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(a == b || (a - b).abs() <= 2e-5 * b.abs().max(1.0), "{name}[{i}]: expected {b}, found {a}");
    }
}

type Point = [f64; 2];

/// The first `n` points of a row.
fn row_of(points: &Tensor, row: usize, n: usize) -> Vec<Point> {
    let at = row * points.shape[1] * 2;
    floats(points)[at..at + n * 2].chunks(2).map(|p| [p[0], p[1]]).collect()
}

fn distance(a: Point, b: Point) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

fn tour_length(points: &[Point], order: &[i64]) -> f64 {
    let n = order.len();
    (0..n).map(|i| distance(points[order[i] as usize], points[order[(i + 1) % n] as usize])).sum()
}

fn is_permutation(indices: &[i64]) -> bool {
    let mut sorted = indices.to_vec();
    sorted.sort_unstable();
    sorted.into_iter().eq(0..indices.len() as i64)
}

/// The length of the shortest tour: Held and Karp (1962).
fn held_karp(points: &[Point]) -> f64 {
    let m = points.len() - 1;
    if m == 0 {
        return 0.0;
    }
    let d = |a: usize, b: usize| distance(points[a], points[b]);
    // From point 0 through a set of the others to one of them.
    let mut best = vec![vec![f64::INFINITY; m]; 1 << m];
    for set in 1usize..1 << m {
        for j in (0..m).filter(|j| set >> j & 1 == 1) {
            let rest = set ^ (1 << j);
            best[set][j] = match rest {
                0 => d(0, j + 1),
                _ => (0..m)
                    .filter(|k| rest >> k & 1 == 1)
                    .map(|k| best[rest][k] + d(k + 1, j + 1))
                    .fold(f64::INFINITY, f64::min),
            };
        }
    }
    (0..m).map(|j| best[(1 << m) - 1][j] + d(j + 1, 0)).fold(f64::INFINITY, f64::min)
}

fn area(ring: &[Point]) -> f64 {
    let n = ring.len();
    let cross = |i: usize| ring[i][0] * ring[(i + 1) % n][1] - ring[i][1] * ring[(i + 1) % n][0];
    0.5 * (0..n).map(cross).sum::<f64>().abs()
}

/// The convex hull: Andrew's monotone chain (1979).
fn hull(points: &[Point]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let turn = |a: Point, b: Point, c: Point| (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
    let chain = |points: &mut dyn Iterator<Item = Point>| {
        let mut ring: Vec<Point> = vec![];
        for p in points {
            while ring.len() > 1 && turn(ring[ring.len() - 2], ring[ring.len() - 1], p) <= 0.0 {
                ring.pop();
            }
            ring.push(p);
        }
        ring.pop();
        ring
    };
    let lower = chain(&mut sorted.iter().copied());
    [lower, chain(&mut sorted.iter().rev().copied())].concat()
}

#[test]
fn small_models_of_every_kind_compute_what_pytorch_does() {
    let names = ["pointer-glimpse", "pointer-lstm-layers", "pointer-attention-batch", "pointer-attention-instance"];
    let compiled = names.map(|name| (name, Model::compile(golden(name))));
    for (name, model) in compiled.iter().map(|(name, model)| (*name, model)).chain([("pointer-gru", gru())]) {
        let reference = stored(&golden(name).join("reference.safetensors"));
        let points = ("points", reference["points"].clone());
        let rows = ("lengths", reference["lengths"].clone());
        let width = ("width", Tensor::ints(ElemType::I8, [reference["beam.length"].shape[1]], vec![0; 3]));
        let given = ("indices", reference["score.indices"].clone());
        let runs = [
            ("forward", vec![points.clone()]),
            ("forward_padded", vec![points.clone(), rows.clone()]),
            ("beam", vec![points.clone(), rows.clone(), width]),
            ("score", vec![points, rows, given]),
        ];
        for (entry, inputs) in runs {
            for threads in [1, 2] {
                for (output, found) in
                    model.run(entry, &inputs, threads).unwrap_or_else(|e| panic!("{name}, {entry}: {e}"))
                {
                    let key = format!("{entry}.{output}");
                    match &found.data {
                        Data::F(v) => near(&format!("{name}, {key}"), v, floats(&reference[&key])),
                        Data::I(v) => assert_eq!(v, ints(&reference[&key]), "{name}, {key}"),
                    }
                }
            }
        }
    }
}

/// The reference's picks on every held-out instance, and the rows whose picks differ where its decision was not close.
fn evaluate(model: &Model, task: &str) -> Option<(HashMap<String, Tensor>, Tensor)> {
    let data = stored(&shared(&format!("zoo/reference/ptrnet-{task}-eval.safetensors"))?);
    let sizes = ints(&data["sizes"]).to_vec();
    let inputs = [("points", data["points"].clone()), lengths(sizes.clone())];
    let found = model.run("forward_padded", &inputs, 2).unwrap();
    for threads in [1, 3] {
        let again = model.run("forward_padded", &inputs, threads).unwrap();
        assert_eq!(found["log_probability"].to_bytes(), again["log_probability"].to_bytes(), "{threads} threads");
        assert_eq!(found["indices"].data, again["indices"].data, "{threads} threads");
    }
    let (greedy, indices) = (&data["greedy"], &found["indices"]);
    let steps = greedy.shape[1];
    for (row, size) in sizes.iter().enumerate() {
        let picks = |t: &Tensor| ints(t)[row * steps..(row + 1) * steps].to_vec();
        let (want, got) = (picks(greedy), picks(indices));
        if let Some(at) = (0..steps).find(|k| want[*k] != got[*k]) {
            // The difference of the log-probabilities behind the same beginning is that of the two scores.
            let points = Tensor::floats(ElemType::F32, [1, data["points"].shape[1], 2], {
                floats(&data["points"])[row * data["points"].shape[1] * 2..][..data["points"].shape[1] * 2].to_vec()
            });
            let score = |picks: &[i64]| {
                let picks = ("indices", Tensor::ints(ElemType::I64, [1, at + 1], picks[..=at].to_vec()));
                floats(
                    &model.interpret("score", &[("points", points.clone()), lengths(vec![*size]), picks])["log_probability"],
                )[0]
            };
            let gap = score(&want) - score(&got);
            assert!(gap.abs() <= GAP, "{task}, instance {row}: expected {want:?}, found {got:?}, apart by {gap:e}");
        }
    }
    Some((data, found["indices"].clone()))
}

#[test]
fn tours_are_those_of_the_reference() {
    let model = tsp();
    let Some((data, indices)) = evaluate(model, "tsp") else { return };
    let (rows, steps) = (indices.shape[0], indices.shape[1]);
    let (mut ratios, mut best) = (vec![], 0);
    for row in 0..rows {
        let n = ints(&data["sizes"])[row] as usize;
        let (tour, points) = (&ints(&indices)[row * steps..][..n], row_of(&data["points"], row, n));
        assert!(is_permutation(tour), "{row}: {tour:?}");
        let shortest = held_karp(&points);
        assert!((shortest - floats(&data["best"])[row]).abs() < 1e-5);
        let length = tour_length(&points, tour);
        ratios.push(length / shortest);
        best += usize::from(length - shortest < 1e-6);
    }
    assert_eq!(best, 730);
    let mean = ratios.iter().sum::<f64>() / rows as f64;
    assert!((mean - 1.006_155_8).abs() < 1e-5, "mean ratio {mean}");
}

#[test]
fn hulls_are_those_of_the_reference() {
    let Some(dir) = shared("zoo/models/ptrnet-hull") else { return };
    let model = Model::compile(dir);
    let Some((data, indices)) = evaluate(&model, "hull") else { return };
    let steps = indices.shape[1];
    let mut exact = 0;
    for row in 0..indices.shape[0] {
        let n = ints(&data["sizes"])[row];
        let points = row_of(&data["points"], row, n as usize);
        let ring: Vec<Point> = ints(&indices)[row * steps..][..steps]
            .iter()
            .take_while(|i| (0..n).contains(i))
            .map(|i| points[*i as usize])
            .collect();
        let expected = hull(&points);
        assert!((area(&expected) - floats(&data["best"])[row]).abs() < 1e-5);
        // Both go counter-clockwise; a ring may begin anywhere.
        let start = expected.iter().position(|p| Some(p) == ring.first());
        let same = |s: usize| (0..ring.len()).all(|i| ring[i] == expected[(s + i) % expected.len()]);
        exact += usize::from(ring.len() == expected.len() && start.is_some_and(same));
    }
    assert_eq!(exact, 739);
}

#[test]
fn any_number_of_points_and_rows() {
    let model = tsp();
    for (rows, n) in [(1, 1), (3, 2), (1, 3), (7, 5), (1, 10), (128, 9), (2, 50), (1, 200)] {
        let inputs = [scattered(rows, n)];
        let found = model.run("forward", &inputs, 2).unwrap();
        assert!(ints(&found["indices"]).chunks(n).all(is_permutation), "{rows} rows of {n}");
        assert_eq!(ints(&found["length"]), vec![n as i64; rows]);
        if rows * n <= 64 {
            let expected = model.interpret("forward", &inputs);
            assert_eq!(found["indices"].data, expected["indices"].data, "{rows} rows of {n}");
            near("log_probability", floats(&found["log_probability"]), floats(&expected["log_probability"]));
        }
    }
    let mixed: Vec<i64> = (0..128).map(|i| 3 + i % 8).collect();
    let found = model.run("forward_padded", &[scattered(128, 10), lengths(mixed.clone())], 2).unwrap();
    for (row, n) in mixed.iter().enumerate() {
        let picks = &ints(&found["indices"])[row * 10..][..10];
        let (tour, filler) = picks.split_at(*n as usize);
        assert!(is_permutation(tour) && filler.iter().all(|i| *i == -1), "{row}: {picks:?}");
    }
    assert_eq!(ints(&found["length"]), mixed);
}

#[test]
fn beams_are_not_longer_and_their_probability_is_their_score() {
    let model = tsp();
    let (rows, n, beams) = (6, 8, 5);
    let (points, all) = (scattered(rows, n), lengths(vec![n as i64; rows]));
    let width = ("width", Tensor::ints(ElemType::I8, [beams], vec![0; beams]));
    let found = model.run("beam", &[points.clone(), all.clone(), width], 2).unwrap();
    let greedy = model.run("forward", std::slice::from_ref(&points), 2).unwrap();
    let probabilities = floats(&found["log_probability"]);
    for beam in 0..beams {
        let picks: Vec<i64> =
            (0..rows).flat_map(|r| ints(&found["indices"])[(r * beams + beam) * n..][..n].to_vec()).collect();
        assert!(picks.chunks(n).all(is_permutation));
        let given = ("indices", Tensor::ints(ElemType::I64, [rows, n], picks));
        let score = model.run("score", &[points.clone(), all.clone(), given], 1).unwrap();
        let of_beam: Vec<f64> = (0..rows).map(|r| probabilities[r * beams + beam]).collect();
        near("score", &of_beam, floats(&score["log_probability"]));
    }
    for row in 0..rows {
        let beams = &probabilities[row * beams..][..beams];
        assert!(beams.is_sorted_by(|a, b| a >= b), "{beams:?}");
        assert!(beams[0] >= floats(&greedy["log_probability"])[row] - 1e-5);
    }
}

#[test]
fn bad_input_of_compiled_models() {
    let model = gru();
    let message =
        |entry: &str, inputs: &[(&str, Tensor)]| model.run(entry, inputs, 2).map(drop).unwrap_err().to_string();
    let e = message("forward", &[scattered(1, 0)]);
    assert!(e.contains("N is 0, expected at least 1"), "{e}");
    let e = message("forward", &[scattered(1, 1025)]);
    assert!(e.contains("N is 1025, expected at most 1024"), "{e}");
    for n in [0, -1, 6, i64::MAX] {
        let e = message("forward_padded", &[scattered(1, 5), lengths(vec![n])]);
        assert_eq!(e, format!("input lengths[0] is {n}, expected 1 to 5"));
    }
    let score = |picks: Vec<i64>| {
        let given = ("indices", Tensor::ints(ElemType::I64, [1, picks.len()], picks));
        model.run("score", &[scattered(1, 5), lengths(vec![4]), given], 1).map(|o| floats(&o["log_probability"])[0])
    };
    assert_eq!(score(vec![0, 7]).unwrap_err().to_string(), "input indices[0, 1] is 7, expected 0 to 5");
    let misplaced = "input indices[0, 0] is -1, expected -1 only behind all others, found 2 behind it";
    assert_eq!(score(vec![-1, 2, 1]).unwrap_err().to_string(), misplaced);
    // As many as the row has candidates, and one more.
    assert!(score(vec![0, 1, 0, 1, 0, -1]).unwrap().is_finite());
    assert_eq!(score(vec![0, 1, 0, 1, 0, 1]).unwrap(), f64::NEG_INFINITY);
    assert_eq!(score(vec![-1, -1]).unwrap(), 0.0);
    assert_eq!(score(vec![4, 0]).unwrap(), f64::NEG_INFINITY);
    let (name, Tensor { elem, shape, data: Data::F(mut values) }) = scattered(2, 5) else { panic!("floats") };
    values[3] = f64::NAN;
    values[12] = f64::NEG_INFINITY;
    let e = message("forward", &[(name, Tensor::floats(elem, shape, values))]);
    let both = ["[0, 1, 1] is NaN", "[1, 1, 0] is -inf"];
    assert_eq!(e, both.map(|at| format!("input points{at}, expected a finite number")).join("\n"));
    let width = ("width", Tensor::ints(ElemType::I8, [20], vec![0; 20]));
    let found = model.run("beam", &[scattered(1, 2), lengths(vec![1]), width], 2).unwrap();
    assert_eq!(floats(&found["log_probability"]).iter().filter(|p| p.is_finite()).count(), 3);
}
