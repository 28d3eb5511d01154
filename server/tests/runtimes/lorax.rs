//! LoRAX: warmed up by a request, and nothing to unload.

use std::path::Path;

use http::Method;
use serde_json::json;

use super::server::{Asked, Fake, Fault, Said, Speaker};
use super::{daemon, entry, push, short};
use crate::support::eventually;

/// As `router/src/server.rs` has it.
#[derive(Debug, Default)]
struct Lorax {
    warm: Vec<String>,
}

impl Speaker for Lorax {
    fn answer(&mut self, asked: &Asked, note: &mut dyn FnMut(String)) -> Said {
        match (&asked.method, asked.path.as_str()) {
            (&Method::GET, "/health") => Said::text(200, ""),
            (&Method::POST, "/generate") => {
                let body = asked.json();
                let parameters = &body["parameters"];
                assert_eq!(parameters["adapter_source"], "local");
                assert_eq!(parameters["max_new_tokens"], 1);
                let path = parameters["adapter_id"].as_str().unwrap().to_owned();
                let name = Path::new(&path).file_name().unwrap().to_str().unwrap();
                note(format!("generate {}", short(name)));
                if !Path::new(&path).join("adapter_config.json").exists() {
                    let error = json!({"error": "Request failed during generation",
                                       "error_type": "generation"});
                    return Said::json(424, &error);
                }
                self.warm.push(path);
                Said::json(200, &json!({"generated_text": "b"}))
            }
            _ => Said::text(404, ""),
        }
    }

    fn restart(&mut self) {
        self.warm.clear();
    }
}

#[tokio::test]
async fn each_generation_is_warm_before_apps_are_sent_to_it() {
    let lorax = Fake::start(Lorax::default()).await;
    let loading = json!({"error": "Adapter is being downloaded", "error_type": "overloaded"});
    lorax.fault("/generate", Fault::Answer(Said::json(429, &loading)));
    let (daemon, client) = daemon(&entry("lorax", "lorax", &lorax.url(), "")).await;
    push(&client, &["a"]).await;
    eventually("it is warm", async || {
        lorax.look(|lorax| lorax.warm.len()) == 1
    })
    .await;
    push(&client, &["b"]).await;
    lorax
        .logs(&[
            "POST /generate → 429",
            "generate tiny-slot-0.g1",
            "generate tiny-slot-0.g2",
        ])
        .await;
    eventually("apps are sent to the newest", async || {
        let runtime = client.list_runtimes().await.unwrap().remove(0);
        runtime
            .adapters
            .iter()
            .all(|adapter| adapter.serving == adapter.name)
    })
    .await;
    // The directory is what apps name, and the old one goes when it has drained.
    let runtime = client.list_runtimes().await.unwrap().remove(0);
    let path = Path::new(&runtime.directory).join(&runtime.adapters[0].serving);
    assert!(lorax.look(|lorax| lorax.warm.contains(&path.display().to_string())));
    eventually("the old one is released", async || {
        std::fs::read_dir(&runtime.directory).unwrap().count() == 1
    })
    .await;
    daemon.assert_quiet(&["the runtime refused"]);
}

#[tokio::test]
async fn one_that_cannot_generate_with_it_is_not_sent_there() {
    let lorax = Fake::start(Lorax::default()).await;
    let failed = json!({"error": "rank 3 is not supported", "error_type": "validation"});
    for _ in 0..3 {
        lorax.fault("/generate", Fault::Answer(Said::json(422, &failed)));
    }
    let (daemon, client) = daemon(&entry("lorax", "lorax", &lorax.url(), "")).await;
    push(&client, &["a"]).await;
    eventually("it says so", async || {
        let runtime = client.list_runtimes().await.unwrap().remove(0);
        let trouble = runtime.trouble.map(|trouble| trouble.message);
        trouble.is_some_and(|message| message == "answered 422: rank 3 is not supported")
    })
    .await;
    let runtime = client.list_runtimes().await.unwrap().remove(0);
    assert_eq!(runtime.adapters[0].serving, "");
    daemon.assert_quiet(&["the runtime refused"]);
}
