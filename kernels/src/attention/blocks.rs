//! How attention is cut into tiles, and where the tiles lie in scratch memory.

use super::Spec;
use crate::{build::Elem, cpu::Cpu};

/// Queries of a task.
pub(super) const QUERIES: i64 = 64;

/// Most keys whose scores are computed at once: a broadcast key and all its accumulators stay in registers.
const MOST_KEYS: i64 = 16;

/// Sizes in elements of the arithmetic type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    /// The arithmetic: f64 for f64, otherwise f32.
    pub elem: Elem,
    /// Queries of a tile, which lie along the lanes of vectors: 64 bytes.
    pub tile: i64,
    /// Lanes of a vector, and vectors across a tile.
    pub lanes: u32,
    pub vectors: usize,
    /// Keys whose scores, and components of the result that are accumulated together.
    pub keys: i64,
    pub components: i64,
    /// Most keys of a block, a multiple of `keys`.
    pub key_block: i64,
    /// Elements from one row of a packed key or value block to the next, and rows of a packed result.
    pub key_pitch: i64,
    pub value_pitch: i64,
    pub value_rows: i64,
}

/// Offsets into scratch memory in bytes, each a multiple of 64.
pub(super) struct Scratch {
    pub keys: i64,
    pub values: i64,
    /// What is added to, or caps, the scores of each key; for a mask that varies over queries, one tile of them.
    pub bias: i64,
    /// One tile: `[key][query]`.
    pub scores: i64,
    /// All tiles of the task: `[component][query]`.
    pub queries: i64,
    pub results: i64,
    /// All tiles: the running maxima, then the running sums.
    pub state: i64,
    /// A tile in rows: `[query][component]`, or of the mask `[query][key]`.
    pub rows: i64,
    pub rows_pitch: i64,
    pub bytes: i64,
}

fn round_up(n: i64, to: i64) -> i64 {
    (n + to - 1) / to * to
}

/// The part of the cut that does not depend on the CPU level.
fn key_budget(spec: &Spec, bytes: i64) -> i64 {
    // Keys and values of a block take at most three quarters of a first level cache of 32 KB where that leaves enough
    // keys to make up for what is done once a block.
    ((24 << 10) / ((spec.depth + spec.value_depth).max(1) * bytes)).clamp(32, 128)
}

impl Blocks {
    pub(super) fn new(spec: &Spec, cpu: &Cpu) -> Blocks {
        let (elem, bytes) = if spec.is_wide() { (Elem::F64, 8) } else { (Elem::F32, 4) };
        let tile = 64 / bytes;
        let lanes = cpu.lanes(bytes as u32);
        let vectors = tile / lanes as i64;
        // One register for the broadcast, one for a product where there is no FMA, one vector of a tile.
        let free = cpu.vector_registers as i64 - vectors - 1 - i64::from(!cpu.has_fma);
        let most = (free / vectors).clamp(1, MOST_KEYS);
        // A power of two, of which lengths often are multiples.
        let keys = 1 << most.ilog2();
        // As many components as registers allow, or fewer where that wastes fewer; eight chains hide the latency.
        let fewest = (8 / vectors).clamp(1, most);
        let components = (fewest..=most).rev().min_by_key(|n| round_up(spec.value_depth, *n)).unwrap_or(most);
        let value_rows = round_up(spec.value_depth, components);
        Blocks {
            elem,
            tile,
            lanes,
            vectors: vectors as usize,
            keys,
            components,
            key_block: (key_budget(spec, bytes) / keys).max(1) * keys,
            key_pitch: round_up(spec.depth, tile),
            value_pitch: round_up(value_rows, tile),
            value_rows,
        }
    }
}

impl Scratch {
    /// The same on every CPU level: with room for the largest tiles of any.
    pub(super) fn new(spec: &Spec) -> Scratch {
        let bytes = if spec.is_wide() { 8 } else { 4 };
        let tile = 64 / bytes;
        let keys = round_up(key_budget(spec, bytes).max(MOST_KEYS), tile);
        let depth = round_up(spec.depth, tile);
        let value_depth = round_up(spec.value_depth + MOST_KEYS, tile);
        let tiles = QUERIES / tile;
        let rows_pitch = depth.max(value_depth).max(keys);
        let mut end = 0;
        let mut take = |elements: i64| {
            let start = end;
            end += round_up(elements * bytes, 64);
            start
        };
        let bias = if spec.mask_varies_over_queries() { keys * tile } else { keys };
        Scratch {
            keys: take(keys * depth),
            values: take(keys * value_depth),
            bias: take(bias),
            scores: take(keys * tile),
            queries: take(tiles * depth * tile),
            results: take(tiles * value_depth * tile),
            state: take(tiles * 2 * tile),
            rows: take(tile * rows_pitch),
            rows_pitch,
            bytes: end,
        }
    }
}
