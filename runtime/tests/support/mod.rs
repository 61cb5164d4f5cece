//! Artifacts without a compiler: kernels in assembly, wrapped into a minimal ELF shared object.
#![cfg(target_arch = "x86_64")]
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod elf;
pub mod kernels;
pub mod pool_executor;

use kiln_runtime::format::{
    Arg, Block, Count, ElemType, Entry, Kernel, Level, Lifetime, Manifest, Plan, Port, SizeExpr, State, Step, Symbol,
    TargetCode, TargetInfo, Writer,
};
use std::io::Cursor;

/// Index of a kernel of [`kernels::TABLE`].
pub fn kernel(symbol: &str) -> u32 {
    kernels::TABLE.iter().position(|(name, _)| *name == symbol).expect("a kernel of the table") as u32
}

pub fn sym(i: u32) -> SizeExpr {
    SizeExpr::symbol(i)
}

pub fn fixed(v: i64) -> SizeExpr {
    v.into()
}

pub fn port(name: &str, elem: ElemType, dims: &[SizeExpr]) -> Port {
    Port { name: name.into(), elem, dims: dims.to_vec(), accepts: None }
}

pub fn input(index: u32) -> Arg {
    Arg::Input { index, offset: fixed(0) }
}

pub fn output(index: u32) -> Arg {
    Arg::Output { index, offset: fixed(0) }
}

pub fn arena(offset: i64) -> Arg {
    Arg::Arena { offset: fixed(offset) }
}

pub fn launch(symbol: &str, args: &[Arg], sizes: &[SizeExpr], tasks: SizeExpr) -> Step {
    Step::Launch { kernel: kernel(symbol), args: args.to_vec(), sizes: sizes.to_vec(), tasks, limits: vec![] }
}

/// Entries under construction.
#[derive(Default)]
pub struct Model {
    pub manifest: Manifest,
    pub plans: Vec<Plan>,
    pub weights: Vec<Vec<u8>>,
    pub rewrites: Vec<u8>,
}

impl Model {
    /// Symbol 0 is `n`, 1 to 1000; symbol 1 is `even`, 2 to 64 in steps of 2.
    pub fn new() -> Model {
        let symbol = |name: &str, min, max, multiple_of| Symbol { name: name.into(), min, max, multiple_of };
        let kernels = kernels::TABLE.iter().map(|(symbol, _)| Kernel {
            symbol: (*symbol).into(),
            label: format!("node_{symbol}"),
            grid: None,
            maps: vec![],
        });
        let target = |name: &str, level| TargetInfo {
            name: name.into(),
            level,
            features: Vec::new(),
            kernels: kernels.clone().collect(),
        };
        Model {
            manifest: Manifest {
                producer: "test".into(),
                model_name: "tiny".into(),
                symbols: vec![symbol("n", 1, 1000, 1), symbol("even", 2, 64, 2)],
                targets: vec![target("cpu:x86-64-v2", Level::X86_64V2)],
                ..Manifest::default()
            },
            ..Model::default()
        }
    }

    pub fn entry(&mut self, name: &str, inputs: &[Port], outputs: &[Port], blocks: Vec<Vec<Step>>) -> &mut Model {
        self.plans.push(Plan {
            entry: self.plans.len() as u32,
            arena_bytes: fixed(4096) + sym_if_bound(inputs),
            scratch_bytes: fixed(64),
            blocks: blocks.into_iter().map(|steps| Block { steps }).collect(),
        });
        self.manifest.entries.push(Entry {
            name: name.into(),
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            conditions: vec![],
            states: vec![],
        });
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with(&elf::shared_object())
    }

    pub fn bytes_with(&self, code: &[u8]) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let mut writer = Writer::new(&mut file).unwrap();
        for weight in &self.weights {
            writer.weight(weight).unwrap();
        }
        let target = || TargetCode { plans: &self.plans, code };
        let targets: Vec<TargetCode> = self.manifest.targets.iter().map(|_| target()).collect();
        writer.finish(&self.manifest, &targets, &self.rewrites).unwrap();
        file.into_inner()
    }
}

/// Four bytes more an `n`, so that the arena's size is symbolic where it can be.
fn sym_if_bound(inputs: &[Port]) -> SizeExpr {
    let bound = inputs.iter().flat_map(|p| &p.dims).any(|d| d.as_symbol() == Some(0));
    if bound { sym(0) * fixed(4) } else { fixed(0) }
}

/// One of everything: see the entries.
pub fn zoo() -> Model {
    let n = sym(0);
    let f32_n = |name: &str| port(name, ElemType::F32, std::slice::from_ref(&n));
    let i64_n = |name: &str| port(name, ElemType::I64, std::slice::from_ref(&n));
    let scalar = |name: &str| port(name, ElemType::I64, &[]);
    let weight: Vec<u8> = (0..16).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let mut model = Model::new();
    model.weights = vec![vec![7; 3], weight];
    model.rewrites = b"{}".to_vec();
    model.manifest.states = vec![
        State {
            name: "kept".into(),
            elem: ElemType::I64,
            dims: vec![fixed(2)],
            grows: None,
            lifetime: Lifetime::Session,
        },
        State { name: "fresh".into(), elem: ElemType::I64, dims: vec![], grows: None, lifetime: Lifetime::Run },
    ];
    // y = 4 x, by way of the arena.
    let twice = vec![
        launch("double", &[input(0), arena(64)], &[], n.clone()),
        launch("double", &[arena(64), output(0)], &[], n.clone()),
    ];
    model.entry("quadruple", &[f32_n("x")], &[f32_n("y")], vec![twice]);
    // y[i] = table[ids[i]] from a weight of 16 elements.
    let table = Arg::Weight { offset: 64 };
    let gather = launch("gather", &[input(0), table, output(0)], &[fixed(16)], n.clone());
    model.entry("gather", &[i64_n("ids")], &[f32_n("y")], vec![vec![gather]]);
    // y[i] = i, through scratch memory with a delay.
    let ids = launch("scratch_echo", &[output(0)], &[], n.clone());
    model.entry("tasks", &[f32_n("x")], &[i64_n("y")], vec![vec![ids]]);
    // If flag != 0: y = x + x, else y = 1.
    let choose = Step::If { cond: input(0), then: 1, otherwise: 2 };
    let then = launch("add_i64", &[output(0), input(1)], &[], fixed(1));
    model.entry(
        "choose",
        &[port("flag", ElemType::I1, &[]), scalar("x")],
        &[scalar("y")],
        vec![
            vec![launch("set_i64", &[output(0)], &[fixed(1)], fixed(1)), choose],
            vec![launch("set_i64", &[output(0)], &[fixed(0)], fixed(1)), then.clone(), then],
            vec![],
        ],
    );
    // y counts up to 5 by a `while` of at most `n` rounds.
    let count = vec![
        launch("set_i64", &[output(0)], &[fixed(0)], fixed(1)),
        launch("set_i64", &[arena(0)], &[fixed(1)], fixed(1)),
        Step::While { cond: arena(0), body: 1, max: n.clone(), label: "count".into() },
    ];
    let body = vec![launch("count", &[output(0), arena(0)], &[fixed(5)], fixed(1))];
    model.entry("while", &[f32_n("x")], &[scalar("y")], vec![count, body]);
    // y = 0 + 1 + ... + (times - 1), and the same again for every one of two outer rounds.
    let outer = vec![
        launch("set_i64", &[output(0)], &[fixed(0)], fixed(1)),
        Step::For { count: Count::Size(fixed(2)), index: None, body: 1 },
    ];
    let middle = vec![Step::For { count: Count::Scalar(input(0)), index: Some(arena(8)), body: 2 }];
    let inner = vec![launch("add_i64", &[output(0), arena(8)], &[], fixed(1))];
    model.entry("for", &[scalar("times")], &[scalar("y")], vec![outer, middle, inner]);
    // kept += x; fresh += x; y = kept; z = fresh.
    let state = |index, offset| Arg::State { index, offset: fixed(offset) };
    let steps = vec![
        launch("add_i64", &[state(0, 8), input(0)], &[], fixed(1)),
        launch("add_i64", &[state(1, 0), input(0)], &[], fixed(1)),
        launch("set_i64", &[output(0)], &[fixed(0)], fixed(1)),
        launch("set_i64", &[output(1)], &[fixed(0)], fixed(1)),
        launch("add_i64", &[output(0), state(0, 8)], &[], fixed(1)),
        launch("add_i64", &[output(1), state(1, 0)], &[], fixed(1)),
    ];
    model.entry("state", &[scalar("x")], &[scalar("y"), scalar("z")], vec![steps]);
    // Always fails with code 7.
    model.entry("fails", &[f32_n("x")], &[f32_n("y")], vec![vec![launch("fails", &[], &[], n.clone())]]);
    // y = 4242, read through a relocated pointer.
    let relocated = launch("relocated", &[output(0)], &[], fixed(1));
    model.entry("relocated", &[], &[scalar("y")], vec![vec![relocated]]);
    // Shapes alone: a: f32[n, even], b: i64[n + 1, 3].
    let shapes =
        [port("a", ElemType::F32, &[n.clone(), sym(1)]), port("b", ElemType::I64, &[n.clone() + fixed(1), fixed(3)])];
    model.entry("shapes", &shapes, &[], vec![vec![]]);
    model
}
