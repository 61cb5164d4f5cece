//! What the times of benches are to be judged by.
#![allow(dead_code, unreachable_pub, reason = "programs and a test each use their part")]

use serde_json::{Value, json};

/// What a bench is compared with; the figure is how many times as fast as that it is to be.
#[derive(Clone, Copy)]
enum Against {
    /// The same work by PyTorch.
    Torch,
    /// The time that the device needs at its peak, or at the bandwidth of a copy that is measured there.
    Limit,
    /// The same by a fixed number of splits: the bench with `_fixed` before the element type in its name.
    Fixed,
}
use Against::{Fixed, Limit, Torch};

/// By the beginnings of the names of benches.
const FIGURES: &[(&str, Against, f64)] = &[
    ("matmul_4096_bf16", Torch, 0.85),
    ("matmul_8192_bf16", Torch, 0.85),
    ("attention_1x16x8192x128_causal_bf16", Torch, 1.0),
    ("decode_", Limit, 0.85),
    ("decode_", Fixed, 1.7),
    ("encoder_", Torch, 1.0),
    ("ptrnet_tsp_", Torch, 1.0),
    ("digits-hclt ", Torch, 10.0),
    ("digits-hclt-64 ", Torch, 10.0),
    ("plants ", Torch, 10.0),
    ("gelu_", Limit, 0.85),
    ("softmax_", Limit, 0.85),
    ("layer_norm_", Limit, 0.85),
    ("sum_of_", Limit, 0.85),
    ("argmax_", Limit, 0.85),
    ("gather_", Limit, 0.85),
];

/// Benches whose time is that of a whole run on tensors on the device, and not the sum of their launches.
const WHOLE: &[&str] = &["encoder_", "digits-", "ptrnet", "plants "];

/// What a bench of that name is judged by.
pub fn of(name: &str) -> Value {
    let of_bench = FIGURES.iter().filter(|(prefix, ..)| name.starts_with(prefix) && !name.contains("_fixed_"));
    let figure = |(_, against, at_least): &(&str, Against, f64)| {
        let against = match (against, name.rsplit_once('_')) {
            (Torch, _) => "torch".to_owned(),
            (Fixed, Some((work, elem))) => format!("{work}_fixed_{elem}"),
            (Limit | Fixed, _) => "limit".to_owned(),
        };
        json!({"against": against, "at_least": at_least})
    };
    of_bench.map(figure).collect()
}

pub fn is_whole(name: &str) -> bool {
    WHOLE.iter().any(|prefix| name.starts_with(prefix))
}

/// The element type in a bench's name, which decides the peak of its arithmetic.
pub fn elem(name: &str) -> &'static str {
    ["bf16", "f16", "f32"].into_iter().find(|elem| name.split('_').any(|part| part == *elem)).unwrap_or("f32")
}
