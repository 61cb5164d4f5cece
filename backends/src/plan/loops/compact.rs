//! Loops that end for each row by itself: what of outside their rows are, and the memory that has those still running.

use super::build::Parts;
use crate::plan::{
    layout::{Layout, coalesce},
    planner::{Planner, View},
    rows::Tile,
};
use kiln_ir::{Dim, Node};
use kiln_kernels::region::{Compact, Place, Rows};

/// What becomes a [`Compact`].
pub(super) struct Compaction {
    lengths: Option<Rows>,
    home: Vec<Rows>,
    kept: Vec<(Rows, Place)>,
    slices: Vec<(Rows, Place)>,
    stacked: Vec<(Place, Rows)>,
    /// What the body stacks.
    outputs: Vec<View>,
}

impl Compaction {
    pub(super) fn finish(self, reverse: bool) -> Compact {
        let Compaction { lengths, home, kept, slices, stacked, .. } = self;
        Compact { lengths, home, kept, slices, stacked, reverse }
    }
}

/// The runs of neighbours that a row is, apart from an axis: how many, how far apart, and of how many elements; nothing
/// if they are not equally far apart.
fn runs(view: &View, axis: Option<usize>) -> Option<[Dim; 3]> {
    let layout = axis.map_or(view.layout.clone(), |a| view.layout.drop_axis(a));
    let mut row = [layout.drop_axis(0)];
    coalesce(&mut row, &[]);
    let [Layout { dims, strides, .. }] = row;
    match (dims.as_slice(), strides.as_slice()) {
        ([], _) => Some([1.into(), 0.into(), 1.into()]),
        ([n], [s]) if s.is(1) => Some([1.into(), 0.into(), n.clone()]),
        ([n], [s]) => Some([n.clone(), s.clone(), 1.into()]),
        ([runs, n], [apart, s]) if s.is(1) => Some([runs.clone(), apart.clone(), n.clone()]),
        _ => None,
    }
}

impl Planner<'_> {
    /// The axis along which result `n` of a loop is stacked.
    fn stacked_axis(&self, parts: &Parts, n: usize) -> Option<usize> {
        parts.scan.as_ref().filter(|_| n >= parts.inits.len()).map(|s| s.axis)
    }

    /// Where the results of a loop are written: where they are wanted, if rows can be.
    pub(super) fn destinations(&mut self, node: Node, tile: Option<&Tile>) -> Vec<View> {
        let parts = self.parts(node);
        let moves = tile.is_some() && self.is_by_rows(node);
        let results = self.m.nodes[node].results.clone();
        let place = |(n, result)| {
            let place = self.output(result);
            let fits = !moves || runs(&place, self.stacked_axis(&parts, n)).is_some();
            if fits { place } else { self.scratch(place.elem, &place.layout.dims.clone()) }
        };
        results.into_iter().enumerate().map(place).collect()
    }

    /// Copies what is read by rows that are no runs.
    pub(super) fn rows_in_order(&mut self, node: Node, tile: Option<&Tile>) {
        let Some(tile) = tile.filter(|_| self.is_by_rows(node)) else { return };
        let scan = self.parts(node).scan;
        let slices = scan.iter().flat_map(|s| s.inputs.iter().map(|v| (*v, Some(s.axis))));
        let reads = tile.reads.iter().map(|(outer, _)| (*outer, None));
        for (value, axis) in slices.chain(reads) {
            let view = self.view(value);
            if runs(&view, axis).is_none() {
                let copy = self.packed(&view);
                self.bind(value, copy);
            }
        }
    }

    pub(super) fn compaction(&mut self, node: Node, parts: &Parts, now: &[View]) -> Compaction {
        let lengths = parts.scan.as_ref().and_then(|s| s.lengths).map(|lengths| {
            let view = self.view(lengths);
            let view = self.rows_of(&view);
            self.rows(&view, 0.into(), false)
        });
        let results = &self.m.nodes[node].results;
        let home = results.iter().zip(now).map(|(result, view)| {
            let place = self.output(*result);
            let place = self.fit(&place, &view.layout.dims);
            self.rows(&place, 0.into(), true)
        });
        let home = home.collect();
        let mut kept = vec![];
        let tiles = self.tiles.clone();
        for (_, inner) in tiles.get(&node).iter().flat_map(|t| &t.reads) {
            let view = self.view(*inner);
            if !view.layout.strides[0].is(0) {
                let local = self.scratch(view.elem, &view.layout.dims.clone());
                self.touch(&[], &[&local]);
                kept.push((self.rows(&view, 0.into(), false), self.local(&local)));
                self.bind(*inner, local);
            }
        }
        Compaction { lengths, home, kept, slices: vec![], stacked: vec![], outputs: vec![] }
    }

    /// Binds the body's slices to memory that has those of the rows still running; gives where it stacks theirs.
    pub(super) fn compact_slices(&mut self, node: Node, parts: &Parts, to: &mut Compaction) -> Vec<View> {
        let m = self.m;
        let Some(scan) = &parts.scan else { return vec![] };
        for (arg, input) in m.regions[parts.body].args.iter().zip(&scan.inputs) {
            let view = self.view(*input);
            let rows = self.rows_along(&view, scan.axis, false);
            let local = self.scratch(view.elem, &m.ty(*arg).dims);
            self.touch(&[], &[&local]);
            to.slices.push((rows, self.local(&local)));
            self.bind(*arg, local);
        }
        let yielded = &m.regions[parts.body].results;
        for (result, value) in m.nodes[node].results.iter().zip(yielded).skip(parts.inits.len()) {
            let place = self.output(*result);
            let rows = self.rows_along(&place, scan.axis, true);
            let local = self.scratch(place.elem, &m.ty(*value).dims);
            to.stacked.push((self.local(&local), rows));
            to.outputs.push(local);
        }
        to.outputs.clone()
    }

    /// Notes that what the body stacks is read at its end.
    pub(super) fn stack(&mut self, compaction: &Compaction) {
        self.touch(&compaction.outputs.iter().collect::<Vec<_>>(), &[]);
    }

    fn local(&mut self, view: &View) -> Place {
        self.inner_place(view, true)
    }

    /// The rows of a view that has an axis of positions.
    fn rows_along(&mut self, view: &View, axis: usize, written: bool) -> Rows {
        let position = view.layout.strides[axis].clone() * Dim::from(view.elem.bytes() as i64);
        let slice = view.with(view.layout.drop_axis(axis));
        let slice = self.rows_of(&slice);
        self.rows(&slice, position, written)
    }

    fn rows(&mut self, view: &View, position: Dim, written: bool) -> Rows {
        let bytes = |d: &Dim| d.clone() * Dim::from(view.elem.bytes() as i64);
        let [runs, apart, length] = runs(view, None).unwrap_or_else(|| [0, 0, 0].map(Dim::from));
        Rows {
            first: self.inner_place(view, written),
            row: bytes(&view.layout.strides[0]),
            position,
            runs,
            apart: bytes(&apart),
            bytes: bytes(&length),
        }
    }
}
