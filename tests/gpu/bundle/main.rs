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
    let sizes: &[(&str, i64)] = &[("B", 256), ("N", 50)];
    for (name, timed) in [("digits-vit", Some(sizes)), ("ptrnet-tsp", Some(sizes)), ("digits-hclt", None)] {
        println!("{name}");
        bundle.model(name, &models.join(name), &[&[], &[("B", 3)]], timed)?;
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../frontend/tests/golden");
    for name in contents::GOLDEN {
        println!("{name}");
        bundle.model(name, &golden.join(name), &[&[], &[("B", 3)]], None)?;
    }
    bundle.calls("decode_over_a_cache", contents::DECODE, contents::DECODE_CALLS)?;
    println!("benches");
    benches::circuit(&mut bundle, "digits-hclt", &models.join("digits-hclt"), 4096)?;
    for (name, path) in benches::CIRCUITS {
        match Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path) {
            path if path.exists() => benches::circuit(&mut bundle, name, &path, 4096)?,
            path => println!("no bench of {name}: there is no {}", path.display()),
        }
    }
    benches::tours(&mut bundle, &models.join("ptrnet-tsp"))?;
    let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
    benches::kernels(&mut bundle, scratch.path())?;
    for elem in [ElemType::F32, ElemType::BF16] {
        benches::encoder(&mut bundle, scratch.path(), elem)?;
    }
    bundle.finish()
}
