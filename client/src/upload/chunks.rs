//! The messages of one attempt: a thread reads ahead by a few chunks, the connection takes them.
//!
//! The thread ends when the file does, when reading fails, or when the connection no longer wants
//! messages, which is so once the daemon has answered. A failure is told before the messages end,
//! so whoever gets the daemon's answer to a short upload can find the cause.

use kmerge_proto::{limits, v1};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::adapter::{Adapter, Tensors};
use super::{Listener, UploadEvent};
use crate::error::Error;
use v1::upload_adapter_request::Content;

/// Messages that are ready before the connection asks for them.
const READ_AHEAD: usize = 3;

/// The header, then the chunks; and what ended the reading early, if anything did.
pub(super) fn messages(
    adapter: &Adapter,
    header: v1::UploadHeader,
    listener: Listener,
) -> (
    ReceiverStream<v1::UploadAdapterRequest>,
    oneshot::Receiver<Error>,
) {
    let (messages, stream) = mpsc::channel(READ_AHEAD);
    let (failed, failure) = oneshot::channel();
    let tensors = adapter.tensors().clone();
    let of = adapter.size_bytes();
    tokio::task::spawn_blocking(move || {
        let send = |content| {
            messages
                .blocking_send(v1::UploadAdapterRequest {
                    content: Some(content),
                })
                .is_ok()
        };
        if send(Content::Header(header))
            && let Err(error) = read(&tensors, of, send, &listener)
        {
            // Nobody listens only if the call itself was dropped.
            let _ = failed.send(error);
        }
    });
    (ReceiverStream::new(stream), failure)
}

/// Sends the chunks until they end or `send` says that they are no longer wanted.
fn read(
    tensors: &Tensors,
    of: u64,
    send: impl Fn(Content) -> bool,
    listener: &Listener,
) -> Result<(), Error> {
    let mut offset = 0;
    while offset < of {
        let length = usize::try_from(of - offset)
            .unwrap_or(usize::MAX)
            .min(limits::CHUNK_BYTES);
        let chunk = tensors
            .read(offset, length)?
            .ok_or_else(|| tensors.shrunk())?;
        if !send(Content::Chunk(chunk)) {
            return Ok(());
        }
        offset += u64::try_from(length).expect("a chunk is small");
        listener(UploadEvent::Sent { bytes: offset, of });
    }
    Ok(())
}
