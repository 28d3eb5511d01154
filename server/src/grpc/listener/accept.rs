//! Accepts connections, of the Unix socket and of TCP: whose they are, whether they may come in, and
//! whether there is room for one more.
//!
//! Who may not come in, and what is too much, is closed at once, before a byte is read; the client
//! sees a lost connection and the log says why. An accept that fails, most often for want of file
//! descriptors, is tried again after a moment instead of at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::complaints::Complaints;
pub use super::token::Token;
use super::{ListenError, tls};
use crate::config::{Limits, Proof, Tcp};
use crate::grpc::caller::{Caller, Trust};
use crate::shares::{Full, Peer, Share, Shares};

/// Waits this long after accept failed.
const BACKOFF: Duration = Duration::from_millis(100);

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Bytes both ways.
pub(in crate::grpc) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What a call must show before it is taken, beside what the connection has shown.
#[derive(Debug, Clone)]
pub enum Pass {
    /// Nothing: the kernel or a certificate has said who it is.
    Known,
    /// The token, on a name of loopback with this port.
    Token {
        /// What must be sent.
        token: Arc<Token>,
        /// Where kmerged listens.
        address: SocketAddr,
    },
}

/// TCP, open.
#[derive(Debug)]
pub struct TcpDoor {
    listener: TcpListener,
    address: SocketAddr,
    entry: Entry,
}

#[derive(Clone)]
enum Entry {
    Token(Arc<Token>),
    Tls(TlsAcceptor),
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::Tls(_) => "Tls",
        })
    }
}

impl TcpDoor {
    /// Reads what callers are checked by, and listens.
    ///
    /// # Errors
    /// [`ListenError`], naming what is wrong and what to do.
    pub async fn open(tcp: &Tcp) -> Result<Self, ListenError> {
        let entry = match &tcp.proof {
            Proof::Token(path) => Entry::Token(Arc::new(Token::load(path)?)),
            Proof::Certificates(files) => Entry::Tls(tls::acceptor(files)?),
        };
        let failed = |source| ListenError::Address {
            address: tcp.address,
            source,
        };
        let listener = TcpListener::bind(tcp.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            entry,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

enum Wire {
    Unix(UnixStream),
    Tcp(TcpStream, Entry, SocketAddr),
}

/// A connection that may come in.
pub(in crate::grpc) struct Arrival {
    wire: Wire,
    /// Whose it is.
    pub(in crate::grpc) caller: Caller,
    share: Share,
}

/// A connection that is ready for requests.
pub(in crate::grpc) struct Settled {
    /// Its bytes.
    pub(in crate::grpc) wire: Box<dyn Duplex>,
    /// What each call must show.
    pub(in crate::grpc) pass: Pass,
    /// Its place among the connections.
    pub(in crate::grpc) share: Share,
}

impl Arrival {
    /// Does what must come before the first request: for TLS, the handshake.
    ///
    /// # Errors
    /// If the handshake fails or takes too long.
    pub(in crate::grpc) async fn settle(self) -> io::Result<Settled> {
        let (wire, pass): (Box<dyn Duplex>, _) = match self.wire {
            Wire::Unix(stream) => (Box::new(stream), Pass::Known),
            Wire::Tcp(stream, Entry::Token(token), address) => {
                (Box::new(stream), Pass::Token { token, address })
            }
            Wire::Tcp(stream, Entry::Tls(acceptor), _) => {
                let handshake = acceptor.accept(stream);
                let stream = tokio::time::timeout(HANDSHAKE, handshake).await??;
                (Box::new(stream), Pass::Known)
            }
        };
        Ok(Settled {
            wire,
            pass,
            share: self.share,
        })
    }
}

/// All ways in.
#[derive(Debug)]
pub struct Door {
    unix: UnixListener,
    tcp: Option<TcpDoor>,
    allowed: Vec<u32>,
    shares: Shares,
    strangers: Complaints,
    crowd: Complaints,
    failures: Complaints,
}

impl Door {
    /// Accepts on the socket for this process's user, root, and `allowed`; on `tcp` for everybody
    /// who shows later that it may.
    pub fn new(
        unix: UnixListener,
        tcp: Option<TcpDoor>,
        mut allowed: Vec<u32>,
        limits: Limits,
    ) -> Self {
        allowed.extend([0, rustix::process::geteuid().as_raw()]);
        Self {
            unix,
            tcp,
            allowed,
            shares: Shares::new(limits.connections, limits.connections_per_user),
            strangers: Complaints::default(),
            crowd: Complaints::default(),
            failures: Complaints::default(),
        }
    }

    /// The next connection that may come in. Nothing is lost if the wait is given up.
    pub(in crate::grpc) async fn next(&self) -> Arrival {
        loop {
            let arrived = tokio::select! {
                arrived = self.unix.accept() => arrived.map(|(stream, _)| self.user(stream)),
                arrived = self.remote() => arrived,
            };
            match arrived {
                Ok(Some(arrival)) => return arrival,
                Ok(None) => {}
                // Most often EMFILE: trying again at once would spin.
                Err(error) => {
                    if let Some(more) = self.failures.due() {
                        tracing::warn!(%error, more, "cannot accept a connection");
                    }
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    fn user(&self, stream: UnixStream) -> Option<Arrival> {
        let uid = match stream.peer_cred() {
            Ok(peer) => peer.uid(),
            Err(error) => {
                if let Some(more) = self.strangers.due() {
                    tracing::warn!(%error, more, "refused a connection without a user id");
                }
                return None;
            }
        };
        if !self.allowed.contains(&uid) {
            if let Some(more) = self.strangers.due() {
                tracing::warn!(
                    uid,
                    more,
                    "refused a connection: add the user id to listen.allowed_uids to let it in"
                );
            }
            return None;
        }
        let is_owner = uid == 0 || uid == rustix::process::geteuid().as_raw();
        let caller = Caller {
            peer: Peer::User(uid),
            trust: if is_owner { Trust::Owner } else { Trust::User },
        };
        self.admit(Wire::Unix(stream), caller)
    }

    /// The next connection over TCP; never, if there is no TCP.
    async fn remote(&self) -> io::Result<Option<Arrival>> {
        let Some(tcp) = &self.tcp else {
            return std::future::pending().await;
        };
        let (stream, from) = tcp.listener.accept().await?;
        // Answers are short; waiting to fill a packet would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it was looked at");
        }
        let caller = Caller {
            peer: Peer::at(from.ip()),
            trust: Trust::Network,
        };
        let wire = Wire::Tcp(stream, tcp.entry.clone(), tcp.address);
        Ok(self.admit(wire, caller))
    }

    fn admit(&self, wire: Wire, caller: Caller) -> Option<Arrival> {
        match self.shares.take(caller.peer) {
            Ok(share) => Some(Arrival {
                wire,
                caller,
                share,
            }),
            Err(full) => {
                if let Some(more) = self.crowd.due() {
                    let (key, limit) = match full {
                        Full::All(limit) => ("listen.connections", limit),
                        Full::Peer(limit) => ("listen.connections_per_user", limit),
                    };
                    tracing::warn!(peer = %caller.peer, key, limit, more, "closed a connection: too many are open");
                }
                None
            }
        }
    }
}
