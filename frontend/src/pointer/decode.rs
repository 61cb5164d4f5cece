//! Decoding loops over any decoder: greedy, beam search, and the probability of a given sequence.
//!
//! A *lane* is one sequence under construction: a row of the batch, or one of its beams. Values of lanes are `[B,..]` or
//! `[B,W,..]`. Candidates are the points and, where the model has an end symbol, position `length` behind them.

use crate::graph::{Built, Graph};
use kiln_ir::{Dim, ElemType, Op, Value};

/// One step of a decoder. What is carried from step to step are values `[lanes..,X]`.
pub(super) trait Decoder {
    /// What is carried into the first step, for lanes `[B]`.
    fn start(&self, g: &mut Graph<'_>) -> Built<Vec<Value>>;

    /// The scores of the candidates `[lanes..,C]`, not masked yet, and the state behind the step. `mask` `[lanes..,C]`
    /// (or of size 1 along the beams) is true for candidates that must not be picked.
    fn scores(&self, g: &mut Graph<'_>, state: &[Value], mask: Option<Value>) -> Built<(Value, Vec<Value>)>;

    /// The state for the next step, now that in step `step` `i64[B]` the points `pick` `i64[lanes..]` were picked.
    fn advance(&self, g: &mut Graph<'_>, state: Vec<Value>, pick: Value, step: Value) -> Built<Vec<Value>>;
}

/// The problem at hand: what may be picked, and for how long.
pub(super) struct Problem {
    pub(super) batch: Dim,
    /// Size of the axis of the points.
    pub(super) points: Dim,
    /// How many points each row has, if that is not all.
    pub(super) lengths: Option<Value>,
    /// Whether candidate `length` ends a sequence.
    pub(super) has_end: bool,
    /// Whether a point may be picked once only.
    pub(super) once: bool,
}

impl Problem {
    pub(super) fn candidates(&self) -> Dim {
        self.points.clone() + Dim::from(i64::from(self.has_end))
    }

    /// The largest position that may be picked, `[]` or `[B]`: that of the end symbol or of the last point.
    fn last(&self, g: &mut Graph<'_>, has_end: bool) -> Built {
        match self.lengths {
            Some(lengths) if has_end => Ok(lengths),
            Some(lengths) => {
                let one = g.integer(1);
                g.op(Op::Sub, [lengths, one], [])
            }
            None => {
                let size = self.points.clone() + Dim::from(i64::from(has_end));
                let positions = g.positions([size], 0)?;
                g.reduce(positions, "max", 0, false)
            }
        }
    }

    /// `i1[B,C]`: candidates beyond those of a shorter row.
    pub(super) fn outside(&self, g: &mut Graph<'_>) -> Built<Option<Value>> {
        let Some(lengths) = self.lengths else { return Ok(None) };
        let positions = g.positions([1.into(), self.candidates()], 1)?;
        let lengths = g.reshape(lengths, [self.batch.clone(), 1.into()])?;
        g.compare(positions, if self.has_end { "gt" } else { "ge" }, lengths).map(Some)
    }

    /// The mask before the first step, `i1[B,C]`.
    fn mask(&self, g: &mut Graph<'_>) -> Built<Option<Value>> {
        match self.outside(g)? {
            None if self.once => g.filled(ElemType::I1, 0.0, [self.batch.clone(), self.candidates()]).map(Some),
            outside => Ok(outside),
        }
    }
}

/// Values that a loop carries, by what they are.
struct Lanes {
    state: Vec<Value>,
    /// `[lanes..,C]`
    mask: Option<Value>,
    /// `f32[lanes..]`
    log_probability: Value,
}

impl Lanes {
    fn list(&self, p: &Problem) -> Vec<Value> {
        let mask = self.mask.filter(|_| p.once);
        self.state.iter().copied().chain(mask).chain([self.log_probability]).collect()
    }

    /// The lanes that stand first in `values`, in the order of [`Lanes::list`], and the rest. A mask that does not change
    /// is not carried.
    fn from<'v>(&self, p: &Problem, values: &'v [Value]) -> (Lanes, &'v [Value]) {
        let (state, rest) = values.split_at(self.state.len());
        let (mask, rest) = if p.once { (Some(rest[0]), &rest[1..]) } else { (self.mask, rest) };
        (Lanes { state: state.to_vec(), mask, log_probability: rest[0] }, &rest[1..])
    }
}

fn minus_infinity(g: &mut Graph<'_>) -> Value {
    g.number(f64::NEG_INFINITY)
}

/// Scores with those of masked candidates at minus infinity, and the state behind the step.
fn masked_scores(g: &mut Graph<'_>, d: &dyn Decoder, lanes: &Lanes) -> Built<(Value, Vec<Value>)> {
    let (scores, state) = d.scores(g, &lanes.state, lanes.mask)?;
    g.at("decode.mask");
    let scores = match lanes.mask {
        Some(mask) => {
            let never = minus_infinity(g);
            g.select(mask, never, scores)?
        }
        None => scores,
    };
    Ok((scores, state))
}

fn log_softmax(g: &mut Graph<'_>, scores: Value) -> Built {
    g.at("decode.log_softmax");
    g.op(Op::LogSoftmax, [scores], [("axis", (-1).into())])
}

/// The state and the mask behind a step in which `pick` `[lanes..]` was picked.
fn feed(
    g: &mut Graph<'_>,
    d: &dyn Decoder,
    p: &Problem,
    lanes: Lanes,
    pick: Value,
    step: Value,
    last_point: Option<Value>,
) -> Built<Lanes> {
    g.at("decode.feed");
    let point = match last_point {
        Some(last) => g.op(Op::Min, [pick, last], [])?,
        None => pick,
    };
    let state = d.advance(g, lanes.state, point, step)?;
    g.at("decode.mask");
    let mask = match lanes.mask.filter(|_| p.once) {
        Some(mask) => {
            let mut dims = g.dims(pick);
            let candidates = vec![Dim::from(1); dims.len()];
            dims.push(1.into());
            let pick = g.reshape(pick, dims)?;
            let positions = g.positions([candidates, vec![p.candidates()]].concat(), g.dims(pick).len() - 1)?;
            let picked = g.compare(positions, "eq", pick)?;
            Some(g.op(Op::Or, [mask, picked], [])?)
        }
        None => lanes.mask,
    };
    Ok(Lanes { state, mask, ..lanes })
}

/// How many of `indices` are not filler, along the last axis.
fn count(g: &mut Graph<'_>, indices: Value) -> Built {
    g.at("decode.length");
    let zero = g.integer(0);
    let real = g.compare(indices, "ge", zero)?;
    let real = g.op(Op::Convert, [real], [("to", ElemType::I64.into())])?;
    g.reduce(real, "sum", -1, false)
}

/// Lanes `[B]` before the first step.
fn begin(g: &mut Graph<'_>, d: &dyn Decoder, p: &Problem) -> Built<Lanes> {
    let state = d.start(g)?;
    g.at("decode");
    let mask = p.mask(g)?;
    Ok(Lanes { state, mask, log_probability: g.filled(ElemType::F32, 0.0, [p.batch.clone()])? })
}

/// The best candidate of each row, and the lanes with its probability.
fn best(g: &mut Graph<'_>, d: &dyn Decoder, lanes: Lanes) -> Built<(Value, Lanes)> {
    let (scores, state) = masked_scores(g, d, &lanes)?;
    g.at("decode.argmax");
    let pick = g.op(Op::Argmax, [scores], [("axis", (-1).into()), ("keep", false.into())])?;
    let all = log_softmax(g, scores)?;
    let of_pick = g.reduce(all, "max", -1, false)?;
    let log_probability = g.op(Op::Add, [lanes.log_probability, of_pick], [])?;
    Ok((pick, Lanes { state, log_probability, ..lanes }))
}

/// Picks the best candidate in every step: `indices` `i64[B,C]` filled with -1, `length` `i64[B]` and `log_probability`
/// `f32[B]`.
pub(super) fn greedy(g: &mut Graph<'_>, d: &dyn Decoder, p: &Problem) -> Built<[Value; 3]> {
    let start = begin(g, d, p)?;
    let (indices, log_probability) =
        if p.has_end { greedy_until_end(g, d, p, &start)? } else { greedy_all(g, d, p, &start)? };
    Ok([indices, count(g, indices)?, log_probability])
}

/// A step for every point.
fn greedy_all(g: &mut Graph<'_>, d: &dyn Decoder, p: &Problem, start: &Lanes) -> Built<(Value, Value)> {
    let to = [p.batch.clone(), p.points.clone()];
    let steps = g.positions(to, 1)?;
    let done = g.scan(p.lengths, &[steps], &start.list(p), false, |g, slices, carried| {
        let (lanes, _) = start.from(p, carried);
        let (pick, lanes) = best(g, d, lanes)?;
        let lanes = feed(g, d, p, lanes, pick, slices[0], None)?;
        Ok((lanes.list(p), vec![pick]))
    })?;
    let (lanes, picks) = start.from(p, &done);
    g.at("decode");
    let indices = match p.outside(g)? {
        Some(outside) => {
            let filler = g.integer(-1);
            g.select(outside, filler, picks[0])?
        }
        None => picks[0],
    };
    Ok((indices, lanes.log_probability))
}

/// Steps until each row has picked the end symbol, or for as many as there are candidates.
fn greedy_until_end(g: &mut Graph<'_>, d: &dyn Decoder, p: &Problem, start: &Lanes) -> Built<(Value, Value)> {
    let (rows, candidates) = ([p.batch.clone()], p.candidates());
    let (end, last_point) = (p.last(g, true)?, p.last(g, false)?);
    let step = g.filled(ElemType::I64, 0.0, rows.clone())?;
    let ended = g.filled(ElemType::I1, 0.0, rows.clone())?;
    let indices = g.filled(ElemType::I64, -1.0, [p.batch.clone(), candidates.clone()])?;
    let inits = [start.list(p), vec![step, ended, indices]].concat();
    let goes_on = |g: &mut Graph<'_>, carried: &[Value]| {
        g.at("decode.condition");
        let (_, rest) = start.from(p, carried);
        let open = g.op(Op::Not, [rest[1]], [])?;
        let within = g.compare(rest[0], "le", end)?;
        g.op(Op::And, [open, within], [])
    };
    let done = g.while_rows(&inits, &candidates, goes_on, |g, carried| {
        let (lanes, rest) = start.from(p, carried);
        let [step, _, indices] = rest[..] else { return Ok(vec![]) };
        let (pick, lanes) = best(g, d, lanes)?;
        let lanes = feed(g, d, p, lanes, pick, step, Some(last_point))?;
        g.at("decode");
        let ended = g.compare(pick, "eq", end)?;
        let positions = g.positions([1.into(), candidates.clone()], 1)?;
        let column = |g: &mut Graph<'_>, v| g.reshape(v, [p.batch.clone(), 1.into()]);
        let (at, new) = (column(g, step)?, column(g, pick)?);
        let here = g.compare(positions, "eq", at)?;
        let indices = g.select(here, new, indices)?;
        let one = g.integer(1);
        let step = g.op(Op::Add, [step, one], [])?;
        Ok([lanes.list(p), vec![step, ended, indices]].concat())
    })?;
    let (lanes, rest) = start.from(p, &done);
    Ok((rest[2], lanes.log_probability))
}

/// The log-probability `f32[B]` of `indices` `i64[B,T]`, whose negative elements are filler.
pub(super) fn score(g: &mut Graph<'_>, d: &dyn Decoder, p: &Problem, indices: Value) -> Built {
    let start = begin(g, d, p)?;
    let last_point = p.last(g, false)?;
    let last = p.last(g, p.has_end)?;
    let end = p.has_end.then_some(last);
    let steps = g.positions(g.dims(indices), 1)?;
    let ended = g.filled(ElemType::I1, 0.0, [p.batch.clone()])?;
    let inits = [start.list(p), end.map(|_| ended).into_iter().collect()].concat();
    let done = g.scan(None, &[indices, steps], &inits, false, |g, slices, carried| {
        let (lanes, rest) = start.from(p, carried);
        let (scores, state) = masked_scores(g, d, &lanes)?;
        let all = log_softmax(g, scores)?;
        g.at("indices");
        let (zero, never) = (g.integer(0), minus_infinity(g));
        let real = g.compare(slices[0], "ge", zero)?;
        let pick = g.op(Op::Max, [slices[0], zero], [])?;
        let mut of_pick = g.pick(all, pick)?;
        // Where everything is masked, the softmax is of nothing.
        if let Some(mask) = lanes.mask {
            let masked = g.pick(mask, pick)?;
            of_pick = g.select(masked, never, of_pick)?;
        }
        if let [ended] = rest {
            of_pick = g.select(*ended, never, of_pick)?;
        }
        // A sequence has no more positions than candidates; where each is picked once only, the mask says so.
        if !p.once {
            let beyond = g.compare(slices[1], "gt", last)?;
            of_pick = g.select(beyond, never, of_pick)?;
        }
        let nothing = g.number(0.0);
        let of_pick = g.select(real, of_pick, nothing)?;
        let log_probability = g.op(Op::Add, [lanes.log_probability, of_pick], [])?;
        let lanes = Lanes { state, log_probability, ..lanes };
        let lanes = feed(g, d, p, lanes, pick, slices[1], Some(last_point))?;
        let mut next = lanes.list(p);
        if let ([ended], Some(end)) = (rest, end) {
            let ends = g.compare(slices[0], "eq", end)?;
            next.push(g.op(Op::Or, [*ended, ends], [])?);
        }
        Ok((next, vec![]))
    })?;
    let (lanes, _) = start.from(p, &done);
    Ok(lanes.log_probability)
}

/// Keeps the `width` likeliest beginnings in every step: `indices` `i64[B,W,C]` filled with -1, `length` `i64[B,W]` and
/// `log_probability` `f32[B,W]`, the likeliest first. Where there are fewer sequences than beams, the log-probability of
/// the others is minus infinity and their length 0.
pub(super) fn beam(g: &mut Graph<'_>, d: &dyn Decoder, p: &Problem, width: &Dim) -> Built<[Value; 3]> {
    let start = begin(g, d, p)?;
    let (batch, candidates) = (p.batch.clone(), p.candidates());
    let lanes = || vec![batch.clone(), width.clone()];
    let repeat = |g: &mut Graph<'_>, v: Value| {
        let last = g.dims(v)[1].clone();
        let apart = g.reshape(v, [batch.clone(), 1.into(), last.clone()])?;
        g.broadcast(apart, [batch.clone(), width.clone(), last])
    };
    let mut state = vec![];
    for v in &start.state {
        state.push(repeat(g, *v)?);
    }
    let mask = match start.mask {
        Some(mask) if p.once => Some(repeat(g, mask)?),
        Some(mask) => Some(g.reshape(mask, [batch.clone(), 1.into(), candidates.clone()])?),
        None => None,
    };
    let beams = g.positions(lanes(), 1)?;
    let (zero, never) = (g.integer(0), minus_infinity(g));
    let first = g.compare(beams, "eq", zero)?;
    let certain = g.number(0.0);
    let start = Lanes { state, mask, log_probability: g.select(first, certain, never)? };
    let step = g.filled(ElemType::I64, 0.0, [batch.clone()])?;
    let ended = g.filled(ElemType::I1, 0.0, lanes())?;
    let indices = g.filled(ElemType::I64, -1.0, [lanes(), vec![candidates.clone()]].concat())?;
    let (end, last_point) = (p.last(g, true)?, p.last(g, false)?);
    let search = Search { decoder: d, problem: p, width, start: &start, end, last_point };
    let inits = [start.list(p), vec![ended, indices]].concat();
    let done = if p.has_end {
        let goes_on = |g: &mut Graph<'_>, carried: &[Value]| {
            g.at("decode.condition");
            let (_, rest) = start.from(p, carried);
            let open = g.op(Op::Not, [rest[0]], [])?;
            let open = g.reduce(open, "max", 1, false)?;
            let within = g.compare(rest[2], "le", end)?;
            g.op(Op::And, [open, within], [])
        };
        g.while_rows(&[inits, vec![step]].concat(), &candidates, goes_on, |g, carried| {
            let (step, carried) = carried.split_last().ok_or(kiln_ir::Violation::new("C2", "nothing is carried"))?;
            let mut next = search.step(g, carried, *step)?;
            let one = g.integer(1);
            next.push(g.op(Op::Add, [*step, one], [])?);
            Ok(next)
        })?
    } else {
        let steps = g.positions([batch.clone(), p.points.clone()], 1)?;
        g.scan(p.lengths, &[steps], &inits, false, |g, slices, carried| {
            Ok((search.step(g, carried, slices[0])?, vec![]))
        })?
    };
    let (result, rest) = start.from(p, &done);
    g.at("decode");
    // Not `gt`: NaN says that the input was not a number, not that there is no such beam.
    let exists = g.compare(result.log_probability, "ne", never)?;
    let exists = g.reshape(exists, [lanes(), vec![1.into()]].concat())?;
    let filler = g.integer(-1);
    let indices = g.select(exists, rest[1], filler)?;
    Ok([indices, count(g, indices)?, result.log_probability])
}

/// A beam search, seen from its loop.
struct Search<'a> {
    decoder: &'a dyn Decoder,
    problem: &'a Problem,
    width: &'a Dim,
    start: &'a Lanes,
    end: Value,
    last_point: Value,
}

impl Search<'_> {
    /// From lanes, `ended` and `indices` to those behind the step.
    fn step(&self, g: &mut Graph<'_>, carried: &[Value], step: Value) -> Built<Vec<Value>> {
        let (p, width, candidates) = (self.problem, self.width, self.problem.candidates());
        let (lanes, rest) = self.start.from(p, carried);
        let (ended, indices) = (rest[0], rest[1]);
        let each = [p.batch.clone(), width.clone(), 1.into()];
        let (scores, state) = masked_scores(g, self.decoder, &lanes)?;
        let all = log_softmax(g, scores)?;
        g.at("decode.beam");
        let never = minus_infinity(g);
        let so_far = g.reshape(lanes.log_probability, each.clone())?;
        let mut total = g.op(Op::Add, [so_far, all], [])?;
        if let Some(mask) = lanes.mask {
            total = g.select(mask, never, total)?;
        }
        if p.has_end {
            // A sequence that has ended goes on as itself, in one candidate.
            let positions = g.positions([1.into(), 1.into(), candidates.clone()], 2)?;
            let zero = g.integer(0);
            let itself = g.compare(positions, "eq", zero)?;
            let kept = g.select(itself, so_far, never)?;
            let over = g.reshape(ended, each.clone())?;
            total = g.select(over, kept, total)?;
        }
        let choices = width.clone() * candidates.clone();
        let total = g.reshape(total, [p.batch.clone(), choices.clone()])?;
        let best =
            g.nodes(Op::Topk, vec![Some(total)], [("axis", 1.into()), ("k", width.clone().into())].into(), vec![])?;
        let of = |g: &mut Graph<'_>, axis: usize| {
            let table = g.positions([width.clone(), candidates.clone()], axis)?;
            let table = g.reshape(table, [choices.clone()])?;
            g.op(Op::Gather, [table, best[1]], [("axis", 0.into())])
        };
        let (from, pick) = (of(g, 0)?, of(g, 1)?);
        let mut reordered = vec![];
        for v in &state {
            reordered.push(g.pick(*v, from)?);
        }
        let mask = match lanes.mask {
            Some(mask) if p.once => Some(g.pick(mask, from)?),
            mask => mask,
        };
        let (ended, indices) = (g.pick(ended, from)?, g.pick(indices, from)?);
        let open = g.op(Op::Not, [ended], [])?;
        let steps = vec![p.batch.clone(), 1.into(), 1.into()];
        let (at, open, new) = (g.reshape(step, steps)?, g.reshape(open, each.clone())?, g.reshape(pick, each.clone())?);
        let positions = g.positions([1.into(), 1.into(), candidates.clone()], 2)?;
        let here = g.compare(positions, "eq", at)?;
        let here = g.op(Op::And, [here, open], [])?;
        let indices = g.select(here, new, indices)?;
        let per_row = |g: &mut Graph<'_>, v: Value| {
            if g.dims(v).is_empty() { Ok(v) } else { g.reshape(v, [p.batch.clone(), 1.into()]) }
        };
        let ended = if p.has_end {
            let end = per_row(g, self.end)?;
            let ends = g.compare(pick, "eq", end)?;
            g.op(Op::Or, [ended, ends], [])?
        } else {
            ended
        };
        let lanes = Lanes { state: reordered, mask, log_probability: best[0] };
        // Beams that do not exist pick what their row does not have.
        let last_point = per_row(g, self.last_point)?;
        let lanes = feed(g, self.decoder, p, lanes, pick, step, Some(last_point))?;
        Ok([lanes.list(p), vec![ended, indices]].concat())
    }
}
