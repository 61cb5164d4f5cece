//! d-DNNF: `nnf V E n` with `L lit`, `A k child{k}`, `O variable k child{k}`, numbered from 0 by lines; and d4's dialect,
//! nodes `o id 0`, `a id 0`, `t id 0`, `f id 0` and edges `from to lit* 0`, whose root is node 1.

use super::{
    logic::{Formula, Kind, Weights},
    nodes,
    text::{Fields, Result, Text},
};
use crate::error::shown;
use kiln_ir::circuit::Origin;
use std::collections::HashMap;

pub(super) fn read(text: &mut Text<'_>, weights: &mut Weights) -> Result<Formula> {
    let Some(mut head) = text.content_after(|f| weights.comment(f))? else {
        return Err(text.error("`nnf`", "the end of the file"));
    };
    if head.peek() != Some(b"nnf") {
        return d4(text, weights);
    }
    head.word();
    let declared = head.natural("the number of nodes")?;
    let edges = head.natural("the number of edges")?;
    let variables = head.natural("the number of variables")?;
    head.end()?;
    let mut formula = Formula::default();
    formula.variables = variables;
    formula.declares = true;
    let mut children = vec![];
    while let Some(mut f) = text.content_after(|f| weights.comment(f))? {
        let id = formula.len() as u32;
        let origin = Origin::line(id, f.number);
        children.clear();
        let kind = match f.word().unwrap_or_default() {
            b"L" => {
                let (var, positive) = f.literal("a literal, which is a variable or its negative")?;
                f.end()?;
                if var >= variables {
                    return Err(f.error(format!("one of {variables} variables"), (var + 1).to_string()));
                }
                Kind::Literal { var, positive }
            }
            letter @ (b"A" | b"O") => {
                if letter == b"O" {
                    f.natural("the variable decided on, or 0")?;
                }
                for _ in 0..f.count(1)? {
                    let child = f.natural("the number of a node")?;
                    if child >= id {
                        return Err(f.error("the number of a node on a line above", child.to_string()));
                    }
                    children.push(child);
                }
                match (letter, children.is_empty()) {
                    (b"A", true) => Kind::True,
                    (b"A", false) => Kind::And,
                    (_, true) => Kind::False,
                    (_, false) => Kind::Or,
                }
            }
            other => return Err(unknown(&f, "L, A or O", other)),
        };
        formula.push(kind, &children, origin);
        bounded(&f, &formula)?;
    }
    let found = (formula.len(), formula.edges());
    if found != (declared as usize, edges as usize) {
        let expected = format!("{declared} nodes and {edges} edges, as the header says");
        return Err(text.error(expected, format!("{} and {}", found.0, found.1)));
    }
    Ok(formula)
}

fn unknown(f: &Fields<'_>, letters: &str, found: &[u8]) -> crate::ImportError {
    let found = format!("`{}`", shown(&String::from_utf8_lossy(found)));
    f.error(format!("a node, which begins with {letters}"), found)
}

fn bounded(f: &Fields<'_>, formula: &Formula) -> Result<()> {
    let is_small = formula.len() + formula.edges() <= nodes::MAX_SIZE;
    if is_small { Ok(()) } else { Err(f.error(format!("at most {} nodes and edges", nodes::MAX_SIZE), "more")) }
}

/// A node of d4's dialect: what it is, its line, and its edges as child and literals.
struct Node {
    kind: Kind,
    line: u32,
    edges: Vec<(u32, Vec<(u32, bool)>)>,
}

/// From the line that `text` is at.
fn d4(text: &mut Text<'_>, weights: &mut Weights) -> Result<Formula> {
    let mut nodes: Vec<Node> = vec![];
    let mut index: HashMap<u32, usize> = HashMap::new();
    let mut size = 0;
    let mut more = true;
    while more {
        let mut f = text.fields();
        let first = f.peek().unwrap_or_default();
        if first.first().is_some_and(u8::is_ascii_digit) {
            let mut known = || {
                let id = f.natural("the number of a node")?;
                index.get(&id).copied().ok_or_else(|| f.error("the number of a node on a line above", id.to_string()))
            };
            let (from, to) = (known()?, known()?);
            let mut literals = vec![];
            while f.peek().is_some_and(|w| w != b"0") {
                literals.push(f.literal("a literal, or 0 at the end of the line")?);
            }
            f.natural("0 at the end of the line")?;
            f.end()?;
            size += 1 + literals.len();
            nodes[from].edges.push((to as u32, literals));
        } else {
            let kind = match f.word().unwrap_or_default() {
                b"o" => Kind::Or,
                b"a" => Kind::And,
                b"t" => Kind::True,
                b"f" => Kind::False,
                other => return Err(unknown(&f, "o, a, t or f, or an edge", other)),
            };
            let id = f.natural("the number of the node")?;
            if index.insert(id, nodes.len()).is_some() {
                return Err(f.error("a number that no other node has", id.to_string()));
            }
            f.natural("0 at the end of the line")?;
            f.end()?;
            size += 1;
            nodes.push(Node { kind, line: f.number, edges: vec![] });
        }
        if size > nodes::MAX_SIZE {
            return Err(f.error(format!("at most {} nodes and edges", nodes::MAX_SIZE), "more"));
        }
        more = text.content_after(|f| weights.comment(f))?.is_some();
    }
    let Some(root) = index.get(&1) else { return Err(text.error("node 1, the root", "none")) };
    let mut formula = Formula::default();
    let mut literals: HashMap<(u32, bool), u32> = HashMap::new();
    // 0 not seen, 1 on the way from the root, 2 done and in `made`.
    let (mut state, mut made) = (vec![0u8; nodes.len()], vec![0u32; nodes.len()]);
    let mut stack = vec![*root];
    while let Some(n) = stack.last().copied() {
        let origin = Origin::line(n as u32, nodes[n].line);
        if state[n] == 0 {
            state[n] = 1;
            for (to, _) in &nodes[n].edges {
                match state[*to as usize] {
                    0 => stack.push(*to as usize),
                    1 => {
                        return Err(text.error(
                            "nodes that are not below themselves",
                            format!("the node of line {}", nodes[*to as usize].line),
                        ));
                    }
                    _ => {}
                }
            }
            continue;
        }
        stack.pop();
        if state[n] == 2 {
            continue;
        }
        state[n] = 2;
        let mut children = vec![];
        for (to, with) in &nodes[n].edges {
            let mut factors = vec![];
            for (var, positive) in with {
                let literal = *literals
                    .entry((*var, *positive))
                    .or_insert_with(|| formula.push(Kind::Literal { var: *var, positive: *positive }, &[], origin));
                factors.push(literal);
            }
            factors.push(made[*to as usize]);
            children.push(if factors.len() == 1 { factors[0] } else { formula.push(Kind::And, &factors, origin) });
        }
        let kind = match (nodes[n].kind, children.is_empty()) {
            (Kind::And, true) => Kind::True,
            (Kind::Or, true) => Kind::False,
            (kind, _) => kind,
        };
        made[n] = formula.push(kind, &children, origin);
    }
    formula.unreached = state.iter().filter(|s| **s == 0).count();
    Ok(formula)
}
