//! Options that several verbs share.

use super::explain::Code;
use super::failure::{Failure, Result};
use kiln_frontend::{Format, ImportError, LoadOptions, Loaded};
use kiln_ir::Target;
use std::path::Path;

/// How a model is read.
#[derive(clap::Args, Debug)]
pub(crate) struct Load {
    /// What the model is; by default its content tells
    #[arg(long, value_name = "NAME", value_parser = format)]
    format: Option<Format>,
    /// Fix or name the sizes of an input, one an axis: input_ids=1x128, input_ids=1xSEQ (repeatable)
    #[arg(long = "shape", value_name = "NAME=SIZES", value_parser = shape)]
    shapes: Vec<LoadOptions>,
    /// The largest value of a symbolic size (repeatable)
    #[arg(long = "max", value_name = "NAME=N", value_parser = max)]
    max: Vec<LoadOptions>,
}

impl Load {
    pub(crate) fn options(&self) -> LoadOptions {
        let parts = || self.shapes.iter().chain(&self.max);
        LoadOptions {
            format: self.format,
            elem: None,
            shapes: parts().flat_map(|o| o.shapes.clone()).collect(),
            max: parts().flat_map(|o| o.max.clone()).collect(),
        }
    }

    pub(crate) fn load(&self, model: &Path) -> Result<Loaded> {
        Ok(kiln_frontend::load(model, &self.options())?)
    }
}

fn format(text: &str) -> Result<Format, String> {
    let has: Vec<&str> = Format::supported().map(Format::name).collect();
    let known = Format::from_name(text).filter(|f| f.is_supported());
    known.ok_or_else(|| format!("expected {}", has.join(" or ")))
}

fn shape(text: &str) -> Result<LoadOptions, String> {
    let mut one = LoadOptions::default();
    one.add_shape(text).map(|()| one)
}

fn max(text: &str) -> Result<LoadOptions, String> {
    let mut one = LoadOptions::default();
    one.add_max(text).map(|()| one)
}

/// Which rewrites may change a model.
#[derive(clap::Args, Debug)]
pub(crate) struct Exactness {
    /// How exactly results are kept: e0 bit-identical, e1 equal in real arithmetic, e2 the same decisions, ap
    /// approximate
    #[arg(long, value_name = "CLASS", value_parser = exactness, default_value = "e1")]
    exactness: kiln_passes::Exactness,
    /// A pass to leave out (repeatable)
    #[arg(long, value_name = "PASS", value_delimiter = ',')]
    disable: Vec<String>,
}

impl Exactness {
    pub(crate) fn apply(&self, class: &mut kiln_passes::Exactness, disable: &mut Vec<String>) {
        *class = self.exactness;
        disable.clone_from(&self.disable);
    }
}

fn exactness(text: &str) -> Result<kiln_passes::Exactness, String> {
    let known: Vec<&str> = kiln_passes::Exactness::ALL.iter().map(|e| e.name()).collect();
    kiln_passes::Exactness::from_name(text).ok_or_else(|| format!("expected one of {}", known.join(", ")))
}

/// The passes of these names. The error lists all unknown ones.
pub(crate) fn passes(names: &[String]) -> Result<Vec<&'static kiln_passes::Pass>, kiln_passes::PassError> {
    let unknown: Vec<String> = names.iter().filter(|n| kiln_passes::pass(n).is_none()).cloned().collect();
    if !unknown.is_empty() {
        let known = kiln_passes::PASSES.iter().map(|p| p.name).collect();
        return Err(kiln_passes::PassError::Unknown { unknown, known });
    }
    Ok(names.iter().filter_map(|n| kiln_passes::pass(n)).collect())
}

/// A name that stands for one or several levels.
pub(crate) fn targets(text: &str) -> Result<String, String> {
    kiln_backends::code::levels(&[text.to_owned()]).map(|_| text.to_owned())
}

/// One target; `cpu` and `cpu:native` are the best that this machine runs.
pub(crate) fn target(text: &str) -> Result<&'static Target, String> {
    let native = kiln_runtime::machine::describe();
    let name = if matches!(text, "cpu" | "cpu:native") { native.as_str() } else { text };
    let has: Vec<&str> = kiln_ir::target::TARGETS.iter().map(|t| t.name).collect();
    Target::from_name(name).ok_or_else(|| format!("expected cpu:native, {}", has.join(", ")))
}

impl From<kiln_frontend::ImportErrors> for Failure {
    fn from(errors: kiln_frontend::ImportErrors) -> Failure {
        let omitted = (errors.omitted > 0).then(|| (Code::Format, format!("and {} more", errors.omitted)));
        Failure::all(errors.list.iter().map(|e| (code_of(e), e.to_string())).chain(omitted))
    }
}

/// The class of an import error, which the file or the option at fault tells.
pub(crate) fn code_of(error: &ImportError) -> Code {
    if error.unreadable {
        return Code::Read;
    }
    match error.place.as_deref() {
        Some(place) if place.starts_with("--") => return Code::Option,
        Some("architectures" | "model_type") => return Code::Architecture,
        Some(place) if place.starts_with("tensor ") => return Code::Weights,
        _ => {}
    }
    const BY_ENDING: &[(&str, Code)] =
        &[(".safetensors", Code::Weights), (".json", Code::Config), (".kir", Code::Text)];
    const CIRCUITS: &[&str] =
        &[".psdd", ".vtree", ".jpc", ".jpc.gz", ".spn", ".bin", ".uai", ".nnf", ".sdd", ".weights"];
    let circuit = CIRCUITS.iter().any(|ending| error.file.ends_with(ending)).then_some(Code::CircuitFile);
    let ending = BY_ENDING.iter().find(|(ending, _)| error.file.ends_with(ending));
    ending.map(|(_, code)| *code).or(circuit).unwrap_or(Code::Format)
}
