//! The CPUs code is made for: each level is a fixed set of instructions, and a description that kernels choose their
//! registers by. How work is cut does not depend on the level.

/// A CPU level. The order is the order of preference on a machine that has several.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum CpuLevel {
    Aarch64,
    X86V2,
    X86V3,
    X86V4,
}

/// Which floats of 16 bits a target converts to f32 and back in one instruction; the others are converted with integers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Converts {
    Nothing,
    F16,
    F16AndBf16,
}

/// What kernels need to know of a level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// The name on the command line and in artifacts.
    pub name: &'static str,
    /// Bytes of a vector; 1 where there are no vectors.
    pub vector_bytes: u32,
    pub vector_registers: u32,
    pub has_fma: bool,
    /// What one instruction converts.
    pub converts: Converts,
    /// The fewest bytes of an element of which one instruction moves part of a vector by a mask, where there are masks.
    pub masks_from: Option<usize>,
    pub prefetches: bool,
}

impl Cpu {
    /// Lanes of a vector of elements of `bytes` bytes.
    pub const fn lanes(&self, bytes: u32) -> u32 {
        if self.vector_bytes < bytes { 1 } else { self.vector_bytes / bytes }
    }
}

/// A machine without vectors and with many registers: what a thread of a GPU is to kernels written for CPUs.
pub static ONE_LANE: Cpu = Cpu {
    name: "one-lane",
    vector_bytes: 1,
    vector_registers: 64,
    has_fma: true,
    converts: Converts::F16AndBf16,
    masks_from: None,
    prefetches: false,
};

impl CpuLevel {
    pub const ALL: [CpuLevel; 4] = [CpuLevel::Aarch64, CpuLevel::X86V2, CpuLevel::X86V3, CpuLevel::X86V4];

    pub const fn describe(self) -> &'static Cpu {
        match self {
            CpuLevel::Aarch64 => &AARCH64,
            CpuLevel::X86V2 => &X86V2,
            CpuLevel::X86V3 => &X86V3,
            CpuLevel::X86V4 => &X86V4,
        }
    }

    pub const fn name(self) -> &'static str {
        self.describe().name
    }

    pub fn from_name(name: &str) -> Option<CpuLevel> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Lanes of a vector of elements of `bytes` bytes.
    pub const fn lanes(self, bytes: u32) -> u32 {
        self.describe().lanes(bytes)
    }

    /// Whether this machine, the one that runs this code, has the level.
    pub fn is_native(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let v2 = has!("sse4.2") && has!("ssse3") && has!("popcnt");
            let v3 = v2 && has!("avx2") && has!("fma") && has!("f16c") && has!("bmi2") && has!("lzcnt");
            let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq");
            match self {
                CpuLevel::Aarch64 => false,
                CpuLevel::X86V2 => v2,
                CpuLevel::X86V3 => v3,
                CpuLevel::X86V4 => v4 && has!("avx512vl"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == CpuLevel::Aarch64 && cfg!(target_arch = "aarch64")
        }
    }
}

static AARCH64: Cpu = Cpu {
    name: "aarch64",
    vector_bytes: 16,
    vector_registers: 32,
    has_fma: true,
    converts: Converts::F16,
    masks_from: None,
    prefetches: true,
};

static X86V2: Cpu = Cpu {
    name: "x86-64-v2",
    vector_bytes: 16,
    vector_registers: 16,
    has_fma: false,
    converts: Converts::Nothing,
    masks_from: None,
    prefetches: true,
};

static X86V3: Cpu = Cpu {
    name: "x86-64-v3",
    vector_bytes: 32,
    vector_registers: 16,
    has_fma: true,
    converts: Converts::F16,
    masks_from: Some(4),
    prefetches: true,
};

static X86V4: Cpu = Cpu {
    name: "x86-64-v4",
    vector_bytes: 64,
    vector_registers: 32,
    has_fma: true,
    converts: Converts::F16,
    masks_from: Some(1),
    prefetches: true,
};
