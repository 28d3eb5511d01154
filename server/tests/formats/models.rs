//! A task worked into a copy of its base model's weights.

use serde_json::json;

use super::{open, written};
use crate::support::adapters::{Tensor, Tensors};
use crate::support::calls::{merge, policy, register};
use crate::support::command::Cli;
use crate::support::tensors::{read, updates};
use crate::support::{BASE, Daemon};

/// Weights of the goldens' attention layers, in two files as large models have them.
fn weights() -> [(&'static str, Tensors); 2] {
    let tensors = |layers: std::ops::Range<usize>| {
        let mut tensors = Vec::new();
        for layer in layers {
            for (module, shape) in [
                ("q_proj", [64, 64]),
                ("k_proj", [32, 64]),
                ("v_proj", [32, 64]),
                ("o_proj", [64, 64]),
            ] {
                let name = format!("model.layers.{layer}.self_attn.{module}.weight");
                let seed = u64::try_from(tensors.len() + 7 * layer).unwrap();
                tensors.push(Tensor::random(name, &shape, seed));
            }
        }
        Tensors(tensors)
    };
    [
        ("model-00001-of-00002.safetensors", tensors(0..1)),
        ("model-00002-of-00002.safetensors", tensors(1..3)),
    ]
}

#[tokio::test]
async fn a_task_becomes_a_model_of_its_own() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let [(_, peft), ..] = written("a1");
    merge(&client, "a1", &open(&peft).await).await;
    let base = daemon.room().join("base");
    std::fs::create_dir(&base).unwrap();
    std::fs::write(base.join("config.json"), "{}").unwrap();
    for (name, tensors) in weights() {
        std::fs::write(base.join(name), tensors.file()).unwrap();
    }
    let cli = Cli::new(&daemon.socket());
    let (weights_of, out) = (base.display().to_string(), daemon.room().join("out"));
    let out_path = out.display().to_string();
    let pull = [
        "pull",
        "a1",
        "--as",
        "model",
        "--base-weights",
        &weights_of,
        "--out",
        &out_path,
    ];
    let made = cli.json(&pull);
    assert_eq!(
        (&made["format"], &made["modules"]),
        (&json!("model"), &json!(12))
    );
    assert!(out.join("config.json").is_file());

    let served = daemon.room().join("peft");
    cli.done(&["pull", "a1", "--out", &served.display().to_string()]);
    let served = std::fs::read(served.join("adapter_model.safetensors")).unwrap();
    let updates = updates(&read(&served));
    let mut changed = 0;
    for (name, tensors) in weights() {
        let before = read(&tensors.file());
        let after = read(&std::fs::read(out.join(name)).unwrap());
        assert_eq!(before.len(), after.len());
        for (name, before) in before {
            let module = name.strip_suffix(".weight").unwrap();
            let update = &updates[&format!("base_model.model.{module}")];
            let mut expected = before.clone();
            for (value, update) in expected.values.iter_mut().zip(&update.values) {
                *value += update;
            }
            let error = after[&name].difference(&expected);
            assert!(error < 1e-5 * expected.largest(), "{name}: {error}");
            assert!(after[&name].difference(&before) > 0.01, "{name}");
            changed += 1;
        }
    }
    assert_eq!(changed, 12);
    // What is there is not replaced, and nothing is left beside it.
    assert_eq!(cli.run(&pull).code, 1);
    let hidden = std::fs::read_dir(daemon.room())
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with(".kmerge-pull-")
        })
        .count();
    assert_eq!(hidden, 0);
    let without = cli.run(&["pull", "a1", "--as", "model", "--out", &out_path]);
    assert_eq!(without.code, 2, "{without:?}");
}
