//! From probabilities to intervals of integers, the same in the encoder and the decoder.
//!
//! Of `K` values each gets at least 1 of `2^bits`, and all together exactly `2^bits`. Up to [`NARROW`] values, value
//! `k` gets `1 + floor(p_k (2^bits - K))` and the rest goes to the most frequent, of equals to the first. Above, value
//! `k` starts at `k + floor(P(< k) (2^bits - K))`, which grows with `k` as computed too, since each operation behind
//! it is monotone; so the encoder needs two ends and the decoder a binary search.

use super::rans::Interval;
use super::sparse::{Lanes, ZERO};
use super::tables::Variable;

/// Variables of at most so many values are weighed value by value.
const NARROW: usize = 256;
const NARROW_BITS: u32 = 24;
const WIDE_BITS: u32 = 28;

/// Weights that add up to less count as none. Where something can occur they add up to a half or more, as the largest
/// of what they are made of is brought to that.
const LEAST: f64 = 1e-200;

/// A variable as the codec uses it.
pub(super) struct Alphabet {
    values: usize,
    /// `[distribution, value]`.
    rows: Vec<f64>,
    /// `[distribution, value + 1]`, the probability of all values before; only of wide variables.
    below: Vec<f64>,
}

/// Room for the integers of one variable's values.
pub(super) type Scratch = [u32; NARROW];

/// A value's interval and probability.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    pub(super) interval: Interval,
    pub(super) probability: f64,
}

impl Alphabet {
    pub(super) fn new(variable: &Variable) -> Alphabet {
        let values = variable.values as usize;
        let below = |row: &[f64]| {
            let mut total = 0.0;
            let ends = row.iter().map(|p| {
                total += p;
                total
            });
            std::iter::once(0.0).chain(ends.collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        let wide = values > NARROW;
        let below = if wide { variable.rows.chunks_exact(values).flat_map(below).collect() } else { vec![] };
        Alphabet { values, rows: variable.rows.clone(), below }
    }

    pub(super) fn values(&self) -> usize {
        self.values
    }

    /// The probability of a value in each of the distributions.
    fn column(&self, value: u32) -> impl Iterator<Item = f64> {
        self.rows.iter().skip(value as usize).step_by(self.values).copied()
    }

    /// Distributions.
    pub(super) fn count(&self) -> usize {
        self.rows.len() / self.values
    }

    /// The probability of a value in one of the distributions.
    pub(super) fn probability(&self, row: u32, value: u32) -> f64 {
        self.rows[row as usize * self.values + value as usize]
    }

    /// Bits that the intervals are of.
    pub(super) fn bits(&self) -> u32 {
        if self.below.is_empty() { NARROW_BITS } else { WIDE_BITS }
    }

    /// The weight of each value, up to a factor, where `outer` holds those of the distributions. Wide variables have
    /// none: they are looked at where it matters.
    pub(super) fn weigh(&self, outer: &[Lanes], weights: &mut Vec<Lanes>) {
        weights.clear();
        if !self.below.is_empty() {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { self.weigh_avx2(outer, weights) };
        }
        self.weigh_any(outer, weights);
    }

    /// The same with wider vectors, and so the same numbers.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn weigh_avx2(&self, outer: &[Lanes], weights: &mut Vec<Lanes>) {
        self.weigh_any(outer, weights);
    }

    #[inline(always)]
    fn weigh_any(&self, outer: &[Lanes], weights: &mut Vec<Lanes>) {
        for value in 0..self.values {
            let mut weight = ZERO;
            for (outer, row) in outer.iter().zip(self.rows.chunks_exact(self.values)) {
                let p = row[value];
                weight.iter_mut().zip(outer).for_each(|(w, o)| *w += o * p);
            }
            weights.push(weight);
        }
    }

    /// The interval of a value in one lane. None if it cannot occur.
    pub(super) fn interval(
        &self,
        outer: &[Lanes],
        weights: &[Lanes],
        lane: usize,
        value: u32,
        scratch: &mut Scratch,
    ) -> Option<Symbol> {
        let k = value as usize;
        if self.below.is_empty() {
            let frequencies = &mut scratch[..self.values];
            let total = round(weights.iter().map(|w| w[lane]), frequencies)?;
            let weight = weights[k][lane];
            if weight == 0.0 {
                return None;
            }
            let start = frequencies[..k].iter().sum();
            let interval = Interval { start, frequency: frequencies[k], bits: NARROW_BITS };
            return Some(Symbol { interval, probability: weight / total });
        }
        let total = self.total(outer, lane)?;
        let weight: f64 = outer.iter().zip(self.column(value)).map(|(o, p)| o[lane] * p).sum();
        if weight == 0.0 {
            return None;
        }
        let (start, end) = (self.start(outer, lane, total, k), self.start(outer, lane, total, k + 1));
        let interval = Interval { start, frequency: end - start, bits: WIDE_BITS };
        Some(Symbol { interval, probability: weight / total })
    }

    /// The value whose interval holds a point. None if nothing that was decoded before can occur.
    pub(super) fn find(
        &self,
        outer: &[Lanes],
        weights: &[Lanes],
        lane: usize,
        point: u32,
        scratch: &mut Scratch,
    ) -> Option<(u32, Interval)> {
        if self.below.is_empty() {
            let frequencies = &mut scratch[..self.values];
            round(weights.iter().map(|w| w[lane]), frequencies)?;
            let mut start = 0;
            let at = frequencies.iter().position(|f| {
                start += f;
                start > point
            })?;
            let frequency = frequencies[at];
            return Some((at as u32, Interval { start: start - frequency, frequency, bits: NARROW_BITS }));
        }
        let total = self.total(outer, lane)?;
        // `low` starts at or before the point, `high` behind it.
        let (mut low, mut high) = (0, self.values);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.start(outer, lane, total, middle) <= point { low = middle } else { high = middle }
        }
        let (start, end) = (self.start(outer, lane, total, low), self.start(outer, lane, total, high));
        Some((low as u32, Interval { start, frequency: end - start, bits: WIDE_BITS }))
    }

    /// The weight of all values before `k`, of a wide variable.
    fn before(&self, outer: &[Lanes], lane: usize, k: usize) -> f64 {
        let below = self.below.iter().skip(k).step_by(self.values + 1);
        outer.iter().zip(below).map(|(o, p)| o[lane] * p).sum()
    }

    fn total(&self, outer: &[Lanes], lane: usize) -> Option<f64> {
        Some(self.before(outer, lane, self.values)).filter(|t| (LEAST..f64::INFINITY).contains(t))
    }

    fn start(&self, outer: &[Lanes], lane: usize, total: f64, k: usize) -> u32 {
        let share = self.before(outer, lane, k) / total;
        k as u32 + (share * f64::from((1u32 << WIDE_BITS) - self.values as u32)) as u32
    }
}

/// Integers for weights; the weights' sum, or None if they are no weights.
fn round(weights: impl Iterator<Item = f64> + Clone, frequencies: &mut [u32]) -> Option<f64> {
    let total: f64 = weights.clone().sum();
    if !(LEAST..f64::INFINITY).contains(&total) {
        return None;
    }
    let size = 1u32 << NARROW_BITS;
    let scale = f64::from(size - frequencies.len() as u32) / total;
    let (mut left, mut largest) = (size, 0);
    for (k, weight) in weights.enumerate() {
        frequencies[k] = 1 + (weight * scale) as u32;
        left = left.wrapping_sub(frequencies[k]);
        if frequencies[k] > frequencies[largest] {
            largest = k;
        }
    }
    frequencies[largest] = frequencies[largest].wrapping_add(left);
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::super::sparse::LANES;
    use super::*;
    use proptest::prelude::*;

    fn weight() -> impl Strategy<Value = f64> {
        prop_oneof![Just(0.0), Just(f64::MIN_POSITIVE), 1e-300..1e-290, 0.0..1.0, Just(1.0), 0.999..1.0]
    }

    fn wide(rows: &[Vec<f64>]) -> Alphabet {
        Alphabet::new(&Variable { values: rows[0].len() as u32, rows: rows.concat() })
    }

    proptest! {
        #[test]
        fn rounded_frequencies_fill_the_range(weights in prop::collection::vec(weight(), 1..=NARROW)) {
            let mut frequencies = vec![0; weights.len()];
            let total: f64 = weights.iter().sum();
            match round(weights.iter().copied(), &mut frequencies) {
                None => prop_assert!(total < LEAST),
                Some(found) => {
                    prop_assert_eq!(found, total);
                    prop_assert!(frequencies.iter().all(|f| (1..=1 << NARROW_BITS).contains(f)));
                    prop_assert_eq!(frequencies.iter().map(|f| u64::from(*f)).sum::<u64>(), 1 << NARROW_BITS);
                }
            }
        }

        #[test]
        fn wide_intervals_follow_each_other(
            rows in prop::collection::vec(prop::collection::vec(weight(), 300), 1..4),
            outer in prop::collection::vec(weight(), 3),
            point in 0u32..1 << WIDE_BITS,
        ) {
            let alphabet = wide(&rows);
            let outer: Vec<Lanes> = outer[..rows.len()].iter().map(|o| [*o; LANES]).collect();
            let Some(total) = alphabet.total(&outer, 0) else { return Ok(()) };
            let starts: Vec<u32> = (0..=300).map(|k| alphabet.start(&outer, 0, total, k)).collect();
            prop_assert_eq!((starts[0], starts[300]), (0, 1 << WIDE_BITS));
            prop_assert!(starts.windows(2).all(|w| w[0] < w[1]));
            let (value, interval) = alphabet.find(&outer, &[], 3, point, &mut [0; NARROW]).unwrap();
            prop_assert!(interval.start <= point && point - interval.start < interval.frequency);
            prop_assert_eq!(interval.start, starts[value as usize]);
            if let Some(symbol) = alphabet.interval(&outer, &[], 5, value, &mut [0; NARROW]) {
                prop_assert_eq!(symbol.interval, interval);
            }
        }
    }

    #[test]
    fn the_rest_goes_to_the_first_of_the_most_frequent() {
        let mut frequencies = [0; 3];
        round([1.0, 1.0, 1.0].into_iter(), &mut frequencies);
        // floor((2^24 - 3) / 3) + 1, and what is missing to 2^24.
        assert_eq!(frequencies, [5_592_406, 5_592_405, 5_592_405]);
        round([0.0, 0.5, 0.0].into_iter(), &mut frequencies);
        assert_eq!(frequencies, [1, (1 << 24) - 2, 1]);
        for bad in [[0.0; 3], [f64::NAN, 1.0, 1.0], [f64::INFINITY, 0.0, 0.0]] {
            assert_eq!(round(bad.into_iter(), &mut frequencies), None);
        }
    }

    #[test]
    fn what_cannot_occur_has_no_interval() {
        let has = |alphabet: &Alphabet, outer: f64, value: u32| {
            let (outer, mut weights) = ([[outer; LANES]], vec![]);
            alphabet.weigh(&outer, &mut weights);
            alphabet.interval(&outer, &weights, 0, value, &mut [0; NARROW]).is_some()
        };
        let narrow = Alphabet::new(&Variable { values: 2, rows: vec![1.0, 0.0] });
        assert_eq!([(1.0, 0), (1.0, 1), (0.0, 0)].map(|(o, v)| has(&narrow, o, v)), [true, false, false]);
        let mut row = vec![1.0 / 299.0; 300];
        row[7] = 0.0;
        let wide = wide(&[row]);
        assert_eq!([(1.0, 8), (1.0, 7), (0.0, 8)].map(|(o, v)| has(&wide, o, v)), [true, false, false]);
    }
}
