//! The control flow of a plan on the device: flags become guards that launches look at, and loops count there, so that
//! the host need not wait to know where a plan goes.

use super::device::{Device, Function, Memory, Module, Stream};
use super::driver::Address;
use crate::error::Result;
use crate::format::MAX_NESTING;
use std::ffi::c_void;
use std::sync::Arc;

const PTX: &[u8] = include_bytes!("control.ptx");
const NAME: &str = "the control flow of plans";

/// The word on the device that says whether launches are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Guard(u32);

/// The guards of the two sides of a flag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sides {
    pub(crate) yes: Guard,
    pub(crate) no: Guard,
}

/// The code for it and the words of the guards: a pair for each level of nesting.
pub(super) struct Control {
    guards: Function,
    set: Function,
    words: Memory,
    _module: Module,
}

impl Control {
    pub(super) fn new(device: &Arc<Device>) -> Result<Control> {
        let module = Module::load(device, NAME, PTX)?;
        let function = |symbol| module.function(NAME, symbol, None);
        let (guards, set) = (function("kiln_guards")?, function("kiln_set")?);
        let words = Memory::new(device, 2 * MAX_NESTING * size_of::<u32>(), "guards on the device")?;
        Ok(Control { guards, set, words, _module: module })
    }

    pub(super) fn address(&self, guard: Guard) -> Address {
        self.words.start() + u64::from(guard.0) * size_of::<u32>() as u64
    }

    /// Makes the guards of both sides of a flag inside of what `around` guards. Those made there before are lost.
    pub(super) fn sides(&self, stream: &Stream, flag: Address, around: Option<Guard>) -> Result<Sides> {
        let first = around.map_or(0, |guard| (guard.0 & !1) + 2);
        let sides = Sides { yes: Guard(first), no: Guard(first + 1) };
        let around = around.map_or(0, |guard| self.address(guard));
        self.launch(stream, self.guards, &[flag, around, self.address(sides.yes)])?;
        Ok(sides)
    }

    /// Puts a value into an element for the launches to come.
    pub(super) fn set(&self, stream: &Stream, to: Address, value: i64) -> Result<()> {
        self.launch(stream, self.set, &[to, value as u64])
    }

    fn launch(&self, stream: &Stream, function: Function, values: &[u64]) -> Result<()> {
        let mut params = [std::ptr::null_mut::<c_void>(); 3];
        for (param, value) in params.iter_mut().zip(values) {
            *param = std::ptr::from_ref(value).cast_mut().cast();
        }
        // SAFETY: the parameters are those of the two entries above, all of 8 bytes; the plan's reader admits only places
        // that hold the elements.
        unsafe { stream.launch(NAME, function, (1, 1, 0), &mut params) }
    }
}
