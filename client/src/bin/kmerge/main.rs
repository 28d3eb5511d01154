//! `kmerge`, the command line of kmerged. This file is the table of contents.
//!
//! | module | does |
//! |---|---|
//! | [`cli`] | the arguments, their help, and which command they name |
//! | [`commands`] | one file for each group of commands |
//! | [`context`] | what every command needs: the socket, the output, the usual base model |
//! | [`daemon`] | a private kmerged, for the demo and for replays |
//! | [`failure`] | what went wrong, its exit code, and how it is said |
//! | [`output`] | tables, JSON, colours, progress |
//! | [`policy`] | the options that say how adapters are merged |
//! | `score` | how well tasks are done with adapters on a real model; the feature `score` |
//! | [`values`] | arguments from text to value: names, sizes, words |
//!
//! Results go to stdout and everything else to stderr. A command returns a value; only [`main`]
//! ends the process.

mod bake;
mod cli;
mod commands;
mod context;
mod daemon;
mod failure;
mod files;
mod gguf_model;
mod output;
mod policy;
#[cfg(feature = "score")]
mod score;
mod values;

use std::process::ExitCode;

use clap::Parser as _;

use cli::Cli;
use context::Context;
use failure::Failure;
use output::{Format, Output};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = Output::new(cli.globals.format(), cli.globals.color, cli.globals.quiet);
    let address = match cli.globals.target(|name| std::env::var_os(name)) {
        Ok(address) => address,
        Err(failure) => {
            output.failure(&failure);
            return failure.exit.into();
        }
    };
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::system("start", &error))
        .and_then(|runtime| {
            let context = Context::new(address, output);
            runtime.block_on(commands::run(cli.command, &context))
        });
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

/// Arguments that make no sense, or a wish for help.
fn usage(error: &clap::Error) -> ExitCode {
    // The format is not known from arguments that could not be read, so it is looked for.
    if error.use_stderr() && cli::wants_json(std::env::args_os()) {
        let output = Output::new(Format::Json, output::ColorWish::Never, true);
        let failure = Failure::usage(error.render().to_string().trim());
        output.failure(&failure);
        return failure.exit.into();
    }
    // If even this cannot be written, the exit code still tells.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
