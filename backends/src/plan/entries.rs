//! What an entry must be, whatever it computes: it gives something, and its inputs decide its sizes.

use super::{Unsupported, state::growing_axis};
use kiln_ir::{Attr, Dim, Entry, Module, Region, Symbol, SymbolFacts, Value};
use kiln_runtime::format::MAX_EXTENT;
use std::collections::BTreeSet;

/// What keeps the module from being planned apart from its nodes.
pub(super) fn refusals(m: &Module) -> Vec<Unsupported> {
    let refusal = |node: String, reason: String| Unsupported { node, source: None, reason };
    if m.entries.is_empty() {
        return vec![refusal(format!("module @{}", m.name), "it has no entry".into())];
    }
    let mut found = vec![];
    for entry in &m.entries {
        let place = || format!("entry @{}", entry.name);
        if entry.outputs.is_empty() && !has_effect(m, entry.body) {
            found.push(refusal(place(), "it has no output".into()));
        }
        for (value, bytes) in too_large(m, entry.body) {
            let reason = format!("{} takes at least {bytes} bytes, more than {MAX_EXTENT}", m.ty(value));
            found.push(refusal(m.show(value), reason));
        }
        for symbol in free(m, entry) {
            let reason = format!("nothing decides {symbol}: no input has an axis whose size is just {symbol}");
            found.push(refusal(place(), reason));
        }
    }
    found
}

/// The values of a region and of those inside that no machine can hold, with the fewest bytes that each takes.
fn too_large(m: &Module, region: Region) -> Vec<(Value, i64)> {
    let data = &m.regions[region];
    let results = data.nodes.iter().flat_map(|n| &m.nodes[*n].results);
    let bytes = |v: &Value| (m.ty(*v).elements() * Dim::from(m.ty(*v).elem.bytes() as i64)).range(&m.symbols).0;
    let mut found: Vec<(Value, i64)> = data.args.iter().chain(results).map(|v| (*v, bytes(v))).collect();
    found.retain(|(_, bytes)| *bytes > MAX_EXTENT);
    found.extend(data.nodes.iter().flat_map(|n| &m.nodes[*n].regions).flat_map(|inner| too_large(m, *inner)));
    found
}

fn has_effect(m: &Module, region: Region) -> bool {
    m.regions[region].nodes.iter().any(|n| {
        let data = &m.nodes[*n];
        data.op.has_effect() || data.regions.iter().any(|r| has_effect(m, *r))
    })
}

/// The symbols of an entry that stand alone in no size of an input or of a state that it uses, and have more than one
/// value.
fn free(m: &Module, entry: &Entry) -> Vec<Symbol> {
    let mut used = BTreeSet::new();
    symbols(m, entry.body, &mut used);
    used.extend(entry.accepts.values().flat_map(kiln_ir::Accepts::symbols));
    let inputs = || m.regions[entry.body].args.iter().flat_map(|v| &m.ty(*v).dims);
    let held: Vec<Symbol> = m
        .states_in(entry.body)
        .iter()
        .filter_map(|s| {
            let state = &m.states[*s];
            state.ty.dims[growing_axis(state)?].as_symbol()
        })
        .collect();
    let is_fixed = |f: &SymbolFacts| f.min == f.max;
    let is_bound = |s: &Symbol| {
        held.contains(s)
            || inputs().any(|d| d.as_symbol() == Some(*s))
            || m.symbols.iter().any(|f| f.symbol == *s && is_fixed(f))
    };
    used.into_iter().filter(|s| !is_bound(s)).collect()
}

/// The symbols in the types and attributes of a region and of those inside.
fn symbols(m: &Module, region: Region, found: &mut BTreeSet<Symbol>) {
    let data = &m.regions[region];
    let mut add = |dims: &[Dim]| found.extend(dims.iter().flat_map(Dim::symbols));
    data.args.iter().chain(&data.results).for_each(|v| add(&m.ty(*v).dims));
    for node in data.nodes.iter().map(|n| &m.nodes[*n]) {
        node.results.iter().for_each(|v| add(&m.ty(*v).dims));
        for (_, attr) in node.attrs.iter() {
            match attr {
                Attr::Dim(d) => add(std::slice::from_ref(d)),
                Attr::Dims(d) => add(d),
                Attr::Int(_) | Attr::Bool(_) | Attr::Float(_) | Attr::Ints(_) => {}
                Attr::Elem(_) | Attr::Word(_) | Attr::Name(_) => {}
            }
        }
    }
    for inner in data.nodes.iter().flat_map(|n| &m.nodes[*n].regions) {
        symbols(m, *inner, found);
    }
}
