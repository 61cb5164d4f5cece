//! Random numbers of `sample`: the same for a seed on every machine, in whatever order a circuit is walked.

use libm::{log, sqrt};

/// One step of SplitMix64.
fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Draw `n` for variable `var` of the row with this seed: from 0 up to, but without, 1, in steps of 2^-53.
pub fn uniform(seed: i64, var: u32, n: u32) -> f64 {
    let counter = (u64::from(var) << 32) | u64::from(n);
    (mix(mix(seed as u64) ^ counter) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// The inverse of the standard normal distribution function, to about 16 digits: Wichura's algorithm AS 241 (PPND16).
/// Minus and plus infinity at 0 and 1.
pub fn normal_quantile(u: f64) -> f64 {
    let rational = |r: f64, p: &[f64; 8], q: &[f64; 8]| {
        let horner = |c: &[f64; 8]| c.iter().rev().fold(0.0, |sum, c| sum * r + c);
        horner(p) / horner(q)
    };
    let q = u - 0.5;
    if q.abs() <= 0.425 {
        return q * rational(0.180625 - q * q, &CENTRE.0, &CENTRE.1);
    }
    let tail = if q < 0.0 { u } else { 1.0 - u };
    if tail <= 0.0 {
        return f64::INFINITY.copysign(q);
    }
    let r = sqrt(-log(tail));
    let x = if r <= 5.0 { rational(r - 1.6, &MIDDLE.0, &MIDDLE.1) } else { rational(r - 5.0, &FAR.0, &FAR.1) };
    x.copysign(q)
}

/// Of a quotient of polynomials, from the constant on.
pub type Coefficients = ([f64; 8], [f64; 8]);

/// The coefficients of [`normal_quantile`]: around 1/2, beyond, and in the far tails.
pub const fn normal_coefficients() -> [&'static Coefficients; 3] {
    [&CENTRE, &MIDDLE, &FAR]
}

const CENTRE: Coefficients = (
    [
        3.387_132_872_796_366_5,
        133.141_667_891_784_38,
        1_971.590_950_306_551_3,
        13_731.693_765_509_46,
        45_921.953_931_549_87,
        67_265.770_927_008_7,
        33_430.575_583_588_13,
        2_509.080_928_730_122_7,
    ],
    [
        1.0,
        42.313_330_701_600_91,
        687.187_007_492_057_9,
        5_394.196_021_424_751,
        21_213.794_301_586_597,
        39_307.895_800_092_71,
        28_729.085_735_721_943,
        5_226.495_278_852_854,
    ],
);
const MIDDLE: Coefficients = (
    [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        0.241_780_725_177_450_6,
        0.022_723_844_989_269_184,
        7.745_450_142_783_414e-4,
    ],
    [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        0.689_767_334_985_1,
        0.148_103_976_427_480_08,
        0.015_198_666_563_616_457,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ],
);
const FAR: Coefficients = (
    [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        0.296_560_571_828_504_87,
        0.026_532_189_526_576_124,
        0.001_242_660_947_388_078_4,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ],
    [
        1.0,
        0.599_832_206_555_888,
        0.136_929_880_922_735_8,
        0.014_875_361_290_850_615,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_8e-5,
        1.421_511_758_316_446e-7,
        2.044_263_103_389_939_8e-15,
    ],
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_numbers_are_what_splitmix_gives() {
        // The first output of SplitMix64 seeded with 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert!((0..1000).map(|n| uniform(7, 3, n)).all(|u| (0.0..1.0).contains(&u)));
        let mean = (0..10_000).map(|n| uniform(1, 0, n)).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }

    #[test]
    fn quantiles_invert_the_distribution_function() {
        for x in [-8.0, -5.5, -3.0, -1.0, -0.25, 0.0, 0.25, 1.0, 3.0, 5.5] {
            let u = 0.5 * libm::erfc(-x / core::f64::consts::SQRT_2);
            let tolerance = if x > 4.0 { 1e-7 } else { 1e-13 };
            assert!((normal_quantile(u) - x).abs() < tolerance * (1.0 + x * x), "{x}: {}", normal_quantile(u));
        }
        assert_eq!((normal_quantile(0.0), normal_quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
    }
}
