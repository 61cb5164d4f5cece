//! Groups nodes into `fusion`s, each of which one kernel computes.
//!
//! ```text
//!     %0 = add %x, %r : f32[2,3]                       %1 = fusion %x, %r, %g, %b body(%2, %3, %4, %5) {
//!     %1 = layer_norm %0 scale=%g bias=%b ..             %6 = add %2, %3 : f32[2,3]
//!                                                        %7 = layer_norm %6 scale=%4 bias=%5 ..
//!                                                        yield %7
//!                                                      } : f32[2,3]
//! ```
//!
//! A body is elementwise, or has one *anchor*: a product with elementwise ops on its result behind it, or a reduction or
//! normalisation with elementwise ops on its operand in front and on its result behind. A node joins the group of its
//! consumers when all of them are in one group, so nothing is computed twice, no group has two results, and no cycle can
//! arise. Groups grow from their result backwards.
//!
//! It must not fire on views, on what is known at weight time, on `attention`, `gather`, `topk`, `concat`, `pad`, `iota`,
//! where a value is needed outside of the group, where sizes differ (it would be computed several times), or where the
//! operands would be more than the target has vector registers for, or the nodes more than a kernel is quickly made of.

use crate::{
    Exactness, analysis, cost, edit,
    pass::{Context, Outcome, Pass, PassError},
    record::Rewrite,
};
use kiln_ir::{Attrs, Def, Dim, Module, Node, NodeData, Op, Region, Value};
use std::collections::{HashMap, HashSet};

pub(crate) static PASS: Pass = Pass {
    name: "fuse-groups",
    summary: "groups nodes that one kernel computes",
    class: Exactness::E0,
    required: false,
    run,
};

/// Registers that a kernel keeps for addresses, constants and intermediate values.
const KEPT_REGISTERS: u32 = 4;

/// The most nodes of a group: generating code takes longer than in proportion to the length of a body.
const MOST_NODES: usize = 512;

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    let mut changed = false;
    for region in edit::open_regions(m) {
        let known = analysis::weight_time(m);
        for group in form(m, cx, region, &known) {
            let Some(index) = cx.admit() else { continue };
            let place = analysis::place(m, group.names());
            let before = group.nodes.iter().map(|n| analysis::text(m, *n)).collect();
            let cost_before = cost::node_cycles(cx.target, m, &group.nodes, &known);
            let fusion = build(m, region, &group).map_err(|v| cx.broken("fuse", place.clone(), v))?;
            cx.fired(Rewrite {
                index,
                pass: cx.pass().into(),
                rule: "fuse".into(),
                place,
                before,
                after: vec![analysis::text(m, fusion)],
                cost_before,
                cost_after: cost_before - moved(m, cx, &group, fusion, cost_before, &known),
                class: Exactness::E0,
            });
            changed = true;
        }
    }
    Ok(Outcome { changed })
}

/// What an op is in a group.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Scalar,
    /// Elementwise ops may follow on its result.
    Product,
    /// Elementwise ops may also precede on its operand.
    Row,
    /// A kernel of its own, or none at all.
    Alone,
}

fn role(op: Op) -> Role {
    match op {
        Op::Linear | Op::Matmul | Op::Conv => Role::Product,
        Op::Reduce | Op::Argmax | Op::Softmax | Op::LogSoftmax | Op::LayerNorm | Op::RmsNorm | Op::L2Normalize => {
            Role::Row
        }
        _ if op.is_scalar() => Role::Scalar,
        _ => Role::Alone,
    }
}

/// A group under construction. Nodes stand in the order of execution reversed until it is closed.
struct Group {
    nodes: Vec<Node>,
    result: Node,
    anchor: Option<Node>,
    /// Nodes in front of the anchor.
    front: HashSet<Node>,
}

impl Group {
    fn new(m: &Module, node: Node) -> Group {
        let anchor = (role(m.nodes[node].op) != Role::Scalar).then_some(node);
        Group { nodes: vec![node], result: node, anchor, front: HashSet::new() }
    }

    /// The node whose source names the kernel.
    fn names(&self) -> Node {
        self.anchor.unwrap_or(self.result)
    }
}

/// Sizes without leading ones: two values of the same are computed in the same loop.
fn plane(dims: &[Dim]) -> &[Dim] {
    let leading = dims.iter().take_while(|d| d.is(1)).count();
    &dims[leading..]
}

fn form(m: &Module, cx: &Context<'_>, region: Region, known: &HashSet<Value>) -> Vec<Group> {
    let nodes = &m.regions[region].nodes;
    let mut users: HashMap<Value, Vec<Node>> = HashMap::new();
    for node in nodes {
        for v in analysis::uses_of(m, *node) {
            users.entry(v).or_default().push(*node);
        }
    }
    let results: HashSet<Value> = m.regions[region].results.iter().copied().collect();
    let largest = cx.target.vector_registers.saturating_sub(KEPT_REGISTERS) as usize;
    let mut groups: Vec<Group> = vec![];
    let mut group_of: HashMap<Node, usize> = HashMap::new();
    for node in nodes.iter().rev() {
        let data = &m.nodes[*node];
        if role(data.op) == Role::Alone || data.results.len() != 1 || known.contains(&data.result()) {
            continue;
        }
        let value = data.result();
        let used = users.get(&value).map_or(&[][..], Vec::as_slice);
        let home = used.first().and_then(|u| group_of.get(u).copied()).filter(|home| {
            !results.contains(&value)
                && used.iter().all(|u| group_of.get(u) == Some(home))
                && joins(m, &mut groups[*home], *node, used)
        });
        let home = home.filter(|home| {
            let nodes = &groups[*home].nodes;
            let fits = nodes.len() <= MOST_NODES && inputs(m, nodes).len() <= largest;
            if !fits {
                leave(&mut groups[*home], *node);
            }
            fits
        });
        let home = home.unwrap_or_else(|| {
            groups.push(Group::new(m, *node));
            groups.len() - 1
        });
        group_of.insert(*node, home);
    }
    groups.retain(|g| g.nodes.len() > 1);
    groups.reverse();
    for group in &mut groups {
        group.nodes.reverse();
    }
    groups
}

/// Adds the node in front of its users if the group may hold it.
fn joins(m: &Module, group: &mut Group, node: Node, users: &[Node]) -> bool {
    let data = &m.nodes[node];
    let dims = |v: Value| plane(&m.ty(v).dims);
    let (shape, result) = (dims(data.result()), dims(m.nodes[group.result].result()));
    let in_front = |u: &Node| group.front.contains(u);
    let feeds_anchor = |u: &Node| group.anchor == Some(*u);
    if users.iter().all(|u| !in_front(u) && !feeds_anchor(u)) {
        // Behind the anchor, or an anchor itself.
        let anchored = role(data.op) != Role::Scalar;
        if shape != result || (anchored && group.anchor.is_some()) {
            return false;
        }
        if anchored {
            group.anchor = Some(node);
        }
    } else {
        let Some(anchor) = group.anchor.filter(|_| users.iter().all(|u| in_front(u) || feeds_anchor(u))) else {
            return false;
        };
        let at = &m.nodes[anchor];
        // Scale and bias of a norm are read beside it, not computed in front of it.
        let is_operand = |v: Value| at.inputs().skip(1).all(|other| other != v);
        let rows = role(at.op) == Role::Row && role(data.op) == Role::Scalar;
        if !rows || shape != dims(at.operand(0)) || !is_operand(data.result()) {
            return false;
        }
        group.front.insert(node);
    }
    group.nodes.push(node);
    true
}

/// Takes the node that joined last out again.
fn leave(group: &mut Group, node: Node) {
    group.nodes.pop();
    group.front.remove(&node);
    if group.anchor == Some(node) {
        group.anchor = None;
    }
}

/// What nodes read from outside, in order of first use; scalar constants stand inside.
fn inputs(m: &Module, nodes: &[Node]) -> Vec<Value> {
    let inside: HashSet<Value> = nodes.iter().flat_map(|n| m.nodes[*n].results.clone()).collect();
    let mut found = vec![];
    for v in nodes.iter().flat_map(|n| m.nodes[*n].inputs()) {
        let number = matches!(m.values[v].def, Def::Const(_)) && m.ty(v).rank() == 0;
        if !number && !inside.contains(&v) && !found.contains(&v) {
            found.push(v);
        }
    }
    found
}

/// Puts the group into a body in place of its result, which keeps its name outside.
fn build(m: &mut Module, region: Region, group: &Group) -> Result<Node, kiln_ir::Violation> {
    let operands = inputs(m, &group.nodes);
    let types: Vec<_> = operands.iter().map(|v| (None, m.ty(*v).clone())).collect();
    let body = m.add_region(types);
    let inside: HashMap<Value, Value> = operands.iter().copied().zip(m.regions[body].args.clone()).collect();
    for node in &group.nodes {
        let NodeData { operands, .. } = &mut m.nodes[*node];
        for v in operands.iter_mut().flatten() {
            *v = inside.get(v).copied().unwrap_or(*v);
        }
    }
    let inner = m.nodes[group.result].result();
    m.regions[body].nodes = group.nodes.clone();
    m.regions[body].results = vec![inner];
    let source = m.nodes[group.names()].source.clone();
    let operands = operands.into_iter().map(Some).collect();
    let fusion = m.create_node(Op::Fusion, operands, Attrs::default(), vec![body], source)?;
    let outer = m.nodes[fusion].result();
    edit::swap_labels(m, inner, outer);
    let list = std::mem::take(&mut m.regions[region].nodes);
    m.regions[region].nodes = list
        .into_iter()
        .filter_map(|n| match n == group.result {
            true => Some(fusion),
            false => (!group.nodes.contains(&n)).then_some(n),
        })
        .collect();
    m.replace_uses(&HashMap::from([(inner, outer)]));
    m.regions[body].results = vec![inner];
    Ok(fusion)
}

/// Cycles that values cost which no longer leave the kernel.
fn moved(m: &Module, cx: &Context<'_>, group: &Group, fusion: Node, before: u64, known: &HashSet<Value>) -> u64 {
    let whole = cost::node_cycles(cx.target, m, &[fusion], known);
    let arithmetic: u64 = group.nodes.iter().map(|n| cost::arithmetic_cycles(cx.target, m, *n)).sum();
    before.saturating_sub(whole.saturating_add(arithmetic))
}
