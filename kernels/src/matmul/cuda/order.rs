//! The order in which tiles of *C* are computed.

use crate::build::Ix;

/// Rows of tiles that lie next to each other in the order, for the cache.
const GROUP: i64 = 8;

/// The row and column of tile number `tile` of `down` by `across` tiles. On constants this is plain arithmetic.
pub(super) fn place<'k>(tile: Ix<'k>, down: Ix<'k>, across: Ix<'k>) -> (Ix<'k>, Ix<'k>) {
    let group = tile.div(across * GROUP);
    let height = (down - group * GROUP).min(GROUP);
    let within = tile.rem(across * GROUP);
    (group * GROUP + within.rem(height), within.div(height))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn all(down: i64, across: i64) -> Vec<(i64, i64)> {
        let at = |tile: i64| {
            let (row, column) = place(tile.into(), down.into(), across.into());
            (row.as_const().unwrap(), column.as_const().unwrap())
        };
        (0..down * across).map(at).collect()
    }

    #[test]
    fn every_tile_comes_once() {
        for (down, across) in [(1, 1), (1, 9), (9, 1), (8, 8), (7, 3), (17, 5), (32, 16), (33, 31)] {
            let tiles = all(down, across);
            let expected: BTreeSet<(i64, i64)> = (0..down).flat_map(|r| (0..across).map(move |c| (r, c))).collect();
            assert_eq!(tiles.iter().copied().collect::<BTreeSet<_>>(), expected, "{down} {across}");
            assert_eq!(tiles.len(), expected.len(), "{down} {across}");
        }
    }

    /// What as many blocks as an H100 has multiprocessors read at a time: rows of *A* and columns of *B*, in tiles.
    #[test]
    fn tiles_that_are_computed_together_lie_together() {
        const BLOCKS: usize = 132;
        // 4096 and 8192 cubed by 128x256.
        for (down, across) in [(32, 16), (64, 32)] {
            for wave in all(down, across).chunks(BLOCKS) {
                let rows: BTreeSet<i64> = wave.iter().map(|(row, _)| *row).collect();
                let columns: BTreeSet<i64> = wave.iter().map(|(_, column)| *column).collect();
                // Side by side they would read up to 132 columns; a square has 2 times 11.5.
                assert!(rows.len() + columns.len() <= 34, "{down} {across}: {} {}", rows.len(), columns.len());
            }
        }
    }
}
