//! Plans: from a verified module at stage `legal` to launches over buffers, for any target of a kind.
//!
//! - Values whose operands are all parameters and constants are *weight-time*: they become [`weights::Source`]s.
//! - View ops are strides; where strides do not do, a copy stands.
//! - Every other node or fusion is one kernel, described by its spec; equal specs are one kernel.
//! - A loop is one kernel that calls those of its body, on tiles of rows where its rows can be told apart; the loops of
//!   heavy bodies whose rows cannot are steps of the plan.
//! - Results are written where they are wanted: into the entry's outputs, into their place in a concatenation.
//! - States are memory of the session, laid out for their capacity: what is appended is written behind what they hold.
//! - Temporaries get arena offsets as formulas over the symbols; an operand that dies where its successor is written
//!   in the same order lends its memory.
//!
//! All nodes that cannot be planned are reported at once, and with them what is wrong with entries: one that gives
//! nothing, or whose sizes its inputs do not decide.

mod arena;
mod cell;
mod circuit;
mod entries;
mod group;
pub mod layout;
mod loops;
mod lower;
mod planner;
mod product;
mod regions;
mod rows;
mod state;
mod weight_time;

use crate::weights::{ItemId, Weights};
use kiln_ir::{Dim, ElemType, Module, Node, Verified};
use kiln_kernels::KernelSpec;
use kiln_runtime::format::SizeExpr;
pub(crate) use state::{capacity, growing_axis};
use std::fmt;

/// What all entries do.
pub struct ModulePlan {
    /// Distinct, in the order of first use.
    pub kernels: Vec<KernelSpec>,
    pub entries: Vec<EntryPlan>,
    pub weights: Weights,
}

/// What one entry does.
pub struct EntryPlan {
    /// Index into the module's entries.
    pub entry: usize,
    /// Block 0 is the body; blocks refer to later ones only.
    pub blocks: Vec<Vec<Step>>,
    /// Bytes of each temporary.
    pub bytes: Vec<Dim>,
    /// The offset in the arena of each temporary.
    pub offsets: Vec<SizeExpr>,
    pub arena_bytes: SizeExpr,
}

/// A step of a block; `u32`s are blocks.
#[derive(Clone, Debug)]
pub enum Step {
    Launch(Launch),
    If { condition: Place, then: u32, otherwise: u32 },
    While { condition: Place, body: u32, max: Dim, label: String },
    For { count: Count, index: Place, body: u32 },
}

/// How often a loop runs its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Count {
    Fixed(i64),
    /// As an element of i64 says when the loop starts.
    At(Place),
}

/// One run of a kernel.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Index into [`ModulePlan::kernels`].
    pub kernel: usize,
    /// Inputs, then outputs, as the spec lists them.
    pub args: Vec<Place>,
    pub label: String,
    /// The most steps of each loop inside the kernel that has a bound.
    pub limits: Vec<Dim>,
}

/// Where an argument starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub buffer: Buffer,
    /// In bytes.
    pub offset: Dim,
}

/// Memory that a plan names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Buffer {
    Input(u32),
    Output(u32),
    /// Index into the entry's temporaries.
    Temporary(u32),
    Weight(ItemId),
    /// Index into the module's states. It has room for the state's capacity.
    State(u32),
}

/// How weights are stored.
#[derive(Clone, Copy, Default, Debug)]
pub struct PlanOptions {
    /// The element type of packed matrices; as in the file when absent.
    pub weights: Option<ElemType>,
    /// Whether a GPU is among the targets: then there may be launches, with tables, that are made for GPUs alone.
    pub gpu: bool,
}

/// A part of a module that has no plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsupported {
    /// The op or ops, or the entry.
    pub node: String,
    /// Where in the model file it came from.
    pub source: Option<String>,
    pub reason: String,
}

/// All nodes that have none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlanError(pub Vec<Unsupported>);

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, u) in self.0.iter().enumerate() {
            write!(f, "{}{u}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.node, self.reason)?;
        match &self.source {
            Some(source) => write!(f, " (from {source})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PlanError {}

/// Plans every entry of the module.
pub fn plan(module: Verified<'_>, options: &PlanOptions) -> Result<ModulePlan, PlanError> {
    planner::plan(&module, options)
}

fn unsupported(m: &Module, node: Node, reason: impl Into<String>) -> Unsupported {
    let data = &m.nodes[node];
    let inner = data.regions.iter().flat_map(|r| &m.regions[*r].nodes).map(|n| m.nodes[*n].op.name());
    let names: Vec<&str> = std::iter::once(data.op.name()).chain(inner.take(8)).collect();
    let source = data.source.clone().or_else(|| {
        let mut inner = data.regions.iter().flat_map(|r| &m.regions[*r].nodes);
        inner.find_map(|n| m.nodes[*n].source.clone())
    });
    Unsupported { node: names.join(" "), source, reason: reason.into() }
}
