//! Whole-way tests of Kiln, and the test of its architecture.
//!
//! The tests are in `tests/`. Here is what they share with the fuzz targets in `fuzz/`: for each kind of file that may
//! be hostile, a function that reads any bytes as such a file and panics only where Kiln is at fault.

use kiln_ir::{eval::Limits, sample};
use kiln_runtime::format::reseal;
use kiln_runtime::{Artifact, OpenOptions, Verify};

/// A function of this library on any bytes.
pub type Target = fn(&[u8]);

/// The header of a safetensors file.
pub fn safetensors(bytes: &[u8]) {
    if let Err(errors) = kiln_frontend::weights::check_header(bytes) {
        assert!(!errors.is_empty());
    }
}

/// A text graph; what parses prints as a text that parses to the same, and may be evaluated.
pub fn kir(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(module) = kiln_ir::parse(text) else { return };
    let printed = module.to_string();
    let again = kiln_ir::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
    assert_eq!(again.to_string(), printed);
    // Whatever comes out is fine, as long as something does.
    let _ = kiln_ir::verify(&module);
    sample::exercise(&module, Limits { elements: 1 << 12, steps: 500 });
}

/// A circuit in one kind of file, which is asked if it loads.
fn circuit(kind: &str, bytes: &[u8]) {
    let Ok(c) = kiln_frontend::circuit_from_bytes(kind, bytes) else { return };
    let row = vec![f64::NAN; c.variables.len()];
    assert!(!c.log_likelihood(&row).is_nan());
    c.mpe(&row);
    c.prove_determinism();
}

macro_rules! circuits {
    ($($(#[$doc:meta])* $kind:ident),* $(,)?) => {
        $($(#[$doc])* pub fn $kind(bytes: &[u8]) { circuit(stringify!($kind), bytes) })*
    };
}
circuits! {
    /// A `.psdd`.
    psdd,
    /// A Juice `.jpc`.
    jpc,
    /// A Juice `.spn`.
    spn,
    /// A network `.uai`.
    uai,
    /// A d-DNNF `.nnf`.
    nnf,
    /// An `.sdd`.
    sdd,
    /// An SPNC `.bin`.
    spnc,
}

/// A `.vtree`.
pub fn vtree(bytes: &[u8]) {
    if let Ok(v) = kiln_frontend::vtree_from_bytes(bytes) {
        assert!(v.covers(v.root(), v.common(0, v.root())));
    }
}

/// An artifact, as it stands and with its hashes made right, so that what lies behind them is reached too.
pub fn artifact(bytes: &[u8]) {
    let open = |bytes: &[u8]| -> kiln_runtime::Result<Artifact> {
        let artifact = OpenOptions { verify: Verify::Full, ..OpenOptions::default() }.from_bytes(bytes)?;
        artifact.rewrites()?;
        artifact.best_target()?;
        Ok(artifact)
    };
    let _ = open(bytes);
    let mut sealed = bytes.to_vec();
    if reseal(&mut sealed).is_ok() {
        let _ = open(&sealed);
    }
}
