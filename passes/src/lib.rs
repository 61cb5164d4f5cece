//! Rewrites of the IR: the pass manager, the pipeline, the rule engine and one file a pass.
//!
//! A pass reads and changes a [`kiln_ir::Module`] and sees of the machine only [`kiln_ir::Target`], which is plain data.
//! It never names a backend. What fired is kept in a [`Record`].
//!
//! To add a pass: (1) `src/<name>.rs` with what it does, an example and when it must not fire, and a constant `PASS`;
//! (2) a line in [`PASSES`]; (3) a line in [`PIPELINE`] with the reason for its place; (4) a folder `tests/<name>/` with
//! a case for each spelling that it takes and one for each reason not to fire.

mod analysis;
mod canonicalize;
mod carry_projections;
mod choose_space;
mod circuits;
mod collapse_chains;
mod cost;
mod cse;
mod dce;
mod drop_unit_sums;
mod edit;
mod engine;
mod fold_constants;
mod fold_transposes;
mod fuse_attention;
mod fuse_gelu;
mod fuse_groups;
mod fuse_layer_norm;
mod fuse_linear;
mod fuse_recurrent_cell;
mod hoist_input_projections;
mod hoist_invariants;
mod hoist_slices;
mod layer_circuits;
mod legalize;
mod loops;
mod merge_linear;
mod merge_subcircuits;
mod pass;
mod patchify_conv;
mod pipeline;
mod prove_determinism;
mod record;
mod spellings;

pub use cost::{Totals, totals};
pub use pass::{ChangedHook, Context, Exactness, Options, Outcome, Pass, PassError};
pub use pipeline::{PASSES, PIPELINE, pass, run_pass, run_pipeline};
pub use record::{Note, Record, Rewrite};
