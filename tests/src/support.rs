//! What the tests need around what they test: where files lie, what is left out and why, and tensors of either crate.

use kiln_frontend::Loaded;
use kiln_ir::{
    ElemType, Param,
    eval::{self, Tensor},
};
use kiln_runtime::format;
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// A file or folder that is not part of the tree but may lie beside it; if not, what needs it is skipped.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = root().join("../shared").join(path);
    if !path.exists() {
        skip(&format!("no {}", path.display()));
        return None;
    }
    Some(path)
}

/// Says that something is left out. Not by a macro, whose text the test runner would keep to itself.
pub fn skip(reason: &str) {
    // Nobody is left to be told of a failure.
    let _ = std::io::stderr().write_all(format!("skipped: {reason}\n").as_bytes());
}

/// The tensor as the runtime takes it.
pub fn to_runtime(t: &Tensor) -> kiln_runtime::Tensor {
    let elem = format::ElemType::from_name(t.elem.name()).unwrap_or_else(|| panic!("no {}", t.elem));
    let mut out = kiln_runtime::Tensor::zeros(elem, &t.shape).unwrap_or_else(|e| panic!("{e}"));
    out.bytes_mut().copy_from_slice(&t.to_bytes());
    out
}

/// A tensor of the runtime as the interpreter has it.
pub fn from_runtime(t: &kiln_runtime::Tensor) -> Tensor {
    let tensor = ElemType::from_name(t.elem().name()).and_then(|elem| Tensor::from_bytes(elem, t.shape(), t.bytes()));
    tensor.unwrap_or_else(|| panic!("no tensor of {}", t.elem().name()))
}

/// The tensors of a safetensors file.
pub fn stored(path: &Path) -> HashMap<String, Tensor> {
    let fail = |problem: String| -> ! { panic!("{}: {problem}", path.display()) };
    let bytes = std::fs::read(path).unwrap_or_else(|e| fail(e.to_string()));
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap_or_else(|e| fail(e.to_string()));
    let tensor = |(name, t): (&str, safetensors::tensor::TensorView<'_>)| {
        let elem = ElemType::from_name(&t.dtype().to_string().to_lowercase());
        let tensor = elem.and_then(|elem| Tensor::from_bytes(elem, t.shape(), t.data()));
        (name.to_owned(), tensor.unwrap_or_else(|| fail(format!("{name} is {}", t.dtype()))))
    };
    file.iter().map(tensor).collect()
}

/// What an entry of a model means, in f64.
pub fn interpret(model: &Loaded, entry: &str, inputs: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    let weights = |p: Param| {
        let param = &model.module.params[p];
        let stored = model.weights.tensor(param.file, &param.key).ok_or("missing")?;
        Tensor::from_bytes(stored.elem, stored.shape, stored.bytes).ok_or_else(|| "misshapen".to_owned())
    };
    eval::run(&model.module, entry, &inputs.iter().cloned().collect(), &weights).unwrap_or_else(|e| panic!("{e}"))
}
