//! Conditions on sizes that only the inputs of a call decide.
//!
//! What cannot hold for any values of the symbols, the verifier refuses. What holds for some is a [`Condition`] of each call:
//! the interpreter meets it node by node, a plan carries it for the runtime, which asks before it computes.

use crate::{Dim, Entry, Module, Region};
use std::collections::HashSet;

/// A size that must not be negative.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    pub size: Dim,
    /// What asks for it, as errors say it: `%1 = slice: C2: 0..8 step 1 of size B`.
    pub asked_by: String,
}

/// The conditions of an entry's calls, in the order of its nodes, each size once.
pub fn conditions(m: &Module, entry: &Entry) -> Vec<Condition> {
    let mut found = Found { m, sizes: HashSet::new(), list: vec![] };
    found.region(entry.body);
    found.list
}

struct Found<'a> {
    m: &'a Module,
    sizes: HashSet<Dim>,
    list: Vec<Condition>,
}

impl Found<'_> {
    fn add(&mut self, size: &Dim, asked_by: impl FnOnce() -> String) {
        if size.range(&self.m.symbols).0 < 0 && self.sizes.insert(size.clone()) {
            self.list.push(Condition { size: size.clone(), asked_by: asked_by() });
        }
    }

    fn region(&mut self, region: Region) {
        let m = self.m;
        for value in &m.regions[region].args {
            m.ty(*value).dims.iter().for_each(|d| self.add(d, || format!("{}: {}", m.show(*value), m.ty(*value))));
        }
        for node in &m.regions[region].nodes {
            let (cx, data) = (m.cx(*node), &m.nodes[*node]);
            // A node of a verified module has types.
            let types = (data.op.def().infer)(&cx).unwrap_or_default();
            for asked in cx.asked.into_inner() {
                self.add(&asked.size, || format!("{}: {}", m.place(*node), asked.asked_by));
            }
            types
                .iter()
                .for_each(|ty| ty.dims.iter().for_each(|d| self.add(d, || format!("{}: {ty}", m.place(*node)))));
            data.regions.iter().for_each(|inner| self.region(*inner));
        }
    }
}
