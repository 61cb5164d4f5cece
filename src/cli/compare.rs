//! `kiln compare`: an artifact's outputs beside a reference.

use super::explain::Code;
use super::failure::{Failure, Result};
use super::interpret::{self, Named};
use super::{options, output};
use kiln_ir::eval::{Data, Tensor};
use kiln_runtime::{Artifact, Session, SessionOptions, plain};
use std::path::{Path, PathBuf};

/// Compare an artifact's outputs with a model in the reference interpreter, or with a file of tensors
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The artifact
    #[arg(value_name = "ART")]
    artifact: PathBuf,
    /// A model, or an .npz or .safetensors file with the outputs by name
    #[arg(value_name = "MODEL|REF")]
    reference: PathBuf,
    /// The entry; by default `forward`, or the only one there is
    #[arg(long)]
    entry: Option<String>,
    /// Inputs by name: .npz or .safetensors; by default those in REF, or for a model some that are made up
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// The largest relative L2 distance that passes
    #[arg(long, default_value_t = 1e-5, value_parser = tolerance)]
    rtol: f64,
    /// Where no element of the reference is larger than this, the largest absolute difference that passes
    #[arg(long, default_value_t = 1e-6, value_parser = tolerance)]
    atol: f64,
    /// Number of threads
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Use the code for this target instead of the best one; `cpu` is the best one for processors
    #[arg(long)]
    target: Option<String>,
    #[command(flatten)]
    load: options::Load,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn tolerance(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|v: &f64| v.is_finite() && *v >= 0.0)
        .ok_or_else(|| "expected a number from 0 up".to_owned())
}

/// One output beside its reference.
struct Row {
    name: String,
    /// In the Euclidean norm.
    relative: f64,
    /// The largest absolute difference.
    largest: f64,
    /// Elements that are NaN on both sides, which the distances leave out, and on one.
    nan: [usize; 2],
    /// Whether the reference is so small that the absolute difference decides.
    by_absolute: bool,
    passes: bool,
    shape: Vec<usize>,
    expected_shape: Vec<usize>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let artifact = super::artifact::open(&args.artifact)?;
    let given = args.inputs.as_deref().map(interpret::read).transpose()?;
    let (entry, inputs, expected) = match holds_tensors(&args.reference)? {
        true => from_file(&args, &artifact, given)?,
        false => from_model(&args, &artifact, given)?,
    };
    let (target, found) = session_outputs(&artifact, &args, &entry, &inputs)?;
    let missing: Vec<_> = expected
        .iter()
        .filter(|(name, _)| !found.iter().any(|(n, _)| n == name))
        .map(|(name, _)| (Code::Inputs, format!("{}: entry {entry} has no output `{name}`", args.artifact.display())))
        .collect();
    if !missing.is_empty() {
        return Err(Failure::all(missing));
    }
    let pairs = found.iter().filter_map(|(name, t)| Some((name, t, &expected.iter().find(|(n, _)| n == name)?.1)));
    let rows: Vec<Row> = pairs.map(|(name, found, expected)| row(name, found, expected, &args)).collect();
    let object = serde_json::json!({
        "entry": entry,
        "target": target,
        "rtol": args.rtol,
        "atol": args.atol,
        "passed": rows.iter().all(|r| r.passes),
        // A distance that is not finite becomes null.
        "outputs": rows.iter().map(|r| serde_json::json!({
            "name": r.name, "rel_l2": r.relative, "max_abs": r.largest, "nan_in_both": r.nan[0], "nan_in_one": r.nan[1],
            "judged_by": if r.by_absolute { "max_abs" } else { "rel_l2" }, "passed": r.passes,
            "shape": r.shape, "expected_shape": r.expected_shape,
        })).collect::<Vec<_>>(),
    });
    output::facts(args.json, object, || {
        let rows: String = rows.iter().map(Row::line).collect();
        format!("{} on {}\n{rows}", plain(&entry), plain(&target))
    })?;
    let bad = rows.iter().filter(|r| !r.passes).map(|r| {
        let problem = match r {
            Row { shape, expected_shape, .. } if shape != expected_shape => {
                format!("expected the shape {expected_shape:?}, found {shape:?}")
            }
            Row { nan: [_, one], .. } if *one > 0 => {
                format!("expected NaN on both sides or none, found {one} on one side")
            }
            Row { by_absolute: true, .. } => format!(
                "expected a difference of at most {:e}, as the reference is about zero, found {:.3e}",
                args.atol, r.largest
            ),
            _ => format!("expected a relative L2 of at most {:e}, found {:.3e}", args.rtol, r.relative),
        };
        (Code::Tolerance, format!("output {}: {problem}", r.name))
    });
    let bad: Vec<_> = bad.collect();
    if bad.is_empty() { Ok(()) } else { Err(Failure::all(bad)) }
}

impl Row {
    fn line(&self) -> String {
        let (name, verdict) = (plain(&self.name), if self.passes { "ok" } else { "differs" });
        if self.shape != self.expected_shape {
            return format!("{name:<24} shape {:?}, expected {:?} {verdict}\n", self.shape, self.expected_shape);
        }
        let mut text =
            format!("{name:<24} relative L2 {:<10.3e} largest {:<10.3e} {verdict}", self.relative, self.largest);
        if self.by_absolute {
            text += ", by the largest difference: the reference is about zero";
        }
        let [both, one] = self.nan;
        for (count, sides) in [(both, "both sides"), (one, "one side")].iter().filter(|(count, _)| *count > 0) {
            text += &format!(", {count} NaN on {sides}");
        }
        text + "\n"
    }
}

/// A shape that differs is as far away as can be.
fn row(name: &str, found: &Tensor, expected: &Tensor, args: &Args) -> Row {
    let (mut found, mut expected) = (found.clone(), expected.clone());
    let same_shape = found.shape == expected.shape;
    let mut nan = [0; 2];
    if let (Data::F(a), Data::F(b), true) = (&mut found.data, &mut expected.data, same_shape) {
        for (a, b) in a.iter_mut().zip(b) {
            match (a.is_nan(), b.is_nan()) {
                (true, true) => (*a, *b, nan[0]) = (0.0, 0.0, nan[0] + 1),
                (false, false) => {}
                _ => nan[1] += 1,
            }
        }
    }
    let relative = found.relative_error(&expected);
    let pairs = (0..found.data.len()).map(|i| Some((found.data.get(i)?.as_f64(), expected.data.get(i)?.as_f64())));
    let (mut largest, mut scale) = (if same_shape { 0.0 } else { f64::INFINITY }, 0.0f64);
    for pair in pairs {
        let (a, b) = pair.unwrap_or((f64::INFINITY, 0.0));
        if a != b {
            let difference = (a - b).abs();
            largest = if difference.is_finite() { difference.max(largest) } else { f64::INFINITY };
        }
        scale = scale.max(b.abs());
    }
    let by_absolute = relative > args.rtol && scale <= args.atol;
    let close = relative <= args.rtol || (by_absolute && largest <= args.atol);
    let (name, shape, expected_shape) = (name.to_owned(), found.shape, expected.shape);
    let passes = close && nan[1] == 0 && same_shape;
    Row { name, relative, largest, nan, by_absolute, passes, shape, expected_shape }
}

/// Whether the reference is a file of tensors; a model is a folder or a text.
fn holds_tensors(path: &Path) -> Result<bool> {
    let metadata = std::fs::metadata(path).map_err(|e| Failure::io(path, &e))?;
    let extension = path.extension().and_then(|e| e.to_str());
    Ok(metadata.is_file() && matches!(extension, Some("npz" | "safetensors")))
}

fn from_file(args: &Args, artifact: &Artifact, given: Option<Named>) -> Result<(String, Named, Named)> {
    let tensors = interpret::read(&args.reference)?;
    let entry = super::artifact::entry(artifact, args.entry.as_deref())?;
    let takes = |name: &str| entry.inputs.iter().any(|p| p.name == name);
    let gives = |name: &str| entry.outputs.iter().any(|p| p.name == name);
    let expected: Named = tensors.iter().filter(|(name, _)| gives(name)).cloned().collect();
    if expected.is_empty() {
        let (has, names) = (names(tensors.iter().map(|t| &t.0)), names(entry.outputs.iter().map(|p| &p.name)));
        let message =
            format!("{}: expected a tensor named as an output, {names}; found {has}", args.reference.display());
        return Err(Failure::new(Code::Tensors, message));
    }
    let inputs = given.unwrap_or_else(|| tensors.into_iter().filter(|(name, _)| takes(name)).collect());
    Ok((entry.name.clone(), inputs, expected))
}

fn names<'n>(names: impl Iterator<Item = &'n String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn from_model(args: &Args, artifact: &Artifact, given: Option<Named>) -> Result<(String, Named, Named)> {
    let model = args.load.load(&args.reference)?;
    let entry = super::artifact::entry(artifact, args.entry.as_deref())?;
    let inputs = given.map_or_else(|| interpret::made_up(artifact, entry, &model.module), Ok)?;
    let expected = interpret::run(&model, &entry.name, &inputs)?;
    Ok((entry.name.clone(), inputs, expected))
}

/// The target that ran, and what it gave.
fn session_outputs(artifact: &Artifact, args: &Args, entry: &str, inputs: &Named) -> Result<(String, Named)> {
    let threads = args.threads.map(usize::from);
    let mut session =
        Session::new(artifact, SessionOptions { threads, target: args.target.clone(), ..SessionOptions::default() })?;
    let target = artifact.manifest().targets[session.target()].name.clone();
    let tensors = inputs.iter().map(|(name, t)| Ok((name.as_str(), interpret::to_runtime(t)?)));
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    let views: Vec<_> = tensors.iter().map(|(name, t)| (*name, t.view())).collect();
    let outputs = session.entry(entry)?.run(&views)?;
    let outputs = outputs.iter().map(|(name, t)| Ok((name.to_owned(), interpret::from_runtime(t.view())?)));
    Ok((target, outputs.collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use kiln_ir::ElemType;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// The verdict, and what is said.
    fn judge(found: &[f64], expected: &[f64]) -> (bool, String) {
        let args = Line::parse_from(["compare", "a", "b", "--rtol", "1e-5", "--atol", "1e-6"]).args;
        let tensor = |v: &[f64]| Tensor::floats(ElemType::F32, [v.len()], v.to_vec());
        let row = row("y", &tensor(found), &tensor(expected), &args);
        (row.passes, row.line())
    }

    #[test]
    fn outputs_are_judged_by_their_relative_distance() {
        assert!(judge(&[1.0, 2.0], &[1.0, 2.000_001]).0);
        assert!(!judge(&[1.0, 2.0], &[1.0, 2.001]).0);
        let (passes, line) = judge(&[1.0, 2.0, 3.0], &[1.0, 2.0]);
        assert!(!passes && line.contains("shape [3], expected [2] differs"), "{line}");
        assert!(!judge(&[0.0, 0.0], &[0.0]).0);
        assert!(judge(&[f64::INFINITY, 2.0], &[f64::INFINITY, 2.0]).0);
        assert!(!judge(&[f64::INFINITY, 2.0], &[1.0, 2.0]).0);
        // Small, but not zero.
        assert!(!judge(&[1e-5], &[1.1e-5]).0);
    }

    #[test]
    fn where_the_reference_is_about_zero_the_difference_decides() {
        let (passes, line) = judge(&[1e-7, 0.0], &[0.0, 1e-18]);
        assert!(passes && line.contains("the reference is about zero"), "{line}");
        assert!(!judge(&[2e-6], &[0.0]).0);
        assert!(!judge(&[f64::INFINITY], &[0.0]).0);
    }

    #[test]
    fn nan_is_counted_on_both_sides_and_fails_on_one() {
        let (passes, line) = judge(&[1.0, f64::NAN, f64::NAN], &[1.0, f64::NAN, f64::NAN]);
        assert!(passes && line.contains("ok, 2 NaN on both sides"), "{line}");
        assert!(!judge(&[1.5, f64::NAN], &[1.0, f64::NAN]).0);
        for (found, expected) in
            [([1.0, f64::NAN], [1.0, 2.0]), ([1.0, 0.0], [1.0, f64::NAN]), ([f64::NAN, 0.0], [0.0; 2])]
        {
            let (passes, line) = judge(&found, &expected);
            assert!(!passes && line.contains("differs") && line.contains("1 NaN on one side"), "{line}");
        }
    }
}
