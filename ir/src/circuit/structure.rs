//! Circuits against their vtree.

use super::{Circuit, Kind, Property, Violation};
use cranelift_entity::EntityRef;

impl Circuit {
    /// For each node the lowest vtree node that covers its variables. A product with several children may split along
    /// several vtree nodes at once.
    ///
    /// # Errors
    /// The first node that does not fit: there is no vtree, a variable has no leaf in it, or children of a product have
    /// variables on both sides of one split.
    pub fn vtree_nodes(&self) -> Result<Vec<u32>, Violation> {
        let violation = |node, message| Violation { property: Property::Structured, node, message };
        let Some(vtree) = &self.vtree else {
            return Err(violation(self.root(), "the circuit has no vtree".into()));
        };
        let mut of: Vec<u32> = Vec::with_capacity(self.len());
        let mut intervals = vec![];
        for n in self.nodes() {
            if let Kind::Input { var, .. } = self.kind(n) {
                let missing = || violation(n, format!("{}: column {var} has no leaf in the vtree", self.place(n)));
                of.push(vtree.leaf(var).ok_or_else(missing)?);
                continue;
            }
            let children = self.children(n);
            if matches!(self.kind(n), Kind::Product(_)) && children.len() > 1 {
                intervals.clear();
                intervals.extend(children.iter().map(|c| vtree.interval(of[c.index()])));
                intervals.sort_unstable();
                if let Some(w) = intervals.windows(2).find(|w| w[1].0 < w[0].1) {
                    let var = vtree.order()[w[1].0 as usize];
                    let message = format!(
                        "{}: the product does not split its variables as the vtree does, near column {var}",
                        self.place(n)
                    );
                    return Err(violation(n, message));
                }
            }
            let first = of[children[0].index()];
            of.push(children[1..].iter().fold(first, |v, c| vtree.common(v, of[c.index()])));
        }
        Ok(of)
    }
}
