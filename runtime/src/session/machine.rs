//! What a session's code runs on, and how it is chosen.

use super::SessionOptions;
use crate::artifact::Artifact;
use crate::code::{KernelFn, Program};
#[cfg(feature = "cuda")]
use crate::cuda::Engine;
use crate::error::{Error, Result};
use crate::machine;
use std::sync::Arc;

pub(super) enum Machine {
    Cpu(Arc<Program>),
    #[cfg(feature = "cuda")]
    Gpu(Box<Engine>),
}

impl Machine {
    /// The kernels of the processor.
    pub(super) fn functions(&self) -> &[KernelFn] {
        match self {
            Machine::Cpu(program) => program.kernels(),
            #[cfg(feature = "cuda")]
            Machine::Gpu(_) => &[],
        }
    }

    #[cfg(feature = "cuda")]
    pub(super) fn is_gpu(&self) -> bool {
        matches!(self, Machine::Gpu(_))
    }
}

/// Loads the code of the target that the options name, or of the best one that there is a machine for. `states` are the
/// bytes of the states.
pub(super) fn load(artifact: &Artifact, options: &SessionOptions, states: &[usize]) -> Result<(usize, Machine)> {
    let targets = &artifact.manifest().targets;
    let names = || targets.iter().map(|t| t.name.clone()).collect();
    let candidates = match &options.target {
        None => artifact.by_preference(),
        Some(name) => targets.iter().position(|t| t.name == *name).into_iter().collect(),
    };
    let mut reasons = vec![];
    for i in candidates {
        if !targets[i].level.is_gpu() {
            if machine::supports(targets[i].level, &targets[i].features) {
                return Ok((i, Machine::Cpu(artifact.program(i, options.loader)?)));
            }
            continue;
        }
        match on_gpu(artifact, options, i, states) {
            Ok(machine) => return Ok((i, machine)),
            Err(Error::NoGpu(reason)) => reasons.push(reason),
            Err(e) => return Err(e),
        }
    }
    let mut here = machine::describe();
    if let Some(name) = &options.target {
        here.push_str(&format!(" and {name} is asked for"));
    }
    reasons.iter().for_each(|reason| here.push_str(&format!("; {reason}")));
    Err(Error::NoTarget { has: names(), machine: here })
}

#[cfg(feature = "cuda")]
fn on_gpu(artifact: &Artifact, options: &SessionOptions, target: usize, states: &[usize]) -> Result<Machine> {
    let program = artifact.gpu_program(target, options.driver.as_ref())?;
    Ok(Machine::Gpu(Box::new(Engine::new(program, artifact.manifest().entries.len(), states)?)))
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &Artifact, _: &SessionOptions, _: usize, _: &[usize]) -> Result<Machine> {
    Err(Error::NoGpu("this runtime was built without support for GPUs".into()))
}
