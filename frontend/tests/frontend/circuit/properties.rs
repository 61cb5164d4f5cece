//! Files cut short and with bits flipped: they load, or are refused with a place; never a panic.

use super::{errors, file, formats};
use kiln_frontend::{LoadOptions, load};
use std::io::Write;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

const PSDD: &str = "c both dialects\npsdd 5\nL 7 0 1\nL 3 0 -1\nT 5 1 2 -0.2876820724517809 -1.3862943611198906\n\
                    T 9 1 2 -0.7\nD 1 2 2 7 5 -0.2231435513142097 3 9 -1.6094379124341003\n";
const JPC: &str = "jpc 7\nC 0 0 1 -1.6094379124341003 -0.2231435513142097\nI 1 0 1 2\nL 2 1 2\nP 3 2 2 0 2\n\
                   B 4 1 2 1 -0.5\nP 5 2 2 1 4\nS 6 2 2 3 -0.6931471805599453 5 -0.6931471805599453\n";
const SPN: &str =
    "(3 2)\nv 0 2\nv 0 1\nv 1 0\nv 1 1\n+ 2 -0.69315 3 -0.69315\n* 0 4\n* 1 3\n+ 5 -0.69315 6 -0.69315\nEOF\n";
const UAI: &str = "MARKOV\n2\n2 3\n2\n1 0\n2 0 1\n2 0.4 0.6\n6\n0.5 0.5 0 0.1 0.2 0.7\n";
const NNF: &str = "c p weight 1 0.25 0\nnnf 7 6 4\nL 1\nL 2\nA 2 0 1\nL -1\nL 3\nA 2 3 4\nO 1 2 2 5\n";
const D4: &str = "o 1 0\na 2 0\nt 3 0\nf 4 0\n1 2 1 0\n1 3 -1 3 0\n2 3 2 0\n2 3 4 0\n";
const SDD: &str = "sdd 7\nL 0 0 1\nL 1 1 2\nL 2 0 -1\nT 6\nF 5\nL 3 3 3\nD 4 1 2 0 1 2 3\n";

fn files() -> Vec<(&'static str, Vec<u8>)> {
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    packed.write_all(JPC.as_bytes()).unwrap();
    vec![
        ("x.psdd", PSDD.into()),
        ("x.jpc", JPC.into()),
        ("x.spn", SPN.into()),
        ("x.uai", UAI.into()),
        ("x.nnf", NNF.into()),
        ("x.nnf", D4.into()),
        ("x.sdd", SDD.into()),
        ("x.jpc.gz", packed.finish().unwrap()),
        ("x.bin", formats::message(&[0, 1])),
    ]
}

/// Loads and, if that goes well, asks; the file stands first in every error.
fn survives(name: &str, bytes: &[u8]) {
    let (_dir, path) = file(name, bytes);
    for e in errors(&path) {
        assert!(e.starts_with(&format!("{name}: ")), "{e}");
    }
    if let Ok(loaded) = load(&path, &LoadOptions::default()) {
        let c = loaded.module.circuits.values().next().unwrap();
        let row = vec![f64::NAN; c.variables.len()];
        assert!(!c.log_likelihood(&row).is_nan());
        c.mpe(&row);
    }
}

#[test]
fn whole_files_load() {
    for (name, bytes) in files() {
        let (_dir, path) = file(name, &bytes);
        assert_eq!(errors(&path), Vec::<String>::new());
    }
}

#[test]
fn files_cut_at_any_byte() {
    for (name, bytes) in files() {
        for n in 0..bytes.len() {
            survives(name, &bytes[..n]);
        }
    }
}

#[test]
fn files_with_bits_flipped() {
    let r = &mut Random(1);
    for (name, bytes) in files() {
        for _ in 0..300 {
            let mut bytes = bytes.clone();
            for _ in 0..1 + r.below(3) {
                let at = r.below(bytes.len());
                bytes[at] ^= 1 << r.below(8);
            }
            survives(name, &bytes);
        }
    }
}

#[test]
fn files_with_words_exchanged() {
    let r = &mut Random(2);
    let words =
        ["0", "-1", "1", "4294967295", "99999999999999999999", "nan", "inf", "-inf", "1e999", "c", "D", "L", "A"];
    for (name, bytes) in files() {
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let parts: Vec<&str> = text.split_inclusive([' ', '\n']).collect();
        for _ in 0..200 {
            let mut parts = parts.clone();
            let (a, b) = (r.below(parts.len()), r.below(parts.len()));
            let word;
            if r.below(2) == 0 {
                word = format!("{} ", words[r.below(words.len())]);
                parts[a] = &word;
            } else {
                parts.swap(a, b);
            }
            survives(name, parts.concat().as_bytes());
        }
    }
}
