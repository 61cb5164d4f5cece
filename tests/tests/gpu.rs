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
#[path = "../../backends/tests/conformance/harness.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part is used")]
mod harness;

use contents::Bundle;
use kiln_ir::ElemType;
use serde_json::Value;
use std::{fs, path::Path};

fn check(folder: &Path) -> Vec<Value> {
    let mut heard = vec![];
    let mut row = |row: &Value| heard.push(row.clone());
    let driver = Some(emulator::driver());
    let options = checks::Options { bundle: folder, driver, only: vec![], cases: true, benches: true, row: &mut row };
    let rows = checks::run(options).unwrap();
    assert_eq!(rows, heard);
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
    bundle.bench("lookup", ("bench.kiln", &module, "f"), &[], 2, [None, Some(108.0)]).unwrap();
    let cases = bundle.cases.len();
    assert!(cases >= 5, "{cases} cases");
    bundle.finish().unwrap();

    // The emulated device has compute capability 9.0, so it runs both targets.
    let rows = check(folder.path());
    assert_eq!(rows.len(), 2 * (cases + 1));
    assert!(checks::is_good(&rows), "{}", checks::table(&rows));
    let bench = rows.iter().find(|row| row["kind"] == "bench").unwrap();
    assert!(bench["launches"].as_u64() >= Some(1) && bench["gb_per_s"].as_f64() > Some(0.0), "{bench}");
    assert!(checks::table(&rows).contains("lookup"), "{}", checks::table(&rows));

    // Other numbers than those that are expected are found.
    let list = fs::read_to_string(folder.path().join("bundle.json")).unwrap();
    let mut bundle: Value = serde_json::from_str(&list).unwrap();
    for case in bundle["cases"].as_array_mut().unwrap() {
        case["limits"] = serde_json::json!({});
    }
    fs::write(folder.path().join("bundle.json"), bundle.to_string()).unwrap();
    let rows = check(folder.path());
    let wrong: Vec<&Value> = rows.iter().filter(|row| !row["problem"].is_null()).collect();
    assert!(wrong.iter().all(|row| row["problem"].as_str().unwrap().contains("limit")), "{wrong:?}");
    assert!(wrong.iter().any(|row| row["name"].as_str().unwrap().contains("norm_over_two_axes")), "{wrong:?}");
    assert!(checks::table(&rows).contains("WRONG cuda:sm_80"), "{}", checks::table(&rows));
}

#[test]
fn every_example_model_has_code_for_gpus() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
    let folder = tempfile::tempdir().unwrap();
    for name in ["digits-vit", "ptrnet-tsp", "digits-hclt"] {
        let options = kiln::Options { targets: vec!["cuda:sm_80".into()], ..kiln::Options::default() };
        kiln::compile(&models.join(name), &options, &folder.path().join("model.kiln"))
            .unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn the_graphs_that_are_timed_are_graphs() {
    for text in [benches::kernels_text(), benches::encoder_text(ElemType::BF16)] {
        let module = kiln_ir::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        kiln_ir::verify(&module).unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
}
