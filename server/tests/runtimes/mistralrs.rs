//! mistral.rs: aliases at immutable generations, moved by compare-and-swap.

use std::collections::BTreeMap;
use std::path::Path;

use http::Method;
use kmerge_storage::Digest;
use serde_json::{Value, json};

use super::server::{Asked, Fake, Fault, Said, Speaker};
use super::{BASE, daemon, entry, push, short};
use crate::support::calls::ended;
use crate::support::eventually;

/// As `mistralrs-server-core/src/lora_adapters.rs` has it.
#[derive(Debug, Default)]
struct MistralRs {
    /// Alias to generation.
    aliases: BTreeMap<String, String>,
    /// Every generation that the alias `tiny-a` was at.
    served: Vec<String>,
    /// Someone else moves the alias right before the next swap.
    rival: Option<String>,
}

fn error(status: u16, code: &str, message: &str) -> Said {
    let body = json!({
        "error": {"message": message, "type": "invalid_request_error", "code": code},
    });
    Said::json(status, &body)
}

impl MistralRs {
    fn object(alias: &str, generation: &str) -> Value {
        json!({"id": alias, "object": "lora_adapter", "generation": generation, "rank": 2,
               "bytes": 1})
    }

    fn load(&mut self, body: &Value, note: &mut dyn FnMut(String)) -> Said {
        for key in body.as_object().unwrap().keys() {
            let known = [
                "lora_name",
                "lora_path",
                "load_inplace",
                "expected_generation",
                "model",
            ];
            assert!(
                known.contains(&key.as_str()),
                "{key} is refused by the real one"
            );
        }
        let alias = body["lora_name"].as_str().unwrap().to_owned();
        let path = Path::new(body["lora_path"].as_str().unwrap());
        let in_place = body["load_inplace"] == true;
        let expected = body["expected_generation"].as_str();
        let what = if in_place { "swap" } else { "load" };
        note(format!("{what} {}", short(&alias)));
        if expected.is_some() && !in_place {
            let words = "expected_generation requires load_inplace=true";
            return error(400, "invalid_lora_load_policy", words);
        }
        let Ok(config) = std::fs::read(path.join("adapter_config.json")) else {
            return error(
                404,
                "adapter_path_not_found",
                "failed to access adapter directory",
            );
        };
        let weights = std::fs::read(path.join("adapter_model.safetensors")).unwrap();
        let generation = Digest::of(&[config, weights].concat()).to_string();
        if let Some(rival) = self.rival.take() {
            self.aliases.insert(alias.clone(), rival);
        }
        match (self.aliases.get(&alias), in_place, expected) {
            (Some(_), false, _) => {
                return error(409, "lora_adapter_already_loaded", "it is loaded already");
            }
            (Some(current), true, Some(expected)) if current != expected => {
                return error(409, "lora_generation_mismatch", "the alias has moved");
            }
            (None, true, Some(_)) => {
                return error(404, "lora_adapter_not_found", "there is no such alias");
            }
            _ => {}
        }
        if alias == "tiny-a" {
            self.served.push(generation.clone());
        }
        self.aliases.insert(alias.clone(), generation.clone());
        Said::json(200, &Self::object(&alias, &generation))
    }

    fn unload(&mut self, body: &Value, note: &mut dyn FnMut(String)) -> Said {
        let alias = body["lora_name"].as_str().unwrap().to_owned();
        note(format!("unload {}", short(&alias)));
        let Some(current) = self.aliases.get(&alias).cloned() else {
            return error(404, "lora_adapter_not_found", "there is no such alias");
        };
        if body["expected_generation"]
            .as_str()
            .is_some_and(|expected| expected != current)
        {
            return error(409, "lora_generation_mismatch", "the alias has moved");
        }
        self.aliases.remove(&alias);
        Said::json(200, &Self::object(&alias, &current))
    }
}

impl Speaker for MistralRs {
    fn answer(&mut self, asked: &Asked, note: &mut dyn FnMut(String)) -> Said {
        match (&asked.method, asked.path.as_str()) {
            (&Method::GET, "/v1/lora_adapters") => {
                let data: Vec<_> = self
                    .aliases
                    .iter()
                    .map(|(alias, generation)| Self::object(alias, generation))
                    .collect();
                let body = json!({"object": "list", "data": data, "generations": [],
                                  "resident_generations": 0, "retired_generations": 0,
                                  "resident_bytes": 0, "max_adapters": 16, "max_rank": 256,
                                  "max_bytes": 1});
                Said::json(200, &body)
            }
            (&Method::POST, "/v1/load_lora_adapter") => self.load(&asked.json(), note),
            (&Method::POST, "/v1/unload_lora_adapter") => self.unload(&asked.json(), note),
            _ => Said::text(404, ""),
        }
    }

    fn restart(&mut self) {
        self.aliases.clear();
    }
}

impl Fake<MistralRs> {
    /// All aliases, shortened.
    fn names(&self) -> Vec<String> {
        self.look(|mistral| mistral.aliases.keys().map(|name| short(name)).collect())
    }

    /// Waits until the alias of task a leads to the generation of that name.
    async fn leads_to(&self, name: &str) {
        eventually(&format!("tiny-a leads to {name}"), async || {
            self.look(|mistral| {
                let mark = mistral.aliases.get("tiny-a");
                let named = mistral
                    .aliases
                    .iter()
                    .find(|(alias, _)| short(alias) == name);
                mark.is_some() && mark == named.map(|(_, mark)| mark)
            })
        })
        .await;
    }
}

#[tokio::test]
async fn an_alias_moves_after_its_new_generation_is_there_and_before_the_old_one_goes() {
    let mistral = Fake::start(MistralRs::default()).await;
    let only = "tasks = [\"a\"]";
    let (mut daemon, client) = daemon(&entry("mrs", "mistralrs", &mistral.url(), only)).await;
    push(&client, &["a"]).await;
    mistral.logs(&["load tiny-slot-0.g1", "load tiny-a"]).await;
    push(&client, &["b"]).await;
    mistral
        .logs(&[
            "load tiny-slot-0.g1",
            "load tiny-a",
            "load tiny-slot-0.g2",
            "swap tiny-a",
            "unload tiny-slot-0.g1",
        ])
        .await;
    assert_eq!(mistral.look(|mistral| mistral.served.len()), 2);

    // A restart of the daemon finds the alias where it is and changes nothing.
    daemon.restart().await;
    let client = daemon.client().await;
    eventually("it is ready", async || {
        let runtimes = client.list_runtimes().await.unwrap();
        let adapter = runtimes[0].adapters.first();
        adapter.is_some_and(|adapter| adapter.serving == adapter.name)
    })
    .await;
    assert_eq!(mistral.log().len(), 5, "{:?}", mistral.log());

    mistral.restart();
    mistral.leads_to("tiny-slot-0.g2").await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_swap_that_somebody_got_before_is_looked_at_again() {
    let mistral = Fake::start(MistralRs::default()).await;
    let only = "tasks = [\"a\"]";
    let (daemon, client) = daemon(&entry("mrs", "mistralrs", &mistral.url(), only)).await;
    push(&client, &["a"]).await;
    mistral.leads_to("tiny-slot-0.g1").await;
    mistral.fault("/v1/load_lora_adapter", Fault::Answer(Said::text(500, "")));
    push(&client, &["b"]).await;
    mistral.leads_to("tiny-slot-0.g2").await;
    // The load of the new name comes first, so the rival is met by the swap after it.
    push(&client, &["c"]).await;
    mistral.leads_to("tiny-slot-0.g3").await;
    mistral.look(|mistral| {
        mistral.aliases.insert("tiny-a".into(), "elsewhere".into());
        mistral.rival = Some("elsewhere still".into());
    });
    mistral.leads_to("tiny-slot-0.g3").await;
    assert!(daemon.log().contains("answered 409: the alias has moved"));
    daemon.assert_quiet(&["the runtime refused"]);
}

#[tokio::test]
async fn a_busy_loader_is_waited_for() {
    let mistral = Fake::start(MistralRs::default()).await;
    let words = "another LoRA adapter load is already in progress";
    let busy = error(429, "lora_load_busy", words).with("retry-after", "1");
    mistral.fault("/v1/load", Fault::Answer(busy));
    let (daemon, client) = daemon(&entry("mrs", "mistralrs", &mistral.url(), "")).await;
    push(&client, &["a", "b"]).await;
    mistral.leads_to("tiny-slot-0.g2").await;
    eventually("both tasks have their alias", async || {
        mistral.names() == ["tiny-a", "tiny-b", "tiny-slot-0.g2"]
    })
    .await;
    daemon.assert_quiet(&["is busy: 429"]);
}

#[tokio::test]
async fn a_task_that_is_forgotten_loses_its_alias_at_once_and_its_adapter_after_the_drain() {
    let mistral = Fake::start(MistralRs::default()).await;
    let (daemon, client) = daemon(&entry("mrs", "mistralrs", &mistral.url(), "")).await;
    push(&client, &["a"]).await;
    mistral.leads_to("tiny-slot-0.g1").await;
    let request = kmerge_client::v1::ForgetTaskRequest {
        base_model: BASE.to_owned(),
        task: "a".to_owned(),
        ..Default::default()
    };
    let forgotten = client.forget_task(request).await.unwrap();
    ended(&client, forgotten.job.unwrap().id).await;
    mistral
        .logs(&[
            "load tiny-slot-0.g1",
            "load tiny-a",
            "unload tiny-a",
            "unload tiny-slot-0.g1",
        ])
        .await;
    let runtime = client.list_runtimes().await.unwrap().remove(0);
    assert!(runtime.adapters.is_empty(), "{runtime:?}");
    // The slot is opened again, and its generations go on.
    push(&client, &["b"]).await;
    eventually("the next one is served", async || {
        mistral.names().first().is_some_and(|name| name == "tiny-b")
    })
    .await;
    daemon.assert_quiet(&[]);
}
