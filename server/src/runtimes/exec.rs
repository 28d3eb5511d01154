//! A command that is run for each step, for runtimes that nothing here knows. The facts are in its
//! environment; it succeeds by exit code 0, and is run again if it fails or is too slow. What it did
//! is taken for what is so, and all of it is told again after a restart of kmerged.

use std::time::Duration;

use async_trait::async_trait;

use super::command;
use super::event::Teller;
use super::runtime::{CallError, Given, Runtime, Tells};

/// A command.
#[derive(Debug)]
pub struct Exec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may take.
    pub time: Duration,
    /// Who tells.
    pub teller: Teller,
}

#[async_trait]
impl Runtime for Exec {
    fn tells(&self) -> Tells {
        Tells::Nothing
    }

    async fn load(&self, given: &Given<'_>) -> Result<(), CallError> {
        let facts = self.teller.about("load", None, given);
        command::run(&self.command, &facts, self.time).await
    }

    async fn switch(&self, alias: &str, given: &Given<'_>) -> Result<(), CallError> {
        let facts = self.teller.about("switch", Some(alias), given);
        command::run(&self.command, &facts, self.time).await
    }

    async fn unroute(&self, alias: &str) -> Result<(), CallError> {
        let facts = self.teller.plain("remove", None, Some(alias));
        command::run(&self.command, &facts, self.time).await
    }

    async fn unload(&self, name: &str) -> Result<(), CallError> {
        let facts = self.teller.plain("unload", Some(name), None);
        command::run(&self.command, &facts, self.time).await
    }
}
