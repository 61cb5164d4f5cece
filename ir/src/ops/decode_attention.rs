//! `%r = decode_attention %q, %k, %v, %lengths scale=0.125`: attention of a few queries over a cache of keys and values.
//!
//! `q` is `[B,H,Q,D]`, `k` `[B,G,S,D]`, `v` `[B,G,S,E]`, the result `[B,H,Q,E]`; query head `h` reads key head
//! `h / (H/G)`. Of sequence `b`, the first `lengths[b]` keys are valid, and the queries are those of its last `Q` tokens:
//! query `i` sees the keys before `lengths[b] - Q + 1 + i`, and gives 0 where there are none. What lies in the cache
//! beyond the length has no influence, whatever it is. A length below zero or above `S` is an error at run time.
//!
//! On a GPU the keys of all sequences and heads are shared out evenly among as many blocks as run at once. With `splits=n`
//! those of each head are cut into `n` parts instead; it changes no result but its rounding.
//!
//! (C1) Rank 4; batch, depths, and lengths agree. (C2) `H` is a multiple of `G`. (C3) Floats of one type. (C4) `lengths`
//! is `i64[B]`. (C5) `splits` is 1 or more. Sanovar et al., "LeanAttention" (2024); Dao et al., "Flash-Decoding" (2023).

use super::{Meaning, OpDef, Primitive, Tolerance, Violation, one};
use crate::{
    ElemType, Type,
    attr::{AttrKind, attr, optional_attr},
};

pub(super) static DEF: OpDef = OpDef {
    name: "decode_attention",
    summary: "attention of a few queries over the valid part of a cache of keys and values",
    constraints: &[
        "C1: rank 4; batch, depths and lengths agree",
        "C2: the number of query heads is a multiple of that of key heads",
        "C3: floats of one type",
        "C4: the lengths are i64, one a sequence",
        "C5: splits is 1 or more",
    ],
    operands: &[one("q"), one("k"), one("v"), one("lengths")],
    attrs: &[attr("scale", AttrKind::Float), optional_attr("splits", AttrKind::Int)],
    regions: &[],
    infer: |cx| {
        let (q, k, v, lengths) = (cx.ty(0), cx.ty(1), cx.ty(2), cx.ty(3));
        if [q, k, v].iter().any(|t| t.rank() != 4) {
            return Err(Violation::new("C1", format!("ranks are {}, {}, {}", q.rank(), k.rank(), v.rank())));
        }
        if q.dims[0] != k.dims[0] || q.dims[3] != k.dims[3] || k.dims[..3] != v.dims[..3] {
            return Err(Violation::new("C1", format!("{q}, {k}, {v}")));
        }
        if q.dims[1].exact_div(&k.dims[1]).is_none() {
            return Err(Violation::new("C2", format!("{} query heads, {} key heads", q.dims[1], k.dims[1])));
        }
        if !q.elem.is_float() || q.elem != k.elem || q.elem != v.elem {
            return Err(Violation::new("C3", format!("{}, {}, {}", q.elem, k.elem, v.elem)));
        }
        if *lengths != (Type { elem: ElemType::I64, dims: vec![q.dims[0].clone()] }) {
            return Err(Violation::new("C4", format!("the lengths are {lengths}, q is {q}")));
        }
        if let Some(splits) = cx.attrs.int("splits").filter(|n| *n < 1) {
            return Err(Violation::new("C5", format!("splits is {splits}")));
        }
        let mut dims = q.dims.clone();
        dims[3] = v.dims[3].clone();
        Ok(vec![q.with_dims(dims)])
    },
    meaning: Meaning::Primitive(Primitive::DecodeAttention),
    flops: |cx, results| (cx.ty(0).elements() + results[0].elements()) * cx.ty(1).dims[2].clone() * 2.into(),
    tolerance: Tolerance::Relative(1e-5),
    effect: false,
};
