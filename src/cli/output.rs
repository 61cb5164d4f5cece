//! Standard output and output files: a closed pipe is not an error, and a file is there whole or not at all.

use super::explain::Code;
use super::failure::{Failure, Result};
use kiln_runtime::cli::check_overwrites;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Writes facts to standard output. A reader that has left, as `head` does, has all it wants.
pub(crate) fn print(bytes: impl AsRef<[u8]>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes.as_ref()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Write, format_args!("standard output: {e}")))
        }
        _ => Ok(()),
    }
}

/// The facts of a verb, as text or as one JSON object on one line.
pub(crate) fn facts(json: bool, object: serde_json::Value, text: impl FnOnce() -> String) -> Result<()> {
    print(if json { format!("{object}\n") } else { text() })
}

/// Checks that `path` lies in a folder, before any work is done for it.
pub(crate) fn folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail = |e: &dyn Display| Err(Failure::new(Code::Write, format_args!("{}: {e}", path.display())));
    match std::fs::metadata(folder) {
        _ if path.is_dir() => fail(&"expected a file, found a folder"),
        Ok(m) if m.is_dir() => Ok(()),
        Ok(_) => fail(&format_args!("{} is no folder", folder.display())),
        Err(e) => fail(&format_args!("{}: {e}", folder.display())),
    }
}

/// Checks that no output is one of the files that are read: those of a model, or others. Before any work is done.
pub(crate) fn overwrites(outputs: &[&Path], model: &Path, others: &[&Path]) -> Result<()> {
    // What is new takes the place of nothing, and finding a model's files can take reading a text.
    let files = if outputs.iter().any(|p| p.is_file()) { kiln_frontend::files(model) } else { vec![] };
    let read: Vec<&Path> = files.iter().map(|p| &**p).chain(others.iter().copied()).collect();
    Ok(check_overwrites(outputs, &read)?)
}

/// Creates `path` with these bytes: all of them, or what stood there before stays.
pub(crate) fn file(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = kiln_runtime::write_output(path, |file| file.write_all(bytes));
    written.map_err(|e| Failure::new(Code::Write, format_args!("{}: {e}", path.display())))
}

/// Bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
    if n < 1000 {
        return format!("{n} bytes");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_for_people() {
        let cases = [(999, "999 bytes"), (1000, "1.0 KB"), (999_960, "1.0 MB"), (90_904_000, "90.9 MB")];
        cases.iter().for_each(|(n, text)| assert_eq!(bytes(*n), *text));
    }
}
