//! vLLM, by its OpenAI-compatible server with `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`
//! (`vllm/entrypoints/serve/lora`, `vllm/entrypoints/openai/models/serving.py`).
//!
//! It has no aliases. Loading again under one name would serve answers that its prefix cache has of
//! the old weights, so `load_inplace` is never used. It reads an adapter's files again whenever the
//! adapter has fallen out of its cache: they stay where they are until it is unloaded. Adapters are
//! listed as models.

use async_trait::async_trait;
use serde_json::json;

use super::http::Http;
use super::policy::Listing;
use super::runtime::{CallError, Given, Runtime, Tells};

/// A vLLM server.
#[derive(Debug)]
pub struct Vllm {
    http: Http,
}

impl Vllm {
    /// Called through `http`.
    pub fn new(http: Http) -> Self {
        Self { http }
    }
}

/// The ids in an OpenAI-style list of models.
pub(super) async fn models(http: &Http) -> Result<Listing, CallError> {
    let answer = http.get("/v1/models").await?;
    let models = answer["data"].as_array();
    let models = models.ok_or_else(|| CallError::Unclear("/v1/models has no list".to_owned()))?;
    Ok(models
        .iter()
        .filter_map(|model| Some((model["id"].as_str()?.to_owned(), None)))
        .collect())
}

#[async_trait]
impl Runtime for Vllm {
    fn tells(&self) -> Tells {
        Tells::Contents
    }

    async fn listing(&self) -> Result<Listing, CallError> {
        models(&self.http).await
    }

    async fn load(&self, given: &Given<'_>) -> Result<(), CallError> {
        let body = json!({ "lora_name": given.name, "lora_path": given.path });
        let answer = self.http.post_load("/v1/load_lora_adapter", &body).await;
        match answer {
            Ok(_) => Ok(()),
            // The router's own 404, not the adapter's: the call is only there when it is allowed.
            Err(CallError::Refused { status: 404, what }) if what == "Not Found" => {
                Err(CallError::Unable(
                    "has no /v1/load_lora_adapter: start vLLM with --enable-lora and \
                     VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
                        .to_owned(),
                ))
            }
            Err(error) => Err(error),
        }
    }

    async fn unload(&self, name: &str) -> Result<(), CallError> {
        let body = json!({ "lora_name": name });
        match self.http.post("/v1/unload_lora_adapter", &body).await {
            Ok(_) => Ok(()),
            Err(error) if error.has_status(404) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
