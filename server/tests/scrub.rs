//! What lies on the disk is compared with what was written: by itself, when asked, before a slot is
//! decoded or merged the first time, and when it is fetched. Wrong bytes are never served as a task's: the
//! generation before serves again.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "the state is damaged from outside"
)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kmerge_client::{Client, v1};
use kmerge_storage::{ScrubBook, UnixMillis};
use sha2::{Digest as _, Sha256};
use support::calls::{golden, header, merge, message, policy, refusal, register};
use support::command::Cli;
use support::{BASE, Daemon, Setup, eventually, files_below};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use v1::adapter_service_client::AdapterServiceClient;
use v1::upload_adapter_request::Content;

const LONG: &str = "[serving]\ngrace_seconds = 3600";

fn progressive() -> v1::MergePolicy {
    v1::MergePolicy {
        operator: v1::Operator::Progressive.into(),
        assignment: v1::AssignmentRule::Roomiest.into(),
        slot_bytes: Some(12_000),
        ..policy(1)
    }
}

async fn started(config: &str, policy: v1::MergePolicy) -> (Daemon, Client) {
    let daemon = Setup::default().config(config).start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy).await;
    for task in ["a0", "a1", "a2"] {
        merge(&client, task, &golden(task)).await;
    }
    (daemon, client)
}

fn tensor(daemon: &Daemon, sha256: &str) -> PathBuf {
    let tensors = daemon.state().join("tensors");
    tensors.join(&sha256[..2]).join(sha256)
}

/// Turns one bit over, near the end.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let place = bytes.len() - 5;
    bytes[place] ^= 4;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn nothing_is_found_where_nothing_is_damaged() {
    let (daemon, client) = started(LONG, policy(2)).await;
    let scrubbed = client.scrub(0, |_| {}).await.unwrap();
    assert_eq!((scrubbed.generations_checked, scrubbed.generations), (3, 3));
    assert_eq!(scrubbed.bytes_checked, scrubbed.bytes);
    assert!(scrubbed.damaged.is_empty() && scrubbed.end_time.is_some());
    let status = client.get_status().await.unwrap();
    assert_eq!(status.last_scrub, Some(scrubbed));
    let cli = Cli::new(&daemon.socket());
    assert!(cli.done(&["scrub"]).stdout.contains("nothing is damaged"));
    daemon.assert_quiet(&[]);
}

/// What is right after generation 3 was given up: its slot serves what generation 2 held.
async fn assert_second_serves(client: &Client, second: &str) {
    let slot = client.get_slot(BASE, 0).await.unwrap();
    assert_eq!((slot.generation, slot.sha256.as_str()), (4, second));
    assert_eq!(slot.members.len(), 2);
    for task in ["a0", "a1"] {
        let resolved = client.resolve_task(BASE, task).await.unwrap();
        assert_eq!(resolved.generation, 4);
        let bytes = std::fs::read(Path::new(&resolved.path).join("adapter_model.safetensors"));
        assert_eq!(hex(&Sha256::digest(bytes.unwrap())), resolved.sha256);
    }
    let lost = refusal(client.resolve_task(BASE, "a2").await.unwrap_err());
    assert_eq!(
        (lost.code, lost.reason.as_str()),
        (Code::NotFound, "TASK_UNKNOWN")
    );
    let jobs = client.list_jobs(None, None).await.unwrap();
    // With the catalog the jobs that failed are lost.
    if let Some(job) = jobs.iter().find(|job| job.task == "a2") {
        assert_eq!(job.error.as_ref().unwrap().reason, "TENSORS_LOST");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_bit_that_fell_over_lets_the_generation_before_serve_again() {
    for policy in [policy(1), progressive()] {
        let (mut daemon, client) = started(LONG, policy).await;
        let fetch = |generation| kmerge_client::Fetch {
            base_model: BASE.to_owned(),
            slot: 0,
            generation,
            format: v1::AdapterFormat::Peft,
            into: daemon.room().join("fetched"),
            replace: true,
        };
        client.fetch_slot(&fetch(2)).await.unwrap();
        let slot = client.get_slot(BASE, 0).await.unwrap();
        let second = second_digest(&daemon);
        client.resolve_task(BASE, "a1").await.unwrap();
        let mut watch = client.watch_slots(None, slot.revision);
        flip(&tensor(&daemon, &slot.sha256));
        let scrubbed = client.scrub(0, |_| {}).await.unwrap();
        let [damage] = &scrubbed.damaged[..] else {
            panic!("{scrubbed:?}");
        };
        assert_eq!(
            (damage.slot, damage.generation, damage.current),
            (0, 3, true)
        );
        assert!(
            damage.what.contains("not those that were written"),
            "{damage:?}"
        );
        assert!(!damage.what.contains('/'), "no paths: {}", damage.what);
        let done = damage.done.join("\n");
        assert!(
            done.contains("serves generation 2 again, as generation 4"),
            "{done}"
        );
        assert!(done.contains("task a2 of tiny is lost"), "{done}");
        assert_second_serves(&client, &second).await;
        // Whoever watches is told.
        let told = tokio::time::timeout(support::daemon::PATIENCE, watch.next()).await;
        let kmerge_client::SlotEvent::Changed(told) = told.unwrap().unwrap() else {
            panic!("the slot is not empty");
        };
        assert_eq!(
            (told.generation, told.sha256.as_str()),
            (4, second.as_str())
        );
        // The file is kept aside, the status says so, and a second look finds nothing.
        let aside = files_below(&daemon.state().join("quarantine"));
        assert!(
            aside.iter().any(|path| path.ends_with(&slot.sha256)),
            "{aside:?}"
        );
        let cli = Cli::new(&daemon.socket());
        assert!(cli.done(&["status"]).stdout.contains("1 damaged"));
        assert!(cli.done(&["scrub"]).stdout.contains("nothing is damaged"));
        for lost in ["restart", "restart without its catalog"] {
            daemon.stop().await;
            if lost != "restart" {
                std::fs::remove_dir_all(daemon.state().join("catalog")).unwrap();
            }
            daemon.launch();
            daemon.ready().await;
            let client = daemon.client().await;
            assert_second_serves(&client, &second).await;
        }
        // The same adapter can come again.
        merge(&daemon.client().await, "a2", &golden("a2")).await;
    }
}

/// The SHA-256 of generation 2 of slot 0, from its manifest.
fn second_digest(daemon: &Daemon) -> String {
    let path = daemon.state().join("manifests").join(BASE).join("0/2.json");
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    manifest["body"]["tensor"]["digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn a_slot_without_a_whole_generation_is_lost_aloud() {
    let (daemon, client) = started("[serving]\ngrace_seconds = 0", policy(1)).await;
    let slot = client.get_slot(BASE, 0).await.unwrap();
    flip(&tensor(&daemon, &slot.sha256));
    let scrubbed = client.scrub(0, |_| {}).await.unwrap();
    let done = scrubbed.damaged[0].done.join("\n");
    assert!(done.contains("no whole generation left"), "{done}");
    for task in ["a0", "a1", "a2"] {
        assert!(
            done.contains(&format!("task {task} of tiny is lost")),
            "{done}"
        );
        let lost = refusal(client.resolve_task(BASE, task).await.unwrap_err());
        assert_eq!(lost.reason, "TASK_UNKNOWN");
    }
    assert!(client.list_slots(None).await.unwrap().is_empty());
    merge(&client, "a0", &golden("a0")).await;
    assert_eq!(client.get_slot(BASE, 0).await.unwrap().generation, 5);
}

#[tokio::test]
async fn a_fetch_of_damaged_bytes_never_comes_to_its_end() {
    for policy in [policy(1), progressive()] {
        let (daemon, client) = started(LONG, policy).await;
        let slot = client.get_slot(BASE, 0).await.unwrap();
        let second = second_digest(&daemon);
        let fetch = kmerge_client::Fetch {
            base_model: BASE.to_owned(),
            slot: 0,
            generation: 0,
            format: v1::AdapterFormat::Peft,
            into: daemon.room().join("fetched"),
            replace: true,
        };
        // Both what was written and what was made of it.
        client.fetch_task(&fetch, "a0").await.unwrap();
        flip(&tensor(&daemon, &slot.sha256));
        for derived in files_below(&daemon.state().join("derived")) {
            if derived.to_string_lossy().ends_with(".safetensors") {
                flip(&daemon.state().join("derived").join(derived));
            }
        }
        let refused = client.fetch_task(&fetch, "a0").await;
        let refused = refusal(refused.unwrap_err());
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::DataLoss, "TENSOR_DAMAGED")
        );
        // The next one is given what is whole.
        client.fetch_task(&fetch, "a0").await.unwrap();
        assert_second_serves(&client, &second).await;
    }
}

#[tokio::test]
async fn a_file_that_changed_while_nobody_looked_is_not_decoded_or_merged_either() {
    for policy in [policy(1), progressive()] {
        let is_packed = policy.operator() == v1::Operator::Progressive;
        let (mut daemon, client) = started(LONG, policy).await;
        let slot = client.get_slot(BASE, 0).await.unwrap();
        let second = second_digest(&daemon);
        daemon.stop().await;
        flip(&tensor(&daemon, &slot.sha256));
        daemon.launch();
        daemon.ready().await;
        let client = daemon.client().await;
        if is_packed {
            client.resolve_task(BASE, "a0").await.unwrap();
            assert_second_serves(&client, &second).await;
        }
        // What comes next is merged into what is whole.
        merge(&client, "a3", &golden("a3")).await;
        let slot = client.get_slot(BASE, 0).await.unwrap();
        let members: Vec<_> = slot.members.iter().map(|member| &*member.task).collect();
        assert_eq!((slot.generation, members), (5, vec!["a0", "a1", "a3"]));
    }
}

#[tokio::test]
async fn manifests_are_read_as_well() {
    let (daemon, client) = started(LONG, policy(1)).await;
    let manifest = daemon.state().join("manifests").join(BASE).join("0/2.json");
    flip(&manifest);
    let scrubbed = client.scrub(0, |_| {}).await.unwrap();
    let [damage] = &scrubbed.damaged[..] else {
        panic!("{scrubbed:?}");
    };
    assert_eq!((damage.generation, damage.current), (2, false));
    assert!(damage.what.contains("manifest"), "{}", damage.what);
}

#[tokio::test]
async fn a_slow_one_tells_how_far_it_is_and_ends_with_the_daemon() {
    let (mut daemon, client) = started(LONG, policy(1)).await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    // A byte a second: it would take hours.
    let scrub = tokio::spawn(async move {
        client
            .scrub(1, |state| {
                let _ = told.send(state.clone());
            })
            .await
    });
    let state = tokio::time::timeout(support::daemon::PATIENCE, heard.recv()).await;
    assert!(state.unwrap().unwrap().end_time.is_none());
    daemon.stop().await;
    assert!(scrub.await.unwrap().is_err());
}

#[tokio::test]
async fn its_own_can_be_held_and_stays_so_until_it_is_let_go_on() {
    let (mut daemon, _) = started(LONG, policy(1)).await;
    let cli = Cli::new(&daemon.socket());
    let paused = |option| cli.json(&["scrub", option])["paused"].as_bool();
    let says = |words| assert!(cli.done(&["status"]).stdout.contains(words), "{words}");
    assert_eq!(paused("--status"), Some(false));
    says("waiting for its time");
    assert_eq!(paused("--pause"), Some(true));
    says("paused; next: kmerge scrub --resume");
    daemon.restart().await;
    assert_eq!(paused("--status"), Some(true));
    // What somebody asks for is not held.
    assert!(cli.done(&["scrub"]).stdout.contains("nothing is damaged"));
    assert_eq!(paused("--resume"), Some(false));
    daemon.restart().await;
    assert_eq!(paused("--status"), Some(false));
    daemon.assert_quiet(&[]);
}

/// Lets every file have been looked at long ago, and the daemon's own scrubbing be held.
fn age(daemon: &Daemon) {
    let now = kmerge_server::clock::now();
    let opened = kmerge_storage::open(&daemon.state(), &kmerge_storage::Options::default(), now);
    let tensors = daemon.state().join("tensors");
    let digests = files_below(&tensors).into_iter().map(|file| {
        let bytes = std::fs::read(tensors.join(file)).unwrap();
        (kmerge_storage::Digest::of(&bytes), UnixMillis(1))
    });
    let book = ScrubBook {
        paused: true,
        looked_at: digests.collect(),
    };
    opened.unwrap().reader.keep_scrub_book(&book).unwrap();
}

#[tokio::test]
async fn its_own_waits_for_uploads_and_goes_on_after_them() {
    let (mut daemon, client) = started(LONG, policy(1)).await;
    drop(client);
    daemon.stop().await;
    age(&daemon);
    daemon.restart().await;
    let client = daemon.client().await;
    // An upload that says it comes, and does not.
    let (messages, stream) = tokio::sync::mpsc::channel(1);
    let header = header("a3", b"{}", &[0; 1000]);
    messages
        .send(message(Content::Header(header)))
        .await
        .unwrap();
    let mut uploads = AdapterServiceClient::new(daemon.channel().await);
    let upload =
        tokio::spawn(async move { uploads.upload_adapter(ReceiverStream::new(stream)).await });
    eventually("it comes", async || !daemon.staged().is_empty()).await;
    client.set_scrub(false).await.unwrap();
    let state = async || client.get_status().await.unwrap();
    eventually("it waits", async || state().await.scrub.unwrap().yielding).await;
    let status = state().await;
    assert!(status.scrub.unwrap().running && status.last_scrub.is_none());
    upload.abort();
    eventually("it goes on", async || state().await.last_scrub.is_some()).await;
    let status = state().await;
    assert_eq!(status.last_scrub.unwrap().generations_checked, 3);
    eventually("it rests", async || !state().await.scrub.unwrap().running).await;
}

#[tokio::test]
async fn it_happens_by_itself_too() {
    // Hours cannot be waited for; that the configuration is read can be told.
    let mut daemon = Setup::default()
        .config("[scrub]\nevery_hours = 100000")
        .prepare();
    daemon.launch();
    eventually("it refuses", async || daemon.exited().is_some()).await;
    assert!(
        daemon.log().contains("scrub.every_hours"),
        "{}",
        daemon.log()
    );
}
