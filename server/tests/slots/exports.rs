//! The files of a generation: on disk for runtimes, as a stream for others, for as long as the
//! grace lasts, and counted once.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kmerge_client::{Adapter, v1};
use kmerge_storage::Digest;
use serde_json::{Value, json};
use tonic::{Code, Streaming};
use v1::fetch_slot_response::Content;
use v1::slot_service_client::SlotServiceClient;

use crate::merge;
use crate::support::adapters::{Files, Tensor, Tensors, config, factor};
use crate::support::calls::{Refusal, golden, policy, register};
use crate::support::{BASE, Daemon, Setup, eventually, files_below, goldens};

const TENSORS: &str = "adapter_model.safetensors";

async fn with_grace(seconds: &str) -> Daemon {
    let daemon = Setup::default()
        .env("KMERGE_SERVING__GRACE_SECONDS", seconds)
        .start()
        .await;
    register(&daemon.client().await, BASE, policy(1)).await;
    daemon
}

fn exports(daemon: &Daemon) -> PathBuf {
    daemon.state().join(format!("exports/peft/{BASE}/slot-0"))
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = directory.read_dir().unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A fetch that has begun: its header has come.
struct Fetching {
    header: v1::ExportHeader,
    stream: Streaming<v1::FetchSlotResponse>,
}

impl Fetching {
    async fn begin(daemon: &Daemon, generation: u64) -> Result<Self, Refusal> {
        let request = v1::FetchSlotRequest {
            base_model: BASE.to_owned(),
            slot: 0,
            generation,
            ..v1::FetchSlotRequest::default()
        };
        let mut slots = SlotServiceClient::new(daemon.channel().await);
        let mut stream = slots.fetch_slot(request).await?.into_inner();
        match stream.message().await?.unwrap().content {
            Some(Content::Header(header)) => Ok(Self { header, stream }),
            other => panic!("{other:?}"),
        }
    }

    /// Reads to the end: each file has the size and the digest that the header says. Gives the
    /// digest of the tensors.
    async fn finish(mut self) -> String {
        let mut files = vec![Vec::new(); self.header.files.len()];
        while let Some(message) = self.stream.message().await.unwrap() {
            match message.content {
                Some(Content::Chunk(chunk)) => {
                    files[usize::try_from(chunk.file).unwrap()].extend_from_slice(&chunk.data);
                }
                other => panic!("{other:?}"),
            }
        }
        for (file, bytes) in self.header.files.iter().zip(&files) {
            assert_eq!(file.size_bytes, u64::try_from(bytes.len()).unwrap());
            assert_eq!(file.sha256, Digest::of(bytes).to_string(), "{}", file.name);
        }
        let mut files = self.header.files.into_iter();
        files.find(|file| file.name == TENSORS).unwrap().sha256
    }
}

/// Merges five adapters and gives the SHA-256 of the slot after each.
async fn five_generations(daemon: &Daemon) -> Vec<String> {
    let client = daemon.client().await;
    let mut digests = Vec::new();
    for number in 0..5 {
        let name = format!("a{number}");
        merge(&client, BASE, &name, &golden(&name)).await;
        digests.push(client.get_slot(BASE, 0).await.unwrap().sha256);
    }
    digests
}

#[tokio::test]
async fn an_older_generation_is_kept_for_the_grace() {
    let daemon = with_grace("3600").await;
    let digests = five_generations(&daemon).await;
    for (generation, digest) in (1..).zip(&digests) {
        let fetching = Fetching::begin(&daemon, generation).await.unwrap();
        assert_eq!(fetching.header.generation, generation);
        assert_eq!(fetching.finish().await, *digest);
    }
    let newest = Fetching::begin(&daemon, 0).await.unwrap();
    assert_eq!(newest.header.generation, 5);
    assert_eq!(newest.finish().await, digests[4]);
    for generation in [6, u64::MAX] {
        let refused = Fetching::begin(&daemon, generation).await.err().unwrap();
        assert_eq!(refused.code, Code::NotFound);
        assert_eq!(refused.reason, "GENERATION_UNKNOWN");
        assert!(refused.message.contains("is at generation 5"));
    }
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn exports_are_named_by_generation_and_share_the_slots_bytes() {
    let daemon = with_grace("3600").await;
    let digests = five_generations(&daemon).await;
    let exports = exports(&daemon);
    let expected = ["1", "2", "3", "4", "5", "current"].map(str::to_owned);
    assert_eq!(names(&exports), BTreeSet::from(expected));
    assert_eq!(
        std::fs::read_link(exports.join("current")).unwrap(),
        Path::new("5")
    );
    for (generation, digest) in (1..).zip(&digests) {
        let export = exports.join(generation.to_string()).join(TENSORS);
        let kept = format!("tensors/{}/{digest}", &digest[..2]);
        let kept = daemon.state().join(kept).metadata().unwrap();
        let export = export.metadata().unwrap();
        assert_eq!((export.dev(), export.ino()), (kept.dev(), kept.ino()));
    }
    let client = daemon.client().await;
    let resolved = client.resolve_task(BASE, "a2").await.unwrap();
    assert_eq!(Path::new(&resolved.path), exports.join("5"));
    assert_eq!(resolved.sha256, digests[4]);
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn without_grace_only_the_newest_is_there() {
    let daemon = with_grace("0").await;
    let digests = five_generations(&daemon).await;
    let newest = PathBuf::from(format!("{}/{}", &digests[4][..2], digests[4]));
    eventually("the older generations are gone", async || {
        names(&exports(&daemon)).len() == 2
            && files_below(&daemon.state().join("tensors")) == [newest.clone()]
    })
    .await;
    let newest = BTreeSet::from(["5", "current"].map(str::to_owned));
    assert_eq!(names(&exports(&daemon)), newest);
    for generation in 1..5 {
        let refused = Fetching::begin(&daemon, generation).await.err().unwrap();
        assert_eq!(refused.code, Code::NotFound);
        assert_eq!(refused.reason, "GENERATION_UNKNOWN");
    }
    let fetching = Fetching::begin(&daemon, 5).await.unwrap();
    assert_eq!(fetching.finish().await, digests[4]);
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_grace_ends_by_itself() {
    let daemon = with_grace("1").await;
    let client = daemon.client().await;
    merge(&client, BASE, "a", &golden("a0")).await;
    merge(&client, BASE, "b", &golden("a1")).await;
    // Nothing else happens meanwhile that could remind the daemon.
    eventually("the first generation is gone", async || {
        !exports(&daemon).join("1").exists()
    })
    .await;
    let refused = Fetching::begin(&daemon, 1).await.err().unwrap();
    assert_eq!(refused.reason, "GENERATION_UNKNOWN");
    assert_eq!(
        std::fs::read_link(exports(&daemon).join("current")).unwrap(),
        Path::new("2")
    );
    daemon.assert_quiet(&[]);
}

/// A Llama that is wider than the goldens' one, and an adapter for it of some 12 MiB.
fn wide(seed: u64) -> (Vec<u8>, Adapter) {
    let base = std::fs::read(goldens().join("base/config.json")).unwrap();
    let mut base: Value = serde_json::from_slice(&base).unwrap();
    base["hidden_size"] = 1024.into();
    base["num_attention_heads"] = 64.into();
    let mut tensors = Vec::new();
    for layer in 0..3 {
        for module in ["self_attn.q_proj", "self_attn.o_proj"] {
            for (name, shape) in [("A", [256, 1024]), ("B", [1024, 256])] {
                let name = factor(layer, module, name);
                tensors.push(Tensor::random(name, &shape, seed));
            }
        }
    }
    let mut config = config(256);
    config["target_modules"] = json!(["q_proj", "o_proj"]);
    let files = Files {
        config: Value::Object(config).to_string().into_bytes(),
        tensors: Tensors(tensors).file(),
    };
    (base.to_string().into_bytes(), files.adapter())
}

#[tokio::test]
async fn a_fetch_that_has_begun_outlives_its_generation() {
    let daemon = Setup::default()
        .env("KMERGE_SERVING__GRACE_SECONDS", "0")
        .start()
        .await;
    let client = daemon.client().await;
    let (base, first) = wide(1);
    let request = v1::RegisterBaseModelRequest {
        name: BASE.to_owned(),
        config: base,
        policy: Some(policy(1)),
        served_as: String::new(),
    };
    client.register_base_model(request).await.unwrap();
    merge(&client, BASE, "a", &first).await;
    let before = client.get_slot(BASE, 0).await.unwrap();
    // More than the connection and the daemon hold ready, so that the rest is read later.
    assert!(before.bytes > 12 << 20, "{} bytes", before.bytes);
    let fetching = Fetching::begin(&daemon, 1).await.unwrap();

    merge(&client, BASE, "b", &wide(2).1).await;
    let kept = format!("tensors/{}/{}", &before.sha256[..2], before.sha256);
    let kept = daemon.state().join(kept);
    eventually("the generation is gone", async || {
        !kept.exists() && !exports(&daemon).join("1").exists()
    })
    .await;
    assert_eq!(fetching.finish().await, before.sha256);
    daemon.assert_quiet(&[]);
}

/// Allotted bytes of all that is at or below `path` and not in `seen` yet.
fn allotted(path: &Path, seen: &mut BTreeSet<u64>) -> u64 {
    let metadata = path.symlink_metadata().unwrap();
    let mut bytes = 0;
    if seen.insert(metadata.ino()) {
        bytes += metadata.blocks() * 512;
    }
    if metadata.is_dir() {
        for name in names(path) {
            bytes += allotted(&path.join(name), seen);
        }
    }
    bytes
}

#[tokio::test]
async fn disk_in_use_is_what_is_on_disk() {
    let daemon = with_grace("3600").await;
    let digests = five_generations(&daemon).await;
    let disk = daemon
        .client()
        .await
        .get_status()
        .await
        .unwrap()
        .disk
        .unwrap();
    let state = daemon.state();
    let mut seen = BTreeSet::new();
    let tensor = |digest: &String| state.join(format!("tensors/{}/{digest}", &digest[..2]));
    let live = allotted(&tensor(&digests[4]), &mut seen);
    assert_eq!(disk.tensors_live, live);
    assert!(live >= daemon.client().await.get_slot(BASE, 0).await.unwrap().bytes);
    assert_eq!(
        disk.tensors_grace,
        allotted(&state.join("tensors"), &mut seen)
    );
    assert!(disk.tensors_grace >= 4 * live, "{disk:?}");
    assert_eq!(disk.staging, allotted(&state.join("staging"), &mut seen));
    // Tensors are counted where they belong: what exports add is small.
    let exports = allotted(&state.join("exports"), &mut seen);
    let derived = allotted(&state.join("derived"), &mut seen);
    assert_eq!(disk.exports, exports + derived);
    assert!(disk.exports < live * 5, "{disk:?}");
    // The database writes when it likes, so it is left out of the sum.
    let catalog = allotted(&state.join("catalog"), &mut seen);
    assert!(catalog > 0 && disk.catalog > 0);
    assert_eq!(
        disk.quarantine,
        allotted(&state.join("quarantine"), &mut seen)
    );
    assert_eq!(disk.manifests, allotted(&state, &mut seen));
    let sum = disk.tensors_live
        + disk.tensors_grace
        + disk.staging
        + disk.catalog
        + disk.manifests
        + disk.exports
        + disk.quarantine;
    assert_eq!(disk.total, sum, "{disk:?}");
    assert!(disk.free > 0);
    daemon.assert_quiet(&[]);
}
