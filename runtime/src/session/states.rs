//! What the states of a session hold. One that grows has memory for its capacity, of which runs see and append to the
//! part that is held; what lies behind it is rubbish. A run that fails leaves that part as it is.

use crate::error::{Error, Result};
use crate::format::{Change, Entry, Growth, Manifest, State};

/// A state that a bound entry uses.
pub(super) struct Bound {
    pub(super) state: usize,
    /// What it holds as the run starts; 0 for one that does not grow.
    pub(super) held: i64,
    /// What it holds as the run ends.
    pub(super) then: i64,
    /// Whether the run leaves it as zeros.
    pub(super) clears: bool,
}

/// The states of an entry that grow, with what they hold.
pub(super) fn growing<'a>(
    manifest: &'a Manifest,
    entry: &'a Entry,
    held: &'a [i64],
) -> impl Iterator<Item = (&'a State, Growth, i64)> {
    entry.states.iter().filter_map(|used| {
        let state = &manifest.states[used.state as usize];
        Some((state, state.grows?, held[used.state as usize]))
    })
}

/// Refuses what would not fit into a state, given the values of the symbols.
pub(super) fn check_room(manifest: &Manifest, entry: &Entry, held: &[i64], symbols: &[i64]) -> Result<()> {
    for used in &entry.states {
        let state = &manifest.states[used.state as usize];
        let (Change::Append(size), Some(growth)) = (&used.change, state.grows) else { continue };
        let error = |source| Error::Size { what: format!("state {}", state.name), source };
        let asked = size.eval_size(symbols).map_err(error)?;
        let capacity = state.dims[growth.axis as usize].eval_size(&[]).map_err(error)?;
        let held = held[used.state as usize];
        if asked > capacity - held {
            return Err(Error::StateFull { state: state.name.clone(), capacity, held, asked });
        }
    }
    Ok(())
}

/// The states of an entry for a run with these values of the symbols.
pub(super) fn bind(manifest: &Manifest, entry: &Entry, held: &[i64], symbols: &[i64]) -> Result<Vec<Bound>> {
    let bound = |used: &crate::format::StateUse| {
        let (state, grows) = (used.state as usize, manifest.states[used.state as usize].grows.is_some());
        let held = held[state];
        let then = match &used.change {
            Change::None => held,
            Change::Append(size) => {
                let what = || format!("state {}", manifest.states[state].name);
                held + size.eval_size(symbols).map_err(|source| Error::Size { what: what(), source })?
            }
            Change::Reset => 0,
        };
        Ok(Bound { state, held, then, clears: used.change == Change::Reset && !grows })
    };
    entry.states.iter().map(bound).collect()
}
