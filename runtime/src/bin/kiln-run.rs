//! Runs, times and shows artifacts, without the compiler.

use clap::{Parser, Subcommand};
use kiln_runtime::cli;
use std::io::{BufWriter, stdout};
use std::process::ExitCode;

/// Run artifacts that `kiln compile` made
#[derive(Parser)]
#[command(name = "kiln-run", version)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(cli::RunArgs),
    Bench(cli::BenchArgs),
    Encode(cli::EncodeArgs),
    Decode(cli::DecodeArgs),
    Inspect(cli::InspectArgs),
}

fn main() -> ExitCode {
    cli::begin();
    let args = Args::parse();
    let out = &mut BufWriter::new(stdout().lock());
    cli::exit(match &args.verb {
        Verb::Run(args) => cli::run(args, out),
        Verb::Bench(args) => cli::bench(args, out),
        Verb::Encode(args) => cli::encode(args, out),
        Verb::Decode(args) => cli::decode(args, out),
        Verb::Inspect(args) => cli::inspect(args, out),
    })
}
