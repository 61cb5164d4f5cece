//! Every op on every element type and shape class, on every level that this machine runs, against the interpreter.
//!
//! Results must not depend on the number of threads, bit for bit.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of the shared modules")]

#[path = "conformance/cases.rs"]
mod cases;
#[path = "conformance/harness.rs"]
mod harness;

use cases::{CASES, DIMS, chosen};
use harness::{Domain, build, limit};
use kiln_backends::plan::PlanOptions;
use kiln_ir::{Attr, Dim, ElemType, Module, Op, Symbol, Type, Value, attr::Attrs};
use kiln_kernels::cpu::CpuLevel;

/// Cases that the CPU back end does not pass, by name and element type, and why.
const IGNORED: &[(&str, ElemType, &str)] = &[];

fn run(elem: ElemType) {
    let ignored = |name: &str| {
        let found = IGNORED.iter().find(|(n, e, _)| *n == name && *e == elem);
        found.inspect(|(n, e, why)| println!("ignored: {n} on {e}: {why}")).is_some()
    };
    let cases: Vec<_> =
        CASES.iter().filter(|c| c.elems.contains(&elem) && chosen(c.name) && !ignored(c.name)).collect();
    let built = build(&module(elem, &cases), &PlanOptions::default());
    let mut problems = vec![];
    for case in cases {
        let domain = |name: &str| match case.below {
            n if n > 0 && name.starts_with('i') => Domain::Below(n),
            _ => Domain::Any,
        };
        let types = output_types(&built.module, case.name);
        let tolerance = |name: &str| {
            let elem = types.iter().find(|(n, _)| n == name).map_or(elem, |(_, e)| *e);
            limit(elem, case.tolerance)
        };
        for [b, s, k] in case.sizes {
            problems.extend(built.check(case.name, &[("B", *b), ("S", *s), ("K", *k)], &domain, &tolerance));
        }
    }
    assert!(problems.is_empty(), "{elem}:\n{}", problems.join("\n"));
}

fn output_types(m: &Module, entry: &str) -> Vec<(String, ElemType)> {
    let entry = m.entry(entry).unwrap();
    let results = &m.regions[entry.body].results;
    entry.outputs.iter().cloned().zip(results.iter().map(|v| m.ty(*v).elem)).collect()
}

macro_rules! elements {
    ($($name:ident $elem:ident),*) => {$(
        mod $name {
            #[test]
            fn ops() { super::run(kiln_ir::ElemType::$elem) }
            #[test]
            fn scalar_ops() { super::scalar_ops(kiln_ir::ElemType::$elem) }
        }
    )*};
}
elements!(f64 F64, f32 F32, f16 F16, bf16 BF16, i1 I1, i8 I8, i16 I16, i32 I32, i64 I64, u8 U8, u16 U16, u32 U32, u64 U64);

/// Ops whose operands must be positive.
const POSITIVE: &[Op] = &[Op::Log, Op::Sqrt, Op::Rsqrt, Op::Pow];

/// Every scalar op that takes this type, over symbolic sizes, over views that no two operands share, and broadcast.
fn scalar_ops(elem: ElemType) {
    let mut m = Module::new("m");
    let [b, s] = ["B", "S"].map(|n| m.add_symbol(Symbol::new(n).unwrap(), 0, 4096, 1));
    let dims = [b.clone(), s.clone()];
    let mut tolerances = vec![];
    for (name, positive) in [("any", false), ("positive", true)] {
        let input = |name: &str, elem, dims: &[Dim]| (name.to_string(), Type::new(elem, dims.to_vec()));
        let inputs = [
            input("x", elem, &dims),
            input("y", elem, &[s.clone(), b.clone()]),
            input("c", ElemType::I1, std::slice::from_ref(&s)),
            input("z", elem, &[b.clone(), 1.into()]),
        ];
        let body = m.add_entry(name, inputs);
        let args = m.regions[body].args.clone();
        let turned = m.append(body, Op::Transpose, [args[1]], [("perm", vec![1, 0].into())], None).unwrap()[0];
        let (x, c, z) = (args[0], args[2], args[3]);
        let mut outputs: Vec<(String, Value)> = vec![];
        for op in Op::ALL.iter().filter(|op| op.is_scalar() && POSITIVE.contains(op) == positive) {
            for (suffix, attrs) in variants(*op) {
                let arity = op.def().operands.len();
                let operands: Vec<Vec<Value>> = match (*op, arity) {
                    (Op::Select, _) => vec![vec![c, x, turned]],
                    (_, 1) => vec![vec![x]],
                    _ => vec![vec![x, turned], vec![z, x]],
                };
                for (n, operands) in operands.into_iter().enumerate() {
                    // Types that the op does not take are not its obligation.
                    if let Ok(results) = m.append(body, *op, operands, attrs.clone(), None) {
                        let label = format!("{op}{suffix}.{n}");
                        let result = m.ty(results[0]).elem;
                        tolerances.push((label.clone(), limit(result, tolerance(*op))));
                        outputs.push((label, results[0]));
                    }
                }
            }
        }
        m.set_outputs(body, outputs);
    }
    // None of the ops on positive numbers may take the type.
    m.entries.retain(|e| !e.outputs.is_empty());
    m.stage = kiln_ir::Stage::Legal;
    let built = build(&m.to_string(), &PlanOptions::default());
    let mut problems = vec![];
    for (entry, domain) in [("any", Domain::Any), ("positive", Domain::Positive)] {
        if built.module.entry(entry).is_none() {
            continue;
        }
        for sizes in [[1, 1], [3, 7], [5, 1031], [0, 4]] {
            let symbols = [("B", sizes[0]), ("S", sizes[1])];
            let domain = |name: &str| if name == "c" { Domain::Any } else { domain };
            let tolerance = |name: &str| tolerances.iter().find(|(n, _)| n == name).map_or(0.0, |(_, t)| *t);
            problems.extend(built.check(entry, &symbols, &domain, &tolerance));
        }
    }
    assert!(problems.is_empty(), "{elem}:\n{}", problems.join("\n"));
}

fn tolerance(op: Op) -> f64 {
    match op.def().tolerance {
        kiln_ir::ops::Tolerance::Exact => 0.0,
        kiln_ir::ops::Tolerance::Relative(r) => r,
    }
}

/// The attributes to try, each with a name.
fn variants(op: Op) -> Vec<(String, Attrs)> {
    match op {
        Op::Compare => ["eq", "ne", "lt", "le", "gt", "ge"]
            .map(|dir| (format!(".{dir}"), Attrs::from([("dir", Attr::Word(dir))])))
            .into(),
        Op::Convert => {
            ElemType::ALL.iter().map(|to| (format!(".{to}"), Attrs::from([("to", Attr::Elem(*to))]))).collect()
        }
        _ => vec![(String::new(), Attrs::default())],
    }
}

/// An entry for each of the cases.
fn module(elem: ElemType, cases: &[&cases::Case]) -> String {
    let entry = |c: &&cases::Case| format!(" entry @{}{}\n", c.name, c.on(elem));
    let entries: String = cases.iter().map(entry).collect();
    format!("module @m stage=legal {{\n {DIMS}\n{entries}}}")
}

fn every_case(elem: ElemType) -> String {
    module(elem, &CASES.iter().filter(|c| c.elems.contains(&elem) && chosen(c.name)).collect::<Vec<_>>())
}

#[test]
fn code_is_made_for_levels_that_this_machine_lacks() {
    let m = kiln_ir::parse(&every_case(ElemType::F32)).unwrap();
    let plan = kiln_backends::plan::plan(kiln_ir::verify(&m).unwrap(), &PlanOptions::default()).unwrap();
    let lacking: Vec<_> = CpuLevel::ALL.into_iter().filter(|l| !l.is_native()).collect();
    let code = kiln_backends::code::compile(&plan.kernels, &lacking, 2).unwrap_or_else(|e| panic!("{}", e[0]));
    assert!(code.iter().all(|c| c.bytes.starts_with(b"\x7fELF")));
    assert_eq!(code.len(), lacking.len());
}

#[test]
fn weights_of_few_rows() {
    for elem in [ElemType::F32, ElemType::F64, ElemType::F16] {
        let entry = |k: i64| {
            format!(
                "entry @f{k}(%x: {elem}[B,S,{k}], %r: {elem}[B,S,21]) -> (y: {elem}[B,S,21], z: {elem}[S,B,21]) {{
                   %{k}1 = transpose %w{k} perm=[1,0] : {elem}[{k},21]
                   %{k}2 = linear %x, %{k}1 bias=%bias add=%r act=tanh : {elem}[B,S,21]
                   %{k}3 = transpose %x perm=[1,0,2] : {elem}[S,B,{k}]
                   %{k}4 = linear %{k}3, %{k}1 : {elem}[S,B,21]
                   return %{k}2, %{k}4
                 }}\n"
            )
        };
        let weights = [1, 2, 4, 5].map(|k| format!("param %w{k} : {elem}[21,{k}] = %%0 \"w{k}\"\n")).concat();
        let params = format!("weights %%0 = \"w\"\nparam %bias : {elem}[21] = %%0 \"bias\"\n{weights}");
        let entries: String = [1, 2, 4, 5].map(entry).concat();
        let text = format!("module @m stage=legal {{\ndim B = 1..9\ndim S = 1..9\n{params}{entries}}}");
        let built = build(&text, &PlanOptions::default());
        for k in [1, 2, 4, 5] {
            for sizes in [[("B", 1), ("S", 1)], [("B", 3), ("S", 9)]] {
                let tolerance = |_: &str| limit(elem, 1e-6);
                let problems = built.check(&format!("f{k}"), &sizes, &|_| Domain::Any, &tolerance);
                assert!(problems.is_empty(), "{}", problems.join("\n"));
            }
        }
    }
}

#[test]
fn packed_weights_of_every_stored_type() {
    let text = "module @m stage=legal {
        dim B = 1..7
        weights %%0 = \"w\"
        param %table : f32[9,40] = %%0 \"table\"
        param %q : f32[24,40] = %%0 \"q\"
        param %k : f32[13,40] = %%0 \"k\"
        param %bias : f32[37] = %%0 \"bias\"
        param %half : f16[37,8] = %%0 \"half\"
        entry @f(%i: i64[B]) -> (y: f32[B,37], z: f32[B,8], p: f32[B,40], s: f32[2,40]) {
          %0 = gather %table, %i axis=0 : f32[B,40]
          %1 = transpose %q perm=[1,0] : f32[40,24]
          %2 = transpose %k perm=[1,0] : f32[40,13]
          %3 = concat %1, %2 axis=1 : f32[40,37]
          %4 = linear %0, %3 bias=%bias act=gelu : f32[B,37]
          %5 = convert %half to=f32 : f32[37,8]
          %6 = linear %4, %5 : f32[B,8]
          %7 = slice %table axis=0 start=3 end=4 : f32[1,40]
          %8 = add %0, %7 : f32[B,40]
          %9 = slice %table axis=0 start=B end=B + 2 : f32[2,40]
          %10 = neg %9 : f32[2,40]
          return %4, %6, %8, %10
        }
      }";
    for (weights, limit) in [(None, 1e-5), (Some(ElemType::F16), 1e-3), (Some(ElemType::BF16), 8e-3)] {
        let built = build(text, &PlanOptions { weights, ..Default::default() });
        for b in [1, 5, 7] {
            let problems = built.check("f", &[("B", b)], &|_| Domain::Below(9), &|_| limit);
            assert!(problems.is_empty(), "{weights:?}: {}", problems.join("\n"));
        }
    }
}

/// Cells of a size that fills no vector, on states and gates of all kinds of strides.
#[test]
fn recurrent_cells() {
    for elem in ["f32", "f64", "f16", "bf16"] {
        let text = "module @m stage=legal {
            dim B = 0..50
            weights %%0 = \"w\"
            param %w : T[76,19] = %%0 \"w\"
            param %u : T[19,57] = %%0 \"u\"
            param %b : T[57] = %%0 \"b\"
            param %one : T[1,4] = %%0 \"one\"
            entry @lstm(%gx: T[B,3,76], %h: T[19,B], %c: T[B,19]) -> (h1: T[B,19], c1: T[19,B]) {
              %0 = slice %gx axis=1 start=1 end=2 : T[B,1,76]
              %1 = reshape %0 to=[B,76] : T[B,76]
              %2 = transpose %h perm=[1,0] : T[B,19]
              %3 = transpose %w perm=[1,0] : T[19,76]
              %4, %5 = lstm_cell %1, %2, %c, %3 : T[B,19], T[B,19]
              %6 = transpose %5 perm=[1,0] : T[19,B]
              return %4, %6
            }
            entry @unit(%gx: T[B,4], %h: T[B,1]) -> (h1: T[B,1]) {
              %0, %1 = lstm_cell %gx, %h, %h, %one : T[B,1], T[B,1]
              return %0
            }
            entry @gru(%gx: T[B,57], %h: T[B,19]) -> (h1: T[B,19], h2: T[B,19]) {
              %0 = gru_cell %gx, %h, %u bias=%b : T[B,19]
              %1 = gru_cell %gx, %0, %u : T[B,19]
              return %0, %1
            }
          }"
        .replace("T[", &format!("{elem}["));
        let stored = [(None, 1e-5), (Some(ElemType::F16), 1e-3)];
        for (weights, tolerance) in stored.into_iter().take(if elem == "f32" { 2 } else { 1 }) {
            let built = build(&text, &PlanOptions { weights, ..Default::default() });
            let limit = |_: &str| limit(ElemType::from_name(elem).unwrap(), tolerance);
            for (entry, b) in ["lstm", "unit", "gru"].into_iter().flat_map(|e| [(e, 1), (e, 7), (e, 50), (e, 0)]) {
                let problems = built.check(entry, &[("B", b)], &|_| Domain::Any, &limit);
                assert!(problems.is_empty(), "{elem} {weights:?}: {}", problems.join("\n"));
            }
        }
    }
}

#[test]
fn the_same_module_gives_the_same_bytes() {
    let text = every_case(ElemType::F32);
    let (first, second) = (build(&text, &PlanOptions::default()), build(&text, &PlanOptions::default()));
    assert!(first.bytes == second.bytes);
}
