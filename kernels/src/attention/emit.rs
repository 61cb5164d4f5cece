//! The task of attention: packing, the loop over blocks of keys, and what is written.

use super::{
    Spec,
    blocks::{Blocks, QUERIES, Scratch},
    tile::{Adjust, Tile},
};
use crate::{
    abi::Kernel,
    build::{Cmp, Ix, K, Ptr, Ty, V},
    cpu::Cpu,
    view::{Part, View, at, coordinates, masks, transpose, vectors},
};
use kiln_ir::ElemType;

pub(super) struct Task<'s, 'k> {
    spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    k: K<'k>,
    cpu: &'static Cpu,
    blocks: Blocks,
    scratch: Scratch,
    q: View<'k>,
    keys: View<'k>,
    values: View<'k>,
    mask: Option<View<'k>>,
    output: View<'k>,
    /// Sizes of the index space.
    queries: Ix<'k>,
    length: Ix<'k>,
}

/// Where in the index space a task is.
struct Place<'k> {
    batch: Ix<'k>,
    head: Ix<'k>,
    key_head: Ix<'k>,
    /// The first query and how many there are.
    first: Ix<'k>,
    count: Ix<'k>,
}

impl<'s, 'k> Task<'s, 'k> {
    pub(super) fn new(spec: &'s Spec, kernel: &'s Kernel<'k>, cpu: &'static Cpu) -> Self {
        let view = |i: usize, access| View::new(kernel, i, access, cpu);
        Task {
            spec,
            kernel,
            k: kernel.k,
            cpu,
            blocks: Blocks::new(spec, cpu),
            scratch: Scratch::new(spec),
            q: view(0, &spec.q),
            keys: view(1, &spec.k),
            values: view(2, &spec.v),
            mask: spec.mask.as_ref().map(|m| view(3, m)),
            output: view(3 + usize::from(spec.mask.is_some()), &spec.output),
            queries: kernel.size(&spec.queries),
            length: kernel.size(&spec.keys),
        }
    }

    fn memory(&self, offset: i64) -> Ptr<'k> {
        self.kernel.scratch.bytes(offset)
    }

    fn vector(&self) -> Ty {
        Ty::new(self.blocks.elem, self.blocks.lanes)
    }

    fn vector_bytes(&self) -> u32 {
        self.vector().elem.bits() / 8 * self.blocks.lanes
    }

    fn scalar(&self) -> Ty {
        Ty::new(self.blocks.elem, 1)
    }

    pub(super) fn run(&self) {
        let spec = self.spec;
        let heads = self.kernel.size(&spec.heads);
        self.kernel.tasks(|task| {
            let runs = self.queries.ceil_div(QUERIES);
            let index = coordinates(task, &[self.kernel.size(&spec.batch), heads, runs]);
            let key_head = match spec.query_heads_per_key_head() {
                Some(n) => index[1].div(n),
                None => index[1].div(heads.div(self.kernel.size(&spec.kv_heads))),
            };
            let first = index[2] * QUERIES;
            let count = (self.queries - first).min(QUERIES);
            self.task(&Place { batch: index[0], head: index[1], key_head, first, count });
        });
    }

    fn task(&self, place: &Place<'k>) {
        let (k, b) = (self.k, self.blocks);
        let tiles = place.count.ceil_div(b.tile);
        k.for_(0, tiles, 1, |t| {
            self.pack_queries(place, t);
            self.tile(t).clear();
        });
        let ahead = self.length - self.queries;
        // A causal mask ends the loop at the last key that the last query sees.
        let end =
            if self.spec.causal { (place.first + place.count + ahead).min(self.length).max(0) } else { self.length };
        let blocks = end.ceil_div(b.key_block).max(1);
        let step = (end + (blocks - 1)).div(blocks).ceil_div(b.keys) * b.keys;
        let step = step.max(b.keys);
        let whole = !self.spec.causal && self.spec.mask.is_none() && end.rem(b.keys).is(0);
        let adjust = match &self.spec.mask {
            None if whole => Adjust::None,
            None => Adjust::Cap,
            Some(m) => match (m.elem == ElemType::I1, self.spec.mask_varies_over_queries()) {
                (true, false) => Adjust::Cap,
                (true, true) => Adjust::CapTile,
                (false, false) => Adjust::Add,
                (false, true) => Adjust::AddTile,
            },
        };
        k.for_(0, end, step, |key| {
            let count = (end - key).min(step);
            self.pack_rows(
                &self.keys,
                &[place.batch, place.key_head, key],
                count,
                self.spec.depth,
                Packed { to: self.memory(self.scratch.keys), pitch: b.key_pitch, scale: 1.0 },
            );
            self.clear_rows(self.memory(self.scratch.keys), b.key_pitch, count, count.ceil_div(b.keys) * b.keys);
            self.pack_rows(
                &self.values,
                &[place.batch, place.key_head, key],
                count,
                self.spec.value_depth,
                Packed { to: self.memory(self.scratch.values), pitch: b.value_pitch, scale: 1.0 },
            );
            if matches!(adjust, Adjust::Add | Adjust::Cap) {
                self.pack_bias(place, key, count);
            }
            k.for_(0, tiles, 1, |t| {
                if matches!(adjust, Adjust::AddTile | Adjust::CapTile) {
                    self.pack_tile_bias(place, t, key, count);
                }
                let limit = self.spec.causal.then(|| self.limits(place.first + t * b.tile + ahead - key));
                self.tile(t).block(self.spec.depth, count, adjust, limit.as_deref());
            });
        });
        k.for_(0, tiles, 1, |t| self.write(place, t));
    }

    fn tile(&self, t: Ix<'k>) -> Tile<'k> {
        let (b, s) = (self.blocks, &self.scratch);
        let slice = |offset: i64, elements: i64| at(self.memory(offset), self.scalar(), t * elements);
        Tile {
            k: self.k,
            blocks: b,
            keys: self.memory(s.keys),
            values: self.memory(s.values),
            bias: self.memory(s.bias),
            scores: self.memory(s.scores),
            queries: slice(s.queries, b.key_pitch * b.tile),
            results: slice(s.results, b.value_pitch * b.tile),
            state: slice(s.state, 2 * b.tile),
        }
    }

    /// The last key seen by each query of a tile, `first` for the first query.
    fn limits(&self, first: Ix<'k>) -> Vec<V<'k>> {
        let (k, lanes) = (self.k, self.blocks.lanes);
        let ty = Ty::new(self.blocks.elem.int(), lanes);
        let limit =
            |j: usize| (first + j as i64 * lanes as i64).v(k).int_to(ty.elem, true).broadcast(lanes) + k.iota(ty);
        (0..self.blocks.vectors).map(limit).collect()
    }

    /// Queries in rows, scaled, then transposed: `[component][query]`, with zeros for queries beyond the last.
    fn pack_queries(&self, place: &Place<'k>, t: Ix<'k>) {
        let (b, rows) = (self.blocks, self.memory(self.scratch.rows));
        let first = place.first + t * b.tile;
        let count = (place.count - t * b.tile).min(b.tile);
        let packed = Packed { to: rows, pitch: b.key_pitch, scale: self.spec.scale.as_f64() };
        self.pack_rows(&self.q, &[place.batch, place.head, first], count, self.spec.depth, packed);
        self.clear_rows(rows, b.key_pitch, count, b.tile.into());
        self.transpose_rows(self.spec.depth.into(), b.key_pitch, |component, query, column| {
            let to = at(self.tile(t).queries, self.vector(), component * b.tile + query);
            to.store_aligned(column, self.vector_bytes());
        });
    }

    /// Calls `each` with the columns of the tile in `rows`: vectors of neighbouring queries of one component.
    fn transpose_rows(&self, columns: Ix<'k>, pitch: i64, each: impl Fn(Ix<'k>, i64, V<'k>)) {
        let (b, lanes) = (self.blocks, self.blocks.lanes as i64);
        self.k.for_(0, columns, lanes, |column| {
            for query in (0..b.tile).step_by(lanes as usize) {
                let rows = (0..lanes).map(|i| {
                    let from = at(self.memory(self.scratch.rows), self.vector(), column + (query + i) * pitch);
                    from.load_aligned(self.vector(), self.vector_bytes())
                });
                for (i, v) in transpose(rows.collect()).into_iter().enumerate() {
                    each(column + i as i64, query, v);
                }
            }
        });
    }

    /// Copies `count` rows of `width` elements from `index` on, converted; the rest of the last vector is zero.
    fn pack_rows(&self, view: &View<'k>, index: &[Ix<'k>], count: Ix<'k>, width: i64, packed: Packed<'k>) {
        let (k, lanes) = (self.k, self.blocks.lanes as i64);
        let (start, stride) = (view.at(index), view.strides[3]);
        k.for_(0, count, 1, |row| {
            let (from, to) =
                (view.step(start, row * view.strides[2]), at(packed.to, self.vector(), row * packed.pitch));
            let convert = |value: V<'k>| {
                let value = value.float_to(self.blocks.elem);
                if packed.scale == 1.0 { value } else { value * packed.scale }
            };
            let put = |column: Ix<'k>, value| at(to, self.vector(), column).store_aligned(value, self.vector_bytes());
            let whole = width / lanes * lanes;
            k.for_(0, whole, lanes, |column| {
                let part = Part::All(self.blocks.lanes);
                put(column, convert(view.load(view.step(from, column * stride), stride, part)));
            });
            if whole < width {
                put(
                    whole.into(),
                    convert(self.load_some(view, view.step(from, stride * whole), stride, width - whole)),
                );
            }
        });
    }

    /// A vector of `count` elements and zeros.
    fn load_some(&self, view: &View<'k>, from: Ptr<'k>, stride: Ix<'k>, count: i64) -> V<'k> {
        let (k, lanes) = (self.k, self.blocks.lanes);
        if stride.is(1) && masks(self.cpu, [view.elem]) {
            return view.load(from, stride, Part::Masked(lanes, k.first_lanes(lanes, count)));
        }
        let raw = view.moves(lanes).memory();
        let mut vector = k.zero(raw);
        for i in 0..count {
            let lane = view.step(from, stride * i).load(Ty::new(raw.elem, 1));
            vector = k.op1("llvm.insertelement", &[vector, lane, k.int(Ty::I32, i)], raw, &[]);
        }
        view.moves(lanes).from_memory(vector)
    }

    fn clear_rows(&self, memory: Ptr<'k>, pitch: i64, from: Ix<'k>, to: Ix<'k>) {
        let zero = self.k.zero(self.vector());
        self.k.for_(from, to, 1, |row| {
            self.k.for_(0, pitch, self.blocks.lanes as i64, |column| {
                at(memory, self.vector(), row * pitch + column).store_aligned(zero, self.vector_bytes());
            });
        });
    }

    /// What a mask element does to a score.
    fn mask_value(&self, mask: &View<'k>, raw: V<'k>) -> V<'k> {
        if mask.elem == ElemType::I1 {
            let like = self.k.float(Ty::new(self.blocks.elem, raw.ty.lanes), 0.0);
            raw.select(like.like(f64::INFINITY), like.like(f64::NEG_INFINITY))
        } else {
            raw.float_to(self.blocks.elem)
        }
    }

    /// The row of mask values of the keys from `first` on, then -inf up to the last key computed.
    fn pack_bias(&self, place: &Place<'k>, first: Ix<'k>, count: Ix<'k>) {
        let (k, scalar) = (self.k, self.scalar());
        let to = self.memory(self.scratch.bias);
        match &self.mask {
            Some(mask) => self.mask_row(mask, mask.at(&[place.batch, place.head, 0.into(), first]), count, to),
            None => {
                let open = k.float(scalar, f64::INFINITY);
                k.for_(0, count, 1, |key| at(to, scalar, key).store(open));
            }
        }
        self.close(to, count, count.ceil_div(self.blocks.keys) * self.blocks.keys);
    }

    fn close(&self, to: Ptr<'k>, from: Ix<'k>, end: Ix<'k>) {
        let closed = self.k.float(self.scalar(), f64::NEG_INFINITY);
        self.k.for_(from, end, 1, |key| at(to, self.scalar(), key).store(closed));
    }

    fn mask_row(&self, mask: &View<'k>, from: Ptr<'k>, count: Ix<'k>, to: Ptr<'k>) {
        let stride = mask.strides[3];
        // A strided row is read one by one anyway.
        let lanes = if stride.is(1) || stride.is(0) { self.blocks.lanes } else { 1 };
        vectors(self.k, (0.into(), count), lanes, false, |key, part| {
            let raw = mask.load(mask.step(from, key * stride), stride, part);
            at(to, self.scalar(), key).store(self.mask_value(mask, raw));
        });
    }

    /// Mask values of a tile, `[key][query]`.
    fn pack_tile_bias(&self, place: &Place<'k>, t: Ix<'k>, first: Ix<'k>, count: Ix<'k>) {
        let Some(mask) = &self.mask else { return };
        let (k, b, pitch) = (self.k, self.blocks, self.scratch.rows_pitch);
        let end = count.ceil_div(b.keys) * b.keys;
        let start = mask.at(&[place.batch, place.head, place.first + t * b.tile, first]);
        k.for_(0, (place.count - t * b.tile).min(b.tile), 1, |query| {
            let to = at(self.memory(self.scratch.rows), self.scalar(), query * pitch);
            self.mask_row(mask, mask.step(start, query * mask.strides[2]), count, to);
            self.close(to, count, end);
        });
        self.transpose_rows(end, pitch, |key, query, column| {
            let to = at(self.memory(self.scratch.bias), self.vector(), key * b.tile + query);
            to.store_aligned(column, self.vector_bytes());
        });
    }

    /// Divides by the sums and writes the queries of a tile.
    fn write(&self, place: &Place<'k>, t: Ix<'k>) {
        let (k, b, lanes) = (self.k, self.blocks, self.blocks.lanes as i64);
        let (tile, rows) = (self.tile(t), self.memory(self.scratch.rows));
        let load = |from: Ptr<'k>, element: Ix<'k>| {
            at(from, self.vector(), element).load_aligned(self.vector(), self.vector_bytes())
        };
        for query in (0..b.tile).step_by(lanes as usize) {
            let max = load(tile.state, query.into());
            let sum = load(tile.state, (b.tile + query).into());
            let unseen = max.cmp(Cmp::Eq, max.like(f64::NEG_INFINITY));
            let factor = unseen.select(sum.like(0.0), sum.like(1.0) / sum);
            k.for_(0, self.spec.value_depth, lanes, |component| {
                let columns = (0..lanes).map(|i| load(tile.results, (component + i) * b.tile + query) * factor);
                for (i, row) in transpose(columns.collect()).into_iter().enumerate() {
                    let to = at(rows, self.vector(), component + (query + i as i64) * b.value_pitch);
                    to.store_aligned(row, self.vector_bytes());
                }
            });
        }
        let (width, stride) = (self.spec.value_depth, self.output.strides[3]);
        let masked = stride.is(1) && masks(self.cpu, [self.output.elem]);
        let first = place.first + t * b.tile;
        k.for_(0, (place.count - t * b.tile).min(b.tile), 1, |query| {
            let to = self.output.at(&[place.batch, place.head, first + query]);
            vectors(k, (0.into(), width.into()), b.lanes, masked, |component, part| {
                let from = at(rows, self.scalar(), query * b.value_pitch + component);
                // Whole vectors lie in scratch memory, whatever part of them is wanted.
                let value = from.load(Ty::new(b.elem, part.lanes()));
                let value = value.float_to(crate::scalar::register(self.output.elem));
                self.output.store(self.output.step(to, component * stride), stride, part, value);
            });
        });
    }
}

/// Where rows are copied to.
struct Packed<'k> {
    to: Ptr<'k>,
    pitch: i64,
    scale: f64,
}
