//! Plans and native code from the IR.
//!
//! [`plan`](mod@plan) turns a verified module into launches over buffers, [`weights`] describes and streams what the
//! artifact stores of its parameters, [`code`] makes code of the kernels through [`llvm`], and [`artifact`] puts all
//! into one file; [`codec`] makes what the runtime codes rows with of a circuit.

pub mod artifact;
pub mod code;
pub mod codec;
pub mod llvm;
pub mod plan;
mod size;
pub mod weights;

pub use size::size_expr;
