//! Binding: from the shapes of the inputs to addresses and numbers, once for as long as the shapes stay.

use super::accepts::{self, Check};
#[cfg(feature = "cuda")]
use super::run::failure;
use super::states::{self, Bound};
use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::format::Kernel;
use crate::format::{Arg, Count, ElemType, Entry, Manifest, Plan, Port, SizeExpr, Step, UNBOUNDED};
use crate::tensor::{TensorView, Typed, byte_len};
use crate::text::plain;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

/// Unknown inputs beyond these are counted: a file may hold any number.
const MAX_LISTED: usize = 20;

/// Memory that the steps refer to.
pub(super) struct Memory<'a> {
    pub(super) arena: *mut u8,
    pub(super) arena_bytes: usize,
    pub(super) scratch: *mut u8,
    pub(super) scratch_stride: usize,
    pub(super) weights: *mut u8,
    /// Starts and lengths.
    pub(super) states: &'a [(*mut u8, usize)],
}

/// A plan with all formulas evaluated. `u32`s are indices into `bufs` and `sizes`.
pub(super) struct Binding {
    input_shapes: Vec<Vec<usize>>,
    pub(super) output_shapes: Vec<Vec<usize>>,
    /// What the states held that the entry uses, and what they are to hold.
    pub(super) states: Vec<Bound>,
    /// By input.
    accepts: Vec<Option<Check>>,
    pub(super) blocks: Vec<Vec<Node>>,
    /// By block: the launches of it and those inside, if what it does can be launched before any of it is known.
    launches: Vec<Option<u64>>,
    pub(super) bufs: Vec<*mut u8>,
    pub(super) sizes: Vec<i64>,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only launches on a GPU have more formulas"))]
    pub(super) symbols: Vec<i64>,
    inputs: Vec<Patch>,
    outputs: Vec<Patch>,
    pub(super) scratch: *mut u8,
    pub(super) scratch_stride: usize,
}

/// A place in `bufs` that each run sets to a tensor of the caller's.
struct Patch {
    slot: u32,
    port: u32,
    offset: usize,
}

pub(super) enum Node {
    Launch(Call),
    If { cond: u32, then: u32, otherwise: u32 },
    While { cond: u32, body: u32, max: i64, label: String },
    For { count: Times, index: Option<u32>, body: u32 },
}

/// A launch. The values of the limits stand behind those of the sizes.
pub(super) struct Call {
    pub(super) kernel: u32,
    pub(super) bufs: u32,
    /// How many of them there are.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only launches on a GPU count them"))]
    pub(super) args: u32,
    pub(super) sizes: u32,
    pub(super) tasks: i64,
    pub(super) limits: Range<u32>,
}

pub(super) enum Times {
    Fixed(i64),
    Scalar(u32),
}

/// Bytes from one worker's scratch memory to the next's: no cache line is shared, nor one fetched with its neighbour.
pub(super) fn scratch_stride(bytes: usize) -> usize {
    bytes.next_multiple_of(128)
}

/// The name, element type and shape of a tensor.
pub(super) type TensorType<'a> = (&'a str, ElemType, &'a [usize]);

/// The values of the symbols, or everything that is wrong with the inputs. `held` is what the states hold.
pub(super) fn solve(manifest: &Manifest, entry: usize, held: &[i64], inputs: &[TensorType]) -> Result<Vec<i64>> {
    let entry = &manifest.entries[entry];
    let mut solver = Solver { manifest, values: vec![None; manifest.symbols.len()], problems: Vec::new() };
    let (mut seen, mut unknown) = (BTreeSet::new(), 0);
    for (name, ..) in inputs {
        if !entry.inputs.iter().any(|p| p.name == *name) {
            unknown += 1;
            if unknown <= MAX_LISTED {
                solver.problems.push(format!("input {name}: there is no such input"));
            }
        } else if !seen.insert(*name) {
            solver.problems.push(format!("input {name}: given twice"));
        }
    }
    if unknown > MAX_LISTED {
        solver.problems.push(format!("and {} more inputs that there are not", unknown - MAX_LISTED));
    }
    for (state, growth, held) in states::growing(manifest, entry, held) {
        solver.symbol(growth.symbol, held, Source::State(&state.name), str::to_owned);
    }
    let given = |port: &Port| inputs.iter().find(|(name, ..)| *name == port.name).copied();
    for port in &entry.inputs {
        match given(port) {
            Some((_, elem, shape)) => solver.port(port, elem, shape),
            None => solver.problems.push(format!("input {}: missing", port.name)),
        }
    }
    solver.ranges();
    let values: Vec<i64> =
        solver.values.iter().zip(&manifest.symbols).map(|(v, s)| v.map_or(s.min, |(v, _)| v)).collect();
    if solver.problems.is_empty() {
        for port in &entry.inputs {
            if let Some((_, _, shape)) = given(port) {
                solver.formulas(port, shape, &values);
            }
        }
        solver.conditions(entry, &values);
    }
    if solver.problems.is_empty() {
        states::check_room(manifest, entry, held, &values)?;
        return Ok(values);
    }
    Err(refused(manifest, entry, solver.problems))
}

/// The error that lists these problems. Names in them are those of files and artifacts.
fn refused(manifest: &Manifest, entry: &Entry, problems: Vec<String>) -> Error {
    let problems = problems.iter().map(|p| plain(p).into_owned()).collect();
    Error::Input { problems, takes: plain(&takes(manifest, entry)).into_owned() }
}

/// What gives a symbol its value.
#[derive(Clone, Copy)]
enum Source<'a> {
    Input(&'a str),
    State(&'a str),
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Input(name) => write!(f, "input {name}"),
            Source::State(name) => write!(f, "state {name}"),
        }
    }
}

struct Solver<'a> {
    manifest: &'a Manifest,
    /// A symbol's value and what gave it.
    values: Vec<Option<(i64, Source<'a>)>>,
    problems: Vec<String>,
}

impl<'a> Solver<'a> {
    fn port(&mut self, port: &'a Port, elem: ElemType, shape: &[usize]) {
        let name = &port.name;
        if elem != port.elem {
            self.problems.push(format!("input {name}: element type {}, expected {}", elem, port.elem));
        }
        if shape.len() != port.dims.len() {
            let (found, expected) = (shape.len(), port.dims.len());
            self.problems.push(format!("input {name}: {found} dimensions, expected {expected}"));
            return;
        }
        for (axis, (dim, found)) in port.dims.iter().zip(shape).enumerate() {
            let found = i64::try_from(*found).unwrap_or(i64::MAX);
            if let Some(expected) = dim.as_constant().filter(|e| *e != found) {
                self.problems.push(format!("input {name}: dimension {axis} is {found}, expected {expected}"));
            }
            if let Some(symbol) = dim.as_symbol() {
                self.symbol(symbol, found, Source::Input(name), |s| format!("dimension {axis}, {s},"));
            }
        }
    }

    /// Gives a symbol the value that stands at a `place` of its source, which takes its name.
    fn symbol(&mut self, symbol: u32, found: i64, source: Source<'a>, place: impl FnOnce(&str) -> String) {
        match self.values[symbol as usize] {
            None => self.values[symbol as usize] = Some((found, source)),
            Some((value, by)) if value != found => {
                let name = &self.manifest.symbols[symbol as usize].name;
                let by = match by {
                    Source::Input(name) => name.to_owned(),
                    Source::State(_) => by.to_string(),
                };
                self.problems.push(format!("{source}: {} is {found}, but {value} in {by}", place(name)));
            }
            Some(_) => {}
        }
    }

    fn ranges(&mut self) {
        for (symbol, value) in self.manifest.symbols.iter().zip(&self.values) {
            let Some((value, by)) = value else { continue };
            let at = format!("{by}: {} is {value}", symbol.name);
            if *value < symbol.min {
                self.problems.push(format!("{at}, expected at least {}", symbol.min));
            }
            if *value > symbol.max {
                self.problems.push(format!("{at}, expected at most {}", symbol.max));
            }
            if value % symbol.multiple_of != 0 {
                self.problems.push(format!("{at}, expected a multiple of {}", symbol.multiple_of));
            }
        }
    }

    fn conditions(&mut self, entry: &Entry, values: &[i64]) {
        let names = self.manifest.symbol_names();
        for condition in &entry.conditions {
            let at = || format!("{}: {}", condition.asked_by, condition.size.display(&names));
            match condition.size.eval(values) {
                Ok(0..) => {}
                Ok(found) => {
                    let used: BTreeSet<u32> = condition.size.symbols().collect();
                    let sizes: Vec<String> =
                        used.iter().map(|s| format!("{} is {}", names[*s as usize], values[*s as usize])).collect();
                    self.problems.push(format!("{} is {found}, expected 0 or more; {}", at(), sizes.join(", ")));
                }
                Err(e) => self.problems.push(format!("{}: {e}", at())),
            }
        }
    }

    fn formulas(&mut self, port: &Port, shape: &[usize], values: &[i64]) {
        for (axis, (dim, found)) in port.dims.iter().zip(shape).enumerate() {
            let at = format!("input {}: dimension {axis}", port.name);
            match dim.eval_size(values) {
                Ok(expected) if expected as usize != *found => {
                    let formula = dim.display(&self.manifest.symbol_names());
                    self.problems.push(format!("{at} is {found}, expected {formula} = {expected}"));
                }
                Ok(_) => {}
                Err(e) => self.problems.push(format!("{at}: {e}")),
            }
        }
    }
}

/// What an entry takes, in words.
fn takes(manifest: &Manifest, entry: &Entry) -> String {
    let inputs: Vec<String> = entry.inputs.iter().map(|p| manifest.describe(p)).collect();
    let mut text =
        format!("entry {} takes {}", entry.name, if inputs.is_empty() { "nothing".into() } else { inputs.join(", ") });
    let used = |i: u32| entry.inputs.iter().flat_map(|p| &p.dims).any(|d| d.symbols().any(|s| s == i));
    for (i, s) in manifest.symbols.iter().enumerate().filter(|(i, _)| used(*i as u32)) {
        text.push_str(if i == 0 { "; " } else { ", " });
        text.push_str(&format!("{} from {}", s.name, s.min));
        if s.max != UNBOUNDED {
            text.push_str(&format!(" to {}", s.max));
        }
        if s.multiple_of != 1 {
            text.push_str(&format!(" in steps of {}", s.multiple_of));
        }
    }
    text
}

/// Whether the caller's outputs are those of the entry. Allocates nothing when they are.
pub(super) fn check_outputs(
    manifest: &Manifest,
    entry: &Entry,
    binding: &Binding,
    outputs: &[(&str, impl Typed)],
) -> Result<()> {
    let fits = |(port, shape): (&Port, &Vec<usize>)| {
        let mut named = outputs.iter().filter(|(name, _)| *name == port.name);
        let first = named.next().is_some_and(|(_, t)| t.elem() == port.elem && t.shape() == *shape);
        first && named.next().is_none()
    };
    let ports = || entry.outputs.iter().zip(&binding.output_shapes);
    if outputs.len() == entry.outputs.len() && ports().all(fits) {
        return Ok(());
    }
    let given = outputs.iter().map(|(name, t)| format!("{name}: {}{:?}", t.elem(), t.shape()));
    let given: Vec<String> = given.collect();
    let wanted: Vec<String> = ports().map(|(port, shape)| format!("{}: {}{shape:?}", port.name, port.elem)).collect();
    let problems = vec![format!("outputs {}, expected {}", given.join(", "), wanted.join(", "))];
    Err(refused(manifest, entry, problems))
}

impl Binding {
    pub(super) fn new(
        manifest: &Manifest,
        entry: usize,
        plan: &Plan,
        symbols: Vec<i64>,
        held: &[i64],
        memory: Memory,
    ) -> Result<Binding> {
        let entry = &manifest.entries[entry];
        let states = states::bind(manifest, entry, held, &symbols)?;
        let shapes = |ports: &[Port]| -> Result<Vec<Vec<usize>>> {
            ports.iter().map(|p| p.dims.iter().map(|d| size(&p.name, d, &symbols)).collect()).collect()
        };
        let (input_shapes, output_shapes) = (shapes(&entry.inputs)?, shapes(&entry.outputs)?);
        let accepts = entry.inputs.iter().map(|port| {
            let check = port.accepts.as_ref().map(|a| Check::new(a, &symbols)).transpose();
            check.map(Option::flatten).map_err(|source| Error::Size { what: port.name.clone(), source })
        });
        let accepts = accepts.collect::<Result<_>>()?;
        let bytes = |ports: &[Port], shapes: &[Vec<usize>]| -> Result<Vec<usize>> {
            let len = |(port, shape): (&Port, &Vec<usize>)| {
                let fail = || Error::Memory { what: "a tensor", bytes: u64::MAX };
                byte_len(port.elem, shape).ok_or_else(fail)
            };
            ports.iter().zip(shapes).map(len).collect()
        };
        let mut builder = Builder {
            input_bytes: bytes(&entry.inputs, &input_shapes)?,
            output_bytes: bytes(&entry.outputs, &output_shapes)?,
            symbols: &symbols,
            binding: Binding {
                input_shapes,
                output_shapes,
                states,
                accepts,
                blocks: Vec::with_capacity(plan.blocks.len()),
                launches: Vec::new(),
                bufs: Vec::new(),
                sizes: Vec::new(),
                symbols: symbols.clone(),
                inputs: Vec::new(),
                outputs: Vec::new(),
                scratch: memory.scratch,
                scratch_stride: memory.scratch_stride,
            },
            memory,
        };
        for block in &plan.blocks {
            let nodes = block.steps.iter().map(|step| builder.step(step)).collect::<Result<_>>()?;
            builder.binding.blocks.push(nodes);
        }
        builder.binding.count_launches();
        Ok(builder.binding)
    }

    fn count_launches(&mut self) {
        self.launches = vec![None; self.blocks.len()];
        // Blocks refer to later ones.
        for block in (0..self.blocks.len()).rev() {
            let mut all = self.blocks[block].iter().map(|node| match node {
                Node::Launch(_) => Some(1),
                Node::If { then, otherwise, .. } => {
                    let both = (self.launches[*then as usize]?, self.launches[*otherwise as usize]?);
                    (self.is_short(*then) && self.is_short(*otherwise)).then(|| both.0 + both.1 + 1)
                }
                Node::For { count: Times::Fixed(count), body, .. } => {
                    let one = self.launches[*body as usize]?.checked_add(1)?;
                    one.checked_mul(u64::try_from(*count).unwrap_or(0))
                }
                Node::For { .. } | Node::While { .. } => None,
            });
            self.launches[block] = all.try_fold(0u64, |sum, n| sum.checked_add(n?));
        }
    }

    /// Whether to launch a block under a guard costs less than to wait until it is known to be wanted.
    pub(super) fn is_short(&self, block: u32) -> bool {
        const SHORT: u64 = 16;
        self.launches[block as usize].is_some_and(|n| n <= SHORT)
    }

    /// Whether the launches are the same in each run.
    #[cfg(feature = "cuda")]
    pub(super) fn is_fixed(&self) -> bool {
        /// Of a graph.
        const MOST: u64 = 1 << 16;
        self.launches[0].is_some_and(|n| n <= MOST)
    }

    /// Whether the inputs are those of the entry, in the shapes bound, and the states hold what they did.
    pub(super) fn fits(&self, entry: &Entry, held: &[i64], inputs: &[(&str, impl Typed)]) -> bool {
        self.states.iter().all(|s| held[s.state] == s.held)
            && inputs.len() == entry.inputs.len()
            && entry.inputs.iter().zip(&self.input_shapes).all(|(port, shape)| {
                let given = inputs.iter().find(|(name, _)| *name == port.name);
                given.is_some_and(|(_, t)| t.elem() == port.elem && t.shape() == *shape)
            })
    }

    /// Refuses inputs whose elements are not those that the entry accepts. [`Binding::fits`] has accepted the shapes.
    pub(super) fn check_values(&self, entry: &Entry, inputs: &[(&str, TensorView)]) -> Result<()> {
        let mut problems = vec![];
        for (port, check) in entry.inputs.iter().zip(&self.accepts) {
            let given = inputs.iter().find(|(name, _)| *name == port.name);
            if let (Some(check), Some((name, tensor))) = (check, given) {
                check.problems(name, *tensor, &mut problems);
            }
        }
        accepts::refused(problems)
    }

    /// The name of the input that holds this address, and the coordinates of the element there.
    pub(super) fn locate(&self, entry: &Entry, address: usize) -> Option<(String, Vec<usize>)> {
        self.inputs.iter().find_map(|patch| {
            let (port, shape) = (&entry.inputs[patch.port as usize], &self.input_shapes[patch.port as usize]);
            let start = self.bufs[patch.slot as usize].addr().wrapping_sub(patch.offset);
            let at = address.checked_sub(start)? / port.elem.size();
            (at < shape.iter().product()).then(|| (port.name.clone(), coordinates(shape, at)))
        })
    }

    /// Points the steps at an input, counted from 0, or at an output, counted behind the inputs. Whether they did not point
    /// there before.
    pub(super) fn place(&mut self, port: usize, start: *mut u8) -> bool {
        let (patches, port) = match port.checked_sub(self.input_shapes.len()) {
            None => (&self.inputs, port),
            Some(output) => (&self.outputs, output),
        };
        let mut moved = false;
        for patch in patches.iter().filter(|p| p.port as usize == port) {
            let buf = &mut self.bufs[patch.slot as usize];
            moved |= *buf != start.wrapping_add(patch.offset);
            *buf = start.wrapping_add(patch.offset);
        }
        moved
    }

    /// The bytes of an input or an output, counted as for [`Binding::place`].
    #[cfg(feature = "cuda")]
    pub(super) fn port_bytes(&self, entry: &Entry, port: usize) -> usize {
        let (elem, shape) = match port.checked_sub(entry.inputs.len()) {
            None => (entry.inputs[port].elem, &self.input_shapes[port]),
            Some(output) => (entry.outputs[output].elem, &self.output_shapes[output]),
        };
        byte_len(elem, shape).unwrap_or(usize::MAX)
    }

    /// The error that a status other than 0 of a kernel stands for; some launch of it met what the status says.
    #[cfg(feature = "cuda")]
    pub(super) fn failure(&self, names: &Kernel, kernel: u32, status: i32) -> Error {
        let launches = self.blocks.iter().flatten();
        let limits = launches.filter_map(|node| match node {
            Node::Launch(call) if call.kernel == kernel => Some(&call.limits),
            _ => None,
        });
        let bounds = limits.map(|l| &self.sizes[l.start as usize..l.end as usize]).next().unwrap_or(&[]);
        // Notes on a bad index stay on the device.
        failure(names, status, bounds, None)
    }
}

fn size(what: &str, expr: &SizeExpr, symbols: &[i64]) -> Result<usize> {
    expr.eval_size(symbols).map(|v| v as usize).map_err(|source| Error::Size { what: what.to_owned(), source })
}

/// The coordinates of an element of a tensor.
pub(super) fn coordinates(shape: &[usize], mut at: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, extent) in index.iter_mut().zip(shape).rev() {
        (*i, at) = (at % (*extent).max(1), at / (*extent).max(1));
    }
    index
}

struct Builder<'a> {
    input_bytes: Vec<usize>,
    output_bytes: Vec<usize>,
    symbols: &'a [i64],
    memory: Memory<'a>,
    binding: Binding,
}

impl Builder<'_> {
    fn step(&mut self, step: &Step) -> Result<Node> {
        Ok(match step {
            Step::Launch { kernel, args, sizes, tasks, limits } => {
                let (first_buf, first_size) = (self.binding.bufs.len() as u32, self.binding.sizes.len() as u32);
                for arg in args {
                    self.slot(arg, 0)?;
                }
                let first_limit = first_size + sizes.len() as u32;
                for expr in sizes.iter().chain(limits) {
                    let value = expr.eval(self.symbols);
                    self.binding.sizes.push(value.map_err(|source| Error::Size { what: "a kernel".into(), source })?);
                }
                let limits = first_limit..first_limit + limits.len() as u32;
                let tasks = size("a grid", tasks, self.symbols)? as i64;
                Node::Launch(Call {
                    kernel: *kernel,
                    bufs: first_buf,
                    args: args.len() as u32,
                    sizes: first_size,
                    tasks,
                    limits,
                })
            }
            Step::If { cond, then, otherwise } => {
                Node::If { cond: self.slot(cond, 1)?, then: *then, otherwise: *otherwise }
            }
            Step::While { cond, body, max, label } => {
                let max = size("a loop", max, self.symbols)? as i64;
                Node::While { cond: self.slot(cond, 1)?, body: *body, max, label: label.clone() }
            }
            Step::For { count, index, body } => Node::For {
                count: match count {
                    Count::Size(expr) => {
                        let value = expr.eval(self.symbols);
                        Times::Fixed(value.map_err(|source| Error::Size { what: "a loop".into(), source })?)
                    }
                    Count::Scalar(arg) => Times::Scalar(self.slot(arg, 8)?),
                },
                index: index.as_ref().map(|arg| self.slot(arg, 8)).transpose()?,
                body: *body,
            },
        })
    }

    /// A new place in `bufs` for the argument, which has room for `bytes`.
    fn slot(&mut self, arg: &Arg, bytes: usize) -> Result<u32> {
        let slot = self.binding.bufs.len() as u32;
        let offset = match arg {
            Arg::Weight { offset } => *offset as usize,
            Arg::Arena { offset }
            | Arg::Input { offset, .. }
            | Arg::Output { offset, .. }
            | Arg::State { offset, .. } => size("an offset", offset, self.symbols)?,
        };
        let patch = |index: &u32| Patch { slot, port: *index, offset };
        let (start, len) = match arg {
            // The reader has checked offsets of weights against their section.
            Arg::Weight { .. } => (self.memory.weights, usize::MAX),
            Arg::Arena { .. } => (self.memory.arena, self.memory.arena_bytes),
            Arg::State { index, .. } => self.memory.states[*index as usize],
            Arg::Input { index, .. } => {
                self.binding.inputs.push(patch(index));
                (std::ptr::null_mut(), self.input_bytes[*index as usize])
            }
            Arg::Output { index, .. } => {
                self.binding.outputs.push(patch(index));
                (std::ptr::null_mut(), self.output_bytes[*index as usize])
            }
        };
        if offset.saturating_add(bytes) > len {
            return Err(Error::malformed("plan", format!("{arg:?} is byte {offset} of {len}")));
        }
        self.binding.bufs.push(start.wrapping_add(offset));
        Ok(slot)
    }
}
