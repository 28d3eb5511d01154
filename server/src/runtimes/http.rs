//! The HTTP client for runtimes: HTTP/1.1 to a local address or a Unix socket, one connection for
//! each call. What always holds: a call ends within its time, connecting included; an answer is read
//! up to a limit and no further; redirects and proxies are not followed.

use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::runtime::CallError;

/// The most of an answer that is read. Listings are the longest: some hundred bytes an adapter.
const ANSWER_BYTES: usize = 1 << 20;

/// The most of an answer's words that is shown to people.
const SHOWN: usize = 300;

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Where a runtime listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host and a port, and what every path begins with.
    Tcp {
        /// `host:port`.
        authority: String,
        /// Empty, or a path without a slash at its end.
        prefix: String,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why an address cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Another scheme, or no address at all.
    #[error(
        "must be \"http://host:port\", \"unix:/path/to/socket\" or the absolute path of a socket"
    )]
    Form,
    /// TLS.
    #[error(
        "is https, which kmerged does not speak: runtimes are local; use http on the loopback \
         address or a Unix socket, or a local proxy that speaks TLS to the outside"
    )]
    Tls,
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// If it is none that can be connected to.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text
            .strip_prefix("unix:")
            .or_else(|| text.starts_with('/').then_some(text))
        {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(AddressError::Form)
            };
        }
        if text.starts_with("https:") {
            return Err(AddressError::Tls);
        }
        let uri: http::Uri = text.parse().map_err(|_| AddressError::Form)?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(AddressError::Form);
        };
        if uri.query().is_some() || authority.as_str().contains('@') {
            return Err(AddressError::Form);
        }
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self::Tcp {
            authority: format!("{}:{port}", authority.host()),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Whether nothing that is sent there leaves the machine.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { authority, .. } => {
                let host = authority.rsplit_once(':').map_or("", |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                host == "localhost"
                    || host
                        .parse::<std::net::IpAddr>()
                        .is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { authority, prefix } => write!(f, "http://{authority}{prefix}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A secret that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Keeps `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The secret itself.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What came back, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The wait that it asks for.
    pub retry_after: Option<Duration>,
    /// The body, whole.
    pub body: Bytes,
}

/// Calls one runtime.
#[derive(Debug, Clone)]
pub struct Http {
    address: Address,
    token: Option<Secret>,
    timeout: Duration,
    load_timeout: Duration,
}

impl Http {
    /// Calls `address`, with `token` as a bearer token. Loads have a time of their own.
    pub fn new(
        address: Address,
        token: Option<Secret>,
        timeout: Duration,
        load_timeout: Duration,
    ) -> Self {
        Self {
            address,
            token,
            timeout,
            load_timeout,
        }
    }

    /// How long a load may take.
    pub fn load_timeout(&self) -> Duration {
        self.load_timeout
    }

    /// GET, and a JSON answer of status 200.
    ///
    /// # Errors
    /// Any other answer, or none.
    pub async fn get(&self, path: &str) -> Result<Value, CallError> {
        let answer = self
            .send(Method::GET, path, &[], empty(), self.timeout)
            .await?;
        answer.accepted()?.json()
    }

    /// POST of JSON. The answer has a status of success.
    ///
    /// # Errors
    /// Any other answer, or none.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer, CallError> {
        self.post_within(path, body, self.timeout).await
    }

    /// The same for a call that loads, which may take longer.
    ///
    /// # Errors
    /// Any other answer, or none.
    pub async fn post_load(&self, path: &str, body: &Value) -> Result<Answer, CallError> {
        self.post_within(path, body, self.load_timeout).await
    }

    async fn post_within(
        &self,
        path: &str,
        body: &Value,
        time: Duration,
    ) -> Result<Answer, CallError> {
        let answer = self
            .send(Method::POST, path, &[JSON], json(body), time)
            .await?;
        answer.accepted()
    }

    /// Any request that loads nothing, with whatever answer comes.
    ///
    /// # Errors
    /// If none comes, or it is too long.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Body,
    ) -> Result<Answer, CallError> {
        self.send(method, path, headers, body, self.timeout).await
    }

    /// Any request, within `time`, with whatever answer comes.
    ///
    /// # Errors
    /// If none comes, or it is too long.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Body,
        time: Duration,
    ) -> Result<Answer, CallError> {
        let request = self.request(method, path, headers, body)?;
        let exchange = async {
            match &self.address {
                Address::Tcp { authority, .. } => {
                    let stream = TcpStream::connect(authority).await.map_err(unreachable)?;
                    // A request is written whole; waiting for more would only delay it.
                    stream.set_nodelay(true).map_err(unreachable)?;
                    exchange(stream, request).await
                }
                Address::Unix(path) => {
                    let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                    exchange(stream, request).await
                }
            }
        };
        tokio::time::timeout(time, exchange)
            .await
            .map_err(|_| CallError::TimedOut(time))?
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Body,
    ) -> Result<Request<Body>, CallError> {
        let (host, prefix) = match &self.address {
            Address::Tcp { authority, prefix } => (authority.as_str(), prefix.as_str()),
            Address::Unix(_) => ("localhost", ""),
        };
        let target = match format!("{prefix}{path}") {
            target if target.is_empty() => "/".to_owned(),
            target => target,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, host)
            .header(header::CONNECTION, "close")
            .header(header::ACCEPT, "application/json")
            .header(
                header::USER_AGENT,
                concat!("kmerged/", env!("CARGO_PKG_VERSION")),
            );
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(token) = &self.token {
            let mut value = b"Bearer ".to_vec();
            value.extend_from_slice(token.reveal());
            let mut value = HeaderValue::from_bytes(&value).map_err(bad_request)?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        request.body(body).map_err(bad_request)
    }
}

/// The header of a JSON body.
pub const JSON: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/json"),
);

/// No body.
pub fn empty() -> Body {
    whole(Bytes::new())
}

/// A body that is at hand.
pub fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn json(value: &Value) -> Body {
    whole(value.to_string().into())
}

fn unreachable(error: std::io::Error) -> CallError {
    CallError::Unreachable(error.to_string())
}

fn bad_request(error: impl Into<http::Error>) -> CallError {
    let error: http::Error = error.into();
    CallError::Unable(format!(
        "cannot be asked: {error}; look at its address and its secret"
    ))
}

async fn exchange<S>(stream: S, request: Request<Body>) -> Result<Answer, CallError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error: hyper::Error| CallError::Unreachable(in_full(&error));
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => CallError::Unreachable(in_full(&error)),
            Err(_) => CallError::Unclear(format!("it is longer than {ANSWER_BYTES} bytes")),
        })?;
        Ok(Answer {
            status: head.status,
            retry_after: head
                .headers
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok())
                .map(Duration::from_secs),
            body: body.to_bytes(),
        })
    };
    let (mut asked, mut connection) = (pin!(asked), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut asked => answer,
        // The peer has closed. What it sent before that is still to be read.
        ended = &mut connection => match ended {
            Ok(()) => asked.await,
            Err(error) => Err(CallError::Unreachable(in_full(&error))),
        },
    }
}

fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Answer {
    /// The answer, if its status is one of success.
    ///
    /// # Errors
    /// What another status means.
    pub fn accepted(self) -> Result<Self, CallError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let what = self.words();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Err(CallError::Busy {
                    what: format!("{}: {what}", self.status.as_u16()),
                    after: self.retry_after,
                })
            }
            status => Err(CallError::Refused {
                status: status.as_u16(),
                what,
            }),
        }
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// If it is not.
    pub fn json(&self) -> Result<Value, CallError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            CallError::Unclear(format!("it is not JSON ({error}): {}", self.words()))
        })
    }

    /// What it says, in one short line: the message of an error where there is one.
    pub fn words(&self) -> String {
        let message = serde_json::from_slice::<Value>(&self.body)
            .ok()
            .and_then(|value| {
                let error = &value["error"];
                let said = [
                    &error["message"],
                    error,
                    &value["error_message"],
                    &value["message"],
                    &value["detail"],
                ];
                said.iter()
                    .find_map(|text| text.as_str().map(str::to_owned))
            });
        let text = message.unwrap_or_else(|| String::from_utf8_lossy(&self.body).into_owned());
        short(&text)
    }
}

/// The beginning of a text, on one line, for people.
pub fn short(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(SHOWN)
        .collect();
    let line = line.trim();
    if line.is_empty() {
        "(nothing more)".to_owned()
    } else {
        line.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_runtimes() {
        let tcp = |authority: &str, prefix: &str| {
            Ok(Address::Tcp {
                authority: authority.to_owned(),
                prefix: prefix.to_owned(),
            })
        };
        assert_eq!(
            Address::parse("http://127.0.0.1:8000"),
            tcp("127.0.0.1:8000", "")
        );
        assert_eq!(
            Address::parse("http://localhost/base/"),
            tcp("localhost:80", "/base")
        );
        let unix = Ok(Address::Unix("/run/x.sock".into()));
        assert_eq!(Address::parse("/run/x.sock"), unix);
        assert_eq!(Address::parse("unix:/run/x.sock"), unix);
        assert_eq!(Address::parse("https://x"), Err(AddressError::Tls));
        for bad in [
            "",
            "localhost:8000",
            "unix:x",
            "ftp://x",
            "http://",
            "http://u:p@x",
            "http://x/?q",
        ] {
            assert_eq!(Address::parse(bad), Err(AddressError::Form), "{bad}");
        }
        for (text, local) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("/x", true),
            ("http://10.0.0.1:1", false),
            ("http://localhost.example", false),
        ] {
            assert_eq!(Address::parse(text).unwrap().is_local(), local, "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let http = Http::new(
            Address::Unix("/x".into()),
            Some(Secret::new(b"hunter2".to_vec())),
            Duration::ZERO,
            Duration::ZERO,
        );
        assert!(!format!("{http:?}").contains("hunter2"));
    }

    #[test]
    fn the_words_of_an_answer() {
        for (body, words) in [
            (r#"{"error":{"message":"no rank"}}"#, "no rank"),
            (r#"{"error":"no model"}"#, "no model"),
            (r#"{"success":false,"error_message":"full"}"#, "full"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            ("plain\ntext", "plain text"),
            ("", "(nothing more)"),
        ] {
            let answer = Answer {
                status: StatusCode::BAD_REQUEST,
                retry_after: None,
                body: body.as_bytes().to_vec().into(),
            };
            assert_eq!(answer.words(), words);
        }
    }
}
