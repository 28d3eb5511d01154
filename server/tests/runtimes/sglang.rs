//! SGLang: what succeeded is in the answer, nothing is replaced in place, and an unload of what is not
//! there is refused.

use std::collections::BTreeMap;
use std::path::Path;

use http::Method;
use serde_json::json;

use super::server::{Asked, Fake, Fault, Said, Speaker};
use super::{daemon, entry, push, short};
use crate::support::eventually;

/// As `entrypoints/http_server.py` and `managers/tokenizer_communicator_mixin.py` have it.
#[derive(Debug, Default)]
struct Sglang {
    loaded: BTreeMap<String, String>,
}

impl Sglang {
    fn said(&self, error: Option<String>) -> Said {
        let body = json!({
            "rid": null,
            "success": error.is_none(),
            "error_message": error,
            "loaded_adapters": self.loaded,
        });
        let status = if body["success"] == true { 200 } else { 400 };
        Said::json(status, &body)
    }
}

impl Speaker for Sglang {
    fn answer(&mut self, asked: &Asked, note: &mut dyn FnMut(String)) -> Said {
        let body = asked.json();
        let name = body["lora_name"].as_str().unwrap_or_default().to_owned();
        match (&asked.method, asked.path.as_str()) {
            (&Method::GET, "/v1/models") => {
                let adapters = self.loaded.iter().map(|(name, path)| {
                    json!({"id": name, "object": "model", "root": path, "parent": "served"})
                });
                let base = json!({"id": "served", "object": "model", "root": "served"});
                let data: Vec<_> = std::iter::once(base).chain(adapters).collect();
                Said::json(200, &json!({"object": "list", "data": data}))
            }
            (&Method::POST, "/load_lora_adapter") => {
                note(format!("load {}", short(&name)));
                let path = body["lora_path"].as_str().unwrap().to_owned();
                if self.loaded.contains_key(&name) {
                    return self.said(Some(format!(
                        "Failed to load LoRA adapter {name} because it is already loaded"
                    )));
                }
                if !Path::new(&path).join("adapter_config.json").exists() {
                    return self.said(Some(format!("{path} is not a directory of an adapter")));
                }
                self.loaded.insert(name, path);
                self.said(None)
            }
            (&Method::POST, "/unload_lora_adapter") => {
                note(format!("unload {}", short(&name)));
                let absent = self.loaded.remove(&name).is_none();
                self.said(absent.then(|| format!("LoRA with the name {name} does not exist.")))
            }
            _ => Said::json(404, &json!({"detail": "Not Found"})),
        }
    }

    fn restart(&mut self) {
        self.loaded.clear();
    }
}

#[tokio::test]
async fn each_generation_is_loaded_before_the_one_before_goes() {
    let sglang = Fake::start(Sglang::default()).await;
    let (daemon, client) = daemon(&entry("sgl", "sglang", &sglang.url(), "")).await;
    push(&client, &["a"]).await;
    sglang.logs(&["load tiny-slot-0.g1"]).await;
    push(&client, &["b"]).await;
    let order = [
        "load tiny-slot-0.g1",
        "load tiny-slot-0.g2",
        "unload tiny-slot-0.g1",
    ];
    sglang.logs(&order).await;
    sglang.restart();
    eventually("it has the newest again", async || {
        sglang.look(|sglang| {
            sglang
                .loaded
                .keys()
                .map(|name| short(name))
                .collect::<Vec<_>>()
        }) == ["tiny-slot-0.g2"]
    })
    .await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_failure_with_a_status_of_success_is_a_failure() {
    let sglang = Fake::start(Sglang::default()).await;
    let failed = json!({"success": false, "error_message": "rank 64 is not supported"});
    sglang.fault("/load", Fault::Answer(Said::json(200, &failed)));
    sglang.fault("/load", Fault::Answer(Said::json(400, &failed)));
    let (daemon, client) = daemon(&entry("sgl", "sglang", &sglang.url(), "")).await;
    push(&client, &["a"]).await;
    eventually("it is loaded", async || {
        sglang.look(|sglang| sglang.loaded.len()) == 1
    })
    .await;
    assert!(
        daemon
            .log()
            .contains("answered 200: rank 64 is not supported")
    );
    daemon.assert_quiet(&["the runtime refused"]);
}

#[tokio::test]
async fn what_has_gone_by_itself_need_not_be_unloaded() {
    let sglang = Fake::start(Sglang::default()).await;
    let more = "probe_seconds = 60\n";
    let config = entry("sgl", "sglang", &sglang.url(), "").replace("probe_seconds = 1\n", more);
    let (daemon, client) = daemon(&config).await;
    push(&client, &["a", "b"]).await;
    eventually("both are loaded", async || {
        sglang.look(|sglang| sglang.loaded.len()) == 2
    })
    .await;
    sglang.look(|sglang| sglang.loaded.retain(|name, _| short(name).ends_with("g2")));
    eventually("it was asked to unload it", async || {
        sglang
            .log()
            .iter()
            .any(|line| line == "unload tiny-slot-0.g1")
    })
    .await;
    let held = daemon.state().join("runtimes/sgl");
    eventually("and its files are released all the same", async || {
        std::fs::read_dir(&held).unwrap().count() == 1
    })
    .await;
    daemon.assert_quiet(&[]);
}
