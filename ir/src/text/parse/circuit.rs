//! Circuits.

use super::{Parser, Result};
use crate::{
    Attr,
    attr::AttrKind,
    circuit::{BuildError, Builder, Distribution, Domain, NodeId, Origin, Vtree, VtreeNode},
    text::lex::Token,
};

impl Parser<'_> {
    /// What follows the word `circuit`.
    pub(super) fn circuit(&mut self) -> Result<()> {
        let start = self.offset();
        let name = self.at_name("the circuit's @name")?;
        if self.m.circuit(&name).is_some() {
            return Err((start, format!("circuit @{name} stands twice")));
        }
        let mut b = Builder::new(name, vec![]);
        self.key("vars")?;
        self.expect("[")?;
        while !self.eat("]") {
            let (at, var) = (self.offset(), b.variables().len() as u32);
            if var > 0 {
                self.expect(",")?;
            }
            let domain = if self.is_word("real") {
                self.next();
                Domain::Real
            } else {
                Domain::Discrete(self.natural()?)
            };
            b.declare(var, domain).map_err(|e| (at, e.to_string()))?;
        }
        if self.is_word("deterministic") {
            self.next();
            b.set_deterministic(true);
        }
        self.expect("{")?;
        // Lines of the text, counted along.
        let (mut line, mut counted) = (self.text[..start].matches('\n').count() as u32 + 1, start);
        let mut used: Vec<bool> = vec![];
        let end = loop {
            let at = self.offset();
            if matches!(self.peek(), Token::Comment(_)) {
                self.next();
            } else if self.is_word("vtree") {
                self.next();
                let vtree = self.vtree()?;
                b.set_vtree(vtree);
                while matches!(self.peek(), Token::Comment(_)) {
                    self.next();
                }
                let end = self.offset();
                self.expect("}")?;
                break end;
            } else if self.eat("}") {
                break at;
            } else {
                line += self.text[counted..at].matches('\n').count() as u32;
                counted = at;
                let n = self.numbered('n')?;
                if n as usize != b.len() {
                    return Err((at, format!("expected n{}, nodes are numbered in order", b.len())));
                }
                self.expect("=")?;
                used.push(false);
                let origin = Origin::line(n, line);
                self.circuit_node(&mut b, origin, &mut used)?.map_err(|e| (at, e.to_string()))?;
            }
        };
        let Some(root) = used.len().checked_sub(1) else {
            return Err((end, "a circuit has at least one node".into()));
        };
        if let Some(n) = used[..root].iter().position(|u| !u) {
            return Err((end, format!("n{n} is no child of any node; the last node is the root")));
        }
        let (circuit, _) = b.finish(NodeId::from_u32(root as u32));
        self.m.circuits.push(circuit);
        Ok(())
    }

    /// One node from its word on; children are entered in `used`.
    fn circuit_node(
        &mut self,
        b: &mut Builder,
        origin: Origin,
        used: &mut [bool],
    ) -> Result<std::result::Result<NodeId, BuildError>> {
        let at = self.offset();
        let word = self.word("the kind of a node")?;
        let (mut children, mut weights) = (vec![], vec![]);
        if word == "product" || word == "sum" {
            loop {
                let child = self.numbered('n')?;
                if let Some(used) = used.get_mut(child as usize) {
                    *used = true;
                }
                children.push(NodeId::from_u32(child));
                if word == "sum" {
                    weights.push(self.keyed_float("log")?);
                }
                if !self.eat(",") {
                    break;
                }
            }
            return Ok(if word == "sum" { b.sum(&children, &weights, origin) } else { b.product(&children, origin) });
        }
        self.key("var")?;
        let var = self.natural()?;
        let distribution = match word.as_str() {
            "indicator" => Distribution::Indicator { value: self.keyed_natural("value")? },
            "categorical" => Distribution::Categorical { log_p: self.keyed_floats("log")? },
            "binomial" => {
                Distribution::Binomial { trials: self.keyed_natural("trials")?, log_p: self.keyed_float("log")? }
            }
            "gaussian" => Distribution::Gaussian { mean: self.keyed_float("mean")?, std: self.keyed_float("std")? },
            "histogram" => {
                let breaks = self.keyed_floats("breaks")?;
                Distribution::Histogram { breaks, log_density: self.keyed_floats("log")? }
            }
            "logistic" => Distribution::Logistic {
                mean: self.keyed_float("mean")?,
                scale: self.keyed_float("scale")?,
                values: self.keyed_natural("values")?,
            },
            other => return Err((at, format!("unknown kind of node `{other}`"))),
        };
        Ok(b.input(var, distribution, origin))
    }

    /// What follows the word `vtree`.
    fn vtree(&mut self) -> Result<Vtree> {
        let start = self.offset();
        self.expect("{")?;
        let mut nodes = vec![];
        while !self.eat("}") {
            if matches!(self.peek(), Token::Comment(_)) {
                self.next();
                continue;
            }
            let at = self.offset();
            if self.numbered('v')? as usize != nodes.len() {
                return Err((at, format!("expected v{}, nodes are numbered in order", nodes.len())));
            }
            self.expect("=")?;
            let at = self.offset();
            nodes.push(match self.word("leaf or inner")?.as_str() {
                "leaf" => VtreeNode::Leaf { var: self.natural()? },
                "inner" => {
                    let left = self.numbered('v')?;
                    self.expect(",")?;
                    VtreeNode::Inner { left, right: self.numbered('v')? }
                }
                other => return Err((at, format!("expected leaf or inner, found `{other}`"))),
            });
        }
        Vtree::new(nodes).map_err(|e| (start, e))
    }

    /// `n12`, say.
    fn numbered(&mut self, letter: char) -> Result<u32> {
        let number = match self.peek() {
            Token::Word(w) => w.strip_prefix(letter).and_then(|n| n.parse::<u32>().ok().filter(|v| v.to_string() == n)),
            _ => None,
        };
        // The largest number stands for none in the tables of ids.
        let Some(number) = number.filter(|n| *n < u32::MAX) else { return self.error(&format!("{letter}0 or such")) };
        self.next();
        Ok(number)
    }

    fn key(&mut self, name: &str) -> Result<()> {
        self.expect_word(name)?;
        self.expect("=")
    }

    fn natural(&mut self) -> Result<u32> {
        let at = self.offset();
        let n = self.int()?;
        u32::try_from(n).map_err(|_| (at, format!("{n} is not a 32-bit number")))
    }

    fn keyed_natural(&mut self, name: &str) -> Result<u32> {
        self.key(name)?;
        self.natural()
    }

    fn float(&mut self) -> Result<f64> {
        match self.attr(AttrKind::Float)? {
            Attr::Float(bits) => Ok(f64::from_bits(bits)),
            _ => self.error("a float"),
        }
    }

    fn keyed_float(&mut self, name: &str) -> Result<f64> {
        self.key(name)?;
        self.float()
    }

    fn keyed_floats(&mut self, name: &str) -> Result<Vec<f64>> {
        self.key(name)?;
        self.list(Self::float)
    }
}
