//! SPNC's `.bin`: a Cap'n Proto message `Header { model | query }` with nodes in any order, by number.

use super::{
    capnp::{Fault, Message, Struct},
    nodes::{self, Numbers},
};
use crate::error::ImportError;
use kiln_ir::circuit::{Builder, Circuit, Distribution, Domain, MAX_VALUES, NodeId, Origin};
use std::{collections::HashMap, path::Path};

const PRODUCT: u16 = 0;
const SUM: u16 = 1;
const HISTOGRAM: u16 = 2;
const GAUSSIAN: u16 = 3;
const CATEGORICAL: u16 = 4;

/// `SPFlowMetaType.real`.
const META_REAL: u16 = 0;

struct Node<'m, 'a> {
    id: i32,
    kind: u16,
    whole: Struct<'m, 'a>,
    body: Struct<'m, 'a>,
    children: Vec<i32>,
}

struct Reader<'p> {
    path: &'p Path,
}

impl Reader<'_> {
    fn error(&self, at: usize, expected: impl Into<String>, found: impl Into<String>) -> ImportError {
        ImportError::new(self.path, expected, found).at(format!("byte {at}"))
    }

    fn fault(&self, f: Fault) -> ImportError {
        self.error(f.at, f.expected, f.found)
    }
}

pub(super) fn read(path: &Path, bytes: &[u8], name: &str, notes: &mut Vec<String>) -> Result<Circuit, ImportError> {
    let r = Reader { path };
    let message = Message::new(bytes).map_err(|f| r.fault(f))?;
    let header = message.root().map_err(|f| r.fault(f))?;
    let model = match header.u16(0) {
        0 => header.child(0),
        1 => header.child(0).and_then(|query| query.child(0)).and_then(|joint| joint.child(0)),
        other => return Err(r.error(header.offset(), "a model or a query", format!("kind {other}"))),
    };
    let model = model.map_err(|f| r.fault(f))?;
    let features = model.i32(4);
    let list = model.structs(3).map_err(|f| r.fault(f))?;
    let (mut all, mut index) = (vec![], HashMap::new());
    for whole in list {
        let (id, kind) = (whole.i32(0), whole.u16(6));
        let body = whole.child(0).map_err(|f| r.fault(f))?;
        let children = match kind {
            PRODUCT | SUM => body.i32s(0).map_err(|f| r.fault(f))?,
            HISTOGRAM | GAUSSIAN | CATEGORICAL => vec![],
            other => return Err(r.error(whole.offset(), "a kind of node from 0 to 4", other.to_string())),
        };
        if id < 0 || index.insert(id, all.len()).is_some() {
            return Err(r.error(whole.offset(), "a number that no other node has, from 0", id.to_string()));
        }
        all.push(Node { id, kind, whole, body, children });
    }
    let root = model.i32(0);
    let Some(root) = index.get(&root).copied() else {
        return Err(r.error(model.offset(), "the number of a node as root", root.to_string()));
    };
    let order = order(&r, &all, &index, root)?;
    let mut b = Builder::new(name, vec![]);
    declare(&r, &all, &order, features, &mut b)?;
    let mut numbers = Numbers::default();
    let mut last = None;
    for n in &order {
        let made = node(&r, &all[*n], &mut b, &numbers)?;
        numbers.set(all[*n].id as u32, made);
        last = Some(made);
    }
    if all.len() > order.len() {
        notes.push(format!("left out: {} nodes that the root does not reach", all.len() - order.len()));
    }
    let Some(root) = last else { return Err(r.error(model.offset(), "a node", "none")) };
    Ok(nodes::finish(b, root, notes))
}

/// The nodes below the root, children first.
fn order(
    r: &Reader<'_>,
    all: &[Node<'_, '_>],
    index: &HashMap<i32, usize>,
    root: usize,
) -> Result<Vec<usize>, ImportError> {
    // 0 not seen, 1 on the way from the root, 2 done.
    let mut state = vec![0u8; all.len()];
    let (mut order, mut stack) = (vec![], vec![root]);
    while let Some(n) = stack.last().copied() {
        match state[n] {
            0 => state[n] = 1,
            1 => {
                state[n] = 2;
                order.push(n);
                stack.pop();
                continue;
            }
            _ => {
                stack.pop();
                continue;
            }
        }
        let at = all[n].whole.offset();
        for id in all[n].children.iter().rev() {
            let Some(child) = index.get(id) else {
                return Err(r.error(at, "the numbers of nodes as children", id.to_string()));
            };
            match state[*child] {
                0 => stack.push(*child),
                1 => return Err(r.error(at, "nodes that are not below themselves", format!("node {id}"))),
                _ => {}
            }
        }
    }
    Ok(order)
}

/// Finds the domain of each variable: histograms over whole numbers and categoricals make it discrete.
fn declare(
    r: &Reader<'_>,
    all: &[Node<'_, '_>],
    order: &[usize],
    features: i32,
    b: &mut Builder,
) -> Result<(), ImportError> {
    let mut domains: HashMap<u32, (Domain, usize)> = HashMap::new();
    for n in order {
        let Node { kind, whole, body, .. } = &all[*n];
        if matches!(*kind, PRODUCT | SUM) {
            continue;
        }
        let at = whole.offset();
        let var = scope(*kind, body);
        if var < 0 || var >= features {
            return Err(r.error(at, format!("one of {features} variables"), var.to_string()));
        }
        let domain = match *kind {
            GAUSSIAN => Domain::Real,
            CATEGORICAL => Domain::Discrete(body.f64s(0).map_err(|f| r.fault(f))?.len() as u32),
            _ => {
                let breaks = body.i32s(0).map_err(|f| r.fault(f))?;
                let last = breaks.last().copied().unwrap_or(0);
                let counts = body.u16(2) != META_REAL && breaks.first().is_some_and(|b| *b >= 0);
                if counts && (1..=MAX_VALUES as i32).contains(&last) {
                    Domain::Discrete(last as u32)
                } else {
                    Domain::Real
                }
            }
        };
        let known = domains.entry(var as u32).or_insert((domain, at));
        known.0 = match (known.0, domain) {
            (Domain::Discrete(x), Domain::Discrete(y)) => Domain::Discrete(x.max(y)),
            _ => Domain::Real,
        };
    }
    let mut vars: Vec<_> = domains.into_iter().collect();
    vars.sort_unstable_by_key(|(var, _)| *var);
    for (var, (domain, at)) in vars {
        b.declare(var, domain).map_err(|e| r.error(at, e.expected, e.found))?;
    }
    // Features that nothing depends on still have a column.
    if let Ok(last) = u32::try_from(features - 1)
        && b.variables().len() <= last as usize
    {
        b.declare(last, Domain::Real).map_err(|e| r.error(0, e.expected, e.found))?;
    }
    Ok(())
}

fn scope(kind: u16, body: &Struct<'_, '_>) -> i32 {
    match kind {
        HISTOGRAM => body.i32(4),
        GAUSSIAN => body.i32(16),
        _ => body.i32(0),
    }
}

fn node(r: &Reader<'_>, n: &Node<'_, '_>, b: &mut Builder, numbers: &Numbers) -> Result<NodeId, ImportError> {
    let Node { id, kind, whole, body, children } = n;
    let at = whole.offset();
    let origin = Origin::offset(*id as u32, u32::try_from(at).unwrap_or(u32::MAX));
    let logs = |n: usize, what: &str| -> Result<Vec<f64>, ImportError> {
        let list = body.f64s(n).map_err(|f| r.fault(f))?;
        match list.iter().find(|p| !(**p >= 0.0 && p.is_finite())) {
            Some(p) => Err(r.error(at, what, p.to_string())),
            None => Ok(list.iter().map(|p| p.ln()).collect()),
        }
    };
    let var = scope(*kind, body) as u32;
    let made = match *kind {
        PRODUCT | SUM => {
            // All children stand before their parents, as `order` gives them.
            let children: Vec<NodeId> = children.iter().filter_map(|c| numbers.get(*c as u32)).collect();
            if *kind == PRODUCT {
                b.product(&children, origin)
            } else {
                b.sum(&children, &logs(1, "weights of at least 0")?, origin)
            }
        }
        HISTOGRAM => {
            let breaks = body.i32s(0).map_err(|f| r.fault(f))?.into_iter().map(f64::from).collect();
            let log_density = logs(1, "densities of at least 0")?;
            b.input(var, Distribution::Histogram { breaks, log_density }, origin)
        }
        GAUSSIAN => b.input(var, Distribution::Gaussian { mean: body.f64(0), std: body.f64(8) }, origin),
        _ => b.input(var, Distribution::Categorical { log_p: logs(0, "probabilities of at least 0")? }, origin),
    };
    let made = made.map_err(|e| r.error(at, e.expected, e.found))?;
    if b.size() > nodes::MAX_SIZE {
        return Err(r.error(at, format!("at most {} nodes and edges", nodes::MAX_SIZE), "more"));
    }
    Ok(made)
}
