//! Local runtimes are told of new generations: each kind against a server in the test that speaks
//! the runtime's real interface, with everything that can go wrong on the way.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests look at files from outside"
)]

#[path = "runtimes/faults.rs"]
mod faults;
#[path = "runtimes/hooks.rs"]
mod hooks;
#[path = "runtimes/llama_server.rs"]
mod llama_server;
#[path = "runtimes/lorax.rs"]
mod lorax;
#[path = "runtimes/mistralrs.rs"]
mod mistralrs;
#[path = "runtimes/ollama.rs"]
mod ollama;
#[path = "runtimes/server.rs"]
mod server;
#[path = "runtimes/sglang.rs"]
mod sglang;
#[path = "runtimes/states.rs"]
mod states;
mod support;
#[path = "runtimes/vllm.rs"]
mod vllm;

use kmerge_client::Client;
use support::adapters::small;
use support::calls::{merge, policy, register};
use support::{BASE, Daemon, Setup};

/// An entry for a runtime of that kind, quick to notice things, and whatever else `more` says.
fn entry(name: &str, kind: &str, address: &str, more: &str) -> String {
    let address = if address.is_empty() {
        String::new()
    } else {
        format!("address = \"{address}\"\n")
    };
    format!(
        "[[runtime]]\nname = \"{name}\"\nkind = \"{kind}\"\nbase_model = \"{BASE}\"\n{address}\
         probe_seconds = 1\ndrain_seconds = 1\n{more}\n"
    )
}

/// A daemon with that configuration and one slot, so that every merge makes a new generation of it.
async fn daemon(config: &str) -> (Daemon, Client) {
    let daemon = Setup::default().config(config).start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    (daemon, client)
}

/// Merges an adapter of its own for each task.
async fn push(client: &Client, tasks: &[&str]) {
    for task in tasks {
        let seed = task.bytes().map(u64::from).sum();
        merge(client, task, &small(2, seed).adapter()).await;
    }
}

/// A name without the digits of its digest: `tiny-slot-0.g1` of `tiny-slot-0.g1.0123abcd`.
fn short(name: &str) -> String {
    let versioned = name.rsplit_once('.').filter(|(rest, digits)| {
        rest.contains(".g") && digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit())
    });
    versioned.map_or(name, |(rest, _)| rest).to_owned()
}
