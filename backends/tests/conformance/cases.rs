//! The cases, as text. `T` stands for the element type; sizes are constant (one, odd, large) and symbolic.

use kiln_ir::ElemType::{self, *};

pub const FLOATS: &[ElemType] = &[F32, F64, F16, BF16];
pub const NUMBERS: &[ElemType] = &[F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64];
pub const ALL: &[ElemType] = ElemType::ALL;

/// Entries for some element types.
pub struct Case {
    pub name: &'static str,
    pub elems: &'static [ElemType],
    /// `(inputs) -> (outputs) { body }`.
    pub text: &'static str,
    /// Values of `B`, `S` and `K`.
    pub sizes: &'static [[i64; 3]],
    /// The bound on the relative error in f32; 0 for exact.
    pub tolerance: f64,
    /// Inputs whose name starts with `i` are indices below this; 0 where there are none.
    pub below: u64,
}

impl Case {
    /// The text for an element type.
    pub fn on(&self, elem: ElemType) -> String {
        let text = self.text.replace("T[", &format!("{elem}[")).replace("elem=T ", &format!("elem={elem} "));
        if elem == F32 { text } else { text.replace("%x, 1.0", &format!("%x, 1.0:{elem}")) }
    }
}

/// Whether `KILN_CASES`, a comma-separated list of parts of names, leaves the case in.
pub fn chosen(name: &str) -> bool {
    std::env::var("KILN_CASES").map_or(true, |list| list.split(',').any(|part| name.contains(part)))
}

/// What every module declares.
pub const DIMS: &str = "dim B = 0..64\n dim S = 0..4096\n dim K = 0..4096";

const SIZES: &[[i64; 3]] = &[[1, 1, 1], [3, 7, 5], [2, 130, 67]];
const SOME: &[[i64; 3]] = &[[1, 1, 1], [3, 37, 19]];
const EMPTY: &[[i64; 3]] = &[[3, 7, 5], [0, 7, 5], [3, 0, 5]];
/// Rows of less than a tile, of one and of some.
const ROWS: &[[i64; 3]] = &[[1, 1, 1], [3, 7, 5], [24, 5, 1], [53, 9, 1], [0, 3, 1], [2, 0, 1]];
const ONE: &[[i64; 3]] = &[[1, 1, 1]];

pub const CASES: &[Case] = &[
    // movement
    Case { name: "views", elems: ALL, sizes: SIZES, tolerance: 0.0, below: 0, text: "(%x: T[B,S,6]) -> (t: T[6,B,S], r: T[B,S*6], s: T[B,S,2], m: T[S*6,B], b: T[4,B,S,6]) {
        %0 = transpose %x perm=[2,0,1] : T[6,B,S]
        %1 = reshape %x to=[B,S*6] : T[B,S*6]
        %2 = slice %x axis=2 start=1 end=5 step=2 : T[B,S,2]
        %3 = transpose %1 perm=[1,0] : T[S*6,B]
        %4 = broadcast %x to=[4,B,S,6] : T[4,B,S,6]
        return %0, %1, %2, %3, %4 }" },
    Case { name: "reshape_of_views", elems: &[F32, I64, I1], sizes: SIZES, tolerance: 0.0, below: 0, text: "(%x: T[B,S,6]) -> (a: T[6*B,S], b: T[B,S,2,2]) {
        %0 = transpose %x perm=[2,0,1] : T[6,B,S]
        %1 = reshape %0 to=[6*B,S] : T[6*B,S]
        %2 = slice %x axis=2 start=2 end=6 : T[B,S,4]
        %3 = reshape %2 to=[B,S,2,2] : T[B,S,2,2]
        return %1, %3 }" },
    Case { name: "through", elems: &[F32, I1], sizes: EMPTY, tolerance: 0.0, below: 0, text: "(%x: T[B,S]) -> (a: T[B,S], b: T[B,S]) { return %x, %x }" },
    Case { name: "concat", elems: ALL, sizes: SIZES, tolerance: 0.0, below: 0, text: "(%x: T[B,S], %y: T[B,K]) -> (a: T[B,S + K], b: T[B,S + S + K], c: T[2*B,S]) {
        %0 = concat %x, %y axis=1 : T[B,S + K]
        %1 = concat %x, %y, %x axis=1 : T[B,S + S + K]
        %2 = concat %x, %x axis=0 : T[2*B,S]
        return %0, %1, %2 }" },
    Case { name: "concat_of_results", elems: &[F32, I32], sizes: EMPTY, tolerance: 1e-6, below: 0, text: "(%x: T[B,S], %y: T[B,S]) -> (a: T[B,2,S], c: T[B,S]) {
        %0 = add %x, %y : T[B,S]
        %1 = mul %x, %y : T[B,S]
        %2 = reshape %0 to=[B,1,S] : T[B,1,S]
        %3 = reshape %1 to=[B,1,S] : T[B,1,S]
        %4 = concat %2, %3 axis=1 : T[B,2,S]
        %5 = sub %1, %0 : T[B,S]
        return %4, %5 }" },
    Case { name: "pad", elems: NUMBERS, sizes: SIZES, tolerance: 0.0, below: 0, text: "(%x: T[B,S]) -> (a: T[B + 3,S + 1], b: T[B,S]) {
        %0 = pad %x low=[1,0] high=[2,1] : T[B + 3,S + 1]
        %1 = pad %x low=[0,0] high=[0,0] value=1.0 : T[B,S]
        return %0, %1 }" },
    Case { name: "iota", elems: NUMBERS, sizes: SIZES, tolerance: 0.0, below: 0, text: "(%x: i8[B,S]) -> (a: T[B,S], b: T[B,S], c: T[5]) {
        %0 = iota to=[B,S] axis=0 elem=T : T[B,S]
        %1 = iota to=[B,S] axis=1 elem=T : T[B,S]
        %2 = iota to=[5] axis=0 elem=T : T[5]
        return %0, %1, %2 }" },
    Case { name: "gather", elems: ALL, sizes: SIZES, tolerance: 0.0, below: 5, text: "(%x: T[5,S], %y: T[B,5,3], %i: i64[B,S], %ids: i32[4]) -> (a: T[B,S,S], b: T[B,4,3], c: T[B,B,S,3]) {
        %0 = gather %x, %i axis=0 : T[B,S,S]
        %1 = gather %y, %ids axis=1 : T[B,4,3]
        %2 = gather %y, %i axis=1 : T[B,B,S,3]
        return %0, %1, %2 }" },
    Case { name: "gather_of_views", elems: &[F32], sizes: SIZES, tolerance: 0.0, below: 5, text: "(%x: T[S,6], %i: u8[2,3]) -> (a: T[2,3,S]) {
        %0 = transpose %x perm=[1,0] : T[6,S]
        %1 = transpose %i perm=[1,0] : u8[3,2]
        %2 = gather %0, %1 axis=0 : T[3,2,S]
        %3 = transpose %2 perm=[1,0,2] : T[2,3,S]
        return %3 }" },
    Case { name: "gather_of_rows", elems: ALL, sizes: SIZES, tolerance: 0.0, below: 5, text: "(%x: T[B,5,S], %y: T[B,S,5], %i: i64[B], %ids: i32[B,3]) -> (a: T[B,S], b: T[B,S,3]) {
        %0 = gather %x, %i axis=1 batch=1 : T[B,S]
        %1 = gather %y, %ids axis=2 batch=1 : T[B,S,3]
        return %0, %1 }" },
    // reductions
    Case { name: "reduce_float", elems: FLOATS, sizes: SIZES, tolerance: 2e-6, below: 0, text: "(%x: T[B,S,K]) -> (a: T[B,S], b: T[B,S,1], c: T[S,K], d: T[], e: T[B,K], f: T[1,S,1], g: T[B,S]) {
        %0 = reduce %x kind=sum axes=[2] keep=false : T[B,S]
        %1 = reduce %x kind=mean axes=[2] keep=true : T[B,S,1]
        %2 = reduce %x kind=max axes=[0] keep=false : T[S,K]
        %3 = reduce %x kind=min axes=[0,1,2] keep=false : T[]
        %4 = reduce %x kind=sum axes=[1] keep=false : T[B,K]
        %5 = reduce %x kind=max axes=[0,2] keep=true : T[1,S,1]
        %6 = reduce %x kind=mean axes=[2] keep=false : T[B,S]
        return %0, %1, %2, %3, %4, %5, %6 }" },
    Case { name: "reduce_int", elems: &[I8, I16, I32, I64, U8, U16, U32, U64], sizes: SOME, tolerance: 0.0, below: 0, text: "(%x: T[B,S,K]) -> (a: T[B,S], b: T[B,K], c: T[S,1], d: T[]) {
        %0 = reduce %x kind=sum axes=[2] keep=false : T[B,S]
        %1 = reduce %x kind=prod axes=[1] keep=false : T[B,K]
        %2 = reduce %x kind=max axes=[0,2] keep=true : T[1,S,1]
        %3 = reshape %2 to=[S,1] : T[S,1]
        %4 = reduce %x kind=min axes=[0,1,2] keep=false : T[]
        return %0, %1, %3, %4 }" },
    // Long enough for vectors of packed halves and a rest.
    Case { name: "packed", elems: &[F16, BF16, I8, U8, I16, U16], sizes: &[[2, 70, 1]], tolerance: 2e-6, below: 0, text: "(%x: T[B,S], %y: T[B,S]) -> (a: T[B,S], b: T[B,S], c: T[B,S], d: T[B,S], e: T[B,S], f: i1[B,S], g: T[B], h: T[B], i: T[B], j: T[S], k: T[S]) {
        %0 = add %x, %y : T[B,S]
        %1 = sub %x, %y : T[B,S]
        %2 = mul %x, %y : T[B,S]
        %3 = max %x, %y : T[B,S]
        %4 = min %x, %y : T[B,S]
        %5 = compare %x, %y dir=lt : i1[B,S]
        %6 = reduce %x kind=sum axes=[1] keep=false : T[B]
        %7 = reduce %x kind=max axes=[1] keep=false : T[B]
        %8 = reduce %x kind=min axes=[1] keep=false : T[B]
        %9 = reduce %x kind=sum axes=[0] keep=false : T[S]
        %10 = reduce %x kind=max axes=[0] keep=false : T[S]
        return %0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10 }" },
    Case { name: "reduce_bool", elems: &[I1], sizes: SOME, tolerance: 0.0, below: 0, text: "(%x: T[B,S,K]) -> (a: T[B,S], b: T[B,K]) {
        %0 = reduce %x kind=max axes=[2] keep=false : T[B,S]
        %1 = reduce %x kind=min axes=[1] keep=false : T[B,K]
        return %0, %1 }" },
    Case { name: "reduce_prod", elems: &[F32, F64], sizes: SOME, tolerance: 1e-5, below: 0, text: "(%x: T[B,9]) -> (a: T[B]) {
        %0 = reduce %x kind=prod axes=[1] keep=false : T[B]
        return %0 }" },
    Case { name: "reduce_nothing", elems: &[F32, I32], sizes: &[[3, 0, 5], [0, 0, 5]], tolerance: 0.0, below: 0, text: "(%x: T[B,S]) -> (a: T[B], b: T[B], c: T[S], d: T[]) {
        %0 = reduce %x kind=sum axes=[1] keep=false : T[B]
        %1 = reduce %x kind=prod axes=[1] keep=false : T[B]
        %2 = reduce %x kind=sum axes=[0] keep=false : T[S]
        %3 = reduce %x kind=sum axes=[0,1] keep=false : T[]
        return %0, %1, %2, %3 }" },
    Case { name: "argmax", elems: NUMBERS, sizes: SOME, tolerance: 0.0, below: 0, text: "(%x: T[B,S,K]) -> (a: i64[B,S], b: i64[B,1,K]) {
        %0 = argmax %x axis=2 keep=false : i64[B,S]
        %1 = argmax %x axis=1 keep=true : i64[B,1,K]
        return %0, %1 }" },
    Case { name: "topk", elems: NUMBERS, sizes: SOME, tolerance: 0.0, below: 0, text: "(%x: T[B,11], %y: T[4,S]) -> (a: T[B,3], b: i64[B,3], c: T[2,S], d: i64[2,S]) {
        %0, %1 = topk %x axis=1 k=3 : T[B,3], i64[B,3]
        %2, %3 = topk %y axis=0 k=2 : T[2,S], i64[2,S]
        return %0, %1, %2, %3 }" },
    Case { name: "topk_of_long_rows", elems: &[F32, BF16, I64, U8], sizes: ONE, tolerance: 0.0, below: 0, text: "(%x: T[2,2500]) -> (a: T[2,7], b: i64[2,7]) {
        %0, %1 = topk %x axis=1 k=7 : T[2,7], i64[2,7]
        return %0, %1 }" },
    Case { name: "topk_of_a_size", elems: &[F32, I32], sizes: SOME, tolerance: 0.0, below: 0, text: "(%x: T[S,B + 3], %w: i8[B]) -> (a: T[S,B], b: i64[S,B]) {
        %0, %1 = topk %x axis=1 k=B : T[S,B], i64[S,B]
        return %0, %1 }" },
    // rows
    Case { name: "softmax", elems: FLOATS, sizes: SIZES, tolerance: 2e-6, below: 0, text: "(%x: T[B,S,K]) -> (a: T[B,S,K], b: T[B,S,K], c: T[B,S,K]) {
        %0 = softmax %x axis=2 : T[B,S,K]
        %1 = softmax %x axis=1 : T[B,S,K]
        %2 = log_softmax %x axis=2 : T[B,S,K]
        return %0, %1, %2 }" },
    Case { name: "norms", elems: FLOATS, sizes: &[[3, 7, 5], [2, 130, 67]], tolerance: 4e-6, below: 0, text: "(%x: T[B,S,K], %g: T[K], %b: T[K]) -> (a: T[B,S,K], b: T[B,S,K], c: T[B,S,K], d: T[B,S,K], e: T[B,S,K]) {
        %0 = layer_norm %x scale=%g bias=%b axis=2 eps=1e-5 : T[B,S,K]
        %1 = layer_norm %x axis=2 eps=1e-5 : T[B,S,K]
        %2 = rms_norm %x scale=%g axis=2 eps=1e-6 : T[B,S,K]
        %3 = l2_normalize %x axis=2 eps=1e-12 : T[B,S,K]
        %4 = l2_normalize %x axis=1 eps=1e-12 : T[B,S,K]
        return %0, %1, %2, %3, %4 }" },
    Case { name: "norm_over_two_axes", elems: &[F32], sizes: &[[3, 7, 5]], tolerance: 4e-6, below: 0, text: "(%x: T[S,B,K], %g: T[S,K]) -> (a: T[B,S,K]) {
        %0 = transpose %x perm=[1,0,2] : T[B,S,K]
        %1 = layer_norm %0 scale=%g axis=1 eps=1e-5 : T[B,S,K]
        return %1 }" },
    Case { name: "rows_constant", elems: &[F32], sizes: ONE, tolerance: 4e-6, below: 0, text: "(%x: T[3,384], %y: T[5,1000], %z: T[600,5]) -> (a: T[3,384], b: T[5,1000], c: T[3], d: T[5]) {
        %0 = layer_norm %x axis=1 eps=1e-12 : T[3,384]
        %1 = softmax %y axis=1 : T[5,1000]
        %2 = reduce %x kind=sum axes=[1] keep=false : T[3]
        %3 = reduce %z kind=sum axes=[0] keep=false : T[5]
        return %0, %1, %2, %3 }" },
    // products
    Case { name: "matmul", elems: FLOATS, sizes: &[[1, 1, 1], [3, 7, 5], [2, 130, 67], [1, 24, 40]], tolerance: 1e-5, below: 0, text: "(%x: T[B,S,K], %y: T[K,S], %z: T[B,K,9], %w: T[1,S,K]) -> (a: T[B,S,S], b: T[B,S,9], c: T[B,S,S]) {
        %0 = matmul %x, %y : T[B,S,S]
        %1 = matmul %w, %z : T[B,S,9]
        %2 = transpose %x perm=[0,2,1] : T[B,K,S]
        %3 = matmul %x, %2 : T[B,S,S]
        return %0, %1, %3 }" },
    Case { name: "matmul_constant", elems: &[F32], sizes: ONE, tolerance: 1e-5, below: 0, text: "(%x: T[64,384], %y: T[384,96], %z: T[1,1], %v: T[1,7]) -> (a: T[64,96], b: T[1,1], c: T[1,7]) {
        %0 = matmul %x, %y : T[64,96]
        %1 = matmul %z, %z : T[1,1]
        %2 = matmul %z, %v : T[1,7]
        return %0, %1, %2 }" },
    Case { name: "matmul_tiles", elems: &[F32, F16, BF16], sizes: &[[1, 5, 1]], tolerance: 1e-5, below: 0, text: "(%x: T[150,72], %y: T[72,136], %t: T[136,72], %u: T[72,150], %v: T[S,16], %w: T[16,768]) -> (a: T[150,136], b: T[150,136], c: T[150,136], d: T[S,768]) {
        %0 = matmul %x, %y : T[150,136]
        %1 = transpose %t perm=[1,0] : T[72,136]
        %2 = matmul %x, %1 : T[150,136]
        %3 = transpose %u perm=[1,0] : T[150,72]
        %4 = matmul %3, %1 : T[150,136]
        %5 = matmul %v, %w : T[S,768]
        return %0, %2, %4, %5 }" },
    Case { name: "matmul_empty", elems: &[F32], sizes: &[[0, 3, 4], [2, 3, 0], [2, 0, 4]], tolerance: 1e-5, below: 0, text: "(%x: T[B,S,K], %y: T[K,5]) -> (a: T[B,S,5]) {
        %0 = matmul %x, %y : T[B,S,5]
        return %0 }" },
    Case { name: "attention", elems: FLOATS, sizes: SIZES, tolerance: 1e-5, below: 0, text: "(%q: T[B,4,S,32], %k: T[B,4,S,32], %v: T[B,4,S,32], %mask: T[B,1,1,S], %keep: i1[S,S], %k1: T[B,2,K,32], %v1: T[B,2,K,16]) -> (a: T[B,4,S,32], b: T[B,4,S,32], c: T[B,4,S,32], d: T[B,4,S,16]) {
        %0 = attention %q, %k, %v scale=0.125 causal=false layout=bhsd : T[B,4,S,32]
        %1 = attention %q, %k, %v mask=%mask scale=0.25 causal=true layout=bhsd : T[B,4,S,32]
        %2 = attention %q, %k, %v mask=%keep scale=0.125 causal=false layout=bhsd : T[B,4,S,32]
        %3 = attention %q, %k1, %v1 scale=0.125 causal=false layout=bhsd : T[B,4,S,16]
        return %0, %1, %2, %3 }" },
    Case { name: "attention_merged", elems: &[F32], sizes: SIZES, tolerance: 1e-5, below: 0, text: "(%qkv: T[B,S,192], %mask: T[B,1,1,S]) -> (a: T[B,S,64]) {
        %0 = slice %qkv axis=2 start=0 end=64 : T[B,S,64]
        %1 = slice %qkv axis=2 start=64 end=128 : T[B,S,64]
        %2 = slice %qkv axis=2 start=128 end=192 : T[B,S,64]
        %3 = reshape %0 to=[B,S,2,32] : T[B,S,2,32]
        %4 = reshape %1 to=[B,S,2,32] : T[B,S,2,32]
        %5 = reshape %2 to=[B,S,2,32] : T[B,S,2,32]
        %6 = attention %3, %4, %5 mask=%mask scale=0.17 causal=false layout=bshd : T[B,S,2,32]
        %7 = reshape %6 to=[B,S,64] : T[B,S,64]
        return %7 }" },
    Case { name: "decode_attention", elems: FLOATS, sizes: SOME, tolerance: 1e-5, below: 151, text: "(%q: T[B,8,1,64], %k: T[B,2,150,64], %v: T[B,2,150,32], %i: i64[B], %p: T[B,3,3,16], %k1: T[B,150,3,16], %v1: T[B,3,150,16], %r: T[B,2,1,6], %k2: T[B,1,150,6], %v2: T[B,1,150,5]) -> (a: T[B,8,1,32], b: T[B,3,3,16], c: T[B,8,1,32], d: T[B,2,1,5]) {
        %0 = decode_attention %q, %k, %v, %i scale=0.125 : T[B,8,1,32]
        %1 = transpose %k1 perm=[0,2,1,3] : T[B,3,150,16]
        %2 = decode_attention %p, %1, %v1, %i scale=0.25 : T[B,3,3,16]
        %3 = decode_attention %q, %k, %v, %i scale=0.125 splits=3 : T[B,8,1,32]
        %4 = decode_attention %r, %k2, %v2, %i scale=0.5 : T[B,2,1,5]
        return %0, %2, %3, %4 }" },
    Case { name: "decode_attention_of_sizes", elems: &[F32, F16], sizes: &[[1, 7, 1], [3, 37, 2], [0, 7, 1], [2, 9, 0]], tolerance: 1e-5, below: 8, text: "(%q: T[B,20,2,32], %k: T[B,1,S,32], %v: T[B,1,S,32], %i: i64[B], %p: T[B,2*K,K,16], %k1: T[B,K,S,16], %v1: T[B,K,S,16]) -> (a: T[B,20,2,32], b: T[B,2*K,K,16]) {
        %0 = decode_attention %q, %k, %v, %i scale=0.125 : T[B,20,2,32]
        %1 = decode_attention %p, %k1, %v1, %i scale=0.25 : T[B,2*K,K,16]
        return %0, %1 }" },
    Case { name: "conv", elems: FLOATS, sizes: &[[1, 1, 1], [2, 13, 5]], tolerance: 1e-5, below: 0, text: "(%x: T[B,4,9,11], %w: T[6,4,3,3], %b: T[6], %g: T[8,2,3,2], %y: T[B,4,12], %u: T[5,4,3], %d: T[4,1,3,3]) -> (a: T[B,6,9,11], b: T[B,8,4,5], c: T[B,5,10], d: T[B,4,9,11]) {
        %0 = conv %x, %w bias=%b strides=[1,1] low=[1,1] high=[1,1] dilations=[1,1] groups=1 : T[B,6,9,11]
        %1 = conv %x, %g strides=[2,2] low=[0,0] high=[1,1] dilations=[1,2] groups=2 : T[B,8,4,5]
        %2 = conv %y, %u strides=[1] low=[0] high=[0] dilations=[1] groups=1 : T[B,5,10]
        %3 = conv %x, %d strides=[1,1] low=[1,1] high=[1,1] dilations=[1,1] groups=4 : T[B,4,9,11]
        return %0, %1, %2, %3 }" },
    // fusions
    Case { name: "fused_map", elems: &[F32, F16], sizes: SIZES, tolerance: 2e-6, below: 0, text: "(%x: T[B,S], %y: T[S], %z: T[B,1]) -> (a: T[B,S], b: i1[B,S]) {
        %0, %1 = fusion %x, %y, %z body(%p: T[B,S], %q: T[S], %r: T[B,1]) {
          %a = mul %p, %q : T[B,S]
          %b = add %a, %r : T[B,S]
          %c = gelu %b : T[B,S]
          %d = compare %c, %q dir=gt : i1[B,S]
          yield %c, %d
        } : T[B,S], i1[B,S]
        return %0, %1 }" },
    Case { name: "fused_norm", elems: &[F32, BF16], sizes: &[[3, 7, 5], [2, 130, 67]], tolerance: 4e-6, below: 0, text: "(%x: T[B,S,K], %y: T[B,S,K], %g: T[K], %b: T[K]) -> (a: T[B,S,K], s: T[B,S,K]) {
        %0, %1 = fusion %x, %y, %g, %b body(%p: T[B,S,K], %q: T[B,S,K], %h: T[K], %c: T[K]) {
          %s = add %p, %q : T[B,S,K]
          %n = layer_norm %s scale=%h bias=%c axis=2 eps=1e-5 : T[B,S,K]
          %r = relu %n : T[B,S,K]
          yield %r, %s
        } : T[B,S,K], T[B,S,K]
        return %0, %1 }" },
    Case { name: "fused_reduce", elems: &[F32], sizes: SIZES, tolerance: 4e-6, below: 0, text: "(%x: T[B,S,K], %m: T[B,S,1], %n: T[B,1]) -> (a: T[B,K], b: T[B,1,K]) {
        %0 = fusion %x, %m, %n body(%p: T[B,S,K], %q: T[B,S,1], %r: T[B,1]) {
          %s = mul %p, %q : T[B,S,K]
          %t = reduce %s kind=sum axes=[1] keep=false : T[B,K]
          %u = mul %t, %r : T[B,K]
          yield %u
        } : T[B,K]
        %1 = fusion %x, %m body(%p: T[B,S,K], %q: T[B,S,1]) {
          %s = mul %p, %q : T[B,S,K]
          %t = reduce %s kind=max axes=[1] keep=true : T[B,1,K]
          %u = add %t, %t : T[B,1,K]
          yield %u
        } : T[B,1,K]
        return %0, %1 }" },
    Case { name: "fused_matmul", elems: &[F32, F16], sizes: SIZES, tolerance: 1e-5, below: 0, text: "(%x: T[B,S,K], %y: T[B,K,8], %r: T[B,S,8], %c: T[8], %m: T[B,1,1]) -> (a: T[B,S,8]) {
        %0 = fusion %x, %y, %r, %c, %m body(%p: T[B,S,K], %q: T[B,K,8], %s: T[B,S,8], %d: T[8], %n: T[B,1,1]) {
          %t = matmul %p, %q : T[B,S,8]
          %u = add %t, %d : T[B,S,8]
          %v = mul %u, %n : T[B,S,8]
          %w = add %v, %s : T[B,S,8]
          yield %w
        } : T[B,S,8]
        return %0 }" },
    Case { name: "residuals", elems: &[F32], sizes: SIZES, tolerance: 2e-5, below: 0, text: "(%x: T[B,S,16]) -> (y: T[B,S,16]) {
        %0 = add %x, 1.0 : T[B,S,16]
        %1 = mul %0, %0 : T[B,S,16]
        %2 = layer_norm %1 axis=2 eps=1e-5 : T[B,S,16]
        %3 = add %2, %0 : T[B,S,16]
        %4 = softmax %3 axis=2 : T[B,S,16]
        %5 = mul %4, %3 : T[B,S,16]
        %6 = add %5, %1 : T[B,S,16]
        return %6 }" },
    // regions
    Case { name: "branch", elems: &[F32], sizes: EMPTY, tolerance: 1e-6, below: 0, text: "(%x: T[B,S], %c: i1[]) -> (y: T[B,S], z: T[B,S]) {
        %0, %1 = if %c then() { %2 = add %x, %x : T[B,S] yield %2, %x } else() { %3 = mul %x, %x : T[B,S] %4 = neg %3 : T[B,S] yield %4, %3 } : T[B,S], T[B,S]
        return %0, %1 }" },
    Case { name: "loops", elems: &[F32], sizes: SOME, tolerance: 1e-6, below: 9, text: "(%x: T[B,S], %i: i64[]) -> (y: T[B,S], z: i64[], w: T[B,S]) {
        %0, %1 = for %i, %x, 0 body(%t: i64[], %c: T[B,S], %n: i64[]) {
          %2 = add %c, %x : T[B,S]
          %3 = add %n, %t : i64[]
          yield %2, %3
        } : T[B,S], i64[]
        %4, %5 = while %i, %x max=20 condition(%n: i64[], %c: T[B,S]) {
          %6 = compare %n, 0 dir=gt : i1[]
          yield %6
        } body(%n: i64[], %c: T[B,S]) {
          %7 = sub %n, 2 : i64[]
          %8 = sub %x, %c : T[B,S]
          yield %7, %8
        } : i64[], T[B,S]
        return %0, %1, %5 }" },
    Case { name: "copies_in_a_loop", elems: &[F32], sizes: SOME, tolerance: 1e-5, below: 9, text: "(%x: T[4,3], %i: i64[]) -> (y: T[4,3], z: T[12]) {
        %0, %1 = while %x, %i max=20 condition(%c: T[4,3], %n: i64[]) {
          %2 = transpose %c perm=[1,0] : T[3,4]
          %3 = reshape %2 to=[12] : T[12]
          %4 = slice %3 axis=0 start=1 end=2 : T[1]
          %5 = reshape %4 to=[] : T[]
          %6 = compare %5, 20.0 dir=lt : i1[]
          %7 = compare %n, 0 dir=gt : i1[]
          %8 = and %6, %7 : i1[]
          yield %8
        } body(%c: T[4,3], %n: i64[]) {
          %9 = transpose %c perm=[1,0] : T[3,4]
          %10 = reshape %9 to=[4,3] : T[4,3]
          %11 = add %10, %c : T[4,3]
          %12 = sub %n, 1 : i64[]
          yield %11, %12
        } : T[4,3], i64[]
        %13 = transpose %0 perm=[1,0] : T[3,4]
        %14 = reshape %13 to=[12] : T[12]
        return %0, %14 }" },
    Case { name: "swap_in_a_loop", elems: &[F32], sizes: SOME, tolerance: 1e-6, below: 9, text: "(%x: T[B,S], %y: T[B,S], %i: i64[]) -> (a: T[B,S], b: T[B,S]) {
        %0, %1 = for %i, %x, %y body(%t: i64[], %p: T[B,S], %q: T[B,S]) { yield %q, %p } : T[B,S], T[B,S]
        return %0, %1 }" },
    // loops
    Case { name: "scan", elems: &[F32, F64], sizes: ROWS, tolerance: 1e-5, below: 0, text: "(%x: T[B,S,6], %h: T[B,6], %w: T[B,6]) -> (h: T[B,6], y: T[B,S,6], b: T[B,6], z: T[B,S,6]) {
        %0, %1 = scan %x, %h inputs=1 axis=1 body(%a: T[B,6], %c: T[B,6]) {
          %2 = mul %a, %w : T[B,6]
          %3 = add %2, %c : T[B,6]
          %4 = tanh %3 : T[B,6]
          yield %4, %3
        } : T[B,6], T[B,S,6]
        %5, %6 = scan %x, %1, %h inputs=2 axis=1 reverse=true body(%d: T[B,6], %e: T[B,6], %f: T[B,6]) {
          %7 = sub %f, %e : T[B,6]
          %8 = add %7, %d : T[B,6]
          %9 = tanh %8 : T[B,6]
          yield %9, %9
        } : T[B,6], T[B,S,6]
        return %0, %1, %5, %6 }" },
    Case { name: "scan_along_the_first_axis", elems: &[F32], sizes: ROWS, tolerance: 1e-5, below: 0, text: "(%x: T[S,B,6], %h: T[B,6], %u: T[S,3], %v: T[3]) -> (h: T[B,6], y: T[S,B,6], q: T[3], p: T[S,3]) {
        %0, %1 = scan %x, %h inputs=1 axis=0 body(%a: T[B,6], %c: T[B,6]) {
          %2 = add %a, %c : T[B,6]
          %3 = sin %2 : T[B,6]
          yield %3, %2
        } : T[B,6], T[S,B,6]
        %4, %5 = scan %u, %v inputs=1 axis=0 body(%d: T[3], %e: T[3]) {
          %6 = add %d, %e : T[3]
          %7 = tanh %6 : T[3]
          yield %7, %6
        } : T[3], T[S,3]
        return %0, %1, %4, %5 }" },
    Case { name: "scan_that_mixes_rows", elems: &[F32], sizes: ROWS, tolerance: 1e-5, below: 0, text: "(%x: T[B,S], %h: T[B]) -> (h: T[B], y: T[B,S]) {
        %0, %1 = scan %x, %h inputs=1 axis=1 body(%a: T[B], %c: T[B]) {
          %2 = reduce %a kind=mean axes=[0] keep=true : T[1]
          %3 = add %c, %2 : T[B]
          %4 = tanh %3 : T[B]
          yield %4, %2
        } : T[B], T[1,S]
        %5 = broadcast %1 to=[B,S] : T[B,S]
        return %0, %5 }" },
    Case { name: "scan_of_slices", elems: &[F32, I1], sizes: ROWS, tolerance: 0.0, below: 0, text: "(%x: T[B,S,6], %h: T[B,2]) -> (y: T[B,2,S]) {
        %0 = slice %x axis=2 start=1 end=5 step=2 : T[B,S,2]
        %1, %2 = scan %0, %h inputs=1 axis=1 body(%a: T[B,2], %c: T[B,2]) { yield %a, %c } : T[B,2], T[B,S,2]
        %3 = transpose %2 perm=[0,2,1] : T[B,2,S]
        return %3 }" },
    Case { name: "scan_with_lengths", elems: &[F32, F64], sizes: ROWS, tolerance: 1e-5, below: 9, text: "(%x: T[B,S,6], %h: T[B,6], %i: i64[B], %w: T[B,6]) -> (h: T[B,6], y: T[B,S,6], b: T[B,6], z: T[B,S,6]) {
        %0, %1 = scan %x, %h lengths=%i inputs=1 axis=1 body(%a: T[B,6], %c: T[B,6]) {
          %2 = mul %a, %w : T[B,6]
          %3 = add %2, %c : T[B,6]
          %4 = tanh %3 : T[B,6]
          yield %4, %3
        } : T[B,6], T[B,S,6]
        %5, %6 = scan %x, %h lengths=%i inputs=1 axis=1 reverse=true body(%d: T[B,6], %f: T[B,6]) {
          %7 = mul %f, %w : T[B,6]
          %8 = add %7, %d : T[B,6]
          %9 = tanh %8 : T[B,6]
          yield %9, %9
        } : T[B,6], T[B,S,6]
        return %0, %1, %5, %6 }" },
    Case { name: "scan_with_lengths_whole", elems: &[F32], sizes: ROWS, tolerance: 1e-5, below: 9, text: "(%x: T[B,S,6], %h: T[B,6], %i: i64[B]) -> (h: T[B,6], y: T[B,S,6], b: T[B,6], z: T[B,S,6]) {
        %0, %1 = scan %x, %h lengths=%i inputs=1 axis=1 body(%a: T[B,6], %c: T[B,6]) {
          %2 = transpose %a perm=[1,0] : T[6,B]
          %3 = transpose %c perm=[1,0] : T[6,B]
          %4 = sub %2, %3 : T[6,B]
          %5 = transpose %4 perm=[1,0] : T[B,6]
          yield %5, %5
        } : T[B,6], T[B,S,6]
        %6, %7 = scan %x, %h lengths=%i inputs=1 axis=1 reverse=true body(%d: T[B,6], %e: T[B,6]) {
          %8 = transpose %d perm=[1,0] : T[6,B]
          %9 = transpose %8 perm=[1,0] : T[B,6]
          %10 = sub %9, %e : T[B,6]
          yield %10, %10
        } : T[B,6], T[B,S,6]
        return %0, %1, %6, %7 }" },
    Case { name: "scan_with_lengths_of_views", elems: &[F32], sizes: ROWS, tolerance: 1e-5, below: 9, text: "(%x: T[B,S,6], %h: T[B,3], %i: i64[B], %w: T[B,S,6], %u: T[6,S,B]) -> (h: T[B,3], y: T[3,B,S], z: T[B,6,S]) {
        %0 = slice %x axis=2 start=1 end=6 step=2 : T[B,S,3]
        %1 = slice %w axis=2 start=2 end=5 : T[B,S,3]
        %2 = transpose %u perm=[2,1,0] : T[B,S,6]
        %3, %4, %5 = scan %0, %h lengths=%i inputs=1 axis=1 body(%a: T[B,3], %c: T[B,3]) {
          %6 = reduce %1 kind=sum axes=[1] keep=false : T[B,3]
          %7 = add %a, %c : T[B,3]
          %8 = sub %7, %6 : T[B,3]
          %9 = tanh %8 : T[B,3]
          %10 = reduce %2 kind=max axes=[1] keep=false : T[B,6]
          yield %9, %8, %10
        } : T[B,3], T[B,S,3], T[B,S,6]
        %11 = transpose %4 perm=[2,0,1] : T[3,B,S]
        %12 = transpose %5 perm=[0,2,1] : T[B,6,S]
        return %3, %11, %12 }" },
    Case { name: "while_by_rows", elems: &[F32], sizes: ROWS, tolerance: 1e-5, below: 9, text: "(%x: T[B,S], %i: i64[B]) -> (n: i64[B], y: T[B,S], m: i64[B], z: T[B,S]) {
        %0, %1 = while %i, %x max=S + 20 condition(%n: i64[B], %c: T[B,S]) {
          %2 = compare %n, 0 dir=gt : i1[B]
          yield %2
        } body(%k: i64[B], %d: T[B,S]) {
          %3 = sub %k, 2 : i64[B]
          %4 = sub %x, %d : T[B,S]
          yield %3, %4
        } : i64[B], T[B,S]
        %5, %6 = while %i, %x max=20 condition(%n: i64[B], %c: T[B,S]) {
          %7 = reshape %n to=[1,B] : i64[1,B]
          %8 = compare %7, 0 dir=gt : i1[1,B]
          %9 = reshape %8 to=[B] : i1[B]
          yield %9
        } body(%k: i64[B], %d: T[B,S]) {
          %10 = sub %k, 1 : i64[B]
          %11 = sub %x, %d : T[B,S]
          yield %10, %11
        } : i64[B], T[B,S]
        return %0, %1, %5, %6 }" },
    Case { name: "while_by_few_rows", elems: &[F32], sizes: SOME, tolerance: 1e-5, below: 9, text: "(%x: T[5,S], %i: i64[5], %u: T[1,S], %ik: i64[1]) -> (n: i64[5], y: T[5,S], m: i64[1], z: T[1,S]) {
        %0, %1 = while %i, %x max=20 condition(%n: i64[5], %c: T[5,S]) {
          %2 = compare %n, 0 dir=gt : i1[5]
          yield %2
        } body(%l: i64[5], %d: T[5,S]) {
          %3 = sub %l, 2 : i64[5]
          %4 = sub %x, %d : T[5,S]
          yield %3, %4
        } : i64[5], T[5,S]
        %5, %6 = while %ik, %u max=20 condition(%o: i64[1], %e: T[1,S]) {
          %7 = compare %o, 0 dir=gt : i1[1]
          yield %7
        } body(%p: i64[1], %f: T[1,S]) {
          %8 = sub %p, 2 : i64[1]
          %9 = sub %u, %f : T[1,S]
          yield %8, %9
        } : i64[1], T[1,S]
        return %0, %1, %5, %6 }" },
    Case { name: "loops_in_loops", elems: &[F32], sizes: ROWS, tolerance: 1e-5, below: 4, text: "(%x: T[B,S,6], %h: T[B,6], %i: i64[], %ids: i64[B], %u: i1[]) -> (h: T[B,6], y: T[B,S,6], n: i64[B]) {
        %0, %1 = for %i, %h, %ids body(%t: i64[], %c: T[B,6], %n: i64[B]) {
          %2, %3 = scan %x, %c inputs=1 axis=1 body(%a: T[B,6], %d: T[B,6]) {
            %4 = if %u then() { %5 = add %a, %d : T[B,6] yield %5 } else() { %6 = sub %a, %d : T[B,6] yield %6 } : T[B,6]
            %7 = tanh %4 : T[B,6]
            yield %7, %4
          } : T[B,6], T[B,S,6]
          %8 = reduce %3 kind=sum axes=[1] keep=false : T[B,6]
          %9 = add %2, %8 : T[B,6]
          %10 = sin %9 : T[B,6]
          %11, %12 = while %n, %10 max=9 condition(%k: i64[B], %e: T[B,6]) {
            %13 = compare %k, 0 dir=gt : i1[B]
            yield %13
          } body(%l: i64[B], %f: T[B,6]) {
            %14 = sub %l, 1 : i64[B]
            %15 = add %f, 0.5 : T[B,6]
            yield %14, %15
          } : i64[B], T[B,6]
          %16 = add %11, %t : i64[B]
          yield %12, %16
        } : T[B,6], i64[B]
        %17, %18 = scan %x, %0 inputs=1 axis=1 body(%g: T[B,6], %o: T[B,6]) {
          %19 = for %i, %o body(%v: i64[], %p: T[B,6]) {
            %20 = mul %p, %g : T[B,6]
            yield %20
          } : T[B,6]
          %21 = tanh %19 : T[B,6]
          yield %21, %19
        } : T[B,6], T[B,S,6]
        return %0, %18, %1 }" },
];
