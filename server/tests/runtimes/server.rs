//! An HTTP server for tests: a runtime's interface as a function of its state, a log of what it was
//! asked, and faults that are injected from outside.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::eventually;

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    /// The body as JSON; null if it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Said {
    pub(crate) fn text(status: u16, text: &str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: text.as_bytes().to_vec().into(),
        }
    }

    pub(crate) fn json(status: u16, value: &Value) -> Self {
        Self::text(status, &value.to_string())
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// A runtime's interface.
pub(crate) trait Speaker: Send + 'static {
    /// Answers, and changes its state. `note` goes to the log; what has none is not worth a line.
    fn answer(&mut self, asked: &Asked, note: &mut dyn FnMut(String)) -> Said;

    /// Loses what is in its memory.
    fn restart(&mut self);
}

/// Something that goes wrong with one request whose path begins as given.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is not done, and this is answered.
    Answer(Said),
    /// It is done, and this is answered all the same.
    DoneBut(Said),
    /// No answer ever comes.
    Hang,
    /// The connection breaks.
    Break,
}

#[derive(Debug)]
struct Inner<S> {
    speaker: S,
    log: Vec<String>,
    faults: VecDeque<(String, Fault)>,
}

/// A server that runs, or does not.
#[derive(Debug)]
pub(crate) struct Fake<S> {
    inner: Arc<Mutex<Inner<S>>>,
    address: SocketAddr,
    task: Option<JoinHandle<()>>,
}

impl<S: Speaker> Fake<S> {
    /// On a port of its own.
    pub(crate) async fn start(speaker: S) -> Self {
        let mut fake = Self::absent(speaker).await;
        fake.resume().await;
        fake
    }

    /// With an address at which nobody answers yet.
    pub(crate) async fn absent(speaker: S) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            inner: Arc::new(Mutex::new(Inner {
                speaker,
                log: Vec::new(),
                faults: VecDeque::new(),
            })),
            address: listener.local_addr().unwrap(),
            task: None,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap()
    }

    /// Stops listening; open connections break.
    pub(crate) fn pause(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Listens again, with the state that it had.
    pub(crate) async fn resume(&mut self) {
        let listener = loop {
            // The port may take a moment to be free again.
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let inner = Arc::clone(&self.inner);
        self.task = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let inner = Arc::clone(&inner);
                connections.spawn(async move {
                    let service = service_fn(move |request| serve(Arc::clone(&inner), request));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    // A broken connection is what some tests are about.
                    drop(connection.await);
                });
            }
        }));
    }

    /// Loses its state, as a process that is started again.
    pub(crate) fn restart(&self) {
        let mut inner = self.inner();
        inner.speaker.restart();
        inner.log.push("restart".to_owned());
    }

    /// Lets the next request whose path begins with `path` go wrong.
    pub(crate) fn fault(&self, path: &str, fault: Fault) {
        self.inner().faults.push_back((path.to_owned(), fault));
    }

    /// Forgets faults that were not met.
    pub(crate) fn heal(&self) {
        self.inner().faults.clear();
    }

    /// The log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.inner().log.clone()
    }

    /// Looks at the state.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut S) -> T) -> T {
        look(&mut self.inner().speaker)
    }

    /// Waits until the log ends with `lines`, and nothing else came after `before` lines.
    pub(crate) async fn logs(&self, lines: &[&str]) {
        eventually(
            &format!("the log is {lines:?}, not {:?}", self.log()),
            async || self.log().len() >= lines.len(),
        )
        .await;
        assert_eq!(self.log(), lines);
    }
}

impl<S> Drop for Fake<S> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

async fn serve<S: Speaker>(
    inner: Arc<Mutex<Inner<S>>>,
    request: http::Request<hyper::body::Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?;
    let asked = Asked {
        method: head.method,
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body: body.to_bytes(),
    };
    let said = {
        let mut inner = inner.lock().unwrap();
        let met = inner
            .faults
            .iter()
            .position(|(path, _)| asked.path.starts_with(path.as_str()));
        let fault = met
            .and_then(|at| inner.faults.remove(at))
            .map(|(_, fault)| fault);
        let Inner { speaker, log, .. } = &mut *inner;
        let mut note = |line: String| log.push(line);
        match fault {
            None => Some(speaker.answer(&asked, &mut note)),
            Some(Fault::DoneBut(said)) => {
                speaker.answer(&asked, &mut note);
                Some(said)
            }
            Some(Fault::Answer(said)) => {
                note(format!("{} {} → {}", asked.method, asked.path, said.status));
                Some(said)
            }
            Some(Fault::Hang) => {
                note(format!("{} {} hangs", asked.method, asked.path));
                None
            }
            Some(Fault::Break) => {
                note(format!("{} {} breaks", asked.method, asked.path));
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
        }
    };
    let Some(said) = said else {
        return std::future::pending().await;
    };
    let mut response = Response::builder().status(StatusCode::from_u16(said.status).unwrap());
    for (name, value) in &said.headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(said.body)).unwrap())
}
