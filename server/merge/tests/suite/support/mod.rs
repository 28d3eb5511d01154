//! Shared by the tests: adapters made in memory, dense oracles, and a store of slots that lives in
//! a map and goes through `plan` and `execute` like any caller.

pub(crate) mod dense;
pub(crate) mod files;
pub(crate) mod gguf;
pub(crate) mod store;

use kmerge_merge::{AdapterView, AssignmentRule, BaseModel, Operator, execute, plan};

/// A small Llama: hidden 12, heads 3 of 4, one key-value head, intermediate 20, 4 layers.
pub(crate) fn tiny_base() -> BaseModel {
    BaseModel::from_config_json(
        br#"{"architectures":["LlamaForCausalLM"],"hidden_size":12,"intermediate_size":20,
            "num_hidden_layers":4,"num_attention_heads":3,"num_key_value_heads":1}"#,
    )
    .unwrap()
}

/// Runs with a given number of threads, as a caller's pool would.
pub(crate) fn with_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
        .install(run)
}

/// The file of a slot that this adapter has opened, in the type in which it came.
pub(crate) fn opened(newcomer: AdapterView<'_>) -> Vec<u8> {
    let policy = store::policy(1, AssignmentRule::KMerge, Operator::KMergeLinear);
    let plan = plan(&policy, &[], newcomer, &|_| ()).unwrap();
    let mut bytes = Vec::new();
    execute(&plan, &[], newcomer, &mut bytes, &|_| ()).unwrap();
    bytes
}
