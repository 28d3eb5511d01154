//! Bytes from people who mean harm, or whose tools did: each defect has its own error, and nothing
//! panics or allocates what a file only claims to hold.

mod config;
mod container;
mod gguf;
mod mlx;
mod mutations;
mod pairs;
mod values;

use kmerge_merge::{AdapterError, AdapterErrorKind, Dtype, decode};
use serde_json::{Value, json};

use crate::support::files::{Module, Tensor, safetensors};
use crate::support::tiny_base;

/// A correct adapter: one module of rank 2.
fn tensors() -> Vec<Tensor> {
    Module::random("0.self_attn.q_proj", [12, 12], 2, 1)
        .tensors(Dtype::F32)
        .to_vec()
}

fn file() -> Vec<u8> {
    safetensors(&tensors())
}

fn config() -> Value {
    json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4})
}

fn refused(config: &[u8], bytes: &Vec<u8>) -> AdapterError {
    decode(config, bytes, &tiny_base()).expect_err("must be refused")
}

/// Checks everything that callers build an answer from.
fn check(error: &AdapterError, kind: AdapterErrorKind, field: &str, reason: &str, context: &str) {
    assert_eq!(error.reason(), reason, "{context}: {error}");
    assert_eq!(error.kind(), kind, "{context}: {error}");
    assert_eq!(error.field(), field, "{context}: {error}");
    assert!(reason.len() <= 63 && reason.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'));
    let message = error.to_string();
    assert!((20..700).contains(&message.len()), "{context}: {message}");
    assert!(
        !message.contains(char::is_control),
        "{context}: {message:?}"
    );
}

#[test]
fn the_starting_point_is_accepted() {
    let decoded = decode(config().to_string().as_bytes(), &file(), &tiny_base()).unwrap();
    assert_eq!(decoded.warnings, [""; 0]);
    let module = &decoded.layout.modules[0];
    assert_eq!((module.rank, module.scaling), (2, 2.0));
}
