//! Adapters in the formats of llama.cpp and mlx-lm, in and out, through the real daemon: whichever
//! way an adapter comes, the same bytes are kept; whichever way it goes, it comes back the same.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the tests read their own files")]

#[path = "formats/kills.rs"]
mod kills;
#[path = "formats/models.rs"]
mod models;
#[path = "formats/published.rs"]
mod published;
#[path = "formats/refused.rs"]
mod refused;
mod support;
#[path = "formats/ways.rs"]
mod ways;

use std::path::{Path, PathBuf};

use kmerge_client::{Adapter, Client, Fetch, Fetched, v1};
use support::adapters::demo_directory;
use support::{BASE, goldens};
use v1::AdapterFormat::{Gguf, Mlx, Peft};

/// The formats, their directories and the file that has the factors.
const FORMATS: [(v1::AdapterFormat, &str, &str); 3] = [
    (Peft, "peft", "adapter_model.safetensors"),
    (Gguf, "gguf", "adapter.gguf"),
    (Mlx, "mlx", "adapters.safetensors"),
];

/// The golden adapter of that name as other libraries wrote it: a PEFT directory, a GGUF file, a
/// directory of mlx.
fn written(name: &str) -> [(v1::AdapterFormat, PathBuf); 3] {
    let others = goldens().join("expected/formats");
    [
        (Peft, goldens().join("adapters").join(name)),
        (Gguf, others.join(format!("{name}.gguf"))),
        (Mlx, others.join(name)),
    ]
}

async fn open(path: &Path) -> Adapter {
    Adapter::open(path).await.unwrap()
}

async fn pull(
    client: &Client,
    into: &Path,
    format: v1::AdapterFormat,
    task: Option<&str>,
) -> Fetched {
    let fetch = Fetch {
        base_model: BASE.to_owned(),
        slot: 0,
        generation: 0,
        format,
        into: into.to_owned(),
        replace: true,
    };
    match task {
        None => client.fetch_slot(&fetch).await.unwrap(),
        Some(task) => client.fetch_task(&fetch, task).await.unwrap(),
    }
}

/// Registers a base model from a file.
async fn register_from(client: &Client, name: &str, config: &Path, policy: v1::MergePolicy) {
    let request = v1::RegisterBaseModelRequest {
        name: name.to_owned(),
        config: std::fs::read(config).unwrap(),
        policy: Some(policy),
        served_as: String::new(),
    };
    client.register_base_model(request).await.unwrap();
}

/// Registers the demo's base model, whose slots keep their members apart.
async fn register_demo(client: &Client) {
    let policy = v1::MergePolicy {
        slots: Some(2),
        operator: v1::Operator::Progressive.into(),
        assignment: v1::AssignmentRule::Roomiest.into(),
        ..v1::MergePolicy::default()
    };
    register_from(client, BASE, &demo_directory().join("config.json"), policy).await;
}
