//! Compiles a module in process, runs it at several thread counts and levels, and compares it with the interpreter.

use kiln_backends::{
    artifact::{self, Parts},
    code,
    plan::{PlanOptions, plan},
    weights::Params,
};
pub use kiln_ir::sample::{Domain, Random, tensor};
use kiln_ir::{ElemType, Module, eval};
use kiln_kernels::{Level, cpu::CpuLevel};
use kiln_runtime::{Artifact, Session, SessionOptions, TensorView, cuda::Driver, format::Writer};
use std::{collections::HashMap, io::Cursor, sync::Arc};

type Named = Vec<(String, eval::Tensor)>;

/// A compiled module.
pub struct Built {
    pub module: Module,
    pub artifact: Artifact,
    pub bytes: Vec<u8>,
    pub weights: HashMap<String, eval::Tensor>,
    pub levels: Vec<Level>,
    /// Of the GPU, where the levels have one.
    pub driver: Option<Arc<Driver>>,
}

/// The levels that this machine runs.
pub fn levels() -> Vec<CpuLevel> {
    CpuLevel::ALL.into_iter().filter(|l| l.is_native()).collect()
}

/// Parses, verifies and compiles a module for all levels of this machine; its weights are random.
pub fn build(text: &str, options: &PlanOptions) -> Built {
    build_for(text, options, levels().into_iter().map(Level::Cpu).collect(), None)
}

/// The same for these levels.
pub fn build_for(text: &str, options: &PlanOptions, levels: Vec<Level>, driver: Option<Arc<Driver>>) -> Built {
    let module = kiln_ir::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut random = Random(7);
    let mut weights = HashMap::new();
    for param in module.params.values() {
        let ty = module.ty(param.value);
        let shape: Vec<usize> = ty.const_dims().unwrap().iter().map(|d| *d as usize).collect();
        weights.insert(param.key.clone(), tensor(&mut random, ty.elem, &shape, Domain::Any));
    }
    let raw: HashMap<String, Vec<u8>> = weights.iter().map(|(k, t)| (k.clone(), t.to_bytes())).collect();
    let verified = kiln_ir::verify(&module).unwrap_or_else(|e| panic!("{e}"));
    let gpu = levels.iter().any(|level| matches!(level, Level::Cuda(_)));
    let plan = plan(verified, &PlanOptions { gpu, ..*options }).unwrap_or_else(|e| panic!("{e}"));
    let code = code::compile(&plan.kernels, &levels, 2).unwrap_or_else(|e| panic!("{}", e[0]));
    let find = |_, key: &str| raw.get(key).map(Vec::as_slice);
    let params = Params::new(&module, &find, &|_| {}).unwrap();
    let parts = Parts { module: verified, plan: &plan, code: &code, params: &params, producer: "test", rewrites: b"" };
    let mut out = Cursor::new(vec![]);
    artifact::write(Writer::new(&mut out).unwrap(), &parts).unwrap_or_else(|e| panic!("{e}"));
    let bytes = out.into_inner();
    let artifact = Artifact::from_bytes(&bytes).unwrap_or_else(|e| panic!("{e}"));
    Built { module, artifact, bytes, weights, levels, driver }
}

impl Built {
    /// Runs an entry with these values of the symbols on random inputs; returns what is wrong.
    pub fn check(
        &self,
        entry: &str,
        symbols: &[(&str, i64)],
        domain: &dyn Fn(&str) -> Domain,
        tolerance: &dyn Fn(&str) -> f64,
    ) -> Vec<String> {
        let at = |what: String| format!("{entry} {symbols:?}: {what}");
        let (inputs, expected) = match self.sample(entry, symbols, domain) {
            Ok(sample) => sample,
            Err(e) => return vec![at(format!("the interpreter says {e}"))],
        };
        let mut problems = vec![];
        for level in self.levels.iter().copied() {
            let mut first: Option<Vec<Vec<u8>>> = None;
            let counts: &[usize] = if matches!(level, Level::Cpu(_)) { &[1, 2, 3] } else { &[1] };
            for threads in counts.iter().copied() {
                let place = |what: String| at(format!("{} on {threads}: {what}", level.name()));
                let outputs = match self.run(entry, level, threads, &inputs) {
                    Ok(outputs) => outputs,
                    Err(e) => {
                        problems.push(place(e));
                        break;
                    }
                };
                match &first {
                    None => first = Some(outputs),
                    Some(first) if *first != outputs => problems.push(place("other bits than on 1".into())),
                    Some(_) => {}
                }
            }
            for ((name, reference), bytes) in expected.iter().zip(first.iter().flatten()) {
                // What overflows or vanishes in 16 bits does so in the reference too.
                let short = matches!(reference.elem, ElemType::F16 | ElemType::BF16);
                let rounded = eval::Tensor::from_bytes(reference.elem, reference.shape.clone(), &reference.to_bytes());
                let reference = rounded.as_ref().filter(|_| short).unwrap_or(reference);
                let got = eval::Tensor::from_bytes(reference.elem, reference.shape.clone(), bytes);
                let error = got.map_or(f64::INFINITY, |got| got.relative_error(reference));
                if error > tolerance(name) {
                    let limit = tolerance(name);
                    problems.push(at(format!("{}: {name} differs by {error:.1e}, limit {limit:.1e}", level.name())));
                }
            }
        }
        problems
    }

    /// Random inputs of an entry with these values of the symbols, and what the interpreter makes of them.
    pub fn sample(
        &self,
        entry: &str,
        symbols: &[(&str, i64)],
        domain: &dyn Fn(&str) -> Domain,
    ) -> Result<(HashMap<String, eval::Tensor>, Named), eval::EvalError> {
        let m = &self.module;
        let body = m.entry(entry).unwrap().body;
        let mut random = Random(symbols.iter().fold(11, |s, (_, v)| s * 31 + *v as u64));
        let value = |s: kiln_ir::Symbol| symbols.iter().find(|(n, _)| *n == s.name()).map(|(_, v)| *v);
        let mut inputs = HashMap::new();
        for arg in &m.regions[body].args {
            let (name, ty) = (m.name_of(*arg), m.ty(*arg));
            let shape: Vec<usize> = ty.dims.iter().map(|d| d.eval(&value).unwrap() as usize).collect();
            let data = tensor(&mut random, ty.elem, &shape, domain(&name));
            inputs.insert(name, data);
        }
        let by_key = |p: kiln_ir::Param| self.weights.get(&m.params[p].key).cloned().ok_or_else(String::new);
        let expected = eval::run(m, entry, &inputs, &by_key)?;
        Ok((inputs, expected))
    }

    /// The bytes of the outputs.
    pub fn run(
        &self,
        entry: &str,
        level: impl Into<Level>,
        threads: usize,
        inputs: &HashMap<String, eval::Tensor>,
    ) -> Result<Vec<Vec<u8>>, String> {
        let (target, driver) = (Some(level.into().name()), self.driver.clone());
        let options = SessionOptions { threads: Some(threads), target, driver, ..Default::default() };
        let mut session = Session::new(&self.artifact, options).map_err(|e| e.to_string())?;
        let mut handle = session.entry(entry).map_err(|e| e.to_string())?;
        let raw: Vec<(String, kiln_runtime::Tensor)> = inputs
            .iter()
            .map(|(name, t)| {
                let elem = kiln_runtime::format::ElemType::from_name(t.elem.name()).unwrap();
                let mut tensor = kiln_runtime::Tensor::zeros(elem, &t.shape).unwrap();
                tensor.bytes_mut().copy_from_slice(&t.to_bytes());
                (name.clone(), tensor)
            })
            .collect();
        let views: Vec<(&str, TensorView)> = raw.iter().map(|(n, t)| (n.as_str(), t.view())).collect();
        let outputs = handle.run(&views).map_err(|e| e.to_string())?;
        Ok(outputs.iter().map(|(_, t)| t.bytes().to_vec()).collect())
    }
}

/// The limit for a result of this type, given that of the op in f32.
pub fn limit(elem: ElemType, op: f64) -> f64 {
    match elem {
        _ if op == 0.0 => 0.0,
        ElemType::F64 => op.min(1e-12),
        ElemType::F16 => 1e-3,
        ElemType::BF16 => 8e-3,
        _ if elem.is_float() => op,
        _ => 0.0,
    }
}
