//! `gpu_bundle FOLDER`: writes what `gpu_check` runs on a machine with a GPU, which needs neither LLVM nor a compiler there.

mod benches;
#[path = "../../../backends/tests/conformance/cases.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest")]
mod cases;
mod contents;
mod figures;
#[path = "../../../backends/tests/conformance/harness.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest")]
mod harness;

use contents::Bundle;
use kiln_ir::ElemType;
use std::{fs, path::Path};

fn main() -> Result<(), String> {
    let folder = std::env::args().nth(1).ok_or("expected a folder to write to")?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut bundle = Bundle::new(folder);
    for elem in ElemType::ALL.iter().copied() {
        println!("cases on {elem}");
        bundle.conformance(elem, &|_| true)?;
    }
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
    for (name, batch) in [("digits-vit", 256), ("ptrnet-tsp", 256), ("digits-hclt", 4096)] {
        println!("{name}");
        bundle.model(name, &models.join(name), &[&[], &[("B", 3)]], Some(&[("B", batch), ("N", 50)]))?;
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../frontend/tests/golden");
    for name in contents::GOLDEN {
        println!("{name}");
        bundle.model(name, &golden.join(name), &[&[], &[("B", 3)]], None)?;
    }
    bundle.calls("decode_over_a_cache", contents::DECODE, contents::DECODE_CALLS)?;
    println!("benches");
    benches::tours(&mut bundle, &models.join("ptrnet-tsp"))?;
    let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
    benches::kernels(&mut bundle, scratch.path())?;
    for elem in [ElemType::F32, ElemType::BF16] {
        benches::encoder(&mut bundle, scratch.path(), elem)?;
    }
    bundle.finish()
}
