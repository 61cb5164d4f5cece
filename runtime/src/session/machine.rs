//! What a session's code runs on, and how it is chosen.

use super::SessionOptions;
use crate::artifact::Artifact;
use crate::code::{KernelFn, Program};
#[cfg(feature = "cuda")]
use crate::cuda::{self, Engine};
use crate::error::{Error, Result};
use crate::format::TargetInfo;
use crate::machine;
use std::sync::Arc;

/// What stands for all targets that are processors.
const ANY_CPU: &str = "cpu";

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

/// Loads the code of the target that the options choose. `states` are the bytes of the states.
pub(super) fn load(artifact: &Artifact, options: &SessionOptions, states: &[usize]) -> Result<Choice<Machine>> {
    choose(artifact, options, |i, gpu| {
        if gpu { on_gpu(artifact, options, i, states) } else { Ok(Machine::Cpu(artifact.program(i, options.loader)?)) }
    })
}

/// The index of the target that the options choose on this machine; nothing is loaded but the driver.
pub(crate) fn target(artifact: &Artifact, options: &SessionOptions) -> Result<usize> {
    let runs = |i, gpu| if gpu { gpu_runs(&artifact.manifest().targets[i], options) } else { Ok(()) };
    Ok(choose(artifact, options, runs)?.target)
}

/// A target, and what has been made of it.
pub(super) struct Choice<T> {
    pub(super) target: usize,
    pub(super) taken: T,
    /// Why better ones were not.
    pub(super) passed_over: Vec<String>,
}

/// The target that the options name, or the best one that there is a machine for, with what `take` makes of it. `take`
/// hears whether it is one for GPUs, and says by [`Error::NoGpu`] that there is none for it.
fn choose<T>(
    artifact: &Artifact,
    options: &SessionOptions,
    take: impl Fn(usize, bool) -> Result<T>,
) -> Result<Choice<T>> {
    let targets = &artifact.manifest().targets;
    let names = || targets.iter().map(|t| t.name.clone()).collect();
    let candidates = match &options.target {
        None => artifact.by_preference(),
        Some(name) => named(artifact, name)?,
    };
    let mut reasons = vec![];
    for i in candidates {
        let gpu = targets[i].level.is_gpu();
        if !gpu && !machine::supports(targets[i].level, &targets[i].features) {
            continue;
        }
        match take(i, gpu) {
            Ok(taken) => return Ok(Choice { target: i, taken, passed_over: reasons }),
            Err(Error::NoGpu(reason)) if gpu => reasons.push(reason),
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

/// The targets that a name stands for, the best ones first.
fn named(artifact: &Artifact, name: &str) -> Result<Vec<usize>> {
    let targets = &artifact.manifest().targets;
    let found: Vec<usize> = match name {
        ANY_CPU => artifact.by_preference().into_iter().filter(|i| !targets[*i].level.is_gpu()).collect(),
        _ => targets.iter().position(|t| t.name == name).into_iter().collect(),
    };
    if found.is_empty() {
        let has = targets.iter().map(|t| t.name.clone()).collect();
        return Err(Error::UnknownTarget { name: name.to_owned(), has });
    }
    Ok(found)
}

#[cfg(feature = "cuda")]
fn on_gpu(artifact: &Artifact, options: &SessionOptions, target: usize, states: &[usize]) -> Result<Machine> {
    let program = artifact.gpu_program(target, options.driver.as_ref())?;
    Ok(Machine::Gpu(Box::new(Engine::new(program, artifact.manifest().entries.len(), states)?)))
}

#[cfg(feature = "cuda")]
fn gpu_runs(target: &TargetInfo, options: &SessionOptions) -> Result<()> {
    cuda::runs(options.driver.as_ref(), target)
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &Artifact, _: &SessionOptions, _: usize, _: &[usize]) -> Result<Machine> {
    Err(no_support())
}

#[cfg(not(feature = "cuda"))]
fn gpu_runs(_: &TargetInfo, _: &SessionOptions) -> Result<()> {
    Err(no_support())
}

#[cfg(not(feature = "cuda"))]
fn no_support() -> Error {
    Error::NoGpu("this runtime was built without support for GPUs".into())
}
