//! Draws by seeds: the same from the interpreter, a processor and an emulated GPU, and as often as the logits say.

#[path = "../../backends/tests/emulator/mod.rs"]
mod emulator;

use kiln_ir::{
    ElemType,
    eval::{self, Data, Tensor},
    sample::{Domain, Random, tensor},
};
use kiln_runtime::{Artifact, Session, SessionOptions};
use kiln_tests::support::{from_runtime, to_runtime};
use std::{collections::HashMap, fs};

/// A draw of all positions, and one of the four likeliest at another temperature.
const TEXT: &str = "module @draws stage=imported {
  dim B = 1..10000
  dim V = 4..100000
  entry @all(%x: f32[B,V], %s: i64[B]) -> (y: i64[B]) {
    %0 = categorical %x, %s axis=1 : i64[B]
    return %0
  }
  entry @few(%x: bf16[B,V], %s: i64[B]) -> (y: i64[B]) {
    %1 = mul %x, 1.5:bf16 : bf16[B,V]
    %2, %3 = topk %1 axis=1 k=4 : bf16[B,4], i64[B,4]
    %4 = slice %2 axis=1 start=3 end=4 : bf16[B,1]
    %5 = compare %1, %4 dir=ge : i1[B,V]
    %6 = select %5, %1, -inf:bf16 : bf16[B,V]
    %7 = categorical %6, %s axis=1 : i64[B]
    return %7
  }
}";

fn compile(targets: &[&str]) -> Artifact {
    let folder = tempfile::tempdir().unwrap();
    let (graph, out) = (folder.path().join("draws.kir"), folder.path().join("draws.kiln"));
    fs::write(&graph, TEXT).unwrap();
    let targets = targets.iter().map(|t| (*t).into()).collect();
    kiln::compile(&graph, &kiln::Options { targets, ..Default::default() }, &out).unwrap_or_else(|e| panic!("{e}"));
    Artifact::from_bytes(&fs::read(out).unwrap()).unwrap()
}

fn run(artifact: &Artifact, target: usize, entry: &str, inputs: &HashMap<String, Tensor>) -> Vec<i64> {
    let (target, driver) = (Some(artifact.manifest().targets[target].name.clone()), Some(emulator::driver()));
    let mut session = Session::new(artifact, SessionOptions { target, driver, ..Default::default() }).unwrap();
    let owned: Vec<_> = inputs.iter().map(|(name, t)| (name.as_str(), to_runtime(t))).collect();
    let views: Vec<_> = owned.iter().map(|(name, t)| (*name, t.view())).collect();
    let outputs = session.entry(entry).unwrap().run(&views).unwrap();
    integers(&from_runtime(outputs.get("y").unwrap()))
}

fn integers(tensor: &Tensor) -> Vec<i64> {
    match &tensor.data {
        Data::I(values) => values.clone(),
        Data::F(_) => panic!("positions are integers"),
    }
}

#[test]
fn a_seed_gives_the_same_draw_everywhere() {
    let module = kiln_ir::parse(TEXT).unwrap();
    let artifact = compile(&["cpu:native", "cuda:sm_80"]);
    let mut random = Random(5);
    for (entry, elem) in [("all", ElemType::F32), ("few", ElemType::BF16)] {
        for shape in [[1, 4], [7, 37], [3, 300]] {
            let seeds = (0..shape[0] as i64).map(|i| (i - 2).wrapping_mul(0x1234_5678_9abc_def1)).collect();
            let inputs = HashMap::from([
                ("x".to_owned(), tensor(&mut random, elem, &shape, Domain::Any)),
                ("s".to_owned(), Tensor::ints(ElemType::I64, [shape[0]], seeds)),
            ]);
            let expected = integers(&eval::run(&module, entry, &inputs, &eval::no_weights).unwrap()[0].1);
            for target in 0..2 {
                assert_eq!(run(&artifact, target, entry, &inputs), expected, "{entry} {shape:?} target {target}");
            }
        }
    }
}

#[test]
fn positions_are_drawn_as_often_as_the_logits_say() {
    let artifact = compile(&["cpu:native"]);
    let probabilities = [0.5f64, 0.25, 0.2, 0.05];
    let draws = 10000;
    let logits = (0..draws).flat_map(|_| probabilities.map(f64::ln)).collect();
    let inputs = HashMap::from([
        ("x".to_owned(), Tensor::floats(ElemType::F32, [draws, 4], logits)),
        ("s".to_owned(), Tensor::ints(ElemType::I64, [draws], (0..draws as i64).collect())),
    ]);
    let found = run(&artifact, 0, "all", &inputs);
    for (position, p) in probabilities.iter().enumerate() {
        let count = found.iter().filter(|i| **i == position as i64).count() as f64;
        let (expected, deviation) = (p * draws as f64, (p * (1.0 - p) * draws as f64).sqrt());
        assert!((count - expected).abs() < 4.0 * deviation, "{count} times {position}, expected {expected}");
    }
}
