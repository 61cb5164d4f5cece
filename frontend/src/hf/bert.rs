//! `BertModel`, alone or as the first module of a sentence-transformers pipeline.
//!
//! Entry `forward(input_ids, attention_mask, token_type_ids: i64[B,S])` gives `last_hidden_state: f32[B,S,H]` and, when
//! the file has the pooler's weights, `pooler_output: f32[B,H]`, as `AutoModel` does. In a sentence-transformers
//! directory the pooler is left out, since that pipeline never reads it, and a second entry, `embed`, takes the same inputs to
//! `sentence_embedding`.

use super::{
    Source,
    layers::{ACTIVATIONS, Activation, Attention, Scale},
    sentence::Pipeline,
};
use crate::{
    config::Reader,
    graph::{Built, Graph},
};
use kiln_ir::{Accepts, Dim, ElemType, Op, Symbol, Type, Value};
use serde_json::{Value as Json, json};

/// Batches beyond this are split by any caller.
pub(super) const MAX_BATCH: i64 = 65536;

struct Config {
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    inner: i64,
    activation: Activation,
    positions: i64,
    token_types: i64,
    eps: f64,
}

/// Reads the configuration; the defaults are those of `BertConfig`.
fn config(mut r: Reader<'_>) -> Config {
    r.common();
    // Google's first multilingual release describes a pooler of another kind that BertModel never had.
    r.without_effect(&[
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    ]);
    r.must_be("position_embedding_type", &[json!("absolute"), Json::Null]);
    let before = r.faults();
    let c = Config {
        vocabulary: r.size("vocab_size", Some(30522)),
        width: r.size("hidden_size", Some(768)),
        layers: r.size("num_hidden_layers", Some(12)),
        heads: r.size("num_attention_heads", Some(12)),
        inner: r.size("intermediate_size", Some(3072)),
        activation: r.word("hidden_act", Activation::Gelu, ACTIVATIONS),
        positions: r.size("max_position_embeddings", Some(512)),
        token_types: r.size("type_vocab_size", Some(2)),
        eps: r.epsilon("layer_norm_eps", 1e-12),
    };
    if r.faults() == before && c.width % c.heads != 0 {
        r.fail("num_attention_heads", format!("a divisor of hidden_size, {}", c.width), c.heads.to_string());
    }
    r.finish();
    c
}

pub(super) fn load(s: Source<'_>) -> Option<kiln_ir::Module> {
    let c = config(Reader::new(&s.config_path, s.config, s.errors));
    let weights = s.weights?;
    // Saved from a model with a head, the base model's weights stand under its name.
    let headed = weights.find("embeddings.word_embeddings.weight").is_none()
        && weights.find("bert.embeddings.word_embeddings.weight").is_some();
    let prefix = if headed { "bert." } else { "" };
    if !s.errors.is_empty() || !super::enough_layers(&s.config_path, c.layers, weights, s.errors) {
        return None;
    }
    let mut g = Graph::new("bert", s.dir, weights, prefix, s.errors);
    match build(&mut g, &c, s.pipeline.as_ref()) {
        Ok(()) => {}
        Err(violation) => {
            g.fail(&s.config_path, &violation);
            return None;
        }
    }
    let unused: &[(&str, &str)] = &[
        ("*embeddings.position_ids", ""),
        ("pooler.dense.", "the pooler's weights are left out: sentence-transformers does not read pooler_output"),
        ("cls.", "the weights of the language-model head (cls.*) are left out: BertModel has none"),
    ];
    Some(g.finish(unused, s.notes))
}

fn build(g: &mut Graph<'_>, c: &Config, pipeline: Option<&Pipeline>) -> Built<()> {
    let symbol = |name: &str| Symbol::new(name).expect("a letter is a valid symbol");
    let batch = g.module.add_symbol(symbol("B"), 1, MAX_BATCH, 1);
    let length = g.module.add_symbol(symbol("S"), 1, c.positions, 1);
    let ty = Type::new(ElemType::I64, [batch, length]);
    let inputs = ["input_ids", "attention_mask", "token_type_ids"].map(|name| (name, ty.clone()));

    let args = g.begin("forward", &inputs);
    let hidden = encoder(g, c, &args)?;
    let mut outputs = vec![("last_hidden_state", hidden)];
    if pipeline.is_none() && g.has("pooler.dense.weight") {
        g.at("pooler");
        let first = g.first_token(hidden)?;
        let pooled = g.linear(first, "pooler.dense", c.width, c.width, true)?;
        outputs.push(("pooler_output", g.activation(pooled, Activation::Tanh, "pooler.activation")?));
    }
    g.end(&outputs);

    if let Some(pipeline) = pipeline {
        let args = g.begin("embed", &inputs);
        let hidden = encoder(g, c, &args)?;
        let embedding = pipeline.append(g, hidden, args[1])?;
        g.end(&[("sentence_embedding", embedding)]);
    }
    Ok(())
}

/// Embeddings and all layers: `[B,S,H]`.
fn encoder(g: &mut Graph<'_>, c: &Config, args: &[Value]) -> Built {
    let (input_ids, attention_mask, token_type_ids) = (args[0], args[1], args[2]);
    let mask = g.extended_mask(attention_mask)?;
    let mut x = embeddings(g, c, input_ids, token_type_ids)?;
    for n in 0..c.layers {
        x = layer(g, c, x, mask, n)?;
    }
    Ok(x)
}

fn embeddings(g: &mut Graph<'_>, c: &Config, input_ids: Value, token_type_ids: Value) -> Built {
    let mut lookup = |path: &str, rows: i64, indices: Value| {
        g.at(path);
        g.module.accept(indices, Accepts::Range { min: 0, max: (rows - 1).into(), filled: false });
        let table = g.weight(&format!("{path}.weight"), &[rows, c.width])?;
        g.op(Op::Gather, [table, indices], [("axis", 0.into())])
    };
    let words = lookup("embeddings.word_embeddings", c.vocabulary, input_ids)?;
    let types = lookup("embeddings.token_type_embeddings", c.token_types, token_type_ids)?;
    // Positions count from 0, so looking them up takes the first rows of the table.
    let path = "embeddings.position_embeddings";
    g.at(path);
    let length = g.dims(input_ids)[1].clone();
    let table = g.weight(&format!("{path}.weight"), &[c.positions, c.width])?;
    let attrs = [("axis", 0.into()), ("start", Dim::from(0).into()), ("end", length.into())];
    let positions = g.op(Op::Slice, [table], attrs)?;
    g.at("embeddings");
    let sum = g.op(Op::Add, [words, types], [])?;
    let sum = g.op(Op::Add, [sum, positions], [])?;
    g.layer_norm(sum, "embeddings.LayerNorm", c.width, c.eps)
}

fn layer(g: &mut Graph<'_>, c: &Config, x: Value, mask: Value, n: i64) -> Built {
    let path = format!("encoder.layer.{n}");
    let name = |part: &str| format!("{path}.{part}");
    let attention = Attention {
        path: &name("attention.self"),
        query: &name("attention.self.query"),
        key: &name("attention.self.key"),
        value: &name("attention.self.value"),
        width: c.width,
        heads: c.heads,
        bias: true,
        scale: Scale::Divide,
    };
    let context = g.attention(x, &attention, Some(mask))?;
    let y = g.linear(context, &name("attention.output.dense"), c.width, c.width, true)?;
    g.at(&name("attention.output"));
    let y = g.op(Op::Add, [y, x], [])?;
    let x = g.layer_norm(y, &name("attention.output.LayerNorm"), c.width, c.eps)?;
    let y = g.linear(x, &name("intermediate.dense"), c.width, c.inner, true)?;
    let y = g.activation(y, c.activation, &name("intermediate.intermediate_act_fn"))?;
    let y = g.linear(y, &name("output.dense"), c.inner, c.width, true)?;
    g.at(&name("output"));
    let y = g.op(Op::Add, [y, x], [])?;
    g.layer_norm(y, &name("output.LayerNorm"), c.width, c.eps)
}
