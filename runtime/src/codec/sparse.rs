//! Vectors with a number for each of some rows, most of them 0 in most places.
//!
//! Vectors stand in a [`Store`] one behind the other, each from a multiple of 64 on. A bit for each place says whether it
//! has a number other than 0 in some row; without it, what stands there counts for nothing.

/// Rows that are coded together.
pub(super) const LANES: usize = 8;
/// A number for each row.
pub(super) type Lanes = [f64; LANES];

pub(super) const ZERO: Lanes = [0.0; LANES];

/// Places of a word of bits.
const WORD: usize = 64;

/// Room for vectors.
pub(super) struct Store {
    values: Vec<Lanes>,
    bits: Vec<u64>,
}

/// The part of a store from some place on.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    values: &'a [Lanes],
    bits: &'a [u64],
}

pub(super) struct Mut<'a> {
    values: &'a mut [Lanes],
    bits: &'a mut [u64],
}

/// Where the vector behind one of `count` numbers may start.
pub(super) fn behind(at: usize, count: usize) -> usize {
    (at + count).next_multiple_of(WORD)
}

impl Store {
    /// Room for `len` numbers.
    pub(super) fn new(len: usize) -> Store {
        Store { values: vec![ZERO; len.next_multiple_of(WORD)], bits: vec![0; len.div_ceil(WORD)] }
    }

    pub(super) fn view(&self, at: usize) -> View<'_> {
        View { values: &self.values[at..], bits: &self.bits[at / WORD..] }
    }

    pub(super) fn view_mut(&mut self, at: usize) -> Mut<'_> {
        Mut { values: &mut self.values[at..], bits: &mut self.bits[at / WORD..] }
    }

    /// What is before `at`, from `from` on, to write, and what is behind it.
    pub(super) fn split_behind(&mut self, from: usize, at: usize) -> (Mut<'_>, View<'_>) {
        let (values, rest) = self.values.split_at_mut(at);
        let (bits, rest_bits) = self.bits.split_at_mut(at / WORD);
        let before = Mut { values: &mut values[from..], bits: &mut bits[from / WORD..] };
        (before, View { values: rest, bits: rest_bits })
    }

    /// What is before `at`, from `from` on, and what is behind it, to write.
    pub(super) fn split_before(&mut self, from: usize, at: usize) -> (View<'_>, Mut<'_>) {
        let (values, rest) = self.values.split_at_mut(at);
        let (bits, rest_bits) = self.bits.split_at_mut(at / WORD);
        (View { values: &values[from..], bits: &bits[from / WORD..] }, Mut { values: rest, bits: rest_bits })
    }
}

impl<'a> View<'a> {
    /// The numbers at a place; None if they are all 0.
    #[inline(always)]
    pub(super) fn get(self, at: usize) -> Option<&'a Lanes> {
        if self.bits[at / WORD] >> (at % WORD) & 1 == 1 { Some(&self.values[at]) } else { None }
    }

    /// The places from `from` to `to` that have numbers, in order.
    #[inline(always)]
    pub(super) fn places(self, from: usize, to: usize) -> Places<'a> {
        let mut places = Places { bits: self.bits, word: 0, at: from / WORD, to };
        places.word = places.load() & (u64::MAX << (from % WORD));
        places
    }

    /// The view from some place on.
    pub(super) fn from(self, at: usize) -> View<'a> {
        View { values: &self.values[at..], bits: &self.bits[at / WORD..] }
    }
}

/// See [`View::places`].
pub(super) struct Places<'a> {
    bits: &'a [u64],
    /// What is left of the word `at`.
    word: u64,
    at: usize,
    to: usize,
}

impl Places<'_> {
    #[inline(always)]
    fn load(&self) -> u64 {
        if self.at * WORD < self.to { self.bits[self.at] } else { 0 }
    }
}

impl Iterator for Places<'_> {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        while self.word == 0 {
            self.at += 1;
            if self.at * WORD >= self.to {
                return None;
            }
            self.word = self.load();
        }
        let place = self.at * WORD + self.word.trailing_zeros() as usize;
        self.word &= self.word - 1;
        Some(place).filter(|place| *place < self.to)
    }
}

impl<'a> Mut<'a> {
    /// The first `count` numbers, those that are 0 as such.
    pub(super) fn dense(self, count: usize) -> &'a [Lanes] {
        let values = &mut self.values[..count];
        for (at, value) in values.iter_mut().enumerate() {
            if self.bits[at / WORD] >> (at % WORD) & 1 == 0 {
                *value = ZERO;
            }
        }
        values
    }

    #[inline(always)]
    pub(super) fn view(&self) -> View<'_> {
        View { values: self.values, bits: self.bits }
    }

    /// Makes the first `count` numbers 0.
    pub(super) fn clear(&mut self, count: usize) {
        self.bits[..count.div_ceil(WORD)].fill(0);
    }

    /// Adds to the numbers at a place.
    #[inline(always)]
    pub(super) fn add(&mut self, at: usize, term: &Lanes) {
        if *term == ZERO {
            return;
        }
        let (word, bit) = (&mut self.bits[at / WORD], 1 << (at % WORD));
        let value = &mut self.values[at];
        if *word & bit == 0 {
            *word |= bit;
            *value = *term;
        } else {
            value.iter_mut().zip(term).for_each(|(v, t)| *v += t);
        }
    }

    /// Brings the largest of each lane of the first `count` numbers to 0.5 or more and less than 1, by a power of two.
    /// A lane of zeros stays.
    #[inline(always)]
    pub(super) fn rescale(&mut self, count: usize) {
        let mut largest = ZERO;
        for at in self.view().places(0, count) {
            let own = &self.values[at];
            largest.iter_mut().zip(own).for_each(|(m, v)| *m = if *v > *m { *v } else { *m });
        }
        let factors = largest.map(power);
        let places = Places { bits: self.bits, word: self.bits[0], at: 0, to: count };
        for at in places {
            self.values[at] = times(&self.values[at], &factors);
        }
    }
}

#[inline(always)]
pub(super) fn times(a: &Lanes, b: &Lanes) -> Lanes {
    std::array::from_fn(|l| a[l] * b[l])
}

/// The power of two that brings `x`, neither negative nor NaN, to 0.5 or more and less than 1; a subnormal one near it.
pub(super) fn power(x: f64) -> f64 {
    let exponent = x.to_bits() >> 52;
    f64::from_bits(2045u64.saturating_sub(exponent).max(1) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rescaling_is_exact_and_reaches_a_half() {
        for x in [1.0, 0.3, 0.5, 1e-300, 7e9, f64::MIN_POSITIVE, 1e300] {
            let scaled = x * power(x);
            assert!((0.5..1.0).contains(&scaled), "{x}: {scaled}");
            assert_eq!(scaled / power(x), x);
        }
        assert_eq!(0.0 * power(0.0), 0.0);
        let mut store = Store::new(3);
        let mut vector = store.view_mut(0);
        vector.add(1, &[0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1e-200]);
        vector.add(2, &[0.0, 12.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        vector.rescale(3);
        let dense = vector.dense(3);
        assert_eq!((dense[0], dense[1][..2].to_vec(), dense[2][1]), (ZERO, vec![0.0, 0.1875], 0.75));
        assert!((0.5..1.0).contains(&dense[1][7]));
    }

    #[test]
    fn places_are_those_with_numbers() {
        let mut store = Store::new(300);
        let mut vector = store.view_mut(64);
        let added = [0, 5, 63, 64, 130, 191];
        added.iter().rev().for_each(|at| vector.add(*at, &[1.0; LANES]));
        vector.add(7, &ZERO);
        assert_eq!(vector.view().places(0, 192).collect::<Vec<_>>(), added);
        assert_eq!(vector.view().places(5, 130).collect::<Vec<_>>(), [5, 63, 64]);
        assert_eq!(vector.view().places(192, 192).count(), 0);
        assert_eq!(vector.view().get(7), None);
        assert_eq!(store.view(128).places(0, 64).collect::<Vec<_>>(), [0]);
        store.view_mut(64).clear(64);
        assert_eq!(store.view(64).places(0, 192).collect::<Vec<_>>(), [64, 130, 191]);
    }
}
