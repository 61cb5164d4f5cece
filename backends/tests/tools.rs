//! The way from MLIR to a shared object: the same bytes from any thread, and errors instead of exits.

mod support;

use kiln_backends::llvm::{Compiler, Stage, link};
use kiln_ir::{ElemType, scalar};
use kiln_kernels::{
    Family,
    abi::ModuleBuilder,
    build::{Elem, Ty},
    cpu::CpuLevel,
    matmul::{Matrix, Rhs, Spec},
};

fn product() -> Spec {
    let matrix = |row: i64| Matrix { elem: ElemType::F32, batch: vec![], row: row.into(), col: 1.into() };
    Spec {
        batch: vec![],
        m: 20.into(),
        n: 40.into(),
        k: 30.into(),
        a: matrix(30),
        b: Rhs::Packed(ElemType::F32),
        epilogue: scalar::Expr::input(0, ElemType::F32),
        operands: vec![],
        c: matrix(40),
    }
}

fn object(compiler: &Compiler, level: CpuLevel) -> Vec<u8> {
    let emit = |m: &mut ModuleBuilder<'_>| product().emit(m, "product", level.describe());
    compiler.compile("product", level, Stage::Obj, emit).unwrap()
}

#[test]
fn threads_give_the_bytes_of_one() {
    let once: Vec<(Vec<u8>, Vec<u8>)> = CpuLevel::ALL
        .map(|level| {
            let object = object(&Compiler::new(), level);
            let linked = link(level, &[&object]).unwrap();
            (object, linked)
        })
        .to_vec();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let compiler = Compiler::new();
                    for (level, (expected, linked)) in CpuLevel::ALL.into_iter().zip(&once) {
                        let object = object(&compiler, level);
                        assert!(object == *expected, "{}: objects differ", level.name());
                        assert!(link(level, &[&object]).unwrap() == *linked, "{}: libraries differ", level.name());
                    }
                }
            });
        }
    });
}

#[test]
fn a_module_that_does_not_verify_is_an_error() {
    let emit = |m: &mut ModuleBuilder<'_>| {
        m.kernel("wrong", &[], |kernel| {
            let sum = kernel.k.op1("arith.addi", &[kernel.lo.v(kernel.k)], Ty::I64, &[]);
            let _ = sum;
            None
        });
    };
    let error = Compiler::new().compile("wrong", CpuLevel::X86V3, Stage::Obj, emit).unwrap_err().to_string();
    assert!(error.starts_with("wrong: mlir: "), "{error}");
    assert!(error.contains("operand"), "{error}");
}

#[test]
fn what_would_become_a_call_is_refused() {
    let emit = |m: &mut ModuleBuilder<'_>| {
        m.kernel("calls", &[], |kernel| {
            let to = kernel.buffer(0);
            to.store(to.load(Ty::new(Elem::F32, 4)).intrinsic("cos"));
            None
        });
    };
    let error = Compiler::new().compile("calls", CpuLevel::X86V3, Stage::Obj, emit).unwrap_err().to_string();
    assert_eq!(error, "calls: llvm: cpu:x86-64-v3 has no code for llvm.cos.v4f32");
}

#[test]
fn an_undefined_symbol_is_an_error() {
    let level = CpuLevel::X86V2;
    // Without an instruction for it, the conversion becomes a call.
    let emit = |m: &mut ModuleBuilder<'_>| {
        m.kernel("calls", &[], |kernel| {
            let (from, to) = (kernel.buffer(0), kernel.buffer(1));
            to.store(from.load(Ty::new(Elem::F16, 1)).float_to(Elem::F32));
            None
        });
    };
    let object = Compiler::new().compile("calls", level, Stage::Obj, emit).unwrap();
    let error = link(level, &[&object]).unwrap_err().to_string();
    assert!(error.contains("undefined symbol: __extendhfsf2"), "{error}");
}

#[test]
fn an_object_that_is_none_is_an_error() {
    let error = link(CpuLevel::X86V3, &[b"not an object"]).unwrap_err().to_string();
    assert!(error.starts_with("x86-64-v3: lld: "), "{error}");
}
