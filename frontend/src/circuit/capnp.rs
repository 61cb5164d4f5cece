//! As much of the unpacked Cap'n Proto encoding as SPNC's files use: structs, lists of scalars, lists of structs.
//!
//! Nothing is executed and nothing copied. Every pointer is checked against its segment; what all pointers together lead
//! to is bounded by a few times the message, so that a small file with pointers to one large list stays cheap.

use std::cell::Cell;

/// How often, on average, each word of a message may be visited.
const AMPLIFICATION: u64 = 4;
/// Far pointers behind each other.
const MAX_FAR: usize = 4;

/// What is wrong, and at which byte.
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) expected: &'static str,
    pub(super) found: String,
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

fn fault<T>(at: usize, expected: &'static str, found: impl Into<String>) -> Result<T> {
    Err(Fault { at, expected, found: found.into() })
}

/// A message: its segments, as ranges of bytes, and the words that may still be visited.
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    segments: Vec<(usize, usize)>,
    budget: Cell<u64>,
}

/// A struct in a message: where its data and its pointers are, in words from the beginning of its segment.
#[derive(Clone, Copy)]
pub(super) struct Struct<'m, 'a> {
    message: &'m Message<'a>,
    segment: usize,
    at: usize,
    data: usize,
    pointers: usize,
}

/// A list: its first word, the code of its elements' size, and how many there are (of words, for structs).
struct List {
    segment: usize,
    at: usize,
    code: u64,
    count: usize,
}

impl<'a> Message<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Message<'a>> {
        let word = |n: usize| {
            let four = bytes.get(4 * n..4 * n + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
            four.ok_or(Fault { at: 4 * n, expected: "the table of segments", found: "the end of the file".into() })
        };
        let count = word(0)?;
        if count >= 512 {
            return fault(0, "at most 512 segments", (count as u64 + 1).to_string());
        }
        let mut start = (4 * (count + 2)).div_ceil(8) * 8;
        let mut segments = vec![];
        for n in 0..=count {
            let end = start + 8 * word(n + 1)?;
            if end > bytes.len() {
                let found = format!("{} bytes", bytes.len());
                return fault(bytes.len(), "all bytes of the segments that the table lists", found);
            }
            segments.push((start, end));
            start = end;
        }
        if start < bytes.len() {
            return fault(start, "the end of the file", format!("{} bytes more", bytes.len() - start));
        }
        let budget = Cell::new(AMPLIFICATION * (bytes.len() as u64 / 8) + 64);
        Ok(Message { bytes, segments, budget })
    }

    pub(super) fn root(&self) -> Result<Struct<'_, 'a>> {
        self.structure(0, 0)
    }

    fn spend(&self, at: usize, words: usize) -> Result<()> {
        match self.budget.get().checked_sub(words as u64) {
            Some(left) => {
                self.budget.set(left);
                Ok(())
            }
            None => fault(at, "pointers to different parts of the file", "many to the same part"),
        }
    }

    /// The byte at which a word stands; the word is inside of its segment, or the end of it.
    fn offset(&self, segment: usize, word: usize) -> usize {
        self.segments.get(segment).map_or(self.bytes.len(), |s| s.0.saturating_add(word.saturating_mul(8)))
    }

    fn word(&self, segment: usize, word: usize) -> Result<u64> {
        let at = self.offset(segment, word);
        let end = self.segments.get(segment).map_or(0, |s| s.1);
        match self.bytes.get(at..at.saturating_add(8)) {
            Some(b) if at + 8 <= end => Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])),
            _ => fault(at, "a pointer into its segment", "one beyond its end"),
        }
    }

    /// Where the pointer in a word leads, far pointers followed: segment, word, and the pointer that says what is there.
    fn follow(&self, mut segment: usize, mut word: usize) -> Result<(usize, usize, u64)> {
        for _ in 0..MAX_FAR {
            let pointer = self.word(segment, word)?;
            self.spend(self.offset(segment, word), 1)?;
            if pointer & 3 != 2 {
                let offset = i64::from((pointer as u32 as i32) >> 2);
                let target = word as i64 + 1 + offset;
                let Ok(target) = usize::try_from(target) else {
                    return fault(self.offset(segment, word), "a pointer into its segment", "one before its beginning");
                };
                return Ok((segment, target, pointer));
            }
            let (pad_segment, pad) = ((pointer >> 32) as usize, (pointer >> 3 & 0x1fff_ffff) as usize);
            if pointer >> 2 & 1 == 0 {
                (segment, word) = (pad_segment, pad);
                continue;
            }
            let (far, tag) = (self.word(pad_segment, pad)?, self.word(pad_segment, pad + 1)?);
            if far & 7 != 2 {
                return fault(self.offset(pad_segment, pad), "a far pointer", "another word");
            }
            return Ok(((far >> 32) as usize, (far >> 3 & 0x1fff_ffff) as usize, tag));
        }
        fault(self.offset(segment, word), "few far pointers behind each other", "more")
    }

    fn inside(&self, segment: usize, at: usize, words: usize) -> Result<()> {
        let size = self.segments.get(segment).map_or(0, |s| (s.1 - s.0) / 8);
        let place = self.offset(segment, at);
        match at.checked_add(words) {
            Some(end) if end <= size => self.spend(place, words),
            _ => fault(place.min(self.bytes.len()), "a part inside of its segment", "one that ends behind it"),
        }
    }

    fn structure(&self, segment: usize, word: usize) -> Result<Struct<'_, 'a>> {
        let place = self.offset(segment, word);
        if self.word(segment, word)? == 0 {
            return fault(place, "a pointer to a struct", "none");
        }
        let (segment, at, pointer) = self.follow(segment, word)?;
        if pointer & 3 != 0 {
            return fault(place, "a pointer to a struct", "one to a list");
        }
        let (data, pointers) = ((pointer >> 32 & 0xffff) as usize, (pointer >> 48) as usize);
        self.inside(segment, at, data + pointers)?;
        Ok(Struct { message: self, segment, at, data, pointers })
    }
}

impl<'m, 'a> Struct<'m, 'a> {
    /// The byte of the file at which it stands.
    pub(super) fn offset(&self) -> usize {
        self.message.offset(self.segment, self.at)
    }

    /// The bytes of a field, 0 where the struct is too short to have it.
    fn data<const N: usize>(&self, byte: usize) -> [u8; N] {
        let at = self.offset() + byte;
        let held = byte + N <= 8 * self.data;
        let bytes = self.message.bytes.get(at..at + N).filter(|_| held);
        bytes.and_then(|b| b.try_into().ok()).unwrap_or([0; N])
    }

    pub(super) fn u16(&self, byte: usize) -> u16 {
        u16::from_le_bytes(self.data(byte))
    }

    pub(super) fn i32(&self, byte: usize) -> i32 {
        i32::from_le_bytes(self.data(byte))
    }

    pub(super) fn f64(&self, byte: usize) -> f64 {
        f64::from_le_bytes(self.data(byte))
    }

    pub(super) fn child(&self, n: usize) -> Result<Struct<'m, 'a>> {
        if n >= self.pointers {
            return fault(self.offset(), "a struct with more pointers", format!("{}", self.pointers));
        }
        self.message.structure(self.segment, self.at + self.data + n)
    }

    fn list(&self, n: usize) -> Result<Option<List>> {
        let word = self.at + self.data + n;
        if n >= self.pointers || self.message.word(self.segment, word)? == 0 {
            return Ok(None);
        }
        let place = self.message.offset(self.segment, word);
        let (segment, at, pointer) = self.message.follow(self.segment, word)?;
        if pointer & 3 != 1 {
            return fault(place, "a pointer to a list", "one to a struct");
        }
        Ok(Some(List { segment, at, code: pointer >> 32 & 7, count: (pointer >> 35) as usize }))
    }

    /// A list of scalars of `N` bytes.
    fn scalars<const N: usize>(&self, n: usize, code: u64) -> Result<Vec<[u8; N]>> {
        let Some(list) = self.list(n)? else { return Ok(vec![]) };
        let place = self.message.offset(list.segment, list.at);
        if list.code != code {
            return fault(place, "a list of scalars of the right size", format!("size code {}", list.code));
        }
        self.message.inside(list.segment, list.at, (list.count * N).div_ceil(8))?;
        let bytes = self.message.bytes.get(place..place + list.count * N).unwrap_or_default();
        Ok(bytes.chunks_exact(N).filter_map(|b| b.try_into().ok()).collect())
    }

    pub(super) fn i32s(&self, n: usize) -> Result<Vec<i32>> {
        Ok(self.scalars(n, 4)?.into_iter().map(i32::from_le_bytes).collect())
    }

    pub(super) fn f64s(&self, n: usize) -> Result<Vec<f64>> {
        Ok(self.scalars(n, 5)?.into_iter().map(f64::from_le_bytes).collect())
    }

    /// The structs of a list.
    pub(super) fn structs(&self, n: usize) -> Result<Vec<Struct<'m, 'a>>> {
        let Some(list) = self.list(n)? else { return Ok(vec![]) };
        let place = self.message.offset(list.segment, list.at);
        if list.code != 7 {
            return fault(place, "a list of structs", format!("size code {}", list.code));
        }
        let tag = self.message.word(list.segment, list.at)?;
        let count = (tag as u32 >> 2) as usize;
        let (data, pointers) = ((tag >> 32 & 0xffff) as usize, (tag >> 48) as usize);
        let size = data + pointers;
        // Structs without words would make a list of any length from nothing.
        if tag & 3 != 0 || size == 0 || count.checked_mul(size) != Some(list.count) {
            return fault(place, "the tag of a list of structs", "another word");
        }
        self.message.inside(list.segment, list.at + 1, list.count)?;
        let (message, segment) = (self.message, list.segment);
        let at = |k: usize| list.at + 1 + k * size;
        Ok((0..count).map(|k| Struct { message, segment, at: at(k), data, pointers }).collect())
    }
}
