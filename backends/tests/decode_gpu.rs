//! Attention over caches on GPUs, by the emulated driver: whatever the number of blocks and in whatever order they come, it
//! computes what the interpreter says, and the same bits each time.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of the shared modules")]

mod emulator;
#[path = "conformance/harness.rs"]
mod harness;

use harness::{Built, Domain, build_for, limit};
use kiln_backends::plan::PlanOptions;
use kiln_ir::{ElemType, eval};
use kiln_kernels::{Level, cuda::Sm};
use kiln_runtime::cuda::{DeviceId, Driver, Functions, Status};
use std::{cell::Cell, collections::HashMap, ffi::c_int, sync::Arc};

type Inputs = HashMap<String, eval::Tensor>;

thread_local! {
    static MULTIPROCESSORS: Cell<i32> = const { Cell::new(1) };
}

unsafe extern "C" fn device_attribute(value: *mut c_int, which: c_int, device: DeviceId) -> Status {
    let status = unsafe { (emulator::functions().device_attribute)(value, which, device) };
    if which == 16 {
        unsafe { *value = MULTIPROCESSORS.get() };
    }
    status
}

/// A driver of a device that runs so many blocks at once.
fn driver(blocks: i32) -> Arc<Driver> {
    MULTIPROCESSORS.set(blocks);
    Driver::new(Functions { device_attribute, ..emulator::functions() }).unwrap()
}

/// Heads, key heads, queries, the depth of keys and of values, and more attributes.
struct Case {
    elem: ElemType,
    heads: [i64; 3],
    depths: [i64; 2],
    attrs: &'static str,
}

impl Case {
    fn build(&self) -> Built {
        let Case { elem, heads: [h, g, q], depths: [d, e], attrs } = self;
        let text = format!(
            "module @m stage=legal {{ dim B = 0..64 dim S = 0..65536
               entry @f(%q: {elem}[B,{h},{q},{d}], %k: {elem}[B,{g},S,{d}], %v: {elem}[B,{g},S,{e}], %n: i64[B]) -> (y: {elem}[B,{h},{q},{e}]) {{
                 %0 = decode_attention %q, %k, %v, %n scale=0.125{attrs} : {elem}[B,{h},{q},{e}] return %0 }} }}"
        );
        build_for(&text, &PlanOptions::default(), vec![Level::Cuda(Sm::Sm80)], None)
    }

    /// Random inputs with these lengths; what lies beyond them is not a number.
    fn inputs(&self, built: &Built, lengths: &[i64]) -> (Inputs, eval::Tensor) {
        let size = lengths.iter().copied().max().unwrap_or(0);
        let sizes = [("B", lengths.len() as i64), ("S", size)];
        let (mut inputs, _) = built.sample("f", &sizes, &|_| Domain::Below(1)).unwrap();
        let lengths_tensor = eval::Tensor::ints(ElemType::I64, [lengths.len()], lengths.to_vec());
        inputs.insert("n".into(), lengths_tensor);
        let mut r = harness::Random(3);
        for name in ["q", "k", "v"] {
            let shape = inputs[name].shape.clone();
            inputs.insert(name.into(), harness::tensor(&mut r, self.elem, &shape, Domain::Any));
        }
        for (name, depth) in ["k", "v"].iter().zip(self.depths) {
            let tensor = inputs.get_mut(*name).unwrap();
            let eval::Data::F(data) = &mut tensor.data else { panic!("floats") };
            let row = depth as usize;
            for (at, x) in data.iter_mut().enumerate() {
                let (key, b) = (at / row % size as usize, at / row / (size * self.heads[1]) as usize);
                if key as i64 >= lengths[b] {
                    *x = f64::NAN;
                }
            }
        }
        let none = |_| Err(String::new());
        let expected = eval::run(&built.module, "f", &inputs, &none).unwrap().remove(0).1;
        (inputs, expected)
    }
}

/// The bytes of the result on a device that runs so many blocks at once.
fn run(built: &mut Built, blocks: i32, inputs: &Inputs) -> Vec<u8> {
    built.driver = Some(driver(blocks));
    let mut outputs =
        built.run("f", Level::Cuda(Sm::Sm80), 1, inputs).unwrap_or_else(|e| panic!("{blocks} blocks: {e}"));
    outputs.remove(0)
}

fn check(case: &Case, lengths: &[i64]) {
    let mut built = case.build();
    let (inputs, expected) = case.inputs(&built, lengths);
    for blocks in [1, 3, 7, 41] {
        emulator::set_order(0);
        let bytes = run(&mut built, blocks, &inputs);
        let found = eval::Tensor::from_bytes(case.elem, expected.shape.clone(), &bytes).unwrap();
        let error = found.relative_error(&expected);
        assert!(error <= limit(case.elem, 1e-6), "{} by {blocks} blocks: error {error:e}", case.elem);
        if blocks > 1 {
            emulator::set_order(blocks as u64);
            assert!(bytes == run(&mut built, blocks, &inputs), "{}: {blocks} blocks in another order", case.elem);
        }
    }
}

/// None, one, and around one tile and many: a tile has 64 keys.
#[test]
fn by_multiply_adds() {
    let case = Case { elem: ElemType::F32, heads: [4, 1, 1], depths: [64, 64], attrs: "" };
    check(&case, &[0, 1, 63, 64, 65, 643]);
}

/// A tile has 128 keys.
#[test]
fn on_tensor_cores() {
    let case = Case { elem: ElemType::BF16, heads: [4, 1, 1], depths: [64, 64], attrs: "" };
    check(&case, &[0, 1, 127, 128, 129, 1283]);
}

/// More queries of a key head than rows of an output tile, several key heads, several queries, of which some see nothing.
#[test]
fn several_queries_and_heads() {
    let case = Case { elem: ElemType::F16, heads: [14, 2, 3], depths: [32, 16], attrs: "" };
    check(&case, &[2, 700]);
    let case = Case { elem: ElemType::F32, heads: [14, 2, 3], depths: [20, 12], attrs: "" };
    check(&case, &[1, 500]);
}

/// Each head's keys in as many parts as are asked for, or in fewer where there are not as many blocks.
#[test]
fn cut_into_parts() {
    let case = Case { elem: ElemType::BF16, heads: [4, 2, 1], depths: [64, 64], attrs: " splits=5" };
    check(&case, &[0, 1283]);
}

#[test]
fn a_length_that_is_none_is_an_error_and_the_session_goes_on() {
    let case = Case { elem: ElemType::F32, heads: [2, 1, 1], depths: [8, 8], attrs: "" };
    let mut built = case.build();
    let (inputs, _) = case.inputs(&built, &[300, 2000]);
    let expected = run(&mut built, 7, &inputs);
    for wrong in [-1, 2001, i64::MIN, i64::MAX] {
        let mut bad = inputs.clone();
        bad.insert("n".into(), eval::Tensor::ints(ElemType::I64, [2], vec![300, wrong]));
        let error = built.run("f", Level::Cuda(Sm::Sm80), 1, &bad).unwrap_err();
        assert!(error.contains("decode_attention"), "{error}");
        assert!(expected == run(&mut built, 7, &inputs));
    }
}
