//! The threads of a block, and what they do together.
//!
//! A warp runs until its lanes wait for others, the last warp first. What the lanes of a warp or the warps of a group do
//! together, all of them do at the same place. Copies to shared memory arrive when they are waited for, and not before; where
//! nobody can go on and nothing is on its way, the block is stuck, which is an error.

use super::{
    group::{GROUP, Group},
    ptx::{Function, Inst, Kind, Module, Operand, Ty},
    run::{Memory, Pause, Place, Thread},
    shared::Shared,
};
use half::{bf16, f16};
use std::collections::HashMap;

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
    let shared = Shared::new(module, entry, bytes);
    let thread = |thread| Thread::new(module, entry, params, (memory, &shared), Place { thread, ..place });
    let mut threads: Vec<Thread<'_>> = (0..place.threads).map(thread).collect::<Result<_, _>>()?;
    let mut groups: Vec<Group> = threads.chunks(GROUP).map(|_| Group::default()).collect();
    let mut barriers = HashMap::new();
    loop {
        let mut moved = false;
        for (number, lanes) in threads.chunks_mut(WARP).enumerate().rev() {
            moved |= warp(lanes).map_err(|(lane, e)| format!("thread {}: {e}", number * WARP + lane))?;
        }
        for (number, lanes) in threads.chunks_mut(GROUP).enumerate() {
            let done = group(lanes, &mut groups[number], &shared);
            moved |= done.map_err(|e| format!("group {number}: {e}"))?;
        }
        moved |= meet(&mut threads, &mut barriers)?;
        if threads.iter().all(|t| t.stands() == Some(Pause::Done)) {
            return Ok(());
        }
        if !moved && !shared.deliver(memory)? {
            let waiting = |(i, t): (usize, &Thread<'_>)| Some(format!("thread {i} at {}", t.next()?.text));
            let waiting: Vec<String> = threads.iter().enumerate().step_by(WARP).filter_map(waiting).collect();
            return Err(format!("a barrier that not all threads come to: {}", waiting.join(", ")));
        }
    }
}

/// A barrier of the block that somebody has come to: the threads that it is for, those that have come, and the warps that
/// wait.
struct Barrier {
    threads: usize,
    come: usize,
    waiting: Vec<usize>,
}

/// Lets warps meet at the barriers of the block; whether any came further. `barriers` are by number.
fn meet(threads: &mut [Thread<'_>], barriers: &mut HashMap<u64, Barrier>) -> Result<bool, String> {
    const NUMBER: Ty = Ty { kind: Kind::Unsigned, bits: 32 };
    let all = threads.len();
    let mut moved = false;
    for warp in 0..all.div_ceil(WARP) {
        let lanes = &threads[warp * WARP..all.min((warp + 1) * WARP)];
        let waits = barriers.values().any(|b| b.waiting.contains(&warp));
        if waits || lanes.iter().any(|lane| lane.stands() != Some(Pause::Block)) {
            continue;
        }
        let Some(inst) = lanes[0].next() else { continue };
        if lanes.iter().any(|lane| lane.next().is_none_or(|i| !std::ptr::eq(i, inst))) {
            return Err(format!("warp {warp} is not together at {}", inst.text));
        }
        // `bar.sync number[, threads]`, or `bar.red.or.pred to, number, from` for all.
        let reduces = inst.words.iter().any(|w| w == "red");
        if reduces && !(inst.operands.len() == 3 && inst.words.iter().any(|w| w == "or")) {
            return Err(format!("another form of a barrier: {}", inst.text));
        }
        let number = lanes[0].operand(&inst.operands[usize::from(reduces)], NUMBER)?;
        let threads_of = match inst.operands.get(1) {
            Some(n) if !reduces => lanes[0].operand(n, NUMBER)? as usize,
            _ => all,
        };
        if number >= 16 || !threads_of.is_multiple_of(WARP) && threads_of != all {
            return Err(format!("barrier {number} for {threads_of} threads"));
        }
        let fresh = || Barrier { threads: threads_of, come: 0, waiting: vec![] };
        let barrier = barriers.entry(number).or_insert_with(fresh);
        barrier.come += lanes.len();
        if barrier.threads != threads_of || barrier.come > threads_of {
            return Err(format!("{}: barrier {number} is for {} threads", inst.text, barrier.threads));
        }
        barrier.waiting.push(warp);
        let arrives = inst.words.iter().any(|w| w == "arrive");
        let full = barrier.come == threads_of;
        let mut going = if arrives { vec![barrier.waiting.pop().unwrap_or(warp)] } else { vec![] };
        if full {
            going.extend(barriers.remove(&number).map(|b| b.waiting).unwrap_or_default());
        }
        if full && reduces {
            reduce(threads)?;
        }
        moved |= !going.is_empty();
        for warp in going {
            for thread in &mut threads[warp * WARP..all.min((warp + 1) * WARP)] {
                thread.pass();
                thread.has_met(true);
            }
        }
    }
    Ok(moved)
}

/// `bar.red.or.pred to, number, from`, at which all stand.
fn reduce(threads: &mut [Thread<'_>]) -> Result<(), String> {
    const PRED: Ty = Ty { kind: Kind::Pred, bits: 1 };
    let operand = |thread: &Thread<'_>, i: usize| {
        let inst = thread.next().filter(|inst| inst.words.iter().any(|w| w == "red"));
        inst.map(|inst| inst.operands[i].clone()).ok_or("a barrier that reduces for some and not for others")
    };
    let mut any = 0;
    for thread in threads.iter() {
        any |= thread.operand(&operand(thread, 2)?, PRED)?;
    }
    for thread in threads {
        let to = operand(thread, 0)?;
        thread.assign(&to, any, PRED)?;
    }
    Ok(())
}

/// Has the warps of a group do what they do together, if all have come to it.
fn group(lanes: &mut [Thread<'_>], group: &mut Group, shared: &Shared<'_>) -> Result<bool, String> {
    if lanes.iter().any(|lane| lane.stands() != Some(Pause::Group)) {
        return Ok(false);
    }
    let Some(inst) = lanes[0].next() else { return Ok(false) };
    if lanes.len() != GROUP || lanes.iter().any(|lane| lane.next().is_none_or(|i| !std::ptr::eq(i, inst))) {
        return Err(format!("it is not together at {}", inst.text));
    }
    group.act(lanes, inst, shared).map_err(|e| format!("{}: {e}", inst.text))?;
    lanes.iter_mut().for_each(Thread::pass);
    Ok(true)
}

/// Runs the lanes of a warp until they wait for others; whether any came further.
fn warp(lanes: &mut [Thread<'_>]) -> Result<bool, (usize, String)> {
    let mut moved = false;
    loop {
        for (i, lane) in lanes.iter_mut().enumerate() {
            moved |= lane.advance().map_err(|e| (i, e))?;
        }
        if lanes.iter().any(|lane| lane.stands() == Some(Pause::Wait)) {
            return Ok(moved);
        }
        let first = lanes[0].stands();
        if let Some(other) = lanes.iter().position(|lane| lane.stands() != first) {
            let (other_stands, first) = (lanes[other].stands(), first);
            return Err((other, format!("{other_stands:?} while lane 0 is at {first:?}")));
        }
        let Some(inst) = lanes[0].next().filter(|_| first == Some(Pause::Warp)) else { return Ok(moved) };
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
        for lane in lanes.iter_mut() {
            lane.pass();
            if inst.op == "bar" {
                lane.has_met(false);
            }
        }
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
        lane.touches(at, 16, false)?;
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
