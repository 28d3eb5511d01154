//! What every call passes before it reaches a service. All of it is decided by the head of the
//! request; a call that is refused has not had a byte of its body read.
//!
//! ```text
//! POST with content-type application/grpc → no Origin → over TCP: authority, token
//!    → room for one more call → the service, until the caller's deadline
//! ```

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service as _;

use super::caller::Caller;
use super::deadline;
use super::listener::accept::Pass;
use super::listener::complaints::Complaints;
use crate::access::{AccessError, Whose};
use crate::config::Limits;
use crate::error::ServerError;
use crate::shares::{Full, Share, Shares};

/// Stands before the services.
#[derive(Debug)]
pub(super) struct Guard {
    routes: Routes,
    calls: Shares,
    complaints: Complaints,
}

/// Why a request is answered by the guard.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// It is no gRPC, so the answer is none either.
    NotGrpc(StatusCode),
    Access(AccessError),
}

impl Guard {
    pub(super) fn new(routes: Routes, limits: Limits) -> Self {
        Self {
            routes: routes.prepare(),
            calls: Shares::new(limits.calls, limits.calls_per_user),
            complaints: Complaints::default(),
        }
    }

    /// Answers a request. `open` is held as long as the answer is being sent.
    pub(super) async fn call<T>(
        &self,
        mut request: Request<Incoming>,
        caller: Caller,
        pass: &Pass,
        open: T,
    ) -> Response<Answer<T>> {
        if let Err(refused) = check(&request, pass) {
            return self.refuse(caller, refused).map(|body| Answer {
                body,
                _held: (open, None),
            });
        }
        let share = match self.calls.take(caller.peer) {
            Ok(share) => share,
            Err(full) => {
                let (whose, limit) = match full {
                    Full::All(limit) => (Whose::All, limit),
                    Full::Peer(limit) => (Whose::Caller, limit),
                };
                return refusal(AccessError::CallsBusy { whose, limit }).map(|body| Answer {
                    body,
                    _held: (open, None),
                });
            }
        };
        let limit = deadline::of(request.headers());
        request.extensions_mut().insert(caller);
        let mut routes = self.routes.clone();
        let answer = routes.call(request);
        let answered = match limit {
            Some(limit) => match tokio::time::timeout(limit, answer).await {
                Ok(answered) => answered,
                Err(_) => Ok(refusal(AccessError::DeadlinePassed(limit))),
            },
            None => answer.await,
        };
        let response = answered.unwrap_or_else(|never| match never {});
        response.map(|body| Answer {
            body,
            _held: (open, Some(share)),
        })
    }

    fn refuse(&self, caller: Caller, refused: Refused) -> Response<Body> {
        if let Some(more) = self.complaints.due() {
            tracing::warn!(peer = %caller.peer, why = ?refused, more, "refused a call at the door");
        }
        match refused {
            Refused::NotGrpc(code) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = code;
                response
            }
            Refused::Access(error) => refusal(error),
        }
    }
}

fn refusal(error: AccessError) -> Response<Body> {
    Status::from(ServerError::from(error)).into_http()
}

fn check<B>(request: &Request<B>, pass: &Pass) -> Result<(), Refused> {
    if request.method() != Method::POST {
        return Err(Refused::NotGrpc(StatusCode::METHOD_NOT_ALLOWED));
    }
    if !is_grpc(request.headers()) {
        return Err(Refused::NotGrpc(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    // Browsers send it with everything that a page could use here.
    if request.headers().contains_key(ORIGIN) {
        return Err(Refused::Access(AccessError::Origin));
    }
    let Pass::Token { token, address } = pass else {
        return Ok(());
    };
    let port = address.port();
    let is_here = |authority: &Authority| names_loopback(authority, *address);
    let authority = request.uri().authority();
    let mut hosts = request.headers().get_all(HOST).iter();
    let host_fits =
        hosts.all(|host| Authority::try_from(host.as_bytes()).is_ok_and(|a| is_here(&a)));
    if !authority.is_some_and(is_here) || !host_fits {
        return Err(Refused::Access(AccessError::Authority { port }));
    }
    let mut sent = request.headers().get_all(AUTHORIZATION).iter();
    let wrong = Err(Refused::Access(AccessError::TokenWrong));
    match (sent.next(), sent.next()) {
        (None, _) => Err(Refused::Access(AccessError::TokenMissing)),
        (Some(sent), None) => match bearer(sent.as_bytes()) {
            Some(sent) if token.is(sent) => Ok(()),
            Some(_) => wrong,
            None => Err(Refused::Access(AccessError::TokenMissing)),
        },
        (Some(_), Some(_)) => wrong,
    }
}

/// `application/grpc`, alone or with `+proto` or parameters; not grpc-web, which browsers speak.
fn is_grpc(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else {
        return false;
    };
    match only.as_bytes().strip_prefix(b"application/grpc") {
        Some([]) => true,
        Some(rest) => matches!(rest[0], b'+' | b';'),
        None => false,
    }
}

fn names_loopback(authority: &Authority, address: std::net::SocketAddr) -> bool {
    let host = authority.host();
    let is_known = ["localhost", "127.0.0.1", "[::1]"]
        .iter()
        .any(|known| host.eq_ignore_ascii_case(known))
        || host == address.ip().to_string();
    is_known && authority.port_u16() == Some(address.port()) && !authority.as_str().contains('@')
}

fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

/// An answer's body, with what is to be kept until it has been sent.
#[derive(Debug)]
pub(super) struct Answer<T> {
    body: Body,
    _held: (T, Option<Share>),
}

impl<T: Unpin> HttpBody for Answer<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[path = "guard/tests.rs"]
mod tests;
