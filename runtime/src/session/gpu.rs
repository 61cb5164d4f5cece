//! Running a bound plan on a GPU: its launches stand on the stream one after another. What depends on a flag and is short
//! is launched under guards; the host waits for the flags of the rest, of loops only now and then, and for the counts of
//! loops that are computed. A plan that waits for nothing becomes a graph.

use super::Session;
use super::bind::{Binding, Call};
use super::places::Place;
use super::walk::{self, Flag};
use crate::cuda::{Engine, Guard, Launch};
use crate::error::Result;
use crate::format::{Kernel, Lifetime};
use crate::launch::Profiled;
use crate::profile::Profile;
use std::time::Instant;

impl Session {
    /// Runs a bound entry on tensors that are where `input` and `output` say. What is on the host is copied to and from
    /// memory of the session's.
    pub(super) fn execute_on_gpu(
        &mut self,
        entry: usize,
        input: &dyn Fn(usize) -> Option<Place>,
        output: &mut dyn FnMut(usize) -> Option<Place>,
    ) -> Result<()> {
        let artifact = self.artifact.clone();
        let manifest = artifact.manifest();
        let (Some(binding), super::Machine::Gpu(engine)) = (&mut self.bindings[entry], &mut self.machine) else {
            return Ok(());
        };
        let ports = &manifest.entries[entry];
        let inputs = ports.inputs.len();
        let mut moved = false;
        for port in 0..inputs + ports.outputs.len() {
            let place = if port < inputs { input(port) } else { output(port - inputs) };
            let start = match place {
                Some(Place::Device(start)) => start,
                _ => engine.port(entry, port, binding.port_bytes(ports, port))?,
            };
            moved |= binding.place(port, start);
        }
        if moved {
            engine.forget_entry(entry);
        }
        let binding = &*binding;
        let kernels = &manifest.targets[self.target].kernels;
        let profile = self.profile.as_deref();
        let mut run = || {
            engine.begin()?;
            for (i, state) in manifest.states.iter().enumerate() {
                if state.lifetime == Lifetime::Run && state.grows.is_none() {
                    engine.clear_state(i)?;
                }
            }
            for port in 0..inputs {
                if let Some(Place::Host(from)) = input(port) {
                    // SAFETY: the caller's tensors have these bytes, and the end is waited for before they can go.
                    unsafe { engine.upload(entry, port, from, binding.port_bytes(ports, port)) }?;
                }
            }
            let walk = |engine: &mut Engine| {
                walk::walk(&mut Gpu { binding, kernels, engine, profile, guard: None }, binding, 0)
            };
            // A profile hears of single launches.
            let fixed = binding.is_fixed() && profile.is_none();
            if fixed { engine.run_fixed(entry, walk) } else { walk(engine) }?;
            for port in inputs..inputs + ports.outputs.len() {
                if let Some(Place::Host(to)) = output(port - inputs) {
                    // SAFETY: as above.
                    unsafe { engine.download(to, entry, port, binding.port_bytes(ports, port)) }?;
                }
            }
            engine.download_status()
        };
        let done = run();
        // Also after an error: copies from and into the caller's memory may be under way.
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
