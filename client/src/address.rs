//! Where a daemon is, and how to get in: its Unix socket, its loopback port with a token, or any
//! address with certificates.
//!
//! A token is never sent in the clear to another machine: `http` is for loopback only.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tonic::transport::Uri;

use crate::error::{BadAddress, Error};

/// The environment variable that names the address.
pub const ADDRESS_VARIABLE: &str = "KMERGE_ADDRESS";

/// Where a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// Its Unix socket.
    Socket(PathBuf),
    /// Its port.
    Network(Network),
}

/// A daemon's port, and the files that let one in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub(crate) uri: Uri,
    /// The file that holds the daemon's token, for loopback.
    pub token_file: Option<PathBuf>,
    /// The root that the daemon's certificate leads to, for https. PEM.
    pub ca: Option<PathBuf>,
    /// The certificate that is shown to the daemon, for https. PEM.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

impl Network {
    /// `http://127.0.0.1:PORT` or `https://HOST:PORT`.
    ///
    /// # Errors
    /// [`Error::Address`] if it is anything else, or `http` to another machine.
    pub fn new(address: &str) -> Result<Self, Error> {
        let bad = |why| Error::Address {
            address: address.to_owned(),
            why,
        };
        let uri: Uri = address.parse().map_err(|_| bad(BadAddress::Form))?;
        let host = uri.host().unwrap_or_default();
        let is_whole = !host.is_empty() && uri.port().is_some() && matches!(uri.path(), "" | "/");
        match uri.scheme_str() {
            Some("http" | "https") if !is_whole => return Err(bad(BadAddress::Form)),
            Some("http") if !is_loopback(host) => return Err(bad(BadAddress::Clear)),
            Some("http" | "https") => {}
            _ => return Err(bad(BadAddress::Form)),
        }
        Ok(Self {
            uri,
            token_file: None,
            ca: None,
            certificate: None,
            key: None,
        })
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl From<&Path> for Address {
    fn from(socket: &Path) -> Self {
        Self::Socket(socket.to_owned())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Network(network) => {
                let text = network.uri.to_string();
                f.write_str(text.trim_end_matches('/'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clear_is_for_loopback_only() {
        for address in [
            "http://127.0.0.1:7447",
            "http://localhost:7447/",
            "http://[::1]:7447",
            "https://192.0.2.1:7447",
            "https://kmerge.example:7447",
        ] {
            let network = Network::new(address).unwrap();
            let shown = Address::Network(network).to_string();
            assert_eq!(shown, address.trim_end_matches('/'));
        }
        for address in ["http://192.0.2.1:7447", "http://kmerge.example:7447"] {
            let error = Network::new(address).unwrap_err().to_string();
            assert!(error.contains("https"), "{error}");
        }
        for address in [
            "",
            "127.0.0.1:7447",
            "localhost",
            "http://127.0.0.1",
            "https://",
            "https://h:1/path",
            "ftp://127.0.0.1:1",
            "/run/kmerge/kmerged.sock",
        ] {
            let error = Network::new(address).unwrap_err().to_string();
            assert!(error.contains("PORT"), "{address}: {error}");
        }
    }
}
