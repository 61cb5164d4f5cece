//! Regions and nodes.

use super::{MAX_DEPTH, MAX_RANK, Parser, Result, cursor::literal};
use crate::{
    Attr, Attrs, Def, ElemType, NodeData, Op, Region, attr::AttrKind, ops::Arity, scalar::Literal, text::lex::Token,
};
use std::collections::HashMap;

impl Parser<'_> {
    /// `(%a: type, ...)`: makes a region with these arguments, defined in the innermost scope. `behind` reads what follows
    /// the type of an argument.
    pub(super) fn region_args(&mut self, mut behind: impl FnMut(&mut Self, usize) -> Result<()>) -> Result<Region> {
        let region = self.m.regions.push(Default::default());
        self.expect("(")?;
        while !self.eat(")") {
            let n = self.m.regions[region].args.len();
            if n > 0 {
                self.expect(",")?;
            }
            let name = self.value_name()?;
            self.expect(":")?;
            let ty = self.ty()?;
            let value = self.define(name, ty, Def::Arg(region, n as u32))?;
            self.m.regions[region].args.push(value);
            behind(self, n)?;
        }
        Ok(region)
    }

    /// `{ nodes end results }`
    pub(super) fn region_nodes(&mut self, region: Region, end: &str) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err((self.offset(), "nested too deeply".into()));
        }
        self.expect("{")?;
        loop {
            if matches!(self.peek(), Token::Comment(_)) {
                self.next();
            } else if self.is_word(end) {
                self.next();
                break;
            } else {
                self.node(region)?;
            }
        }
        let mut results = vec![];
        while !self.is("}") && !matches!(self.peek(), Token::Comment(_)) {
            if !results.is_empty() {
                self.expect(",")?;
            }
            results.push(self.operand()?);
        }
        self.m.regions[region].results = results;
        while matches!(self.peek(), Token::Comment(_)) {
            self.next();
        }
        self.expect("}")?;
        self.depth -= 1;
        Ok(())
    }

    pub(super) fn node(&mut self, region: Region) -> Result<()> {
        let mut names = vec![];
        let names_at = self.offset();
        while matches!(self.peek(), Token::Value(_)) {
            names.push(self.value_name()?);
            if !self.eat(",") {
                break;
            }
        }
        if !names.is_empty() {
            self.expect("=")?;
        }
        let start = self.offset();
        let word = self.word("an op")?;
        let op = Op::from_name(&word).ok_or((start, format!("unknown op `{word}`")))?;
        let def = op.def();
        let mut operands = vec![];
        let starts_operand = |p: &Self| match p.peek() {
            Token::Value(_) | Token::Number(_) | Token::Punct("-") => true,
            Token::Word(w) => matches!(w.as_str(), "inf" | "nan" | "true" | "false"),
            _ => false,
        };
        while starts_operand(self) {
            operands.push(Some(self.operand()?));
            if !self.eat(",") {
                break;
            }
        }
        let required = def.required_operands();
        if operands.len() < required || (!def.is_variadic() && operands.len() > required) {
            return Err((start, format!("`{word}` takes {required} operands, found {}", operands.len())));
        }
        if !def.is_variadic() {
            operands.resize(def.operands.len(), None);
        }
        for (slot, _) in
            def.operands.iter().enumerate().filter(|(_, o)| def.is_variadic() && o.arity == Arity::Optional)
        {
            operands.insert(slot, None);
        }
        let mut attrs = Attrs::default();
        let mut regions = vec![];
        while let Token::Word(key) = self.peek().clone() {
            // A node without results may end here, and the next one begin with a word.
            let known = def.attrs.iter().any(|a| a.name == key) || def.operands.iter().any(|o| o.name == key);
            if !known && !matches!(self.tokens.get(self.at + 1), Some((Token::Punct("=" | "("), _))) {
                break;
            }
            let key_at = self.offset();
            self.next();
            if let Some(label) = def.regions.iter().find(|r| **r == key) {
                if def.regions.get(regions.len()) != Some(label) {
                    return Err((key_at, format!("`{word}` has the regions {}", def.regions.join(", "))));
                }
                self.scopes.push(HashMap::new());
                let inner = self.region_args(|_, _| Ok(()))?;
                self.region_nodes(inner, "yield")?;
                self.scopes.pop();
                regions.push(inner);
                continue;
            }
            self.expect("=")?;
            let slot = def.operands.iter().position(|o| o.arity == Arity::Optional && o.name == key);
            if let Some(slot) = slot {
                if operands[slot].is_some() {
                    return Err((key_at, format!("{key} stands twice")));
                }
                operands[slot] = Some(self.operand()?);
                continue;
            }
            let Some(attr) = def.attrs.iter().find(|a| a.name == key) else {
                return Err((key_at, format!("`{word}` has no attribute or operand `{key}`")));
            };
            if attrs.get(&key).is_some() {
                return Err((key_at, format!("{key} stands twice")));
            }
            attrs.set(attr.name, self.attr(attr.kind)?);
        }
        if regions.len() != def.regions.len() {
            return self.error(&format!("region `{}` of `{word}`", def.regions[regions.len()]));
        }
        if let Some(missing) = def.attrs.iter().find(|a| a.required && attrs.get(a.name).is_none()) {
            return Err((start, format!("`{word}` lacks the attribute `{}`", missing.name)));
        }
        attrs.sort_by(def.attrs);
        let mut types = vec![];
        if self.eat(":") {
            types.push(self.ty()?);
            while self.eat(",") {
                types.push(self.ty()?);
            }
        }
        if types.len() != names.len() {
            return Err((names_at, format!("expected {} types, found {}", names.len(), types.len())));
        }
        // A comment on the node's own line is its source; on a line of its own it is only a remark.
        let mut source = None;
        if let Token::Comment(c) = self.peek().clone() {
            let previous = self.tokens[self.at - 1].1;
            if !self.text[previous..self.offset()].contains('\n') {
                self.next();
                source = Some(c);
            }
        }
        let node = self.m.nodes.next_key();
        let mut results = vec![];
        for (n, (name, ty)) in names.into_iter().zip(types).enumerate() {
            results.push(self.define(name, ty, Def::Result(node, n as u32))?);
        }
        self.m.nodes.push(NodeData { op, operands, attrs, results, regions, source });
        self.m.regions[region].nodes.push(node);
        Ok(())
    }

    pub(super) fn attr(&mut self, kind: AttrKind) -> Result<Attr> {
        let start = self.offset();
        Ok(match kind {
            AttrKind::Int => Attr::Int(self.int()?),
            AttrKind::Bool => match self.word("true or false")?.as_str() {
                "true" => Attr::Bool(true),
                "false" => Attr::Bool(false),
                other => return Err((start, format!("expected true or false, found `{other}`"))),
            },
            AttrKind::Float => {
                let mut text = String::from(if self.eat("-") { "-" } else { "" });
                match self.peek().clone() {
                    Token::Number(n) | Token::Word(n) => text.push_str(&n),
                    _ => return self.error("a float"),
                }
                self.next();
                match literal(&text, ElemType::F64) {
                    Some(Literal::Float(bits)) => Attr::Float(bits),
                    _ => return Err((start, format!("{text} is not a float"))),
                }
            }
            AttrKind::Ints => Attr::Ints(self.list(Self::int)?),
            AttrKind::Dim => Attr::Dim(self.dim()?),
            AttrKind::Dims => {
                let dims = self.list(Self::dim)?;
                if dims.len() > MAX_RANK {
                    return Err((start, format!("rank {} is above the largest, {MAX_RANK}", dims.len())));
                }
                Attr::Dims(dims)
            }
            AttrKind::Elem => Attr::Elem(self.elem()?),
            AttrKind::Word(words) => {
                let word = self.word("a word")?;
                let found = words.iter().find(|w| **w == word);
                Attr::Word(found.ok_or((start, format!("expected {}, found `{word}`", kind.describe())))?)
            }
            AttrKind::Name => Attr::Name(self.at_name("a @name")?),
        })
    }
}
