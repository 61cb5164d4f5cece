//! The scalar fold, run at every level of this machine: transcendental functions keep their stated error, everything
//! else agrees with the reference arithmetic of the expressions.

mod harness;
mod support;

use harness::{Compiled, levels};
use kiln_ir::{
    Dim, ElemType,
    scalar::{Binary, Builder, Compare, Expr, Scalar, Unary},
    types::Kind,
};
use kiln_kernels::{
    Buffer, Cost, Family,
    abi::ModuleBuilder,
    build::{Elem, Ty},
    cpu::{Cpu, CpuLevel},
    scalar::{Access, fold},
};
use support::Random;

/// Applies a scalar expression to arrays; a task is [`RUN`] elements, whole vectors of every type.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Apply {
    expr: Expr,
    inputs: Vec<ElemType>,
    elements: i64,
}

const RUN: i64 = 64;

impl Family for Apply {
    const NAME: &'static str = "apply";

    fn buffers(&self) -> Vec<Buffer> {
        let buffer = |(i, elem)| Buffer { elem, elements: self.elements.into(), written: i == self.inputs.len() };
        self.inputs.iter().copied().chain([self.expr.elem()]).enumerate().map(buffer).collect()
    }

    fn size_args(&self) -> Vec<Dim> {
        vec![]
    }

    fn tasks(&self) -> Dim {
        (self.elements / RUN).into()
    }

    fn scratch_bytes(&self) -> Dim {
        0.into()
    }

    fn cost(&self) -> Cost {
        Cost { flops: 0.into(), bytes: 0.into() }
    }

    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
        let widest = self.inputs.iter().chain([&self.expr.elem()]).map(|e| e.bytes()).max().unwrap_or(4) as u32;
        let lanes = cpu.vector_bytes / widest.max(4);
        module.kernel(symbol, &[], |kernel| {
            let k = kernel.k;
            let access = |elem| Access { elem, lanes, converts: cpu.converts };
            let buffers: Vec<_> = (0..=self.inputs.len()).map(|i| kernel.buffer(i)).collect();
            k.for_(kernel.lo * RUN, kernel.hi * RUN, lanes as i64, |i| {
                let mut input = |n: u32| {
                    let a = access(self.inputs[n as usize]);
                    a.load(buffers[n as usize].offset(a.memory().elem, i))
                };
                let mut index = |_| i.v(k).broadcast(lanes) + k.iota(Ty::new(Elem::I64, lanes));
                let value = fold(k, &self.expr, lanes, &mut input, &mut index);
                let a = access(self.expr.elem());
                a.store(buffers[self.inputs.len()].offset(a.memory().elem, i), value);
            });
            None
        });
    }
}

fn apply(level: CpuLevel, expr: &Expr, ins: &[ElemType], inputs: &[Vec<u8>], n: usize) -> Vec<u8> {
    let kernel = Compiled::new(Apply { expr: expr.clone(), inputs: ins.to_vec(), elements: n as i64 }, level);
    let (status, outputs) = kernel.run(&[], inputs, &[vec![0; n * expr.elem().bytes()]]);
    assert_eq!(status, 0);
    outputs.into_iter().next().unwrap()
}

fn expression(
    elem: ElemType,
    ins: usize,
    make: impl FnOnce(&mut Builder, &[kiln_ir::scalar::Id]) -> kiln_ir::scalar::Id,
) -> Expr {
    let mut b = Builder::new();
    let ids: Vec<_> = (0..ins as u32).map(|i| b.input(i, elem)).collect();
    let result = make(&mut b, &ids);
    b.finish(result)
}

fn f32_bytes(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn f64_bytes(v: &[f64]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn to_f32(v: &[u8]) -> Vec<f32> {
    v.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

fn to_f64(v: &[u8]) -> Vec<f64> {
    v.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect()
}

/// Every 509th bit pattern, fewer where they are emulated, and the neighbourhoods of what is special.
fn f32_samples(level: CpuLevel) -> Vec<f32> {
    let step = if level.is_native() { 509 } else { 10_007 };
    let mut v: Vec<f32> = (0..=u32::MAX).step_by(step).map(f32::from_bits).collect();
    for special in
        [0f32, 1.0, 0.5, 0.92, 3.93, 9.02, 88.722_84, 104.0, f32::MIN_POSITIVE, f32::INFINITY, f32::NAN, 1e-45]
    {
        for delta in -40i32..=40 {
            let x = f32::from_bits(special.to_bits().wrapping_add_signed(delta));
            v.extend([x, -x]);
        }
    }
    v.resize(v.len().next_multiple_of(64), 1.0);
    v
}

fn f64_samples(level: CpuLevel) -> Vec<f64> {
    let mut random = Random(1);
    let mut v = vec![];
    for i in 0..if level.is_native() { 1_000_000 } else { 50_000 } {
        let x = random.bits() as i64 as f64 / i64::MAX as f64;
        v.push(match i % 5 {
            0 => x,
            1 => x * 8.0,
            2 => x * 800.0,
            3 => x * 1e-3,
            _ => f64::from_bits(random.bits()),
        });
    }
    v.extend([0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MIN_POSITIVE / 8.0, f64::MAX, f64::MIN]);
    v.resize(v.len().next_multiple_of(64), 1.0);
    v
}

/// The distance from `exact` in units in the last place that a float of this format has there.
fn ulps(got: f64, exact: f64, mantissa: i32, min_exponent: i32) -> f64 {
    if got.is_nan() && exact.is_nan() || got == exact {
        return 0.0;
    }
    if !got.is_finite() || !exact.is_finite() {
        return f64::INFINITY;
    }
    let exponent = (exact.abs().log2().floor() as i32).max(min_exponent);
    (got - exact).abs() / 2f64.powi(exponent) * 2f64.powi(mantissa)
}

/// Name, function, reference, stated f32 bound with and without FMA, stated f64 bound with and without FMA, and
/// the largest argument for which they hold.
type Row = (&'static str, Unary, fn(f64) -> f64, [f64; 2], [f64; 2], f64);

const FUNCTIONS: &[Row] = &[
    ("exp", Unary::Exp, f64::exp, [1.0, 1.5], [1.0, 1.5], f64::INFINITY),
    ("log", Unary::Log, f64::ln, [1.0, 1.0], [1.0, 1.0], f64::INFINITY),
    ("tanh", Unary::Tanh, f64::tanh, [2.5, 2.5], [3.0, 3.5], f64::INFINITY),
    ("erf", Unary::Erf, libm::erf, [2.6, 2.6], [2.0, 2.5], f64::INFINITY),
    ("sin", Unary::Sin, f64::sin, [0.6, 0.6], [1.0, 1.0], 1048576.0),
    ("cos", Unary::Cos, f64::cos, [0.6, 0.6], [1.0, 1.0], 1048576.0),
];

#[test]
fn functions_keep_their_stated_error() {
    for level in levels() {
        let (small, wide) = (f32_samples(level), f64_samples(level));
        let cpu = level.describe();
        let plain = usize::from(!cpu.has_fma);
        for (name, f, reference, bound32, bound64, domain) in FUNCTIONS {
            let expr = expression(ElemType::F32, 1, |b, x| b.unary(*f, x[0]));
            let out = apply(level, &expr, &[ElemType::F32], &[f32_bytes(&small)], small.len());
            let mut worst = (0.0, 0.0);
            for (x, got) in small.iter().zip(to_f32(&out)) {
                if x.is_finite() && x.abs() as f64 > *domain {
                    assert!(got.abs() <= 1.0, "{name}({x:e}) = {got:e}");
                    continue;
                }
                let exact = reference(*x as f64);
                // An exact value that rounds to infinity may come out infinite.
                let error = if (exact as f32) == got { 0.5 } else { ulps(got as f64, exact, 23, -126) };
                if error > worst.0 {
                    worst = (error, *x);
                }
            }
            println!("{} {name} f32: {:.3} ulp at {:e}", level.name(), worst.0, worst.1);
            assert!(worst.0 <= bound32[plain], "{name} f32 at {}: {} ulp at {:e}", level.name(), worst.0, worst.1);

            let expr = expression(ElemType::F64, 1, |b, x| b.unary(*f, x[0]));
            let out = apply(level, &expr, &[ElemType::F64], &[f64_bytes(&wide)], wide.len());
            let mut worst = (0.0, 0.0);
            for (x, got) in wide.iter().zip(to_f64(&out)) {
                if x.is_finite() && x.abs() > *domain {
                    assert!(got.abs() <= 1.0, "{name}({x:e}) = {got:e}");
                    continue;
                }
                let error = ulps(got, reference(*x), 52, -1022);
                if error > worst.0 {
                    worst = (error, *x);
                }
            }
            println!("{} {name} f64: {:.3} ulp at {:e}", level.name(), worst.0, worst.1);
            // The reference itself is off by up to one unit.
            assert!(worst.0 <= bound64[plain] + 1.0, "{name} f64 at {}: {} at {:e}", level.name(), worst.0, worst.1);
        }
    }
}

#[test]
fn one_plus_erf_keeps_its_error() {
    let expr = expression(ElemType::F32, 1, |b, x| {
        let erf = b.unary(Unary::Erf, x[0]);
        let one = b.constant(1.0, erf);
        b.add(erf, one)
    });
    for level in levels() {
        let small = f32_samples(level);
        let out = apply(level, &expr, &[ElemType::F32], &[f32_bytes(&small)], small.len());
        for (x, got) in small.iter().zip(to_f32(&out)) {
            let exact = libm::erfc(-f64::from(*x));
            let ok = (f64::from(got) - exact).abs() <= 4.0 * 2f64.powi(-24) || x.is_nan() && got.is_nan();
            assert!(ok, "{}: 1 + erf({x:e}) = {got:e}, exactly {exact:e}", level.name());
        }
    }
}

/// Values that are likely to be special for a type, as the reference arithmetic holds them.
fn specials(elem: ElemType) -> Vec<Scalar> {
    let mut random = Random(3);
    if elem.is_float() {
        let mut v = vec![0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1.5, 3.0, 7.25, -9.75, 100.0, -1000.5, 65504.0];
        v.extend([f64::INFINITY, f64::NEG_INFINITY, f64::NAN]);
        v.extend((0..16).map(|_| (f64::from(random.float()) * 64.0).round() / 16.0));
        return v.into_iter().map(Scalar::F).collect();
    }
    let mut v = vec![0i64, 1, -1, 2, 3, 5, 7, -7, 11, 64, 127, -128, 255, 1 << 15, i32::MAX as i64, i64::MIN, i64::MAX];
    v.extend((0..15).map(|_| random.bits() as i64));
    v.into_iter().map(|i| Scalar::I(i).wrap(elem)).collect()
}

fn write(elem: ElemType, value: Scalar) -> Vec<u8> {
    match (elem, value) {
        (ElemType::F64, v) => v.as_f64().to_le_bytes().to_vec(),
        (ElemType::F32, v) => (v.as_f64() as f32).to_le_bytes().to_vec(),
        (ElemType::BF16, v) => ((v.as_f64() as f32).to_bits() >> 16).to_le_bytes()[..2].to_vec(),
        (ElemType::F16, v) => half::f16::from_f64(v.as_f64()).to_le_bytes().to_vec(),
        (_, v) => v.as_i64().to_le_bytes()[..elem.bytes()].to_vec(),
    }
}

fn read(elem: ElemType, bytes: &[u8]) -> Scalar {
    let mut wide = [0u8; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    match elem {
        ElemType::F64 => Scalar::F(f64::from_le_bytes(wide)),
        ElemType::F32 => Scalar::F(f64::from(f32::from_bits(u64::from_le_bytes(wide) as u32))),
        ElemType::BF16 => Scalar::F(f64::from(f32::from_bits((u64::from_le_bytes(wide) as u32) << 16))),
        ElemType::F16 => Scalar::F(half::f16::from_bits(u64::from_le_bytes(wide) as u16).to_f64()),
        _ => Scalar::I(i64::from_le_bytes(wide)).wrap(elem),
    }
}

/// Equal, or as near as the format is fine. A magnitude beyond the format may have become infinite.
fn agrees(elem: ElemType, got: Scalar, expected: Scalar) -> bool {
    let (Scalar::F(got), Scalar::F(expected)) = (got, expected) else { return got == expected };
    let (epsilon, tiny) = match elem {
        // The stated error of pow.
        ElemType::F64 => (700.0 * f64::EPSILON, 1e-300),
        ElemType::F32 => (5e-7, 1e-37),
        ElemType::F16 => (1e-3, 1e-7),
        _ => (8e-3, 1e-37),
    };
    let overflow = expected.abs() >= elem.max_value() && got.is_infinite() && got.signum() == expected.signum();
    (got.is_nan() && expected.is_nan())
        || got == expected
        || overflow
        || (got - expected).abs() <= epsilon * expected.abs() + tiny
}

/// Runs `expr` on all pairs of special values of the input types and compares with the reference arithmetic.
fn agree_with_reference(level: CpuLevel, expr: &Expr, ins: &[ElemType]) {
    let columns: Vec<Vec<Scalar>> = ins.iter().map(|e| specials(*e)).collect();
    let n = columns.iter().map(Vec::len).product::<usize>();
    let rows: Vec<Vec<Scalar>> = (0..n)
        .map(|mut i| {
            let pick = |c: &Vec<Scalar>| {
                let value = c[i % c.len()];
                i /= c.len();
                value
            };
            columns.iter().map(pick).collect()
        })
        .collect();
    let padded = n.next_multiple_of(RUN as usize);
    let inputs: Vec<Vec<u8>> = ins
        .iter()
        .enumerate()
        .map(|(i, e)| (0..padded).flat_map(|row| write(*e, rows[row % n][i])).collect())
        .collect();
    let exact: Vec<Vec<Scalar>> = (0..n)
        .map(|row| ins.iter().enumerate().map(|(i, e)| read(*e, &inputs[i][row * e.bytes()..][..e.bytes()])).collect())
        .collect();
    let out = apply(level, expr, ins, &inputs, padded);
    for (row, got) in exact.iter().zip(out.chunks_exact(expr.elem().bytes())) {
        let (got, expected) = (read(expr.elem(), got), expr.eval(row, &[]).wrap(expr.elem()));
        assert!(agrees(expr.elem(), got, expected), "{} {expr:?} of {row:?}: {got:?}, not {expected:?}", level.name());
    }
}

/// All types at one level, those that levels differ in at the others.
fn types(level: CpuLevel) -> Vec<ElemType> {
    match level {
        CpuLevel::X86V3 => ElemType::ALL.to_vec(),
        _ => vec![ElemType::F32, ElemType::F16, ElemType::I1, ElemType::I8, ElemType::U64],
    }
}

#[test]
fn arithmetic_agrees_with_the_reference() {
    for level in levels() {
        for elem in types(level) {
            let (mut unary, mut binary): (Vec<Unary>, Vec<Binary>) = (vec![Unary::Neg], Binary::ALL.to_vec());
            if elem.kind() != Kind::Unsigned {
                unary.push(Unary::Abs);
            }
            if elem.is_float() {
                unary.extend([Unary::Floor, Unary::Ceil, Unary::Round]);
                binary.retain(|f| !matches!(f, Binary::And | Binary::Or | Binary::Xor));
                // Sums and powers of these values are too large for 16 bits, or differ by more than rounding.
                if elem.bytes() == 2 {
                    binary.retain(|f| !matches!(f, Binary::Pow | Binary::Rem));
                }
            } else {
                unary.push(Unary::Not);
            }
            if elem == ElemType::I1 {
                binary = vec![Binary::And, Binary::Or, Binary::Xor, Binary::Max, Binary::Min];
                unary = vec![Unary::Not];
            }
            for f in unary {
                agree_with_reference(level, &expression(elem, 1, |b, x| b.unary(f, x[0])), &[elem]);
            }
            for f in binary {
                agree_with_reference(level, &expression(elem, 2, |b, x| b.binary(f, x[0], x[1])), &[elem, elem]);
            }
            for f in Compare::ALL.iter().copied() {
                let e = expression(elem, 2, |b, x| {
                    let c = b.compare(f, x[0], x[1]);
                    b.select(c, x[0], x[1])
                });
                agree_with_reference(level, &e, &[elem, elem]);
            }
        }
    }
}

#[test]
fn conversions_agree_with_the_reference() {
    for level in levels() {
        for from in types(level) {
            for to in types(level).into_iter().filter(|to| *to != from) {
                agree_with_reference(level, &expression(from, 1, |b, x| b.convert(x[0], to)), &[from]);
            }
        }
    }
}
