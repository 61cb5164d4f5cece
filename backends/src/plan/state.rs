//! States: memory of the session, of which a plan sees the part that is held.

use super::{
    Buffer, Unsupported,
    layout::Layout,
    planner::{Planner, View},
};
use kiln_ir::{Dim, Module, Node, Op, StateData};

/// The axis along which a state grows.
pub(crate) fn growing_axis(state: &StateData) -> Option<usize> {
    state.grows.and_then(|a| usize::try_from(a).ok()).filter(|a| *a < state.ty.rank())
}

/// The sizes that a state has memory for.
pub(crate) fn capacity(state: &StateData) -> Vec<Dim> {
    let mut dims = state.ty.dims.clone();
    if let Some(axis) = growing_axis(state) {
        dims[axis] = state.capacity.into();
    }
    dims
}

/// The states that no session can hold: memory for them is asked for before any input is there.
pub(super) fn refusals(m: &Module) -> Vec<Unsupported> {
    let problem = |state: &StateData| {
        let axis = growing_axis(state);
        if let Some(size) = axis.map(|a| &state.ty.dims[a]).filter(|size| size.as_symbol().is_none()) {
            return Some(format!("the axis along which it grows has the size {size}, not just a symbol"));
        }
        let symbolic = capacity(state).into_iter().find(|size| size.as_const().is_none())?;
        Some(format!("its size {symbolic} is not constant, so its memory is not known before a call"))
    };
    let states = m.states.values().filter_map(|state| Some((state, problem(state)?)));
    states.map(|(s, reason)| Unsupported { node: format!("state @{}", s.name), source: None, reason }).collect()
}

impl Planner<'_> {
    /// `state.read`, `state.append` and `state.reset`. What a reset does is the session's.
    pub(super) fn state(&mut self, node: Node) {
        let m = self.m;
        let data = &m.nodes[node];
        let Some((mut held, _)) = self.state_of(node).filter(|_| data.op != Op::StateReset) else { return };
        if let (Op::StateAppend, Some(place)) = (data.op, self.appended(node)) {
            self.settle(data.operand(0), &place);
        }
        let result = data.result();
        held.layout.dims = m.ty(result).dims.clone();
        self.found(result, held);
    }

    /// Where what is appended to a state goes.
    pub(super) fn appended(&self, node: Node) -> Option<View> {
        let (view, axis) = self.state_of(node)?;
        let (axis, start) = axis?;
        let end = &self.m.ty(self.m.nodes[node].result()).dims[axis];
        Some(view.with(view.layout.slice(axis, &start, end, 1)))
    }

    /// The memory of the state that a node names; the axis by which it grows, and what it holds along that.
    fn state_of(&self, node: Node) -> Option<(View, Option<(usize, Dim)>)> {
        let name = self.m.nodes[node].attrs.name("state")?;
        let (index, state) = self.m.states.values().enumerate().find(|(_, s)| s.name == name)?;
        let layout = Layout::contiguous(&capacity(state));
        let view = View { buffer: Buffer::State(index as u32), elem: state.ty.elem, layout };
        Some((view, growing_axis(state).map(|axis| (axis, state.ty.dims[axis].clone()))))
    }
}
