//! The library and the command line against a fake daemon: the contract's services on a temporary
//! Unix socket, answering by script. The real daemon's behaviour is tested with the daemon.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the tests set up and read files")]

mod backup;
mod cli;
mod cli_json;
mod connect;
mod fake;
mod fetch;
mod lists;
mod upkeep;
mod upload;
mod watch;

/// A deterministic mess of bytes.
fn bytes(count: usize) -> Vec<u8> {
    let mut state: u32 = 0x9e37_79b9;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(count)
    .collect()
}

/// A PEFT directory with tensors of `size` bytes.
fn adapter_directory(size: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("adapter_config.json"), br#"{"r": 2}"#).unwrap();
    std::fs::write(
        directory.path().join("adapter_model.safetensors"),
        bytes(size),
    )
    .unwrap();
    directory
}
