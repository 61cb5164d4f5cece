//! How tiles of keys are shared out: arithmetic on sizes, which folds where they are known and is code elsewhere.
//!
//! An output tile is a run of queries of a key head of a sequence. Its tiles of keys, and those of all output tiles one
//! after the other, are a list that is cut into runs.

use crate::build::{Bool, Ix};

/// A list of `tiles` tiles, cut into as many runs as there are workers, of which no two differ by more than one tile in
/// length. The longer ones come first.
#[derive(Clone, Copy)]
pub struct Runs<'k> {
    pub tiles: Ix<'k>,
    /// At least one.
    pub workers: Ix<'k>,
}

impl<'k> Runs<'k> {
    /// The length of the shorter runs, and how many longer ones there are.
    fn lengths(&self) -> (Ix<'k>, Ix<'k>) {
        (self.tiles.div(self.workers), self.tiles.rem(self.workers))
    }

    /// The first tile of a worker's run and the one behind its last.
    pub fn of(&self, worker: Ix<'k>) -> (Ix<'k>, Ix<'k>) {
        let (short, longer) = self.lengths();
        let first = worker * short + worker.min(longer);
        (first, first + short + worker.lt(longer).choose(1, 0))
    }

    /// The worker whose run has a tile of the list.
    pub fn owner(&self, tile: Ix<'k>) -> Ix<'k> {
        let (short, longer) = self.lengths();
        let behind = longer * (short + 1);
        let later = (tile - behind).max(0).div(short.max(1)) + longer;
        tile.lt(behind).choose(tile.div(short + 1), later)
    }
}

/// Tiles of keys of an output tile over so many keys. One of none has a tile, so that somebody writes its result.
pub fn tiles(keys: Ix<'_>, tile: i64) -> Ix<'_> {
    keys.ceil_div(tile).max(1)
}

/// What a worker does of an output tile: its tiles of keys `first..end`.
#[derive(Clone, Copy)]
pub struct Segment<'k> {
    pub first: Ix<'k>,
    pub end: Ix<'k>,
}

/// The workers that have parts of an output tile, in the order of its keys: this many from `leader` on.
#[derive(Clone, Copy)]
pub struct Sharers<'k> {
    pub leader: Ix<'k>,
    pub count: Ix<'k>,
}

impl<'k> Runs<'k> {
    /// Those of the output tile that begins at `start` of the list and has `of` tiles of keys.
    pub fn sharers(&self, start: Ix<'k>, of: Ix<'k>) -> Sharers<'k> {
        let leader = self.owner(start);
        Sharers { leader, count: self.owner(start + of - 1) - leader + 1 }
    }
}

impl<'k> Segment<'k> {
    /// That of the run from `at`, a place inside of the output tile that begins at `start` and has `of` tiles, to `end`.
    pub fn of_run((at, end): (Ix<'k>, Ix<'k>), start: Ix<'k>, of: Ix<'k>) -> Segment<'k> {
        Segment { first: at - start, end: (end - start).min(of) }
    }

    /// Part `part` of an output tile of `of` tiles that is cut into `parts`.
    pub fn of_part((part, parts): (Ix<'k>, Ix<'k>), of: Ix<'k>) -> Segment<'k> {
        let (first, end) = Runs { tiles: of, workers: parts }.of(part);
        Segment { first, end }
    }
}

/// Which of its two places a worker puts its part into, given whether it begins the output tile. In a run only the first
/// output tile can begin before it, and only the last one end behind it.
pub fn place(begins: Bool<'_>) -> Ix<'_> {
    begins.choose(1, 0)
}

/// The parts that an output tile is cut into where `wanted` are and `workers` serve `outputs` of them: each worker has at
/// most one part, or whole output tiles.
pub fn parts<'k>(wanted: i64, workers: Ix<'k>, outputs: Ix<'k>) -> Ix<'k> {
    workers.div(outputs.max(1)).min(wanted).max(1)
}
