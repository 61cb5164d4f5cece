//! Kiln's intermediate representation.
//!
//! A [`Module`] holds several entry points over one set of weights and states. Values are tensors in SSA form; sizes
//! are symbolic ([`Dim`]). Every op is declared once, in `ops/`; parser, printer, verifier, interpreter and cost follow
//! from that declaration. This crate does no IO and knows no file format, no target and no compiler library.

pub mod accepts;
pub mod attr;
pub mod circuit;
pub mod condition;
pub mod cost;
pub mod dim;
pub mod eval;
pub mod module;
pub mod ops;
pub mod sample;
pub mod scalar;
pub mod target;
pub mod text;
pub mod types;
pub mod verify;

pub use accepts::Accepts;
pub use attr::{Attr, Attrs};
pub use circuit::Circuit;
pub use condition::{Condition, conditions};
pub use cost::Cost;
pub use dim::{Dim, Symbol, SymbolFacts};
pub use module::{
    CircuitId, Const, ConstData, Def, Entry, Label, Module, Node, NodeData, Param, ParamData, Region, RegionData,
    Stage, State, StateData, Value, ValueData, WeightFile,
};
pub use ops::{Op, Violation};
pub use target::{Target, TargetKind};
pub use text::parse;
pub use types::{ElemType, Type};
pub use verify::{Verified, VerifyErrors, verify};
