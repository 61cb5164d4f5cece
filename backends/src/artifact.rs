//! From a plan and its code to an artifact.
//!
//! What is written is a function of the module, the plan and the code: no time, path or address goes in.

use crate::{
    code::Code,
    plan::{self, Buffer, EntryPlan, Launch, ModulePlan, Place, Step, capacity, growing_axis},
    size_expr,
    weights::{Params, Reader, WeightError},
};
use kiln_ir::{Dim, ElemType, Module, Op, State, StateData, SymbolFacts, Type, Value, Verified};
use kiln_kernels::{
    KernelSpec, Level as Target,
    cpu::CpuLevel,
    cuda::{self, Sm},
};
use kiln_runtime::format::{
    self, Accepts, Arg, Block, Change, Condition, Count, Entry, Grid, Growth, Kernel, Level, Lifetime, MAX_ARGS,
    MAX_EXTENT, Manifest, Plan, Port, SizeExpr, StateUse, Summary, Swizzle, Symbol, TargetCode, TargetInfo, TensorMap,
    UNBOUNDED, Writer,
};
use std::{
    collections::HashMap,
    io::{Seek, Write},
};

/// What an artifact is made of.
pub struct Parts<'a> {
    pub module: Verified<'a>,
    pub plan: &'a ModulePlan,
    pub code: &'a [Code],
    pub params: &'a Params<'a>,
    /// The compiler and its version.
    pub producer: &'a str,
    /// The record of what the passes did, opaque here.
    pub rewrites: &'a [u8],
}

/// Why an artifact was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Weight(#[from] WeightError),
    #[error(transparent)]
    Format(#[from] kiln_runtime::Error),
}

/// What an artifact has no room for.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// More than a launch can hand to a kernel. Loops get there, whose body is one kernel.
    #[error("{label}: expected a kernel that is handed at most {most} {what}, found {found} for {symbol} of {target}")]
    Arguments { label: String, symbol: String, target: String, what: &'static str, found: usize, most: usize },
    #[error(transparent)]
    Format(#[from] kiln_runtime::Error),
}

/// Bytes of parameters that every CUDA driver takes.
const CUDA_PARAMETERS: usize = 4096;
/// Of them those behind tensors and sizes: tasks, scratch memory, status, guard.
const CUDA_LAST: usize = 4;
const TENSOR_MAP: usize = 128;

/// Writes the artifact: the weights as a stream, then the rest.
pub fn write<W: Write + Seek>(mut writer: Writer<W>, parts: &Parts<'_>) -> Result<Summary, WriteError> {
    let reader = Reader::new(&parts.module, &parts.plan.weights, parts.params)?;
    let mut offsets = vec![];
    for item in parts.plan.weights.items() {
        offsets.push(writer.stream_weight(|out| reader.write(item, out))?);
    }
    let levels: Vec<Target> = parts.code.iter().map(|c| c.level).collect();
    let (manifest, plans) = lower(&parts.module, parts.plan, &levels, &offsets, parts.producer);
    let targets: Vec<TargetCode> =
        parts.code.iter().zip(&plans).map(|(code, plans)| TargetCode { plans, code: &code.bytes }).collect();
    Ok(writer.finish(&manifest, &targets, parts.rewrites)?)
}

/// Whether an artifact can hold the plan: what it cannot hold, [`write`] would refuse once all else is done.
///
/// # Errors
/// The limit of the format, or of GPUs, that the module goes beyond.
pub fn check(module: &Module, plan: &ModulePlan, levels: &[Target]) -> Result<(), RoomError> {
    let offsets = vec![0; plan.weights.items().len()];
    let (manifest, plans) = lower(module, plan, levels, &offsets, "");
    format::check_manifest(&manifest)?;
    for (i, (target, plans)) in manifest.targets.iter().zip(&plans).enumerate() {
        plans.iter().flat_map(|plan| &plan.blocks).flat_map(|b| &b.steps).try_for_each(|s| arguments(target, s))?;
        format::check_plans(&manifest, i, plans, u64::MAX)?;
    }
    Ok(())
}

/// Whether a launch can hand over what its kernel takes.
fn arguments(target: &TargetInfo, step: &format::Step) -> Result<(), RoomError> {
    let format::Step::Launch { kernel, args, sizes, limits, .. } = step else { return Ok(()) };
    let kernel = &target.kernels[*kernel as usize];
    let bytes = match target.level.is_gpu() {
        true => 8 * (args.len() + sizes.len() + CUDA_LAST) + TENSOR_MAP * kernel.maps.len(),
        false => 0,
    };
    let counts = [
        ("tensors", args.len(), MAX_ARGS),
        ("sizes", sizes.len(), MAX_ARGS),
        ("limits of loops", limits.len(), MAX_ARGS),
        ("bytes of parameters", bytes, CUDA_PARAMETERS),
    ];
    match counts.into_iter().find(|(_, found, most)| found > most) {
        None => Ok(()),
        Some((what, found, most)) => {
            let (label, symbol, target) = (kernel.label.clone(), kernel.symbol.clone(), target.name.clone());
            Err(RoomError::Arguments { label, symbol, target, what, found, most })
        }
    }
}

/// The manifest, and the plans of each level. `offsets` are those of the items in the weights.
fn lower(
    m: &Module,
    plan: &ModulePlan,
    levels: &[Target],
    offsets: &[u64],
    producer: &str,
) -> (Manifest, Vec<Vec<Plan>>) {
    let (mut plans, mut kernels) = (vec![], vec![]);
    for level in levels {
        let mut lowering = Lowering {
            level: *level,
            module: m,
            symbols: &m.symbols,
            kernels: &plan.kernels,
            weights: offsets,
            named: vec![],
            known: HashMap::new(),
        };
        plans.push(plan.entries.iter().enumerate().map(|(n, e)| lowering.entry(n, e)).collect());
        kernels.push(lowering.named);
    }
    (manifest(m, levels, kernels, producer), plans)
}

fn manifest(m: &Module, levels: &[Target], kernels: Vec<Vec<Kernel>>, producer: &str) -> Manifest {
    let symbol = |s: &SymbolFacts| Symbol {
        name: s.symbol.name().to_string(),
        min: s.min,
        max: if s.max == i64::MAX { UNBOUNDED } else { s.max },
        multiple_of: s.multiple_of.max(1),
    };
    let port = |name: String, ty: &Type| Port {
        name,
        elem: elem(ty.elem),
        dims: ty.dims.iter().map(|d| size_expr(d, &m.symbols)).collect(),
        accepts: None,
    };
    let accepts = |accepts: &kiln_ir::Accepts| match accepts {
        kiln_ir::Accepts::Finite => Accepts::Finite,
        kiln_ir::Accepts::Range { min, max, filled } => {
            Accepts::Range { min: *min, max: size_expr(max, &m.symbols), filled: *filled }
        }
        kiln_ir::Accepts::Size => Accepts::Size,
    };
    let input = |(n, v): (usize, &Value), e: &kiln_ir::Entry| Port {
        accepts: e.accepts.get(&n).map(accepts),
        ..port(m.name_of(*v), m.ty(*v))
    };
    let condition = |c: kiln_ir::Condition| Condition { size: size_expr(&c.size, &m.symbols), asked_by: c.asked_by };
    let entry = |e: &kiln_ir::Entry| {
        let body = &m.regions[e.body];
        Entry {
            name: e.name.clone(),
            inputs: body.args.iter().enumerate().map(|arg| input(arg, e)).collect(),
            outputs: body.results.iter().zip(&e.outputs).map(|(v, name)| port(name.clone(), m.ty(*v))).collect(),
            conditions: kiln_ir::conditions(m, e).into_iter().map(condition).collect(),
            states: m.states_in(e.body).into_iter().map(|s| state_use(m, e, s)).collect(),
        }
    };
    Manifest {
        producer: producer.to_string(),
        model_name: m.name.clone(),
        symbols: m.symbols.iter().map(symbol).collect(),
        entries: m.entries.iter().map(entry).collect(),
        targets: levels
            .iter()
            .zip(kernels)
            .map(|(l, kernels)| TargetInfo { name: l.name(), level: level(*l), features: features(*l), kernels })
            .collect(),
        states: m.states.values().map(|s| state(m, s)).collect(),
        metadata: m.metadata.clone(),
    }
}

fn state(m: &Module, state: &StateData) -> format::State {
    let growth = |axis: usize| {
        let symbol = m.symbols.iter().position(|f| Some(f.symbol) == state.ty.dims[axis].as_symbol());
        // The planner has refused those whose size is no symbol.
        symbol.map(|symbol| Growth { axis: axis as u32, symbol: symbol as u32 })
    };
    format::State {
        name: state.name.clone(),
        elem: elem(state.ty.elem),
        dims: capacity(state).iter().map(|d| size_expr(d, &m.symbols)).collect(),
        grows: growing_axis(state).and_then(growth),
        lifetime: if state.lifetime == "call" { Lifetime::Run } else { Lifetime::Session },
    }
}

/// What an entry does with a state: by the verifier's word its last op on it says so.
fn state_use(m: &Module, entry: &kiln_ir::Entry, state: State) -> StateUse {
    let data = &m.states[state];
    let nodes = m.regions[entry.body].nodes.iter().map(|n| &m.nodes[*n]);
    let mut changes = nodes.filter(|n| n.attrs.name("state") == Some(data.name.as_str())).filter_map(|n| match n.op {
        Op::StateReset => Some(Change::Reset),
        Op::StateAppend => {
            let size = &m.ty(n.operand(0)).dims[growing_axis(data)?];
            Some(Change::Append(size_expr(size, &m.symbols)))
        }
        _ => None,
    });
    StateUse { state: state.as_u32(), change: changes.next_back().unwrap_or(Change::None) }
}

struct Lowering<'a> {
    level: Target,
    module: &'a Module,
    symbols: &'a [SymbolFacts],
    kernels: &'a [KernelSpec],
    /// By item.
    weights: &'a [u64],
    named: Vec<Kernel>,
    known: HashMap<(usize, String), u32>,
}

impl Lowering<'_> {
    fn entry(&mut self, index: usize, plan: &EntryPlan) -> Plan {
        let launched =
            plan.blocks.iter().flatten().filter_map(|s| if let Step::Launch(l) = s { Some(l.kernel) } else { None });
        let launched = launched.filter(|kernel| self.kernels[*kernel].serves(self.level));
        let mut scratch: Vec<Dim> = vec![];
        for kernel in launched {
            let bytes = self.kernels[kernel].scratch_bytes();
            if !scratch.contains(&bytes) {
                scratch.push(bytes);
            }
        }
        if matches!(self.level, Target::Cuda(_)) {
            // Each launch says its own.
            scratch.clear();
        }
        let constant = scratch.iter().filter_map(Dim::as_const).max().unwrap_or(0);
        let symbolic = scratch.iter().filter(|d| d.as_const().is_none()).map(|d| size_expr(d, self.symbols));
        let (kernels, level) = (self.kernels, self.level);
        let serves = |step: &&Step| !matches!(step, Step::Launch(l) if !kernels[l.kernel].serves(level));
        Plan {
            entry: index as u32,
            arena_bytes: plan.arena_bytes.clone(),
            scratch_bytes: symbolic.fold(SizeExpr::constant(constant), SizeExpr::max),
            blocks: plan
                .blocks
                .iter()
                .map(|steps| Block { steps: steps.iter().filter(serves).map(|s| self.step(plan, s)).collect() })
                .collect(),
        }
    }

    fn step(&mut self, plan: &EntryPlan, step: &Step) -> format::Step {
        match step {
            Step::Launch(launch) => self.launch(plan, launch),
            Step::If { condition, then, otherwise } => {
                format::Step::If { cond: self.arg(plan, condition), then: *then, otherwise: *otherwise }
            }
            Step::While { condition, body, max, label } => format::Step::While {
                cond: self.arg(plan, condition),
                body: *body,
                max: self.most(max),
                label: label.clone(),
            },
            Step::For { count, index, body } => format::Step::For {
                count: match count {
                    plan::Count::Fixed(count) => Count::Size(SizeExpr::constant((*count).clamp(0, MAX_EXTENT))),
                    plan::Count::At(place) => Count::Scalar(self.arg(plan, place)),
                },
                index: Some(self.arg(plan, index)),
                body: *body,
            },
        }
    }

    fn launch(&mut self, plan: &EntryPlan, launch: &Launch) -> format::Step {
        let spec = &self.kernels[launch.kernel];
        let next = self.named.len() as u32;
        let kernel = *self.known.entry((launch.kernel, launch.label.clone())).or_insert_with(|| {
            let grid = match self.level {
                Target::Cpu(_) => None,
                Target::Cuda(sm) => Some(spec.grid(sm)),
            };
            let maps = grid.iter().flat_map(|grid| &grid.maps).map(|map| tensor_map(map, self.symbols)).collect();
            let grid = grid.map(|grid| Grid {
                threads: grid.threads,
                block_tasks: grid.block_tasks,
                shared_bytes: grid.shared_bytes,
                resident: grid.resident,
            });
            self.named.push(Kernel { symbol: spec.symbol(), label: launch.label.clone(), grid, maps });
            next
        });
        let expr = |d: &Dim| size_expr(d, self.symbols);
        let mut sizes: Vec<SizeExpr> = spec.size_args().iter().map(expr).collect();
        let tasks = match self.level {
            Target::Cpu(_) => spec.tasks(),
            Target::Cuda(sm) => {
                let grid = spec.grid(sm);
                sizes.push(expr(&grid.scratch_bytes));
                grid.tasks
            }
        };
        format::Step::Launch {
            kernel,
            args: launch.args.iter().map(|a| self.arg(plan, a)).collect(),
            sizes,
            tasks: expr(&tasks),
            limits: launch.limits.iter().map(|most| self.most(most)).collect(),
        }
    }

    /// The most runs of a loop. Nothing runs as often as the format's largest number.
    fn most(&self, runs: &Dim) -> SizeExpr {
        match runs.as_const() {
            Some(n) => SizeExpr::constant(n.min(MAX_EXTENT)),
            None => size_expr(runs, self.symbols),
        }
    }

    fn arg(&self, plan: &EntryPlan, place: &Place) -> Arg {
        let offset = |bytes: &Dim| {
            let offset = size_expr(&place.offset, self.symbols);
            // Offsets reach no further than the end of what has no elements.
            let may_be_empty = !place.offset.is(0) && bytes.range(self.symbols).0 < 1;
            if may_be_empty { offset.min(size_expr(bytes, self.symbols)) } else { offset }
        };
        let body = &self.module.regions[self.module.entries[plan.entry].body];
        let bytes = |value: Value| {
            let ty = self.module.ty(value);
            ty.elements() * Dim::from(ty.elem.bytes() as i64)
        };
        match place.buffer {
            Buffer::Input(index) => Arg::Input { index, offset: offset(&bytes(body.args[index as usize])) },
            Buffer::Output(index) => Arg::Output { index, offset: offset(&bytes(body.results[index as usize])) },
            Buffer::Temporary(t) => {
                let (start, bytes) = (plan.offsets[t as usize].clone(), &plan.bytes[t as usize]);
                Arg::Arena { offset: start + offset(bytes) }
            }
            Buffer::State(index) => Arg::State { index, offset: size_expr(&place.offset, self.symbols) },
            // Offsets into weights are those of constant slices.
            Buffer::Weight(item) => {
                let offset = place.offset.as_const().unwrap_or(0);
                Arg::Weight { offset: self.weights[item.0 as usize] + offset as u64 }
            }
        }
    }
}

fn tensor_map(map: &cuda::TensorMap, symbols: &[SymbolFacts]) -> TensorMap {
    let bytes = Dim::from(map.elem.bytes() as i64);
    TensorMap {
        arg: map.buffer as u32,
        elem: elem(map.elem),
        offset: size_expr(&(map.offset.clone() * bytes.clone()), symbols),
        dims: map.dims.iter().map(|d| size_expr(d, symbols)).collect(),
        strides: map.strides.iter().map(|d| size_expr(&(d.clone() * bytes.clone()), symbols)).collect(),
        tile: map.tile.clone(),
        swizzle: match map.swizzle {
            cuda::Swizzle::Bytes32 => Swizzle::Bytes32,
            cuda::Swizzle::Bytes128 => Swizzle::Bytes128,
        },
    }
}

fn elem(elem: ElemType) -> format::ElemType {
    match elem {
        ElemType::F64 => format::ElemType::F64,
        ElemType::F32 => format::ElemType::F32,
        ElemType::F16 => format::ElemType::F16,
        ElemType::BF16 => format::ElemType::Bf16,
        ElemType::I1 => format::ElemType::I1,
        ElemType::I8 => format::ElemType::I8,
        ElemType::I16 => format::ElemType::I16,
        ElemType::I32 => format::ElemType::I32,
        ElemType::I64 => format::ElemType::I64,
        ElemType::U8 => format::ElemType::U8,
        ElemType::U16 => format::ElemType::U16,
        ElemType::U32 => format::ElemType::U32,
        ElemType::U64 => format::ElemType::U64,
    }
}

fn level(level: Target) -> Level {
    match level {
        Target::Cpu(CpuLevel::Aarch64) => Level::Aarch64,
        Target::Cpu(CpuLevel::X86V2) => Level::X86_64V2,
        Target::Cpu(CpuLevel::X86V3) => Level::X86_64V3,
        Target::Cpu(CpuLevel::X86V4) => Level::X86_64V4,
        Target::Cuda(Sm::Sm80) => Level::Sm80,
        Target::Cuda(Sm::Sm90a) => Level::Sm90a,
    }
}

/// What the code needs beyond its level: of a GPU's driver, the version of PTX.
fn features(level: Target) -> Vec<String> {
    match level {
        Target::Cpu(_) => vec![],
        Target::Cuda(sm) => {
            let (major, minor) = sm.ptx();
            vec![format!("ptx{major}.{minor}")]
        }
    }
}
