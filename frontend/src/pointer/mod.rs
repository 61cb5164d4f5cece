//! Pointer networks: directories with `model.safetensors` and a `config.json` of `"model_type": "pointer_network"`, whose
//! outputs are sequences of positions of their input.
//!
//! `"architecture"` is `recurrent` (the default: [`recurrent`]) or `attention_model` ([`attention_model`]). In both
//! - `task` is `tsp`, `hull` or absent; it only says how `kiln run --check` judges the answers;
//! - `input_size` (2) is the number of coordinates of a point;
//! - `max_points` (1024) bounds the number of points; `n_min` and `n_max` tell of the training and bound nothing;
//! - `mask_visited` forbids a point to be picked twice; `end_symbol`, where it is not null, adds a candidate behind the
//!   points that ends the sequence;
//! - `decoding` is `greedy`: the entry `forward` is.
//!
//! Entries, where `C` is `N`, or `N+1` with an end symbol:
//!
//! | entry | inputs | outputs |
//! |---|---|---|
//! | `forward` | `points: f32[B,N,D]` | `indices: i64[B,C]`, `length: i64[B]`, `log_probability: f32[B]` |
//! | `forward_padded` | `points`, `lengths: i64[B]` | the same, for rows of 1 to `N` points |
//! | `beam` | `points`, `lengths`, `width: i8[W]` (its size counts) | `indices: i64[B,W,C]`, `length: i64[B,W]`, `log_probability: f32[B,W]` |
//! | `score` | `points`, `lengths`, `indices: i64[B,T]` | `log_probability: f32[B]` |
//!
//! `indices` are filled with -1; `length` counts what is not filler, the end symbol included. The entries declare what
//! they accept: coordinates that are finite, lengths from 1 to `N`, and to score candidates with -1 behind them only. A
//! sequence that is impossible (a point twice, something behind the end, more than `C` of a row's candidates) scores minus
//! infinity.

mod attention_model;
mod config;
mod decode;
mod ops;
mod recurrent;

use crate::{
    Loaded, Weights,
    config::Reader,
    error::Errors,
    graph::{Built, Graph},
    json,
};
use config::{Common, common};
use decode::{Decoder, Problem};
use kiln_ir::{Accepts, Dim, ElemType, Symbol, Type, Value};
use std::path::Path;

/// The `model_type` of their configuration.
pub(crate) const TYPE: &str = "pointer_network";

/// Batches beyond this are split by any caller.
const MAX_BATCH: i64 = 65536;
/// Beams beyond this are no search any more.
const MAX_WIDTH: i64 = 256;

/// A model that can be written into an entry.
trait Architecture {
    /// What encodes `points` `f32[B,N,D]` of a problem, and the decoder that picks among them.
    fn encode(&self, g: &mut Graph<'_>, points: Value, problem: &Problem) -> Built<Box<dyn Decoder>>;
}

pub(crate) fn load(dir: &Path, errors: &mut Errors) -> Option<Loaded> {
    let before = errors.len();
    let config_path = dir.join("config.json");
    let config = json::read_object(&config_path, errors);
    let weights = Weights::open_directory(dir, errors);
    let mut r = Reader::new(&config_path, config?, errors);
    r.take("model_type");
    let kind = r.word("architecture", Kind::Recurrent, KINDS);
    let common = common(&mut r);
    let architecture: Box<dyn Architecture> = match kind {
        Kind::Recurrent => Box::new(recurrent::config(r, &common)),
        Kind::AttentionModel => Box::new(attention_model::config(r, &common)),
    };
    let weights = weights?;
    if errors.len() > before {
        return None;
    }
    let tensors = weights.count() as i64;
    if common.layers > tensors {
        let expected = format!("at most {tensors} layers, as the weights have {tensors} tensors");
        let e = crate::ImportError::new(&config_path, expected, common.layers.to_string());
        errors.push(e.at(common.layers_key));
        return None;
    }
    let mut g = Graph::new("pointer_network", dir.to_path_buf(), &weights, "", errors);
    if let Err(violation) = build(&mut g, architecture.as_ref(), &common) {
        g.fail(&config_path, &violation);
        return None;
    }
    if let Some(task) = common.task {
        g.module.metadata.insert("pointer.task".into(), task.into());
    }
    let mut notes = vec![];
    let module = g.finish(&[("*.num_batches_tracked", "")], &mut notes);
    (errors.len() == before).then_some(Loaded { module, weights, notes })
}

#[derive(Clone, Copy)]
enum Kind {
    Recurrent,
    AttentionModel,
}

const KINDS: &[(&str, Kind)] = &[("recurrent", Kind::Recurrent), ("attention_model", Kind::AttentionModel)];

fn build(g: &mut Graph<'_>, a: &dyn Architecture, c: &Common) -> Built<()> {
    let mut symbol =
        |name: &str, max: i64| g.module.add_symbol(Symbol::new(name).expect("a letter is a valid symbol"), 1, max, 1);
    let (batch, points) = (symbol("B", MAX_BATCH), symbol("N", c.max_points));
    let (width, steps) = (symbol("W", MAX_WIDTH), symbol("T", c.max_points + 1));
    let rows = ("lengths", Type::new(ElemType::I64, [batch.clone()]));
    let coordinates = ("points", Type::new(ElemType::F32, [batch.clone(), points.clone(), Dim::from(c.input_size)]));
    let problem = |lengths| Problem {
        batch: batch.clone(),
        points: points.clone(),
        lengths,
        has_end: c.has_end,
        once: c.mask_visited,
    };
    let outputs = |[indices, length, log_probability]: [Value; 3]| {
        [("indices", indices), ("length", length), ("log_probability", log_probability)]
    };

    let declare = |g: &mut Graph<'_>, args: &[Value], others: &[Accepts]| {
        let all = std::iter::once(&Accepts::Finite).chain(others);
        args.iter().zip(all).for_each(|(arg, accepts)| g.module.accept(*arg, accepts.clone()));
    };
    let lengths = Accepts::Range { min: 1, max: points.clone(), filled: false };
    let last = points.clone() - Dim::from(i64::from(!c.has_end));
    let positions = Accepts::Range { min: 0, max: last, filled: true };

    let args = g.begin("forward", std::slice::from_ref(&coordinates));
    declare(g, &args, &[]);
    let whole = problem(None);
    let decoder = a.encode(g, args[0], &whole)?;
    let found = decode::greedy(g, decoder.as_ref(), &whole)?;
    g.end(&outputs(found));

    let args = g.begin("forward_padded", &[coordinates.clone(), rows.clone()]);
    declare(g, &args, std::slice::from_ref(&lengths));
    let padded = problem(Some(args[1]));
    let decoder = a.encode(g, args[0], &padded)?;
    let found = decode::greedy(g, decoder.as_ref(), &padded)?;
    g.end(&outputs(found));

    let beams = ("width", Type::new(ElemType::I8, [width.clone()]));
    let args = g.begin("beam", &[coordinates.clone(), rows.clone(), beams]);
    declare(g, &args, &[lengths.clone(), Accepts::Size]);
    let padded = problem(Some(args[1]));
    let decoder = a.encode(g, args[0], &padded)?;
    let found = decode::beam(g, decoder.as_ref(), &padded, &width)?;
    g.end(&outputs(found));

    let sequence = ("indices", Type::new(ElemType::I64, [batch.clone(), steps]));
    let args = g.begin("score", &[coordinates, rows, sequence]);
    declare(g, &args, &[lengths, positions]);
    let padded = problem(Some(args[1]));
    let decoder = a.encode(g, args[0], &padded)?;
    let log_probability = decode::score(g, decoder.as_ref(), &padded, args[2])?;
    g.end(&[("log_probability", log_probability)]);
    Ok(())
}
