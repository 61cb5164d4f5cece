//! The checks for machines with a GPU, on an emulated one: a bundle is written, read, run and judged.

#[path = "../gpu/bundle/benches.rs"]
mod benches;
#[path = "../../backends/tests/conformance/cases.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part is used")]
mod cases;
#[path = "../gpu/check/checks.rs"]
mod checks;
#[path = "../gpu/bundle/contents.rs"]
mod contents;
#[path = "../../backends/tests/emulator/mod.rs"]
mod emulator;
#[path = "../gpu/bundle/figures.rs"]
mod figures;
#[path = "../../backends/tests/conformance/harness.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part is used")]
mod harness;
#[path = "../gpu/check/judge.rs"]
mod judge;
#[path = "../../backends/tests/ptx/mod.rs"]
mod ptx;

use contents::Bundle;
use kiln_ir::ElemType;
use kiln_kernels::cuda::Sm;
use kiln_runtime::{Artifact, format::SectionKind};
use serde_json::{Value, json};
use std::{fs, path::Path};

fn check(folder: &Path, peers: Value) -> Vec<Value> {
    let mut heard = vec![];
    let mut row = |row: &Value| heard.push(row.clone());
    let driver = Some(emulator::driver());
    let options =
        checks::Options { bundle: folder, driver, only: vec![], cases: true, benches: true, peers, row: &mut row };
    let rows = checks::run(options).unwrap();
    let names = |rows: &[Value]| rows.iter().map(|row| row["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&rows), names(&heard));
    rows
}

#[test]
fn a_bundle_is_run_and_judged() {
    let folder = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::new(folder.path());
    let wanted = ["reduce_nothing", "norm_over_two_axes", "while_by_few_rows"];
    bundle.conformance(ElemType::F32, &|case| wanted.contains(&case.name)).unwrap();
    let text = "module @m stage=imported { entry @f(%x: f16[2,9], %i: i64[3]) -> (y: f16[3,9]) {
        %0 = gather %x, %i axis=0 : f16[3,9] return %0 } }";
    let module = bundle.compile("bench.kiln", text, folder.path()).unwrap();
    for name in ["lookup_f16", "gather_of_few_f16", "copy_f32"] {
        bundle.bench(name, ("bench.kiln", &module, "f"), &[], 2, [Some(1e6), Some(108.0)]).unwrap();
    }
    bundle.calls("decode", contents::DECODE, &contents::DECODE_CALLS[..2]).unwrap();
    let cases = bundle.cases.len();
    assert!(cases >= 5, "{cases} cases");
    bundle.finish().unwrap();

    // The emulated device has compute capability 9.0, so it runs both targets.
    let rows = check(folder.path(), json!({"lookup_f16": 500.0}));
    assert_eq!(rows.len(), 2 * (cases + 3));
    assert!(checks::is_good(&rows), "{}", checks::table(&rows));
    let bench = rows.iter().find(|row| row["kind"] == "bench").unwrap();
    assert!(bench["launches"].as_u64() >= Some(1) && bench["gb_per_s"].as_f64() > Some(0.0), "{bench}");
    assert!(checks::table(&rows).contains("lookup"), "{}", checks::table(&rows));
    // The emulated events are a millisecond apart, the copy's as all others, and its device has three multiprocessors.
    let row = |name: &str, target: &str| {
        rows.iter().find(|row| row["name"] == name && row["target"] == target).unwrap_or_else(|| panic!("{name}"))
    };
    let (lookup, gather) = (row("lookup_f16", "cuda:sm_90a"), row("gather_of_few_f16", "cuda:sm_90a"));
    assert_eq!((lookup["peer_us"].as_f64(), lookup["ratio"].as_f64()), (Some(500.0), Some(0.5)), "{lookup}");
    assert_eq!(lookup["limit_share"].as_f64(), Some(1.0), "{lookup}");
    let figure = &gather["figures"][0];
    assert_eq!((figure["found"].as_f64(), &figure["met"]), (Some(1.0), &json!(true)), "{gather}");
    assert_eq!(row("gather_of_few_f16", "cuda:sm_80")["figures"], json!([]));
    let summary = judge::summary(&rows);
    assert!(summary.starts_with("met ") && summary.contains("1.00 of  0.85 times limit"), "{summary}");

    // Other numbers than those that are expected are found.
    let list = fs::read_to_string(folder.path().join("bundle.json")).unwrap();
    let mut bundle: Value = serde_json::from_str(&list).unwrap();
    for case in bundle["cases"].as_array_mut().unwrap() {
        case["limits"] = json!({});
    }
    fs::write(folder.path().join("bundle.json"), bundle.to_string()).unwrap();
    let rows = check(folder.path(), Value::Null);
    let wrong: Vec<&Value> = rows.iter().filter(|row| !row["problem"].is_null()).collect();
    assert!(wrong.iter().all(|row| row["problem"].as_str().unwrap().contains("limit")), "{wrong:?}");
    assert!(wrong.iter().any(|row| row["name"].as_str().unwrap().contains("norm_over_two_axes")), "{wrong:?}");
    assert!(checks::table(&rows).contains("WRONG cuda:sm_80"), "{}", checks::table(&rows));
}

/// They are assembled, where ptxas is installed, and spill nothing.
#[test]
fn every_example_model_has_code_for_gpus() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/zoo/models/ptrnet-hull");
    let mut models: Vec<_> = ["digits-vit", "ptrnet-tsp", "digits-hclt"].map(|name| models.join(name)).into();
    if zoo.is_dir() {
        models.push(zoo);
    } else {
        println!("skipped: {} is absent", zoo.display());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.kiln");
    let mut spilling = vec![];
    for model in models {
        let targets = ["cpu:x86-64-v3", "cuda:sm_80", "cuda:sm_90a"];
        let options = kiln::Options { targets: targets.map(String::from).into(), ..kiln::Options::default() };
        kiln::compile(&model, &options, &path).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
        let artifact = Artifact::open(&path).unwrap();
        let has: Vec<&str> = artifact.manifest().targets.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(has, targets, "{}", model.display());
        let Some(ptxas) = ptx::ptxas() else { continue };
        let bytes = fs::read(&path).unwrap();
        let code = artifact.sections().iter().filter(|section| section.kind == SectionKind::Code);
        for (sm, section) in Sm::ALL.into_iter().zip(code.skip(1)) {
            let usages = ptx::assemble(ptxas, sm, &bytes[section.offset as usize..][..section.len as usize]);
            spilling.extend(ptx::spilling(&usages).into_iter().map(|usage| (model.clone(), sm, usage.clone())));
        }
    }
    assert!(spilling.is_empty(), "{spilling:#?}");
}

/// Of those that a bundle checks beside the examples, the one that is small enough to be emulated here.
#[test]
fn a_small_transformer_is_right() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../frontend/tests/golden");
    assert!(contents::GOLDEN.iter().all(|name| golden.join(name).is_dir()));
    let folder = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::new(folder.path());
    bundle.model("bert", &golden.join("bert"), &[&[]], None).unwrap();
    bundle.finish().unwrap();
    let rows = check(folder.path(), Value::Null);
    assert!(checks::is_good(&rows), "{}", checks::table(&rows));
}

/// Two binary variables and a sum over two products of them.
#[test]
fn a_circuit_is_timed_on_possible_rows() {
    let folder = tempfile::tempdir().unwrap();
    let bundle_folder = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::new(bundle_folder.path());
    let text = "jpc 7\nL 0 0 1\nL 1 0 -1\nL 2 1 2\nL 3 1 -2\nP 4 2 2 0 2\nP 5 2 2 1 3\nS 6 2 2 4 -1.3862943611198906 5 -0.2876820724517809\n";
    let path = folder.path().join("pair.jpc");
    fs::write(&path, text).unwrap();
    benches::circuit(&mut bundle, "pair", &path, 5).unwrap();
    bundle.finish().unwrap();
    let list = fs::read_to_string(bundle_folder.path().join("bundle.json")).unwrap();
    let bench = &serde_json::from_str::<Value>(&list).unwrap()["benches"][0];
    assert_eq!(bench["name"], "pair log_likelihood 5 rows");
    assert_eq!((&bench["inputs"][0]["below"], &bench["inputs"][0]["whole"]), (&json!(2), &json!(true)));
    let packed = kiln_runtime::cli::read_tensors(&bundle_folder.path().join("pair.npz"), |_| Ok(())).unwrap();
    let kinds = packed.iter().find(|(name, _)| name == "kinds").unwrap().1.as_slice::<i32>().unwrap();
    assert_eq!(kinds, [0, 0, 1, 1, -1, -1, -2]);
    let rows = check(bundle_folder.path(), Value::Null);
    assert!(checks::is_good(&rows) && !rows.is_empty(), "{}", checks::table(&rows));
}

#[test]
fn the_graphs_that_are_timed_are_graphs() {
    for text in [benches::kernels_text(), benches::encoder_text(ElemType::BF16)] {
        let module = kiln_ir::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        kiln_ir::verify(&module).unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
}
