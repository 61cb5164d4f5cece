//! The invariants of ARCHITECTURE.md that files can show: arrows between crates, sizes, what each crate may name.

use kiln_tests::support::root;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Folder, package, and the packages of ours that it may use, also in its own tests.
const CRATES: &[(&str, &str, &[&str])] = &[
    ("ir", "kiln-ir", &[]),
    ("frontend", "kiln-frontend", &["kiln-ir"]),
    ("passes", "kiln-passes", &["kiln-ir"]),
    ("kernels", "kiln-kernels", &["kiln-ir"]),
    ("backends", "kiln-backends", &["kiln-ir", "kiln-kernels", "kiln-runtime"]),
    ("runtime", "kiln-runtime", &[]),
    (".", "kiln", &["kiln-ir", "kiln-frontend", "kiln-passes", "kiln-kernels", "kiln-backends", "kiln-runtime"]),
    (
        "tests",
        "kiln-tests",
        &["kiln", "kiln-ir", "kiln-frontend", "kiln-passes", "kiln-kernels", "kiln-backends", "kiln-runtime"],
    ),
];

/// The packages that are LLVM or MLIR.
const COMPILER_LIBRARIES: &[&str] = &["melior", "melior-macro", "mlir-sys", "inkwell", "llvm-sys", "tblgen"];

const MAX_LINES: usize = 600;

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn toml(path: &Path) -> toml::Table {
    read(path).parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below `dir` that end in `.ext`, build outputs and hidden folders left out.
fn files(dir: &Path, ext: &str, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && !name.starts_with("target") {
                files(&path, ext, found);
            }
        } else if path.extension().is_some_and(|e| e == ext) {
            found.push(path);
        }
    }
}

/// The Rust files of the tree, by path from the root.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut found = vec![];
    files(&root, "rs", &mut found);
    assert!(found.len() > 50, "found {} sources below {}", found.len(), root.display());
    let relative = |p: &Path| p.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    found.iter().map(|p| (relative(p), read(p))).collect()
}

fn is_test(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs")
}

fn no_problems(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// The names in every dependency table of a manifest, also those for one platform only.
fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (key, value) in manifest {
        let Some(table) = value.as_table() else { continue };
        if key.ends_with("dependencies") && key != "workspace" {
            for (name, spec) in table {
                let renamed = spec.get("package").and_then(|p| p.as_str());
                found.insert(renamed.unwrap_or(name).to_owned());
            }
        } else if key == "target" {
            table.values().filter_map(|t| t.as_table()).for_each(|t| found.extend(dependencies(t)));
        }
    }
    found
}

#[test]
fn crates_use_each_other_along_the_arrows_only() {
    let root = root();
    let workspace = toml(&root.join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().unwrap().iter().map(|m| m.as_str().unwrap());
    let members: BTreeSet<&str> = members.chain(["."]).collect();
    assert_eq!(members, CRATES.iter().map(|c| c.0).collect(), "the members of the workspace");
    let mut problems = vec![];
    for (folder, package, allowed) in CRATES {
        let manifest = toml(&root.join(folder).join("Cargo.toml"));
        assert_eq!(manifest["package"]["name"].as_str(), Some(*package), "{folder}");
        for name in dependencies(&manifest) {
            // A crate may name itself in its dev-dependencies to switch features on.
            if name.starts_with("kiln") && name != *package && !allowed.contains(&name.as_str()) {
                problems.push(format!("{folder}/Cargo.toml: {package} may not use {name}"));
            }
        }
    }
    no_problems(problems);
}

#[test]
fn the_runtime_brings_no_compiler_library() {
    let lock = toml(&root().join("Cargo.lock"));
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let list = package.get("dependencies").and_then(|d| d.as_array());
        // An entry is a name, with a version behind it where there are several.
        let names = list.into_iter().flatten().filter_map(|d| d.as_str()?.split(' ').next());
        needs.entry(package["name"].as_str().unwrap()).or_default().extend(names);
    }
    let closure = |from: &'static str| {
        let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
        while let Some(name) = left.pop() {
            if seen.insert(name) {
                left.extend(needs.get(name).into_iter().flatten());
            }
        }
        COMPILER_LIBRARIES.iter().filter(|l| seen.contains(**l)).collect::<Vec<_>>()
    };
    assert!(!closure("kiln-backends").is_empty(), "the back ends are known to use them");
    for package in ["kiln-runtime", "kiln-ir", "kiln-frontend", "kiln-passes"] {
        assert_eq!(closure(package), Vec::<&&str>::new(), "{package}");
    }
}

#[test]
fn one_module_names_both_melior_and_inkwell() {
    let mut found = BTreeMap::<String, BTreeSet<&str>>::new();
    for (path, text) in sources().iter().filter(|(p, _)| !is_test(p)) {
        let module = if path.starts_with("backends/src/llvm") { "backends/src/llvm" } else { path.as_str() };
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        let named = found.entry(module.to_owned()).or_default();
        for line in code {
            named.extend(["melior", "inkwell"].into_iter().filter(|n| {
                let uses = [format!("use {n}::"), format!("use {n};"), format!("{n}::")];
                uses.iter().any(|u| line.contains(u))
            }));
        }
    }
    let both: Vec<&String> = found.iter().filter(|(_, n)| n.len() == 2).map(|(m, _)| m).collect();
    assert_eq!(both, ["backends/src/llvm"]);
    let inkwell: Vec<&String> = found.iter().filter(|(_, n)| n.contains("inkwell")).map(|(m, _)| m).collect();
    assert_eq!(inkwell, ["backends/src/llvm"], "LLVM is behind one module");
}

#[test]
fn files_stay_below_600_lines() {
    let long = sources().into_iter().filter(|(path, _)| !is_test(path)).filter_map(|(path, text)| {
        let lines = text.lines().count();
        (lines > MAX_LINES).then(|| format!("{path}: {lines} lines"))
    });
    no_problems(long.collect());
}

#[test]
fn nothing_is_left_to_do() {
    // In two pieces, so that this file does not find itself.
    let marks = [concat!("todo", "!"), concat!("unimplemented", "!"), concat!("FIX", "ME"), concat!("#[ig", "nore")];
    let mut problems = vec![];
    for (path, text) in sources() {
        for (n, line) in text.lines().enumerate() {
            problems.extend(marks.iter().filter(|m| line.contains(**m)).map(|m| format!("{path}:{}: {m}", n + 1)));
        }
    }
    no_problems(problems);
}

#[test]
fn every_crate_and_module_says_what_it_is() {
    let mut problems = vec![];
    for (folder, ..) in CRATES {
        let text = read(&root().join(folder).join("src/lib.rs"));
        let doc: String = text.lines().take_while(|l| l.starts_with("//!")).collect();
        if doc.len() < 80 {
            problems.push(format!("{folder}/src/lib.rs: the crate's text is missing or says nothing"));
        }
    }
    // One op, one declaration: `ir/src/ops` holds a file an op, and the declaration is its text.
    for (path, text) in sources().iter().filter(|(p, _)| !is_test(p) && !p.starts_with("ir/src/ops/")) {
        if !text.starts_with("//!") {
            problems.push(format!("{path}: starts without a module text"));
        }
    }
    no_problems(problems);
}

#[test]
fn every_pass_has_snapshot_tests() {
    let tests = root().join("passes/tests");
    let has_graph = |dir: &Path| {
        let mut found = vec![];
        if dir.is_dir() {
            files(dir, "kir", &mut found);
        }
        !found.is_empty()
    };
    let passes = kiln_passes::PASSES;
    assert!(passes.len() >= 5);
    let folders = passes.iter().map(|p| p.name.replace('-', "_"));
    let bare = folders.filter(|folder| !has_graph(&tests.join(folder)));
    no_problems(bare.map(|folder| format!("passes/tests/{folder}: no graph for this pass")).collect());
}

#[test]
fn every_op_has_a_test() {
    let tests = root().join("ir/tests/ops");
    let bare = kiln_ir::Op::ALL.iter().filter(|op| !tests.join(format!("{}.kir", op.name())).is_file());
    no_problems(bare.map(|op| format!("ir/tests/ops/{}.kir is missing", op.name())).collect());
}
