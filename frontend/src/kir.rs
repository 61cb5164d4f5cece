//! Text graphs: a module as it stands, with its weights in safetensors files beside it.

use crate::{
    Loaded, Weights,
    error::{Errors, ImportError, shown},
    json,
    weights::plain_name,
};
use std::path::Path;

/// Longer texts are refused unread.
const MAX_BYTES: u64 = 256 << 20;

pub(crate) fn load(path: &Path, errors: &mut Errors) -> Option<Loaded> {
    let before = errors.len();
    let bytes = json::read_bounded(path, MAX_BYTES).map_err(|e| errors.push(e)).ok()?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        errors.push(ImportError::new(path, "text in UTF-8", "other bytes"));
        return None;
    };
    let module = match kiln_ir::parse(text) {
        Ok(module) => module,
        Err(e) => {
            errors.push(ImportError::said(path, "a text graph", &e.message).at(format!("{}:{}", e.line, e.column)));
            return None;
        }
    };
    let names: Vec<String> = module.files.values().cloned().collect();
    for name in names.iter().filter(|n| !plain_name(n)) {
        let e = ImportError::new(path, "the name of a file in the same directory", format!("\"{}\"", shown(name)));
        errors.push(e.at("weights"));
    }
    if errors.len() > before {
        return None;
    }
    let dir = path.parent().unwrap_or(Path::new(""));
    let weights = Weights::open_files(dir, &names, errors)?;
    for param in module.params.values() {
        let ty = module.ty(param.value);
        let found = weights.tensor(param.file, &param.key);
        let fits = found.is_some_and(|t| {
            t.elem == ty.elem
                && ty
                    .const_dims()
                    .is_some_and(|d| d.iter().eq(t.shape.iter().map(|s| *s as i64).collect::<Vec<_>>().iter()))
        });
        if !fits {
            let found = found.map_or("no such tensor".into(), |t| format!("{}{:?}", t.elem, t.shape));
            let place = format!("tensor {}", shown(&param.key));
            errors.push(ImportError::new(&dir.join(&module.files[param.file]), ty.to_string(), found).at(place));
        }
    }
    (errors.len() == before).then_some(Loaded { module, weights, notes: vec![] })
}
