//! From what tonic says to [`Error`]: which statuses are the daemon's words, and which are the
//! transport's.

use std::io;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Error, Refusal, Unreachable};
use crate::address::Address;

impl Error {
    /// Reads a status. One that has a cause on this side was made here, by the transport; one
    /// that has none came from the daemon.
    pub(crate) fn from_status(status: &Status, address: &Address) -> Self {
        match std::error::Error::source(status) {
            Some(cause) => Self::unreachable(cause, address),
            None => Self::from_daemon(status),
        }
    }

    /// Reads an error of the transport.
    pub(crate) fn unreachable(
        error: &(dyn std::error::Error + 'static),
        address: &Address,
    ) -> Self {
        Self::Unreachable {
            address: Box::new(address.clone()),
            why: Unreachable::from_chain(error),
        }
    }

    fn from_daemon(status: &Status) -> Self {
        let details = status.get_error_details();
        let reason = match details.error_info() {
            Some(info) if !info.reason.is_empty() => info.reason.clone(),
            _ => code_name(status.code()).to_owned(),
        };
        let message = match status.message() {
            "" => format!("kmerged answered {}", code_name(status.code())),
            message => message.to_owned(),
        };
        let refusal = Box::new(Refusal {
            code: status.code(),
            reason,
            message,
            details,
        });
        if status.code() == Code::NotFound {
            Self::NotFound(refusal)
        } else {
            Self::Refused(refusal)
        }
    }
}

impl Unreachable {
    /// Finds the system's word in a chain of errors.
    fn from_chain(error: &(dyn std::error::Error + 'static)) -> Self {
        let chain = std::iter::successors(Some(error), |error| error.source());
        let mut last = error;
        for link in chain {
            if let Some(system) = link.downcast_ref::<io::Error>() {
                return Self::from_io(system);
            }
            if link.is::<tonic::TimeoutExpired>() {
                return Self::Late;
            }
            last = link;
        }
        Self::Lost(last.to_string())
    }

    fn from_io(error: &io::Error) -> Self {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "std may add kinds, and the text of the others says enough"
        )]
        match error.kind() {
            io::ErrorKind::NotFound => Self::Absent,
            io::ErrorKind::ConnectionRefused => Self::Silent,
            io::ErrorKind::PermissionDenied => Self::Denied,
            io::ErrorKind::TimedOut => Self::Late,
            // What TLS says of a certificate, and what the other side says of ours.
            io::ErrorKind::InvalidData if error.get_ref().is_some() => {
                Self::Certificate(error.to_string())
            }
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::UnexpectedEof => Self::Lost(error.to_string()),
            kind => match error.raw_os_error() {
                Some(code) => Self::System(io::Error::from_raw_os_error(code)),
                None => Self::System(io::Error::new(kind, error.to_string())),
            },
        }
    }
}

/// A code as the contract's documents write it.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
