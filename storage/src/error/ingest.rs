//! What staging refuses and what it may meet.

use crate::digest::Digest;
use crate::error::FileError;
use crate::ids::NameError;

/// Why an upload could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// More bytes came than were declared.
    #[error("the upload is longer than the {declared} bytes that its header declares")]
    TooLong {
        /// The declared length.
        declared: u64,
    },
    /// The upload ended early.
    #[error("the upload ended after {received} of the {declared} bytes that its header declares")]
    TooShort {
        /// The declared length.
        declared: u64,
        /// What came.
        received: u64,
    },
    /// The bytes are not those that the header promises.
    #[error(
        "the upload's SHA-256 is {computed}, but its header declares {declared}; send it again"
    )]
    DigestMismatch {
        /// The declared digest.
        declared: Digest,
        /// The digest of what came.
        computed: Digest,
    },
    /// The configuration is too large.
    #[error("the adapter's configuration has {bytes} bytes; at most {limit} are taken")]
    ConfigTooLarge {
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The request id is too long.
    #[error("the request id has {bytes} bytes; it may have 1 to {limit}")]
    RequestIdLength {
        /// Its length in bytes.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// The format is not a plain word.
    #[error("the upload's format is not a plain word")]
    Format(#[source] NameError),
    /// The state can no longer be written.
    #[error("the state can only be read since a write failed ({why}); restart the daemon")]
    ReadOnly {
        /// The failure.
        why: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl IngestError {
    /// A word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong { .. } | Self::TooShort { .. } => "SIZE_MISMATCH",
            Self::DigestMismatch { .. } => "DIGEST_MISMATCH",
            Self::ConfigTooLarge { .. } => "CONFIG_TOO_LARGE",
            Self::RequestIdLength { .. } => "REQUEST_ID_LENGTH",
            Self::Format(_) => "FORMAT_INVALID",
            Self::ReadOnly { .. } => "READ_ONLY",
            Self::File(error) => error.reason(),
        }
    }
}
