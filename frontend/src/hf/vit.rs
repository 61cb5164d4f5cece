//! `ViTForImageClassification` and `ViTModel`.
//!
//! Entry `forward(pixel_values: f32[B,C,H,W])` gives `logits: f32[B,labels]`; for `ViTModel` it gives
//! `last_hidden_state: f32[B,1+patches,width]` and, when the file has the pooler's weights, `pooler_output`.

use super::{
    Source, image,
    layers::{ACTIVATIONS, Activation, Attention, Scale},
};
use crate::{
    config::Reader,
    graph::{Built, Graph},
};
use kiln_ir::{Dim, ElemType, Op, Symbol, Type, Value};
use serde_json::{Map, Value as Json, json};

struct Config {
    width: i64,
    layers: i64,
    heads: i64,
    inner: i64,
    activation: Activation,
    eps: f64,
    image: [i64; 2],
    patch: [i64; 2],
    channels: i64,
    qkv_bias: bool,
    pooled: i64,
    pooler_activation: Activation,
    /// Names of the classes, by index.
    labels: Vec<String>,
}

/// Reads the configuration; the defaults are those of `ViTConfig`.
fn config(mut r: Reader<'_>) -> Config {
    let labels = labels(&mut r);
    r.common();
    // Only masked image modelling reads it.
    r.without_effect(&["encoder_stride"]);
    let before = r.faults();
    let width = r.size("hidden_size", Some(768));
    let c = Config {
        width,
        layers: r.size("num_hidden_layers", Some(12)),
        heads: r.size("num_attention_heads", Some(12)),
        inner: r.size("intermediate_size", Some(3072)),
        activation: r.word("hidden_act", Activation::Gelu, ACTIVATIONS),
        eps: r.epsilon("layer_norm_eps", 1e-12),
        image: r.size_pair("image_size", 224),
        patch: r.size_pair("patch_size", 16),
        channels: r.size("num_channels", Some(3)),
        qkv_bias: r.flag("qkv_bias", true),
        pooled: r.size("pooler_output_size", Some(width)),
        pooler_activation: r.word("pooler_act", Activation::Tanh, ACTIVATIONS),
        labels,
    };
    let sound = r.faults() == before;
    if sound && c.width % c.heads != 0 {
        r.fail("num_attention_heads", format!("a divisor of hidden_size, {}", c.width), c.heads.to_string());
    }
    if sound && (c.patch[0] > c.image[0] || c.patch[1] > c.image[1]) {
        let expected = format!("patches within the image of {}x{}", c.image[0], c.image[1]);
        r.fail("patch_size", expected, format!("{}x{}", c.patch[0], c.patch[1]));
    }
    r.finish();
    c
}

/// The classes: `id2label` where it stands, else `num_labels` of them, else two.
fn labels(r: &mut Reader<'_>) -> Vec<String> {
    let plain = |n: i64| (0..n).map(|i| format!("LABEL_{i}")).collect();
    let count = match r.take("num_labels") {
        None | Some(Json::Null) => None,
        Some(value) => match value.as_i64() {
            Some(n) if (1..=1 << 20).contains(&n) => Some(n),
            _ => {
                r.fail("num_labels", "a whole number from 1 to 1048576", crate::json::describe(&value));
                None
            }
        },
    };
    let map: Map<String, Json> = match r.take("id2label") {
        None | Some(Json::Null) => return plain(count.unwrap_or(2)),
        Some(Json::Object(map)) => map,
        Some(other) => {
            r.fail("id2label", "an object from index to name", crate::json::describe(&other));
            return vec![];
        }
    };
    let named: Option<Vec<String>> =
        (0..map.len()).map(|i| map.get(&i.to_string())?.as_str().map(str::to_string)).collect();
    match named {
        Some(names) if !names.is_empty() && count.is_none_or(|n| n == names.len() as i64) => names,
        Some(names) => {
            let expected =
                count.map_or("at least one class".to_string(), |n| format!("{n} classes, as num_labels says"));
            r.fail("id2label", expected, names.len().to_string());
            names
        }
        None => {
            r.fail(
                "id2label",
                format!("names for the indices 0 to {}", map.len().saturating_sub(1)),
                "other keys or values",
            );
            vec![]
        }
    }
}

pub(super) fn load(s: Source<'_>) -> Option<kiln_ir::Module> {
    let c = config(Reader::new(&s.config_path, s.config, s.errors));
    let classifier = s.architecture == "ViTForImageClassification";
    let picture = image::metadata(&s.dir, c.image, c.channels, s.errors, s.notes);
    let weights = s.weights?;
    let prefix = if weights.find("vit.embeddings.cls_token").is_some() { "vit." } else { "" };
    if !s.errors.is_empty() || !super::enough_layers(&s.config_path, c.layers, weights, s.errors) {
        return None;
    }
    let mut g = Graph::new("vit", s.dir, weights, "", s.errors);
    match build(&mut g, &c, prefix, classifier) {
        Ok(()) => {}
        Err(violation) => {
            g.fail(&s.config_path, &violation);
            return None;
        }
    }
    g.module.metadata.extend(picture);
    if classifier {
        let names: Map<String, Json> = c.labels.iter().enumerate().map(|(i, n)| (i.to_string(), json!(n))).collect();
        g.module.metadata.insert("labels".into(), Json::Object(names).to_string());
        g.module.metadata.insert("labels.output".into(), "logits".into());
    }
    let unused: &[(&str, &str)] = &[
        ("*embeddings.mask_token", ""),
        ("vit.pooler.dense.", "the pooler's weights are left out: the classifier does not read them"),
    ];
    Some(g.finish(if classifier { unused } else { &unused[..1] }, s.notes))
}

fn build(g: &mut Graph<'_>, c: &Config, prefix: &str, classifier: bool) -> Built<()> {
    let batch =
        g.module.add_symbol(Symbol::new("B").expect("a letter is a valid symbol"), 1, super::bert::MAX_BATCH, 1);
    let dims: [Dim; 4] = [batch, c.channels.into(), c.image[0].into(), c.image[1].into()];
    let args = g.begin("forward", &[("pixel_values", Type::new(ElemType::F32, dims))]);
    let mut x = embeddings(g, c, prefix, args[0])?;
    for n in 0..c.layers {
        x = layer(g, c, x, &format!("{prefix}encoder.layer.{n}"))?;
    }
    let x = g.layer_norm(x, &format!("{prefix}layernorm"), c.width, c.eps)?;
    if classifier {
        g.at("classifier");
        let first = g.first_token(x)?;
        let logits = g.linear(first, "classifier", c.width, c.labels.len() as i64, true)?;
        g.end(&[("logits", logits)]);
        return Ok(());
    }
    let mut outputs = vec![("last_hidden_state", x)];
    let pooler = format!("{prefix}pooler");
    if g.has(&format!("{pooler}.dense.weight")) {
        g.at(&pooler);
        let first = g.first_token(x)?;
        let pooled = g.linear(first, &format!("{pooler}.dense"), c.width, c.pooled, true)?;
        outputs.push(("pooler_output", g.activation(pooled, c.pooler_activation, &format!("{pooler}.activation"))?));
    }
    g.end(&outputs);
    Ok(())
}

/// Patches, the class token in front, and positions: `[B,1+patches,width]`.
fn embeddings(g: &mut Graph<'_>, c: &Config, prefix: &str, pixels: Value) -> Built {
    let [rows, columns] = [c.image[0] / c.patch[0], c.image[1] / c.patch[1]];
    let batch = g.dims(pixels)[0].clone();
    let path = format!("{prefix}embeddings.patch_embeddings.projection");
    g.at(&path);
    let kernel = g.weight(&format!("{path}.weight"), &[c.width, c.channels, c.patch[0], c.patch[1]])?;
    let bias = g.weight(&format!("{path}.bias"), &[c.width])?;
    let attrs = [
        ("strides", c.patch.to_vec().into()),
        ("low", vec![0, 0].into()),
        ("high", vec![0, 0].into()),
        ("dilations", vec![1, 1].into()),
        ("groups", 1.into()),
    ];
    let patches = g.op(Op::Conv, [pixels, kernel, bias], attrs)?;
    let to: Vec<Dim> = vec![batch.clone(), c.width.into(), (rows * columns).into()];
    let patches = g.op(Op::Reshape, [patches], [("to", to.into())])?;
    let patches = g.op(Op::Transpose, [patches], [("perm", vec![0, 2, 1].into())])?;
    g.at(&format!("{prefix}embeddings"));
    let token = g.weight(&format!("{prefix}embeddings.cls_token"), &[1, 1, c.width])?;
    let to: Vec<Dim> = vec![batch, 1.into(), c.width.into()];
    let token = g.op(Op::Broadcast, [token], [("to", to.into())])?;
    let tokens = g.op(Op::Concat, [token, patches], [("axis", 1.into())])?;
    let shape = [1, rows * columns + 1, c.width];
    let positions = g.weight(&format!("{prefix}embeddings.position_embeddings"), &shape)?;
    g.op(Op::Add, [tokens, positions], [])
}

fn layer(g: &mut Graph<'_>, c: &Config, x: Value, path: &str) -> Built {
    let name = |part: &str| format!("{path}.{part}");
    let normal = g.layer_norm(x, &name("layernorm_before"), c.width, c.eps)?;
    let attention = Attention {
        path: &name("attention.attention"),
        query: &name("attention.attention.query"),
        key: &name("attention.attention.key"),
        value: &name("attention.attention.value"),
        width: c.width,
        heads: c.heads,
        bias: c.qkv_bias,
        scale: Scale::Multiply,
    };
    let context = g.attention(normal, &attention, None)?;
    let y = g.linear(context, &name("attention.output.dense"), c.width, c.width, true)?;
    g.at(path);
    let x = g.op(Op::Add, [y, x], [])?;
    let normal = g.layer_norm(x, &name("layernorm_after"), c.width, c.eps)?;
    let y = g.linear(normal, &name("intermediate.dense"), c.width, c.inner, true)?;
    let y = g.activation(y, c.activation, &name("intermediate.intermediate_act_fn"))?;
    let y = g.linear(y, &name("output.dense"), c.inner, c.width, true)?;
    g.at(&name("output"));
    g.op(Op::Add, [y, x], [])
}
