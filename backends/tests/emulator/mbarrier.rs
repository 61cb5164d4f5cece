//! Barriers in shared memory: `mbarrier` objects with their phases, arrivals and bytes that are on their way.

use super::{
    ptx::{Inst, Kind, Ty},
    run::Thread,
};
use std::{cell::RefCell, collections::HashMap};

const COUNT: Ty = Ty { kind: Kind::Unsigned, bits: 32 };

struct Barrier {
    /// Arrivals that a phase waits for, and those that are missing.
    count: u64,
    pending: u64,
    /// Bytes that are expected and have not come.
    bytes: i64,
    /// The parity of the phase under way.
    phase: u64,
    /// Whether a fence has shown it to what copies.
    shown: bool,
}

impl Barrier {
    fn end_of_phase(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase ^= 1;
            self.pending = self.count;
        }
    }
}

/// Those of a block, by address.
#[derive(Default)]
pub struct Barriers {
    all: RefCell<HashMap<u64, Barrier>>,
}

impl Barriers {
    fn with<T>(&self, at: u64, act: impl FnOnce(&mut Barrier) -> Result<T, String>) -> Result<T, String> {
        let mut all = self.all.borrow_mut();
        act(all.get_mut(&at).ok_or_else(|| format!("there is no barrier at {at:#x}"))?)
    }

    /// Shows all of them to the copies of tiles.
    pub fn show(&self) {
        self.all.borrow_mut().values_mut().for_each(|b| b.shown = true);
    }

    /// Whether a copy may name it.
    pub fn is_shown(&self, at: u64) -> Result<(), String> {
        let shown = self.with(at, |b| Ok(b.shown))?;
        if shown { Ok(()) } else { Err("no fence since the barrier was made".into()) }
    }

    /// Bytes that have come.
    pub fn complete(&self, at: u64, bytes: i64) -> Result<(), String> {
        self.with(at, |b| {
            b.bytes -= bytes;
            b.end_of_phase();
            Ok(())
        })
    }

    /// Whether the phase of a parity has ended.
    fn ended(&self, at: u64, parity: u64) -> Result<bool, String> {
        self.with(at, |b| Ok(b.phase != parity & 1))
    }

    /// `mbarrier.init`, `arrive` and `arrive.expect_tx`
    pub fn act(&self, thread: &Thread<'_>, inst: &Inst) -> Result<(), String> {
        let operation: Vec<&str> = inst.words.iter().map(String::as_str).take(2).collect();
        match operation[..] {
            ["init", _] => {
                let at = thread.shared_place(&inst.operands[0], 8)?;
                let count = thread.operand(&inst.operands[1], COUNT)?;
                if !(1..1 << 20).contains(&count) {
                    return Err(format!("a barrier for {count} arrivals"));
                }
                let barrier = Barrier { count, pending: count, bytes: 0, phase: 0, shown: false };
                self.all.borrow_mut().insert(at, barrier);
                Ok(())
            }
            ["arrive", rest] => {
                let at = thread.shared_place(&inst.operands[1], 8)?;
                let bytes = match rest {
                    "expect_tx" => thread.operand(&inst.operands[2], COUNT)? as i64,
                    _ => 0,
                };
                self.with(at, |b| {
                    b.pending = b.pending.checked_sub(1).ok_or("more arrivals than the barrier is for")?;
                    b.bytes += bytes;
                    b.end_of_phase();
                    Ok(())
                })
            }
            _ => Err("another form".into()),
        }
    }

    /// `mbarrier.try_wait.parity.shared::cta.b64 p, [address], parity`: whether it goes on, and with what. Now and then it
    /// gives up though the phase has ended, as it may.
    pub fn try_wait(&self, thread: &Thread<'_>, inst: &Inst) -> Result<Option<bool>, String> {
        if inst.words.get(1).is_none_or(|w| w != "parity") {
            return Err("another form".into());
        }
        let at = thread.shared_place(&inst.operands[1], 8)?;
        let ended = self.ended(at, thread.operand(&inst.operands[2], COUNT)?)?;
        Ok(ended.then(|| thread.tries() % 2 == 1))
    }
}
