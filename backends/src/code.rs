//! Code: every kernel once for each level. Those of a CPU are linked to one shared object, those of a GPU are one PTX
//! module.

use crate::llvm::{Compiler, Stage, ToolError, link};
use kiln_kernels::{KernelSpec, Level, cpu::CpuLevel};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

/// The levels of the target `cpu`.
pub const DEFAULT: [CpuLevel; 3] = [CpuLevel::X86V2, CpuLevel::X86V3, CpuLevel::X86V4];

/// The code of one level.
pub struct Code {
    pub level: Level,
    /// An ELF shared object that exports every kernel by its symbol, or PTX text with an entry for each.
    pub bytes: Vec<u8>,
}

/// Compiles all kernels for all levels on `threads` threads; the result does not depend on their number.
///
/// # Errors
/// What the tools refuse, kernel by kernel.
pub fn compile(
    kernels: &[KernelSpec],
    levels: &[impl Copy + Into<Level>],
    threads: usize,
) -> Result<Vec<Code>, Vec<ToolError>> {
    let levels: Vec<Level> = levels.iter().map(|level| (*level).into()).collect();
    let stage = |level| if matches!(level, Level::Cpu(_)) { Stage::Obj } else { Stage::Ptx };
    let parts = emit(kernels, &levels, stage, threads)?;
    let joined = levels.iter().enumerate().map(|(i, level)| {
        let parts: Vec<&[u8]> = parts[i * kernels.len()..][..kernels.len()].iter().map(Vec::as_slice).collect();
        let bytes = match level {
            Level::Cpu(level) => link(*level, &parts)?,
            Level::Cuda(_) => join(&parts),
        };
        Ok(Code { level: *level, bytes })
    });
    joined.collect::<Result<_, ToolError>>().map_err(|e| vec![e])
}

/// One PTX module of several for the same target: what stands behind the directives at the head of each.
fn join(modules: &[&[u8]]) -> Vec<u8> {
    const HEAD_ENDS: &[u8] = b".address_size 64\n";
    let head =
        |module: &[u8]| module.windows(HEAD_ENDS.len()).position(|w| w == HEAD_ENDS).map(|at| at + HEAD_ENDS.len());
    let mut joined = modules.first().map_or(vec![], |first| first[..head(first).unwrap_or(0)].to_vec());
    for module in modules {
        joined.extend(&module[head(module).unwrap_or(0)..]);
    }
    joined
}

/// The levels that target names ask for, each once: CPUs before GPUs, weakest first.
///
/// # Errors
/// A sentence on the first name that is no target.
pub fn levels(targets: &[String]) -> Result<Vec<Level>, String> {
    let mut levels = vec![];
    for target in targets {
        match target.as_str() {
            "cpu" => levels.extend(DEFAULT.map(Level::Cpu)),
            "cpu:native" => levels.extend(native().map(Level::Cpu)),
            name => match Level::from_name(name) {
                Some(level) => levels.push(level),
                None => {
                    let known: Vec<String> = Level::all().map(Level::name).collect();
                    return Err(format!("target {name}: expected cpu, cpu:native, {}", known.join(", ")));
                }
            },
        }
    }
    levels.sort();
    levels.dedup();
    Ok(levels)
}

/// The best level of this machine.
pub fn native() -> Option<CpuLevel> {
    CpuLevel::ALL.into_iter().rfind(|level| level.is_native())
}

/// The target by whose rates passes decide for all of these levels, of which there is one copy of the weights.
pub fn representative(levels: &[Level]) -> String {
    const USUAL: Level = Level::Cpu(CpuLevel::X86V3);
    levels.iter().find(|level| **level == USUAL).or(levels.first()).unwrap_or(&USUAL).name()
}

/// Every kernel at a stage for the levels that have it, by names such as `cpu:x86-64-v3/matmul-0f3c..`.
///
/// # Errors
/// As [`compile`].
pub fn emit_named(
    kernels: &[KernelSpec],
    levels: &[Level],
    stage: Stage,
    threads: usize,
) -> Result<Vec<(String, Vec<u8>)>, Vec<ToolError>> {
    let levels: Vec<Level> = levels.iter().copied().filter(|level| stage.serves(*level)).collect();
    let names = levels.iter().flat_map(|l| kernels.iter().map(|k| format!("{}/{}", l.name(), k.symbol())));
    Ok(names.zip(emit(kernels, &levels, |_| stage, threads)?).collect())
}

/// Where a thread leaves what it made.
type Slot = Mutex<Option<Result<Vec<u8>, ToolError>>>;

/// Every kernel at the stage of its level: all kernels of the first level, then those of the second, and so on.
fn emit(
    kernels: &[KernelSpec],
    levels: &[Level],
    stage: impl Fn(Level) -> Stage + Sync,
    threads: usize,
) -> Result<Vec<Vec<u8>>, Vec<ToolError>> {
    let jobs: Vec<(Level, &KernelSpec)> =
        levels.iter().flat_map(|level| kernels.iter().map(|kernel| (*level, kernel))).collect();
    let results: Vec<Slot> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        // A compiler belongs to its thread.
        let compiler = Compiler::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (Some((level, kernel)), Some(result)) = (jobs.get(at), results.get(at)) else { return };
            let symbol = kernel.symbol();
            let code =
                compiler.compile(&symbol, *level, stage(*level), |module| kernel.emit_for(module, &symbol, *level));
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len().max(1)) {
            scope.spawn(work);
        }
    });
    let (mut done, mut errors) = (vec![], vec![]);
    for result in results {
        match result.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(Ok(code)) => done.push(code),
            Some(Err(e)) => errors.push(e),
            None => {}
        }
    }
    if errors.is_empty() { Ok(done) } else { Err(errors) }
}
