//! The state of a walk through the tables: where things are, and rows of cells as codes.

use super::{
    Query, Spec,
    cuda::Team,
    emit::{Scratch, scratch},
    runs::Fields,
    table::{RunKind, Space},
};
use crate::{
    abi::Kernel,
    build::{Bool, Cmp, Elem, Ix, K, MAX_PARTS, Ptr, Ty, V},
    cpu::{Cpu, ONE_LANE},
    scalar::{functions, register},
    view::{Part, View, masks, transpose},
};
use kiln_ir::{ElemType, types::Kind};

/// How a walk holds and joins values.
pub(super) struct Walk<'s, 'k> {
    pub spec: &'s Spec,
    pub k: K<'k>,
    pub cpu: &'static Cpu,
    /// Rows at a time: one, or whole vectors.
    pub rows: i64,
    /// Values from a slot to the next, and the first row's place in a slot.
    pub pitch: i64,
    pub row: Ix<'k>,
    /// Whether results are stored: a team's rows beyond the last repeat it.
    pub inside: Bool<'k>,
    /// Who else walks through the same slots.
    pub team: Option<Team<'k>>,
    /// Of a vector of values, and vectors of a slot.
    pub lanes: u32,
    pub parts: u32,
    /// The type of a value in a slot.
    pub elem: Elem,
    /// Whether slots hold logarithms.
    pub log: bool,
    /// Whether sums, in logarithms, are their largest term.
    pub maximum: bool,
    /// Whether the numbers are logarithms.
    log_numbers: bool,
    pub places: Scratch,
    scratch: Ptr<'k>,
    /// By variable and row: codes as i32.
    pub codes: Ptr<'k>,
    x: View<'k>,
    mask: Option<View<'k>>,
    pub runs: Ptr<'k>,
    index: Ptr<'k>,
    number: Ptr<'k>,
    variables: Ptr<'k>,
    breaks: Ptr<'k>,
}

impl<'s, 'k> Walk<'s, 'k> {
    pub(super) fn new(spec: &'s Spec, kernel: &Kernel<'k>, cpu: &'static Cpu, rows: i64, space: Space) -> Self {
        let shape = &spec.shape;
        let log = space == Space::Log;
        // Logarithms of a program in plain numbers stand in for what f32 does not reach.
        let again = log && shape.space == Space::Linear;
        let elem = if again { Elem::F64 } else { register(shape.value) };
        // A value has so many parts at most.
        let fewest = rows as u32 / MAX_PARTS as u32;
        let lanes = if rows == 1 { 1 } else { cpu.lanes(elem.bits() / 8).max(fewest) };
        let table = |n: usize| kernel.buffer(spec.first_table() + n);
        Walk {
            spec,
            k: kernel.k,
            cpu,
            rows,
            pitch: rows,
            row: 0.into(),
            inside: true.into(),
            team: None,
            lanes,
            parts: rows as u32 / lanes,
            elem,
            log,
            maximum: false,
            log_numbers: shape.space == Space::Log,
            places: scratch(shape),
            scratch: kernel.scratch,
            codes: kernel.scratch.bytes(scratch(shape).codes),
            x: View::new(kernel, 0, &spec.x, cpu),
            mask: spec.mask.as_ref().map(|mask| View::new(kernel, 1, mask, cpu)),
            runs: table(0),
            index: table(1),
            number: table(2),
            variables: table(3),
            breaks: table(4),
        }
    }

    /// The walk of a thread, which has a row of its team's tile; the team's memory has these places.
    pub(super) fn with_team(
        spec: &'s Spec,
        kernel: &Kernel<'k>,
        team: Team<'k>,
        places: Scratch,
        space: Space,
    ) -> Self {
        let walk = Walk::new(spec, kernel, &ONE_LANE, 1, space);
        let codes = kernel.scratch.bytes(places.codes);
        Walk { pitch: team.tile, row: team.row, team: Some(team), codes, places, ..walk }
    }

    /// Which of many things are this walk's: the first from `from` on, and how far it is to the next.
    pub(super) fn share(&self, from: i64) -> (Ix<'k>, i64) {
        self.team.map_or((from.into(), 1), |team| (team.first() + from, team.warps))
    }

    /// The same for the nodes of a run. Which warp is the first differs from run to run, as many have few nodes.
    pub(super) fn share_of(&self, run: &Fields<'k>) -> (Ix<'k>, i64) {
        let (first, step) = self.share(0);
        (if step > 1 { (first + run.turn).rem(step) } else { first }, step)
    }

    /// Waits for the others that walk.
    pub(super) fn wait(&self) {
        if let Some(team) = self.team {
            team.wait();
        }
    }

    /// Runs what one of those that walk together does for all.
    pub(super) fn alone(&self, body: impl FnOnce()) {
        match self.team {
            Some(team) => self.k.if_(team.first().eq(0), body),
            None => body(),
        }
    }

    /// The type of a value of all rows.
    pub(super) fn ty(&self, elem: Elem) -> Ty {
        Ty::new(elem, self.lanes).times(self.parts)
    }

    /// A place in the scratch memory.
    pub(super) fn at(&self, place: i64) -> Ptr<'k> {
        self.scratch.bytes(place)
    }

    /// One value a row.
    pub(super) fn load_rows(&self, from: Ptr<'k>, elem: Elem) -> V<'k> {
        let part = |p: u32| from.offset(elem, (p * self.lanes) as i64).load(Ty::new(elem, self.lanes));
        V::join(&(0..self.parts).map(part).collect::<Vec<_>>())
    }

    pub(super) fn store_rows(&self, to: Ptr<'k>, value: V<'k>) {
        for (p, part) in value.split().into_iter().enumerate() {
            to.offset(value.ty.elem, (p as u32 * self.lanes) as i64).store(part);
        }
    }

    /// A scalar for every row.
    pub(super) fn wide(&self, scalar: V<'k>) -> V<'k> {
        V::join(&vec![scalar.broadcast(self.lanes); self.parts as usize])
    }

    /// What values have room for. Threads that do not wait for each other may be at it in f32 and in f64.
    fn unit(&self) -> Elem {
        let apart = self.team.is_some_and(|team| team.warps == 1) && self.spec.shape.checked;
        if apart { Elem::F64 } else { self.elem }
    }

    pub(super) fn slot_at(&self, slot: Ix<'k>) -> Ptr<'k> {
        self.at(self.places.values).offset(self.unit(), slot * self.pitch + self.row)
    }

    pub(super) fn slot(&self, slot: Ix<'k>) -> V<'k> {
        self.load_rows(self.slot_at(slot), self.elem)
    }

    pub(super) fn set_slot(&self, slot: Ix<'k>, value: V<'k>) {
        self.store_rows(self.slot_at(slot), value);
    }

    pub(super) fn scale(&self) -> Ptr<'k> {
        self.at(self.places.scale).offset(self.unit(), self.row)
    }

    /// A position from the tables.
    pub(super) fn index(&self, at: Ix<'k>) -> Ix<'k> {
        if let (Some(listing), Some(at)) = (&self.spec.listing, at.as_const()) {
            return Ix::Const(i64::from(listing.index[at as usize]));
        }
        let (from, elem) = self.index_at(at);
        from.load(Ty::new(elem, 1)).to_index(false)
    }

    /// Where a position stands, and its type.
    pub(super) fn index_at(&self, at: Ix<'k>) -> (Ptr<'k>, Elem) {
        let elem = register(self.spec.shape.index);
        (self.index.offset(elem, at), elem)
    }

    /// Where a number stands.
    pub(super) fn number_at(&self, at: Ix<'k>) -> Ptr<'k> {
        self.number.offset(self.stored(), at)
    }

    /// Numbers as they stand, from an address on.
    pub(super) fn numbers(&self, from: Ptr<'k>, lanes: u32) -> V<'k> {
        from.load(Ty::new(self.stored(), lanes)).float_to(self.elem)
    }

    /// Numbers that are values or weights, in the form of the slots.
    pub(super) fn values(&self, from: Ptr<'k>, lanes: u32) -> V<'k> {
        self.as_value(self.numbers(from, lanes))
    }

    /// A number that is a value or a weight, in the form of the slots.
    pub(super) fn as_value(&self, number: V<'k>) -> V<'k> {
        if self.log && !self.log_numbers { functions::log(number) } else { number }
    }

    /// A weight for every row.
    pub(super) fn weight(&self, at: Ix<'k>) -> V<'k> {
        self.wide(self.values(self.number_at(at), 1))
    }

    /// A number of the head.
    pub(super) fn head(&self, i: i64) -> V<'k> {
        self.numbers(self.number_at(i.into()), 1)
    }

    /// What stands for probability 0, and for 1.
    pub(super) fn zero(&self) -> V<'k> {
        let zero = if self.log { f64::NEG_INFINITY } else { 0.0 };
        self.k.float(self.ty(self.elem), zero)
    }

    pub(super) fn one(&self) -> V<'k> {
        self.k.float(self.ty(self.elem), if self.log { 0.0 } else { 1.0 })
    }

    /// The product of two values.
    pub(super) fn times(&self, a: V<'k>, b: V<'k>) -> V<'k> {
        if self.log { a + b } else { a * b }
    }

    fn variable(&self, var: Ix<'k>, field: i64) -> Ptr<'k> {
        self.variables.offset(Elem::I32, var + field * self.spec.shape.variables)
    }

    /// The code of a missing cell of a variable.
    pub(super) fn missing_code(&self, var: Ix<'k>) -> V<'k> {
        self.variable(var, 3).load(Ty::I32)
    }

    /// The code of a variable's cells that no input gives a positive value: none of its values, or not below the last
    /// of its breaks.
    pub(super) fn impossible_code(&self, var: Ix<'k>) -> V<'k> {
        self.variable(var, 1).load(Ty::I32)
    }

    pub(super) fn code_at(&self, var: Ix<'k>) -> Ptr<'k> {
        self.codes.offset(Elem::I32, var * self.pitch + self.row)
    }

    /// Whether the codes of a row stand side by side, instead of those of a variable.
    fn by_row(&self) -> bool {
        let shape = &self.spec.shape;
        let others = [RunKind::Indicator, RunKind::Gaussian, RunKind::Interval];
        let lookups = shape.breaks == 0 && !others.iter().any(|kind| shape.has(*kind));
        self.team.is_none() && lookups && self.x.elem.is_float() && self.x.strides[1].is(1) && self.mask.is_none()
    }

    /// The code of a cell.
    pub(super) fn code_of(&self, var: Ix<'k>, row: Ix<'k>) -> Ix<'k> {
        if self.by_row() {
            let at = row * self.spec.shape.variables + var;
            return self.codes.offset(Elem::I32, at).load(Ty::I32).to_index(false);
        }
        self.code_at(var).offset(Elem::I32, row).load(Ty::I32).to_index(false)
    }

    pub(super) fn cell_at(&self, var: Ix<'k>) -> Ptr<'k> {
        self.at(self.places.cells).offset(self.unit(), var * self.pitch + self.row)
    }

    /// Reads the cells of `count` rows from `first` on; rows beyond repeat the last. Returns where a cell is missing,
    /// if the query asks for that: of a team's walk, a cell that it has read.
    pub(super) fn read(&self, first: Ix<'k>, count: Ix<'k>) -> V<'k> {
        let k = self.k;
        if self.by_row() {
            return self.read_rows(first, count);
        }
        let rows: Vec<Ix<'k>> = (0..self.rows).map(|i| first + (count - 1).min(i)).collect();
        let starts: Vec<Ptr<'k>> = rows.iter().map(|row| self.x.at(&[*row])).collect();
        let mask_starts: Vec<Ptr<'k>> =
            self.mask.iter().flat_map(|mask| rows.iter().map(|row| mask.at(&[*row]))).collect();
        let none = k.int(self.ty(Elem::I1), 0);
        let variables = self.spec.shape.variables;
        let cell = |var: Ix<'k>, x: V<'k>, any: V<'k>| {
            let mut missing = if self.x.elem.is_float() { x.is_nan() } else { none };
            if let Some(mask) = &self.mask {
                missing = missing | self.column(mask, &mask_starts, var).cmp(Cmp::Eq, k.int(self.ty(Elem::I1), 0));
            }
            self.store_rows(self.code_at(var), self.code(x, missing, var));
            if self.spec.shape.has(RunKind::Gaussian) || self.spec.shape.has(RunKind::Interval) {
                let value = x.float_to(self.elem);
                self.store_rows(self.cell_at(var), missing.select(value.like(f64::NAN), value));
            }
            any | missing
        };
        // Searches are too long to be written out for each of several variables.
        let lanes = self.lanes as i64;
        let turns = lanes >= 4 && self.x.strides[1].is(1) && self.spec.shape.breaks == 0;
        let turned = if turns { variables / lanes * lanes } else { 0 };
        let any = k.for_carry(0, turned, lanes, &[none], |first, any| {
            let square = |rows: &[Ptr<'k>]| {
                let moves = self.x.moves(self.lanes);
                transpose(rows.iter().map(|row| moves.load(self.x.step(*row, first))).collect())
            };
            let squares: Vec<Vec<V<'k>>> = starts.chunks(lanes as usize).map(square).collect();
            let column = |i: usize| V::join(&squares.iter().map(|square| square[i]).collect::<Vec<_>>());
            vec![(0..lanes).fold(any[0], |any, i| cell(first + i, column(i as usize), any))]
        });
        let (from, step) = self.share(turned);
        k.for_carry(from, variables, step, &any, |var, any| vec![cell(var, self.column(&self.x, &starts, var), any[0])])
            [0]
    }

    /// [`Walk::read`] of discrete variables in floats, a vector of a row at a time.
    fn read_rows(&self, first: Ix<'k>, count: Ix<'k>) -> V<'k> {
        let (k, shape) = (self.k, &self.spec.shape);
        let variables = shape.variables;
        let lanes = self.cpu.lanes(self.x.elem.bytes().max(4) as u32);
        let none = k.int(self.ty(Elem::I1), 0);
        // All cells are alike, and nobody asks which are missing.
        let cells = self.rows * variables;
        let asked = matches!(self.spec.query, Query::Evidence { incomplete: true, .. });
        let alike = shape.values.is_some()
            && shape.rounded.is_some()
            && self.x.strides[0].is(variables)
            && cells % lanes as i64 == 0;
        if !alike || asked {
            return self.read_each(first, count, lanes);
        }
        let flat = || {
            let from = self.x.at(&[first]);
            k.for_(0, cells, lanes as i64, |at| {
                let part = Part::All(lanes);
                let x = self.x.load(self.x.step(from, at), 1.into(), part);
                let limit = self.limit(0.into(), part);
                let code = self.value_code(x, limit, self.rounded(0.into(), part));
                let code = x.is_nan().select(limit + 1.0, code);
                self.codes.offset(Elem::I32, at).store(code);
            });
            vec![none]
        };
        k.if_else(count.eq(self.rows), flat, || vec![self.read_each(first, count, lanes)])[0]
    }

    /// The numbers of values of variables from `var` on.
    fn limit(&self, var: Ix<'k>, part: Part<'k>) -> V<'k> {
        match self.spec.shape.values {
            Some(values) => self.k.int(Ty::new(Elem::I32, part.lanes()), values),
            None => ints(self.variable(var, 1), part),
        }
    }

    /// Whether variables from `var` on, which have values, take a cell between two of them as the lower one.
    fn rounded(&self, var: Ix<'k>, part: Part<'k>) -> V<'k> {
        match self.spec.shape.rounded {
            Some(rounded) => self.k.int(Ty::new(Elem::I1, part.lanes()), rounded.into()),
            None => {
                let rounded = ints(self.variable(var, 2), part);
                rounded.cmp(Cmp::Ne, rounded.like(0.0))
            }
        }
    }

    fn read_each(&self, first: Ix<'k>, count: Ix<'k>, lanes: u32) -> V<'k> {
        let k = self.k;
        let variables = self.spec.shape.variables;
        let masked = masks(self.cpu, [self.x.elem, ElemType::I32]);
        let missing_at = self.at(self.places.missing);
        k.for_(0, self.rows, 1, |row| {
            let cells = self.x.at(&[first + row.min(count - 1)]);
            let part = |var: Ix<'k>, part: Part<'k>| {
                let x = self.x.load(self.x.step(cells, var), 1.into(), part);
                let limit = self.limit(var, part);
                let missing = x.is_nan();
                let code = self.value_code(x, limit, self.rounded(var, part));
                let code = missing.select(limit + 1.0, code);
                let to = self.codes.offset(Elem::I32, row * variables + var);
                match part {
                    Part::All(_) => to.store(code),
                    Part::Masked(_, mask) => to.store_masked(code, mask),
                }
                missing
            };
            let none = k.int(Ty::new(Elem::I1, lanes), 0);
            let whole = variables / lanes as i64 * lanes as i64;
            let many = |var: Ix<'k>, any: &[V<'k>]| vec![any[0] | part(var, Part::All(lanes))];
            let mut any = k.for_carry(0, whole, lanes as i64, &[none], many)[0];
            let rest = variables - whole;
            if masked && rest > 0 {
                let mask = k.first_lanes(lanes, rest);
                any = any | part(whole.into(), Part::Masked(lanes, mask)) & mask;
            }
            let single = |var: Ix<'k>, any: &[V<'k>]| vec![any[0] | part(var, Part::All(1))];
            let from = if masked { variables } else { whole };
            let any = k.for_carry(from, variables, 1, &[any.any()], single)[0];
            missing_at.offset(Elem::I32, row).store(any.int_to(Elem::I32, false));
        });
        let missing = self.load_rows(missing_at, Elem::I32);
        missing.cmp(Cmp::Ne, missing.like(0.0))
    }

    /// Whether a cell of `count` rows from `first` on is missing.
    pub(super) fn any_missing(&self, first: Ix<'k>, count: Ix<'k>) -> V<'k> {
        let k = self.k;
        let lanes = if self.x.strides[1].is(1) && self.mask.is_none() { self.row_lanes() } else { 1 };
        let none = |lanes: u32| k.int(Ty::new(Elem::I1, lanes), 0);
        let whole = self.spec.shape.variables / lanes as i64 * lanes as i64;
        let missing = |row: Ix<'k>, var: Ix<'k>, lanes: u32| {
            let x = self.x.moves(lanes).load(self.x.at(&[row, var]));
            let missing = if self.x.elem.is_float() { x.is_nan() } else { none(lanes) };
            match &self.mask {
                Some(mask) => missing | mask.moves(lanes).load(mask.at(&[row, var])).cmp(Cmp::Eq, none(lanes)),
                None => missing,
            }
        };
        k.for_carry(0, count, 1, &[none(1)], |row, any| {
            let row = first + row;
            let many = |var: Ix<'k>, any: &[V<'k>]| vec![any[0] | missing(row, var, lanes)];
            let vectors = k.for_carry(0, whole, lanes as i64, &[none(lanes)], many)[0].any();
            let single = |var: Ix<'k>, any: &[V<'k>]| vec![any[0] | missing(row, var, 1)];
            k.for_carry(whole, self.spec.shape.variables, 1, &[any[0] | vectors], single)
        })[0]
    }

    /// The cells of a variable, one by one.
    fn column(&self, view: &View<'k>, starts: &[Ptr<'k>], var: Ix<'k>) -> V<'k> {
        let moves = view.moves(self.lanes);
        let memory = moves.memory();
        let (one, k) = (Ty::new(memory.elem, 1), self.k);
        let part = |rows: &[Ptr<'k>]| {
            let cell = |row: &Ptr<'k>| view.step(*row, var * view.strides[1]).load(one);
            if let [row] = rows {
                return moves.from_memory(cell(row));
            }
            let poison = k.op1("llvm.mlir.poison", &[], memory, &[]);
            let insert = |v: V<'k>, (i, row): (usize, &Ptr<'k>)| {
                k.op1("llvm.insertelement", &[v, cell(row), k.int(Ty::I32, i as i64)], memory, &[])
            };
            moves.from_memory(rows.iter().enumerate().fold(poison, insert))
        };
        V::join(&starts.chunks(self.lanes as usize).map(part).collect::<Vec<_>>())
    }

    /// Codes of the cells of a variable.
    fn code(&self, x: V<'k>, missing: V<'k>, var: Ix<'k>) -> V<'k> {
        let k = self.k;
        let count = self.variable(var, 1).load(Ty::I32);
        let of_missing = self.wide(self.missing_code(var));
        let rounded = || self.wide(self.rounded(var, Part::All(1)));
        let values = || vec![self.value_code(x, self.wide(count), rounded())];
        let breaks = || {
            let start = self.variable(var, 2).load(Ty::I32).to_index(false);
            let x = if self.x.elem.is_float() {
                x.float_to(Elem::F64)
            } else {
                x.int_to_float(Elem::F64, self.x.elem.kind() == Kind::Signed)
            };
            let zero = k.int(self.ty(Elem::I32), 0);
            let end = count.to_index(false);
            k.for_carry(0, end, 1, &[zero], |i, passed| {
                let at = self.wide(self.breaks.offset(Elem::F64, start + i).load(Ty::new(Elem::F64, 1)));
                vec![passed[0] + at.cmp(Cmp::Le, x).int_to(Elem::I32, false)]
            })
        };
        let code = if self.spec.shape.breaks > 0 {
            let searched = self.variable(var, 0).load(Ty::I32);
            k.if_else(searched.cmp(Cmp::Eq, searched.like(0.0)), values, breaks)[0]
        } else {
            values()[0]
        };
        missing.select(of_missing, code)
    }

    /// Codes of cells that are not missing, of a variable with `limit` values; `limit` itself for what is none of them.
    fn value_code(&self, x: V<'k>, limit: V<'k>, rounded: V<'k>) -> V<'k> {
        let (inside, value) = if self.x.elem.is_float() {
            let floor = x.intrinsic("floor");
            let within = floor.cmp(Cmp::Ge, x.like(0.0)) & floor.cmp(Cmp::Lt, limit.int_to_float(x.ty.elem, true));
            let inside = within & (rounded | floor.cmp(Cmp::Eq, x));
            (inside, inside.select(floor, x.like(0.0)).float_to_int(Elem::I32))
        } else {
            let wide = x.int_to(Elem::I64, self.x.elem.kind() == Kind::Signed);
            (wide.cmp(Cmp::Ult, limit.int_to(Elem::I64, false)), wide.int_to(Elem::I32, false))
        };
        inside.select(value, limit)
    }

    /// The type of the numbers.
    pub(super) fn stored(&self) -> Elem {
        register(self.spec.shape.value)
    }

    /// Copies the cells of a row.
    pub(super) fn copy_cells(&self, to: &View<'k>, row: Ix<'k>) {
        let (from, step) = self.share(0);
        self.k.for_(from, self.spec.shape.variables, step, |var| {
            let x = self.x.moves(1).load(self.x.at(&[row, var]));
            let value = match (self.x.elem.is_float(), to.elem.is_float()) {
                (true, true) => x.float_to(register(to.elem)),
                (false, true) => x.int_to_float(register(to.elem), self.x.elem.kind() == Kind::Signed),
                // States have the type of the cells.
                _ => x,
            };
            self.k.if_(self.inside, || to.moves(1).store(to.at(&[row, var]), value));
        });
    }
}

/// Integers from an address on.
fn ints<'k>(from: Ptr<'k>, part: Part<'k>) -> V<'k> {
    let ty = Ty::new(Elem::I32, part.lanes());
    match part {
        Part::All(_) => from.load(ty),
        Part::Masked(_, mask) => from.load_masked(ty, mask),
    }
}
