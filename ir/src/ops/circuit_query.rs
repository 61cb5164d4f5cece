//! `%r = circuit.query %x mask=%m circuit=@c kind=evidence elem=f32`: asks a circuit about each row of `x`.
//!
//! A row has one cell for each variable of the circuit. A cell is missing where it is NaN, or where `mask` is there and
//! false. By kind:
//! - `evidence`: `ln P(given cells)`, `elem[B]`;
//! - `mpe`: the rows completed to the most probable ones, of the type of `x`, and their log-probabilities, `elem[B]`;
//! - `marginals`: `P(X_v = k | other given cells)`, `elem[B,V,K]`, K being the largest domain;
//! - `sample`: the rows completed by a draw with the row's seed, of the type of `x`; where the given cells have
//!   probability zero, missing ones become NaN, or 0 among integers;
//! - `expectation`: the rows with missing cells replaced by their expected values, `elem[B,V]`.
//!
//! What these are exactly, [`crate::circuit::Circuit`] says. `elem` is f64 when absent. `space` is how values are to be
//! held: logarithms, when absent, or plain numbers, scaled or not; it changes no result but its rounding.
//!
//! (C1) The circuit is declared. (C2) `x` is `[B,V]`, of f32 or f64, or of integers where all variables are discrete.
//! (C3) `mask` is `i1` of the sizes of `x`. (C4) `seed` stands with `sample` alone and is `i64[B]`. (C5) `elem` is f32 or
//! f64. (C6) `marginals` are of circuits whose variables are all discrete.

use super::{Meaning, OpDef, Primitive, Tolerance, Violation, one, optional};
use crate::{
    Dim, ElemType, Type,
    attr::{AttrKind, attr, optional_attr},
    circuit::Circuit,
    ops::Cx,
};

pub(super) static DEF: OpDef = OpDef {
    name: "circuit.query",
    summary: "asks a probabilistic circuit about each row",
    constraints: &[
        "C1: the circuit is declared",
        "C2: x has a column a variable and a type that holds their values",
        "C3: the mask is i1 of the sizes of x",
        "C4: a seed stands with kind=sample alone and is i64, one a row",
        "C5: elem is f32 or f64",
        "C6: marginals are of discrete variables",
    ],
    operands: &[one("x"), optional("mask"), optional("seed")],
    attrs: &[
        attr("circuit", AttrKind::Name),
        attr("kind", AttrKind::Word(&["evidence", "mpe", "marginals", "sample", "expectation"])),
        optional_attr("elem", AttrKind::Elem),
        optional_attr("space", AttrKind::Word(&["log", "scaled", "linear"])),
    ],
    regions: &[],
    infer: |cx| {
        let c = declared(cx)?;
        let x = cx.ty(0);
        let [rows, columns] = x.dims.as_slice() else {
            return Err(Violation::new("C2", format!("{x} is no matrix")));
        };
        if !columns.is(c.variables.len() as i64) {
            let message = format!("{x} has {columns} columns, @{} has {} variables", c.name, c.variables.len());
            return Err(Violation::new("C2", message));
        }
        let holds = matches!(x.elem, ElemType::F32 | ElemType::F64) || (x.elem.is_int() && c.is_discrete() && f64::from(c.max_values()) <= x.elem.max_value() + 1.0);
        if !holds {
            return Err(Violation::new("C2", format!("{} does not hold the variables of @{}", x.elem, c.name)));
        }
        if let Some(mask) = cx.opt(1).filter(|m| **m != x.with_elem(ElemType::I1)) {
            return Err(Violation::new("C3", format!("the mask is {mask}, x is {x}")));
        }
        let kind = cx.attrs.word("kind").unwrap_or("evidence");
        let seed = Type { elem: ElemType::I64, dims: vec![rows.clone()] };
        match cx.opt(2) {
            Some(found) if kind == "sample" && *found == seed => {}
            None if kind != "sample" => {}
            Some(found) => return Err(Violation::new("C4", format!("the seed of {kind} is {found}"))),
            None => return Err(Violation::new("C4", "sample has no seed")),
        }
        let elem = cx.attrs.elem("elem").unwrap_or(ElemType::F64);
        if !matches!(elem, ElemType::F32 | ElemType::F64) {
            return Err(Violation::new("C5", format!("elem is {elem}")));
        }
        let result = |dims: Vec<Dim>| Type { elem, dims };
        let each = result(vec![rows.clone()]);
        Ok(match kind {
            "mpe" => vec![x.clone(), each],
            "marginals" if !c.is_discrete() => {
                return Err(Violation::new("C6", format!("@{} has real variables", c.name)));
            }
            "marginals" => {
                vec![result(vec![rows.clone(), columns.clone(), i64::from(c.max_values()).into()])]
            }
            "sample" => vec![x.clone()],
            "expectation" => vec![result(x.dims.clone())],
            _ => vec![each],
        })
    },
    meaning: Meaning::Primitive(Primitive::CircuitQuery),
    flops: |cx, _| {
        let edges = declared(cx).map_or(0, |c| c.edges() as i64);
        cx.ty(0).dims.first().cloned().unwrap_or(1.into()) * Dim::from(2 * edges)
    },
    tolerance: Tolerance::Relative(1e-5),
    effect: false,
};

fn declared<'a>(cx: &Cx<'a>) -> Result<&'a Circuit, Violation> {
    let name = cx.attrs.name("circuit").unwrap_or("");
    let found = cx.module.and_then(|m| m.circuit(name));
    found.ok_or_else(|| Violation::new("C1", format!("no circuit @{name}")))
}
