//! Uploads that come twice, break off, come too fast, are only asked about, or do not fit.
//!
//! | module | shows |
//! |---|---|
//! | `repeats` | one job for one content and for one request id, however often and at once |
//! | `broken` | what breaks off or falls silent leaves nothing |
//! | `limits` | a full queue, busy uploads and a full disk are answers, given before any bytes |
//! | `asked` | `validate_only` changes nothing and says what will be |
//! | `budget` | the byte budget decides, and is never exceeded |

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the tests read their own files")]

#[path = "uploads/asked.rs"]
mod asked;
#[path = "uploads/broken.rs"]
mod broken;
#[path = "uploads/budget.rs"]
mod budget;
#[path = "uploads/limits.rs"]
mod limits;
#[path = "uploads/repeats.rs"]
mod repeats;
mod support;

use kmerge_client::v1;
use support::adapters::Files;
use support::calls::{header, message};
use support::{Daemon, eventually};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;
use v1::adapter_service_client::AdapterServiceClient;
use v1::upload_adapter_request::Content;

/// An upload whose messages are sent one by one. Dropped, it breaks off.
struct Open {
    messages: mpsc::Sender<v1::UploadAdapterRequest>,
    answer: JoinHandle<Result<v1::UploadAdapterResponse, Status>>,
}

impl Open {
    /// Begins an upload with its header.
    async fn begin(channel: &Channel, header: v1::UploadHeader) -> Self {
        let (messages, stream) = mpsc::channel(4);
        let mut client = AdapterServiceClient::new(channel.clone());
        let answer = tokio::spawn(async move {
            let answer = client.upload_adapter(ReceiverStream::new(stream)).await;
            answer.map(tonic::Response::into_inner)
        });
        let open = Self { messages, answer };
        open.send(Content::Header(header)).await;
        open
    }

    async fn send(&self, content: Content) {
        // The daemon may have answered already; its answer is what tells.
        let _ = self.messages.send(message(content)).await;
    }

    /// Ends the messages and gives the answer.
    async fn finish(self) -> Result<v1::UploadAdapterResponse, Status> {
        drop(self.messages);
        self.answer.await.unwrap()
    }

    /// The answer to an upload whose messages have not ended.
    async fn answer(self) -> Result<v1::UploadAdapterResponse, Status> {
        let Self { messages, answer } = self;
        let answer = answer.await.unwrap();
        drop(messages);
        answer
    }

    /// Hangs up in the middle of the stream. What is given back keeps the messages from ending in
    /// good order, which would make a whole upload of what was sent.
    async fn hang_up(self) -> mpsc::Sender<v1::UploadAdapterRequest> {
        self.answer.abort();
        assert!(self.answer.await.unwrap_err().is_cancelled());
        self.messages
    }
}

/// A truthful header for an adapter.
fn header_of(task: &str, files: &Files) -> v1::UploadHeader {
    header(task, &files.config, &files.tensors)
}

/// Waits until an upload is being staged.
async fn staging(daemon: &Daemon) {
    eventually("an upload is staged", async || !daemon.staged().is_empty()).await;
}

/// Waits until nothing is staged.
async fn nothing_staged(daemon: &Daemon) {
    eventually("nothing is staged", async || daemon.staged().is_empty()).await;
}
