//! Queries of circuits: the type of the tensors around the evaluation of single rows.

use super::tensor::{Data, Tensor};
use crate::{ElemType, circuit::Circuit};

/// The results of a query on every row of `x`. `types` and `shapes` are those of the results.
pub(super) fn query(
    c: &Circuit,
    kind: &str,
    x: &Tensor,
    mask: Option<&Tensor>,
    seed: Option<&Tensor>,
    results: &[(ElemType, Vec<usize>)],
) -> Vec<Tensor> {
    let columns = c.variables.len();
    let cell = |at: usize| match (&x.data, mask.map(|m| &m.data)) {
        (_, Some(Data::I(m))) if m[at] == 0 => f64::NAN,
        (Data::F(v), _) => v[at],
        (Data::I(v), _) if x.elem == ElemType::U64 => v[at] as u64 as f64,
        (Data::I(v), _) => v[at] as f64,
    };
    let mut out: Vec<Vec<f64>> = results.iter().map(|_| vec![]).collect();
    for r in 0..x.shape[0] {
        let row: Vec<f64> = (0..columns).map(|v| cell(r * columns + v)).collect();
        match kind {
            "mpe" => {
                let (state, value) = c.mpe(&row);
                out[0].extend(state);
                out[1].push(value);
            }
            "marginals" => out[0].extend(c.marginals(&row)),
            "sample" => {
                let seed = match seed.map(|s| &s.data) {
                    Some(Data::I(s)) => s[r],
                    _ => 0,
                };
                out[0].extend(c.sample(&row, seed));
            }
            "expectation" => out[0].extend(c.expectation(&row)),
            _ => out[0].push(c.log_likelihood(&row)),
        }
    }
    let tensor = |(values, (elem, shape)): (Vec<f64>, &(ElemType, Vec<usize>))| {
        let data = if elem.is_float() {
            Data::F(values)
        } else {
            // Cells keep their integers, which a float may not hold.
            let given = |at: usize| match (&x.data, mask.map(|m| &m.data)) {
                (Data::I(v), None) => Some(v[at]),
                (Data::I(v), Some(Data::I(m))) if m[at] != 0 => Some(v[at]),
                _ => None,
            };
            Data::I(values.iter().enumerate().map(|(at, v)| given(at).unwrap_or(*v as i64)).collect())
        };
        Tensor { elem: *elem, shape: shape.clone(), data }
    };
    out.into_iter().zip(results).map(tensor).collect()
}
