//! HTTP/2 requests with any head and body, and what comes back.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Status;

use crate::support::calls::Refusal;

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// GetStatus, which every caller who is in may ask.
pub(crate) const STATUS: &str = "/kmerge.v1.AdminService/GetStatus";

/// WatchSlots, which stays open.
pub(crate) const WATCH: &str = "/kmerge.v1.SlotService/WatchSlots";

/// A connection.
pub(crate) struct Raw {
    pub(crate) sender: SendRequest<Body>,
}

/// The head of an answer, and its end if it came with it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) http: StatusCode,
    head: HeaderMap,
    trailers: Option<HeaderMap>,
}

impl Raw {
    pub(crate) async fn tcp(address: SocketAddr) -> Self {
        Self::over(tokio::net::TcpStream::connect(address).await.unwrap()).await
    }

    pub(crate) async fn unix(socket: &Path) -> Self {
        Self::over(tokio::net::UnixStream::connect(socket).await.unwrap()).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        // Its end is seen by the sender.
        tokio::spawn(connection);
        Self { sender }
    }

    /// Sends a request and gives the head of the answer, without waiting for the rest.
    pub(crate) async fn begin(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn ask(&mut self, request: Request<Body>) -> Answer {
        let answer = self.begin(request).await.unwrap();
        let (http, head) = (answer.status(), answer.headers().clone());
        let trailers = answer.into_body().collect().await.ok();
        Answer {
            http,
            head,
            trailers: trailers.and_then(|body| body.trailers().cloned()),
        }
    }
}

impl Answer {
    /// The status of gRPC, if this is gRPC at all.
    pub(crate) fn status(&self) -> Option<Status> {
        let trailers = self.trailers.iter();
        [&self.head]
            .into_iter()
            .chain(trailers)
            .find_map(Status::from_header_map)
    }

    pub(crate) fn refusal(&self) -> Refusal {
        Refusal::from(self.status().unwrap_or_else(|| panic!("{self:?}")))
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.status()
            .is_some_and(|status| status.code() == tonic::Code::Ok)
    }
}

/// A message without fields, as gRPC sends it.
pub(crate) fn empty() -> Body {
    Full::new(Bytes::from_static(&[0; 5]))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body that never comes.
pub(crate) fn endless() -> Body {
    let nothing = tokio_stream::pending::<Result<Frame<Bytes>, std::io::Error>>();
    StreamBody::new(nothing).boxed_unsync()
}

/// A request as gRPC makes it.
pub(crate) fn grpc(authority: &str, path: &str, body: Body) -> Request<Body> {
    Request::post(format!("http://{authority}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}
