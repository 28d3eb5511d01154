//! LoRAX, which has no call to load or unload: a request names its adapter, `adapter_id` with
//! `adapter_source: "local"` for a directory, and LoRAX loads it then and keeps it by that name
//! (`router/src/lib.rs`, `router/src/loader.rs`).
//!
//! So an adapter is warmed up by one request for one token, which also proves that LoRAX can load it,
//! before apps are sent to it. A directory is never read again, and each generation has its own, so
//! nothing stale is served. What is old falls out of LoRAX's cache by itself.

use async_trait::async_trait;
use http::Method;
use serde_json::json;

use super::http::{Http, empty};
use super::policy::Listing;
use super::runtime::{CallError, Given, Runtime, Tells};

/// A LoRAX server.
#[derive(Debug)]
pub struct Lorax {
    http: Http,
}

impl Lorax {
    /// Called through `http`.
    pub fn new(http: Http) -> Self {
        Self { http }
    }
}

#[async_trait]
impl Runtime for Lorax {
    fn tells(&self) -> Tells {
        Tells::Presence
    }

    fn unloads(&self) -> bool {
        false
    }

    async fn listing(&self) -> Result<Listing, CallError> {
        // Its answer has no body.
        let answer = self.http.ask(Method::GET, "/health", &[], empty()).await?;
        answer.accepted()?;
        Ok(Listing::new())
    }

    async fn load(&self, given: &Given<'_>) -> Result<(), CallError> {
        let body = json!({
            "inputs": "a",
            "parameters": {
                "adapter_id": given.path,
                "adapter_source": "local",
                "max_new_tokens": 1,
            },
        });
        let answer = self.http.post_load("/generate", &body).await?.json()?;
        if answer["generated_text"].is_string() {
            Ok(())
        } else {
            Err(CallError::Unclear(
                "the request that was to load it generated nothing".to_owned(),
            ))
        }
    }

    async fn unload(&self, _: &str) -> Result<(), CallError> {
        Ok(())
    }
}
