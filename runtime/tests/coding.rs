//! `kiln-run encode` and `decode`: files of every kind to a stream and back, and what is said where that fails.
#![cfg(all(feature = "cli", feature = "write"))]

use kiln_runtime::codec::{Inner, Region, Structure, Tables, Variable, encode_section};
use kiln_runtime::format::{Manifest, Writer};
use kiln_runtime::{Artifact, Error, codec};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder with artifacts of circuits.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Three variables of 2, 3 and 300 values, the first two alike.
fn circuit(first: f64) -> Tables {
    let even = |k: u32| vec![1.0 / f64::from(k); k as usize];
    let variables = vec![
        Variable { values: 2, rows: vec![first, 1.0 - first, 0.0, 1.0] },
        Variable { values: 3, rows: vec![0.5, 0.5, 0.0, 0.0, 0.25, 0.75] },
        Variable { values: 300, rows: even(300) },
    ];
    let mix = |children, weights: &[f64], factors: &[[u32; 2]]| {
        Region::Inner(Box::new(Inner {
            children,
            mix_ends: vec![weights.len() as u32],
            mix_weights: weights.to_vec(),
            factors: factors.to_vec(),
            ..Inner::default()
        }))
    };
    let pair = mix([0, 1], &[0.9, 0.1], &[[0, 0], [1, 1]]);
    let regions = vec![Region::Leaf(0), Region::Leaf(1), Region::Leaf(2), pair, mix([3, 2], &[1.0], &[[0, 0]])];
    Tables { variables, structure: Structure::Regions(regions) }
}

fn artifact(section: Option<&codec::Section>) -> Vec<u8> {
    let mut file = std::io::Cursor::new(vec![]);
    let mut writer = Writer::new(&mut file).unwrap();
    if let Some(section) = section {
        writer.set_codec(encode_section(section).unwrap());
    }
    writer.finish(&Manifest::default(), &[], &[]).unwrap();
    file.into_inner()
}

impl Place {
    fn new(name: &str) -> Place {
        let place = Place(std::env::temp_dir().join(format!("kiln-coding-{name}-{}", std::process::id())));
        std::fs::create_dir_all(&place.0).unwrap();
        place.write("a.kiln", artifact(Some(&Ok(circuit(0.5)))));
        place
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.0.join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(name)).unwrap()
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-run"));
        command.args(line.split(' ')).current_dir(&self.0).output().unwrap()
    }

    /// The facts on the last line.
    #[track_caller]
    fn ok(&self, line: &str) -> Value {
        let done = self.run(&format!("{line} --json"));
        assert!(done.status.success() && done.stderr.is_empty(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_str(String::from_utf8(done.stdout).unwrap().lines().last().unwrap()).unwrap()
    }

    /// What standard error says; no file may come of it.
    #[track_caller]
    fn fails(&self, line: &str) -> String {
        let names = || {
            let entries = std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name());
            let mut names: Vec<_> = entries.collect();
            names.sort();
            names
        };
        let before = names();
        let done = self.run(line);
        assert_eq!(done.status.code(), Some(1), "{line}: {}", String::from_utf8_lossy(&done.stdout));
        assert_eq!(names(), before, "{line}");
        String::from_utf8(done.stderr).unwrap()
    }
}

const ROWS: &str = "0,1,299\n1,2,0\n0,0,7\n1,1,256\n";

#[test]
fn files_of_every_kind_come_back() {
    let place = Place::new("kinds");
    place.write("rows.csv", ROWS);
    let facts = place.ok("encode a.kiln rows.csv -o first.bin");
    let (rows, bytes) = (&facts["rows"], place.read("first.bin").len());
    assert_eq!((rows, &facts["variables"], &facts["elem"]), (&4.into(), &3.into(), &"u16".into()));
    assert_eq!((&facts["bytes"], &facts["raw_bytes"], &facts["ordered"]), (&bytes.into(), &24.into(), &true.into()));
    // 0.9 / 4 twice, 0.1 * 0.75, and 0.9 / 4 with 0.1 / 4, each with 1 of 300.
    let ideal = -((0.225f64 * 0.225 * 0.075 * 0.25) / 300f64.powi(4)).log2();
    assert!((facts["ideal_bits"].as_f64().unwrap() - ideal).abs() < 1e-9, "{facts}");
    for kind in ["npy", "npz", "safetensors", "csv.gz", "csv"] {
        let facts = place.ok(&format!("decode a.kiln first.bin -o again.{kind}"));
        assert_eq!((&facts["rows"], &facts["bytes"]), (&4.into(), &bytes.into()), "{kind}");
        place.ok(&format!("encode a.kiln again.{kind} -o again.bin"));
        assert_eq!(place.read("again.bin"), place.read("first.bin"), "{kind}");
    }
    assert_eq!(place.read("again.csv"), ROWS.as_bytes());
    // Other ends of lines, blanks and an empty line are the same rows.
    place.write("loose.csv", ROWS.replace('\n', "\r\n").replace(',', " ; ") + "\n");
    place.ok("encode a.kiln loose.csv -o loose.bin");
    assert_eq!(place.read("loose.bin"), place.read("first.bin"));
    place.write("marked.csv", format!("\u{feff}{ROWS}"));
    place.ok("encode a.kiln marked.csv -o marked.bin");
    assert_eq!(place.read("marked.bin"), place.read("first.bin"));
    place.write("none.csv", "");
    assert_eq!(place.ok("encode a.kiln none.csv -o none.bin")["rows"], 0);
    place.ok("decode a.kiln none.bin -o none.npy");
    assert!(String::from_utf8_lossy(&place.read("none.npy")).contains("'shape': (0, 3,)"));
}

#[test]
fn a_column_first_array_is_the_same_rows() {
    let place = Place::new("fortran");
    place.write("rows.csv", "0,1,2\n1,2,3\n");
    place.ok("encode a.kiln rows.csv -o rows.bin");
    let header = "{'descr': '<u2', 'fortran_order': True, 'shape': (2, 3), }\n";
    let values = [0u16, 1, 1, 2, 2, 3].map(u16::to_le_bytes).concat();
    let array = [b"\x93NUMPY\x01\x00".to_vec(), (header.len() as u16).to_le_bytes().to_vec(), header.into(), values];
    place.write("rows.npy", array.concat());
    place.ok("encode a.kiln rows.npy -o again.bin");
    assert_eq!(place.read("again.bin"), place.read("rows.bin"));
}

#[test]
fn faults_are_explained_and_leave_no_file() {
    let place = Place::new("faults");
    for (text, expected) in [
        ("0,0,0\n0,3,0\n", "rows.csv: line 2: variable 1: the value 3 is outside of the circuit's 0..3"),
        ("0,0\n", "rows.csv: line 1: expected 3 columns, found 2"),
        ("0,?,0\n", "rows.csv: line 1: variable 1: expected an integer, found \"?\""),
        (
            "0,0,5\n0,2,5\n",
            "rows.csv: row 1, variable 1: given the variables coded before it, the circuit gives the value 2 probability 0",
        ),
    ] {
        place.write("rows.csv", text);
        let error = place.fails("encode a.kiln rows.csv -o out.bin");
        assert!(error.contains(expected), "{error}");
    }
    place.write("rows.csv", b"0,0,0\n0,\xff,0\n");
    let error = place.fails("encode a.kiln rows.csv -o out.bin");
    assert!(error.contains("rows.csv: line 2: ") && error.contains("UTF-8"), "{error}");
    place.write("rows.csv", format!("0,{},0\n", "A".repeat(100_000)));
    let error = place.fails("encode a.kiln rows.csv -o out.bin");
    let cut = format!("line 1: variable 1: expected an integer, found \"{}\"...", "A".repeat(40));
    assert!(error.trim_end().ends_with(&cut), "{} bytes: {error:.200}", error.len());
    place.write("rows.csv", "0".repeat((1 << 26) + 1));
    let error = place.fails("encode a.kiln rows.csv -o out.bin");
    assert!(error.contains("line 1: expected lines of at most 67108864 bytes, found a longer one"), "{error:.200}");
    assert!(place.fails("encode a.kiln nowhere.csv -o out.bin").contains("nowhere.csv: No such file"));
    assert!(place.fails("encode nowhere.kiln rows.csv -o out.bin").contains("nowhere.kiln: No such file"));
    place.write("plain.kiln", artifact(None));
    assert!(place.fails("encode plain.kiln rows.csv -o out.bin").contains("plain.kiln: the artifact holds no circuit"));
    place.write("real.kiln", artifact(Some(&Err("variable 1 is continuous".into()))));
    assert!(place.fails("encode real.kiln rows.csv -o out.bin").contains("variable 1 is continuous"));

    place.write("rows.csv", ROWS);
    place.ok("encode a.kiln rows.csv -o a.bin");
    place.write("b.kiln", artifact(Some(&Ok(circuit(0.25)))));
    assert!(place.fails("decode b.kiln a.bin -o out.csv").contains("a.bin: the stream was coded with the circuit"));
    assert!(place.fails("decode a.kiln rows.csv -o out.csv").contains("rows.csv: not a coded stream"));
    assert!(place.fails("decode a.kiln a.bin -o out.txt").contains("out.txt: rows go to .npy"));
    let good = place.read("a.bin");
    place.write("cut.bin", &good[..good.len() - 1]);
    assert!(place.fails("decode a.kiln cut.bin -o out.npy").contains("cut.bin: the stream is cut"));
    place.write("long.bin", [&good[..], b"x"].concat());
    assert!(place.fails("decode a.kiln long.bin -o out.npz").contains("more bytes follow it"));
    let mut damaged = good.clone();
    damaged[60] ^= 4;
    place.write("damaged.bin", damaged);
    assert!(place.fails("decode a.kiln damaged.bin -o out.csv.gz").contains("block 0: its hash does not match"));
}

#[test]
fn a_damaged_circuit_is_found_before_it_codes() {
    let mut bytes = artifact(Some(&Ok(circuit(0.5))));
    let section = Artifact::from_bytes(&bytes).unwrap().sections().last().copied().unwrap();
    bytes[section.offset as usize + 20] ^= 1;
    let damaged = Artifact::from_bytes(&bytes).unwrap();
    assert!(matches!(codec::Codec::new(&damaged).err(), Some(Error::Corrupt { .. })));
}
