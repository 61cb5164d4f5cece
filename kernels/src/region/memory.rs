//! The memory of a task: what the loop keeps of its own, the pairs, the temporaries, and scratch of the kernels that it
//! calls, one behind the other.

use super::{Spec, compact};
use kiln_ir::Dim;

const ALIGN: i64 = 64;

pub(super) struct Layout<'s> {
    spec: &'s Spec,
    /// Rows of a tile, but for the last; 0 if there are no tiles.
    pub(super) tile: Dim,
}

impl<'s> Layout<'s> {
    pub(super) fn new(spec: &'s Spec, tile: Dim) -> Layout<'s> {
        Layout { spec, tile }
    }

    /// A size for a whole tile.
    pub(super) fn whole(&self, dim: &Dim) -> Dim {
        match &self.spec.tiles {
            Some(t) => dim.substitute(&|s| (s == t.symbol).then(|| self.tile.clone())),
            None => dim.clone(),
        }
    }

    pub(super) fn aligned(&self, bytes: &Dim) -> Dim {
        self.whole(bytes).ceil_div(&ALIGN.into()) * ALIGN.into()
    }

    /// The two places of each pair.
    pub(super) fn pairs(&self) -> Vec<[Dim; 2]> {
        let mut at = self.aligned(&compact::state_bytes(&self.tile));
        let pair = |bytes: &Dim| {
            let bytes = self.aligned(bytes);
            let pair = [at.clone(), at.clone() + bytes.clone()];
            at = at.clone() + bytes * 2.into();
            pair
        };
        self.spec.pairs.iter().map(pair).collect()
    }

    pub(super) fn locals(&self) -> Dim {
        let start = self.aligned(&compact::state_bytes(&self.tile));
        self.spec.pairs.iter().fold(start, |at, bytes| at + self.aligned(bytes) * 2.into())
    }

    /// The end of what is the loop's own.
    pub(super) fn scratch(&self) -> Dim {
        self.locals() + self.aligned(&self.spec.local_bytes)
    }
}
