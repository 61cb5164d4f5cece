//! `circuit.query`: a circuit as tables that are weights, and the launches that walk them.
//!
//! Values are plain numbers where the range of the circuit allows, else logarithms. A deterministic circuit of discrete
//! variables answers complete rows along their active trees, and others by the walk of all nodes; a row takes its way by
//! its own cells, so its result does not depend on the rows beside it.

mod graph;
mod order;
mod program;
mod range;
mod slots;

use super::{
    Buffer,
    group::Group,
    layout::Layout,
    planner::{Planner, Refusal, View},
};
use crate::weights::{Data, Item, Source, encode};
use graph::{Graph, Inputs};
use kiln_ir::{ElemType, Node, circuit::Circuit, scalar::Scalar};
use kiln_kernels::{
    Access,
    circuit::{On, Query, Spec},
};
use order::Order;
use program::{Back, Program, Reader};
use range::Range;

pub(super) fn query(p: &mut Planner<'_>, g: &Group<'_>, node: Node) -> Result<(), Refusal> {
    let data = g.data(node);
    let name = data.attrs.name("circuit").unwrap_or("");
    let Some(circuit) = g.m.circuit(name) else { return Err((node, format!("no circuit @{name}"))) };
    let cells = Cells {
        x: p.view(g.outer(data.operand(0))),
        mask: data.optional(1).map(|mask| p.view(g.outer(mask))),
        seed: None,
    };
    let kind = data.attrs.word("kind").unwrap_or("evidence");
    if kind == "evidence" {
        let output = p.output(g.outs[0]);
        evidence(p, circuit, &cells, output, data.attrs.word("space") == Some("log"));
        return Ok(());
    }
    let graph = Graph::of(circuit, Inputs::Indicators);
    let outputs: Vec<View> = g.outs.iter().map(|out| p.output(*out)).collect();
    let access: Vec<Access> = outputs.iter().map(|o| o.layout.access(o.elem)).collect();
    let mut cells = cells;
    let query = match (kind, access.as_slice()) {
        ("mpe", [states, value]) => Query::Mpe { states: states.clone(), value: value.clone() },
        ("marginals", [output]) => Query::Marginals { values: i64::from(circuit.max_values()), output: output.clone() },
        ("expectation", [output]) => Query::Expectation { output: output.clone() },
        ("sample", [states]) => {
            let seed = p.view(g.outer(data.operand(2)));
            cells.seed = Some(seed.clone());
            Query::Sample { seed: seed.layout.access(seed.elem), states: states.clone() }
        }
        _ => return Err((node, format!("the cpu back end has no kernel for {kind}"))),
    };
    let back = if kind == "mpe" { Back::Maximum } else { Back::Always };
    let gpu = for_gpu(p);
    let program = Program::of(&graph, &Order::of(&graph, false), None, back, Reader::Any);
    launch(p, &program, &cells, query.clone(), outputs.clone(), if gpu { On::Cpu } else { On::All });
    if gpu {
        let program = Program::of(&graph, &Order::by_level(&graph, false), None, back, Reader::Gpu(&[]));
        launch(p, &program, &cells, query, outputs, On::Gpu);
    }
    Ok(())
}

/// The rows asked about.
struct Cells {
    x: View,
    mask: Option<View>,
    seed: Option<View>,
}

/// Whether there are launches for GPUs alone: kernels of a loop are the same everywhere.
fn for_gpu(p: &Planner<'_>) -> bool {
    p.options.gpu && p.code.is_none()
}

fn evidence(p: &mut Planner<'_>, circuit: &Circuit, cells: &Cells, output: View, log: bool) {
    let access = output.layout.access(output.elem);
    let trees = circuit.deterministic && circuit.is_discrete();
    let gpu = for_gpu(p);
    let cpu = if gpu { On::Cpu } else { On::All };
    if trees {
        let graph = Graph::of(circuit, Inputs::Positive);
        let order = Order::of(&graph, false);
        let complete = |places| Query::Complete { output: access.clone(), places };
        let program = Program::of(&graph, &order, None, Back::Always, Reader::Any);
        launch(p, &program, cells, complete(0), vec![output.clone()], cpu);
        if gpu {
            let by_level = Order::by_level(&graph, false);
            let program = Program::of(&graph, &by_level, None, Back::Always, Reader::Gpu(&order.batch));
            launch(p, &program, cells, complete(order.batches.into()), vec![output.clone()], On::Gpu);
        }
    }
    let graph = Graph::of(circuit, Inputs::Tables);
    let order = Order::of(&graph, true);
    let range = if log { None } else { Range::of(&graph, &order, output.elem) };
    let query = Query::Evidence { output: access, incomplete: trees };
    let program = Program::of(&graph, &order, range.as_ref(), Back::Never, Reader::Any);
    launch(p, &program, cells, query.clone(), vec![output.clone()], cpu);
    if gpu {
        let order = Order::by_level(&graph, true);
        let range = if log { None } else { Range::of(&graph, &order, output.elem) };
        let program = Program::of(&graph, &order, range.as_ref(), Back::Never, Reader::Gpu(&[]));
        launch(p, &program, cells, query, vec![output], On::Gpu);
    }
}

fn launch(p: &mut Planner<'_>, program: &Program, cells: &Cells, query: Query, outputs: Vec<View>, on: On) {
    let spec = Spec {
        rows: cells.x.layout.dims[0].clone(),
        x: cells.x.layout.access(cells.x.elem),
        mask: cells.mask.as_ref().map(|mask| mask.layout.access(mask.elem)),
        shape: program.shape.clone(),
        listing: program.listing.clone(),
        query,
        on,
    };
    let mut inputs = vec![cells.x.clone()];
    inputs.extend(cells.mask.clone());
    inputs.extend(cells.seed.clone());
    let shape = &program.shape;
    inputs.push(integers(p, ElemType::U32, &program.runs));
    inputs.push(integers(p, shape.index, &program.index));
    inputs.push(table(p, shape.value, program.number.iter().map(|x| Scalar::F(*x))));
    inputs.push(integers(p, ElemType::U32, &program.variables));
    inputs.push(table(p, ElemType::F64, program.breaks.iter().map(|x| Scalar::F(*x))));
    p.launch(spec.into(), inputs, outputs, vec![]);
}

fn integers(p: &mut Planner<'_>, elem: ElemType, values: &[u32]) -> View {
    table(p, elem, values.iter().map(|x| Scalar::I(i64::from(*x))))
}

/// A table as a weight.
fn table(p: &mut Planner<'_>, elem: ElemType, values: impl ExactSizeIterator<Item = Scalar>) -> View {
    let count = values.len() as i64;
    let mut bytes = vec![0; values.len() * elem.bytes()];
    bytes.chunks_exact_mut(elem.bytes()).zip(values).for_each(|(to, value)| encode(elem, value, to));
    let source = p.weights.source(Source { elem, dims: vec![count], data: Data::Inline(bytes) });
    let buffer = Buffer::Weight(p.weights.item(Item::Plain(source)));
    View { buffer, elem, layout: Layout::contiguous(&[count.into()]) }
}
