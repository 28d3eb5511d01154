//! The demo's adapters and their base model's configuration, compiled in.

use kmerge_client::Adapter;
use prost::bytes::Bytes;

/// The base model's config.json.
pub(super) const BASE_CONFIG: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/config.json"));

/// One adapter of the demo.
#[derive(Debug, Clone, Copy)]
pub(super) struct DemoAdapter {
    pub(super) task: &'static str,
    config: &'static [u8],
    tensors: &'static [u8],
}

impl DemoAdapter {
    /// The adapter, ready to be sent.
    pub(super) fn open(&self) -> Adapter {
        Adapter::from_bytes(self.config.to_vec(), Bytes::from_static(self.tensors))
    }
}

macro_rules! adapters {
    ($($task:literal)*) => {
        [$(DemoAdapter {
            task: $task,
            config: include_bytes!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/demo/", $task, "/adapter_config.json"
            )),
            tensors: include_bytes!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/demo/", $task, "/adapter_model.safetensors"
            )),
        }),*]
    };
}

/// In the order in which they arrive: problem types and languages mixed, so that with three slots
/// the first three open one each, and each later one has to choose.
pub(super) const ADAPTERS: [DemoAdapter; 8] = adapters! {
    "slug-en" "lookup-de" "correction-en" "longest-de"
    "slug-de" "correction-de" "lookup-en" "longest-en"
};

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn what_is_compiled_in_is_adapters() {
        for adapter in ADAPTERS {
            let tensors = SafeTensors::deserialize(adapter.tensors).unwrap();
            // 30 layers, four modules each, A and B of each.
            assert_eq!(tensors.len(), 240, "{}", adapter.task);
            let config: serde_json::Value = serde_json::from_slice(adapter.config).unwrap();
            assert_eq!(config["peft_type"], "LORA", "{}", adapter.task);
        }
        let base: serde_json::Value = serde_json::from_slice(BASE_CONFIG).unwrap();
        assert_eq!(base["num_hidden_layers"], 30);
    }

    #[test]
    fn no_two_are_the_same() {
        let mut digests: Vec<_> = ADAPTERS
            .iter()
            .map(|adapter| adapter.open().sha256().to_owned())
            .collect();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), ADAPTERS.len());
    }
}
