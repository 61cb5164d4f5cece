//! What the entries of pointer networks are written with: primitive ops in an exporter's spelling, and loops.

use crate::graph::{Built, Graph};
use kiln_ir::{Attrs, Dim, ElemType, Op, Type, Value};

impl Graph<'_> {
    pub(super) fn reshape(&mut self, x: Value, to: impl Into<Vec<Dim>>) -> Built {
        self.op(Op::Reshape, [x], [("to", to.into().into())])
    }

    pub(super) fn broadcast(&mut self, x: Value, to: impl Into<Vec<Dim>>) -> Built {
        self.op(Op::Broadcast, [x], [("to", to.into().into())])
    }

    /// A tensor that holds one number everywhere.
    pub(super) fn filled(&mut self, elem: ElemType, value: f64, dims: impl Into<Vec<Dim>>) -> Built {
        let number = self.module.number(elem, value);
        self.broadcast(number, dims)
    }

    pub(super) fn integer(&mut self, value: i64) -> Value {
        self.module.number(ElemType::I64, value as f64)
    }

    /// Positions along an axis.
    pub(super) fn positions(&mut self, dims: impl Into<Vec<Dim>>, axis: usize) -> Built {
        let attrs = [("to", dims.into().into()), ("axis", (axis as i64).into()), ("elem", ElemType::I64.into())];
        self.op(Op::Iota, [None; 0], attrs)
    }

    pub(super) fn compare(&mut self, a: Value, dir: &'static str, b: Value) -> Built {
        self.op(Op::Compare, [a, b], [("dir", dir.into())])
    }

    pub(super) fn select(&mut self, condition: Value, a: Value, b: Value) -> Built {
        self.op(Op::Select, [condition, a, b], [])
    }

    pub(super) fn concat(&mut self, parts: &[Value], axis: i64) -> Built {
        self.op(Op::Concat, parts.iter().copied(), [("axis", axis.into())])
    }

    /// Elements `start..end` along an axis.
    pub(super) fn slice(&mut self, x: Value, axis: i64, start: impl Into<Dim>, end: impl Into<Dim>) -> Built {
        self.op(Op::Slice, [x], [("axis", axis.into()), ("start", start.into().into()), ("end", end.into().into())])
    }

    pub(super) fn reduce(&mut self, x: Value, kind: &'static str, axis: i64, keep: bool) -> Built {
        self.op(Op::Reduce, [x], [("kind", kind.into()), ("axes", vec![axis].into()), ("keep", keep.into())])
    }

    pub(super) fn softmax(&mut self, x: Value) -> Built {
        self.op(Op::Softmax, [x], [("axis", (-1).into())])
    }

    /// For each row of the batch, the elements of `x` `[B,K,..]` that its `indices` `[B,..]` name along axis 1.
    pub(super) fn pick(&mut self, x: Value, indices: Value) -> Built {
        self.op(Op::Gather, [x, indices], [("axis", 1.into()), ("batch", 1.into())])
    }

    /// `x . w^T`, the weight as PyTorch stores it.
    pub(super) fn product(&mut self, x: Value, weight: Value) -> Built {
        let transposed = self.op(Op::Transpose, [weight], [("perm", vec![1, 0].into())])?;
        self.op(Op::Matmul, [x, transposed], [])
    }

    /// Runs `body` at each position along axis 1 of `inputs` `[B,T,..]`, in each row up to its length. It takes the slices
    /// and the carried values, and gives the carried values and what is stacked along axis 1.
    pub(super) fn scan(
        &mut self,
        lengths: Option<Value>,
        inputs: &[Value],
        inits: &[Value],
        reverse: bool,
        body: impl FnOnce(&mut Self, &[Value], &[Value]) -> Built<(Vec<Value>, Vec<Value>)>,
    ) -> Built<Vec<Value>> {
        let slices = inputs.iter().map(|v| {
            let mut ty = self.module.ty(*v).clone();
            ty.dims.remove(1);
            ty
        });
        let carried = inits.iter().map(|v| self.module.ty(*v).clone());
        let args: Vec<Type> = slices.chain(carried).collect();
        let region = self.region(args, |g, args| {
            let (slices, carried) = args.split_at(inputs.len());
            let (next, stacked) = body(g, slices, carried)?;
            Ok([next, stacked].concat())
        })?;
        let mut attrs: Attrs = [("inputs", (inputs.len() as i64).into()), ("axis", 1.into())].into();
        if reverse {
            attrs.set("reverse", true);
        }
        let operands = [lengths].into_iter().chain(inputs.iter().chain(inits).map(|v| Some(*v))).collect();
        self.nodes(Op::Scan, operands, attrs, vec![region])
    }

    /// Runs `body` on the rows for which `condition` `i1[B]` holds, at most `max` times.
    pub(super) fn while_rows(
        &mut self,
        inits: &[Value],
        max: &Dim,
        condition: impl FnOnce(&mut Self, &[Value]) -> Built,
        body: impl FnOnce(&mut Self, &[Value]) -> Built<Vec<Value>>,
    ) -> Built<Vec<Value>> {
        let types: Vec<Type> = inits.iter().map(|v| self.module.ty(*v).clone()).collect();
        let condition = self.region(types.clone(), |g, args| Ok(vec![condition(g, args)?]))?;
        let body = self.region(types, body)?;
        let operands = inits.iter().map(|v| Some(*v)).collect();
        self.nodes(Op::While, operands, [("max", max.clone().into())].into(), vec![condition, body])
    }
}
