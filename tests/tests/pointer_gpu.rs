//! Pointer networks on a GPU, an emulated one: the same picks as on the processor, in every entry.

#[path = "../../backends/tests/emulator/mod.rs"]
mod emulator;

use kiln_ir::ElemType;
use kiln_ir::eval::{Data, Tensor};
use kiln_runtime::{Artifact, Session, SessionOptions};
use kiln_tests::support::{from_runtime, root, shared, to_runtime};
use std::collections::BTreeMap;
use std::path::Path;

type Inputs = Vec<(&'static str, Tensor)>;

fn run(artifact: &Artifact, target: &str, entry: &str, inputs: &Inputs) -> BTreeMap<String, Tensor> {
    let (target, driver) = (Some(target.to_owned()), Some(emulator::driver()));
    let mut session = Session::new(artifact, SessionOptions { target, driver, ..Default::default() }).unwrap();
    let owned: Vec<_> = inputs.iter().map(|(name, t)| (*name, to_runtime(t))).collect();
    let views: Vec<_> = owned.iter().map(|(name, t)| (*name, t.view())).collect();
    let outputs = session.entry(entry).unwrap().run(&views).unwrap();
    outputs.iter().map(|(name, t)| (name.to_owned(), from_runtime(t))).collect()
}

/// Points that look random.
fn points(rows: usize, n: usize) -> (&'static str, Tensor) {
    let mut state = 0x9e37_79b9_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    ("points", Tensor::floats(ElemType::F32, [rows, n, 2], (0..rows * n * 2).map(|_| next()).collect()))
}

fn ints(name: &'static str, shape: &[usize], values: Vec<i64>) -> (&'static str, Tensor) {
    (name, Tensor::ints(ElemType::I64, shape, values))
}

/// Compiles a model for both, and compares what its entries say of each of these inputs.
fn agree(dir: &Path, inputs: &[(&str, Inputs)]) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.kiln");
    let targets = vec!["cpu:native".into(), "cuda:sm_80".into()];
    kiln::compile(dir, &kiln::Options { targets, ..Default::default() }, &out).unwrap_or_else(|e| panic!("{e}"));
    let artifact = Artifact::open(&out).unwrap();
    let [cpu, gpu] = [0, 1].map(|i| artifact.manifest().targets[i].name.clone());
    assert!(gpu.starts_with("cuda") && cpu.starts_with("cpu"), "{cpu} {gpu}");
    for (entry, inputs) in inputs {
        let (expected, found) = (run(&artifact, &cpu, entry, inputs), run(&artifact, &gpu, entry, inputs));
        for (name, expected) in expected {
            match (&found[&name].data, &expected.data) {
                (Data::I(a), Data::I(b)) => assert_eq!(a, b, "{} {entry} {name}", dir.display()),
                (Data::F(a), Data::F(b)) => {
                    let near = |(a, b): (&f64, &f64)| a == b || (a - b).abs() <= 2e-5 * b.abs().max(1.0);
                    assert!(a.iter().zip(b).all(near), "{} {entry} {name}: {a:?} {b:?}", dir.display());
                }
                _ => panic!("{name} is of another type"),
            }
        }
    }
}

/// Greedy decoding of rows of equal and of mixed lengths, a beam search, and the scores of given picks.
fn every_entry() -> Vec<(&'static str, Inputs)> {
    let lengths = || ints("lengths", &[3], vec![4, 2, 3]);
    let width = ("width", Tensor::ints(ElemType::I8, [2], vec![0; 2]));
    let picks = ints("indices", &[3, 4], vec![3, 1, 0, 2, 1, 0, -1, -1, 0, 2, 1, -1]);
    vec![
        ("forward", vec![points(1, 3)]),
        ("forward_padded", vec![points(3, 4), lengths()]),
        ("beam", vec![points(3, 4), lengths(), width]),
        ("score", vec![points(3, 4), lengths(), picks]),
    ]
}

macro_rules! small {
    ($($name:ident $folder:literal $entries:expr),*) => {$(
        #[test]
        fn $name() {
            agree(&root().join("frontend/tests/golden").join($folder), &every_entry()[$entries]);
        }
    )*};
}
small!(
    cells_of_two_layers "pointer-gru" ..,
    glimpses "pointer-glimpse" ..,
    layers "pointer-lstm-layers" ..,
    // Theirs have tiles of attention, which the emulation takes long for.
    attention_models "pointer-attention-batch" ..1
);

#[test]
fn tours() {
    let inputs = [points(3, 5), ints("lengths", &[3], vec![5, 3, 4])];
    agree(
        &root().join("examples/models/ptrnet-tsp"),
        &[("forward", vec![points(1, 4)]), ("forward_padded", inputs.into())],
    );
}

#[test]
fn hulls() {
    let Some(dir) = shared("zoo/models/ptrnet-hull") else { return };
    agree(&dir, &[("forward", vec![points(1, 3)])]);
}
