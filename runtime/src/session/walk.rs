//! The control flow of a bound plan, over whatever runs its launches.

use super::bind::{Binding, Call, Node, Times};
use crate::error::{Error, Result};

/// What the launches of a plan run on, and what can be seen of its memory between them. Places are slots of the binding.
pub(super) trait Machine {
    fn launch(&mut self, call: &Call) -> Result<()>;

    /// The first bytes in a place, once the launches so far are done.
    fn read<const N: usize>(&mut self, slot: u32) -> Result<[u8; N]>;

    /// Puts an element of i64 into a place, for the launches to come.
    fn write(&mut self, slot: u32, value: i64) -> Result<()>;
}

/// Runs a block and those inside of it. Recursion is as deep as the plan nests, which the reader bounds.
pub(super) fn walk(machine: &mut impl Machine, binding: &Binding, block: u32) -> Result<()> {
    for node in &binding.blocks[block as usize] {
        match *node {
            Node::Launch(ref call) => {
                if call.tasks > 0 {
                    machine.launch(call)?;
                }
            }
            Node::If { cond, then, otherwise } => {
                let block = if test(machine, cond)? { then } else { otherwise };
                walk(machine, binding, block)?;
            }
            Node::While { cond, body, max, ref label } => {
                let mut times = 0;
                while test(machine, cond)? {
                    if times == max {
                        return Err(Error::LoopLimit { label: label.clone(), max });
                    }
                    times += 1;
                    walk(machine, binding, body)?;
                }
            }
            Node::For { ref count, index, body } => {
                let count = match count {
                    Times::Fixed(count) => *count,
                    Times::Scalar(slot) => i64::from_ne_bytes(machine.read(*slot)?),
                };
                for i in 0..count {
                    if let Some(slot) = index {
                        machine.write(slot, i)?;
                    }
                    walk(machine, binding, body)?;
                }
            }
        }
    }
    Ok(())
}

fn test(machine: &mut impl Machine, slot: u32) -> Result<bool> {
    Ok(machine.read::<1>(slot)? != [0])
}
