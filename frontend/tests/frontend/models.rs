//! What the front end writes for tiny models, as text.

use super::support::Model;
use kiln_frontend::{DimSpec, Format, LoadOptions, detect, load};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn text(name: &str, options: &LoadOptions) -> String {
    load(&golden(name), options).unwrap().module.to_string()
}

fn shape(text: &str) -> LoadOptions {
    let mut options = LoadOptions::default();
    options.add_shape(text).unwrap();
    options
}

#[test]
fn bert() {
    insta::assert_snapshot!(text("bert", &LoadOptions::default()));
}

#[test]
fn bert_in_f16_shards() {
    insta::assert_snapshot!(text("bert-f16-shards", &LoadOptions::default()));
}

#[test]
fn vit_in_bf16() {
    insta::assert_snapshot!(text("vit-bf16", &LoadOptions::default()));
}

#[test]
fn the_text_is_read_back_and_does_not_depend_on_the_place() {
    for name in ["bert", "bert-f16-shards", "vit-bf16"] {
        let printed = text(name, &LoadOptions::default());
        let parsed = kiln_ir::parse(&printed).unwrap();
        kiln_ir::verify(&parsed).unwrap();
        assert_eq!(parsed.to_string(), printed);
        assert!(!printed.contains(env!("CARGO_MANIFEST_DIR")));
    }
}

#[test]
fn a_text_graph_beside_its_weights_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(golden("bert").join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let file = dir.path().join("graph");
    let printed = text("bert", &LoadOptions::default());
    std::fs::write(&file, &printed).unwrap();
    assert_eq!(detect(&file), Ok(Format::Kir));
    let loaded = load(&file, &LoadOptions::default()).unwrap();
    assert_eq!(loaded.module.to_string(), printed);

    std::fs::write(&file, printed.replace("f32[12,20]", "f32[20,12]")).unwrap();
    let e = load(&file, &LoadOptions::default()).unwrap_err();
    assert!(
        e.list[0].to_string().ends_with(
            "model.safetensors: tensor encoder.layer.0.output.dense.weight: expected f32[20,12], found f32[12, 20]"
        ),
        "{e}"
    );
    std::fs::write(&file, printed.replace("\"model.safetensors\"", "\"../model.safetensors\"")).unwrap();
    let e = load(&file, &LoadOptions::default()).unwrap_err().to_string();
    assert!(e.contains("weights: expected the name of a file in the same directory"), "{e}");
}

#[test]
fn shapes_are_fixed_everywhere() {
    let fixed = text("bert", &shape("input_ids=1x5"));
    assert!(!fixed.contains("dim "), "{fixed}");
    let inputs = "%input_ids: i64[1,5] in 0..10, %attention_mask: i64[1,5], %token_type_ids: i64[1,5] in 0..1";
    assert!(fixed.contains(&format!("entry @embed({inputs})")));
    let renamed = text("bert", &shape("input_ids=BATCHx16"));
    assert!(renamed.contains("  dim BATCH = 1..65536\n") && renamed.contains("last_hidden_state: f32[BATCH,16,12]"));
    let square = text("bert", &shape("input_ids=NxN"));
    assert!(square.contains("  dim N = 1..16\n") && square.contains("f32[N,3,N,N]"));
    let mut limited = LoadOptions::default();
    limited.add_max("S=8").unwrap();
    assert!(text("bert", &limited).contains("  dim S = 1..8\n"));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let refused = |options: LoadOptions| {
        let e = load(&golden("bert"), &options).unwrap_err().to_string();
        e.replace(&golden("bert").display().to_string(), "bert")
    };
    let e = refused(shape("input_ids=1x17"));
    assert_eq!(e, "bert: --shape, dimension S: expected a size from 1 to 16, found 17");
    let e = refused(shape("ids=1x2"));
    assert_eq!(e, "bert: --shape ids: expected an input, one of attention_mask, input_ids, token_type_ids, found ids");
    assert!(
        refused(shape("input_ids=1x2x3"))
            .starts_with("bert: --shape input_ids: expected 2 sizes for i64[B,S], found 3")
    );
    let mut two = shape("input_ids=1x2");
    two.shapes.push(("attention_mask".into(), vec![DimSpec::Const(1), DimSpec::Const(3)]));
    assert!(refused(two).contains("expected one size for S in all inputs"));
    let mut max = LoadOptions { max: vec![("S".into(), 17)], ..Default::default() };
    assert_eq!(refused(max.clone()), "bert: --max S: expected a limit from 1 to 16, found 17");
    max.max[0].0 = "T".into();
    assert_eq!(refused(max), "bert: --max: expected a symbolic dimension, one of B, S, found T");
}

#[test]
fn what_is_not_supported_yet_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let errors = load(&file, &LoadOptions::default()).unwrap_err();
        (detect(&file).ok(), errors.list[0].to_string())
    };
    let onnx = refused("m", b"\x08\x0a\x12\x07pytorch\x3a\x02");
    assert_eq!(onnx.0, Some(Format::Onnx));
    assert!(
        onnx.1.ends_with(
            "expected a format that this version supports: hf (a Hugging Face directory), kir (a .kir text graph), \
         circuit (a probabilistic circuit), pointer (a pointer-net directory), found an ONNX model (onnx), which is not supported by this version"
        ),
        "{}",
        onnx.1
    );
    assert_eq!(refused("m", b"c a comment\npsdd 3\n").0, Some(Format::Circuit));
    assert_eq!(refused("m", b"BAYES\n8\n").0, Some(Format::Circuit));
    let other = refused("m", b"\x89PNG\r\n");
    assert_eq!(other.0, None);
    let all = "a Hugging Face directory, a .kir text graph, a probabilistic circuit, a pointer-net directory";
    assert!(other.1.ends_with(&format!("expected a model: {all}, found a file of another kind")), "{}", other.1);
    let config = refused("config.json", br#"{"_class_name": "UNet2DModel"}"#);
    assert_eq!(config.0, None);
    assert_eq!(detect(dir.path()), Ok(Format::Diffusers));
    let missing = load(&dir.path().join("nothing"), &LoadOptions::default()).unwrap_err();
    assert!(missing.list[0].to_string().contains("No such file"), "{missing}");
}

#[test]
fn pictures_are_described_or_a_note_says_why_not() {
    let model = Model::copy("vit-bf16");
    let config = "preprocessor_config.json";
    let read = |text: &str| {
        model.write(config, text);
        let loaded = load(model.path(), &LoadOptions::default()).unwrap();
        (loaded.module.metadata, loaded.notes)
    };
    let good = r#"{"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 12}, "resample": 2,
        "rescale_factor": 0.5, "image_mean": [0.1, 0.2, 0.3], "image_std": 0.25}"#;
    let (found, notes) = read(good);
    assert!(notes.is_empty(), "{notes:?}");
    let pairs: Vec<_> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = [
        ("image.channels", "3"),
        ("image.input", "pixel_values"),
        ("image.mean", "0.1,0.2,0.3"),
        ("image.resample", "bilinear"),
        ("image.rescale", "0.5"),
        ("image.size", "8x12"),
        ("image.std", "0.25"),
    ];
    assert_eq!(pairs, expected);
    for (change, why) in [
        (("\"resample\": 2", "\"resample\": 3"), "resample: expected 0 (nearest) or 2 (bilinear), found 3"),
        (("\"width\": 12", "\"width\": 16"), "size: expected the model's 8x12, found 8x16"),
        (("0.25", "0"), "image_std: expected one number or 3, the deviations above 0, found 0"),
        (("0.25", "[1, 2]"), "image_std: expected one number or 3, the deviations above 0, found [1,2]"),
        (("\"resample\"", "\"do_center_crop\": true, \"resample\""), "do_center_crop: expected false, found true"),
        (("\"resample\"", "\"warp\": 1, \"resample\""), "unknown key: expected only known keys, found warp"),
    ] {
        let (found, notes) = read(&good.replace(change.0, change.1));
        assert!(found.is_empty());
        assert!(notes.len() == 1 && notes[0].ends_with(why), "{notes:?}");
    }
}
