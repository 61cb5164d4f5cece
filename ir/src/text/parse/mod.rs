//! Text to module.
//!
//! The parser reads any well-formed text, also of a module that the verifier refuses: it checks names and syntax, not
//! types. Depth of nesting and sizes of lists are bounded, so that hostile text cannot exhaust the stack.

mod body;
mod circuit;
mod cursor;
mod size;

use super::lex::{Token, lex};
use crate::{
    ConstData, Def, Entry, Label, Module, ParamData, Stage, StateData, Symbol, SymbolFacts, Type, Value, WeightFile,
    module::LIFETIMES,
};
use cursor::literal;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

/// What is wrong with a text, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for ParseError {}

const MAX_DEPTH: usize = 64;
const MAX_RANK: usize = 16;
/// Characters of an error message, which may quote the text.
const MAX_MESSAGE: usize = 400;
/// The largest [`Dim::weight`].
const MAX_WEIGHT: usize = 256;

type Result<T> = std::result::Result<T, (usize, String)>;

/// Reads one module.
pub fn parse(text: &str) -> std::result::Result<Module, ParseError> {
    let locate = |(at, message): (usize, String)| {
        let message: String = message.chars().take(MAX_MESSAGE).collect();
        let before = &text[..at.min(text.len())];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        ParseError { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1, message }
    };
    let tokens = lex(text).map_err(locate)?.tokens;
    let mut p = Parser { text, tokens, at: 0, m: Module::new(""), scopes: vec![HashMap::new()], depth: 0 };
    p.module().map_err(locate)?;
    Ok(p.m)
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<(Token, usize)>,
    at: usize,
    m: Module,
    scopes: Vec<HashMap<Label, Value>>,
    depth: usize,
}

impl Parser<'_> {
    fn module(&mut self) -> Result<()> {
        while matches!(self.peek(), Token::Comment(_)) {
            self.next();
        }
        self.expect_word("module")?;
        self.m.name = self.at_name("the module's @name")?;
        self.expect_word("stage")?;
        self.expect("=")?;
        let start = self.offset();
        let stage = self.word("a stage")?;
        self.m.stage = Stage::ALL
            .iter()
            .copied()
            .find(|s| s.name() == stage)
            .ok_or((start, format!("unknown stage {stage}, expected imported, canonical or legal")))?;
        self.expect("{")?;
        while !self.eat("}") {
            self.item()?;
        }
        while matches!(self.peek(), Token::Comment(_)) {
            self.next();
        }
        if *self.peek() == Token::End { Ok(()) } else { self.error("the end of the text") }
    }

    fn item(&mut self) -> Result<()> {
        if matches!(self.peek(), Token::Comment(_)) {
            self.next();
            return Ok(());
        }
        let start = self.offset();
        let word = self.word("meta, dim, weights, param, const, state, circuit, entry or `}`")?;
        if word != "entry" && !self.m.entries.is_empty() {
            return Err((start, format!("`{word}` stands behind an entry")));
        }
        match word.as_str() {
            "meta" => {
                let key = self.string()?;
                self.expect("=")?;
                let value = self.string()?;
                if self.m.metadata.insert(key.clone(), value).is_some() {
                    return Err((start, format!("meta {key:?} stands twice")));
                }
            }
            "dim" => self.symbol()?,
            "weights" => {
                let n = self.file()?;
                if n != self.m.files.len() {
                    return Err((start, format!("expected %%{}, files are numbered in order", self.m.files.len())));
                }
                self.expect("=")?;
                let path = self.string()?;
                self.m.files.push(path);
            }
            "param" => self.param()?,
            "const" => self.constant()?,
            "state" => self.state()?,
            "circuit" => self.circuit()?,
            "entry" => self.entry()?,
            other => return Err((start, format!("unknown item `{other}`"))),
        }
        Ok(())
    }

    fn symbol(&mut self) -> Result<()> {
        let start = self.offset();
        let name = self.word("a symbol")?;
        let symbol = Symbol::new(&name).ok_or((start, format!("{name} is not a valid symbol name")))?;
        if self.m.symbols.iter().any(|s| s.symbol == symbol) {
            return Err((start, format!("dim {name} stands twice")));
        }
        self.expect("=")?;
        let min = self.int()?;
        self.expect("..")?;
        let max = self.int()?;
        let mut multiple_of = 1;
        if self.is_word("multiple") {
            self.next();
            self.expect("=")?;
            multiple_of = self.int()?;
        }
        if min < 0 || max < min || multiple_of < 1 {
            return Err((start, format!("dim {name} needs 0 <= min <= max and multiple >= 1")));
        }
        self.m.symbols.push(SymbolFacts { symbol, min, max, multiple_of });
        Ok(())
    }

    fn file(&mut self) -> Result<usize> {
        let start = self.offset();
        let Token::File(n) = self.peek().clone() else { return self.error("a file such as %%0") };
        self.next();
        n.parse().map_err(|_| (start, format!("%%{n} is not a file number")))
    }

    /// A label and where it stands.
    fn value_name(&mut self) -> Result<(Label, usize)> {
        let at = self.offset();
        let Token::Value(n) = self.peek().clone() else { return self.error("a %name") };
        self.next();
        Ok((n, at))
    }

    fn param(&mut self) -> Result<()> {
        let name = self.value_name()?;
        self.expect(":")?;
        let ty = self.ty()?;
        self.expect("=")?;
        let start = self.offset();
        let n = self.file()?;
        if n >= self.m.files.len() {
            return Err((start, format!("%%{n} is not declared")));
        }
        let file = WeightFile::from_u32(n as u32);
        let key = self.string()?;
        let value = self.define(name, ty, Def::Param(self.m.params.next_key()))?;
        self.m.params.push(ParamData { value, file, key });
        Ok(())
    }

    fn constant(&mut self) -> Result<()> {
        let name = self.value_name()?;
        self.expect(":")?;
        let ty = self.ty()?;
        self.expect("=")?;
        let start = self.offset();
        self.expect("[")?;
        let mut data = vec![];
        while !self.is("]") {
            if !data.is_empty() {
                self.expect(",")?;
            }
            let at = self.offset();
            let mut text = String::from(if self.eat("-") { "-" } else { "" });
            match self.next() {
                Token::Number(n) | Token::Word(n) => text.push_str(&n),
                _ => return Err((at, "expected a number".into())),
            }
            data.push(literal(&text, ty.elem).ok_or((at, format!("{text} is not a number of type {}", ty.elem)))?);
        }
        self.next();
        let count = ty.const_dims().and_then(|d| d.iter().try_fold(1i64, |n, d| n.checked_mul(*d)));
        if ty.rank() == 0 || count != Some(data.len() as i64) {
            return Err((start, format!("{} elements for {ty}", data.len())));
        }
        let value = self.define(name, ty, Def::Const(self.m.consts.next_key()))?;
        self.m.consts.push(ConstData { value, data });
        Ok(())
    }

    fn state(&mut self) -> Result<()> {
        let start = self.offset();
        let name = self.at_name("the state's @name")?;
        if self.m.states.values().any(|s| s.name == name) {
            return Err((start, format!("state @{name} stands twice")));
        }
        self.expect(":")?;
        let ty = self.ty()?;
        let mut grows = None;
        if self.is_word("grows") {
            self.next();
            self.expect("=")?;
            grows = Some(self.int()?);
        }
        self.expect_word("capacity")?;
        self.expect("=")?;
        let capacity = self.int()?;
        self.expect_word("lifetime")?;
        self.expect("=")?;
        let at = self.offset();
        let word = self.word("a lifetime")?;
        let lifetime = LIFETIMES.iter().find(|l| **l == word).copied();
        let lifetime = lifetime.ok_or((at, format!("unknown lifetime {word}, expected {}", LIFETIMES.join(" or "))))?;
        self.m.states.push(StateData { name, ty, grows, capacity, lifetime });
        Ok(())
    }

    fn entry(&mut self) -> Result<()> {
        let start = self.offset();
        let name = self.at_name("the entry's @name")?;
        if self.m.entry(&name).is_some() {
            return Err((start, format!("entry @{name} stands twice")));
        }
        self.scopes.push(HashMap::new());
        let mut accepts = BTreeMap::new();
        let body = self.region_args(|p, n| {
            accepts.extend(p.accepts()?.map(|a| (n, a)));
            Ok(())
        })?;
        self.expect("->")?;
        self.expect("(")?;
        let mut outputs = vec![];
        let mut types = vec![];
        while !self.eat(")") {
            if !outputs.is_empty() {
                self.expect(",")?;
            }
            outputs.push(match self.peek() {
                Token::Text(_) => self.string()?,
                _ => self.word("the name of an output")?,
            });
            self.expect(":")?;
            types.push(self.ty()?);
        }
        self.region_nodes(body, "return")?;
        self.scopes.pop();
        let found: Vec<Type> = self.m.regions[body].results.iter().map(|v| self.m.ty(*v).clone()).collect();
        if found != types {
            let found: Vec<String> = found.iter().map(Type::to_string).collect();
            return Err((start, format!("@{name} returns ({}), which is not what its head says", found.join(", "))));
        }
        self.m.entries.push(Entry { name, body, outputs, accepts });
        Ok(())
    }
}
