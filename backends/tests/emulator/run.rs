//! A thread of a kernel: what it computes, with every access to memory checked.
//!
//! It runs until it ends or comes to what it does together with others, which is its block's business.

use super::{
    hopper::is_on_hopper,
    numbers::{arithmetic, compare, convert, mask, signed},
    ptx::{Function, Inst, Kind, Module, Operand, Ty},
    races::When,
    shared::Shared,
};
use std::collections::VecDeque;

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

pub(super) struct Frame<'m> {
    pub(super) function: &'m Function,
    pub(super) registers: Vec<u64>,
    pub(super) slots: Vec<u64>,
    local: Vec<u64>,
    /// The instruction that is next.
    at: usize,
    /// Where the caller wants the result.
    result: Option<usize>,
    /// Of each register, whether it belongs to products under way, and whether it was written since a fence for such. Empty
    /// as long as there are none.
    pub(super) held: Vec<bool>,
    pub(super) unordered: Vec<bool>,
}

/// Why a thread stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pause {
    Done,
    /// At a barrier of the block.
    Block,
    /// At what the lanes of a warp do together.
    Warp,
    /// At what the warps of a group do together.
    Group,
    /// At a barrier in shared memory, alone.
    Wait,
}

/// A copy to shared memory that is under way: to, from, bytes that are read of 16.
type Copy = (u64, u64, u64);

pub struct Thread<'m> {
    module: &'m Module,
    memory: &'m dyn Memory,
    pub(super) shared: &'m Shared<'m>,
    pub(super) place: Place,
    steps: u64,
    pub(super) frames: Vec<Frame<'m>>,
    /// Copies since the last group, and the groups that have not been waited for.
    copies: Vec<Copy>,
    groups: VecDeque<Vec<Copy>>,
    /// Where it stands, if it does.
    stands: Option<Pause>,
    /// How often it has asked for a phase that had ended.
    tries: u64,
    /// The barriers of the block and of its warp that it has passed.
    when: When,
}

impl<'m> Thread<'m> {
    /// A thread at the start of the entry with these parameters.
    pub fn new(
        module: &'m Module,
        entry: &'m Function,
        params: &[u64],
        (memory, shared): (&'m dyn Memory, &'m Shared<'m>),
        place: Place,
    ) -> Result<Thread<'m>, String> {
        let (copies, groups) = (vec![], VecDeque::new());
        let (steps, frames, stands, tries) = (0, vec![], None, 0);
        let when = When { thread: place.thread, ..When::default() };
        let mut thread = Thread { module, memory, shared, place, steps, frames, copies, groups, stands, tries, when };
        thread.enter(entry, params, None)?;
        Ok(thread)
    }

    fn enter(&mut self, function: &'m Function, args: &[u64], result: Option<usize>) -> Result<(), String> {
        let mut frame = Frame {
            function,
            registers: vec![0; function.registers],
            slots: vec![0; function.slots],
            local: vec![0xdead_beef_dead_beef; function.local_bytes.div_ceil(8)],
            at: 0,
            result,
            held: vec![],
            unordered: vec![],
        };
        if args.len() != function.params {
            return Err(format!("{} takes {} parameters, {} are given", function.name, function.params, args.len()));
        }
        // A result's slot may stand among the first.
        frame.slots[..args.len()].copy_from_slice(args);
        self.frames.push(frame);
        Ok(())
    }

    /// The instruction at which it stands.
    pub fn next(&self) -> Option<&'m Inst> {
        let frame = self.frames.last()?;
        frame.function.insts.get(frame.at)
    }

    /// Where it stands.
    pub fn stands(&self) -> Option<Pause> {
        self.stands
    }

    /// Runs until it stands, unless it does; whether it came further.
    pub fn advance(&mut self) -> Result<bool, String> {
        let mut moved = false;
        loop {
            match (self.stands, self.next()) {
                (None, _) => self.stands = Some(self.run()?),
                (Some(Pause::Wait), Some(inst)) => {
                    let found = self.shared.barriers.try_wait(self, inst).map_err(|e| format!("{}: {e}", inst.text))?;
                    let Some(found) = found else { return Ok(moved) };
                    self.tries += 1;
                    self.assign(&inst.operands[0], u64::from(found), PRED)?;
                    self.pass();
                }
                _ => return Ok(moved),
            }
            moved = true;
        }
    }

    pub fn tries(&self) -> u64 {
        self.tries
    }

    /// Notes that all threads of the block, or of the warp, have met.
    pub fn has_met(&mut self, block: bool) {
        let count = if block { &mut self.when.barriers } else { &mut self.when.warp_barriers };
        *count += 1;
    }

    /// Notes that it reads or writes bytes that other threads may touch.
    pub fn touches(&self, start: u64, bytes: u64, writes: bool) -> Result<(), String> {
        self.shared.races.note(start, bytes, writes, self.when)
    }

    /// Goes on behind the instruction at which it stands.
    pub fn pass(&mut self) {
        self.stands = None;
        if let Some(frame) = self.frames.last_mut() {
            frame.at += 1;
        }
    }

    /// Runs until it stands.
    pub fn run(&mut self) -> Result<Pause, String> {
        'frames: while let Some(mut frame) = self.frames.pop() {
            let function = frame.function;
            while let Some(inst) = function.insts.get(frame.at) {
                self.steps += 1;
                if self.steps > STEPS {
                    return Err(format!("{}: it does not end", function.name));
                }
                if inst.guard.is_some_and(|(reg, opposite)| (frame.registers[reg] & 1 == 1) == opposite) {
                    frame.at += 1;
                    continue;
                }
                match (inst.op.as_str(), inst.operands.first()) {
                    ("ret", _) => break,
                    ("bra", Some(Operand::Label(to))) => frame.at = *to,
                    ("brx", _) => frame.at = self.chosen(&frame, inst)?,
                    ("bra", _) => return Err(format!("a branch to nowhere: {}", inst.text)),
                    ("call", _) => {
                        let (callee, args, result) = self.callee(&frame, inst)?;
                        frame.at += 1;
                        self.frames.push(frame);
                        self.enter(callee, &args, result)?;
                        continue 'frames;
                    }
                    ("bar" | "barrier" | "shfl" | "ldmatrix" | "mma", _) => {
                        self.frames.push(frame);
                        let of_block = inst.op.starts_with("bar") && inst.words[0] != "warp";
                        return Ok(if of_block { Pause::Block } else { Pause::Warp });
                    }
                    ("wgmma", _) => {
                        self.frames.push(frame);
                        return Ok(Pause::Group);
                    }
                    ("mbarrier", _) if inst.words[0] == "try_wait" => {
                        self.frames.push(frame);
                        return Ok(Pause::Wait);
                    }
                    (op, _) if is_on_hopper(op, &inst.words) => {
                        self.frames.push(frame);
                        self.on_hopper(inst).map_err(|e| format!("{}: {}: {e}", function.name, inst.text))?;
                        frame = self.frames.pop().expect("it was pushed");
                        frame.at += 1;
                    }
                    _ => {
                        self.step(&mut frame, inst).map_err(|e| format!("{}: {}: {e}", function.name, inst.text))?;
                        frame.at += 1;
                    }
                }
            }
            let value = function.returns.map(|slot| frame.slots[slot]);
            if let (Some(caller), Some(slot), Some(value)) = (self.frames.last_mut(), frame.result, value) {
                caller.slots[slot] = value;
            }
        }
        Ok(Pause::Done)
    }

    /// The value of an operand of the instruction at which it stands.
    pub fn operand(&self, operand: &Operand, ty: Ty) -> Result<u64, String> {
        self.value(self.frames.last().ok_or("it has ended")?, operand, ty)
    }

    /// An address among its operands, of shared memory that `bytes` bytes of are accessed.
    pub fn shared_place(&self, operand: &Operand, bytes: u64) -> Result<u64, String> {
        let at = self.place_of(operand, bytes)?;
        if self.shared.allows(at, bytes) { Ok(at) } else { Err(format!("{at:#x} is not in shared memory")) }
    }

    /// An address among its operands, of memory that `bytes` bytes of are accessed.
    pub fn place_of(&self, operand: &Operand, bytes: u64) -> Result<u64, String> {
        self.address(self.frames.last().ok_or("it has ended")?, operand, bytes)
    }

    pub fn assign(&mut self, operand: &Operand, value: u64, ty: Ty) -> Result<(), String> {
        Self::set(self.frames.last_mut().ok_or("it has ended")?, operand, value, ty)
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
            Operand::Reg(r) if frame.held.get(*r) == Some(&true) => {
                return Err("it reads a register of a product under way".into());
            }
            Operand::Reg(r) => frame.registers[*r] & mask(ty.bits),
            // The address of a parameter that is no number.
            Operand::Param(slot, 0) if frame.function.arrays.contains(slot) => frame.slots[*slot],
            Operand::Imm(bits) => bits & mask(ty.bits),
            Operand::Special(name) => self.special(name),
            Operand::Depot => frame.local.as_ptr() as u64,
            Operand::Name(name) => self.shared.address(name)?,
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
            Operand::Reg(r) if frame.held.get(*r) == Some(&true) => {
                return Err("it writes a register of a product under way".into());
            }
            Operand::Reg(r) => {
                frame.registers[*r] = value & mask(ty.bits);
                if let Some(unordered) = frame.unordered.get_mut(*r) {
                    *unordered = true;
                }
            }
            Operand::Group(parts) => {
                let bits = ty.bits / parts.len() as u32;
                for (i, part) in parts.iter().enumerate() {
                    Self::set(frame, part, value >> (i as u32 * bits), Ty { kind: Kind::Bits, bits })?;
                }
            }
            Operand::Name(name) if name == "_" || name == "tmp" => {}
            other => return Err(format!("{other:?} cannot be set")),
        }
        Ok(())
    }

    /// The address of an access of `bytes` bytes.
    fn address(&self, frame: &Frame<'_>, operand: &Operand, bytes: u64) -> Result<u64, String> {
        let at = match operand {
            Operand::At(reg, offset) => frame.registers[*reg].wrapping_add(*offset as u64),
            Operand::Variable(name, offset) => self.shared.address(name)?.wrapping_add(*offset as u64),
            _ => return Err("not an address".into()),
        };
        if !at.is_multiple_of(bytes) {
            return Err(format!("{at:#x} is not aligned to {bytes}"));
        }
        if self.is_local(frame, at, bytes) || self.memory.allows(at, bytes) || self.shared.allows(at, bytes) {
            Ok(at)
        } else {
            Err(format!("{bytes} bytes at {at:#x} are not allocated"))
        }
    }

    /// Whether these are bytes of a function's local variables.
    fn is_local(&self, frame: &Frame<'_>, at: u64, bytes: u64) -> bool {
        let inside = |frame: &Frame<'_>| {
            let (start, len) = (frame.local.as_ptr() as u64, frame.function.local_bytes as u64);
            at >= start && at + bytes <= start + len
        };
        inside(frame) || self.frames.iter().any(inside)
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
        if !self.is_local(frame, start, bytes) && !inst.words.iter().any(|w| w == "relaxed") {
            self.touches(start, bytes * count as u64, !load)?;
        }
        if !load {
            self.shared.stored(start, bytes * count as u64, self.place.thread);
        }
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
            "cp" => return self.copy(frame, inst),
            // Threads run one after the other, and all that one has written is there.
            "membar" | "fence" => return Ok(()),
            "atom" => return self.atomic(frame, inst, ty.ok_or_else(missing)?),
            // From generic addresses and back: all are addresses of the host.
            "cvta" | "mov" => {
                let ty = ty.ok_or_else(missing)?;
                let value = self.value(frame, &inst.operands[1], ty)?;
                return Self::set(frame, &inst.operands[0], value, ty);
            }
            // Two at once: the first is the upper half.
            "cvt" if inst.packed.is_some() => {
                const SINGLE: Ty = Ty { kind: Kind::Float, bits: 32 };
                let to = inst.packed.ok_or_else(missing)?;
                let half = |i: usize| Ok(convert(self.value(frame, &inst.operands[i], SINGLE)?, SINGLE, to, &has));
                let (upper, lower): (Result<_, String>, Result<_, String>) = (half(1), half(2));
                let value = (upper? << 16) | lower?;
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
        if let Some(half) = inst.packed {
            let value = self.both_halves(frame, inst, half)?;
            return Self::set(frame, &inst.operands[0], value, Ty { kind: Kind::Bits, bits: 32 });
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

    /// An operation on both halves of registers of 32 bits.
    fn both_halves(&self, frame: &Frame<'m>, inst: &Inst, ty: Ty) -> Result<u64, String> {
        let float = ["add", "sub", "mul", "fma", "neg", "abs", "min", "max", "ex2"];
        let integer = ["add", "min", "max"];
        if !(if ty.is_float() { &float[..] } else { &integer }).contains(&inst.op.as_str()) {
            return Err("no such operation on halves".into());
        }
        let mut args = [0u64; 3];
        for (arg, operand) in args.iter_mut().zip(&inst.operands[1..]) {
            *arg = self.value(frame, operand, Ty { kind: Kind::Bits, bits: 32 })?;
        }
        let of = |shift: u32| {
            let args = args.map(|arg| (arg >> shift) & 0xffff);
            let value = arithmetic(inst, ty, args, &|word| inst.words.iter().any(|w| w == word))?;
            Ok::<_, String>((value & 0xffff) << shift)
        };
        Ok(of(0)? | of(16)?)
    }

    /// `atom[.relaxed.gpu].global.add.u32 old, [address], value`
    fn atomic(&mut self, frame: &mut Frame<'m>, inst: &'m Inst, ty: Ty) -> Result<(), String> {
        let is = |word: &str| inst.words.iter().any(|w| w == word);
        let operation: fn(u64, u64) -> u64 = match (ty.kind, ty.bits) {
            (Kind::Float, 64) if is("add") => |a, b| (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
            (Kind::Bits | Kind::Unsigned | Kind::Signed, _) if is("add") => u64::wrapping_add,
            (Kind::Bits, _) if is("or") => |a, b| a | b,
            _ => return Err("another operation".into()),
        };
        let at = self.address(frame, &inst.operands[1], u64::from(ty.bits / 8))?;
        if !self.memory.allows(at, u64::from(ty.bits / 8)) {
            return Err(format!("{at:#x} is not in memory that all blocks see"));
        }
        let by = self.value(frame, &inst.operands[2], ty)?;
        // Checked above; threads run one after the other.
        let before = match ty.bits {
            32 => u64::from(unsafe { (at as *const u32).read() }),
            _ => unsafe { (at as *const u64).read() },
        };
        let after = operation(before, by);
        match ty.bits {
            32 => unsafe { (at as *mut u32).write(after as u32) },
            _ => unsafe { (at as *mut u64).write(after) },
        }
        Self::set(frame, &inst.operands[0], before, ty)
    }

    /// Copies stand aside until they are waited for.
    fn copy(&mut self, frame: &Frame<'m>, inst: &'m Inst) -> Result<(), String> {
        const COUNT: Ty = Ty { kind: Kind::Unsigned, bits: 32 };
        match inst.words.get(1).map(String::as_str) {
            Some("commit_group") => self.groups.push_back(std::mem::take(&mut self.copies)),
            Some("wait_group") => {
                let left = self.value(frame, &inst.operands[0], COUNT)? as usize;
                while self.groups.len() > left {
                    for (to, from, bytes) in self.groups.pop_front().unwrap_or_default() {
                        self.touches(from, bytes, false)?;
                        self.touches(to, 16, true)?;
                        self.shared.stored(to, 16, self.place.thread);
                        let mut value = [0u8; 16];
                        // Checked when the copy was asked for; threads run one after the other.
                        unsafe {
                            std::ptr::copy_nonoverlapping(from as *const u8, value.as_mut_ptr(), bytes as usize);
                            std::ptr::copy_nonoverlapping(value.as_ptr(), to as *mut u8, 16);
                        }
                    }
                }
            }
            _ => {
                let to = self.address(frame, &inst.operands[0], 16)?;
                let bytes = match inst.operands.get(3) {
                    Some(bytes) => self.value(frame, bytes, COUNT)?,
                    None => 16,
                };
                if bytes > 16 || !self.shared.allows(to, 16) {
                    return Err(format!("a copy of {bytes} bytes to {to:#x}"));
                }
                let Operand::At(reg, offset) = inst.operands[1] else { return Err("not an address".into()) };
                let from = frame.registers[reg].wrapping_add(offset as u64);
                if !from.is_multiple_of(16) || (bytes > 0 && !self.memory.allows(from, bytes)) {
                    return Err(format!("{bytes} bytes at {from:#x} are not allocated, or not aligned to 16"));
                }
                self.copies.push((to, from, bytes));
            }
        }
        Ok(())
    }

    /// Where `brx.idx number, list` goes.
    fn chosen(&self, frame: &Frame<'m>, inst: &Inst) -> Result<usize, String> {
        let [number, Operand::Group(list)] = &inst.operands[..] else {
            return Err(format!("a branch to nowhere: {}", inst.text));
        };
        let number = self.value(frame, number, Ty { kind: Kind::Unsigned, bits: 32 })? as usize;
        match list.get(number) {
            Some(Operand::Label(to)) => Ok(*to),
            _ => Err(format!("{}: target {number} of {}", inst.text, list.len())),
        }
    }

    /// `call.uni (result), name, (arguments)` or `call.uni name, (arguments)`: the function, the arguments, and where its
    /// result goes.
    fn callee(&self, frame: &Frame<'m>, inst: &'m Inst) -> Result<(&'m Function, Vec<u64>, Option<usize>), String> {
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
        let result = if let Some(Operand::Param(slot, 0)) = result { Some(*slot) } else { None };
        Ok((function, args, result))
    }
}

const PRED: Ty = Ty { kind: Kind::Pred, bits: 1 };
