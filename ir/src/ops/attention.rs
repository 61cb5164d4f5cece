//! `%r = attention %q, %k, %v mask=%m scale=0.125 causal=false layout=bhsd`: `softmax(scale * q . k^T + mask) . v`.
//!
//! `bhsd`: `q` is `[B,H,S,D]`, `k` `[B,G,T,D]`, `v` `[B,G,T,E]`, the result `[B,H,S,E]`; `bshd` has axes 1 and 2
//! swapped in all four. `H` is a multiple of `G` (grouped queries: query head h reads key head h / (H/G)). `mask`
//! broadcasts to `[B,H,S,T]`: added if float; if `i1`, positions where it is false take no part. `causal` lets query `s`
//! see keys up to `s + T - S`.
//!
//! A row that may see nothing, by an `i1` mask, by `causal` or by `-inf` in a float mask, gives 0. A float mask that is
//! merely low everywhere, as the lowest finite number that Hugging Face's models add for padding, hides nothing from
//! such a row: the scores vanish beside it, all keys weigh alike, and the row gives the mean of the values, as eager
//! attention does there.
//!
//! (C1) Rank 4; batch, depths, and lengths agree. (C2) `H` is a multiple of `G`. (C3) Floats of one type. (C4) The mask
//! broadcasts to the scores. Dao, "FlashAttention-2" (2023) for the fused evaluation.

use super::{Meaning, Op, OpDef, Tolerance, Violation, broadcast, one, optional};
use crate::{
    Dim, ElemType, Value,
    attr::{AttrKind, attr},
};

pub(super) static DEF: OpDef = OpDef {
    name: "attention",
    summary: "softmax(scale * q . k^T + mask) . v",
    constraints: &[
        "C1: rank 4; batch, depths and lengths agree",
        "C2: the number of query heads is a multiple of that of key heads",
        "C3: floats of one type",
        "C4: the mask is float or i1 and broadcasts to the scores",
    ],
    operands: &[one("q"), one("k"), one("v"), optional("mask")],
    attrs: &[
        attr("scale", AttrKind::Float),
        attr("causal", AttrKind::Bool),
        attr("layout", AttrKind::Word(&["bhsd", "bshd"])),
    ],
    regions: &[],
    infer: |cx| {
        let (q, k, v) = (cx.ty(0), cx.ty(1), cx.ty(2));
        if [q, k, v].iter().any(|t| t.rank() != 4) {
            return Err(Violation::new("C1", format!("ranks are {}, {}, {}", q.rank(), k.rank(), v.rank())));
        }
        let (h, s) = if cx.attrs.word("layout") == Some("bshd") { (2, 1) } else { (1, 2) };
        let agree = q.dims[0] == k.dims[0] && k.dims[0] == v.dims[0] && q.dims[3] == k.dims[3];
        if !agree || k.dims[s] != v.dims[s] || k.dims[h] != v.dims[h] {
            return Err(Violation::new("C1", format!("{q}, {k}, {v}")));
        }
        if q.dims[h].exact_div(&k.dims[h]).is_none() {
            return Err(Violation::new("C2", format!("{} query heads, {} key heads", q.dims[h], k.dims[h])));
        }
        if !q.elem.is_float() || q.elem != k.elem || q.elem != v.elem {
            return Err(Violation::new("C3", format!("{}, {}, {}", q.elem, k.elem, v.elem)));
        }
        if let Some(mask) = cx.opt(3) {
            let scores = [&q.dims[0], &q.dims[h], &q.dims[s], &k.dims[s]].map(Dim::clone);
            let fits = broadcast(&mask.dims, &scores).is_ok_and(|d| d == scores);
            if !fits || (mask.elem != q.elem && mask.elem != ElemType::I1) {
                return Err(Violation::new("C4", format!("mask {mask} for {q}")));
            }
        }
        let mut dims = q.dims.clone();
        dims[3] = v.dims[3].clone();
        Ok(vec![q.with_dims(dims)])
    },
    meaning: Meaning::Decompose(|s, x, attrs| {
        let bshd = attrs.word("layout") == Some("bshd");
        let swap = [("perm", vec![0, 2, 1, 3].into())];
        let mut operands = vec![];
        for value in x[..3].iter().flatten() {
            operands.push(if bshd { s.op(Op::Transpose, [*value], swap.clone())? } else { *value });
        }
        let (q, mut k, mut v) = (operands[0], operands[1], operands[2]);
        let heads = s.ty(q).dims[1].clone();
        for value in [&mut k, &mut v] {
            *value = repeat_heads(s, *value, &heads)?;
        }
        let kt = s.op(Op::Transpose, [k], [("perm", vec![0, 1, 3, 2].into())])?;
        let mut scores = s.op(Op::Matmul, [q, kt], [])?;
        let scale = s.number(attrs.float("scale").unwrap_or(1.0), scores);
        scores = s.op(Op::Mul, [scores, scale], [])?;
        let minus = s.number(f64::NEG_INFINITY, scores);
        if let Some(mask) = x[3] {
            scores = if s.ty(mask).elem == ElemType::I1 {
                s.op(Op::Select, [mask, scores, minus], [])?
            } else {
                s.op(Op::Add, [scores, mask], [])?
            };
        }
        if attrs.bool("causal") {
            let dims = s.ty(scores).dims;
            let plane = [dims[2].clone(), dims[3].clone()];
            let mut position = |axis: i64| {
                let to = plane.to_vec();
                s.op(
                    Op::Iota,
                    [None::<Value>; 0],
                    [("to", to.into()), ("axis", axis.into()), ("elem", ElemType::I64.into())],
                )
            };
            let (query, key) = (position(0)?, position(1)?);
            // key - query <= T - S, with sizes read off an iota of one axis so that they stay symbolic
            let last_key =
                s.op(Op::Reduce, [key], [("kind", "max".into()), ("axes", vec![0, 1].into()), ("keep", false.into())])?;
            let last_query = s.op(
                Op::Reduce,
                [query],
                [("kind", "max".into()), ("axes", vec![0, 1].into()), ("keep", false.into())],
            )?;
            let ahead = s.op(Op::Sub, [key, query], [])?;
            let allowed = s.op(Op::Sub, [last_key, last_query], [])?;
            let visible = s.op(Op::Compare, [ahead, allowed], [("dir", "le".into())])?;
            scores = s.op(Op::Select, [visible, scores, minus], [])?;
        }
        // A row without any visible key has a maximum of -inf; its weights are 0, not NaN.
        let along = |kind: &'static str| [("kind", kind.into()), ("axes", vec![3].into()), ("keep", true.into())];
        let max = s.op(Op::Reduce, [scores], along("max"))?;
        let zero = s.number(0.0, scores);
        let empty = s.op(Op::Compare, [max, minus], [("dir", "eq".into())])?;
        let finite = s.op(Op::Select, [empty, zero, max], [])?;
        let shifted = s.op(Op::Sub, [scores, finite], [])?;
        let exp = s.op(Op::Exp, [shifted], [])?;
        let sum = s.op(Op::Reduce, [exp], along("sum"))?;
        let one = s.number(1.0, scores);
        let divisor = s.op(Op::Select, [empty, one, sum], [])?;
        let weights = s.op(Op::Div, [exp, divisor], [])?;
        let mut y = s.op(Op::Matmul, [weights, v], [])?;
        if bshd {
            y = s.op(Op::Transpose, [y], swap)?;
        }
        Ok(vec![y])
    }),
    flops: |cx, results| {
        let (q, k) = (cx.ty(0), cx.ty(1));
        let keys = if cx.attrs.word("layout") == Some("bshd") { &k.dims[1] } else { &k.dims[2] };
        (q.elements() + results[0].elements()) * keys.clone() * 2.into()
    },
    tolerance: Tolerance::Relative(1e-5),
    effect: false,
};

/// `[B,G,T,D]` to `[B,H,T,D]`, each head repeated `H/G` times in place.
fn repeat_heads(s: &mut super::Seq<'_>, value: Value, heads: &Dim) -> Result<Value, Violation> {
    let ty = s.ty(value);
    if ty.dims[1] == *heads {
        return Ok(value);
    }
    let Some(times) = heads.exact_div(&ty.dims[1]) else {
        return Err(Violation::new("C2", format!("{heads} query heads, {} key heads", ty.dims[1])));
    };
    let [b, g, t, d] = [0, 1, 2, 3].map(|i| ty.dims[i].clone());
    let apart = vec![b.clone(), g.clone(), 1.into(), t.clone(), d.clone()];
    let wide = vec![b.clone(), g, times, t.clone(), d.clone()];
    let value = s.op(Op::Reshape, [value], [("to", apart.into())])?;
    let value = s.op(Op::Broadcast, [value], [("to", wide.into())])?;
    s.op(Op::Reshape, [value], [("to", vec![b, heads.clone(), t, d].into())])
}
