//! Whole-way tests of Kiln, and the test of its architecture.
//!
//! The tests are in `tests/`; what they share is in [`support`]. Here is what they share with the fuzz targets in `fuzz/`:
//! for each kind of file that may be hostile, a function that reads any bytes as such a file and panics only where Kiln is
//! at fault.

pub mod support;

use kiln_ir::{eval::Limits, sample};
use kiln_runtime::codec::{self, Codec, Inner, Region, Structure, Tables, Variable};
use kiln_runtime::format::reseal;
use kiln_runtime::{Artifact, OpenOptions, TensorView, Verify};

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
        if let Ok(codec) = Codec::new(&artifact) {
            // What passes the checks codes, or says why not.
            let zeros = vec![0u8; codec.variables()];
            let _ = codec.encode(TensorView::of(&[1, codec.variables()], &zeros)?);
        }
        Ok(artifact)
    };
    let _ = open(bytes);
    let mut sealed = bytes.to_vec();
    if reseal(&mut sealed).is_ok() {
        let _ = open(&sealed);
    }
}

/// A circuit over three variables, of 2, 3 and 300 values.
pub fn small_circuit() -> Tables {
    let variable = |values: u32| {
        let falling: Vec<f64> = (1..=values).map(|k| 1.0 / f64::from(k)).collect();
        let total: f64 = falling.iter().sum();
        let rows = falling.iter().chain(falling.iter().rev()).map(|p| p / total);
        Variable { values, rows: rows.collect() }
    };
    let inner = |children: [u32; 2], ends: &[u32], weights: &[f64], factors: &[[u32; 2]]| {
        let (mix_ends, mix_weights, factors) = (ends.to_vec(), weights.to_vec(), factors.to_vec());
        Region::Inner(Box::new(Inner { children, mix_ends, mix_weights, factors, ..Inner::default() }))
    };
    let below = inner([1, 2], &[2, 3], &[0.25, 0.75, 1.0], &[[0, 0], [1, 1], [0, 1]]);
    let root = inner([3, 0], &[2], &[0.5, 0.5], &[[0, 1], [1, 0]]);
    let regions = vec![Region::Leaf(0), Region::Leaf(1), Region::Leaf(2), below, root];
    Tables { variables: [2, 3, 300].map(variable).to_vec(), structure: Structure::Regions(regions) }
}

/// A stream of rows coded with [`small_circuit`], as it stands and with its hashes made right.
pub fn stream(bytes: &[u8]) {
    let Ok(codec) = Codec::from_tables(small_circuit()) else { panic!("the circuit's tables are as they should be") };
    // Some thousand rows: one block may say that it holds as many as it can.
    let decode = |bytes: &[u8]| codec.decode(bytes, 1 << 15);
    let _ = decode(bytes);
    let mut sealed = bytes.to_vec();
    codec::reseal(&mut sealed);
    if let Ok(rows) = decode(&sealed) {
        // What decodes is rows of the circuit, and comes back.
        let Ok(again) = codec.encode(rows.view()) else { panic!("decoded rows do not encode") };
        assert!(codec.decode(&again, 1 << 15).is_ok_and(|again| again.bytes() == rows.bytes()));
    }
}
