//! Fixing and renaming the symbolic sizes of a module, as the caller asks with `--shape` and `--max`.

use crate::{
    DimSpec, LoadOptions,
    error::{Errors, ImportError},
};
use kiln_ir::{Attr, Dim, Module, Symbol, SymbolFacts};
use std::{collections::BTreeMap, path::Path};

/// Applies the shapes and limits of `options` everywhere in the module. The result is to be verified again.
pub(crate) fn specialize(m: &mut Module, path: &Path, options: &LoadOptions, errors: &mut Errors) {
    let wanted = wanted(m, path, options, errors);
    let before = std::mem::take(&mut m.symbols);
    for facts in before {
        match wanted.get(&facts.symbol) {
            None => declare(m, facts, path, errors),
            Some(DimSpec::Symbol(name)) => declare(m, SymbolFacts { symbol: *name, ..facts }, path, errors),
            Some(DimSpec::Const(n)) => {
                let SymbolFacts { min, max, multiple_of, symbol } = facts;
                if *n < min || *n > max || n % multiple_of != 0 {
                    let multiple =
                        if multiple_of > 1 { format!(", a multiple of {multiple_of}") } else { String::new() };
                    let expected = format!("a size from {min} to {max}{multiple}");
                    errors.push(
                        ImportError::new(path, expected, n.to_string()).at(format!("--shape, dimension {symbol}")),
                    );
                }
            }
        }
    }
    if !wanted.is_empty() {
        substitute(m, &|s| {
            wanted.get(&s).map(|w| match w {
                DimSpec::Const(n) => Dim::from(*n),
                DimSpec::Symbol(name) => Dim::symbol(*name),
            })
        });
    }
    for (name, max) in &options.max {
        let declared = m.symbols.iter_mut().find(|s| s.symbol.name() == name);
        let place = format!("--max {name}");
        match declared {
            Some(s) if (s.min..=s.max).contains(max) => s.max = *max,
            Some(s) => {
                let expected = format!("a limit from {} to {}", s.min, s.max);
                errors.push(ImportError::new(path, expected, max.to_string()).at(place));
            }
            None => {
                let known: Vec<String> = m.symbols.iter().map(|s| s.symbol.to_string()).collect();
                let expected = if known.is_empty() {
                    "no limit, as no dimension is symbolic".to_string()
                } else {
                    format!("a symbolic dimension, one of {}", known.join(", "))
                };
                errors.push(ImportError::new(path, expected, name.as_str()).at("--max"));
            }
        }
    }
}

/// What each symbol becomes.
fn wanted(m: &Module, path: &Path, options: &LoadOptions, errors: &mut Errors) -> BTreeMap<Symbol, DimSpec> {
    let mut wanted: BTreeMap<Symbol, DimSpec> = BTreeMap::new();
    for (input, specs) in &options.shapes {
        let mut fail = |expected: String, found: String| {
            errors.push(ImportError::new(path, expected, found).at(format!("--shape {input}")));
        };
        let args = m.entries.iter().flat_map(|e| &m.regions[e.body].args);
        let named: Vec<_> = args.map(|a| (m.show(*a).trim_start_matches('%').to_string(), m.ty(*a))).collect();
        let mut found: Vec<_> = named.iter().filter(|(name, _)| name == input).map(|(_, ty)| *ty).collect();
        // Entries that share an input would say the same twice.
        found.sort();
        found.dedup();
        if found.is_empty() {
            let mut known: Vec<&str> = named.iter().map(|(n, _)| n.as_str()).collect();
            known.sort_unstable();
            known.dedup();
            fail(format!("an input, one of {}", known.join(", ")), input.clone());
        }
        for ty in found {
            if ty.rank() != specs.len() {
                fail(format!("{} sizes for {ty}", ty.rank()), specs.len().to_string());
                continue;
            }
            for (dim, spec) in ty.dims.iter().zip(specs) {
                let symbol = dim.symbols().first().copied().filter(|s| *dim == Dim::symbol(*s));
                match (symbol, spec) {
                    (Some(symbol), spec) => {
                        let known = wanted.entry(symbol).or_insert_with(|| spec.clone());
                        if known != spec {
                            fail(format!("one size for {symbol} in all inputs"), format!("{known} and {spec}"));
                        }
                    }
                    (None, DimSpec::Const(n)) if dim.is(*n) => {}
                    (None, spec) => fail(format!("{dim}, which the model fixes"), spec.to_string()),
                }
            }
        }
    }
    wanted
}

/// Adds a symbol; two that get one name keep what holds for both.
fn declare(m: &mut Module, facts: SymbolFacts, path: &Path, errors: &mut Errors) {
    let Some(known) = m.symbols.iter_mut().find(|s| s.symbol == facts.symbol) else {
        m.symbols.push(facts);
        return;
    };
    known.min = known.min.max(facts.min);
    known.max = known.max.min(facts.max);
    if known.min > known.max || known.multiple_of != facts.multiple_of {
        let found = format!("dimension {} for two that differ", known.symbol);
        errors.push(ImportError::new(path, "names of dimensions whose ranges meet", found).at("--shape"));
    }
}

fn substitute(m: &mut Module, with: &dyn Fn(Symbol) -> Option<Dim>) {
    let all = |dims: &[Dim]| -> Vec<Dim> { dims.iter().map(|d| d.substitute(with)).collect() };
    for value in m.values.values_mut() {
        value.ty.dims = all(&value.ty.dims);
    }
    for accepts in m.entries.iter_mut().flat_map(|e| e.accepts.values_mut()) {
        *accepts = accepts.substitute(with);
    }
    for state in m.states.values_mut() {
        state.ty.dims = all(&state.ty.dims);
    }
    for node in m.nodes.values_mut() {
        let changed: Vec<(&'static str, Attr)> = node
            .attrs
            .iter()
            .filter_map(|(name, attr)| match attr {
                Attr::Dim(d) => Some((name, Attr::Dim(d.substitute(with)))),
                Attr::Dims(d) => Some((name, Attr::Dims(all(d)))),
                Attr::Int(_)
                | Attr::Bool(_)
                | Attr::Float(_)
                | Attr::Ints(_)
                | Attr::Elem(_)
                | Attr::Word(_)
                | Attr::Name(_) => None,
            })
            .collect();
        for (name, attr) in changed {
            node.attrs.set(name, attr);
        }
    }
}
