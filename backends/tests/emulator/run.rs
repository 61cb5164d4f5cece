//! Threads of a kernel, one after the other: what they compute, with every access to memory checked.

use super::ptx::{Function, Inst, Kind, Module, Operand, Ty};
use half::f16;

/// Memory that may be accessed.
pub trait Memory {
    fn allows(&self, start: u64, len: u64) -> bool;
}

/// A thread's place in the grid.
#[derive(Clone, Copy)]
pub struct Place {
    pub thread: u32,
    pub threads: u32,
    pub block: u32,
    pub blocks: u32,
}

/// More steps than any thread of the tests takes: it is in an endless loop.
const STEPS: u64 = 200_000_000;

struct Frame<'m> {
    function: &'m Function,
    registers: Vec<u64>,
    slots: Vec<u64>,
    local: Vec<u64>,
}

pub struct Thread<'m> {
    module: &'m Module,
    memory: &'m dyn Memory,
    place: Place,
    steps: u64,
    /// The local memory of the functions that are running: start and length.
    locals: Vec<(u64, u64)>,
}

fn mask(bits: u32) -> u64 {
    if bits == 64 { u64::MAX } else { (1 << bits) - 1 }
}

fn signed(value: u64, bits: u32) -> i64 {
    ((value << (64 - bits)) as i64) >> (64 - bits)
}

fn float(value: u64, bits: u32) -> f64 {
    match bits {
        16 => f16::from_bits(value as u16).to_f64(),
        32 => f64::from(f32::from_bits(value as u32)),
        _ => f64::from_bits(value),
    }
}

/// `value`, which is exact or has been rounded as the type rounds.
fn from_float(value: f64, bits: u32) -> u64 {
    match bits {
        16 => u64::from(f16::from_f64(value).to_bits()),
        32 => u64::from((value as f32).to_bits()),
        _ => value.to_bits(),
    }
}

impl<'m> Thread<'m> {
    /// Runs the entry with these parameters.
    pub fn run(
        module: &'m Module,
        entry: &'m Function,
        params: &[u64],
        memory: &'m dyn Memory,
        place: Place,
    ) -> Result<(), String> {
        let mut thread = Thread { module, memory, place, steps: 0, locals: vec![] };
        thread.call(entry, params).map(|_| ())
    }

    fn call(&mut self, function: &'m Function, args: &[u64]) -> Result<Option<u64>, String> {
        let mut frame = Frame {
            function,
            registers: vec![0; function.registers],
            slots: vec![0; function.slots],
            local: vec![0xdead_beef_dead_beef; function.local_bytes.div_ceil(8)],
        };
        if args.len() != function.params {
            return Err(format!("{} takes {} parameters, {} are given", function.name, function.params, args.len()));
        }
        // A result's slot may stand among the first.
        for (i, arg) in args.iter().enumerate() {
            frame.slots[i] = *arg;
        }
        self.locals.push((frame.local.as_ptr() as u64, function.local_bytes as u64));
        let mut at = 0;
        while let Some(inst) = function.insts.get(at) {
            self.steps += 1;
            if self.steps > STEPS {
                return Err(format!("{}: it does not end", function.name));
            }
            let skipped = inst.guard.is_some_and(|(reg, opposite)| (frame.registers[reg] & 1 == 1) == opposite);
            if skipped {
                at += 1;
                continue;
            }
            match inst.op.as_str() {
                "bra" => match inst.operands[0] {
                    Operand::Label(to) => at = to,
                    _ => return Err(format!("a branch to nowhere: {}", inst.text)),
                },
                "ret" => break,
                _ => {
                    self.step(&mut frame, inst).map_err(|e| format!("{}: {}: {e}", function.name, inst.text))?;
                    at += 1;
                }
            }
        }
        self.locals.pop();
        Ok(function.returns.map(|slot| frame.slots[slot]))
    }

    fn special(&self, name: &str) -> u64 {
        let p = self.place;
        u64::from(match name {
            "%tid.x" => p.thread,
            "%ntid.x" => p.threads,
            "%ctaid.x" => p.block,
            _ => p.blocks,
        })
    }

    fn value(&self, frame: &Frame<'_>, operand: &Operand, ty: Ty) -> Result<u64, String> {
        Ok(match operand {
            Operand::Reg(r) => frame.registers[*r] & mask(ty.bits),
            Operand::Imm(bits) => bits & mask(ty.bits),
            Operand::Special(name) => self.special(name),
            Operand::Depot => frame.local.as_ptr() as u64,
            Operand::Group(parts) => {
                let bits = ty.bits / parts.len() as u32;
                let mut value = 0;
                for (i, part) in parts.iter().enumerate() {
                    value |= self.value(frame, part, Ty { kind: Kind::Bits, bits })? << (i as u32 * bits);
                }
                value
            }
            other => return Err(format!("{other:?} has no value")),
        })
    }

    fn set(frame: &mut Frame<'_>, operand: &Operand, value: u64, ty: Ty) -> Result<(), String> {
        match operand {
            Operand::Reg(r) => frame.registers[*r] = value & mask(ty.bits),
            Operand::Group(parts) => {
                let bits = ty.bits / parts.len() as u32;
                for (i, part) in parts.iter().enumerate() {
                    Self::set(frame, part, value >> (i as u32 * bits), Ty { kind: Kind::Bits, bits })?;
                }
            }
            Operand::Name(name) if name == "_" => {}
            other => return Err(format!("{other:?} cannot be set")),
        }
        Ok(())
    }

    /// The address of an access of `bytes` bytes.
    fn address(&self, frame: &Frame<'_>, operand: &Operand, bytes: u64) -> Result<u64, String> {
        let Operand::At(reg, offset) = operand else { return Err("not an address".into()) };
        let at = frame.registers[*reg].wrapping_add(*offset as u64);
        if !at.is_multiple_of(bytes) {
            return Err(format!("{at:#x} is not aligned to {bytes}"));
        }
        let local = self.locals.iter().any(|(start, len)| at >= *start && at + bytes <= start + len);
        if local || self.memory.allows(at, bytes) {
            Ok(at)
        } else {
            Err(format!("{bytes} bytes at {at:#x} are not allocated"))
        }
    }

    fn move_memory(&self, frame: &mut Frame<'_>, inst: &Inst, ty: Ty) -> Result<(), String> {
        let bytes = u64::from(ty.bits / 8);
        let count = inst.words.iter().find_map(|w| w.strip_prefix('v')?.parse().ok()).unwrap_or(1usize);
        let load = inst.op == "ld";
        let (registers, memory) = if load { (0, 1) } else { (1, 0) };
        if let Operand::Param(slot, offset) = inst.operands[memory] {
            if offset != 0 || count != 1 {
                return Err("a part of a parameter".into());
            }
            if load {
                return Self::set(frame, &inst.operands[0], frame.slots[slot], ty);
            }
            frame.slots[slot] = self.value(frame, &inst.operands[1], ty)?;
            return Ok(());
        }
        // The whole vector is aligned.
        let start = self.address(frame, &inst.operands[memory], bytes * count as u64)?;
        let list = match &inst.operands[registers] {
            Operand::Group(list) => list.clone(),
            one => vec![one.clone()],
        };
        for (i, operand) in list.iter().enumerate() {
            let at = (start + i as u64 * bytes) as *mut u8;
            let mut raw = [0u8; 8];
            let n = bytes as usize;
            // Checked above; threads run one after the other.
            if load {
                unsafe { std::ptr::copy_nonoverlapping(at, raw.as_mut_ptr(), n) };
                let value = u64::from_le_bytes(raw);
                let extended = if ty.kind == Kind::Signed { signed(value, ty.bits) as u64 } else { value };
                Self::set(frame, operand, extended, Ty { kind: Kind::Bits, bits: 64 })?;
            } else {
                raw = self.value(frame, operand, ty)?.to_le_bytes();
                unsafe { std::ptr::copy_nonoverlapping(raw.as_ptr(), at, n) };
            }
        }
        Ok(())
    }

    fn step(&mut self, frame: &mut Frame<'m>, inst: &'m Inst) -> Result<(), String> {
        let has = |word: &str| inst.words.iter().any(|w| w == word);
        let ty = inst.types.last().copied();
        let missing = || "no type".to_string();
        match inst.op.as_str() {
            "ld" | "st" => return self.move_memory(frame, inst, ty.ok_or_else(missing)?),
            "call" => return self.call_inst(frame, inst),
            // From generic addresses and back: all are addresses of the host.
            "cvta" | "mov" => {
                let ty = ty.ok_or_else(missing)?;
                let value = self.value(frame, &inst.operands[1], ty)?;
                return Self::set(frame, &inst.operands[0], value, ty);
            }
            // Two at once: the first is the upper half.
            "cvt" if has("f16x2") => {
                let single = |i: usize| self.value(frame, &inst.operands[i], Ty { kind: Kind::Float, bits: 32 });
                let half = |value: u64| from_float(float(value, 32), 16);
                let value = (half(single(1)?) << 16) | half(single(2)?);
                return Self::set(frame, &inst.operands[0], value, Ty { kind: Kind::Bits, bits: 32 });
            }
            "cvt" => {
                let [to, from] = inst.types[..] else { return Err(missing()) };
                let value = self.value(frame, &inst.operands[1], from)?;
                let value = convert(value, from, to, &has);
                let to = if to.bits < 32 { Ty { bits: 32, ..to } } else { to };
                return Self::set(frame, &inst.operands[0], value, to);
            }
            "setp" => {
                let ty = ty.ok_or_else(missing)?;
                let (a, b) = (self.value(frame, &inst.operands[1], ty)?, self.value(frame, &inst.operands[2], ty)?);
                let mut holds = compare(&inst.words[0], a, b, ty)?;
                if let Some(other) = inst.operands.get(3) {
                    let other = self.value(frame, other, PRED)? == 1;
                    holds = match inst.words[1].as_str() {
                        "and" => holds && other,
                        "or" => holds || other,
                        _ => holds != other,
                    };
                }
                return Self::set(frame, &inst.operands[0], u64::from(holds), PRED);
            }
            _ => {}
        }
        let ty = ty.ok_or_else(missing)?;
        let wide = has("wide");
        let mut args = [0u64; 3];
        for (i, operand) in inst.operands.iter().skip(1).enumerate() {
            let ty = match (inst.op.as_str(), i) {
                ("selp", 2) => PRED,
                ("shl" | "shr", 1) | ("bfe", 1 | 2) => Ty { kind: Kind::Unsigned, bits: 32 },
                ("mad", 2) if wide => Ty { bits: ty.bits * 2, ..ty },
                _ => ty,
            };
            let slot = args.get_mut(i).ok_or("more than three operands")?;
            *slot = self.value(frame, operand, ty)?;
        }
        let value = arithmetic(inst, ty, args, &has)?;
        let to = match inst.op.as_str() {
            "mul" | "mad" if wide => Ty { bits: ty.bits * 2, ..ty },
            "popc" | "clz" => Ty { kind: Kind::Unsigned, bits: 32 },
            _ => ty,
        };
        Self::set(frame, &inst.operands[0], value, to)
    }

    /// `call.uni (result), name, (arguments)` or `call.uni name, (arguments)`.
    fn call_inst(&mut self, frame: &mut Frame<'m>, inst: &'m Inst) -> Result<(), String> {
        let (result, rest) = match &inst.operands[..] {
            [Operand::Group(result), rest @ ..] => (result.first(), rest),
            rest => (None, rest),
        };
        let [Operand::Name(name), rest @ ..] = rest else { return Err("a call of no function".into()) };
        let none = vec![];
        let slots = if let [Operand::Group(slots)] = rest { slots } else { &none };
        let mut args = vec![];
        for slot in slots {
            let Operand::Param(slot, 0) = slot else { return Err("an argument that is no slot".into()) };
            args.push(frame.slots[*slot]);
        }
        let function = self.module.functions.get(name).ok_or_else(|| format!("there is no function {name}"))?;
        let value = self.call(function, &args)?;
        if let (Some(Operand::Param(slot, 0)), Some(value)) = (result, value) {
            frame.slots[*slot] = value;
        }
        Ok(())
    }
}

const PRED: Ty = Ty { kind: Kind::Pred, bits: 1 };

fn compare(how: &str, a: u64, b: u64, ty: Ty) -> Result<bool, String> {
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
fn round(value: f64, has: &dyn Fn(&str) -> bool) -> f64 {
    match () {
        () if has("rni") => value.round_ties_even(),
        () if has("rmi") => value.floor(),
        () if has("rpi") => value.ceil(),
        () if has("rzi") => value.trunc(),
        () => value,
    }
}

fn convert(value: u64, from: Ty, to: Ty, has: &dyn Fn(&str) -> bool) -> u64 {
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
        (Kind::Signed, _) => signed(value, from.bits) as u64 & mask(to.bits.max(from.bits).max(32)) & narrow(to),
        _ => value & mask(to.bits),
    }
}

/// The bits that stay of a signed integer; those above a narrow one are its sign's.
fn narrow(to: Ty) -> u64 {
    if to.kind == Kind::Signed { u64::MAX } else { mask(to.bits) }
}

fn integer_to_float(value: i128, bits: u32) -> u64 {
    match bits {
        16 => u64::from(f16::from_f64(value as f64).to_bits()),
        32 => u64::from((value as f32).to_bits()),
        _ => (value as f64).to_bits(),
    }
}

fn arithmetic(inst: &Inst, ty: Ty, [a, b, c]: [u64; 3], has: &dyn Fn(&str) -> bool) -> Result<u64, String> {
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

fn float_arithmetic(inst: &Inst, bits: u32, raw: [u64; 3]) -> Result<u64, String> {
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
