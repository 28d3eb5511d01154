//! Where connections come from. This folder alone knows transports: the Unix socket, taken over from
//! the service manager or bound here; TCP with a token; TCP with certificates.
//!
//! A stale socket is removed only while the state directory's lock is held, and only if nobody
//! answers on it. Peers are told apart by what the kernel or a certificate proves, never by what they
//! say.

pub mod accept;
pub(super) mod complaints;
mod secrets;
mod tls;
mod token;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::config::Listen;

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process answers there.
    #[error("{} is in use by another process; stop it, or pass another --socket", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{} exists and is not a socket; move it away, or pass another --socket", .0.display())]
    NotASocket(PathBuf),
    /// The address cannot be had.
    #[error("cannot listen on {address}: stop whoever does, or set another listen.tcp")]
    Address {
        /// As configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A secret that is none.
    #[error(
        "{} can be read or changed by others (mode {mode:04o}), so it is no secret: make a new one, or \
         chmod 600 it if nobody can have read it",
        path.display()
    )]
    Shared {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A secret of somebody else.
    #[error(
        "{} belongs to user {owner}, who could change it: chown it to kmerged's user or root",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Something other than a file.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// A token file without a token.
    #[error(
        "{} does not hold a token, which is 64 hex digits: remove it and start again, then a new one \
         is made",
        .0.display()
    )]
    NotAToken(PathBuf),
    /// A file of [listen.tls] that does not do.
    #[error("{} {what}: {why}; see listen.tls in the configuration", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
        /// What the library said.
        why: String,
    },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use std::time::Duration;

    fn config(socket: PathBuf) -> Listen {
        Listen {
            socket,
            socket_mode: 0o600,
            allowed_uids: Vec::new(),
            tcp: None,
            reflection: false,
            limits: Limits {
                connections: 1,
                connections_per_user: 1,
                streams: 1,
                calls: 1,
                calls_per_user: 1,
                idle: Duration::from_secs(1),
            },
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
