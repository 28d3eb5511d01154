//! What lies on the disk is compared with what was written: by itself, when asked, and before a slot
//! that keeps members apart is decoded the first time. Wrong bytes are never served as a task's.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "the state is damaged from outside"
)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kmerge_client::{Client, v1};
use support::calls::{golden, merge, policy, refusal, register};
use support::command::Cli;
use support::{BASE, Daemon, Setup, eventually};
use tonic::Code;

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

#[tokio::test]
async fn a_bit_that_fell_over_is_found_and_not_decoded() {
    let (daemon, client) = started(LONG, progressive()).await;
    let slot = client.get_slot(BASE, 0).await.unwrap();
    client.resolve_task(BASE, "a1").await.unwrap();
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
        "{}",
        damage.what
    );
    assert!(!damage.what.contains('/'), "no paths: {}", damage.what);
    // A task that was not made before is not made from such bytes.
    let refused = refusal(client.resolve_task(BASE, "a0").await.unwrap_err());
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::DataLoss, "TENSOR_DAMAGED")
    );

    let cli = Cli::new(&daemon.socket());
    let ran = cli.run(&["scrub", "--json"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.json()["damaged"][0]["generation"], 3);
    assert!(cli.done(&["status"]).stdout.contains("1 damaged"));
    // The generation before is whole, so the slot can go back to it and serves again.
    cli.done(&["rollback", "0"]);
    client.resolve_task(BASE, "a0").await.unwrap();
}

#[tokio::test]
async fn a_file_that_changed_while_nobody_looked_is_not_decoded_either() {
    let (mut daemon, client) = started(LONG, progressive()).await;
    let slot = client.get_slot(BASE, 0).await.unwrap();
    daemon.stop().await;
    flip(&tensor(&daemon, &slot.sha256));
    daemon.launch();
    daemon.ready().await;
    let client = daemon.client().await;
    let refused = refusal(client.resolve_task(BASE, "a0").await.unwrap_err());
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::DataLoss, "TENSOR_DAMAGED")
    );
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
