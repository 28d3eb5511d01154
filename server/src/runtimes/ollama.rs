//! Ollama: an adapter is a model of its own, made from the base model's name and a GGUF adapter that
//! is sent as a blob (`server/create.go`, `server/routes.go`, `api/types.go`).
//!
//! `HEAD` and `POST /api/blobs/sha256:…`, then `POST /api/create`; layers are shared by digest, so
//! that K models cost K adapters and one base. An alias is a copy of a model's manifest
//! (`POST /api/copy`), which moves at once; the manifest's digest tells what an alias leads to. Ollama
//! keeps its own copy of the file. Safetensors are never sent: its converter reorders the wrong
//! factor of q and k.

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use kmerge_storage::{ExportedFile, TensorFile};
use serde_json::json;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::http::{Body, Http, JSON, empty, whole};
use super::policy::Listing;
use super::runtime::{CallError, Given, Runtime, Tells};

/// The tag of a model that is named without one.
const LATEST: &str = ":latest";

/// Bytes of a blob that are read at once.
const CHUNK: u64 = 1 << 20;

/// An Ollama server.
#[derive(Debug)]
pub struct Ollama {
    http: Http,
    /// Its own name of the base model.
    base: String,
}

impl Ollama {
    /// Called through `http`; adapters are put on its model `base`.
    pub fn new(http: Http, base: String) -> Self {
        Self { http, base }
    }

    async fn send_blob(&self, digest: &str, file: &ExportedFile) -> Result<(), CallError> {
        let path = format!("/api/blobs/{digest}");
        let known = self.http.ask(Method::HEAD, &path, &[], empty()).await?;
        match known.status {
            StatusCode::OK => return Ok(()),
            StatusCode::NOT_FOUND => {}
            _ => {
                known.accepted()?;
            }
        }
        let length = (header::CONTENT_LENGTH, HeaderValue::from(file.size_bytes));
        let body = stream(file.file.clone(), file.size_bytes);
        let time = self.http.load_timeout();
        self.http
            .send(Method::POST, &path, &[length], body, time)
            .await?
            .accepted()?;
        Ok(())
    }

    async fn delete(&self, name: &str) -> Result<(), CallError> {
        let body = whole(json!({ "model": name }).to_string().into());
        let headers = [JSON];
        let answer = self.http.ask(Method::DELETE, "/api/delete", &headers, body);
        match answer.await?.accepted() {
            Ok(_) => Ok(()),
            Err(error) if error.has_status(404) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The bytes of a file, read as they are sent: one chunk ahead, and no more.
fn stream(file: TensorFile, length: u64) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    // It ends with the file, or with the reader of the channel.
    tokio::task::spawn_blocking(move || {
        let mut offset = 0;
        while offset < length {
            let size = CHUNK.min(length - offset);
            let mut chunk = vec![0; usize::try_from(size).unwrap_or(0)];
            let read = file.read_exact_at(&mut chunk, offset);
            let failed = read.is_err();
            if sender
                .blocking_send(read.map(|()| Bytes::from(chunk)))
                .is_err()
                || failed
            {
                return;
            }
            offset += size;
        }
    });
    let frames = ReceiverStream::new(receiver).map(|chunk| chunk.map(Frame::data));
    StreamBody::new(frames).boxed_unsync()
}

#[async_trait]
impl Runtime for Ollama {
    fn tells(&self) -> Tells {
        Tells::Contents
    }

    fn keeps_aliases(&self) -> bool {
        true
    }

    async fn listing(&self) -> Result<Listing, CallError> {
        let answer = self.http.get("/api/tags").await?;
        let models = answer["models"].as_array();
        let models =
            models.ok_or_else(|| CallError::Unclear("/api/tags has no list".to_owned()))?;
        Ok(models
            .iter()
            .filter_map(|model| {
                let name = model["name"].as_str()?;
                let name = name.strip_suffix(LATEST).unwrap_or(name).to_owned();
                Some((name, model["digest"].as_str().map(str::to_owned)))
            })
            .collect())
    }

    async fn load(&self, given: &Given<'_>) -> Result<(), CallError> {
        let holdings = std::sync::Arc::clone(given.holdings);
        let name = given.name.to_owned();
        // Its digest is computed, which takes its time.
        let files = tokio::task::spawn_blocking(move || holdings.open(&name)).await;
        let files = match files {
            Ok(Ok(files)) => files,
            Ok(Err(error)) => return Err(CallError::Unable(error.to_string())),
            Err(error) => return Err(CallError::Unable(error.to_string())),
        };
        let gguf = |file: &&ExportedFile| file.name.ends_with(".gguf");
        let file = files.iter().find(gguf).ok_or_else(|| {
            CallError::Unable(format!("takes GGUF, and {} has no such file", given.name))
        })?;
        let digest = format!("sha256:{}", file.digest);
        self.send_blob(&digest, file).await?;
        let body = json!({
            "model": given.name,
            "from": self.base,
            "adapters": { file.name.as_str(): digest },
            "stream": false,
        });
        let answer = self.http.post_load("/api/create", &body).await?;
        if answer.json()?["status"] == "success" {
            Ok(())
        } else {
            Err(CallError::Unclear(answer.words()))
        }
    }

    async fn switch(&self, alias: &str, given: &Given<'_>) -> Result<(), CallError> {
        let body = json!({ "source": given.name, "destination": alias });
        self.http.post("/api/copy", &body).await.map(drop)
    }

    async fn unroute(&self, alias: &str) -> Result<(), CallError> {
        self.delete(alias).await
    }

    async fn unload(&self, name: &str) -> Result<(), CallError> {
        self.delete(name).await
    }
}
