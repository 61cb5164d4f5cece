//! What the artifact stores of parameters, against the interpreter: views, concatenations, arithmetic, panels.

use half::bf16;
use kiln_backends::{
    plan::{Buffer, ModulePlan, PlanOptions, Step, plan},
    weights::{Item, ItemId, Params, Reader},
};
use kiln_ir::{ElemType, Module, Param, eval};
use std::cell::RefCell;

/// Elements of a parameter: distinct, and exact in every float type of 16 bits and more.
fn element(param: usize, i: usize) -> f32 {
    (param * 16 + i % 113) as f32 * 0.25
}

fn parse(text: &str) -> Module {
    kiln_ir::parse(&format!("module @m stage=legal {{\n weights %%0 = \"w\"\n{text}\n}}"))
        .unwrap_or_else(|e| panic!("{e}"))
}

fn stored(m: &Module) -> Vec<Vec<u8>> {
    let bytes = |(n, param): (usize, &kiln_ir::ParamData)| -> Vec<u8> {
        let n_elements = m.ty(param.value).elements().as_const().unwrap() as usize;
        (0..n_elements).flat_map(|i| element(n, i).to_ne_bytes()).collect()
    };
    m.params.values().enumerate().map(bytes).collect()
}

fn read(m: &Module, plan: &ModulePlan, item: ItemId) -> Vec<u8> {
    let stored = stored(m);
    let keys: Vec<&str> = m.params.values().map(|p| p.key.as_str()).collect();
    let find = |_, key: &str| keys.iter().position(|k| *k == key).map(|n| stored[n].as_slice());
    let params = Params::new(m, &find, &|_| {}).unwrap();
    let reader = Reader::new(m, &plan.weights, &params).unwrap();
    let mut out = vec![];
    reader.write(&plan.weights.items()[item.0 as usize], &mut out).unwrap();
    out
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|c| f32::from_ne_bytes([c[0], c[1], c[2], c[3]])).collect()
}

/// The weight that the only launch of the only entry reads as argument `arg`.
fn weight(plan: &ModulePlan, arg: usize) -> ItemId {
    let [Step::Launch(launch)] = plan.entries[0].blocks[0].as_slice() else { panic!("{:?}", plan.entries[0].blocks) };
    let Buffer::Weight(item) = launch.args[arg].buffer else { panic!("{:?}", launch.args[arg]) };
    item
}

#[test]
fn what_is_computed_of_parameters_is_what_the_interpreter_says() {
    // Each line makes a weight-time value %w of 6x8 elements from %a [6,8], %b [8,6] and %c [3,8].
    let ways = [
        "%w = neg %a : f32[6,8]",
        "%0 = transpose %b perm=[1,0] : f32[6,8]; %w = add %0, %a : f32[6,8]",
        "%w = concat %c, %c axis=0 : f32[6,8]",
        "%0 = slice %a axis=1 start=2 end=6 : f32[6,4]; %w = concat %0, %0 axis=1 : f32[6,8]",
        "%0 = transpose %b perm=[1,0] : f32[6,8]; %1 = slice %0 axis=0 start=0 end=6 step=2 : f32[3,8]; %w = concat %1, %c axis=0 : f32[6,8]",
        "%0 = concat %c, %c axis=1 : f32[3,16]; %1 = transpose %0 perm=[1,0] : f32[16,3]; %2 = reshape %1 to=[6,8] : f32[6,8]; %w = mul %2, 0.5 : f32[6,8]",
        "%0 = concat %b, %b axis=0 : f32[16,6]; %1 = transpose %0 perm=[1,0] : f32[6,16]; %w = slice %1 axis=1 start=4 end=12 : f32[6,8]",
        "%0 = convert %a to=i32 : i32[6,8]; %1 = convert %0 to=f32 : f32[6,8]; %2 = compare %a, 3.0 dir=lt : i1[6,8]; %w = select %2, %1, %a : f32[6,8]",
        "%0 = slice %c axis=0 start=1 end=2 : f32[1,8]; %1 = broadcast %0 to=[6,8] : f32[6,8]; %w = max %1, %a : f32[6,8]",
        "%0 = reduce %b kind=sum axes=[0] keep=true : f32[1,6]; %1 = transpose %0 perm=[1,0] : f32[6,1]; %w = mul %a, %1 : f32[6,8]",
        "%0 = gather %c, %order axis=0 : f32[6,8]; %w = add %0, %a : f32[6,8]",
        "%0 = pad %c low=[1,0] high=[2,0] : f32[6,8]; %w = sub %a, %0 : f32[6,8]",
        "%w = fusion %a, %c body(%p: f32[6,8], %q: f32[3,8]) { %r = mul %p, %p : f32[6,8] yield %r } : f32[6,8]",
    ];
    for way in ways {
        let m = parse(&format!(
            "dim N = 1..9
             param %a : f32[6,8] = %%0 \"a\"
             param %b : f32[8,6] = %%0 \"b\"
             param %c : f32[3,8] = %%0 \"c\"
             const %order : i64[6] = [2, 0, 1, 1, 0, 2]
             entry @f(%x: f32[N,6,8]) -> (y: f32[N,6,8]) {{
               {}
               %y = add %x, %w : f32[N,6,8]
               return %y
             }}",
            way.replace("; ", "\n")
        ));
        let plan = plan(kiln_ir::verify(&m).unwrap(), &PlanOptions::default()).unwrap();
        let found = floats(&read(&m, &plan, weight(&plan, 1)));
        let stored = stored(&m);
        let params = |p: Param| {
            let shape: Vec<usize> = m.ty(m.params[p].value).const_dims().unwrap().iter().map(|d| *d as usize).collect();
            eval::Tensor::from_bytes(ElemType::F32, shape, &stored[p.as_u32() as usize]).ok_or_else(String::new)
        };
        let body = m.entries[0].body;
        let sum = m.producer(m.regions[body].results[0]).unwrap();
        let expected = eval::value(&m, m.nodes[sum].operand(1), &params).unwrap();
        // What is stored may be the source of a view; then its elements are checked by running it.
        if found.len() == 48 {
            assert_eq!(found, floats(&expected.to_bytes()), "{way}");
        }
        assert_eq!(plan.weights.items().len(), 1, "{way}");
    }
}

#[test]
fn panels_of_transposed_concatenated_and_converted_matrices() {
    // [K, N] = [5, 37]: two whole panels and a part of one.
    let m = parse(
        "dim M = 1..9
         param %a : f32[20,5] = %%0 \"a\"
         param %b : f32[5,17] = %%0 \"b\"
         entry @f(%x: f32[M,5]) -> (y: f32[M,37]) {
           %0 = transpose %a perm=[1,0] : f32[5,20]
           %1 = concat %0, %b axis=1 : f32[5,37]
           %2 = linear %x, %1 : f32[M,37]
           return %2
         }",
    );
    let at = |k: usize, n: usize| if n < 20 { element(0, n * 5 + k) } else { element(1, k * 17 + n - 20) };
    let expected: Vec<f32> = (0..3 * 5 * 16)
        .map(|i| (i / 80 * 16 + i % 16, i / 16 % 5))
        .map(|(n, k)| if n < 37 { at(k, n) } else { 0.0 })
        .collect();
    let plan_as = |weights| plan(kiln_ir::verify(&m).unwrap(), &PlanOptions { weights, ..Default::default() }).unwrap();
    let plain = plan_as(None);
    assert_eq!(floats(&read(&m, &plain, weight(&plain, 1))), expected);
    let short = plan_as(Some(ElemType::BF16));
    let bytes = read(&m, &short, weight(&short, 1));
    let found: Vec<f32> = bytes.chunks_exact(2).map(|c| bf16::from_ne_bytes([c[0], c[1]]).to_f32()).collect();
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().zip(&expected).all(|(f, e)| (f - e).abs() <= e.abs() / 256.0));
}

#[test]
fn what_entries_share_is_stored_once() {
    let m = parse(
        "dim M = 1..9
         param %a : f32[8,8] = %%0 \"a\"
         param %again : f32[8,8] = %%0 \"a\"
         param %bias : f32[8] = %%0 \"bias\"
         entry @f(%x: f32[M,8]) -> (y: f32[M,8]) {
           %0 = transpose %a perm=[1,0] : f32[8,8]
           %1 = linear %x, %0 bias=%bias : f32[M,8]
           return %1
         }
         entry @g(%x: f32[M,8]) -> (y: f32[M,8]) {
           %0 = transpose %again perm=[1,0] : f32[8,8]
           %1 = linear %x, %0 bias=%bias : f32[M,8]
           return %1
         }",
    );
    let plan = plan(kiln_ir::verify(&m).unwrap(), &PlanOptions::default()).unwrap();
    assert_eq!(plan.kernels.len(), 1);
    assert!(matches!(plan.weights.items(), [Item::Plain(_), Item::Packed { .. }]), "{:?}", plan.weights.items());
}

#[test]
fn memory_of_large_parameters_is_given_back_while_they_are_read() {
    let m = parse(
        "dim M = 1..9
         param %a : f32[6000,6000] = %%0 \"a\"
         entry @f(%x: f32[M,6000]) -> (y: f32[M,6000]) {
           %0 = transpose %a perm=[1,0] : f32[6000,6000]
           %1 = linear %x, %0 : f32[M,6000]
           return %1
         }",
    );
    let plan = plan(kiln_ir::verify(&m).unwrap(), &PlanOptions::default()).unwrap();
    let zeros = vec![0u8; 6000 * 6000 * 4];
    let released = RefCell::new(vec![]);
    let release = |bytes: &[u8]| released.borrow_mut().push(bytes.len());
    let find = |_, _: &str| Some(zeros.as_slice());
    let params = Params::new(&m, &find, &release).unwrap();
    let reader = Reader::new(&m, &plan.weights, &params).unwrap();
    reader.write(&plan.weights.items()[0], &mut std::io::sink()).unwrap();
    assert_eq!(*released.borrow(), [zeros.len()]);
}

#[test]
fn a_parameter_of_the_wrong_size_is_refused() {
    let m = parse(
        "param %a : f32[4] = %%0 \"layer.weight\"
         entry @f(%x: f32[4]) -> (y: f32[4]) { %0 = add %x, %a : f32[4] return %0 }",
    );
    let error = |found: Option<&'static [u8]>| Params::new(&m, &|_, _| found, &|_| {}).err().unwrap().to_string();
    assert_eq!(error(None), "param layer.weight of w: it is not there");
    assert_eq!(error(Some(&[0; 12])), "param layer.weight of w: it has 12 bytes, expected those of f32[4]");
}
