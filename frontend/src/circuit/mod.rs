//! Probabilistic circuits: files of several tools, found by content, as a module that asks one circuit.
//!
//! A format is one file here and one line in [`FORMATS`]. Readers keep the file's numbers and lines as origins, so that
//! later messages can name them, and leave the circuit as the file has it; what a file cannot promise by its form, such as
//! smoothness, is checked afterwards.

mod capnp;
mod entries;
mod facts;
mod jpc;
mod logic;
mod nnf;
mod nodes;
mod psdd;
mod sdd;
mod spn;
mod spnc;
mod text;
mod uai;
mod vtree;

use crate::{
    LoadOptions, Loaded, Weights,
    error::{Errors, ImportError},
    json,
};
use flate2::read::MultiGzDecoder;
use kiln_ir::circuit::{Circuit, Property, Vtree};
use std::{
    io::Read,
    path::{Path, PathBuf},
};
use text::{Result, Text};

/// Bytes of a binary file; larger ones are refused unread.
const MAX_BINARY: u64 = 1 << 30;
/// What is looked at to tell formats apart.
const HEAD: u64 = 64 << 10;

/// A file, or bytes in its place.
#[derive(Clone, Copy)]
struct Input<'a> {
    path: &'a Path,
    bytes: Option<&'a [u8]>,
}

impl<'a> Input<'a> {
    fn text(self) -> Result<Text<'a>> {
        match self.bytes {
            Some(bytes) => Ok(Text::new(self.path, Box::new(bytes))),
            None => Text::open(self.path),
        }
    }
}

/// Reads an input into a circuit of a name; notes say what was left out.
type Reader = fn(Input<'_>, &str, &mut Vec<String>) -> Result<Circuit>;

/// Whether bytes, whose first word is given, begin as a file of some kind does.
type Sniff = fn(&[u8], &str) -> bool;

/// A kind of file.
struct Format {
    name: &'static str,
    describe: &'static str,
    /// Whether a file begins like this: its first bytes, unpacked, and its first word that is no comment.
    is: Sniff,
    read: Reader,
    /// What a circuit of this format must have.
    promises: &'static [Property],
    /// Whether a vtree may stand beside it.
    vtree: bool,
}

const NORMAL: &[Property] = &[Property::Smooth, Property::Decomposable, Property::Normalised];
const COUNTING: &[Property] = &[Property::Smooth, Property::Decomposable];

static FORMATS: &[Format] = &[
    Format {
        name: "psdd",
        describe: "a .psdd",
        is: |_, word| word == "psdd",
        read: |input, name, notes| psdd::read(&mut input.text()?, name, notes),
        promises: NORMAL,
        vtree: true,
    },
    Format {
        name: "jpc",
        describe: "a Juice .jpc text, also packed with gzip",
        is: |_, word| word == "jpc",
        read: |input, name, notes| jpc::read(&mut input.text()?, name, notes),
        promises: NORMAL,
        vtree: true,
    },
    Format {
        name: "spn",
        describe: "a Juice .spn",
        is: |_, word| {
            word.strip_prefix('(').is_some_and(|w| w.trim_end_matches(')').bytes().all(|b| b.is_ascii_digit()))
        },
        read: |input, name, notes| spn::read(&mut input.text()?, name, notes),
        promises: NORMAL,
        vtree: true,
    },
    Format {
        name: uai::NAME,
        describe: "a network .uai",
        is: |_, word| matches!(word, "BAYES" | "MARKOV"),
        read: |input, name, notes| uai::read(&mut input.text()?, name, notes),
        promises: COUNTING,
        vtree: false,
    },
    Format {
        name: "nnf",
        describe: "a d-DNNF .nnf",
        is: |head, word| word == "nnf" || is_d4(head, word),
        read: |input, name, notes| formula(input, name, notes, nnf::read),
        promises: COUNTING,
        vtree: false,
    },
    Format {
        name: "sdd",
        describe: "an .sdd",
        is: |_, word| word == "sdd",
        read: |input, name, notes| formula(input, name, notes, sdd::read),
        promises: COUNTING,
        vtree: false,
    },
    // Last, as its beginning is the least telling.
    Format {
        name: "spnc",
        describe: "an SPNC .bin",
        is: |head, _| is_capnp(head),
        read: |input, name, notes| binary(input, name, notes),
        promises: NORMAL,
        vtree: false,
    },
];

fn binary(input: Input<'_>, name: &str, notes: &mut Vec<String>) -> Result<Circuit> {
    match input.bytes {
        Some(bytes) => spnc::read(input.path, bytes, name, notes),
        None => spnc::read(input.path, &json::read_bounded(input.path, MAX_BINARY)?, name, notes),
    }
}

fn formula(
    input: Input<'_>,
    name: &str,
    notes: &mut Vec<String>,
    read: fn(&mut Text<'_>, &mut logic::Weights) -> Result<logic::Formula>,
) -> Result<Circuit> {
    let mut weights = logic::Weights::default();
    let formula = read(&mut input.text()?, &mut weights)?;
    let beside = input.path.with_extension("weights");
    if input.bytes.is_none() && beside.is_file() {
        weights.read(&mut Text::open(&beside)?)?;
    }
    logic::compile(input.path, name, formula, &weights, notes)
}

/// What the files are that stand beside a circuit or look like one, but are none that is read.
const OTHERS: &[(Sniff, &str)] = &[
    (|head, _| is_pickle(head), PICKLE),
    (
        |head, _| head.starts_with(b"PK\x03\x04"),
        "a zip file, as PyTorch writes; write the circuit as Juice text (.jpc)",
    ),
    (|_, word| word == "vtree", "a vtree alone; give the circuit, beside which it is found"),
    (
        |_, word| word == "Logisitic" || word == "Logistic",
        "a logistic circuit, which is a classifier and no distribution",
    ),
];

const PICKLE: &str = "a Python pickle, which is never read, as that runs code in it; write a PyJuice circuit as Juice text \
                      (.jpc)";

/// Whether a file that begins like this is a circuit, or what it is instead; `None` where it is nothing known here.
pub(crate) fn recognise(head: &[u8]) -> Option<std::result::Result<(), &'static str>> {
    match format(head)? {
        Ok(_) => Some(Ok(())),
        Err(other) => Some(Err(other)),
    }
}

fn format(head: &[u8]) -> Option<std::result::Result<&'static Format, &'static str>> {
    let mut unpacked = vec![];
    let head = if head.starts_with(&[0x1f, 0x8b]) {
        // A part of a packed file ends in an error, behind what is looked at.
        let _ = MultiGzDecoder::new(head).take(HEAD).read_to_end(&mut unpacked);
        &unpacked
    } else {
        head
    };
    let text = String::from_utf8_lossy(head);
    let is_comment = |line: &str| line == "c" || line.starts_with("c ") || line.starts_with("c\t");
    let line = text.lines().map(str::trim).find(|l| !l.is_empty() && !is_comment(l));
    let word = line.and_then(|l| l.split_whitespace().next()).unwrap_or("");
    if let Some((_, what)) = OTHERS.iter().find(|(is, _)| is(head, word)) {
        return Some(Err(what));
    }
    FORMATS.iter().find(|f| (f.is)(head, word)).map(Ok)
}

/// Protocol 2 and later begin with its number. Before it, a list or dictionary is numbered at once, `(lp0` as text or `]q\0`,
/// and so is a class, `cmodule`, a name, `p0` on three lines.
fn is_pickle(head: &[u8]) -> bool {
    let is_place =
        |line: &[u8]| line.strip_prefix(b"p").is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit));
    let is_name = |line: &[u8]| !line.is_empty() && line.iter().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(b));
    let lines: Vec<&[u8]> = head.splitn(4, |b| *b == b'\n').collect();
    match lines[..] {
        [[b'(', b'l' | b'd', place @ ..], ..] if is_place(place) => true,
        [[b'c', module @ ..], name, place, ..] => is_name(module) && is_name(name) && is_place(place),
        _ => [&[0x80][..], b"]q\0", b"}q\0"].iter().any(|start| head.starts_with(start)),
    }
}

/// d4's formulas: `o 1 0`, say, whose letters alone also begin sentences.
fn is_d4(head: &[u8], word: &str) -> bool {
    let text = String::from_utf8_lossy(head);
    let line = text.lines().map(str::trim).find(|l| l.split_whitespace().next() == Some(word)).unwrap_or("");
    let words: Vec<&str> = line.split_whitespace().collect();
    matches!(words[..], ["o" | "a" | "t" | "f", id, "0"] if id.bytes().all(|b| b.is_ascii_digit()))
}

/// An unpacked Cap'n Proto message: a table of segments whose sizes fit the file's beginning and then a struct pointer.
fn is_capnp(b: &[u8]) -> bool {
    let word = |i: usize| b.get(i * 4..i * 4 + 4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
    let (Some(segments), Some(size)) = (word(0), word(1)) else { return false };
    let table = (segments as usize).saturating_add(2).div_ceil(2) * 2;
    segments < 64
        && size > 0
        && word(table).is_some_and(|pointer| pointer & 3 == 0)
        && word(table + 1).is_some_and(|w| w > 0)
}

/// Whether a file of this name may hold a circuit.
pub(crate) fn is_named(name: &str) -> bool {
    [".psdd", ".jpc", ".jpc.gz", ".spn", ".uai", ".nnf", ".sdd"].iter().any(|end| name.ends_with(end))
}

/// What may be read beside the circuit at `path`.
pub(crate) fn beside(path: &Path) -> impl Iterator<Item = PathBuf> {
    vtree_of(path).map(|(file, _)| file).into_iter().chain([path.with_extension("weights")])
}

pub(crate) fn load(path: &Path, options: &LoadOptions, errors: &mut Errors) -> Option<Loaded> {
    let read = file_of(path).and_then(|file| read(&file, errors));
    let (circuit, format, mut notes) = read.map_err(|e| errors.push(e)).ok()??;
    let (circuit, facts) = facts::describe(circuit, format, &mut notes);
    let module = entries::module(circuit, facts, options.elem, path, errors)?;
    Some(Loaded { module, weights: Weights::default(), notes })
}

/// The names of the kinds of files that hold circuits.
pub fn circuit_formats() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().map(|f| f.name)
}

/// The circuit that bytes of a kind of file hold; errors call the file by its kind.
///
/// # Errors
/// What is wrong with the bytes, or a kind that is not among [`circuit_formats`].
pub fn circuit_from_bytes(kind: &str, bytes: &[u8]) -> std::result::Result<Circuit, Vec<ImportError>> {
    let path = Path::new(kind);
    let Some(format) = FORMATS.iter().find(|f| f.name == kind) else {
        let known: Vec<&str> = circuit_formats().collect();
        return Err(vec![ImportError::new(path, format!("one of {}", known.join(", ")), kind)]);
    };
    let input = Input { path, bytes: Some(bytes) };
    let circuit = (format.read)(input, kind, &mut vec![]).map_err(|e| vec![e])?;
    let found = nodes::violations(path, &circuit, format.promises);
    if found.is_empty() { Ok(circuit) } else { Err(found) }
}

/// The tree that bytes of a `.vtree` hold.
///
/// # Errors
/// What is wrong with the bytes.
pub fn vtree_from_bytes(bytes: &[u8]) -> std::result::Result<Vtree, ImportError> {
    vtree::read(&mut Text::new(Path::new("vtree"), Box::new(bytes)))
}

/// The file itself, or the only circuit of a directory.
fn file_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let list = std::fs::read_dir(path).map_err(|e| ImportError::io(path, "a readable directory", &e))?;
    let names = list.flatten().filter_map(|f| f.file_name().into_string().ok());
    let mut circuits: Vec<String> = names.filter(|n| is_named(n)).collect();
    circuits.sort();
    match &circuits[..] {
        [only] => Ok(path.join(only)),
        [] => Err(ImportError::new(path, "a directory with a circuit", "none")),
        several => {
            let e = ImportError::new(path, "a directory with one circuit", several.join(", "));
            Err(e.help(format!("give one of them, such as {}", path.join(&several[0]).display())))
        }
    }
}

/// The circuit of a file with the vtree beside it, checked for what its format promises.
fn read(path: &Path, errors: &mut Errors) -> Result<Option<(Circuit, &'static str, Vec<String>)>> {
    let io = |e: std::io::Error| ImportError::io(path, "a readable file", &e);
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(ImportError::new(path, "a file", "a device"));
    }
    let mut head = vec![];
    std::fs::File::open(path).and_then(|f| f.take(HEAD).read_to_end(&mut head)).map_err(io)?;
    let expected = || {
        let list: Vec<&str> = FORMATS.iter().map(|f| f.describe).collect();
        format!("a circuit: {}", list.join(", "))
    };
    let format = match format(&head) {
        Some(Ok(format)) => format,
        Some(Err(other)) => return Err(ImportError::new(path, expected(), other)),
        None => return Err(ImportError::new(path, expected(), "a file of another kind")),
    };
    let mut notes = vec![];
    let mut circuit = (format.read)(Input { path, bytes: None }, &stem(path), &mut notes)?;
    let mut promises = format.promises.to_vec();
    let mut found = nodes::violations(path, &circuit, &promises);
    if format.vtree && found.is_empty() {
        match vtree_of(path) {
            Some((file, certain)) => {
                let tree = vtree::read(&mut Text::open(&file)?)?;
                circuit.vtree = Some(tree);
                promises = vec![Property::Structured];
                found = nodes::violations(path, &circuit, &promises);
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if !certain && !found.is_empty() {
                    notes.push(format!("left alone: {name}, which the circuit does not follow"));
                    circuit.vtree = None;
                    found.clear();
                }
                for e in &mut found {
                    *e = e.clone().help(format!("give the vtree of this circuit as {name}, or take that file away"));
                }
            }
            None => notes.push("no vtree beside the circuit".into()),
        }
    }
    let is_right = found.is_empty();
    found.into_iter().for_each(|e| errors.push(e));
    Ok(is_right.then_some((circuit, format.name, notes)))
}

/// The file's name without what it ends in.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = name.strip_suffix(".gz").unwrap_or(&name).to_string();
    name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map_or(name.clone(), |(stem, _)| stem.to_string())
}

/// The vtree of the same name beside a circuit, which must then be its own; or the only one whose name its name begins
/// with, which may be that of another.
fn vtree_of(path: &Path) -> Option<(PathBuf, bool)> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let stem = stem(path);
    let own = dir.join(format!("{stem}.vtree"));
    if own.is_file() {
        return Some((own, true));
    }
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let names = std::fs::read_dir(dir).ok()?.flatten().filter_map(|f| f.file_name().into_string().ok());
    let begins = |name: &String| {
        let rest = name.strip_suffix(".vtree").and_then(|n| stem.strip_prefix(n));
        rest.is_some_and(|r| r.starts_with(['-', '.', '_']))
    };
    let found: Vec<String> = names.filter(begins).collect();
    match &found[..] {
        [only] => Some((dir.join(only), false)),
        _ => None,
    }
}
