//! `kmerged`: a table of contents. Arguments, configuration, logging, then the app until it stops.

use std::process::ExitCode;

use clap::Parser as _;
use kmerge_server::app::App;
use kmerge_server::args::Args;
use kmerge_server::config::{Config, DEFAULT_CONFIG};
use kmerge_server::{restore, telemetry};

/// The configuration is wrong (EX_USAGE).
const EXIT_CONFIG: u8 = 64;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.print_default_config {
        say(DEFAULT_CONFIG.trim_end());
        return ExitCode::SUCCESS;
    }
    let config = match Config::load(&args) {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if args.check_config {
        say("the configuration is valid");
        return ExitCode::SUCCESS;
    }
    if let Some(file) = &args.restore {
        only_for_owner();
        let said = restore::run(&config, file, args.dry_run, args.json);
        return match (said.is_done, args.json) {
            (true, _) => {
                say(&said.text);
                ExitCode::SUCCESS
            }
            (false, true) => {
                say(&said.text);
                ExitCode::FAILURE
            }
            (false, false) => {
                complain(&said.text);
                ExitCode::FAILURE
            }
        };
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    telemetry::start(&config.log)?;
    only_for_owner();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers.threads.clamp(1, 4))
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let app = App::build(config)?;
        app.run().await
    });
    // A merge that outlived its deadline must not keep the process.
    runtime.shutdown_background();
    result
}

/// Everything that is created is the owner's alone, whatever the shell's umask was.
fn only_for_owner() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

#[expect(clippy::print_stdout, reason = "this is what was asked for")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "logging may not be up yet")]
fn complain(text: &str) {
    eprintln!("kmerged: {text}");
}
