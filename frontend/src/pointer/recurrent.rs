//! Pointer networks of recurrent cells: Vinyals, Fortunato and Jaitly, "Pointer Networks" (2015); glimpses and clipping by
//! Bello et al., "Neural Combinatorial Optimization with Reinforcement Learning" (2017).
//!
//! An encoder reads the points in order; a decoder starts from its last state and in each step scores every point by
//! attention. In `config.json`, besides what all pointer networks have:
//!
//! | key | values (the first is the default) |
//! |---|---|
//! | `hidden_size` | width `H` of the cells |
//! | `cell` | `lstm`, `gru` |
//! | `gate_order` | how the rows of the cells' weights are ordered: a permutation of `ifgo` (`c` for `g` is taken too), of `rzn` for GRU |
//! | `num_layers` | 1; layers of encoder and decoder |
//! | `bidirectional` | `null`, `sum` (outputs and states of both directions are added), `concat`; `E` is `H`, with `concat` `2H` |
//! | `embedding_size`, `embedding_bias` | `null`: the cells read coordinates; else a linear layer in front |
//! | `attention` | `additive` (`v . tanh(W1 e + W2 d)`), `dot` (`(W1 e) . (W2 d)`), `scaled_dot` (divided by the root of `A`) |
//! | `attention_size` | `E`; width `A` of the attention |
//! | `glimpses` | 0; attentions over the encodings that refine the query first, all with the weights `glimpse` |
//! | `tanh_clipping` | `null`, or `C` of `C tanh(u)` |
//! | `decoder_input` | `coordinates of the last pick`, or its `embedding` or `encoding` |
//! | `first_input` | `go` (a learned vector), `zeros` |
//! | `initial_decoder_state` | `final encoder state`, `zeros` |
//!
//! Weights, in PyTorch's conventions (`y = W x + b`): `encoder.{weight,bias}_{ih,hh}_l{k}[_reverse]` as in `torch.nn.LSTM`
//! and `GRU`; `decoder.{weight,bias}_{ih,hh}` as in `LSTMCell` and `GRUCell`, with more layers `decoder.{k}.*`; `w1.weight`
//! `[A,E]`, `w2.weight` `[A,E]`, `v.weight` `[1,A]` (additive only), the same under `glimpse.`; `go`; `end` `[E]`, which
//! stands as one more encoding; `embedding.weight`, `embedding.bias`.

use super::{
    Architecture,
    config::{Common, positive},
    decode::{Decoder, Problem},
};
use crate::{
    config::Reader,
    graph::{Built, Graph},
    json::describe,
};
use kiln_ir::{Dim, ElemType, Op, Value};
use serde_json::Value as Json;
use std::rc::Rc;

#[derive(Clone, Copy, PartialEq)]
enum Cell {
    Lstm,
    Gru,
}

#[derive(Clone, Copy, PartialEq)]
enum Directions {
    One,
    Sum,
    Concat,
}

#[derive(Clone, Copy, PartialEq)]
enum Attention {
    Additive,
    Dot,
    ScaledDot,
}

#[derive(Clone, Copy, PartialEq)]
enum Input {
    Coordinates,
    Embedding,
    Encoding,
}

pub(super) struct Config {
    input_size: i64,
    hidden: i64,
    cell: Cell,
    /// Where each gate stands: of i, f, g, o or of r, z, n.
    gates: Vec<i64>,
    layers: i64,
    directions: Directions,
    embedding: Option<i64>,
    embedding_bias: bool,
    attention: Attention,
    attention_size: i64,
    glimpses: i64,
    clipping: Option<f64>,
    decoder_input: Input,
    go: bool,
    starts_from_encoder: bool,
    has_end: bool,
}

/// Glimpses beyond this are a mistake.
const MAX_GLIMPSES: i64 = 64;

pub(super) fn config(mut r: Reader<'_>, common: &Common) -> Rc<Config> {
    let hidden = r.size("hidden_size", None);
    let cell = r.word("cell", Cell::Lstm, &[("lstm", Cell::Lstm), ("gru", Cell::Gru)]);
    let directions = match r.take("bidirectional") {
        None | Some(Json::Null | Json::Bool(false)) => Directions::One,
        Some(Json::String(s)) if s == "sum" => Directions::Sum,
        Some(Json::String(s)) if s == "concat" => Directions::Concat,
        Some(other) => {
            r.fail("bidirectional", "null, \"sum\" or \"concat\"", describe(&other));
            Directions::One
        }
    };
    let wide = if directions == Directions::Concat { hidden.saturating_mul(2) } else { hidden };
    r.skip_null("embedding_size");
    let embedding = r.has("embedding_size").then(|| r.size("embedding_size", None));
    let (additive, dot) = (Attention::Additive, Attention::Dot);
    let decoder_input = r.word(
        "decoder_input",
        Input::Coordinates,
        &[
            ("coordinates of the last pick", Input::Coordinates),
            ("embedding of the last pick", Input::Embedding),
            ("encoding of the last pick", Input::Encoding),
        ],
    );
    if decoder_input == Input::Embedding && embedding.is_none() {
        r.fail("decoder_input", "coordinates or encoding, as there is no embedding_size", "embedding");
    }
    let c = Config {
        input_size: common.input_size,
        hidden,
        cell,
        gates: gate_order(&mut r, cell),
        layers: common.layers,
        directions,
        embedding,
        embedding_bias: embedding.is_some() && r.flag("embedding_bias", true),
        attention: r.word(
            "attention",
            additive,
            &[
                ("additive", additive),
                ("additive: v . tanh(W1 e_i + W2 d)", additive),
                ("dot", dot),
                ("scaled_dot", Attention::ScaledDot),
            ],
        ),
        attention_size: r.size("attention_size", Some(wide)),
        glimpses: glimpses(&mut r),
        clipping: positive(&mut r, "tanh_clipping", None),
        decoder_input,
        go: r.word("first_input", true, &[("go", true), ("zeros", false)]),
        starts_from_encoder: r.word("initial_decoder_state", true, &[("final encoder state", true), ("zeros", false)]),
        has_end: common.has_end,
    };
    r.finish();
    Rc::new(c)
}

fn glimpses(r: &mut Reader<'_>) -> i64 {
    match r.take("glimpses") {
        None | Some(Json::Null) => 0,
        Some(value) => match value.as_i64().filter(|n| (0..=MAX_GLIMPSES).contains(n)) {
            Some(n) => n,
            None => {
                r.fail("glimpses", format!("a whole number from 0 to {MAX_GLIMPSES}"), describe(&value));
                0
            }
        },
    }
}

/// Where each gate stands in the rows of the weights.
fn gate_order(r: &mut Reader<'_>, cell: Cell) -> Vec<i64> {
    let gates = if cell == Cell::Lstm { "ifgo" } else { "rzn" };
    let default = (0..gates.len() as i64).collect();
    let Some(value) = r.take("gate_order") else { return default };
    let order = value.as_str().unwrap_or("").replace('c', "g");
    let found: Option<Vec<i64>> = gates.chars().map(|gate| order.find(gate).map(|at| at as i64)).collect();
    match found.filter(|_| order.len() == gates.len()) {
        Some(order) => order,
        None => {
            r.fail("gate_order", format!("a permutation of {gates}"), describe(&value));
            default
        }
    }
}

/// The weights of one cell: in front of `weight_ih` and the like, and behind them.
struct Names {
    before: String,
    after: String,
}

impl Config {
    /// The width of an encoding and of the decoder's state.
    fn wide(&self) -> i64 {
        if self.directions == Directions::Concat { self.hidden * 2 } else { self.hidden }
    }

    /// What a cell carries: LSTM `h, c`, GRU `h`.
    fn states(&self) -> usize {
        if self.cell == Cell::Lstm { 2 } else { 1 }
    }

    fn input_width(&self) -> i64 {
        match self.decoder_input {
            Input::Coordinates => self.input_size,
            Input::Embedding => self.embedding.unwrap_or(self.input_size),
            Input::Encoding => self.wide(),
        }
    }

    /// One step of a cell on `x` `[..,input]`, with a state of width `hidden`.
    fn cell(
        &self,
        g: &mut Graph<'_>,
        n: &Names,
        x: Value,
        state: &[Value],
        input: i64,
        hidden: i64,
    ) -> Built<Vec<Value>> {
        let path = n.before.trim_end_matches('.').to_string();
        g.at(&path);
        let rows = self.gates.len() as i64 * hidden;
        let name = |part: &str| format!("{}{part}{}", n.before, n.after);
        let part = |g: &mut Graph<'_>, of: Value, side: &str, width: i64| {
            let weight = g.weight(&name(&format!("weight_{side}")), &[rows, width])?;
            let product = g.product(of, weight)?;
            let bias = g.weight(&name(&format!("bias_{side}")), &[rows])?;
            g.op(Op::Add, [product, bias], [])
        };
        let (from_x, from_h) = (part(g, x, "ih", input)?, part(g, state[0], "hh", hidden)?);
        let gate = |g: &mut Graph<'_>, of: Value, n: usize| {
            let at = self.gates[n];
            g.slice(of, -1, at * hidden, (at + 1) * hidden)
        };
        match self.cell {
            Cell::Lstm => {
                let gates = g.op(Op::Add, [from_x, from_h], [])?;
                let open = |g: &mut Graph<'_>, n: usize, op: Op| {
                    let gate = gate(g, gates, n)?;
                    g.op(op, [gate], [])
                };
                let (i, f) = (open(g, 0, Op::Sigmoid)?, open(g, 1, Op::Sigmoid)?);
                let (new, o) = (open(g, 2, Op::Tanh)?, open(g, 3, Op::Sigmoid)?);
                let kept = g.op(Op::Mul, [f, state[1]], [])?;
                let added = g.op(Op::Mul, [i, new], [])?;
                let c = g.op(Op::Add, [kept, added], [])?;
                let bounded = g.op(Op::Tanh, [c], [])?;
                Ok(vec![g.op(Op::Mul, [o, bounded], [])?, c])
            }
            Cell::Gru => {
                let open = |g: &mut Graph<'_>, n: usize| {
                    let (a, b) = (gate(g, from_x, n)?, gate(g, from_h, n)?);
                    let sum = g.op(Op::Add, [a, b], [])?;
                    g.op(Op::Sigmoid, [sum], [])
                };
                let (r, z) = (open(g, 0)?, open(g, 1)?);
                let (x, h) = (gate(g, from_x, 2)?, gate(g, from_h, 2)?);
                let reset = g.op(Op::Mul, [r, h], [])?;
                let n = g.op(Op::Add, [x, reset], [])?;
                let n = g.op(Op::Tanh, [n], [])?;
                let one = g.number(1.0);
                let rest = g.op(Op::Sub, [one, z], [])?;
                let new = g.op(Op::Mul, [rest, n], [])?;
                let kept = g.op(Op::Mul, [z, state[0]], [])?;
                Ok(vec![g.op(Op::Add, [new, kept], [])?])
            }
        }
    }

    /// The encodings `[B,N,E]` of `x` `[B,N,input]`, and the last state of each layer.
    fn encoder(&self, g: &mut Graph<'_>, x: Value, p: &Problem) -> Built<(Value, Vec<Value>)> {
        let mut input = self.embedding.unwrap_or(self.input_size);
        let (mut x, mut last) = (x, vec![]);
        for layer in 0..self.layers {
            let mut passes = vec![];
            for reverse in [false, true] {
                if reverse && self.directions == Directions::One {
                    continue;
                }
                let after = format!("_l{layer}{}", if reverse { "_reverse" } else { "" });
                let names = Names { before: "encoder.".into(), after };
                g.at("encoder");
                let zeros = g.filled(ElemType::F32, 0.0, [p.batch.clone(), self.hidden.into()])?;
                let done = g.scan(p.lengths, &[x], &vec![zeros; self.states()], reverse, |g, slices, carried| {
                    let next = self.cell(g, &names, slices[0], carried, input, self.hidden)?;
                    let h = next[0];
                    Ok((next, vec![h]))
                })?;
                passes.push(done);
            }
            g.at("encoder");
            let joins_by_sum = self.directions == Directions::Sum;
            let join = |g: &mut Graph<'_>, n: usize, sum: bool| match &passes[..] {
                [one] => Ok(one[n]),
                [a, b, ..] if sum => g.op(Op::Add, [a[n], b[n]], []),
                _ => g.concat(&[passes[0][n], passes[1][n]], -1),
            };
            for n in 0..self.states() {
                last.push(join(g, n, joins_by_sum)?);
            }
            // Between layers both directions stand side by side, as in PyTorch.
            x = join(g, self.states(), joins_by_sum && layer + 1 == self.layers)?;
            input = if self.directions == Directions::One { self.hidden } else { self.hidden * 2 };
        }
        Ok((x, last))
    }

    /// Scores `[lanes..,C]` of a query `[lanes..,E]` over the encodings.
    fn attend(&self, g: &mut Graph<'_>, prefix: &str, encodings: Value, query: Value) -> Built {
        let (wide, size) = (self.wide(), self.attention_size);
        let keys = g.linear(encodings, &format!("{prefix}w1"), wide, size, false)?;
        let query = g.linear(query, &format!("{prefix}w2"), wide, size, false)?;
        g.at(&format!("{prefix}attention"));
        let (keys_dims, mut lanes) = (g.dims(keys), g.dims(query));
        lanes.pop();
        let candidates = keys_dims[1].clone();
        let scores: Vec<Dim> = [&lanes[..], std::slice::from_ref(&candidates)].concat();
        if self.attention == Attention::Additive {
            let mut keys = keys;
            if lanes.len() > 1 {
                keys = g.reshape(keys, [keys_dims[0].clone(), 1.into(), candidates, size.into()])?;
            }
            let query = g.reshape(query, [lanes, vec![1.into(), size.into()]].concat())?;
            let sum = g.op(Op::Add, [keys, query], [])?;
            let bounded = g.op(Op::Tanh, [sum], [])?;
            let u = g.linear(bounded, &format!("{prefix}v"), size, 1, false)?;
            return g.reshape(u, scores);
        }
        let beams = lanes.get(1).cloned().unwrap_or(1.into());
        let query = g.reshape(query, [keys_dims[0].clone(), beams, size.into()])?;
        let keys = g.op(Op::Transpose, [keys], [("perm", vec![0, 2, 1].into())])?;
        let mut u = g.op(Op::Matmul, [query, keys], [])?;
        if self.attention == Attention::ScaledDot {
            let root = g.number((size as f64).sqrt());
            u = g.op(Op::Div, [u, root], [])?;
        }
        g.reshape(u, scores)
    }

    /// The encodings weighted by their scores: `[lanes..,E]`.
    fn glimpse(&self, g: &mut Graph<'_>, encodings: Value, query: Value, mask: Option<Value>) -> Built {
        let mut u = self.attend(g, "glimpse.", encodings, query)?;
        if let Some(mask) = mask {
            let never = g.number(f64::NEG_INFINITY);
            u = g.select(mask, never, u)?;
        }
        let weights = g.softmax(u)?;
        let (dims, to) = (g.dims(weights), g.dims(query));
        let flat = match &dims[..] {
            [batch, candidates] => g.reshape(weights, [batch.clone(), 1.into(), candidates.clone()])?,
            _ => weights,
        };
        let sum = g.op(Op::Matmul, [flat, encodings], [])?;
        g.reshape(sum, to)
    }
}

impl Architecture for Rc<Config> {
    fn encode(&self, g: &mut Graph<'_>, points: Value, p: &Problem) -> Built<Box<dyn Decoder>> {
        let embedded = match self.embedding {
            Some(width) => g.linear(points, "embedding", self.input_size, width, self.embedding_bias)?,
            None => points,
        };
        let (encodings, last) = self.encoder(g, embedded, p)?;
        let inputs = match self.decoder_input {
            Input::Coordinates => points,
            Input::Embedding => embedded,
            Input::Encoding => encodings,
        };
        let encodings = if self.has_end { self.with_end(g, encodings, p)? } else { encodings };
        Ok(Box::new(Steps { config: self.clone(), batch: p.batch.clone(), encodings, inputs, last }))
    }
}

impl Config {
    /// The encodings and behind them, at each row's length, that of the end symbol.
    fn with_end(&self, g: &mut Graph<'_>, encodings: Value, p: &Problem) -> Built {
        g.at("end");
        let wide = self.wide();
        let end = g.weight("end", &[wide])?;
        let one = [p.batch.clone(), 1.into(), wide.into()];
        let last = g.broadcast(end, one)?;
        let all = g.concat(&[encodings, last], 1)?;
        let Some(lengths) = p.lengths else { return Ok(all) };
        let positions = g.positions([1.into(), p.candidates(), 1.into()], 1)?;
        let lengths = g.reshape(lengths, [p.batch.clone(), 1.into(), 1.into()])?;
        let here = g.compare(positions, "eq", lengths)?;
        g.select(here, end, all)
    }
}

/// The decoder over one batch of encoded points. It carries its next input and then the state of each layer.
struct Steps {
    config: Rc<Config>,
    batch: Dim,
    encodings: Value,
    /// What the picks are fed back as.
    inputs: Value,
    /// The encoder's last state of each layer.
    last: Vec<Value>,
}

impl Decoder for Steps {
    fn start(&self, g: &mut Graph<'_>) -> Built<Vec<Value>> {
        let c = &self.config;
        g.at("decoder");
        let input = [self.batch.clone(), c.input_width().into()];
        let first = if c.go {
            let go = g.weight("go", &[c.input_width()])?;
            g.broadcast(go, input)?
        } else {
            g.filled(ElemType::F32, 0.0, input)?
        };
        if c.starts_from_encoder {
            return Ok([vec![first], self.last.clone()].concat());
        }
        let zeros = g.filled(ElemType::F32, 0.0, [self.batch.clone(), c.wide().into()])?;
        Ok([vec![first], vec![zeros; self.last.len()]].concat())
    }

    fn scores(&self, g: &mut Graph<'_>, state: &[Value], mask: Option<Value>) -> Built<(Value, Vec<Value>)> {
        let c = &self.config;
        let (mut x, mut input) = (state[0], c.input_width());
        let mut next = vec![state[0]];
        for (layer, state) in state[1..].chunks(c.states()).enumerate() {
            let before = if c.layers == 1 { "decoder.".into() } else { format!("decoder.{layer}.") };
            let names = Names { before, after: String::new() };
            let new = c.cell(g, &names, x, state, input, c.wide())?;
            (x, input) = (new[0], c.wide());
            next.extend(new);
        }
        let mut query = x;
        for _ in 0..c.glimpses {
            query = c.glimpse(g, self.encodings, query, mask)?;
        }
        let mut u = c.attend(g, "", self.encodings, query)?;
        if let Some(clipping) = c.clipping {
            let clipping = g.number(clipping);
            let bounded = g.op(Op::Tanh, [u], [])?;
            u = g.op(Op::Mul, [bounded, clipping], [])?;
        }
        Ok((u, next))
    }

    fn advance(&self, g: &mut Graph<'_>, mut state: Vec<Value>, pick: Value, _: Value) -> Built<Vec<Value>> {
        state[0] = g.pick(self.inputs, pick)?;
        Ok(state)
    }
}
