//! The text form: the language in which modules are printed, tested, reported and fed back.
//!
//! ```text
//! module @minilm stage=imported {
//!   meta "image.mean" = "[0.5]"
//!   dim B = 1..64
//!   dim S = 1..512 multiple=8
//!   weights %%0 = "model.safetensors"
//!   param %wq : f32[384,384] = %%0 "encoder.layer.0.attention.self.query.weight"
//!   const %schedule : i64[3] = [980, 960, 940]
//!   state @kv : f16[B,2,T,64] grows=2 capacity=4096 lifetime=session
//!   circuit @c vars=[2] {
//!     n0 = categorical var=0 log=[-1.0, -0.4586751453870819]
//!   }
//!   entry @forward(%x: f32[B,S,384]) -> (y: f32[B,S,384]) {
//!     %0 = transpose %wq perm=[1,0] : f32[384,384] // encoder.layer.0.attention.self.query
//!     %1 = matmul %x, %0 : f32[B,S,384]
//!     %2 = mul %1, 0.125 : f32[B,S,384]
//!     return %2
//!   }
//! }
//! ```
//!
//! Behind the type of an entry's input may stand what elements it may have ([`Accepts`](crate::Accepts)): `finite`,
//! `in 1..N`, `in 0..N filled` for integers with any number of -1 behind them, or `size` where only the size counts.
//!
//! One line a node; `%id = op operands attributes regions : types // source`. A constant of rank 0 stands as a number:
//! `0.5` is `f32`, `3` is `i64`, `true` is `i1`, anything else has a suffix, `0.5:f16`. A name that is not a plain word stands in quotes,
//! `%"a/b:0"`, `@"my entry"`. Printing and parsing are inverse.

mod lex;
mod parse;
mod print;

pub use parse::{ParseError, parse};
pub(crate) use print::{at_text, operand};
