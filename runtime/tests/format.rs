//! The artifact reader against damage, and the writer's promises.
#![cfg(all(target_arch = "x86_64", feature = "write"))]

mod support;

use kiln_runtime::format::{
    ElemType, FORMAT_VERSION, Grid, Kernel, Level, Port, SizeExpr, Swizzle, TargetCode, TargetInfo, TensorMap,
    WEIGHT_ALIGN, Writer, check_manifest, reseal,
};
use kiln_runtime::{Artifact, Error, Loader, OpenOptions, Session, SessionOptions, Tensor, Verify};
use proptest::prelude::*;
use std::io::Cursor;
use std::path::PathBuf;
use support::{Model, zoo};

const FULL: OpenOptions = OpenOptions { verify: Verify::Full, require_key: None };

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("kiln-format-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Small, yet with every kind of section.
fn small() -> Model {
    let mut model = Model::new();
    model.weights = vec![vec![1; 100], vec![2; 65]];
    model.rewrites = b"[1, 2]".to_vec();
    model.entry("none", &[], &[], vec![vec![]]);
    model
}

fn small_bytes() -> Vec<u8> {
    small().bytes_with(b"not really code")
}

#[test]
fn every_flipped_byte_is_found() {
    let bytes = small_bytes();
    FULL.from_bytes(&bytes).unwrap();
    let mut damaged = bytes.clone();
    for i in 0..bytes.len() {
        for mask in [1, 0x80, 0xff] {
            damaged[i] ^= mask;
            let result = FULL.from_bytes(&damaged);
            damaged[i] ^= mask;
            let error = result.err().unwrap_or_else(|| panic!("byte {i} of {} does not matter", bytes.len()));
            let expected = match i {
                0..8 => matches!(error, Error::NotAnArtifact { .. }),
                8..12 => matches!(error, Error::UnsupportedVersion { .. }),
                _ => matches!(
                    error,
                    Error::Corrupt { .. } | Error::Malformed { .. } | Error::Truncated { .. } | Error::Signature(_)
                ),
            };
            assert!(expected, "byte {i}: {error}");
        }
    }
}

#[test]
fn every_cut_is_found() {
    let bytes = small_bytes();
    for len in 0..bytes.len() {
        let error = FULL.from_bytes(&bytes[..len]).err().unwrap_or_else(|| panic!("cut to {len} bytes"));
        assert!(matches!(error, Error::Truncated { .. } | Error::NotAnArtifact { .. }), "{len}: {error}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(FULL.from_bytes(&longer), Err(Error::Malformed { .. })));
}

#[test]
fn damage_shows_before_a_result_by_default_too() {
    let bytes = small_bytes();
    for i in (0..bytes.len()).step_by(37) {
        let mut damaged = bytes.clone();
        damaged[i] ^= 4;
        let verdict = Artifact::from_bytes(&damaged).and_then(|artifact| artifact.verify());
        assert!(verdict.is_err(), "byte {i}");
    }
}

#[test]
fn an_unknown_version_is_named_beside_the_known_one() {
    let mut bytes = small_bytes();
    let unknown = FORMAT_VERSION + 1;
    bytes[8..12].copy_from_slice(&unknown.to_le_bytes());
    let text = Artifact::from_bytes(&bytes).err().unwrap().to_string();
    assert!([unknown, FORMAT_VERSION].iter().all(|v| text.contains(&format!("version {v}"))), "{text}");
}

#[test]
fn grids_and_tensor_maps_that_no_driver_takes_are_refused() {
    let mut manifest = Model::new().manifest;
    let (name, level) = ("cuda:sm_90a".to_owned(), Level::Sm90a);
    let grid = Grid { threads: 384, block_tasks: 1, shared_bytes: 200 << 10, resident: true };
    let map = TensorMap {
        arg: 0,
        elem: ElemType::Bf16,
        offset: 0.into(),
        dims: vec![SizeExpr::symbol(0), 64.into()],
        strides: vec![128.into()],
        tile: vec![64, 128],
        swizzle: Swizzle::Bytes128,
    };
    let kernel = Kernel { symbol: "k".into(), label: "k".into(), grid: Some(grid), maps: vec![map] };
    manifest.targets = vec![TargetInfo { name, level, features: vec![], kernels: vec![kernel] }];
    check_manifest(&manifest).unwrap();
    let spoilt: [fn(&mut Kernel); 7] = [
        |k| k.grid.as_mut().unwrap().shared_bytes = u32::MAX,
        |k| k.maps[0].dims.clear(),
        |k| k.maps[0].strides.push(1.into()),
        |k| k.maps[0].tile[1] = 257,
        |k| k.maps[0].tile.push(1),
        |k| k.maps[0].elem = ElemType::F32,
        |k| k.maps[0].dims[0] = SizeExpr::symbol(99),
    ];
    for (i, spoil) in spoilt.iter().enumerate() {
        let mut manifest = manifest.clone();
        spoil(&mut manifest.targets[0].kernels[0]);
        let text = check_manifest(&manifest).unwrap_err().to_string();
        assert!(text.contains("kernel k"), "{i}: {text}");
    }
}

#[test]
fn what_was_written_is_read() {
    let model = zoo();
    let artifact = Artifact::from_bytes(&model.bytes()).unwrap();
    assert_eq!(artifact.manifest(), &model.manifest);
    assert_eq!(artifact.plans(0), model.plans);
    assert_eq!(artifact.rewrites().unwrap(), model.rewrites);
    assert_eq!(artifact.signer(), None);
}

#[test]
fn the_same_artifact_has_the_same_bytes_anywhere() {
    let (one, two) = (directory("one"), directory("two-with-a-longer-name"));
    let model = small();
    let mut files = Vec::new();
    for (directory, pieces) in [(&one, 1), (&two, 37)] {
        let path = directory.join("model.kiln");
        let mut writer = Writer::create(&path).unwrap();
        for weight in &model.weights {
            let offset = writer.stream_weight(|out| weight.chunks(pieces).try_for_each(|c| out.write_all(c))).unwrap();
            assert_eq!(offset % WEIGHT_ALIGN, 0);
        }
        let target = TargetCode { plans: &model.plans, code: b"not really code" };
        let summary = writer.finish(&model.manifest, &[target], &model.rewrites).unwrap();
        files.push(std::fs::read(&path).unwrap());
        assert_eq!(summary.file_bytes, files[0].len() as u64);
        assert_eq!(Artifact::open(&path).unwrap().root(), summary.root);
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), 1, "a temporary file is left");
        std::fs::remove_dir_all(directory).unwrap();
    }
    assert_eq!(files[0], files[1]);
    assert_eq!(files[0], small_bytes());
}

#[test]
fn nothing_is_left_of_an_unfinished_artifact() {
    let directory = directory("unfinished");
    let path = directory.join("model.kiln");
    std::fs::write(&path, "what was there before").unwrap();
    let mut writer = Writer::create(&path).unwrap();
    writer.weight(&[1; 5000]).unwrap();
    let mut manifest = small().manifest;
    manifest.entries[0].name.clear();
    assert!(matches!(writer.finish(&manifest, &[], &[]), Err(Error::Malformed { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"what was there before");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(matches!(Writer::create(directory.join("model.kiln")), Err(Error::Io { .. })));
}

#[test]
fn weights_of_many_chunks_are_all_covered() {
    const MIB: usize = 1 << 20;
    let mut model = small();
    for len in [MIB - 1, MIB, MIB + 1, 2 * MIB + 100] {
        model.weights = vec![(0..len).map(|i| (i * 7 % 251) as u8).collect()];
        let bytes = model.bytes();
        let path = directory("chunks").join(format!("{len}.kiln"));
        std::fs::write(&path, &bytes).unwrap();
        Artifact::open(&path).unwrap().verify().unwrap();
        for at in [0, MIB - 1, MIB, len - 1].map(|i| 4096 + i.min(len - 1)) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            for artifact in [Artifact::open(&path), Artifact::from_bytes(&damaged)] {
                let error = artifact.unwrap().verify().unwrap_err();
                assert!(error.to_string().contains("the hash of weights in bytes"), "{error}");
            }
        }
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn signatures_are_checked() {
    let model = small();
    let sign = |secret: [u8; 32]| {
        let mut file = Cursor::new(Vec::new());
        let target = TargetCode { plans: &model.plans, code: b"not really code" };
        let writer = Writer::new(&mut file).unwrap().sign_with(secret);
        writer.finish(&model.manifest, &[target], &model.rewrites).unwrap();
        file.into_inner()
    };
    let (ours, theirs) = (sign([3; 32]), sign([4; 32]));
    let key = Artifact::from_bytes(&ours).unwrap().signer().unwrap();
    let requiring = OpenOptions { require_key: Some(key), ..FULL };
    requiring.from_bytes(&ours).unwrap();
    for refused in [&theirs, &small_bytes()] {
        assert!(matches!(requiring.from_bytes(refused), Err(Error::Signature(_))));
    }
    for i in 32..200 {
        let mut damaged = ours.clone();
        damaged[i] ^= 1;
        assert!(FULL.from_bytes(&damaged).is_err(), "byte {i}");
    }
}

#[test]
fn files_that_are_none_are_errors() {
    let directory = directory("none");
    assert!(matches!(Artifact::open(&directory), Err(Error::Io { .. })));
    assert!(matches!(Artifact::open(directory.join("missing")), Err(Error::Io { .. })));
    std::fs::write(directory.join("empty"), "").unwrap();
    assert!(matches!(Artifact::open(directory.join("empty")), Err(Error::Truncated { .. })));
    std::fs::write(directory.join("text"), "hello there").unwrap();
    assert!(matches!(Artifact::open(directory.join("text")), Err(Error::NotAnArtifact { .. })));
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Gives a damaged file matching hashes again, so that damage gets past them to what is behind.
fn rehash(model: &Model, mutate: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut code = support::elf::shared_object();
    mutate(&mut code);
    model.bytes_with(&code)
}

fn load(bytes: &[u8]) -> Result<(), Error> {
    let artifact = FULL.from_bytes(bytes)?;
    let options = SessionOptions { threads: Some(1), loader: Loader::Builtin, ..SessionOptions::default() };
    Session::new(&artifact, options).map(|_| ())
}

#[test]
fn code_cut_anywhere_is_an_error() {
    let model = zoo();
    load(&rehash(&model, |_| {})).unwrap();
    let len = support::elf::shared_object().len();
    for cut in (0..len).step_by(11) {
        let error = load(&rehash(&model, |code| code.truncate(cut))).err();
        assert!(matches!(error, Some(Error::Code { .. })), "{cut} of {len}: {error:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9000), magic in any::<bool>()) {
        let mut bytes = bytes;
        if magic && bytes.len() > 12 {
            bytes[..8].copy_from_slice(&kiln_runtime::format::MAGIC);
            bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        }
        prop_assert!(FULL.from_bytes(&bytes).is_err());
    }

    #[test]
    fn random_damage_is_found(at in proptest::collection::vec((any::<usize>(), 1u8..), 1..8)) {
        let bytes = zoo().bytes();
        let mut damaged = bytes.clone();
        for (i, mask) in at {
            damaged[i % bytes.len()] ^= mask;
        }
        prop_assert_eq!(FULL.from_bytes(&damaged).is_ok(), damaged == bytes);
    }

    #[test]
    fn metadata_that_hashes_but_lies_never_panics(
        at in proptest::collection::vec((any::<usize>(), prop_oneof![any::<u8>(), Just(0xff)]), 1..5),
        n in 1usize..70,
    ) {
        let mut bytes = zoo().bytes();
        let sections = Artifact::from_bytes(&bytes).unwrap().sections().to_vec();
        for (i, value) in at {
            let target = &sections[1 + i % 2];
            bytes[(target.offset + (i as u64 / 2) % target.len) as usize] = value;
        }
        reseal(&mut bytes).unwrap();
        if let Ok(artifact) = FULL.from_bytes(&bytes)
            && let Ok(mut session) = Session::new(&artifact, SessionOptions { threads: Some(1), ..Default::default() })
        {
            for entry in &artifact.manifest().entries {
                let zeros = |p: &Port| Tensor::zeros(p.elem, &vec![n; p.dims.len().min(3)]).unwrap();
                let tensors: Vec<_> = entry.inputs.iter().map(|p| (p.name.as_str(), zeros(p))).collect();
                let inputs: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor.view())).collect();
                // Shapes alone are bound: a plan that lies must not run.
                let _ = session.entry(&entry.name).unwrap().output_shapes(&inputs);
            }
        }
    }

    #[test]
    fn damaged_code_never_panics(at in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6), head in any::<bool>()) {
        let model = zoo();
        let bytes = rehash(&model, |code| {
            let (start, len) = if head { (0, 320) } else { (0, code.len()) };
            at.iter().for_each(|(i, value)| code[start + i % len] = *value);
        });
        // Whether it loads depends on what was hit.
        let _ = load(&bytes);
    }
}
