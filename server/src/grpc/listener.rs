//! The Unix socket: taken over from the service manager or bound here, and who may connect.
//!
//! A stale socket is removed only while the state directory's lock is held, and only if nobody
//! answers on it. Peers are told apart by the user id the kernel gives, never by what they say.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::Sleep;
use tokio_stream::Stream;

use crate::config::Listen;

/// Waits this long after accept failed for want of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process answers there.
    #[error("{} is in use by another process; stop it, or pass another --socket", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{} exists and is not a socket; move it away, or pass another --socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket to accept connections on.
#[derive(Debug)]
pub struct Socket {
    /// Accepts.
    pub listener: UnixListener,
    /// Whether its file was made here, and so is to be removed here.
    pub is_own: bool,
}

/// Takes the listener that systemd passed, or binds the configured one.
///
/// # Errors
/// [`ListenError`], naming the path and what to do.
pub fn listen(listen: &Listen) -> Result<Socket, ListenError> {
    if let Some(listener) = from_service_manager(&listen.socket)? {
        return Ok(Socket {
            listener,
            is_own: false,
        });
    }
    let path = &listen.socket;
    let failed = |verb| {
        let path = path.clone();
        move |source| ListenError::Io { verb, path, source }
    };
    make_directory(path).map_err(failed("create the directory of"))?;
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(listen.socket_mode))
        .map_err(failed("set the permissions of"))?;
    Ok(Socket {
        listener,
        is_own: true,
    })
}

fn from_service_manager(path: &Path) -> Result<Option<UnixListener>, ListenError> {
    let failed = |source| ListenError::Io {
        verb: "take over the passed socket instead of",
        path: path.to_owned(),
        source,
    };
    let Some(listener) = listenfd::ListenFd::from_env()
        .take_unix_listener(0)
        .map_err(failed)?
    else {
        return Ok(None);
    };
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map(Some).map_err(failed)
}

/// Creates the socket's directory for the owner alone. One that exists is left as it is.
fn make_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    match path.parent() {
        Some(parent) if !parent.exists() => std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent),
        _ => Ok(()),
    }
}

fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ListenError::InUse(path.to_owned()));
    }
    tracing::info!(socket = %path.display(), "removing a socket that nobody listens on");
    remove(path).map_err(|source| ListenError::Io {
        verb: "remove",
        path: path.to_owned(),
        source,
    })
}

/// Removes the file of an own socket at the end. One that the service manager passed stays its own.
#[expect(
    clippy::disallowed_methods,
    reason = "the socket is the server's, not part of the state"
)]
pub fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
}

/// The connections of allowed users, for ever. Others are dropped before a byte is read.
#[derive(Debug)]
pub struct Acceptor {
    listener: UnixListener,
    allowed: Vec<u32>,
    backoff: Option<Pin<Box<Sleep>>>,
}

impl Acceptor {
    /// Accepts for this process's user, root, and `allowed`.
    pub fn new(listener: UnixListener, mut allowed: Vec<u32>) -> Self {
        allowed.extend([0, rustix::process::geteuid().as_raw()]);
        Self {
            listener,
            allowed,
            backoff: None,
        }
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        match stream.peer_cred() {
            Ok(peer) if self.allowed.contains(&peer.uid()) => true,
            Ok(peer) => {
                tracing::warn!(
                    uid = peer.uid(),
                    "refused a connection: add the user id to listen.allowed_uids to let it in"
                );
                false
            }
            Err(error) => {
                tracing::warn!(%error, "refused a connection without a user id");
                false
            }
        }
    }
}

impl Stream for Acceptor {
    type Item = io::Result<UnixStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(backoff) = &mut self.backoff {
                ready!(backoff.as_mut().poll(context));
                self.backoff = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) if self.admits(&stream) => return Poll::Ready(Some(Ok(stream))),
                Ok(_) => {}
                // Most often EMFILE: trying again at once would spin.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    self.backoff = Some(Box::pin(tokio::time::sleep(ACCEPT_BACKOFF)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn config(socket: PathBuf) -> Listen {
        Listen {
            socket,
            socket_mode: 0o600,
            allowed_uids: Vec::new(),
            reflection: false,
            streams: 1,
            request_timeout: Duration::from_secs(1),
            stream_idle: Duration::from_secs(1),
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path().join("deeper/kmerged.sock"));
        let first = listen(&config).unwrap();
        let mode = std::fs::metadata(&config.socket)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(listen(&config), Err(ListenError::InUse(_))));
        drop(first);
        listen(&config).unwrap();
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kmerged.sock");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(matches!(
            listen(&config(path.clone())),
            Err(ListenError::NotASocket(_))
        ));
        assert!(path.symlink_metadata().is_ok());
    }
}
