//! llama.cpp's `llama-server`, which loads adapters (`--lora FILE`) when it starts and at no other
//! time; while it runs only their scales can be set (`GET`/`POST /lora-adapters`,
//! `tools/server/README.md`).
//!
//! So all files are put into the directory first, and then a configured command starts the server
//! again with what is there; the listing tells when it is back. Without a command nothing can be
//! loaded, and what someone else's restart loads is found in the listing.
//!
//! An adapter's name is that of the directory that its file is in. The global scales are 0 for all,
//! so that a request says which it wants (`"lora": [{"id": …, "scale": 1}]`) and gets no other beside
//! it; with `max_adapters = 1` there is nothing to choose, and the one has scale 1. An adapter that is
//! left out of `POST /lora-adapters` gets 0, but every one is named all the same.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::command;
use super::event::Teller;
use super::http::Http;
use super::policy::Listing;
use super::runtime::{CallError, Given, Runtime, Tells};

/// How long to wait before asking again whether the server is back.
const PAUSE: Duration = Duration::from_millis(250);

/// A `llama-server`.
#[derive(Debug)]
pub struct LlamaServer {
    http: Http,
    /// What starts it again; empty: nothing does.
    restart: Vec<String>,
    /// Whether the one adapter is for every request.
    only_one: bool,
    teller: Teller,
    /// The aliases that were moved, and where to.
    moved: Mutex<Vec<(String, String)>>,
}

/// An adapter as the server lists it.
#[derive(Debug, Clone, PartialEq)]
struct Listed {
    id: u64,
    name: String,
    scale: f64,
}

impl LlamaServer {
    /// Called through `http`, started again by the command `restart`.
    pub fn new(http: Http, restart: Vec<String>, only_one: bool, teller: Teller) -> Self {
        Self {
            http,
            restart,
            only_one,
            teller,
            moved: Mutex::default(),
        }
    }

    fn moved(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        // Whole at every moment, so a panic elsewhere does not matter.
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn adapters(&self) -> Result<Vec<Listed>, CallError> {
        let answer = self.http.get("/lora-adapters").await?;
        let listed = answer.as_array();
        let listed =
            listed.ok_or_else(|| CallError::Unclear("/lora-adapters is no list".to_owned()))?;
        Ok(listed.iter().filter_map(read).collect())
    }

    /// The scale that an adapter should have when `active` is the name of the one that serves.
    fn scale(&self, name: &str, active: Option<&str>) -> f64 {
        if self.only_one && active == Some(name) {
            1.0
        } else {
            0.0
        }
    }

    /// Waits for the server to be back with the adapter of that name.
    async fn wait_for(&self, name: &str) -> Result<(), CallError> {
        let patience = self.http.load_timeout();
        let deadline = Instant::now() + patience;
        loop {
            let last = match self.adapters().await {
                Ok(listed) if listed.iter().any(|adapter| adapter.name == name) => return Ok(()),
                Ok(_) => CallError::Unclear(format!(
                    "it was started again and does not have {name}: does it load *.gguf from all \
                     directories in KMERGE_DIRECTORY?"
                )),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(last);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn read(adapter: &Value) -> Option<Listed> {
    let path = Path::new(adapter["path"].as_str()?);
    Some(Listed {
        id: adapter["id"].as_u64()?,
        name: path.parent()?.file_name()?.to_str()?.to_owned(),
        scale: adapter["scale"].as_f64()?,
    })
}

#[async_trait]
impl Runtime for LlamaServer {
    fn tells(&self) -> Tells {
        Tells::Contents
    }

    fn keeps_aliases(&self) -> bool {
        true
    }

    fn unloads(&self) -> bool {
        false
    }

    fn reads_directory(&self) -> bool {
        true
    }

    async fn listing(&self) -> Result<Listing, CallError> {
        let listed = self.adapters().await?;
        let moved = self.moved().clone();
        let active = moved.last().map(|(_, name)| name.as_str());
        // A server that was started again has other scales than were set.
        let scaled = listed
            .iter()
            .all(|adapter| (adapter.scale - self.scale(&adapter.name, active)).abs() < 1e-6);
        let mut listing: Listing = listed
            .iter()
            .map(|adapter| (adapter.name.clone(), Some(adapter.name.clone())))
            .collect();
        if scaled {
            for (alias, name) in moved {
                listing.insert(alias, Some(name));
            }
        }
        Ok(listing)
    }

    async fn load(&self, given: &Given<'_>) -> Result<(), CallError> {
        let listed = self.adapters().await?;
        if listed.iter().any(|adapter| adapter.name == given.name) {
            return Ok(());
        }
        if self.restart.is_empty() {
            return Err(CallError::Unable(format!(
                "cannot load {} while it runs: start llama-server again with the files in {}, or \
                 set a command that does",
                given.name,
                given.holdings.directory().display()
            )));
        }
        let mut facts = self.teller.about("load", None, given);
        let directory = given.path.parent().unwrap_or(given.path);
        facts.insert("directory".to_owned(), json!(directory));
        command::run(&self.restart, &facts, self.http.load_timeout()).await?;
        self.wait_for(given.name).await
    }

    async fn switch(&self, alias: &str, given: &Given<'_>) -> Result<(), CallError> {
        let scales: Vec<_> = self
            .adapters()
            .await?
            .iter()
            .map(|adapter| {
                let scale = self.scale(&adapter.name, Some(given.name));
                json!({ "id": adapter.id, "scale": scale })
            })
            .collect();
        self.http.post("/lora-adapters", &json!(scales)).await?;
        let mut moved = self.moved();
        moved.retain(|(moved, _)| moved != alias);
        moved.push((alias.to_owned(), given.name.to_owned()));
        Ok(())
    }

    async fn unroute(&self, alias: &str) -> Result<(), CallError> {
        self.moved().retain(|(moved, _)| moved != alias);
        let scales: Vec<_> = self
            .adapters()
            .await?
            .iter()
            .map(|adapter| json!({ "id": adapter.id, "scale": 0.0 }))
            .collect();
        if self.only_one {
            self.http.post("/lora-adapters", &json!(scales)).await?;
        }
        Ok(())
    }

    async fn unload(&self, _: &str) -> Result<(), CallError> {
        // The next start leaves it out.
        Ok(())
    }
}
