//! sentence-transformers directories: `modules.json` lists a transformer, a pooling and perhaps a normalisation.

use crate::{
    config::Reader,
    error::{Errors, ImportError, shown},
    graph::{Built, Graph},
    json,
};
use kiln_ir::{Dim, ElemType, Op, Value};
use serde_json::{Value as Json, json};
use std::path::{Component, Path};

/// What is done with the hidden states.
pub(super) struct Pipeline {
    /// Several are concatenated in this order.
    pooling: Vec<Pooling>,
    normalize: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pooling {
    Cls,
    Max,
    Mean,
    /// The sum divided by the root of the number of tokens.
    MeanSqrtLength,
}

/// The keys of the pooling's configuration, in the order in which sentence-transformers concatenates, and the words
/// of its `pooling_mode`.
const MODES: &[(&str, &str, Pooling)] = &[
    ("pooling_mode_cls_token", "cls", Pooling::Cls),
    ("pooling_mode_max_tokens", "max", Pooling::Max),
    ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::MeanSqrtLength),
];

/// Reads `modules.json` and what it names; gives the folder of the transformer and the rest of the pipeline.
pub(super) fn read(dir: &Path, errors: &mut Errors) -> (String, Pipeline) {
    let mut pipeline = Pipeline { pooling: vec![], normalize: false };
    let path = dir.join("modules.json");
    let modules = match json::read(&path, errors) {
        Some(Json::Array(list)) => list,
        Some(other) => {
            errors.push(ImportError::new(&path, "a list of modules", json::describe(&other)));
            return (String::new(), pipeline);
        }
        None => return (String::new(), pipeline),
    };
    let mut folder = String::new();
    let mut kinds = vec![];
    for (n, module) in modules.iter().enumerate() {
        let field = |key: &str| module.get(key).and_then(Json::as_str);
        let place = format!("[{n}]");
        let kind = field("type").filter(|t| t.starts_with("sentence_transformers.")).and_then(|t| t.rsplit('.').next());
        let (Some(kind), Some(at)) = (kind, field("path").filter(|p| is_inside(p))) else {
            let expected = "a module of sentence_transformers with a type and a path inside the directory";
            let found = format!("type {:?}, path {:?}", field("type").map(shown), field("path").map(shown));
            errors.push(ImportError::new(&path, expected, found).at(place));
            continue;
        };
        match kind {
            "Transformer" => folder = at.to_string(),
            "Pooling" => pipeline.pooling = pooling(&dir.join(at).join("config.json"), errors),
            "Normalize" => pipeline.normalize = true,
            other => {
                let expected = "a module that this version supports: Transformer, Pooling, Normalize";
                errors.push(ImportError::new(&path, expected, shown(other)).at(place));
                continue;
            }
        }
        kinds.push(kind);
    }
    let known = [&["Transformer", "Pooling"][..], &["Transformer", "Pooling", "Normalize"]];
    if kinds.len() == modules.len() && !known.contains(&kinds.as_slice()) {
        errors.push(ImportError::new(
            &path,
            "Transformer, Pooling and perhaps Normalize, in this order",
            kinds.join(", "),
        ));
    }
    (folder, pipeline)
}

/// Whether a path stays in the directory that it is joined to.
fn is_inside(path: &str) -> bool {
    Path::new(path).components().all(|c| matches!(c, Component::Normal(_))) && !path.contains(['\\', '\0'])
}

/// Reads the pooling's configuration; the defaults are those of sentence-transformers' `Pooling`.
fn pooling(path: &Path, errors: &mut Errors) -> Vec<Pooling> {
    let Some(object) = json::read_object(path, errors) else { return vec![] };
    let mut r = Reader::new(path, object, errors);
    // The width is the transformer's; `include_prompt` matters only where it is false, with prompts in the text.
    r.without_effect(&["word_embedding_dimension", "embedding_dimension"]);
    r.must_be("include_prompt", &[json!(true), Json::Null]);
    r.must_be("pooling_mode_weightedmean_tokens", &[json!(false), Json::Null]);
    r.must_be("pooling_mode_lasttoken", &[json!(false), Json::Null]);
    let words: Vec<(&str, Option<Pooling>)> = MODES.iter().map(|(_, word, mode)| (*word, Some(*mode))).collect();
    let named = r.word("pooling_mode", None, &words);
    let flags: Vec<bool> = MODES.iter().map(|(key, ..)| r.flag(key, false)).collect();
    let modes: Vec<Pooling> = match named {
        Some(mode) => vec![mode],
        None => MODES.iter().zip(&flags).filter(|(_, on)| **on).map(|((.., mode), _)| *mode).collect(),
    };
    r.finish();
    // Without any, `Pooling` takes the mean.
    if modes.is_empty() { vec![Pooling::Mean] } else { modes }
}

impl Pipeline {
    /// Appends pooling and normalisation: `hidden` `[B,S,H]` and `mask` `[B,S]` to the embedding `[B,H]`.
    pub(super) fn append(&self, g: &mut Graph<'_>, hidden: Value, mask: Value) -> Built {
        let mut pooled = vec![];
        for mode in &self.pooling {
            pooled.push(mode.append(g, hidden, mask)?);
        }
        g.at("pooling");
        let mut x = match pooled.as_slice() {
            [one] => *one,
            several => g.op(Op::Concat, several.iter().copied(), [("axis", (-1).into())])?,
        };
        if self.normalize {
            g.at("normalize");
            let floor = g.number(1e-12);
            let squared = g.op(Op::Mul, [x, x], [])?;
            let attrs = [("kind", "sum".into()), ("axes", vec![-1].into()), ("keep", true.into())];
            let sum = g.op(Op::Reduce, [squared], attrs)?;
            let norm = g.op(Op::Sqrt, [sum], [])?;
            let norm = g.op(Op::Max, [norm, floor], [])?;
            x = g.op(Op::Div, [x, norm], [])?;
        }
        Ok(x)
    }
}

impl Pooling {
    fn append(self, g: &mut Graph<'_>, hidden: Value, mask: Value) -> Built {
        g.at("pooling");
        if self == Pooling::Cls {
            return g.first_token(hidden);
        }
        let dims = g.dims(hidden);
        let column: Vec<Dim> = vec![dims[0].clone(), dims[1].clone(), 1.into()];
        let mask = g.op(Op::Reshape, [mask], [("to", column.into())])?;
        let mask = g.op(Op::Broadcast, [mask], [("to", dims.into())])?;
        let mask = g.op(Op::Convert, [mask], [("to", ElemType::F32.into())])?;
        let over = |kind: &'static str| [("kind", kind.into()), ("axes", vec![1].into()), ("keep", false.into())];
        if self == Pooling::Max {
            let (zero, low) = (g.number(0.0), g.number(-1e9));
            let padding = g.op(Op::Compare, [mask, zero], [("dir", "eq".into())])?;
            let kept = g.op(Op::Select, [padding, low, hidden], [])?;
            return g.op(Op::Reduce, [kept], over("max"));
        }
        let floor = g.number(1e-9);
        let kept = g.op(Op::Mul, [hidden, mask], [])?;
        let sum = g.op(Op::Reduce, [kept], over("sum"))?;
        let count = g.op(Op::Reduce, [mask], over("sum"))?;
        let mut count = g.op(Op::Max, [count, floor], [])?;
        if self == Pooling::MeanSqrtLength {
            count = g.op(Op::Sqrt, [count], [])?;
        }
        g.op(Op::Div, [sum, count], [])
    }
}
