//! The token that callers over loopback TCP send: 32 random bytes in hex, in a file that only the
//! daemon's user can read. Whoever can read it could also open the Unix socket.
//!
//! Kept here is only the token's SHA-256, and what callers send is compared by its SHA-256. How long
//! that comparison takes then tells something of a hash that nobody can steer, and nothing of the
//! token, so it needs no constant-time comparison.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{ListenError, secrets};

/// Random bytes in a token.
const BYTES: usize = 32;

/// A token, as far as it is known here.
#[derive(Debug, Clone)]
pub struct Token {
    digest: [u8; 32],
}

impl Token {
    /// Reads the token, and makes it first if it is missing.
    ///
    /// # Errors
    /// If the file can be read by others, cannot be had, or holds no token.
    pub(super) fn load(path: &Path) -> Result<Self, ListenError> {
        if path.symlink_metadata().is_err() {
            let mut random = [0; BYTES];
            getrandom::fill(&mut random).map_err(|error| ListenError::Io {
                verb: "make a token for",
                path: path.to_owned(),
                source: std::io::Error::other(error.to_string()),
            })?;
            secrets::write_new(path, format!("{}\n", hex(&random)).as_bytes())?;
            tracing::info!(token_file = %path.display(), "made a new token");
        }
        let content = secrets::read_secret(path)?;
        let text = content.trim_ascii();
        if text.len() != 2 * BYTES || !text.iter().all(u8::is_ascii_hexdigit) {
            return Err(ListenError::NotAToken(path.to_owned()));
        }
        Ok(Self::of(text))
    }

    pub(in crate::grpc) fn of(text: &[u8]) -> Self {
        Self {
            digest: Sha256::digest(text).into(),
        }
    }

    /// Whether what a caller sent is the token.
    pub fn is(&self, sent: &[u8]) -> bool {
        self.digest == Self::of(sent).digest
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests look at the file")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_missing_token_is_made_for_the_owner_alone_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let token = Token::load(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim().len(), 64);
        assert!(token.is(text.trim().as_bytes()));
        assert!(!token.is(text.as_bytes()) && !token.is(b""));
        assert!(Token::load(&path).unwrap().is(text.trim().as_bytes()));
        let other = directory.path().join("other");
        assert!(!Token::load(&other).unwrap().is(text.trim().as_bytes()));
    }

    #[test]
    fn a_token_that_others_can_read_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        Token::load(&path).unwrap();
        for mode in [0o644, 0o604, 0o602] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let said = Token::load(&path).unwrap_err().to_string();
            assert!(said.contains("chmod 600"), "{mode:o}: {said}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        Token::load(&path).unwrap();
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        for content in ["", "short", &"g".repeat(64), &"a".repeat(65)] {
            secrets::write_new(&path, content.as_bytes()).unwrap();
            assert!(matches!(Token::load(&path), Err(ListenError::NotAToken(_))));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
            std::fs::remove_file(&path).unwrap();
        }
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(Token::load(&path), Err(ListenError::NotAFile(_))));
    }

    #[test]
    fn a_link_to_nowhere_is_not_followed_to_make_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let target = directory.path().join("target");
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(Token::load(&path).is_err());
        assert!(!target.exists());
    }
}
