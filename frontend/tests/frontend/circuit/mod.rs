//! Probabilistic circuits: every format, against values computed by others and against enumeration.

mod bad_input;
mod formats;
mod goldens;
mod properties;

use kiln_frontend::{LoadOptions, Loaded, load};
use kiln_ir::Circuit;
use std::{
    io::Read,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A folder of reference files beside the repository; where it is absent, the test says so and does nothing.
fn shared(folder: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(folder);
    if !root.is_dir() {
        println!("skipped: no {}", root.display());
        return None;
    }
    Some(root)
}

fn loaded(path: &Path) -> Loaded {
    load(path, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn circuit(path: &Path) -> Circuit {
    loaded(path).module.circuits.values().next().unwrap().clone()
}

/// A file of this name and content in a folder of its own.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

/// The errors of loading a file, with its folder left out.
fn errors(path: &Path) -> Vec<String> {
    let list = load(path, &LoadOptions::default()).err().map(|e| e.list).unwrap_or_default();
    let folder = format!("{}/", path.parent().unwrap().display());
    list.iter().map(|e| e.to_string().replace(&folder, "")).collect()
}

/// Rows of numbers, separated by commas or semicolons, packed or not.
fn table(path: &Path) -> Vec<Vec<f64>> {
    let bytes = std::fs::read(path).unwrap();
    let mut text = String::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(bytes).unwrap();
    }
    let row = |line: &str| line.split([',', ';']).map(|x| x.trim().parse().unwrap()).collect();
    text.lines().filter(|l| !l.trim().is_empty()).map(row).collect()
}

/// Every complete row of a discrete circuit, the last variable fastest.
fn rows(c: &Circuit) -> Vec<Vec<f64>> {
    let mut rows = vec![vec![]];
    for domain in &c.variables {
        let values = 0..domain.values().unwrap();
        rows = rows.iter().flat_map(|r| values.clone().map(|v| [r.as_slice(), &[f64::from(v)]].concat())).collect();
    }
    rows
}

/// The same function of every row, on all cores.
fn each<T: Send>(rows: &[Vec<f64>], f: impl Fn(&[f64]) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|s| {
        let f = &f;
        let part = |rows: &'_ [Vec<f64>]| rows.iter().map(|r| f(r)).collect::<Vec<T>>();
        let handles: Vec<_> =
            rows.chunks(rows.len().div_ceil(threads).max(1)).map(|rows| s.spawn(move || part(rows))).collect();
        handles.into_iter().flat_map(|h| h.join().unwrap()).collect()
    })
}
