//! The list of passes, the pipeline as one flat list, and the manager that runs it.

use crate::{
    canonicalize, carry_projections, choose_space, collapse_chains, cse, dce, drop_unit_sums, fold_constants,
    fold_transposes, fuse_attention, fuse_gelu, fuse_groups, fuse_layer_norm, fuse_linear, fuse_recurrent_cell,
    hoist_input_projections, hoist_invariants, hoist_slices, layer_circuits, legalize, merge_linear, merge_subcircuits,
    pass::{Context, Options, Outcome, Pass, PassError},
    patchify_conv, prove_determinism,
    record::Record,
};
use kiln_ir::{Module, verify};

/// Every pass, by name.
pub static PASSES: &[&Pass] = &[
    &canonicalize::PASS,
    &carry_projections::PASS,
    &choose_space::PASS,
    &collapse_chains::PASS,
    &cse::PASS,
    &dce::PASS,
    &drop_unit_sums::PASS,
    &fold_constants::PASS,
    &fold_transposes::PASS,
    &fuse_attention::PASS,
    &fuse_gelu::PASS,
    &fuse_groups::PASS,
    &fuse_layer_norm::PASS,
    &fuse_linear::PASS,
    &fuse_recurrent_cell::PASS,
    &hoist_input_projections::PASS,
    &hoist_invariants::PASS,
    &hoist_slices::PASS,
    &layer_circuits::PASS,
    &legalize::PASS,
    &merge_linear::PASS,
    &merge_subcircuits::PASS,
    &patchify_conv::PASS,
    &prove_determinism::PASS,
];

/// The order in which passes run. A pass may stand several times.
pub static PIPELINE: &[&Pass] = &[
    // The rules that follow are written against this form only.
    &canonicalize::PASS,
    // Turns sizes and tables spelled as computation into constants, which the guards of the rules ask for.
    &fold_constants::PASS,
    // A value computed twice would look like two, and "the only consumer" would be asked of the wrong one.
    &cse::PASS,
    // Dead consumers would keep rules from firing.
    &dce::PASS,
    // On circuits as their files have them, whose products split along a vtree: there a proof is found.
    &prove_determinism::PASS,
    // Nodes that change nothing make equal ones look different.
    &drop_unit_sums::PASS,
    // What is shared must not be taken into its parents afterwards.
    &merge_subcircuits::PASS,
    &collapse_chains::PASS,
    // Products that differed in their constants only.
    &merge_subcircuits::PASS,
    // Once no pass adds or removes nodes of circuits.
    &layer_circuits::PASS,
    // Bounds are of the circuit as it will be computed.
    &choose_space::PASS,
    // Rules look at one region: what a loop computes of values from outside is for them to see beside its operands.
    &hoist_invariants::PASS,
    // Its product is for `fuse-linear`, its transposes meet those of the model in `fold-transposes`.
    &patchify_conv::PASS,
    // Removes the reshapes between the patches' transposes and the model's own.
    &canonicalize::PASS,
    // Before `fuse-linear`, which takes an activation only as one node.
    &fuse_gelu::PASS,
    // Anywhere after `canonicalize`; before `fuse-linear`, which would take the addition of a bias for a residual.
    &fuse_layer_norm::PASS,
    // Before `fuse-linear`, so that a scale on the queries is not taken for part of a projection.
    &fuse_attention::PASS,
    // Once attention can take its operands untransposed.
    &fold_transposes::PASS,
    // Before `fuse-linear`, which would make the sum of the gates the residual of either product.
    &fuse_recurrent_cell::PASS,
    // After the passes that take additions and multiplications for something more special.
    &fuse_linear::PASS,
    // The sums of biases and the permuted weights that the two passes above wrote into loops.
    &hoist_invariants::PASS,
    // Knows products as `linear`, with their bias; before `merge-linear`, as both directions of an encoder read the same.
    &hoist_input_projections::PASS,
    // As above; its product of the first input is of weight time then.
    &carry_projections::PASS,
    // Knows products as `linear`; before `merge-linear`, so that queries of one row part from keys and values of all.
    &hoist_slices::PASS,
    // Needs `linear`s with bias and activation in place: only equal ones merge.
    &merge_linear::PASS,
    // The slices and weights that merging and folding left behind.
    &canonicalize::PASS,
    &cse::PASS,
    &dce::PASS,
    // From here on only what the target has.
    &legalize::PASS,
    // What decompositions repeat.
    &cse::PASS,
    &dce::PASS,
    // Last: it hides nodes in bodies, where no rule looks.
    &fuse_groups::PASS,
];

/// The pass of this name.
pub fn pass(name: &str) -> Option<&'static Pass> {
    PASSES.iter().copied().find(|p| p.name == name)
}

/// Runs the pipeline.
///
/// # Errors
/// Names of passes that do not exist, a malformed module, or a bug of a pass.
pub fn run_pipeline(m: &mut Module, options: &Options<'_>) -> Result<Record, PassError> {
    let chosen = choose(options)?;
    verify(m).map_err(PassError::Malformed)?;
    let mut cx = Context::new(options);
    for pass in chosen {
        run(pass, m, &mut cx)?;
    }
    Ok(cx.finish())
}

/// Runs one pass alone.
///
/// # Errors
/// As [`run_pipeline`].
pub fn run_pass(pass: &'static Pass, m: &mut Module, options: &Options<'_>) -> Result<(Outcome, Record), PassError> {
    verify(m).map_err(PassError::Malformed)?;
    let mut cx = Context::new(options);
    let outcome = run(pass, m, &mut cx)?;
    Ok((outcome, cx.finish()))
}

fn choose(options: &Options<'_>) -> Result<Vec<&'static Pass>, PassError> {
    let named = options.only.iter().flatten().chain(&options.disable);
    let unknown: Vec<String> = named.filter(|n| pass(n).is_none()).cloned().collect();
    if !unknown.is_empty() {
        return Err(PassError::Unknown { unknown, known: PASSES.iter().map(|p| p.name).collect() });
    }
    let required: Vec<String> =
        options.disable.iter().filter(|n| pass(n).is_some_and(|p| p.required)).cloned().collect();
    if !required.is_empty() {
        return Err(PassError::Required { names: required });
    }
    let wanted = |p: &Pass| match &options.only {
        Some(only) => (p.required && options.keep_required) || only.iter().any(|n| n == p.name),
        None => true,
    };
    let chosen = PIPELINE.iter().copied().filter(|p| wanted(p) && !options.disable.iter().any(|n| n == p.name));
    Ok(chosen.collect())
}

fn run(pass: &'static Pass, m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    cx.begin(pass.name);
    let before = cx.options.check.then(|| m.to_string());
    let outcome = (pass.run)(m, cx)?;
    if let Some(before) = before {
        verify(m).map_err(|errors| PassError::Broke { pass: pass.name, errors })?;
        let found = m.to_string() != before;
        if found != outcome.changed {
            return Err(PassError::Changed { pass: pass.name, reported: outcome.changed, found });
        }
    }
    if outcome.changed
        && let Some(print) = cx.options.print_changed
    {
        print(pass, m);
    }
    Ok(outcome)
}
