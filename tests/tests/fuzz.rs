//! The fuzz targets on a fixed number of changed files, the same every time; `KILN_FUZZ_ROUNDS` sets another number.
//! `fuzz/` runs them without end and guided by coverage.

use kiln_ir::sample::Random;
use kiln_runtime::TensorView;
use kiln_runtime::codec::{self, Codec, Encoder};
use kiln_runtime::format::{ElemType, Manifest, Writer};
use kiln_tests::{Target, support::root};
use std::fs;
use std::path::Path;

const ROUNDS: u64 = 40_000;

/// Numbers and signs at which readers break.
const TOKENS: &[&str] =
    &["0", "-1", "9223372036854775807", "18446744073709551616", "1e999", "\"", "{", "}", "[", "]", ",", "%", "@", "//"];

/// One to four changes; the early bytes, where headers are, are hit more often.
fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let end = if random.below(2) == 0 { bytes.len() } else { bytes.len().min(4096) };
        let at = random.below(end);
        let length = random.below(16).min(bytes.len() - at);
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.bits() as u8,
            2 => drop(bytes.drain(at..at + length)),
            3 => {
                let piece = bytes[at..at + length].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => drop(bytes.splice(at..at + length, TOKENS[random.below(TOKENS.len())].bytes())),
            5 => {
                let from = random.below(other.len());
                let piece = &other[from..(from + length).min(other.len())];
                drop(bytes.splice(at..at + length, piece.iter().copied()));
            }
            _ if random.below(8) == 0 => bytes.truncate(at),
            _ => {}
        }
    }
}

fn fuzz(target: Target, seeds: &[Vec<u8>]) {
    assert!(!seeds.is_empty());
    let rounds = std::env::var("KILN_FUZZ_ROUNDS").map_or(ROUNDS, |n| n.parse().unwrap());
    for seed in seeds {
        target(seed);
    }
    for round in 0..rounds {
        let mut random = Random(round);
        let mut bytes = seeds[random.below(seeds.len())].clone();
        let other = &seeds[random.below(seeds.len())];
        change(&mut bytes, other, &mut random);
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        assert!(outcome.is_ok(), "round {round}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]));
    }
}

fn graphs(dir: &Path) -> Vec<Vec<u8>> {
    let mut found = vec![];
    for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if path.is_dir() {
            found.extend(graphs(&path));
        } else if path.extension().is_some_and(|e| e == "kir") {
            found.push(fs::read(path).unwrap());
        }
    }
    found.sort();
    found
}

#[test]
fn safetensors() {
    let seed = fs::read(root().join("tests/data/digits-vit.safetensors")).unwrap();
    fuzz(kiln_tests::safetensors, &[seed]);
}

#[test]
fn kir() {
    fuzz(kiln_tests::kir, &graphs(&root().join("ir/tests")));
}

/// Small files of every kind of circuit; SPNC's is the first of the reference models, where those are.
#[test]
fn circuits() {
    let texts: [(Target, &[&str]); 7] = [
        (
            kiln_tests::psdd,
            &["c x\npsdd 5\nL 7 0 1\nL 3 0 -1\nT 5 1 2 -0.2876820724517809 -1.3862943611198906\nT 9 1 2 -0.7\n\
               D 1 2 2 7 5 -0.2231435513142097 3 9 -1.6094379124341003\n"],
        ),
        (
            kiln_tests::jpc,
            &[
                "jpc 7\nC 0 0 1 -1.6094379124341003 -0.2231435513142097\nI 1 0 1 2\nL 2 1 2\nP 3 2 2 0 2\nB 4 1 2 1 -0.5\n\
               P 5 2 2 1 4\nS 6 2 2 3 -0.6931471805599453 5 -0.6931471805599453\n",
            ],
        ),
        (
            kiln_tests::spn,
            &[
                "(3 2)\nv 0 2\nv 0 1\nv 1 0\nv 1 1\n+ 2 -0.69315 3 -0.69315\n* 0 4\n* 1 3\n+ 5 -0.69315 6 -0.69315\nEOF\n",
            ],
        ),
        (kiln_tests::uai, &["MARKOV\n2\n2 3\n2\n1 0\n2 0 1\n2 0.4 0.6\n6\n0.5 0.5 0 0.1 0.2 0.7\n"]),
        (
            kiln_tests::nnf,
            &[
                "c p weight 1 0.25 0\nnnf 7 6 4\nL 1\nL 2\nA 2 0 1\nL -1\nL 3\nA 2 3 4\nO 1 2 2 5\n",
                "o 1 0\na 2 0\nt 3 0\nf 4 0\n1 2 1 0\n1 3 -1 3 0\n2 3 2 0\n2 3 4 0\n",
            ],
        ),
        (kiln_tests::sdd, &["sdd 7\nL 0 0 1\nL 1 1 2\nL 2 0 -1\nT 6\nF 5\nL 3 3 3\nD 4 1 2 0 1 2 3\n"]),
        (kiln_tests::vtree, &["vtree 5\nL 0 1\nL 1 2\nI 2 0 1\nL 3 3\nI 4 2 3\n"]),
    ];
    for (target, seeds) in texts {
        let seeds: Vec<Vec<u8>> = seeds.iter().map(|s| s.as_bytes().to_vec()).collect();
        fuzz(target, &seeds);
    }
    match fs::read(root().join("../shared/data/circuits/spnc/NIPS5.bin")) {
        Ok(seed) => fuzz(kiln_tests::spnc, &[seed]),
        Err(e) => println!("skipped spnc: {e}"),
    }
}

#[test]
fn artifact() {
    let folder = tempfile::tempdir().unwrap();
    let (graph, out) = (folder.path().join("graph.kir"), folder.path().join("graph.kiln"));
    let text = "module @line stage=imported {
  dim N = 1..1000
  entry @forward(%x: f32[N]) -> (y: f32[N]) {
    %0 = mul %x, 2.0 : f32[N]
    return %0
  }
}
";
    fs::write(&graph, text).unwrap();
    kiln::compile(&graph, &kiln::Options::default(), &out).unwrap();
    // One without code, but with a circuit to code with.
    let mut coder = std::io::Cursor::new(vec![]);
    let mut writer = Writer::new(&mut coder).unwrap();
    writer.set_codec(codec::encode_section(&Ok(kiln_tests::small_circuit())).unwrap());
    writer.finish(&Manifest::default(), &[], &[]).unwrap();
    fuzz(kiln_tests::artifact, &[fs::read(&out).unwrap(), coder.into_inner()]);
}

#[test]
fn stream() {
    let codec = Codec::from_tables(kiln_tests::small_circuit()).unwrap();
    let row = |i: i32| [i % 2, i % 3, i * i % 300];
    let rows: Vec<i32> = (0..40).flat_map(row).collect();
    let small = codec.encode(TensorView::of(&[5, 3], &rows[..15]).unwrap()).unwrap();
    let mut encoder = Encoder::new(&codec, ElemType::I32, vec![]).unwrap();
    for rows in rows.chunks(60) {
        encoder.push(TensorView::of(&[20, 3], rows).unwrap()).unwrap();
        encoder.flush().unwrap();
    }
    fuzz(kiln_tests::stream, &[small, encoder.finish().unwrap().0]);
}
