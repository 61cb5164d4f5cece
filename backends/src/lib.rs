//! Plans and native code from the IR.
//!
//! [`plan`](mod@plan) turns a verified module into launches over buffers, [`weights`] describes and streams what the
//! artifact stores of its parameters, [`code`] makes code of the kernels through [`llvm`], and [`artifact`] puts all
//! into one file.

pub mod artifact;
pub mod code;
pub mod llvm;
pub mod plan;
mod size;
pub mod weights;

pub use size::size_expr;
