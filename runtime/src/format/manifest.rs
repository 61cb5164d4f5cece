//! The manifest: what an artifact takes, gives, and runs on.

use super::{ElemType, SizeExpr};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The `max` of a [`Symbol`] that nothing limits.
pub const UNBOUNDED: i64 = i64::MAX;

/// The longest name, key or symbol in bytes that a reader accepts.
pub const MAX_KEY_LEN: usize = 4096;

/// Everything about an artifact except its plans, code and weights.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// The compiler and its version, such as `kiln 0.1.0`.
    pub producer: String,
    pub model_name: String,
    /// The dimensions whose value is known only when inputs arrive. [`SizeExpr`] refers to them by index.
    pub symbols: Vec<Symbol>,
    pub entries: Vec<Entry>,
    /// The machines the artifact has code for. The reader takes the best one that it runs on.
    pub targets: Vec<TargetInfo>,
    pub states: Vec<State>,
    /// What an application needs around the model. The runtime's own command line reads:
    ///
    /// | key | value |
    /// |---|---|
    /// | `image.input` | name of the input that takes pictures; its shape is batch, channels, height, width |
    /// | `image.size` | `HEIGHTxWIDTH` |
    /// | `image.channels` | `1` (grey) or `3` (red, green, blue) |
    /// | `image.resample` | `bilinear` (default) or `nearest` |
    /// | `image.rescale` | factor on the 0..255 samples |
    /// | `image.mean`, `image.std` | comma-separated, one or one a channel; applied after the rescale |
    /// | `labels` | JSON object from class index to name, as in `{"0": "zero"}` |
    /// | `labels.output` | name of the output that holds the logits, default the first |
    pub metadata: BTreeMap<String, String>,
}

/// A dimension that is bound when inputs arrive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Symbol {
    pub name: String,
    /// The smallest value that is taken.
    pub min: i64,
    /// The largest value that is taken, or [`UNBOUNDED`].
    pub max: i64,
    /// The value must be divisible by this; 1 where anything goes.
    pub multiple_of: i64,
}

/// One function of the artifact.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// What the sizes of a call's inputs must be like, beyond what ports and symbols say.
    pub conditions: Vec<Condition>,
    /// The states that it uses, each once.
    pub states: Vec<StateUse>,
}

/// What an entry does with a state.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StateUse {
    /// Index into the manifest's states.
    pub state: u32,
    pub change: Change,
}

/// How a run leaves a state.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// As it was.
    None,
    /// With so much more along the axis by which it grows, which the plan writes there.
    Append(SizeExpr),
    /// With nothing, or with zeros if it does not grow.
    Reset,
}

/// A size that must not be negative: memory is safe where all conditions hold.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Condition {
    pub size: SizeExpr,
    /// The node that asks for it and its reason, for the error that names them.
    pub asked_by: String,
}

/// One input or output of an entry: a dense row-major tensor.
///
/// Every symbol of an entry must stand alone as a dimension of one of the entry's inputs, which binds it, or be that of
/// how much one of its states holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    pub elem: ElemType,
    pub dims: Vec<SizeExpr>,
    /// What elements are taken, for an input that does not take any.
    pub accepts: Option<Accepts>,
}

/// The elements that an input may have. A run with others is refused before it begins.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Accepts {
    /// Floats that are neither infinite nor NaN.
    Finite,
    /// Integers from `min` to `max`. If `filled`, any number of -1 may stand behind them along the last axis.
    Range { min: i64, max: SizeExpr, filled: bool },
    /// Any: only the size of the input counts.
    Size,
}

/// A buffer that keeps its content from one run of a session to the next. It starts empty if it grows, or as zeros.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    pub elem: ElemType,
    /// The capacity in elements, by dimension. The formulas hold no symbol.
    pub dims: Vec<SizeExpr>,
    /// How it grows, if it does. It is laid out for its capacity, whatever it holds.
    pub grows: Option<Growth>,
    pub lifetime: Lifetime,
}

/// How a [`State`] grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Growth {
    pub axis: u32,
    /// The symbol that is what the state holds along the axis as a run starts.
    pub symbol: u32,
}

/// When a [`State`] goes back to how it starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Lifetime {
    /// Never, unless the caller resets the session.
    Session,
    /// Before every run.
    Run,
}

/// One kind of machine the artifact has code for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TargetInfo {
    /// As on the command line: `cpu:x86-64-v3`, `cuda:sm_80`.
    pub name: String,
    pub level: Level,
    /// What the code needs beyond `level`: by the names of `is_x86_feature_detected!`, or as `ptx8.0` what a GPU's driver
    /// must understand.
    pub features: Vec<String>,
    /// What a [`Step::Launch`](super::Step::Launch) refers to by index. Several may name one symbol.
    pub kernels: Vec<Kernel>,
}

impl TargetInfo {
    /// The number of different functions among the kernels.
    pub fn functions(&self) -> usize {
        self.kernels.iter().map(|k| &k.symbol).collect::<BTreeSet<_>>().len()
    }
}

/// A function of a code section, and what it computes for whom.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kernel {
    /// The ELF symbol, or the name of the PTX entry.
    pub symbol: String,
    /// The node of the model it came from, for traces and errors.
    pub label: String,
    /// How a GPU runs it. None for CPUs.
    pub grid: Option<Grid>,
    /// Tensors of which it copies tiles: it takes their maps after its other parameters.
    pub maps: Vec<TensorMap>,
}

/// A tensor of which a GPU's kernel has tiles copied, where its memory begins at a multiple of 16 bytes; else the kernel
/// copies them itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TensorMap {
    /// The argument that is its memory.
    pub arg: u32,
    /// Of two bytes.
    pub elem: ElemType,
    /// Bytes of the argument before its first element.
    pub offset: SizeExpr,
    /// Its sizes, the one along which neighbours lie first; at most five.
    pub dims: Vec<SizeExpr>,
    /// Bytes from one element to the next along each dimension but the first: multiples of 16.
    pub strides: Vec<SizeExpr>,
    /// Elements of a tile along each dimension.
    pub tile: Vec<u32>,
    pub swizzle: Swizzle,
}

/// Within how many bytes the chunks of a tile's rows change places in shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Swizzle {
    None,
    Bytes32,
    Bytes64,
    Bytes128,
}

/// The blocks of a GPU kernel's grid: as many as its tasks need, or fewer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grid {
    /// Threads of a block.
    pub threads: u32,
    /// Tasks that a block does at a time.
    pub block_tasks: u32,
    /// Bytes of shared memory that the launch gives each block, beyond those that the code declares.
    pub shared_bytes: u32,
    /// Whether there are no more blocks than run at the same time.
    pub resident: bool,
}

/// The instruction set a target's code is made of. The order is the loader's preference, the best one last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Level {
    X86_64V2,
    X86_64V3,
    X86_64V4,
    Aarch64,
    /// GPUs of compute capability 8.0 and later.
    Sm80,
    /// GPUs of compute capability 9.0.
    Sm90a,
}

impl Level {
    pub const ALL: [Level; 6] =
        [Level::X86_64V2, Level::X86_64V3, Level::X86_64V4, Level::Aarch64, Level::Sm80, Level::Sm90a];

    pub fn is_gpu(self) -> bool {
        matches!(self, Level::Sm80 | Level::Sm90a)
    }

    /// The level's name, such as `x86-64-v3`.
    pub fn name(self) -> &'static str {
        match self {
            Level::X86_64V2 => "x86-64-v2",
            Level::X86_64V3 => "x86-64-v3",
            Level::X86_64V4 => "x86-64-v4",
            Level::Aarch64 => "aarch64",
            Level::Sm80 => "sm_80",
            Level::Sm90a => "sm_90a",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Manifest {
    /// The names of the symbols, in order.
    pub fn symbol_names(&self) -> Vec<&str> {
        self.symbols.iter().map(|s| s.name.as_str()).collect()
    }

    /// The index of the entry of that name.
    pub fn entry_index(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|e| e.name == name)
    }

    /// A port as people write it: `input_ids: i64[batch, seq] in 0..30521`.
    pub fn describe(&self, port: &Port) -> String {
        let names = self.symbol_names();
        let dims: Vec<String> = port.dims.iter().map(|d| d.display(&names)).collect();
        let accepts = port.accepts.as_ref().map(|a| format!(" {}", a.display(&names))).unwrap_or_default();
        format!("{}: {}[{}]{accepts}", port.name, port.elem, dims.join(", "))
    }
}

impl Accepts {
    /// In words that stand behind the type.
    pub fn display(&self, symbols: &[&str]) -> String {
        match self {
            Accepts::Finite => "finite".to_owned(),
            Accepts::Range { min, max, filled } => {
                let filler = if *filled { ", then -1" } else { "" };
                format!("in {min}..{}{filler}", max.display(symbols))
            }
            Accepts::Size => "of any content, as its size is what counts".to_owned(),
        }
    }
}
