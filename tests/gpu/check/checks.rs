//! What is checked and timed on a GPU: the contents of a bundle, through the runtime as an application uses it.
//!
//! A bundle is a folder that `gpu_bundle` writes: artifacts, tensors, and `bundle.json`, which lists *cases* (an entry, its
//! inputs, the outputs that are expected of it and how near they have to be) and *benches* (an entry, the shapes of its
//! inputs, and its work). Every case and bench runs on each of its artifact's GPU targets that the device has.
#![allow(dead_code, unreachable_pub, reason = "programs and a test each use their part")]

use super::judge;
use kiln_runtime::{
    Artifact, DlTensor, Error, LaunchEvent, Profile, Session, SessionOptions, Tensor, TensorView,
    cli::read_tensors,
    cuda::{Driver, Facts},
    format::ElemType,
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fmt::Display,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A bench runs until it has this many runs, or has taken this long.
const RUNS: usize = 20;
const BENCH_TIME: Duration = Duration::from_secs(2);

/// What to run of a bundle, and on what.
pub struct Options<'a> {
    pub bundle: &'a Path,
    /// Instead of the installed one.
    pub driver: Option<Arc<Driver>>,
    /// Only cases and benches with one of these in their names; all if there is none.
    pub only: Vec<String>,
    pub cases: bool,
    pub benches: bool,
    /// PyTorch's times of benches in microseconds, by name.
    pub peers: Value,
    /// Hears of each row as it is known, so that what an interrupted run found is not lost.
    pub row: &'a mut dyn FnMut(&Value),
}

type Problem = String;

fn said(e: impl Display) -> Problem {
    e.to_string()
}

/// Runs what is asked for; the rows of cases and benches.
///
/// # Errors
/// What is wrong with the bundle. What is wrong with a result stands in its row.
pub fn run(options: Options<'_>) -> Result<Vec<Value>, Problem> {
    let path = options.bundle.join("bundle.json");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let bundle: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut checker = Checker { options, artifacts: HashMap::new(), tensors: HashMap::new(), rows: vec![] };
    if checker.options.cases {
        for case in list(&bundle, "cases") {
            checker.each_target(case, "case", Checker::case)?;
        }
    }
    if checker.options.benches {
        for bench in list(&bundle, "benches") {
            checker.each_target(bench, "bench", Checker::bench)?;
        }
    }
    let facts = Facts::of(checker.options.driver.as_ref()).ok();
    judge::judge(&mut checker.rows, facts.as_ref(), &checker.options.peers);
    Ok(checker.rows)
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn text<'v>(value: &'v Value, name: &str) -> Result<&'v str, Problem> {
    value[name].as_str().ok_or_else(|| format!("bundle.json: expected a string `{name}` in {value}"))
}

struct Checker<'a> {
    options: Options<'a>,
    artifacts: HashMap<String, Artifact>,
    tensors: HashMap<String, Arc<HashMap<String, Tensor>>>,
    rows: Vec<Value>,
}

impl Checker<'_> {
    /// Runs an item of the bundle on the targets of its artifact.
    fn each_target(
        &mut self,
        item: &Value,
        kind: &str,
        run: fn(&mut Self, &Value, &mut Session) -> Result<Value, Problem>,
    ) -> Result<(), Problem> {
        let name = text(item, "name")?;
        if !self.options.only.is_empty() && !self.options.only.iter().any(|part| name.contains(part)) {
            return Ok(());
        }
        let artifact = self.artifact(text(item, "artifact")?)?;
        let any = SessionOptions { driver: self.options.driver.clone(), ..Default::default() };
        let best = artifact.target_for(&any).ok().map(|i| artifact.manifest().targets[i].name.clone());
        let targets = artifact.manifest().targets.iter().filter(|t| t.level.is_gpu());
        for target in targets.map(|t| t.name.clone()).collect::<Vec<_>>() {
            let driver = self.options.driver.clone();
            let wanted = SessionOptions { target: Some(target.clone()), driver, ..Default::default() };
            let found = match Session::new(&artifact, wanted) {
                Err(e @ Error::NoTarget { .. }) => Ok(json!({"absent": said(e)})),
                Err(e) => Err(said(e)),
                Ok(mut session) => run(self, item, &mut session),
            };
            let mut row = json!({"kind": kind, "name": name, "target": target, "best": Some(&target) == best.as_ref()});
            match found {
                Ok(Value::Object(facts)) => facts.into_iter().for_each(|(key, value)| row[key] = value),
                Ok(_) => {}
                Err(problem) => row["problem"] = json!(problem),
            }
            (self.options.row)(&row);
            self.rows.push(row);
        }
        Ok(())
    }

    fn artifact(&mut self, name: &str) -> Result<Artifact, Problem> {
        if let Some(artifact) = self.artifacts.get(name) {
            return Ok(artifact.clone());
        }
        let artifact = Artifact::open(self.options.bundle.join(name)).map_err(|e| format!("{name}: {e}"))?;
        self.artifacts.insert(name.to_owned(), artifact.clone());
        Ok(artifact)
    }

    fn tensors(&mut self, name: &str) -> Result<Arc<HashMap<String, Tensor>>, Problem> {
        if let Some(tensors) = self.tensors.get(name) {
            return Ok(tensors.clone());
        }
        let read = read_tensors(&self.options.bundle.join(name), |_| Ok(())).map_err(|e| format!("{name}: {e}"))?;
        let tensors = Arc::new(read.into_iter().collect::<HashMap<_, _>>());
        self.tensors.insert(name.to_owned(), tensors.clone());
        Ok(tensors)
    }

    /// The largest error of a case or of its calls.
    fn case(&mut self, case: &Value, session: &mut Session) -> Result<Value, Problem> {
        let tensors = self.tensors(text(case, "data")?)?;
        let calls = list(case, "calls");
        let calls = if calls.is_empty() { std::slice::from_ref(case) } else { calls };
        let mut worst = 0.0f64;
        for (n, call) in calls.iter().enumerate() {
            let place = |problem| if calls.len() > 1 { format!("call {n}: {problem}") } else { problem };
            worst = worst.max(Self::call(call, &tensors, session).map_err(place)?);
        }
        Ok(json!({"error": worst}))
    }

    fn call(case: &Value, tensors: &HashMap<String, Tensor>, session: &mut Session) -> Result<f64, Problem> {
        let prefix = text(case, "prefix")?;
        let mut entry = session.entry(text(case, "entry")?).map_err(said)?;
        let (inputs, outputs) = (entry.signature().inputs.clone(), entry.signature().outputs.clone());
        let stored = |kind: &str, name: &str| {
            let key = format!("{prefix}/{kind}/{name}");
            tensors.get(&key).ok_or_else(|| format!("the bundle has no tensor {key}"))
        };
        let views = inputs.iter().map(|port| Ok((port.name.as_str(), stored("in", &port.name)?.view())));
        let views: Vec<(&str, TensorView)> = views.collect::<Result<_, Problem>>()?;
        let found = entry.run(&views).map_err(said)?;
        let (mut worst, mut problems) = (0.0f64, vec![]);
        for port in &outputs {
            let limit = case["limits"][&port.name].as_f64().unwrap_or(0.0);
            let found = found.get(&port.name).ok_or_else(|| format!("there is no output {}", port.name))?;
            let error = relative_error(found, stored("out", &port.name)?);
            worst = worst.max(if limit > 0.0 || error == 0.0 { error } else { f64::INFINITY });
            if error > limit {
                problems.push(format!("{}: relative L2 {error:.1e}, limit {limit:.1e}", port.name));
            }
        }
        if problems.is_empty() { Ok(worst) } else { Err(problems.join("; ")) }
    }

    /// Times of the launches as the device says, and of whole runs on tensors of the device as the host does.
    fn bench(&mut self, bench: &Value, session: &mut Session) -> Result<Value, Problem> {
        let name = text(bench, "entry")?;
        let mut inputs = vec![];
        for input in list(bench, "inputs") {
            let elem = ElemType::from_name(text(input, "elem")?).ok_or("bundle.json: an unknown type")?;
            let shape: Vec<usize> = list(input, "shape").iter().filter_map(|d| Some(d.as_u64()? as usize)).collect();
            let (below, whole) = (input["below"].as_u64().unwrap_or(2), input["whole"] == true);
            inputs.push((text(input, "name")?, made_up(elem, &shape, below, whole)?));
        }
        let views: Vec<(&str, TensorView)> = inputs.iter().map(|(name, tensor)| (*name, tensor.view())).collect();
        let placed = views.iter().map(|(name, view)| Ok((*name, session.copy_of(*view).map_err(said)?)));
        let placed: Vec<(&str, DlTensor)> = placed.collect::<Result<_, Problem>>()?;
        let given: Vec<(&str, &DlTensor)> = placed.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let mut made = session.entry(name).map_err(said)?.outputs_for(&given).map_err(said)?;
        let mut outputs: Vec<(&str, &mut DlTensor)> = made.iter_mut().map(|(name, t)| (name.as_str(), t)).collect();
        let mut walls = vec![];
        let begin = Instant::now();
        while walls.is_empty() || (walls.len() < RUNS && begin.elapsed() < BENCH_TIME) {
            let start = Instant::now();
            session.entry(name).map_err(said)?.run_dlpack(&given, &mut outputs).map_err(said)?;
            walls.push(start.elapsed());
        }
        drop((made, placed));
        let wall = walls.iter().skip(usize::from(walls.len() > 1)).min().copied().unwrap_or_default();
        let launches = Arc::new(Launches::default());
        let artifact = session.artifact().clone();
        let target = artifact.manifest().targets[session.target()].name.clone();
        let driver = self.options.driver.clone();
        let profile: Option<Arc<dyn Profile>> = Some(launches.clone());
        let timed = SessionOptions { target: Some(target), driver, profile, ..Default::default() };
        let mut session = Session::new(&artifact, timed).map_err(said)?;
        let begin = Instant::now();
        let mut best: Vec<(String, Duration)> = vec![];
        let mut runs = 0;
        while runs < 2 || (runs < RUNS && begin.elapsed() < BENCH_TIME) {
            session.entry(name).map_err(said)?.run(&views).map_err(said)?;
            let run = std::mem::take(&mut *launches.0.lock().unwrap_or_else(PoisonError::into_inner));
            if best.len() != run.len() {
                best = run;
            } else {
                best.iter_mut().zip(&run).for_each(|(best, now)| best.1 = best.1.min(now.1));
            }
            runs += 1;
        }
        let device: Duration = best.iter().map(|(_, time)| *time).sum();
        let seconds = device.as_secs_f64().max(1e-9);
        let mut by_kernel: Vec<(&str, u32, f64)> = vec![];
        for (kernel, time) in &best {
            let us = 1e6 * time.as_secs_f64();
            match by_kernel.iter_mut().find(|(name, ..)| name == kernel) {
                Some((_, count, total)) => (*count, *total) = (*count + 1, *total + us),
                None => by_kernel.push((kernel, 1, us)),
            }
        }
        by_kernel.sort_by(|a, b| b.2.total_cmp(&a.2));
        let kernels: Vec<Value> =
            by_kernel.iter().map(|(name, count, us)| json!({"kernel": name, "launches": count, "us": us})).collect();
        let rate = |what: &str| bench[what].as_f64().map(|n| n / seconds / 1e9);
        Ok(json!({
            "device_us": 1e6 * seconds, "wall_us": 1e6 * wall.as_secs_f64(), "launches": best.len(),
            "gflops": rate("flops"), "gb_per_s": rate("bytes"), "kernels": kernels,
            "flops": bench["flops"], "bytes": bench["bytes"], "elem": bench["elem"], "whole": bench["whole"],
            "figures": bench["figures"],
        }))
    }
}

/// The launches of a run in their order.
#[derive(Default)]
struct Launches(Mutex<Vec<(String, Duration)>>);

impl Profile for Launches {
    fn launch(&self, event: &LaunchEvent) {
        let launch = (event.kernel.to_owned(), event.duration);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(launch);
    }
}

/// A table of rows, for people.
pub fn table(rows: &[Value]) -> String {
    let word = |row: &Value, name: &str| row[name].as_str().unwrap_or("").to_owned();
    let number = |row: &Value, name: &str| row[name].as_f64();
    let mut lines = vec![];
    let cases = rows.iter().filter(|row| row["kind"] == "case");
    let (mut right, mut absent, mut wrong) = (0, 0, vec![]);
    for row in cases {
        match (row["problem"].as_str(), row["absent"].is_null()) {
            (Some(problem), _) => wrong.push(format!("WRONG {} {}: {problem}", word(row, "target"), word(row, "name"))),
            (None, false) => absent += 1,
            (None, true) => right += 1,
        }
    }
    lines.push(format!("cases: {right} right, {} wrong, {absent} on targets that are not here", wrong.len()));
    lines.append(&mut wrong);
    for row in rows.iter().filter(|row| row["kind"] == "bench") {
        let at = format!("{:<14} {:<36}", word(row, "target"), word(row, "name"));
        lines.push(match (row["problem"].as_str(), row["absent"].as_str()) {
            (Some(problem), _) => format!("{at} FAILED {problem}"),
            (_, Some(_)) => format!("{at} not here"),
            _ => {
                let part =
                    |name: &str, unit: &str| number(row, name).map_or(String::new(), |n| format!(" {n:>10.1} {unit}"));
                let parts = [
                    part("device_us", "us"),
                    part("wall_us", "us wall"),
                    part("gflops", "GFLOP/s"),
                    part("gb_per_s", "GB/s"),
                    part("limit_us", "us limit"),
                    part("peer_us", "us torch"),
                ];
                at + &parts.concat()
            }
        });
    }
    lines.join("\n")
}

/// Whether every case is right and every bench ran that has a target here, and there is one.
pub fn is_good(rows: &[Value]) -> bool {
    rows.iter().all(|row| row["problem"].is_null()) && rows.iter().any(|row| row["absent"].is_null())
}

/// Multiples of 1/128 between -1 and 1, which every float holds; integers from 0 to below `below`, and floats too if they
/// are to be `whole`.
fn made_up(elem: ElemType, shape: &[usize], below: u64, whole: bool) -> Result<Tensor, Problem> {
    let mut tensor = Tensor::zeros(elem, shape).map_err(said)?;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let size = elem.size();
    for bytes in tensor.bytes_mut().chunks_exact_mut(size) {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let random = state >> 33;
        let float = if whole { (random % below.max(1)) as f32 } else { ((random % 255) as f32 - 127.0) / 128.0 };
        match elem {
            ElemType::F64 => bytes.copy_from_slice(&f64::from(float).to_le_bytes()),
            ElemType::F32 => bytes.copy_from_slice(&float.to_le_bytes()),
            ElemType::Bf16 => bytes.copy_from_slice(&float.to_le_bytes()[2..]),
            ElemType::F16 => bytes.copy_from_slice(&f16_bits(float).to_le_bytes()),
            _ => bytes.copy_from_slice(&(random % below.max(1)).to_le_bytes()[..size]),
        }
    }
    Ok(tensor)
}

/// A float that f16 holds.
fn f16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    if value == 0.0 { sign } else { sign | ((((bits >> 23) & 0xff) - 112) << 10) as u16 | (bits >> 13) as u16 & 0x3ff }
}

fn f16_value(bits: u16) -> f64 {
    let (sign, exponent, fraction) = (bits >> 15, (bits >> 10) & 31, f64::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (1.0 + fraction / 1024.0) * 2f64.powi(i32::from(e) - 15),
    };
    if sign == 1 { -size } else { size }
}

/// The elements as f64; integers beyond 53 bits as their nearest.
fn values(tensor: &Tensor) -> Vec<f64> {
    let elem = tensor.elem();
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |word, byte| (word << 8) | u64::from(*byte));
    let value = |bytes: &[u8]| {
        let word = word(bytes);
        match elem {
            ElemType::F64 => f64::from_bits(word),
            ElemType::F32 => f64::from(f32::from_bits(word as u32)),
            ElemType::F16 => f16_value(word as u16),
            ElemType::Bf16 => f64::from(f32::from_bits((word as u32) << 16)),
            ElemType::I8 => f64::from(word as i8),
            ElemType::I16 => f64::from(word as i16),
            ElemType::I32 => f64::from(word as i32),
            ElemType::I64 => word as i64 as f64,
            ElemType::I1 | ElemType::U8 | ElemType::U16 | ElemType::U32 | ElemType::U64 => word as f64,
        }
    };
    tensor.bytes().chunks_exact(elem.size()).map(value).collect()
}

/// `||found - expected|| / ||expected||`; infinite for other shapes, and where one is NaN or infinite and the other is not.
fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    if found.shape() != expected.shape() || found.elem() != expected.elem() {
        return f64::INFINITY;
    }
    let (mut difference, mut norm) = (0.0, 0.0);
    for (a, b) in values(found).into_iter().zip(values(expected)) {
        if a == b {
            norm += if b.is_finite() { b * b } else { 0.0 };
        } else {
            difference += (a - b) * (a - b);
            norm += b * b;
        }
    }
    match (difference, norm) {
        (0.0, _) => 0.0,
        (d, n) if d.is_finite() && n.is_finite() && n > 0.0 => f64::sqrt(d / n),
        _ => f64::INFINITY,
    }
}
