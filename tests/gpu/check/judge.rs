//! What times mean: beside the limit of the device, the same work by PyTorch, and the figures that the bundle asks for.

#![allow(dead_code, unreachable_pub, reason = "programs and a test each use their part")]

use kiln_runtime::cuda::Facts;
use serde_json::{Value, json};

/// The bench whose bytes and time are the bandwidth of a copy.
const COPY: &str = "copy_f32";

/// Floating-point operations that a multiprocessor does in a cycle, by compute capability: multiply-adds of f32, and those
/// of f16 and bf16 on tensor cores with sums in f32.
const PER_CYCLE: &[((i32, i32), f64, f64)] = &[
    ((8, 0), 128.0, 2048.0),
    ((8, 6), 256.0, 512.0),
    ((8, 7), 256.0, 1024.0),
    ((8, 9), 256.0, 1024.0),
    ((9, 0), 256.0, 4096.0),
    ((10, 0), 256.0, 8192.0),
];

/// The peak of a device by its number of multiprocessors and its highest clock; none for one that is not known.
pub fn peak_flops(facts: &Facts, elem: &str) -> Option<f64> {
    let (_, single, half) = PER_CYCLE.iter().find(|(capability, ..)| *capability == facts.capability)?;
    let per_cycle = if elem == "f32" { single } else { half };
    let peak = per_cycle * f64::from(facts.multiprocessors) * f64::from(facts.clock_khz) * 1e3;
    (peak > 0.0).then_some(peak)
}

/// Adds to the rows of benches: `limit_us`, `limit_share`, `peer_us`, `ratio` to it, and for each of `figures` what was
/// `found` and whether it is `met`. `peers` are PyTorch's times in microseconds by bench.
pub fn judge(rows: &mut [Value], facts: Option<&Facts>, peers: &Value) {
    let micros = |row: &Value| {
        let which = if row["whole"] == true { "wall_us" } else { "device_us" };
        row[which].as_f64().filter(|us| *us > 0.0)
    };
    let known: Vec<(String, String, f64, Option<f64>)> = rows
        .iter()
        .filter(|row| row["kind"] == "bench")
        .filter_map(|row| {
            let word = |key: &str| row[key].as_str().map(str::to_owned);
            Some((word("target")?, word("name")?, micros(row)?, row["bytes"].as_f64()))
        })
        .collect();
    for row in rows.iter_mut().filter(|row| row["kind"] == "bench") {
        let (Some(us), Some(target)) = (micros(row), row["target"].as_str().map(str::to_owned)) else { continue };
        let name = row["name"].as_str().unwrap_or_default().to_owned();
        let of = |name: &str| known.iter().find(|(t, n, ..)| *t == target && n == name);
        // The fastest copy that was seen.
        let copy = of(COPY).and_then(|(_, _, us, bytes)| {
            let us = peers[COPY].as_f64().map_or(*us, |peer| us.min(peer));
            bytes.map(|bytes| bytes / us)
        });
        let elem = row["elem"].as_str().unwrap_or("f32");
        let by_flops =
            row["flops"].as_f64().zip(facts.and_then(|f| peak_flops(f, elem))).map(|(n, peak)| 1e6 * n / peak);
        let by_bytes = row["bytes"].as_f64().zip(copy).map(|(n, rate)| n / rate);
        let limit = [by_flops, by_bytes].into_iter().flatten().reduce(f64::max);
        let peer = peers[&name].as_f64();
        row["limit_us"] = json!(limit);
        row["limit_share"] = json!(limit.map(|limit| limit / us));
        row["peer_us"] = json!(peer);
        row["ratio"] = json!(peer.map(|peer| peer / us));
        // Other targets than the device's best one are there to be looked at.
        if row["best"] == false {
            row["figures"] = json!([]);
        }
        let judged = row["figures"].as_array().cloned().unwrap_or_default().into_iter().map(|mut figure| {
            let other = match figure["against"].as_str() {
                Some("limit") => limit,
                Some("torch") => peer,
                name => name.and_then(of).map(|(_, _, us, _)| *us),
            };
            let found = other.map(|other| other / us);
            figure["found"] = json!(found);
            figure["met"] = json!(found.zip(figure["at_least"].as_f64()).map(|(found, least)| found >= least));
            figure
        });
        row["figures"] = judged.collect();
    }
}

/// The figures of all rows, for people: which are met, which are not, and which nothing was found for.
pub fn summary(rows: &[Value]) -> String {
    let mut lines = vec![];
    for row in rows.iter().filter(|row| row["kind"] == "bench") {
        for figure in row["figures"].as_array().into_iter().flatten() {
            let word = |value: &Value| value.as_str().unwrap_or("").to_owned();
            let found = figure["found"].as_f64().map_or("?".to_owned(), |n| format!("{n:.2}"));
            let met = match figure["met"].as_bool() {
                Some(true) => "met",
                Some(false) => "NOT MET",
                None => "open",
            };
            lines.push(format!(
                "{met:<8} {:<14} {:<44} {found:>7} of {:>5.2} times {}",
                word(&row["target"]),
                word(&row["name"]),
                figure["at_least"].as_f64().unwrap_or(0.0),
                word(&figure["against"])
            ));
        }
    }
    lines.join("\n")
}
