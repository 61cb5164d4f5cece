//! The reference interpreter: what the IR means.
//!
//! It is plain, complete and slow. Floats of every type are computed in f64 without rounding in between (a conversion
//! from float to float changes nothing); integers wrap to their width. Scalar ops are evaluated by their expression,
//! composite ops by their decomposition, primitives here. Passes and backends are compared with it.
//!
//! Any parsed module may be evaluated, verified or not, on any input: what does not fit is an [`EvalError`], memory is
//! bounded by [`Limits`], and so is the number of nodes executed.

mod circuit;
mod compute;
mod control;
mod decode;
mod movement;
mod sizes;
mod tensor;

pub use tensor::{Data, Tensor};

use crate::{Def, Module, Param, Region, Value};
use control::Run;
use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

/// Why an evaluation has no result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EvalError {
    #[error("the module has no entry @{0}")]
    Entry(String),
    /// An input is missing, unknown, or of the wrong type or shape.
    #[error("input {name}: {message}")]
    Input { name: String, message: String },
    /// Elements of inputs are not what the entry accepts.
    #[error("{}", .0.join("\n"))]
    Values(Vec<String>),
    /// The sizes of the inputs do not suit a node: more is taken than there is.
    #[error("{place}: {message}{}", origin.as_ref().map(|s| format!(" (from {s})")).unwrap_or_default())]
    Sizes { place: String, origin: Option<String>, message: String },
    /// An index that came of the inputs is out of range at a node.
    #[error("{place}: {message}{}", origin.as_ref().map(|s| format!(" (from {s})")).unwrap_or_default())]
    Range { place: String, origin: Option<String>, message: String },
    /// A loop would run more often than its bound.
    #[error("{place}: the condition still holds after {max} steps{}", origin.as_ref().map(|s| format!(" (from {s})")).unwrap_or_default())]
    Loop { place: String, origin: Option<String>, max: i64 },
    /// A symbol cannot be bound, or its value does not keep to its declaration.
    #[error("dim {symbol}: {message}")]
    Symbol { symbol: String, message: String },
    #[error("param {name}: {message}")]
    Weight { name: String, message: String },
    #[error("state @{name}: {message}")]
    State { name: String, message: String },
    /// A node's operands or their data do not suit it.
    #[error("{place}: {message}{}", origin.as_ref().map(|s| format!(" (from {s})")).unwrap_or_default())]
    Node { place: String, origin: Option<String>, message: String },
    /// More would be needed than [`Limits`] allow.
    #[error("{place}: {message}")]
    Limit { place: String, message: String },
}

/// What an evaluation may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Elements of all tensors held at one time; each takes eight bytes.
    pub elements: usize,
    /// Nodes executed, those of composite ops included.
    pub steps: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { elements: 1 << 28, steps: 100_000_000 }
    }
}

/// Gives the data of a weight; the error says why it cannot.
pub type Weights<'a> = dyn Fn(Param) -> Result<Tensor, String> + 'a;

/// Weights for a module that has none.
pub fn no_weights(_: Param) -> Result<Tensor, String> {
    Err("no weights were given".into())
}

/// Runs an entry on inputs by name, with empty states; the outputs come in their order.
pub fn run(
    module: &Module,
    entry: &str,
    inputs: &HashMap<String, Tensor>,
    weights: &Weights<'_>,
) -> Result<Vec<(String, Tensor)>, EvalError> {
    run_with(module, entry, inputs, weights, &mut HashMap::new(), Limits::default())
}

/// [`run`] on states that are kept by name from call to call, within limits. A state that is absent is empty, and so is
/// one whose lifetime is a call as it begins.
pub fn run_with(
    module: &Module,
    entry: &str,
    inputs: &HashMap<String, Tensor>,
    weights: &Weights<'_>,
    states: &mut HashMap<String, Tensor>,
    limits: Limits,
) -> Result<Vec<(String, Tensor)>, EvalError> {
    let entry = module.entry(entry).ok_or_else(|| EvalError::Entry(entry.into()))?;
    let args = module.regions[entry.body].args.iter();
    let names: Vec<String> = args.map(|a| module.name_of(*a)).collect();
    if let Some(unknown) = inputs.keys().find(|k| !names.contains(k)) {
        let message = format!("unknown; @{} takes {}", entry.name, names.join(", "));
        return Err(EvalError::Input { name: unknown.clone(), message });
    }
    let mut given = vec![];
    for name in &names {
        let missing = || EvalError::Input { name: name.clone(), message: "missing".into() };
        given.push(Rc::new(inputs.get(name).ok_or_else(missing)?.clone()));
    }
    for state in module.states.values().filter(|s| s.lifetime == "call") {
        states.remove(&state.name);
    }
    let mut run = Run::new(module, weights, states, limits);
    run.bind(entry.body, &names, &given)?;
    run.accept(entry, &names, &given)?;
    let results = run.region(entry.body, given)?;
    Ok(entry.outputs.iter().cloned().zip(results.into_iter().map(unshared)).collect())
}

/// The value of what depends on nothing but params and consts.
pub fn value(module: &Module, value: Value, weights: &Weights<'_>) -> Result<Tensor, EvalError> {
    let mut states = HashMap::new();
    let mut run = Run::new(module, weights, &mut states, Limits::default());
    // Depth first, with a stack of our own, as a chain of nodes may be long: a node comes back to its top when its
    // operands are known.
    let mut stack = vec![(value, false)];
    let mut begun = HashSet::new();
    while let Some((top, operands_known)) = stack.pop() {
        let Def::Result(node, _) = module.values[top].def else { continue };
        if run.holds(top) {
            continue;
        }
        if operands_known {
            run.step(node)?;
            continue;
        }
        if module.nodes[node].op.has_effect() {
            return Err(run.at(node, "depends on a state".into()));
        }
        if !begun.insert(node) {
            return Err(run.at(node, "depends on itself".into()));
        }
        stack.push((top, true));
        stack.extend(module.nodes[node].inputs().map(|v| (v, false)));
    }
    run.value(value).map(unshared)
}

fn unshared(tensor: Rc<Tensor>) -> Tensor {
    Rc::try_unwrap(tensor).unwrap_or_else(|shared| (*shared).clone())
}

/// Evaluates a region of a module without weights or states on tensors; for decompositions.
fn region_on(
    module: &Module,
    body: Region,
    args: Vec<Rc<Tensor>>,
    limits: Limits,
) -> Result<Vec<Rc<Tensor>>, EvalError> {
    let mut states = HashMap::new();
    Run::new(module, &no_weights, &mut states, limits).region(body, args)
}
