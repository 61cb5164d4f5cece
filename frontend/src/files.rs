//! The files that a model is made of, found by names alone, so that no output takes the place of one.

use crate::{circuit, json, weights::plain_name};
use std::path::{Path, PathBuf};

/// Longer texts name no files.
const MAX_BYTES: u64 = 256 << 20;

/// The files that [`load`](crate::load) would read for the model at `path`, and perhaps some that it would not: in a
/// directory all settings and circuits, beside a file those that it names or that are named like it. Nothing is checked.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = if path.is_dir() {
        let mut folders = named(&path.join("modules.json"), |_| true);
        folders.push(path.to_path_buf());
        folders.iter().flat_map(|dir| of_directory(dir)).collect()
    } else {
        [named(path, plain_name), vec![path.to_path_buf()]].concat()
    };
    let beside: Vec<PathBuf> = found.iter().flat_map(|file| circuit::beside(file)).collect();
    found.extend(beside);
    found.retain(|p| p.is_file());
    found
}

fn of_directory(dir: &Path) -> Vec<PathBuf> {
    let index = dir.join("model.safetensors.index.json");
    let list = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|f| f.path());
    let is_read = |name: &str| name.ends_with(".json") || name == "model.safetensors" || circuit::is_named(name);
    let list = list.filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(is_read));
    list.chain(named(&index, plain_name)).collect()
}

/// What stands between quotes in a text, as paths beside it.
fn named(text: &Path, accept: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let bytes = json::read_bounded(text, MAX_BYTES).unwrap_or_default();
    let dir = text.parent().unwrap_or(Path::new("")).to_path_buf();
    let text = String::from_utf8(bytes).unwrap_or_default();
    let mut names: Vec<&str> = text.split('"').filter(|name| accept(name)).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| dir.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_made_of_what_its_files_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let put = |name: &str, text: &str| {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), text).unwrap();
        };
        let list = |name: &str| {
            let mut found = files(&at(name));
            found.sort();
            found.dedup();
            found.iter().map(|p| p.strip_prefix(at("")).unwrap().display().to_string()).collect::<Vec<_>>()
        };
        put("kir/graph.kir", "module @m stage=imported { // a \" alone\n  weights %%0 = \"w.bin\"\n");
        ["kir/w.bin", "kir/other.safetensors"].iter().for_each(|name| put(name, ""));
        assert_eq!(list("kir/graph.kir"), ["kir/graph.kir", "kir/w.bin"]);
        put("hf/config.json", "{}");
        put("hf/model.safetensors.index.json", r#"{"weight_map": {"w": "one.safetensors"}}"#);
        ["hf/one.safetensors", "hf/mine.safetensors", "hf/mine.kiln"].iter().for_each(|name| put(name, ""));
        assert_eq!(list("hf"), ["hf/config.json", "hf/model.safetensors.index.json", "hf/one.safetensors"]);
        put("st/modules.json", r#"[{"path": "0_Transformer"}]"#);
        ["st/0_Transformer/model.safetensors", "st/out/model.safetensors"].iter().for_each(|name| put(name, ""));
        assert_eq!(list("st"), ["st/0_Transformer/model.safetensors", "st/modules.json"]);
        ["c/a.psdd", "c/a.vtree", "c/b.nnf", "c/b.weights", "c/b.vtree"].iter().for_each(|name| put(name, ""));
        assert_eq!(list("c/a.psdd"), ["c/a.psdd", "c/a.vtree"]);
        assert_eq!(list("c/b.nnf"), ["c/b.nnf", "c/b.vtree", "c/b.weights"]);
        assert_eq!(list("missing"), [] as [&str; 0]);
    }
}
