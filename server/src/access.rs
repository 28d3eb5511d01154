//! Why somebody is not let in, or not now. Decided at the door, before any of a request's body is
//! read; `grpc::status` gives each its code.

use std::time::Duration;

/// Why a call is refused at the door.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// A call over TCP without a token.
    #[error(
        "a call over TCP needs the daemon's token: send it as \"authorization: Bearer TOKEN\" \
         (kmerge: --token-file or KMERGE_TOKEN_FILE); it is in the daemon's listen.token_file"
    )]
    TokenMissing,
    /// A token that is not this daemon's.
    #[error(
        "this is not the daemon's token: read listen.token_file again, it changes when that file is \
         made anew"
    )]
    TokenWrong,
    /// A web page's request.
    #[error("requests of web pages are refused: a request must not have the header Origin")]
    Origin,
    /// A name that somebody else may have pointed here.
    #[error(
        "this address is not served: :authority must be localhost, 127.0.0.1 or [::1] with the \
         port {port}"
    )]
    Authority {
        /// The port that is served.
        port: u16,
    },
    /// Too many calls at once.
    #[error("{limit} calls are open, as many as this daemon takes {whose}: try again soon")]
    CallsBusy {
        /// Whose calls are counted.
        whose: Whose,
        /// As configured.
        limit: usize,
    },
    /// The caller's own time is over.
    #[error("the call was not answered within the {} ms that the caller gave it", .0.as_millis())]
    DeadlinePassed(Duration),
}

/// Whose limit is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// That of all callers together.
    All,
    /// That of this user or address.
    Caller,
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::All => "in all",
            Self::Caller => "of one user",
        })
    }
}
