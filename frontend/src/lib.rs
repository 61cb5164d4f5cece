//! Model files to the IR.
//!
//! [`load`] finds the kind of a model by its content and gives a verified module at stage `imported` together with its
//! weights, which stay in their files and are mapped, never copied. The module holds primitive ops, as a framework's
//! exporter would write them; recognising what they form is the work of the passes. Model files are hostile until
//! checked: whatever they hold, the answer is a module or a list of errors, each with file, place, what was expected
//! and what was found. Adding a model family is one file in `hf/` and one line in its table.

mod circuit;
mod config;
mod detect;
mod error;
mod files;
mod graph;
mod hf;
mod json;
mod kir;
mod options;
mod pointer;
mod shapes;
pub mod weights;

pub use circuit::{circuit_formats, circuit_from_bytes, vtree_from_bytes};
pub use detect::{Format, detect};
pub use error::{ImportError, ImportErrors};
pub use files::files;
pub use options::{DimSpec, LoadOptions};
pub use weights::{TensorRef, Weights};

use error::Errors;
use std::path::Path;

/// A model as the compiler takes it.
#[derive(Debug)]
pub struct Loaded {
    /// At stage `imported`, verified. Its files are those of `weights`, in the same order.
    pub module: kiln_ir::Module,
    pub weights: Weights,
    /// What was left out or could not be carried over although it does not change the computation.
    pub notes: Vec<String>,
}

/// Reads the model at `path`: a Hugging Face directory, a pointer network, a probabilistic circuit or a `.kir` text graph.
///
/// # Errors
/// Everything that is wrong with the model's files, as far as it can be known at once.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Loaded, ImportErrors> {
    let mut errors = Errors::default();
    let loaded = load_collecting(path, options, &mut errors);
    match loaded {
        Some(loaded) if errors.is_empty() => Ok(loaded),
        _ => Err(errors.finish()),
    }
}

fn load_collecting(path: &Path, options: &LoadOptions, errors: &mut Errors) -> Option<Loaded> {
    let format = match options.format {
        Some(format) => format,
        None => detect(path).map_err(|e| errors.push(e)).ok()?,
    };
    let mut loaded = match format {
        Format::HuggingFace => hf::load(path, errors)?,
        Format::Kir => kir::load(path, errors)?,
        Format::Circuit => circuit::load(path, options, errors)?,
        Format::PointerNet => pointer::load(path, errors)?,
        Format::Onnx | Format::Diffusers => {
            let supported: Vec<String> =
                Format::supported().map(|f| format!("{} ({})", f.name(), f.describe())).collect();
            errors.push(ImportError::new(
                path,
                format!("a format that this version supports: {}", supported.join(", ")),
                format!("{} ({}), which is not supported by this version", format.describe(), format.name()),
            ));
            return None;
        }
    };
    shapes::specialize(&mut loaded.module, path, options, errors);
    if !errors.is_empty() {
        return None;
    }
    if let Err(found) = kiln_ir::verify(&loaded.module) {
        for e in found.0 {
            errors.push(ImportError::said(path, "a well-formed graph", &e.message).at(e.source.unwrap_or(e.place)));
        }
        return None;
    }
    Some(loaded)
}
