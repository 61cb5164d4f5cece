//! `%h1 = gru_cell %gx, %h, %w bias=%b`: one step of a gated recurrent unit. `gx` `[B,3H]` is the input's part of the
//! gates with its biases, `w` `[H,3H]` the recurrent weight, `bias` `[3H]` its bias; gates in the order `r, z, n`.
//!
//! With `[xr, xz, xn] = gx` and `[hr, hz, hn] = h . w + bias`: `r = sigmoid(xr + hr)`, `z = sigmoid(xz + hz)`,
//! `n = tanh(xn + r * hn)`, `h1 = (1 - z) * n + z * h`. This is the cell of cuDNN and PyTorch, which resets behind the
//! product (`linear_before_reset=1` of ONNX).
//!
//! (C1) `gx` is `[B,3H]`, `h` is `[B,H]`, `w` is `[H,3H]`, `bias` is `[3H]`. (C2) Floats of one type.
//! Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder" (2014).

use super::{
    Meaning, Op, OpDef, Tolerance,
    lstm_cell::{cell, split},
    one, optional,
};

pub(super) static DEF: OpDef = OpDef {
    name: "gru_cell",
    summary: "one step of a GRU, gates r, z, n, reset behind the product: the next h",
    constraints: &["C1: gx is [B,3H], h is [B,H], w is [H,3H], bias is [3H]", "C2: floats of one type"],
    operands: &[one("gx"), one("h"), one("w"), optional("bias")],
    attrs: &[],
    regions: &[],
    infer: |cx| Ok(vec![cell(cx, 3, &[], Some(3))?]),
    meaning: Meaning::Decompose(|s, x, _| {
        let mut product = s.op(Op::Matmul, [x[1], x[2]], [])?;
        if let Some(bias) = x[3] {
            product = s.op(Op::Add, [product, bias], [])?;
        }
        let gx = x[0].unwrap_or(product);
        let ([xr, xz, xn], [hr, hz, hn]) = (split(s, gx)?, split(s, product)?);
        let r = s.op(Op::Add, [xr, hr], [])?;
        let r = s.op(Op::Sigmoid, [r], [])?;
        let z = s.op(Op::Add, [xz, hz], [])?;
        let z = s.op(Op::Sigmoid, [z], [])?;
        let reset = s.op(Op::Mul, [r, hn], [])?;
        let n = s.op(Op::Add, [xn, reset], [])?;
        let n = s.op(Op::Tanh, [n], [])?;
        let one = s.number(1.0, z);
        let new = s.op(Op::Sub, [one, z], [])?;
        let new = s.op(Op::Mul, [new, n], [])?;
        let kept = s.op(Op::Mul, [Some(z), x[1]], [])?;
        Ok(vec![s.op(Op::Add, [new, kept], [])?])
    }),
    flops: |cx, _| cx.ty(1).elements() * (cx.ty(2).dims[1].clone() * 2.into() + 24.into()),
    tolerance: Tolerance::Relative(1e-5),
    effect: false,
};
