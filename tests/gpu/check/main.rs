//! `gpu_check BUNDLE [--out FOLDER] [--only PART,..] [--peers FILE] [--no-cases] [--no-benches]`: runs a bundle on this machine's GPU and says what it
//! found, as a table and, in FOLDER, as `gpu.json` and line by line in `gpu.jsonl`. The exit code is 1 where a case is wrong, and
//! 2 where nothing could run; `gpu.json` then has the problem.

mod checks;
mod judge;

use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

struct Args {
    bundle: PathBuf,
    out: Option<PathBuf>,
    only: Vec<String>,
    /// PyTorch's times of benches in microseconds by name, as `torch_peers.py` writes them.
    peers: Option<PathBuf>,
    cases: bool,
    benches: bool,
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(problem) => return fail(&problem),
    };
    let out = args.out.clone();
    match run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            if let Some(Err(second)) = out.map(|out| write(&out, &json!({"problem": problem, "rows": []}))) {
                eprintln!("gpu_check: {second}");
            }
            fail(&problem)
        }
    }
}

fn fail(problem: &str) -> ExitCode {
    eprintln!("gpu_check: {problem}");
    ExitCode::from(2)
}

fn args() -> Result<Args, String> {
    let (mut bundle, mut out, mut only, mut peers) = (None, None, vec![], None);
    let (mut cases, mut benches) = (true, true);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg}: expected a value"));
        match arg.as_str() {
            "--out" => out = Some(PathBuf::from(value()?)),
            "--only" => only = value()?.split(',').map(str::to_owned).collect(),
            "--peers" => peers = Some(PathBuf::from(value()?)),
            "--no-cases" => cases = false,
            "--no-benches" => benches = false,
            _ => bundle = Some(PathBuf::from(arg)),
        }
    }
    let bundle = bundle.ok_or("expected a folder that gpu_bundle has written")?;
    Ok(Args { bundle, out, only, peers, cases, benches })
}

/// Writes the report, in a folder that there may not be yet.
fn write(folder: &Path, report: &Value) -> Result<(), String> {
    let path = folder.join("gpu.json");
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, format!("{report:#}\n")));
    written.map_err(|e| format!("{}: {e}", path.display()))
}

fn run(Args { bundle, out, only, peers, cases, benches }: Args) -> Result<bool, String> {
    let device = kiln_runtime::cuda::describe().map_err(|e| e.to_string())?;
    println!("{device}");
    let mut lines = match &out {
        Some(folder) => {
            let path = folder.join("gpu.jsonl");
            let file = fs::create_dir_all(folder).and_then(|()| fs::File::create(&path));
            Some(file.map_err(|e| format!("{}: {e}", path.display()))?)
        }
        None => None,
    };
    let mut row = |row: &Value| {
        if !row["problem"].is_null() || row["kind"] == "bench" {
            println!("{}", checks::table(std::slice::from_ref(row)).lines().skip(1).collect::<Vec<_>>().join("\n"));
        }
        if let Some(file) = &mut lines {
            // A full disk does not end the checks.
            let _ = writeln!(file, "{row}");
        }
    };
    // Without PyTorch there are no peers.
    let peers = peers.and_then(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).unwrap_or(Value::Null);
    let options = checks::Options { bundle: &bundle, driver: None, only, cases, benches, peers, row: &mut row };
    let rows = checks::run(options)?;
    println!("\n{}\n\n{}", checks::table(&rows), judge::summary(&rows));
    if let Some(folder) = &out {
        let figures = rows.iter().flat_map(|row| row["figures"].as_array().into_iter().flatten());
        let count = |met: Value| figures.clone().filter(|figure| figure["met"] == met).count();
        let (met, missed, open) = (count(json!(true)), count(json!(false)), count(Value::Null));
        let figures = json!({"met": met, "not_met": missed, "open": open});
        write(folder, &json!({"device": device, "figures": figures, "rows": rows}))?;
    }
    Ok(checks::is_good(&rows))
}
