//! Arithmetic as PTX defines it, on values as bits.

use super::ptx::{Inst, Kind, Ty};
use half::f16;

pub fn mask(bits: u32) -> u64 {
    if bits == 64 { u64::MAX } else { (1 << bits) - 1 }
}

pub fn signed(value: u64, bits: u32) -> i64 {
    ((value << (64 - bits)) as i64) >> (64 - bits)
}

pub fn float(value: u64, bits: u32) -> f64 {
    match bits {
        16 => f16::from_bits(value as u16).to_f64(),
        32 => f64::from(f32::from_bits(value as u32)),
        _ => f64::from_bits(value),
    }
}

/// `value`, which is exact or has been rounded as the type rounds.
pub fn from_float(value: f64, bits: u32) -> u64 {
    match bits {
        16 => u64::from(f16::from_f64(value).to_bits()),
        32 => u64::from((value as f32).to_bits()),
        _ => value.to_bits(),
    }
}

pub fn compare(how: &str, a: u64, b: u64, ty: Ty) -> Result<bool, String> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = match ty.kind {
        Kind::Float => float(a, ty.bits).partial_cmp(&float(b, ty.bits)),
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
        (Kind::Float, Kind::Float) => {
            let exact = float(value, from.bits);
            // From f64 to f16 nothing is rounded twice.
            from_float(round(exact, has), to.bits)
        }
        // Saturating; NaN is 0 except for 64 bits, where it is never asked for.
        (Kind::Float, Kind::Signed) => {
            let whole = round(float(value, from.bits), has);
            let most = signed(mask(to.bits) >> 1, to.bits);
            (whole as i64).clamp(-most - 1, most) as u64
        }
        (Kind::Float, _) => (round(float(value, from.bits), has) as u64).min(mask(to.bits)),
        (Kind::Signed, Kind::Float) => integer_to_float(i128::from(signed(value, from.bits)), to.bits),
        (_, Kind::Float) => integer_to_float(i128::from(value), to.bits),
        // What does not fit is cut off; the register around a narrow result is filled with its sign, or with zeros.
        (kind, result) => {
            let value = if kind == Kind::Signed { signed(value, from.bits) as u64 } else { value };
            if result == Kind::Signed { signed(value, to.bits) as u64 } else { value & mask(to.bits) }
        }
    }
}

pub fn integer_to_float(value: i128, bits: u32) -> u64 {
    match bits {
        16 => u64::from(f16::from_f64(value as f64).to_bits()),
        32 => u64::from((value as f32).to_bits()),
        _ => (value as f64).to_bits(),
    }
}

pub fn arithmetic(inst: &Inst, ty: Ty, [a, b, c]: [u64; 3], has: &dyn Fn(&str) -> bool) -> Result<u64, String> {
    if ty.kind == Kind::Float && !matches!(inst.op.as_str(), "selp") {
        return float_arithmetic(inst, ty.bits, [a, b, c]);
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

pub fn float_arithmetic(inst: &Inst, bits: u32, raw: [u64; 3]) -> Result<u64, String> {
    let sign = 1u64 << (bits - 1);
    match inst.op.as_str() {
        "neg" => return Ok(raw[0] ^ sign),
        "abs" => return Ok(raw[0] & !sign),
        // The sign of the first on the second.
        "copysign" => return Ok((raw[1] & !sign) | (raw[0] & sign)),
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
            "ex2" => a.exp2(),
            "min" => a.min(b),
            "max" => a.max(b),
            other => return Err(format!("no such operation on floats: {other}")),
        };
        return Ok(u64::from(value.to_bits()));
    }
    let [a, b, c] = raw.map(|v| float(v, bits));
    let value = match inst.op.as_str() {
        "add" => a + b,
        "sub" => a - b,
        "mul" => a * b,
        "div" => a / b,
        "fma" if bits == 64 => a.mul_add(b, c),
        "rcp" => 1.0 / a,
        "sqrt" => a.sqrt(),
        "min" => a.min(b),
        "max" => a.max(b),
        other => return Err(format!("no such operation on floats: {other}")),
    };
    Ok(from_float(value, bits))
}
