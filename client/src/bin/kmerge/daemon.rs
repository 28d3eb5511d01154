//! A private kmerged: found, started on a directory of its own, waited for, and stopped.
//!
//! It sees none of the user's configuration: every `KMERGE_` variable and everything that a
//! service manager passes down is taken out of its environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use kmerge_client::{Client, Health};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::failure::Failure;
use crate::files;

/// How long it may take to be ready.
const READY: Duration = Duration::from_secs(20);

/// How long it may take to stop before it is killed. Its own steps together take less.
const STOP: Duration = Duration::from_secs(30);

/// Between two looks at whether it is ready.
const LOOK: Duration = Duration::from_millis(25);

/// Lines of its log that are shown if it fails.
const LOG_LINES: usize = 12;

/// Variables by which a service manager speaks to the process it starts.
const OF_SERVICE_MANAGERS: [&str; 7] = [
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "JOURNAL_STREAM",
    "STATE_DIRECTORY",
    "WATCHDOG_USEC",
];

const CONFIG: &str = "# A private kmerged: nothing differs from the defaults.\n";

/// A kmerged that runs. Dropped, it is killed; [`Daemon::stop`] is the way to end it.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts kmerged on `directory`, which holds its socket, configuration, log and state.
    pub(crate) fn start(kmerged: &Path, directory: &Path) -> Result<Self, Failure> {
        let socket = directory.join("kmerged.sock");
        let config = directory.join("kmerged.toml");
        let log = directory.join("kmerged.log");
        files::write(&config, CONFIG.as_bytes())?;
        let out = files::create(&log)?;
        let err = out
            .try_clone()
            .map_err(|error| Failure::system("share a log file", &error))?;
        let mut command = Command::new(kmerged);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign(name)) {
            command.env_remove(name);
        }
        let child = command
            .arg("--config")
            .arg(config)
            .arg("--state-dir")
            .arg(directory.join("state"))
            .arg("--socket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::system(&format!("start {}", kmerged.display()), &error))?;
        Ok(Self { child, socket, log })
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its log.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// A connection, once its health is SERVING.
    pub(crate) async fn ready(&mut self) -> Result<Client, Failure> {
        let deadline = Instant::now() + READY;
        loop {
            if let Ok(client) = Client::connect(&self.socket).await
                && matches!(client.health().await, Ok(Health::Serving))
            {
                return Ok(client);
            }
            match self.child.try_wait() {
                Ok(Some(status)) => return Err(self.ended(status)),
                Ok(None) if Instant::now() < deadline => sleep(LOOK).await,
                Ok(None) => {
                    let message = format!("kmerged was not ready after {} s", READY.as_secs());
                    return Err(self.failure("DAEMON_LATE", &message));
                }
                Err(error) => return Err(Failure::system("wait for kmerged", &error)),
            }
        }
    }

    /// Asks it to stop and waits; kills it if it does not.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let Some(pid) = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
        else {
            return Ok(());
        };
        // It may have gone by itself meanwhile; waiting tells.
        let _ = kill_process(pid, Signal::TERM);
        match timeout(STOP, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.ended(status)),
            Ok(Err(error)) => Err(Failure::system("wait for kmerged", &error)),
            Err(_) => {
                self.child
                    .kill()
                    .await
                    .map_err(|error| Failure::system("kill kmerged", &error))?;
                let message = format!(
                    "kmerged did not stop in {} s and was killed",
                    STOP.as_secs()
                );
                Err(self.failure("DAEMON_LATE", &message))
            }
        }
    }

    fn ended(&self, status: ExitStatus) -> Failure {
        self.failure(
            "DAEMON_ENDED",
            &format!("kmerged ended by itself ({status})"),
        )
    }

    /// A failure with the last lines of the log.
    fn failure(&self, reason: &str, message: &str) -> Failure {
        let mut message = message.to_owned();
        for line in files::last_lines(&self.log, LOG_LINES) {
            message += "\n  | ";
            message += &line;
        }
        Failure::failed(reason, message)
    }
}

fn is_foreign(variable: &OsString) -> bool {
    variable.to_string_lossy().starts_with("KMERGE_")
        || OF_SERVICE_MANAGERS.iter().any(|name| variable == name)
}

/// Finds kmerged: the one that is named, else beside this program, else on PATH. `command` is what
/// the user ran, as `kmerge demo`.
pub(crate) fn find(named: Option<PathBuf>, command: &str) -> Result<PathBuf, Failure> {
    let how = format!(
        "build it with `cargo build --release -p kmerge-server`, then \
         `{command} --kmerged target/release/kmerged`"
    );
    if let Some(path) = named {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Failure::usage(format!("{} is not a program", path.display())).hint(how))
        };
    }
    let own = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.to_owned()));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    first_kmerged(own.into_iter().chain(std::env::split_paths(&on_path))).ok_or_else(|| {
        Failure::failed("NO_KMERGED", "kmerged is neither beside kmerge nor on PATH").hint(how)
    })
}

fn first_kmerged(directories: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    directories
        .into_iter()
        .map(|directory| directory.join("kmerged"))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program that stands in for kmerged.
    fn script(directory: &Path, body: &str) -> PathBuf {
        let path = directory.join("kmerged");
        files::write(&path, format!("#!/bin/sh\n{body}\n").as_bytes()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// Starts a script that was just written. A test beside this one may have forked while it was
    /// open for writing, and until that child runs its own program nobody can run this one.
    async fn started(kmerged: &Path, directory: &Path) -> Daemon {
        loop {
            match Daemon::start(kmerged, directory) {
                Ok(daemon) => return daemon,
                Err(failure) if failure.message.contains("Text file busy") => sleep(LOOK).await,
                Err(failure) => panic!("{failure:?}"),
            }
        }
    }

    #[test]
    fn the_first_directory_with_a_kmerged_wins() {
        let (empty, full) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kmerged = script(full.path(), "");
        let found = first_kmerged([empty.path().to_owned(), full.path().to_owned()]);
        assert_eq!(found, Some(kmerged));
        assert_eq!(first_kmerged([empty.path().to_owned()]), None);
    }

    #[test]
    fn a_program_that_is_named_must_be_one() {
        let failure = find(Some("/no/such/kmerged".into()), "kmerge replay adapters").unwrap_err();
        let hint = failure.hint.unwrap();
        assert!(hint.contains("cargo build"), "{hint}");
        assert!(
            hint.contains("`kmerge replay adapters --kmerged "),
            "{hint}"
        );
    }

    #[test]
    fn the_users_configuration_is_kept_away() {
        for name in [
            "KMERGE_CONFIG",
            "KMERGE_LOG__LEVEL",
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
        ] {
            assert!(is_foreign(&name.into()), "{name}");
        }
        for name in ["PATH", "HOME", "XDG_RUNTIME_DIR", "RUST_BACKTRACE"] {
            assert!(!is_foreign(&name.into()), "{name}");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_ends_shows_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let kmerged = script(directory.path(), "echo the disk is on fire >&2; exit 3");
        let mut daemon = started(&kmerged, directory.path()).await;
        let failure = daemon.ready().await.unwrap_err();
        let expected = "kmerged ended by itself (exit status: 3)\n  | the disk is on fire";
        assert_eq!(failure.message, expected);
    }

    #[tokio::test]
    async fn a_daemon_is_stopped_by_a_signal_and_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        // It says when it is listening for the signal, so that it is not sent too early.
        let body = "trap 'echo stopped; exit 0' TERM; echo started; while :; do sleep 0.05; done";
        let kmerged = script(directory.path(), body);
        let daemon = started(&kmerged, directory.path()).await;
        let log = daemon.log().to_owned();
        while files::last_lines(&log, 1).is_empty() {
            sleep(LOOK).await;
        }
        daemon.stop().await.unwrap();
        assert_eq!(files::last_lines(&log, 2), ["started", "stopped"]);
    }
}
