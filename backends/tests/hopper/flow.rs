//! Loops of PTX text by where its branches go: LLVM puts parts of a loop wherever it likes.

use std::collections::{HashMap, VecDeque};

/// Lines up to a branch or a label, and where they go on.
struct Block<'t> {
    lines: Vec<&'t str>,
    next: Vec<usize>,
}

fn blocks(kernel: &str) -> Vec<Block<'_>> {
    let (mut found, mut labels) = (vec![], HashMap::new());
    let mut lines: Vec<&str> = vec![];
    for line in kernel.lines() {
        let label = line.strip_prefix('$').and_then(|l| l.split_once(':')).map(|(name, _)| name);
        if label.is_some() && !lines.is_empty() {
            found.push(std::mem::take(&mut lines));
        }
        if let Some(label) = label {
            labels.insert(label, found.len());
        }
        lines.push(line);
        if line.contains("bra") && line.trim_end().ends_with(';') || line.trim() == "ret;" {
            found.push(std::mem::take(&mut lines));
        }
    }
    found.push(lines);
    let target = |line: &str| labels.get(line.rsplit('$').next()?.trim_end_matches(';')).copied();
    let count = found.len();
    let with_next = |(i, lines): (usize, Vec<_>)| {
        let last: &str = lines.last().copied().unwrap_or("");
        let branches = last.contains("bra") && last.contains('$');
        let always = branches && !last.trim_start().starts_with('@') || last.trim() == "ret;";
        let mut next: Vec<usize> = if branches { target(last).into_iter().collect() } else { vec![] };
        if !always && i + 1 < count {
            next.push(i + 1);
        }
        Block { lines, next }
    };
    found.into_iter().enumerate().map(with_next).collect()
}

/// The text of the shortest way from the last part of a kernel that has `part` round to itself.
pub fn round(kernel: &str, part: &str) -> Option<String> {
    let blocks = blocks(kernel);
    let way = |start: usize| {
        let mut from = HashMap::new();
        let mut open = VecDeque::from([start]);
        while let Some(at) = open.pop_front() {
            for next in &blocks[at].next {
                if *next == start {
                    let mut way = vec![at];
                    while way[way.len() - 1] != start {
                        way.push(from[&way[way.len() - 1]]);
                    }
                    way.reverse();
                    return Some(way);
                }
                if !from.contains_key(next) {
                    from.insert(*next, at);
                    open.push_back(*next);
                }
            }
        }
        None
    };
    let has = |(_, block): &(usize, &Block<'_>)| block.lines.iter().any(|line| line.contains(part));
    let ways = blocks.iter().enumerate().filter(has).filter_map(|(i, _)| way(i));
    let shortest = ways.min_by_key(|way| way.iter().map(|b| blocks[*b].lines.len()).sum::<usize>())?;
    Some(shortest.iter().flat_map(|b| &blocks[*b].lines).map(|line| format!("{line}\n")).collect())
}
