//! Snapshot tests: `tests/<pass_with_underscores>/<case>.kir`, and `<case>.snap` beside it.
//!
//! For each case: the text reads back as it prints; the graph is valid; the pass runs alone, twice; what it says of
//! itself is true and the second run changes nothing; before and after compute the same on seeded inputs; the snapshot
//! holds what fired, what was refused, and the diff. A first line `//! target: cpu:x86-64-v3` or `//! exactness: e0`
//! sets an option; any other key fails.

mod support;

use kiln_ir::{Module, Target, parse, verify};
use kiln_passes::{Exactness, Options, PASSES, Pass, pass, run_pass, totals};
use std::{fmt::Write, path::Path};

/// Seeds, each with its own sizes for symbols.
const ROUNDS: usize = 3;

struct Header {
    target: &'static Target,
    exactness: Exactness,
}

fn header(text: &str) -> Header {
    let mut header = Header { target: Target::from_name("cpu:x86-64-v3").unwrap(), exactness: Exactness::E1 };
    for line in text.lines().map_while(|l| l.strip_prefix("//!")) {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        match (key.trim(), value.trim()) {
            ("target", name) if name == BARE.name => header.target = &BARE,
            ("target", name) => header.target = Target::from_name(name).unwrap_or_else(|| panic!("no target {name}")),
            ("exactness", name) => {
                header.exactness = Exactness::from_name(name).unwrap_or_else(|| panic!("no class {name}"))
            }
            (key, _) => panic!("unknown key {key}"),
        }
    }
    header
}

/// A target without any composite op.
static BARE: Target = Target {
    name: "bare",
    kind: kiln_ir::TargetKind::Cpu,
    vector_bits: 128,
    vector_registers: 8,
    l1_bytes: 32 << 10,
    l2_bytes: 512 << 10,
    composites: &[],
};

fn check(pass: &'static Pass, path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let header = header(&text);
    let before: Module = parse(&text).unwrap_or_else(|e| panic!("{}:{e}", path.display()));
    let printed = before.to_string();
    assert_eq!(parse(&printed).unwrap().to_string(), printed);
    verify(&before).unwrap_or_else(|e| panic!("{}: {e}", path.display()));

    let mut after = before.clone();
    let options = Options { exactness: header.exactness, check: true, ..Options::new(header.target) };
    let (outcome, record) = run_pass(pass, &mut after, &options).unwrap_or_else(|e| panic!("{e}"));
    let mut again = after.clone();
    let (second, _) = run_pass(pass, &mut again, &options).unwrap_or_else(|e| panic!("second run: {e}"));
    assert!(!second.changed, "a second run changes more:\n{}", diff(&after.to_string(), &again.to_string()));
    let cost = |of: fn(&kiln_passes::Rewrite) -> u64| record.rewrites.iter().map(of).sum::<u64>();
    // Canonical and legal forms are what others ask for, not what is cheap.
    let may_cost = matches!(pass.name, "canonicalize" | "legalize");
    assert!(may_cost || cost(|r| r.cost_after) <= cost(|r| r.cost_before), "{:#?}", record.rewrites);
    for round in 0..ROUNDS {
        support::assert_same(&before, &after, round);
    }

    let (a, b) = (totals(&before), totals(&after));
    let mut snapshot = String::new();
    let change = |x: String, y: String| if x == y { x } else { format!("{x} -> {y}") };
    writeln!(
        snapshot,
        "changed: {}   nodes: {}   flops: {}   bytes: {}",
        outcome.changed,
        change(a.nodes.to_string(), b.nodes.to_string()),
        change(a.flops.to_string(), b.flops.to_string()),
        change(a.bytes.to_string(), b.bytes.to_string()),
    )
    .unwrap();
    for r in &record.rewrites {
        writeln!(snapshot, "fired: {} at {}", r.rule, r.place).unwrap();
    }
    for n in &record.notes {
        writeln!(snapshot, "refused: {} at {}: {}", n.rule, n.place, n.reason).unwrap();
    }
    write!(snapshot, "\n{}", diff(&printed, &after.to_string())).unwrap();

    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(path.parent().unwrap());
    settings.remove_snapshot_suffix();
    settings.remove_input_file();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(path.file_stem().unwrap().to_str().unwrap(), snapshot));
}

/// Lines of both texts: shared ones, those that went (`-`) and those that came (`+`), by longest common subsequence.
fn diff(before: &str, after: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let mut common = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < a.len() || j < b.len() {
        let (sign, line) = if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
            (' ', a[i - 1])
        } else if i < a.len() && (j == b.len() || common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ('-', a[i - 1])
        } else {
            j += 1;
            ('+', b[j - 1])
        };
        text.push_str(format!("{sign} {line}").trim_end());
        text.push('\n');
    }
    text
}

macro_rules! passes {
    ($($test:ident $name:literal),* $(,)?) => {
        /// The tests below.
        const TESTED: &[(&str, &str)] = &[$((stringify!($test), $name)),*];
        $(#[test] fn $test() {
            let pass = pass($name).unwrap();
            insta::glob!(concat!(stringify!($test), "/*.kir"), |path| check(pass, path));
        })*
    };
}

passes! {
    canonicalize "canonicalize", carry_projections "carry-projections", choose_space "choose-space",
    collapse_chains "collapse-chains", cse "cse", dce "dce", drop_unit_sums "drop-unit-sums", fold_constants "fold-constants",
    fold_transposes "fold-transposes", fuse_attention "fuse-attention", fuse_gelu "fuse-gelu",
    fuse_groups "fuse-groups", fuse_layer_norm "fuse-layer-norm", fuse_linear "fuse-linear",
    fuse_recurrent_cell "fuse-recurrent-cell", hoist_input_projections "hoist-input-projections",
    hoist_invariants "hoist-invariants", hoist_slices "hoist-slices", layer_circuits "layer-circuits", legalize "legalize",
    merge_linear "merge-linear", merge_subcircuits "merge-subcircuits", patchify_conv "patchify-conv",
    prove_determinism "prove-determinism",
}

#[test]
fn every_pass_has_cases_and_every_snapshot_its_case() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for pass in PASSES {
        let folder = pass.name.replace('-', "_");
        assert!(TESTED.contains(&(folder.as_str(), pass.name)), "{} has no test", pass.name);
        assert!(tests.join(&folder).is_dir(), "{} has no folder of cases", pass.name);
    }
    for folder in std::fs::read_dir(&tests).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()) {
        let name = folder.file_name().unwrap().to_str().unwrap().to_string();
        if matches!(name.as_str(), "support" | "pipeline") {
            continue;
        }
        assert!(TESTED.iter().any(|(t, _)| *t == name), "{name} belongs to no pass");
        for file in std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            let partner = match file.extension().and_then(|e| e.to_str()) {
                Some("snap") => file.with_extension("kir"),
                Some("kir") => file.with_extension("snap"),
                _ => continue,
            };
            assert!(partner.exists(), "{} stands alone", file.display());
        }
    }
}
