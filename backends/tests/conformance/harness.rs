//! Compiles a module in process, runs it at several thread counts and levels, and compares it with the interpreter.

use kiln_backends::{
    artifact::{self, Parts},
    code,
    plan::{PlanOptions, plan},
    weights::Params,
};
use kiln_ir::{ElemType, Module, eval};
use kiln_kernels::cpu::CpuLevel;
use kiln_runtime::{Artifact, Session, SessionOptions, TensorView, format::Writer};
use std::{collections::HashMap, io::Cursor};

/// Numbers that look random and are the same every time.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In `-1..1`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What values an input takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Domain {
    /// Floats in -3..3, integers over their whole range where it is small and in -1000..1000 elsewhere.
    Any,
    /// Floats in 0.1..3, integers in 1..5.
    Positive,
    /// Indices below a size.
    Below(u64),
}

/// An input or a weight: random elements, rounded to their type.
pub fn tensor(random: &mut Random, elem: ElemType, shape: &[usize], domain: Domain) -> eval::Tensor {
    let n = shape.iter().product::<usize>();
    let exact = if elem.is_float() {
        let value = |r: &mut Random| match domain {
            Domain::Positive => 1.55 + 1.45 * r.unit(),
            _ => 3.0 * r.unit(),
        };
        eval::Tensor::floats(elem, shape, (0..n).map(|_| value(random)).collect())
    } else {
        let bits = elem.bytes() as u32 * 8;
        let value = |r: &mut Random| match (domain, elem) {
            (Domain::Below(n), _) => r.below(n) as i64,
            (Domain::Positive, _) => 1 + r.below(4) as i64,
            (_, ElemType::I1) => r.below(2) as i64,
            (_, ElemType::I8 | ElemType::I16) => r.below(1 << bits) as i64 - (1 << (bits - 1)),
            (_, ElemType::U8 | ElemType::U16) => r.below(1 << bits) as i64,
            (_, ElemType::U32 | ElemType::U64) => r.below(1000) as i64,
            _ => r.below(2000) as i64 - 1000,
        };
        eval::Tensor::ints(elem, shape, (0..n).map(|_| value(random)).collect())
    };
    let bytes = exact.to_bytes();
    eval::Tensor::from_bytes(elem, shape, &bytes).expect("bytes of its own")
}

/// A compiled module.
pub struct Built {
    pub module: Module,
    pub artifact: Artifact,
    pub bytes: Vec<u8>,
    pub weights: HashMap<String, eval::Tensor>,
}

/// The levels that this machine runs.
pub fn levels() -> Vec<CpuLevel> {
    CpuLevel::ALL.into_iter().filter(|l| l.is_native()).collect()
}

/// Parses, verifies and compiles a module for all levels of this machine; its weights are random.
pub fn build(text: &str, options: &PlanOptions) -> Built {
    let module = kiln_ir::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut random = Random::new(7);
    let mut weights = HashMap::new();
    for param in module.params.values() {
        let ty = module.ty(param.value);
        let shape: Vec<usize> = ty.const_dims().unwrap().iter().map(|d| *d as usize).collect();
        weights.insert(param.key.clone(), tensor(&mut random, ty.elem, &shape, Domain::Any));
    }
    let raw: HashMap<String, Vec<u8>> = weights.iter().map(|(k, t)| (k.clone(), t.to_bytes())).collect();
    let verified = kiln_ir::verify(&module).unwrap_or_else(|e| panic!("{e}"));
    let plan = plan(verified, options).unwrap_or_else(|e| panic!("{e}"));
    let code = code::compile(&plan.kernels, &levels(), 2).unwrap_or_else(|e| panic!("{}", e[0]));
    let find = |_, key: &str| raw.get(key).map(Vec::as_slice);
    let params = Params::new(&module, &find, &|_| {}).unwrap();
    let parts = Parts { module: verified, plan: &plan, code: &code, params: &params, producer: "test", rewrites: b"" };
    let mut out = Cursor::new(vec![]);
    artifact::write(Writer::new(&mut out).unwrap(), &parts).unwrap_or_else(|e| panic!("{e}"));
    let bytes = out.into_inner();
    let artifact = Artifact::from_bytes(&bytes).unwrap_or_else(|e| panic!("{e}"));
    Built { module, artifact, bytes, weights }
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
        let m = &self.module;
        let body = m.entry(entry).unwrap().body;
        let mut random = Random::new(symbols.iter().fold(11, |s, (_, v)| s * 31 + *v as u64));
        let value = |s: kiln_ir::Symbol| symbols.iter().find(|(n, _)| *n == s.name()).map(|(_, v)| *v);
        let mut inputs = HashMap::new();
        for arg in &m.regions[body].args {
            let (name, ty) = (m.name_of(*arg), m.ty(*arg));
            let shape: Vec<usize> = ty.dims.iter().map(|d| d.eval(&value).unwrap() as usize).collect();
            let data = tensor(&mut random, ty.elem, &shape, domain(&name));
            inputs.insert(name, data);
        }
        let at = |what: String| format!("{entry} {symbols:?}: {what}");
        let by_key = |p: kiln_ir::Param| self.weights.get(&m.params[p].key).cloned().ok_or_else(String::new);
        let expected = match eval::run(m, entry, &inputs, &by_key) {
            Ok(expected) => expected,
            Err(e) => return vec![at(format!("the interpreter says {e}"))],
        };
        let mut problems = vec![];
        for level in levels() {
            let mut first: Option<Vec<Vec<u8>>> = None;
            for threads in [1, 2, 3] {
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

    /// The bytes of the outputs.
    pub fn run(
        &self,
        entry: &str,
        level: CpuLevel,
        threads: usize,
        inputs: &HashMap<String, eval::Tensor>,
    ) -> Result<Vec<Vec<u8>>, String> {
        let target = Some(format!("cpu:{}", level.name()));
        let options = SessionOptions { threads: Some(threads), target, ..Default::default() };
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
