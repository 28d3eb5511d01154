//! A catalog that is gone or damaged is made again from the files beside it, and clients see no
//! difference: slots, members with their weights, tasks, generations, digests, base models with
//! their policies, and the queue.
//!
//! One state is made, with jobs waiting; each test damages a copy of it in the same place.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests damage the state from outside"
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use kmerge_client::{Client, Upload, retry::Policy, v1};
use support::adapters::small;
use support::calls::{ended, policy, register};
use support::{Daemon, Setup, files_below};

/// A worker that does not get through its next merge, so that what waits keeps waiting.
const STUCK: (&str, &str) = ("KMERGE_FAILPOINT", "tensor.data_durable=sleep@1:600000");

/// The base models: one with slots for three, one that decides by threshold and merges exactly.
const PLAIN: &str = "plain";
const EXACT: &str = "exact";

/// A daemon that is down, and a copy of its state.
struct Scene {
    daemon: Daemon,
    copy: PathBuf,
    before: Picture,
}

/// What must come back.
#[derive(Debug, Clone, PartialEq)]
struct Picture {
    base_models: Vec<v1::BaseModel>,
    slots: Vec<v1::Slot>,
    adapters: Vec<v1::Adapter>,
    /// The generations that can be fetched: slot, generation, SHA-256 of the tensors.
    generations: Vec<(String, u32, u64, String)>,
    /// Waiting or running, without what a new start changes.
    queue: Vec<v1::Job>,
}

impl Picture {
    async fn take(client: &Client, daemon: &Daemon) -> Self {
        let slots = client.list_slots(None).await.unwrap();
        let mut generations = Vec::new();
        for slot in &slots {
            for generation in 1..=slot.generation {
                let into = daemon.room().join("fetched");
                let fetch = kmerge_client::Fetch {
                    base_model: slot.base_model.clone(),
                    slot: slot.slot,
                    generation,
                    format: v1::AdapterFormat::Peft,
                    into,
                    replace: true,
                };
                let files = client.fetch_slot(&fetch).await.unwrap().header.files;
                let tensors = files
                    .into_iter()
                    .find(|file| file.name == "adapter_model.safetensors");
                let sha256 = tensors.unwrap().sha256;
                generations.push((slot.base_model.clone(), slot.slot, generation, sha256));
            }
        }
        let jobs = client.list_jobs(None, None).await.unwrap();
        let queue = jobs.into_iter().filter(|job| job.end_time.is_none());
        Self {
            base_models: client.list_base_models().await.unwrap(),
            adapters: client.list_adapters(None).await.unwrap(),
            slots,
            generations,
            queue: queue
                .map(|job| v1::Job {
                    state: 0,
                    stage: 0,
                    percent: 0,
                    attempts: 0,
                    start_time: None,
                    ..job
                })
                .collect(),
        }
    }
}

async fn push(client: &Client, base_model: &str, number: u64) -> v1::Job {
    let upload = Upload {
        request_id: Some(format!("{base_model}-{number}")),
        policy: Policy::NEVER,
        ..Upload::new(format!("task-{number}"), base_model)
    };
    let rank = 2 + usize::try_from(number % 3).unwrap();
    let adapter = small(rank, number).adapter();
    let answer = client.upload_adapter(&adapter, &upload, |_| ()).await;
    answer.unwrap().job.unwrap()
}

impl Scene {
    /// Nine adapters merged into several generations, four jobs waiting, and a SIGKILL.
    async fn set() -> Self {
        let mut daemon = Setup::default()
            .env("KMERGE_SERVING__GRACE_SECONDS", "3600")
            .start()
            .await;
        let client = daemon.client().await;
        register(&client, PLAIN, policy(3)).await;
        let exact = v1::MergePolicy {
            assignment: v1::AssignmentRule::KmergePlusPlus.into(),
            threshold: Some(0.5),
            operator: v1::Operator::Exact.into(),
            dtype: v1::SlotDtype::F32.into(),
            max_bytes: Some(1 << 20),
            ..policy(2)
        };
        register(&client, EXACT, exact).await;
        for number in 0..9 {
            let base_model = if number % 3 == 0 { EXACT } else { PLAIN };
            let job = ended(&client, push(&client, base_model, number).await.id).await;
            assert_eq!(job.state(), v1::JobState::Done, "{job:?}");
        }
        daemon.stop().await;
        daemon.assert_quiet(&[]);
        daemon.env(STUCK.0, STUCK.1);
        daemon.launch();
        daemon.ready().await;
        let client = daemon.client().await;
        for number in 9..13 {
            let base_model = if number % 2 == 0 { EXACT } else { PLAIN };
            push(&client, base_model, number).await;
        }
        let before = Picture::take(&client, &daemon).await;
        assert_eq!(before.queue.len(), 4);
        assert_eq!(before.adapters.len(), 9);
        assert!(before.generations.len() > before.slots.len());
        daemon.kill();
        let copy = daemon.room().join("copy");
        clone(&daemon.state(), &copy);
        Self {
            daemon,
            copy,
            before,
        }
    }

    /// Puts the state back as it was when the daemon was killed.
    fn reset(&self) {
        std::fs::remove_dir_all(self.daemon.state()).unwrap();
        clone(&self.copy, &self.daemon.state());
    }

    fn catalog(&self) -> PathBuf {
        self.daemon.state().join("catalog")
    }

    /// Starts on what is there: all must be as before. Gives what recovery says it did.
    async fn check(&mut self, what: &str) -> v1::RecoveryReport {
        self.daemon.launch();
        self.daemon.ready().await;
        let client = self.daemon.client().await;
        let after = Picture::take(&client, &self.daemon).await;
        assert_eq!(after, self.before, "{what}");
        let recovery = client.get_status().await.unwrap().recovery.unwrap();
        self.daemon.kill();
        // The database says first what recovery then acts on.
        self.daemon.assert_quiet(&["recovery: ", " sled::"]);
        recovery
    }
}

/// Copies a directory as it is, hard links included.
fn clone(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.unwrap().success());
}

/// What was set aside is the whole catalog, and the report says where.
fn assert_set_aside(recovery: &v1::RecoveryReport, damaged: &[PathBuf], what: &str) {
    assert!(recovery.catalog_rebuilt, "{what}: {recovery:?}");
    let quarantined = Path::new(&recovery.quarantined);
    assert!(
        quarantined.ends_with("catalog") && recovery.quarantined.contains("/quarantine/"),
        "{what}: {recovery:?}"
    );
    assert_eq!(files_below(quarantined), damaged, "{what}");
    assert!(
        recovery
            .notes
            .iter()
            .any(|note| note.contains("catalog was damaged")),
        "{what}: {recovery:?}"
    );
}

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_that_is_whole_is_not_touched() {
    let mut scene = Scene::set().await;
    let recovery = scene.check("undamaged").await;
    assert!(!recovery.catalog_rebuilt, "{recovery:?}");
    assert_eq!(recovery.quarantined, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_that_is_gone_is_made_again() {
    let mut scene = Scene::set().await;
    std::fs::remove_dir_all(scene.catalog()).unwrap();
    let recovery = scene.check("without catalog/").await;
    assert!(recovery.catalog_rebuilt, "{recovery:?}");
    assert_eq!(recovery.quarantined, "");
    assert!(recovery.notes.iter().any(|note| note.contains("missing")));

    // Numbers that were given out are not given out again.
    scene.daemon.clear(STUCK.0);
    scene.daemon.launch();
    scene.daemon.ready().await;
    let client = scene.daemon.client().await;
    let newest = scene.before.queue.iter().map(|job| job.id).max().unwrap();
    for job in &scene.before.queue {
        let job = ended(&client, job.id).await;
        assert_eq!(job.state(), v1::JobState::Done, "{job:?}");
    }
    assert!(push(&client, PLAIN, 99).await.id > newest);
    assert_eq!(
        push(&client, PLAIN, 1).await.id,
        scene.before.adapters_job("task-1"),
        "the same bytes for the same task are the same job"
    );
    scene.daemon.stop().await;
}

impl Picture {
    fn adapters_job(&self, task: &str) -> u64 {
        let adapter = self.adapters.iter().find(|adapter| adapter.task == task);
        adapter.unwrap().job_id
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_flipped_in_every_file_of_the_catalog() {
    let mut scene = Scene::set().await;
    let mut rebuilt = 0;
    for seed in 0..20 {
        scene.reset();
        let mut random = Random(seed);
        let files = files_below(&scene.catalog());
        for file in &files {
            let path = scene.catalog().join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            if bytes.is_empty() {
                continue;
            }
            // The files are mostly padding: what is written lies near the front.
            let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            for _ in 0..=random.below(64) {
                let at = random.below(written);
                bytes[at] ^= 1 << random.below(8);
            }
            std::fs::write(&path, bytes).unwrap();
        }
        let what = format!("seed {seed}");
        let recovery = scene.check(&what).await;
        if recovery.catalog_rebuilt {
            rebuilt += 1;
            assert_set_aside(&recovery, &files, &what);
        }
    }
    assert!(rebuilt >= 10, "only {rebuilt} of 20 damages were noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_that_was_cut_short() {
    let mut scene = Scene::set().await;
    for share in [0, 1, 2, 3] {
        scene.reset();
        for file in files_below(&scene.catalog()) {
            let path = scene.catalog().join(file);
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            let length = file.metadata().unwrap().len();
            file.set_len(length * share / 4).unwrap();
        }
        scene.check(&format!("cut to {share} quarters")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_gone_while_the_catalog_is_whole() {
    let mut scene = Scene::set().await;
    let manifests = scene.daemon.state().join("manifests");
    let names = files_below(&manifests);
    for name in &names {
        scene.reset();
        std::fs::remove_file(manifests.join(name)).unwrap();
        scene.check(&format!("without {}", name.display())).await;
        // It is written again, so that losing the catalog next loses nothing either.
        assert_eq!(files_below(&manifests), names);
        std::fs::remove_dir_all(scene.catalog()).unwrap();
        scene
            .check(&format!("and without catalog/ after {}", name.display()))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_counters_may_go_with_the_catalog() {
    let mut scene = Scene::set().await;
    std::fs::remove_dir_all(scene.catalog()).unwrap();
    for counter in ["job-ids", "revisions"] {
        std::fs::remove_file(scene.daemon.state().join(counter)).unwrap();
    }
    let recovery = scene.check("without catalog/ and counters").await;
    assert!(recovery.catalog_rebuilt, "{recovery:?}");
}
