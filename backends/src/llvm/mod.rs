//! From MLIR to machine code: the only module that knows both melior and inkwell.
//!
//! A [`Compiler`] owns an MLIR context; each compilation has an LLVM context of its own, so compilers on different
//! threads share nothing. A module goes MLIR -> LLVM dialect -> LLVM IR in memory -> `O3` -> object code, and its text
//! can be had at each stage; for a GPU the end is PTX text. Diagnostics of all tools come back as errors; nothing is
//! printed. [`link`] makes a shared object without undefined symbols from objects. The same input gives the same bytes.

mod lld;
mod lower;
mod target;

use kiln_kernels::Level;
use std::sync::RwLock;

pub use lld::link;
pub use lower::Compiler;

/// The version of the LLVM that is in use, such as `22.1.8`.
pub fn version() -> String {
    let (major, minor, patch) = inkwell::support::get_llvm_version();
    format!("{major}.{minor}.{patch}")
}

/// lld resets LLVM's process-wide options while it starts, which compilations read: they hold this lock for reading,
/// a link for writing.
static OPTIONS: RwLock<()> = RwLock::new(());

/// What to stop at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The kernel as built, as text.
    Mlir,
    /// LLVM IR after optimisation, as text.
    Llvm,
    /// Assembly text, of CPUs.
    Asm,
    /// An ELF object, of CPUs.
    Obj,
    /// Assembly text of GPUs, which is what they are given.
    Ptx,
}

impl Stage {
    /// Whether code for the level has this form.
    pub fn serves(self, level: Level) -> bool {
        match self {
            Stage::Mlir | Stage::Llvm => true,
            Stage::Asm | Stage::Obj => matches!(level, Level::Cpu(_)),
            Stage::Ptx => matches!(level, Level::Cuda(_)),
        }
    }
}

/// A tool that refused what it was given: a bug of ours, or a broken installation.
#[derive(Debug, thiserror::Error)]
#[error("{kernel}: {tool}: {message}")]
pub struct ToolError {
    /// The kernel, or what was being made.
    pub kernel: String,
    pub tool: &'static str,
    pub message: String,
}

impl ToolError {
    fn new(kernel: &str, tool: &'static str, message: impl ToString) -> ToolError {
        ToolError { kernel: kernel.to_string(), tool, message: message.to_string() }
    }
}
