//! The whole state of the daemon as one file, checked on the way.
//!
//! What holds: [`Client::backup`] returns only when every byte came that the daemon has sent, and their
//! SHA-256 is the one that it names. What was given out before is no backup.

use std::io;

use kmerge_proto::{limits, v1};
use sha2::{Digest as _, Sha256};
use tonic::Request;
use v1::backup_response::Content;

use crate::client::{Client, present};
use crate::error::{Breach, Error};
use crate::hex::hex;

/// A backup that came whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Backup {
    /// What it holds.
    pub contents: v1::BackupContents,
    /// The SHA-256 of all its bytes, in lowercase hexadecimal.
    pub sha256: String,
    /// Its length in bytes.
    pub length: u64,
}

/// Takes the next bytes of a backup, of so many in all.
pub type Sink<'a> = dyn FnMut(&[u8], u64) -> io::Result<()> + Send + 'a;

impl Client {
    /// Has a backup made and hands its bytes to `sink`.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Sink`] if `sink` refuses.
    pub async fn backup(&self, sink: &mut Sink<'_>) -> Result<Backup, Error> {
        let admin = self.admin();
        let mut admin = admin.max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
        let answer = admin.backup(Request::new(v1::BackupRequest {})).await;
        let mut stream = self.read(answer)?;
        let mut header = None;
        let mut hasher = Sha256::new();
        let mut length = 0;
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Err(Error::Protocol(Breach::Cut("before its trailer"))),
                Err(status) => return Err(self.error(&status)),
            };
            match (present(message.content, "content")?, &header) {
                (Content::Header(first), None) => header = Some(first),
                (Content::Chunk(chunk), Some(first)) => {
                    hasher.update(&chunk.data);
                    length += chunk.data.len() as u64;
                    sink(&chunk.data, first.length).map_err(Error::Sink)?;
                }
                (Content::Trailer(trailer), Some(first)) => {
                    let sha256 = hex(hasher.finalize());
                    if sha256 != trailer.sha256 || length != trailer.length {
                        return Err(Error::Protocol(Breach::Backup));
                    }
                    return Ok(Backup {
                        contents: present(first.contents.clone(), "contents")?,
                        sha256,
                        length,
                    });
                }
                (Content::Header(_), Some(_)) => {
                    return Err(Error::Protocol(Breach::Sequence("a second header")));
                }
                (Content::Chunk(_) | Content::Trailer(_), None) => {
                    let what = "the first message is no header";
                    return Err(Error::Protocol(Breach::Sequence(what)));
                }
            }
        }
    }
}
