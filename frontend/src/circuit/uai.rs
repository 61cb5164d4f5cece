//! `.uai`: Bayesian and Markov networks of small width, compiled to circuits by eliminating variables.
//!
//! `BAYES` or `MARKOV`, the number of variables, the sizes of their domains, the number of factors, a scope each
//! (`k var{k}`), then a table each (`size entry{size}`, the last variable of the scope fastest). A Markov network is
//! normalised: its circuit gives probabilities.
//!
//! Eliminating a variable multiplies the tables that have it and sums it out; entries of tables are nodes of the circuit
//! with a weight, so that what a dynamic program would compute is written down once, as a deterministic circuit.

use super::{
    nodes,
    text::{Fields, Result, Text},
};
use crate::error::{ImportError, shown};
use kiln_ir::circuit::{Builder, Circuit, Distribution, Domain, NodeId, Origin};
use std::{collections::BTreeSet, path::Path};

pub(super) const NAME: &str = "uai";
/// How far the rows of a table may be from adding up to 1, and the logarithm of all rows together from 0 for each
/// variable, as files write few digits.
pub(super) const ROUNDING: f64 = 1e-3;

/// Entries of one table, and factors of all terms of all sums.
const MAX_TABLE: usize = 1 << 20;
const MAX_TERMS: usize = 1 << 25;
const MAX_FACTORS: usize = 1 << 14;
const MAX_NETWORK: u32 = 1 << 14;

/// A table over variables, the last one fastest: a log-weight and the node that it is the weight of.
struct Table {
    scope: Vec<u32>,
    entries: Vec<(f64, Option<NodeId>)>,
}

/// The words of a file, across lines.
struct Words<'t, 'a> {
    text: &'t mut Text<'a>,
    /// The byte of the line behind the last word.
    at: usize,
}

impl Words<'_, '_> {
    /// The next word as `read` takes it.
    fn next<T>(&mut self, read: impl FnOnce(&mut Fields<'_>) -> Result<T>) -> Result<T> {
        loop {
            let mut f = self.text.fields_from(self.at);
            if f.peek().is_some() {
                let result = read(&mut f);
                self.at = self.text.position(&f);
                return result;
            }
            self.at = 0;
            if !self.text.advance()? {
                return Err(self.text.error("more numbers", "the end of the file"));
            }
        }
    }

    fn natural(&mut self, what: &str) -> Result<u32> {
        self.next(|f| f.natural(what))
    }
}

pub(super) fn read(text: &mut Text<'_>, name: &str, notes: &mut Vec<String>) -> Result<Circuit> {
    let path = text.path;
    let mut w = Words { text, at: 0 };
    let kind = w.next(|f| {
        let word = String::from_utf8_lossy(f.word().unwrap_or_default()).into_owned();
        let known = matches!(word.as_str(), "BAYES" | "MARKOV");
        if known { Ok(word) } else { Err(f.error("BAYES or MARKOV", format!("`{}`", shown(&word)))) }
    })?;
    let count = w.natural("the number of variables")?;
    if count > MAX_NETWORK {
        return Err(w.text.error(format!("at most {MAX_NETWORK} variables"), count.to_string()));
    }
    let mut b = Builder::new(name, vec![]);
    let mut sizes = vec![];
    for var in 0..count {
        let size = w.natural("the size of a domain")?;
        w.text.fields().built(b.declare(var, Domain::Discrete(size)))?;
        sizes.push(size);
    }
    let tables = tables(&mut w, &sizes)?;
    if kind == "BAYES" {
        notes.extend(heavy_rows(&tables, &sizes));
    }
    let end = w.next(|f| Err::<(), _>(f.error("the end of the file", "more")));
    if let Err(e) = end
        && e.expected == "the end of the file"
    {
        return Err(e);
    }
    compile(path, b, &sizes, tables, &kind, notes)
}

fn tables(w: &mut Words<'_, '_>, sizes: &[u32]) -> Result<Vec<Table>> {
    let factors = w.natural("the number of factors")? as usize;
    if factors > MAX_FACTORS {
        return Err(w.text.error(format!("at most {MAX_FACTORS} factors"), factors.to_string()));
    }
    let mut tables: Vec<Table> = vec![];
    for _ in 0..factors {
        let length = w.natural("the number of variables of a factor")? as usize;
        let mut scope: Vec<u32> = vec![];
        for _ in 0..length {
            let var = w.natural("a variable, counted from 0")?;
            if var as usize >= sizes.len() || scope.contains(&var) {
                let expected = format!("different variables below {}", sizes.len());
                return Err(w.text.error(expected, var.to_string()));
            }
            scope.push(var);
            if product(&scope, sizes).is_none() {
                return Err(w.text.error(format!("factors of at most {MAX_TABLE} entries"), "more"));
            }
        }
        tables.push(Table { scope, entries: vec![] });
    }
    for t in &mut tables {
        let entries = product(&t.scope, sizes).unwrap_or(0);
        let declared = w.natural("the number of entries")? as usize;
        if declared != entries {
            return Err(w
                .text
                .error(format!("{entries} entries, one for each row of the factor"), declared.to_string()));
        }
        for _ in 0..entries {
            let value = w.next(|f| {
                let value = f.float("a probability or a factor's value")?;
                if value < 0.0 { Err(f.error("a value of at least 0", value.to_string())) } else { Ok(value) }
            })?;
            t.entries.push((value.ln(), None));
        }
    }
    Ok(tables)
}

/// The rows of conditional probabilities that do not add up to 1; a table's last variable is the one that the others
/// condition.
fn heavy_rows(tables: &[Table], sizes: &[u32]) -> Option<String> {
    let mut wrong = tables.iter().enumerate().flat_map(|(factor, t)| {
        let values = t.scope.last().map_or(1, |v| sizes[*v as usize] as usize);
        let sums = t.entries.chunks(values.max(1)).map(|row| row.iter().map(|(log, _)| log.exp()).sum::<f64>());
        sums.enumerate().filter(|(_, sum)| (sum - 1.0).abs() > ROUNDING).map(move |(row, sum)| (factor, row, sum))
    });
    let (factor, row, sum) = wrong.next()?;
    let more = match wrong.count() {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    Some(format!(
        "not conditional probabilities: row {row} of factor {factor}, both from 0, adds up to {sum}, not 1{more}"
    ))
}

/// The number of rows over some variables; `None` above the largest.
fn product(scope: &[u32], sizes: &[u32]) -> Option<usize> {
    let rows = scope.iter().try_fold(1usize, |n, v| n.checked_mul(sizes[*v as usize] as usize));
    rows.filter(|n| *n <= MAX_TABLE)
}

fn compile(
    path: &Path,
    mut b: Builder,
    sizes: &[u32],
    mut tables: Vec<Table>,
    kind: &str,
    notes: &mut Vec<String>,
) -> Result<Circuit> {
    let wrong = |e: kiln_ir::circuit::BuildError| ImportError::new(path, e.expected, e.found);
    let mut terms = 0;
    let mut left: BTreeSet<u32> = (0..sizes.len() as u32).collect();
    let mut near: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); sizes.len()];
    for t in &tables {
        t.scope.iter().for_each(|v| near[*v as usize].extend(t.scope.iter().filter(|w| *w != v)));
    }
    let cost = |near: &BTreeSet<u32>| {
        let rows = near.iter().try_fold(1usize, |n, v| n.checked_mul(sizes[*v as usize] as usize));
        rows.unwrap_or(usize::MAX)
    };
    let mut costs: Vec<usize> = near.iter().map(cost).collect();
    // The variable whose elimination makes the smallest table, the first of equals.
    while let Some(var) = left.iter().copied().min_by_key(|v| costs[*v as usize]) {
        left.remove(&var);
        let scope: Vec<u32> = std::mem::take(&mut near[var as usize]).into_iter().collect();
        for v in &scope {
            let others = &mut near[*v as usize];
            others.extend(scope.iter().filter(|w| *w != v));
            others.remove(&var);
            costs[*v as usize] = cost(&near[*v as usize]);
        }
        let size = sizes[var as usize] as usize;
        let rows = product(&scope, sizes);
        let factors = tables.iter().filter(|t| t.scope.contains(&var)).count() + 1;
        terms += rows.map_or(MAX_TERMS, |r| r.saturating_mul(size).saturating_mul(factors));
        let Some(rows) = rows.filter(|_| terms < MAX_TERMS) else {
            let found = format!("one that needs a table over {} variables", scope.len() + 1);
            return Err(ImportError::new(path, "a network small enough to be compiled", found));
        };
        let indicators = (0..size as u32)
            .map(|value| b.input(var, Distribution::Indicator { value }, Origin::default()))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(wrong)?;
        let (with, without): (Vec<Table>, Vec<Table>) = tables.into_iter().partition(|t| t.scope.contains(&var));
        tables = without;
        let mut entries = Vec::with_capacity(rows);
        let mut at = vec![0u32; sizes.len()];
        for row in 0..rows {
            let mut rest = row;
            for v in scope.iter().rev() {
                at[*v as usize] = (rest % sizes[*v as usize] as usize) as u32;
                rest /= sizes[*v as usize] as usize;
            }
            let (mut children, mut weights) = (vec![], vec![]);
            for (value, indicator) in indicators.iter().enumerate() {
                at[var as usize] = value as u32;
                let (mut weight, mut factors) = (0.0, vec![*indicator]);
                for t in &with {
                    let index =
                        t.scope.iter().fold(0, |n, v| n * sizes[*v as usize] as usize + at[*v as usize] as usize);
                    let (w, node) = t.entries[index];
                    weight += w;
                    factors.extend(node);
                }
                if weight == f64::NEG_INFINITY {
                    continue;
                }
                children.push(match factors[..] {
                    [only] => only,
                    _ => b.product(&factors, Origin::default()).map_err(wrong)?,
                });
                weights.push(weight);
            }
            entries.push(match children[..] {
                [] => (f64::NEG_INFINITY, None),
                _ => {
                    // The largest weight stands apart, so that long products stay within range.
                    let top = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    weights.iter_mut().for_each(|w| *w -= top);
                    (top, Some(b.sum(&children, &weights, Origin::default()).map_err(wrong)?))
                }
            });
        }
        tables.push(Table { scope, entries });
    }
    let weight: f64 = tables.iter().map(|t| t.entries[0].0).sum();
    let factors: Vec<NodeId> = tables.iter().filter_map(|t| t.entries[0].1).collect();
    if weight == f64::NEG_INFINITY || factors.is_empty() {
        return Err(ImportError::new(path, "a network in which some row is possible", "none"));
    }
    let product = b.product(&factors, Origin::default()).map_err(wrong)?;
    let whole = b.sum(&[product], &[weight], Origin::default()).map_err(wrong)?;
    let (c, _) = b.clone().finish(whole);
    if kind == "BAYES" {
        return Ok(c);
    }
    let total = log_partition(&c);
    notes.push(format!("a Markov network, normalised: the logarithm of its partition function is {total}"));
    let root = b.sum(&[product], &[weight - total], Origin::default()).map_err(wrong)?;
    Ok(nodes::finish(b, root, notes))
}

/// The logarithm of the sum over all rows.
pub(super) fn log_partition(c: &Circuit) -> f64 {
    c.log_likelihood(&vec![f64::NAN; c.variables.len()])
}
