//! Circuits as text:
//!
//! ```text
//! circuit @c vars=[2,17,real] deterministic {
//!   n0 = indicator var=0 value=1
//!   n1 = categorical var=1 log=[-0.5, -inf]
//!   n2 = product n0, n1
//!   n3 = sum n2 log=-0.25, n0 log=0.0
//!   vtree {
//!     v0 = leaf 0
//!     v1 = leaf 1
//!     v2 = inner v0, v1
//!   }
//! }
//! ```

use super::{Circuit, Distribution, Kind, VtreeNode};
use crate::{attr::float_text, text::at_text};
use std::fmt;

struct Floats<'a>(&'a [f64]);

impl fmt::Display for Floats<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (n, x) in self.0.iter().enumerate() {
            write!(f, "{}{}", if n > 0 { ", " } else { "" }, float_text(*x))?;
        }
        f.write_str("]")
    }
}

/// As an item of a module.
impl fmt::Display for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  circuit {} vars=[", at_text(&self.name))?;
        for (n, d) in self.variables.iter().enumerate() {
            write!(f, "{}{d}", if n > 0 { "," } else { "" })?;
        }
        writeln!(f, "]{} {{", if self.deterministic { " deterministic" } else { "" })?;
        for n in self.nodes() {
            write!(f, "    {n} = ")?;
            match self.kind(n) {
                Kind::Input { var, dist } => {
                    let d = self.distribution(dist);
                    write!(f, "{} var={var} ", d.name())?;
                    let text = |x: f64| float_text(x);
                    match d {
                        Distribution::Indicator { value } => write!(f, "value={value}")?,
                        Distribution::Categorical { log_p } => write!(f, "log={}", Floats(log_p))?,
                        Distribution::Binomial { trials, log_p } => write!(f, "trials={trials} log={}", text(*log_p))?,
                        Distribution::Gaussian { mean, std } => write!(f, "mean={} std={}", text(*mean), text(*std))?,
                        Distribution::Histogram { breaks, log_density } => {
                            write!(f, "breaks={} log={}", Floats(breaks), Floats(log_density))?;
                        }
                        Distribution::Logistic { mean, scale, values } => {
                            write!(f, "mean={} scale={} values={values}", text(*mean), text(*scale))?;
                        }
                    }
                }
                Kind::Product(children) => {
                    f.write_str("product")?;
                    for (i, c) in children.iter().enumerate() {
                        write!(f, "{} {c}", if i > 0 { "," } else { "" })?;
                    }
                }
                Kind::Sum(children, weights) => {
                    f.write_str("sum")?;
                    for (i, (c, w)) in children.iter().zip(weights).enumerate() {
                        write!(f, "{} {c} log={}", if i > 0 { "," } else { "" }, float_text(*w))?;
                    }
                }
            }
            f.write_str("\n")?;
        }
        if let Some(vtree) = &self.vtree {
            writeln!(f, "    vtree {{")?;
            for (n, node) in vtree.nodes().iter().enumerate() {
                match node {
                    VtreeNode::Leaf { var } => writeln!(f, "      v{n} = leaf {var}")?,
                    VtreeNode::Inner { left, right } => writeln!(f, "      v{n} = inner v{left}, v{right}")?,
                }
            }
            writeln!(f, "    }}")?;
        }
        writeln!(f, "  }}")
    }
}
