//! What hooks are told: one event for each step, with the facts of the adapter. Shared by the kinds
//! `exec` and `webhook`, which say the same things in two ways.

use kmerge_merge::Format;
use serde_json::{Map, Value, json};

use super::runtime::Given;

/// Who tells.
#[derive(Debug, Clone)]
pub struct Teller {
    /// The runtime's name in the configuration.
    pub runtime: String,
    /// The format of the files.
    pub format: Format,
}

impl Teller {
    /// The facts of an event about an adapter.
    pub fn about(&self, event: &str, alias: Option<&str>, given: &Given<'_>) -> Map<String, Value> {
        let wanted = given.wanted;
        let mut facts = self.plain(event, Some(given.name), alias);
        let tasks: Vec<_> = wanted.tasks.iter().map(|task| task.as_str()).collect();
        facts.insert("base_model".to_owned(), json!(wanted.base_model.as_str()));
        facts.insert("slot".to_owned(), json!(wanted.slot.0));
        facts.insert("generation".to_owned(), json!(wanted.generation.0));
        facts.insert("tasks".to_owned(), json!(tasks));
        facts.insert("path".to_owned(), json!(given.path));
        facts.insert("format".to_owned(), json!(self.format.name()));
        facts
    }

    /// The facts of an event when all that is known is a name or an alias.
    pub fn plain(
        &self,
        event: &str,
        name: Option<&str>,
        alias: Option<&str>,
    ) -> Map<String, Value> {
        let mut facts = Map::new();
        facts.insert("event".to_owned(), json!(event));
        facts.insert("runtime".to_owned(), json!(self.runtime));
        for (key, value) in [("name", name), ("alias", alias)] {
            if let Some(value) = value {
                facts.insert(key.to_owned(), json!(value));
            }
        }
        facts
    }
}
