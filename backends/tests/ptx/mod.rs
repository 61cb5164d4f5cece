//! ptxas, NVIDIA's assembler, where it is installed: `KILN_PTXAS`, the PATH, or where setup.sh puts it.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use kiln_kernels::cuda::Sm;
use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
};

/// What ptxas says of one kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usage {
    pub kernel: String,
    pub registers: u32,
    /// Bytes stored to and loaded from local memory for want of registers.
    pub spilled: u32,
    /// Bytes of local memory.
    pub stack: u32,
}

/// The families with kernels of their own, in which nothing may be spilled.
const HOT: &[&str] = &[
    "map_",
    "matmul_",
    "row_",
    "reduce_",
    "gather_",
    "attention_",
    "decode_",
    "topk_",
    "cell_",
    "region_",
    "circuit_",
];

/// The kernels that spill and may not.
pub fn spilling(usages: &[Usage]) -> Vec<&Usage> {
    let hot = |u: &&Usage| u.spilled > 0 && HOT.iter().any(|family| u.kernel.starts_with(family));
    usages.iter().filter(hot).collect()
}

/// The assembler; prints once why there is none.
pub fn ptxas() -> Option<&'static PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let installed = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../ptxas/nvidia/cu13/bin/ptxas");
        let named = std::env::var_os("KILN_PTXAS").map(PathBuf::from);
        let candidates = named.into_iter().chain([PathBuf::from("ptxas"), installed]);
        let runs = |path: &PathBuf| {
            let quiet = Command::new(path).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            quiet.is_ok_and(|status| status.success())
        };
        let found = candidates.into_iter().find(runs);
        if found.is_none() {
            println!("skipped: no ptxas in KILN_PTXAS or on the PATH; ./setup.sh --tests installs it");
        }
        found
    };
    FOUND.get_or_init(find).as_ref()
}

/// Assembles PTX for its target; panics with what ptxas has to say against it.
pub fn assemble(ptxas: &PathBuf, sm: Sm, ptx: &[u8]) -> Vec<Usage> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kernels.ptx");
    std::fs::write(&file, ptx).unwrap();
    let arch = format!("-arch={}", sm.name());
    let args = ["-v", &arch, "-o", "/dev/null"];
    let output = Command::new(ptxas).args(args).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "ptxas {arch}: {said}\n{}", String::from_utf8_lossy(ptx));
    // Products of warp groups that ptxas runs one by one, registers that it does not hand over, and the like.
    let warned: Vec<&str> = said.lines().filter(|l| l.contains("Performance") || l.contains("ignored")).collect();
    assert!(warned.is_empty(), "ptxas {arch}: {}", warned.join("; "));
    usages(&said)
}

/// Reads lines such as `Compiling entry function 'f' for 'sm_80'`, `8 bytes stack frame, 0 bytes spill stores, 0 bytes
/// spill loads` and `Used 29 registers`.
fn usages(said: &str) -> Vec<Usage> {
    let number = |line: &str, before: &str| -> u32 {
        let end = line.find(before).unwrap_or(0);
        line[..end].trim_end().rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let mut found: Vec<Usage> = vec![];
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or("").to_string();
            found.push(Usage { kernel, registers: 0, spilled: 0, stack: 0 });
        } else if let Some(last) = found.last_mut() {
            if line.contains("bytes spill stores") && last.registers == 0 {
                last.spilled = number(line, "bytes spill stores") + number(line, "bytes spill loads");
                last.stack = number(line, "bytes stack frame");
            } else if line.contains("registers") {
                last.registers = number(line, "registers");
            }
        }
    }
    found
}
