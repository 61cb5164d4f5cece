//! Strict reading of configuration files.
//!
//! Every key of a file must be known: it is used, or it must have a value under which the computation stays as it is,
//! or it is known to be without effect on inference. A key that is absent takes the default of the transformers
//! library, which the caller passes; nothing else has a default. Errors are collected.

use crate::{
    error::{Errors, ImportError, shown},
    json::describe,
};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The largest size that a model may ask for.
pub(crate) const MAX_SIZE: i64 = 1 << 31;

/// Reads the keys of one object; what is left at [`Reader::finish`] is unknown.
pub(crate) struct Reader<'e> {
    file: PathBuf,
    left: Map<String, Value>,
    errors: &'e mut Errors,
}

impl<'e> Reader<'e> {
    pub(crate) fn new(file: &Path, object: Map<String, Value>, errors: &'e mut Errors) -> Reader<'e> {
        Reader { file: file.to_path_buf(), left: object, errors }
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.left.remove(key)
    }

    /// Whether the key stands and was not asked for yet.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.left.contains_key(key)
    }

    /// Takes null at the key for its absence.
    pub(crate) fn skip_null(&mut self, key: &str) {
        if self.left.get(key).is_some_and(Value::is_null) {
            self.left.remove(key);
        }
    }

    pub(crate) fn fail(&mut self, key: &str, expected: impl Into<String>, found: impl Into<String>) {
        self.errors.push(ImportError::new(&self.file, expected, found).at(shown(key)));
    }

    /// How many errors there are so far: checks of one key against another need both to be sound.
    pub(crate) fn faults(&self) -> usize {
        self.errors.len()
    }

    /// A size of 1 or more; without a default, the key must stand.
    pub(crate) fn size(&mut self, key: &str, default: Option<i64>) -> i64 {
        let expected = format!("a whole number from 1 to {MAX_SIZE}");
        match self.take(key) {
            None => default.unwrap_or_else(|| {
                self.fail(key, expected, "nothing");
                1
            }),
            Some(value) => match value.as_i64() {
                Some(n) if (1..=MAX_SIZE).contains(&n) => n,
                _ => {
                    self.fail(key, expected, describe(&value));
                    1
                }
            },
        }
    }

    /// A height and a width: one number for both, or a list of two.
    pub(crate) fn size_pair(&mut self, key: &str, default: i64) -> [i64; 2] {
        let Some(value) = self.take(key) else { return [default, default] };
        let fits = |v: &Value| v.as_i64().filter(|n| (1..=MAX_SIZE).contains(n));
        let pair = match &value {
            Value::Array(list) if list.len() == 2 => fits(&list[0]).zip(fits(&list[1])),
            one => fits(one).map(|n| (n, n)),
        };
        match pair {
            Some((height, width)) => [height, width],
            None => {
                self.fail(key, format!("one or two whole numbers from 1 to {MAX_SIZE}"), describe(&value));
                [1, 1]
            }
        }
    }

    /// A small positive number.
    pub(crate) fn epsilon(&mut self, key: &str, default: f64) -> f64 {
        let Some(value) = self.take(key) else { return default };
        match value.as_f64() {
            Some(x) if x > 0.0 && x < 1.0 => x,
            _ => {
                self.fail(key, "a number between 0 and 1", describe(&value));
                default
            }
        }
    }

    pub(crate) fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Bool(b)) => b,
            Some(other) => {
                self.fail(key, "true or false", describe(&other));
                default
            }
        }
    }

    /// One word of a table.
    pub(crate) fn word<T: Copy>(&mut self, key: &str, default: T, table: &[(&str, T)]) -> T {
        let Some(value) = self.take(key) else { return default };
        match table.iter().find(|(word, _)| value.as_str() == Some(word)) {
            Some((_, meaning)) => *meaning,
            None => {
                let words: Vec<&str> = table.iter().map(|(w, _)| *w).collect();
                self.fail(key, format!("one of {}", words.join(", ")), describe(&value));
                default
            }
        }
    }

    /// The key, where it stands, must have one of these values: any other would change the computation.
    pub(crate) fn must_be(&mut self, key: &str, allowed: &[Value]) {
        if let Some(value) = self.take(key).filter(|v| !allowed.contains(v)) {
            let list: Vec<String> = allowed.iter().map(Value::to_string).collect();
            self.fail(key, list.join(" or "), describe(&value));
        }
    }

    /// These keys do not matter to inference.
    pub(crate) fn without_effect(&mut self, keys: &[&str]) {
        for key in keys {
            self.left.remove(*key);
        }
    }

    /// Reports every key that nobody asked for.
    pub(crate) fn finish(mut self) {
        for (key, value) in std::mem::take(&mut self.left) {
            self.fail(&key, "only keys whose meaning is known, as any may change the computation", describe(&value));
        }
    }

    /// What every configuration of the transformers library may hold, whatever the model.
    pub(crate) fn common(&mut self) {
        self.without_effect(WITHOUT_EFFECT);
        for (key, allowed) in fixed() {
            self.must_be(key, &allowed);
        }
    }
}

/// Keys of `PretrainedConfig` that say how a model is trained, saved, labelled or generates, never what an encoder
/// computes.
const WITHOUT_EFFECT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "_num_labels",
    "architectures",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cls_token_id",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "label2id",
    "length_penalty",
    "mask_token_id",
    "max_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "transformers.js_config",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
];

/// Keys of `PretrainedConfig` that would change the computation unless they have one of these values.
fn fixed() -> [(&'static str, Vec<Value>); 8] {
    [
        ("add_cross_attention", vec![json!(false), Value::Null]),
        ("auto_map", vec![Value::Null, json!({})]),
        ("cross_attention_hidden_size", vec![Value::Null]),
        ("is_decoder", vec![json!(false), Value::Null]),
        ("is_encoder_decoder", vec![json!(false), Value::Null]),
        ("per_layer_config", vec![Value::Null, json!({})]),
        ("pruned_heads", vec![json!({}), Value::Null]),
        ("quantization_config", vec![Value::Null]),
    ]
}
