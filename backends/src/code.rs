//! Code: every kernel once for each level, and once what several call. Those of a CPU are linked to one shared object, those of a GPU are one PTX
//! module.

use crate::llvm::{Compiler, Stage, ToolError, link};
use kiln_kernels::{KernelSpec, Level, abi, cpu::CpuLevel};
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
    let joined = levels.iter().map(|level| {
        let parts: Vec<&[u8]> =
            parts.iter().filter(|(unit, _)| unit.level == *level).map(|(_, bytes)| bytes.as_slice()).collect();
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
    let parts = emit(kernels, &levels, |_| stage, threads)?;
    Ok(parts.into_iter().map(|(unit, code)| (format!("{}/{}", unit.level.name(), unit.symbol()), code)).collect())
}

/// A module of its own.
#[derive(Clone, Copy)]
struct Unit<'a> {
    level: Level,
    kernel: &'a KernelSpec,
    /// Whether it is there for other kernels to call.
    shared: bool,
}

impl<'a> Unit<'a> {
    /// Those of a level: its kernels, then what they share.
    fn all(kernels: &'a [KernelSpec], level: Level) -> impl Iterator<Item = Unit<'a>> {
        let inner = if matches!(level, Level::Cpu(_)) { abi::shared(kernels) } else { vec![] };
        let exported = kernels.iter().filter(move |kernel| kernel.serves(level)).map(move |kernel| Unit {
            level,
            kernel,
            shared: false,
        });
        exported.chain(inner.into_iter().map(move |kernel| Unit { level, kernel, shared: true }))
    }

    fn symbol(&self) -> String {
        if self.shared { abi::shared_symbol(self.kernel) } else { self.kernel.symbol() }
    }

    fn compile(&self, compiler: &Compiler, stage: Stage) -> Result<Vec<u8>, ToolError> {
        let symbol = self.symbol();
        compiler.compile(&symbol, self.level, stage, |module| match self.level {
            Level::Cpu(level) if self.shared => module.shared(self.kernel, level.describe()),
            level => self.kernel.emit_for(module, &symbol, level),
        })
    }
}

/// Where a thread leaves what it made.
type Slot = Mutex<Option<Result<Vec<u8>, ToolError>>>;

/// Every module at the stage of its level: those of the first level, then those of the second, and so on.
fn emit<'a>(
    kernels: &'a [KernelSpec],
    levels: &[Level],
    stage: impl Fn(Level) -> Stage + Sync,
    threads: usize,
) -> Result<Vec<(Unit<'a>, Vec<u8>)>, Vec<ToolError>> {
    let jobs: Vec<Unit<'a>> = levels.iter().flat_map(|level| Unit::all(kernels, *level)).collect();
    let results: Vec<Slot> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        // A compiler belongs to its thread.
        let compiler = Compiler::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (Some(unit), Some(result)) = (jobs.get(at), results.get(at)) else { return };
            let code = unit.compile(&compiler, stage(unit.level));
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len().max(1)) {
            scope.spawn(work);
        }
    });
    let (mut done, mut errors) = (vec![], vec![]);
    for (unit, result) in jobs.into_iter().zip(results) {
        match result.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(Ok(code)) => done.push((unit, code)),
            Some(Err(e)) => errors.push(e),
            None => {}
        }
    }
    if errors.is_empty() { Ok(done) } else { Err(errors) }
}
