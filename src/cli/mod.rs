//! The command line: one file a verb; `run` and `bench` are the runtime's.
//!
//! What is asked for goes to standard output, with `--json` as one object on its last line; progress and errors go to
//! standard error. Exit codes: 0 done, 1 the input or the environment is at fault, 2 the command line is, 3 a
//! comparison failed its tolerance.

mod artifact;
mod explain;
mod failure;
mod interpret;
mod options;
mod output;
mod progress;

mod check;
mod coding;
mod compare;
mod compile;
mod doctor;
mod eval;
mod inspect;
mod opt;
mod targets;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Compile a model file to one artifact of native code, and run artifacts
#[derive(Parser, Debug)]
#[command(name = "kiln", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Compile(compile::Args),
    Run(kiln_runtime::cli::RunArgs),
    Bench(kiln_runtime::cli::BenchArgs),
    Encode(kiln_runtime::cli::EncodeArgs),
    Decode(kiln_runtime::cli::DecodeArgs),
    Inspect(inspect::Args),
    Opt(opt::Args),
    Eval(eval::Args),
    Compare(compare::Args),
    Check(check::Args),
    Doctor(doctor::Args),
    Explain(explain::Args),
    Targets(targets::Args),
}

/// Runs the program on its arguments.
pub(crate) fn main() -> ExitCode {
    kiln_runtime::cli::begin();
    let done = match Cli::parse().verb {
        Verb::Compile(args) => compile::run(args),
        Verb::Run(args) => artifact::verb(|out| kiln_runtime::cli::run(&args, out)),
        Verb::Bench(args) => artifact::verb(|out| kiln_runtime::cli::bench(&args, out)),
        Verb::Encode(args) => coding::encode(&args),
        Verb::Decode(args) => coding::decode(&args),
        Verb::Inspect(args) => inspect::run(args),
        Verb::Opt(args) => opt::run(args),
        Verb::Eval(args) => eval::run(args),
        Verb::Compare(args) => compare::run(args),
        Verb::Check(args) => check::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Explain(args) => explain::run(args),
        Verb::Targets(args) => targets::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to be told of a standard error that is closed.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), failure.report().as_bytes());
            ExitCode::from(failure.status())
        }
    }
}
