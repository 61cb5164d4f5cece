//! Arithmetic as PTX defines it, on values as bits.

use super::ptx::{Inst, Kind, Ty};
use half::{bf16, f16};

pub fn mask(bits: u32) -> u64 {
    if bits == 64 { u64::MAX } else { (1 << bits) - 1 }
}

pub fn signed(value: u64, bits: u32) -> i64 {
    ((value << (64 - bits)) as i64) >> (64 - bits)
}

pub fn float(value: u64, ty: Ty) -> f64 {
    match (ty.kind, ty.bits) {
        (Kind::Brain, _) => bf16::from_bits(value as u16).to_f64(),
        (_, 16) => f16::from_bits(value as u16).to_f64(),
        (_, 32) => f64::from(f32::from_bits(value as u32)),
        _ => f64::from_bits(value),
    }
}

/// `value`, which is exact, rounded to odd, or has been rounded as the type rounds. NaN of 16 bits is the canonical one.
pub fn from_float(value: f64, ty: Ty) -> u64 {
    match (ty.kind, ty.bits) {
        (_, 16) if value.is_nan() => 0x7fff,
        (Kind::Brain, _) => u64::from(bf16::from_f32(to_odd(value)).to_bits()),
        (_, 16) => u64::from(f16::from_f32(to_odd(value)).to_bits()),
        (_, 32) => u64::from((value as f32).to_bits()),
        _ => value.to_bits(),
    }
}

/// Rounded to the neighbour whose last bit is set, so that rounding to 16 bits afterwards rounds but once.
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    let (exact, even) = (f64::from(near) == value, near.to_bits() & 1 == 0);
    match () {
        () if exact || !even => near,
        () if f64::from(near) < value => near.next_up(),
        () => near.next_down(),
    }
}

/// `a * b + c` rounded to odd, where the product is exact.
fn fma_to_odd(a: f64, b: f64, c: f64) -> f64 {
    let product = a * b;
    let near = product + c;
    // What the sum has lost, exactly.
    let part = near - product;
    let lost = (product - (near - part)) + (c - part);
    match () {
        () if !near.is_finite() || lost == 0.0 || near.to_bits() & 1 == 1 => near,
        () if lost > 0.0 => near.next_up(),
        () => near.next_down(),
    }
}

pub fn compare(how: &str, a: u64, b: u64, ty: Ty) -> Result<bool, String> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = match ty.kind {
        Kind::Float | Kind::Brain => float(a, ty).partial_cmp(&float(b, ty)),
        Kind::Signed => Some(signed(a, ty.bits).cmp(&signed(b, ty.bits))),
        _ => Some(a.cmp(&b)),
    };
    // With a `u` behind it, a comparison of floats holds for NaN too.
    let (how, unordered) = match how {
        "equ" | "neu" | "ltu" | "leu" | "gtu" | "geu" => (&how[..2], true),
        how => (how, false),
    };
    Ok(match (order, how) {
        (_, "nan") => order.is_none(),
        (_, "num") => order.is_some(),
        (None, _) => unordered,
        (Some(order), "eq") => order == Equal,
        (Some(order), "ne") => order != Equal,
        (Some(order), "lt" | "lo") => order == Less,
        (Some(order), "le" | "ls") => order != Greater,
        (Some(order), "gt" | "hi") => order == Greater,
        (Some(order), "ge" | "hs") => order != Less,
        (_, other) => return Err(format!("comparison {other}")),
    })
}

/// A float rounded to a whole number as the words say.
pub fn round(value: f64, has: &dyn Fn(&str) -> bool) -> f64 {
    match () {
        () if has("rni") => value.round_ties_even(),
        () if has("rmi") => value.floor(),
        () if has("rpi") => value.ceil(),
        () if has("rzi") => value.trunc(),
        () => value,
    }
}

pub fn convert(value: u64, from: Ty, to: Ty, has: &dyn Fn(&str) -> bool) -> u64 {
    match (from.kind, to.kind) {
        // From f64 to 16 bits nothing is rounded twice.
        _ if from.is_float() && to.is_float() => from_float(round(float(value, from), has), to),
        // Saturating; NaN is 0 except for 64 bits, where it is never asked for.
        (_, Kind::Signed) if from.is_float() => {
            let whole = round(float(value, from), has);
            let most = signed(mask(to.bits) >> 1, to.bits);
            (whole as i64).clamp(-most - 1, most) as u64
        }
        _ if from.is_float() => (round(float(value, from), has) as u64).min(mask(to.bits)),
        (Kind::Signed, _) if to.is_float() => integer_to_float(i128::from(signed(value, from.bits)), to),
        _ if to.is_float() => integer_to_float(i128::from(value), to),
        // What does not fit is cut off; the register around a narrow result is filled with its sign, or with zeros.
        (kind, result) => {
            let value = if kind == Kind::Signed { signed(value, from.bits) as u64 } else { value };
            if result == Kind::Signed { signed(value, to.bits) as u64 } else { value & mask(to.bits) }
        }
    }
}

fn integer_to_float(value: i128, ty: Ty) -> u64 {
    if ty.bits == 32 { u64::from((value as f32).to_bits()) } else { from_float(value as f64, ty) }
}

pub fn arithmetic(inst: &Inst, ty: Ty, [a, b, c]: [u64; 3], has: &dyn Fn(&str) -> bool) -> Result<u64, String> {
    if let Some(word) = ["sat", "relu", "xorsign"].into_iter().find(|word| has(word)) {
        return Err(format!("no such form: {word}"));
    }
    if ty.is_float() && !matches!(inst.op.as_str(), "selp") {
        return float_arithmetic(inst, ty, [a, b, c]);
    }
    let bits = ty.bits;
    let is_signed = ty.kind == Kind::Signed;
    let (sa, sb) = (signed(a, bits), signed(b, bits));
    let multiplied = || {
        let wide_product =
            if is_signed { (i128::from(sa) * i128::from(sb)) as u128 } else { u128::from(a) * u128::from(b) };
        if has("hi") { (wide_product >> bits) as u64 } else { wide_product as u64 }
    };
    // A shift by all bits or more leaves nothing, or the sign.
    let far = b >= u64::from(bits);
    Ok(match inst.op.as_str() {
        "add" => a.wrapping_add(b),
        "sub" => a.wrapping_sub(b),
        "mul" => multiplied(),
        "mad" => multiplied().wrapping_add(c),
        "div" | "rem" if b == 0 => return Err("a division by zero".into()),
        "div" if is_signed => sa.wrapping_div(sb) as u64,
        "div" => a / b,
        "rem" if is_signed => sa.wrapping_rem(sb) as u64,
        "rem" => a % b,
        "min" if is_signed => sa.min(sb) as u64,
        "max" if is_signed => sa.max(sb) as u64,
        "min" => a.min(b),
        "max" => a.max(b),
        "neg" => a.wrapping_neg(),
        "abs" => sa.wrapping_abs() as u64,
        "not" => !a,
        "and" => a & b,
        "or" => a | b,
        "xor" => a ^ b,
        "shl" if far => 0,
        "shl" => a << b,
        "shr" if is_signed => (sa >> b.min(u64::from(bits - 1))) as u64,
        "shr" if far => 0,
        "shr" => a >> b,
        "bfe" => {
            let field = (a >> b.min(63)) & if c >= 64 { u64::MAX } else { (1 << c) - 1 };
            if is_signed && c > 0 { signed(field, (c as u32).min(bits)) as u64 } else { field }
        }
        "selp" => {
            if c == 1 {
                a
            } else {
                b
            }
        }
        // Each digit of the selector picks a byte of the two, or fills a byte with its sign.
        "prmt" => (0..4).fold(0, |value, i| {
            let (bytes, digit) = (a | (b << 32), (c >> (4 * i)) & 15);
            let byte = (bytes >> (8 * (digit & 7))) & 0xff;
            let fill = if byte & 0x80 != 0 { 0xff } else { 0 };
            value | (if digit & 8 != 0 { fill } else { byte } << (8 * i))
        }),
        "popc" => u64::from(a.count_ones()),
        "clz" => u64::from(a.leading_zeros() - (64 - bits)),
        other => return Err(format!("no such operation: {other}")),
    })
}

fn float_arithmetic(inst: &Inst, ty: Ty, raw: [u64; 3]) -> Result<u64, String> {
    let bits = ty.bits;
    let sign = 1u64 << (bits - 1);
    match inst.op.as_str() {
        "neg" => return Ok(raw[0] ^ sign),
        "abs" => return Ok(raw[0] & !sign),
        // The sign of the first on the second.
        "copysign" => return Ok((raw[1] & !sign) | (raw[0] & sign)),
        // Without the word, a minimum or maximum with NaN is the other one.
        "min" | "max" if inst.words.iter().any(|w| w == "NaN") && raw[..2].iter().any(|v| float(*v, ty).is_nan()) => {
            return Ok(from_float(f64::NAN, ty));
        }
        _ => {}
    }
    if bits == 32 {
        let [a, b, c] = raw.map(|v| f32::from_bits(v as u32));
        let value = match inst.op.as_str() {
            "add" => a + b,
            "sub" => a - b,
            "mul" => a * b,
            "div" => a / b,
            "fma" => a.mul_add(b, c),
            "rcp" => 1.0 / a,
            "sqrt" => a.sqrt(),
            "ex2" => {
                // With `.ftz`, numbers below the normal ones are zeros, before and after.
                let flushes = inst.words.iter().any(|word| word == "ftz");
                let flush = |x: f32| if flushes && x.is_subnormal() { 0f32.copysign(x) } else { x };
                flush(flush(a).exp2())
            }
            "min" => a.min(b),
            "max" => a.max(b),
            other => return Err(format!("no such operation on floats: {other}")),
        };
        return Ok(u64::from(value.to_bits()));
    }
    let [a, b, c] = raw.map(|v| float(v, ty));
    let value = match inst.op.as_str() {
        "add" => a + b,
        "sub" => a - b,
        "mul" => a * b,
        "div" => a / b,
        "fma" if bits == 64 => a.mul_add(b, c),
        "fma" => fma_to_odd(a, b, c),
        "rcp" => 1.0 / a,
        "sqrt" => a.sqrt(),
        "min" => a.min(b),
        "max" => a.max(b),
        other => return Err(format!("no such operation on floats: {other}")),
    };
    Ok(from_float(value, ty))
}
