//! Many clients at once: 48 that resolve and list, 8 that upload, 8 that watch and fetch. Nobody
//! meets another error than RESOURCE_EXHAUSTED, which says when to come again, and afterwards the
//! daemon has as many descriptors and threads as before.
//!
//! KMERGE_LOAD_SECONDS says for how long (8). The times of ResolveTask are printed beside those of
//! the same clients on the idle daemon; KMERGE_LOAD_RATIO makes a failure of a 99th percentile that
//! is more than so many times the idle one, for machines that do nothing else meanwhile.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::print_stdout, reason = "the times are for people")]
#![expect(
    clippy::disallowed_methods,
    reason = "it looks at the daemon's process and reads files of its own"
)]

#[path = "../../storage/tests/common/flat.rs"]
mod flat;
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flat::Sample;
use kmerge_client::{Client, Error, Fetch, v1};
use support::adapters::small;
use support::calls::{ended, policy, progressive, refusal, register, upload};
use support::{BASE, Daemon, Setup, eventually};
use tonic::Code;

const RESOLVERS: u64 = 48;
const UPLOADERS: u64 = 8;
const FETCHERS: u64 = 8;

/// The base model whose slots keep their members apart. [`BASE`] has averages.
const PACKED: &str = "packed";

/// Clients that resolve do so at this pace, so that what is measured is the daemon, and not 48 loops
/// that share its cores.
const PAUSE: Duration = Duration::from_millis(20);

/// What all clients share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    calls: AtomicU64,
    backed_off: AtomicU64,
    merged: AtomicU64,
    fetched: AtomicU64,
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// A call that may be refused for a while; nothing else may happen to it.
    async fn call<T>(&self, answer: Result<T, Error>) -> Option<T> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                let refusal = refusal(error);
                assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal:?}");
                let wait = refusal
                    .details
                    .retry_info()
                    .and_then(|info| info.retry_delay);
                self.backed_off.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(wait.unwrap_or(PAUSE).min(Duration::from_secs(1))).await;
                None
            }
        }
    }
}

fn at(sorted: &[f64], thousandth: usize) -> f64 {
    sorted[(sorted.len() - 1) * thousandth / 1000] * 1e3
}

/// Resolves and lists until told to stop; the times of ResolveTask in seconds.
async fn resolve(socket: PathBuf, number: u64, shared: Arc<Shared>) -> Vec<f64> {
    let client = Client::connect(&socket).await.unwrap();
    let mut times = Vec::new();
    let mut turn = number;
    while shared.goes_on() {
        let base = [BASE, PACKED][usize::try_from(turn % 2).unwrap()];
        let started = Instant::now();
        let resolved = client.resolve_task(base, "first").await;
        if shared.call(resolved).await.is_some() {
            times.push(started.elapsed().as_secs_f64());
        }
        if turn.is_multiple_of(16) {
            shared.call(client.list_slots(None).await).await;
            shared.call(client.list_adapters(Some(base)).await).await;
            shared.call(client.list_jobs(None, None).await).await;
        }
        turn += 1;
        tokio::time::sleep(PAUSE).await;
    }
    times
}

/// Sends adapters, waits for their merges, and forgets them where that is possible.
async fn send(socket: PathBuf, number: u64, shared: Arc<Shared>) {
    let client = Client::connect(&socket).await.unwrap();
    let base = [BASE, PACKED][usize::try_from(number % 2).unwrap()];
    let mut turn = 0;
    while shared.goes_on() {
        turn += 1;
        let task = format!("task-{number}-{turn}");
        let upload = kmerge_client::Upload {
            base_model: base.to_owned(),
            ..upload(&task)
        };
        let adapter = small(4, number * 1_000_000 + turn).adapter();
        let answer = client.upload_adapter(&adapter, &upload, |_| ()).await;
        let Some(answer) = shared.call(answer).await else {
            continue;
        };
        let job = ended(&client, answer.job.unwrap().id).await;
        assert_eq!(job.state(), v1::JobState::Done, "{job:?}");
        shared.merged.fetch_add(1, Ordering::Relaxed);
        // An average is not undone, and need not have thousands of members.
        if base == BASE {
            tokio::time::sleep(Duration::from_secs(turn / 4)).await;
            continue;
        }
        let request = v1::ForgetTaskRequest {
            base_model: base.to_owned(),
            task,
            ..v1::ForgetTaskRequest::default()
        };
        if let Some(forgetting) = shared.call(client.forget_task(request).await).await {
            let job = ended(&client, forgetting.job.unwrap().id).await;
            assert_eq!(job.state(), v1::JobState::Done, "{job:?}");
        }
    }
}

/// Watches the slots and fetches.
async fn fetch(socket: PathBuf, room: PathBuf, number: u64, shared: Arc<Shared>) {
    let client = Client::connect(&socket).await.unwrap();
    let base = [BASE, PACKED][usize::try_from(number % 2).unwrap()];
    let mut watch = client.watch_slots(Some(base), 0);
    while shared.goes_on() {
        let event = tokio::time::timeout(Duration::from_millis(500), watch.next()).await;
        if let Ok(event) = event {
            shared.call(event).await;
        }
        let fetch = Fetch {
            base_model: base.to_owned(),
            slot: 0,
            generation: 0,
            format: v1::AdapterFormat::Peft,
            into: room.join(format!("fetched-{number}")),
            replace: true,
        };
        let fetched = client.fetch_task(&fetch, "first").await;
        if shared.call(fetched).await.is_some() {
            shared.fetched.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The sorted times of ResolveTask while `beside` runs.
async fn measure(daemon: &Daemon, shared: &Arc<Shared>, beside: impl Future) -> Vec<f64> {
    let resolvers: Vec<_> = (0..RESOLVERS)
        .map(|number| tokio::spawn(resolve(daemon.socket(), number, Arc::clone(shared))))
        .collect();
    beside.await;
    shared.stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for resolver in resolvers {
        times.extend(resolver.await.unwrap());
    }
    times.sort_by(f64::total_cmp);
    times
}

fn print(name: &str, times: &[f64]) {
    println!(
        "  {name:5} p50 {:8.3} ms   p99 {:8.3} ms   p99.9 {:8.3} ms   of {}",
        at(times, 500),
        at(times, 990),
        at(times, 999),
        times.len()
    );
}

/// The middle of what a look at the daemon says, after it has become quiet.
async fn quiet(daemon: &Daemon) -> Sample {
    tokio::time::sleep(Duration::from_millis(300)).await;
    Sample::of(&daemon.pid().to_string(), 0).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_meet_no_error_but_to_come_again() {
    let number = |name: &str| -> Option<f64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap())
    };
    let time = Duration::from_secs_f64(number("KMERGE_LOAD_SECONDS").unwrap_or(8.0));
    let mut daemon = Setup::default()
        .config("serving.grace_seconds = 2")
        .many_connections()
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let packed = progressive(2, 64 << 10);
    register(&client, PACKED, packed).await;
    for base in [BASE, PACKED] {
        let upload = kmerge_client::Upload {
            base_model: base.to_owned(),
            ..upload("first")
        };
        let adapter = small(4, 1).adapter();
        let answer = client.upload_adapter(&adapter, &upload, |_| ()).await;
        ended(&client, answer.unwrap().job.unwrap().id).await;
    }
    let before = quiet(&daemon).await;

    // The same clients with nothing beside them: what comes first is not measured.
    let idle_time = time.div_f64(4.0).min(Duration::from_secs(30));
    measure(
        &daemon,
        &Arc::default(),
        tokio::time::sleep(Duration::from_millis(500)),
    )
    .await;
    let idle = measure(&daemon, &Arc::default(), tokio::time::sleep(idle_time)).await;

    let shared = Arc::new(Shared::default());
    let senders = (0..UPLOADERS)
        .map(|number| tokio::spawn(send(daemon.socket(), number, Arc::clone(&shared))));
    let room = daemon.room();
    let fetchers = (0..FETCHERS).map(|number| {
        let room: &Path = room;
        tokio::spawn(fetch(
            daemon.socket(),
            room.to_owned(),
            number,
            Arc::clone(&shared),
        ))
    });
    let beside: Vec<_> = senders.chain(fetchers).collect();
    let process = daemon.pid().to_string();
    let sampling = async {
        for _ in 0..20 {
            tokio::time::sleep(time.div_f64(20.0)).await;
            let Sample {
                memory,
                descriptors,
                threads,
                ..
            } = Sample::of(&process, 0).unwrap_or_default();
            let mib = memory >> 20;
            println!("  {mib:4} MiB resident, {descriptors} descriptors, {threads} threads");
        }
    };
    let busy = measure(&daemon, &shared, sampling).await;
    for client in beside {
        client.await.unwrap();
    }
    let ratio = at(&busy, 990) / at(&idle, 990);
    println!(
        "ResolveTask from {RESOLVERS} clients, {time:?} with {UPLOADERS} that upload and {FETCHERS} that fetch"
    );
    print("idle", &idle);
    print("busy", &busy);
    println!(
        "  p99 busy / idle {ratio:.2}; {} calls, {} told to come again, {} merged, {} fetched",
        shared.calls.load(Ordering::Relaxed),
        shared.backed_off.load(Ordering::Relaxed),
        shared.merged.load(Ordering::Relaxed),
        shared.fetched.load(Ordering::Relaxed)
    );
    assert!(
        shared.merged.load(Ordering::Relaxed) > 0,
        "nothing was merged"
    );
    assert!(
        shared.fetched.load(Ordering::Relaxed) > 0,
        "nothing was fetched"
    );

    // Blocking threads go after ten idle seconds.
    eventually("descriptors and threads are as before", async || {
        let after = quiet(&daemon).await;
        after.descriptors <= before.descriptors + 2 && after.threads <= before.threads + 4
    })
    .await;
    drop(client);
    daemon.stop().await;
    daemon.assert_quiet(&[]);
    if let Some(limit) = number("KMERGE_LOAD_RATIO") {
        assert!(
            ratio <= limit,
            "p99 busy / idle is {ratio:.2}, and {limit} is allowed"
        );
    }
}
