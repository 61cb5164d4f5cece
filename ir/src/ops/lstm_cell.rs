//! `%h1, %c1 = lstm_cell %gx, %h, %c, %w`: one step of a long short-term memory. `gx` `[B,4H]` is the input's part of
//! the gates with both biases, `w` `[H,4H]` the recurrent weight; gates in the order `i, f, g, o`.
//!
//! With `[i, f, g, o] = gx + h . w`: `c1 = sigmoid(f) * c + sigmoid(i) * tanh(g)`, `h1 = sigmoid(o) * tanh(c1)`.
//!
//! (C1) `gx` is `[B,4H]`, `h` and `c` are `[B,H]`, `w` is `[H,4H]`. (C2) Floats of one type.
//! Hochreiter and Schmidhuber (1997), with the forget gate of Gers, Schmidhuber and Cummins (2000).

use super::{Cx, Meaning, Op, OpDef, Seq, Tolerance, Violation, one};
use crate::{Dim, Type, Value};

pub(super) static DEF: OpDef = OpDef {
    name: "lstm_cell",
    summary: "one step of an LSTM, gates i, f, g, o: the next h and c",
    constraints: &["C1: gx is [B,4H], h and c are [B,H], w is [H,4H]", "C2: floats of one type"],
    operands: &[one("gx"), one("h"), one("c"), one("w")],
    attrs: &[],
    regions: &[],
    infer: |cx| {
        let state = cell(cx, 4, &[2], None)?;
        Ok(vec![state.clone(), state])
    },
    meaning: Meaning::Decompose(|s, x, _| {
        let product = s.op(Op::Matmul, [x[1], x[3]], [])?;
        let gates = s.op(Op::Add, [x[0], Some(product)], [])?;
        let [i, f, g, o] = split(s, gates)?;
        let [i, f, o] = [s.op(Op::Sigmoid, [i], [])?, s.op(Op::Sigmoid, [f], [])?, s.op(Op::Sigmoid, [o], [])?];
        let g = s.op(Op::Tanh, [g], [])?;
        let kept = s.op(Op::Mul, [Some(f), x[2]], [])?;
        let new = s.op(Op::Mul, [i, g], [])?;
        let c = s.op(Op::Add, [kept, new], [])?;
        let bounded = s.op(Op::Tanh, [c], [])?;
        Ok(vec![s.op(Op::Mul, [o, bounded], [])?, c])
    }),
    flops: |cx, _| cx.ty(1).elements() * (cx.ty(3).dims[1].clone() * 2.into() + 30.into()),
    tolerance: Tolerance::Relative(1e-5),
    effect: false,
};

/// Checks the operands `gx, h, .., w` of a cell with `gates` gates: those in `states` are as `h`, `bias` is that of all
/// gates. The type of the state.
pub(super) fn cell(cx: &Cx<'_>, gates: i64, states: &[usize], bias: Option<usize>) -> Result<Type, Violation> {
    let (gx, h) = (cx.ty(0), cx.ty(1));
    let w = cx.ty(2 + states.len());
    let [rows, hidden] = h.dims.as_slice() else {
        return Err(Violation::new("C1", format!("h is {h}")));
    };
    let wide = hidden.clone() * gates.into();
    let expected: [(usize, Vec<Dim>); 2] =
        [(0, vec![rows.clone(), wide.clone()]), (2 + states.len(), vec![hidden.clone(), wide.clone()])];
    let states = states.iter().map(|n| (*n, h.dims.clone()));
    let bias = bias.filter(|n| cx.opt(*n).is_some()).map(|n| (n, vec![wide]));
    for (n, dims) in expected.into_iter().chain(states).chain(bias) {
        if cx.ty(n).dims != dims {
            let name = cx.op.def().operands[n].name;
            return Err(Violation::new("C1", format!("{name} is {} for h {h}", cx.ty(n))));
        }
    }
    if !h.elem.is_float() || cx.operands.iter().flatten().any(|t| t.elem != h.elem) {
        return Err(Violation::new("C2", format!("{gx}, {h}, {w}")));
    }
    Ok(h.clone())
}

/// The gates side by side in the last of two axes.
pub(super) fn split<const N: usize>(s: &mut Seq<'_>, gates: Value) -> Result<[Value; N], Violation> {
    let wide = s.ty(gates).dims[1].clone();
    let mut parts = [gates; N];
    for (n, part) in parts.iter_mut().enumerate() {
        let at = |n: usize| (wide.clone() * (n as i64).into()).floor_div(&(N as i64).into());
        *part = s.op(Op::Slice, [gates], [("axis", 1.into()), ("start", at(n).into()), ("end", at(n + 1).into())])?;
    }
    Ok(parts)
}
