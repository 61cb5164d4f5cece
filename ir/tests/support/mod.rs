//! Shared by the tests that run whatever text comes: what must hold of any text, and numbers that look random.
#![allow(dead_code, reason = "each test uses a part")]

pub(crate) use kiln_ir::sample::Random;
use kiln_ir::{Module, eval::Limits, sample};
use std::path::{Path, PathBuf};

/// Every `.kir` file under the tests of this crate.
pub(crate) fn corpus() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for path in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "kir") {
                found.push(path);
            }
        }
    }
    let mut found = vec![];
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut found);
    found.sort();
    found
}

/// Parses; what parses prints and parses back as the same; the verifier and the interpreter come to an end.
pub(crate) fn survives(text: &str) {
    let Ok(module) = kiln_ir::parse(text) else { return };
    let printed = module.to_string();
    let again = kiln_ir::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}\nfrom\n{text}"));
    assert_eq!(printed, again.to_string());
    let verdict = kiln_ir::verify(&module).map(|_| ());
    assert_eq!(verdict, kiln_ir::verify(&again).map(|_| ()));
    if verdict.is_ok() {
        kiln_ir::cost::entries(&module);
    }
    evaluate(&module);
}

/// Runs every entry; what comes out does not matter.
pub(crate) fn evaluate(module: &Module) {
    sample::exercise(module, Limits { elements: 1 << 14, steps: 2000 });
}
