//! Adapters that come and go, merge after merge, through the real daemon: its memory, descriptors,
//! threads and disk stay as they are.
//!
//! KMERGE_AGE_MERGES says how many merges (30).

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "it looks at the daemon's process and reads files of its own"
)]

#[path = "../../storage/tests/common/flat.rs"]
mod flat;
mod support;

use std::collections::VecDeque;
use std::time::Instant;

use flat::{Run, SAMPLES, Sample};
use kmerge_client::{Client, Fetch, v1};
use support::adapters::small;
use support::calls::{ended, policy, progressive, register, upload};
use support::{BASE, Daemon, Setup};

/// The base model whose slots keep their members apart. [`BASE`] has averages.
const PACKED: &str = "packed";

/// How many tasks the packed slots hold at most.
const KEPT: usize = 6;

async fn merge(client: &Client, base: &str, task: &str, seed: u64) {
    let upload = kmerge_client::Upload {
        base_model: base.to_owned(),
        ..upload(task)
    };
    let adapter = small(4, seed).adapter();
    let answer = client.upload_adapter(&adapter, &upload, |_| ()).await;
    done(client, answer.unwrap().job.unwrap()).await;
}

async fn forget(client: &Client, base: &str, task: &str) {
    let request = v1::ForgetTaskRequest {
        base_model: base.to_owned(),
        task: task.to_owned(),
        ..v1::ForgetTaskRequest::default()
    };
    let job = client.forget_task(request).await.unwrap().job.unwrap();
    done(client, job).await;
}

async fn done(client: &Client, job: v1::Job) {
    let job = ended(client, job.id).await;
    assert_eq!(job.state(), v1::JobState::Done, "{job:?}");
}

/// Reads a task in each way.
async fn read(daemon: &Daemon, client: &Client, base: &str, task: &str, format: v1::AdapterFormat) {
    client.resolve_task(base, task).await.unwrap();
    let fetch = Fetch {
        base_model: base.to_owned(),
        slot: 0,
        generation: 0,
        format,
        into: daemon
            .room()
            .join(format!("fetched-{}", format.as_str_name())),
        replace: true,
    };
    client.fetch_task(&fetch, task).await.unwrap();
    client.get_adapter(base, task).await.unwrap();
    client.list_slots(Some(base)).await.unwrap();
    client.watch_slots(Some(base), 0).next().await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_merges_for_long_stays_as_it_is() {
    let merges: u64 = std::env::var("KMERGE_AGE_MERGES").map_or(30, |text| text.parse().unwrap());
    let mut daemon = Setup::default()
        .config("serving.grace_seconds = 0")
        .config("serving.cache_seconds = 0")
        .config("serving.cache_bytes = \"1MiB\"")
        .config("exports.formats = [\"peft\", \"gguf\", \"mlx\"]")
        .config("state.finished_jobs = 100")
        .start()
        .await;
    let mut client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let packed = progressive(2, 64 << 10);
    register(&client, PACKED, packed).await;
    let mut run = Run::default();
    let mut kept = VecDeque::new();
    let started = Instant::now();
    for number in 0..merges {
        // Its HTTP/2 library closes a connection on which a thousand streams were left in the middle.
        if number % 200 == 199 {
            client = daemon.client().await;
        }
        // New tasks and old names by turns.
        let task = format!("task-{}", number % 500);
        if number % 2 == 0 {
            merge(&client, PACKED, &task, number).await;
            read(&daemon, &client, PACKED, &task, v1::AdapterFormat::Mlx).await;
            kept.push_back(task);
            if kept.len() > KEPT {
                forget(&client, PACKED, &kept.pop_front().unwrap()).await;
            }
        } else {
            // A slot that is opened, published in every format, and emptied.
            merge(&client, BASE, &task, number).await;
            read(&daemon, &client, BASE, &task, v1::AdapterFormat::Peft).await;
            forget(&client, BASE, &task).await;
        }
        if number % merges.div_ceil(SAMPLES) == 0 {
            let disk = client.get_status().await.unwrap().disk.unwrap();
            run.add(Sample::of(&daemon.pid().to_string(), disk.total));
        }
    }
    let report = run.report();
    println!("{merges} merges in {:?}", started.elapsed());
    println!("{}", report.as_ref().unwrap_or_else(|grown| grown));
    // Nothing is left over but empty directories.
    let disk = client.get_status().await.unwrap().disk.unwrap();
    assert!(disk.staging + disk.quarantine <= 2 * 4096, "{disk:?}");
    assert!(report.is_ok(), "it grows:\n{}", report.unwrap_err());
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}
