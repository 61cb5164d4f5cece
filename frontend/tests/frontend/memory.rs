//! Weights are mapped: what is read and given back does not stay in memory.

use kiln_frontend::{LoadOptions, load};
use std::path::Path;

#[test]
fn released_pages_are_read_again() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bert");
    let loaded = load(&dir, &LoadOptions::default()).unwrap();
    for (file, key) in loaded.weights.keys() {
        let Some(tensor) = loaded.weights.tensor(file, &key) else { continue };
        let before = tensor.bytes.to_vec();
        loaded.weights.release(tensor.bytes);
        loaded.weights.release(&before);
        loaded.weights.release(&tensor.bytes[..0]);
        assert_eq!(tensor.bytes, before);
    }
}

/// A sparse file of 1 GB is streamed in pieces.
#[cfg(target_os = "linux")]
#[test]
fn streaming_takes_no_memory_in_proportion() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let rows = 1i64 << 18;
    let bytes = rows * 1024 * 4;
    let header = format!("{{\"w\":{{\"dtype\":\"F32\",\"shape\":[{rows},1024],\"data_offsets\":[0,{bytes}]}}}}");
    let mut file = std::fs::File::create(dir.path().join("w.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + bytes as u64).unwrap();
    let text = format!(
        "module @sparse stage=imported {{\n  weights %%0 = \"w.safetensors\"\n  param %w : f32[{rows},1024] = %%0 \"w\"\n  \
         entry @f(%i: i64[2]) -> (y: f32[2,1024]) {{\n    %0 = gather %w, %i axis=0 : f32[2,1024]\n    return %0\n  }}\n}}\n"
    );
    let graph = dir.path().join("g.kir");
    std::fs::write(&graph, text).unwrap();
    let loaded = load(&graph, &LoadOptions::default()).unwrap();
    let param = loaded.module.params.values().next().unwrap();
    let tensor = loaded.weights.tensor(param.file, &param.key).unwrap();
    let (mut sum, mut most) = (0u64, 0);
    for piece in tensor.bytes.chunks(16 << 20) {
        sum += piece.iter().step_by(512).map(|b| u64::from(*b)).sum::<u64>();
        most = most.max(resident(tensor.bytes.as_ptr() as usize));
        loaded.weights.release(piece);
    }
    assert_eq!(sum, 0);
    assert!((1..64 << 20).contains(&most), "{most} bytes were resident");
}

/// Resident bytes of the mapping that holds `address`. The process as a whole has other tests' memory in it.
#[cfg(target_os = "linux")]
fn resident(address: usize) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let range = |line: &str| {
        let (begin, end) = line.split(' ').next()?.split_once('-')?;
        Some(usize::from_str_radix(begin, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    };
    let mut lines = maps.lines().skip_while(|line| !range(line).is_some_and(|r| r.contains(&address)));
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).expect("a mapped tensor has a line in smaps");
    rss.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}
