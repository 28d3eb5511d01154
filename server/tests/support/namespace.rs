//! A small file system of the test's own: a tmpfs, mounted in a user and mount namespace, so that
//! nobody needs to be root and nobody else sees it.
//!
//! A process of several threads cannot enter a namespace, so a test that needs one runs itself
//! again in it: [`entered`] is false in the outer process, once the inner one has passed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Set in the process that is inside.
const INSIDE: &str = "KMERGE_IN_NAMESPACE";

/// Whether this process is inside a namespace. If not, the test of this name was run in one, and
/// has passed there; or there are none on this system, which is said, and is a failure if
/// KMERGE_REQUIRE_NAMESPACES is set.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(crate) fn entered(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]);
        command
    };
    // Some systems let the namespace be made, and nothing be mounted in it.
    let probe = unshare()
        .args(["mount", "-t", "tmpfs", "none", "/mnt"])
        .output();
    if !probe.as_ref().is_ok_and(|probe| probe.status.success()) {
        assert!(
            std::env::var_os("KMERGE_REQUIRE_NAMESPACES").is_none(),
            "{test} needs a user namespace: {probe:?}"
        );
        eprintln!("{test}: skipped, for there are no user namespaces here");
        return false;
    }
    let status = unshare()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .status();
    assert!(status.unwrap().success(), "{test} has failed, see above");
    false
}

/// A file system of a fixed size. It goes with the namespace.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    root: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `bytes` at `path`, which is made. KMERGE_SMALL_DISK names the mount point of a
    /// small file system of another kind that is used instead; what is on it is removed.
    pub(crate) fn mount(path: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        if let Some(other) = std::env::var_os("KMERGE_SMALL_DISK") {
            for entry in std::fs::read_dir(&other).unwrap() {
                let entry = entry.unwrap().path();
                // Not every file system lets all go that it has made for itself.
                let _ = std::fs::remove_file(&entry);
                let _ = std::fs::remove_dir_all(&entry);
            }
            mount.arg("--bind").arg(other);
        } else {
            let size = format!("size={bytes},mode=0700");
            mount.args(["-t", "tmpfs", "-o", &size, "none"]);
        }
        let mounted = mount.arg(path).status();
        assert!(mounted.unwrap().success(), "mount at {}", path.display());
        Self {
            root: path.to_owned(),
        }
    }

    fn foreign(&self) -> PathBuf {
        self.root.join("foreign")
    }

    /// The bytes that are free.
    pub(crate) fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.root).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Lets a file of somebody else take all but `left` bytes of what is free now.
    pub(crate) fn fill(&self, left: u64) {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.foreign())
            .unwrap();
        let piece = vec![1; 64 * 1024];
        loop {
            let room = self.free().saturating_sub(left);
            let piece = &piece[..piece.len().min(usize::try_from(room).unwrap())];
            // Whoever else writes may be faster; then the disk is full as well.
            if piece.is_empty() || std::io::Write::write_all(&mut &file, piece).is_err() {
                return;
            }
        }
    }

    /// That file goes.
    pub(crate) fn clear(&self) {
        let _ = std::fs::remove_file(self.foreign());
    }
}
