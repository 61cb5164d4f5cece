//! Module to text.

use super::lex::{is_plain, is_plain_at, is_plain_word};
use crate::{
    Const, Def, ElemType, Entry, Label, Module, Node, Region, Value, attr::float_text, ops::Arity, scalar::Literal,
};
use std::fmt::{self, Write};

/// The text of a value where it is used.
pub(crate) fn operand(m: &Module, value: Value) -> String {
    match m.values[value].def {
        Def::Const(c) if m.values[value].ty.rank() == 0 => number(m, c),
        _ => name(m, value),
    }
}

fn name(m: &Module, value: Value) -> String {
    name_text(&m.values[value].label)
}

/// The label with its sign, in quotes where it is not a plain word.
pub(crate) fn name_text(label: &Label) -> String {
    match label {
        Label::Number(n) => format!("%{n}"),
        Label::Name(n) if is_plain(n) => format!("%{n}"),
        Label::Name(n) => format!("%{}", quoted(n)),
    }
}

/// The name of a module, entry or state with its sign.
pub(crate) fn at_text(name: &str) -> String {
    if is_plain_at(name) { format!("@{name}") } else { format!("@{}", quoted(name)) }
}

fn number(m: &Module, c: Const) -> String {
    let data = &m.consts[c];
    let elem = m.values[data.value].ty.elem;
    let text = literal(data.data[0], elem);
    match elem {
        ElemType::F32 | ElemType::I64 | ElemType::I1 => text,
        _ => format!("{text}:{elem}"),
    }
}

fn literal(l: Literal, elem: ElemType) -> String {
    match l {
        Literal::Float(bits) if elem == ElemType::F32 => {
            let v = f64::from_bits(bits);
            // An f32 constant that is exactly an f32 reads best in its own shortest form.
            if (v as f32) as f64 == v { short_f32(v as f32) } else { float_text(v) }
        }
        Literal::Float(bits) => float_text(f64::from_bits(bits)),
        Literal::Int(i) if elem == ElemType::I1 => (i != 0).to_string(),
        Literal::Int(i) if elem == ElemType::U64 => (i as u64).to_string(),
        Literal::Int(i) => i.to_string(),
    }
}

/// The shortest text that, read as f64 and rounded to f32, gives the value; the parser rounds literals of type f32.
fn short_f32(v: f32) -> String {
    if v.is_nan() { "nan".into() } else { format!("{v:?}") }
}

/// A string between quotes with `\"`, `\\`, `\n` and `\u{..}` for control characters.
fn quoted(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "module {} stage={} {{", at_text(&self.name), self.stage.name())?;
        for (k, v) in &self.metadata {
            writeln!(f, "  meta {} = {}", quoted(k), quoted(v))?;
        }
        for s in &self.symbols {
            write!(f, "  dim {} = {}..{}", s.symbol, s.min, s.max)?;
            if s.multiple_of != 1 {
                write!(f, " multiple={}", s.multiple_of)?;
            }
            f.write_char('\n')?;
        }
        for (file, path) in &self.files {
            writeln!(f, "  weights %%{} = {}", file.as_u32(), quoted(path))?;
        }
        for p in self.params.values() {
            let ty = self.ty(p.value);
            writeln!(f, "  param {} : {ty} = %%{} {}", name(self, p.value), p.file.as_u32(), quoted(&p.key))?;
        }
        for c in self.consts.values().filter(|c| self.ty(c.value).rank() > 0) {
            let ty = self.ty(c.value);
            write!(f, "  const {} : {ty} = [", name(self, c.value))?;
            for (i, l) in c.data.iter().enumerate() {
                write!(f, "{}{}", if i > 0 { ", " } else { "" }, literal(*l, ty.elem))?;
            }
            writeln!(f, "]")?;
        }
        for s in self.states.values() {
            write!(f, "  state {} : {}", at_text(&s.name), s.ty)?;
            if let Some(axis) = s.grows {
                write!(f, " grows={axis}")?;
            }
            writeln!(f, " capacity={} lifetime={}", s.capacity, s.lifetime)?;
        }
        for c in self.circuits.values() {
            c.fmt(f)?;
        }
        for e in &self.entries {
            let body = &self.regions[e.body];
            write!(f, "  entry {}({}) -> (", at_text(&e.name), inputs(self, e))?;
            for (i, (label, v)) in e.outputs.iter().zip(&body.results).enumerate() {
                let label = if is_plain_word(label) { label.clone() } else { quoted(label) };
                write!(f, "{}{label}: {}", if i > 0 { ", " } else { "" }, self.ty(*v))?;
            }
            writeln!(f, ") {{")?;
            region_body(self, e.body, "return", 2, f)?;
            writeln!(f, "  }}")?;
        }
        writeln!(f, "}}")
    }
}

fn args(m: &Module, region: Region) -> String {
    let list: Vec<String> = m.regions[region].args.iter().map(|a| format!("{}: {}", name(m, *a), m.ty(*a))).collect();
    list.join(", ")
}

fn inputs(m: &Module, e: &Entry) -> String {
    let arg = |(n, a): (usize, &Value)| {
        let accepts = e.accepts.get(&n).map(|accepts| format!(" {accepts}")).unwrap_or_default();
        format!("{}: {}{accepts}", name(m, *a), m.ty(*a))
    };
    let list: Vec<String> = m.regions[e.body].args.iter().enumerate().map(arg).collect();
    list.join(", ")
}

fn region_body(m: &Module, region: Region, end: &str, depth: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let data = &m.regions[region];
    for node in &data.nodes {
        print_node(m, *node, depth, f)?;
    }
    let results: Vec<String> = data.results.iter().map(|v| operand(m, *v)).collect();
    writeln!(f, "{:1$}{end}{2}{3}", "", depth * 2, if results.is_empty() { "" } else { " " }, results.join(", "))
}

fn print_node(m: &Module, node: Node, depth: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let data = &m.nodes[node];
    let def = data.op.def();
    write!(f, "{:1$}", "", depth * 2)?;
    if !data.results.is_empty() {
        let names: Vec<String> = data.results.iter().map(|v| name(m, *v)).collect();
        write!(f, "{} = ", names.join(", "))?;
    }
    f.write_str(def.name)?;
    let mut first = true;
    let mut named = String::new();
    for (i, value) in data.operands.iter().enumerate() {
        let Some(value) = value else { continue };
        let slot = def.operands.get(i).or(def.operands.last());
        match slot {
            Some(o) if o.arity == Arity::Optional => write!(named, " {}={}", o.name, operand(m, *value))?,
            _ => {
                write!(f, "{}{}", if first { " " } else { ", " }, operand(m, *value))?;
                first = false;
            }
        }
    }
    f.write_str(&named)?;
    for (key, value) in data.attrs.iter() {
        write!(f, " {key}={value}")?;
    }
    for (label, region) in def.regions.iter().zip(&data.regions) {
        writeln!(f, " {label}({}) {{", args(m, *region))?;
        region_body(m, *region, "yield", depth + 1, f)?;
        write!(f, "{:1$}}}", "", depth * 2)?;
    }
    if !data.results.is_empty() {
        let types: Vec<String> = data.results.iter().map(|v| m.ty(*v).to_string()).collect();
        write!(f, " : {}", types.join(", "))?;
    }
    if let Some(source) = &data.source {
        write!(f, " // {}", source.replace(['\n', '\r'], " ").trim())?;
    }
    f.write_char('\n')
}
