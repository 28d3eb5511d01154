//! Memory of the daemon: idle, and at most while adapters of 500 MB go all the way through upload,
//! merge, publication and fetch, for an operator that averages and for the one that packs: one after
//! the other, and (`memory4`) four at once. Disk in use at the end. Wake-ups while idle.

use std::time::Duration;

use kmerge_client::{Adapter, Fetch, Upload, v1};

use crate::process::{Daemon, disk_usage, register};
use crate::scratch;
use crate::synthetic::{LLAMA_8B, Width, write};

const RANK: usize = 96;
const IDLE: Duration = Duration::from_secs(10);

/// Measures and prints.
pub async fn run() {
    for operator in [v1::Operator::Exact, v1::Operator::Progressive] {
        measure(operator).await;
    }
}

/// Measures four adapters at once and prints.
pub async fn run_four() {
    for operator in [v1::Operator::Exact, v1::Operator::Progressive] {
        measure_four(operator).await;
    }
}

async fn measure_four(operator: v1::Operator) {
    const AT_ONCE: u64 = 4;
    let directory = scratch();
    let (daemon, client) = Daemon::start(directory.path()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = daemon.memory("VmRSS");
    register(&client, "llama-8b", LLAMA_8B.config(), 1, operator).await;
    let mut size = 0;
    for number in 0..AT_ONCE {
        let source = directory.path().join(format!("adapter-{number}"));
        size = write(&source, LLAMA_8B, RANK, Width::F16, number);
    }
    let all = |part: &'static str| {
        let calls = (0..AT_ONCE).map(|number| {
            let (client, directory) = (client.clone(), directory.path().to_owned());
            tokio::spawn(async move {
                let task = format!("task-{number}");
                if part == "upload" {
                    let source = directory.join(format!("adapter-{number}"));
                    let adapter = Adapter::open(&source).await.unwrap();
                    let upload = Upload::new(task, "llama-8b");
                    let answer = client.upload_adapter(&adapter, &upload, |_| ()).await;
                    return answer.unwrap().job.unwrap().id;
                }
                let fetch = Fetch {
                    base_model: "llama-8b".into(),
                    slot: 0,
                    generation: 0,
                    format: v1::AdapterFormat::Peft,
                    into: directory.join(format!("fetched-{number}")),
                    replace: true,
                };
                client.fetch_task(&fetch, &task).await.unwrap();
                0
            })
        });
        calls.collect::<Vec<_>>()
    };
    daemon.reset_peak();
    let mut jobs = Vec::new();
    for upload in all("upload") {
        jobs.push(upload.await.unwrap());
    }
    let uploaded = daemon.memory("VmHWM") - idle;
    daemon.reset_peak();
    for job in jobs {
        let job = client.watch_job(job).ended().await.unwrap();
        assert_eq!(job.state(), v1::JobState::Done, "{:?}", job.error);
    }
    let merged = daemon.memory("VmHWM") - idle;
    daemon.reset_peak();
    for fetch in all("fetch") {
        fetch.await.unwrap();
    }
    let fetched = daemon.memory("VmHWM") - idle;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let after = daemon.memory("VmRSS") - idle;
    println!(
        "\n{AT_ONCE} adapters of {:.0} MB at once, {operator:?}: idle {idle:.1} MiB; above it at most \
         {uploaded:.1} in upload, {merged:.1} in merge, {fetched:.1} in fetch, and {after:.1} afterwards",
        size as f64 / 1e6
    );
}

async fn measure(operator: v1::Operator) {
    let directory = scratch();
    let (daemon, client) = Daemon::start(directory.path()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = daemon.memory("VmRSS");
    let before = daemon.wakeups();
    tokio::time::sleep(IDLE).await;
    let wakeups = (daemon.wakeups() - before) as f64 / IDLE.as_secs_f64();
    register(&client, "llama-8b", LLAMA_8B.config(), 1, operator).await;
    println!(
        "\nmemory of the daemon, Llama-3.1-8B, all linear modules, r = {RANK}, F16, {operator:?}"
    );
    println!("  idle                        {idle:7.1} MiB, {wakeups:.2} wake-ups a second");
    for round in 0..2 {
        let source = directory.path().join("adapter");
        let size = write(&source, LLAMA_8B, RANK, Width::F16, round);
        let adapter = Adapter::open(&source).await.unwrap();
        let upload = Upload::new(format!("task-{round}"), "llama-8b");
        daemon.reset_peak();
        let answer = client
            .upload_adapter(&adapter, &upload, |_| ())
            .await
            .unwrap();
        let uploaded = daemon.memory("VmHWM") - idle;
        daemon.reset_peak();
        let job = client
            .watch_job(answer.job.unwrap().id)
            .ended()
            .await
            .unwrap();
        assert_eq!(job.state(), v1::JobState::Done, "{:?}", job.error);
        let merged = daemon.memory("VmHWM") - idle;
        daemon.reset_peak();
        let fetch = Fetch {
            base_model: "llama-8b".into(),
            slot: 0,
            generation: 0,
            format: v1::AdapterFormat::Peft,
            into: directory.path().join("fetched"),
            replace: true,
        };
        if operator == v1::Operator::Progressive {
            client
                .fetch_task(&fetch, &format!("task-{round}"))
                .await
                .unwrap();
        } else {
            client.fetch_slot(&fetch).await.unwrap();
        }
        let fetched = daemon.memory("VmHWM") - idle;
        println!(
            "  adapter {round} of {:.0} MB: above idle {uploaded:.1} MiB in upload, {merged:.1} in merge, \
             {fetched:.1} in fetch",
            size as f64 / 1e6
        );
    }
    let live = client
        .list_slots(None)
        .await
        .unwrap()
        .iter()
        .map(|slot| slot.bytes)
        .sum::<u64>();
    // The first generation is in its grace; after it, only the live one is left.
    tokio::time::sleep(Duration::from_secs(62)).await;
    let disk = disk_usage(&daemon.state);
    println!(
        "  disk in use {:.1} MB for {:.1} MB of live tensors: {:.3} ×",
        disk as f64 / 1e6,
        live as f64 / 1e6,
        disk as f64 / live as f64
    );
}
