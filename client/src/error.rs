//! Everything that can go wrong between an app and the daemon.
//!
//! [`Error`] is what every call gives. Its text says what happened, to what; [`Error::hint`] says
//! what to do next. The daemon's own words are kept as they came ([`Refusal`]), with the
//! google.rpc details decoded.

mod status;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::address::Address;
pub use status::code_name;
pub use tonic::Code;
pub use tonic_types::ErrorDetails;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There was no conversation: nobody answers, or the connection broke.
    #[error("cannot reach kmerged at {address}: {why}")]
    Unreachable {
        /// What was tried.
        address: Box<Address>,
        /// What the system said.
        why: Unreachable,
    },
    /// An address that cannot be used.
    #[error("{address} cannot be used: {why}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        why: BadAddress,
    },
    /// The daemon answered, and the answer is no.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// The daemon knows no such thing.
    #[error("{}", .0.message)]
    NotFound(Box<Refusal>),
    /// The daemon's answer breaks the contract.
    #[error("kmerged answered against the contract: {0}")]
    Protocol(Breach),
    /// A file of this side could not be used.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// What was tried: "open", "read", …
        verb: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was to take bytes does not take them.
    #[error("cannot keep what comes")]
    Sink(#[source] io::Error),
    /// What was to be uploaded is no adapter.
    #[error("{} is not an adapter: {why}", path.display())]
    NotAnAdapter {
        /// What was given.
        path: PathBuf,
        /// What is wrong with it.
        why: NotAnAdapter,
    },
    /// An export may not be written there.
    #[error("cannot write an export to {}: {why}", path.display())]
    Target {
        /// The directory that was named.
        path: PathBuf,
        /// What is in the way.
        why: Target,
    },
}

/// Why there was no conversation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreachable {
    /// The socket's path does not exist.
    #[error("there is no such socket")]
    Absent,
    /// The path is something other than a socket.
    #[error("it is not a socket")]
    NotASocket,
    /// The socket is there, but nobody listens on it.
    #[error("nobody listens on it")]
    Silent,
    /// The user may not open it.
    #[error("you may not open it")]
    Denied,
    /// No answer came in time.
    #[error("no answer came in time")]
    Late,
    /// One side does not accept the other's certificate.
    #[error("TLS failed ({0})")]
    Certificate(String),
    /// The connection was there, and broke.
    #[error("the connection was lost ({0})")]
    Lost(String),
    /// Anything else that the system says.
    #[error("{0}")]
    System(io::Error),
}

/// What is wrong with an address, or missing to go there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadAddress {
    /// It is none.
    #[error("it must be http://127.0.0.1:PORT or https://HOST:PORT")]
    Form,
    /// A token in the clear.
    #[error("http is for this machine only, since it shows the token to all on the way: use https")]
    Clear,
    /// Nothing to check the daemon's certificate by.
    #[error("https needs the root that signed the daemon's certificate")]
    NoRoot,
    /// A certificate without its key, or a key without its certificate.
    #[error("a certificate and its key are only of use together")]
    HalfIdentity,
    /// A token that cannot be sent.
    #[error("its token file does not hold a token")]
    Token,
}

/// The daemon's no.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The canonical code.
    pub code: Code,
    /// UPPER_SNAKE_CASE, stable, for programs. The code's own name where the daemon gave none.
    pub reason: String,
    /// What happened, to what.
    pub message: String,
    /// The google.rpc details that came along.
    pub details: ErrorDetails,
}

/// How an answer breaks the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Breach {
    /// A field that is always there is not.
    #[error("the answer has no {0}")]
    Missing(&'static str),
    /// A list gave the page token back that it was sent.
    #[error("the list gives the same page again and again")]
    RepeatedPage,
    /// An export's header names a file that is no plain name, or one twice.
    #[error("the export has a file named {0:?}, which is not a plain name of its own")]
    FileName(String),
    /// An export's bytes do not come in the order and number that its header says.
    #[error("the export's bytes do not follow its header: {0}")]
    Sequence(&'static str),
    /// A file of an export is not the one its header describes.
    #[error("{name} of the export has the SHA-256 {got}; its header says {expected}")]
    Digest {
        /// The file.
        name: String,
        /// The header's digest.
        expected: String,
        /// The digest of what came.
        got: String,
    },
    /// A backup's bytes are not those that were sent.
    #[error("the backup does not have the SHA-256 and the length that its trailer says")]
    Backup,
    /// The stream ended before its end.
    #[error("the stream ended early: {0}")]
    Cut(&'static str),
}

/// Why something is no adapter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAnAdapter {
    /// It is a file of another kind.
    #[error("it is a file and no GGUF, and any other adapter is a directory")]
    NotADirectory,
    /// The directory has several GGUF files and nothing else to go by.
    #[error("it has several GGUF files")]
    SeveralGguf,
    /// A file is missing.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// The tensors are there only as a pickle.
    #[error("it has its tensors only as adapter_model.bin, a pickle, which is never read")]
    OnlyPickle,
    /// One of its files is a directory, a pipe or the like.
    #[error("its {0} is not a regular file")]
    NotAFile(&'static str),
    /// The configuration is too large.
    #[error("its adapter_config.json has {bytes} bytes; at most {limit} are allowed")]
    LargeConfig {
        /// Its size.
        bytes: u64,
        /// The contract's limit.
        limit: u64,
    },
    /// The tensor file was changed or truncated during the upload.
    #[error("its tensor file became shorter while it was sent")]
    Shrunk,
}

/// Why an export may not be written to a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Target {
    /// It is not a directory.
    #[error("it exists and is not a directory")]
    NotADirectory,
    /// There is something in it.
    #[error("it is not empty")]
    NotEmpty,
    /// It holds more than an export, so it is not replaced.
    #[error("it holds {0:?}, which is not part of an export")]
    Foreign(String),
    /// It has no name of its own to be put beside: `/` or `..`.
    #[error("it has no name")]
    Nameless,
}

impl Error {
    /// What to do next, in one sentence for people.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { why, address } => Some(why.hint(address).to_owned()),
            Self::Address { why, .. } => Some(why.hint().to_owned()),
            Self::Refused(refusal) | Self::NotFound(refusal) => refusal.hint(),
            Self::Protocol(_) => {
                Some("check that kmerge and kmerged are of the same version: kmerge doctor".into())
            }
            Self::File { .. } | Self::Sink(_) => None,
            Self::NotAnAdapter { path, why } => Some(why.hint(path)),
            Self::Target { why, .. } => Some(why.hint().to_owned()),
        }
    }

    /// Whether the same call may well succeed later without anyone doing anything.
    ///
    /// A full queue is transient, since the daemon then says when to come back; a spent budget is
    /// not, since it does not.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { why, .. } => match why {
                Unreachable::Absent
                | Unreachable::Silent
                | Unreachable::Late
                | Unreachable::Lost(_) => true,
                Unreachable::NotASocket
                | Unreachable::Denied
                | Unreachable::Certificate(_)
                | Unreachable::System(_) => false,
            },
            Self::Refused(refusal) => match refusal.code {
                Code::Unavailable => true,
                Code::ResourceExhausted => refusal.retry_after().is_some(),
                Code::Ok
                | Code::Cancelled
                | Code::Unknown
                | Code::InvalidArgument
                | Code::DeadlineExceeded
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::FailedPrecondition
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::Internal
                | Code::DataLoss
                | Code::Unauthenticated => false,
            },
            Self::Address { .. }
            | Self::NotFound(_)
            | Self::Protocol(_)
            | Self::File { .. }
            | Self::Sink(_)
            | Self::NotAnAdapter { .. }
            | Self::Target { .. } => false,
        }
    }

    /// How long the daemon asks to wait before the next attempt.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after(),
            Self::Unreachable { .. }
            | Self::Address { .. }
            | Self::NotFound(_)
            | Self::Protocol(_)
            | Self::File { .. }
            | Self::Sink(_)
            | Self::NotAnAdapter { .. }
            | Self::Target { .. } => None,
        }
    }

    pub(crate) fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { verb, path, source }
    }
}

impl BadAddress {
    fn hint(self) -> &'static str {
        match self {
            Self::Form | Self::Clear => {
                "say --address and where kmerged's listen.tcp is, or leave it out for the Unix socket"
            }
            Self::NoRoot => "name the root's file with --ca or KMERGE_CA",
            Self::HalfIdentity => "name both with --certificate and --key",
            Self::Token => "name a copy of the daemon's listen.token_file with --token-file",
        }
    }
}

impl Unreachable {
    fn hint(&self, address: &Address) -> &'static str {
        match self {
            Self::Absent | Self::Silent if matches!(address, Address::Network(_)) => {
                "start the daemon (kmerged) with listen.tcp set to this address, or name another one \
                 with --address or KMERGE_ADDRESS"
            }
            Self::Certificate(_) => {
                "check --ca, --certificate and --key against the daemon's listen.tls, and that the \
                 address is a name in its certificate"
            }
            Self::Absent | Self::Silent => {
                "start the daemon (kmerged), or name its socket with --socket or KMERGE_SOCKET"
            }
            Self::NotASocket => "name the daemon's socket with --socket or KMERGE_SOCKET",
            Self::Denied => {
                "run as the user that kmerged runs as, or add your user id to its \
                 listen.allowed_uids"
            }
            Self::Late => "look at the daemon's log; kmerge doctor checks the rest",
            Self::Lost(_) if matches!(address, Address::Network(_)) => {
                "try again; if it stays like this, look at the daemon's log: too many connections, or \
                 a certificate that it does not accept"
            }
            Self::Lost(_) => "try again; if it stays like this, look at the daemon's log",
            Self::System(_) => "kmerge doctor checks the socket and what is around it",
        }
    }
}

impl Refusal {
    /// How long the daemon asks to wait before the next attempt.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.details.retry_info().and_then(|info| info.retry_delay)
    }

    fn hint(&self) -> Option<String> {
        if let Some(wait) = self.retry_after() {
            return Some(format!("try again in {:.1} s", wait.as_secs_f64()));
        }
        match self.reason.as_str() {
            "TOKEN_MISSING" => {
                return Some(
                    "name a copy of the daemon's token file: --token-file or KMERGE_TOKEN_FILE"
                        .into(),
                );
            }
            "TOKEN_WRONG" => {
                return Some(
                    "copy the token again: it is in the daemon's listen.token_file".into(),
                );
            }
            _ => {}
        }
        match self.code {
            Code::Unavailable => Some("try again in a moment; kmerge status tells more".into()),
            Code::Aborted => Some("something changed meanwhile: try again".into()),
            Code::DataLoss | Code::Internal | Code::Unknown => {
                Some("look at the daemon's log, and run kmerge doctor".into())
            }
            Code::Unimplemented => {
                Some("kmerged is older than kmerge: update it (kmerge doctor)".into())
            }
            Code::PermissionDenied | Code::Unauthenticated => {
                Some("run as the user that kmerged runs as".into())
            }
            // The daemon's message says what to do.
            Code::Ok
            | Code::Cancelled
            | Code::InvalidArgument
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange => None,
        }
    }
}

impl NotAnAdapter {
    fn hint(&self, path: &Path) -> String {
        match self {
            Self::NotADirectory => match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => {
                    format!("name the directory, perhaps {}", parent.display())
                }
                _ => "name the directory that PEFT or mlx-lm wrote, or a GGUF file".into(),
            },
            Self::SeveralGguf => "name the one that is meant".into(),
            Self::Missing(_) | Self::NotAFile(_) => {
                "name the directory that PEFT or mlx-lm wrote, or a GGUF file".into()
            }
            Self::OnlyPickle => {
                "load it with PEFT and save it again: save_pretrained writes safetensors".into()
            }
            Self::LargeConfig { .. } => "check that it is an adapter_config.json of PEFT".into(),
            Self::Shrunk => "push it again once nobody writes to it".into(),
        }
    }
}

impl Target {
    fn hint(&self) -> &'static str {
        match self {
            Self::NotADirectory | Self::Nameless => "name another directory",
            Self::NotEmpty => "name another directory, or replace an earlier export with --force",
            Self::Foreign(_) => "name another directory, or empty this one yourself",
        }
    }
}

#[cfg(test)]
mod tests;
