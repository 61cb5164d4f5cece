//! What is made for Hopper alone: products by warp groups, on copies of tiles.

pub mod flow;

use crate::{
    assembles, assembles_on, driver_with, emulator,
    harness::{Domain, build_for, limit},
    refused, text_for,
};
use kiln_backends::plan::PlanOptions;
use kiln_ir::ElemType;
use kiln_kernels::{Level, cuda::Sm};
use kiln_runtime::{
    cuda::{DeviceId, Status},
    format::Kernel,
};
use std::ffi::c_int;

const DIMS: &str = "dim B = 0..64\n dim S = 0..4096\n dim K = 0..4096\n weights %%0 = \"w\"";

/// An entry, and the values of its symbols `B`, `S` and `K`.
type Case = (&'static str, &'static str, &'static [[i64; 3]]);

/// Products that take tiles by copies of the hardware: ragged edges, parts that fill a ring more than once, either order of
/// both sides, packed weights, memory that begins anywhere, and what follows a product.
const PRODUCTS: &[Case] = &[
    (
        "rows",
        "(%x: T[B,S,328], %y: T[B,328,136]) -> (z: T[B,S,136]) {
        %0 = matmul %x, %y : T[B,S,136]
        return %0 }",
        &[[2, 130, 1], [1, 1, 1]],
    ),
    (
        "wide",
        "(%x: T[B,S,72], %y: T[B,72,264]) -> (z: T[B,S,264]) {
        %0 = matmul %x, %y : T[B,S,264]
        return %0 }",
        &[[2, 130, 1], [0, 3, 1]],
    ),
    (
        "turned",
        "(%x: T[B,S,72], %y: T[B,264,72]) -> (z: T[B,S,264]) {
        %0 = transpose %y perm=[0,2,1] : T[B,72,264]
        %1 = matmul %x, %0 : T[B,S,264]
        return %1 }",
        &[[2, 130, 1]],
    ),
    (
        "both_turned",
        "(%x: T[B,72,136], %y: T[B,768,72]) -> (z: T[B,136,768]) {
        %0 = transpose %x perm=[0,2,1] : T[B,136,72]
        %1 = transpose %y perm=[0,2,1] : T[B,72,768]
        %2 = matmul %0, %1 : T[B,136,768]
        return %2 }",
        &[[1, 1, 1]],
    ),
    (
        "from_anywhere",
        "(%x: T[B,S,80], %y: T[B,80,144]) -> (z: T[B,S,135]) {
        %0 = slice %x axis=2 start=3 end=75 : T[B,S,72]
        %1 = slice %y axis=2 start=5 end=140 : T[B,80,135]
        %2 = slice %1 axis=1 start=4 end=76 : T[B,72,135]
        %3 = matmul %0, %2 : T[B,S,135]
        return %3 }",
        &[[2, 129, 1]],
    ),
    (
        "packed",
        "(%x: T[B,S,72], %r: T[B,S,1544], %c: T[1544]) -> (z: T[B,S,1544]) {
        %0 = fusion %x, %w, %r, %c body(%p: T[B,S,72], %q: T[72,1544], %o: T[B,S,1544], %d: T[1544]) {
          %t = matmul %p, %q : T[B,S,1544]
          %u = add %t, %d : T[B,S,1544]
          %v = tanh %u : T[B,S,1544]
          %k = add %v, %o : T[B,S,1544]
          yield %k
        } : T[B,S,1544]
        return %0 }",
        &[[1, 130, 1]],
    ),
];

/// Attention by copies of tiles: more and fewer keys than a step, both depths, masks, few heads of keys, queries that see no
/// key, and memory that begins anywhere.
const ATTENTION: &[Case] = &[
    ("causal", "(%q: T[B,2,S,64], %k: T[B,2,K,64], %v: T[B,2,K,64]) -> (z: T[B,2,S,64]) {
        %0 = attention %q, %k, %v scale=0.125 causal=true layout=bhsd : T[B,2,S,64]
        return %0 }", &[[1, 150, 300], [1, 140, 9], [1, 3, 130]]),
    ("grouped", "(%q: T[B,4,S,128], %k: T[B,2,K,128], %v: T[B,2,K,64]) -> (z: T[B,4,S,64]) {
        %0 = attention %q, %k, %v scale=0.08 causal=false layout=bhsd : T[B,4,S,64]
        return %0 }", &[[1, 70, 257], [2, 1, 0]]),
    ("masked", "(%q: T[B,1,S,64], %k: T[B,1,K,64], %v: T[B,1,K,128], %m: T[B,1,1,K], %i: i1[S,K]) -> (y: T[B,1,S,128], z: T[B,1,S,128]) {
        %0 = attention %q, %k, %v mask=%m scale=0.125 causal=false layout=bhsd : T[B,1,S,128]
        %1 = attention %q, %k, %v mask=%i scale=-0.125 causal=true layout=bhsd : T[B,1,S,128]
        return %0, %1 }", &[[1, 130, 140]]),
    ("merged", "(%x: T[B,S,584]) -> (z: T[B,S,3,64]) {
        %0 = slice %x axis=2 start=3 end=195 : T[B,S,192]
        %1 = slice %x axis=2 start=196 end=388 : T[B,S,192]
        %2 = slice %x axis=2 start=392 end=584 : T[B,S,192]
        %3 = reshape %0 to=[B,S,3,64] : T[B,S,3,64]
        %4 = reshape %1 to=[B,S,3,64] : T[B,S,3,64]
        %5 = reshape %2 to=[B,S,3,64] : T[B,S,3,64]
        %6 = attention %3, %4, %5 scale=0.17 causal=false layout=bshd : T[B,S,3,64]
        return %6 }", &[[2, 129, 1]]),
    ("split", "(%x: T[B,S,576]) -> (z: T[B,S,3,64]) {
        %0 = slice %x axis=2 start=0 end=192 : T[B,S,192]
        %1 = slice %x axis=2 start=192 end=384 : T[B,S,192]
        %2 = slice %x axis=2 start=384 end=576 : T[B,S,192]
        %3 = reshape %0 to=[B,S,3,64] : T[B,S,3,64]
        %4 = reshape %1 to=[B,S,3,64] : T[B,S,3,64]
        %5 = reshape %2 to=[B,S,3,64] : T[B,S,3,64]
        %6 = attention %3, %4, %5 scale=0.17 causal=false layout=bshd : T[B,S,3,64]
        return %6 }", &[[2, 129, 1]]),
];

/// Runs cases on an element type; all kernels of the family have tensor maps.
fn check(elem: ElemType, cases: &[Case], family: &str) {
    let chosen =
        |name: &str| std::env::var("KILN_CASES").map_or(true, |list| list.split(',').any(|c| name.contains(c)));
    let cases: Vec<&Case> = cases.iter().filter(|(name, ..)| chosen(name)).collect();
    if cases.is_empty() {
        return;
    }
    let entries: String = cases.iter().map(|(name, text, _)| format!(" entry @{name}{text}\n")).collect();
    let text = format!("module @m stage=legal {{\n {DIMS}\n param %w : T[72,1544] = %%0 \"w\"\n{entries}}}");
    let text = text.replace("T[", &format!("{elem}["));
    let built = build_for(&text, &PlanOptions::default(), vec![Level::Cuda(Sm::Sm90a)], Some(emulator::driver()));
    let kernels = &built.artifact.manifest().targets[0].kernels;
    let slow = |k: &&Kernel| k.symbol.starts_with(family) && k.maps.is_empty();
    let others: Vec<_> = kernels.iter().filter(slow).map(|k| &k.label).collect();
    assert!(others.is_empty(), "no copies of tiles in {others:?}");
    assembles(elem, Sm::Sm90a, &built);
    let mut problems = vec![];
    for (name, _, sizes) in cases {
        for [b, s, k] in sizes.iter() {
            let tolerance = |_: &str| limit(elem, 1e-5);
            problems.extend(built.check(name, &[("B", *b), ("S", *s), ("K", *k)], &|_| Domain::Any, &tolerance));
        }
    }
    assert!(problems.is_empty(), "{elem}:\n{}", problems.join("\n"));
}

#[test]
fn products_of_warp_groups_on_bf16() {
    check(ElemType::BF16, PRODUCTS, "matmul_");
}

#[test]
fn products_of_warp_groups_on_f16() {
    check(ElemType::F16, &PRODUCTS[..2], "matmul_");
}

#[test]
fn attention_of_warp_groups_on_bf16() {
    check(ElemType::BF16, ATTENTION, "attention_");
}

#[test]
fn attention_of_warp_groups_on_f16() {
    check(ElemType::F16, &ATTENTION[..1], "attention_");
}

/// The hot loop of a product has as many products as its part is deep, and nothing else touches the sums.
#[test]
fn products_of_warp_groups_are_of_the_form_that_is_fast() {
    let module = |[m, n, k]: [i64; 3], turned: bool| {
        let (shape, turn, b) = match turned {
            true => (format!("{n},{k}"), format!("%1 = transpose %y perm=[1,0] : bf16[{k},{n}]"), "%1"),
            false => (format!("{k},{n}"), String::new(), "%y"),
        };
        format!(
            "module @m stage=legal {{ entry @f(%x: bf16[{m},{k}], %y: bf16[{shape}]) -> (z: bf16[{m},{n}]) {{ {turn}
               %0 = matmul %x, {b} : bf16[{m},{n}] return %0 }} }}"
        )
    };
    for (size, columns, copies) in [([4096, 4096, 4096], 256, 4), ([1536, 1024, 512], 128, 2)] {
        for turned in [false, true] {
            let text = text_for(&module(size, turned), Sm::Sm90a);
            let product = format!("wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16");
            let hot = flow::round(&text, &product).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(hot.matches(&product).count(), 4, "{size:?} {turned}:\n{hot}");
            assert!(!hot.contains("mov.b32 \t%f"), "{size:?} {turned}: sums are moved in\n{hot}");
            let copied = "cp.async.bulk.tensor.2d";
            let filling = flow::round(&text, copied).unwrap_or_else(|| panic!("{text}"));
            // LLVM may write the loop out several times.
            let (found, each) = (filling.matches(copied).count(), 1 + if turned { 1 } else { copies });
            assert!(found > 0 && found.is_multiple_of(each), "{size:?} {turned}: {found} copies in\n{filling}");
            assert!(!text.contains(".local"), "{text}");
            assembles_on(&text, Sm::Sm90a);
        }
    }
}

/// The hot loop of attention has all products of a step, and no exponential waits for those of its own step's values.
#[test]
fn attention_of_warp_groups_is_of_the_form_that_is_fast() {
    for (depth, value_depth) in [(64, 64), (128, 128), (64, 128)] {
        let module = format!(
            "module @m stage=legal {{ entry @f(%q: bf16[1,2,512,{depth}], %k: bf16[1,2,512,{depth}], %v: bf16[1,2,512,{value_depth}])
               -> (z: bf16[1,2,512,{value_depth}]) {{
               %0 = attention %q, %k, %v scale=0.125 causal=true layout=bhsd : bf16[1,2,512,{value_depth}] return %0 }} }}"
        );
        let text = text_for(&module, Sm::Sm90a);
        let hot = flow::round(&text, "bar.arrive").unwrap_or_else(|| panic!("{text}"));
        let shapes = [128, value_depth].map(|n| format!("wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16"));
        // 128 keys by the depth, and the depth of values by 128 keys.
        let found = [hot.matches("wgmma.mma_async").count(), hot.matches(&shapes[1]).count()];
        let all_products = depth / 16 + 8;
        assert_eq!(found, [all_products, if value_depth == 128 { all_products } else { 8 }], "{depth}:\n{hot}");
        assert!(hot.contains(&shapes[0]), "{depth}:\n{hot}");
        let at = |part: &str| hot.find(part).unwrap_or_else(|| panic!("no {part} in\n{hot}"));
        assert!(at("wait_group.sync.aligned 1;") < at("ex2.approx"), "{hot}");
        // ptxas has the second wait come behind a branch, but else before the exponentials.
        let (last, ended) = (hot.rfind("ex2.approx").unwrap(), at("wait_group.sync.aligned 0;"));
        let between = hot.get(last..ended).unwrap_or_else(|| panic!("{hot}"));
        assert!(between.contains("mbarrier.try_wait") && between.contains("bra"), "{hot}");
        assert!(!text.contains(".local"), "{text}");
        assembles_on(&text, Sm::Sm90a);
    }
}

/// A thread of the group that copies has a chunk of each of a tile's panels.
#[test]
fn packed_weights_come_sixteen_bytes_a_thread() {
    let module = "module @m stage=legal { weights %%0 = \"w\" param %w : bf16[512,2048] = %%0 \"w\"
        entry @f(%x: bf16[2048,512]) -> (z: bf16[2048,2048]) { %0 = matmul %x, %w : bf16[2048,2048] return %0 } }";
    let text = text_for(module, Sm::Sm90a);
    let filling = flow::round(&text, "cp.async.cg.shared.global").unwrap_or_else(|| panic!("{text}"));
    let found = filling.matches("cp.async.cg.shared.global").count();
    assert!(found == 8 || found == 16, "{found} in\n{filling}");
    assert!(!text.contains(".local"), "{text}");
    assembles_on(&text, Sm::Sm90a);
}

#[test]
fn a_device_or_a_driver_that_has_less_is_refused() {
    unsafe extern "C" fn less(value: *mut c_int, which: c_int, device: DeviceId) -> Status {
        let status = unsafe { (emulator::functions().device_attribute)(value, which, device) };
        if which == 97 {
            unsafe { *value = 99 << 10 };
        }
        status
    }
    let product = "module @m stage=legal { entry @f(%x: f16[2048,64], %y: f16[64,2048]) -> (z: f16[2048,2048]) {
        %0 = matmul %x, %y : f16[2048,2048] return %0 } }";
    let artifact = build_for(product, &PlanOptions::default(), vec![Level::Cuda(Sm::Sm90a)], None).artifact;
    let text = refused(&artifact, &driver_with(|f| f.device_attribute = less));
    assert!(text.contains("bytes of shared memory a block, Emulated GPU has 101376"), "{text}");
    let text = refused(&artifact, &driver_with(|f| f.encode_map = None));
    assert!(text.contains("the CUDA driver makes no tensor maps, which cuda:sm_90a needs"), "{text}");
}
