//! Running a bound plan on a GPU. The host decides where a plan's control flow goes, so it waits wherever that reads a
//! value; launches without any stand on the stream one after another.

use super::Session;
use super::bind::{Binding, Node, Times};
use crate::cuda::{Engine, Launch};
use crate::error::{Error, Result};
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
                if state.lifetime == Lifetime::Run {
                    engine.clear_state(i)?;
                }
            }
            for (i, port) in ports.inputs.iter().enumerate() {
                if let Some((_, tensor)) = inputs.iter().find(|(name, _)| *name == port.name) {
                    engine.upload(entry, i, tensor.bytes())?;
                }
            }
            let straight = binding.blocks[0].iter().all(|node| matches!(node, Node::Launch { .. }));
            let walk = |engine: &mut Engine| Walk { binding, kernels, engine, profile }.block(0);
            // A profile hears of single launches.
            if straight && profile.is_none() { engine.run_fixed(entry, walk) } else { walk(engine) }?;
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
        if !self.verified {
            self.artifact.verify()?;
            self.verified = true;
        }
        Ok(())
    }
}

struct Walk<'a> {
    binding: &'a Binding,
    kernels: &'a [Kernel],
    engine: &'a mut Engine,
    profile: Option<&'a dyn Profile>,
}

impl Walk<'_> {
    /// Recursion is as deep as the plan nests, which the reader bounds.
    fn block(&mut self, block: u32) -> Result<()> {
        for node in &self.binding.blocks[block as usize] {
            match *node {
                Node::Launch { kernel, bufs, args, sizes, tasks, ref limits } => {
                    if tasks > 0 {
                        self.launch(Launch {
                            kernel,
                            names: &self.kernels[kernel as usize],
                            bufs: &self.binding.bufs[bufs as usize..][..args as usize],
                            sizes: &self.binding.sizes[sizes as usize..limits.start as usize],
                            tasks,
                        })?;
                    }
                }
                Node::If { cond, then, otherwise } => self.block(if self.test(cond)? { then } else { otherwise })?,
                Node::While { cond, body, max, ref label } => {
                    let mut times = 0;
                    while self.test(cond)? {
                        if times == max {
                            return Err(Error::LoopLimit { label: label.clone(), max });
                        }
                        times += 1;
                        self.block(body)?;
                    }
                }
                Node::For { ref count, index, body } => {
                    let count = match count {
                        Times::Fixed(count) => *count,
                        Times::Scalar(slot) => i64::from_ne_bytes(self.engine.read(self.address(*slot))?),
                    };
                    for i in 0..count {
                        if let Some(slot) = index {
                            self.engine.write(self.address(slot), &i.to_ne_bytes())?;
                        }
                        self.block(body)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn address(&self, slot: u32) -> *mut u8 {
        self.binding.bufs[slot as usize]
    }

    fn test(&self, slot: u32) -> Result<bool> {
        Ok(self.engine.read::<1>(self.address(slot))? != [0])
    }

    fn launch(&mut self, launch: Launch<'_>) -> Result<()> {
        let Some(hook) = self.profile else { return self.engine.launch(&launch) };
        let start = Instant::now();
        let duration = self.engine.launch_timed(&launch)?;
        Profiled { hook, kernel: &launch.names.symbol, label: &launch.names.label }.report_as(0, start, duration);
        Ok(())
    }
}
