//! Attention over a cache of keys and values, as `decode_attention` has it.

use super::tensor::{Data, Tensor};

/// The result, or which length is wrong and why. The types and shapes are those that the op allows.
pub(super) fn attention(
    [q, k, v, lengths]: [&Tensor; 4],
    scale: f64,
    shape: &[usize],
) -> Result<Tensor, (usize, String)> {
    let (Data::F(q_data), Data::F(k_data), Data::F(v_data), Data::I(lengths)) =
        (&q.data, &k.data, &v.data, &lengths.data)
    else {
        return Err((0, "the operands are not floats and integers".into()));
    };
    let (heads, queries, depth) = (q.shape[1], q.shape[2], q.shape[3]);
    let (kv_heads, size, value_depth) = (v.shape[1], v.shape[2], v.shape[3]);
    if let Some(b) = lengths.iter().position(|n| usize::try_from(*n).map_or(true, |n| n > size)) {
        return Err((b, format!("length {} of a cache of {size} keys", lengths[b])));
    }
    let mut out = Vec::with_capacity(shape.iter().product());
    for (b, length) in lengths.iter().enumerate() {
        for h in 0..heads {
            let cache = (b * kv_heads + h / (heads / kv_heads)) * size;
            for i in 0..queries {
                let q = &q_data[((b * heads + h) * queries + i) * depth..][..depth];
                let seen = (*length as usize + 1 + i).saturating_sub(queries);
                let score = |t: usize| {
                    let k = &k_data[(cache + t) * depth..][..depth];
                    scale * q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>()
                };
                let scores: Vec<f64> = (0..seen).map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut row = vec![0.0; value_depth];
                for (t, weight) in weights.iter().enumerate() {
                    let v = &v_data[(cache + t) * value_depth..][..value_depth];
                    row.iter_mut().zip(v).for_each(|(o, v)| *o += weight / sum * v);
                }
                out.extend(row);
            }
        }
    }
    Ok(Tensor { elem: q.elem, shape: shape.to_vec(), data: Data::F(out) })
}
