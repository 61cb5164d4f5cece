//! Circuits of other tools on a GPU, an emulated one: the answers of the same artifact's code for processors.
//!
//! The models are not part of the tree: they lie in `../shared`, and without them the tests say that they skip.

#[path = "../../backends/tests/emulator/mod.rs"]
mod emulator;
#[path = "../../backends/tests/ptx/mod.rs"]
mod ptx;

use kiln_frontend::LoadOptions;
use kiln_ir::ElemType;
use kiln_ir::eval::{Data, Tensor};
use kiln_kernels::cuda::Sm;
use kiln_runtime::format::SectionKind;
use kiln_runtime::{Artifact, Session, SessionOptions};
use kiln_tests::support::{from_runtime, shared, to_runtime};
use std::path::Path;

type Named = Vec<(String, Tensor)>;

/// For processors and GPUs, in f64; GPUs come second.
fn compile(model: &Path) -> (Artifact, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.kiln");
    let load = LoadOptions { elem: Some(ElemType::F64), ..LoadOptions::default() };
    let targets = vec!["cpu:native".into(), "cuda:sm_80".into()];
    let options = kiln::Options { load, targets, ..kiln::Options::default() };
    kiln::compile(model, &options, &out).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    (Artifact::open(&out).unwrap(), std::fs::read(&out).unwrap())
}

fn run(artifact: &Artifact, target: usize, entry: &str, inputs: &Named) -> Named {
    let target = Some(artifact.manifest().targets[target].name.clone());
    let options = SessionOptions { target, driver: Some(emulator::driver()), ..Default::default() };
    let mut session = Session::new(artifact, options).unwrap();
    let owned: Vec<_> = inputs.iter().map(|(name, t)| (name.as_str(), to_runtime(t))).collect();
    let views: Vec<_> = owned.iter().map(|(name, t)| (*name, t.view())).collect();
    let outputs = session.entry(entry).unwrap().run(&views).unwrap_or_else(|e| panic!("{entry}: {e}"));
    outputs.iter().map(|(name, t)| (name.to_owned(), from_runtime(t))).collect()
}

type Rows<'a> = &'a [&'a dyn Fn(usize) -> f64];

/// Asks both, entry by entry, for what a circuit knows of rows, which are given cell by cell.
fn agree(model: &str, asked: &[(&str, Rows<'_>)]) {
    let Some(path) = shared(model) else { return };
    let (artifact, _) = compile(&path);
    let variables: usize = artifact.manifest().metadata["circuit.variables"].parse().unwrap();
    for (entry, rows) in asked {
        let cells = rows.iter().flat_map(|row| (0..variables).map(row)).collect();
        let mut inputs = vec![("x".to_owned(), Tensor::floats(ElemType::F64, [rows.len(), variables], cells))];
        if *entry == "sample" {
            let seeds = (7..).take(rows.len()).collect();
            inputs.push(("seed".to_owned(), Tensor::ints(ElemType::I64, [rows.len()], seeds)));
        }
        let [expected, found] = [0, 1].map(|target| run(&artifact, target, entry, &inputs));
        for ((name, expected), (_, found)) in expected.iter().zip(&found) {
            let (Data::F(a), Data::F(b)) = (&expected.data, &found.data) else { panic!("{name} is no float") };
            assert!(a.len() == b.len() && a.iter().any(|a| a.is_finite()), "{model} {entry} {name}: {a:?}");
            let near = |(a, b): (&f64, &f64)| a == b || (a - b).abs() <= 1e-11 * a.abs().max(1.0);
            assert!(a.iter().zip(b).all(near), "{model} {entry} {name}: {a:?} {b:?}");
        }
    }
}

/// Complete rows go by bits, and rows with missing cells by values.
#[test]
fn a_deterministic_circuit() {
    let (zeros, some) = (|_| 0.0, |v| f64::from(u8::from(v % 5 == 1)));
    let missing = |v| if v % 3 == 0 { f64::NAN } else { 0.0 };
    let asked: [(&str, Rows<'_>); 3] =
        [("log_likelihood", &[&zeros, &some]), ("log_likelihood", &[&missing, &some]), ("mpe", &[&missing, &zeros])];
    agree("data/circuits/psdd/nltcs.psdd", &asked);
}

#[test]
fn histograms() {
    let (zeros, some) = (|_| 0.0, |v: usize| (v % 3) as f64);
    let missing = |v| if v < 2 { f64::NAN } else { 1.0 };
    let rows: Rows<'_> = &[&zeros, &missing, &some];
    let entries = ["log_likelihood", "mpe", "sample", "marginals", "expectation"];
    agree("data/circuits/spnc/NIPS5.bin", &entries.map(|entry| (entry, rows)));
}

#[test]
fn a_large_circuit_is_assembled_without_spills() {
    let Some(path) = shared("data/circuits/psdd/tretail.psdd") else { return };
    let (artifact, bytes) = compile(&path);
    let Some(ptxas) = ptx::ptxas() else { return };
    let mut kernels = 0;
    for section in artifact.sections().iter().filter(|s| s.kind == SectionKind::Code) {
        let code = &bytes[section.offset as usize..][..section.len as usize];
        if code.starts_with(b"\x7fELF") {
            continue;
        }
        for usage in ptx::assemble(ptxas, Sm::Sm80, code) {
            assert_eq!((usage.spilled, usage.stack), (0, 0), "{usage:?}");
            kernels += 1;
        }
    }
    assert!(kernels > 5, "{kernels} kernels");
}
