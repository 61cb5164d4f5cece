//! Loops that become one kernel each ([`kiln_kernels::region`]), and which ones do.
//!
//! While such a kernel is planned, launches become calls and memory is the kernel's own: [`Code`] stands beside the
//! planner's fields, and those of the entry wait. What temporaries stand for is their [`Kind`].
//!
//! A loop keeps its steps in the plan, each a launch of its own, if it computes or holds much and its rows cannot be told
//! apart: its launches then have the threads that one task would not. A `scan` has no such steps: one whose rows mix is one
//! task on one thread, however much it computes.

mod build;
mod compact;

use super::{
    Buffer, Place,
    arena::{self, Use},
    planner::{Planner, View, temporary},
    rows::Tile,
};
use kiln_ir::{Dim, ElemType, Node, Op, Value};
use kiln_kernels::{
    Family, KernelSpec,
    region::{self, Counter, First, Memory, Spec, Step, Tiles},
};
use std::{collections::HashMap, ops::Range};

/// Floating-point operations of a step that are worth the threads of the plan's own loops: they take a core about a
/// tenth of a millisecond, against microseconds for the launches.
const HEAVY: i64 = 8 << 20;
/// The same where a GPU is among the targets: there one multiprocessor of a hundred would have the loop to itself.
const HEAVY_ON_GPU: i64 = 1 << 20;
/// Bytes that every thread may have for a loop's own, of which the plan's own loops need one copy.
const LARGE: i64 = 64 << 20;
/// What a size that nothing bounds is taken for there.
const USUAL: i64 = 128;
const PLANNED: &str = "the kernel of a loop is planned";

/// What a temporary of the kernel stands for.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Kind {
    /// Memory of the kernel.
    Local,
    /// A temporary of the entry.
    Outer(u32),
    /// One of the memories of a carried value: the one that the body reads, or the one that it writes.
    Pair { pair: usize, next: bool },
    /// Part of a buffer that moves with a counter, by bytes.
    Moving { of: Buffer, counter: Counter, stride: Dim },
}

/// The kernel of a loop while it is planned.
pub(in crate::plan) struct Code {
    /// By temporary.
    kinds: Vec<Kind>,
    kernels: Vec<KernelSpec>,
    known: HashMap<KernelSpec, usize>,
    /// What of outside is used, and whether it is written.
    buffers: Vec<(Buffer, bool)>,
    pairs: Vec<Dim>,
    /// Of each pair, how many loops stand around the one that carries it, if it starts with all zeros.
    zeros: Vec<Option<usize>>,
    /// The list that steps go into.
    steps: Vec<Step>,
    /// Loops around the step.
    depth: usize,
    /// The most steps of each loop that has a bound.
    limits: Vec<Dim>,
    tiles: Option<Tiles>,
    outer: Frame,
}

/// What the planner knows of an entry, or of a kernel.
#[derive(Default)]
pub(super) struct Frame {
    views: HashMap<Value, View>,
    places: HashMap<Value, View>,
    copies: HashMap<View, View>,
    temporaries: Vec<Dim>,
    now: usize,
    uses: Vec<Use>,
    loops: Vec<Range<usize>>,
}

impl Planner<'_> {
    /// `if`, `for`, `while` and `scan`.
    pub(in crate::plan) fn control(&mut self, node: Node) {
        match (self.m.nodes[node].op, self.code.is_some()) {
            (Op::If, false) => self.branch(node),
            (Op::If, true) => self.branch_in_kernel(node),
            (_, true) => self.looped(node),
            (_, false) => {
                if let Some(kernel) = self.kernel_of_loop(node) {
                    self.launch_loop(kernel);
                } else {
                    self.stepwise(node);
                }
            }
        }
    }

    /// The kernel of a loop, unless its steps are to be launches.
    fn kernel_of_loop(&mut self, node: Node) -> Option<Kernel> {
        let (tiles, refused) = (self.tiles.clone(), self.refusals());
        let tile = tiles.get(&node);
        let places = self.destinations(node, tile);
        self.rows_in_order(node, tile);
        let (label, results) = (self.label.clone(), &self.m.nodes[node].results);
        self.enter(tile);
        for (value, place) in results.iter().zip(&places) {
            let place = self.borrowed(place);
            self.places.insert(*value, place);
        }
        for (outer, inner) in tile.iter().flat_map(|t| &t.reads) {
            let view = self.view(*outer);
            let view = self.rows_of(&view);
            self.bind(*inner, view);
        }
        self.looped(node);
        self.label = label;
        let mut kernel = self.leave();
        let usual = |s| self.m.symbols.iter().find(|f| f.symbol == s).map(|f| USUAL.clamp(f.min, f.max));
        let above = |size: Dim, limit: i64| size.eval(&usual).is_none_or(|n| n > limit);
        let most = if self.options.gpu { HEAVY_ON_GPU } else { HEAVY };
        let heavy = above(kernel.spec.step_flops(), most) || above(kernel.spec.scratch_bytes(), LARGE);
        if heavy && tile.is_none() && !self.is_by_rows(node) && self.m.nodes[node].op != Op::Scan {
            self.forget_refusals(refused);
            return None;
        }
        for (result, place) in results.iter().zip(places) {
            let wanted = self.output(*result);
            if wanted != place {
                kernel.copies.push((place, wanted));
            }
        }
        Some(kernel)
    }

    fn launch_loop(&mut self, kernel: Kernel) {
        let (read, written): (Vec<_>, Vec<_>) = kernel.buffers.iter().partition(|(_, written)| !written);
        let [read, written] = [read, written].map(|list| list.iter().map(|(b, _)| View::bytes(*b)).collect());
        let mut names: Vec<&str> = kernel.spec.kernels.iter().map(KernelSpec::family).collect();
        names.dedup();
        let label = self.label.clone();
        self.label = format!("{label} ({})", names.join(" "));
        self.launch_bounded(kernel.spec.into(), read, written, kernel.limits);
        self.label = label;
        for (from, to) in kernel.copies {
            self.copy(&from, &to);
        }
    }

    /// Whether each row of the loop's values runs a loop of its own.
    pub(super) fn is_by_rows(&self, node: Node) -> bool {
        let data = &self.m.nodes[node];
        match data.op {
            Op::While => {
                let flags = &self.m.regions[data.regions[0]].results;
                flags.iter().flat_map(|flag| &self.m.ty(*flag).dims).any(|rows| !rows.is(1))
            }
            Op::Scan => data.optional(0).is_some(),
            _ => false,
        }
    }

    fn enter(&mut self, tile: Option<&Tile>) {
        let tiles = tile.map(|t| Tiles { symbol: t.symbol, rows: t.rows.clone(), tile: t.tile });
        let outer = self.swap_frame(Frame::default());
        self.code = Some(Code {
            kinds: vec![],
            kernels: vec![],
            known: HashMap::new(),
            buffers: vec![],
            pairs: vec![],
            zeros: vec![],
            steps: vec![],
            depth: 0,
            limits: vec![],
            tiles,
            outer,
        });
    }

    fn leave(&mut self) -> Kernel {
        let arena = arena::assign(&self.temporaries, &self.uses, &self.loops, &self.m.symbols).dims();
        let code = self.code.take().expect(PLANNED);
        self.swap_frame(code.outer);
        // Inputs come before outputs.
        let mut order: Vec<usize> = (0..code.buffers.len()).collect();
        order.sort_by_key(|i| code.buffers[*i].1);
        let mut spec = Spec {
            tiles: code.tiles,
            kernels: code.kernels,
            buffers: order.iter().map(|i| self.extent(code.buffers[*i])).collect(),
            locals: arena.offsets,
            local_bytes: arena.bytes,
            pairs: code.pairs,
            steps: code.steps,
        };
        spec.rename_buffers(&|old| order.iter().position(|i| *i == old).unwrap_or(old));
        let buffers = order.iter().map(|i| code.buffers[*i]).collect();
        Kernel { spec, buffers, limits: code.limits, copies: vec![] }
    }

    /// A whole buffer as bytes.
    fn extent(&self, (buffer, written): (Buffer, bool)) -> kiln_kernels::Buffer {
        let elements = match buffer {
            Buffer::Temporary(t) => self.temporaries[t as usize].clone(),
            // Of no use to the kernel.
            Buffer::Input(_) | Buffer::Output(_) | Buffer::Weight(_) | Buffer::State(_) => 0.into(),
        };
        kiln_kernels::Buffer { elem: ElemType::U8, elements, written }
    }

    fn swap_frame(&mut self, frame: Frame) -> Frame {
        use std::mem::replace;
        Frame {
            views: replace(&mut self.views, frame.views),
            places: replace(&mut self.places, frame.places),
            copies: replace(&mut self.copies, frame.copies),
            temporaries: replace(&mut self.temporaries, frame.temporaries),
            now: replace(&mut self.now, frame.now),
            uses: replace(&mut self.uses, frame.uses),
            loops: replace(&mut self.loops, frame.loops),
        }
    }

    /// A value of outside as the kernel sees it.
    pub(in crate::plan) fn outside_view(&mut self, value: Value) -> Option<View> {
        let view = self.code.as_ref()?.outer.views.get(&value)?.clone();
        Some(self.borrowed(&view))
    }

    fn borrowed(&mut self, view: &View) -> View {
        match view.buffer {
            Buffer::Temporary(t) => View { buffer: self.alias(Kind::Outer(t)), ..view.clone() },
            Buffer::Input(_) | Buffer::Output(_) | Buffer::Weight(_) | Buffer::State(_) => view.clone(),
        }
    }

    fn code(&mut self) -> &mut Code {
        self.code.as_mut().expect(PLANNED)
    }

    /// Where a result is wanted, if it is somewhere.
    fn wanted(&self, value: Value) -> Option<View> {
        self.places.get(&value).cloned()
    }

    fn has_tiles(&self) -> bool {
        self.code.as_ref().is_some_and(|c| c.tiles.is_some())
    }

    /// A temporary of that kind.
    fn alias(&mut self, kind: Kind) -> Buffer {
        let kinds = &mut self.code().kinds;
        if let Some(known) = kinds.iter().position(|k| *k == kind) {
            return Buffer::Temporary(known as u32);
        }
        kinds.push(kind);
        self.temporaries.push(0.into());
        Buffer::Temporary(self.temporaries.len() as u32 - 1)
    }

    /// The part of a view that moves by `stride` bytes with each step of a counter.
    fn moving_with(&mut self, view: &View, counter: Counter, stride: Dim) -> View {
        if stride.is(0) {
            return view.clone();
        }
        View { buffer: self.alias(Kind::Moving { of: view.buffer, counter, stride }), ..view.clone() }
    }

    /// The rows of the tile of a view of all rows.
    fn rows_of(&mut self, view: &View) -> View {
        let Some(rows) = self.code.as_ref().and_then(|c| c.tiles.as_ref()).map(|t| Dim::symbol(t.symbol)) else {
            return view.clone();
        };
        let stride = view.layout.strides[0].clone() * Dim::from(view.elem.bytes() as i64);
        let mut view = self.moving_with(view, Counter::Row, stride);
        view.layout.dims[0] = rows;
        view
    }

    /// Notes a new temporary of the kernel's own.
    pub(in crate::plan) fn note_local(&mut self) {
        if let Some(code) = &mut self.code {
            code.kinds.push(Kind::Local);
        }
    }

    /// The memory that a buffer is part of.
    pub(in crate::plan) fn root(&self, buffer: Buffer) -> Buffer {
        let kind = |b: Buffer| temporary(b).and_then(|t| self.code.as_ref()?.kinds.get(t as usize));
        let mut buffer = buffer;
        while let Some(Kind::Moving { of, .. }) = kind(buffer) {
            buffer = *of;
        }
        buffer
    }

    /// The temporary whose lifetime a use of the buffer counts for.
    pub(in crate::plan) fn lives(&self, buffer: Buffer) -> Option<u32> {
        let t = temporary(self.root(buffer))?;
        let Some(code) = &self.code else { return Some(t) };
        (code.kinds[t as usize] == Kind::Local).then_some(t)
    }

    /// Appends a call to the kernel that is planned.
    pub(in crate::plan) fn call(&mut self, spec: KernelSpec, inputs: &[View], outputs: &[View]) {
        let code = self.code();
        let kernel = code.kernel(spec);
        let args = inputs.iter().map(|v| (v, false)).chain(outputs.iter().map(|v| (v, true)));
        let args = args.map(|(v, written)| code.place(&v.place(), written)).collect();
        code.steps.push(Step::Call { kernel, args, first: None });
    }

    /// How many loops stand around the one in whose first step the view is all zeros, if it is known to be.
    pub(in crate::plan) fn zero_at_first(&self, view: &View) -> Option<usize> {
        let code = self.code.as_ref()?;
        match code.kinds[temporary(self.root(view.buffer))? as usize] {
            Kind::Pair { pair, next: false } => code.zeros[pair],
            _ => None,
        }
    }

    /// Another kernel for the call that was appended last, while the loop in `depth` others is at its first step.
    pub(in crate::plan) fn at_first(&mut self, spec: KernelSpec, depth: usize) {
        let code = self.code();
        let kernel = code.kernel(spec);
        if let Some(Step::Call { first, .. }) = code.steps.last_mut() {
            *first = Some(First { kernel, depth });
        }
    }
}

/// A planned loop.
struct Kernel {
    spec: Spec,
    /// Those of the spec, and whether each is written.
    buffers: Vec<(Buffer, bool)>,
    limits: Vec<Dim>,
    /// What is to be copied behind it.
    copies: Vec<(View, View)>,
}

impl Code {
    fn kernel(&mut self, spec: KernelSpec) -> usize {
        let next = self.kernels.len();
        *self.known.entry(spec).or_insert_with_key(|spec| {
            self.kernels.push(spec.clone());
            next
        })
    }

    fn buffer(&mut self, buffer: Buffer, written: bool) -> Memory {
        let known = self.buffers.iter().position(|(b, _)| *b == buffer);
        let at = known.unwrap_or_else(|| {
            self.buffers.push((buffer, false));
            self.buffers.len() - 1
        });
        self.buffers[at].1 |= written;
        Memory::Buffer(at)
    }

    fn place(&mut self, place: &Place, written: bool) -> region::Place {
        let mut strides = vec![];
        let mut buffer = place.buffer;
        let memory = loop {
            match buffer {
                Buffer::Temporary(t) => match self.kinds[t as usize].clone() {
                    Kind::Local => break Memory::Local(t as usize),
                    Kind::Outer(t) => break self.buffer(Buffer::Temporary(t), written),
                    Kind::Pair { pair, next: false } => break Memory::Now(pair),
                    Kind::Pair { pair, next: true } => break Memory::Next(pair),
                    Kind::Moving { of, counter, stride } => {
                        strides.push((counter, stride));
                        buffer = of;
                    }
                },
                other => break self.buffer(other, written),
            }
        };
        region::Place { memory, offset: place.offset.clone(), strides }
    }
}
