//! Models of the tree, evaluated by the reference interpreter, against PyTorch in float64.

use super::support::Model;
use kiln_frontend::{LoadOptions, Loaded, load};
use kiln_ir::{
    ElemType, Param,
    eval::{self, Data, Tensor},
};
use safetensors::SafeTensors;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// What a result may differ by: PyTorch takes some softmaxes in float32, and constants of the graph are float32.
const TOLERANCE: f64 = 1e-6;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(super) fn read(path: &Path) -> HashMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let elem = |t: safetensors::Dtype| ElemType::from_name(&t.to_string().to_lowercase()).unwrap();
    file.iter()
        .map(|(name, t)| (name.to_string(), Tensor::from_bytes(elem(t.dtype()), t.shape(), t.data()).unwrap()))
        .collect()
}

fn run(loaded: &Loaded, entry: &str, reference: &HashMap<String, Tensor>) -> Vec<(String, Tensor)> {
    let m = &loaded.module;
    let weights = |p: Param| {
        let data = &m.params[p];
        let t = loaded.weights.tensor(data.file, &data.key).ok_or("no such tensor")?;
        Tensor::from_bytes(t.elem, t.shape, t.bytes).ok_or("no such type".to_string())
    };
    let args = &m.regions[m.entry(entry).unwrap().body].args;
    let inputs = args.iter().map(|a| {
        let name = m.show(*a).trim_start_matches('%').to_string();
        let mut tensor = reference[&name].clone();
        tensor.elem = m.ty(*a).elem;
        (name, tensor)
    });
    eval::run(m, entry, &inputs.collect(), &weights).unwrap()
}

fn check(loaded: &Loaded, entry: &str, outputs: &[&str], reference: &HashMap<String, Tensor>, tolerance: f64) {
    let found = run(loaded, entry, reference);
    assert_eq!(found.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), outputs, "@{entry}");
    for (name, tensor) in found {
        let error = tensor.relative_error(&reference[&name]);
        assert!(error <= tolerance, "{name} of @{entry}: relative error {error:e}");
    }
}

#[test]
fn bert_as_sentence_transformer() {
    let dir = golden("bert");
    let loaded = load(&dir, &LoadOptions::default()).unwrap();
    let reference = read(&dir.join("reference.safetensors"));
    check(&loaded, "forward", &["last_hidden_state"], &reference, TOLERANCE);
    check(&loaded, "embed", &["sentence_embedding"], &reference, TOLERANCE);
    assert_eq!(loaded.notes.len(), 1, "{:?}", loaded.notes);
    assert!(loaded.notes[0].contains("pooler"));
}

/// Poolings by hand from the reference's hidden states; the rest of the pipeline is left out.
#[test]
fn poolings() {
    let model = Model::copy("bert");
    model.edit_json_list("modules.json", |modules| {
        modules.pop();
    });
    let reference = read(&model.file("reference.safetensors"));
    let (hidden, mask) = (&reference["last_hidden_state"], &reference["attention_mask"]);
    let (Data::F(hidden), Data::I(mask)) = (&hidden.data, &mask.data) else { panic!("types of the reference") };
    let (batch, length, width) = (3, 7, 12);
    let pool = |b: usize, h: usize, mode: &str| -> f64 {
        let kept = (0..length).filter(|s| mask[b * length + s] == 1).map(|s| hidden[(b * length + s) * width + h]);
        let count = mask[b * length..(b + 1) * length].iter().sum::<i64>() as f64;
        match mode {
            "cls_token" => hidden[b * length * width + h],
            "max_tokens" => kept.fold(f64::NEG_INFINITY, f64::max),
            "mean_tokens" => kept.sum::<f64>() / count,
            _ => kept.sum::<f64>() / count.sqrt(),
        }
    };
    let modes = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens"];
    for chosen in modes.iter().map(std::slice::from_ref).chain([&modes[..]]) {
        model.edit_json("1_Pooling/config.json", |c| {
            for mode in modes {
                c.insert(format!("pooling_mode_{mode}"), chosen.contains(&mode).into());
            }
        });
        let rows = (0..batch).flat_map(|b| chosen.iter().map(move |mode| (b, mode)));
        let expected = rows.flat_map(|(b, mode)| (0..width).map(move |h| pool(b, h, mode))).collect();
        let expected = Tensor::floats(ElemType::F64, [batch, width * chosen.len()], expected);
        let loaded = load(model.path(), &LoadOptions::default()).unwrap();
        let found = run(&loaded, "embed", &reference);
        let error = found[0].1.relative_error(&expected);
        assert!(error <= TOLERANCE, "{chosen:?}: relative error {error:e}");
    }
}

#[test]
fn bert_in_f16_shards() {
    let dir = golden("bert-f16-shards");
    let loaded = load(&dir, &LoadOptions::default()).unwrap();
    assert_eq!(loaded.weights.file_names().count(), 2);
    check(
        &loaded,
        "forward",
        &["last_hidden_state", "pooler_output"],
        &read(&dir.join("reference.safetensors")),
        TOLERANCE,
    );
}

#[test]
fn vit_in_bf16() {
    let dir = golden("vit-bf16");
    let loaded = load(&dir, &LoadOptions::default()).unwrap();
    check(
        &loaded,
        "forward",
        &["last_hidden_state", "pooler_output"],
        &read(&dir.join("reference.safetensors")),
        TOLERANCE,
    );
}

/// The example of the README: every picture of its evaluation set that has a reference.
#[test]
fn digits_vit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let loaded = load(&root.join("examples/models/digits-vit"), &LoadOptions::default()).unwrap();
    let meta = &loaded.module.metadata;
    assert_eq!(meta["image.size"], "32x32");
    assert_eq!((meta["image.mean"].as_str(), meta["image.std"].as_str()), ("0.5", "0.5"));
    // Pictures have samples from 0 to 255.
    assert_eq!(meta["image.rescale"].parse::<f64>().unwrap(), 1.0 / 255.0);
    assert_eq!(meta["labels"].matches(':').count(), 10);
    let reference = root.join("../shared/zoo/reference/digits-vit.safetensors");
    if !reference.exists() {
        println!("skipped: no reference at {}", reference.display());
        return;
    }
    check(&loaded, "forward", &["logits"], &read(&reference), 1e-5);
}
