//! The graphs that are timed.
#![allow(dead_code, unreachable_pub, reason = "programs and a test each use their part")]

use super::contents::Bundle;
use kiln_frontend::LoadOptions;
use kiln_ir::{
    Circuit, ElemType,
    circuit::Kind,
    sample::{Domain, Random, tensor},
};
use kiln_runtime::cli::write_tensors;
use std::path::Path;

/// `(name, element types, entry, flops, bytes moved)`: `T` stands for the type, `E` for its bytes; sizes are constants.
type Graph = (&'static str, &'static [&'static str], &'static str, Option<f64>, Option<f64>);

const M: f64 = 1048576.0;

const GRAPHS: &[Graph] = &[
    (
        "copy",
        &["f32"],
        "(%x: T[67108864]) -> (y: T[67108864]) { %0 = neg %x : T[67108864] return %0 }",
        None,
        Some(128.0 * M),
    ),
    (
        "gelu",
        &["f32", "bf16"],
        "(%x: T[67108864]) -> (y: T[67108864]) { %0 = gelu %x : T[67108864] return %0 }",
        None,
        Some(128.0 * M),
    ),
    (
        "matmul_4096",
        &["f32", "f16", "bf16"],
        "(%x: T[4096,4096], %y: T[4096,4096]) -> (z: T[4096,4096]) {
        %0 = matmul %x, %y : T[4096,4096] return %0 }",
        Some(2.0 * 4096.0 * 4096.0 * 4096.0),
        None,
    ),
    (
        "matmul_8192",
        &["bf16"],
        "(%x: T[8192,8192], %y: T[8192,8192]) -> (z: T[8192,8192]) {
        %0 = matmul %x, %y : T[8192,8192] return %0 }",
        Some(2.0 * 8192.0 * 8192.0 * 8192.0),
        None,
    ),
    (
        "matmul_nt_4096",
        &["f32", "bf16"],
        "(%x: T[4096,4096], %y: T[4096,4096]) -> (z: T[4096,4096]) {
        %0 = transpose %y perm=[1,0] : T[4096,4096] %1 = matmul %x, %0 : T[4096,4096] return %1 }",
        Some(2.0 * 4096.0 * 4096.0 * 4096.0),
        None,
    ),
    (
        "matmul_rows_4096x384x1536",
        &["f32", "bf16"],
        "(%x: T[4096,384], %y: T[384,1536], %b: T[1536]) -> (z: T[4096,1536]) {
        %0 = linear %x, %y bias=%b act=gelu : T[4096,1536] return %0 }",
        Some(2.0 * 4096.0 * 384.0 * 1536.0),
        None,
    ),
    (
        "matmul_128x384x384",
        &["f32", "bf16"],
        "(%x: T[128,384], %y: T[384,384]) -> (z: T[128,384]) {
        %0 = matmul %x, %y : T[128,384] return %0 }",
        Some(2.0 * 128.0 * 384.0 * 384.0),
        None,
    ),
    (
        "softmax_8192x4096",
        &["f32", "bf16"],
        "(%x: T[8192,4096]) -> (y: T[8192,4096]) {
        %0 = softmax %x axis=1 : T[8192,4096] return %0 }",
        None,
        Some(64.0 * M),
    ),
    (
        "layer_norm_65536x384",
        &["f32", "bf16"],
        "(%x: T[65536,384], %g: T[384], %b: T[384]) -> (y: T[65536,384]) {
        %0 = layer_norm %x scale=%g bias=%b axis=1 eps=1e-5 : T[65536,384] return %0 }",
        None,
        Some(48.0 * M),
    ),
    (
        "sum_of_rows_8192x8192",
        &["f32", "bf16"],
        "(%x: T[8192,8192]) -> (y: T[8192]) {
        %0 = reduce %x kind=sum axes=[1] keep=false : T[8192] return %0 }",
        None,
        Some(64.0 * M),
    ),
    (
        "sum_of_columns_8192x8192",
        &["f32"],
        "(%x: T[8192,8192]) -> (y: T[8192]) {
        %0 = reduce %x kind=sum axes=[0] keep=false : T[8192] return %0 }",
        None,
        Some(64.0 * M),
    ),
    (
        "argmax_4096x32000",
        &["f32"],
        "(%x: T[4096,32000]) -> (y: i64[4096]) {
        %0 = argmax %x axis=1 keep=false : i64[4096] return %0 }",
        None,
        Some(125.0 * M),
    ),
    (
        "gather_16384_of_32000x1024",
        &["f32"],
        "(%x: T[32000,1024], %i: i64[16384]) -> (y: T[16384,1024]) {
        %0 = gather %x, %i axis=0 : T[16384,1024] return %0 }",
        None,
        Some(32.0 * M),
    ),
    (
        "attention_32x12x128x32",
        &["f32", "bf16"],
        "(%q: T[32,12,128,32], %k: T[32,12,128,32], %v: T[32,12,128,32]) -> (y: T[32,12,128,32]) {
        %0 = attention %q, %k, %v scale=0.176 causal=false layout=bhsd : T[32,12,128,32] return %0 }",
        Some(4.0 * 32.0 * 12.0 * 128.0 * 128.0 * 32.0),
        None,
    ),
    (
        "attention_1x16x2048x128_causal",
        &["f32", "bf16"],
        "(%q: T[1,16,2048,128], %k: T[1,16,2048,128], %v: T[1,16,2048,128]) -> (y: T[1,16,2048,128]) {
        %0 = attention %q, %k, %v scale=0.0884 causal=true layout=bhsd : T[1,16,2048,128] return %0 }",
        Some(2.0 * 16.0 * 2048.0 * 2048.0 * 128.0),
        None,
    ),
    (
        "attention_1x16x8192x128_causal",
        &["bf16"],
        "(%q: T[1,16,8192,128], %k: T[1,16,8192,128], %v: T[1,16,8192,128]) -> (y: T[1,16,8192,128]) {
        %0 = attention %q, %k, %v scale=0.0884 causal=true layout=bhsd : T[1,16,8192,128] return %0 }",
        Some(2.0 * 16.0 * 8192.0 * 8192.0 * 128.0),
        None,
    ),
];

/// Attention of one query a sequence over caches, in bf16 with a depth of 128: sequences, heads, key heads, keys, and
/// whether the lengths are those of the cache or rise from an eighth of it on.
const DECODES: &[([u32; 4], bool)] = &[
    ([1, 32, 8, 65536], true),
    ([1, 16, 2, 524288], true),
    ([8, 16, 2, 65536], true),
    ([8, 32, 8, 65536], true),
    ([8, 16, 2, 65536], false),
];

/// Blocks that a fixed split is made for: two for each of 132 multiprocessors, as Flash-Decoding counts.
const SPLIT_BLOCKS: u32 = 264;

/// The name, the lengths and the entry, and the bytes of keys and values that are read; twice, as blocks that run take
/// equal shares and with as many parts of each head as make about a block for each that runs.
fn decodes() -> impl Iterator<Item = (String, [String; 2], f64)> {
    DECODES.iter().flat_map(|([b, h, g, s], full)| {
        let lengths: Vec<u32> = (1..=*b).map(|i| if *full { *s } else { i * s / b }).collect();
        let bytes = 2.0 * f64::from(lengths.iter().sum::<u32>()) * f64::from(*g) * 256.0;
        let size = format!("decode_{b}x{h}x{g}x{s}{}", if *full { "" } else { "_ragged" });
        let splits = SPLIT_BLOCKS / (b * g);
        [(size.clone(), String::new()), (size + "_fixed", format!(" splits={splits}"))].map(|(name, attr)| {
            let lengths = format!(" const %n_{name} : i64[{b}] = {lengths:?}\n");
            let entry = format!(
                " entry @{name}_bf16(%q: bf16[{b},{h},1,128], %k: bf16[{b},{g},{s},128], %v: bf16[{b},{g},{s},128]) -> (y: bf16[{b},{h},1,128]) {{
   %0 = decode_attention %q, %k, %v, %n_{name} scale=0.0884{attr} : bf16[{b},{h},1,128] return %0 }}\n"
            );
            (name, [lengths, entry], bytes)
        })
    })
}

pub fn kernels_text() -> String {
    let on = |name: &str, elem: &str, body: &str| {
        format!(" entry @{name}_{elem}{}\n", body.replace("T[", &format!("{elem}[")))
    };
    let entries = GRAPHS.iter().flat_map(|(name, elems, body, ..)| elems.iter().map(move |elem| on(name, elem, body)));
    let (lengths, decodes): (String, String) = decodes().map(|(_, [lengths, entry], _)| (lengths, entry)).unzip();
    format!("module @benches stage=imported {{\n{lengths}{}{decodes}}}", entries.collect::<String>())
}

/// A graph a bench, all in one artifact.
pub fn kernels(bundle: &mut Bundle<'_>, folder: &Path) -> Result<(), String> {
    let module = bundle.compile("benches.kiln", &kernels_text(), folder)?;
    for (name, elems, _, flops, elements) in GRAPHS {
        for elem in *elems {
            let entry = format!("{name}_{elem}");
            let size = ElemType::from_name(elem).map_or(0, ElemType::bytes) as f64;
            bundle.bench(
                &entry,
                ("benches.kiln", &module, &entry),
                &[],
                32000,
                [*flops, elements.map(|n| n * size)],
            )?;
        }
    }
    for (name, _, bytes) in decodes() {
        let entry = format!("{name}_bf16");
        bundle.bench(&entry, ("benches.kiln", &module, &entry), &[], 2, [None, Some(bytes)])?;
    }
    Ok(())
}

/// Tours through ten points by the pointer network that the bundle has: one, and many at once.
pub fn tours(bundle: &mut Bundle<'_>, model: &Path) -> Result<(), String> {
    let module = kiln_frontend::load(model, &LoadOptions::default()).map_err(|e| e.to_string())?.module;
    for rows in [1, 128] {
        let (name, sizes) = (format!("ptrnet_tsp_{rows}x10_f32"), [("B", rows), ("N", 10)]);
        bundle.bench(&name, ("ptrnet-tsp.kiln", &module, "forward"), &sizes, 2, [None, None])?;
    }
    Ok(())
}

/// Circuits that are not part of the tree, by their places in the folder beside it.
pub const CIRCUITS: &[(&str, &str)] =
    &[("plants", "data/circuits/psdd/plants.psdd"), ("digits-hclt-64", "zoo/models/digits-hclt/digits-hclt-64.jpc.gz")];

/// Log-likelihoods of complete rows by a circuit in f32. Its structure is packed too, for a layered evaluator by PyTorch.
pub fn circuit(bundle: &mut Bundle<'_>, name: &str, path: &Path, rows: i64) -> Result<(), String> {
    let load = LoadOptions { elem: Some(ElemType::F32), ..LoadOptions::default() };
    let artifact = format!("{name}_f32.kiln");
    let module = bundle.compile_model(&artifact, path, &load)?;
    let circuit = module.circuits.values().next().ok_or_else(|| format!("{name} has no circuit"))?;
    let flat = Flat::of(circuit);
    flat.write(&bundle.folder.join(format!("{name}.npz")))?;
    // What has to move: an edge's position and weight, tables, rows and results. Complete rows of deterministic circuits
    // need no multiply-adds.
    let words = 2 * flat.children.len() + flat.tables.len() + rows as usize * (circuit.variables.len() + 1);
    let flops = (!circuit.deterministic).then_some(2.0 * flat.children.len() as f64 * rows as f64);
    let below = circuit.variables.iter().filter_map(|d| d.values()).min().unwrap_or(1);
    let title = format!("{name} log_likelihood {rows} rows");
    let sizes = [("B", rows)];
    bundle.bench(
        &title,
        (&artifact, &module, "log_likelihood"),
        &sizes,
        u64::from(below),
        [flops, Some(4.0 * words as f64)],
    )
}

/// A circuit as arrays: nodes with children before parents, the root last.
struct Flat {
    /// The variable of an input, -1 of a product, -2 of a sum.
    kinds: Vec<i32>,
    /// Where a node's children begin, and in the end their number.
    starts: Vec<i32>,
    children: Vec<i32>,
    /// Of each child, in logarithms; 0 of products.
    weights: Vec<f32>,
    /// Log-probabilities of all values of each input, node by node.
    tables: Vec<f32>,
    values: usize,
}

impl Flat {
    fn of(c: &Circuit) -> Flat {
        let values = c.max_values() as usize;
        let mut flat =
            Flat { kinds: vec![], starts: vec![0], children: vec![], weights: vec![], tables: vec![], values };
        for n in c.nodes() {
            flat.kinds.push(match c.kind(n) {
                Kind::Input { var, dist } => {
                    let log_probs = (0..values).map(|k| c.distribution(dist).log_prob(k as f64) as f32);
                    flat.tables.extend(log_probs);
                    var as i32
                }
                Kind::Product(_) => -1,
                Kind::Sum(..) => -2,
            });
            flat.children.extend(c.children(n).iter().map(|child| child.as_u32() as i32));
            let weights = c.log_weights(n).iter().map(|w| *w as f32);
            flat.weights.extend(weights.chain(std::iter::repeat(0.0)).take(c.children(n).len()));
            flat.starts.push(flat.children.len() as i32);
        }
        flat
    }

    fn write(&self, path: &Path) -> Result<(), String> {
        let said = |e: kiln_runtime::Error| e.to_string();
        let ints = |values: &[i32]| kiln_runtime::Tensor::of(&[values.len()], values).map_err(said);
        let inputs = [self.tables.len() / self.values.max(1), self.values];
        let tensors = [
            ("kinds", ints(&self.kinds)?),
            ("starts", ints(&self.starts)?),
            ("children", ints(&self.children)?),
            ("weights", kiln_runtime::Tensor::of(&[self.weights.len()], &self.weights).map_err(said)?),
            ("tables", kiln_runtime::Tensor::of(&inputs, &self.tables).map_err(said)?),
        ];
        let views = tensors.each_ref().map(|(name, t)| (*name, t.view()));
        write_tensors(path, &views).map_err(|e| e.to_string())
    }
}

const LAYERS: usize = 6;
const WEIGHTS: &[(&str, &[usize])] = &[
    ("wq", &[384, 384]),
    ("wk", &[384, 384]),
    ("wv", &[384, 384]),
    ("wo", &[384, 384]),
    ("w1", &[384, 1536]),
    ("w2", &[1536, 384]),
    ("b", &[384]),
    ("b1", &[1536]),
    ("g", &[384]),
];

/// An encoder of MiniLM's shape, all layers with the same weights, which keeps the bundle small.
pub fn encoder(bundle: &mut Bundle<'_>, folder: &Path, elem: ElemType) -> Result<(), String> {
    let mut random = Random(1);
    let mut tensors = vec![];
    for (name, shape) in WEIGHTS {
        let made = tensor(&mut random, elem, shape, Domain::Small);
        let scale = if shape.len() == 2 { 0.05 } else { 1.0 };
        let values = (0..shape.iter().product()).filter_map(|i| made.data.get(i)).map(|v| v.as_f64() * scale).collect();
        let stored = kiln_runtime::format::ElemType::from_name(elem.name()).ok_or("a type")?;
        let mut raw = kiln_runtime::Tensor::zeros(stored, shape).map_err(|e| e.to_string())?;
        raw.bytes_mut().copy_from_slice(&kiln_ir::eval::Tensor::floats(elem, *shape, values).to_bytes());
        tensors.push((*name, raw));
    }
    let views: Vec<_> = tensors.iter().map(|(name, t)| (*name, t.view())).collect();
    write_tensors(&folder.join("weights.safetensors"), &views).map_err(|e| e.to_string())?;
    let module = bundle.compile(&format!("encoder_{elem}.kiln"), &encoder_text(elem), folder)?;
    for (b, s) in [(1, 128), (32, 128)] {
        let flops =
            LAYERS as f64 * (b * s) as f64 * (2.0 * 384.0 * (4.0 * 384.0 + 2.0 * 1536.0) + 4.0 * s as f64 * 384.0);
        let from = (format!("encoder_{elem}.kiln"), "forward");
        let name = format!("encoder_{elem}_{b}x{s}");
        bundle.bench(&name, (&from.0, &module, from.1), &[("B", b), ("S", s)], 2, [Some(flops), None])?;
    }
    Ok(())
}

pub fn encoder_text(elem: ElemType) -> String {
    let list = |shape: &[usize]| shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let params =
        WEIGHTS.iter().map(|(name, shape)| format!(" param %{name} : {elem}[{}] = %%0 \"{name}\"\n", list(shape)));
    let mut body = String::new();
    let mut x = "%x".to_owned();
    for l in 0..LAYERS {
        for (name, weight) in [("q", "wq"), ("k", "wk"), ("v", "wv")] {
            body += &format!(
                " %{name}{l} = linear {x}, %{weight} bias=%b : T[B,S,384]\n %{name}h{l} = reshape %{name}{l} to=[B,S,12,32] : T[B,S,12,32]\n"
            );
        }
        body += &format!(
            " %a{l} = attention %qh{l}, %kh{l}, %vh{l} scale=0.1767766952966369 causal=false layout=bshd : T[B,S,12,32]
 %c{l} = reshape %a{l} to=[B,S,384] : T[B,S,384]
 %o{l} = linear %c{l}, %wo bias=%b : T[B,S,384]
 %r{l} = add %o{l}, {x} : T[B,S,384]
 %n{l} = layer_norm %r{l} scale=%g bias=%b axis=2 eps=1e-12 : T[B,S,384]
 %i{l} = linear %n{l}, %w1 bias=%b1 act=gelu : T[B,S,1536]
 %j{l} = linear %i{l}, %w2 bias=%b : T[B,S,384]
 %s{l} = add %j{l}, %n{l} : T[B,S,384]
 %y{l} = layer_norm %s{l} scale=%g bias=%b axis=2 eps=1e-12 : T[B,S,384]\n"
        );
        x = format!("%y{l}");
    }
    let params: String = params.collect();
    let body = body.replace("T[", &format!("{elem}["));
    format!(
        "module @encoder stage=imported {{\n dim B = 1..64\n dim S = 1..512\n weights %%0 = \"weights.safetensors\"\n{params} \
         entry @forward(%x: {elem}[B,S,384]) -> (y: {elem}[B,S,384]) {{\n{body} return {x}\n }}\n}}\n"
    )
}
