//! The whole way, from a model's files to numbers, against the reference interpreter and against PyTorch.
//!
//! MiniLM is not part of the tree: `KILN_MINILM` names its directory, and without it those tests say that they skip.

use kiln_frontend::LoadOptions;
use kiln_ir::eval::Tensor;
use kiln_runtime::{Artifact, Session, SessionOptions};
use kiln_tests::support::{from_runtime, interpret, root, skip, stored, to_runtime};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Relative L2 distance to f64 that the compiled models keep.
const TOLERANCE: f64 = 1e-5;

fn vit() -> PathBuf {
    root().join("examples/models/digits-vit")
}

/// The directory of MiniLM, if there is one on this machine.
fn minilm() -> Option<PathBuf> {
    let path = std::env::var_os("KILN_MINILM").map(PathBuf::from);
    if path.is_none() {
        skip("KILN_MINILM names no directory with all-MiniLM-L6-v2");
    }
    path
}

fn compile(model: &Path, folder: &Path) -> PathBuf {
    let out = folder.join("model.kiln");
    kiln::compile(model, &kiln::Options::default(), &out).unwrap_or_else(|e| panic!("{e}"));
    out
}

/// The artifact of digits-vit, compiled once for all tests.
fn vit_artifact() -> &'static Artifact {
    static ARTIFACT: OnceLock<Artifact> = OnceLock::new();
    ARTIFACT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        Artifact::from_bytes(&fs::read(compile(&vit(), folder.path())).unwrap()).unwrap()
    })
}

fn run(artifact: &Artifact, entry: &str, inputs: &[(String, Tensor)], threads: usize) -> Vec<(String, Tensor)> {
    let mut session = Session::new(artifact, SessionOptions { threads: Some(threads), ..Default::default() }).unwrap();
    let owned: Vec<_> = inputs.iter().map(|(name, t)| (name.as_str(), to_runtime(t))).collect();
    let views: Vec<_> = owned.iter().map(|(name, t)| (*name, t.view())).collect();
    let outputs = session.entry(entry).unwrap().run(&views).unwrap();
    outputs.iter().map(|(name, t)| (name.to_owned(), from_runtime(t))).collect()
}

#[track_caller]
fn agree(found: &[(String, Tensor)], expected: &[(String, Tensor)]) {
    let names = |list: &[(String, Tensor)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        let error = found.relative_error(expected);
        assert!(error <= TOLERANCE, "{name}: relative L2 {error:e}");
    }
}

/// The first `n` of a batch.
fn first(batch: &Tensor, n: usize) -> Tensor {
    let bytes = batch.to_bytes();
    let each = bytes.len() / batch.shape[0];
    let shape: Vec<usize> = std::iter::once(n).chain(batch.shape[1..].iter().copied()).collect();
    Tensor::from_bytes(batch.elem, shape, &bytes[..n * each]).unwrap()
}

#[test]
fn digits_vit_computes_what_pytorch_does() {
    // Four test images and PyTorch's float64 logits for them.
    let golden = stored(&root().join("tests/data/digits-vit.safetensors"));
    for batch in [1, 3, 4] {
        let input = vec![("pixel_values".to_owned(), first(&golden["pixel_values"], batch))];
        let found = run(vit_artifact(), "forward", &input, 2);
        agree(&found, &[("logits".to_owned(), first(&golden["logits"], batch))]);
    }
}

#[test]
fn digits_vit_computes_what_its_graph_means() {
    let model = kiln_frontend::load(&vit(), &LoadOptions::default()).unwrap();
    let golden = stored(&root().join("tests/data/digits-vit.safetensors"));
    let input = vec![("pixel_values".to_owned(), first(&golden["pixel_values"], 2))];
    agree(&run(vit_artifact(), "forward", &input, 1), &interpret(&model, "forward", &input));
}

#[test]
fn a_loop_written_as_text_runs_for_each_row_as_often_as_it_must() {
    let folder = tempfile::tempdir().unwrap();
    let options = kiln::Options { targets: vec!["cpu:native".into()], ..Default::default() };
    let out = folder.path().join("gcd.kiln");
    kiln::compile(&root().join("tests/data/gcd.kir"), &options, &out).unwrap_or_else(|e| panic!("{e}"));
    let artifact = Artifact::open(&out).unwrap();
    let ints =
        |name: &str, values: Vec<i64>| (name.to_owned(), Tensor::ints(kiln_ir::ElemType::I64, [values.len()], values));
    let gcd = |a: i64, b: i64| (1..=a.max(b)).rev().find(|d| a % d == 0 && b % d == 0).unwrap();
    for rows in [1, 2, 40, 64] {
        let (a, b): (Vec<i64>, Vec<i64>) = (0..rows).map(|i| (i * i * 31 % 900 + 1, i * 77 % 641)).unzip();
        let expected = [ints("gcd", a.iter().zip(&b).map(|(a, b)| gcd(*a, *b)).collect())];
        for threads in [1, 2] {
            let inputs = [ints("a", a.clone()), ints("b", b.clone())];
            assert_eq!(run(&artifact, "forward", &inputs, threads), expected);
        }
    }
    // Numbers of Fibonacci that follow each other take the most steps: these 21.
    let mut session = Session::new(&artifact, SessionOptions::default()).unwrap();
    let inputs = [to_runtime(&ints("", vec![12, 28657]).1), to_runtime(&ints("", vec![8, 17711]).1)];
    let error = session.entry("forward").unwrap().run(&[("a", inputs[0].view()), ("b", inputs[1].view())]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("while euclid") && text.contains("more than the 20 times"), "{text}");
}

/// A copy of a model's files in another folder.
fn moved(model: &Path, to: &Path) -> PathBuf {
    let copy = to.join("some other name");
    copy_folder(model, &copy);
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else {
            fs::copy(path, copy).unwrap();
        }
    }
}

fn bytes_are_the_same_from_everywhere(model: &Path) {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = fs::read(compile(model, here.path())).unwrap();
    let second = fs::read(compile(&moved(model, there.path()), there.path())).unwrap();
    assert!(first == second, "two compilations of one model differ");
}

fn bits_are_the_same_on_any_number_of_threads(artifact: &Artifact, entry: &str, input: &[(String, Tensor)]) {
    let one = run(artifact, entry, input, 1);
    for threads in [2, 3] {
        for ((name, a), (_, b)) in one.iter().zip(&run(artifact, entry, input, threads)) {
            assert!(a.to_bytes() == b.to_bytes(), "{name} differs on {threads} threads");
        }
    }
}

#[test]
fn digits_vit_compiles_to_the_same_bytes_from_another_path() {
    bytes_are_the_same_from_everywhere(&vit());
}

#[test]
fn digits_vit_gives_the_same_bits_on_any_number_of_threads() {
    let golden = stored(&root().join("tests/data/digits-vit.safetensors"));
    for batch in [1, 4] {
        let input = [("pixel_values".to_owned(), first(&golden["pixel_values"], batch))];
        bits_are_the_same_on_any_number_of_threads(vit_artifact(), "forward", &input);
    }
}

/// Token ids, a mask whose rows end in padding of different lengths, and token types.
fn tokens(batch: usize, length: usize) -> Vec<(String, Tensor)> {
    let at = |f: &dyn Fn(usize, usize) -> i64| {
        let data = (0..batch).flat_map(|b| (0..length).map(move |s| (b, s))).map(|(b, s)| f(b, s)).collect();
        Tensor::ints(kiln_ir::ElemType::I64, [batch, length], data)
    };
    let kept = |b: usize| length - b * length / (2 * batch);
    vec![
        ("input_ids".to_owned(), at(&|b, s| 1000 + ((b * 7919 + s * 104_729) % 28_000) as i64)),
        ("attention_mask".to_owned(), at(&|b, s| i64::from(s < kept(b)))),
        ("token_type_ids".to_owned(), at(&|_, _| 0)),
    ]
}

#[test]
fn minilm_computes_what_its_graph_means() {
    let Some(model) = minilm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let artifact = Artifact::open(compile(&model, folder.path())).unwrap();
    let loaded = kiln_frontend::load(&model, &LoadOptions::default()).unwrap();
    for (batch, length) in [(1, 1), (1, 7), (3, 16)] {
        let input = tokens(batch, length);
        for entry in &loaded.module.entries {
            agree(&run(&artifact, &entry.name, &input, 2), &interpret(&loaded, &entry.name, &input));
        }
    }
}

#[test]
fn minilm_is_the_same_from_everywhere_and_on_any_number_of_threads() {
    let Some(model) = minilm() else { return };
    bytes_are_the_same_from_everywhere(&model);
    let folder = tempfile::tempdir().unwrap();
    let artifact = Artifact::open(compile(&model, folder.path())).unwrap();
    for (batch, length) in [(1, 16), (3, 37)] {
        bits_are_the_same_on_any_number_of_threads(&artifact, "forward", &tokens(batch, length));
    }
}
