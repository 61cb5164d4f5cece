//! What must hold in a manifest and its plans before a session relies on it.
//!
//! The writer checks the same, so that a compiler's mistake shows where it was made.

use super::expr::MAX_OPS;
use super::{
    Accepts, Arg, Change, Count, Entry, Growth, Kernel, MAX_KEY_LEN, Manifest, Plan, SizeExpr, StateUse, Step,
    TensorMap,
};
use crate::error::{Error, Result};
use std::collections::BTreeSet;

/// How deep `if`, `while` and `for` may stand in each other.
pub const MAX_NESTING: usize = 64;
const MAX_RANK: usize = 16;
/// The most tensors, numbers and limits of loops that a launch hands to its kernel.
pub const MAX_ARGS: usize = 1024;
/// The most threads of a block of a GPU's grid.
const MAX_BLOCK: u32 = 1024;
/// The most bytes of shared memory of a block: more than any device has.
const MAX_SHARED: u32 = 1 << 20;

/// Checks names, ranks, formulas and symbols.
pub fn check_manifest(manifest: &Manifest) -> Result<()> {
    let check = || -> Result<(), String> {
        unique("symbol", manifest.symbols.iter().map(|s| s.name.as_str()))?;
        for s in &manifest.symbols {
            if s.min < 0 || s.max < s.min || s.multiple_of < 1 {
                let (min, max, multiple) = (s.min, s.max, s.multiple_of);
                return Err(format!("symbol {} has the range {min}..={max} in steps of {multiple}", s.name));
            }
        }
        unique("entry", manifest.entries.iter().map(|e| e.name.as_str()))?;
        for entry in &manifest.entries {
            check_entry(manifest, entry).map_err(|e| format!("entry {}: {e}", entry.name))?;
        }
        unique("state", manifest.states.iter().map(|s| s.name.as_str()))?;
        for state in &manifest.states {
            let formed = state.dims.len() <= MAX_RANK && state.dims.iter().all(|d| d.eval_size(&[]).is_ok());
            if !formed {
                return Err(format!("state {} has no constant size", state.name));
            }
            if let Some(Growth { axis, symbol }) = state.grows
                && (axis as usize >= state.dims.len() || symbol as usize >= manifest.symbols.len())
            {
                return Err(format!("state {} grows by symbol {symbol} along axis {axis}", state.name));
            }
        }
        unique("target", manifest.targets.iter().map(|t| t.name.as_str()))?;
        for target in &manifest.targets {
            let bad = target.kernels.iter().find(|k| k.symbol.is_empty() || k.symbol.contains('\0'));
            if let Some(k) = bad {
                return Err(format!("target {} has a kernel with the symbol {:?}", target.name, k.symbol));
            }
            for k in &target.kernels {
                let well = match k.grid {
                    None => !target.level.is_gpu(),
                    Some(grid) => {
                        let threads = (1..=MAX_BLOCK).contains(&grid.threads);
                        let tasks = (1..=MAX_BLOCK).contains(&grid.block_tasks);
                        target.level.is_gpu() && threads && tasks && grid.shared_bytes <= MAX_SHARED
                    }
                };
                if !well {
                    return Err(format!("target {}, kernel {}: the grid {:?}", target.name, k.symbol, k.grid));
                }
                if !k.maps.iter().all(|map| target.level.is_gpu() && is_map(map, manifest.symbols.len())) {
                    return Err(format!("target {}, kernel {}: the tensor maps {:?}", target.name, k.symbol, k.maps));
                }
            }
        }
        Ok(())
    };
    check().map_err(|problem| Error::malformed("manifest", problem))
}

/// Whether a tensor map is one that a driver could take.
fn is_map(map: &TensorMap, symbols: usize) -> bool {
    let rank = map.dims.len();
    (1..=5).contains(&rank)
        && (map.strides.len() + 1, map.tile.len()) == (rank, rank)
        && map.dims.iter().chain(&map.strides).chain([&map.offset]).all(|size| size.is_well_formed(symbols))
        && map.tile.iter().all(|n| (1..=256).contains(n))
        && map.elem.size() == 2
}

fn check_entry(manifest: &Manifest, entry: &Entry) -> Result<(), String> {
    unique("input", entry.inputs.iter().map(|p| p.name.as_str()))?;
    unique("output", entry.outputs.iter().map(|p| p.name.as_str()))?;
    let mut used = BTreeSet::new();
    for StateUse { state, change } in &entry.states {
        let Some(declared) = manifest.states.get(*state as usize).filter(|_| used.insert(*state)) else {
            return Err(format!("uses state {state} of {} again, or one that there is not", manifest.states.len()));
        };
        if let Change::Append(size) = change {
            check_expr(manifest, entry, size).map_err(|e| format!("state {}: {e}", declared.name))?;
            if declared.grows.is_none() {
                return Err(format!("appends to state {}, which does not grow", declared.name));
            }
        }
    }
    for port in entry.inputs.iter().chain(&entry.outputs) {
        let at = |e: String| format!("{}: {e}", port.name);
        if port.dims.len() > MAX_RANK {
            return Err(at(format!("{} dimensions, at most {MAX_RANK}", port.dims.len())));
        }
        for dim in &port.dims {
            check_expr(manifest, entry, dim).map_err(at)?;
        }
        if let Some(Accepts::Range { max, .. }) = &port.accepts {
            check_expr(manifest, entry, max).map_err(at)?;
        }
    }
    entry
        .conditions
        .iter()
        .try_for_each(|c| check_expr(manifest, entry, &c.size).map_err(|e| format!("a condition: {e}")))
}

fn check_expr(manifest: &Manifest, entry: &Entry, expr: &SizeExpr) -> Result<(), String> {
    if !expr.is_well_formed(manifest.symbols.len()) {
        return Err(format!("the size formula is not well formed, or longer than {MAX_OPS} operations"));
    }
    let free = expr.symbols().find(|s| !is_bound(manifest, entry, *s));
    match free {
        Some(s) => Err(format!("no input or state has a dimension that is just {}", manifest.symbols[s as usize].name)),
        None => Ok(()),
    }
}

fn is_bound(manifest: &Manifest, entry: &Entry, symbol: u32) -> bool {
    let s = &manifest.symbols[symbol as usize];
    let holds = |used: &StateUse| manifest.states.get(used.state as usize).and_then(|s| s.grows);
    let held = || entry.states.iter().filter_map(holds).any(|grows| grows.symbol == symbol);
    s.min == s.max || held() || entry.inputs.iter().any(|p| p.dims.iter().any(|d| d.as_symbol() == Some(symbol)))
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.is_empty() || name.len() > MAX_KEY_LEN {
            return Err(format!("a {what} has a name of {} bytes", name.len()));
        }
        if !seen.insert(name) {
            return Err(format!("two {what}s have the name {name}"));
        }
    }
    Ok(())
}

/// Checks one target's plans: one for each entry, in order, with every reference inside what it refers to.
pub fn check_plans(manifest: &Manifest, target: usize, plans: &[Plan], weights_len: u64) -> Result<()> {
    let place = format!("plans {target}");
    if plans.len() != manifest.entries.len() || plans.iter().enumerate().any(|(i, p)| p.entry as usize != i) {
        return Err(Error::malformed(place, "expected one plan for each entry, in order"));
    }
    for (plan, entry) in plans.iter().zip(&manifest.entries) {
        let checker = Checker { manifest, entry, kernels: &manifest.targets[target].kernels, weights_len };
        checker.plan(plan).map_err(|e| Error::malformed(&place, format!("entry {}: {e}", entry.name)))?;
    }
    Ok(())
}

struct Checker<'a> {
    manifest: &'a Manifest,
    entry: &'a Entry,
    kernels: &'a [Kernel],
    weights_len: u64,
}

impl Checker<'_> {
    fn plan(&self, plan: &Plan) -> Result<(), String> {
        self.expr(&plan.arena_bytes)?;
        self.expr(&plan.scratch_bytes)?;
        if plan.blocks.is_empty() {
            return Err("no block".to_owned());
        }
        // Blocks refer only to later ones, so one pass in order sees the deepest nesting of each before its steps.
        let mut depth = vec![0usize; plan.blocks.len()];
        for (b, block) in plan.blocks.iter().enumerate() {
            for (s, step) in block.steps.iter().enumerate() {
                let at = |e: String| format!("block {b}, step {s}: {e}");
                self.step(step).map_err(at)?;
                for inner in inner_blocks(step).into_iter().flatten() {
                    let inner = inner as usize;
                    if inner <= b || inner >= plan.blocks.len() {
                        return Err(at(format!("refers to block {inner} of {}", plan.blocks.len())));
                    }
                    depth[inner] = depth[inner].max(depth[b] + 1);
                    if depth[inner] > MAX_NESTING {
                        return Err(at(format!("stands more than {MAX_NESTING} deep")));
                    }
                }
            }
        }
        Ok(())
    }

    fn step(&self, step: &Step) -> Result<(), String> {
        match step {
            Step::Launch { kernel, args, sizes, tasks, limits } => {
                let Some(of) = self.kernels.get(*kernel as usize) else {
                    return Err(format!("kernel {kernel} of {}", self.kernels.len()));
                };
                if let Some(map) = of.maps.iter().find(|map| map.arg as usize >= args.len()) {
                    return Err(format!("a tensor map of argument {} of {}", map.arg, args.len()));
                }
                if [args.len(), sizes.len(), limits.len()].iter().any(|n| *n > MAX_ARGS) {
                    return Err(format!("more than {MAX_ARGS} arguments"));
                }
                args.iter().try_for_each(|a| self.arg(a))?;
                sizes.iter().chain(limits).chain([tasks]).try_for_each(|e| self.expr(e))
            }
            Step::If { cond, .. } => self.arg(cond),
            Step::While { cond, max, label, .. } => {
                if label.len() > MAX_KEY_LEN {
                    return Err(format!("a loop has a label of {} bytes", label.len()));
                }
                self.arg(cond).and_then(|()| self.expr(max))
            }
            Step::For { count, index, .. } => {
                match count {
                    Count::Size(e) => self.expr(e)?,
                    Count::Scalar(a) => self.arg(a)?,
                }
                match index {
                    Some(Arg::Weight { .. } | Arg::Input { .. }) => {
                        Err("a loop's index is read-only memory".to_owned())
                    }
                    Some(a) => self.arg(a),
                    None => Ok(()),
                }
            }
        }
    }

    fn arg(&self, arg: &Arg) -> Result<(), String> {
        let (what, index, count, offset) = match arg {
            Arg::Weight { offset } if *offset <= self.weights_len => return Ok(()),
            Arg::Weight { offset } => return Err(format!("weight at {offset} of {}", self.weights_len)),
            Arg::Arena { offset } => return self.expr(offset),
            Arg::Input { index, offset } => ("input", *index, self.entry.inputs.len(), offset),
            Arg::Output { index, offset } => ("output", *index, self.entry.outputs.len(), offset),
            Arg::State { index, offset } => ("state", *index, self.manifest.states.len(), offset),
        };
        if index as usize >= count {
            return Err(format!("{what} {index} of {count}"));
        }
        self.expr(offset)
    }

    fn expr(&self, expr: &SizeExpr) -> Result<(), String> {
        check_expr(self.manifest, self.entry, expr)
    }
}

fn inner_blocks(step: &Step) -> [Option<u32>; 2] {
    match step {
        Step::Launch { .. } => [None, None],
        Step::If { then, otherwise, .. } => [Some(*then), Some(*otherwise)],
        Step::While { body, .. } | Step::For { body, .. } => [Some(*body), None],
    }
}
