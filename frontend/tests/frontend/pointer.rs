//! Pointer networks, evaluated by the reference interpreter, against PyTorch in float64.

use super::golden::read;
use kiln_frontend::{LoadOptions, Loaded, load};
use kiln_ir::{
    ElemType, Param,
    eval::{self, Data, Tensor},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// A pick that differs counts where the reference's two best scores are further apart.
const GAP: f64 = 1e-5;

fn zoo(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/zoo").join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no {}", path.display());
    None
}

type Outputs = HashMap<String, Tensor>;

fn run(loaded: &Loaded, entry: &str, inputs: &[(&str, Tensor)]) -> Result<Outputs, String> {
    let weights = |p: Param| {
        let data = &loaded.module.params[p];
        let t = loaded.weights.tensor(data.file, &data.key).ok_or("no such tensor")?;
        Tensor::from_bytes(t.elem, t.shape, t.bytes).ok_or("no such type".to_string())
    };
    let inputs = inputs.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
    let found = eval::run(&loaded.module, entry, &inputs, &weights).map_err(|e| e.to_string())?;
    Ok(found.into_iter().collect())
}

fn ints(t: &Tensor) -> &[i64] {
    match &t.data {
        Data::I(v) => v,
        Data::F(_) => panic!("floats"),
    }
}

fn floats(t: &Tensor) -> &[f64] {
    match &t.data {
        Data::F(v) => v,
        Data::I(_) => panic!("integers"),
    }
}

/// Every held-out instance of the zoo, all sizes in one batch.
fn evaluation(task: &str) {
    let Some(dir) = zoo(&format!("models/ptrnet-{task}")) else { return };
    let Some(data) = zoo(&format!("reference/ptrnet-{task}-eval.safetensors")) else { return };
    let data = read(&data);
    let loaded = load(&dir, &LoadOptions::default()).unwrap();
    let rows = data["sizes"].shape[0];
    let lengths = Tensor::ints(ElemType::I64, [rows], ints(&data["sizes"]).to_vec());
    let found = run(&loaded, "forward_padded", &[("points", data["points"].clone()), ("lengths", lengths)]).unwrap();
    let greedy = &data["greedy"];
    assert_eq!(found["indices"].shape, greedy.shape);
    let different: Vec<usize> =
        (0..ints(greedy).len()).filter(|i| ints(greedy)[*i] != ints(&found["indices"])[*i]).collect();
    assert!(different.is_empty(), "{task}: {} of {} picks differ", different.len(), ints(greedy).len());
}

#[test]
fn tours_of_the_evaluation_set() {
    evaluation("tsp");
}

#[test]
fn hulls_of_the_evaluation_set() {
    evaluation("hull");
}
