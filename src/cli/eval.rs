//! `kiln eval`: a model through the reference interpreter, in f64.

use super::failure::Result;
use super::{interpret, options, output};
use kiln_ir::eval::Tensor;
use kiln_runtime::plain;
use std::path::PathBuf;

/// Run a model in the reference interpreter: slow, in f64, what the graph means
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A .kir text graph or a model
    #[arg(value_name = "IN")]
    model: PathBuf,
    /// The entry; by default `forward`, or the only one there is
    #[arg(long)]
    entry: Option<String>,
    /// Inputs by name: .npz or .safetensors
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Where to write the outputs: .npz or .safetensors
    #[arg(long, value_name = "FILE")]
    outputs: Option<PathBuf>,
    #[command(flatten)]
    load: options::Load,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    kiln_runtime::cli::check_output(args.outputs.as_deref())?;
    output::overwrites(args.outputs.as_deref().as_slice(), &args.model, args.inputs.as_deref().as_slice())?;
    let model = args.load.load(&args.model)?;
    let entry = interpret::entry(&model.module, args.entry.as_deref())?.name.clone();
    let inputs = args.inputs.as_deref().map_or(Ok(vec![]), interpret::read)?;
    let results = interpret::run(&model, &entry, &inputs)?;
    if let Some(path) = &args.outputs {
        let owned = results.iter().map(|(name, t)| Ok((name.as_str(), interpret::to_runtime(t)?)));
        let owned = owned.collect::<Result<Vec<_>>>()?;
        let views: Vec<_> = owned.iter().map(|(name, t)| (*name, t.view())).collect();
        kiln_runtime::cli::write_tensors(path, &views)?;
    }
    let object = serde_json::json!({
        "entry": entry,
        "outputs": results.iter().map(|(name, t)| serde_json::json!({
            "name": name, "type": t.elem.name(), "shape": t.shape, "first": first(t, 6),
        })).collect::<Vec<_>>(),
    });
    output::facts(args.json, object, || {
        let line = |(name, t): &(String, Tensor)| {
            let values: Vec<String> = first(t, 6).iter().map(|v| format!("{v:.6}")).collect();
            let more = if t.data.len() > values.len() { ", ..." } else { "" };
            let name = plain(name);
            format!("{name}: {}{:?}  [{}{more}]\n", t.elem, t.shape, values.join(", "))
        };
        results.iter().map(line).collect()
    })
}

fn first(tensor: &Tensor, count: usize) -> Vec<f64> {
    (0..count).map_while(|i| tensor.data.get(i)).map(|v| v.as_f64()).collect()
}
