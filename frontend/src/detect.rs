//! The kind of a model, found by content and never by its name.

use crate::error::ImportError;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

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

    /// The kinds that [`load`](crate::load) reads.
    pub fn supported() -> impl Iterator<Item = Format> {
        Format::ALL.iter().copied().filter(|f| f.is_supported())
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
        let list: Vec<&str> = Format::supported().map(Format::describe).collect();
        format!("a model: {}", list.join(", "))
    };
    let found = std::fs::metadata(path).and_then(|m| match m.is_dir() {
        true => directory(path),
        false if m.is_file() => file(path),
        false => Ok(Err("a device".into())),
    });
    found.map_err(|e| ImportError::io(path, &known(), &e))?.map_err(|found| ImportError::new(path, known(), found))
}

/// The kind, or what else was found.
type Found = Result<Format, String>;

fn directory(path: &Path) -> io::Result<Found> {
    if path.join("model_index.json").is_file() {
        return Ok(Ok(Format::Diffusers));
    }
    if path.join("modules.json").is_file() {
        return Ok(Ok(Format::HuggingFace));
    }
    let files = std::fs::read_dir(path)?;
    let has_circuit = files.flatten().any(|f| f.file_name().to_str().is_some_and(crate::circuit::is_named));
    let config = path.join("config.json");
    if !config.is_file() {
        return Ok(if has_circuit { Ok(Format::Circuit) } else { Err("a directory without config.json".into()) });
    }
    // A config that cannot be read is the Hugging Face reader's to complain about.
    let text = crate::json::read_bounded(&config, 1 << 20).unwrap_or_default();
    let Ok(serde_json::Value::Object(map)) = serde_json::from_slice(&text) else { return Ok(Ok(Format::HuggingFace)) };
    let model_type = map.get("model_type").and_then(|v| v.as_str()).unwrap_or("");
    if map.contains_key("_class_name") {
        return Ok(Ok(Format::Diffusers));
    }
    if model_type == crate::pointer::TYPE {
        return Ok(Ok(Format::PointerNet));
    }
    Ok(Ok(if has_circuit { Format::Circuit } else { Format::HuggingFace }))
}

fn file(path: &Path) -> io::Result<Found> {
    let mut head = vec![];
    File::open(path)?.take(64 << 10).read_to_end(&mut head)?;
    let text = String::from_utf8_lossy(&head);
    // The first line that is neither empty nor a comment of the text graphs.
    let line = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with("//"));
    let word = line.and_then(|l| l.split_whitespace().next()).unwrap_or("");
    Ok(match head.as_slice() {
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
    })
}

/// A protobuf whose fields are those of ONNX's ModelProto, beginning with ir_version (field 1, varint) and then the
/// producer (2..=6), the graph (7), the opset (8) or metadata (14).
fn is_onnx(b: &[u8]) -> bool {
    matches!(b, [0x08, version, tag, ..] if (1..=32).contains(version) && matches!(tag, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42 | 0x72))
}
