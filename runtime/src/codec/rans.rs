//! Range asymmetric numeral systems: a state of 64 bits that gives and takes words of 32.
//!
//! Between symbols the state stays in `LOW..2^63`. The encoder takes the symbols last to first, so that the decoder
//! gives them first to last. A message is the encoder's last state in 5 to 8 bytes, as few as hold it and leave a
//! multiple of four, and then its words, all little-endian. It has at most 40 bits more than the symbols' content.

/// The smallest state, in which the encoder starts and the decoder must end.
const LOW: u64 = 1 << 31;
const STATE_BYTES: std::ops::RangeInclusive<usize> = 5..=8;

/// The part of `0..2^bits` that stands for a symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Interval {
    pub(super) start: u32,
    /// From 1 to `2^bits`.
    pub(super) frequency: u32,
    /// At most 28.
    pub(super) bits: u32,
}

/// The message for the intervals, in their order.
pub(super) fn encode(intervals: impl DoubleEndedIterator<Item = Interval>) -> Vec<u8> {
    let (mut state, mut words) = (LOW, vec![]);
    for Interval { start, frequency, bits } in intervals.rev() {
        let (start, frequency) = (u64::from(start), u64::from(frequency));
        if state >= frequency << (63 - bits) {
            words.push(state as u32);
            state >>= 32;
        }
        state = ((state / frequency) << bits) + state % frequency + start;
    }
    let used = 8 - state.leading_zeros() as usize / 8;
    let mut message = state.to_le_bytes()[..used.max(*STATE_BYTES.start())].to_vec();
    words.iter().rev().for_each(|word| message.extend(word.to_le_bytes()));
    message
}

/// Gives the symbols of a message back.
pub(super) struct Decoder<'a> {
    state: u64,
    words: std::slice::Iter<'a, [u8; 4]>,
}

impl<'a> Decoder<'a> {
    /// None if no encoder writes such a message.
    pub(super) fn new(message: &'a [u8]) -> Option<Decoder<'a>> {
        let used = STATE_BYTES.into_iter().find(|n| message.len() % 4 == n % 4)?;
        let (first, rest) = message.split_at_checked(used)?;
        let mut state = [0; 8];
        state[..used].copy_from_slice(first);
        let state = u64::from_le_bytes(state);
        let (words, []) = rest.as_chunks() else { return None };
        (LOW..1 << 63).contains(&state).then(|| Decoder { state, words: words.iter() })
    }

    /// A point of the next symbol's interval.
    pub(super) fn point(&self, bits: u32) -> u32 {
        (self.state & ((1 << bits) - 1)) as u32
    }

    /// Goes on to the next symbol; false if the message ends before. The interval must hold the point.
    pub(super) fn advance(&mut self, Interval { start, frequency, bits }: Interval) -> bool {
        let point = self.state & ((1 << bits) - 1);
        self.state = u64::from(frequency) * (self.state >> bits) + point - u64::from(start);
        if self.state < LOW {
            let Some(word) = self.words.next() else { return false };
            self.state = self.state << 32 | u64::from(u32::from_le_bytes(*word));
        }
        true
    }

    /// Whether this is the end of a message: nothing is left, and the state is the one that encoders start in.
    pub(super) fn is_done(&self) -> bool {
        self.state == LOW && self.words.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn interval() -> impl Strategy<Value = Interval> {
        (prop_oneof![Just(24u32), Just(28u32)], any::<u32>(), any::<u32>(), any::<bool>()).prop_map(
            |(bits, a, b, wide)| {
                let size = 1u32 << bits;
                let start = a % size;
                let room = size - start;
                let frequency = 1 + if wide { b % room } else { b % room.min(9) };
                Interval { start, frequency, bits }
            },
        )
    }

    fn content(intervals: &[Interval]) -> f64 {
        intervals.iter().map(|i| f64::from(i.bits) - f64::from(i.frequency).log2()).sum()
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back_and_has_its_size(intervals in prop::collection::vec(interval(), 0..400)) {
            let message = encode(intervals.iter().copied());
            let mut decoder = Decoder::new(&message).unwrap();
            for expected in &intervals {
                let point = decoder.point(expected.bits);
                prop_assert!((expected.start..expected.start + expected.frequency).contains(&point));
                prop_assert!(decoder.advance(*expected));
            }
            prop_assert!(decoder.is_done());
            let bits = 8.0 * message.len() as f64;
            // What the state's granularity costs at most, symbol by symbol.
            let slack = 0.2 * intervals.len() as f64;
            prop_assert!(bits <= content(&intervals) + 40.0 + slack, "{bits} bits for {}", content(&intervals));
        }

        #[test]
        fn a_cut_message_does_not_end_well(intervals in prop::collection::vec(interval(), 1..50), cut in 1usize..60) {
            let message = encode(intervals.iter().copied());
            let message = &message[..message.len().saturating_sub(cut)];
            let Some(mut decoder) = Decoder::new(message) else { return Ok(()) };
            let mut whole = true;
            for i in &intervals {
                // The decoder's caller looks the point up, and so its interval always holds it.
                let point = decoder.point(i.bits);
                let at = if (i.start..i.start + i.frequency).contains(&point) { *i } else {
                    Interval { start: point, frequency: 1, bits: i.bits }
                };
                whole &= decoder.advance(at);
                if !whole { break }
            }
            prop_assert!(!(whole && decoder.is_done()) || intervals.iter().all(|i| i.frequency == 1 << i.bits));
        }
    }

    #[test]
    fn messages_that_no_encoder_writes_are_refused() {
        assert_eq!(encode(std::iter::empty()), [0, 0, 0, 128, 0]);
        for bad in [&[][..], &[0; 4], &[255; 8], &[0; 5], &[0; 12]] {
            assert!(Decoder::new(bad).is_none(), "{bad:?}");
        }
    }
}
