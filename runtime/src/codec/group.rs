//! A few rows at once, variable by variable: from values to intervals, and from a message to values.

use super::frequencies::{Alphabet, Scratch};
use super::ordered;
use super::rans::{self, Interval};
use super::sparse::{LANES, Lanes};
use super::{Evaluation, Model, unordered};

/// The state of either kind of evaluation.
enum State {
    Ordered(ordered::State),
    Unordered(unordered::State),
}

/// What coding works on.
pub(super) struct Worker {
    state: State,
    weights: Vec<Lanes>,
    scratch: Box<Scratch>,
    /// The variables in the order in which they are coded.
    order: Vec<u32>,
}

/// A value that has no interval.
pub(super) struct Misfit {
    pub(super) row: usize,
    pub(super) variable: u32,
}

impl Worker {
    pub(super) fn new(model: &Model) -> Worker {
        let (state, order) = match &model.evaluation {
            Evaluation::Ordered { program, .. } => (State::Ordered(program.start()), program.order().to_vec()),
            Evaluation::Unordered(graph) => {
                let order = (0..model.alphabets.len() as u32).collect();
                (State::Unordered(unordered::State::new(graph)), order)
            }
        };
        Worker { state, weights: vec![], scratch: Box::new([0; _]), order }
    }

    /// Appends the intervals of up to [`LANES`] rows of values, `[row, variable]`, and counts their content in bits.
    pub(super) fn encode(
        &mut self,
        model: &Model,
        rows: &[u32],
        intervals: &mut Vec<Interval>,
        content: &mut Content,
    ) -> Result<(), Misfit> {
        let variables = model.alphabets.len();
        let count = rows.len() / variables;
        self.begin();
        for step in 0..self.order.len() {
            let variable = self.order[step];
            let alphabet = &model.alphabets[variable as usize];
            let outer = enter(&mut self.state, model);
            alphabet.weigh(outer, &mut self.weights);
            let mut values = [0; LANES];
            for row in 0..count {
                let value = rows[row * variables + variable as usize];
                let symbol = alphabet.interval(outer, &self.weights, row, value, &mut self.scratch);
                let symbol = symbol.ok_or(Misfit { row, variable })?;
                values[row] = value;
                if alphabet.values() > 1 {
                    intervals.push(symbol.interval);
                    content.count(symbol.probability);
                }
            }
            self.observe(alphabet, model, &mut values, count);
        }
        Ok(())
    }

    /// Takes up to [`LANES`] rows of values out of a message; false if no row has these bits.
    pub(super) fn decode(&mut self, model: &Model, message: &mut rans::Decoder<'_>, rows: &mut [u32]) -> bool {
        let variables = model.alphabets.len();
        let count = rows.len() / variables;
        self.begin();
        for step in 0..self.order.len() {
            let variable = self.order[step];
            let alphabet = &model.alphabets[variable as usize];
            let outer = enter(&mut self.state, model);
            alphabet.weigh(outer, &mut self.weights);
            let mut values = [0; LANES];
            for (row, value) in values[..count].iter_mut().enumerate() {
                if alphabet.values() > 1 {
                    let point = message.point(alphabet.bits());
                    let found = alphabet.find(outer, &self.weights, row, point, &mut self.scratch);
                    let Some((found, interval)) = found else { return false };
                    if !message.advance(interval) {
                        return false;
                    }
                    *value = found;
                }
                rows[row * variables + variable as usize] = *value;
            }
            self.observe(alphabet, model, &mut values, count);
        }
        true
    }

    fn begin(&mut self) {
        match &mut self.state {
            State::Ordered(state) => state.begin(),
            State::Unordered(state) => state.begin(),
        }
    }

    /// Lanes without a row repeat the first, so that they hold numbers like any other.
    fn observe(&mut self, alphabet: &Alphabet, model: &Model, values: &mut [u32; LANES], count: usize) {
        let first = values[0];
        values[count..].fill(first);
        match (&mut self.state, &model.evaluation) {
            (State::Ordered(state), Evaluation::Ordered { program, .. }) => state.observe(program, alphabet, values),
            (State::Unordered(state), _) => state.observe(values),
            (State::Ordered(_), Evaluation::Unordered(_)) => {}
        }
    }
}

fn enter<'a>(state: &'a mut State, model: &Model) -> &'a [Lanes] {
    match (state, &model.evaluation) {
        (State::Ordered(state), Evaluation::Ordered { regions, program }) => state.enter(program, regions),
        (State::Unordered(state), Evaluation::Unordered(graph)) => state.enter(graph, &model.alphabets),
        // A worker is made for its model.
        _ => &[],
    }
}

/// The content of symbols in bits: the sum of their `-log2 p`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    bits: f64,
    /// Of the probabilities that are not yet in `bits`.
    product: f64,
}

impl Content {
    pub(super) fn new() -> Content {
        Content { bits: 0.0, product: 1.0 }
    }

    fn count(&mut self, probability: f64) {
        if probability < 1e-100 {
            self.bits -= probability.log2();
            return;
        }
        self.product *= probability;
        if self.product < 1e-150 {
            *self = Content { bits: self.bits(), product: 1.0 };
        }
    }

    pub(super) fn bits(&self) -> f64 {
        self.bits - self.product.log2()
    }
}
