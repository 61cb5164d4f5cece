//! PTX of every op on every element type: it is made, it is assembled for its target where ptxas is installed, and it
//! uses no more than it should.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of the shared modules")]

#[path = "conformance/cases.rs"]
mod cases;
mod ptx;

use cases::{CASES, DIMS};
use kiln_backends::{code, plan::PlanOptions};
use kiln_ir::ElemType;
use kiln_kernels::{KernelSpec, Level, cuda::Sm};

/// The kernels of all cases for the type.
fn kernels(elem: ElemType) -> Vec<KernelSpec> {
    let cases = CASES.iter().filter(|c| c.elems.contains(&elem));
    let entries: String = cases.map(|c| format!(" entry @{}{}\n", c.name, c.on(elem))).collect();
    let m =
        kiln_ir::parse(&format!("module @m stage=legal {{\n {DIMS}\n{entries}}}")).unwrap_or_else(|e| panic!("{e}"));
    let verified = kiln_ir::verify(&m).unwrap_or_else(|e| panic!("{e}"));
    kiln_backends::plan::plan(verified, &PlanOptions::default()).unwrap_or_else(|e| panic!("{e}")).kernels
}

fn check(elem: ElemType) {
    // The plain kernels of the two differ in little more than their heads.
    let levels: &[Sm] = if elem == ElemType::F32 { &Sm::ALL } else { &[Sm::Sm80] };
    let kernels = kernels(elem);
    let targets: Vec<Level> = levels.iter().map(|sm| Level::Cuda(*sm)).collect();
    let codes = code::compile(&kernels, &targets, 2).unwrap_or_else(|e| panic!("{}", e[0]));
    for (sm, code) in levels.iter().zip(&codes) {
        let text = std::str::from_utf8(&code.bytes).unwrap();
        let (major, minor) = sm.ptx();
        let head = format!(".version {major}.{minor}\n.target {}\n.address_size 64\n", sm.name());
        assert_eq!(text.matches(&head).count(), 1, "{elem}: the head of\n{}", &text[..200]);
        for kernel in &kernels {
            let entry = format!(".visible .entry {}(", kernel.symbol());
            assert_eq!(text.matches(&entry).count(), 1, "{elem}: {kernel:?}");
        }
        assert!(!text.contains(".extern"), "{elem}: something is left to be linked");
        let Some(ptxas) = ptx::ptxas() else { continue };
        let usages = ptx::assemble(ptxas, *sm, &code.bytes);
        assert_eq!(usages.len(), kernels.len());
        for usage in usages.iter().filter(|u| u.spilled > 0) {
            println!(
                "{} {elem}: {} spills {} bytes, {} registers",
                sm.name(),
                usage.kernel,
                usage.spilled,
                usage.registers
            );
            let hot = HOT.iter().any(|family| usage.kernel.starts_with(family));
            assert!(!hot, "a kernel of {} spills", usage.kernel);
        }
    }
}

/// The families with kernels of their own, in which nothing may be spilled.
const HOT: &[&str] = &["matmul_"];

macro_rules! elements {
    ($($name:ident $elem:ident),*) => {$(
        #[test]
        fn $name() { check(ElemType::$elem) }
    )*};
}
elements!(f64 F64, f32 F32, f16 F16, bf16 BF16, i1 I1, i8 I8, i16 I16, i32 I32, i64 I64, u8 U8, u16 U16, u32 U32, u64 U64);

#[test]
fn the_same_kernels_give_the_same_text() {
    let kernels = kernels(ElemType::U8);
    let compile =
        |threads| code::compile(&kernels, &[Level::Cuda(Sm::Sm80)], threads).unwrap_or_else(|e| panic!("{}", e[0]));
    assert!(compile(1)[0].bytes == compile(3)[0].bytes);
}
