//! Text files of circuits, line by line: bounded in all sizes, packed with gzip or not, every error with its line.

use crate::error::{ImportError, shown};
use flate2::read::MultiGzDecoder;
use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

/// Bytes of a text, unpacked; more are refused where they are reached.
const MAX_BYTES: u64 = 1 << 30;
const MAX_LINE: usize = 64 << 20;

pub(super) type Result<T> = std::result::Result<T, ImportError>;

/// A text and the line it is at.
pub(super) struct Text<'a> {
    pub(super) path: &'a Path,
    reader: BufReader<Box<dyn Read + 'a>>,
    line: Vec<u8>,
    number: u32,
    read: u64,
}

impl<'a> Text<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Text<'a>> {
        let io = |e: std::io::Error| ImportError::io(path, "a readable file", &e);
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(ImportError::new(path, "a file", "a directory or a device"));
        }
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        let packed = file.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn Read> = if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        Ok(Text::new(path, reader))
    }

    pub(super) fn new(path: &'a Path, reader: Box<dyn Read + 'a>) -> Text<'a> {
        Text { path, reader: BufReader::with_capacity(1 << 16, reader), line: vec![], number: 0, read: 0 }
    }

    /// Goes to the next line; false at the end.
    pub(super) fn advance(&mut self) -> Result<bool> {
        self.line.clear();
        self.number = self.number.saturating_add(1);
        loop {
            let available = match self.reader.fill_buf() {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let e = ImportError::new(self.path, "a text, packed with gzip or not", e.to_string());
                    return Err(e.at(format!("line {}", self.number)));
                }
            };
            let end = available.iter().position(|b| *b == b'\n');
            let length = end.map_or(available.len(), |n| n + 1);
            self.line.extend_from_slice(&available[..end.unwrap_or(length)]);
            let at_end = available.is_empty();
            self.reader.consume(length);
            self.read += length as u64;
            if self.read > MAX_BYTES {
                return Err(self.error(format!("at most {MAX_BYTES} bytes of text"), "more"));
            }
            if self.line.len() > MAX_LINE {
                return Err(self.error(format!("lines of at most {MAX_LINE} bytes"), "a longer one"));
            }
            if end.is_some() || at_end {
                return Ok(!at_end || !self.line.is_empty());
            }
        }
    }

    /// The words of the next line that is neither empty nor a comment, which begins with `c`.
    pub(super) fn content(&mut self) -> Result<Option<Fields<'_>>> {
        self.content_after(|_| Ok(()))
    }

    /// [`Text::content`], showing the comments on the way.
    pub(super) fn content_after(
        &mut self,
        mut comment: impl FnMut(Fields<'_>) -> Result<()>,
    ) -> Result<Option<Fields<'_>>> {
        while self.advance()? {
            match self.fields().peek() {
                None => {}
                Some(b"c") => comment(self.fields())?,
                Some(_) => return Ok(Some(self.fields())),
            }
        }
        Ok(None)
    }

    pub(super) fn fields(&self) -> Fields<'_> {
        Fields { path: self.path, number: self.number, rest: &self.line }
    }

    /// The words of this line from a byte on.
    pub(super) fn fields_from(&self, byte: usize) -> Fields<'_> {
        Fields { rest: self.line.get(byte..).unwrap_or_default(), ..self.fields() }
    }

    /// How many bytes of this line stand before what is left of its words.
    pub(super) fn position(&self, f: &Fields<'_>) -> usize {
        self.line.len() - f.rest.len()
    }

    /// An error at this line.
    pub(super) fn error(&self, expected: impl Into<String>, found: impl Into<String>) -> ImportError {
        ImportError::new(self.path, expected, found).at(format!("line {}", self.number))
    }
}

/// The words of one line.
#[derive(Clone, Copy)]
pub(super) struct Fields<'t> {
    path: &'t Path,
    pub(super) number: u32,
    rest: &'t [u8],
}

impl<'t> Fields<'t> {
    pub(super) fn peek(&self) -> Option<&'t [u8]> {
        self.clone_next().1
    }

    fn clone_next(self) -> (Fields<'t>, Option<&'t [u8]>) {
        let rest = self.rest.trim_ascii_start();
        if rest.is_empty() {
            return (Fields { rest, ..self }, None);
        }
        let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
        (Fields { rest: &rest[end..], ..self }, Some(&rest[..end]))
    }

    /// The next word, if there is one.
    pub(super) fn word(&mut self) -> Option<&'t [u8]> {
        let (next, word) = self.clone_next();
        *self = next;
        word
    }

    /// An error at this line.
    pub(super) fn error(&self, expected: impl Into<String>, found: impl Into<String>) -> ImportError {
        ImportError::new(self.path, expected, found).at(format!("line {}", self.number))
    }

    fn wrong(&self, what: &str, word: Option<&[u8]>) -> ImportError {
        let found = word.map_or("the end of the line".into(), |w| format!("`{}`", shown(&String::from_utf8_lossy(w))));
        self.error(what, found)
    }

    /// A whole number below 2^32 - 1.
    pub(super) fn natural(&mut self, what: &str) -> Result<u32> {
        let word = self.word();
        let number = word.and_then(|w| {
            let is_short = !w.is_empty() && w.len() <= 10;
            let digits = is_short && w.iter().all(u8::is_ascii_digit);
            digits.then(|| w.iter().fold(0u64, |n, d| n * 10 + u64::from(d - b'0')))
        });
        number.filter(|n| *n < u64::from(u32::MAX)).map(|n| n as u32).ok_or_else(|| self.wrong(what, word))
    }

    /// A whole number that may be negative but not zero, as a literal: its variable, from 0, and its sign.
    pub(super) fn literal(&mut self, what: &str) -> Result<(u32, bool)> {
        let word = self.word();
        let text = word.and_then(|w| std::str::from_utf8(w).ok());
        let literal = text.and_then(|t| t.parse::<i32>().ok()).filter(|n| *n != 0);
        let literal = literal.ok_or_else(|| self.wrong(what, word))?;
        Ok((literal.unsigned_abs() - 1, literal > 0))
    }

    /// A variable, which the file counts from 1, as a number from 0.
    pub(super) fn variable(&mut self) -> Result<u32> {
        let word = self.peek();
        match self.natural("a variable, counted from 1")? {
            0 => Err(self.wrong("a variable, counted from 1", word)),
            n => Ok(n - 1),
        }
    }

    /// A number, minus infinity included, plus infinity not.
    pub(super) fn float(&mut self, what: &str) -> Result<f64> {
        let word = self.word();
        let text = word.and_then(|w| std::str::from_utf8(w).ok());
        let number = text.and_then(|t| t.parse::<f64>().ok()).filter(|x| !x.is_nan() && *x != f64::INFINITY);
        number.ok_or_else(|| self.wrong(what, word))
    }

    /// The logarithm of a probability; six digits of a text may put it a little above 0.
    pub(super) fn log_probability(&mut self, what: &str) -> Result<f64> {
        let word = self.peek();
        let x = self.float(what)?;
        if x > kiln_ir::circuit::TOLERANCE { Err(self.wrong(&format!("{what}, at most 0"), word)) } else { Ok(x) }
    }

    /// That nothing follows.
    pub(super) fn end(&mut self) -> Result<()> {
        match self.word() {
            None => Ok(()),
            word => Err(self.wrong("the end of the line", word)),
        }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty()).count()
    }
}
