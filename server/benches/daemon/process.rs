//! A `kmerged` of our own, and what the system says about it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kmerge_client::{Client, Health, v1};

/// A running daemon; killed on drop.
pub struct Daemon {
    child: Child,
    pub state: PathBuf,
    pub socket: PathBuf,
}

/// What the shipped unit sets: the daemon is measured as users run it.
fn shipped_environment() -> Vec<(&'static str, &'static str)> {
    let unit = include_str!("../../../deploy/systemd/kmerged.service");
    let lines = unit
        .lines()
        .filter_map(|line| line.strip_prefix("Environment="));
    let settings = lines.flat_map(str::split_whitespace);
    settings
        .filter_map(|setting| setting.split_once('='))
        .collect()
}

impl Daemon {
    /// Starts a daemon on `directory` and waits until it serves.
    pub async fn start(directory: &Path) -> (Self, Client) {
        let (state, socket) = (directory.join("state"), directory.join("kmerged.sock"));
        let child = Command::new(env!("CARGO_BIN_EXE_kmerged"))
            .arg("--state-dir")
            .arg(&state)
            .arg("--socket")
            .arg(&socket)
            .env("KMERGE_LOG__LEVEL", "warn")
            .env("KMERGE_UPLOADS__MAX_BYTES", "1GiB")
            // All clients are of one user.
            .env("KMERGE_LISTEN__CONNECTIONS_PER_USER", "64")
            // What is measured is what is in use.
            .env("KMERGE_STATE__RESERVE_BYTES", "0")
            .envs(shipped_environment())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self {
            child,
            state,
            socket,
        };
        let client = daemon.ready().await;
        (daemon, client)
    }

    async fn ready(&self) -> Client {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(client) = Client::connect(&self.socket).await
                && client
                    .health()
                    .await
                    .is_ok_and(|health| health == Health::Serving)
            {
                return client;
            }
            assert!(Instant::now() < deadline, "kmerged did not become ready");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A field of /proc/PID/status in MiB: VmRSS is what is resident, VmHWM the most there was.
    pub fn memory(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib / 1024.0
    }

    /// Forgets the most memory there was.
    pub fn reset_peak(&self) {
        std::fs::write(self.proc("clear_refs"), "5").unwrap();
    }

    /// How often the process was woken, all threads together.
    pub fn wakeups(&self) -> u64 {
        let mut total = 0;
        for task in std::fs::read_dir(self.proc("task")).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let line = status
                .lines()
                .find(|line| line.starts_with("voluntary_ctxt"))
                .unwrap();
            total += line
                .split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap();
        }
        total
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join(name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may be gone already; that is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Registers a base model with the default policy but for K and the operator.
pub async fn register(
    client: &Client,
    name: &str,
    config: String,
    slots: u32,
    operator: v1::Operator,
) {
    let policy = v1::MergePolicy {
        slots: Some(slots),
        operator: operator.into(),
        ..v1::MergePolicy::default()
    };
    let request = v1::RegisterBaseModelRequest {
        name: name.into(),
        config: config.into_bytes(),
        policy: Some(policy),
        served_as: String::new(),
    };
    client.register_base_model(request).await.unwrap();
}

/// The bytes that the files below `directory` take, each inode once.
pub fn disk_usage(directory: &Path) -> u64 {
    let output = Command::new("du")
        .arg("-sk")
        .arg(directory)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace()
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}
