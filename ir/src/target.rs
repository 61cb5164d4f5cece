//! Targets as plain data: what passes may ask of the machine that code is generated for.

use crate::Op;

/// The kind of machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetKind {
    Cpu,
    Cuda,
}

/// A machine to generate code for.
#[derive(Clone, PartialEq, Debug)]
pub struct Target {
    /// As on the command line: `cpu:x86-64-v3`.
    pub name: &'static str,
    pub kind: TargetKind,
    /// Bits of a vector register.
    pub vector_bits: u32,
    /// Vector registers.
    pub vector_registers: u32,
    /// Bytes of the first two cache levels of one core.
    pub l1_bytes: u32,
    pub l2_bytes: u32,
    /// Composite ops for which the target has a kernel, for recurrent cells if their weight is known when compiling;
    /// `legalize` takes every other composite op apart.
    pub composites: &'static [Op],
}

const COMPOSITES: &[Op] = &[
    Op::Linear,
    Op::Attention,
    Op::Softmax,
    Op::LogSoftmax,
    Op::LayerNorm,
    Op::RmsNorm,
    Op::L2Normalize,
    Op::LstmCell,
    Op::GruCell,
];

const fn cpu(name: &'static str, vector_bits: u32, vector_registers: u32) -> Target {
    Target {
        name,
        kind: TargetKind::Cpu,
        vector_bits,
        vector_registers,
        l1_bytes: 32 << 10,
        l2_bytes: 512 << 10,
        composites: COMPOSITES,
    }
}

/// The first cache is that of a multiprocessor, the second that of the whole device.
const fn cuda(name: &'static str, l1_bytes: u32) -> Target {
    Target {
        name,
        kind: TargetKind::Cuda,
        vector_bits: 128,
        vector_registers: 64,
        l1_bytes,
        l2_bytes: 40 << 20,
        composites: COMPOSITES,
    }
}

/// Every target that can be asked for, weakest first within a family.
pub static TARGETS: &[Target] = &[
    cpu("cpu:x86-64-v2", 128, 16),
    cpu("cpu:x86-64-v3", 256, 16),
    cpu("cpu:x86-64-v4", 512, 32),
    cpu("cpu:aarch64", 128, 32),
    cuda("cuda:sm_80", 164 << 10),
    cuda("cuda:sm_90a", 228 << 10),
];

impl Target {
    pub fn from_name(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|t| t.name == name)
    }
}
