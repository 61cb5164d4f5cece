//! Slots, taken in consecutive numbers and given back one by one. Slot 0 is not given.

use std::collections::BTreeMap;

pub(super) struct Slots {
    /// Free ones: first and number. Neighbours are joined.
    free: BTreeMap<u32, u32>,
    end: u32,
}

impl Slots {
    pub(super) fn new() -> Slots {
        Slots { free: BTreeMap::new(), end: 1 }
    }

    /// One more than the largest slot ever taken.
    pub(super) fn end(&self) -> u32 {
        self.end
    }

    /// Consecutive slots: the first free ones that suffice.
    pub(super) fn take(&mut self, count: u32) -> u32 {
        let found = self.free.iter().find(|(_, free)| **free >= count).map(|(first, free)| (*first, *free));
        if let Some((first, free)) = found {
            self.free.remove(&first);
            if free > count {
                self.free.insert(first + count, free - count);
            }
            return first;
        }
        // What is free at the end is part of what is taken.
        let tail = self.free.iter().next_back().map(|(first, free)| (*first, *free));
        let first = match tail.filter(|(first, free)| first + free == self.end) {
            Some((first, _)) => {
                self.free.remove(&first);
                first
            }
            None => self.end,
        };
        self.end = first + count;
        first
    }

    pub(super) fn give(&mut self, slot: u32) {
        let (mut first, mut count) = (slot, 1);
        if let Some((before, free)) = self.free.range(..slot).next_back().map(|(f, n)| (*f, *n))
            && before + free == slot
        {
            (first, count) = (before, free + 1);
        }
        if let Some(after) = self.free.remove(&(slot + 1)) {
            count += after;
        }
        self.free.insert(first, count);
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[test]
    fn neighbours_are_taken_again_as_one() {
        let mut slots = Slots::new();
        assert_eq!((slots.take(3), slots.take(2)), (1, 4));
        [2, 1, 3].into_iter().for_each(|s| slots.give(s));
        assert_eq!((slots.take(2), slots.take(2), slots.end()), (1, 6, 8));
        slots.give(7);
        assert_eq!((slots.take(1), slots.take(4), slots.end()), (3, 7, 11));
    }
}
