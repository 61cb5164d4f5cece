//! Products of warp groups: `wgmma`. They are computed when they are waited for, and not before; until then nothing else may
//! touch their registers.

use super::{
    ptx::{Inst, Kind, Operand, Ty},
    run::Thread,
    shared::Shared,
    tile::swizzled,
};
use half::{bf16, f16};
use std::collections::VecDeque;

const WORD: Ty = Ty { kind: Kind::Bits, bits: 32 };
const LONG: Ty = Ty { kind: Kind::Bits, bits: 64 };
const PRED: Ty = Ty { kind: Kind::Pred, bits: 1 };
/// Threads of a group.
pub const GROUP: usize = 128;
/// Rows of *a* and the depth.
const ROWS: usize = 64;
const DEPTH: usize = 16;

enum Left {
    Registers(Vec<Operand>),
    Memory(Matrix),
}

/// A product that is under way.
struct Product {
    sums: Vec<Operand>,
    a: Left,
    b: Matrix,
    columns: usize,
    bf16: bool,
    /// Whether the sums that were there count.
    adds: bool,
}

/// The products of a group since the last commitment, and those committed that have not been waited for.
#[derive(Default)]
pub struct Group {
    open: Vec<Product>,
    committed: VecDeque<Vec<Product>>,
}

/// A matrix in shared memory as a descriptor says.
struct Matrix {
    start: u64,
    leading: u64,
    stride: u64,
    swizzle: u32,
    /// Whether neighbours lie along the outer axis, and not along the depth.
    outer: bool,
}

impl Matrix {
    fn new(descriptor: u64, outer: bool) -> Result<Matrix, String> {
        let field = |at: u32| ((descriptor >> at) & 0x3fff) << 4;
        if (descriptor >> 49) & 7 != 0 {
            return Err("a descriptor with a base offset".into());
        }
        // 128, 64 and 32 bytes are 1, 2 and 3; tensor maps count the other way round.
        let swizzle = (4 - (descriptor >> 62) as u32) % 4;
        Ok(Matrix { start: field(0), leading: field(16), stride: field(32), swizzle, outer })
    }

    /// The canonical layouts of the ISA.
    fn at(&self, outer: u64, depth: u64) -> u64 {
        let span = 16 << self.swizzle;
        let (chunks, element) = match self.outer {
            true => (outer / 8, outer % 8),
            false => (depth / 8, depth % 8),
        };
        let offset = match (self.outer, self.swizzle) {
            (false, 0) => outer % 8 * 16 + outer / 8 * self.stride + chunks * self.leading,
            (false, _) => outer % 8 * span + outer / 8 * self.stride + chunks * 16,
            (true, 0) => chunks * self.stride + depth % 8 * 16 + depth / 8 * self.leading,
            (true, _) => {
                let across = span / 16;
                chunks % across * 16 + chunks / across * self.leading + depth % 8 * span + depth / 8 * self.stride
            }
        };
        swizzled(self.start + offset + element * 2, self.swizzle)
    }
}

fn members(operand: &Operand) -> Result<Vec<Operand>, String> {
    match operand {
        Operand::Group(members) => Ok(members.clone()),
        _ => Err("not a list of registers".into()),
    }
}

/// A value that all threads have to have in common.
fn same(lanes: &[Thread<'_>], operand: &Operand, ty: Ty) -> Result<u64, String> {
    let first = lanes[0].operand(operand, ty)?;
    for lane in lanes {
        if lane.operand(operand, ty)? != first {
            return Err("threads of a group differ in a value".into());
        }
    }
    Ok(first)
}

impl Group {
    /// What all threads of a group do at an instruction.
    pub fn act(&mut self, lanes: &mut [Thread<'_>], inst: &Inst, shared: &Shared<'_>) -> Result<(), String> {
        match inst.words[0].as_str() {
            "fence" => lanes.iter_mut().for_each(Thread::order_registers),
            "commit_group" => self.committed.push_back(std::mem::take(&mut self.open)),
            "wait_group" => {
                let Operand::Imm(left) = inst.operands[0] else { return Err("not a number".into()) };
                while self.committed.len() as u64 > left {
                    for product in self.committed.pop_front().unwrap_or_default() {
                        product.compute(lanes, shared)?;
                    }
                }
                self.hold(lanes);
            }
            "mma_async" => {
                let product = self.product(lanes, inst)?;
                self.open.push(product);
                self.hold(lanes);
            }
            _ => return Err("another form".into()),
        }
        Ok(())
    }

    /// Has nothing but products touch the registers of those under way.
    fn hold(&self, lanes: &mut [Thread<'_>]) {
        let all = self.open.iter().chain(self.committed.iter().flatten());
        let mut held: Vec<usize> = vec![];
        for product in all {
            let a: &[Operand] = if let Left::Registers(registers) = &product.a { registers } else { &[] };
            held.extend(
                product.sums.iter().chain(a).filter_map(|r| if let Operand::Reg(r) = r { Some(*r) } else { None }),
            );
        }
        lanes.iter_mut().for_each(|lane| lane.hold(&held));
    }

    /// `wgmma.mma_async.sync.aligned.m64nNk16.f32.T.T {d}, a, b, p, 1, 1, [transposed,] transposed`
    fn product(&self, lanes: &[Thread<'_>], inst: &Inst) -> Result<Product, String> {
        let words: Vec<&str> = inst.words.iter().map(String::as_str).collect();
        let ["mma_async", "sync", "aligned", shape, "f32", left, right] = words[..] else {
            return Err("another form".into());
        };
        let columns = shape.strip_prefix("m64n").and_then(|s| s.strip_suffix("k16")).and_then(|n| n.parse().ok());
        let columns: usize = columns.ok_or("another shape")?;
        if left != right
            || !["f16", "bf16"].contains(&left)
            || !columns.is_multiple_of(8)
            || !(8..=256).contains(&columns)
        {
            return Err("other types, or another shape".into());
        }
        let sums = members(&inst.operands[0])?;
        if sums.len() != columns / 2 {
            return Err(format!("{} registers for {columns} columns", sums.len()));
        }
        let in_registers = matches!(inst.operands[1], Operand::Group(_));
        let signs = &inst.operands[4..];
        let turned = |operand: Option<&Operand>| match operand {
            Some(Operand::Imm(turned @ (0 | 1))) => Ok(*turned == 1),
            _ => Err("no word on the order of a matrix".to_string()),
        };
        if signs[..2] != [Operand::Imm(1), Operand::Imm(1)] || signs.len() != if in_registers { 3 } else { 4 } {
            return Err("other factors, or not four or three of them".into());
        }
        let a = match &inst.operands[1] {
            Operand::Group(registers) if registers.len() == 4 => Left::Registers(registers.clone()),
            Operand::Group(_) => return Err("not four registers".into()),
            descriptor => Left::Memory(Matrix::new(same(lanes, descriptor, LONG)?, turned(signs.get(2))?)?),
        };
        let b = Matrix::new(same(lanes, &inst.operands[2], LONG)?, turned(signs.last())?)?;
        let adds = same(lanes, &inst.operands[3], PRED)? == 1;
        // Products of one shape may follow each other on the same sums, and only they.
        let under_way = self.open.iter().chain(self.committed.iter().flatten());
        for other in under_way {
            let shares = sums.iter().any(|r| other.sums.contains(r));
            if shares && other.sums != sums {
                return Err("its sums are partly those of another product under way".into());
            }
            let read = if let Left::Registers(registers) = &a { registers.as_slice() } else { &[] };
            let reads = if let Left::Registers(registers) = &other.a { registers.as_slice() } else { &[] };
            if read.iter().any(|r| other.sums.contains(r)) || sums.iter().any(|r| reads.contains(r)) {
                return Err("it has registers of another product under way".into());
            }
        }
        let registers = if let Left::Registers(registers) = &a { registers.clone() } else { vec![] };
        for lane in lanes {
            lane.are_ordered(sums.iter().chain(&registers))?;
        }
        Ok(Product { sums, a, b, columns, bf16: left == "bf16", adds })
    }
}

impl Product {
    /// Sums are exact before they are rounded once, where a device rounds in an order of its own.
    fn compute(&self, lanes: &mut [Thread<'_>], shared: &Shared<'_>) -> Result<(), String> {
        let value = |bits: u16| match self.bf16 {
            true => bf16::from_bits(bits).to_f64(),
            false => f16::from_bits(bits).to_f64(),
        };
        let read = |matrix: &Matrix, extent: usize| -> Result<Vec<[f64; DEPTH]>, String> {
            let mut rows = vec![[0.0; DEPTH]; extent];
            for (i, row) in rows.iter_mut().enumerate() {
                for (k, element) in row.iter_mut().enumerate() {
                    *element = value(shared.element(matrix.at(i as u64, k as u64))?);
                }
            }
            Ok(rows)
        };
        let b = read(&self.b, self.columns)?;
        let a = match &self.a {
            Left::Memory(matrix) => read(matrix, ROWS)?,
            Left::Registers(registers) => {
                let mut a = vec![[0.0; DEPTH]; ROWS];
                for (l, lane) in lanes.iter().enumerate() {
                    let (row, t) = (l / 32 * 16 + l % 32 / 4, l % 4);
                    for (i, register) in registers.iter().enumerate() {
                        let word = lane.held(register)?;
                        for j in 0..2 {
                            a[row + 8 * (i % 2)][2 * t + j + 8 * (i / 2)] = value((word >> (16 * j)) as u16);
                        }
                    }
                }
                a
            }
        };
        for (l, lane) in lanes.iter_mut().enumerate() {
            let (row, t) = (l / 32 * 16 + l % 32 / 4, l % 4);
            for (i, register) in self.sums.iter().enumerate() {
                let (row, column) = (row + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * t + i % 2);
                let before = if self.adds { f64::from(f32::from_bits(lane.held(register)? as u32)) } else { 0.0 };
                let sum = a[row].iter().zip(&b[column]).map(|(a, b)| a * b).sum::<f64>() + before;
                lane.fill_held(register, u64::from((sum as f32).to_bits()));
            }
        }
        Ok(())
    }
}
