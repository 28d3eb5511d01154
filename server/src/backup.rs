//! Backups: the state at one moment, given out piece by piece while everything else goes on.
//!
//! One at a time. The catalog's owner takes a snapshot between two commands; a thread that may block
//! then reads and checks the files. What holds: a reader that takes nothing, or has gone, lets go of
//! the snapshot within the idle time, and so does a stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kmerge_storage::{Backup, BackupContents, BackupError, Written};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::task::TaskTracker;

use crate::error::ServerError;
use crate::owner::Owner;
use crate::shutdown::Stop;

/// What waits for a reader.
const AHEAD: usize = 2;

/// The bytes of one message.
const CHUNK: usize = kmerge_proto::limits::CHUNK_BYTES;

/// A part of a backup.
#[derive(Debug)]
pub enum BackupPart {
    /// First: what it holds, and its length in bytes.
    Header(BackupContents, u64),
    /// Then: the bytes, in order.
    Bytes(Bytes),
    /// Last: all of it was given out.
    Trailer(Written),
}

type Parts = Sender<Result<BackupPart, ServerError>>;

/// Makes backups.
#[derive(Debug, Clone)]
pub struct Backups {
    owner: Owner,
    stop: Stop,
    tracker: TaskTracker,
    idle: Duration,
    turn: Arc<Semaphore>,
}

impl Backups {
    /// Makes backups for readers that take something at least every `idle`.
    pub fn new(owner: Owner, stop: Stop, tracker: TaskTracker, idle: Duration) -> Self {
        Self {
            owner,
            stop,
            tracker,
            idle,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Begins a backup of the state as it is now.
    ///
    /// # Errors
    /// [`ServerError::BackupRunning`], and what taking a snapshot may meet.
    pub async fn start(&self) -> Result<Receiver<Result<BackupPart, ServerError>>, ServerError> {
        let turn = Arc::clone(&self.turn)
            .try_acquire_owned()
            .map_err(|_| ServerError::BackupRunning)?;
        let snapshot = self.owner.snapshot().await?;
        let (sender, receiver) = channel(AHEAD);
        let (stop, idle, token) = (self.stop.clone(), self.idle, self.tracker.token());
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let _token = token;
            let reader = Reader {
                sender,
                stop,
                idle,
                runtime,
            };
            let ended = snapshot
                .prepare()
                .map_err(ServerError::from)
                .and_then(|backup| give(backup, &reader));
            let last = ended.map(BackupPart::Trailer);
            if let Err(error) = &last {
                tracing::warn!(error = error as &dyn std::error::Error, "no backup");
            }
            // Whoever has the trailer may ask for the next one.
            drop(turn);
            reader.last(last);
        });
        Ok(receiver)
    }
}

/// Gives a backup to a reader.
fn give(backup: Backup, reader: &Reader) -> Result<Written, ServerError> {
    let header = BackupPart::Header(backup.contents.clone(), backup.length);
    reader.send(header)?;
    let mut refused = None;
    let mut gathered = Vec::with_capacity(CHUNK);
    let written = backup.write(&mut |mut bytes| {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(CHUNK - gathered.len()));
            gathered.extend_from_slice(now);
            bytes = rest;
            if gathered.len() == CHUNK {
                let chunk = std::mem::replace(&mut gathered, Vec::with_capacity(CHUNK));
                if let Err(error) = reader.send(BackupPart::Bytes(chunk.into())) {
                    refused = Some(error);
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
        Ok(())
    });
    let written = match (written, refused) {
        (Err(BackupError::Sink(_)), Some(error)) => return Err(error),
        (written, _) => written?,
    };
    if !gathered.is_empty() {
        reader.send(BackupPart::Bytes(gathered.into()))?;
    }
    tracing::info!(bytes = written.length, sha256 = %written.digest, "made a backup");
    Ok(written)
}

/// The one who takes a backup.
struct Reader {
    sender: Parts,
    stop: Stop,
    idle: Duration,
    runtime: Handle,
}

impl Reader {
    fn send(&self, part: BackupPart) -> Result<(), ServerError> {
        let stalled = || ServerError::ReaderStalled {
            seconds: self.idle.as_secs(),
        };
        self.runtime.block_on(async {
            tokio::select! {
                sent = tokio::time::timeout(self.idle, self.sender.send(Ok(part))) => match sent {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) | Err(_) => Err(stalled()),
                },
                () = self.stop.requested() => Err(ServerError::Stopping),
            }
        })
    }

    /// The end, if the reader still wants it.
    fn last(&self, last: Result<BackupPart, ServerError>) {
        match last {
            Ok(part) => {
                if let Err(error) = self.send(part) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "no backup");
                }
            }
            // A full channel belongs to a reader that does not read; it sees the end instead.
            Err(error) => drop(self.sender.try_send(Err(error))),
        }
    }
}
