//! Where things are by default: the state directory and the socket. Plain functions of what the
//! environment says, so that tests need no environment.
//!
//! The client finds the socket by the same rule (and falls back to the system daemon's); a test
//! holds the two together.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What the defaults depend on.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The user id that the process runs as.
    pub uid: u32,
    /// The system's directory for temporary files.
    pub temporary: PathBuf,
    /// Whether macOS' conventions hold.
    pub macos: bool,
    /// Looks up an environment variable.
    pub variable: fn(&str) -> Option<OsString>,
}

impl Surroundings {
    /// The surroundings of this process.
    pub fn of_this_process() -> Self {
        Self {
            uid: rustix::process::getuid().as_raw(),
            temporary: std::env::temp_dir(),
            macos: cfg!(target_os = "macos"),
            variable: |name| std::env::var_os(name),
        }
    }

    /// An environment variable that names an absolute directory. XDG says that relative values
    /// are to be ignored.
    fn directory(&self, name: &str) -> Option<PathBuf> {
        (self.variable)(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    }

    fn application_support(&self) -> Option<PathBuf> {
        self.macos
            .then(|| self.directory("HOME"))?
            .map(|home| home.join("Library/Application Support"))
    }

    /// The socket that `kmerged` listens on unless told otherwise.
    pub fn default_socket(&self) -> PathBuf {
        let directory = if let Some(runtime) = self.directory("XDG_RUNTIME_DIR") {
            runtime.join("kmerge")
        } else if let Some(support) = self.application_support() {
            support.join("kmerge")
        } else if self.uid == 0 {
            PathBuf::from("/run/kmerge")
        } else {
            self.temporary.join(format!("kmerge-{}", self.uid))
        };
        directory.join("kmerged.sock")
    }

    /// The state directory unless told otherwise; `None` where the environment names no home.
    pub fn default_state(&self) -> Option<PathBuf> {
        // systemd gives a colon-separated list when a unit asks for several.
        let of_systemd = (self.variable)("STATE_DIRECTORY").and_then(|list| {
            let first = list.to_str()?.split(':').next()?.to_owned();
            Some(PathBuf::from(first)).filter(|path| path.is_absolute())
        });
        of_systemd
            .or_else(|| {
                self.directory("XDG_STATE_HOME")
                    .map(|state| state.join("kmerge"))
            })
            .or_else(|| {
                self.application_support()
                    .map(|support| support.join("kmerge"))
            })
            .or_else(|| (self.uid == 0).then(|| Path::new("/var/lib/kmerge").to_owned()))
            .or_else(|| {
                self.directory("HOME")
                    .map(|home| home.join(".local/state/kmerge"))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(uid: u32, variable: fn(&str) -> Option<OsString>) -> Surroundings {
        Surroundings {
            uid,
            temporary: "/tmp".into(),
            macos: false,
            variable,
        }
    }

    #[test]
    fn the_runtime_directory_wins() {
        let with = surroundings(1000, |name| {
            (name == "XDG_RUNTIME_DIR").then(|| "/run/user/1000".into())
        });
        assert_eq!(
            with.default_socket(),
            Path::new("/run/user/1000/kmerge/kmerged.sock")
        );
    }

    #[test]
    fn a_relative_runtime_directory_is_ignored() {
        let with = surroundings(1000, |name| {
            (name == "XDG_RUNTIME_DIR").then(|| "run".into())
        });
        assert_eq!(
            with.default_socket(),
            Path::new("/tmp/kmerge-1000/kmerged.sock")
        );
    }

    #[test]
    fn root_without_a_session_uses_the_system_directories() {
        let with = surroundings(0, |_| None);
        assert_eq!(with.default_socket(), Path::new("/run/kmerge/kmerged.sock"));
        assert_eq!(
            with.default_state().as_deref(),
            Some(Path::new("/var/lib/kmerge"))
        );
    }

    #[test]
    fn systemds_state_directory_wins() {
        let with = surroundings(0, |name| match name {
            "STATE_DIRECTORY" => Some("/var/lib/one:/var/lib/two".into()),
            "XDG_STATE_HOME" => Some("/home/me/.state".into()),
            _ => None,
        });
        assert_eq!(
            with.default_state().as_deref(),
            Some(Path::new("/var/lib/one"))
        );
    }

    #[test]
    fn without_a_home_there_is_no_default_state() {
        assert_eq!(surroundings(1000, |_| None).default_state(), None);
    }
}
