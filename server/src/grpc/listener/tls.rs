//! TLS for what is not loopback: TLS 1.3, HTTP/2, and a certificate from every caller.
//!
//! There is no way to ask for less: a configuration without the callers' root does not get here.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::{ListenError, secrets};
use crate::config::TlsFiles;

/// Reads the files and makes of them what TLS connections are accepted with.
///
/// # Errors
/// If a file cannot be read, the key can be read by others, or they do not fit together.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ListenError> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for root in certificates(&files.client_ca)? {
        roots
            .add(root)
            .map_err(bad(&files.client_ca, "is no root of certificates"))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .build()
        .map_err(bad(&files.client_ca, "is no root of certificates"))?;
    let key = secrets::read_secret(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(bad(&files.key, "has no private key"))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(bad(&files.certificate, "cannot be used"))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.certificate)?, key)
        .map_err(bad(&files.certificate, "does not fit its key"))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ListenError> {
    let content = secrets::read_public(path)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&content)
        .collect::<Result<_, _>>()
        .map_err(bad(path, "is not PEM"))?;
    if all.is_empty() {
        return Err(bad(path, "has no certificate")("expected PEM"));
    }
    Ok(all)
}

fn bad<E: ToString>(path: &Path, what: &'static str) -> impl FnOnce(E) -> ListenError {
    let path = path.to_owned();
    move |error| ListenError::Certificate {
        path,
        what,
        why: error.to_string(),
    }
}
