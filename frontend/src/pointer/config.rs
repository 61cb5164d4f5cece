//! What the configurations of all pointer networks say.

use crate::{config::Reader, json::describe};
use serde_json::{Value as Json, json};

/// The largest number of points that a model may ask for.
const MAX_POINTS: i64 = 1 << 16;

pub(super) struct Common {
    pub(super) task: Option<&'static str>,
    pub(super) input_size: i64,
    pub(super) max_points: i64,
    pub(super) mask_visited: bool,
    pub(super) has_end: bool,
    /// Each layer has weights of its own, so there cannot be more than tensors.
    pub(super) layers: i64,
    pub(super) layers_key: &'static str,
}

/// Reads what both architectures have.
pub(super) fn common(r: &mut Reader<'_>) -> Common {
    r.must_be("decoding", &[json!("greedy"), Json::Null]);
    let task = r.word("task", None, &[("tsp", Some("tsp")), ("hull", Some("hull")), ("other", None)]);
    for key in ["n_min", "n_max"] {
        r.size(key, Some(1));
    }
    let max_points = r.size("max_points", Some(1024));
    if max_points > MAX_POINTS {
        r.fail("max_points", format!("at most {MAX_POINTS} points"), max_points.to_string());
    }
    let input_size = r.size("input_size", Some(2));
    let layers_key = if r.has("n_encode_layers") { "n_encode_layers" } else { "num_layers" };
    let layers = r.size(layers_key, Some(if layers_key == "num_layers" { 1 } else { 3 }));
    Common {
        task,
        input_size,
        max_points: max_points.min(MAX_POINTS),
        mask_visited: r.flag("mask_visited", false),
        has_end: word_or_nothing(r, "end_symbol", &["index n, key from the 'end' vector", "end"]),
        layers,
        layers_key,
    }
}

/// Whether one of these words stands there; nothing, null and false mean no.
pub(super) fn word_or_nothing(r: &mut Reader<'_>, key: &str, words: &[&str]) -> bool {
    match r.take(key) {
        None | Some(Json::Null | Json::Bool(false)) => false,
        Some(Json::String(word)) if words.contains(&word.as_str()) => true,
        Some(other) => {
            let words: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
            r.fail(key, format!("null or one of {}", words.join(", ")), describe(&other));
            false
        }
    }
}

/// A finite number above zero, where one stands.
pub(super) fn positive(r: &mut Reader<'_>, key: &str, default: Option<f64>) -> Option<f64> {
    match r.take(key) {
        None => default,
        Some(Json::Null) => None,
        Some(value) => match value.as_f64().filter(|x| *x > 0.0 && *x <= 1e6) {
            Some(x) => Some(x),
            None => {
                r.fail(key, "null or a number above 0 and up to 1000000", describe(&value));
                None
            }
        },
    }
}
