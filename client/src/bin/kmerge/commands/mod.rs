//! The commands, one file for each group: ask the daemon, hand the answer to the output.

pub(crate) mod backup;
pub(crate) mod base;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod jobs;
pub(crate) mod pull;
pub(crate) mod push;
#[cfg(feature = "score")]
pub(crate) mod replay;
pub(crate) mod runtimes;
#[cfg(feature = "score")]
pub(crate) mod score;
pub(crate) mod scrub;
pub(crate) mod shell;
pub(crate) mod slots;
pub(crate) mod status;
pub(crate) mod tasks;
pub(crate) mod upkeep;
pub(crate) mod watch;

use crate::cli::Command;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Runs a command until it is done or interrupted from the keyboard.
pub(crate) async fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    // What has a daemon of its own stops it before it goes, so it minds interrupts itself.
    if let Command::Demo(demo) = command {
        return demo.run(context).await;
    }
    #[cfg(feature = "score")]
    if let Command::Replay(replay) = command {
        return replay.run(context).await;
    }
    tokio::select! {
        result = dispatch(command, context) => result,
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Err(Failure::interrupted()),
            Err(error) => Err(Failure::system("listen for interrupts", &error)),
        },
    }
}

async fn dispatch(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Base(base) => base.run(context).await,
        Command::Push(push) => push.run(context).await,
        Command::Slots(slots) => slots.run(context).await,
        Command::Slot(slot) => slot.run(context).await,
        Command::Tasks(tasks) => tasks.run(context).await,
        Command::Jobs(jobs) => jobs.run(context).await,
        Command::Job(job) => job.run(context).await,
        Command::Cancel(cancel) => cancel.run(context).await,
        Command::Watch(watch) => watch.run(context).await,
        Command::Resolve(resolve) => resolve.run(context).await,
        Command::Pull(pull) => pull.run(context).await,
        Command::Forget(forget) => forget.run(context).await,
        Command::Rollback(rollback) => rollback.run(context).await,
        Command::Pin(pin) => pin.run(context, true).await,
        Command::Unpin(pin) => pin.run(context, false).await,
        Command::Runtimes(runtimes) => runtimes.run(context).await,
        Command::Status => status::run(context).await,
        Command::Scrub(scrub) => scrub.run(context).await,
        Command::Backup(backup) => backup.run(context).await,
        Command::Restore(restore) => restore.run(context).await,
        Command::Doctor => doctor::run(context).await,
        #[cfg(feature = "score")]
        Command::Score(score) => score.run(context).await,
        #[cfg(feature = "score")]
        Command::Replay(replay) => replay.run(context).await,
        Command::Demo(demo) => demo.run(context).await,
        Command::Completions(completions) => completions.run(&context.output),
        Command::Man(man) => man.run(&context.output),
    }
}
