//! The calling conventions of kernels.
//!
//! On a CPU:
//!
//! `i32 kernel(ptr bufs, ptr sizes, i64 lo, i64 hi, ptr scratch)` does the tasks `lo..hi` of a grid whose extent is a
//! function of the shape alone; tasks are independent and may run in any order on any thread. `bufs` holds the
//! addresses of the inputs and then the outputs, each aligned to its element at least; `sizes` the values of the
//! kernel's size arguments as i64; `scratch` the kernel's scratch bytes, aligned to 64, not shared between threads.
//! The result is 0, or [`INDEX_OUT_OF_RANGE`], or [`LOOP_LIMIT`] plus the number of the loop that ran more often than
//! it may. Where an index was out of range, a note on it may stand at the start of the scratch memory.
//!
//! A kernel that another one calls takes the same arguments one by one, so that the optimiser sees through the call.
//! Large ones stay functions; on a CPU they are modules of their own that all callers of a shared object share.
//!
//! On a GPU: `.entry kernel(ptr buf.., i64 size.., i64 scratch_bytes, i64 tasks, ptr scratch, ptr status, ptr guard, map..)`
//! does nothing where `guard`, an i32 unless it is null, is 0. Else it does all tasks of the grid, whatever the number of
//! blocks is: whoever has done one goes on with the one as far ahead as there are doers. These are threads in a plain
//! kernel, and what [`Grid`](crate::cuda::Grid) says in others. A doer has `scratch_bytes` of scratch for itself. `status`
//! is an i32 that is left alone, or set to what a CPU kernel returns. The maps are those of the grid's tensors. In front of
//! `scratch` stand [`COUNTERS`] words by which blocks count: zero when a launch begins, and left so. A kernel that
//! another one calls is done by the block that calls it, and takes
//! `(ptr buf.., i64 size.., i64 scratch_bytes, i64 tasks, ptr scratch)`; each thread gets the status of its own part, and what
//! has been written is seen by all after a barrier, which is the caller's. Its buffers may lie in shared memory.

use crate::{
    KernelSpec,
    build::{self, Cmp, Elem, Ix, K, Linkage, Ptr, Ty, V, Within},
    cpu::Cpu,
    cuda::{self, Sm},
};
use kiln_ir::Dim;
use melior::{
    Context,
    ir::{
        Attribute, BlockLike, Identifier, Location, Module, Region, attribute::StringAttribute,
        operation::OperationBuilder,
    },
};

/// The status of a kernel that met an index out of range.
pub const INDEX_OUT_OF_RANGE: i64 = 1;
/// The status of a kernel whose loop 0 ran more often than it may; those of the loops after it follow.
pub const LOOP_LIMIT: i64 = 16;

/// The first word of a note on an index out of range. Its address, its value and the number of indices that there are
/// follow, each of eight bytes.
pub const BAD_INDEX: u64 = u64::from_le_bytes(*b"badindex");

/// The length of such a note, for which a kernel that leaves one has scratch memory.
pub const BAD_INDEX_BYTES: i64 = 32;

/// Words of four bytes, zero between launches, that stand in front of the scratch memory on a GPU.
pub const COUNTERS: i64 = 4096;

/// An MLIR module that kernels are emitted into.
pub struct ModuleBuilder<'c> {
    pub context: &'c Context,
    pub module: Module<'c>,
    pub convention: Convention,
    /// While kernels are emitted that others of the module call.
    inner: Option<Inner>,
    /// Bytes of shared memory that such kernels need on a GPU, one after the other.
    shared_bytes: i64,
}

/// What is known of a kernel that others call.
struct Inner {
    buffers: usize,
    linkage: Linkage,
    /// On a GPU.
    within: Option<Within>,
}

/// How the kernels of a module are called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Convention {
    Cpu,
    /// With this many buffers, by blocks of this many threads.
    Cuda {
        buffers: usize,
        threads: u32,
        /// After the other parameters there are this many tensor maps.
        maps: usize,
    },
}

/// Inside a kernel: its builder and its arguments.
#[derive(Clone)]
pub struct Kernel<'k> {
    pub k: K<'k>,
    bufs: Buffers<'k>,
    sizes: Vec<(Dim, Ix<'k>)>,
    /// The tasks to do.
    pub lo: Ix<'k>,
    pub hi: Ix<'k>,
    /// Whether there is just the task `lo`.
    single: bool,
    pub scratch: Ptr<'k>,
}

/// The addresses of a kernel's buffers.
#[derive(Clone)]
enum Buffers<'k> {
    Array(Ptr<'k>),
    Values(Vec<Ptr<'k>>),
}

impl<'c> ModuleBuilder<'c> {
    pub fn new(context: &'c Context) -> Self {
        ModuleBuilder {
            context,
            module: Module::new(Location::unknown(context)),
            convention: Convention::Cpu,
            inner: None,
            shared_bytes: 0,
        }
    }

    /// Makes a kernel a function that others of the module call by [`Kernel::call`], and gives its name: `symbol`, or
    /// on a CPU that of a [shared](ModuleBuilder::shared) one.
    pub fn inner(&mut self, symbol: &str, spec: &KernelSpec, cpu: &'static Cpu) -> String {
        let buffers = spec.buffers().len();
        if is_apart(spec) && self.convention == Convention::Cpu {
            let (symbol, params) = (shared_symbol(spec), inner_params(buffers, spec.size_args().len()));
            build::declare(&self.module, self.context, &symbol, &params, &[Ty::I32]);
            return symbol;
        }
        let linkage = if is_apart(spec) { Linkage::Apart } else { Linkage::Internal };
        self.called(symbol, spec, linkage, cpu);
        symbol.to_string()
    }

    /// Emits a kernel as the function that those of other modules call.
    pub fn shared(&mut self, spec: &KernelSpec, cpu: &'static Cpu) {
        self.called(&shared_symbol(spec), spec, Linkage::Private, cpu);
    }

    fn called(&mut self, symbol: &str, spec: &KernelSpec, linkage: Linkage, cpu: &'static Cpu) {
        let outer = self.inner.replace(Inner { buffers: spec.buffers().len(), linkage, within: None });
        spec.emit(self, symbol, cpu);
        self.inner = outer;
    }

    /// Makes a kernel a function that the kernel `caller` calls by [`Kernel::call`], all threads of a block of
    /// [`cuda::BLOCK_THREADS`] together.
    pub fn inner_cuda(&mut self, symbol: &str, spec: &KernelSpec, sm: Sm, caller: &str) {
        let threads = spec.block_grid(sm).threads;
        let within = Within { threads, block: cuda::BLOCK_THREADS, shared: shared_name(caller) };
        let inner = Inner { buffers: spec.buffers().len(), linkage: Linkage::Internal, within: Some(within) };
        let outer = self.inner.replace(inner);
        spec.emit_cuda(self, symbol, sm);
        self.inner = outer;
    }

    /// Gives a kernel that calls others on a GPU their shared memory and `bytes` more. Returns where these begin, and its name.
    pub fn caller_memory(&mut self, caller: &str, bytes: i64) -> (i64, String) {
        let (start, name) = (self.inner_shared_bytes(), shared_name(caller));
        self.block_memory(&name, start + bytes);
        (start, name)
    }

    /// Bytes of shared memory that the kernels emitted so far for others to call need.
    pub fn inner_shared_bytes(&self) -> i64 {
        (self.shared_bytes + 15) / 16 * 16
    }

    /// Whether the kernel that is emitted is done by one block of a GPU, as part of another one.
    pub fn is_within_block(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.within.is_some())
    }

    /// Emits the kernel `symbol` with these size arguments. `body` returns the status as an `i32`, or nothing when
    /// the kernel cannot fail.
    pub fn kernel(&mut self, symbol: &str, size_args: &[Dim], body: impl for<'k> FnOnce(&Kernel<'k>) -> Option<V<'k>>) {
        if let Convention::Cuda { buffers, .. } = self.convention {
            let buffers = self.inner.as_ref().map_or(buffers, |inner| inner.buffers);
            return self.plain_cuda(symbol, buffers, size_args, body);
        }
        let inner = self.inner.as_ref().map(|inner| inner.buffers);
        let (params, linkage) = match &self.inner {
            None => (vec![Ty::PTR, Ty::PTR, Ty::I64, Ty::I64, Ty::PTR], Linkage::Exported),
            Some(inner) => (inner_params(inner.buffers, size_args.len()), inner.linkage),
        };
        build::function(&self.module, self.context, symbol, &params, &[Ty::I32], linkage, |k, args| {
            let (first, rest) = args.split_at(args.len() - 3);
            let (bufs, sizes): (Buffers<'_>, Vec<Ix<'_>>) = match inner {
                None => {
                    let sizes = first[1].ptr();
                    let load = |i: usize| Ix::Value(sizes.offset(Elem::I64, i as i64).load(Ty::I64));
                    (Buffers::Array(first[0].ptr()), (0..size_args.len()).map(load).collect())
                }
                Some(buffers) => {
                    let (bufs, sizes) = first.split_at(buffers);
                    let bufs = bufs.iter().map(|v| v.ptr()).collect();
                    (Buffers::Values(bufs), sizes.iter().map(|v| Ix::Value(*v)).collect())
                }
            };
            let sizes = size_args.iter().cloned().zip(sizes).collect();
            let (lo, hi) = (Ix::Value(rest[0]), Ix::Value(rest[1]));
            let kernel = Kernel { k, bufs, sizes, lo, hi, single: false, scratch: rest[2].ptr() };
            vec![body(&kernel).unwrap_or_else(|| k.int(Ty::I32, 0))]
        });
    }

    /// The same for a GPU, a task a thread.
    fn plain_cuda(
        &mut self,
        symbol: &str,
        buffers: usize,
        size_args: &[Dim],
        body: impl for<'k> FnOnce(&Kernel<'k>) -> Option<V<'k>>,
    ) {
        // Whoever is there takes part.
        if let Some(within) = self.inner.as_mut().and_then(|inner| inner.within.as_mut()) {
            within.threads = within.block;
        }
        self.cuda(symbol, buffers, size_args, |entry| {
            let k = entry.kernel.k;
            let (thread, count) = (cuda::thread(k), cuda::threads(k));
            let scratch = entry.kernel.scratch.bytes(thread * entry.scratch_bytes);
            k.for_(thread, entry.kernel.hi, count, |task| {
                let status = body(&Kernel { lo: task, hi: task + 1, single: true, scratch, ..entry.kernel.clone() });
                if let Some(status) = status {
                    entry.report(status);
                }
            });
        });
    }

    /// Gives the blocks of a kernel for a GPU shared memory of this name, aligned to 16 bytes.
    pub fn block_memory(&mut self, name: &str, bytes: i64) {
        if self.is_within_block() {
            self.shared_bytes = self.shared_bytes.max(bytes);
            return;
        }
        self.shared_memory(name, bytes, 16, "internal");
    }

    /// The same of the size that the launch says: [`Grid::shared_bytes`](cuda::Grid::shared_bytes). It is aligned to 1024
    /// bytes, and a kernel has it once. A kernel that others call has none.
    pub fn launch_memory(&mut self, name: &str) {
        self.shared_memory(name, 0, 1024, "external");
    }

    fn shared_memory(&mut self, name: &str, bytes: i64, align: i64, linkage: &str) {
        let parse = |text: &str| Attribute::parse(self.context, text).expect("an attribute");
        let attributes = [
            ("sym_name", StringAttribute::new(self.context, name).into()),
            ("global_type", parse(&format!("!llvm.array<{bytes} x i8>"))),
            ("linkage", parse(&format!("#llvm.linkage<{linkage}>"))),
            ("alignment", parse(&format!("{align} : i64"))),
            ("addr_space", parse("3 : i32")),
        ];
        let attributes = attributes.map(|(name, value)| (Identifier::new(self.context, name), value));
        let op = OperationBuilder::new("llvm.mlir.global", Location::unknown(self.context))
            .add_attributes(&attributes)
            .add_regions([Region::new()])
            .build();
        self.module.body().append_operation(op.expect("llvm.mlir.global"));
    }

    /// Emits the kernel `symbol` for a GPU: `body` is what every thread does.
    pub fn cuda(&mut self, symbol: &str, buffers: usize, size_args: &[Dim], body: impl for<'k> FnOnce(Entry<'k>)) {
        let within = self.inner.as_ref().and_then(|inner| inner.within.clone());
        let mut params = vec![Ty::PTR; buffers];
        params.extend(vec![Ty::I64; size_args.len() + 2]);
        let (last, results, linkage) = match (&within, self.convention) {
            (None, Convention::Cuda { maps, .. }) => (3 + maps, vec![], Linkage::Exported),
            (None, Convention::Cpu) => (3, vec![], Linkage::Exported),
            (Some(_), _) => (1, vec![Ty::I32], Linkage::Internal),
        };
        params.extend(vec![Ty::PTR; last]);
        build::function(&self.module, self.context, symbol, &params, &results, linkage, |k, args| {
            let status = within.as_ref().map(|_| k.variable(Ty::I32));
            let (addresses, rest) = args.split_at(buffers);
            let (sizes, rest) = rest.split_at(size_args.len());
            let kernel = Kernel {
                k,
                bufs: Buffers::Values(addresses.iter().map(|a| a.ptr()).collect()),
                sizes: size_args.iter().cloned().zip(sizes.iter().map(|v| Ix::Value(*v))).collect(),
                lo: 0.into(),
                hi: Ix::Value(rest[1]),
                single: false,
                scratch: rest[2].ptr(),
            };
            let scratch_bytes = Ix::Value(rest[0]);
            let (Some(within), Some(status)) = (within, status) else {
                let guard = rest[4].ptr();
                let address = k.op1("llvm.ptrtoint", &[guard.0], Ty::I64, &[]);
                let wanted = k.if_else(
                    address.cmp(Cmp::Eq, k.int(Ty::I64, 0)),
                    || vec![k.int(Ty::I32, 1)],
                    || vec![guard.load(Ty::I32)],
                );
                k.if_(wanted[0].cmp(Cmp::Ne, k.int(Ty::I32, 0)), || {
                    let maps = rest[5..].iter().map(|map| map.ptr()).collect();
                    body(Entry { kernel, scratch_bytes, status: rest[3].ptr(), maps });
                });
                return vec![];
            };
            status.store(k.int(Ty::I32, 0));
            let all = within.threads == within.block;
            let takes_part = if all { true.into() } else { cuda::block_thread(k).lt(i64::from(within.threads)) };
            k.enter(within);
            k.if_(takes_part, || body(Entry { kernel, scratch_bytes, status, maps: vec![] }));
            vec![status.load(Ty::I32)]
        });
    }
}

/// The name of the shared memory of the kernels that a kernel calls.
fn shared_name(caller: &str) -> String {
    format!("{caller}_shared")
}

/// Inside a kernel for a GPU: `kernel.hi` tasks in all, and the scratch memory of all doers.
pub struct Entry<'k> {
    pub kernel: Kernel<'k>,
    pub scratch_bytes: Ix<'k>,
    status: Ptr<'k>,
    /// The tensor maps of the grid.
    pub maps: Vec<Ptr<'k>>,
}

impl<'k> Entry<'k> {
    /// One of the [`COUNTERS`].
    pub fn counter(&self, n: Ix<'k>) -> Ptr<'k> {
        self.kernel.scratch.bytes((n - COUNTERS) * 4)
    }

    /// Sets the status of the launch if this one is not 0.
    pub fn report(&self, status: V<'k>) {
        let failed = status.cmp(Cmp::Ne, status.like(0.0));
        let k = self.kernel.k;
        // Of several threads that fail any may have the last word.
        let alone = k.within().is_some();
        k.if_(failed, || if alone { self.status.store(status) } else { self.status.store_relaxed(status) });
    }
}

/// Whether a kernel stays a function where others call it: tiles that fill the registers find no room in one with more
/// than their loops.
fn is_apart(spec: &KernelSpec) -> bool {
    matches!(spec, KernelSpec::Matmul(_) | KernelSpec::Cell(_) | KernelSpec::Attention(_) | KernelSpec::Conv(_))
}

/// How the names of functions end that modules of one shared object share.
pub const SHARED: &str = ".shared";

/// The name of a kernel as a function that other modules call.
pub fn shared_symbol(spec: &KernelSpec) -> String {
    format!("{}{SHARED}", spec.symbol())
}

/// The kernels that these call from modules of their own, each once.
pub fn shared(kernels: &[KernelSpec]) -> Vec<&KernelSpec> {
    let mut found: Vec<&KernelSpec> = vec![];
    for kernel in kernels {
        let KernelSpec::Region(region) = kernel else { continue };
        for inner in region.kernels.iter().filter(|k| is_apart(k)) {
            if !found.contains(&inner) {
                found.push(inner);
            }
        }
    }
    found
}

/// The parameters of a kernel that others of its module call.
fn inner_params(buffers: usize, sizes: usize) -> Vec<Ty> {
    let mut params = vec![Ty::PTR; buffers];
    params.resize(buffers + sizes + 2, Ty::I64);
    params.push(Ty::PTR);
    params
}

impl<'k> Kernel<'k> {
    /// The address of buffer `i`: the inputs in the order of the spec, then the outputs.
    pub fn buffer(&self, i: usize) -> Ptr<'k> {
        match &self.bufs {
            Buffers::Array(bufs) => bufs.offset(Elem::Ptr, i as i64).load(Ty::PTR).ptr(),
            Buffers::Values(bufs) => bufs[i],
        }
    }

    /// Does all tasks of a kernel that [`ModuleBuilder::inner`] has emitted, or on a GPU, where a task has `scratch_bytes` of
    /// scratch, [`ModuleBuilder::inner_cuda`]; returns its status.
    pub fn call(
        &self,
        symbol: &str,
        bufs: &[Ptr<'k>],
        sizes: &[Ix<'k>],
        (scratch_bytes, tasks): (Option<Ix<'k>>, Ix<'k>),
        scratch: Ptr<'k>,
    ) -> V<'k> {
        let k = self.k;
        let mut args: Vec<V<'k>> = bufs.iter().map(|p| p.0).collect();
        args.extend(sizes.iter().chain([&scratch_bytes.unwrap_or(0.into()), &tasks]).map(|x| x.v(k)));
        args.push(scratch.0);
        k.call(symbol, &args, &[Ty::I32])[0]
    }

    /// The value of a constant size or of one of the size arguments.
    pub fn size(&self, dim: &Dim) -> Ix<'k> {
        if let Some(c) = dim.as_const() {
            return Ix::Const(c);
        }
        let found = self.sizes.iter().find(|(d, _)| d == dim);
        found.unwrap_or_else(|| panic!("{dim} is not a size argument of the kernel")).1
    }

    /// Leaves a note on the index `value` at `address`, which is none of the first `size`.
    pub fn note_bad_index(&self, address: Ptr<'k>, value: V<'k>, size: Ix<'k>) {
        let mark = self.k.int(Ty::I64, BAD_INDEX as i64);
        for (i, word) in [mark, address.0, value, size.v(self.k)].into_iter().enumerate() {
            self.scratch.bytes(8 * i as i64).store(word);
        }
    }

    /// Runs `body` for each task.
    pub fn tasks(&self, body: impl FnOnce(Ix<'k>)) {
        if self.single {
            return body(self.lo);
        }
        self.k.for_(self.lo, self.hi, 1, body);
    }
}

/// The distinct non-constant sizes in order of appearance.
pub fn size_args<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Vec<Dim> {
    let mut found: Vec<Dim> = vec![];
    for dim in dims {
        if dim.as_const().is_none() && !found.contains(dim) {
            found.push(dim.clone());
        }
    }
    found
}
