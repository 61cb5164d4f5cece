//! Juice's `.jpc` text: literals `L`, indicators `I`, categoricals `C`, binomials `B`, products `P`, sums `S`.
//!
//! `L id vtree lit`, `I id vtree var value`, `C id vtree var logp+` (value 0 first), `B id vtree var trials logp`,
//! `P id vtree k child{k}`, `S id vtree k (child logw){k}`. Numbers count from 0, children before parents, as many as the
//! header says; variables count from 1.

use super::{
    nodes::{self, Numbers},
    text::{Fields, Result, Text},
};
use kiln_ir::circuit::{BuildError, Builder, Circuit, Distribution, Domain, NodeId, Origin};

pub(super) fn read(text: &mut Text<'_>, name: &str, notes: &mut Vec<String>) -> Result<Circuit> {
    let mut b = Builder::new(name, vec![]);
    let mut numbers = Numbers::default();
    let mut root = None;
    let Some(mut head) = text.content()? else { return Err(text.error("`jpc`", "the end of the file")) };
    if head.word() != Some(b"jpc") {
        return Err(head.error("`jpc`", "another beginning"));
    }
    let declared = head.natural("the number of nodes")?;
    head.end()?;
    let mut count = 0;
    while let Some(mut f) = text.content()? {
        let node = node(&mut f, &mut b, &numbers, count)?;
        let node = f.built(node)?;
        f.bounded(&b)?;
        numbers.set(count, node);
        count += 1;
        root = Some(node);
    }
    if count != declared {
        return Err(text.error(format!("{declared} nodes, as the header says"), count.to_string()));
    }
    let Some(root) = root else { return Err(text.error("a node", "the end of the file")) };
    Ok(nodes::finish(b, root, notes))
}

fn node(
    f: &mut Fields<'_>,
    b: &mut Builder,
    numbers: &Numbers,
    count: u32,
) -> Result<std::result::Result<NodeId, BuildError>> {
    let letter = f.word().unwrap_or_default();
    if !matches!(letter, b"L" | b"I" | b"C" | b"B" | b"P" | b"S") {
        let found = crate::error::shown(&String::from_utf8_lossy(letter));
        return Err(f.error("a node, which begins with L, I, C, B, P or S", format!("`{found}`")));
    }
    let id = f.fresh(numbers)?;
    if id != count {
        return Err(f.error(format!("node {count}, as nodes are numbered in order"), format!("node {id}")));
    }
    let origin = Origin::line(id, f.number);
    f.natural("the number of a vtree node")?;
    let input = |f: &Fields<'_>, b: &mut Builder, var: u32, k: u32, d: Distribution| {
        f.built(b.declare(var, Domain::Discrete(k)))?;
        Ok(b.input(var, d, origin))
    };
    match letter {
        b"L" => {
            let (var, sign) = f.literal("a literal, which is a variable or its negative")?;
            f.end()?;
            input(f, b, var, 2, Distribution::Indicator { value: u32::from(sign) })
        }
        b"I" => {
            let (var, value) = (f.variable()?, f.natural("a value")?);
            f.end()?;
            input(f, b, var, value + 1, Distribution::Indicator { value })
        }
        b"C" => {
            let var = f.variable()?;
            let log_p =
                (0..f.remaining()).map(|_| f.log_probability("a log-probability")).collect::<Result<Vec<_>>>()?;
            input(f, b, var, log_p.len() as u32, Distribution::Categorical { log_p })
        }
        b"B" => {
            let (var, trials) = (f.variable()?, f.natural("a number of trials")?);
            let log_p = f.log_probability("a log-probability")?.min(0.0);
            f.end()?;
            input(f, b, var, trials + 1, Distribution::Binomial { trials, log_p })
        }
        b"P" => {
            let children = (0..f.count(1)?).map(|_| f.child(numbers)).collect::<Result<Vec<_>>>()?;
            Ok(b.product(&children, origin))
        }
        _ => {
            let (mut children, mut weights) = (vec![], vec![]);
            for _ in 0..f.count(2)? {
                children.push(f.child(numbers)?);
                weights.push(f.log_probability("a log-weight")?);
            }
            Ok(b.sum(&children, &weights, origin))
        }
    }
}
