//! SGLang, by its HTTP server with `--enable-lora` (`python/sglang/srt/entrypoints/http_server.py`,
//! `managers/io_struct.py`).
//!
//! It has no aliases and replaces nothing in place. A load or an unload is answered with
//! `{success, error_message, loaded_adapters}`, 400 if it failed; an unload waits until no request
//! uses the adapter any more. Adapters are listed as models (since late 2025).

use async_trait::async_trait;
use serde_json::json;

use super::http::{Answer, Http};
use super::policy::Listing;
use super::runtime::{CallError, Given, Runtime, Tells};
use super::vllm::models;

/// An SGLang server.
#[derive(Debug)]
pub struct Sglang {
    http: Http,
}

impl Sglang {
    /// Called through `http`.
    pub fn new(http: Http) -> Self {
        Self { http }
    }
}

/// Whether it worked is in the answer, whatever the status says.
fn succeeded(answer: &Answer) -> Result<(), CallError> {
    if answer.json()?["success"] == true {
        return Ok(());
    }
    Err(CallError::Refused {
        status: answer.status.as_u16(),
        what: answer.words(),
    })
}

#[async_trait]
impl Runtime for Sglang {
    fn tells(&self) -> Tells {
        Tells::Contents
    }

    async fn listing(&self) -> Result<Listing, CallError> {
        models(&self.http).await
    }

    async fn load(&self, given: &Given<'_>) -> Result<(), CallError> {
        let body = json!({ "lora_name": given.name, "lora_path": given.path });
        succeeded(&self.http.post_load("/load_lora_adapter", &body).await?)
    }

    async fn unload(&self, name: &str) -> Result<(), CallError> {
        let body = json!({ "lora_name": name });
        // With the time of a load: it waits for the requests that use the adapter.
        succeeded(&self.http.post_load("/unload_lora_adapter", &body).await?)
    }
}
