//! The way to the daemon that all calls share: a channel over the socket or the network, and the
//! token that goes with every call.

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use hyper_util::rt::TokioIo;
use tonic::body::Body;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tower::Service;

use crate::address::Network;
use crate::error::{BadAddress, Error};

/// How long the daemon may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel, and the token that goes with every call.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    channel: Channel,
    authorization: Option<HeaderValue>,
}

/// Why there is no link.
pub(crate) enum NoLink {
    /// What was asked for cannot be used.
    Error(Error),
    /// Nobody answers.
    Transport(tonic::transport::Error),
}

impl From<Error> for NoLink {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<tonic::transport::Error> for NoLink {
    fn from(error: tonic::transport::Error) -> Self {
        Self::Transport(error)
    }
}

impl Link {
    /// A link over a Unix socket.
    pub(crate) async fn to_socket(socket: &Path) -> Result<Self, NoLink> {
        let path: Arc<Path> = socket.into();
        let connector = tower::service_fn(move |_: Uri| {
            let path = Arc::clone(&path);
            async move {
                tokio::net::UnixStream::connect(path)
                    .await
                    .map(TokioIo::new)
            }
        });
        // The address is never looked at: the connector knows the only place to go.
        let endpoint = Endpoint::from_static("http://kmerged").connect_timeout(CONNECT_TIMEOUT);
        Ok(Self {
            channel: endpoint.connect_with_connector(connector).await?,
            authorization: None,
        })
    }

    /// A link over TCP, with TLS for https.
    pub(crate) async fn to_network(network: &Network) -> Result<Self, NoLink> {
        let mut endpoint = Endpoint::from(network.uri.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        if network.is_encrypted() {
            endpoint = endpoint.tls_config(tls(network)?)?;
        }
        let authorization = match &network.token_file {
            Some(path) => Some(bearer(network, &read(path)?)?),
            None => None,
        };
        Ok(Self {
            channel: endpoint.connect().await?,
            authorization,
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the user's own files, read once and small"
)]
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(Error::file("read", path))
}

fn tls(network: &Network) -> Result<ClientTlsConfig, Error> {
    let bad = |why| Error::Address {
        address: network.uri.to_string(),
        why,
    };
    // No public authority signs kmerged's certificates, so there is none to fall back on.
    let ca = network.ca.as_ref().ok_or_else(|| bad(BadAddress::NoRoot))?;
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    match (&network.certificate, &network.key) {
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (read(certificate)?, read(key)?);
            Ok(config.identity(Identity::from_pem(certificate, key)))
        }
        (None, None) => Ok(config),
        _ => Err(bad(BadAddress::HalfIdentity)),
    }
}

fn bearer(network: &Network, token: &[u8]) -> Result<HeaderValue, Error> {
    let value = [b"Bearer ", token.trim_ascii()].concat();
    let mut value = HeaderValue::from_bytes(&value).map_err(|_| Error::Address {
        address: network.uri.to_string(),
        why: BadAddress::Token,
    })?;
    // It is shown in no log.
    value.set_sensitive(true);
    Ok(value)
}

impl Service<http::Request<Body>> for Link {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.channel, context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(value) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        self.channel.call(request)
    }
}
