//! LLVM target machines for the levels, and what they have code for.

use super::ToolError;
use inkwell::{
    OptimizationLevel,
    attributes::{Attribute, AttributeLoc},
    context::Context,
    targets::{CodeModel, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple},
    types::AnyType,
    values::{CallSiteValue, FunctionValue},
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

/// Makes a parameter of a kernel for GPUs a tensor map: 128 bytes that nobody writes, at an address where hardware finds them.
pub(super) fn make_map(llvm: &Context, function: FunctionValue<'_>, param: u32) {
    let kind = Attribute::get_named_enum_kind_id;
    let bytes = llvm.i8_type().array_type(128).as_any_type_enum();
    for attribute in [
        llvm.create_type_attribute(kind("byval"), bytes),
        llvm.create_enum_attribute(kind("align"), 64),
        llvm.create_string_attribute("nvvm.grid_constant", ""),
    ] {
        function.add_attribute(AttributeLoc::Param(param), attribute);
    }
}

/// Says of assembly text in a function that threads may be together there: it is not to be copied to, or moved between,
/// places that only some of them come to.
pub(super) fn keep_together(llvm: &Context, function: FunctionValue<'_>) {
    let convergent = llvm.create_enum_attribute(Attribute::get_named_enum_kind_id("convergent"), 0);
    let instructions = function.get_basic_blocks().into_iter().flat_map(|block| block.get_instructions());
    for call in instructions.filter_map(|i| CallSiteValue::try_from(i).ok()) {
        if call.get_called_fn_value().is_none() {
            call.add_attribute(AttributeLoc::Function, convergent);
        }
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
const CUDA_INTRINSICS: &[&str] = &[
    "llvm.nvvm.bar.warp.sync",
    "llvm.nvvm.barrier.cta.arrive",
    "llvm.nvvm.barrier.cta.red",
    "llvm.nvvm.barrier.cta.sync",
    "llvm.nvvm.cp.async",
    "llvm.nvvm.ex2.approx.ftz",
    "llvm.nvvm.fmax",
    "llvm.nvvm.ff2bf16x2.rn",
    "llvm.nvvm.ff2f16x2.rn",
    "llvm.nvvm.ldmatrix",
    "llvm.nvvm.membar.gl",
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
        Level::Cuda(_) => CUDA_INTRINSICS,
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
