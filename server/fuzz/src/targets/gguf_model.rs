//! The command line's reader of GGUF models: it stands in a program, which has no library.

#![allow(dead_code, reason = "the program uses all of it")]

#[path = "../../../../client/src/bin/kmerge/gguf_model/convert.rs"]
mod convert;
#[path = "../../../../client/src/bin/kmerge/gguf_model/header.rs"]
mod header;

/// The configuration that a header says, or why there is none.
pub(super) fn config(file: &[u8]) -> Result<serde_json::Value, String> {
    header::Header::read(file).and_then(|header| convert::convert(&header))
}
