//! Canonical form of arithmetic.

use super::movement::inner;
use crate::{
    Exactness::{E0, E1},
    edit::{Around, Local},
};
use kiln_ir::{Def, NodeData, Op, Value, Violation, ops::Seq, types::Kind};

type Found = Result<Option<Value>, Violation>;

pub(super) static RULES: &[Local] = &[
    Local { name: "constant-to-the-right", class: E0, apply: constant_to_the_right },
    Local { name: "neutral-operand", class: E0, apply: neutral_operand },
    Local { name: "add-zero", class: E1, apply: add_zero },
    Local { name: "double-negation", class: E0, apply: double_negation },
    Local { name: "subtract-as-add", class: E0, apply: subtract_as_add },
    Local { name: "divide-by-power-of-two", class: E0, apply: divide_by_power_of_two },
    Local { name: "divide-as-multiply", class: E1, apply: divide_as_multiply },
    Local { name: "square", class: E0, apply: square },
    Local { name: "power", class: E1, apply: power },
    Local { name: "constants-together", class: E1, apply: constants_together },
    Local { name: "product-of-one-column", class: E1, apply: product_of_one_column },
];

/// The number on the right, if there is one.
fn right(s: &Seq<'_>, data: &NodeData) -> Option<f64> {
    s.module.as_number(data.optional(1)?)
}

fn is_float(s: &Seq<'_>, data: &NodeData) -> bool {
    s.module.ty(data.result()).elem.is_float()
}

/// Operand 0 when it has the result's type, so that it can stand for the node.
fn itself(s: &Seq<'_>, data: &NodeData) -> Option<Value> {
    data.optional(0).filter(|x| s.module.ty(*x) == s.module.ty(data.result()))
}

/// A product with a vector is a weighted sum, which elementwise ops in front of it can join.
fn product_of_one_column(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    if data.op != Op::Matmul {
        return Ok(None);
    }
    let (x, w) = (data.operand(0), data.operand(1));
    let (from, rows) = (s.ty(x), s.ty(w).dims);
    if rows.len() != 2 || !rows[1].is(1) || rows[0].is(1) || !from.elem.is_float() {
        return Ok(None);
    }
    let weights = s.op(Op::Reshape, [w], [("to", vec![rows[0].clone()].into())])?;
    let weighted = s.op(Op::Mul, [x, weights], [])?;
    let last = vec![from.rank() as i64 - 1];
    let sum = s.op(Op::Reduce, [weighted], [("kind", "sum".into()), ("axes", last.into()), ("keep", false.into())])?;
    s.op(Op::Reshape, [sum], [("to", s.module.ty(data.result()).dims.clone().into())]).map(Some)
}

/// Numbers stand behind weights, weights behind everything else.
fn constant_to_the_right(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    if !matches!(data.op, Op::Add | Op::Mul | Op::Max | Op::Min | Op::And | Op::Or | Op::Xor) {
        return Ok(None);
    }
    let rank = |v: Value| match s.module.values[v].def {
        Def::Const(_) => 2,
        Def::Param(_) => 1,
        Def::Arg(..) | Def::Result(..) => 0,
    };
    let (a, b) = (data.operand(0), data.operand(1));
    if rank(a) <= rank(b) {
        return Ok(None);
    }
    s.op(data.op, [b, a], data.attrs.clone()).map(Some)
}

fn neutral_operand(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    let Some(c) = right(s, data) else { return Ok(None) };
    let integer = !is_float(s, data);
    let neutral = match data.op {
        Op::Mul | Op::Div | Op::Pow => c == 1.0,
        // Only minus zero leaves every float as it is.
        Op::Add => c == 0.0 && (integer || c.is_sign_negative()),
        Op::Sub => c == 0.0 && (integer || c.is_sign_positive()),
        _ => false,
    };
    Ok(itself(s, data).filter(|_| neutral))
}

fn add_zero(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    let zero = matches!(data.op, Op::Add | Op::Sub) && right(s, data) == Some(0.0);
    Ok(itself(s, data).filter(|_| zero))
}

fn double_negation(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    Ok(match data.op {
        Op::Neg | Op::Not => inner(s, data.operand(0), data.op).map(|(_, x)| x),
        _ => None,
    })
}

/// `x - c` is `x + -c`, `x + -y` is `x - y`, `x - -y` is `x + y`, `x * -1` is `-x`: all exact.
fn subtract_as_add(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    let elem = s.module.ty(data.result()).elem;
    let (op, signed) = (data.op, elem.kind() != Kind::Unsigned);
    if !matches!(op, Op::Add | Op::Sub | Op::Mul) || !signed {
        return Ok(None);
    }
    if let Some(c) = right(s, data) {
        return match op {
            // A 64-bit integer may not be a float.
            Op::Sub if elem.is_float() || c.abs() < 1e15 => {
                let minus = s.number(-c, data.operand(0));
                s.op(Op::Add, [data.operand(0), minus], []).map(Some)
            }
            Op::Mul if c == -1.0 && itself(s, data).is_some() => s.op(Op::Neg, [data.operand(0)], []).map(Some),
            _ => Ok(None),
        };
    }
    let other = match op {
        Op::Add => Op::Sub,
        Op::Sub => Op::Add,
        _ => return Ok(None),
    };
    if let Some((_, y)) = inner(s, data.operand(1), Op::Neg) {
        return s.op(other, [data.operand(0), y], []).map(Some);
    }
    match inner(s, data.operand(0), Op::Neg) {
        Some((_, y)) if op == Op::Add => s.op(Op::Sub, [data.operand(1), y], []).map(Some),
        _ => Ok(None),
    }
}

fn reciprocal(s: &mut Seq<'_>, data: &NodeData, suits: fn(f64) -> bool) -> Found {
    match right(s, data).filter(|c| data.op == Op::Div && is_float(s, data) && suits(*c)) {
        Some(c) => {
            let factor = s.number(1.0 / c, data.operand(1));
            s.op(Op::Mul, [data.operand(0), factor], []).map(Some)
        }
        None => Ok(None),
    }
}

fn divide_by_power_of_two(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    // Within the exponents of every float type, so that the reciprocal is exact too.
    reciprocal(s, data, |c| c.to_bits() << 12 == 0 && (1.0 / 8192.0..=8192.0).contains(&c.abs()))
}

fn divide_as_multiply(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    reciprocal(s, data, |c| c.is_finite() && c.abs() > 1e-30 && c.abs() < 1e30)
}

fn square(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    if data.op != Op::Mul || data.operand(0) != data.operand(1) {
        return Ok(None);
    }
    s.op(Op::Square, [data.operand(0)], []).map(Some)
}

/// Powers that are products, roots or reciprocals.
fn power(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    let Some(c) = right(s, data).filter(|_| data.op == Op::Pow) else { return Ok(None) };
    let x = data.operand(0);
    if c == 2.0 {
        return s.op(Op::Square, [x], []).map(Some);
    }
    if c == 3.0 {
        let squared = s.op(Op::Square, [x], [])?;
        return s.op(Op::Mul, [squared, x], []).map(Some);
    }
    let op = match c {
        0.5 => Op::Sqrt,
        -0.5 => Op::Rsqrt,
        -1.0 => Op::Recip,
        _ => return Ok(None),
    };
    if is_float(s, data) { s.op(op, [x], []).map(Some) } else { Ok(None) }
}

/// `(x + c) + d` is `x + (c + d)`, and so with products.
fn constants_together(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    if !matches!(data.op, Op::Add | Op::Mul) || !is_float(s, data) {
        return Ok(None);
    }
    let Some(outer) = right(s, data) else { return Ok(None) };
    let Some((first, x)) = inner(s, data.operand(0), data.op) else { return Ok(None) };
    let Some(c) = right(s, first) else { return Ok(None) };
    let together = if data.op == Op::Add { c + outer } else { c * outer };
    let together = s.number(together, data.operand(1));
    s.op(data.op, [x, together], []).map(Some)
}
