//! `[listen]`: where kmerged listens, who may connect, and how much each may take.
//!
//! What comes over the network is never let in by address alone: loopback asks for a token, and
//! anything else for certificates, or the configuration is refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::Keys;
use crate::paths::Surroundings;

/// The token's name in the state directory.
const TOKEN_NAME: &str = "token";

/// How kmerged listens.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Its permission bits.
    pub socket_mode: u32,
    /// User ids that may connect beside kmerged's own and root.
    pub allowed_uids: Vec<u32>,
    /// TCP, if that is wanted too.
    pub tcp: Option<Tcp>,
    /// Whether the reflection services are served.
    pub reflection: bool,
    /// What callers may take.
    pub limits: Limits,
    /// How long a call may wait for the catalog.
    pub request_timeout: Duration,
    /// The time an upload may be silent.
    pub stream_idle: Duration,
}

impl Listen {
    /// Whether anybody beside kmerged's own user and root may come in.
    pub(super) fn has_others(&self) -> bool {
        self.tcp.is_some() || !self.allowed_uids.is_empty()
    }
}

/// How kmerged listens on TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// How callers show that they may come in.
    pub proof: Proof,
}

/// How a caller over TCP shows that it may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// By the token in this file. On loopback only: it is sent in the clear.
    Token(PathBuf),
    /// By a certificate of its own, over TLS.
    Certificates(TlsFiles),
}

/// The files of TLS, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate that kmerged shows, with what leads to its root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The roots that callers' certificates must lead to.
    pub client_ca: PathBuf,
}

/// What callers may take of kmerged.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections in all.
    pub connections: usize,
    /// Open connections of one user, or one address.
    pub connections_per_user: usize,
    /// Open streams per connection.
    pub streams: u32,
    /// Open calls in all.
    pub calls: usize,
    /// Open calls of one user, or one address.
    pub calls_per_user: usize,
    /// How long a connection may be open without a call.
    pub idle: Duration,
}

/// Reads the section. `state` is where the token is unless told otherwise.
pub(super) fn listen(
    keys: &mut Keys,
    flag: Option<&Path>,
    surroundings: &Surroundings,
    state: &Path,
) -> Listen {
    let configured = keys.path("listen.socket");
    Listen {
        socket: flag
            .map(Path::to_owned)
            .or(configured)
            .unwrap_or_else(|| surroundings.default_socket()),
        socket_mode: keys.octal("listen.socket_mode", 0o666),
        allowed_uids: keys.uids("listen.allowed_uids"),
        tcp: tcp(keys, state),
        reflection: keys.switch("listen.reflection"),
        limits: Limits {
            connections: keys.count("listen.connections", 1..=100_000),
            connections_per_user: keys.count("listen.connections_per_user", 1..=100_000),
            streams: u32::try_from(keys.count("listen.streams", 1..=10_000)).unwrap_or(u32::MAX),
            calls: keys.count("listen.calls", 1..=100_000),
            calls_per_user: keys.count("listen.calls_per_user", 1..=100_000),
            idle: keys.seconds("listen.idle_seconds", 1..=24 * 3600),
        },
        request_timeout: keys.seconds("listen.request_seconds", 1..=3600),
        stream_idle: keys.seconds("listen.stream_idle_seconds", 1..=3600),
    }
}

fn tcp(keys: &mut Keys, state: &Path) -> Option<Tcp> {
    let text = keys.text("listen.tcp");
    let token = keys.path("listen.token_file");
    let tls = tls(keys);
    if text.is_empty() {
        if tls.is_some() {
            keys.problem(
                "listen.tls",
                "is of no use without listen.tcp: set an address there, such as \"0.0.0.0:7447\"",
            );
        }
        return None;
    }
    let Ok(address) = text.parse::<SocketAddr>() else {
        keys.problem(
            "listen.tcp",
            &format!("is \"{text}\"; it must be an address and a port, such as \"127.0.0.1:7447\""),
        );
        return None;
    };
    let proof = match tls {
        Some(files) => Proof::Certificates(files),
        None => {
            if !address.ip().is_loopback() {
                keys.problem(
                    "listen.tcp",
                    &format!(
                        "is {address}, which others can reach: without listen.tls.certificate, key and \
                         client_ca only loopback is allowed, such as \"127.0.0.1:{}\"",
                        address.port()
                    ),
                );
            }
            Proof::Token(token.unwrap_or_else(|| state.join(TOKEN_NAME)))
        }
    };
    Some(Tcp { address, proof })
}

/// All three files or none: a server that does not ask for certificates would let anybody in.
fn tls(keys: &mut Keys) -> Option<TlsFiles> {
    let names = ["certificate", "key", "client_ca"].map(|name| format!("listen.tls.{name}"));
    let paths = names.each_ref().map(|name| keys.path(name));
    match paths {
        [None, None, None] => None,
        [Some(certificate), Some(key), Some(client_ca)] => Some(TlsFiles {
            certificate,
            key,
            client_ca,
        }),
        some => {
            let missing = names.iter().zip(&some).filter(|(_, path)| path.is_none());
            for (name, _) in missing {
                keys.problem(name, "is empty; TLS needs certificate, key and client_ca");
            }
            None
        }
    }
}
