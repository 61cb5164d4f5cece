//! `run --check`: whether what a pointer network answers is a tour or a polygon, and how long or large it is.
//!
//! The artifact's `pointer.task` says what its answers should be. A `tsp` answer visits every point once; a `hull` answer
//! is a polygon of three points or more that does not cross itself, up to the end symbol. Of several beams the first
//! counts.

use super::CliError;
use crate::format::{ElemType, Manifest, Port};
use crate::{Outputs, Tensor};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::Path;

/// Problems beyond these are counted only.
const SHOWN: usize = 8;

/// What was found.
pub(super) struct Checked {
    task: Task,
    instances: usize,
    /// Lengths of valid tours or areas of valid polygons.
    sizes: Vec<f64>,
    problems: Vec<String>,
}

#[derive(Clone, Copy)]
pub(super) enum Task {
    Tour,
    Hull,
}

type Point = [f64; 2];

/// What the answers of an entry are; asked before it runs.
///
/// # Errors
/// An entry whose answers cannot be judged.
pub(super) fn task(manifest: &Manifest, entry: &str) -> Result<Task, CliError> {
    let fail = |e: &str| CliError::Input(format!("--check: {e}"));
    let task = match manifest.metadata.get("pointer.task").map(String::as_str) {
        Some("tsp") => Task::Tour,
        Some("hull") => Task::Hull,
        _ => return Err(fail("the artifact does not say what its answers should be (`pointer.task`)")),
    };
    // A name that no entry has is the session's to complain about.
    if let Some(entry) = manifest.entries.iter().find(|e| e.name == entry) {
        let in_plane = |p: &Port| p.dims.len() == 3 && p.dims[2].as_constant() == Some(2) && p.elem == ElemType::F32;
        if !entry.inputs.iter().any(|p| p.name == "points" && in_plane(p)) {
            return Err(fail("the entry takes no points in the plane"));
        }
        let lists = |p: &Port| p.dims.len() >= 2 && p.elem == ElemType::I64;
        if !entry.outputs.iter().any(|p| p.name == "indices" && lists(p)) {
            return Err(fail("the entry gives no indices"));
        }
    }
    Ok(task)
}

/// Judges every instance of one run on the inputs of a file.
pub(super) fn check(
    task: Task,
    file: &Path,
    inputs: &[(String, Tensor)],
    outputs: &Outputs,
) -> Result<Checked, CliError> {
    let input = |name: &str| inputs.iter().find(|(n, _)| n == name).map(|(_, t)| t);
    let (Some(points), Some(indices)) = (input("points"), outputs.get("indices")) else {
        return Err(CliError::Input("--check: expected points and indices, found others".into()));
    };
    let (batch, n) = (points.shape()[0], points.shape()[1]);
    let steps = indices.shape().last().copied().unwrap_or(0);
    let beams: usize = indices.shape()[1..indices.shape().len() - 1].iter().product();
    let coordinates = points.as_slice::<f32>().unwrap_or_default();
    let picks = indices.as_slice::<i64>().unwrap_or_default();
    let lengths = input("lengths").and_then(|t| t.as_slice::<i64>()).unwrap_or_default();
    let mut found = Checked { task, instances: batch, sizes: vec![], problems: vec![] };
    for row in 0..batch {
        let length = lengths.get(row).map_or(n, |l| usize::try_from(*l).unwrap_or(0).min(n));
        let at = |i: usize| [0, 1].map(|k| f64::from(coordinates[(row * n + i) * 2 + k]));
        let points: Vec<Point> = (0..length).map(at).collect();
        if let Some(i) = points.iter().position(|p| p.iter().any(|x| !x.is_finite())) {
            return Err(CliError::file(file, format!("points[{row},{i}] is no point: {:?}", points[i])));
        }
        let picks = &picks[row * beams * steps..][..steps];
        match judge(task, &points, picks) {
            Ok(size) => found.sizes.push(size),
            Err(problem) => found.problems.push(format!("instance {row}: {problem}")),
        }
    }
    Ok(found)
}

fn judge(task: Task, points: &[Point], picks: &[i64]) -> Result<f64, String> {
    let n = points.len() as i64;
    let answer: Vec<i64> = match task {
        Task::Tour => picks.iter().copied().filter(|i| *i >= 0).collect(),
        Task::Hull => picks.iter().copied().take_while(|i| (0..n).contains(i)).collect(),
    };
    let mut seen = HashSet::new();
    for i in &answer {
        if !(0..n).contains(i) {
            return Err(format!("index {i} of {n} points"));
        }
        if !seen.insert(i) {
            return Err(format!("point {i} twice"));
        }
    }
    let ring: Vec<Point> = answer.iter().map(|i| points[*i as usize]).collect();
    match task {
        Task::Tour if ring.len() == points.len() => Ok(length(&ring)),
        Task::Tour => Err(format!("{} of {n} points", ring.len())),
        Task::Hull if ring.len() < 3 => Err(format!("a polygon of {} points", ring.len())),
        Task::Hull => match crossing(&ring) {
            Some((i, j)) => Err(format!("edges {i} and {j} cross")),
            None => Ok(area(&ring)),
        },
    }
}

/// Of the closed way through the points.
fn length(ring: &[Point]) -> f64 {
    let next = ring.iter().cycle().skip(1);
    ring.iter().zip(next).map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1])).sum()
}

fn area(ring: &[Point]) -> f64 {
    let next = ring.iter().cycle().skip(1);
    0.5 * ring.iter().zip(next).map(|(a, b)| a[0] * b[1] - a[1] * b[0]).sum::<f64>().abs()
}

/// Two edges that are not neighbours and cross.
fn crossing(ring: &[Point]) -> Option<(usize, usize)> {
    let n = ring.len();
    let side = |a: Point, b: Point, c: Point| (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
    let edges = (0..n).flat_map(|i| (i + 2..n).map(move |j| (i, j))).filter(|(i, j)| (j + 1) % n != *i);
    edges.into_iter().find(|(i, j)| {
        let [a, b, c, d] = [*i, i + 1, *j, (j + 1) % n].map(|k| ring[k]);
        side(a, b, c) * side(a, b, d) < 0.0 && side(c, d, a) * side(c, d, b) < 0.0
    })
}

impl Checked {
    fn mean(&self) -> f64 {
        self.sizes.iter().sum::<f64>() / self.sizes.len() as f64
    }

    pub(super) fn text(&self) -> String {
        let (what, size) = match self.task {
            Task::Tour => ("tours", "length"),
            Task::Hull => ("polygons", "area"),
        };
        let valid = self.sizes.len();
        let mut text = format!("check: {valid} of {} {what} are valid", self.instances);
        if valid > 0 {
            text.push_str(&format!(", mean {size} {:.6}", self.mean()));
        }
        text.push('\n');
        for problem in self.problems.iter().take(SHOWN) {
            text.push_str(&format!("  {problem}\n"));
        }
        if self.problems.len() > SHOWN {
            text.push_str(&format!("  and {} more\n", self.problems.len() - SHOWN));
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let (task, size) = match self.task {
            Task::Tour => ("tsp", "lengths"),
            Task::Hull => ("hull", "areas"),
        };
        json!({"task": task, "instances": self.instances, "valid": self.sizes.len(), size: self.sizes,
            "problems": self.problems})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQUARE: [Point; 4] = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]];

    #[test]
    fn tours() {
        let tour = |picks: &[i64]| judge(Task::Tour, &SQUARE, picks);
        assert_eq!(tour(&[2, 3, 0, 1]), Ok(4.0));
        assert_eq!(tour(&[0, 2, 1, 3, -1]), Ok(2.0 + 2.0 * 2f64.sqrt()));
        assert_eq!(tour(&[0, 1, 2, -1]), Err("3 of 4 points".into()));
        assert_eq!(tour(&[0, 1, 1, 3]), Err("point 1 twice".into()));
        assert_eq!(tour(&[0, 1, 2, 4]), Err("index 4 of 4 points".into()));
        assert_eq!(judge(Task::Tour, &[[0.5; 2]; 3], &[0, 1, 2]), Ok(0.0));
        assert_eq!(judge(Task::Tour, &[[0.5; 2]], &[0]), Ok(0.0));
    }

    #[test]
    fn hulls() {
        let hull = |picks: &[i64]| judge(Task::Hull, &SQUARE, picks);
        assert_eq!(hull(&[0, 1, 2, 3, 4]), Ok(1.0));
        assert_eq!(hull(&[3, 2, 1, 4, -1]), Ok(0.5));
        assert_eq!(hull(&[0, 1, 4, -1, -1]), Err("a polygon of 2 points".into()));
        assert_eq!(hull(&[0, 2, 1, 3, 4]), Err("edges 0 and 2 cross".into()));
        assert_eq!(hull(&[0, 1, 0, 4, -1]), Err("point 0 twice".into()));
    }
}
