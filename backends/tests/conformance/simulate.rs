//! Runs a plan by the contracts of its kernels, one element after the other: what the planner means, without any code
//! generation. All memory is bytes, so arena offsets, strides and lending are put to the test too.

use kiln_backends::{
    plan::{Buffer, Count, ModulePlan, Place, Step},
    weights::{Params, Reader, decode, encode},
};
use kiln_ir::{
    Dim, ElemType, Module, Symbol,
    scalar::{Expr, Scalar},
};
use kiln_kernels::{Access, KernelSpec, attention, cell, conv, decode, gather, map, matmul, reduce, row, topk};

#[path = "regions.rs"]
mod regions;

pub struct Simulator<'a> {
    symbols: Vec<(Symbol, i64)>,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    arena: Vec<u8>,
    weights: Vec<Vec<u8>>,
    offsets: Vec<i64>,
    plan: &'a ModulePlan,
    entry: usize,
    /// Memory of the loop that runs.
    region: Vec<u8>,
}

/// An address.
#[derive(Clone, Copy)]
struct Base {
    memory: Memory,
    /// In bytes.
    start: i64,
}

#[derive(Clone, Copy)]
enum Memory {
    Plan(Buffer),
    /// Of the loop that runs.
    Region,
}

/// A strided tensor that a kernel works on.
#[derive(Clone)]
struct Bound {
    base: Base,
    elem: ElemType,
    offset: i64,
    strides: Vec<i64>,
}

impl Bound {
    fn at(&self, index: &[i64]) -> i64 {
        self.offset + index.iter().zip(&self.strides).map(|(i, s)| i * s).sum::<i64>()
    }
}

/// Every index below `dims`, row-major.
fn indices(dims: &[i64]) -> Vec<Vec<i64>> {
    let n: i64 = dims.iter().product();
    let of = |mut i: i64| {
        let mut index = vec![0; dims.len()];
        for d in (0..dims.len()).rev() {
            index[d] = i % dims[d];
            i /= dims[d];
        }
        index
    };
    (0..n).map(of).collect()
}

impl<'a> Simulator<'a> {
    /// `inputs` are the bytes of the entry's inputs; returns those of its outputs.
    pub fn run(
        m: &Module,
        plan: &'a ModulePlan,
        entry: usize,
        symbols: Vec<(Symbol, i64)>,
        inputs: Vec<Vec<u8>>,
        params: &Params<'_>,
    ) -> Vec<Vec<u8>> {
        let reader = Reader::new(m, &plan.weights, params).unwrap();
        let read = |item| {
            let mut bytes = vec![];
            reader.write(item, &mut bytes).unwrap();
            bytes
        };
        let values: Vec<i64> =
            m.symbols.iter().map(|f| symbols.iter().find(|(s, _)| *s == f.symbol).map_or(f.min, |(_, v)| *v)).collect();
        let mut simulator = Simulator {
            symbols,
            inputs,
            outputs: vec![],
            arena: vec![0xcd; plan.entries[entry].arena_bytes.eval_size(&values).unwrap() as usize],
            weights: plan.weights.items().iter().map(read).collect(),
            offsets: plan.entries[entry].offsets.iter().map(|o| o.eval_size(&values).unwrap()).collect(),
            plan,
            entry,
            region: vec![],
        };
        let bytes = |ty: &kiln_ir::Type| simulator.value(&ty.elements()) as usize * ty.elem.bytes();
        simulator.outputs =
            m.regions[m.entries[entry].body].results.iter().map(|v| vec![0xee; bytes(m.ty(*v))]).collect();
        simulator.block(0);
        simulator.outputs
    }

    fn value(&self, dim: &Dim) -> i64 {
        dim.eval(&|s| self.symbols.iter().find(|(n, _)| *n == s).map(|(_, v)| *v)).unwrap()
    }

    fn values(&self, dims: &[Dim]) -> Vec<i64> {
        dims.iter().map(|d| self.value(d)).collect()
    }

    fn block(&mut self, block: usize) {
        let plan = self.plan;
        for step in &plan.entries[self.entry].blocks[block] {
            match step {
                Step::Launch(launch) => {
                    let args: Vec<Base> = launch.args.iter().map(|a| self.base(a)).collect();
                    self.launch(&plan.kernels[launch.kernel], &args);
                }
                Step::If { condition, then, otherwise } => {
                    let yes = self.scalar(condition, ElemType::I1) != 0;
                    self.block(if yes { *then } else { *otherwise } as usize);
                }
                Step::While { condition, body, max, .. } => {
                    let max = self.value(max);
                    for turn in 0.. {
                        if self.scalar(condition, ElemType::I1) == 0 {
                            break;
                        }
                        assert!(turn < max, "more than {max} turns");
                        self.block(*body as usize);
                    }
                }
                Step::For { count, index, body } => {
                    let count = match count {
                        Count::Fixed(count) => *count,
                        Count::At(place) => self.scalar(place, ElemType::I64),
                    };
                    for turn in 0..count {
                        let to = self.bind(self.base(index), &Access::new(ElemType::I64, 0, [0; 0]));
                        self.set(&to, &[], Scalar::I(turn));
                        self.block(*body as usize);
                    }
                }
            }
        }
    }

    fn scalar(&self, place: &Place, elem: ElemType) -> i64 {
        self.element(self.base(place), elem)
    }

    fn element(&self, base: Base, elem: ElemType) -> i64 {
        self.get(&self.bind(base, &Access::new(elem, 0, [0; 0])), &[]).as_i64()
    }

    fn base(&self, place: &Place) -> Base {
        let start = match place.buffer {
            Buffer::Temporary(t) => self.offsets[t as usize],
            _ => 0,
        };
        Base { memory: Memory::Plan(place.buffer), start: start + self.value(&place.offset) }
    }

    fn bind(&self, base: Base, access: &Access) -> Bound {
        Bound { base, elem: access.elem, offset: self.value(&access.offset), strides: self.values(&access.strides) }
    }

    fn start(&self, b: &Bound, index: &[i64]) -> usize {
        (b.base.start + b.at(index) * b.elem.bytes() as i64) as usize
    }

    fn bytes(&self, memory: Memory) -> &[u8] {
        match memory {
            Memory::Plan(Buffer::Input(i)) => &self.inputs[i as usize],
            Memory::Plan(Buffer::Output(i)) => &self.outputs[i as usize],
            Memory::Plan(Buffer::Temporary(_)) => &self.arena,
            Memory::Plan(Buffer::Weight(item)) => &self.weights[item.0 as usize],
            Memory::Plan(Buffer::State(_)) => panic!("no case has a state"),
            Memory::Region => &self.region,
        }
    }

    fn bytes_mut(&mut self, memory: Memory) -> &mut [u8] {
        match memory {
            Memory::Plan(Buffer::Output(i)) => &mut self.outputs[i as usize],
            Memory::Plan(Buffer::Temporary(_)) => &mut self.arena,
            Memory::Plan(other) => panic!("a kernel writes {other:?}"),
            Memory::Region => &mut self.region,
        }
    }

    fn get(&self, b: &Bound, index: &[i64]) -> Scalar {
        decode(b.elem, &self.bytes(b.base.memory)[self.start(b, index)..])
    }

    fn set(&mut self, b: &Bound, index: &[i64], value: Scalar) {
        let start = self.start(b, index);
        encode(b.elem, value, &mut self.bytes_mut(b.base.memory)[start..]);
    }

    fn all(&self, list: &[Bound], index: &[i64]) -> Vec<Scalar> {
        list.iter().map(|b| self.get(b, index)).collect()
    }

    fn launch(&mut self, spec: &KernelSpec, args: &[Base]) {
        let bind = |accesses: &[&Access]| -> Vec<Bound> {
            assert_eq!(accesses.len(), args.len(), "{spec:?}");
            accesses.iter().zip(args).map(|(a, base)| self.bind(*base, a)).collect()
        };
        match spec {
            KernelSpec::Region(s) => self.loops(s, args),
            KernelSpec::Circuit(_) => panic!("no case asks a circuit"),
            KernelSpec::Map(s) => {
                let bound = bind(&s.inputs.iter().chain([&s.output]).collect::<Vec<_>>());
                self.map(s, &bound);
            }
            KernelSpec::Row(s) => {
                let bound = bind(&s.inputs.iter().chain([&s.output]).collect::<Vec<_>>());
                self.row(s, &bound);
            }
            KernelSpec::Reduce(s) => {
                let bound = bind(&s.inputs.iter().chain(&s.epilogue_inputs).chain([&s.output]).collect::<Vec<_>>());
                self.reduce(s, &bound);
            }
            KernelSpec::Topk(s) => {
                let bound = bind(&[&s.input, &s.values, &s.indices]);
                self.topk(s, &bound);
            }
            KernelSpec::Attention(s) => {
                let bound = bind(&[&s.q, &s.k, &s.v].into_iter().chain(&s.mask).chain([&s.output]).collect::<Vec<_>>());
                self.attention(s, &bound);
            }
            KernelSpec::Decode(s) => {
                let bound = bind(&[&s.q, &s.k, &s.v, &s.lengths, &s.output]);
                self.decode(s, &bound);
            }
            KernelSpec::Gather(s) => {
                let bound = bind(&[&s.table, &s.index, &s.output]);
                self.gather(s, &bound);
            }
            KernelSpec::Conv(s) => {
                let accesses = [&s.input, &s.weight].into_iter().chain(&s.epilogue_inputs).chain([&s.output]);
                let bound = bind(&accesses.collect::<Vec<_>>());
                self.conv(s, &bound);
            }
            KernelSpec::Cell(s) => {
                let weight = Access::new(s.weight, 0, [0; 0]);
                let (extra, next) = match &s.cell {
                    cell::Cell::Lstm { c, next } => (Some(c), Some(next)),
                    cell::Cell::Gru { bias } => (bias.as_ref(), None),
                };
                let inputs = [&s.gx, &s.h, &weight].into_iter().chain(extra);
                let bound = bind(&inputs.chain([&s.output]).chain(next).collect::<Vec<_>>());
                self.cell(s, &bound);
            }
            KernelSpec::Matmul(s) => {
                let access = |m: &matmul::Matrix| {
                    let strides = m.batch.iter().chain([&m.row, &m.col]).cloned();
                    Access { elem: m.elem, offset: 0.into(), strides: strides.collect() }
                };
                let b = match &s.b {
                    matmul::Rhs::Packed(elem) => Access::new(*elem, 0, [0; 0]),
                    matmul::Rhs::Strided(b) => access(b),
                };
                let list: Vec<Access> =
                    [access(&s.a), b].into_iter().chain(s.operands.iter().map(access)).chain([access(&s.c)]).collect();
                let bound = bind(&list.iter().collect::<Vec<_>>());
                self.matmul(s, &bound);
            }
        }
    }

    fn map(&mut self, s: &map::Spec, bound: &[Bound]) {
        let (output, inputs) = bound.split_last().unwrap();
        for i in indices(&self.values(&s.dims)) {
            let value = s.expr.eval(&self.all(inputs, &i), &i);
            self.set(output, &i, value);
        }
    }

    fn row(&mut self, s: &row::Spec, bound: &[Bound]) {
        let (output, inputs) = bound.split_last().unwrap();
        let n = self.value(&s.inner);
        for outer in indices(&self.values(&s.outer)) {
            let at = |i: i64| [outer.clone(), vec![i]].concat();
            let x: Vec<f64> = (0..n).map(|i| s.prologue.eval(&self.all(inputs, &at(i)), &at(i)).as_f64()).collect();
            let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = x.iter().map(|x| (x - max).exp()).sum();
            let mean = x.iter().sum::<f64>() / n as f64;
            let square = x.iter().map(|x| x * x).sum::<f64>();
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n as f64;
            let normal = |x: f64| match s.stat {
                row::Stat::Softmax => (x - max).exp() / sum,
                row::Stat::LogSoftmax => x - max - sum.ln(),
                row::Stat::LayerNorm { eps } => (x - mean) / (variance + eps.as_f64()).sqrt(),
                row::Stat::RmsNorm { eps } => x / (square / n as f64 + eps.as_f64()).sqrt(),
                row::Stat::L2Normalize { eps } => x / square.sqrt().max(eps.as_f64()),
            };
            for i in 0..n {
                let mut values = vec![Scalar::F(normal(x[i as usize]))];
                values.extend(self.all(inputs, &at(i)));
                let value = s.epilogue.eval(&values, &at(i));
                self.set(output, &at(i), value);
            }
        }
    }

    fn reduce(&mut self, s: &reduce::Spec, bound: &[Bound]) {
        let (output, rest) = bound.split_last().unwrap();
        let (inputs, epilogue_inputs) = rest.split_at(s.inputs.len());
        let reduced = indices(&self.values(&s.reduced));
        for outer in indices(&self.values(&s.outer)) {
            let elem = s.prologue.elem();
            let values: Vec<Scalar> = reduced
                .iter()
                .map(|r| [outer.clone(), r.clone()].concat())
                .map(|i| s.prologue.eval(&self.all(inputs, &i), &i))
                .collect();
            let result = fold(s.kind, elem, &values);
            let mut all = vec![result];
            all.extend(self.all(epilogue_inputs, &outer));
            let value = s.epilogue.eval(&all, &outer);
            self.set(output, &outer, value);
        }
    }

    fn topk(&mut self, s: &topk::Spec, bound: &[Bound]) {
        for outer in indices(&self.values(&s.outer)) {
            let at = |i: i64| [outer.clone(), vec![i]].concat();
            let mut row: Vec<(i64, Scalar)> =
                (0..self.value(&s.inner)).map(|i| (i, self.get(&bound[0], &at(i)))).collect();
            row.sort_by(|a, b| greater(a.1, b.1, s.input.elem).cmp(&greater(b.1, a.1, s.input.elem)).reverse());
            for (j, (i, value)) in row.iter().take(self.value(&s.k) as usize).enumerate() {
                self.set(&bound[1], &at(j as i64), *value);
                self.set(&bound[2], &at(j as i64), Scalar::I(*i));
            }
        }
    }

    fn decode(&mut self, s: &decode::Spec, bound: &[Bound]) {
        let dims = [&s.batch, &s.heads, &s.queries].map(|d| self.value(d));
        let group = dims[1] / self.value(&s.kv_heads).max(1);
        for i in indices(&dims) {
            let (b, h, q) = (i[0], i[1], i[2]);
            let length = self.get(&bound[3], &[b]).as_i64();
            assert!((0..=self.value(&s.keys)).contains(&length), "{length} keys");
            let score = |t: i64| {
                let dot = |d: i64| {
                    self.get(&bound[0], &[b, h, q, d]).as_f64() * self.get(&bound[1], &[b, h / group, t, d]).as_f64()
                };
                s.scale.as_f64() * (0..s.depth).map(dot).sum::<f64>()
            };
            let scores: Vec<f64> = (0..length - dims[2] + 1 + q).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|x| (x - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for e in 0..s.value_depth {
                let value = |t: usize| self.get(&bound[2], &[b, h / group, t as i64, e]).as_f64();
                let total: f64 = weights.iter().enumerate().map(|(t, w)| w * value(t)).sum();
                let result = if weights.is_empty() { 0.0 } else { total / sum };
                self.set(&bound[4], &[b, h, q, e], Scalar::F(result));
            }
        }
    }

    fn attention(&mut self, s: &attention::Spec, bound: &[Bound]) {
        let dims = [&s.batch, &s.heads, &s.queries].map(|d| self.value(d));
        let (keys, group) = (self.value(&s.keys), dims[1] / self.value(&s.kv_heads));
        for i in indices(&dims) {
            let (b, h, q) = (i[0], i[1], i[2]);
            let score = |t: i64| {
                let dot = |d: i64| {
                    self.get(&bound[0], &[b, h, q, d]).as_f64() * self.get(&bound[1], &[b, h / group, t, d]).as_f64()
                };
                let scaled = s.scale.as_f64() * (0..s.depth).map(dot).sum::<f64>();
                if s.causal && t > q + keys - dims[2] {
                    return f64::NEG_INFINITY;
                }
                match &s.mask {
                    None => scaled,
                    Some(mask) if mask.elem == ElemType::I1 => {
                        if self.get(&bound[3], &[b, h, q, t]).as_i64() != 0 {
                            scaled
                        } else {
                            f64::NEG_INFINITY
                        }
                    }
                    Some(_) => scaled + self.get(&bound[3], &[b, h, q, t]).as_f64(),
                }
            };
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> =
                scores.iter().map(|x| if max == f64::NEG_INFINITY { 0.0 } else { (x - max).exp() }).collect();
            let sum = weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            for e in 0..s.value_depth {
                let v = |t: usize| self.get(&bound[2], &[b, h / group, t as i64, e]).as_f64();
                let value = weights.iter().enumerate().map(|(t, w)| w * v(t)).sum::<f64>() / sum;
                self.set(bound.last().unwrap(), &[b, h, q, e], Scalar::F(value));
            }
        }
    }

    fn gather(&mut self, s: &gather::Spec, bound: &[Bound]) {
        let front = [self.values(&s.shared), self.values(&s.before)].concat();
        for front in indices(&front) {
            for i in indices(&self.values(&s.indices)) {
                let at = self.get(&bound[1], &[&front[..s.shared.len()], &i].concat()).as_i64();
                assert!(at >= 0 && at < self.value(&s.axis));
                for after in indices(&self.values(&s.after)) {
                    let value = self.get(&bound[0], &[front.clone(), vec![at], after.clone()].concat());
                    self.set(&bound[2], &[front.clone(), i.clone(), after].concat(), value);
                }
            }
        }
    }

    fn conv(&mut self, s: &conv::Spec, bound: &[Bound]) {
        let (output, rest) = bound.split_last().unwrap();
        let (batch, channels, filters) = (self.value(&s.batch), self.value(&s.channels), self.value(&s.out_channels));
        let (spatial, kernel) = (self.values(&s.spatial), self.values(&s.kernel));
        let space = [vec![batch, filters], self.values(&s.out_spatial)].concat();
        for i in indices(&space) {
            let group = i[1] / (filters / s.groups);
            let mut sum = 0.0;
            for r in indices(&[vec![channels], kernel.clone()].concat()) {
                let mut from = vec![i[0], group * channels + r[0]];
                from.extend((0..spatial.len()).map(|d| i[d + 2] * s.strides[d] + r[d + 1] * s.dilations[d] - s.low[d]));
                if from[2..].iter().zip(&spatial).all(|(p, n)| p >= &0 && p < n) {
                    let weight = self.get(&rest[1], &[vec![i[1]], r].concat()).as_f64();
                    sum += self.get(&rest[0], &from).as_f64() * weight;
                }
            }
            self.finish(&s.epilogue, sum, &rest[2..], output, &i);
        }
    }

    fn matmul(&mut self, s: &matmul::Spec, bound: &[Bound]) {
        let (output, rest) = bound.split_last().unwrap();
        let k = self.value(&s.k);
        let space = [self.values(&s.batch), vec![self.value(&s.m), self.value(&s.n)]].concat();
        let rank = space.len();
        for i in indices(&space) {
            let with = |row: i64, col: i64| [i[..rank - 2].to_vec(), vec![row, col]].concat();
            let right = |k_at: i64| match &s.b {
                matmul::Rhs::Strided(_) => self.get(&rest[1], &with(k_at, i[rank - 1])).as_f64(),
                matmul::Rhs::Packed(_) => {
                    let column = i[rank - 1];
                    let mut panel = rest[1].clone();
                    panel.offset = (column / 16 * k + k_at) * 16 + column % 16;
                    self.get(&panel, &[]).as_f64()
                }
            };
            let left = |k_at: i64| self.get(&rest[0], &with(i[rank - 2], k_at)).as_f64();
            let sum = (0..k).map(|k_at| left(k_at) * right(k_at)).sum();
            self.finish(&s.epilogue, sum, &rest[2..], output, &i);
        }
    }

    fn cell(&mut self, s: &cell::Spec, bound: &[Bound]) {
        let (gates, n) = (s.cell.gates(), s.hidden);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for row in 0..self.value(&s.rows) {
            for unit in 0..n {
                let read = |b: &Bound, index: &[i64]| self.get(b, index).as_f64();
                let weight = |at: i64, gate: i64| {
                    let mut w = bound[2].clone();
                    w.offset = ((unit / 16 * n + at) * gates + gate) * 16 + unit % 16;
                    read(&w, &[])
                };
                let product = |gate: i64| (0..n).map(|at| read(&bound[1], &[row, at]) * weight(at, gate)).sum::<f64>();
                let x = |gate: i64| read(&bound[0], &[row, gate * n + unit]);
                let at = [row, unit];
                match &s.cell {
                    cell::Cell::Lstm { .. } => {
                        let [i, f, g, o] = [0, 1, 2, 3].map(|gate| x(gate) + product(gate));
                        let c = sigmoid(f) * read(&bound[3], &at) + sigmoid(i) * g.tanh();
                        self.set(&bound[4], &at, Scalar::F(sigmoid(o) * c.tanh()));
                        self.set(&bound[5], &at, Scalar::F(c));
                    }
                    cell::Cell::Gru { bias } => {
                        let bias = |gate: i64| bias.as_ref().map_or(0.0, |_| read(&bound[3], &[gate * n + unit]));
                        let [r, z, m] = [0, 1, 2].map(|gate| product(gate) + bias(gate));
                        let (r, z) = (sigmoid(x(0) + r), sigmoid(x(1) + z));
                        let next = (1.0 - z) * (x(2) + r * m).tanh() + z * read(&bound[1], &at);
                        self.set(bound.last().unwrap(), &at, Scalar::F(next));
                    }
                }
            }
        }
    }

    fn finish(&mut self, epilogue: &Expr, sum: f64, operands: &[Bound], output: &Bound, index: &[i64]) {
        let mut values = vec![Scalar::F(sum)];
        values.extend(self.all(operands, index));
        let value = epilogue.eval(&values, index);
        self.set(output, index, value);
    }
}

/// Whether `a` is larger; a NaN is largest.
fn greater(a: Scalar, b: Scalar, elem: ElemType) -> bool {
    match (a, b) {
        (Scalar::F(a), Scalar::F(b)) => a > b || (a.is_nan() && !b.is_nan()),
        _ if elem == ElemType::U64 => a.as_i64() as u64 > b.as_i64() as u64,
        _ => a.as_i64() > b.as_i64(),
    }
}

fn fold(kind: reduce::Kind, elem: ElemType, values: &[Scalar]) -> Scalar {
    use kiln_ir::scalar::{Binary, Builder};
    if kind == reduce::Kind::Argmax {
        let best = (0..values.len()).reduce(|a, b| if greater(values[b], values[a], elem) { b } else { a });
        return Scalar::I(best.unwrap_or(0) as i64);
    }
    let (f, start) = match kind {
        reduce::Kind::Sum | reduce::Kind::Mean => (Binary::Add, 0.0),
        reduce::Kind::Prod => (Binary::Mul, 1.0),
        reduce::Kind::Max => (Binary::Max, f64::NEG_INFINITY),
        _ => (Binary::Min, f64::INFINITY),
    };
    let mut builder = Builder::new();
    let (a, b) = (builder.input(0, elem), builder.input(1, elem));
    let result = builder.binary(f, a, b);
    let step = builder.finish(result);
    let neutral = if elem.is_float() { Scalar::F(start) } else { Scalar::I(start as i64) };
    let bounded = matches!(f, Binary::Max | Binary::Min) && !values.is_empty();
    let total = match bounded {
        true => values[1..].iter().fold(values[0], |sum, v| step.eval(&[sum, *v], &[])),
        false => values.iter().fold(neutral, |sum, v| step.eval(&[sum, *v], &[])),
    };
    match (kind, total) {
        (reduce::Kind::Mean, Scalar::F(sum)) => Scalar::F(sum / values.len() as f64),
        _ => total,
    }
}
