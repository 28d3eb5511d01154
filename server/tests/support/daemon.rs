//! A `kmerged` of the test's own: the process, its directory, its log.
//!
//! A daemon is started on a directory of its own and is ready when `start` returns. Its log goes
//! to a file and is printed when the test fails. Dropping it kills the process.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kmerge_client::{Client, Health};
use rustix::process::{Pid, Signal};
use tonic::transport::{Channel, Endpoint};

/// How long anything may take before it counts as not happening. Generous, for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How a daemon is started.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    config: String,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// Adds TOML to the configuration file.
    pub(crate) fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// Sets an environment variable, in restarts too unless [`Daemon::clear`] is called.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets many clients in at once, all of this test's user, with many streams each.
    pub(crate) fn many_connections(self) -> Self {
        self.config("listen.connections = 1024")
            .config("listen.connections_per_user = 1024")
            .config("listen.calls = 8192")
            .config("listen.calls_per_user = 8192")
    }

    /// Starts a daemon on a new directory and waits until it serves.
    pub(crate) async fn start(self) -> Daemon {
        let mut daemon = self.prepare();
        daemon.launch();
        daemon.ready().await;
        daemon
    }

    /// The same without starting it.
    pub(crate) fn prepare(self) -> Daemon {
        let room = tempfile::Builder::new().prefix("kmd-").tempdir().unwrap();
        std::fs::write(room.path().join("kmerged.toml"), &self.config).unwrap();
        Daemon {
            room,
            environment: self.environment,
            child: None,
            launches: 0,
        }
    }
}

/// A daemon, running or not, and its directory.
#[derive(Debug)]
pub(crate) struct Daemon {
    room: tempfile::TempDir,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    launches: u32,
}

impl Daemon {
    /// Starts a daemon with the defaults and waits until it serves.
    pub(crate) async fn start() -> Self {
        Setup::default().start().await
    }

    /// The directory around everything, for a test's own files.
    pub(crate) fn room(&self) -> &Path {
        self.room.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.room.path().join("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.room.path().join("kmerged.sock")
    }

    fn config_file(&self) -> PathBuf {
        self.room.path().join("kmerged.toml")
    }

    fn log_file(&self, launch: u32) -> PathBuf {
        self.room.path().join(format!("log-{launch}.txt"))
    }

    /// The command that starts this daemon, with nothing inherited that would configure it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kmerged"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("KMERGE_") || text == "NOTIFY_SOCKET" || text == "JOURNAL_STREAM" {
                command.env_remove(&name);
            }
        }
        command
            .arg("--config")
            .arg(self.config_file())
            .arg("--state-dir")
            .arg(self.state())
            .arg("--socket")
            .arg(self.socket())
            .env("KMERGE_LOG__FORMAT", "human")
            .env("KMERGE_STATE__MIN_FREE_BYTES", "0")
            .env("KMERGE_STATE__RESERVE_BYTES", "0")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Starts the process; [`Daemon::ready`] waits for it.
    pub(crate) fn launch(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        self.launches += 1;
        let log = File::create(self.log_file(self.launches)).unwrap();
        let child = self
            .command()
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// Waits until the daemon says that it serves.
    pub(crate) async fn ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(client) = Client::connect(&self.socket()).await
                && client
                    .health()
                    .await
                    .is_ok_and(|health| health == Health::Serving)
            {
                return;
            }
            if let Some(status) = self.exited() {
                panic!("kmerged ended with {status} instead of serving");
            }
            assert!(Instant::now() < deadline, "kmerged did not become ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A new connection by the real client.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.socket()).await.unwrap()
    }

    /// A new connection for raw calls.
    pub(crate) async fn channel(&self) -> Channel {
        let address = format!("unix://{}", self.socket().display());
        let endpoint = Endpoint::from_shared(address).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// How the process ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child
            .as_mut()
            .and_then(|child| child.try_wait().unwrap())
    }

    /// Waits for the process to end by itself. Connections of the test must go on meanwhile: a peer
    /// that does not hear that the daemon stops keeps it open until its drain time is over.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.exited() {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < deadline, "kmerged did not end");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().expect("the daemon runs"));
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGKILL: no chance to do anything.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        // It may have been killed by a point of its own already.
        let _ = child.kill();
        let status = child.wait().unwrap();
        assert_eq!(
            status.signal(),
            Some(Signal::KILL.as_raw()),
            "kmerged had ended by itself"
        );
    }

    /// SIGTERM: must end with 0, and in bounded time.
    pub(crate) async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait().await;
        assert_eq!(status.code(), Some(0), "kmerged stopped with {status}");
    }

    /// Stops the daemon if it runs, and starts it again on the same state.
    pub(crate) async fn restart(&mut self) {
        if self.child.is_some() {
            self.stop().await;
        }
        self.launch();
        self.ready().await;
    }

    /// Sets an environment variable for the next start.
    pub(crate) fn env(&mut self, name: &str, value: &str) {
        self.clear(name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Takes an environment variable away for the next start.
    pub(crate) fn clear(&mut self, name: &str) {
        self.environment.retain(|(known, _)| known != name);
    }

    /// The log of the newest start.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file(self.launches)).unwrap_or_default()
    }

    /// Asserts that the newest log has no warning and no error, but for lines that hold one of
    /// `expected`.
    pub(crate) fn assert_quiet(&self, expected: &[&str]) {
        let log = self.log();
        let loud: Vec<&str> = log
            .lines()
            .filter(|line| {
                // The level stands between the time and the target.
                let level = line.split_whitespace().nth(1);
                matches!(level, Some("WARN" | "ERROR")) || line.contains("panicked at")
            })
            .filter(|line| !expected.iter().any(|words| line.contains(words)))
            .collect();
        assert!(
            loud.is_empty(),
            "unexpected in the log:\n{}",
            loud.join("\n")
        );
    }

    /// What lies in `staging/`.
    pub(crate) fn staged(&self) -> Vec<PathBuf> {
        super::files_below(&self.state().join("staging"))
    }
}

impl Drop for Daemon {
    #[expect(clippy::print_stderr, reason = "the log belongs to a failed test")]
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be gone already; that is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for launch in 1..=self.launches {
                let log = std::fs::read_to_string(self.log_file(launch)).unwrap_or_default();
                eprintln!("--- log of kmerged, start {launch} ---\n{log}");
            }
        }
    }
}
