//! `kiln compile`: a model to an artifact, or to any of the forms in between.

use super::explain::Code;
use super::failure::{Failure, Result};
use super::{options, output, progress};
use clap::ValueEnum;
use kiln::{Emit, Error, Report};
use kiln_backends::artifact::WriteError;
use kiln_backends::llvm::Stage;
use kiln_ir::ElemType;
use kiln_runtime::format::{Entry, Port};
use kiln_runtime::plain;
use std::path::{Path, PathBuf};

/// Compile a model to one artifact
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A directory of Hugging Face or of a pointer network, a circuit, or a .kir text graph
    model: PathBuf,
    /// The artifact, or with --emit a file or a folder for what is emitted
    #[arg(short, long, value_name = "OUT", required_unless_present = "emit")]
    output: Option<PathBuf>,
    /// What to generate code for: cpu, cpu:native, or a name from `kiln targets` (repeatable: one artifact for several)
    #[arg(long = "target", value_name = "TARGET", default_value = "cpu", value_parser = options::targets)]
    targets: Vec<String>,
    /// The type that weights of matrices are stored in; by default as in the file
    #[arg(long, value_enum)]
    weights: Option<WeightType>,
    #[command(flatten)]
    choice: options::Exactness,
    /// Only these passes, and those that code generation relies on
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    passes: Option<Vec<String>>,
    /// Stop at this form and write it to standard output or OUT; an OUT that ends in .kir, .mlir, .ll, .s, .o or .ptx says
    /// it too
    #[arg(long, value_enum)]
    emit: Option<Form>,
    #[command(flatten)]
    load: options::Load,
    /// Say which rewrites fired, and what was left alone and why
    #[arg(short, long)]
    verbose: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum WeightType {
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Form {
    /// The graph after all passes
    Kir,
    /// The kernels as built
    Mlir,
    /// LLVM IR after optimisation
    Llvm,
    /// Assembly
    Asm,
    /// ELF objects, one a kernel
    Obj,
    /// Assembly for GPUs
    Ptx,
}

/// A form with the extension of its files, what it is for the driver, and how a comment starts in it.
const FORMS: [(Form, &str, Emit, &str); 6] = [
    (Form::Kir, "kir", Emit::Kir, "//"),
    (Form::Mlir, "mlir", Emit::Kernels(Stage::Mlir), "//"),
    (Form::Llvm, "ll", Emit::Kernels(Stage::Llvm), ";"),
    (Form::Asm, "s", Emit::Kernels(Stage::Asm), "#"),
    (Form::Obj, "o", Emit::Kernels(Stage::Obj), ""),
    (Form::Ptx, "ptx", Emit::Kernels(Stage::Ptx), "//"),
];

pub(crate) fn run(args: Args) -> Result<()> {
    let mut options = kiln::Options {
        load: args.load.options(),
        targets: args.targets.clone(),
        weights: args.weights.map(|w| match w {
            WeightType::F32 => ElemType::F32,
            WeightType::F16 => ElemType::F16,
            WeightType::Bf16 => ElemType::BF16,
        }),
        passes: args.passes.clone(),
        progress: Some(progress::stage),
        ..kiln::Options::default()
    };
    args.choice.apply(&mut options.exactness, &mut options.disable);
    let extension = args.output.as_deref().and_then(Path::extension);
    let form = args.emit.or_else(|| FORMS.iter().find(|f| extension.is_some_and(|e| e == f.1)).map(|f| f.0));
    match (form, &args.output) {
        (None, Some(out)) => artifact(&args, &options, out),
        (form, out) => emit(&args, &options, form.unwrap_or(Form::Kir), out.as_deref()),
    }
}

fn artifact(args: &Args, options: &kiln::Options, out: &Path) -> Result<()> {
    output::folder(out)?;
    output::overwrites(&[out], &args.model, &[])?;
    let report = kiln::compile(&args.model, options, out);
    progress::done();
    let report = report?;
    let rewrites = if args.verbose { super::inspect::rewrites(&report.record) } else { String::new() };
    output::facts(args.json, object(&report, out)?, || rewrites + &summary(&report, out))
}

fn object(report: &Report, out: &Path) -> Result<serde_json::Value> {
    // What the artifact says of itself, so that the two cannot differ; a device has nothing to say.
    let artifact = if out.is_file() { Some(super::artifact::open(out)?) } else { None };
    let entries = artifact.as_ref().map(|artifact| {
        let manifest = artifact.manifest();
        let ports = |ports: &[Port]| ports.iter().map(|p| manifest.describe(p)).collect::<Vec<_>>();
        let entry =
            |e: &Entry| serde_json::json!({"name": e.name, "inputs": ports(&e.inputs), "outputs": ports(&e.outputs)});
        manifest.entries.iter().map(entry).collect::<Vec<_>>()
    });
    let root: String = report.root.iter().map(|b| format!("{b:02x}")).collect();
    Ok(serde_json::json!({
        "artifact": out.to_string_lossy(),
        "file_bytes": report.file_bytes,
        "weight_bytes": report.weight_bytes,
        "code_bytes": report.code_bytes,
        "kernels": report.kernels,
        "root": root,
        "targets": report.targets,
        "entries": entries,
        "rewrites": report.record.rewrites.len(),
        "stages": report.timings.iter().map(|(name, time)| serde_json::json!({
            "name": name, "seconds": time.as_secs_f64(),
        })).collect::<Vec<_>>(),
        "notes": report.notes,
    }))
}

fn summary(report: &Report, out: &Path) -> String {
    let bytes = |n: usize| output::bytes(n as u64);
    let stages: Vec<String> =
        report.timings.iter().map(|(name, t)| format!("{name} {:.2} s", t.as_secs_f64())).collect();
    let mut text: String = report.notes.iter().map(|n| format!("note: {}\n", plain(n))).collect();
    text += &format!("{}: {}", out.display(), output::bytes(report.file_bytes));
    text += &format!(", of that weights {}, code {}\n", output::bytes(report.weight_bytes), bytes(report.code_bytes));
    text += &format!("for {}: {} kernels", report.targets.join(", "), report.kernels);
    text += &format!(", {} rewrites fired\n{}\n", report.record.rewrites.len(), stages.join(", "));
    text
}

fn emit(args: &Args, options: &kiln::Options, form: Form, out: Option<&Path>) -> Result<()> {
    let (_, extension, what, comment) = FORMS[FORMS.iter().position(|f| f.0 == form).unwrap_or(0)];
    let levels = kiln_backends::code::levels(&options.targets).map_err(|e| Failure::new(Code::Option, e))?;
    if let Emit::Kernels(stage) = what
        && !levels.iter().any(|level| stage.serves(*level))
    {
        let (form, targets) = (format!("{form:?}").to_lowercase(), options.targets.join(", "));
        return Err(Failure::new(Code::Option, format_args!("code for {targets} has no form {form}")));
    }
    output::overwrites(out.as_slice(), &args.model, &[])?;
    let parts = kiln::emit(&args.model, options, what);
    progress::done();
    let parts = parts?;
    if parts.is_empty() {
        let message = format!("--emit {extension}: code for {} has no such form", args.targets.join(", "));
        return Err(Failure::new(Code::Option, message));
    }
    if let Some(folder) = out.filter(|p| p.is_dir()) {
        let path = |name: &str| folder.join(format!("{}.{extension}", name.replace(['/', ':'], "-")));
        let paths: Vec<PathBuf> = parts.iter().map(|(name, _)| path(name)).collect();
        output::overwrites(&paths.iter().map(|p| &**p).collect::<Vec<_>>(), &args.model, &[])?;
        return paths.iter().zip(&parts).try_for_each(|(path, (_, bytes))| output::file(path, bytes));
    }
    let joined = match (form, &parts[..]) {
        (Form::Obj, [(_, object)]) => object.clone(),
        (Form::Obj, _) => {
            let message = format!("there are {} objects; name a folder that exists with -o", parts.len());
            return Err(Failure::new(Code::Option, message));
        }
        (Form::Kir, _) => parts.into_iter().flat_map(|(_, text)| text).collect(),
        _ => parts
            .into_iter()
            .flat_map(|(name, text)| [format!("{comment} {name}\n").into_bytes(), text].concat())
            .collect(),
    };
    match out {
        Some(path) => output::file(path, &joined),
        None => output::print(joined),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Import(e) => e.into(),
            Error::Pass(e) => e.into(),
            Error::Target(e) => Failure::new(Code::Option, e),
            Error::Verify(e) => Failure::new(Code::Graph, e),
            Error::Weight(e) | Error::Write(WriteError::Weight(e)) => Failure::new(Code::Weights, e),
            Error::Plan(e) => Failure::all(e.0.iter().map(|u| (Code::Unsupported, u))),
            Error::Room(e) => Failure::new(Code::Unsupported, e),
            Error::Code(e) => Failure::all(e.iter().map(|e| (Code::Tool, e))),
            Error::Write(WriteError::Format(e)) => Failure::new(Code::Write, e),
            Error::Record(e) => Failure::new(Code::Pass, format_args!("the record of rewrites: {e}")),
        }
    }
}
