//! The threads of a block, and what they do together.
//!
//! A warp runs until all of its lanes stand at a barrier of the block, the last warp first. What its lanes do together, all of
//! them do at the same place. Copies to shared memory arrive when they are waited for, and not before.

use super::{
    ptx::{Function, Inst, Kind, Module, Operand, Ty},
    run::{Memory, Pause, Place, Shared, Thread},
};
use half::{bf16, f16};

const WARP: usize = 32;
const WORD: Ty = Ty { kind: Kind::Bits, bits: 32 };

/// Runs a block of `place.threads` threads with bytes of shared memory from the launch; what is wrong, and with which of
/// them.
pub fn run(
    module: &Module,
    entry: &Function,
    params: &[u64],
    (memory, bytes): (&dyn Memory, usize),
    place: Place,
) -> Result<(), String> {
    let shared = Shared::new(module, bytes);
    let thread = |thread| Thread::new(module, entry, params, (memory, &shared), Place { thread, ..place });
    let mut threads: Vec<Thread<'_>> = (0..place.threads).map(thread).collect::<Result<_, _>>()?;
    loop {
        let mut pauses = vec![];
        for (number, lanes) in threads.chunks_mut(WARP).enumerate().rev() {
            pauses.push(warp(lanes).map_err(|(lane, e)| format!("thread {}: {e}", number * WARP + lane))?);
        }
        if pauses.iter().all(|pause| *pause == Pause::Done) {
            return Ok(());
        }
        if pauses.contains(&Pause::Done) {
            return Err("a barrier that not all threads come to".into());
        }
        threads.iter_mut().for_each(Thread::pass);
    }
}

/// Runs the lanes of a warp until all have ended or all stand at a barrier of the block.
fn warp(lanes: &mut [Thread<'_>]) -> Result<Pause, (usize, String)> {
    loop {
        let mut pauses = vec![];
        for (i, lane) in lanes.iter_mut().enumerate() {
            pauses.push(lane.run().map_err(|e| (i, e))?);
        }
        let first = pauses[0];
        if let Some(other) = pauses.iter().position(|pause| *pause != first) {
            return Err((other, format!("{:?} while lane 0 is at {first:?}", pauses[other])));
        }
        let Some(inst) = lanes[0].next().filter(|_| first == Pause::Warp) else { return Ok(first) };
        if let Some(other) = lanes.iter().position(|lane| lane.next().is_none_or(|i| !std::ptr::eq(i, inst))) {
            return Err((other, format!("it is not with lane 0 at {}", inst.text)));
        }
        let done = match inst.op.as_str() {
            "shfl" => shuffle(lanes, inst),
            "ldmatrix" => load_matrices(lanes, inst),
            "mma" => multiply(lanes, inst),
            _ => Ok(()),
        };
        done.map_err(|e| (0, format!("{}: {e}", inst.text)))?;
        lanes.iter_mut().for_each(Thread::pass);
    }
}

fn whole(lanes: &[Thread<'_>]) -> Result<(), String> {
    if lanes.len() == WARP { Ok(()) } else { Err("of a part of a warp".into()) }
}

/// `shfl.sync.bfly.b32 to, from, mask, 31, -1`
fn shuffle(lanes: &mut [Thread<'_>], inst: &Inst) -> Result<(), String> {
    whole(lanes)?;
    let [to, from, mask, Operand::Imm(31), Operand::Imm(u64::MAX)] = &inst.operands[..] else {
        return Err("another form".into());
    };
    let values: Vec<u64> = lanes.iter().map(|lane| lane.operand(from, WORD)).collect::<Result<_, _>>()?;
    let mask = lanes[0].operand(mask, WORD)? as usize;
    for (i, lane) in lanes.iter_mut().enumerate() {
        lane.assign(to, values[i ^ mask], WORD)?;
    }
    Ok(())
}

fn members(operand: &Operand) -> Result<&[Operand], String> {
    match operand {
        Operand::Group(members) => Ok(members),
        _ => Err("not a list of registers".into()),
    }
}

/// `ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16 {..}, [address]`
fn load_matrices(lanes: &mut [Thread<'_>], inst: &Inst) -> Result<(), String> {
    whole(lanes)?;
    let registers = members(&inst.operands[0])?;
    let transposed = inst.words.iter().any(|w| w == "trans");
    // The rows of all matrices.
    let mut rows = vec![];
    for lane in lanes.iter() {
        let at = lane.place_of(&inst.operands[1], 16)?;
        // Checked just now.
        rows.push(unsafe { (at as *const [u16; 8]).read() });
    }
    for (l, lane) in lanes.iter_mut().enumerate() {
        let (g, t) = (l / 4, l % 4);
        for (i, register) in registers.iter().enumerate() {
            let element = |j: usize| match transposed {
                true => rows[8 * i + 2 * t + j][g],
                false => rows[8 * i + g][2 * t + j],
            };
            lane.assign(register, u64::from(element(0)) | u64::from(element(1)) << 16, WORD)?;
        }
    }
    Ok(())
}

/// `mma.sync.aligned.m16n8k16.row.col.f32.T.T.f32 {d}, {a}, {b}, {c}`. Sums are exact before they are rounded once, where a
/// device rounds in an order of its own.
fn multiply(lanes: &mut [Thread<'_>], inst: &Inst) -> Result<(), String> {
    whole(lanes)?;
    let is = |word: &str| inst.words.iter().any(|w| w == word);
    if !is("m16n8k16") || !is("row") || !is("col") {
        return Err("another form".into());
    }
    let value = |bits: u16| match is("bf16") {
        true => bf16::from_bits(bits).to_f64(),
        false => f16::from_bits(bits).to_f64(),
    };
    let words = |lane: &Thread<'_>, operand: &Operand| -> Result<Vec<u32>, String> {
        members(operand)?.iter().map(|r| Ok(lane.operand(r, WORD)? as u32)).collect()
    };
    let (mut a, mut b) = ([[0.0; 16]; 16], [[0.0; 8]; 16]);
    for (l, lane) in lanes.iter().enumerate() {
        let (g, t) = (l / 4, l % 4);
        for (i, word) in words(lane, &inst.operands[1])?.into_iter().enumerate() {
            for j in 0..2 {
                a[g + 8 * (i % 2)][2 * t + j + 8 * (i / 2)] = value((word >> (16 * j)) as u16);
            }
        }
        for (i, word) in words(lane, &inst.operands[2])?.into_iter().enumerate() {
            for j in 0..2 {
                b[2 * t + j + 8 * i][g] = value((word >> (16 * j)) as u16);
            }
        }
    }
    for (l, lane) in lanes.iter_mut().enumerate() {
        let (g, t) = (l / 4, l % 4);
        let sums = words(lane, &inst.operands[3])?;
        for (i, register) in members(&inst.operands[0])?.iter().enumerate() {
            let (row, column) = (g + 8 * (i / 2), 2 * t + i % 2);
            let sum = (0..16).map(|k| a[row][k] * b[k][column]).sum::<f64>() + f64::from(f32::from_bits(sums[i]));
            lane.assign(register, u64::from((sum as f32).to_bits()), WORD)?;
        }
    }
    Ok(())
}
