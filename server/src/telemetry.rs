//! Sets up tracing, once, before anything else logs.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{Log, LogFormat};

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logging as configured.
///
/// # Errors
/// If the journal was asked for and cannot be reached, or logging has been set up before.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let layer = match log.format {
        LogFormat::Json => json(),
        LogFormat::Human => human(),
        LogFormat::Journald => journald()?,
        // systemd sets JOURNAL_STREAM where stderr is the journal. Without a journal socket the
        // lines still arrive there through stderr.
        LogFormat::Auto if std::env::var_os("JOURNAL_STREAM").is_some() => {
            journald().unwrap_or_else(|_| human())
        }
        LogFormat::Auto => human(),
    };
    let filter = EnvFilter::try_new(&log.level)?;
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    Ok(())
}

fn human() -> BoxedLayer {
    let colours = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .boxed()
}

fn json() -> BoxedLayer {
    tracing_subscriber::fmt::layer()
        .json()
        .with_writer(std::io::stderr)
        .boxed()
}

fn journald() -> anyhow::Result<BoxedLayer> {
    Ok(tracing_journald::layer()?
        .with_syslog_identifier("kmerged".to_owned())
        .boxed())
}
