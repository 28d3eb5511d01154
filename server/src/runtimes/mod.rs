//! Local inference runtimes, told of new generations: each configured runtime is given the adapters
//! that it should have, and relieved of old ones, in an order in which no request ever meets a stale
//! or a missing one.
//!
//! | file | has |
//! |---|---|
//! | `desired`, `policy` | what a runtime should have, and in which order it gets there: plain code |
//! | `reconcile` | the task that does it, one per runtime |
//! | `board` | what is known of each, for whoever asks |
//! | `source` | where an adapter's files come from, and how they are held |
//! | `runtime` | what a kind can be asked to do; the kinds are the other files |
//!
//! A runtime is never waited for: nothing else in the daemon calls into this folder. What it reads is
//! the catalog's view, what it writes are the files that runtimes hold by path.

pub mod board;
pub mod command;
pub mod desired;
pub mod directory;
pub mod event;
pub mod exec;
pub mod http;
pub mod llama_server;
pub mod lorax;
pub mod mistralrs;
pub mod ollama;
pub mod policy;
pub mod reconcile;
pub mod runtime;
pub mod sglang;
pub mod source;
pub mod vllm;
pub mod webhook;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::config::{RuntimeConfig, RuntimeKind};
use crate::liveness::Liveness;
use crate::shutdown::Stop;
use board::{Board, RuntimeState};
use event::Teller;
use http::Http;
use reconcile::{Parts, Reconciler};
use runtime::Runtime;
use source::Source;

/// A directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the `directory` of the runtime {runtime:?} cannot be used; give it one that kmerged may write to"
)]
pub struct DirectoryError {
    /// Whose.
    pub runtime: String,
    /// Why not.
    pub source: kmerge_storage::ExportError,
}

/// The configured runtimes, ready to be kept.
#[derive(Debug)]
pub struct Runtimes {
    reconcilers: Vec<Reconciler>,
    board: Board,
}

impl Runtimes {
    /// Prepares a keeper for each of `configs`. Blocks on the disk.
    ///
    /// # Errors
    /// If a runtime's directory cannot be used.
    pub fn new(configs: Vec<RuntimeConfig>, source: &Source) -> Result<Self, DirectoryError> {
        let configs: Vec<_> = configs.into_iter().map(Arc::new).collect();
        let board = Board::default();
        let names: Vec<_> = configs.iter().map(|config| config.name.as_str()).collect();
        match source.reader.release_other_holders(&names) {
            Ok(gone) => {
                for runtime in gone {
                    tracing::info!(
                        runtime,
                        "it is no longer configured; its files are released"
                    );
                }
            }
            Err(error) => tracing::warn!(%error, "files of runtimes that are gone stay for now"),
        }
        let mut reconcilers = Vec::new();
        for config in configs {
            let unusable = |source| DirectoryError {
                runtime: config.name.clone(),
                source,
            };
            let holdings = source
                .reader
                .holdings(&config.name, config.directory.as_deref())
                .map_err(unusable)?;
            let mut held = holdings.names().map_err(|error| unusable(error.into()))?;
            held.retain(|name| desired::is_versioned(name));
            board.show(RuntimeState::starting(
                Arc::clone(&config),
                holdings.directory().to_owned(),
            ));
            reconcilers.push(Reconciler::new(Parts {
                runtime: build(&config),
                holdings: Arc::new(holdings),
                held,
                source: source.clone(),
                view: source.view.clone(),
                board: board.clone(),
                config,
            }));
        }
        Ok(Self { reconcilers, board })
    }

    /// What is known of each runtime.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Starts the keepers, as tasks of `tracker`, until `stop` is requested.
    pub fn start(self, tracker: &TaskTracker, stop: &Stop, liveness: &Liveness) {
        for reconciler in self.reconcilers {
            let stop = stop.clone();
            let pulse = liveness.part(&format!("runtime {}", reconciler.name()), Some(PATIENCE));
            tracker.spawn(async move {
                tokio::select! {
                    () = stop.requested() => {}
                    () = reconciler.keep(pulse) => {}
                }
            });
        }
    }
}

/// How long one step with a runtime may take. Each has a shorter deadline of its own, unless someone has
/// configured a longer one.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);

fn build(config: &RuntimeConfig) -> Box<dyn Runtime> {
    let teller = Teller {
        runtime: config.name.clone(),
        format: config.format,
    };
    // The configuration has made sure that there is an address where one is called.
    let http = |token| {
        let address = config.address.clone();
        let address = address.unwrap_or(http::Address::Unix("/".into()));
        Http::new(address, token, config.timeout, config.load_timeout)
    };
    match config.kind {
        RuntimeKind::Directory => Box::new(directory::Directory),
        RuntimeKind::Exec => Box::new(exec::Exec {
            command: config.command.clone(),
            time: config.load_timeout,
            teller,
        }),
        RuntimeKind::LlamaServer => Box::new(llama_server::LlamaServer::new(
            http(config.secret.clone()),
            config.command.clone(),
            config.selection.most == 1,
            teller,
        )),
        RuntimeKind::Lorax => Box::new(lorax::Lorax::new(http(config.secret.clone()))),
        RuntimeKind::MistralRs => Box::new(mistralrs::MistralRs::new(http(config.secret.clone()))),
        RuntimeKind::Ollama => Box::new(ollama::Ollama::new(
            http(config.secret.clone()),
            config.model.clone(),
        )),
        RuntimeKind::Sglang => Box::new(sglang::Sglang::new(http(config.secret.clone()))),
        RuntimeKind::Vllm => Box::new(vllm::Vllm::new(http(config.secret.clone()))),
        RuntimeKind::Webhook => {
            let secret = config.secret.clone();
            let secret = secret.unwrap_or_else(|| http::Secret::new(Vec::new()));
            Box::new(webhook::Webhook::new(
                http(None),
                &secret,
                teller,
                config.timeout,
            ))
        }
    }
}
