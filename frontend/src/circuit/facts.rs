//! What is known about a circuit, for people and for the artifact's metadata.

use super::uai;
use kiln_ir::circuit::{Circuit, Determinism, Property};
use std::collections::BTreeMap;

/// Facts by the keys of metadata.
pub(super) type Facts = BTreeMap<String, String>;

/// Checks the circuit, enters in it whether it is deterministic, and adds to the notes what a user should know.
pub(super) fn describe(mut c: Circuit, format: &str, notes: &mut Vec<String>) -> (Circuit, Facts) {
    let report = c.check();
    // Sums of a compiled network stand for entries of tables, which add up to 1 only all together.
    let whole = (format == uai::NAME && report.is(Property::Normalised) == Some(false)).then(|| uai::log_partition(&c));
    let is_whole = whole.is_some_and(|total| total.abs() <= uai::ROUNDING * c.variables.len() as f64);
    let determinism = c.prove_determinism();
    c.deterministic = determinism == Determinism::Proved;
    let mut facts = Facts::new();
    let mut put = |key: &str, value: String| drop(facts.insert(format!("circuit.{key}"), value));
    put("format", format.into());
    put("variables", c.variables.len().to_string());
    put("inputs", report.inputs.to_string());
    put("products", report.products.to_string());
    put("sums", report.sums.to_string());
    put("edges", report.edges.to_string());
    put("depth", report.depth.to_string());
    put("max_fan_in", report.max_fan_in.to_string());
    put("free_weights", report.free_weights.to_string());
    for property in Property::ALL {
        let is = report.is(*property).map(|is| is || (is_whole && *property == Property::Normalised));
        let word = is.map_or("unknown", |is| if is { "yes" } else { "no" });
        put(property.name(), word.into());
    }
    put("deterministic", if c.deterministic { "yes" } else { "unknown" }.into());
    notes.push(format!(
        "{} variables, {} inputs, {} products, {} sums, {} edges, depth {}",
        c.variables.len(),
        report.inputs,
        report.products,
        report.sums,
        report.edges,
        report.depth
    ));
    let mut is: Vec<&str> = Property::ALL.iter().filter(|p| report.is(**p) == Some(true)).map(|p| p.name()).collect();
    is.extend(is_whole.then_some("normalised as a whole"));
    let proved = if c.deterministic { ", deterministic" } else { "" };
    notes.push(format!("it is {}{proved}", is.join(", ")));
    let violation = report.violations.iter().find(|v| v.property == Property::Normalised);
    match (whole, violation) {
        (Some(total), _) if !is_whole => {
            notes.push(format!("not normalised: the logarithm of the sum over all rows is {total}, not 0"));
        }
        (None, Some(v)) => notes.push(format!("not normalised: {}", v.message)),
        _ => {}
    }
    if let Determinism::Unknown { why, .. } = determinism {
        notes
            .push(format!("not known to be deterministic, so that `mpe` gives a good row, not always the best: {why}"));
    }
    let real = c.variables.iter().filter(|d| d.values().is_none()).count();
    if real > 0 {
        let variables = if real == 1 { "1 variable is".into() } else { format!("{real} variables are") };
        notes.push(format!("no entry `marginals`, as {variables} continuous"));
    }
    let unused = c.variables.len() - report.used_variables.min(c.variables.len());
    if unused > 0 {
        notes.push(format!("{unused} variables that no node depends on"));
    }
    (c, facts)
}
