//! The tables of a circuit: what an artifact stores of it, and what the kernels of this family walk.
//!
//! A value of a node stands in a *slot*. A *run* computes consecutive slots in one way, from slots of earlier runs. Runs
//! read positions from `index` and numbers from `number`, each from a place of its own on; all counts are in elements.
//!
//! | kind | of slot `to + i` | index | number |
//! |------|------------------|-------|--------|
//! | `Indicator` | 1 where variable `index[2i]` has the code `index[2i + 1]` | `2 count` | its value `[count]` |
//! | `Lookup` | product of entry `i` of the rows that the codes of `fan` variables select | `[fan, 2]`: variable, row of its code 0 | `[rows, pad(count)]` |
//! | `Gaussian` | `exp(log_peak - ((x - mean) inverse_deviation)^2 / 2)` of variable `index[i]` | `count` | `[count, 4]`: mean, inverse_deviation, log_peak, value if missing |
//! | `Interval` | 1 where the cell of variable `index[i]` is within `low..high` | `count` | `[count, 4]`: low, high, what draws add to low at most, value if missing |
//! | `Product` | product of `fan` slots | `[count, fan]` | - |
//! | `Sum` | weighted sum of `fan` slots | `[count, fan]` | `[count, fan]` |
//! | `Pairs` | weighted sum of products of two slots | `[count, fan, 2]` | `[count, fan]` |
//! | `Dense` | weighted sum of `fan` slots that all sums of the run share | `fan` | `[fan, count]` |
//! | `Columns` | product of the slots `index[j] + i` | `fan` | - |
//! | `Rescale` | none: the slots are divided by the power of two in the largest of them, which is kept for each row | - | - |
//!
//! Slot 0 holds 1. The code of a discrete cell is its value, or the number of values where it has another; of a real
//! cell with histograms it is the number of breaks up to it; of a missing cell it is one more than the largest of these.
//! What is known of the variables is stored field by field.

use kiln_ir::ElemType;

/// What a run does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum RunKind {
    Indicator,
    Lookup,
    Gaussian,
    Interval,
    Product,
    Sum,
    Pairs,
    Dense,
    Columns,
    Rescale,
}

/// See the text of this module.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Run {
    pub kind: RunKind,
    pub count: u32,
    pub fan: u32,
    pub to: u32,
    pub index: u32,
    pub number: u32,
    /// Whether it reads slots of the run before or writes over what that reads, as those with the same flag unset do not.
    pub waits: bool,
}

/// Numbers of an encoded [`Run`].
pub(super) const RUN_FIELDS: i64 = 8;

impl Run {
    pub fn encode(&self) -> [u32; RUN_FIELDS as usize] {
        [self.kind as u32, self.count, self.fan, self.to, self.index, self.number, self.waits.into(), 0]
    }
}

/// How the codes of a variable are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    /// The values from 0, this many. Cells between two values are the lower one, or none.
    Values { count: u32, rounded: bool },
    /// Breaks from `start` on.
    Breaks { start: u32, count: u32 },
}

/// Numbers of an encoded [`Coding`].
pub(super) const VARIABLE_FIELDS: i64 = 4;

impl Coding {
    /// The code of a missing cell.
    pub fn missing(self) -> u32 {
        match self {
            Coding::Values { count, .. } => count + 1,
            Coding::Breaks { count, .. } => count + 1,
        }
    }

    pub fn encode(self) -> [u32; VARIABLE_FIELDS as usize] {
        match self {
            Coding::Values { count, rounded } => [0, count, rounded.into(), self.missing()],
            Coding::Breaks { start, count } => [1, count, start, self.missing()],
        }
    }
}

/// Entries from one row of a lookup table to the next: pairs.
pub const fn pad(count: u32) -> u32 {
    count.next_multiple_of(2)
}

/// The first of the numbers: the smallest value of the root that is exact enough, and what is added to its logarithm.
pub const HEAD: u32 = 4;

/// The runs and positions of a program so short that the code of its nodes is written out.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Listing {
    pub runs: Vec<Run>,
    pub index: Vec<u32>,
}

/// How values stand in slots.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Space {
    /// As multiples of constants. A row whose root comes out below the first of the numbers is done again in logarithms.
    Linear,
    /// As natural logarithms, and so are the numbers.
    Log,
}

/// The sizes of a program's tables.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Shape {
    pub space: Space,
    /// The type of slots and numbers.
    pub value: ElemType,
    pub variables: i64,
    /// The number of values, where all variables have as many.
    pub values: Option<i64>,
    /// Whether cells between two values are the lower one, where all variables with values are alike in that.
    pub rounded: Option<bool>,
    pub slots: i64,
    /// The slot of the root.
    pub root: i64,
    pub runs: i64,
    /// The type of `index`: u16 or u32.
    pub index: ElemType,
    pub indices: i64,
    pub numbers: i64,
    pub breaks: i64,
    /// Whether the positions and the numbers of each run begin at multiples of 16 bytes.
    pub aligned: bool,
    /// The kinds of runs that there are.
    pub kinds: Vec<RunKind>,
    /// Rows at a time.
    pub block: i64,
    /// Whether the root's value can be too small.
    pub checked: bool,
}

impl Shape {
    pub(super) fn has(&self, kind: RunKind) -> bool {
        self.kinds.contains(&kind)
    }
}
