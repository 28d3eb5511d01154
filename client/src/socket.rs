//! Where the daemon listens unless told otherwise.
//!
//! The daemon places its socket by the same rule; a test of the daemon holds the two together, so
//! a change here is a change there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The environment variable that names the socket.
pub const SOCKET_VARIABLE: &str = "KMERGE_SOCKET";

const SYSTEM_SOCKET: &str = "/run/kmerge/kmerged.sock";

/// The socket on which this user's daemon listens by default. The first that applies:
///
/// 1. `$XDG_RUNTIME_DIR/kmerge/kmerged.sock`, if `XDG_RUNTIME_DIR` is an absolute path;
/// 2. on macOS `~/Library/Application Support/kmerge/kmerged.sock`;
/// 3. `/run/kmerge/kmerged.sock`, if it exists or the user is root;
/// 4. `<directory for temporary files>/kmerge-<uid>/kmerged.sock`.
///
/// `KMERGE_SOCKET` is not looked at: it is an argument, and this is what holds without one.
#[must_use]
pub fn default_socket() -> PathBuf {
    rule(&Surroundings {
        runtime_directory: std::env::var_os("XDG_RUNTIME_DIR"),
        home: std::env::var_os("HOME").filter(|_| cfg!(target_os = "macos")),
        uid: rustix::process::getuid().as_raw(),
        system_socket_exists: Path::new(SYSTEM_SOCKET).exists(),
        temporary: std::env::temp_dir(),
    })
}

/// What the rule depends on.
struct Surroundings {
    runtime_directory: Option<OsString>,
    /// Only on macOS.
    home: Option<OsString>,
    uid: u32,
    system_socket_exists: bool,
    temporary: PathBuf,
}

fn rule(surroundings: &Surroundings) -> PathBuf {
    // The XDG specification says that relative values are to be ignored.
    let absolute = |value: &Option<OsString>| {
        value
            .as_ref()
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if let Some(runtime) = absolute(&surroundings.runtime_directory) {
        runtime.join("kmerge/kmerged.sock")
    } else if let Some(home) = absolute(&surroundings.home) {
        home.join("Library/Application Support/kmerge/kmerged.sock")
    } else if surroundings.system_socket_exists || surroundings.uid == 0 {
        PathBuf::from(SYSTEM_SOCKET)
    } else {
        surroundings
            .temporary
            .join(format!("kmerge-{}/kmerged.sock", surroundings.uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(uid: u32) -> Surroundings {
        Surroundings {
            runtime_directory: None,
            home: None,
            uid,
            system_socket_exists: false,
            temporary: "/tmp".into(),
        }
    }

    #[test]
    fn the_runtime_directory_comes_first() {
        let here = Surroundings {
            runtime_directory: Some("/run/user/1000".into()),
            home: Some("/Users/me".into()),
            system_socket_exists: true,
            ..surroundings(1000)
        };
        assert_eq!(rule(&here), Path::new("/run/user/1000/kmerge/kmerged.sock"));
    }

    #[test]
    fn a_relative_runtime_directory_is_ignored() {
        let here = Surroundings {
            runtime_directory: Some("run".into()),
            ..surroundings(1000)
        };
        assert_eq!(rule(&here), Path::new("/tmp/kmerge-1000/kmerged.sock"));
    }

    #[test]
    fn an_empty_runtime_directory_is_ignored() {
        let here = Surroundings {
            runtime_directory: Some("".into()),
            ..surroundings(7)
        };
        assert_eq!(rule(&here), Path::new("/tmp/kmerge-7/kmerged.sock"));
    }

    #[test]
    fn on_macos_it_is_in_application_support() {
        let here = Surroundings {
            home: Some("/Users/me".into()),
            ..surroundings(501)
        };
        let expected = "/Users/me/Library/Application Support/kmerge/kmerged.sock";
        assert_eq!(rule(&here), Path::new(expected));
    }

    #[test]
    fn root_uses_the_system_socket_and_so_do_others_where_it_exists() {
        assert_eq!(rule(&surroundings(0)), Path::new(SYSTEM_SOCKET));
        let here = Surroundings {
            system_socket_exists: true,
            ..surroundings(1000)
        };
        assert_eq!(rule(&here), Path::new(SYSTEM_SOCKET));
        assert_ne!(rule(&surroundings(1000)), Path::new(SYSTEM_SOCKET));
    }
}
