//! Limits that client and server share. A change here is a change of the contract.

/// The largest chunk of tensor bytes in one message, in bytes.
pub const MAX_CHUNK_BYTES: usize = 1024 * 1024;

/// The chunk size that a client sends, in bytes.
pub const CHUNK_BYTES: usize = 512 * 1024;

/// The largest message either side accepts: a chunk and its framing.
pub const MAX_MESSAGE_BYTES: usize = MAX_CHUNK_BYTES + 64 * 1024;

/// The largest `adapter_config.json` or `config.json`, in bytes.
pub const MAX_CONFIG_BYTES: usize = 256 * 1024;

/// The longest task or base model name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// The longest request id, in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;

/// The largest page of a list call; a larger wish is taken as this.
pub const MAX_PAGE_SIZE: i32 = 1000;

/// The domain of every `ErrorInfo` that the daemon sends.
pub const ERROR_DOMAIN: &str = "kmerge.dev";
