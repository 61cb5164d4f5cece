//! The reference interpreter on a model's files: weights, and tensors of the runtime as its own.

use super::explain::Code;
use super::failure::{Failure, Result};
use kiln_frontend::Loaded;
use kiln_ir::eval::{self, Data, EvalError, Tensor};
use kiln_ir::sample::{self, Domain, Random};
use kiln_ir::{ElemType, Entry, Module, Type, Value};
use kiln_runtime::format::{Accepts, Port};
use kiln_runtime::{Artifact, TensorView, plain};
use std::collections::HashMap;
use std::fmt::Display;

/// Tensors by name, in an order.
pub(crate) type Named = Vec<(String, Tensor)>;

/// Runs an entry of a model in f64.
pub(crate) fn run(model: &Loaded, entry: &str, inputs: &Named) -> Result<Named> {
    let module = &model.module;
    let weights = |param| {
        let data = &module.params[param];
        let stored = model.weights.tensor(data.file, &data.key);
        let stored = stored.ok_or_else(|| format!("{} is not in the file", data.key))?;
        let tensor = Tensor::from_bytes(stored.elem, stored.shape, stored.bytes);
        tensor.ok_or_else(|| format!("{}: bytes and shape do not fit", data.key))
    };
    let inputs: HashMap<String, Tensor> = inputs.iter().cloned().collect();
    eval::run(module, entry, &inputs, &weights).map_err(|e| match e {
        EvalError::Input { .. } | EvalError::Symbol { .. } | EvalError::Sizes { .. } => {
            Failure::new(Code::Inputs, &e).help(signature(module, entry))
        }
        EvalError::Values(_) | EvalError::Range { .. } => Failure::new(Code::Index, &e),
        EvalError::Loop { .. } => Failure::new(Code::Loop, &e),
        EvalError::Entry(_) => Failure::new(Code::Entry, &e),
        EvalError::Limit { .. } => Failure::new(Code::Memory, &e),
        EvalError::Weight { .. } | EvalError::State { .. } | EvalError::Node { .. } => Failure::new(Code::Graph, &e),
    })
}

/// The entry that is asked for: by default `forward`, or the only one.
pub(crate) fn entry<'m>(module: &'m Module, name: Option<&str>) -> Result<&'m Entry> {
    let names = || module.entries.iter().map(|e| e.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, &module.entries[..]) {
        (None, [only]) => Ok(only),
        (None, _) => module.entry("forward").ok_or_else(|| {
            Failure::new(Code::Option, format_args!("choose one of the entries with --entry: {}", names()))
        }),
        (Some(name), _) => module
            .entry(name)
            .ok_or_else(|| Failure::new(Code::Entry, format_args!("no entry `{name}`; the model has {}", names()))),
    }
}

/// What an entry takes and gives, one line.
pub(crate) fn signature(module: &Module, entry: &str) -> String {
    let Some(entry) = module.entry(entry) else { return String::new() };
    let body = &module.regions[entry.body];
    let port = |(name, ty): (String, &Type)| format!("{name}: {ty}");
    let input = |(n, v): (usize, &Value)| {
        let accepts = entry.accepts.get(&n).map(|accepts| format!(" {accepts}")).unwrap_or_default();
        port((module.name_of(*v), module.ty(*v))) + &accepts
    };
    let inputs: Vec<String> = body.args.iter().enumerate().map(input).collect();
    let outputs = entry.outputs.iter().cloned().zip(body.results.iter().map(|v| module.ty(*v)));
    let outputs: Vec<String> = outputs.map(port).collect();
    format!("@{} takes {} and gives {}", entry.name, inputs.join(", "), outputs.join(", "))
}

/// A tensor of the runtime as one of the interpreter.
pub(crate) fn from_runtime(tensor: TensorView<'_>) -> Result<Tensor> {
    let elem = ElemType::from_name(tensor.elem().name());
    let tensor = elem.and_then(|elem| Tensor::from_bytes(elem, tensor.shape(), tensor.bytes()));
    tensor.ok_or_else(|| Failure::new(Code::Inputs, "a tensor's bytes do not fit its type and shape"))
}

/// A tensor of the interpreter as one of the runtime, floats rounded to their type.
pub(crate) fn to_runtime(tensor: &Tensor) -> Result<kiln_runtime::Tensor> {
    let elem = kiln_runtime::format::ElemType::from_name(tensor.elem.name());
    let elem = elem.ok_or_else(|| Failure::new(Code::Inputs, format_args!("artifacts have no {}", tensor.elem)))?;
    let mut out = kiln_runtime::Tensor::zeros(elem, &tensor.shape)?;
    out.bytes_mut().copy_from_slice(&tensor.to_bytes());
    Ok(out)
}

/// The tensors of an .npz or .safetensors file.
pub(crate) fn read(path: &std::path::Path) -> Result<Named> {
    let tensors = kiln_runtime::cli::read_tensors(path, |_| Ok(()))?;
    tensors.into_iter().map(|(name, t)| Ok((name, from_runtime(t.view())?))).collect()
}

/// Inputs that an artifact's entry takes, the same every time: floats in -1..1, integers of the range that the entry
/// declares, or else 0 or 1 with a 1 first in each row, so that no mask hides a whole row. Symbolic sizes are those that
/// the entry of the model fixes, or else small and different from each other.
pub(crate) fn made_up(artifact: &Artifact, entry: &kiln_runtime::format::Entry, model: &Module) -> Result<Named> {
    let symbol = |(i, s): (usize, &kiln_runtime::format::Symbol)| {
        let step = s.multiple_of.max(1);
        (3 + 4 * i as i64).max(s.min).saturating_add(step - 1).min(s.max) / step * step
    };
    let mut sizes: Vec<i64> = artifact.manifest().symbols.iter().enumerate().map(symbol).collect();
    let args = model.entry(&entry.name).map_or(&[][..], |e| &model.regions[e.body].args);
    for port in &entry.inputs {
        let Some(arg) = args.iter().find(|a| model.name_of(**a) == port.name) else { continue };
        for (dim, fixed) in port.dims.iter().zip(&model.ty(*arg).dims) {
            if let (Some(symbol), Some(fixed)) = (dim.as_symbol(), fixed.as_const()) {
                sizes[symbol as usize] = fixed;
            }
        }
    }
    let input = |port: &Port| {
        let dims = port.dims.iter().map(|d| d.eval_size(&sizes).map(|n| n as usize));
        let fail = |e: &dyn Display| Failure::new(Code::Inputs, format_args!("input {}: {e}", plain(&port.name)));
        let shape: Vec<usize> = dims.collect::<Result<_, _>>().map_err(|e| fail(&e))?;
        // Asked for here, as a shape that no memory holds may come of any artifact.
        kiln_runtime::Tensor::zeros(port.elem, &shape)?;
        let elem = ElemType::from_name(port.elem.name()).ok_or_else(|| fail(&"of a type that graphs lack"))?;
        let random = &mut Random::named(&port.name, 0);
        if let Some(Accepts::Range { min, max, filled }) = &port.accepts {
            let max = max.eval(&sizes).map_err(|e| fail(&e))?;
            let domain = if *filled { Domain::Count(*min, max) } else { Domain::Between(*min, max) };
            return Ok((port.name.clone(), sample::tensor(random, elem, &shape, domain)));
        }
        let mut tensor = sample::tensor(random, elem, &shape, Domain::Small);
        if let Data::I(values) = &mut tensor.data {
            values.iter_mut().step_by(shape.last().copied().unwrap_or(1).max(1)).for_each(|v| *v = 1);
        }
        Ok((port.name.clone(), tensor))
    };
    entry.inputs.iter().map(input).collect()
}
