//! The socket as the file system shows it: there, a socket, private, and whose.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use super::Check;

/// Permission bits of group and others.
const NOT_PRIVATE: u32 = 0o077;

/// What can be told without connecting.
pub(super) fn checks(socket: &Path) -> Vec<Check> {
    let at = socket.display();
    let metadata = match socket.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return vec![Check::fail(
                "socket",
                format!("{at} does not exist"),
                "start kmerged, or name its socket with --socket or KMERGE_SOCKET",
            )];
        }
        Err(error) => {
            return vec![Check::fail(
                "socket",
                format!("{at} cannot be looked at: {error}"),
                "run as the user that kmerged runs as",
            )];
        }
    };
    if !metadata.file_type().is_socket() {
        return vec![Check::fail(
            "socket",
            format!("{at} is not a socket"),
            "name kmerged's socket with --socket or KMERGE_SOCKET",
        )];
    }
    let user = rustix::process::getuid().as_raw();
    vec![
        Check::ok("socket", at.to_string()),
        permissions(&metadata),
        owner(&metadata, user),
    ]
}

fn permissions(metadata: &Metadata) -> Check {
    let mode = metadata.mode() & 0o777;
    if mode & NOT_PRIVATE == 0 {
        Check::ok("permissions", format!("{mode:04o}"))
    } else {
        Check::warn(
            "permissions",
            format!("{mode:04o}: other users may try to connect"),
            "set listen.socket_mode to 0600 in kmerged's configuration, unless you share it",
        )
    }
}

fn owner(metadata: &Metadata, user: u32) -> Check {
    let owner = metadata.uid();
    if owner == user {
        Check::ok("owner", format!("user {owner}, which is you"))
    } else if owner == 0 || user == 0 {
        Check::ok("owner", format!("user {owner}; you are user {user}"))
    } else {
        Check::warn(
            "owner",
            format!("user {owner}; you are user {user}"),
            "make sure that this is the kmerged you mean: name another one with --socket",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::super::Verdict;
    use super::*;

    fn verdicts(checks: &[Check]) -> Vec<(&'static str, Verdict)> {
        checks
            .iter()
            .map(|check| (check.name, check.verdict))
            .collect()
    }

    #[test]
    fn a_private_socket_of_ones_own_is_fine() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("kmerged.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, Permissions::from_mode(0o600)).unwrap();
        let expected = [
            ("socket", Verdict::Ok),
            ("permissions", Verdict::Ok),
            ("owner", Verdict::Ok),
        ];
        assert_eq!(verdicts(&checks(&socket)), expected);
    }

    #[test]
    fn an_open_socket_is_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("kmerged.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
        let checks = checks(&socket);
        assert_eq!(verdicts(&checks)[1], ("permissions", Verdict::Warn));
        assert!(checks[1].found.starts_with("0666"), "{checks:?}");
    }

    #[test]
    fn what_is_not_there_or_no_socket_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(verdicts(&checks(file.path())), [("socket", Verdict::Fail)]);
        let gone = file.path().with_extension("gone");
        assert_eq!(verdicts(&checks(&gone)), [("socket", Verdict::Fail)]);
    }

    #[test]
    fn the_owner_is_judged_by_who_asks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.path().metadata().unwrap();
        let mine = metadata.uid();
        assert_eq!(owner(&metadata, mine).verdict, Verdict::Ok);
        // Root's socket is the system's; a stranger's is not.
        let stranger = owner(&metadata, mine + 1).verdict;
        assert_eq!(
            stranger,
            if mine == 0 {
                Verdict::Ok
            } else {
                Verdict::Warn
            }
        );
    }
}
