//! What the threads of a block have on Hopper (`sm_90a`) alone: barriers in shared memory, copies of tiles by the hardware,
//! and products of groups of four warps that run behind the threads' backs. PTX ISA 8.0, sections on `mbarrier`,
//! `cp.async.bulk.tensor` and `wgmma`.
//!
//! A group is four warps, the first of which has a number divisible by four. What a group does together all of its threads
//! do at the same place.

use super::{
    Swizzle,
    block::{Block, WARP},
};
use crate::build::{Elem, Ix, Ptr, Ty, V};
use melior::ir::{Type, Value};

/// Threads of a group.
pub const GROUP: i64 = 4 * WARP;
/// Rows of a product, and its depth.
pub const ROWS: i64 = 64;
pub const DEPTH: i64 = 16;
/// The most bytes of shared memory that a launch gives a block.
pub const LAUNCH_BYTES: i64 = 227 << 10;
/// The most registers a thread has in a kernel of this many threads, before threads give any up.
pub const REGISTERS: i64 = 64 << 10;
/// Bytes of a barrier in shared memory.
pub const BARRIER_BYTES: i64 = 8;

/// How a matrix lies in shared memory as tiles of a tensor map leave it there: rows as wide as the swizzle, eight of which
/// one above the other are what chunks change places in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    pub swizzle: Swizzle,
    /// Whether neighbours lie along the outer axis, and rows above each other along the depth; or the other way round.
    pub outer: bool,
    /// Bytes from as many of the outer axis as a row has to the next as many, where neighbours lie along it.
    pub across: i64,
}

impl Layout {
    /// Bytes of a row.
    pub const fn row(self) -> i64 {
        match self.swizzle {
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes128 => 128,
        }
    }

    /// Bytes from the elements of one product to those of the next along the depth.
    pub const fn step(self) -> i64 {
        if self.outer { DEPTH * self.row() } else { DEPTH * 2 }
    }

    /// The bits of a descriptor but for the address, which are in units of 16 bytes: two distances and the swizzle.
    const fn bits(self) -> i64 {
        let swizzle: i64 = match self.swizzle {
            Swizzle::Bytes128 => 1,
            Swizzle::Bytes32 => 3,
        };
        let leading = if self.outer { self.across } else { 16 };
        let stride = 8 * self.row();
        (leading / 16) << 16 | (stride / 16) << 32 | swizzle << 62
    }
}

/// The left side of a product.
#[derive(Clone, Copy)]
pub enum Left<'a, 'k> {
    /// A descriptor, and whether neighbours lie along the outer axis.
    Memory(V<'k>, bool),
    /// The four registers of a fragment, as of [`Block::multiply`].
    Registers(&'a [V<'k>]),
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub enum Sums<'a, 'k> {
    /// Nothing, for so many sums.
    Zero(usize),
    Of(&'a [V<'k>]),
}

impl<'k> Block<'k> {
    fn act(&self, text: &str, constraints: &str, operands: &[Value<'k, 'k>]) {
        self.k.asm(text, &format!("{constraints},~{{memory}}"), operands, None);
    }

    /// An address as shared memory counts them.
    fn shared_address(&self, of: Ptr<'k>) -> V<'k> {
        self.k.value("llvm.ptrtoint", &[self.shared_pointer(of)], Ty::I64)
    }

    /// Makes a barrier in shared memory that waits for this many arrivals. One thread does it, then
    /// [`Block::show_barriers`], and the block meets before anybody uses it.
    pub fn make_barrier(&self, at: Ptr<'k>, arrivals: i64) {
        let arrivals = self.k.int(Ty::I32, arrivals).raw();
        self.act("mbarrier.init.shared::cta.b64 [$0], $1;", "l,r", &[self.shared_address(at).raw(), arrivals]);
    }

    /// Shows barriers that this thread has made to what copies tiles.
    pub fn show_barriers(&self) {
        self.k.asm("fence.mbarrier_init.release.cluster;", "~{memory}", &[], None);
        self.show_stores();
    }

    /// Shows what this thread has stored in shared memory to products of groups, and to what copies tiles.
    pub fn show_stores(&self) {
        self.k.asm("fence.proxy.async.shared::cta;", "~{memory}", &[], None);
    }

    /// Arrives at a barrier.
    pub fn arrive(&self, at: Ptr<'k>) {
        self.act("mbarrier.arrive.shared::cta.b64 _, [$0];", "l", &[self.shared_address(at).raw()]);
    }

    /// Arrives at a barrier, whose phase also waits for so many bytes from now on.
    pub fn arrive_for(&self, at: Ptr<'k>, bytes: i64) {
        let operands = [self.shared_address(at).raw(), self.k.int(Ty::I32, bytes).raw()];
        self.act("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "l,r", &operands);
    }

    /// Waits until the phase with this parity, an i32, has ended; before the first one all with parity 1 have. What others did
    /// before they arrived is seen from then on.
    pub fn wait(&self, at: Ptr<'k>, parity: V<'k>) {
        let k = self.k;
        let address = self.shared_address(at);
        const TRY: &str = "{ .reg .pred %done; mbarrier.try_wait.parity.shared::cta.b64 %done, [$1], $2; \
                           selp.b32 $0, 1, 0, %done; }";
        let again = |_: &[V<'k>]| {
            let done = k.asm(TRY, "=r,l,r,~{memory}", &[address.raw(), parity.raw()], Some(Ty::I32));
            done.expect("a result").cmp(crate::build::Cmp::Eq, k.int(Ty::I32, 0))
        };
        k.while_(&[], again, |_| vec![]);
    }

    /// Starts to copy a tile of a tensor map, from the element at `coordinates` on, the first a multiple of 8, to shared memory aligned to 1024 bytes; its
    /// bytes arrive at a barrier. What lies outside of the tensor becomes zero. One thread does it.
    pub fn copy_tile(&self, to: Ptr<'k>, map: Ptr<'k>, coordinates: &[Ix<'k>], barrier: Ptr<'k>) {
        let rank = coordinates.len();
        let list: Vec<String> = (3..3 + rank).map(|i| format!("${i}")).collect();
        let text = format!(
            "cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1, {{{}}}], [$2];",
            list.join(", ")
        );
        let mut operands = vec![self.shared_address(to).raw(), map.0.raw(), self.shared_address(barrier).raw()];
        operands.extend(coordinates.iter().map(|c| c.v(self.k).int_to(Elem::I32, false).raw()));
        self.act(&text, &format!("l,l,l{}", ",r".repeat(rank)), &operands);
    }

    /// Gives up registers of all threads of a group but for so many a thread, a multiple of 8.
    pub fn give_registers(&self, left: i64) {
        self.k.asm(&format!("setmaxnreg.dec.sync.aligned.u32 {left};"), "~{memory}", &[], None);
    }

    /// Takes registers that others have given up, or will.
    pub fn take_registers(&self, all: i64) {
        self.k.asm(&format!("setmaxnreg.inc.sync.aligned.u32 {all};"), "~{memory}", &[], None);
    }

    /// Waits at the block's barrier `number`, from 1 to 15, for so many threads, all of which have come to it or
    /// [passed](Block::pass) it.
    pub fn meet(&self, number: Ix<'k>, threads: i64) {
        self.numbered("llvm.nvvm.barrier.cta.sync.aligned.count", number, threads);
    }

    /// The same without waiting.
    pub fn pass(&self, number: Ix<'k>, threads: i64) {
        self.numbered("llvm.nvvm.barrier.cta.arrive.aligned.count", number, threads);
    }

    fn numbered(&self, name: &str, number: Ix<'k>, threads: i64) {
        let number = number.v(self.k).int_to(Elem::I32, false);
        self.k.intrinsic(name, &[number.raw(), self.k.int(Ty::I32, threads).raw()], &[]);
    }

    /// The descriptor of a matrix in shared memory. The one so many bytes further on is `bytes / 16` more.
    pub fn descriptor(&self, at: Ptr<'k>, layout: Layout) -> V<'k> {
        let k = self.k;
        let address = (self.shared_address(at) & k.int(Ty::I64, 0x3ffff)).shr_unsigned(4);
        address | k.int(Ty::I64, layout.bits())
    }

    /// Orders what this thread has done with registers, those of these values above all, before products that use them.
    pub fn order_products(&self, values: &[V<'k>]) -> Vec<V<'k>> {
        self.in_place("wgmma.fence.sync.aligned;", "", &[], values)
    }

    /// Starts `sums + a b`, where `a` has 64 rows, `b` is a descriptor of twice as many columns as there are sums, `turned` if
    /// neighbours lie along them, and the depth is 16 elements of bf16 or f16. A warp has 16 rows, and a lane of them what it
    /// has of [`Block::multiply`], eight columns after the other. Until [`Block::wait_for_products`] nothing may be done with
    /// the registers of the operands but further products.
    pub fn start_product(
        &self,
        bf16: bool,
        a: Left<'_, 'k>,
        (b, turned): (V<'k>, bool),
        sums: Sums<'_, 'k>,
    ) -> Vec<V<'k>> {
        let (n, sums) = match sums {
            Sums::Zero(n) => (n, &[][..]),
            Sums::Of(sums) => (sums.len(), sums),
        };
        let ty = if bf16 { "bf16" } else { "f16" };
        let list =
            |from: usize, count: usize| (from..from + count).map(|i| format!("${i}")).collect::<Vec<_>>().join(", ");
        let (left, mut operands, kinds, order) = match a {
            Left::Memory(a, turned) => (format!("${n}"), vec![a.raw()], "l", format!("{}, ", i64::from(turned))),
            Left::Registers(a) => {
                (format!("{{{}}}", list(n, 4)), a.iter().map(|a| a.raw()).collect(), "r,r,r,r", String::new())
            }
        };
        let right = n + operands.len();
        operands.push(b.raw());
        let text = format!(
            "{{ .reg .pred %adds; setp.ne.b32 %adds, {}, 0; wgmma.mma_async.sync.aligned.m64n{}k16.f32.{ty}.{ty} {{{}}}, \
             {left}, ${right}, %adds, 1, 1, {order}{}; }}",
            i64::from(!sums.is_empty()),
            2 * n,
            list(0, n),
            i64::from(turned)
        );
        if sums.is_empty() {
            return self.registers(
                &text,
                &format!("{},{kinds},l", vec!["=f"; n].join(",")),
                &operands,
                &vec![Ty::F32; n],
            );
        }
        self.in_place(&text, &format!("{kinds},l"), &operands, sums)
    }

    /// Ends a group of products.
    pub fn commit_products(&self) {
        self.k.asm("wgmma.commit_group.sync.aligned;", "~{memory}", &[], None);
    }

    /// Waits until no more than `left` groups of products are under way. The values, sums above all, are those of products that
    /// have ended.
    pub fn wait_for_products(&self, left: i64, values: &[V<'k>]) -> Vec<V<'k>> {
        self.in_place(&format!("wgmma.wait_group.sync.aligned {left};"), "", &[], values)
    }

    /// Has values be made before what follows, where LLVM would make them behind it.
    pub fn make_before(&self, values: &[V<'k>]) -> Vec<V<'k>> {
        self.in_place("", "", &[], values)
    }

    /// Text that takes and leaves values, f32 or i32, in the same registers. They come after the other operands.
    fn in_place(&self, text: &str, kinds: &str, operands: &[Value<'k, 'k>], values: &[V<'k>]) -> Vec<V<'k>> {
        let mut constraints: Vec<String> =
            values.iter().map(|v| if v.ty == Ty::F32 { "=f" } else { "=r" }.to_string()).collect();
        constraints.extend(Some(kinds.to_string()).filter(|kinds| !kinds.is_empty()));
        constraints.extend((0..values.len()).map(|i| i.to_string()));
        let operands = [operands, &values.iter().map(|v| v.raw()).collect::<Vec<_>>()].concat();
        let types: Vec<Ty> = values.iter().map(|v| v.ty).collect();
        self.registers(text, &constraints.join(","), &operands, &types)
    }

    /// Text that leaves values of these types.
    fn registers(&self, text: &str, constraints: &str, operands: &[Value<'k, 'k>], types: &[Ty]) -> Vec<V<'k>> {
        let constraints =
            [constraints, "~{memory}"].into_iter().filter(|c| !c.is_empty()).collect::<Vec<_>>().join(",");
        let one = |ty: &Ty| if *ty == Ty::F32 { "f32" } else { "i32" };
        match types {
            [] => {
                self.k.asm(text, &constraints, operands, None);
                vec![]
            }
            [ty] => self.k.asm(text, &constraints, operands, Some(*ty)).into_iter().collect(),
            types => {
                let all: Vec<&str> = types.iter().map(one).collect();
                let result: Type<'k> = self.structure(&format!("!llvm.struct<({})>", all.join(", ")));
                let results = self.k.asm_of(text, &constraints, operands, &[result]);
                self.members(results[0], types)
            }
        }
    }
}
