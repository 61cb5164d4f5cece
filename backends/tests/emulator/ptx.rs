//! PTX text as instructions: what LLVM writes, not all that PTX allows.

use std::collections::HashMap;

/// A type of a few bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ty {
    pub kind: Kind,
    pub bits: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Bits,
    Unsigned,
    Signed,
    Float,
    /// The upper half of an f32.
    Brain,
    Pred,
}

impl Ty {
    pub fn is_float(self) -> bool {
        matches!(self.kind, Kind::Float | Kind::Brain)
    }

    /// What a word such as `f16x2` has two of.
    fn parse_packed(word: &str) -> Option<Ty> {
        word.strip_suffix("x2").and_then(Ty::parse).filter(|ty| ty.bits == 16)
    }

    fn parse(word: &str) -> Option<Ty> {
        let kind = match word.chars().next()? {
            _ if word == "bf16" => return Some(Ty { kind: Kind::Brain, bits: 16 }),
            'b' => Kind::Bits,
            'u' => Kind::Unsigned,
            's' => Kind::Signed,
            'f' => Kind::Float,
            _ if word == "pred" => return Some(Ty { kind: Kind::Pred, bits: 1 }),
            _ => return None,
        };
        let bits: u32 = word[1..].parse().ok()?;
        [8, 16, 32, 64].contains(&bits).then_some(Ty { kind, bits })
    }
}

#[derive(Clone, PartialEq, Debug)]
pub enum Operand {
    Reg(usize),
    /// The bits of a number; of a float as the instruction's type wants them.
    Imm(u64),
    /// Memory at a register or a parameter, and so many bytes further on.
    At(usize, i64),
    Param(usize, i64),
    /// Memory at a variable, and so many bytes further on.
    Variable(String, i64),
    Label(usize),
    /// `{a, b}`
    Group(Vec<Operand>),
    Special(&'static str),
    /// The memory of the function's local variables.
    Depot,
    Name(String),
}

#[derive(Clone, Debug)]
pub struct Inst {
    /// A register, and whether its opposite is asked for.
    pub guard: Option<(usize, bool)>,
    /// The first word of the operation, and the others.
    pub op: String,
    pub words: Vec<String>,
    /// The types among the words.
    pub types: Vec<Ty>,
    /// The type that each operand has two of, the first in the lower half.
    pub packed: Option<Ty>,
    pub operands: Vec<Operand>,
    pub text: String,
}

#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub insts: Vec<Inst>,
    pub registers: usize,
    /// The slots of the formal parameters are the first ones.
    pub params: usize,
    pub slots: usize,
    /// The slot of what it returns.
    pub returns: Option<usize>,
    pub local_bytes: usize,
    /// The slots of parameters that are no numbers: they hold the addresses of what was given.
    pub arrays: Vec<usize>,
}

pub struct Module {
    pub functions: HashMap<String, Function>,
    /// Variables in shared memory, and their bytes; none of what the launch gives.
    pub shared: HashMap<String, usize>,
}

/// Registers that every thread has.
const SPECIAL: &[&str] = &["%tid.x", "%ntid.x", "%ctaid.x", "%nctaid.x"];

#[derive(Default)]
struct Names {
    registers: HashMap<String, usize>,
    labels: HashMap<String, usize>,
    slots: HashMap<String, usize>,
    /// Lists of labels, of which a branch takes one.
    targets: HashMap<String, Vec<String>>,
    local_bytes: usize,
}

fn index(map: &mut HashMap<String, usize>, name: &str) -> usize {
    let next = map.len();
    *map.entry(name.to_string()).or_insert(next)
}

impl Module {
    pub fn parse(text: &str) -> Result<Module, String> {
        let lines = text.lines().map(|l| l.split("//").next().unwrap_or("").trim()).filter(|l| !l.is_empty());
        let text: Vec<&str> = lines.collect();
        let mut functions = HashMap::new();
        // Where they stand does not matter: their names are apart.
        let shared = text.iter().filter(|l| is_shared(l)).map(|l| shared(l)).collect::<Result<_, _>>()?;
        let mut at = 0;
        while at < text.len() {
            let line = text[at];
            if line.contains(".entry") || line.contains(".func") {
                let end = (at..text.len()).find(|i| text[*i] == "}" && depth(&text[at..=*i]) == 0);
                let end = end.ok_or("a function without an end")?;
                // A declaration ends with a semicolon before any body.
                let body = (at..=end).find(|i| text[*i] == "{").ok_or("a function without a body")?;
                match (at..body).find(|i| text[*i].ends_with(';')) {
                    Some(declared) => at = declared,
                    None => {
                        let function = function(&text[at..body], &text[body + 1..end])?;
                        functions.insert(function.name.clone(), function);
                        at = end;
                    }
                }
            }
            at += 1;
        }
        Ok(Module { functions, shared })
    }
}

fn is_shared(line: &str) -> bool {
    line.starts_with(".shared") || line.starts_with(".extern .shared")
}

/// Name and bytes of `.shared .align 16 .b8 name[bytes];`, or no bytes of `.extern .shared .align 16 .b8 name[];`.
fn shared(line: &str) -> Result<(String, usize), String> {
    let bad = || format!("shared memory: {line}");
    let (name, bytes) = line.split_whitespace().last().and_then(|w| w.split_once('[')).ok_or_else(bad)?;
    let bytes = match bytes.trim_end_matches("];") {
        "" => 0,
        bytes => bytes.parse().map_err(|_| bad())?,
    };
    Ok((name.to_string(), bytes))
}

/// Braces that are open at the end of these lines; those of a call's sequence have lines of their own too.
fn depth(lines: &[&str]) -> usize {
    let count = |brace: &str| lines.iter().filter(|l| **l == brace).count();
    count("{") - count("}").min(count("{"))
}

fn function(head: &[&str], body: &[&str]) -> Result<Function, String> {
    let head = head.join(" ");
    let (_, rest) = head.split_once(".entry").or_else(|| head.split_once(".func")).ok_or("no function")?;
    let mut names = Names::default();
    let declared = |part: &str| -> Vec<String> {
        let params = part.split(',').filter(|p| p.contains(".param"));
        params
            .filter_map(|p| p.split_whitespace().last())
            .map(|p| p.split('[').next().unwrap_or(p).to_string())
            .collect()
    };
    let rest = rest.trim();
    let (returned, rest) = match rest.strip_prefix('(') {
        Some(inner) => inner.split_once(')').ok_or("a bracket that does not close")?,
        None => ("", rest),
    };
    let (name, list) = rest.split_once('(').unwrap_or((rest, ""));
    let list = list.split(')').next().unwrap_or("");
    let formals = declared(list);
    let arrays = list.split(',').enumerate().filter(|(_, p)| p.contains('[')).map(|(i, _)| i).collect();
    formals.iter().for_each(|p| {
        index(&mut names.slots, p);
    });
    let returns = declared(returned).first().map(|p| index(&mut names.slots, p));
    for line in body {
        if let Some(label) = line.strip_suffix(':') {
            names.labels.insert(label.to_string(), 0);
        }
    }
    let mut insts = vec![];
    let mut joined = String::new();
    for line in body {
        if *line == "{" || *line == "}" {
            continue;
        }
        if let Some(label) = line.strip_suffix(':') {
            names.labels.insert(label.to_string(), insts.len());
            continue;
        }
        // A block of its own on one line declares what takes the half of a register that nobody wants.
        let line = line.strip_prefix("{ ").and_then(|l| l.strip_suffix(" }")).unwrap_or(line);
        joined.push_str(line);
        joined.push(' ');
        if !line.ends_with(';') {
            continue;
        }
        let text = std::mem::take(&mut joined);
        for statement in text.split(';').map(str::trim).filter(|s| !s.is_empty()) {
            if let Some(rest) = statement.strip_prefix(".param") {
                let name = rest.split_whitespace().last().unwrap_or("");
                index(&mut names.slots, name.split('[').next().unwrap_or(name));
            } else if statement.starts_with(".local") {
                let bytes = statement.split('[').nth(1).and_then(|s| s.strip_suffix(']')).and_then(|s| s.parse().ok());
                names.local_bytes = bytes.ok_or_else(|| format!("local memory: {statement}"))?;
            } else if let Some((list, labels)) = statement.split_once(": .branchtargets") {
                let labels = labels.split(',').map(|label| label.trim().to_string()).collect();
                names.targets.insert(list.to_string(), labels);
            } else if !statement.starts_with('.') {
                insts.push(inst(statement, &mut names)?);
            }
        }
    }
    // Labels were counted while they were met; branches forward hold their names until now.
    let label = |name: &String| names.labels.get(name.as_str()).map(|at| Operand::Label(*at));
    for inst in &mut insts {
        for operand in &mut inst.operands {
            let Operand::Name(name) = operand else { continue };
            let list =
                || names.targets.get(name.as_str())?.iter().map(label).collect::<Option<_>>().map(Operand::Group);
            if let Some(found) = label(name).or_else(list) {
                *operand = found;
            }
        }
    }
    let (registers, slots) = (names.registers.len(), names.slots.len());
    let name = name.trim().to_string();
    Ok(Function {
        name,
        insts,
        registers,
        params: formals.len(),
        slots,
        returns,
        local_bytes: names.local_bytes,
        arrays,
    })
}

fn inst(statement: &str, names: &mut Names) -> Result<Inst, String> {
    let mut rest = statement;
    let mut guard = None;
    if let Some(guarded) = rest.strip_prefix('@') {
        let (name, after) = guarded.split_once(char::is_whitespace).ok_or("a guard alone")?;
        let opposite = name.starts_with('!');
        guard = Some((index(&mut names.registers, name.trim_start_matches('!')), opposite));
        rest = after.trim();
    }
    let (op, list) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let words: Vec<String> = op.split('.').map(str::to_string).collect();
    let types: Vec<Ty> = words[1..].iter().filter_map(|w| Ty::parse(w)).collect();
    let packed = words[1..].iter().find_map(|w| Ty::parse_packed(w));
    let mut operands = vec![];
    for part in parts(list) {
        operands.push(operand(part, names)?);
    }
    let (op, words) = (words[0].clone(), words[1..].to_vec());
    Ok(Inst { guard, op, words, types, packed, operands, text: statement.to_string() })
}

/// The operands, cut at commas outside of brackets.
fn parts(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, vec![]);
    for (i, c) in list.char_indices() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(list[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    found.push(list[start..].trim());
    found.retain(|p| !p.is_empty());
    found
}

fn operand(text: &str, names: &mut Names) -> Result<Operand, String> {
    let bad = || format!("operand {text}");
    let inside = |open, close| text.strip_prefix(open).and_then(|t: &str| t.strip_suffix(close));
    if let Some(list) = inside('{', '}').or_else(|| inside('(', ')')) {
        let list: Result<Vec<_>, _> = parts(list).into_iter().map(|p| operand(p, names)).collect();
        return Ok(Operand::Group(list?));
    }
    // A tensor map and coordinates.
    if let Some(list) = inside('[', ']')
        && let Some((map, coordinates)) = list.split_once(',')
    {
        let parts = [format!("[{}]", map.trim()), coordinates.trim().to_string()];
        return Ok(Operand::Group(parts.iter().map(|p| operand(p, names)).collect::<Result<_, _>>()?));
    }
    if let Some(address) = inside('[', ']') {
        let cut =
            address.char_indices().skip(1).find(|(_, c)| *c == '+' || *c == '-').map_or(address.len(), |(i, _)| i);
        let (base, offset) = address.split_at(cut);
        let offset: i64 =
            if offset.is_empty() { 0 } else { offset.trim_start_matches('+').parse().map_err(|_| bad())? };
        return Ok(match base.starts_with('%') {
            true => Operand::At(index(&mut names.registers, base), offset),
            false => match names.slots.get(base) {
                Some(slot) => Operand::Param(*slot, offset),
                None => Operand::Variable(base.to_string(), offset),
            },
        });
    }
    if let Some(special) = SPECIAL.iter().find(|s| **s == text) {
        return Ok(Operand::Special(special));
    }
    if text.starts_with('%') {
        return Ok(Operand::Reg(index(&mut names.registers, text)));
    }
    if text.starts_with("__local_depot") {
        return Ok(Operand::Depot);
    }
    // The slots of a call's arguments.
    if let Some(slot) = names.slots.get(text) {
        return Ok(Operand::Param(*slot, 0));
    }
    if let Some(bits) = text.strip_prefix("0f") {
        return u64::from_str_radix(bits, 16).map(Operand::Imm).map_err(|_| bad());
    }
    if let Some(bits) = text.strip_prefix("0d").or_else(|| text.strip_prefix("0x")) {
        return u64::from_str_radix(bits.trim_end_matches('U'), 16).map(Operand::Imm).map_err(|_| bad());
    }
    if let Ok(value) = text.parse::<i64>() {
        return Ok(Operand::Imm(value as u64));
    }
    if let Ok(value) = text.parse::<u64>() {
        return Ok(Operand::Imm(value));
    }
    Ok(Operand::Name(text.to_string()))
}
