//! Micro-kernels: a tile of sums in registers over a run of K.

use crate::{
    build::{self, Ix, Linkage, Ptr, Ty, V},
    cpu::Cpu,
    matmul::{Rhs, Spec, TASK_COLUMNS, pack::PANEL},
    scalar::{Access, register},
};
use melior::{Context, ir::Module};

/// How far ahead B is fetched. The processor's own prefetch stops at each page; the panels follow one another, so past
/// the end of one the next is fetched.
const PREFETCH_BYTES: i64 = 2048;

/// How a level cuts a task into tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    /// Lanes of a vector of sums.
    pub lanes: u32,
    /// Panels side by side in a tile.
    pub panels: i64,
    /// The heights of tiles, falling, 1 last; a column of tiles takes the tallest that fits, again and again.
    pub heights: &'static [i64],
}

impl Tiling {
    /// Sums and one row of B must fit the registers; with them and without FMA also a product.
    pub(super) fn of(cpu: &Cpu, sum_bytes: u32) -> Tiling {
        let lanes = cpu.lanes(sum_bytes);
        let (panels, heights): (i64, &[i64]) = match (cpu.vector_registers, lanes) {
            (32.., 16) => (2, &[12, 8, 4, 2, 1]),
            (32.., 8) => (1, &[12, 8, 4, 2, 1]),
            (32.., 4) | (_, 8) => (1, &[6, 4, 2, 1]),
            (_, 4) => (1, &[3, 2, 1]),
            _ => (1, &[2, 1]),
        };
        Tiling { lanes, panels, heights }
    }

    pub(super) fn columns(&self) -> i64 {
        self.panels * PANEL
    }

    /// Vectors of a row of the tile.
    pub(super) fn vectors(&self) -> i64 {
        self.columns() / self.lanes as i64
    }

    /// Rows k that a tile takes at once, each into sums of its own, so that enough sums are under way at a time to
    /// hide the latency of one.
    fn split(&self, height: i64) -> i64 {
        (8 / (height * self.vectors())).clamp(1, 4)
    }
}

/// What the micro-kernels of one matmul have in common.
pub(super) struct MicroKernels {
    pub tiling: Tiling,
    /// How an element of B is loaded for a vector of sums.
    pub b: Access,
    /// The type of the sums, of all lanes.
    pub sums: Ty,
    /// Elements between rows of A.
    pub a_row: i64,
    /// Whether the sums start from the partial result or from zero.
    pub accumulate: bool,
    pub prefetches: bool,
}

impl MicroKernels {
    pub(super) fn of(spec: &Spec, cpu: &Cpu, a_row: i64) -> MicroKernels {
        let tiling = Tiling::of(cpu, spec.sum_elem().bytes() as u32);
        let elem = match &spec.b {
            Rhs::Packed(elem) => *elem,
            Rhs::Strided(_) => spec.sum_elem(),
        };
        MicroKernels {
            tiling,
            b: Access { elem, lanes: tiling.lanes, converts: cpu.converts },
            sums: Ty::new(register(spec.sum_elem()), tiling.lanes),
            a_row,
            accumulate: spec.k.as_const().is_none_or(|k| k > spec.k_part()),
            prefetches: cpu.prefetches,
        }
    }

    fn name(symbol: &str, height: i64) -> String {
        format!("{symbol}_tile{height}")
    }

    /// Emits `void tile(ptr a, ptr b.., ptr partial, i64 k)` for each height; one `b` a panel.
    pub(super) fn emit(&self, module: &Module<'_>, context: &Context, symbol: &str) {
        for height in self.tiling.heights {
            let mut params = vec![Ty::PTR; 2 + self.tiling.panels as usize];
            params.push(Ty::I64);
            build::function(
                module,
                context,
                &Self::name(symbol, *height),
                &params,
                &[],
                Linkage::Private,
                |_, args| {
                    let pointers: Vec<Ptr> = args[..args.len() - 1].iter().map(|v| v.ptr()).collect();
                    let (a, rest) = (pointers[0], &pointers[1..]);
                    let (b, partial) = (&rest[..rest.len() - 1], rest[rest.len() - 1]);
                    self.body(*height, a, b, partial, Ix::Value(args[args.len() - 1]));
                    vec![]
                },
            );
        }
    }

    /// Calls the micro-kernel for the tallest tile that fits into `rows` rows; returns its height.
    pub(super) fn call<'k>(
        &self,
        symbol: &str,
        rows: Ix<'k>,
        a: Ptr<'k>,
        b: &[Ptr<'k>],
        partial: Ptr<'k>,
        k: Ix<'k>,
    ) -> Ix<'k> {
        let builder = a.0.builder();
        let mut args: Vec<V> = vec![a.0];
        args.extend(b.iter().map(|p| p.0));
        args.extend([partial.0, k.v(builder)]);
        choose(self.tiling.heights, symbol, rows, &args)
    }

    fn body<'k>(&self, height: i64, a: Ptr<'k>, b: &[Ptr<'k>], partial: Ptr<'k>, len: Ix<'k>) {
        let k = a.0.builder();
        let Tiling { lanes, .. } = self.tiling;
        let (vectors, columns) = (self.tiling.vectors(), self.tiling.columns());
        let per_panel = vectors / self.tiling.panels;
        let elem = self.sums.elem;
        let place = |row: i64, vector: i64| partial.offset(elem, row * columns + vector * lanes as i64);

        let zero = k.zero(self.sums);
        let mut sums: Vec<V> = vec![];
        for row in 0..height {
            for vector in 0..vectors {
                sums.push(if self.accumulate { place(row, vector).load(self.sums) } else { zero });
            }
        }
        // One step of k: `sums[row][vector] += a[row][k] * b[k][vector]`.
        let step = |at: Ix<'k>, sums: &[V<'k>]| -> Vec<V<'k>> {
            for panel in b.iter().filter(|_| self.prefetches) {
                panel.offset(self.b.memory().elem, at * PANEL).bytes(PREFETCH_BYTES).prefetch(3);
            }
            let b: Vec<V> = (0..vectors)
                .map(|v| {
                    let panel = b[(v / per_panel) as usize].offset(self.b.memory().elem, at * PANEL);
                    let from = panel.offset(self.b.memory().elem, v % per_panel * lanes as i64);
                    let align = self.b.memory().elem.bits() / 8 * lanes;
                    self.b.from_memory(from.load_aligned(self.b.memory(), align))
                })
                .collect();
            let mut next = vec![];
            for row in 0..height {
                let a = a.offset(elem, at + row * self.a_row).load(Ty::new(elem, 1)).broadcast(lanes);
                for vector in 0..vectors {
                    next.push(a.fma(b[vector as usize], sums[(row * vectors + vector) as usize]));
                }
            }
            next
        };
        let split = self.tiling.split(height);
        let count = sums.len();
        if split > 1 {
            let whole = len.div(split) * split;
            let mut all = sums.clone();
            all.resize(count * split as usize, zero);
            let all = k.for_carry(0, whole, split, &all, |at, all| {
                (0..split).flat_map(|s| step(at + s, &all[count * s as usize..][..count])).collect()
            });
            sums = (0..count).map(|i| (1..split as usize).fold(all[i], |sum, s| sum + all[s * count + i])).collect();
            sums = k.for_carry(whole, len, 1, &sums, step);
        } else {
            sums = k.for_carry(0, len, 1, &sums, step);
        }
        for row in 0..height {
            for vector in 0..vectors {
                place(row, vector).store(sums[(row * vectors + vector) as usize]);
            }
        }
    }
}

/// A chain of branches over the heights.
fn choose<'k>(heights: &[i64], symbol: &str, rows: Ix<'k>, args: &[V<'k>]) -> Ix<'k> {
    let k = args[0].builder();
    let call = |height: i64| {
        k.call(&MicroKernels::name(symbol, height), args, &[]);
        vec![k.int(Ty::I64, height)]
    };
    match heights {
        [last] => call(*last)[0].into(),
        [first, rest @ ..] => {
            let fits = Ix::Const(*first).le(rows);
            k.if_else(fits, || call(*first), || vec![choose(rest, symbol, rows, args).v(k)])[0].into()
        }
        [] => Ix::Const(0),
    }
}

/// The vectors of a task's row in the partial result are at whole tiles.
const _: () = assert!(TASK_COLUMNS == 2 * PANEL);
