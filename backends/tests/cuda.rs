//! PTX of every op on every element type: it computes what the interpreter says, run by an emulated driver; it is
//! assembled for its target where ptxas is installed, and uses no more than it should. What a session does when a GPU or
//! its driver fails.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of the shared modules")]

#[path = "conformance/cases.rs"]
mod cases;
mod digest;
mod emulator;
#[path = "conformance/harness.rs"]
mod harness;
mod hopper;
#[path = "circuit/make.rs"]
mod make;
mod prefill;
mod ptx;

use cases::{CASES, DIMS, chosen};
use harness::{Built, Domain, build_for, levels, limit};
use kiln_backends::{code, plan::PlanOptions};
use kiln_ir::ElemType;
use kiln_kernels::{Level, cuda::Sm};
use kiln_runtime::{
    Artifact, Error, Session, SessionOptions, TensorView,
    cuda::{Address, DeviceId, Driver, Functions, Handle, Status},
    format::SectionKind,
};
use std::{
    ffi::{c_int, c_uint, c_void},
    sync::Arc,
};

/// The elements of the largest index space that is emulated.
const EMULATED: i64 = 1000;

fn module(elem: ElemType) -> String {
    let cases = CASES.iter().filter(|c| c.elems.contains(&elem) && chosen(c.name));
    let entries: String = cases.map(|c| format!(" entry @{}{}\n", c.name, c.on(elem))).collect();
    format!("module @m stage=legal {{\n {DIMS}\n{entries}}}")
}

/// The driver that the cases run by: the emulated one, or that of this machine's GPU where `KILN_TEST_GPU` is set.
fn driver() -> (Arc<Driver>, i64) {
    match std::env::var_os("KILN_TEST_GPU") {
        None => (emulator::driver(), EMULATED),
        Some(_) => (Driver::load().unwrap_or_else(|e| panic!("{e}")), i64::MAX),
    }
}

/// The PTX of the artifact's only target.
fn code_of(built: &Built) -> &[u8] {
    let section = built.artifact.sections().iter().find(|s| s.kind == SectionKind::Code).unwrap();
    &built.bytes[section.offset as usize..][..section.len as usize]
}

fn check(elem: ElemType) {
    // The kernels of the two differ in little more than their heads, and in packed integers of 16 bits.
    let sm = match elem {
        ElemType::BF16 | ElemType::I8 | ElemType::U8 | ElemType::I16 | ElemType::U16 => Sm::Sm90a,
        _ => Sm::Sm80,
    };
    let (driver, most) = driver();
    let built = build_for(&module(elem), &PlanOptions::default(), vec![Level::Cuda(sm)], Some(driver));
    let mut problems = vec![];
    for case in CASES.iter().filter(|c| c.elems.contains(&elem) && chosen(c.name)) {
        let domain = |name: &str| match case.below {
            n if n > 0 && name.starts_with('i') => Domain::Below(n),
            _ => Domain::Any,
        };
        let entry = built.module.entry(case.name).unwrap();
        let results = &built.module.regions[entry.body].results;
        let tolerance = |name: &str| {
            let at = entry.outputs.iter().position(|n| n == name);
            limit(at.map_or(elem, |at| built.module.ty(results[at]).elem), case.tolerance)
        };
        for [b, s, k] in case.sizes.iter().filter(|sizes| sizes.iter().product::<i64>() <= most) {
            problems.extend(built.check(case.name, &[("B", *b), ("S", *s), ("K", *k)], &domain, &tolerance));
        }
    }
    assert!(problems.is_empty(), "{elem}:\n{}", problems.join("\n"));
    assembles(elem, sm, &built);
}

fn assembles(elem: ElemType, sm: Sm, built: &Built) {
    let text = std::str::from_utf8(code_of(built)).unwrap();
    let (major, minor) = sm.ptx();
    let head = format!(".version {major}.{minor}\n.target {}\n.address_size 64\n", sm.name());
    assert_eq!(text.matches(&head).count(), 1, "{elem}: the head of\n{}", &text[..200]);
    let linked = text.lines().find(|l| l.contains(".extern") && !l.contains(".shared"));
    assert_eq!(linked, None, "{elem}: something is left to be linked");
    let mut symbols: Vec<&str> =
        built.artifact.manifest().targets[0].kernels.iter().map(|k| k.symbol.as_str()).collect();
    symbols.sort();
    symbols.dedup();
    for symbol in &symbols {
        assert_eq!(text.matches(&format!(".visible .entry {symbol}(")).count(), 1, "{elem}: {symbol}");
    }
    let Some(ptxas) = ptx::ptxas() else { return };
    let usages = ptx::assemble(ptxas, sm, text.as_bytes());
    assert_eq!(usages.len(), symbols.len());
    let (most, spills) = (usages.iter().map(|u| u.registers).max(), usages.iter().filter(|u| u.spilled > 0).count());
    println!("{} {elem}: {} kernels, at most {most:?} registers, {spills} spill", sm.name(), usages.len());
    assert_eq!(ptx::spilling(&usages), Vec::<&ptx::Usage>::new(), "kernels that may not spill do");
}

macro_rules! elements {
    ($($name:ident $elem:ident),*) => {$(
        #[test]
        fn $name() { check(ElemType::$elem) }
    )*};
}
elements!(f64 F64, f32 F32, f16 F16, bf16 BF16, i1 I1, i8 I8, i16 I16, i32 I32, i64 I64, u8 U8, u16 U16, u32 U32, u64 U64);

/// The PTX of the kernels of a module.
fn text_of(module: &str) -> String {
    text_for(module, Sm::Sm80)
}

fn text_for(module: &str, sm: Sm) -> String {
    let m = kiln_ir::parse(module).unwrap_or_else(|e| panic!("{e}"));
    let plan =
        kiln_backends::plan::plan(kiln_ir::verify(&m).unwrap(), &PlanOptions { gpu: true, ..Default::default() })
            .unwrap();
    let code = code::compile(&plan.kernels, &[Level::Cuda(sm)], 1).unwrap_or_else(|e| panic!("{}", e[0]));
    String::from_utf8(code[0].bytes.clone()).unwrap()
}

#[test]
fn elementwise_kernels_move_16_bytes_at_a_time() {
    let entry = |elem| {
        format!(
        "module @m stage=legal {{ dim B = 0..64
          entry @f(%x: {elem}[B,6], %y: {elem}[B,6]) -> (z: {elem}[B,6]) {{ %0 = add %x, %y : {elem}[B,6] return %0 }} }}"
    )
    };
    for (elem, vector) in [("f32", "v4.b32"), ("f16", "v4.b32"), ("f64", "v2.b64"), ("i8", "v4.b32")] {
        let text = text_of(&entry(elem));
        let count = |op: &str| text.matches(&format!("{op}.global.{vector}")).count();
        assert_eq!((count("ld"), count("st")), (2, 1), "{elem}: {text}");
        assert!(!text.contains(".local"), "{elem}: {text}");
    }
}

/// Loops over a known number of rows are not written out.
#[test]
fn sums_of_columns_stay_loops() {
    let text = text_of(
        "module @m stage=legal { entry @f(%x: f32[8192,512]) -> (z: f32[512]) { %0 = reduce %x kind=sum axes=[0] keep=false : f32[512] return %0 } }",
    );
    let loads = text.matches("ld.global").count();
    assert!((1..=64).contains(&loads), "{loads} loads in\n{text}");
}

/// Two results of 16 bits are converted by one instruction wherever eight neighbours are stored.
#[test]
fn results_of_16_bits_are_converted_in_pairs() {
    for (elem, sm) in ["f16", "bf16"].into_iter().flat_map(|elem| Sm::ALL.map(|sm| (elem, sm))) {
        let ops = ["tanh %x", "rms_norm %x scale=%g axis=1 eps=1e-6", "matmul %x, %x"];
        for op in ops {
            let ty = format!("{elem}[4096,4096]");
            let text = text_for(
                &format!(
                    "module @m stage=legal {{ entry @f(%x: {ty}, %g: {elem}[4096]) -> (z: {ty}) {{ %0 = {op} : {ty} return %0 }} }}"
                ),
                sm,
            );
            let pairs = text.matches(&format!("cvt.rn.{elem}x2.f32")).count();
            assert!(pairs >= 4, "{} {elem} {op}: {pairs} pairs in\n{text}", sm.name());
        }
    }
}

/// The loops of a kernel, innermost first: the text between a label and a branch back to it, shortest first.
fn loops(text: &str) -> Vec<&str> {
    let mut found = vec![];
    for (at, _) in text.match_indices("\n$") {
        let label = text[at + 1..].split(':').next().unwrap_or("");
        let back = [format!("bra \t{label};"), format!("bra.uni \t{label};")];
        let ends = back.iter().filter_map(|branch| text[at..].rfind(branch.as_str()));
        found.extend(ends.max().map(|end| &text[at..at + end]));
    }
    found.sort_by_key(|body| body.len());
    found
}

/// Products of matrices: the sizes of the tile, and what the hot loop does with it.
#[test]
fn products_are_of_the_form_that_is_fast() {
    let entry = |elem: &str, [m, n, k]: [i64; 3], turned: bool| {
        let (shape, turn, b) = match turned {
            true => (format!("{n},{k}"), format!("%1 = transpose %y perm=[1,0] : {elem}[{k},{n}]"), "%1"),
            false => (format!("{k},{n}"), String::new(), "%y"),
        };
        format!(
            "module @m stage=legal {{ entry @f(%x: {elem}[{m},{k}], %y: {elem}[{shape}]) -> (z: {elem}[{m},{n}]) {{ {turn}
               %0 = matmul %x, {b} : {elem}[{m},{n}] return %0 }} }}"
        )
    };
    // Products in the loop: of a warp 64x64x32, 32x64x32, 32x32x32 by 16x8x16; of a thread 8x8x8 and 4x4x16.
    let cases = [
        ("bf16", [2048, 2048, 512], "mma.sync", 64, 16),
        ("f16", [1024, 1024, 512], "mma.sync", 32, 12),
        ("bf16", [256, 256, 512], "mma.sync", 16, 8),
        ("f32", [2048, 2048, 512], "fma.rn.f32", 512, 32),
        ("f32", [256, 256, 512], "fma.rn.f32", 256, 32),
    ];
    for ((elem, size, product, count, loads), turned) in cases.into_iter().flat_map(|c| [(c, false), (c, true)]) {
        let text = text_of(&entry(elem, size, turned));
        let hot = loops(&text).into_iter().find(|body| body.contains(product));
        let hot = hot.unwrap_or_else(|| panic!("{elem} {size:?}: no loop with {product}:\n{text}"));
        let load = if product == "mma.sync" { "ldmatrix.sync" } else { "ld.shared.v4.b32" };
        let found = [product, load].map(|op| hot.matches(op).count());
        assert_eq!(found, [count, loads], "{elem} {size:?} {turned}:\n{hot}");
        let arrives = if product == "mma.sync" { "cp.async.cg.shared.global" } else { "ld.global.v4.b32" };
        assert!(hot.contains(arrives), "{elem} {size:?} {turned}: {arrives} in\n{hot}");
        assert!(!text.contains(".local"), "{elem} {size:?}: {text}");
        assembles_without_spills(&text);
    }
}

#[test]
fn the_same_kernels_give_the_same_text() {
    let m = kiln_ir::parse(LOOKUP).unwrap();
    let plan = kiln_backends::plan::plan(kiln_ir::verify(&m).unwrap(), &PlanOptions::default()).unwrap();
    let compile = |threads| {
        code::compile(&plan.kernels, &[Level::Cuda(Sm::Sm80)], threads).unwrap_or_else(|e| panic!("{}", e[0]))
    };
    assert!(compile(1)[0].bytes == compile(3)[0].bytes);
}

/// A lookup, then arithmetic.
const LOOKUP: &str = "module @lookup stage=legal {
    dim B = 1..100000000
    weights %%0 = \"w\"
    param %table : f32[5,3] = %%0 \"table\"
    entry @f(%i: i64[B]) -> (y: f32[B,3]) {
      %0 = gather %table, %i axis=0 : f32[B,3]
      %1 = add %0, %0 : f32[B,3]
      return %1
    }
  }";

fn lookup(levels: Vec<Level>) -> Artifact {
    build_for(LOOKUP, &PlanOptions::default(), levels, None).artifact
}

fn gpu(sm: Sm) -> Artifact {
    lookup(vec![Level::Cuda(sm)])
}

fn both() -> Artifact {
    lookup(levels().into_iter().map(Level::Cpu).chain([Level::Cuda(Sm::Sm90a)]).collect())
}

fn session(artifact: &Artifact, driver: &Arc<Driver>) -> Result<Session, Error> {
    Session::new(artifact, SessionOptions { driver: Some(driver.clone()), ..Default::default() })
}

/// Runs the lookup; the first outputs.
fn run(session: &mut Session, indices: &[i64]) -> Result<Vec<f32>, Error> {
    let shape = [indices.len()];
    let outputs = session.entry("f")?.run(&[("i", TensorView::of(&shape, indices).unwrap())])?;
    Ok(outputs.get("y").unwrap().as_slice::<f32>().unwrap().to_vec())
}

/// The name of the target that a session runs.
fn target(session: &Session) -> String {
    session.artifact().manifest().targets[session.target()].name.clone()
}

#[test]
fn the_gpu_comes_before_the_processor_and_computes_the_same() {
    let artifact = both();
    let mut here = session(&artifact, &emulator::driver()).unwrap();
    assert_eq!(target(&here), "cuda:sm_90a");
    let mut there = session(&artifact, &driver_with(|f| f.driver_version = old_version)).unwrap();
    assert!(target(&there).starts_with("cpu:"), "{}", target(&there));
    for indices in [vec![4, 0, 1, 1], vec![2], vec![3; 1000]] {
        let before = emulator::launches();
        assert_eq!(run(&mut here, &indices).unwrap(), run(&mut there, &indices).unwrap());
        assert!(emulator::launches() > before);
    }
    assert!(here.memory_bytes() > 1000 * 3 * 4);
}

/// What `inspect` says is what a session does.
#[test]
fn the_target_for_this_machine_is_the_one_that_a_session_takes() {
    let drivers = [
        emulator::driver(),
        driver_with(|f| f.driver_version = old_version),
        driver_with(|f| f.device_attribute = capability_8_6),
    ];
    let made = || lookup(levels().into_iter().map(Level::Cpu).chain([Sm::Sm80, Sm::Sm90a].map(Level::Cuda)).collect());
    let all = made();
    for (driver, expected) in drivers.iter().zip(["cuda:sm_90a", "cuda:sm_80", "cuda:sm_80"]) {
        let options = SessionOptions { driver: Some(driver.clone()), ..Default::default() };
        let chosen = all.target_for(&options).unwrap();
        assert_eq!(all.manifest().targets[chosen].name, expected);
        assert_eq!(session(&all, driver).unwrap().target(), chosen);
        let artifact = gpu(Sm::Sm90a);
        let found = artifact.target_for(&options).map_err(|e| e.to_string());
        assert_eq!(found, session(&artifact, driver).map(|s| s.target()).map_err(|e| e.to_string()));
    }
    // Without a driver the processor is left, or nothing.
    if Driver::load().is_err() {
        let all = made();
        assert_eq!(all.best_target().unwrap(), Session::new(&all, SessionOptions::default()).unwrap().target());
        let text = gpu(Sm::Sm80).best_target().unwrap_err().to_string();
        assert!(text.contains("CUDA driver"), "{text}");
    }
}

#[test]
fn launches_that_are_the_same_in_each_run_become_a_graph() {
    let mut session = session(&gpu(Sm::Sm80), &emulator::driver()).unwrap();
    let before = emulator::graphs();
    for indices in [vec![4, 0], vec![1, 2], vec![3, 3], vec![2, 1]] {
        let expected: Vec<f32> = run(&mut session, &indices[..1]).unwrap();
        for _ in 0..3 {
            assert_eq!(run(&mut session, &indices).unwrap()[..3], expected);
        }
    }
    // Of each three runs of one shape the second and the third.
    assert!(emulator::graphs() >= before + 8);
    // A graph stops at what it meets, too.
    for _ in 0..3 {
        let error = run(&mut session, &[1, 5]).unwrap_err();
        assert!(matches!(error, Error::IndexOutOfRange { .. }), "{error}");
    }
}

/// A step of a warp over its keys: what it multiplies, loads from shared memory and brings there, without a barrier of the
/// block.
#[test]
fn decode_attention_is_of_the_form_that_is_fast() {
    let entry = |elem: &str, depth: i64| {
        let (q, cache) = (format!("{elem}[2,8,1,{depth}]"), format!("{elem}[2,2,4096,{depth}]"));
        format!(
            "module @m stage=legal {{ entry @f(%q: {q}, %k: {cache}, %v: {cache}, %n: i64[2]) -> (z: {q}) {{
               %0 = decode_attention %q, %k, %v, %n scale=0.125 : {q} return %0 }} }}"
        )
    };
    // Keys of a step by depth by 16 queries, twice, by 16x8x16; a chunk of 16 bytes a lane.
    for (elem, depth, expected) in [("f16", 64, [32, 16, 16]), ("bf16", 128, [32, 16, 16]), ("f16", 32, [32, 16, 16])] {
        let text = text_of(&entry(elem, depth));
        let hot = loops(&text).into_iter().find(|body| body.contains("mma.sync")).unwrap();
        let found = ["mma.sync", "ldmatrix.sync", "cp.async.cg.shared.global"].map(|op| hot.matches(op).count());
        assert_eq!(found, expected, "{elem} {depth}:\n{hot}");
        assert!(!hot.contains("bar.sync") && !text.contains(".local"), "{elem} {depth}:\n{text}");
        assembles_without_spills(&text);
    }
    // Four keys of a depth of 128, of which a lane has a part, by four queries; the values by four columns a lane.
    let text = text_of(&entry("f32", 128));
    let hot = loops(&text).into_iter().find(|body| body.contains("cp.async.wait_group")).unwrap();
    let found = ["fma.rn.f32", "ld.shared.v4.b32", "cp.async.cg.shared.global"].map(|op| hot.matches(op).count());
    assert!(found[1] > 0 && found[2] == 8 && !text.contains(".local"), "{found:?}\n{text}");
    assembles_without_spills(&text);
}

/// Rows move 16 bytes at a time, and attention multiplies on tensor cores where there are any for its type.
#[test]
fn rows_and_attention_are_of_the_form_that_is_fast() {
    let row = |elem: &str, op: &str, result: &str| {
        format!(
            "module @m stage=legal {{ entry @f(%x: {elem}[64,512]) -> (z: {result}) {{ %0 = {op} : {result} return %0 }} }}"
        )
    };
    let rows = [
        (row("f32", "softmax %x axis=1", "f32[64,512]"), 3, 1),
        (row("bf16", "log_softmax %x axis=1", "bf16[64,512]"), 3, 1),
        (row("f16", "layer_norm %x axis=1 eps=1e-5", "f16[64,512]"), 3, 1),
        (row("f32", "reduce %x kind=sum axes=[1] keep=false", "f32[64]"), 1, 0),
        (row("f32", "argmax %x axis=1 keep=false", "i64[64]"), 1, 0),
    ];
    for (module, loads, stores) in rows {
        let text = text_of(&module);
        let count = |op: &str| text.matches(&format!("{op}.global.v4.b32")).count();
        assert!(count("ld") >= loads && count("st") >= stores, "{module}\n{text}");
        assert!(text.contains("shfl.sync") && !text.contains(".local"), "{module}\n{text}");
    }
    let attention = |elem: &str, depth: i64| {
        let shape = format!("{elem}[1,2,256,{depth}]");
        format!(
            "module @m stage=legal {{ entry @f(%q: {shape}, %k: {shape}, %v: {shape}) -> (z: {shape}) {{
               %0 = attention %q, %k, %v scale=0.125 causal=true layout=bhsd : {shape} return %0 }} }}"
        )
    };
    // 64 keys by 16 queries of a warp by the depth, twice, by 16x8x16.
    for (elem, depth, products) in [("f16", 32, 32), ("bf16", 64, 64), ("bf16", 128, 128)] {
        let text = text_of(&attention(elem, depth));
        assert_eq!(text.matches("mma.sync").count(), products, "{elem} {depth}:\n{text}");
        assert!(text.contains("cp.async.cg.shared.global") && !text.contains(".local"), "{elem} {depth}:\n{text}");
        assembles_without_spills(&text);
    }
    let text = text_of(&attention("f32", 64));
    assert!(
        text.contains("ld.global.v4.b32") && text.contains("ld.shared.v4.b32") && !text.contains(".local"),
        "{text}"
    );
    assembles_without_spills(&text);
}

fn assembles_without_spills(text: &str) {
    assembles_on(text, Sm::Sm80);
}

fn assembles_on(text: &str, sm: Sm) {
    let Some(ptxas) = ptx::ptxas() else { return };
    for usage in ptx::assemble(ptxas, sm, text.as_bytes()) {
        assert_eq!((usage.spilled, usage.stack), (0, 0), "{usage:?}");
    }
}

#[test]
fn an_index_out_of_range_is_found_on_the_device_and_named() {
    let mut session = session(&gpu(Sm::Sm80), &emulator::driver()).unwrap();
    let error = run(&mut session, &[1, 5]).unwrap_err();
    assert!(matches!(&error, Error::IndexOutOfRange { label, .. } if label.starts_with("gather")), "{error}");
    // The next run starts afresh.
    assert_eq!(run(&mut session, &[1, 1]).unwrap().len(), 6);
}

fn driver_with(change: impl FnOnce(&mut Functions)) -> Arc<Driver> {
    let mut functions = emulator::functions();
    change(&mut functions);
    Driver::new(functions).unwrap()
}

unsafe extern "C" fn old_version(version: *mut c_int) -> Status {
    unsafe { *version = 11040 };
    0
}

unsafe extern "C" fn capability_8_6(value: *mut c_int, which: c_int, _: DeviceId) -> Status {
    unsafe { *value = if which == 75 { 8 } else { 6 } };
    0
}

fn refused(artifact: &Artifact, driver: &Arc<Driver>) -> String {
    session(artifact, driver).err().unwrap().to_string()
}

#[test]
fn a_driver_that_is_too_old_is_named_with_what_is_needed() {
    let text = refused(&gpu(Sm::Sm90a), &driver_with(|f| f.driver_version = old_version));
    for part in ["it supports CUDA 11.4", "PTX 8.0 of cuda:sm_90a needs a driver for CUDA 12.0"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(session(&gpu(Sm::Sm80), &driver_with(|f| f.driver_version = old_version)).is_ok());
}

#[test]
fn another_architecture_is_refused() {
    let text = refused(&gpu(Sm::Sm90a), &driver_with(|f| f.device_attribute = capability_8_6));
    assert!(text.contains("cuda:sm_90a needs compute capability 9.0, Emulated GPU has 8.6"), "{text}");
    assert!(session(&gpu(Sm::Sm80), &driver_with(|f| f.device_attribute = capability_8_6)).is_ok());
}

#[test]
fn without_a_driver_or_a_device_there_is_a_reason() {
    let missing = Driver::open("libno-such-driver.so.1".as_ref()).unwrap_err().to_string();
    assert!(missing.starts_with("no CUDA driver: libno-such-driver.so.1"), "{missing}");
    let other = Driver::open("libm.so.6".as_ref()).unwrap_err().to_string();
    assert!(other.contains("libm.so.6 has no cuInit"), "{other}");
    unsafe extern "C" fn no_device(_: c_uint) -> Status {
        100
    }
    unsafe extern "C" fn none(count: *mut c_int) -> Status {
        unsafe { *count = 0 };
        0
    }
    for change in [|f: &mut Functions| f.init = no_device, |f: &mut Functions| f.device_count = none] {
        let mut functions = emulator::functions();
        change(&mut functions);
        assert_eq!(Driver::new(functions).unwrap_err().to_string(), "the CUDA driver finds no device");
    }
}

#[test]
fn out_of_device_memory_is_an_error_and_the_session_stays_usable() {
    unsafe extern "C" fn little(address: *mut Address, bytes: usize) -> Status {
        if bytes > 1 << 20 {
            emulator::OUT_OF_MEMORY
        } else {
            unsafe { (emulator::functions().memory_alloc)(address, bytes) }
        }
    }
    let mut session = session(&gpu(Sm::Sm80), &driver_with(|f| f.memory_alloc = little)).unwrap();
    let expected = run(&mut session, &[3, 4]).unwrap();
    let error = run(&mut session, &vec![0; 1 << 20]).unwrap_err();
    assert!(matches!(error, Error::Memory { .. }), "{error}");
    assert_eq!(run(&mut session, &[3, 4]).unwrap(), expected);
}

#[test]
fn a_device_that_fails_is_an_error_each_time() {
    unsafe extern "C" fn lost(
        _: Handle,
        _: c_uint,
        _: c_uint,
        _: c_uint,
        _: c_uint,
        _: c_uint,
        _: c_uint,
        _: c_uint,
        _: Handle,
        _: *mut *mut c_void,
        _: *mut *mut c_void,
    ) -> Status {
        719
    }
    let mut session = session(&gpu(Sm::Sm80), &driver_with(|f| f.launch = lost)).unwrap();
    for _ in 0..2 {
        let text = run(&mut session, &[1]).unwrap_err().to_string();
        assert!(text.contains("gather") && text.contains("CUDA_ERROR_LAUNCH_FAILED"), "{text}");
    }
}

#[test]
fn ptx_that_the_driver_refuses_is_an_error_with_what_it_says() {
    unsafe extern "C" fn refuse(
        _: *mut Handle,
        _: *const c_void,
        _: c_uint,
        _: *mut c_int,
        values: *mut *mut c_void,
    ) -> Status {
        let said = b"line 1: no";
        unsafe { std::ptr::copy_nonoverlapping(said.as_ptr(), (*values).cast(), said.len()) };
        200
    }
    let text = refused(&gpu(Sm::Sm80), &driver_with(|f| f.module_load = refuse));
    assert!(text.contains("cuda:sm_80 does not load: CUDA_ERROR_INVALID_IMAGE: line 1: no"), "{text}");
}
