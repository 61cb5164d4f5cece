//! `.psdd`: literals `L id vtree lit`, Bernoullis `T id vtree var logp`, decisions `D id vtree k (prime sub logw){k}`.
//!
//! The number of the header is not to be relied on. `T` has `ln P(var = 1)`, or in another dialect `ln P(var = 0)` and
//! `ln P(var = 1)`. Numbers are in no order; the root is the last node. Each element becomes a product.

use super::{
    nodes::{self, Numbers},
    text::{Result, Text},
};
use kiln_ir::circuit::{Builder, Circuit, Distribution, Domain, Origin, TOLERANCE};

pub(super) fn read(text: &mut Text<'_>, name: &str, notes: &mut Vec<String>) -> Result<Circuit> {
    let mut b = Builder::new(name, vec![]);
    let mut numbers = Numbers::default();
    let (mut root, mut products, mut weights) = (None, vec![], vec![]);
    let Some(mut head) = text.content()? else { return Err(text.error("`psdd`", "the end of the file")) };
    if head.word() != Some(b"psdd") {
        return Err(head.error("`psdd`", "another beginning"));
    }
    while let Some(mut f) = text.content()? {
        let letter = f.word().unwrap_or_default();
        if !matches!(letter, b"L" | b"T" | b"D") {
            let found = crate::error::shown(&String::from_utf8_lossy(letter));
            return Err(f.error("a node, which begins with L, T or D", format!("`{found}`")));
        }
        let id = f.fresh(&numbers)?;
        let origin = Origin::line(id, f.number);
        f.natural("the number of a vtree node")?;
        let node = match letter {
            b"L" => {
                let (var, sign) = f.literal("a literal, which is a variable or its negative")?;
                f.end()?;
                f.built(b.declare(var, Domain::Discrete(2)))?;
                b.input(var, Distribution::Indicator { value: u32::from(sign) }, origin)
            }
            b"T" => {
                let var = f.variable()?;
                f.built(b.declare(var, Domain::Discrete(2)))?;
                let first = f.log_probability("a log-probability")?;
                let distribution = if f.remaining() > 0 {
                    let positive = f.log_probability("a log-probability")?;
                    f.end()?;
                    let sum = first.exp() + positive.exp();
                    if (sum - 1.0).abs() > TOLERANCE {
                        let expected = "log-probabilities of false and true that add up to 1";
                        return Err(f.error(expected, format!("a sum of {sum}")));
                    }
                    Distribution::Categorical { log_p: vec![first, positive] }
                } else {
                    Distribution::bernoulli(first.min(0.0))
                };
                b.input(var, distribution, origin)
            }
            _ => {
                let elements = f.count(3)?;
                products.clear();
                weights.clear();
                for _ in 0..elements {
                    let pair = [f.child(&numbers)?, f.child(&numbers)?];
                    weights.push(f.log_probability("a log-weight")?);
                    products.push(f.built(b.product(&pair, origin))?);
                }
                b.sum(&products, &weights, origin)
            }
        };
        let node = f.built(node)?;
        f.bounded(&b)?;
        numbers.set(id, node);
        root = Some(node);
    }
    let Some(root) = root else { return Err(text.error("a node", "the end of the file")) };
    Ok(nodes::finish(b, root, notes))
}
