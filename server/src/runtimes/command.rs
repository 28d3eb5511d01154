//! Runs a configured command: an argument vector and no shell, facts in the environment, a time
//! limit, and nothing of it left behind. Used by the kind `exec`, and where a runtime has to be
//! started again to load anything.

use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, Command};

use super::http::short;
use super::runtime::CallError;

/// The most of what a command says that is kept.
const SAID_BYTES: u64 = 4096;

/// How long the last words of a command that has ended may take.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs `arguments` with `facts` as `KMERGE_<FACT>` and waits for its end. Lists are joined with
/// commas.
///
/// # Errors
/// If it cannot be started, fails, or does not end within `time`; then it is killed with all that it
/// started.
pub async fn run(
    arguments: &[String],
    facts: &Map<String, Value>,
    time: Duration,
) -> Result<(), CallError> {
    let Some((program, rest)) = arguments.split_first() else {
        return Err(CallError::Unable("has no command".to_owned()));
    };
    let mut command = Command::new(program);
    command
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // What the service manager and the configuration told this process is not for others.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let private = [
            "NOTIFY_SOCKET",
            "WATCHDOG_PID",
            "WATCHDOG_USEC",
            "JOURNAL_STREAM",
        ];
        if text.starts_with("KMERGE_") || text.starts_with("LISTEN_") || private.contains(&&*text) {
            command.env_remove(&name);
        }
    }
    for (fact, value) in facts {
        command.env(
            format!("KMERGE_{}", fact.to_ascii_uppercase()),
            plain(value),
        );
    }
    let child = command
        .spawn()
        .map_err(|error| CallError::Unable(format!("cannot run {program}: {error}")))?;
    let mut group = Group(child);
    let mut said = pin!(read(group.0.stderr.take()));
    let ended = async {
        tokio::select! {
            words = &mut said => (group.0.wait().await, words),
            status = group.0.wait() => {
                // Its last words may still be on their way; a child that it left behind may keep the
                // line open for ever.
                let words = tokio::time::timeout(LAST_WORDS, &mut said).await;
                (status, words.unwrap_or_default())
            }
        }
    };
    let (status, said) = tokio::time::timeout(time, ended)
        .await
        .map_err(|_| CallError::TimedOut(time))?;
    let status = status.map_err(|error| CallError::Unreachable(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    Err(CallError::Refused {
        status: status
            .code()
            .and_then(|code| u16::try_from(code).ok())
            .unwrap_or(u16::MAX),
        what: match status.code() {
            Some(_) => short(&said),
            None => format!("it ended with {status}: {}", short(&said)),
        },
    })
}

/// The beginning of what is said until the line closes. The rest is read and forgotten, so that
/// nobody waits for a reader.
async fn read(stderr: Option<ChildStderr>) -> String {
    let mut said = Vec::new();
    if let Some(mut stderr) = stderr {
        // What cannot be read is not known; the exit code is.
        let _ = (&mut stderr).take(SAID_BYTES).read_to_end(&mut said).await;
        let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&said).into_owned()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// A command and all that it started, which go when this goes.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Reaped children have no id any more, so that a number used again is never hit.
        let group = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = group.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
