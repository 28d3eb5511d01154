//! `kmerge doctor`: checks the daemon and what is around it, and says what to do.
//!
//! Each check is a function from facts to a [`Check`]; this file asks for the facts, in the order
//! in which one depends on the other. What cannot be asked for is not guessed at.

mod daemon;
mod network;
mod socket;

use kmerge_client::{Address, Client};
use owo_colors::OwoColorize as _;
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::table::{Column, Table};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// It works, and someone should look at it.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do about it.
    hint: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            hint: None,
        }
    }

    fn warn(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Warn,
            found: found.into(),
            hint: Some(hint.into()),
        }
    }

    fn fail(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Fail,
            found: found.into(),
            hint: Some(hint.into()),
        }
    }
}

pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let checks = checks(context).await;
    let items = checks.iter().map(document).collect();
    context.output.list("checks", items, || view(&checks))?;
    let failed = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Fail)
        .count();
    // The checks themselves are the answer; the exit code only sums them up.
    Ok(if failed == 0 {
        Exit::Done
    } else {
        Exit::Refused
    })
}

async fn checks(context: &Context) -> Vec<Check> {
    let mut checks = match &context.address {
        Address::Socket(socket) => socket::checks(socket),
        Address::Network(network) => network::checks(network),
        _ => Vec::new(),
    };
    let client = match Client::connect_to(&context.address).await {
        Ok(client) => client,
        Err(error) => {
            checks.push(daemon::silent(error));
            return checks;
        }
    };
    checks.push(Check::ok("daemon", "answers"));
    checks.push(daemon::health(client.health().await));
    match client.get_status().await {
        Ok(status) => checks.extend(daemon::status(&status, &context.address)),
        Err(error) => checks.push(daemon::unasked("status", error)),
    }
    match client.list_base_models().await {
        Ok(bases) => checks.extend(daemon::budgets(&bases)),
        Err(error) => checks.push(daemon::unasked("budget", error)),
    }
    checks
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    }
}

fn document(check: &Check) -> Json {
    json!({
        "name": check.name,
        "state": word(check.verdict),
        "message": check.found,
        "hint": check.hint,
    })
}

fn view(checks: &[Check]) -> String {
    let mut table = Table::new(&[
        Column::Left("STATE"),
        Column::Left("CHECK"),
        Column::Left("FOUND"),
    ]);
    for check in checks {
        let word = word(check.verdict);
        let word = match check.verdict {
            Verdict::Ok => word.green().to_string(),
            Verdict::Warn => word.yellow().to_string(),
            Verdict::Fail => word.red().bold().to_string(),
        };
        let found = match &check.hint {
            Some(hint) => format!("{}\n{} {hint}", check.found, "->".cyan()),
            None => check.found.clone(),
        };
        table.row([word, check.name.to_owned(), found]);
    }
    table.render()
}

#[cfg(test)]
mod tests;
