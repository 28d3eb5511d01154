//! Nobody is let in who should not be, and nobody who is in takes more than a share.
//!
//! | module | shows |
//! |---|---|
//! | `tcp` | TCP asks for a token, a name of loopback, gRPC, and no web page; all before the body |
//! | `tls` | beyond loopback a certificate, by the commands of the runbook |
//! | `users` | another user of this machine, really connecting |
//! | `connections` | connections in all and of one user, idle ones, floods, no descriptors left |
//! | `calls` | streams, calls, headers, messages, resets |
//! | `uploads` | uploads at once and their pace |
//! | `names` | thousands of hostile names, and no file anywhere |
//! | `paths` | what strangers are told names no directory |
//! | `http`, `frames` | requests and HTTP/2 frames as no good client sends them |

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests look at files from outside"
)]

#[path = "access/calls.rs"]
mod calls;
#[path = "access/connections.rs"]
mod connections;
#[path = "access/frames.rs"]
mod frames;
#[path = "access/http.rs"]
mod http;
#[path = "access/names.rs"]
mod names;
#[path = "access/paths.rs"]
mod paths;
mod support;
#[path = "access/tcp.rs"]
mod tcp;
#[path = "access/tls.rs"]
mod tls;
#[path = "access/uploads.rs"]
mod uploads;
#[path = "access/users.rs"]
mod users;

use std::net::SocketAddr;

use kmerge_client::{Address, Network};
use support::Daemon;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A configuration that listens on loopback too.
const TCP: &str = "listen.tcp = \"127.0.0.1:0\"";

/// By how much more than usual is to be done, for long runs.
fn factor() -> usize {
    std::env::var("KMERGE_ACCESS").map_or(1, |text| text.parse().unwrap())
}

/// Where a daemon with TCP listens: it says so.
fn port(daemon: &Daemon) -> SocketAddr {
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("listening on TCP too"))
        .unwrap_or_else(|| panic!("no TCP in:\n{log}"));
    let (_, address) = line.split_once("address=").unwrap();
    address.trim().parse().unwrap()
}

/// The address with the daemon's token.
fn with_token(daemon: &Daemon) -> Address {
    let mut network = Network::new(&format!("http://{}", port(daemon))).unwrap();
    network.token_file = Some(daemon.state().join("token"));
    Address::Network(network)
}

/// Whether a new connection stays: the daemon begins with its settings, or hangs up.
async fn gets_in(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut first = [0];
    matches!(stream.read(&mut first).await, Ok(1))
}
