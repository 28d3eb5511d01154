//! The address of a daemon's port, and the files that let one in: there, and private where they must
//! be.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use kmerge_client::{Address, Network};

use super::Check;

/// What can be known before the daemon is asked.
pub(super) fn checks(network: &Network) -> Vec<Check> {
    let address = Address::Network(network.clone()).to_string();
    let mut checks = vec![Check::ok("address", &address)];
    if address.starts_with("https:") {
        checks.push(given("ca", network.ca.as_deref(), "--ca or KMERGE_CA"));
        checks.push(given(
            "certificate",
            network.certificate.as_deref(),
            "--certificate or KMERGE_CERTIFICATE",
        ));
        checks.push(secret("key", network.key.as_deref(), "--key or KMERGE_KEY"));
    } else {
        checks.push(secret(
            "token",
            network.token_file.as_deref(),
            "--token-file or KMERGE_TOKEN_FILE; kmerged keeps it in its listen.token_file",
        ));
    }
    checks
}

/// A file that must be there.
fn given(name: &'static str, path: Option<&Path>, how: &str) -> Check {
    match path {
        None => Check::fail(name, "no file is named", format!("name it with {how}")),
        Some(path) => match path.metadata() {
            Ok(_) => Check::ok(name, path.display().to_string()),
            Err(error) => Check::fail(
                name,
                format!("cannot look at {}: {error}", path.display()),
                format!("name it with {how}"),
            ),
        },
    }
}

/// A file that must be there and that nobody else should read.
fn secret(name: &'static str, path: Option<&Path>, how: &str) -> Check {
    let check = given(name, path, how);
    let mode = path
        .and_then(|path| path.metadata().ok())
        .map(|metadata| metadata.mode() & 0o777);
    match (mode, path) {
        (Some(mode), Some(path)) if mode & 0o077 != 0 => Check::warn(
            name,
            format!("{} can be read by others (mode {mode:04o})", path.display()),
            format!("chmod 600 {}", path.display()),
        ),
        _ => check,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests make the files")]
mod tests {
    use super::*;
    use crate::commands::doctor::Verdict;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn files_that_are_missing_or_open_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        let verdicts = |network: &Network| -> Vec<Verdict> {
            checks(network).iter().map(|check| check.verdict).collect()
        };
        let mut network = Network::new("http://127.0.0.1:7447").unwrap();
        assert_eq!(verdicts(&network), [Verdict::Ok, Verdict::Fail]);
        network.token_file = Some(token.clone());
        assert_eq!(verdicts(&network), [Verdict::Ok, Verdict::Fail]);
        std::fs::write(&token, "").unwrap();
        for (mode, verdict) in [(0o644, Verdict::Warn), (0o600, Verdict::Ok)] {
            std::fs::set_permissions(&token, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(verdicts(&network), [Verdict::Ok, verdict]);
        }
        let network = Network::new("https://kmerge.example:7447").unwrap();
        let fail = Verdict::Fail;
        assert_eq!(verdicts(&network), [Verdict::Ok, fail, fail, fail]);
    }
}
