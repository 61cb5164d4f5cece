//! `.sdd`: `sdd N`, constants `F id` and `T id`, literals `L id vtree lit`, decisions `D id vtree k (prime sub){k}`. The
//! root is the last node.

use super::{
    logic::{Formula, Kind, Weights},
    nodes,
    text::{Result, Text},
};
use kiln_ir::circuit::Origin;
use std::collections::HashMap;

pub(super) fn read(text: &mut Text<'_>, weights: &mut Weights) -> Result<Formula> {
    let Some(mut head) = text.content_after(|f| weights.comment(f))? else {
        return Err(text.error("`sdd`", "the end of the file"));
    };
    if head.word() != Some(b"sdd") {
        return Err(head.error("`sdd`", "another beginning"));
    }
    let declared = head.natural("the number of nodes")?;
    head.end()?;
    let mut formula = Formula::default();
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    let mut terms = vec![];
    while let Some(mut f) = text.content_after(|f| weights.comment(f))? {
        let letter = f.word().unwrap_or_default();
        if !matches!(letter, b"F" | b"T" | b"L" | b"D") {
            let found = crate::error::shown(&String::from_utf8_lossy(letter));
            return Err(f.error("a node, which begins with F, T, L or D", format!("`{found}`")));
        }
        let id = f.natural("the number of the node")?;
        let origin = Origin::line(id, f.number);
        if matches!(letter, b"L" | b"D") {
            f.natural("the number of a vtree node")?;
        }
        let node = match letter {
            b"D" => {
                terms.clear();
                for _ in 0..f.count(2)? {
                    let mut child = || -> Result<u32> {
                        let id = f.natural("the number of a node")?;
                        let known = numbers.get(&id).copied();
                        known.ok_or_else(|| f.error("the number of a node on a line above", id.to_string()))
                    };
                    let pair = [child()?, child()?];
                    terms.push(formula.push(Kind::And, &pair, origin));
                }
                let kind = if terms.is_empty() { Kind::False } else { Kind::Or };
                formula.push(kind, &terms, origin)
            }
            b"L" => {
                let (var, positive) = f.literal("a literal, which is a variable or its negative")?;
                formula.push(Kind::Literal { var, positive }, &[], origin)
            }
            b"T" => formula.push(Kind::True, &[], origin),
            _ => formula.push(Kind::False, &[], origin),
        };
        f.end()?;
        if numbers.insert(id, node).is_some() {
            return Err(f.error("a number that no other node has", id.to_string()));
        }
        if formula.len() + formula.edges() > nodes::MAX_SIZE {
            return Err(f.error(format!("at most {} nodes and edges", nodes::MAX_SIZE), "more"));
        }
    }
    if numbers.len() != declared as usize {
        return Err(text.error(format!("{declared} nodes, as the header says"), numbers.len().to_string()));
    }
    Ok(formula)
}
