//! Sessions of small modules, beside the interpreter.

mod control;
mod dlpack;
mod faults;
mod states;

use crate::{
    emulator,
    harness::{Built, build_for, levels},
};
use kiln_backends::plan::PlanOptions;
use kiln_ir::{ElemType, eval};
use kiln_kernels::{Level, cuda::Sm};
use kiln_runtime::{Error, Session, SessionOptions, Tensor, TensorView};
use std::collections::HashMap;

/// A module for this machine's processor and an emulated GPU.
fn build(text: &str) -> Built {
    let cpu = levels().into_iter().next().map(Level::Cpu);
    build_for(text, &PlanOptions::default(), cpu.into_iter().chain([Level::Cuda(Sm::Sm90a)]).collect(), None)
}

/// A session on one of the targets, and the interpreter's states beside its own.
struct Both<'b> {
    built: &'b Built,
    session: Session,
    states: HashMap<String, eval::Tensor>,
}

type Inputs<'a> = &'a [(&'a str, eval::Tensor)];

/// One for each target.
fn sessions(built: &Built) -> Vec<Both<'_>> {
    let open = |level: &Level| {
        let options = SessionOptions {
            target: Some(level.name()),
            driver: Some(emulator::driver()),
            threads: Some(2),
            ..Default::default()
        };
        let session = Session::new(&built.artifact, options).unwrap_or_else(|e| panic!("{e}"));
        Both { built, session, states: HashMap::new() }
    };
    built.levels.iter().map(open).collect()
}

fn raw(tensor: &eval::Tensor) -> Tensor {
    let elem = kiln_runtime::format::ElemType::from_name(tensor.elem.name()).unwrap();
    let mut raw = Tensor::zeros(elem, &tensor.shape).unwrap();
    raw.bytes_mut().copy_from_slice(&tensor.to_bytes());
    raw
}

fn floats(shape: &[usize], first: usize) -> eval::Tensor {
    let count: usize = shape.iter().product();
    let data = (first..first + count).map(|i| ((i * 7919) % 97) as f64 / 64.0 - 0.75).collect();
    eval::Tensor::floats(ElemType::F32, shape, data)
}

fn int(elem: ElemType, value: i64) -> eval::Tensor {
    eval::Tensor::ints(elem, [0usize; 0], vec![value])
}

impl Both<'_> {
    fn target(&self) -> &str {
        &self.session.artifact().manifest().targets[self.session.target()].name
    }

    fn is_gpu(&self) -> bool {
        self.target().starts_with("cuda")
    }

    /// Runs the session alone.
    fn run(&mut self, entry: &str, inputs: Inputs<'_>) -> Result<Vec<(String, Tensor)>, Error> {
        let raw: Vec<(&str, Tensor)> = inputs.iter().map(|(name, t)| (*name, raw(t))).collect();
        let views: Vec<(&str, TensorView)> = raw.iter().map(|(name, t)| (*name, t.view())).collect();
        Ok(self.session.entry(entry)?.run(&views)?.into_vec())
    }

    /// Runs both and compares them.
    fn check(&mut self, entry: &str, inputs: Inputs<'_>) {
        let given = inputs.iter().map(|(name, t)| (name.to_string(), t.clone())).collect();
        let (m, limits) = (&self.built.module, eval::Limits::default());
        let expected = eval::run_with(m, entry, &given, &eval::no_weights, &mut self.states, limits);
        let expected = expected.unwrap_or_else(|e| panic!("{entry}: {e}"));
        let found = self.run(entry, inputs).unwrap_or_else(|e| panic!("{} {entry}: {e}", self.target()));
        for ((name, expected), (_, found)) in expected.iter().zip(&found) {
            let place = format!("{} {entry} {name}", self.target());
            assert_eq!(found.shape(), expected.shape, "{place}");
            let found = eval::Tensor::from_bytes(expected.elem, expected.shape.clone(), found.bytes()).unwrap();
            let error = found.relative_error(expected);
            assert!(error < 1e-5, "{place}: differs by {error:.1e}: {found:?} {expected:?}");
        }
        assert_eq!(found.len(), expected.len());
    }
}
