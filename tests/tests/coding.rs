//! Rows coded with the circuits of model files: what they cost, how much is looked at, and that they come back.
//!
//! The data sets are not part of the tree: they lie in `../shared`, and without them a test says that it skips.

use flate2::read::GzDecoder;
use kiln_frontend::LoadOptions;
use kiln_runtime::codec::{Codec, Encoder};
use kiln_runtime::format::{ElemType, Manifest, Writer};
use kiln_runtime::{Artifact, TensorView};
use kiln_tests::support::{root, shared};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

fn codec(model: &Path) -> Codec {
    let loaded = kiln_frontend::load(model, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let circuit = loaded.module.circuits.values().next().unwrap();
    Codec::from_tables(kiln_backends::codec::section(circuit).unwrap()).unwrap()
}

fn rows(path: &Path) -> Vec<u8> {
    let mut text = String::new();
    GzDecoder::new(File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().flat_map(|line| line.split(',')).map(|cell| cell.trim().parse().unwrap()).collect()
}

/// Codes all rows: their content is `ideal` bits in all, and naive evaluation looks at `factor` times as much or more.
fn code(codec: &Codec, rows: &[u8], ideal: f64, factor: f64) {
    let variables = codec.variables();
    let shape = [rows.len() / variables, variables];
    let mut encoder = Encoder::new(codec, ElemType::U8, vec![]).unwrap();
    encoder.push(TensorView::of(&shape, rows).unwrap()).unwrap();
    let (stream, summary) = encoder.finish().unwrap();
    assert_eq!(codec.decode(&stream, 1 << 30).unwrap().bytes(), rows);
    assert!((summary.ideal_bits - ideal).abs() <= 1e-9 * ideal, "{} bits, expected {ideal}", summary.ideal_bits);
    let (bits, blocks) = (8.0 * summary.message_bytes as f64, summary.blocks as f64);
    assert!(bits <= 1.0001 * ideal + 64.0 * blocks, "{bits} bits for {ideal}");
    let found = codec.naive_visits() as f64 / codec.visits() as f64;
    assert!(codec.is_ordered() && found >= factor, "{found} times less");
}

#[test]
fn digits_come_back_at_their_price() {
    let folder = root().join("examples/models/digits-hclt");
    let codec = codec(&folder.join("digits-hclt-16.jpc.gz"));
    code(&codec, &rows(&folder.join("test-rows.csv.gz")), DIGITS, 30.0);
}

/// By an evaluator of its own, in Python.
const DIGITS: f64 = 46_574.224_920_354_434;

#[test]
fn data_sets_come_back_at_their_price() {
    let Some(folder) = shared("data/circuits") else { return };
    let goldens = std::fs::read_to_string(folder.join("goldens.json")).unwrap();
    let goldens: serde_json::Value = serde_json::from_str(&goldens).unwrap();
    for (name, factor) in [("nltcs", 5.0), ("plants", 7.0), ("tretail", 22.0), ("bbc", 45.0), ("ad", 200.0)] {
        let ideal = goldens["models"][name]["data"]["ideal_bits_total"].as_f64().unwrap();
        let codec = codec(&folder.join(format!("psdd/{name}.psdd")));
        code(&codec, &rows(&folder.join(format!("data/{name}.test.csv.gz"))), ideal, factor);
    }
}

/// With a vtree beside it or without, a model has the same tables, and an artifact has those.
#[test]
fn an_artifact_codes_as_the_model_does() {
    let model = root().join("examples/models/digits-hclt/digits-hclt-16.jpc.gz");
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("alone.jpc.gz");
    std::fs::copy(&model, &alone).unwrap();
    let loaded = kiln_frontend::load(&alone, &LoadOptions::default()).unwrap();
    let (section, note) = kiln_backends::codec::encode(&loaded.module).unwrap();
    assert_eq!(note, None);
    let mut file = Cursor::new(vec![]);
    let mut writer = Writer::new(&mut file).unwrap();
    writer.set_codec(section);
    writer.finish(&Manifest::default(), &[], &[]).unwrap();
    let artifact = Artifact::from_bytes(&file.into_inner()).unwrap();
    assert_eq!(Codec::new(&artifact).unwrap().hash(), codec(&model).hash());
}
