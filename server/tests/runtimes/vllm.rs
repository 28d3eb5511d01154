//! vLLM: the order of loads and unloads, lost state, restarts on either side.

use std::collections::BTreeMap;
use std::path::Path;

use http::Method;
use serde_json::{Value, json};

use super::server::{Asked, Fake, Said, Speaker};
use super::{BASE, daemon, entry, push, short};
use crate::support::calls::register;
use crate::support::{Setup, eventually, files_below};

/// As `vllm/entrypoints/openai/models/serving.py` has it.
#[derive(Debug, Default)]
pub(crate) struct Vllm {
    /// Name to path.
    pub(crate) loaded: BTreeMap<String, String>,
    /// Confirms loads without doing them.
    pub(crate) lies: bool,
}

fn error(status: u16, kind: &str, message: &str) -> Said {
    let body = json!({
        "error": {"message": message, "type": kind, "param": null, "code": status},
    });
    Said::json(status, &body)
}

impl Speaker for Vllm {
    fn answer(&mut self, asked: &Asked, note: &mut dyn FnMut(String)) -> Said {
        let body = asked.json();
        let name = body["lora_name"].as_str().unwrap_or_default().to_owned();
        match (&asked.method, asked.path.as_str()) {
            (&Method::GET, "/v1/models") => {
                let card = |id: &str, root: &str, parent: Value| {
                    json!({"id": id, "object": "model", "created": 1, "owned_by": "vllm",
                           "root": root, "parent": parent, "permission": []})
                };
                let base = card("served", "served", Value::Null);
                let adapters = self.loaded.iter();
                let adapters = adapters.map(|(name, path)| card(name, path, json!("served")));
                let data: Vec<_> = std::iter::once(base).chain(adapters).collect();
                Said::json(200, &json!({"object": "list", "data": data}))
            }
            (&Method::POST, "/v1/load_lora_adapter") => {
                let path = body["lora_path"].as_str().unwrap_or_default().to_owned();
                note(format!("load {}", short(&name)));
                assert!(body.get("load_inplace").is_none(), "{body}");
                if name.is_empty() || path.is_empty() {
                    let words = "Both 'lora_name' and 'lora_path' must be provided.";
                    return error(400, "InvalidUserInput", words);
                }
                if self.loaded.contains_key(&name) {
                    let words = format!("The lora adapter '{name}' has already been loaded.");
                    return error(400, "InvalidUserInput", &words);
                }
                for file in ["adapter_config.json", "adapter_model.safetensors"] {
                    if std::fs::read(Path::new(&path).join(file)).is_err() {
                        let words =
                            format!("Loading lora {name} failed: No adapter found for {path}");
                        return error(404, "NotFoundError", &words);
                    }
                }
                if !self.lies {
                    self.loaded.insert(name.clone(), path);
                }
                let words = format!("Success: LoRA adapter '{name}' added successfully.");
                Said::text(200, &words)
            }
            (&Method::POST, "/v1/unload_lora_adapter") => {
                note(format!("unload {}", short(&name)));
                if let Some(path) = self.loaded.remove(&name) {
                    let there = Path::new(&path).join("adapter_config.json").exists();
                    assert!(there, "the files of {name} went before it was unloaded");
                    Said::text(
                        200,
                        &format!("Success: LoRA adapter '{name}' removed successfully."),
                    )
                } else {
                    let words = format!("The lora adapter '{name}' cannot be found.");
                    error(404, "NotFoundError", &words)
                }
            }
            _ => Said::json(404, &json!({"detail": "Not Found"})),
        }
    }

    fn restart(&mut self) {
        self.loaded.clear();
    }
}

impl Fake<Vllm> {
    /// The names that are loaded, shortened.
    pub(crate) fn loaded(&self) -> Vec<String> {
        self.look(|vllm| vllm.loaded.keys().map(|name| short(name)).collect())
    }
}

#[tokio::test]
async fn each_generation_is_loaded_before_the_one_before_goes() {
    let vllm = Fake::start(Vllm::default()).await;
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    push(&client, &["a"]).await;
    vllm.logs(&["load tiny-slot-0.g1"]).await;
    push(&client, &["b"]).await;
    vllm.logs(&[
        "load tiny-slot-0.g1",
        "load tiny-slot-0.g2",
        "unload tiny-slot-0.g1",
    ])
    .await;
    // What the runtime was told is there, and what it no longer has is gone.
    let path = vllm.look(|vllm| vllm.loaded.values().next().unwrap().clone());
    let held = daemon.state().join("runtimes/gpu");
    assert_eq!(Path::new(&path).parent().unwrap(), held);
    eventually("the files of the old one are released", async || {
        files_below(&held).len() == 2
    })
    .await;
    let config: Value = serde_json::from_slice(
        &std::fs::read(Path::new(&path).join("adapter_config.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(config["peft_type"], "LORA");
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn tasks_of_packed_slots_have_adapters_of_their_own() {
    let vllm = Fake::start(Vllm::default()).await;
    let config = entry("gpu", "vllm", &vllm.url(), "tasks = [\"a\", \"b\"]");
    // No room in the cache: what is held must not need it.
    let serving = "[serving]\ncache_bytes = 0\ncache_seconds = 0\ngrace_seconds = 0\n";
    let daemon = Setup::default()
        .config(serving)
        .config(&config)
        .start()
        .await;
    let client = daemon.client().await;
    let policy = kmerge_client::v1::MergePolicy {
        operator: kmerge_client::v1::Operator::Progressive.into(),
        assignment: kmerge_client::v1::AssignmentRule::Roomiest.into(),
        slot_bytes: Some(100_000),
        ..crate::support::calls::policy(1)
    };
    register(&client, BASE, policy).await;
    push(&client, &["a", "b", "c"]).await;
    eventually("both are at the third generation", async || {
        vllm.loaded() == ["tiny-a.g3", "tiny-b.g3"]
    })
    .await;
    let paths: Vec<_> = vllm.look(|vllm| vllm.loaded.values().cloned().collect());
    let tensors = |path: &str| std::fs::read(Path::new(path).join("adapter_model.safetensors"));
    assert_ne!(tensors(&paths[0]).unwrap(), tensors(&paths[1]).unwrap());
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_runtime_that_restarts_without_its_adapters_gets_them_again() {
    let vllm = Fake::start(Vllm::default()).await;
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    push(&client, &["a"]).await;
    vllm.logs(&["load tiny-slot-0.g1"]).await;
    vllm.restart();
    vllm.logs(&["load tiny-slot-0.g1", "restart", "load tiny-slot-0.g1"])
        .await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn after_a_restart_of_the_daemon_only_what_changed_is_done() {
    let vllm = Fake::start(Vllm::default()).await;
    vllm.look(|vllm| {
        vllm.loaded
            .insert("foreign.g1.01234567".into(), "/elsewhere".into())
    });
    let (mut daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    push(&client, &["a"]).await;
    vllm.logs(&["load tiny-slot-0.g1"]).await;
    daemon.restart().await;
    let client = daemon.client().await;
    push(&client, &["b"]).await;
    vllm.logs(&[
        "load tiny-slot-0.g1",
        "load tiny-slot-0.g2",
        "unload tiny-slot-0.g1",
    ])
    .await;
    // What it was not given by this daemon is no business of this daemon.
    assert!(vllm.loaded().contains(&"foreign.g1".to_owned()));
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn what_changed_while_the_daemon_was_away_is_put_right() {
    let vllm = Fake::start(Vllm::default()).await;
    let (mut daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    push(&client, &["a"]).await;
    vllm.logs(&["load tiny-slot-0.g1"]).await;
    daemon.stop().await;
    vllm.restart();
    daemon.restart().await;
    vllm.logs(&["load tiny-slot-0.g1", "restart", "load tiny-slot-0.g1"])
        .await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_runtime_sees_the_directory_where_its_container_has_it() {
    let room = tempfile::tempdir().unwrap();
    let real = room.path().join("real");
    let seen = room.path().join("seen");
    std::os::unix::fs::symlink(&real, &seen).unwrap();
    let vllm = Fake::start(Vllm::default()).await;
    let more = format!(
        "directory = \"{}\"\nseen_as = \"{}\"",
        real.display(),
        seen.display()
    );
    std::fs::create_dir_all(real.join("mine")).unwrap();
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), &more)).await;
    push(&client, &["a"]).await;
    vllm.logs(&["load tiny-slot-0.g1"]).await;
    let path = vllm.look(|vllm| vllm.loaded.values().next().unwrap().clone());
    assert!(Path::new(&path).starts_with(&seen), "{path}");
    assert!(real.join("mine").is_dir(), "others' things are left alone");
    daemon.assert_quiet(&[]);
}
