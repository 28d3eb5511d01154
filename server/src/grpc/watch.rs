//! Turns a channel of the server's own values into a gRPC stream of messages.

use std::pin::Pin;

use tokio::sync::mpsc::Receiver;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Response, Status};

use crate::error::ServerError;

/// A server stream.
pub(super) type Streaming<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Answers with what comes through `values`, converted.
pub(super) fn respond<T, M>(
    values: Receiver<Result<T, ServerError>>,
    mut convert: impl FnMut(T) -> M + Send + 'static,
) -> Response<Streaming<M>>
where
    T: Send + 'static,
    M: 'static,
{
    let messages =
        ReceiverStream::new(values).map(move |value| value.map(&mut convert).map_err(Status::from));
    Response::new(Box::pin(messages))
}
