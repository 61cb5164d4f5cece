//! The control flow of a bound plan, over whatever runs its launches.

use super::bind::{Binding, Call, Node, Times};
use crate::error::{Error, Result};

/// What the launches of a plan run on, and what can be seen of its memory between them. Places are slots of the binding.
pub(super) trait Machine {
    /// Names what launches can be made to depend on.
    type Guard: Copy;

    fn launch(&mut self, call: &Call) -> Result<()>;

    /// The flag in a place behind the launches so far. Where `ahead`, what depends on it may be launched under guards
    /// instead, with no other control flow in it than branches and loops that do not wait.
    fn test(&mut self, slot: u32, ahead: bool) -> Result<Flag<Self::Guard>>;

    /// The element of i64 in a place behind the launches so far.
    fn count(&mut self, slot: u32) -> Result<i64>;

    /// Puts an element of i64 into a place, for the launches to come.
    fn set(&mut self, slot: u32, value: i64) -> Result<()>;

    /// What the launches to come depend on. Returns what they did before.
    fn guard(&mut self, guard: Option<Self::Guard>) -> Option<Self::Guard>;
}

/// A flag that decides what is launched.
pub(super) enum Flag<G> {
    Known(bool),
    /// Guards of what is wanted if it is set, and if it is not.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only launches on a GPU depend on guards"))]
    Ahead(G, G),
}

/// The most runs of a loop's body that are launched before it is known whether they are wanted.
const AHEAD: i64 = 8;

/// Runs a block and those inside of it. Recursion is as deep as the plan nests, which the reader bounds.
pub(super) fn walk<M: Machine>(machine: &mut M, binding: &Binding, block: u32) -> Result<()> {
    for node in &binding.blocks[block as usize] {
        match *node {
            Node::Launch(ref call) => {
                if call.tasks > 0 {
                    machine.launch(call)?;
                }
            }
            Node::If { cond, then, otherwise } => {
                let ahead = binding.is_short(then) && binding.is_short(otherwise);
                match machine.test(cond, ahead)? {
                    Flag::Known(yes) => walk(machine, binding, if yes { then } else { otherwise })?,
                    Flag::Ahead(yes, no) => {
                        guarded(machine, binding, yes, then)?;
                        guarded(machine, binding, no, otherwise)?;
                    }
                }
            }
            Node::While { cond, body, max, ref label } => {
                let mut times = 0;
                loop {
                    let ahead = binding.is_short(body) && times < max && !is_asked(times);
                    match machine.test(cond, ahead)? {
                        Flag::Known(false) => break,
                        Flag::Known(true) if times == max => {
                            return Err(Error::LoopLimit { label: label.clone(), max });
                        }
                        Flag::Known(true) => walk(machine, binding, body)?,
                        Flag::Ahead(yes, _) => guarded(machine, binding, yes, body)?,
                    }
                    times += 1;
                }
            }
            Node::For { ref count, index, body } => {
                let count = match count {
                    Times::Fixed(count) => *count,
                    Times::Scalar(slot) => machine.count(*slot)?,
                };
                for i in 0..count {
                    if let Some(slot) = index {
                        machine.set(slot, i)?;
                    }
                    walk(machine, binding, body)?;
                }
            }
        }
    }
    Ok(())
}

/// Whether a loop's flag is asked for before its run of this number: before runs 1, 3, 7, 15, 23 and so on, so that what
/// is launched in vain is no more than what has run.
fn is_asked(times: i64) -> bool {
    if times < AHEAD { times > 0 && times & (times + 1) == 0 } else { times % AHEAD == AHEAD - 1 }
}

fn guarded<M: Machine>(machine: &mut M, binding: &Binding, guard: M::Guard, block: u32) -> Result<()> {
    let around = machine.guard(Some(guard));
    let done = walk(machine, binding, block);
    machine.guard(around);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_asked_for_ever_more_runs_at_once() {
        let asked: Vec<i64> = (0..40).filter(|times| is_asked(*times)).collect();
        assert_eq!(asked, [1, 3, 7, 15, 23, 31, 39]);
    }
}
