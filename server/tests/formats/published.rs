//! Formats that are published on disk with each generation.

use std::path::PathBuf;

use kmerge_client::v1;

use super::{FORMATS, open, pull, register_from, written};
use crate::support::calls::{merge, policy, register};
use crate::support::{BASE, Daemon, Setup, goldens};

fn exports(daemon: &Daemon, word: &str) -> PathBuf {
    let below = format!("exports/{word}/{BASE}/slot-0");
    daemon.state().join(below)
}

#[tokio::test]
async fn each_generation_is_published_in_the_configured_formats() {
    let setup = Setup::default().config("[exports]\nformats = [\"mlx\", \"gguf\"]");
    let mut daemon = setup.start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    for (generation, name) in [(1, "a1"), (2, "a4-bf16")] {
        let [(_, peft), ..] = written(name);
        merge(&client, name, &open(&peft).await).await;
        for (format, word, tensors) in FORMATS {
            let current = exports(&daemon, word).join("current");
            assert_eq!(
                std::fs::read_link(&current).unwrap(),
                PathBuf::from(generation.to_string()),
                "{word}"
            );
            let published = std::fs::read(current.join(tensors)).unwrap();
            let into = daemon.room().join(word);
            pull(&client, &into, format, None).await;
            let pulled = std::fs::read(into.join(tensors)).unwrap();
            assert_eq!(published, pulled, "{word}");
        }
    }
    // What is missing is made at the next start, and what is not asked for stays away.
    std::fs::remove_dir_all(exports(&daemon, "gguf")).unwrap();
    daemon.restart().await;
    assert!(
        exports(&daemon, "gguf")
            .join("current/adapter.gguf")
            .is_file()
    );
    assert!(!daemon.state().join("derived/gguf").join(BASE).exists());
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn peft_alone_is_the_default_and_the_environment_may_name_others() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    let [(_, peft), ..] = written("a1");
    merge(&client, "a1", &open(&peft).await).await;
    let formats = |daemon: &Daemon| {
        let mut names: Vec<_> = std::fs::read_dir(daemon.state().join("exports"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(formats(&daemon), ["peft"]);
    daemon.env("KMERGE_EXPORTS__FORMATS", "peft, mlx");
    daemon.restart().await;
    assert_eq!(formats(&daemon), ["mlx", "peft"]);
}

#[tokio::test]
async fn a_format_that_cannot_be_written_stands_in_nobodys_way() {
    let setup = Setup::default().config("[exports]\nformats = [\"gguf\", \"mlx\"]");
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let config = std::fs::read_to_string(goldens().join("base/config.json")).unwrap();
    let olmo = config
        .replace("LlamaForCausalLM", "OlmoForCausalLM")
        .replace("\"llama\"", "\"olmo\"");
    let path = daemon.room().join("config.json");
    std::fs::write(&path, olmo).unwrap();
    register_from(&client, BASE, &path, policy(1)).await;
    let [(_, peft), ..] = written("a1");
    let decision = merge(&client, "a1", &open(&peft).await).await;
    assert_eq!(decision.assignment(), v1::Assignment::Opened);
    for (word, there) in [("peft", true), ("gguf", true), ("mlx", false)] {
        assert_eq!(
            exports(&daemon, word).join("current").exists(),
            there,
            "{word}"
        );
    }
    let log = daemon.log();
    assert_eq!(log.matches("no mlx export").count(), 1, "{log}");
    daemon.assert_quiet(&["no mlx export"]);
}
