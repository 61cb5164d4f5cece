//! `kiln-run` as a process: outputs, exit codes, and hostile input files.
#![cfg(all(target_arch = "x86_64", feature = "cli", feature = "write"))]

mod support;

use kiln_runtime::cli::{pack_record, read_tensors, write_tensors};
use kiln_runtime::format::ElemType;
use kiln_runtime::{Tensor, TensorView};
use serde_json::Value;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::{fixed, input, launch, output, port, sym, zoo};
use zip::write::SimpleFileOptions;

/// A directory with `zoo.kiln` in it, gone when dropped.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("kiln-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let mut model = zoo();
        model.rewrites = pack_record(b"{}").unwrap();
        std::fs::write(path.join("zoo.kiln"), model.bytes()).unwrap();
        Place(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn kiln_run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kiln-run")).args(args).current_dir(&self.0).output().unwrap()
    }

    /// The standard output of a run that must succeed.
    fn ok(&self, args: &[&str]) -> String {
        let done = self.kiln_run(args);
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// The standard error of a run that must end with that code.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let done = self.kiln_run(args);
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(code), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
        text
    }

    fn write_x(&self, name: &str, x: &[f32]) {
        let shape = [x.len()];
        write_tensors(&self.path(name), &[("x", TensorView::of(&shape, x).unwrap())]).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn read(path: &Path) -> Vec<(String, Tensor)> {
    read_tensors(path, |_| Ok(())).unwrap()
}

fn last_json(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn verbose_says_which_target_runs() {
    let place = Place::new("verbose");
    place.write_x("x.npz", &[1.0]);
    for verb in ["run", "bench"] {
        let done = place.kiln_run(&[verb, "zoo.kiln", "-v", "--entry", "quadruple", "--inputs", "x.npz"]);
        let text = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && text.starts_with("target cpu:"), "{text}");
    }
}

#[test]
fn run_reads_and_writes_both_formats() {
    let place = Place::new("formats");
    for kind in ["npz", "safetensors"] {
        let (from, to) = (format!("in.{kind}"), format!("out.{kind}"));
        place.write_x(&from, &[1.0, -2.5]);
        place.ok(&["run", "zoo.kiln", "--entry", "quadruple", "--inputs", &from, "--outputs", &to, "--threads", "2"]);
        let outputs = read(&place.path(&to));
        assert_eq!((outputs[0].0.as_str(), outputs[0].1.as_slice::<f32>()), ("y", Some(&[4.0, -10.0][..])));
    }
    let text = place.ok(&["run", "zoo.kiln", "--entry", "quadruple", "--inputs", "in.npz", "--json", "--stats"]);
    assert!(text.starts_with("y: f32[2]  [4.00000, -10.00000]"), "{text}");
    let facts = last_json(&text);
    assert_eq!((&facts["outputs"][0]["name"], &facts["outputs"][0]["min"]), (&"y".into(), &(-10.0).into()));
    assert_eq!(facts["stats"]["launches"], 2);
}

#[test]
fn every_element_type_survives_a_file() {
    let place = Place::new("types");
    let tensors: Vec<(&str, Tensor)> = ElemType::all()
        .map(|elem| {
            let mut tensor = Tensor::zeros(elem, &[2, 3]).unwrap();
            tensor
                .bytes_mut()
                .iter_mut()
                .enumerate()
                .for_each(|(i, b)| *b = if elem == ElemType::I1 { i as u8 % 2 } else { i as u8 });
            (elem.name(), tensor)
        })
        .collect();
    for kind in ["npz", "safetensors"] {
        let path = place.path(&format!("all.{kind}"));
        let fits = |name: &str| kind == "safetensors" || name != "bf16";
        let views: Vec<_> = tensors.iter().filter(|(name, _)| fits(name)).map(|(name, t)| (*name, t.view())).collect();
        write_tensors(&path, &views).unwrap();
        let found = read(&path);
        assert_eq!(found.len(), views.len());
        for (name, tensor) in found {
            let (_, expected) = views.iter().find(|(n, _)| *n == name).unwrap();
            assert_eq!(
                (tensor.elem(), tensor.shape(), tensor.bytes()),
                (expected.elem(), expected.shape(), expected.bytes())
            );
        }
    }
    let all: Vec<_> = tensors.iter().map(|(name, t)| (*name, t.view())).collect();
    let error = write_tensors(&place.path("no.npz"), &all).unwrap_err().to_string();
    assert!(error.ends_with("bf16: .npz has no bf16, .safetensors has"), "{error}");
    assert!(write_tensors(&place.path("no.txt"), &[]).is_err());
    assert_eq!(std::fs::read_dir(&place.0).unwrap().count(), 3, "a partial file is left");
}

#[test]
fn bench_reports_what_the_contract_says() {
    let place = Place::new("bench");
    place.write_x("in.npz", &[1.0; 100]);
    let common = ["bench", "zoo.kiln", "--entry", "quadruple", "--inputs", "in.npz", "--threads", "1", "--json"];
    let more = ["--iterations", "4", "--warmup", "1", "--outputs", "out.npz", "--profile", "trace.json"];
    let facts = last_json(&place.ok(&[&common[..], &more[..]].concat()));
    assert_eq!(facts["latencies_s"].as_array().unwrap().len(), 4);
    assert!(facts["peak_rss_bytes"].as_u64().unwrap() > 0 && facts["load_s"].as_f64().unwrap() > 0.0);
    assert_eq!((&facts["threads"], &facts["outputs"]), (&1.into(), &"out.npz".into()));
    assert_eq!(read(&place.path("out.npz"))[0].1.as_slice::<f32>().unwrap(), [4.0; 100]);
    let trace: Value = serde_json::from_slice(&std::fs::read(place.path("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert_eq!(events.len(), 8);
    assert_eq!((&events[0]["name"], &events[0]["ph"]), (&"node_double".into(), &"X".into()));

    let facts = last_json(&place.ok(&common));
    let outputs = PathBuf::from(facts["outputs"].as_str().unwrap());
    assert_eq!(read(&outputs)[0].1.as_slice::<f32>().unwrap(), [4.0; 100]);
    std::fs::remove_file(outputs).unwrap();
}

#[test]
fn inspect_shows_everything() {
    let place = Place::new("inspect");
    let text = place.ok(&["inspect", "zoo.kiln", "--plan", "--memory", "--rewrites", "--json"]);
    for expected in [
        "tiny by test",
        "entry shapes(a: f32[n, even], b: i64[n + 1, 3]) -> ()",
        "symbol even: 2 to 64, in steps of 2",
        "double(input0+0, arena+64; ) in n tasks  // node_double",
        "for input0+0 times block 2, index in arena+8",
        "memory of gather: arena 4096 + (n * 4); scratch of each thread 64",
        "state kept: i64[2], kept for the Session",
    ] {
        assert!(text.lines().any(|line| line.trim() == expected), "{expected} is not in\n{text}");
    }
    place.ok(&["inspect", "zoo.kiln", "--html", "report.html"]);
    let page = std::fs::read_to_string(place.path("report.html")).unwrap();
    assert!(page.contains("<h1>tiny</h1>") && page.contains("double(input0+0, arena+64; ) in n tasks"), "{page}");
    let facts = last_json(&text);
    assert_eq!((&facts["entries"][0]["name"], &facts["rewrites"]), (&"quadruple".into(), &serde_json::json!({})));
}

#[test]
fn faults_have_their_exit_codes() {
    let place = Place::new("faults");
    place.write_x("in.npz", &[1.0]);
    place.fails(2, &["run"]);
    place.fails(2, &["run", "zoo.kiln", "--threads", "0"]);
    place.fails(2, &["run", "zoo.kiln", "--require-key", "abc"]);
    place.fails(2, &["fly", "zoo.kiln"]);
    // Before anything is opened.
    let name = place.fails(1, &["run", "nowhere.kiln", "--outputs", "y.txt"]);
    assert_eq!(name, "error: y.txt: outputs go to .npz or .safetensors\n");
    let choose = place.fails(2, &["run", "zoo.kiln", "--inputs", "in.npz"]);
    assert!(choose.starts_with("error: choose one of the entries with --entry: quadruple, gather"), "{choose}");
    let key = "00".repeat(31) + "01";
    assert!(place.fails(1, &["inspect", "zoo.kiln", "--require-key", &key]).contains("signature: there is none"));
    assert!(place.fails(1, &["inspect", "nowhere.kiln"]).contains("nowhere.kiln: No such file"));
    assert!(place.fails(1, &["inspect", "in.npz"]).contains("in.npz: not a kiln artifact"));
    let wrong = place.fails(1, &["run", "zoo.kiln", "--entry", "gather", "--inputs", "in.npz"]);
    let expected = "error: input x: there is no such input\ninput ids: missing\n\
                    entry gather takes ids: i64[n]; n from 1 to 1000\n";
    assert_eq!(wrong, expected);
    let missing = place.fails(1, &["run", "zoo.kiln", "--entry", "gather"]);
    assert!(missing.starts_with("error: input ids: missing"), "{missing}");
    std::fs::write(place.path("text.npz"), "certainly not a zip").unwrap();
    let text = place.fails(1, &["run", "zoo.kiln", "--entry", "gather", "--inputs", "text.npz"]);
    assert!(text.ends_with("expected .npz or .safetensors\n"), "{text}");
    std::fs::write(place.path("empty.npz"), "").unwrap();
    place.fails(1, &["run", "zoo.kiln", "--entry", "gather", "--inputs", "empty.npz"]);
    let mut damaged = std::fs::read(place.path("zoo.kiln")).unwrap();
    damaged[4096 + 64] ^= 1;
    std::fs::write(place.path("damaged.kiln"), damaged).unwrap();
    let text = place.fails(1, &["run", "damaged.kiln", "--entry", "quadruple", "--inputs", "in.npz"]);
    assert!(text.contains("the artifact is damaged") && text.contains("of damaged.kiln does not match"), "{text}");
}

#[test]
fn unknown_inputs_are_counted_where_there_are_many() {
    let place = Place::new("unknown");
    let names: Vec<String> = (0..500).map(|i| format!("n{i}")).collect();
    let zero = Tensor::zeros(ElemType::F32, &[1]).unwrap();
    let tensors: Vec<_> = names.iter().map(|name| (name.as_str(), zero.view())).collect();
    write_tensors(&place.path("in.npz"), &tensors).unwrap();
    let text = place.fails(1, &["run", "zoo.kiln", "--entry", "gather", "--inputs", "in.npz"]);
    assert!(text.contains("\nand 480 more inputs that there are not\ninput ids: missing\n"), "{text}");
    assert_eq!(text.lines().count(), 23, "{text}");
}

#[test]
fn an_array_that_stands_twice_is_an_error() {
    let place = Place::new("twice");
    let array = archive("x.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4);
    // The zip format keeps names in two places; both of the second member's are made those of the first.
    for (second, expected) in [("y.npy", "two of its arrays have one name"), ("x", "array x: it stands twice")] {
        let mut zip = zip::ZipWriter::new_append(Cursor::new(array.clone())).unwrap();
        zip.start_file(second, SimpleFileOptions::default()).unwrap();
        zip.write_all(&zip_array()).unwrap();
        let mut bytes = zip.finish().unwrap().into_inner();
        if second == "y.npy" {
            let places: Vec<usize> = (0..bytes.len() - 5).filter(|i| &bytes[*i..i + 5] == b"y.npy").collect();
            assert_eq!(places.len(), 2);
            places.iter().for_each(|i| bytes[*i] = b'x');
        }
        std::fs::write(place.path("twice.npz"), bytes).unwrap();
        let text = place.fails(1, &["run", "zoo.kiln", "--entry", "quadruple", "--inputs", "twice.npz"]);
        assert!(text.contains("twice.npz") && text.contains(expected), "{text}");
    }
}

#[test]
fn a_full_disk_is_one_message_that_names_the_file() {
    let place = Place::new("full");
    place.write_x("in.npz", &[1.0; 1000]);
    for kind in ["npz", "safetensors"] {
        let full = place.path(&format!("full.{kind}"));
        std::os::unix::fs::symlink("/dev/full", &full).unwrap();
        let name = format!("full.{kind}");
        let run = ["run", "zoo.kiln", "--entry", "quadruple", "--inputs", "in.npz", "--outputs", &name];
        let text = place.fails(1, &run);
        assert_eq!(text, format!("error: {name}: No space left on device (os error 28)\n"));
    }
    let profile = ["bench", "zoo.kiln", "--entry", "quadruple", "--inputs", "in.npz", "--profile", "/dev/full"];
    let text = place.fails(1, &profile);
    assert_eq!(text, "error: /dev/full: No space left on device (os error 28)\n");
}

#[test]
fn names_of_an_artifact_do_not_act_on_the_terminal() {
    let place = Place::new("names");
    let mut model = zoo();
    model.rewrites = pack_record(b"\"\x1b[2J\"").unwrap();
    let hostile = "\x1b[2Jmodel\nroot 00";
    model.manifest.model_name = hostile.into();
    model.manifest.metadata.insert("labels".into(), hostile.into());
    for kernel in model.manifest.targets.iter_mut().flat_map(|t| &mut t.kernels) {
        kernel.label = hostile.into();
    }
    for entry in &mut model.manifest.entries {
        entry.inputs.iter_mut().for_each(|p| p.name += hostile);
    }
    std::fs::write(place.path("hostile.kiln"), model.bytes()).unwrap();
    let text = place.ok(&["inspect", "hostile.kiln", "--plan", "--memory", "--rewrites", "--json"]);
    assert!(text.starts_with("\\u{1b}[2Jmodel\\nroot 00 by test\n"), "{text}");
    let error = place.fails(1, &["run", "hostile.kiln", "--entry", "gather"]);
    assert!(error.contains("input ids\\u{1b}[2Jmodel\\nroot 00: missing"), "{error}");
    assert!(!text.contains('\x1b') && !error.contains('\x1b'));
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let place = Place::new("pipe");
    let mut child = Command::new(env!("CARGO_BIN_EXE_kiln-run"))
        .args(["inspect", "zoo.kiln", "--plan", "--json"])
        .current_dir(&place.0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(text, "");
}

/// Four descriptors are the standard ones and the artifact's: none is left for a file in memory.
#[test]
fn code_loads_where_memory_files_are_forbidden() {
    let place = Place::new("sandbox");
    let run =
        format!("ulimit -n 4; exec {} run zoo.kiln --entry relocated --threads 1", env!("CARGO_BIN_EXE_kiln-run"));
    let done = Command::new("sh").args(["-c", &run]).current_dir(&place.0).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "y: i64[]  [4242.00000]\n", "{done:?}");
}

/// An array file of one f32.
fn zip_array() -> Vec<u8> {
    let bytes = archive("x.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4);
    let mut found = Vec::new();
    zip::ZipArchive::new(Cursor::new(bytes)).unwrap().by_index(0).unwrap().read_to_end(&mut found).unwrap();
    found
}

/// An archive with one array whose header is `header`, and `len` zeros behind it.
fn archive(name: &str, header: &str, len: usize) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    zip.start_file(name, options).unwrap();
    zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
    zip.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
    zip.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0u8; 1 << 16];
    for at in (0..len).step_by(zeros.len()) {
        zip.write_all(&zeros[..zeros.len().min(len - at)]).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn arrays_that_claim_too_much_cost_nothing() {
    let place = Place::new("bombs");
    let header = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    // A shape without the data, sizes beyond any address, and a bomb of a shape that the entry does not take.
    for (shape, len, expected) in [
        ("1000000000000,", 4, "but holds"),
        ("9223372036854775807, 4", 4, "but holds"),
        ("99999999999999999999,", 4, "not understood"),
        ("16777216,", 64 << 20, "n is 16777216, expected at most 1000"),
        ("1,", 64 << 20, "but holds"),
    ] {
        std::fs::write(place.path("bomb.npz"), archive("x.npy", &header(shape), len)).unwrap();
        let text = place.fails(1, &["run", "zoo.kiln", "--entry", "quadruple", "--inputs", "bomb.npz"]);
        assert!(text.contains(expected), "{shape}: {text}");
    }
    // Damage anywhere in a good archive is an error or harmless, never a panic.
    let good = archive("x.npy", &header("3,"), 12);
    for i in 0..good.len() {
        let mut damaged = good.clone();
        damaged[i] ^= 0x55;
        std::fs::write(place.path("damaged.npz"), &damaged).unwrap();
        let _ = read_tensors(&place.path("damaged.npz"), |_| Ok(()));
        std::fs::write(place.path("damaged.npz"), &good[..i]).unwrap();
        assert!(read_tensors(&place.path("damaged.npz"), |_| Ok(())).is_err(), "cut to {i}");
    }
}

fn png(color: png::ColorType, width: u32, height: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().unwrap().write_image_data(data).unwrap();
    bytes
}

#[test]
fn pictures_are_classified() {
    let place = Place::new("pictures");
    let mut model = zoo();
    let pixels = port("pixels", ElemType::F32, &[sym(0), fixed(1), fixed(1), fixed(4)]);
    let logits = port("logits", ElemType::F32, &[sym(0), fixed(4)]);
    let double = launch("double", &[input(0), output(0)], &[], sym(0) * fixed(4));
    model.entry("forward", &[pixels], &[logits], vec![vec![double]]);
    for (key, value) in [
        ("image.size", "1x4"),
        ("image.channels", "1"),
        ("image.rescale", "0.5"),
        ("image.mean", "10"),
        ("image.std", "2"),
        ("labels", r#"{"0": "ant", "1": "bee", "2": "cat", "3": "dog"}"#),
    ] {
        model.manifest.metadata.insert(key.into(), value.into());
    }
    std::fs::write(place.path("model.kiln"), model.bytes()).unwrap();
    std::fs::write(place.path("a.png"), png(png::ColorType::Grayscale, 4, 1, &[20, 24, 20, 20])).unwrap();
    let text = place.ok(&["run", "model.kiln", "--inputs", "a.png", "--json"]);
    // (24 / 2 - 10) / 2 * 2 = 2 against three zeros.
    let probability = 2f64.exp() / (2f64.exp() + 3.0);
    assert!(text.contains("logits: f32[1, 4]  [0.00000, 2.00000, 0.00000, 0.00000]"), "{text}");
    assert!(text.contains(&format!("class 1: bee ({:.1} %)", 100.0 * probability)), "{text}");
    let class = &last_json(&text)["classes"][0];
    assert_eq!((&class["index"], &class["label"]), (&1.into(), &"bee".into()));
    // Colour with transparency, and of twice the size.
    let rgba: Vec<u8> = [20u8, 20, 24, 24, 20, 20, 20, 20].repeat(2).iter().flat_map(|v| [*v, *v, *v, 9]).collect();
    std::fs::write(place.path("b.png"), png(png::ColorType::Rgba, 8, 2, &rgba)).unwrap();
    assert!(place.ok(&["run", "model.kiln", "--inputs", "b.png"]).contains("class 1: bee"));

    let error = place.fails(1, &["run", "zoo.kiln", "--entry", "quadruple", "--inputs", "a.png"]);
    assert!(error.contains("the artifact takes no pictures"), "{error}");
    let good = std::fs::read(place.path("a.png")).unwrap();
    for cut in [8, 20, 40, good.len() / 2] {
        std::fs::write(place.path("cut.png"), &good[..cut]).unwrap();
        place.fails(1, &["run", "model.kiln", "--inputs", "cut.png"]);
    }
    let mut huge = good.clone();
    huge[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    std::fs::write(place.path("huge.png"), huge).unwrap();
    place.fails(1, &["run", "model.kiln", "--inputs", "huge.png"]);
}
