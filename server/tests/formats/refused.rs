//! What is refused, with which code and reason, and that nothing is left of it.

use kmerge_client::{Error, Fetch, v1};
use serde_json::json;
use tonic::Code;

use super::{open, register_from, written};
use crate::support::calls::{
    Picture, Refusal, header, merge, messages, policy, refusal, register, send, upload,
};
use crate::support::{BASE, Daemon};

#[tokio::test]
async fn a_damaged_gguf_is_refused_by_its_defect_and_leaves_nothing() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let [_, (_, gguf), (_, mlx)] = written("a1");
    let good = std::fs::read(gguf).unwrap();
    let before = Picture::take(&client).await;
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    for (bytes, code, reason) in [
        (
            good[..good.len() - 64].to_vec(),
            Code::InvalidArgument,
            "GGUF_TENSOR_BEYOND_FILE",
        ),
        (changed(4, 2), Code::FailedPrecondition, "GGUF_VERSION"),
        (
            changed(15, 0xff),
            Code::InvalidArgument,
            "GGUF_TOO_MANY_TENSORS",
        ),
        (
            replaced(&good, b"adapter.type", b"adapter.typo"),
            Code::InvalidArgument,
            "GGUF_MISSING_KEY",
        ),
        (
            replaced(&good, b"blk.2.attn_k", b"blk.9.attn_k"),
            Code::FailedPrecondition,
            "MODULE_NOT_IN_BASE",
        ),
    ] {
        let mut announced = header("task", b"", &bytes);
        announced.format = v1::AdapterFormat::Gguf.into();
        let status = send(&daemon.channel().await, messages(announced, &bytes))
            .await
            .unwrap_err();
        let refusal = Refusal::from(status);
        assert_eq!((refusal.code, refusal.reason.as_str()), (code, reason));
    }
    // The configuration and the bytes must be of the format that is announced.
    let config = std::fs::read(mlx.join("adapter_config.json")).unwrap();
    let tensors = std::fs::read(mlx.join("adapters.safetensors")).unwrap();
    for (format, config, bytes, reason) in [
        (v1::AdapterFormat::Gguf, &config[..], &good, "FIELD_INVALID"),
        (v1::AdapterFormat::Gguf, b"", &tensors, "NOT_GGUF"),
        (v1::AdapterFormat::Peft, &config, &tensors, "UNKNOWN_TENSOR"),
        (v1::AdapterFormat::Mlx, &config, &good, "NOT_SAFETENSORS"),
        (v1::AdapterFormat::Mlx, b"{}", &tensors, "MLX_MISSING_FIELD"),
    ] {
        let mut announced = header("task", config, bytes);
        announced.format = format.into();
        let status = send(&daemon.channel().await, messages(announced, bytes))
            .await
            .unwrap_err();
        let refusal = Refusal::from(status);
        assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
        assert_eq!(refusal.reason, reason, "{refusal:?}");
    }
    assert_eq!(Picture::take(&client).await, before);
    assert_eq!(daemon.staged(), [""; 0].map(std::path::PathBuf::from));
    daemon.assert_quiet(&[]);
}

/// The bytes with one text replaced by another of its length.
fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = (0..bytes.len() - old.len())
        .filter(|&at| bytes[at..].starts_with(old))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    bytes
}

#[tokio::test]
async fn a_base_model_that_a_runtime_has_otherwise_is_refused_and_says_what_to_do() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let config = json!({
        "architectures": ["OlmoForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    });
    let path = daemon.room().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    register_from(&client, BASE, &path, policy(1)).await;
    let [(_, peft), _, (_, mlx)] = written("a1");
    merge(&client, "a1", &open(&peft).await).await;
    let fetch = |format| Fetch {
        base_model: BASE.to_owned(),
        slot: 0,
        generation: 0,
        format,
        into: daemon.room().join("out"),
        replace: false,
    };
    let gguf = client.fetch_slot(&fetch(v1::AdapterFormat::Gguf)).await;
    assert!(gguf.is_ok(), "llama.cpp has it: {gguf:?}");
    std::fs::remove_dir_all(daemon.room().join("out")).unwrap();
    let refused = client.fetch_slot(&fetch(v1::AdapterFormat::Mlx)).await;
    let refused: Error = refused.unwrap_err();
    let found = refusal(refused);
    assert_eq!(found.code, Code::FailedPrecondition);
    assert_eq!(found.reason, "NO_MLX_FORM");
    assert!(
        found.message.contains("pull the adapter as peft"),
        "{found:?}"
    );
    assert!(!daemon.room().join("out").exists());
    let sent = client
        .upload_adapter(&open(&mlx).await, &upload("b"), |_| ())
        .await;
    assert_eq!(refusal(sent.unwrap_err()).reason, "MLX_UNKNOWN_BASE");
    daemon.assert_quiet(&[]);
}
