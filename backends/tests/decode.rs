//! Attention over caches against its definition in f64, on all levels; how tiles of keys are shared out among workers.

mod harness;
mod support;

use harness::{Compiled, Place, Sizes, decode, encode, random, relative_error, symbol, value};
use kiln_ir::{Dim, ElemType, scalar::Literal};
use kiln_kernels::{
    Access, Family,
    abi::COUNTERS,
    build::Ix,
    cpu::CpuLevel,
    cuda::Sm,
    decode::{
        Spec,
        schedule::{self, Runs, Segment},
    },
};
use proptest::prelude::*;
use support::Random;

/// Everything contiguous, `[B,H,Q,D]` and `[B,G,S,D]`.
fn plain(elem: ElemType, heads: i64, kv_heads: i64, queries: i64, depth: i64, value_depth: i64) -> Spec {
    let [b, s] = ["B", "S"].map(symbol);
    let view = |heads: i64, length: &Dim, depth: i64| {
        Access::contiguous(elem, &[b.clone(), heads.into(), length.clone(), depth.into()])
    };
    Spec {
        batch: b.clone(),
        heads: heads.into(),
        kv_heads: kv_heads.into(),
        queries: queries.into(),
        keys: s.clone(),
        depth,
        value_depth,
        scale: Literal::of(ElemType::F64, 1.0 / (depth as f64).sqrt()),
        splits: None,
        q: view(heads, &queries.into(), depth),
        k: view(kv_heads, &s, depth),
        v: view(kv_heads, &s, value_depth),
        lengths: Access::contiguous(ElemType::I64, std::slice::from_ref(&b)),
        output: view(heads, &queries.into(), value_depth),
    }
}

struct Data {
    /// Buffers as numbers: q, k, v, lengths.
    inputs: Vec<Vec<f64>>,
    output: usize,
}

impl Data {
    fn new(spec: &Spec, sizes: Sizes<'_>, lengths: &[i64], seed: u64) -> Data {
        let mut r = Random(seed);
        let buffers = spec.buffers();
        let elements = |i: usize| value(&buffers[i].elements, sizes).max(0) as usize;
        let mut inputs: Vec<Vec<f64>> = (0..3).map(|i| random(buffers[i].elem, elements(i), &mut r)).collect();
        inputs.push(lengths.iter().map(|n| *n as f64).collect());
        Data { inputs, output: elements(4) }
    }

    /// Fills keys and values that are not valid.
    fn poison(&mut self, spec: &Spec, sizes: Sizes<'_>, with: f64) {
        let (kv_heads, keys) = (value(&spec.kv_heads, sizes), value(&spec.keys, sizes));
        for (buffer, access, depth) in [(1, &spec.k, spec.depth), (2, &spec.v, spec.value_depth)] {
            let place = Place::new(access, sizes);
            for (b, length) in self.inputs[3].clone().iter().enumerate() {
                harness::each(&[kv_heads, keys, depth], |i| {
                    if i[1] >= *length as i64 {
                        self.inputs[buffer][place.at(&[b as i64, i[0], i[1], i[2]])] = with;
                    }
                });
            }
        }
    }

    fn run(&self, kernel: &Compiled<Spec>, sizes: Sizes<'_>) -> (i32, Vec<f64>) {
        let buffers = kernel.spec.buffers();
        let inputs: Vec<Vec<u8>> = self.inputs.iter().zip(&buffers).map(|(v, b)| encode(b.elem, v)).collect();
        let output = vec![encode(kernel.spec.output.elem, &vec![7.0; self.output])];
        let (status, outputs) = kernel.run(sizes, &inputs, &output);
        (status, decode(kernel.spec.output.elem, &outputs[0]))
    }

    fn check(&self, kernel: &Compiled<Spec>, sizes: Sizes<'_>, tolerance: f64) -> Vec<f64> {
        let (status, found) = self.run(kernel, sizes);
        assert_eq!(status, 0);
        let expected = self.expected(&kernel.spec, sizes);
        let error = relative_error(&found, &expected);
        let (level, spec) = (kernel.level.name(), &kernel.spec);
        assert!(error <= tolerance, "{level} {sizes:?} {:?} {spec:?}: error {error:e}", self.inputs[3]);
        found
    }

    fn expected(&self, spec: &Spec, sizes: Sizes<'_>) -> Vec<f64> {
        let size = |d: &Dim| value(d, sizes);
        let (heads, queries) = (size(&spec.heads), size(&spec.queries));
        let group = heads / size(&spec.kv_heads);
        let [q, k, v, o] = [&spec.q, &spec.k, &spec.v, &spec.output].map(|a| Place::new(a, sizes));
        let mut output = vec![7.0; self.output];
        harness::each(&[size(&spec.batch), heads, queries], |i| {
            let (b, h, s) = (i[0], i[1], i[2]);
            let seen = (self.inputs[3][b as usize] as i64 - queries + 1 + s).max(0);
            let score = |t: i64| -> f64 {
                let product = |d| self.inputs[0][q.at(&[b, h, s, d])] * self.inputs[1][k.at(&[b, h / group, t, d])];
                spec.scale.as_f64() * (0..spec.depth).map(product).sum::<f64>()
            };
            let scores: Vec<f64> = (0..seen).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for e in 0..spec.value_depth {
                let value = |t: usize| self.inputs[2][v.at(&[b, h / group, t as i64, e])];
                let dot: f64 = weights.iter().enumerate().map(|(t, p)| p * value(t)).sum();
                output[o.at(&[b, h, s, e])] = if seen == 0 { 0.0 } else { dot / sum };
            }
        });
        output
    }
}

fn tolerance(elem: ElemType) -> f64 {
    match elem {
        ElemType::F64 => 1e-14,
        ElemType::F32 => 6e-7,
        ElemType::F16 => 6e-4,
        _ => 5e-3,
    }
}

fn check(spec: &Spec, caches: &[(i64, &[i64])]) {
    for level in harness::levels() {
        let kernel = Compiled::new(spec.clone(), level);
        for (i, (size, lengths)) in caches.iter().enumerate() {
            let sizes = [("B", lengths.len() as i64), ("S", *size)];
            let mut data = Data::new(spec, &sizes, lengths, i as u64);
            let found = data.check(&kernel, &sizes, tolerance(spec.q.elem));
            data.poison(spec, &sizes, f64::NAN);
            let poisoned = data.run(&kernel, &sizes).1;
            assert!(found == poisoned, "{}: what is not valid has influence", level.name());
        }
    }
}

#[test]
fn lengths() {
    let caches: [(i64, &[i64]); 5] =
        [(1, &[1]), (40, &[31, 32, 33, 0, 40]), (330, &[323, 1, 64]), (0, &[0, 0]), (9, &[])];
    check(&plain(ElemType::F32, 8, 2, 1, 64, 64), &caches);
    // Fewer keys than queries.
    check(&plain(ElemType::F32, 2, 1, 3, 20, 12), &[(70, &[0, 1, 2, 3, 70, 33])]);
}

#[test]
fn depths_and_types() {
    for (depth, value_depth) in [(1, 1), (3, 5), (80, 33), (33, 128)] {
        check(&plain(ElemType::F32, 3, 3, 1, depth, value_depth), &[(37, &[37, 5])]);
    }
    for elem in [ElemType::F64, ElemType::F16, ElemType::BF16] {
        check(&plain(elem, 6, 1, 2, 24, 20), &[(45, &[45, 33])]);
    }
}

/// A cache with heads inside positions, and keys with the depth outermost.
#[test]
fn views() {
    let spec = plain(ElemType::F32, 4, 2, 1, 24, 16);
    let s = symbol("S");
    let k = Access::new(ElemType::F32, 3, [s.clone() * 48.into(), 24.into(), 48.into(), 1.into()]);
    check(&Spec { k, ..spec.clone() }, &[(40, &[40, 7])]);
    let k = Access::new(ElemType::F32, 0, [s.clone() * 48.into(), s.clone() * 24.into(), 1.into(), s]);
    let lengths = Access::new(ElemType::I64, 0, [Dim::from(1)]);
    check(&Spec { k, lengths, ..spec }, &[(40, &[40, 7])]);
}

#[test]
fn large_scores() {
    let spec = plain(ElemType::F32, 2, 1, 1, 8, 8);
    for level in harness::levels() {
        let kernel = Compiled::new(spec.clone(), level);
        let sizes = [("B", 1), ("S", 150)];
        let mut data = Data::new(&spec, &sizes, &[140], 6);
        data.inputs[0].iter_mut().for_each(|q| *q = (*q * 64.0).round());
        data.inputs[1].iter_mut().for_each(|k| *k = (*k * 64.0).round() / 4.0);
        data.check(&kernel, &sizes, 6e-6);
        // A NaN in a query makes its row NaN and no other.
        data.inputs[0][3] = f64::NAN;
        let found = data.run(&kernel, &sizes).1;
        assert!(found[..8].iter().all(|v| v.is_nan()) && found[8..].iter().all(|v| v.is_finite()));
    }
}

#[test]
fn a_length_that_is_none_is_an_error() {
    let spec = plain(ElemType::F32, 2, 1, 1, 8, 8);
    for level in harness::levels() {
        let kernel = Compiled::new(spec.clone(), level);
        let sizes = [("B", 3), ("S", 10)];
        for lengths in [[3, 11, 10], [3, -1, 10], [3, i64::MIN, 0], [3, i64::MAX, 10]] {
            let mut data = Data::new(&spec, &sizes, &lengths, 1);
            // Through f64 the largest would not come as it is.
            data.inputs[3] = vec![0.0; 3];
            let buffers = spec.buffers();
            let mut inputs: Vec<Vec<u8>> = data.inputs.iter().zip(&buffers).map(|(v, b)| encode(b.elem, v)).collect();
            inputs[3] = lengths.iter().flat_map(|n| n.to_le_bytes()).collect();
            let before = encode(ElemType::F32, &vec![7.0; data.output]);
            let (status, outputs) = kernel.run(&sizes, &inputs, &[before]);
            assert_eq!(status, 1, "{lengths:?}");
            let found = decode(ElemType::F32, &outputs[0]);
            assert!(found[16..32].iter().all(|v| *v == 7.0) && found[..16].iter().all(|v| *v != 7.0));
        }
    }
}

/// Levels that this machine may lack, for code generation.
#[test]
fn every_level() {
    for level in CpuLevel::ALL {
        let spec = plain(ElemType::F16, 8, 2, 1, 64, 64);
        let object = kiln_backends::llvm::Compiler::new()
            .compile("decode", level, kiln_backends::llvm::Stage::Obj, |m| spec.emit(m, "kernel", level.describe()))
            .unwrap();
        assert!(object.len() > 1000);
    }
}

fn number(ix: Ix<'_>) -> i64 {
    ix.as_const().expect("arithmetic on constants")
}

/// What each worker does, as the kernel finds it: the output tile, its tiles of keys, and the segment.
fn stream(lengths: &[i64], outputs: i64, workers: i64, tile: i64) -> Vec<Vec<(i64, [i64; 5])>> {
    let of: Vec<i64> = lengths.iter().map(|n| number(schedule::tiles((*n).into(), tile))).collect();
    let all: i64 = of.iter().sum::<i64>() * outputs;
    let runs = Runs { tiles: all.into(), workers: workers.into() };
    let one = |worker: i64| {
        let (first, end) = runs.of(worker.into());
        let (mut at, end) = (number(first), number(end).min(all));
        let mut done = vec![];
        while at < end {
            let (mut begin, mut output, mut b) = (0, 0, 0);
            while begin + of[b] * outputs <= at {
                begin += of[b] * outputs;
                output += outputs;
                b += 1;
            }
            let start = begin + (at - begin) / of[b] * of[b];
            output += (at - begin) / of[b];
            let s = Segment::of_run((at.into(), end.into()), start.into(), of[b].into());
            let sharers = runs.sharers(start.into(), of[b].into());
            let s = [s.first, s.end, of[b].into(), sharers.leader, sharers.count].map(number);
            done.push((output, s));
            at = start + s[1];
        }
        done
    };
    (0..workers).map(one).collect()
}

/// Checks that each tile of keys of each output tile has one worker, in the order of the workers, and that who counts on
/// whom agrees.
fn covers(workers: &[Vec<(i64, [i64; 5])>], outputs: usize) {
    let mut next = vec![0; outputs];
    let mut came = vec![0; outputs];
    for (worker, segments) in workers.iter().enumerate() {
        for (i, (output, [first, end, of, leader, count])) in segments.iter().enumerate() {
            let output = *output as usize;
            assert_eq!(*first, next[output], "the order of the keys is that of the workers");
            assert!(first < end && end <= of);
            next[output] = *end;
            assert_eq!(*leader + came[output], worker as i64, "the place among those on the output tile");
            came[output] += 1;
            assert!(came[output] <= *count);
            // What begins inside of an output tile comes first, what ends inside of one comes last: two places do.
            assert!(*first == 0 || i == 0, "at most one part that another worker leads");
            assert!(end == of || i + 1 == segments.len(), "at most one part that it leads itself");
            if end == of {
                assert_eq!(came[output], *count, "all have come");
                next[output] = 0;
                came[output] = i64::MIN / 2;
            }
        }
    }
    assert!(came.iter().all(|n| *n < 0), "each output tile is complete");
}

#[test]
fn no_more_parts_are_launched_than_there_can_be() {
    let spec = Spec { splits: Some(i64::MAX), ..plain(ElemType::F16, 4, 2, 1, 64, 64) };
    assert_eq!(value(&spec.grid(Sm::Sm80).tasks, &[("B", 3), ("S", 9)]), 3 * 2 * COUNTERS);
}

proptest! {
    #[test]
    fn runs_cover_all_tiles_evenly(
        lengths in prop::collection::vec(0..2000i64, 1..6), outputs in 1..5i64, workers in 1..70i64,
    ) {
        let all = stream(&lengths, outputs, workers, 64);
        covers(&all, lengths.len() * outputs as usize);
        let count = |segments: &Vec<(i64, [i64; 5])>| segments.iter().map(|(_, s)| s[1] - s[0]).sum::<i64>();
        let (least, most) = (all.iter().map(count).min().unwrap(), all.iter().map(count).max().unwrap());
        prop_assert!(most - least <= 1);
    }

    #[test]
    fn owners_are_those_who_have_a_tile(tiles in 1..500i64, workers in 1..70i64) {
        let runs = Runs { tiles: tiles.into(), workers: workers.into() };
        let mut at = 0;
        for worker in 0..workers {
            let (first, end) = runs.of(worker.into());
            prop_assert_eq!(number(first), at);
            at = number(end);
            for tile in number(first)..at {
                prop_assert_eq!(number(runs.owner(tile.into())), worker);
            }
        }
        prop_assert_eq!(at, tiles);
    }

    #[test]
    fn parts_cover_all_tiles(
        of in prop::collection::vec(1..40i64, 1..20), splits in 1..20i64, workers in 1..200i64,
    ) {
        let outputs = of.len() as i64;
        let parts = number(schedule::parts(splits, workers.into(), outputs.into()));
        prop_assert!(parts == 1 || outputs * parts <= workers);
        let mut all = vec![vec![]; (outputs * parts) as usize];
        for unit in 0..outputs * parts {
            let (output, part) = (unit / parts, unit % parts);
            let of = of[output as usize];
            let s = Segment::of_part((part.into(), parts.into()), of.into());
            let [first, end] = [s.first, s.end].map(number);
            if first < end {
                all[unit as usize].push((output, [first, end, of, output * parts, parts.min(of)]));
            }
        }
        covers(&all, of.len());
    }
}
