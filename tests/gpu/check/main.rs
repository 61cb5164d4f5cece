//! `gpu_check BUNDLE [--out FOLDER] [--only PART,..] [--no-cases] [--no-benches]`: runs a bundle on this machine's GPU and says what it
//! found, as a table and, in FOLDER, as `gpu.json` and line by line in `gpu.jsonl`. The exit code is 1 where a case is wrong.

mod checks;

use serde_json::{Value, json};
use std::{fs, io::Write, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("gpu_check: {problem}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, String> {
    let (mut bundle, mut out, mut only, mut cases, mut benches) = (None, None, vec![], true, true);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg}: expected a value"));
        match arg.as_str() {
            "--out" => out = Some(PathBuf::from(value()?)),
            "--only" => only = value()?.split(',').map(str::to_owned).collect(),
            "--no-cases" => cases = false,
            "--no-benches" => benches = false,
            _ => bundle = Some(PathBuf::from(arg)),
        }
    }
    let bundle = bundle.ok_or("expected a folder that gpu_bundle has written")?;
    let device = kiln_runtime::cuda::describe().map_err(|e| e.to_string())?;
    println!("{device}");
    let io = |e: std::io::Error| format!("{}: {e}", out.as_deref().unwrap_or(&bundle).display());
    let mut lines = match &out {
        Some(folder) => {
            fs::create_dir_all(folder).map_err(io)?;
            Some(fs::File::create(folder.join("gpu.jsonl")).map_err(io)?)
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
    let options = checks::Options { bundle: &bundle, driver: None, only, cases, benches, row: &mut row };
    let rows = checks::run(options)?;
    println!("\n{}", checks::table(&rows));
    if let Some(folder) = &out {
        let report = json!({"device": device, "rows": rows});
        fs::write(folder.join("gpu.json"), format!("{report:#}\n")).map_err(io)?;
    }
    Ok(checks::is_good(&rows))
}
