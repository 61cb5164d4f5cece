//! A thin builder over melior in which kernels are written.
//!
//! Kernels use the dialects `func`, `scf`, `arith` and `llvm` only: loops and branches are structured, arithmetic is on
//! scalars and one-dimensional vectors, memory is reached through `!llvm.ptr` and byte or element offsets. Nothing here
//! knows a target. Values know their builder, so arithmetic is written with operators; index arithmetic ([`Ix`]) is
//! folded while it is built, so constant sizes leave no trace in the code. An operation that MLIR refuses to build is
//! a bug of the kernel that asked for it, and panics.

mod index;
mod memory;
mod value;

pub use index::{Bool, Ix};
pub use memory::Ptr;
pub use value::{Cmp, Elem, MAX_PARTS, Ty, V};

use melior::{
    Context,
    ir::{
        Attribute, Block, BlockLike, BlockRef, Identifier, Location, Module, Region, RegionLike, Type, Value,
        ValueLike,
        attribute::{DenseI32ArrayAttribute, FlatSymbolRefAttribute, IntegerAttribute, StringAttribute, TypeAttribute},
        operation::{OperationBuilder, OperationLike},
        r#type::{FunctionType, IntegerType},
    },
};
use std::cell::{Cell, OnceCell};

/// An insertion point that moves into regions and back as closures nest.
pub struct Builder<'k> {
    context: &'k Context,
    location: Location<'k>,
    block: Cell<BlockRef<'k, 'k>>,
    /// Where the function starts.
    start: BlockRef<'k, 'k>,
    within: OnceCell<Within>,
}

/// The block of threads that runs a function alone, as part of a kernel of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Within {
    /// Threads that run it, the first ones of the block.
    pub threads: u32,
    /// All threads of the block.
    pub block: u32,
    /// The name of the shared memory that is there for it.
    pub shared: String,
}

/// How kernels name their builder.
pub type K<'k> = &'k Builder<'k>;

/// Attributes of an operation by name.
pub type Attrs<'a, 'k> = &'a [(&'a str, Attribute<'k>)];

/// A value stays valid as long as its module, which outlives the builder.
fn extend<'k>(value: impl ValueLike<'k>) -> Value<'k, 'k> {
    unsafe { Value::from_raw(value.to_raw()) }
}

/// Who may call a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Linkage {
    /// Whoever loads the code.
    Exported,
    /// Its module, which may be linked with others; it stays a function.
    Private,
    /// Its module alone, which may absorb it.
    Internal,
    /// Its module alone, in which it stays a function.
    Apart,
}

/// Appends `func.func @name(params) -> results` to the module; `body` gets the arguments and gives the results.
pub fn function(
    module: &Module<'_>,
    context: &Context,
    name: &str,
    params: &[Ty],
    results: &[Ty],
    linkage: Linkage,
    body: impl for<'k> FnOnce(K<'k>, &[V<'k>]) -> Vec<V<'k>>,
) {
    let location = Location::unknown(context);
    let types = |list: &[Ty]| parts_of(list).map(|t| t.mlir(context)).collect::<Vec<_>>();
    let (inputs, outputs) = (types(params), types(results));
    let region = Region::new();
    let arguments: Vec<_> = inputs.iter().map(|t| (*t, location)).collect();
    let block = region.append_block(Block::new(&arguments));
    {
        let block: BlockRef = unsafe { BlockRef::from_raw(block.to_raw()) };
        let builder = Builder { context, location, block: Cell::new(block), start: block, within: OnceCell::new() };
        let arguments: Vec<V> = builder.arguments(block, params);
        let values = raw(&body(&builder, &arguments));
        builder.op("func.return", &values, &[], &[]);
    }
    let string = |s: &str| StringAttribute::new(context, s).into();
    let mut attributes: Vec<(Identifier, Attribute)> = vec![
        (Identifier::new(context, "sym_name"), string(name)),
        (
            Identifier::new(context, "function_type"),
            TypeAttribute::new(FunctionType::new(context, &inputs, &outputs).into()).into(),
        ),
    ];
    if linkage != Linkage::Exported {
        attributes.push((Identifier::new(context, "sym_visibility"), string("private")));
    }
    let parse = |text: &str| Attribute::parse(context, text).expect("an attribute");
    if matches!(linkage, Linkage::Internal | Linkage::Apart) {
        attributes.push((Identifier::new(context, "llvm.linkage"), parse("#llvm.linkage<internal>")));
    }
    if linkage == Linkage::Apart {
        attributes.push((Identifier::new(context, "passthrough"), parse("[\"noinline\"]")));
    }
    let op = OperationBuilder::new("func.func", location).add_attributes(&attributes).add_regions([region]).build();
    module.body().append_operation(op.expect("func.func"));
}

/// Declares a function of another module.
pub fn declare(module: &Module<'_>, context: &Context, name: &str, params: &[Ty], results: &[Ty]) {
    let types = |list: &[Ty]| parts_of(list).map(|t| t.mlir(context)).collect::<Vec<_>>();
    let ty = FunctionType::new(context, &types(params), &types(results));
    let string = |s: &str| StringAttribute::new(context, s).into();
    let attributes: [(Identifier, Attribute); 3] = [
        (Identifier::new(context, "sym_name"), string(name)),
        (Identifier::new(context, "function_type"), TypeAttribute::new(ty.into()).into()),
        (Identifier::new(context, "sym_visibility"), string("private")),
    ];
    let op = OperationBuilder::new("func.func", Location::unknown(context))
        .add_attributes(&attributes)
        .add_regions([Region::new()])
        .build();
    module.body().append_operation(op.expect("func.func"));
}

/// The types of all parts.
fn parts_of(types: &[Ty]) -> impl Iterator<Item = Ty> {
    types.iter().flat_map(|t| std::iter::repeat_n(*t, t.parts as usize))
}

/// All parts of all values.
fn raw<'k>(values: &[V<'k>]) -> Vec<Value<'k, 'k>> {
    values.iter().flat_map(|v| v.parts().iter().copied()).collect()
}

impl<'k> Builder<'k> {
    pub fn context(&self) -> &'k Context {
        self.context
    }

    /// Says, once, who runs the function.
    pub fn enter(&self, within: Within) {
        assert!(self.within.set(within).is_ok(), "a function is run by one block");
    }

    /// The block that runs the function alone, if it is not all of them.
    pub fn within(&self) -> Option<&Within> {
        self.within.get()
    }

    fn arguments(&'k self, block: BlockRef<'k, 'k>, types: &[Ty]) -> Vec<V<'k>> {
        let argument = |i| extend(block.argument(i).expect("a block has the arguments it was made with"));
        let all: Vec<_> = (0..parts_of(types).count()).map(argument).collect();
        self.values(types, &all)
    }

    /// Values of these types from all their parts.
    fn values(&'k self, types: &[Ty], mut raw: &[Value<'k, 'k>]) -> Vec<V<'k>> {
        let mut next = |ty: &Ty| {
            let (parts, rest) = raw.split_at(ty.parts as usize);
            raw = rest;
            V::from_parts(self, *ty, parts)
        };
        types.iter().map(&mut next).collect()
    }

    fn mlir_types(&self, types: &[Ty]) -> Vec<Type<'k>> {
        parts_of(types).map(|t| t.mlir(self.context)).collect()
    }

    /// Appends an operation in MLIR's generic form.
    pub fn op(
        &self,
        name: &str,
        operands: &[Value<'k, 'k>],
        results: &[Type<'k>],
        attrs: Attrs<'_, 'k>,
    ) -> Vec<Value<'k, 'k>> {
        self.op_with_regions(name, operands, results, attrs, vec![])
    }

    fn op_with_regions(
        &self,
        name: &str,
        operands: &[Value<'k, 'k>],
        results: &[Type<'k>],
        attrs: Attrs<'_, 'k>,
        regions: Vec<Region<'k>>,
    ) -> Vec<Value<'k, 'k>> {
        let attrs: Vec<_> = attrs.iter().map(|(name, a)| (Identifier::new(self.context, name), *a)).collect();
        let op = OperationBuilder::new(name, self.location)
            .add_operands(operands)
            .add_results(results)
            .add_attributes(&attrs)
            .add_regions_vec(regions)
            .build()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let op = self.block.get().append_operation(op);
        (0..op.result_count()).map(|i| extend(op.result(i).expect("below result_count"))).collect()
    }

    /// Appends an operation on values with one result of type `ty`, for each part; an operand of one part serves all.
    pub fn op1(&'k self, name: &str, operands: &[V<'k>], ty: Ty, attrs: Attrs<'_, 'k>) -> V<'k> {
        let result = [ty.mlir(self.context)];
        let apply = |part: usize| {
            let operands: Vec<_> = operands.iter().map(|v| v.part(part)).collect();
            self.op(name, &operands, &result, attrs)[0]
        };
        V::from_parts(self, ty, &(0..ty.parts as usize).map(apply).collect::<Vec<_>>())
    }

    /// An operation on values of any types with one result of type `ty`, which has one part.
    pub fn value_with(&'k self, name: &str, operands: &[Value<'k, 'k>], ty: Ty, attrs: Attrs<'_, 'k>) -> V<'k> {
        V::from_parts(self, ty, &self.op(name, operands, &[ty.mlir(self.context)], attrs))
    }

    /// Memory for one value that is the thread's own. It becomes a register, as only what stands where the function starts
    /// does.
    pub fn variable(&'k self, ty: Ty) -> Ptr<'k> {
        let insert = |at: usize, name: &str, operands: &[Value<'k, 'k>], result: Ty, attr: (&str, Attribute<'k>)| {
            let op = OperationBuilder::new(name, self.location)
                .add_operands(operands)
                .add_results(&[result.mlir(self.context)])
                .add_attributes(&[(Identifier::new(self.context, attr.0), attr.1)])
                .build()
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            extend(self.start.insert_operation(at, op).result(0).expect("it has one"))
        };
        let one = insert(0, "llvm.mlir.constant", &[], Ty::I64, ("value", self.int_attr(64, 1)));
        let elem = TypeAttribute::new(ty.mlir(self.context)).into();
        let address = insert(1, "llvm.alloca", &[one], Ty::PTR, ("elem_type", elem));
        V::from_parts(self, Ty::PTR, &[address]).ptr()
    }

    /// The same without attributes.
    pub fn value(&'k self, name: &str, operands: &[Value<'k, 'k>], ty: Ty) -> V<'k> {
        self.value_with(name, operands, ty, &[])
    }

    /// Calls an LLVM intrinsic on values of any types.
    pub fn intrinsic(&self, name: &str, operands: &[Value<'k, 'k>], results: &[Type<'k>]) -> Vec<Value<'k, 'k>> {
        let list = |values: &[i32]| DenseI32ArrayAttribute::new(self.context, values).into();
        let attrs = [
            ("intrin", StringAttribute::new(self.context, name).into()),
            ("operandSegmentSizes", list(&[operands.len() as i32, 0])),
            ("op_bundle_sizes", list(&[])),
        ];
        self.op("llvm.call_intrinsic", operands, results, &attrs)
    }

    /// Calls an LLVM intrinsic that MLIR has no operation for, for each part.
    pub fn call_intrinsic(&'k self, name: &str, operands: &[V<'k>], ty: Ty) -> V<'k> {
        let result = [ty.mlir(self.context)];
        let apply = |part: usize| {
            let operands: Vec<_> = operands.iter().map(|v| v.part(part)).collect();
            self.intrinsic(name, &operands, &result)[0]
        };
        V::from_parts(self, ty, &(0..ty.parts as usize).map(apply).collect::<Vec<_>>())
    }

    /// Assembly text of the target, which has effects beyond its results, with LLVM's constraints on its operands.
    pub fn asm_of(
        &self,
        text: &str,
        constraints: &str,
        operands: &[Value<'k, 'k>],
        results: &[Type<'k>],
    ) -> Vec<Value<'k, 'k>> {
        let string = |s: &str| StringAttribute::new(self.context, s).into();
        let effects = self.parse_attr("unit");
        let attrs = [("asm_string", string(text)), ("constraints", string(constraints)), ("has_side_effects", effects)];
        self.op("llvm.inline_asm", operands, results, &attrs)
    }

    /// The same with a result of this type, or none.
    pub fn asm(
        &'k self,
        text: &str,
        constraints: &str,
        operands: &[Value<'k, 'k>],
        result: Option<Ty>,
    ) -> Option<V<'k>> {
        let types: Vec<Type> = result.iter().map(|ty| ty.mlir(self.context)).collect();
        let values = self.asm_of(text, constraints, operands, &types);
        result.map(|ty| V::from_parts(self, ty, &values))
    }

    /// An integer attribute of `bits` bits.
    pub fn int_attr(&self, bits: u32, value: i64) -> Attribute<'k> {
        IntegerAttribute::new(IntegerType::new(self.context, bits).into(), value).into()
    }

    /// An attribute in MLIR's syntax.
    pub fn parse_attr(&self, text: &str) -> Attribute<'k> {
        Attribute::parse(self.context, text).unwrap_or_else(|| panic!("attribute `{text}`"))
    }

    /// A region of one block whose last operation yields what `body` returns.
    fn region(
        &'k self,
        params: &[Ty],
        terminator: &str,
        body: impl FnOnce(&[V<'k>]) -> Vec<V<'k>>,
    ) -> (Region<'k>, Vec<Ty>) {
        let region = Region::new();
        let types: Vec<_> = self.mlir_types(params).into_iter().map(|t| (t, self.location)).collect();
        let block = region.append_block(Block::new(&types));
        let block: BlockRef<'k, 'k> = unsafe { BlockRef::from_raw(block.to_raw()) };
        let outer = self.block.replace(block);
        let results = body(&self.arguments(block, params));
        self.op(terminator, &raw(&results), &[], &[]);
        self.block.set(outer);
        (region, results.iter().map(|v| v.ty).collect())
    }

    /// `for i in (lo..hi).step_by(step)` with carried values: `body` gets `i` and them, and returns the next ones.
    pub fn for_carry(
        &'k self,
        lo: impl Into<Ix<'k>>,
        hi: impl Into<Ix<'k>>,
        step: impl Into<Ix<'k>>,
        init: &[V<'k>],
        body: impl FnOnce(Ix<'k>, &[V<'k>]) -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        let (lo, hi, step) = (lo.into(), hi.into(), step.into());
        if let (Ix::Const(l), Ix::Const(h), Ix::Const(s)) = (lo, hi, step) {
            if l >= h {
                return init.to_vec();
            }
            if l + s >= h {
                return body(lo, init);
            }
        }
        let types: Vec<Ty> = init.iter().map(|v| v.ty).collect();
        let mut operands = raw(&[lo, hi, step].map(|x| x.v(self)));
        operands.extend(raw(init));
        let params: Vec<Ty> = std::iter::once(Ty::I64).chain(types.iter().copied()).collect();
        let (region, yielded) = self.region(&params, "scf.yield", |args| body(Ix::Value(args[0]), &args[1..]));
        assert_eq!(yielded, types, "a loop's carried values keep their types");
        let results = self.mlir_types(&types);
        let raw = self.op_with_regions("scf.for", &operands, &results, &[], vec![region]);
        self.values(&types, &raw)
    }

    /// `for i in (lo..hi).step_by(step)`.
    pub fn for_(
        &'k self,
        lo: impl Into<Ix<'k>>,
        hi: impl Into<Ix<'k>>,
        step: impl Into<Ix<'k>>,
        body: impl FnOnce(Ix<'k>),
    ) {
        self.for_carry(lo, hi, step, &[], |i, _| {
            body(i);
            vec![]
        });
    }

    /// `while condition(values) { values = body(values) }`.
    pub fn while_(
        &'k self,
        init: &[V<'k>],
        condition: impl FnOnce(&[V<'k>]) -> V<'k>,
        body: impl FnOnce(&[V<'k>]) -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        let types: Vec<Ty> = init.iter().map(|v| v.ty).collect();
        let operands = raw(init);
        let (before, _) = self.region(&types, "scf.condition", |args| {
            std::iter::once(condition(args)).chain(args.iter().copied()).collect()
        });
        let (after, yielded) = self.region(&types, "scf.yield", body);
        assert_eq!(yielded, types, "a loop's carried values keep their types");
        let results = self.mlir_types(&types);
        let raw = self.op_with_regions("scf.while", &operands, &results, &[], vec![before, after]);
        self.values(&types, &raw)
    }

    /// The values of one of two branches.
    pub fn if_else(
        &'k self,
        condition: impl Into<Bool<'k>>,
        then: impl FnOnce() -> Vec<V<'k>>,
        otherwise: impl FnOnce() -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        let condition = match condition.into() {
            Bool::Const(true) => return then(),
            Bool::Const(false) => return otherwise(),
            Bool::Value(v) => v,
        };
        let (yes, types) = self.region(&[], "scf.yield", |_| then());
        let (no, other) = self.region(&[], "scf.yield", |_| otherwise());
        assert_eq!(types, other, "both branches give values of the same types");
        let results = self.mlir_types(&types);
        let raw = self.op_with_regions("scf.if", &[condition.raw()], &results, &[], vec![yes, no]);
        self.values(&types, &raw)
    }

    /// Runs `then` where `condition` holds.
    pub fn if_(&'k self, condition: impl Into<Bool<'k>>, then: impl FnOnce()) {
        let condition = match condition.into() {
            Bool::Const(true) => return then(),
            Bool::Const(false) => return,
            Bool::Value(v) => v,
        };
        let (yes, _) = self.region(&[], "scf.yield", |_| {
            then();
            vec![]
        });
        self.op_with_regions("scf.if", &[condition.raw()], &[], &[], vec![yes, Region::new()]);
    }

    /// Calls a function of the same module.
    pub fn call(&'k self, callee: &str, arguments: &[V<'k>], results: &[Ty]) -> Vec<V<'k>> {
        let (operands, types) = (raw(arguments), self.mlir_types(results));
        let callee = FlatSymbolRefAttribute::new(self.context, callee).into();
        let raw = self.op("func.call", &operands, &types, &[("callee", callee)]);
        self.values(results, &raw)
    }
}
