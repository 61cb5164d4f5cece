//! What the threads of a block do together: shared memory, barriers, shuffles, asynchronous copies and tensor cores.
//!
//! All threads of a warp take part in what its lanes do together, and all threads of a block in its barriers.

use crate::{
    Family,
    abi::{Kernel, ModuleBuilder},
    build::{Bool, Elem, Ix, K, Ptr, Ty, V},
};
use melior::{
    dialect::llvm::r#type::pointer,
    ir::{
        Type, Value,
        attribute::{DenseI64ArrayAttribute, FlatSymbolRefAttribute, StringAttribute},
    },
};

/// Threads of a warp.
pub const WARP: i64 = 32;
/// The most bytes of shared memory that a block has without asking for more.
pub const SHARED_BYTES: i64 = 48 << 10;

/// What an asynchronous copy moves: bytes, and elements of two bytes.
pub const CHUNK_BYTES: i64 = 16;
pub const CHUNK: i64 = 8;

/// The address space of shared memory, and that of what all blocks see.
const SHARED: u32 = 3;
const GLOBAL: u32 = 1;

/// The barrier of a part of a block.
const PART: u32 = 1;

/// Emits the kernel of a family whose blocks have `shared_bytes` bytes of shared memory and do a task at a time: `body` is
/// what the threads of a block do for one.
pub fn kernel(
    spec: &impl Family,
    module: &mut ModuleBuilder<'_>,
    symbol: &str,
    shared_bytes: i64,
    body: impl for<'k> FnOnce(&Kernel<'k>, Block<'k>, Ptr<'k>, Ix<'k>),
) {
    let name = format!("{symbol}_shared");
    module.block_memory(&name, shared_bytes);
    module.cuda(symbol, spec.buffers().len(), &spec.size_args(), |entry| {
        let kernel = &entry.kernel;
        let block = Block::new(kernel.k);
        let shared = block.shared(&name);
        block.tasks(kernel.hi, |task| body(kernel, block, shared, task));
    });
}

/// A thread's place in its block.
#[derive(Clone, Copy)]
pub struct Block<'k> {
    pub k: K<'k>,
    pub thread: Ix<'k>,
    pub warp: Ix<'k>,
    pub lane: Ix<'k>,
}

impl<'k> Block<'k> {
    pub fn new(k: K<'k>) -> Block<'k> {
        let thread = super::block_thread(k);
        Block { k, thread, warp: thread.div(WARP), lane: thread.rem(WARP) }
    }

    /// Runs `body` for the tasks of this block.
    pub fn tasks(&self, tasks: Ix<'k>, body: impl FnOnce(Ix<'k>)) {
        self.tasks_carry(tasks, &[], |task, _| {
            body(task);
            vec![]
        });
    }

    /// The same with values that are carried from one task to the next.
    pub fn tasks_carry(
        &self,
        tasks: Ix<'k>,
        init: &[V<'k>],
        body: impl FnOnce(Ix<'k>, &[V<'k>]) -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        self.k.for_carry(super::block(self.k), tasks, super::blocks(self.k), init, body)
    }

    /// The shared memory that [`ModuleBuilder::block_memory`](crate::abi::ModuleBuilder::block_memory) has given this name.
    pub fn shared(&self, name: &str) -> Ptr<'k> {
        let k = self.k;
        let name = k.within().map_or(name, |within| &within.shared);
        let name = FlatSymbolRefAttribute::new(k.context(), name).into();
        let address = k.op("llvm.mlir.addressof", &[], &[pointer(k.context(), SHARED)], &[("global_name", name)]);
        k.value("llvm.addrspacecast", &address, Ty::PTR).ptr()
    }

    fn call(&self, name: &str, operands: &[Value<'k, 'k>], results: &[Type<'k>]) -> Vec<Value<'k, 'k>> {
        self.k.intrinsic(name, operands, results)
    }

    /// Waits for all threads of the block that run the kernel, and makes what they have written seen by all of them.
    pub fn barrier(&self) {
        let int = |value: u32| self.k.int(Ty::I32, value.into()).raw();
        match self.k.within() {
            Some(within) if within.threads < within.block => {
                self.call("llvm.nvvm.barrier.cta.sync.aligned.count", &[int(PART), int(within.threads)], &[]);
            }
            _ => {
                self.call("llvm.nvvm.barrier.cta.sync.aligned.all", &[int(0)], &[]);
            }
        }
    }

    /// Whether the condition holds for any thread of the block; a barrier too. All threads of the block run the kernel.
    pub fn any(&self, condition: Bool<'k>) -> Bool<'k> {
        let k = self.k;
        let operands = [k.int(Ty::I32, 0), condition.v(k)];
        Bool::Value(k.call_intrinsic("llvm.nvvm.barrier.cta.red.or.aligned.all", &operands, Ty::I1))
    }

    /// The same among the lanes of a warp.
    pub fn warp_barrier(&self) {
        let all = self.k.int(Ty::I32, -1);
        self.call("llvm.nvvm.bar.warp.sync", &[all.raw()], &[]);
    }

    /// What this thread has written or seen before is seen by all threads of the device before what it does behind.
    pub fn fence(&self) {
        self.call("llvm.nvvm.membar.gl", &[], &[]);
    }

    /// The same number, of which the compiler knows nothing: what is made of it is made here. Of a number that a loop does not
    /// change it would make all addresses before the loop, and there are no registers to keep them in.
    pub fn made_here(&self, number: Ix<'k>) -> Ix<'k> {
        let number = self.k.asm("mov.b64 $0, $1;", "=l,l", &[number.v(self.k).raw()], Some(Ty::I64));
        Ix::Value(number.expect("a result"))
    }

    /// Adds 1 to an i32 in memory that all blocks see, at once; gives what was there.
    pub fn count(&self, at: Ptr<'k>) -> V<'k> {
        self.atomic(1, at, self.k.int(Ty::I32, 1))
    }

    /// Sets bits of an i32 in memory at once.
    pub fn set_bits(&self, at: Ptr<'k>, bits: V<'k>) {
        self.atomic(5, at, bits);
    }

    /// Adds to a float in memory at once.
    pub fn add_float(&self, at: Ptr<'k>, value: V<'k>) {
        self.atomic(11, at, value);
    }

    /// One of LLVM's read-modify-write operations; relaxed; among the threads of the device.
    fn atomic(&self, operation: i64, at: Ptr<'k>, value: V<'k>) -> V<'k> {
        let k = self.k;
        let attributes = [
            ("bin_op", k.int_attr(64, operation)),
            ("ordering", k.int_attr(64, 2)),
            ("syncscope", StringAttribute::new(k.context(), "device").into()),
        ];
        k.value_with("llvm.atomicrmw", &[self.address(at, GLOBAL), value.raw()], value.ty, &attributes)
    }

    /// The value of the lane whose number differs in the bits of `mask`.
    pub fn shuffle(&self, value: V<'k>, mask: i64) -> V<'k> {
        let k = self.k;
        let word = |value: V<'k>| {
            let operands = [k.int(Ty::I32, -1), value, k.int(Ty::I32, mask), k.int(Ty::I32, WARP - 1)];
            k.call_intrinsic("llvm.nvvm.shfl.sync.bfly.i32", &operands, Ty::I32)
        };
        let elem = value.ty.elem;
        let bits = if elem.is_float() { value.bitcast(elem.int()) } else { value };
        let moved = if elem.bits() == 64 {
            let low = word(bits.int_to(Elem::I32, false)).int_to(Elem::I64, false);
            let high = word(bits.shr_unsigned(32).int_to(Elem::I32, false)).int_to(Elem::I64, false);
            low | high.shl(32)
        } else {
            word(bits.int_to(Elem::I32, false)).int_to(elem.int(), false)
        };
        if elem.is_float() { moved.bitcast(elem) } else { moved }
    }

    /// What `combine` makes of the values of `lanes` neighbouring lanes, a power of two, in each of them.
    pub fn combine(
        &self,
        values: &[V<'k>],
        lanes: i64,
        combine: impl Fn(&[V<'k>], &[V<'k>]) -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        let mut all = values.to_vec();
        let mut mask = lanes / 2;
        while mask > 0 {
            let other: Vec<V<'k>> = all.iter().map(|v| self.shuffle(*v, mask)).collect();
            // Both sides combine in the order of the lanes, so that they get the same.
            let upper =
                (self.lane.v(self.k) & self.k.int(Ty::I64, mask)).cmp(crate::build::Cmp::Ne, self.k.int(Ty::I64, 0));
            let (low, high): (Vec<V>, Vec<V>) =
                all.iter().zip(&other).map(|(a, b)| (upper.select(*b, *a), upper.select(*a, *b))).unzip();
            all = combine(&low, &high);
            mask /= 2;
        }
        all
    }

    /// Words of the four lanes of a quad change places: lane `l` gets word `l` of each, in the order of the lanes.
    pub fn turn_quad(&self, mut words: [V<'k>; 4]) -> [V<'k>; 4] {
        for mask in [1, 2] {
            let upper = self.lane.div(mask).rem(2).eq(1).v(self.k);
            for low in (0..4).filter(|i| i & mask == 0) {
                let high = low + mask;
                let [a, b] = [low, high].map(|i| words[i as usize]);
                let other = self.shuffle(upper.select(a, b), mask);
                words[low as usize] = upper.select(other, a);
                words[high as usize] = upper.select(b, other);
            }
        }
        words
    }

    /// A pointer to shared memory as one into its address space.
    pub(super) fn shared_pointer(&self, of: Ptr<'k>) -> Value<'k, 'k> {
        self.address(of, SHARED)
    }

    fn address(&self, of: Ptr<'k>, space: u32) -> Value<'k, 'k> {
        self.k.op("llvm.addrspacecast", &[of.0.raw()], &[pointer(self.k.context(), space)], &[])[0]
    }

    /// Starts a copy of 16 bytes to shared memory, of which `bytes` (an i32) are read and the others become zero.
    pub fn copy_async(&self, to: Ptr<'k>, from: Ptr<'k>, bytes: Option<V<'k>>) {
        if self.k.within().is_some() {
            return self.copy_chunk(to, from, bytes);
        }
        let (to, from) = (self.address(to, SHARED), self.address(from, GLOBAL));
        match bytes {
            Some(bytes) => self.call("llvm.nvvm.cp.async.cg.shared.global.16.s", &[to, from, bytes.raw()], &[]),
            None => self.call("llvm.nvvm.cp.async.cg.shared.global.16", &[to, from], &[]),
        };
    }

    /// The same at once, from memory of any kind: what the kernels of a loop hand on may lie in shared memory.
    fn copy_chunk(&self, to: Ptr<'k>, from: Ptr<'k>, bytes: Option<V<'k>>) {
        let k = self.k;
        let whole = || {
            let ty = Ty::new(Elem::I32, 4);
            to.store_aligned(from.load_aligned(ty, CHUNK_BYTES as u32), CHUNK_BYTES as u32);
            vec![]
        };
        let Some(bytes) = bytes else {
            whole();
            return;
        };
        let bytes = bytes.to_index(true);
        let part = || {
            let ty = Ty::new(Elem::I8, 1);
            k.for_(0, CHUNK_BYTES, 1, |i| {
                let byte = k.if_else(i.lt(bytes), || vec![from.bytes(i).load(ty)], || vec![k.zero(ty)]);
                to.bytes(i).store(byte[0]);
            });
            vec![]
        };
        k.if_else(bytes.eq(CHUNK_BYTES), whole, part);
    }

    /// Brings chunks to shared memory. `each` calls what it is given with a chunk's place there, its address, and how many of
    /// its elements there are: the others become zero. Where all addresses are `aligned` the copies are asynchronous.
    pub fn copy_chunks(&self, aligned: Bool<'k>, each: impl Fn(&dyn Fn(Ptr<'k>, Ptr<'k>, Ix<'k>))) {
        let k = self.k;
        let fast = |to: Ptr<'k>, from: Ptr<'k>, left: Ix<'k>| {
            let bytes = (!left.is(CHUNK)).then(|| (left * 2).v(k).int_to(Elem::I32, false));
            self.copy_async(to, from, bytes);
        };
        let slow = |to: Ptr<'k>, from: Ptr<'k>, left: Ix<'k>| {
            let ty = Ty::new(Elem::I16, 1);
            k.for_(0, CHUNK, 1, |i| {
                let load = || vec![from.offset(Elem::I16, i).load(ty)];
                to.offset(Elem::I16, i).store(k.if_else(i.lt(left), load, || vec![k.zero(ty)])[0]);
            });
        };
        let with = |copy: &dyn Fn(Ptr<'k>, Ptr<'k>, Ix<'k>)| {
            each(copy);
            vec![]
        };
        k.if_else(aligned, || with(&fast), || with(&slow));
    }

    /// Ends a group of asynchronous copies of this thread.
    pub fn commit_copies(&self) {
        self.call("llvm.nvvm.cp.async.commit.group", &[], &[]);
    }

    /// Waits until no more than `left` groups of copies of this thread are under way.
    pub fn wait_for_copies(&self, left: i64) {
        self.call("llvm.nvvm.cp.async.wait.group", &[self.k.int(Ty::I32, left).raw()], &[]);
    }

    /// Members of a structure as values.
    pub(super) fn members(&self, of: Value<'k, 'k>, types: &[Ty]) -> Vec<V<'k>> {
        let member = |(i, ty): (usize, &Ty)| {
            let position = DenseI64ArrayAttribute::new(self.k.context(), &[i as i64]).into();
            self.k.value_with("llvm.extractvalue", &[of], *ty, &[("position", position)])
        };
        types.iter().enumerate().map(member).collect()
    }

    pub(super) fn structure(&self, text: &str) -> Type<'k> {
        Type::parse(self.k.context(), text).unwrap_or_else(|| panic!("type {text}"))
    }

    /// Four matrices of eight rows of 16 bytes in shared memory; lane `8 i + r` has the address of row `r` of matrix `i`. A
    /// lane gets the two 16-bit elements `2 (lane % 4)` and the next of row `lane / 4` of each matrix, or of the column if
    /// `transposed`.
    pub fn load_matrices(&self, from: Ptr<'k>, transposed: bool) -> Vec<V<'k>> {
        let name = match transposed {
            true => "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.trans.b16",
            false => "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16",
        };
        let result = self.structure("!llvm.struct<(i32, i32, i32, i32)>");
        let loaded = self.call(name, &[self.address(from, SHARED)], &[result]);
        self.members(loaded[0], &[Ty::I32; 4])
    }

    /// The number, of which LLVM knows nothing.
    pub fn unknown(&self, number: Ix<'k>) -> Ix<'k> {
        let moved = self.k.asm("mov.b64 $0, $1;", "=l,l", &[number.v(self.k).raw()], Some(Ty::I64));
        moved.expect("it has a result").to_index(true)
    }

    /// Two f32 as neighbours of bf16 or f16 in a word.
    pub fn pair(&self, bf16: bool, low: V<'k>, high: V<'k>) -> V<'k> {
        let k = self.k;
        let elem = if bf16 { Type::bfloat16(k.context()) } else { Type::float16(k.context()) };
        let name = if bf16 { "llvm.nvvm.ff2bf16x2.rn" } else { "llvm.nvvm.ff2f16x2.rn" };
        // The first is the upper one.
        let pair = self.call(name, &[high.raw(), low.raw()], &[Type::vector(&[2], elem)]);
        k.value("llvm.bitcast", &pair, Ty::I32)
    }

    /// `sums + a b` on tensor cores: *a* 16x16 and *b* 16x8 of bf16 or f16, in the registers of the lanes of a warp as
    /// [`Block::load_matrices`] leaves them. Lane `l` has the sums of rows `l / 4` and `l / 4 + 8`, columns `2 (l % 4)` and
    /// the next.
    pub fn multiply(&self, bf16: bool, a: &[V<'k>], b: &[V<'k>], sums: &[V<'k>]) -> Vec<V<'k>> {
        let k = self.k;
        let half2 = Type::vector(&[2], Type::float16(k.context()));
        let word = |v: &V<'k>| match bf16 {
            true => v.raw(),
            false => k.op("llvm.bitcast", &[v.raw()], &[half2], &[])[0],
        };
        let operands: Vec<_> = a.iter().chain(b).map(word).chain(sums.iter().map(|v| v.raw())).collect();
        let name = if bf16 { "llvm.nvvm.mma.m16n8k16.row.col.bf16" } else { "llvm.nvvm.mma.m16n8k16.row.col.f32.f32" };
        let result = self.structure("!llvm.struct<(f32, f32, f32, f32)>");
        self.members(self.call(name, &operands, &[result])[0], &[Ty::F32; 4])
    }
}
