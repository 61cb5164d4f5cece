//! exp, log, tanh, erf, sin, cos, pow and the float remainder as polynomials: no call, any number of lanes.
//!
//! Worst errors over all finite arguments in units in the last place of the exact value, with FMA / without:
//!
//! | function | f32       | f64       | method |
//! |----------|-----------|-----------|--------|
//! | exp      | 1.0 / 1.5 | 1.0 / 1.5 | `2^n * p(r)`, reduction by `n ln 2` in two parts |
//! | log      | 1.0 / 1.0 | 1.0 / 1.0 | `e ln 2 + log(m)`, `m` around 1 |
//! | tanh     | 2.5 / 2.5 | 3.0 / 3.5 | `expm1(2x) / (expm1(2x) + 2)` |
//! | erf      | 2.6 / 2.6 | 2.0 / 2.5 | `1 - 2^g(x)`, in f64 by a polynomial near zero |
//! | sin, cos | 0.6 / 0.6 | 1.0 / 1.0 | three-part reduction by `pi / 2`, in f64 |
//! | pow      | 0.6 / 0.6 | see below | `exp(y log x)` in f64 |
//!
//! Infinities, NaN, zeros and denormals give what IEEE 754 and C's annex F ask for, except that sin, tanh and erf may
//! lose the sign of a zero. sin and cos hold their error while `|x| < 2^20` (f64) or `2^30` (f32, with FMA), then the
//! absolute error grows as `|x| 2^-52`, and beyond `2^50` only the range `[-1, 1]` is kept. pow of f64 has a relative
//! error of about `|y log x| 2^-53`. The remainder is exact (f64: where the target has FMA).

use crate::build::{Cmp, Elem, V};

/// `c[0] + x c[1] + x^2 c[2] + ...` by Horner's rule.
fn polynomial<'k>(x: V<'k>, c: &[f64]) -> V<'k> {
    let mut sum = x.like(c[c.len() - 1]);
    for c in c.iter().rev().skip(1) {
        sum = sum.fma(x, x.like(*c));
    }
    sum
}

/// What differs between f32 and f64 in reductions by powers of two.
struct Format {
    mantissa_bits: i64,
    bias: i64,
    /// `1.5 * 2^mantissa_bits`: adding it rounds to an integer and leaves that integer in the low bits.
    magic: f64,
    /// `ln 2` in two parts; the high one times any exponent is exact.
    ln2: [f64; 2],
}

const F32: Format =
    Format { mantissa_bits: 23, bias: 127, magic: 12582912.0, ln2: [0.693359375, -2.121_944_400_546_905_8e-4] };
const F64: Format = Format {
    mantissa_bits: 52,
    bias: 1023,
    magic: 6755399441055744.0,
    ln2: [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10],
};

fn format(x: V<'_>) -> &'static Format {
    if x.ty.elem == Elem::F64 { &F64 } else { &F32 }
}

/// `x` rounded to an integer, as a float and in integer lanes. `|x|` is below `2^(mantissa_bits - 2)`.
fn round_small<'k>(x: V<'k>) -> (V<'k>, V<'k>) {
    let magic = x.like(format(x).magic);
    let shifted = x + magic;
    (shifted - magic, shifted.bitcast(x.ty.elem.int()) - magic.bitcast(x.ty.elem.int()))
}

/// `2^n` for integer lanes within the range of normal exponents.
fn power_of_two<'k>(n: V<'k>, elem: Elem) -> V<'k> {
    let f = if elem == Elem::F64 { &F64 } else { &F32 };
    (n + f.bias as f64).shl(f.mantissa_bits).bitcast(elem)
}

/// `x` in `n ln 2 + r`: `n` in integer lanes, and `r`.
fn reduce_by_ln2<'k>(x: V<'k>) -> (V<'k>, V<'k>) {
    let [high, low] = format(x).ln2;
    let (n, bits) = round_small(x * std::f64::consts::LOG2_E);
    (bits, n.fma(x.like(-low), n.fma(x.like(-high), x)))
}

/// `(exp(r) - 1 - r) / r^2` for `|r| <= ln 2 / 2`.
fn exp_tail<'k>(r: V<'k>) -> V<'k> {
    const C32: [f64; 5] =
        [0.4999999325368326, 0.16666517762373148, 0.041668421820242746, 0.008369063461843743, 0.0013813880507201818];
    const C64: [f64; 11] = [
        0.5,
        0.1666666666666667,
        0.04166666666666667,
        0.008333333333326084,
        0.0013888888888883711,
        0.0001984126987500228,
        2.480158732567746e-05,
        2.755725517000089e-06,
        2.755727347871858e-07,
        2.5105312729622103e-08,
        2.09147553258932e-09,
    ];
    polynomial(r, if r.ty.elem == Elem::F64 { &C64 } else { &C32 })
}

pub fn exp<'k>(x: V<'k>) -> V<'k> {
    // Beyond these bounds the result is zero or infinite; `min_or` and `max_or` keep a NaN that stands second.
    let (low, high) = if x.ty.elem == Elem::F64 { (-750.0, 710.0) } else { (-104.0, 89.0) };
    let x = x.like(low).max_or(x.like(high).min_or(x));
    let (n, r) = reduce_by_ln2(x);
    let p = exp_tail(r).fma(r, r.like(1.0)).fma(r, r.like(1.0));
    // In two steps, so that infinite and denormal results come out of the multiplications.
    let half = n.shr_signed(1);
    p * power_of_two(half, x.ty.elem) * power_of_two(n - half, x.ty.elem)
}

/// `exp(x)` for `x <= 0`, in f32 within 1e-7 of the result plus `6e-8 |x|` of it; exactly 0 below -88 and NaN for NaN.
/// [`exp`] also serves denormal results and overflow at almost twice the cost.
pub fn exp_nonpositive<'k>(x: V<'k>) -> V<'k> {
    if x.ty.elem == Elem::F64 {
        return exp(x);
    }
    /// `2^r` for `|r| <= 1/2`.
    const EXP2: [f64; 6] =
        [1.0, 0.6931469775872199, 0.24022242085843432, 0.05550733773788594, 0.00967151263844407, 0.001326471434943281];
    let y = x * std::f64::consts::LOG2_E;
    // At -127 the power of two below has exponent bits 0, which is zero.
    let y = y.like(-127.0).max_or(y);
    let (n, bits) = round_small(y);
    polynomial(y - n, &EXP2) * power_of_two(bits, Elem::F32)
}

pub fn log<'k>(x: V<'k>) -> V<'k> {
    let f = format(x);
    let (elem, int) = (x.ty.elem, x.ty.elem.int());
    let wide = elem == Elem::F64;
    let (smallest, lift) = if wide { (f64::MIN_POSITIVE, 52) } else { (f32::MIN_POSITIVE as f64, 23) };
    let denormal = x.cmp(Cmp::Lt, x.like(smallest));
    let lifted = denormal.select(x * (1i64 << lift) as f64, x);
    let lift = denormal.select(x.like(-lift as f64), x.like(0.0));

    // The mantissa's smallest value: what is above its bits by whole exponents becomes the exponent.
    let origin = lifted.like(if wide { std::f64::consts::FRAC_1_SQRT_2 } else { 2.0 / 3.0 }).bitcast(int);
    let above = lifted.bitcast(int) - origin;
    let exponent = above.shr_signed(f.mantissa_bits);
    let mantissa = (above - exponent.shl(f.mantissa_bits) + origin).bitcast(elem);
    let e = exponent.int_to_float(elem, true) + lift;
    let m = mantissa - 1.0;

    let value = if wide { log1p_f64(m, e) } else { log1p_f32(m, e) };
    let finite = x.cmp(Cmp::Lt, x.like(f64::INFINITY)).select(value, x);
    let pole = x.cmp(Cmp::Eq, x.like(0.0)).select(x.like(f64::NEG_INFINITY), x.like(f64::NAN));
    x.cmp(Cmp::Gt, x.like(0.0)).select(finite, pole)
}

/// `log(1 + m) + e ln 2` for `m` in -1/3 .. 1/3.
fn log1p_f32<'k>(m: V<'k>, e: V<'k>) -> V<'k> {
    const C: [f64; 9] = [
        0.33333335783615925,
        -0.24999817943004732,
        0.19999592515196102,
        -0.1667970555477723,
        0.14304642537599754,
        -0.12193727433768276,
        0.10751809582457195,
        -0.12855171962258705,
        0.12017652253062205,
    ];
    let [high, low] = F32.ln2;
    let square = m * m;
    let tail = (polynomial(m, &C) * m).fma(square, e * low);
    let small = square.fma(m.like(-0.5), tail);
    e.fma(m.like(high), m + small)
}

/// The same for `m` in -0.3 .. 0.42 by the series of `log((1 + s) / (1 - s))`, as in FreeBSD's msun.
fn log1p_f64<'k>(m: V<'k>, e: V<'k>) -> V<'k> {
    const C: [f64; 7] = [
        0.6666666666666735,
        0.3999999999940942,
        0.2857142874366239,
        0.22222198432149784,
        0.1818357216161805,
        0.15313837699209373,
        0.14798198605116586,
    ];
    let [high, low] = F64.ln2;
    let s = m / (m + 2.0);
    let z = s * s;
    let r = polynomial(z, &C) * z;
    let half = m * m * 0.5;
    let small = half - s.fma(half + r, e * low);
    e.fma(m.like(high), m - small)
}

pub fn tanh<'k>(x: V<'k>) -> V<'k> {
    let [numerator, denominator] = tanh_fraction(x);
    numerator / denominator
}

/// tanh as numerator and denominator, the latter between 1/2 and `2^56`.
pub(crate) fn tanh_fraction<'k>(x: V<'k>) -> [V<'k>; 2] {
    if x.ty.elem != Elem::F64 {
        return tanh_fraction_f32(x);
    }
    let t = x.like(19.1).min_or(x.abs());
    let (n, r) = reduce_by_ln2(t + t);
    let scale = power_of_two(n, x.ty.elem);
    let expm1 = exp_tail(r).fma(r * r, r).fma(scale, scale - 1.0);
    [copysign(expm1, x), expm1 + 2.0]
}

/// `expm1(2x) / 2`, and that plus 1. Near 0 nothing is reduced, and far from it tanh is flat, so that one part of `ln 2`
/// is exact enough.
fn tanh_fraction_f32<'k>(x: V<'k>) -> [V<'k>; 2] {
    /// `(expm1(2u) / 2 - u) / u^2` for `|u| <= ln 2 / 4`.
    const TAIL: [f64; 5] = [1.0, 0.6666619181632996, 0.3333348333835602, 0.1338575929403305, 0.044474367052316666];
    let t = clamp(x, 9.02);
    let (n, scale) = power_of_two_near(t, 2.0 * std::f64::consts::LOG2_E);
    let u = n.fma(t.like(-0.5 * std::f64::consts::LN_2), t);
    let half = polynomial(u, &TAIL).fma(u * u, u);
    let expm1 = half.fma(scale, scale.fma(scale.like(0.5), scale.like(-0.5)));
    [expm1, expm1 + 1.0]
}

/// `1 + exp(-x)`, which a sigmoid divides by. It stays finite: from `x = -88` (f64: -709) down it grows no further, which
/// is an absolute error of the sigmoid below the smallest normal number.
pub(crate) fn sigmoid_denominator<'k>(x: V<'k>) -> V<'k> {
    if x.ty.elem == Elem::F64 {
        let (n, r) = reduce_by_ln2(clamp(-x, 709.0));
        let p = exp_tail(r).fma(r, r.like(1.0)).fma(r, r.like(1.0));
        return p.fma(power_of_two(n, x.ty.elem), x.like(1.0));
    }
    /// `(exp(-s) - 1 + s) / s^2` for `|s| <= ln 2 / 2`.
    const TAIL: [f64; 5] =
        [0.4999999325368326, -0.16666517762373148, 0.041668421820242746, -0.008369063461843743, 0.0013813880507201818];
    let x = clamp(x, 88.0);
    let (n, scale) = power_of_two_near(x, -std::f64::consts::LOG2_E);
    let [high, low] = F32.ln2;
    let s = n.fma(x.like(low), n.fma(x.like(high), x));
    polynomial(s, &TAIL).fma(s, s.like(-1.0)).fma(s, s.like(1.0)).fma(scale, x.like(1.0))
}

/// Within `-bound ..= bound`, NaN for NaN.
fn clamp<'k>(x: V<'k>, bound: f64) -> V<'k> {
    x.like(-bound).max_or(x.like(bound).min_or(x))
}

/// An integer `n` near `x by` as a float, and `2^n`, for f32 and `|n| <= 127`; `2^-127` is 0.
fn power_of_two_near<'k>(x: V<'k>, by: f64) -> (V<'k>, V<'k>) {
    // With the bias added too, the low bits of the sum are those of the exponent.
    let magic = x.like(F32.magic + F32.bias as f64);
    let sum = x.fma(x.like(by), magic);
    (sum - magic, sum.bitcast(Elem::I32).shl(F32.mantissa_bits).bitcast(Elem::F32))
}

/// The magnitude of `x` with the sign of `sign`.
fn copysign<'k>(x: V<'k>, sign: V<'k>) -> V<'k> {
    x.builder().op1("llvm.intr.copysign", &[x, sign], x.ty, &[])
}

pub fn erf<'k>(x: V<'k>) -> V<'k> {
    if x.ty.elem == Elem::F64 { erf_f64(x) } else { erf_f32(x) }
}

/// `1 - erfc(t)` with `erfc(t) = 2^g = s (1 + p)`, `s` a power of two: `(1 - s) - s p` keeps the digits near zero, where
/// `s` is 1.
fn erf_f32<'k>(x: V<'k>) -> V<'k> {
    /// `log2(erfc(t)) / t` for `t` up to 3.93; beyond, erf rounds to 1.
    const LOG2_ERFC: [f64; 9] = [
        -1.6279070377349854,
        -0.9184476137161255,
        -0.14827705919742584,
        0.027632029727101326,
        0.00023140260600484908,
        -0.00240501225925982,
        0.0009129905956797302,
        -0.00016972047160379589,
        1.3353967005969025e-05,
    ];
    /// `(2^r - 1) / r` for `|r| <= 1/2`.
    const EXP2M1: [f64; 6] = [
        0.6931471824645996,
        0.24022650718688965,
        0.055503569543361664,
        0.009618030861020088,
        0.0013390866806730628,
        0.0001546973508084193,
    ];
    let t = x.like(3.93).min_or(x.abs());
    let g = polynomial(t, &LOG2_ERFC) * t;
    let (n, bits) = round_small(g);
    let r = g - n;
    let p = polynomial(r, &EXP2M1) * r;
    let s = power_of_two(bits, Elem::F32);
    copysign((-s).fma(p, s.like(1.0) - s), x)
}

/// `1 + erf(x)` of f32, as GELU asks for it: no digits are lost to the sum, so fewer are needed on the way. The absolute
/// error is at most `4 * 2^-24`.
pub fn one_plus_erf<'k>(x: V<'k>) -> V<'k> {
    /// `log2(erfc(t))` for `t` up to 3.93, falling on beyond.
    const LOG2_ERFC: [f64; 9] = [
        2.171762503166974e-08,
        -1.6279093027114868,
        -0.9184098243713379,
        -0.14850664138793945,
        0.028301887214183807,
        -0.0008251661784015596,
        -0.0014603807358071208,
        0.0004369438684079796,
        -4.4352786062518135e-05,
    ];
    /// `(2^r - 1) / r` for `|r| <= 1/2`.
    const EXP2M1: [f64; 5] =
        [0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957, 0.001326472731307149];
    let g = polynomial(x.abs(), &LOG2_ERFC);
    let g = x.like(-126.0).max_or(g);
    let (n, bits) = round_small(g);
    let r = g - n;
    let p = polynomial(r, &EXP2M1).fma(r, r.like(1.0));
    let erfc = p * power_of_two(bits, Elem::F32);
    let negative = x.bitcast(Elem::I32).cmp(Cmp::Lt, bits.like(0.0));
    negative.select(erfc, x.like(2.0) - erfc)
}

fn erf_f64<'k>(x: V<'k>) -> V<'k> {
    /// `erf(x) / x - 1` in `x^2` for `|x| < 1`.
    const NEAR: [f64; 12] = [
        0.12837916709551256,
        -0.37612638903183493,
        0.11283791670942893,
        -0.02686617064288703,
        0.005223977604146107,
        -0.0008548325829266541,
        0.00012055290440205172,
        -1.4924649593588323e-05,
        1.6446331035556384e-06,
        -1.6200000201719117e-07,
        1.3682965011640313e-08,
        -7.725991385536205e-10,
    ];
    /// `-log2(erfc(t) exp(t^2))` in `(t - 3.5) / 2.5` for `t` in 1 ..= 6; beyond, erf rounds to 1.
    const FAR: [f64; 25] = [
        2.686929204045294,
        0.9597513912926378,
        -0.2997825190505713,
        0.11779736253402505,
        -0.04923688941813153,
        0.020752516539514952,
        -0.008589379924090581,
        0.003424954132774098,
        -0.0012891584886288849,
        0.00044408952416434647,
        -0.00013114244429666318,
        2.6654209060019848e-05,
        2.132409614127192e-06,
        -6.5908045939350715e-06,
        4.934629703324439e-06,
        -2.7594398992320864e-06,
        1.3223032350980786e-06,
        -5.653811193983504e-07,
        1.875457568655455e-07,
        -2.7193113696007794e-08,
        3.113356490734117e-09,
        -6.796306266864861e-09,
        -6.523024736147832e-09,
        1.0446302282678218e-08,
        -3.2421344486924417e-09,
    ];
    let t = x.like(6.0).min_or(x.abs());
    let near = polynomial(x * x, &NEAR).fma(x, x);
    let g = (t * t).fma(t.like(std::f64::consts::LOG2_E), polynomial((t - 3.5) * 0.4, &FAR));
    let (n, bits) = round_small(-g);
    let r = (-g - n) * std::f64::consts::LN_2;
    let p = exp_tail(r).fma(r * r, r) + 1.0;
    let far = copysign(x.like(1.0) - p * power_of_two(bits, Elem::F64), x);
    t.cmp(Cmp::Ge, t.like(1.0)).select(far, near)
}

pub fn sin<'k>(x: V<'k>) -> V<'k> {
    sine(x.float_to(Elem::F64), x.ty.elem, 0.0).float_to(x.ty.elem)
}

pub fn cos<'k>(x: V<'k>) -> V<'k> {
    sine(x.float_to(Elem::F64), x.ty.elem, 1.0).float_to(x.ty.elem)
}

/// `sin(x + quarters pi / 2)`, as exact as results of type `elem` need.
fn sine<'k>(x: V<'k>, elem: Elem, quarters: f64) -> V<'k> {
    /// `pi / 2` in three parts: 33, 33 and 53 bits.
    const HALF_PI: [f64; 3] = [1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21];
    /// `(sin(x) / x - 1) / x^2` and `(cos(x) - 1 + x^2 / 2) / x^4` in `x^2` for `|x| <= pi / 4`.
    const SIN: [f64; 7] = [
        -0.16666666666666666,
        0.008333333333333331,
        -0.00019841269841265017,
        2.755731921930192e-06,
        -2.5052106219521895e-08,
        1.6058529572267877e-10,
        -7.586576588171073e-13,
    ];
    const COS: [f64; 7] = [
        0.041666666666666664,
        -0.0013888888888888887,
        2.4801587301584618e-05,
        -2.7557319221382114e-07,
        2.087675578389404e-09,
        -1.1470459749675607e-11,
        4.745804889760674e-14,
    ];
    let terms = if elem == Elem::F64 { 7 } else { 5 };
    let (n, bits) = round_small(x * std::f64::consts::FRAC_2_PI);
    let bits = bits + quarters;
    let minus = -n;
    let r = HALF_PI.iter().fold(x, |r, part| minus.fma(x.like(*part), r));
    // Binds only where the reduction has no digits left.
    let r = x.like(-0.8).max_or(x.like(0.8).min_or(r));
    let u = r * r;
    let sin = polynomial(u, &SIN[..terms]).fma(u * r, r);
    let cos = polynomial(u, &COS[..terms]).fma(u * u, u.fma(x.like(-0.5), x.like(1.0)));
    let odd = (bits & bits.like(1.0)).cmp(Cmp::Ne, bits.like(0.0));
    let negative = (bits & bits.like(2.0)).shl(62);
    (odd.select(cos, sin).bitcast(Elem::I64) ^ negative).bitcast(Elem::F64)
}

pub fn pow<'k>(x: V<'k>, y: V<'k>) -> V<'k> {
    let elem = x.ty.elem;
    let (x, y) = (x.float_to(Elem::F64), y.float_to(Elem::F64));
    let (zero, one) = (x.like(0.0), x.like(1.0));
    let whole = y.intrinsic("floor").cmp(Cmp::Eq, y);
    let half = y * 0.5;
    let odd = whole & half.intrinsic("floor").cmp(Cmp::Ne, half);
    let log = log(x.abs());
    // 1^inf is 1.
    let magnitude = exp(log.cmp(Cmp::Eq, zero).select(log, y * log));
    let signed = odd.select(copysign(magnitude, x), magnitude);
    let finite_negative = x.cmp(Cmp::Lt, zero) & x.cmp(Cmp::Gt, x.like(f64::NEG_INFINITY));
    let domain = whole.select(signed, finite_negative.select(x.like(f64::NAN), signed));
    let unit = y.cmp(Cmp::Eq, zero) | x.cmp(Cmp::Eq, one);
    unit.select(one, domain).float_to(elem)
}

/// The remainder with the sign of `a`, exact for any quotient: each turn takes off a multiple of `b` that has few
/// enough bits for an exact product.
pub fn rem<'k>(a: V<'k>, b: V<'k>) -> V<'k> {
    let (k, elem) = (a.builder(), a.ty.elem);
    let (a, b) = (a.float_to(Elem::F64), b.float_to(Elem::F64));
    let size = b.abs();
    let r = k.while_(
        &[a],
        |r| r[0].abs().cmp(Cmp::Ge, size).any(),
        |r| {
            let r = r[0];
            let bits = (r / b).intrinsic("trunc").bitcast(Elem::I64);
            let q = (bits & k.int(bits.ty, !0xff_ffff)).bitcast(Elem::F64);
            let less = (-q).fma(b, r);
            vec![r.abs().cmp(Cmp::Lt, size).select(r, less)]
        },
    )[0];
    let crossed = (r * a).cmp(Cmp::Lt, a.like(0.0));
    let remainder = copysign(crossed.select(r + copysign(size, a), r), a);
    b.is_nan().select(b, remainder).float_to(elem)
}
