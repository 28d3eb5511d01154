//! mistral.rs, by its HTTP server with `--enable-lora` and `MISTRALRS_ALLOW_RUNTIME_LORA_UPDATING=1`
//! (`mistralrs-server-core/src/lora_adapters.rs`, as of August 2026).
//!
//! It keeps aliases, each at an immutable generation that follows from the adapter's bytes: requests
//! under way end with the generation that they began with. Every name is loaded as an alias of its
//! own first; the alias that apps use is then moved to the same files by compare-and-swap, so that a
//! move that somebody else made in between is noticed (409) and looked at again. One load at a time:
//! 429 with Retry-After.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::http::Http;
use super::policy::Listing;
use super::runtime::{CallError, Given, Runtime, Tells};

/// A mistral.rs server.
#[derive(Debug)]
pub struct MistralRs {
    http: Http,
}

impl MistralRs {
    /// Called through `http`.
    pub fn new(http: Http) -> Self {
        Self { http }
    }

    async fn forget(&self, alias: &str) -> Result<(), CallError> {
        // Only what is there now: one that was moved meanwhile is another's.
        let Some(generation) = self.listing().await?.remove(alias) else {
            return Ok(());
        };
        let body = json!({ "lora_name": alias, "expected_generation": generation });
        match self.http.post("/v1/unload_lora_adapter", &body).await {
            Ok(_) => Ok(()),
            Err(error) if error.has_status(404) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Runtime for MistralRs {
    fn tells(&self) -> Tells {
        Tells::Contents
    }

    fn keeps_aliases(&self) -> bool {
        true
    }

    async fn listing(&self) -> Result<Listing, CallError> {
        let answer = self.http.get("/v1/lora_adapters").await?;
        let adapters = answer["data"].as_array();
        let adapters = adapters
            .ok_or_else(|| CallError::Unclear("/v1/lora_adapters has no list".to_owned()))?;
        Ok(adapters
            .iter()
            .filter_map(|adapter| {
                let generation = adapter["generation"].as_str().map(str::to_owned);
                Some((adapter["id"].as_str()?.to_owned(), generation))
            })
            .collect())
    }

    async fn load(&self, given: &Given<'_>) -> Result<(), CallError> {
        let body = json!({ "lora_name": given.name, "lora_path": given.path });
        match self.http.post_load("/v1/load_lora_adapter", &body).await {
            Ok(_) => Ok(()),
            // The adapter's own failures have a JSON body with a code.
            Err(CallError::Refused { status: 404, what }) if what == "(nothing more)" => {
                Err(CallError::Unable(
                    "has no /v1/load_lora_adapter: start mistral.rs with --enable-lora and \
                     MISTRALRS_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
                        .to_owned(),
                ))
            }
            Err(error) => Err(error),
        }
    }

    async fn switch(&self, alias: &str, given: &Given<'_>) -> Result<(), CallError> {
        let listing = self.listing().await?;
        let mut body = json!({ "lora_name": alias, "lora_path": given.path });
        if let Some(generation) = listing.get(alias) {
            body["load_inplace"] = Value::Bool(true);
            body["expected_generation"] = json!(generation);
        }
        self.http
            .post_load("/v1/load_lora_adapter", &body)
            .await
            .map(drop)
    }

    async fn unroute(&self, alias: &str) -> Result<(), CallError> {
        self.forget(alias).await
    }

    async fn unload(&self, name: &str) -> Result<(), CallError> {
        self.forget(name).await
    }
}
