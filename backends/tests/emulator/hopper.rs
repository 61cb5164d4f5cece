//! What a thread does alone of what only Hopper has, and whose its registers are while products of its group are under way.

use super::{
    ptx::{Inst, Operand},
    run::Thread,
    tile,
};

/// Whether a thread does the instruction alone, and on Hopper only.
pub fn is_on_hopper(op: &str, words: &[String]) -> bool {
    match op {
        "mbarrier" | "setmaxnreg" => true,
        "fence" => words[0] == "mbarrier_init" || words[0] == "proxy",
        "cp" => words[1] == "bulk",
        _ => false,
    }
}

impl Thread<'_> {
    /// Whether an address is that of a parameter that is no number.
    pub fn is_parameter(&self, at: u64) -> bool {
        let frame = self.frames.first();
        frame.is_some_and(|f| f.function.arrays.iter().any(|slot| f.slots[*slot] == at))
    }

    /// Registers that nothing but products under way may touch.
    pub fn hold(&mut self, registers: &[usize]) {
        let Some(frame) = self.frames.last_mut() else { return };
        frame.held = vec![false; frame.registers.len()];
        registers.iter().for_each(|r| frame.held[*r] = true);
    }

    /// A fence between what others do with registers and products.
    pub fn order_registers(&mut self) {
        let Some(frame) = self.frames.last_mut() else { return };
        frame.unordered = vec![false; frame.registers.len()];
    }

    /// Whether there was a fence since the registers were written.
    pub fn are_ordered<'a>(&self, registers: impl Iterator<Item = &'a Operand>) -> Result<(), String> {
        let frame = self.frames.last().ok_or("it has ended")?;
        for register in registers {
            let Operand::Reg(r) = register else { return Err("not a register".into()) };
            if frame.unordered.get(*r) != Some(&false) {
                return Err("no fence since a register was written".into());
            }
        }
        Ok(())
    }

    /// The value of a register of a product.
    pub fn held(&self, register: &Operand) -> Result<u64, String> {
        let (Operand::Reg(r), Some(frame)) = (register, self.frames.last()) else {
            return Err("not a register".into());
        };
        Ok(frame.registers[*r])
    }

    pub fn fill_held(&mut self, register: &Operand, value: u64) {
        if let (Operand::Reg(r), Some(frame)) = (register, self.frames.last_mut()) {
            frame.registers[*r] = value;
        }
    }

    /// What a thread alone does of what only Hopper has.
    pub fn on_hopper(&mut self, inst: &Inst) -> Result<(), String> {
        match (inst.op.as_str(), inst.words[0].as_str()) {
            ("mbarrier", _) => self.shared.barriers.act(self, inst),
            ("cp", _) => {
                let copy = tile::begin(self, inst, self.shared)?;
                self.shared.tiles.borrow_mut().push(copy);
                Ok(())
            }
            ("fence", "mbarrier_init") => {
                self.shared.barriers.show();
                Ok(())
            }
            ("fence", "proxy") => {
                self.shared.barriers.show();
                self.shared.show(self.place.thread);
                Ok(())
            }
            ("setmaxnreg", "inc" | "dec") => match inst.operands[0] {
                Operand::Imm(count) if count % 8 == 0 && (24..=256).contains(&count) => Ok(()),
                _ => Err("a number of registers that there is not".into()),
            },
            _ => Err("another form".into()),
        }
    }
}
