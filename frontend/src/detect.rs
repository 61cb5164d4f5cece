//! The kind of a model, found by content and never by its name.

use crate::error::ImportError;
use std::{fs::File, io::Read, path::Path};

/// A kind of model files.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    HuggingFace,
    Kir,
    Onnx,
    Diffusers,
    Circuit,
    PointerNet,
}

impl Format {
    pub const ALL: &'static [Format] =
        &[Format::HuggingFace, Format::Kir, Format::Onnx, Format::Diffusers, Format::Circuit, Format::PointerNet];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Format::HuggingFace => "hf",
            Format::Kir => "kir",
            Format::Onnx => "onnx",
            Format::Diffusers => "diffusers",
            Format::Circuit => "circuit",
            Format::PointerNet => "pointer",
        }
    }

    /// As in a message.
    pub const fn describe(self) -> &'static str {
        match self {
            Format::HuggingFace => "a Hugging Face directory",
            Format::Kir => "a .kir text graph",
            Format::Onnx => "an ONNX model",
            Format::Diffusers => "a diffusers directory",
            Format::Circuit => "a probabilistic circuit",
            Format::PointerNet => "a pointer-net directory",
        }
    }

    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.iter().copied().find(|f| f.name() == name)
    }

    /// Whether [`load`](crate::load) reads it.
    pub const fn is_supported(self) -> bool {
        matches!(self, Format::HuggingFace | Format::Kir | Format::Circuit | Format::PointerNet)
    }
}

/// Finds the kind of the model at `path`.
///
/// # Errors
/// When the path cannot be read or holds nothing known; the message lists what is.
pub fn detect(path: &Path) -> Result<Format, ImportError> {
    let known = || {
        let list: Vec<&str> = Format::ALL.iter().map(|f| f.describe()).collect();
        format!("a model: {}", list.join(", "))
    };
    let metadata = std::fs::metadata(path).map_err(|e| ImportError::io(path, &known(), &e))?;
    if metadata.is_dir() {
        directory(path).map_err(|found| ImportError::new(path, known(), found))
    } else if !metadata.is_file() {
        Err(ImportError::new(path, known(), "a device"))
    } else {
        file(path).map_err(|found| ImportError::new(path, known(), found))
    }
}

fn directory(path: &Path) -> Result<Format, String> {
    if path.join("model_index.json").is_file() {
        return Ok(Format::Diffusers);
    }
    if path.join("modules.json").is_file() {
        return Ok(Format::HuggingFace);
    }
    let files = std::fs::read_dir(path).map_err(|e| e.to_string())?;
    let has_circuit = files.flatten().any(|f| f.file_name().to_str().is_some_and(crate::circuit::is_named));
    let config = path.join("config.json");
    if !config.is_file() {
        return if has_circuit { Ok(Format::Circuit) } else { Err("a directory without config.json".into()) };
    }
    // A config that cannot be read is the Hugging Face reader's to complain about.
    let text = crate::json::read_bounded(&config, 1 << 20).unwrap_or_default();
    let Ok(serde_json::Value::Object(map)) = serde_json::from_slice(&text) else { return Ok(Format::HuggingFace) };
    let model_type = map.get("model_type").and_then(|v| v.as_str()).unwrap_or("");
    if map.contains_key("_class_name") {
        return Ok(Format::Diffusers);
    }
    if model_type == "pointer_network" {
        return Ok(Format::PointerNet);
    }
    if has_circuit {
        return Ok(Format::Circuit);
    }
    Ok(Format::HuggingFace)
}

fn file(path: &Path) -> Result<Format, String> {
    let mut head = vec![];
    let read = File::open(path).and_then(|f| f.take(64 << 10).read_to_end(&mut head));
    read.map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&head);
    // The first line that is neither empty nor a comment of the text graphs.
    let line = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with("//"));
    let word = line.and_then(|l| l.split_whitespace().next()).unwrap_or("");
    match head.as_slice() {
        _ if word == "module" => Ok(Format::Kir),
        bytes if bytes.get(8) == Some(&b'{') => {
            Err("a safetensors file; give the directory that holds it and config.json".into())
        }
        bytes if is_onnx(bytes) => Ok(Format::Onnx),
        bytes => match crate::circuit::recognise(bytes) {
            Some(Ok(())) => Ok(Format::Circuit),
            Some(Err(other)) => Err(other.into()),
            None if bytes.starts_with(&[0x1f, 0x8b]) => Err("a gzip file of another kind; unpack it".into()),
            None => Err("a file of another kind".into()),
        },
    }
}

/// A protobuf whose fields are those of ONNX's ModelProto, beginning with ir_version (field 1, varint) and then the
/// producer (2..=6), the graph (7), the opset (8) or metadata (14).
fn is_onnx(b: &[u8]) -> bool {
    matches!(b, [0x08, version, tag, ..] if (1..=32).contains(version) && matches!(tag, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42 | 0x72))
}
