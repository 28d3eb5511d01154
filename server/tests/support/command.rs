//! The real `kmerge`, run as a user runs it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;

use super::workspace;

/// `kmerge`, beside `kmerged`. It is of another package, so cargo may not have built it for these
/// tests: then it is built here, once.
static KMERGE: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_BIN_EXE_kmerged")).with_file_name("kmerge");
    if !path.is_file() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--locked",
            "-p",
            "kmerge-client",
            "--bin",
            "kmerge",
        ]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let status = cargo.current_dir(workspace()).status().unwrap();
        assert!(
            status.success() && path.is_file(),
            "kmerge could not be built"
        );
    }
    path
});

/// A command with nothing inherited that would change it.
pub(crate) fn kmerge() -> Command {
    let mut command = Command::new(&*KMERGE);
    for name in [
        "KMERGE_SOCKET",
        "KMERGE_ADDRESS",
        "KMERGE_TOKEN_FILE",
        "NO_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "COLUMNS",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The one JSON document on stdout.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        code: output.status.code().expect("kmerge ends by itself"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// `kmerge` talking to one daemon.
#[derive(Debug)]
pub(crate) struct Cli {
    socket: PathBuf,
}

impl Cli {
    pub(crate) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// The command with these arguments, not yet run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = kmerge();
        command.arg("--socket").arg(&self.socket).args(arguments);
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Runs a command that must end with 0.
    pub(crate) fn done(&self, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran
    }

    /// Runs a command that must end with 0, say one JSON document, and nothing on stderr.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.done(&[arguments, &["--format", "json"]].concat());
        assert_eq!(ran.stderr, "", "{arguments:?}");
        ran.json()
    }

    /// Starts a command that goes on until it is dropped.
    pub(crate) fn follow(&self, arguments: &[&str]) -> Lines {
        let mut child = self
            .command(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Lines { child, stdout }
    }
}

/// The lines of a command that goes on.
#[derive(Debug)]
pub(crate) struct Lines {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Lines {
    /// Waits for the next line.
    pub(crate) fn next(&mut self) -> String {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line).unwrap();
        assert!(read > 0, "the command ended");
        line.trim_end().to_owned()
    }

    /// Waits for the next line and reads it as JSON.
    pub(crate) fn json(&mut self) -> Value {
        serde_json::from_str(&self.next()).unwrap()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
