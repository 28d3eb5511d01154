//! A directory that a runtime looks into by itself: nobody is called. The layout is that of vLLM's
//! filesystem resolver (`VLLM_PLUGINS=lora_filesystem_resolver`, `VLLM_LORA_RESOLVER_CACHE_DIR`): a
//! directory for each adapter, by its name, complete from the moment it has that name.

use async_trait::async_trait;

use super::runtime::{CallError, Given, Runtime, Tells};

/// A directory of adapters. To hold the files is all there is to do.
#[derive(Debug)]
pub struct Directory;

#[async_trait]
impl Runtime for Directory {
    fn tells(&self) -> Tells {
        Tells::Nothing
    }

    async fn load(&self, _: &Given<'_>) -> Result<(), CallError> {
        Ok(())
    }

    async fn unload(&self, _: &str) -> Result<(), CallError> {
        Ok(())
    }
}
