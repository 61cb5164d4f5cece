//! Running a bound plan on a GPU: its launches stand on the stream one after another. What depends on a flag and is short
//! is launched under guards; the host waits for the flags of the rest, of loops only now and then, and for the counts of
//! loops that are computed. A plan that waits for nothing becomes a graph.

use super::Session;
use super::bind::{Binding, Call};
use super::walk::{self, Flag};
use crate::cuda::{Engine, Guard, Launch};
use crate::error::Result;
use crate::format::{Kernel, Lifetime};
use crate::launch::Profiled;
use crate::profile::Profile;
use crate::tensor::{TensorView, byte_len};
use std::time::Instant;

impl Session {
    /// Runs a bound entry. `output(port)` is where the bytes of an output go, if anywhere: as many as it has.
    pub(super) fn execute_on_gpu(
        &mut self,
        entry: usize,
        inputs: &[(&str, TensorView)],
        output: &mut dyn FnMut(usize) -> Option<*mut u8>,
    ) -> Result<()> {
        let artifact = self.artifact.clone();
        let manifest = artifact.manifest();
        let (Some(binding), super::Machine::Gpu(engine)) = (&self.bindings[entry], &mut self.machine) else {
            return Ok(());
        };
        let ports = &manifest.entries[entry];
        let kernels = &manifest.targets[self.target].kernels;
        let profile = self.profile.as_deref();
        let mut run = || {
            engine.begin()?;
            for (i, state) in manifest.states.iter().enumerate() {
                if state.lifetime == Lifetime::Run && state.grows.is_none() {
                    engine.clear_state(i)?;
                }
            }
            for (i, port) in ports.inputs.iter().enumerate() {
                if let Some((_, tensor)) = inputs.iter().find(|(name, _)| *name == port.name) {
                    engine.upload(entry, i, tensor.bytes())?;
                }
            }
            let walk = |engine: &mut Engine| {
                walk::walk(&mut Gpu { binding, kernels, engine, profile, guard: None }, binding, 0)
            };
            // A profile hears of single launches.
            let fixed = binding.is_fixed() && profile.is_none();
            if fixed { engine.run_fixed(entry, walk) } else { walk(engine) }?;
            for (i, (port, shape)) in ports.outputs.iter().zip(&binding.output_shapes).enumerate() {
                if let (Some(to), Some(len)) = (output(i), byte_len(port.elem, shape)) {
                    // SAFETY: the caller's tensors have these bytes, and the end is waited for before they can go.
                    unsafe { engine.download(to, entry, ports.inputs.len() + i, len) }?;
                }
            }
            engine.download_status()
        };
        let done = run();
        // Also after an error: copies into the caller's memory may be under way.
        let waited = engine.wait();
        done?;
        waited?;
        if let Some((kernel, status)) = engine.failed() {
            return Err(binding.failure(&kernels[kernel], kernel as u32, status));
        }
        self.has_run(entry)
    }
}

struct Gpu<'a> {
    binding: &'a Binding,
    kernels: &'a [Kernel],
    engine: &'a mut Engine,
    profile: Option<&'a dyn Profile>,
    /// Of the launches to come.
    guard: Option<Guard>,
}

impl walk::Machine for Gpu<'_> {
    type Guard = Guard;

    fn test(&mut self, slot: u32, ahead: bool) -> Result<Flag<Guard>> {
        let flag = self.binding.bufs[slot as usize];
        // What is launched in vain is no launch that a profile should hear of.
        if ahead && self.profile.is_none() {
            let sides = self.engine.guards(flag, self.guard)?;
            return Ok(Flag::Ahead(sides.yes, sides.no));
        }
        Ok(Flag::Known(self.engine.read::<1>(flag)? != [0]))
    }

    fn count(&mut self, slot: u32) -> Result<i64> {
        Ok(i64::from_le_bytes(self.engine.read(self.binding.bufs[slot as usize])?))
    }

    fn set(&mut self, slot: u32, value: i64) -> Result<()> {
        self.engine.set(self.binding.bufs[slot as usize], value)
    }

    fn guard(&mut self, guard: Option<Guard>) -> Option<Guard> {
        std::mem::replace(&mut self.guard, guard)
    }

    fn launch(&mut self, call: &Call) -> Result<()> {
        let names = &self.kernels[call.kernel as usize];
        let launch = Launch {
            kernel: call.kernel,
            names,
            bufs: &self.binding.bufs[call.bufs as usize..][..call.args as usize],
            sizes: &self.binding.sizes[call.sizes as usize..call.limits.start as usize],
            symbols: &self.binding.symbols,
            tasks: call.tasks,
            guard: self.guard,
        };
        let Some(hook) = self.profile else { return self.engine.launch(&launch) };
        let start = Instant::now();
        let duration = self.engine.launch_timed(&launch)?;
        Profiled { hook, kernel: &names.symbol, label: &names.label }.report_as(0, start, duration);
        Ok(())
    }
}
