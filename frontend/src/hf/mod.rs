//! Hugging Face directories: `config.json`, safetensors weights, and what stands beside them.
//!
//! A family is one file here and one line in [`FAMILIES`]. Modules are written in primitive ops, in the order and the
//! spelling of a framework's exporter; every node names the module path that it comes from.

mod bert;
mod image;
mod layers;
mod sentence;
mod vit;

use crate::{
    Loaded, Weights,
    error::{Errors, ImportError},
    json, pointer,
};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// One kind of model that is read.
struct Family {
    model_type: &'static str,
    architectures: &'static [&'static str],
    load: fn(Source<'_>) -> Option<kiln_ir::Module>,
}

const FAMILIES: &[Family] = &[
    Family { model_type: "bert", architectures: &["BertModel"], load: bert::load },
    Family { model_type: "vit", architectures: &["ViTForImageClassification", "ViTModel"], load: vit::load },
];

/// What a family builds a module from.
struct Source<'a> {
    /// Where the weights and the configuration are.
    dir: PathBuf,
    config_path: PathBuf,
    config: Map<String, Value>,
    architecture: &'static str,
    /// Absent when they could not be opened; the configuration is checked nevertheless.
    weights: Option<&'a Weights>,
    /// What a sentence-transformers directory does with the model's output.
    pipeline: Option<sentence::Pipeline>,
    errors: &'a mut Errors,
    notes: &'a mut Vec<String>,
}

pub(crate) fn load(path: &Path, errors: &mut Errors) -> Option<Loaded> {
    let before = errors.len();
    let (dir, pipeline) = if path.join("modules.json").is_file() {
        let (folder, pipeline) = sentence::read(path, errors);
        // Joining nothing would only add a slash.
        (if folder.is_empty() { path.to_path_buf() } else { path.join(folder) }, Some(pipeline))
    } else {
        (path.to_path_buf(), None)
    };
    let config_path = dir.join("config.json");
    let config = json::read_object(&config_path, errors);
    let weights = Weights::open_directory(&dir, errors);
    let config = config?;
    let (family, architecture) = family(&config_path, &config, pipeline.is_some(), errors)?;
    let mut notes = vec![];
    let source = Source {
        dir,
        config_path,
        config,
        architecture,
        weights: weights.as_ref(),
        pipeline,
        errors,
        notes: &mut notes,
    };
    let module = (family.load)(source)?;
    (errors.len() == before).then_some(Loaded { module, weights: weights?, notes })
}

/// Finds the family and the architecture that `config` asks for. A sentence-transformers pipeline always loads the base
/// model, the first of its family.
fn family(
    path: &Path,
    config: &Map<String, Value>,
    pipeline: bool,
    errors: &mut Errors,
) -> Option<(&'static Family, &'static str)> {
    let mut unsupported = |place: &str, found: &Value| {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|f| f.architectures).copied().collect();
        let known = known.join(", ");
        let expected =
            format!("an architecture that this version supports: {known}, or model_type \"{}\"", pointer::TYPE);
        errors.push(ImportError::new(path, expected, json::describe(found)).at(place));
    };
    let model_type = config.get("model_type").unwrap_or(&Value::Null);
    let by_type = FAMILIES.iter().find(|f| model_type.as_str() == Some(f.model_type));
    let architectures = config.get("architectures").filter(|a| !(a.is_null() || pipeline && by_type.is_some()));
    match (architectures, by_type) {
        (None, Some(family)) if pipeline => Some((family, family.architectures[0])),
        // Without architectures, transformers' AutoModel takes the base model.
        (None, Some(family)) => Some((family, family.architectures.iter().find(|a| a.ends_with("Model"))?)),
        (None, None) => {
            unsupported("model_type", model_type);
            None
        }
        (Some(list), _) => {
            let names: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let known = FAMILIES.iter().find_map(|f| Some((f, *f.architectures.iter().find(|a| names == [**a])?)));
            match known {
                Some((family, _))
                    if !model_type.is_null() && by_type.is_none_or(|t| t.model_type != family.model_type) =>
                {
                    let expected = format!("\"{}\", to which {} belongs", family.model_type, names[0]);
                    errors.push(ImportError::new(path, expected, json::describe(model_type)).at("model_type"));
                    None
                }
                Some(known) => Some(known),
                None => {
                    unsupported("architectures", list);
                    None
                }
            }
        }
    }
}

/// Each layer has weights of its own, so a model cannot have more layers than tensors; checked before anything is built
/// in proportion to the number of layers.
fn enough_layers(path: &Path, layers: i64, weights: &Weights, errors: &mut Errors) -> bool {
    let tensors = weights.count();
    let enough = layers <= tensors as i64;
    if !enough {
        let expected = format!("at most {tensors} layers, as the weights have {tensors} tensors");
        errors.push(ImportError::new(path, expected, layers.to_string()).at("num_hidden_layers"));
    }
    enough
}
