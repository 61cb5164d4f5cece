//! Races within a block: two threads touch a byte, one writes it, and no barrier of the block or of their warp stands between.
//!
//! Relaxed accesses are meant to meet, and are left out. Only of functions whose threads wait for each other by nothing else: other ways of waiting are not followed.

use super::ptx::{Function, Module};
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

const WARP: u32 = 32;
/// Bytes that are looked up together.
const WORD: u64 = 4;

/// Who did something, and after how many barriers of the block and of the warp.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct When {
    pub thread: u32,
    pub barriers: u32,
    pub warp_barriers: u32,
}

impl When {
    /// Whether this came before the other in any order in which threads may run.
    fn precedes(self, other: When) -> bool {
        let warp = |t: u32| t / WARP == other.thread / WARP;
        self.thread == other.thread
            || self.barriers < other.barriers
            || warp(self.thread) && self.warp_barriers < other.warp_barriers
    }
}

/// Those that read a byte since the last barrier.
#[derive(Clone, Copy, Default)]
struct Readers {
    last: Option<When>,
    /// Whether several did, and whether these are of several warps.
    several: bool,
    warps: bool,
}

#[derive(Clone, Copy, Default)]
struct Byte {
    writer: Option<When>,
    readers: Readers,
}

/// Addresses are spread by a multiplication.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

type Words = HashMap<u64, [Byte; WORD as usize], BuildHasherDefault<Spread>>;

pub struct Races {
    words: Option<RefCell<Words>>,
}

impl Races {
    pub fn of(module: &Module, entry: &Function) -> Races {
        Races { words: is_followed(module, entry).then(RefCell::default) }
    }

    /// Notes that bytes are read or written.
    pub fn note(&self, start: u64, bytes: u64, writes: bool, when: When) -> Result<(), String> {
        let Some(words) = &self.words else { return Ok(()) };
        let mut words = words.borrow_mut();
        for word in start / WORD..(start + bytes).div_ceil(WORD) {
            let state = words.entry(word).or_default();
            for (i, byte) in (word * WORD..).zip(state) {
                if (start..start + bytes).contains(&i) {
                    let done = if writes { byte.write(when) } else { byte.read(when) };
                    done.map_err(|other| format!("{i:#x}: {other:?} and {when:?} are not in order"))?;
                }
            }
        }
        Ok(())
    }
}

impl Byte {
    fn read(&mut self, when: When) -> Result<(), When> {
        if let Some(other) = self.writer.filter(|w| !w.precedes(when)) {
            return Err(other);
        }
        let before = self.readers;
        self.readers = match before.last.filter(|last| last.barriers == when.barriers && last.thread != when.thread) {
            Some(last) => Readers {
                last: Some(when),
                several: true,
                warps: before.warps || last.thread / WARP != when.thread / WARP,
            },
            None if before.last.is_some_and(|last| last.barriers == when.barriers) => {
                Readers { last: Some(when), ..before }
            }
            None => Readers { last: Some(when), several: false, warps: false },
        };
        Ok(())
    }

    fn write(&mut self, when: When) -> Result<(), When> {
        if let Some(other) = self.writer.filter(|w| !w.precedes(when)) {
            return Err(other);
        }
        if let Some(last) = self.readers.last.filter(|last| last.barriers == when.barriers) {
            // Of those of a warp the last one has passed as many of its barriers as any.
            let warp = last.thread / WARP == when.thread / WARP && last.warp_barriers < when.warp_barriers;
            let ordered = match (self.readers.several, self.readers.warps) {
                (false, _) => last.precedes(when),
                (true, false) => warp,
                (true, true) => false,
            };
            if !ordered {
                return Err(last);
            }
        }
        *self = Byte { writer: Some(when), readers: Readers::default() };
        Ok(())
    }
}

/// Whether threads wait at barriers of the whole block and of warps only, and tell each other nothing by other means.
fn is_followed(module: &Module, entry: &Function) -> bool {
    let (mut todo, mut seen) = (vec![entry], HashSet::new());
    while let Some(function) = todo.pop() {
        if !seen.insert(&function.name) {
            continue;
        }
        for inst in &function.insts {
            let has = |word: &str| inst.words.iter().any(|w| w == word);
            let other = match inst.op.as_str() {
                "bar" | "barrier" => has("arrive") || has("sync") && !has("warp") && inst.operands.len() > 1,
                "cp" => has("bulk") || has("mbarrier"),
                "mbarrier" | "wgmma" | "atom" | "red" | "fence" | "membar" => true,
                "ld" | "st" => has("acquire") || has("release") || has("volatile"),
                _ => false,
            };
            if other {
                return false;
            }
            if inst.op == "call" {
                todo.extend(module.functions.values().filter(|f| inst.text.contains(f.name.as_str())));
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(thread: u32, barriers: u32, warp_barriers: u32) -> When {
        When { thread, barriers, warp_barriers }
    }

    #[test]
    fn what_a_barrier_orders_is_no_race() {
        let races = Races { words: Some(RefCell::default()) };
        let (read, write) = (false, true);
        let note = |at, bytes, writes, when| races.note(at, bytes, writes, when).is_ok();
        assert!(note(64, 16, write, when(0, 0, 0)) && note(80, 4, write, when(1, 0, 0)));
        assert!(!note(76, 4, read, when(1, 0, 0)) && !note(79, 1, write, when(40, 0, 0)));
        assert!(note(76, 4, read, when(1, 0, 1)) && !note(76, 4, read, when(40, 0, 1)));
        assert!(note(76, 4, read, when(40, 1, 0)) && note(76, 4, read, when(41, 1, 0)));
        assert!(!note(76, 4, write, when(40, 1, 0)) && note(76, 4, write, when(42, 1, 1)));
        // Bytes beside each other are each for themselves.
        assert!(note(100, 1, write, when(1, 1, 0)) && note(101, 1, write, when(2, 1, 0)));
        // Readers of two warps.
        assert!(note(104, 4, read, when(1, 1, 0)) && note(104, 4, read, when(33, 1, 0)));
        assert!(!note(104, 4, write, when(1, 1, 5)) && note(104, 4, write, when(1, 2, 5)));
    }
}
