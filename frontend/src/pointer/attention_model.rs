//! The attention model of Kool, van Hoof and Welling, "Attention, Learn to Solve Routing Problems!" (2019), for tours.
//!
//! A transformer encoder without positions, and a decoder that in each step attends from the context `[mean of the graph,
//! first point, last point]` to the points that are left. In `config.json`, besides what all pointer networks have:
//!
//! | key | default |
//! |---|---|
//! | `embedding_dim` | 128, width `E` |
//! | `n_heads` | 8 |
//! | `n_encode_layers` | 3 |
//! | `feed_forward_hidden` | 512, width `F` |
//! | `normalization` | `batch` (the running statistics), `instance` (over the points of each row), `none` |
//! | `normalization_eps` | 1e-5 |
//! | `tanh_clipping` | 10; `null` leaves the scores as they are |
//!
//! `mask_visited` must be true and `end_symbol` null. Weights as in the authors' code (`wouterkool/attention-learn-to-route`):
//! `init_embed.{weight,bias}` `[E,D]`; for each layer `k`, under `embedder.layers.{k}.`, `0.module.W_query`, `W_key`, `W_val`
//! `[heads,E,E/heads]`, `0.module.W_out` `[heads,E/heads,E]`, `1.normalizer.*`, `2.module.0` `[F,E]` and `2.module.2` `[E,F]`
//! with biases, `3.normalizer.*`; a normaliser has `weight`, `bias` and for `batch` `running_mean`, `running_var` `[E]` (and
//! `num_batches_tracked`, which says nothing); `project_node_embeddings.weight` `[3E,E]`, `project_fixed_context.weight`
//! `[E,E]`, `project_step_context.weight` `[E,2E]`, `project_out.weight` `[E,E]`, `W_placeholder` `[2E]`.

use super::{
    Architecture,
    config::{Common, positive},
    decode::{Decoder, Problem},
};
use crate::{
    config::Reader,
    graph::{Built, Graph},
};
use kiln_ir::{Dim, ElemType, Op, Value};
use std::rc::Rc;

#[derive(Clone, Copy, PartialEq)]
enum Normalization {
    Batch,
    Instance,
    None,
}

pub(super) struct Config {
    input_size: i64,
    width: i64,
    heads: i64,
    layers: i64,
    inner: i64,
    normalization: Normalization,
    eps: f64,
    clipping: Option<f64>,
}

pub(super) fn config(mut r: Reader<'_>, common: &Common) -> Rc<Config> {
    let before = r.faults();
    let c = Config {
        input_size: common.input_size,
        width: r.size("embedding_dim", Some(128)),
        heads: r.size("n_heads", Some(8)),
        layers: common.layers,
        inner: r.size("feed_forward_hidden", Some(512)),
        normalization: r.word(
            "normalization",
            Normalization::Batch,
            &[("batch", Normalization::Batch), ("instance", Normalization::Instance), ("none", Normalization::None)],
        ),
        eps: r.epsilon("normalization_eps", 1e-5),
        clipping: positive(&mut r, "tanh_clipping", Some(10.0)),
    };
    if r.faults() == before && c.width % c.heads != 0 {
        r.fail("n_heads", format!("a divisor of embedding_dim, {}", c.width), c.heads.to_string());
    }
    if !common.mask_visited {
        r.fail("mask_visited", "true, as this model visits every point once", "false");
    }
    if common.has_end {
        r.fail("end_symbol", "null, as tours have no end symbol", "one");
    }
    r.finish();
    Rc::new(c)
}

/// What is known of a batch besides its points.
struct Rows {
    batch: Dim,
    points: Dim,
    /// `f32[B,N,1]`: 1 for points that a row has, and how many those are, `f32[B,1,1]`.
    real: Option<(Value, Value)>,
}

impl Rows {
    fn new(g: &mut Graph<'_>, p: &Problem) -> Built<Rows> {
        let real = match p.lengths {
            None => None,
            Some(lengths) => {
                g.at("lengths");
                let lengths = g.reshape(lengths, [p.batch.clone(), 1.into(), 1.into()])?;
                let positions = g.positions([1.into(), p.points.clone(), 1.into()], 1)?;
                let real = g.compare(positions, "lt", lengths)?;
                let float = || [("to", ElemType::F32.into())];
                Some((g.op(Op::Convert, [real], float())?, g.op(Op::Convert, [lengths], float())?))
            }
        };
        Ok(Rows { batch: p.batch.clone(), points: p.points.clone(), real })
    }

    /// The mean over the points: `[B,1,E]`.
    fn mean(&self, g: &mut Graph<'_>, x: Value) -> Built {
        let Some((real, lengths)) = self.real else { return g.reduce(x, "mean", 1, true) };
        let kept = g.op(Op::Mul, [x, real], [])?;
        let sum = g.reduce(kept, "sum", 1, true)?;
        g.op(Op::Div, [sum, lengths], [])
    }
}

impl Config {
    fn depth(&self) -> i64 {
        self.width / self.heads
    }

    /// `x` `[B,L,E]` as heads `[B,heads,L,E/heads]`.
    fn split(&self, g: &mut Graph<'_>, x: Value) -> Built {
        let dims = g.dims(x);
        let apart = [dims[0].clone(), dims[1].clone(), self.heads.into(), self.depth().into()];
        let x = g.reshape(x, apart)?;
        g.op(Op::Transpose, [x], [("perm", vec![0, 2, 1, 3].into())])
    }

    /// Attention of heads; `mask` is true for keys that do not take part and broadcasts to the scores. `[B,L,E]`
    fn attention(&self, g: &mut Graph<'_>, [q, k, v]: [Value; 3], mask: Option<Value>) -> Built {
        let dims = g.dims(q);
        let k = g.op(Op::Transpose, [k], [("perm", vec![0, 1, 3, 2].into())])?;
        let scores = g.op(Op::Matmul, [q, k], [])?;
        let factor = g.number(1.0 / (self.depth() as f64).sqrt());
        let mut scores = g.op(Op::Mul, [scores, factor], [])?;
        if let Some(mask) = mask {
            let never = g.number(f64::NEG_INFINITY);
            scores = g.select(mask, never, scores)?;
        }
        let weights = g.softmax(scores)?;
        let heads = g.op(Op::Matmul, [weights, v], [])?;
        let heads = g.op(Op::Transpose, [heads], [("perm", vec![0, 2, 1, 3].into())])?;
        g.reshape(heads, [dims[0].clone(), dims[2].clone(), self.width.into()])
    }

    fn self_attention(&self, g: &mut Graph<'_>, x: Value, path: &str, mask: Option<Value>) -> Built {
        g.at(path);
        let mut part = |name: &str| {
            let weight = g.weight(&format!("{path}.{name}"), &[self.heads, self.width, self.depth()])?;
            let weight = g.op(Op::Transpose, [weight], [("perm", vec![1, 0, 2].into())])?;
            let weight = g.reshape(weight, [self.width.into(), self.width.into()])?;
            let y = g.op(Op::Matmul, [x, weight], [])?;
            self.split(g, y)
        };
        let heads = [part("W_query")?, part("W_key")?, part("W_val")?];
        let y = self.attention(g, heads, mask)?;
        let out = g.weight(&format!("{path}.W_out"), &[self.heads, self.depth(), self.width])?;
        let out = g.reshape(out, [self.width.into(), self.width.into()])?;
        g.op(Op::Matmul, [y, out], [])
    }

    fn normalize(&self, g: &mut Graph<'_>, x: Value, path: &str, rows: &Rows) -> Built {
        g.at(path);
        let mut weight = |name: &str| g.weight(&format!("{path}.{name}"), &[self.width]);
        let (centred, variance) = match self.normalization {
            Normalization::None => return Ok(x),
            Normalization::Batch => {
                let (mean, variance) = (weight("running_mean")?, weight("running_var")?);
                (g.op(Op::Sub, [x, mean], [])?, variance)
            }
            Normalization::Instance => {
                let mean = rows.mean(g, x)?;
                let centred = g.op(Op::Sub, [x, mean], [])?;
                let squared = g.op(Op::Mul, [centred, centred], [])?;
                (centred, rows.mean(g, squared)?)
            }
        };
        let eps = g.number(self.eps);
        let shifted = g.op(Op::Add, [variance, eps], [])?;
        let deviation = g.op(Op::Sqrt, [shifted], [])?;
        let normal = g.op(Op::Div, [centred, deviation], [])?;
        let mut weight = |name: &str| g.weight(&format!("{path}.{name}"), &[self.width]);
        let (scale, bias) = (weight("weight")?, weight("bias")?);
        let scaled = g.op(Op::Mul, [normal, scale], [])?;
        g.op(Op::Add, [scaled, bias], [])
    }

    fn layer(&self, g: &mut Graph<'_>, x: Value, k: i64, rows: &Rows, mask: Option<Value>) -> Built {
        let path = |part: &str| format!("embedder.layers.{k}.{part}");
        let y = self.self_attention(g, x, &path("0.module"), mask)?;
        let x = g.op(Op::Add, [x, y], [])?;
        let x = self.normalize(g, x, &path("1.normalizer"), rows)?;
        let y = g.linear(x, &path("2.module.0"), self.width, self.inner, true)?;
        let y = g.op(Op::Relu, [y], [])?;
        let y = g.linear(y, &path("2.module.2"), self.inner, self.width, true)?;
        let x = g.op(Op::Add, [x, y], [])?;
        self.normalize(g, x, &path("3.normalizer"), rows)
    }
}

impl Architecture for Rc<Config> {
    fn encode(&self, g: &mut Graph<'_>, points: Value, p: &Problem) -> Built<Box<dyn Decoder>> {
        let rows = Rows::new(g, p)?;
        let mask = match p.outside(g)? {
            Some(outside) => Some(g.reshape(outside, [p.batch.clone(), 1.into(), 1.into(), p.points.clone()])?),
            None => None,
        };
        let mut x = g.linear(points, "init_embed", self.input_size, self.width, true)?;
        for k in 0..self.layers {
            x = self.layer(g, x, k, &rows, mask)?;
        }
        g.at("embedder");
        let mean = rows.mean(g, x)?;
        let fixed = g.linear(mean, "project_fixed_context", self.width, self.width, false)?;
        let projected = g.linear(x, "project_node_embeddings", self.width, 3 * self.width, false)?;
        let third = |g: &mut Graph<'_>, n: i64| g.slice(projected, -1, n * self.width, (n + 1) * self.width);
        let (keys, values, logit_keys) = (third(g, 0)?, third(g, 1)?, third(g, 2)?);
        let (keys, values) = (self.split(g, keys)?, self.split(g, values)?);
        let (batch, points) = (rows.batch, rows.points);
        Ok(Box::new(Steps { config: self.clone(), batch, points, embeddings: x, fixed, keys, values, logit_keys }))
    }
}

/// The decoder over one batch of embedded points. It carries the context `[first, last]`, before the first step the
/// placeholder.
struct Steps {
    config: Rc<Config>,
    batch: Dim,
    points: Dim,
    /// `[B,N,E]`
    embeddings: Value,
    /// The projected mean of the graph, `[B,1,E]`.
    fixed: Value,
    /// Of the glimpse, by heads.
    keys: Value,
    values: Value,
    /// `[B,N,E]`
    logit_keys: Value,
}

impl Decoder for Steps {
    fn start(&self, g: &mut Graph<'_>) -> Built<Vec<Value>> {
        let wide = 2 * self.config.width;
        g.at("decoder");
        let placeholder = g.weight("W_placeholder", &[wide])?;
        Ok(vec![g.broadcast(placeholder, [self.batch.clone(), wide.into()])?])
    }

    fn scores(&self, g: &mut Graph<'_>, state: &[Value], mask: Option<Value>) -> Built<(Value, Vec<Value>)> {
        let c = &self.config;
        let mut lanes = g.dims(state[0]);
        lanes.pop();
        let beams = lanes.get(1).cloned().unwrap_or(1.into());
        let context = g.reshape(state[0], [self.batch.clone(), beams, (2 * c.width).into()])?;
        let step = g.linear(context, "project_step_context", 2 * c.width, c.width, false)?;
        g.at("decoder.glimpse");
        let query = g.op(Op::Add, [self.fixed, step], [])?;
        let query = c.split(g, query)?;
        let mask = match mask {
            Some(mask) => {
                let rows = g.dims(mask).get(1).cloned().filter(|_| lanes.len() > 1).unwrap_or(1.into());
                Some(g.reshape(mask, [self.batch.clone(), 1.into(), rows, self.points.clone()])?)
            }
            None => None,
        };
        let glimpse = c.attention(g, [query, self.keys, self.values], mask)?;
        let glimpse = g.linear(glimpse, "project_out", c.width, c.width, false)?;
        g.at("decoder.scores");
        let keys = g.op(Op::Transpose, [self.logit_keys], [("perm", vec![0, 2, 1].into())])?;
        let u = g.op(Op::Matmul, [glimpse, keys], [])?;
        let root = g.number((c.width as f64).sqrt());
        let mut u = g.op(Op::Div, [u, root], [])?;
        if let Some(clipping) = c.clipping {
            let clipping = g.number(clipping);
            let bounded = g.op(Op::Tanh, [u], [])?;
            u = g.op(Op::Mul, [bounded, clipping], [])?;
        }
        let u = g.reshape(u, [lanes, vec![self.points.clone()]].concat())?;
        Ok((u, state.to_vec()))
    }

    fn advance(&self, g: &mut Graph<'_>, state: Vec<Value>, pick: Value, step: Value) -> Built<Vec<Value>> {
        let width = self.config.width;
        let last = g.pick(self.embeddings, pick)?;
        let lanes = g.dims(pick).len();
        let first = g.slice(state[0], -1, 0, width)?;
        let zero = g.integer(0);
        let begins = g.compare(step, "eq", zero)?;
        let begins = g.reshape(begins, [vec![self.batch.clone()], vec![1.into(); lanes]].concat())?;
        let first = g.select(begins, last, first)?;
        Ok(vec![g.concat(&[first, last], -1)?])
    }
}
