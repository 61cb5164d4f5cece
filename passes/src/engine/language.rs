//! The e-graph's node, once for all ops, and what is known of each class of equal nodes.

use egg::{Analysis, DidMerge, EGraph, Id, Language};
use kiln_ir::{
    ElemType, Op, SymbolFacts, Type, Value,
    attr::Attrs,
    ops::{Cx, Violation},
    scalar::Literal,
};
use std::collections::HashMap;

/// What a node is, without its operands.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Head {
    /// A value that rules do not look into: an argument, a weight, a result of an op with regions or several results.
    Leaf(Value),
    /// A constant of rank 0.
    Number(ElemType, Literal),
    /// An optional operand that is not there.
    Absent,
    Op(Op, Attrs),
}

/// [`Head`] without data, by which egg finds nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    Leaf,
    Number,
    Absent,
    Op(Op),
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Term {
    pub(crate) head: Head,
    pub(crate) children: Vec<Id>,
}

impl Term {
    pub(crate) fn leaf(head: Head) -> Term {
        Term { head, children: vec![] }
    }

    /// The op and its attributes, if it is an op.
    pub(crate) fn op(&self) -> Option<(Op, &Attrs)> {
        if let Head::Op(op, attrs) = &self.head { Some((*op, attrs)) } else { None }
    }
}

impl Language for Term {
    type Discriminant = Kind;

    fn discriminant(&self) -> Kind {
        match &self.head {
            Head::Leaf(_) => Kind::Leaf,
            Head::Number(..) => Kind::Number,
            Head::Absent => Kind::Absent,
            Head::Op(op, _) => Kind::Op(*op),
        }
    }

    fn matches(&self, other: &Term) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

/// What is known of every member of a class.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// `None` for an absent operand only.
    pub(crate) ty: Option<Type>,
    pub(crate) number: Option<Literal>,
    /// Computed from weights and constants alone.
    pub(crate) weight_time: bool,
}

/// Types, known numbers and weight-time values of all classes.
pub(crate) struct Facts {
    pub(crate) symbols: Vec<SymbolFacts>,
    pub(crate) leaves: HashMap<Value, Known>,
}

pub(crate) type Graph = EGraph<Term, Facts>;

/// The type of a term whose operands are in the graph.
pub(crate) fn infer(graph: &Graph, term: &Term) -> Result<Type, Violation> {
    let Head::Op(op, attrs) = &term.head else { return Err(Violation::new("signature", "not an op")) };
    let operands = term.children.iter().map(|c| graph[*c].data.ty.clone()).collect();
    let cx = Cx {
        op: *op,
        operands,
        attrs,
        regions: vec![],
        symbols: &graph.analysis.symbols,
        module: None,
        asked: Default::default(),
    };
    Ok((op.def().infer)(&cx)?.swap_remove(0))
}

impl Analysis<Term> for Facts {
    type Data = Known;

    fn make(graph: &mut Graph, term: &Term, _: Id) -> Known {
        match &term.head {
            Head::Leaf(v) => graph.analysis.leaves[v].clone(),
            Head::Number(elem, literal) => {
                Known { ty: Some(Type::scalar(*elem)), number: Some(*literal), weight_time: true }
            }
            Head::Absent => Known { ty: None, number: None, weight_time: true },
            Head::Op(..) => {
                let ty = infer(graph, term).ok();
                let constant_size = ty.as_ref().is_some_and(|t| t.const_dims().is_some());
                let weight_time = constant_size && term.children.iter().all(|c| graph[*c].data.weight_time);
                Known { ty, number: None, weight_time }
            }
        }
    }

    fn merge(&mut self, a: &mut Known, b: Known) -> DidMerge {
        debug_assert_eq!(a.ty, b.ty, "a rule made values of two types equal");
        let number = a.number.or(b.number);
        let weight_time = a.weight_time || b.weight_time;
        let merged = DidMerge(
            number != a.number || weight_time != a.weight_time,
            number != b.number || weight_time != b.weight_time,
        );
        (a.number, a.weight_time) = (number, weight_time);
        merged
    }
}
