//! Sizes and types.

use super::{MAX_DEPTH, MAX_RANK, MAX_WEIGHT, Parser, Result};
use crate::{Accepts, Dim, Symbol, Type, text::lex::Token};

impl Parser<'_> {
    pub(super) fn dim(&mut self) -> Result<Dim> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err((self.offset(), "nested too deeply".into()));
        }
        let negative = self.eat("-");
        let mut sum = self.term(negative)?;
        loop {
            sum = if self.eat("+") {
                sum + self.term(false)?
            } else if self.eat("-") {
                sum + self.term(true)?
            } else {
                break;
            };
            self.bounded(&sum)?;
        }
        self.depth -= 1;
        Ok(sum)
    }

    /// Sizes multiply when multiplied out; what a text may say is bounded at every step.
    fn bounded(&self, dim: &Dim) -> Result<()> {
        if dim.weight() <= MAX_WEIGHT { Ok(()) } else { Err((self.offset(), "the size is too long".into())) }
    }

    /// A product, or its negative.
    fn term(&mut self, negative: bool) -> Result<Dim> {
        // The smallest integer has no positive counterpart to be read first.
        let smallest = negative && *self.peek() == Token::Number(i64::MIN.unsigned_abs().to_string());
        let mut product = if smallest {
            self.next();
            Dim::from(i64::MIN)
        } else {
            self.factor()?
        };
        loop {
            product = if self.eat("*") {
                product * self.factor()?
            } else if self.eat("/") {
                let start = self.offset();
                let by = self.factor()?;
                if by.is(0) {
                    return Err((start, "division by zero".into()));
                }
                product.floor_div(&by)
            } else {
                return Ok(if negative && !smallest { Dim::from(0) - product } else { product });
            };
            self.bounded(&product)?;
        }
    }

    fn factor(&mut self) -> Result<Dim> {
        let start = self.offset();
        match self.peek().clone() {
            Token::Number(_) => Ok(self.int()?.into()),
            Token::Punct("(") => {
                self.next();
                let d = self.dim()?;
                self.expect(")")?;
                Ok(d)
            }
            Token::Word(w) if w == "min" || w == "max" => {
                self.next();
                self.expect("(")?;
                let a = self.dim()?;
                self.expect(",")?;
                let b = self.dim()?;
                self.expect(")")?;
                Ok(if w == "min" { a.min_with(&b) } else { a.max_with(&b) })
            }
            Token::Word(w) => {
                self.next();
                Symbol::new(&w).map(Dim::symbol).ok_or((start, format!("{w} is not a valid symbol name")))
            }
            _ => self.error("a size"),
        }
    }

    pub(super) fn ty(&mut self) -> Result<Type> {
        let elem = self.elem()?;
        let start = self.offset();
        let dims = self.list(Self::dim)?;
        if dims.len() > MAX_RANK {
            return Err((start, format!("rank {} is above the largest, {MAX_RANK}", dims.len())));
        }
        Ok(Type { elem, dims })
    }

    /// `finite`, `in 1..N`, `in 0..N filled` or `size`, if one of them stands here.
    pub(super) fn accepts(&mut self) -> Result<Option<Accepts>> {
        for (word, accepts) in [("finite", Accepts::Finite), ("size", Accepts::Size)] {
            if self.is_word(word) {
                self.next();
                return Ok(Some(accepts));
            }
        }
        if !self.is_word("in") {
            return Ok(None);
        }
        self.next();
        let min = self.int()?;
        self.expect("..")?;
        let max = self.dim()?;
        let filled = self.is_word("filled");
        if filled {
            self.next();
        }
        Ok(Some(Accepts::Range { min, max, filled }))
    }
}
