//! Ollama: blobs by digest, a model for each adapter, aliases that are copies.

use std::collections::BTreeMap;

use http::Method;
use kmerge_storage::Digest;
use serde_json::json;

use super::server::{Asked, Fake, Fault, Said, Speaker};
use super::{daemon, entry, push, short};
use crate::support::eventually;

/// As `server/routes.go` and `server/create.go` have it.
#[derive(Debug, Default)]
struct Ollama {
    blobs: BTreeMap<String, usize>,
    /// Name with its tag to the digest of its manifest.
    models: BTreeMap<String, String>,
}

fn tagged(name: &str) -> String {
    if name.contains(':') {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

impl Ollama {
    fn with_base() -> Self {
        let mut ollama = Self::default();
        ollama
            .models
            .insert("llama3.2:latest".into(), "base".into());
        ollama
    }

    fn create(&mut self, asked: &Asked) -> Said {
        let body = asked.json();
        assert_eq!(body["stream"], false);
        let from = tagged(body["from"].as_str().unwrap());
        if !self.models.contains_key(&from) {
            return Said::json(
                500,
                &json!({"error": "pull model manifest: file does not exist"}),
            );
        }
        let adapters = body["adapters"].as_object().unwrap();
        assert_eq!(adapters.len(), 1, "only one adapter is currently supported");
        let (file, digest) = adapters.iter().next().unwrap();
        let digest = digest.as_str().unwrap();
        if !file.ends_with(".gguf") || !self.blobs.contains_key(digest) {
            return Said::json(
                400,
                &json!({"error": "supplied file was not in GGUF format"}),
            );
        }
        let name = tagged(body["model"].as_str().unwrap());
        let manifest = Digest::of(format!("{from} {digest}").as_bytes());
        self.models.insert(name, manifest.to_string());
        Said::json(200, &json!({"status": "success"}))
    }
}

impl Speaker for Ollama {
    fn answer(&mut self, asked: &Asked, note: &mut dyn FnMut(String)) -> Said {
        let body = asked.json();
        let missing =
            |name: &str| Said::json(404, &json!({"error": format!("model '{name}' not found")}));
        if let Some(digest) = asked.path.strip_prefix("/api/blobs/") {
            let known = self.blobs.contains_key(digest);
            if asked.method == Method::HEAD {
                return Said::text(if known { 200 } else { 404 }, "");
            }
            note("blob".to_owned());
            assert_eq!(&asked.body[..4], b"GGUF");
            let found = format!("sha256:{}", Digest::of(&asked.body));
            if found != digest {
                return Said::json(400, &json!({"error": "digest mismatch"}));
            }
            self.blobs.insert(found, asked.body.len());
            return Said::text(201, "");
        }
        match (&asked.method, asked.path.as_str()) {
            (&Method::GET, "/api/tags") => {
                let models: Vec<_> = self
                    .models
                    .iter()
                    .map(|(name, digest)| json!({"name": name, "model": name, "size": 1, "digest": digest}))
                    .collect();
                Said::json(200, &json!({"models": models}))
            }
            (&Method::POST, "/api/create") => {
                note(format!("create {}", short(body["model"].as_str().unwrap())));
                self.create(asked)
            }
            (&Method::POST, "/api/copy") => {
                let source = body["source"].as_str().unwrap();
                let destination = body["destination"].as_str().unwrap();
                note(format!("copy {} to {destination}", short(source)));
                let Some(digest) = self.models.get(&tagged(source)).cloned() else {
                    return missing(source);
                };
                self.models.insert(tagged(destination), digest);
                Said::text(200, "")
            }
            (&Method::DELETE, "/api/delete") => {
                let name = body["model"].as_str().unwrap();
                note(format!("delete {}", short(name)));
                match self.models.remove(&tagged(name)) {
                    Some(_) => Said::text(200, ""),
                    None => missing(name),
                }
            }
            _ => Said::text(404, "404 page not found"),
        }
    }

    fn restart(&mut self) {}
}

#[tokio::test]
async fn a_model_is_made_for_each_generation_and_the_alias_is_copied_over() {
    let ollama = Fake::start(Ollama::with_base()).await;
    let more = "model = \"llama3.2\"\ntasks = [\"a\"]";
    let (daemon, client) = daemon(&entry("ollama", "ollama", &ollama.url(), more)).await;
    push(&client, &["a"]).await;
    ollama
        .logs(&[
            "blob",
            "create tiny-slot-0.g1",
            "copy tiny-slot-0.g1 to tiny-a",
        ])
        .await;
    push(&client, &["b"]).await;
    ollama
        .logs(&[
            "blob",
            "create tiny-slot-0.g1",
            "copy tiny-slot-0.g1 to tiny-a",
            "blob",
            "create tiny-slot-0.g2",
            "copy tiny-slot-0.g2 to tiny-a",
            "delete tiny-slot-0.g1",
        ])
        .await;
    let names: Vec<_> = ollama.look(|ollama| ollama.models.keys().cloned().collect());
    assert_eq!(names.len(), 3, "{names:?}");
    // Somebody deletes the model and the alias: both come back, the blob is known.
    ollama.look(|ollama| ollama.models.retain(|name, _| name == "llama3.2:latest"));
    eventually("both are back", async || {
        ollama.look(|ollama| ollama.models.len()) == 3
    })
    .await;
    let blobs = ollama.log().iter().filter(|line| *line == "blob").count();
    assert_eq!(blobs, 2);
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn what_goes_wrong_on_the_way_is_done_again() {
    let ollama = Fake::start(Ollama::with_base()).await;
    ollama.fault("/api/blobs", Fault::Answer(Said::text(500, "disk")));
    ollama.fault("/api/blobs", Fault::Break);
    let unsaid = Said::json(200, &json!({"status": "writing manifest"}));
    ollama.fault("/api/create", Fault::Answer(unsaid));
    let lost = json!({"error": "model \"tiny\" not found"});
    ollama.fault("/api/copy", Fault::Answer(Said::json(404, &lost)));
    ollama.fault("/api/copy", Fault::Answer(Said::text(200, "")));
    let more = "model = \"llama3.2\"";
    let (daemon, client) = daemon(&entry("ollama", "ollama", &ollama.url(), more)).await;
    push(&client, &["a"]).await;
    eventually("the alias is there", async || {
        ollama.look(|ollama| ollama.models.contains_key("tiny-a:latest"))
    })
    .await;
    assert!(daemon.log().contains("says otherwise when asked"));
    daemon.assert_quiet(&["the runtime refused", "does not answer"]);
}

#[tokio::test]
async fn a_base_model_that_ollama_does_not_have_is_its_own_words() {
    let ollama = Fake::start(Ollama::default()).await;
    let more = "model = \"llama3.2\"";
    let (daemon, client) = daemon(&entry("ollama", "ollama", &ollama.url(), more)).await;
    push(&client, &["a"]).await;
    eventually("it says so", async || {
        let runtime = client.list_runtimes().await.unwrap().remove(0);
        let trouble = runtime.trouble.map(|trouble| trouble.message);
        trouble.is_some_and(|message| message.contains("pull model manifest"))
    })
    .await;
    daemon.assert_quiet(&["the runtime refused"]);
}
