//! Upload to durable over the Unix socket, beside `dd conv=fsync` of the same file on the same
//! filesystem, in turns.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use kmerge_client::{Adapter, Upload, v1};

use crate::process::{Daemon, register};
use crate::synthetic::{LLAMA_1B, Width, write};
use crate::{median, scratch};

const ROUNDS: u64 = 11;

/// Measures and prints.
pub async fn run() {
    let directory = scratch();
    let (daemon, client) = Daemon::start(directory.path()).await;
    register(
        &client,
        "llama-1b",
        LLAMA_1B.config(),
        8,
        v1::Operator::KmergeLinear,
    )
    .await;
    let (mut uploads, mut with_hash, mut copies) = (Vec::new(), Vec::new(), Vec::new());
    let mut size = 0;
    for round in 0..ROUNDS {
        let source = directory.path().join("adapter");
        size = write(&source, LLAMA_1B, 32, Width::F32, round);
        copies.push(dd(
            &source.join("adapter_model.safetensors"),
            &daemon.state.join("copy"),
        ));
        let started = Instant::now();
        let adapter = Adapter::open(&source).await.unwrap();
        let opened = started.elapsed();
        let upload = Upload::new(format!("task-{round}"), "llama-1b");
        let sent = Instant::now();
        let answer = client
            .upload_adapter(&adapter, &upload, |_| ())
            .await
            .unwrap();
        let took = sent.elapsed();
        uploads.push(took.as_secs_f64());
        with_hash.push((opened + took).as_secs_f64());
        // The merge must not run beside the next measurement.
        client
            .watch_job(answer.job.unwrap().id)
            .ended()
            .await
            .unwrap();
    }
    let copy = median(copies);
    let (upload, with_hash) = (median(uploads), median(with_hash));
    println!(
        "\nupload of {:.1} MB, {ROUNDS} rounds in turns, medians",
        size as f64 / 1e6
    );
    println!(
        "  dd conv=fsync                                {:8.1} ms   1.00",
        copy * 1e3
    );
    println!(
        "  upload, acknowledged (daemon's SHA-256 in)   {:8.1} ms   {:.2}",
        upload * 1e3,
        upload / copy
    );
    println!(
        "  the same with the client's own SHA-256 pass  {:8.1} ms   {:.2}",
        with_hash * 1e3,
        with_hash / copy
    );
}

fn dd(from: &Path, to: &Path) -> f64 {
    let started = Instant::now();
    let status = Command::new("dd")
        .arg(format!("if={}", from.display()))
        .arg(format!("of={}", to.display()))
        .args(["bs=1M", "conv=fsync"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let took = started.elapsed().as_secs_f64();
    assert!(status.success());
    std::fs::remove_file(to).unwrap();
    took
}
