//! What nodes cost: in arithmetic and bytes as size expressions, and in estimated cycles on a target.
//!
//! Cycles serve to compare two ways to compute the same. Symbols stand at [`TYPICAL`] or the nearest value that they may
//! take. What is known at weight time costs next to nothing, and a view costs little, as most become strides.

use crate::analysis;
use kiln_ir::{Dim, Module, Node, Op, SymbolFacts, Target, Type, Value, attr::Attrs, ops::Cx};
use std::collections::HashSet;

/// The size at which symbols are compared.
pub(crate) const TYPICAL: i64 = 32;
/// Cycles to start a kernel.
const LAUNCH: u64 = 500;
/// Bytes that one core moves in a cycle.
const BYTES_PER_CYCLE: u64 = 8;
/// How many times slower a direct convolution is than a packed product of the same arithmetic.
const DIRECT_CONV: u64 = 4;

/// Arithmetic operations and bytes moved by a whole module, and its nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Totals {
    pub nodes: usize,
    pub flops: Dim,
    pub bytes: Dim,
}

/// Sums over all entries. What is computed at weight time and views that need no copy count as nodes only.
pub fn totals(m: &Module) -> Totals {
    let known = analysis::weight_time(m);
    let counts = |node: Node| {
        let data = &m.nodes[node];
        let view = matches!(data.op, Op::Reshape | Op::Broadcast | Op::Slice);
        !view && (data.results.is_empty() || data.results.iter().any(|r| !known.contains(r)))
    };
    let (mut flops, mut bytes) = (Dim::from(0), Dim::from(0));
    for entry in &m.entries {
        let cost = kiln_ir::cost::region_of(m, entry.body, &counts);
        (flops, bytes) = (flops + cost.flops, bytes + cost.bytes);
    }
    Totals { nodes: m.live_nodes().len(), flops, bytes }
}

/// A size at typical values of the symbols, at least zero.
pub(crate) fn typical(d: &Dim, symbols: &[SymbolFacts]) -> u64 {
    let at = |s| {
        let f = symbols.iter().find(|f: &&SymbolFacts| f.symbol == s)?;
        let step = f.multiple_of.max(1);
        let near = TYPICAL.clamp(f.min, f.max);
        Some((near / step * step).max(f.min))
    };
    d.eval(&at).and_then(|v| u64::try_from(v).ok()).unwrap_or(1 << 40)
}

/// Estimated cycles of one node; `weight_time` says that nothing of it happens at run time.
pub(crate) fn cycles(target: &Target, cx: &Cx<'_>, results: &[Type], weight_time: bool) -> u64 {
    if weight_time {
        return 1;
    }
    let moved = |t: &Type| typical(&t.elements(), cx.symbols).saturating_mul(t.elem.bytes() as u64);
    let bytes = cx.operands.iter().flatten().chain(results).fold(0u64, |n, t| n.saturating_add(moved(t)));
    match cx.op {
        Op::Reshape | Op::Broadcast | Op::Slice => return 1,
        // One in several becomes a copy.
        Op::Transpose => return 1 + bytes / (8 * BYTES_PER_CYCLE),
        _ => {}
    }
    let flops = typical(&(cx.op.def().flops)(cx, results), cx.symbols);
    let (arithmetic, traffic) = match cx.op {
        Op::Conv => (flops.saturating_mul(DIRECT_CONV), bytes),
        // Without a packed weight both operands are packed first.
        Op::Matmul => (flops, bytes.saturating_mul(2)),
        _ => (flops, bytes),
    };
    LAUNCH.saturating_add(arithmetic / per_cycle(target)).saturating_add(traffic / BYTES_PER_CYCLE)
}

/// [`cycles`] of nodes of a module together; `known` are the values of weight time.
pub(crate) fn node_cycles(target: &Target, m: &Module, nodes: &[Node], known: &HashSet<Value>) -> u64 {
    let of = |node: &Node| {
        let results: Vec<Type> = m.nodes[*node].results.iter().map(|v| m.ty(*v).clone()).collect();
        cycles(target, &m.cx(*node), &results, m.nodes[*node].results.iter().all(|v| known.contains(v)))
    };
    nodes.iter().map(of).fold(0, u64::saturating_add)
}

/// [`cycles`] from types alone.
pub(crate) fn op_cycles(
    target: &Target,
    symbols: &[SymbolFacts],
    op: Op,
    operands: Vec<Option<Type>>,
    attrs: &Attrs,
    result: &Type,
    weight_time: bool,
) -> u64 {
    let cx = Cx { op, operands, attrs, regions: vec![], symbols, module: None, asked: Default::default() };
    cycles(target, &cx, std::slice::from_ref(result), weight_time)
}

/// The part of [`cycles`] that is arithmetic.
pub(crate) fn arithmetic_cycles(target: &Target, m: &Module, node: Node) -> u64 {
    repeated_arithmetic_cycles(target, m, node, 1)
}

/// [`arithmetic_cycles`] of many runs of a node.
pub(crate) fn repeated_arithmetic_cycles(target: &Target, m: &Module, node: Node, times: u64) -> u64 {
    let results: Vec<Type> = m.nodes[node].results.iter().map(|v| m.ty(*v).clone()).collect();
    let flops = typical(&(m.nodes[node].op.def().flops)(&m.cx(node), &results), &m.symbols);
    flops.saturating_mul(times) / per_cycle(target)
}

/// Whether the elements of a product take less time to compute again than to write and read: its sums are short.
pub(crate) fn is_cheaper_than_kept(target: &Target, m: &Module, product: Node) -> bool {
    let ty = m.ty(m.nodes[product].result());
    let elements = typical(&ty.elements(), &m.symbols);
    let results = std::slice::from_ref(ty);
    let flops = typical(&(m.nodes[product].op.def().flops)(&m.cx(product), results), &m.symbols);
    let moved = elements.saturating_mul(2 * ty.elem.bytes() as u64);
    flops / per_cycle(target) < moved / BYTES_PER_CYCLE
}

/// Multiplications and additions in a cycle of one core.
fn per_cycle(target: &Target) -> u64 {
    u64::from(target.vector_bits / 32) * 4
}
