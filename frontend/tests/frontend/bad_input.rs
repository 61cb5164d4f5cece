//! Model files with something wrong: each message names the file, the place, what was expected and what was found.

use super::support::{Model, with_header};
use serde_json::{Value, json};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The only error of a model.
fn only(model: &Model) -> String {
    let errors = model.errors();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors[0].clone()
}

fn with_config(name: &str, key: &str, value: Value) -> String {
    let model = Model::copy(name);
    model.edit_json(CONFIG, |c| {
        c.insert(key.into(), value);
    });
    only(&model)
}

#[test]
fn weights_cut_at_any_byte() {
    let model = Model::copy("vit-bf16");
    let whole = model.bytes(WEIGHTS);
    for n in (0..whole.len()).step_by(37).chain([0, 1, 7, 8, 9, whole.len() - 1]) {
        model.write(WEIGHTS, &whole[..n]);
        let errors = model.errors();
        assert!(!errors.is_empty(), "cut at {n}");
        assert!(errors.iter().all(|e| e.starts_with("model.safetensors: ")), "cut at {n}: {errors:?}");
    }
    model.write(WEIGHTS, &whole[..whole.len() - 1]);
    let e = only(&model);
    assert!(e.contains("tensor pooler.dense.weight: expected data within the"), "{e}");
}

#[test]
fn header_length() {
    let model = Model::copy("bert");
    let mut bytes = model.bytes(WEIGHTS);
    bytes[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
    model.write(WEIGHTS, &bytes);
    assert_eq!(
        only(&model),
        "model.safetensors: header: expected a header of at most 33554432 bytes, found a length of 1099511627776"
    );
    model.write(WEIGHTS, []);
    assert_eq!(only(&model), "model.safetensors: expected 8 bytes that hold the header's length, found 0 bytes");
    model.write(WEIGHTS, with_header("{\"a\": 3}", &[]));
    let e = only(&model);
    assert!(
        e.starts_with("model.safetensors: header: expected a JSON object of tensors, found in a: invalid type"),
        "{e}"
    );
}

#[test]
fn overlapping_offsets() {
    let model = Model::copy("bert");
    model.edit_header(WEIGHTS, |h| {
        h["embeddings.LayerNorm.weight"]["data_offsets"] = json!([40, 88]);
    });
    let errors = model.errors();
    assert_eq!(
        errors[0],
        "model.safetensors: tensor embeddings.LayerNorm.weight: expected data from 48 on, after tensor \
         embeddings.LayerNorm.bias, found data from 40 on, which overlap"
    );
    assert!(errors[1].ends_with(
        "expected data from 88 on, after tensor embeddings.LayerNorm.weight, found data from 96 on, which leave a hole"
    ));
}

#[test]
fn offsets_beyond_the_file() {
    let model = Model::copy("bert");
    let length = model.bytes(WEIGHTS).len() as u64;
    model.edit_header(WEIGHTS, |h| {
        h["pooler.dense.weight"]["data_offsets"][1] = json!(u64::MAX);
    });
    let errors = model.errors();
    assert!(
        errors[0].starts_with("model.safetensors: tensor pooler.dense.weight: expected data within the "),
        "{errors:?}"
    );
    assert!(errors[0].ends_with("18446744073709551615]"), "{errors:?}");
    assert!(length > 0 && errors[1].contains("expected 576 bytes for F32 of shape [12, 12]"), "{errors:?}");
}

#[test]
fn wrong_shape_against_the_configuration() {
    let model = Model::copy("bert");
    model.edit_header(WEIGHTS, |h| {
        h["encoder.layer.1.output.dense.weight"]["shape"] = json!([20, 12]);
    });
    assert_eq!(
        only(&model),
        "model.safetensors: tensor encoder.layer.1.output.dense.weight: expected shape [12, 20], found [20, 12]"
    );
}

#[test]
fn wrong_dtype() {
    let model = Model::copy("bert");
    model.edit_header(WEIGHTS, |h| {
        h["encoder.layer.1.output.dense.bias"]["dtype"] = json!("I32");
    });
    assert_eq!(
        only(&model),
        "model.safetensors: tensor encoder.layer.1.output.dense.bias: expected F32, F16, BF16 or F64, found I32"
    );
    model.edit_header(WEIGHTS, |h| {
        h["encoder.layer.1.output.dense.bias"]["dtype"] = json!("F16");
    });
    let e = only(&model);
    assert!(e.contains("expected 24 bytes for F16 of shape [12], found 48, data offsets"), "{e}");
}

#[test]
fn duplicate_tensors() {
    let model = Model::copy("bert");
    let bytes = model.bytes(WEIGHTS);
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..end]).unwrap();
    let twice = header.replace("embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias");
    model.write(WEIGHTS, with_header(&twice, &bytes[end..]));
    assert_eq!(
        only(&model),
        "model.safetensors: tensor embeddings.LayerNorm.bias: expected every name once, found the name twice"
    );
}

#[test]
fn missing_and_unknown_tensors_come_at_once() {
    let model = Model::copy("bert");
    model.edit_header(WEIGHTS, |h| {
        for (from, to) in [("encoder.layer.0.output.dense.bias", "a"), ("embeddings.LayerNorm.weight", "b\u{1}")] {
            let tensor = h.remove(from).unwrap();
            h.insert(to.into(), tensor);
        }
    });
    assert_eq!(
        model.errors(),
        [
            ".: tensor embeddings.LayerNorm.weight: expected a tensor of shape [12], found none in the weights",
            ".: tensor encoder.layer.0.output.dense.bias: expected a tensor of shape [12], found none in the weights",
            "model.safetensors: tensor a: expected only tensors that the configuration describes, found another one",
            "model.safetensors: tensor b\\u{1}: expected only tensors that the configuration describes, found another one",
        ]
    );
}

#[test]
fn a_layer_too_many_or_too_few() {
    let e = Model::copy("bert");
    e.edit_json(CONFIG, |c| c["num_hidden_layers"] = json!(1));
    let errors = e.errors();
    assert_eq!(errors.len(), 16);
    assert!(
        errors.iter().all(|e| e.contains("tensor encoder.layer.1.") && e.ends_with("found another one")),
        "{errors:#?}"
    );
    e.edit_json(CONFIG, |c| c["num_hidden_layers"] = json!(3));
    let errors = e.errors();
    assert_eq!(errors.len(), 16);
    assert!(
        errors.iter().all(|e| e.contains("tensor encoder.layer.2.") && e.ends_with("none in the weights")),
        "{errors:#?}"
    );
}

#[test]
fn absent_files() {
    let model = Model::copy("bert");
    std::fs::remove_file(model.file(WEIGHTS)).unwrap();
    assert_eq!(only(&model), ".: expected model.safetensors or model.safetensors.index.json, found neither");
    model.write("pytorch_model.bin", "x");
    assert_eq!(
        only(&model),
        ".: expected model.safetensors or model.safetensors.index.json, found only pickled weights, pytorch_model.bin\n  \
         help: save the model with `safe_serialization=True`"
    );
    std::fs::remove_file(model.file(CONFIG)).unwrap();
    assert_eq!(model.errors().len(), 2);
}

#[test]
fn malformed_configuration() {
    let model = Model::copy("bert");
    let text = String::from_utf8(model.bytes(CONFIG)).unwrap();
    for n in (1..text.trim_end().len()).step_by(11) {
        model.write(CONFIG, &text[..n]);
        let e = only(&model);
        assert!(e.starts_with("config.json: expected well-formed JSON, found EOF"), "{n}: {e}");
    }
    model.write(CONFIG, "[1]");
    assert_eq!(only(&model), "config.json: expected a JSON object, found [1]");
    model.write(CONFIG, text.replacen('{', "{\"vocab_size\": 5,", 1));
    assert_eq!(only(&model), "config.json: vocab_size: expected every key once, found the key twice");
    model.write(CONFIG, "[".repeat(100_000));
    assert!(only(&model).contains("expected well-formed JSON, found recursion limit exceeded"));
    model.write(CONFIG, b"{\"vocab_size\": \"\xff\"}");
    assert!(only(&model).starts_with("config.json: expected well-formed JSON"));
}

#[test]
fn faults_of_the_configuration_come_at_once() {
    let model = Model::copy("bert");
    model.edit_json(CONFIG, |c| {
        c.insert("hidden_size".into(), json!(-3));
        c.insert("hidden_act".into(), json!("gelu_11"));
        c.insert("rope_theta".into(), json!(10000));
        c.insert("is_decoder".into(), json!(true));
    });
    assert_eq!(
        model.errors(),
        [
            "config.json: is_decoder: expected false or null, found true",
            "config.json: hidden_size: expected a whole number from 1 to 2147483648, found -3",
            "config.json: hidden_act: expected one of gelu, gelu_python, gelu_new, gelu_fast, gelu_accurate, \
             gelu_pytorch_tanh, quick_gelu, relu, relu2, relu6, silu, swish, sigmoid, tanh, linear, found \"gelu_11\"",
            "config.json: rope_theta: expected only keys whose meaning is known, as any may change the computation, \
             found 10000",
        ]
    );
}

#[test]
fn keys_that_change_the_computation() {
    for (key, value) in [
        ("position_embedding_type", json!("relative_key")),
        ("is_decoder", json!(true)),
        ("add_cross_attention", json!(true)),
        ("is_encoder_decoder", json!(true)),
        ("pruned_heads", json!({"0": [1]})),
        ("quantization_config", json!({"bits": 4})),
        ("auto_map", json!({"AutoModel": "m.M"})),
        ("layer_norm_eps", json!(0)),
        ("layer_norm_eps", json!("1e-5")),
    ] {
        let e = with_config("bert", key, value);
        assert!(e.starts_with(&format!("config.json: {key}: expected ")), "{e}");
    }
    assert!(with_config("vit-bf16", "qkv_bias", json!(1)).starts_with("config.json: qkv_bias: expected true or false"));
}

#[test]
fn absurd_dimensions() {
    for value in [json!(0), json!(-1), json!(1u64 << 40), json!(1.5), json!("12"), json!(null), json!(u64::MAX)] {
        for key in ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings", "intermediate_size"] {
            let model = Model::copy("bert");
            model.edit_json(CONFIG, |c| {
                c.insert(key.into(), value.clone());
            });
            let place = format!("config.json: {key}: expected a whole number from 1 to 2147483648, found ");
            assert!(model.errors()[0].starts_with(&place), "{key} = {value}: {:?}", model.errors());
        }
    }
    assert_eq!(
        with_config("bert", "num_hidden_layers", json!(2_000_000_000)),
        "config.json: num_hidden_layers: expected at most 39 layers, as the weights have 39 tensors, found 2000000000"
    );
    assert_eq!(
        with_config("bert", "num_attention_heads", json!(5)),
        "config.json: num_attention_heads: expected a divisor of hidden_size, 12, found 5"
    );
    assert_eq!(
        with_config("vit-bf16", "patch_size", json!([9, 4])),
        "config.json: patch_size: expected patches within the image of 8x12, found 9x4"
    );
    assert_eq!(
        with_config("vit-bf16", "image_size", json!([8, 12, 1])),
        "config.json: image_size: expected one or two whole numbers from 1 to 2147483648, found [8,12,1]"
    );
}

#[test]
fn sizes_at_the_limit_overflow_nothing() {
    let model = Model::copy("vit-bf16");
    model.edit_json(CONFIG, |c| {
        for key in ["hidden_size", "intermediate_size", "num_channels", "image_size", "pooler_output_size"] {
            c.insert(key.into(), json!(1u64 << 31));
        }
        c.insert("patch_size".into(), json!(1));
        c.insert("num_attention_heads".into(), json!(1));
    });
    assert!(model.errors().iter().any(|e| e.contains("expected shape")), "{:?}", model.errors());
}

#[test]
fn unsupported_architectures() {
    let supported = "BertModel, ViTForImageClassification, ViTModel, or model_type \"pointer_network\"";
    let model = Model::copy("bert-f16-shards");
    model.edit_json(CONFIG, |c| c["architectures"] = json!(["BertForMaskedLM"]));
    assert_eq!(
        only(&model),
        format!(
            "config.json: architectures: expected an architecture that this version supports: {supported}, \
             found [\"BertForMaskedLM\"]"
        )
    );
    model.edit_json(CONFIG, |c| c["architectures"] = json!(["ViTModel"]));
    assert_eq!(only(&model), "config.json: model_type: expected \"vit\", to which ViTModel belongs, found \"bert\"");
    model.edit_json(CONFIG, |c| {
        c.remove("architectures");
        c["model_type"] = json!("mamba");
    });
    assert!(only(&model).ends_with(&format!("supports: {supported}, found \"mamba\"")));
}

#[test]
fn shard_indices() {
    let model = Model::copy("bert-f16-shards");
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let whole = model.bytes(INDEX);
    let key = "embeddings.LayerNorm.bias";
    for name in ["../x.safetensors", "/etc/passwd", "a/b", ""] {
        model.edit_json(INDEX, |i| i["weight_map"][key] = json!(name));
        let e = only(&model);
        let expected =
            format!("{INDEX}: weight_map.{key}: expected the name of a file in the same directory, found \"{name}\"");
        assert_eq!(e, expected);
    }
    model.write(INDEX, &whole);
    model.edit_json(INDEX, |i| i["weight_map"][key] = json!(two));
    assert_eq!(
        model.errors(),
        [
            format!("{one}: tensor {key}: expected only tensors that the index places in this file, found another one"),
            format!("{two}: tensor {key}: expected the tensor, as the index says, found it in {one}"),
        ]
    );
    model.write(INDEX, &whole);
    model.edit_json(INDEX, |i| {
        i["weight_map"]["nowhere"] = json!(one);
    });
    assert_eq!(
        only(&model),
        format!("{one}: tensor nowhere: expected the tensor, as the index says, found no such tensor")
    );
    model.write(INDEX, "{\"metadata\": {}}");
    assert_eq!(only(&model), format!("{INDEX}: weight_map: expected an object from tensor to file, found nothing"));
    model.write(INDEX, &whole);
    std::fs::remove_file(model.file(two)).unwrap();
    let e = only(&model);
    assert!(e.starts_with(&format!("{two}: expected a readable safetensors file, found No such file")), "{e}");
}

#[test]
fn sentence_transformers_modules() {
    let model = Model::copy("bert");
    let whole = model.bytes("modules.json");
    let with = |edit: &dyn Fn(&mut Vec<Value>)| {
        let mut list: Vec<Value> = serde_json::from_slice(&whole).unwrap();
        edit(&mut list);
        model.write("modules.json", Value::from(list).to_string());
        only(&model)
    };
    let e = with(&|l| l[1]["path"] = json!("../1_Pooling"));
    assert!(
        e.starts_with("modules.json: [1]: expected a module of sentence_transformers with a type and a path inside"),
        "{e}"
    );
    let e = with(&|l| l[2]["type"] = json!("sentence_transformers.models.Dense"));
    assert_eq!(
        e,
        "modules.json: [2]: expected a module that this version supports: Transformer, Pooling, Normalize, found Dense"
    );
    let e = with(&|l| l.swap(1, 2));
    assert!(
        e.starts_with("modules.json: expected Transformer, Pooling and perhaps Normalize, in this order, found "),
        "{e}"
    );
    model.write("modules.json", &whole);
    model.edit_json("1_Pooling/config.json", |c| {
        c.insert("pooling_mode_lasttoken".into(), json!(true));
    });
    assert_eq!(only(&model), "1_Pooling/config.json: pooling_mode_lasttoken: expected false or null, found true");
}
