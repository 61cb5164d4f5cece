//! What an op's declaration sees when it infers types, and what it builds with when it decomposes.

use super::Op;
use crate::{Condition, Dim, ElemType, Module, Node, SymbolFacts, Type, Value, attr::Attrs, scalar::Literal};
use std::{cell::RefCell, fmt};

/// A constraint that does not hold: its label and what was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// `C1`, `C2`, ... of the op's declaration; `signature` when operands or attributes do not match it at all.
    pub label: &'static str,
    pub message: String,
}

impl Violation {
    pub fn new(label: &'static str, message: impl Into<String>) -> Violation {
        Violation { label, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.label, self.message)
    }
}

impl std::error::Error for Violation {}

/// Types of a region: its arguments and what it yields.
#[derive(Clone, PartialEq, Debug)]
pub struct RegionTypes {
    pub args: Vec<Type>,
    pub results: Vec<Type>,
}

impl RegionTypes {
    /// Whether the region takes and yields exactly these types; what it does instead, if not.
    pub fn expect(&self, name: &str, args: &[Type], results: &[Type], label: &'static str) -> Result<(), Violation> {
        if self.args == args && self.results == results {
            return Ok(());
        }
        let (args, results, takes, yields) = (list(args), list(results), list(&self.args), list(&self.results));
        let message = format!("{name} is ({takes}) -> ({yields}), expected ({args}) -> ({results})");
        Err(Violation::new(label, message))
    }
}

/// Types with commas in between.
fn list(types: &[Type]) -> String {
    types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ")
}

/// A node as its declaration sees it: types, not values.
pub struct Cx<'a> {
    pub op: Op,
    pub operands: Vec<Option<Type>>,
    pub attrs: &'a Attrs,
    pub regions: Vec<RegionTypes>,
    pub symbols: &'a [SymbolFacts],
    pub module: Option<&'a Module>,
    /// What [`Cx::not_negative`] left to the calls while types were inferred.
    pub asked: RefCell<Vec<Condition>>,
}

impl Cx<'_> {
    /// The type of a required operand.
    ///
    /// # Panics
    /// When it is absent, which the signature check excludes.
    pub fn ty(&self, n: usize) -> &Type {
        self.operands[n].as_ref().unwrap_or_else(|| panic!("{} lacks operand {n}", self.op))
    }

    pub fn opt(&self, n: usize) -> Option<&Type> {
        self.operands.get(n).and_then(Option::as_ref)
    }

    /// The axis in attribute `name`, made non-negative and checked against `rank`.
    pub fn axis(&self, name: &'static str, rank: usize) -> Result<usize, Violation> {
        norm_axis(self.attrs.int(name).unwrap_or(0), rank)
    }

    /// Asks for sizes that are not negative: a violation where one is for all values of the symbols, a [`Condition`] of
    /// each call where it is for some.
    pub fn not_negative(
        &self,
        label: &'static str,
        sizes: &[Dim],
        found: impl Fn() -> String,
    ) -> Result<(), Violation> {
        for size in sizes {
            match size.range(self.symbols) {
                (_, ..0) => return Err(Violation::new(label, found())),
                (..0, _) => {
                    let asked = Condition { size: size.clone(), asked_by: format!("{label}: {}", found()) };
                    self.asked.borrow_mut().push(asked);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The common type of all operands after broadcasting; they must share an element type that suits.
    pub fn elementwise(&self, suits: fn(ElemType) -> bool) -> Result<Vec<Type>, Violation> {
        let mut types = self.operands.iter().flatten();
        let first = types.next().cloned().unwrap_or_else(|| Type::scalar(ElemType::F32));
        let mut dims = first.dims.clone();
        for t in types {
            if t.elem != first.elem {
                return Err(Violation::new("C1", format!("element types differ: {} and {}", first.elem, t.elem)));
            }
            dims = broadcast(&dims, &t.dims)?;
        }
        if !suits(first.elem) {
            let label = if self.operands.len() == 1 { "C1" } else { "C3" };
            return Err(Violation::new(label, format!("{} does not apply to {}", self.op, first.elem)));
        }
        Ok(vec![Type { elem: first.elem, dims }])
    }
}

/// `axis` counted from the front; negative ones count from the back.
pub(crate) fn norm_axis(axis: i64, rank: usize) -> Result<usize, Violation> {
    let normal = if axis < 0 { axis.checked_add(rank as i64).unwrap_or(-1) } else { axis };
    if normal < 0 || normal >= rank as i64 {
        return Err(Violation::new("C1", format!("axis {axis} is outside of rank {rank}")));
    }
    Ok(normal as usize)
}

/// Sizes after broadcasting as NumPy does: aligned at the last axis, a size of 1 stretches.
pub(crate) fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, Violation> {
    let rank = a.len().max(b.len());
    let at = |dims: &[Dim], i: usize| (i + dims.len()).checked_sub(rank).map_or(Dim::from(1), |j| dims[j].clone());
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y || y.is(1) => Ok(x),
            (x, y) if x.is(1) => Ok(y),
            (x, y) => Err(Violation::new("C2", format!("sizes do not broadcast: {x} and {y} at axis {i} of {rank}"))),
        })
        .collect()
}

/// A list of nodes under construction: what a decomposition, a front end or a rewrite builds with.
pub struct Seq<'a> {
    pub module: &'a mut Module,
    pub nodes: Vec<Node>,
    pub source: Option<String>,
}

impl<'a> Seq<'a> {
    pub fn new(module: &'a mut Module, source: Option<String>) -> Seq<'a> {
        Seq { module, nodes: vec![], source }
    }

    /// Adds a node; returns its first result.
    pub fn op<V: Into<Option<Value>>>(
        &mut self,
        op: Op,
        operands: impl IntoIterator<Item = V>,
        attrs: impl Into<Attrs>,
    ) -> Result<Value, Violation> {
        Ok(self.ops(op, operands, attrs)?[0])
    }

    /// Adds a node; returns all of its results.
    pub fn ops<V: Into<Option<Value>>>(
        &mut self,
        op: Op,
        operands: impl IntoIterator<Item = V>,
        attrs: impl Into<Attrs>,
    ) -> Result<Vec<Value>, Violation> {
        let operands = operands.into_iter().map(Into::into).collect();
        let node = self.module.create_node(op, operands, attrs.into(), vec![], self.source.clone())?;
        self.nodes.push(node);
        Ok(self.module.nodes[node].results.clone())
    }

    /// A constant with the element type of `like`.
    pub fn number(&mut self, value: f64, like: Value) -> Value {
        let elem = self.module.ty(like).elem;
        self.module.scalar(elem, Literal::of(elem, value))
    }

    pub fn ty(&self, value: Value) -> Type {
        self.module.ty(value).clone()
    }
}
