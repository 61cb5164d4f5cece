//! Juice's `.spn` text: the sizes of the domains, `(2 2 3)`, then one node a line, numbered from 0, and `EOF`.
//!
//! `v var value` is an indicator, variables and values from 0; `* child+` a product; `+ (child logw)+` a sum. The root is
//! the last node.

use super::{
    nodes::{self, Numbers},
    text::{Fields, Result, Text},
};
use crate::error::shown;
use kiln_ir::circuit::{Builder, Circuit, Distribution, Domain, Origin};

pub(super) fn read(text: &mut Text<'_>, name: &str, notes: &mut Vec<String>) -> Result<Circuit> {
    let mut b = Builder::new(name, vec![]);
    let Some(head) = text.content()? else { return Err(text.error("sizes such as (2 2 2)", "the end of the file")) };
    sizes(head, &mut b)?;
    let mut numbers = Numbers::default();
    let (mut root, mut count, mut ended) = (None, 0, false);
    while let Some(mut f) = text.content()? {
        let origin = Origin::line(count, f.number);
        let (mut children, mut weights) = (vec![], vec![]);
        if ended {
            return Err(f.error("nothing behind EOF", "a line"));
        }
        let node = match f.word().unwrap_or_default() {
            b"EOF" => {
                ended = true;
                f.end()?;
                continue;
            }
            b"v" => {
                let (var, value) = (f.natural("a variable, counted from 0")?, f.natural("a value")?);
                f.end()?;
                b.input(var, Distribution::Indicator { value }, origin)
            }
            b"*" => {
                while f.peek().is_some() {
                    children.push(f.child(&numbers)?);
                }
                b.product(&children, origin)
            }
            b"+" => {
                while f.peek().is_some() {
                    children.push(f.child(&numbers)?);
                    weights.push(f.log_probability("a log-weight")?);
                }
                b.sum(&children, &weights, origin)
            }
            b"n" => {
                let e = f.error("a node, which begins with v, * or +", "`n`, a constant of Libra's .ac");
                return Err(e.help("write the weights beside the children of sums, as Juice does"));
            }
            other => {
                let found = shown(&String::from_utf8_lossy(other));
                return Err(f.error("a node, which begins with v, * or +", format!("`{found}`")));
            }
        };
        let node = f.built(node)?;
        f.bounded(&b)?;
        numbers.set(count, node);
        count += 1;
        root = Some(node);
    }
    match root {
        _ if !ended => Err(text.error("EOF behind the last node", "the end of the file")),
        None => Err(text.error("a node", "none")),
        Some(root) => Ok(nodes::finish(b, root, notes)),
    }
}

/// `(2 2 3)`, blanks inside of the parentheses or not.
fn sizes(mut f: Fields<'_>, b: &mut Builder) -> Result<()> {
    let mut line = vec![];
    while let Some(word) = f.word() {
        line.extend_from_slice(word);
        line.push(b' ');
    }
    let line = String::from_utf8_lossy(&line);
    let inner = line.trim().strip_prefix('(').and_then(|l| l.strip_suffix(')'));
    let inner = inner.ok_or_else(|| f.error("sizes such as (2 2 2)", format!("`{}`", shown(&line))))?;
    for (var, size) in inner.split_whitespace().enumerate() {
        let k: u32 = size.parse().map_err(|_| f.error("the size of a domain", format!("`{}`", shown(size))))?;
        f.built(b.declare(var as u32, Domain::Discrete(k)))?;
    }
    Ok(())
}
