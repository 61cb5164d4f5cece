//! What a bundle holds: the conformance cases on every element type, the example models with what the reference
//! interpreter says of them, and benches.
#![allow(dead_code, unreachable_pub, reason = "programs and a test each use their part")]

use super::{
    cases::{CASES, Case, DIMS},
    figures,
    harness::{Domain, Random, build_for, limit, tensor},
};
use kiln::Options;
use kiln_backends::plan::PlanOptions;
use kiln_frontend::{LoadOptions, Loaded};
use kiln_ir::{
    ElemType, Entry, Module,
    eval::{self, Data, Tensor},
};
use kiln_kernels::{Level, cuda::Sm};
use kiln_runtime::cli::write_tensors;
use serde_json::{Value, json};
use std::{collections::HashMap, fmt::Display, fs, path::Path};

/// Relative L2 distance to f64 that models keep.
const MODEL_LIMIT: f64 = 1e-5;

pub const LEVELS: [Level; 2] = [Level::Cuda(Sm::Sm80), Level::Cuda(Sm::Sm90a)];

/// Small models of the families that the examples leave out, in the front end's tests.
pub const GOLDEN: &[&str] = &[
    "bert",
    "pointer-attention-batch",
    "pointer-attention-instance",
    "pointer-glimpse",
    "pointer-gru",
    "pointer-lstm-layers",
];

/// Steps over a cache of keys and values, which stays on the device.
pub const DECODE: &str = "module @decode stage=legal {
    dim P = 0..64
    dim N = 1..16
    state @k : f32[1,2,P,16] grows=2 capacity=64 lifetime=session
    state @v : f32[1,2,P,16] grows=2 capacity=64 lifetime=session
    entry @step(%q: f32[1,2,N,16], %x: f32[1,2,N,16], %y: f32[1,2,N,16]) -> (z: f32[1,2,N,16]) {
      %0 = mul %x, 0.5 : f32[1,2,N,16]
      %1 = state.append %0 state=@k : f32[1,2,P + N,16]
      %2 = state.append %y state=@v : f32[1,2,P + N,16]
      %3 = attention %q, %1, %2 scale=0.25 causal=false layout=bhsd : f32[1,2,N,16]
      return %3
    }
    entry @look() -> (k: f32[1,2,P,16]) {
      %4 = state.read state=@k : f32[1,2,P,16]
      return %4
    }
  }";

pub const DECODE_CALLS: &[(&str, &[(&str, i64)])] = &[
    ("step", &[("N", 9)]),
    ("step", &[("N", 1)]),
    ("step", &[("N", 1)]),
    ("step", &[("N", 1)]),
    ("look", &[("P", 12)]),
    ("step", &[("N", 3)]),
];

type Named = Vec<(String, Tensor)>;

fn said(e: impl Display) -> String {
    e.to_string()
}

/// A bundle while it is written.
pub struct Bundle<'a> {
    pub folder: &'a Path,
    pub cases: Vec<Value>,
    pub benches: Vec<Value>,
}

impl<'a> Bundle<'a> {
    pub fn new(folder: &'a Path) -> Bundle<'a> {
        Bundle { folder, cases: vec![], benches: vec![] }
    }

    pub fn finish(self) -> Result<(), String> {
        let all = json!({"cases": self.cases, "benches": self.benches});
        fs::write(self.folder.join("bundle.json"), format!("{all:#}\n")).map_err(said)
    }

    /// The conformance cases of an element type that `wanted` leaves in.
    pub fn conformance(&mut self, elem: ElemType, wanted: &dyn Fn(&Case) -> bool) -> Result<(), String> {
        let cases: Vec<&Case> = CASES.iter().filter(|c| c.elems.contains(&elem) && wanted(c)).collect();
        let entries: String = cases.iter().map(|c| format!(" entry @{}{}\n", c.name, c.on(elem))).collect();
        let text = format!("module @m stage=legal {{\n {DIMS}\n{entries}}}");
        let built = build_for(&text, &PlanOptions::default(), LEVELS.to_vec(), None);
        let artifact = format!("{elem}.kiln");
        fs::write(self.folder.join(&artifact), &built.bytes).map_err(said)?;
        let mut data = File::new(format!("{elem}.safetensors"));
        for case in cases {
            let domain = |name: &str| match case.below {
                n if n > 0 && name.starts_with('i') => Domain::Below(n),
                _ => Domain::Any,
            };
            let results = &built.module.regions[built.module.entry(case.name).ok_or("a case is gone")?.body].results;
            for sizes in case.sizes {
                let [b, s, k] = *sizes;
                let (inputs, outputs) =
                    built.sample(case.name, &[("B", b), ("S", s), ("K", k)], &domain).map_err(said)?;
                let types = results.iter().map(|v| built.module.ty(*v).elem);
                let limits: HashMap<&str, f64> = outputs
                    .iter()
                    .zip(types)
                    .map(|((name, _), ty)| (name.as_str(), limit(ty, case.tolerance)))
                    .collect();
                let name = format!("{elem} {} B={b} S={s} K={k}", case.name);
                let prefix = data.add(inputs.into_iter(), &outputs);
                self.cases.push(json!({"name": name, "artifact": artifact, "entry": case.name, "data": data.file,
                    "prefix": prefix, "limits": limits}));
            }
        }
        data.write(self.folder)
    }

    /// A model with all of its entries; `sizes` are what symbols take in each of its cases, 7 where they say nothing.
    /// The first entry is also timed with the symbols of `timed`.
    pub fn model(
        &mut self,
        name: &str,
        path: &Path,
        sizes: &[&[(&str, i64)]],
        timed: Option<&[(&str, i64)]>,
    ) -> Result<(), String> {
        let artifact = format!("{name}.kiln");
        let targets = LEVELS.map(Level::name).into_iter().chain(["cpu:x86-64-v3".to_owned()]).collect();
        let options = Options { targets, ..Options::default() };
        kiln::compile(path, &options, &self.folder.join(&artifact)).map_err(said)?;
        let model = kiln_frontend::load(path, &LoadOptions::default()).map_err(said)?;
        let mut data = File::new(format!("{name}.safetensors"));
        for entry in &model.module.entries {
            for sizes in sizes {
                let inputs = made_up(&model.module, entry, sizes)?;
                let outputs = reference(&model, &entry.name, &inputs)?;
                let limits: HashMap<&str, f64> = outputs
                    .iter()
                    .map(|(name, t)| (name.as_str(), if t.elem.is_float() { limit(t.elem, MODEL_LIMIT) } else { 0.0 }))
                    .collect();
                let prefix = data.add(inputs.into_iter(), &outputs);
                self.cases.push(json!({"name": format!("{name} {} {sizes:?}", entry.name), "artifact": artifact,
                    "entry": entry.name, "data": data.file, "prefix": prefix, "limits": limits}));
            }
        }
        if let Some(timed) = timed {
            let entry = model.module.entries.first().ok_or("a model without entries")?;
            let name = format!("{name} {} {timed:?}", entry.name);
            self.bench(&name, (&artifact, &model.module, &entry.name), timed, 2, [None, None])?;
        }
        data.write(self.folder)
    }

    /// Calls of one session, one after the other: the entry and what its symbols take. They see what calls before them left
    /// in the states.
    pub fn calls(&mut self, name: &str, text: &str, calls: &[(&str, &[(&str, i64)])]) -> Result<(), String> {
        let built = build_for(text, &PlanOptions::default(), LEVELS.to_vec(), None);
        let artifact = format!("{name}.kiln");
        fs::write(self.folder.join(&artifact), &built.bytes).map_err(said)?;
        let (mut data, mut states) = (File::new(format!("{name}.safetensors")), HashMap::new());
        let mut listed = vec![];
        for (n, (entry, sizes)) in calls.iter().enumerate() {
            let found = built.module.entry(entry).ok_or_else(|| format!("{name} has no entry {entry}"))?;
            let made = |(at, elem, shape): (String, ElemType, Vec<usize>)| {
                let value = tensor(&mut Random::named(&at, n as u64), elem, &shape, Domain::Small);
                (at, value)
            };
            let inputs: Named = shapes(&built.module, found, sizes)?.into_iter().map(made).collect();
            let given = inputs.iter().cloned().collect();
            let limits = eval::Limits::default();
            let outputs = eval::run_with(&built.module, entry, &given, &eval::no_weights, &mut states, limits);
            let outputs = outputs.map_err(said)?;
            let limits: HashMap<&str, f64> =
                outputs.iter().map(|(name, t)| (name.as_str(), limit(t.elem, MODEL_LIMIT))).collect();
            let prefix = data.add(inputs.into_iter(), &outputs);
            listed.push(json!({"entry": entry, "prefix": prefix, "limits": limits}));
        }
        self.cases.push(json!({"name": name, "artifact": artifact, "data": data.file, "calls": listed}));
        data.write(self.folder)
    }

    /// An entry of an artifact of the bundle with symbols of these values. `below` bounds integers, and what circuits
    /// take, which are integers of any type; `flops` and `bytes`
    /// are its work, as far as rates of them say something.
    pub fn bench(
        &mut self,
        name: &str,
        (artifact, module, entry): (&str, &Module, &str),
        sizes: &[(&str, i64)],
        below: u64,
        [flops, bytes]: [Option<f64>; 2],
    ) -> Result<(), String> {
        let found = module.entry(entry).ok_or_else(|| format!("{artifact} has no entry {entry}"))?;
        let inputs = shapes(module, found, sizes)?.into_iter().map(|(name, elem, shape)| {
            json!({"name": name, "elem": elem.name(), "shape": shape, "below": below,
                "whole": !module.circuits.is_empty()})
        });
        let inputs: Vec<Value> = inputs.collect();
        self.benches.push(json!({"name": name, "artifact": artifact, "entry": entry, "inputs": inputs, "flops": flops,
            "bytes": bytes, "elem": figures::elem(name), "whole": figures::is_whole(name), "figures": figures::of(name)}));
        Ok(())
    }

    /// Compiles a model for benches; its module as imported.
    pub fn compile_model(&self, artifact: &str, path: &Path, load: &LoadOptions) -> Result<Module, String> {
        let targets = LEVELS.map(Level::name).to_vec();
        let options = Options { load: load.clone(), targets, ..Options::default() };
        kiln::compile(path, &options, &self.folder.join(artifact)).map_err(said)?;
        Ok(kiln_frontend::load(path, load).map_err(said)?.module)
    }

    /// Compiles a text graph, whose weights lie in the folder `weights`, for benches.
    pub fn compile(&self, artifact: &str, text: &str, weights: &Path) -> Result<Module, String> {
        let path = weights.join("graph.kir");
        fs::write(&path, text).map_err(said)?;
        let options = Options { targets: LEVELS.map(Level::name).to_vec(), ..Options::default() };
        kiln::compile(&path, &options, &self.folder.join(artifact)).map_err(|e| format!("{artifact}: {e}"))?;
        kiln_ir::parse(text).map_err(said)
    }
}

/// The tensors of one file.
struct File {
    file: String,
    tensors: Vec<(String, kiln_runtime::Tensor)>,
    cases: usize,
}

impl File {
    fn new(file: String) -> File {
        File { file, tensors: vec![], cases: 0 }
    }

    /// The prefix of the names of a case's tensors.
    fn add(&mut self, inputs: impl Iterator<Item = (String, Tensor)>, outputs: &Named) -> String {
        let prefix = self.cases.to_string();
        let mut put = |kind: &str, name: &str, tensor: &Tensor| {
            let elem = kiln_runtime::format::ElemType::from_name(tensor.elem.name()).expect("the same types");
            let mut stored = kiln_runtime::Tensor::zeros(elem, &tensor.shape).expect("memory");
            stored.bytes_mut().copy_from_slice(&tensor.to_bytes());
            self.tensors.push((format!("{prefix}/{kind}/{name}"), stored));
        };
        inputs.for_each(|(name, tensor)| put("in", &name, &tensor));
        outputs.iter().for_each(|(name, tensor)| put("out", name, tensor));
        self.cases += 1;
        prefix
    }

    fn write(self, folder: &Path) -> Result<(), String> {
        let views: Vec<_> = self.tensors.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
        write_tensors(&folder.join(&self.file), &views).map_err(|e| format!("{}: {e}", self.file))
    }
}

/// The inputs of an entry: names, types and shapes.
fn shapes(m: &Module, entry: &Entry, sizes: &[(&str, i64)]) -> Result<Vec<(String, ElemType, Vec<usize>)>, String> {
    let value = |s: kiln_ir::Symbol| {
        let named = sizes.iter().find(|(name, _)| *name == s.name()).map(|(_, v)| *v);
        named.or_else(|| m.symbols.iter().find(|f| f.symbol == s).map(|f| kiln_ir::sample::size(f, 7)))
    };
    let input = |v: &kiln_ir::Value| {
        let ty = m.ty(*v);
        let dims = ty.dims.iter().map(|d| d.eval(&value).and_then(|n| usize::try_from(n).ok()));
        let shape = dims.collect::<Option<Vec<usize>>>().ok_or_else(|| format!("{}: no size", m.name_of(*v)))?;
        Ok((m.name_of(*v), ty.elem, shape))
    };
    m.regions[entry.body].args.iter().map(input).collect()
}

/// Inputs in -1..1, integers 0 or 1 with a 1 first in each row; those that make no rows are 1.
fn made_up(m: &Module, entry: &Entry, sizes: &[(&str, i64)]) -> Result<Named, String> {
    let input = |(name, elem, shape): (String, ElemType, Vec<usize>)| {
        let mut made = tensor(&mut Random::named(&name, 0), elem, &shape, Domain::Small);
        if let Data::I(values) = &mut made.data {
            let row = if shape.len() < 2 { 1 } else { shape[shape.len() - 1].max(1) };
            values.iter_mut().step_by(row).for_each(|v| *v = 1);
        }
        (name, made)
    };
    Ok(shapes(m, entry, sizes)?.into_iter().map(input).collect())
}

/// What the model means, in f64.
fn reference(model: &Loaded, entry: &str, inputs: &Named) -> Result<Named, String> {
    let inputs: HashMap<String, Tensor> = inputs.iter().cloned().collect();
    let weights = |p| {
        let param = &model.module.params[p];
        let stored = model.weights.tensor(param.file, &param.key).ok_or("a weight is missing")?;
        Tensor::from_bytes(stored.elem, stored.shape, stored.bytes).ok_or_else(|| "a weight is misshapen".to_owned())
    };
    eval::run(&model.module, entry, &inputs, &weights).map_err(said)
}
