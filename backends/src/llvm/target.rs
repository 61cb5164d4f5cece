//! LLVM target machines for the levels, and what they have code for.

use super::ToolError;
use inkwell::{
    OptimizationLevel,
    targets::{CodeModel, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple},
};
use kiln_kernels::{Level, cpu::CpuLevel};

/// How LLVM names a level.
struct Names {
    triple: &'static str,
    cpu: &'static str,
    features: String,
}

fn names(level: Level) -> Names {
    let x86 = |cpu| Names { triple: "x86_64-unknown-linux-gnu", cpu, features: String::new() };
    match level {
        Level::Cpu(CpuLevel::Aarch64) => {
            Names { triple: "aarch64-unknown-linux-gnu", cpu: "generic", features: "+neon".into() }
        }
        Level::Cpu(CpuLevel::X86V2) => x86("x86-64-v2"),
        Level::Cpu(CpuLevel::X86V3) => x86("x86-64-v3"),
        Level::Cpu(CpuLevel::X86V4) => x86("x86-64-v4"),
        Level::Cuda(sm) => {
            let (major, minor) = sm.ptx();
            Names { triple: "nvptx64-nvidia-cuda", cpu: sm.name(), features: format!("+ptx{major}{minor}") }
        }
    }
}

/// Attributes that every function for the level gets. Without `no-builtins` LLVM makes calls to memset and memcpy out
/// of loops; the wide vectors of v4 are split in two unless they are asked for.
pub(super) const fn function_attributes(level: Level) -> &'static [(&'static str, &'static str)] {
    match level {
        Level::Cpu(CpuLevel::X86V4) => &[("no-builtins", ""), ("prefer-vector-width", "512")],
        _ => &[("no-builtins", "")],
    }
}

/// The intrinsics that every target has instructions for, without their types. LLVM makes a call of a library of any
/// other, or ends the process.
const INTRINSICS: [&str; 15] = [
    "llvm.copysign",
    "llvm.ceil",
    "llvm.cttz",
    "llvm.fabs",
    "llvm.floor",
    "llvm.fmuladd",
    "llvm.fptosi.sat",
    "llvm.fptoui.sat",
    "llvm.roundeven",
    "llvm.smax",
    "llvm.smin",
    "llvm.sqrt",
    "llvm.trunc",
    "llvm.umax",
    "llvm.umin",
];

/// Those that CPUs have besides.
const CPU_INTRINSICS: [&str; 4] = ["llvm.masked.load", "llvm.masked.store", "llvm.prefetch", "llvm.vector.reduce.or"];

/// Those that GPUs have besides.
const CUDA_INTRINSICS: [&str; 13] = [
    "llvm.nvvm.bar.warp.sync",
    "llvm.nvvm.barrier.cta.sync",
    "llvm.nvvm.cp.async",
    "llvm.nvvm.ex2.approx",
    "llvm.nvvm.ff2bf16x2.rn",
    "llvm.nvvm.ff2f16x2.rn",
    "llvm.nvvm.ldmatrix",
    "llvm.nvvm.mma",
    "llvm.nvvm.read.ptx.sreg.ctaid",
    "llvm.nvvm.read.ptx.sreg.nctaid",
    "llvm.nvvm.read.ptx.sreg.ntid",
    "llvm.nvvm.read.ptx.sreg.tid",
    "llvm.nvvm.shfl.sync",
];

/// Whether a function that a module declares is an intrinsic with instructions on the level: its name is one of those,
/// followed by types.
pub(super) fn has_code(name: &str, level: Level) -> bool {
    let own: &[&str] = match level {
        Level::Cpu(_) => &CPU_INTRINSICS,
        Level::Cuda(_) => &CUDA_INTRINSICS,
    };
    INTRINSICS
        .iter()
        .chain(own)
        .any(|known| name.strip_prefix(known).is_some_and(|types| types.is_empty() || types.starts_with('.')))
}

/// A target machine; cheap enough to make one for every compilation.
pub(super) fn machine(level: Level) -> Result<TargetMachine, ToolError> {
    let error = |message: String| ToolError::new(&level.name(), "llvm", message);
    match level {
        Level::Cpu(CpuLevel::Aarch64) => Target::initialize_aarch64(&InitializationConfig::default()),
        Level::Cpu(_) => Target::initialize_x86(&InitializationConfig::default()),
        Level::Cuda(_) => Target::initialize_nvptx(&InitializationConfig::default()),
    }
    let Names { triple, cpu, features } = names(level);
    let triple = TargetTriple::create(triple);
    let target = Target::from_triple(&triple).map_err(|e| error(e.to_string()))?;
    target
        .create_target_machine(
            &triple,
            cpu,
            &features,
            OptimizationLevel::Aggressive,
            RelocMode::PIC,
            CodeModel::Default,
        )
        .ok_or_else(|| error("no target machine".to_string()))
}
