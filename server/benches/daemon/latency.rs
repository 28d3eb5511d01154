//! ResolveTask from 32 clients, while the daemon is idle and while merges run flat out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kmerge_client::{Adapter, Client, Upload, v1};

use crate::process::{Daemon, register};
use crate::scratch;
use crate::synthetic::{LLAMA_1B, Width, write};

const CLIENTS: usize = 32;
const CALLS: usize = 400;
/// Clients ask at this pace, so that what is measured is the daemon and not 32 busy loops that
/// share its cores.
const PAUSE: Duration = Duration::from_millis(10);

/// Measures and prints.
pub async fn run() {
    let directory = scratch();
    let (daemon, client) = Daemon::start(directory.path()).await;
    register(
        &client,
        "llama-1b",
        LLAMA_1B.config(),
        4,
        v1::Operator::Exact,
    )
    .await;
    let adapters: Vec<_> = (0..6)
        .map(|seed| {
            let source = directory.path().join(format!("adapter-{seed}"));
            write(&source, LLAMA_1B, 32, Width::F32, seed);
            source
        })
        .collect();
    push(&client, &adapters[0], "first").await;
    let idle = resolve_from_all(&daemon).await;
    let stop = Arc::new(AtomicBool::new(false));
    let merging = {
        let (stop, client, adapters) = (Arc::clone(&stop), client.clone(), adapters.clone());
        tokio::spawn(async move {
            let mut merged = 0;
            while !stop.load(Ordering::Relaxed) {
                push(
                    &client,
                    &adapters[merged % adapters.len()],
                    &format!("task-{merged}"),
                )
                .await;
                merged += 1;
            }
            merged
        })
    };
    let busy = resolve_from_all(&daemon).await;
    stop.store(true, Ordering::Relaxed);
    let merged = merging.await.unwrap();
    println!("\nResolveTask, {CLIENTS} clients, {CALLS} calls each");
    for (name, times) in [("idle", &idle), ("merging", &busy)] {
        println!(
            "  {name:8} p50 {:7.3} ms   p99 {:7.3} ms   p99.9 {:7.3} ms",
            at(times, 0.5) * 1e3,
            at(times, 0.99) * 1e3,
            at(times, 0.999) * 1e3
        );
    }
    println!(
        "  p99 while merging / idle: {:.2} ({merged} adapters merged meanwhile)",
        at(&busy, 0.99) / at(&idle, 0.99)
    );
}

async fn push(client: &Client, adapter: &std::path::Path, task: &str) {
    let adapter = Adapter::open(adapter).await.unwrap();
    let upload = Upload::new(task, "llama-1b");
    let answer = client
        .upload_adapter(&adapter, &upload, |_| ())
        .await
        .unwrap();
    client
        .watch_job(answer.job.unwrap().id)
        .ended()
        .await
        .unwrap();
}

async fn resolve_from_all(daemon: &Daemon) -> Vec<f64> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let client = Client::connect(&daemon.socket).await.unwrap();
        clients.push(tokio::spawn(async move {
            let mut times = Vec::with_capacity(CALLS);
            for _ in 0..CALLS {
                let started = Instant::now();
                client.resolve_task("llama-1b", "first").await.unwrap();
                times.push(started.elapsed().as_secs_f64());
                tokio::time::sleep(PAUSE).await;
            }
            times
        }));
    }
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.unwrap());
    }
    times.sort_by(f64::total_cmp);
    times
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index into a short list"
)]
fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
