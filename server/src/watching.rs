//! Streams that follow something: a job, the slots, the runtimes, the bytes of an export.
//!
//! Each is one tracked task that writes to a short channel: a reader that is slow is sent the
//! newest state when it is ready again, never everything it missed, and never anything older. All
//! end when kmerged stops, with a status that says so.

use std::sync::Arc;
use std::time::Duration;

use kmerge_merge::Format;
use kmerge_storage::{
    BaseModelName, ExportedFile, Generation, GenerationRecord, JobId, JobState, ReadError,
    Revision, TaskName,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::task::TaskTracker;

use crate::error::ServerError;
use crate::runtimes::board::{Board, RuntimeState, States};
use crate::serving::{ExportOf, JobView, Serving, SlotEvent};
use crate::shutdown::Stop;

/// What waits for a reader. With HTTP/2's own window that is enough to keep it busy.
const AHEAD: usize = 2;

/// The bytes of an export read at once. Some five of these pieces wait in one place or another for a
/// reader that is slow, and hundreds may be.
const FETCH_BYTES: u64 = 64 * 1024;

type Events<T> = Receiver<Result<T, ServerError>>;

/// Follows things.
#[derive(Debug, Clone)]
pub struct Watching {
    /// What is there.
    pub serving: Serving,
    /// Ends the streams.
    pub stop: Stop,
    /// Keeps a stop waiting until the streams have ended.
    pub tracker: TaskTracker,
    /// How long a reader of bytes may take nothing.
    pub idle: Duration,
}

/// A part of an export.
#[derive(Debug)]
pub enum ExportPart {
    /// First: what comes.
    Files {
        /// The generation that they are of.
        record: GenerationRecord,
        /// The task that was asked for, if it was one.
        task: Option<TaskName>,
        /// Their format.
        format: Format,
        /// In the order of their bytes.
        files: Vec<ExportedFile>,
    },
    /// Then: the bytes, file by file.
    Bytes {
        /// Index into the files.
        file: usize,
        /// The next bytes.
        data: bytes::Bytes,
    },
}

impl Watching {
    /// Runs `follow` as a tracked task, ended by a stop or by a reader that has gone.
    fn start<T, F>(&self, follow: impl FnOnce(Sender<Result<T, ServerError>>) -> F) -> Events<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), ServerError>> + Send + 'static,
    {
        let (sender, receiver) = channel(AHEAD);
        let following = follow(sender.clone());
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            let ended = tokio::select! {
                ended = following => ended,
                () = stop.requested() => Err(ServerError::Stopping),
                () = sender.closed() => Ok(()),
            };
            if let Err(error) = ended {
                // A full channel belongs to a reader that does not read; it sees the end instead.
                let _ = sender.try_send(Err(error));
            }
        });
        receiver
    }

    /// A job now and at each change, until it has ended.
    ///
    /// # Errors
    /// [`ServerError::UnknownJob`].
    pub fn job(&self, id: JobId) -> Result<Events<JobView>, ServerError> {
        self.serving.job(id)?;
        let serving = self.serving.clone();
        let mut changes = serving.changes();
        let mut steps = serving.progress().subscribe();
        Ok(self.start(move |sender| async move {
            let mut last = None;
            loop {
                changes.mark_unchanged();
                steps.mark_unchanged();
                let job = serving.job(id)?;
                let seen = (job.record.state, job.record.attempts, job.progress);
                let ended = match job.record.state {
                    JobState::Queued | JobState::Running => false,
                    JobState::Done | JobState::Failed | JobState::Cancelled => true,
                };
                if last != Some(seen) && sender.send(Ok(job)).await.is_err() || ended {
                    return Ok(());
                }
                last = Some(seen);
                tokio::select! {
                    changed = changes.changed() => changed.map_err(|_| ServerError::Stopping)?,
                    changed = steps.changed() => changed.map_err(|_| ServerError::Stopping)?,
                }
            }
        }))
    }

    /// Every slot that changed after `after`, then each change, with the revision to resume from.
    ///
    /// # Errors
    /// An unknown base model, or a revision that this catalog has not reached.
    pub fn slots(
        &self,
        base_model: Option<BaseModelName>,
        after: Revision,
    ) -> Result<Events<(SlotEvent, Revision)>, ServerError> {
        if let Some(name) = &base_model {
            self.serving.base_model(name)?;
        }
        let newest = self.serving.catalog().revision;
        if after > newest {
            return Err(ServerError::RevisionAhead {
                asked: after,
                newest,
            });
        }
        let serving = self.serving.clone();
        let mut changes = serving.changes();
        Ok(self.start(move |sender| async move {
            let mut seen = after;
            loop {
                let catalog = Arc::clone(&changes.borrow_and_update());
                let events = serving.slots_after(&catalog, base_model.as_ref(), seen)?;
                for event in resumable(events) {
                    if sender.send(Ok(event)).await.is_err() {
                        return Ok(());
                    }
                }
                seen = catalog.revision;
                changes.changed().await.map_err(|_| ServerError::Stopping)?;
            }
        }))
    }

    /// Every runtime as it stands, or the one of that name, then each change.
    ///
    /// # Errors
    /// A name that is not configured.
    pub fn runtimes(
        &self,
        board: &Board,
        name: Option<String>,
    ) -> Result<Events<Arc<RuntimeState>>, ServerError> {
        let mut changes = board.changes();
        if let Some(name) = &name
            && !changes.borrow().contains_key(name)
        {
            return Err(ServerError::unknown_runtime(name));
        }
        Ok(self.start(move |sender| async move {
            let mut seen = States::new();
            loop {
                let states = changes.borrow_and_update().clone();
                for (runtime, state) in &states {
                    let is_new = seen
                        .get(runtime)
                        .is_none_or(|seen| !Arc::ptr_eq(seen, state));
                    let is_wanted = name.as_ref().is_none_or(|name| name == runtime);
                    if is_new && is_wanted && sender.send(Ok(Arc::clone(state))).await.is_err() {
                        return Ok(());
                    }
                }
                seen = states;
                changes.changed().await.map_err(|_| ServerError::Stopping)?;
            }
        }))
    }

    /// The files of a generation of a slot or of one task in it, in one format; `None` is the newest.
    pub fn export(
        &self,
        base_model: BaseModelName,
        of: ExportOf,
        generation: Option<Generation>,
        format: Format,
    ) -> Events<ExportPart> {
        let (serving, checking) = (self.serving.clone(), self.serving.clone());
        let idle = self.idle;
        self.start(move |sender| async move {
            let task = match &of {
                ExportOf::Task(task) => Some(task.clone()),
                ExportOf::Slot(_) => None,
            };
            let opened = on_blocking_thread(move || {
                serving.open_export(&base_model, &of, generation, format)
            });
            let (record, files) = opened.await?;
            let contents: Vec<_> = files
                .iter()
                .map(|file| (file.file.clone(), file.size_bytes, file.digest))
                .collect();
            let of = record.clone();
            let first = ExportPart::Files {
                record,
                task,
                format,
                files,
            };
            send(&sender, first, idle).await?;
            for (file, (content, size, digest)) in contents.into_iter().enumerate() {
                let mut offset = 0;
                let mut hasher = Sha256::new();
                while offset < size {
                    let length = FETCH_BYTES.min(size - offset);
                    let content = content.clone();
                    let (data, hashed) = on_blocking_thread(move || {
                        let data = read(&content, offset, length)?;
                        hasher.update(&data);
                        Ok((data, hasher))
                    })
                    .await?;
                    hasher = hashed;
                    offset += length;
                    // What is not what was announced is never given out whole.
                    if offset == size
                        && <[u8; 32]>::from(hasher.clone().finalize()) != *digest.as_bytes()
                    {
                        on_blocking_thread(move || checking.distrust(&of)).await?;
                        return Err(ReadError::TensorAltered { digest }.into());
                    }
                    send(&sender, ExportPart::Bytes { file, data }, idle).await?;
                }
            }
            Ok(())
        })
    }
}

/// Events with the revision to resume from: while others of the same revision are to come, the one
/// before, so that a reader who is cut off between them misses none.
fn resumable(events: Vec<SlotEvent>) -> Vec<(SlotEvent, Revision)> {
    let next = events.iter().skip(1).map(|event| Some(event.revision()));
    let next: Vec<Option<Revision>> = next.chain([None]).collect();
    let pairs = events.into_iter().zip(next).map(|(event, next)| {
        let own = event.revision();
        let resume = if next == Some(own) {
            Revision(own.0.saturating_sub(1))
        } else {
            own
        };
        (event, resume)
    });
    pairs.collect()
}

fn read(
    file: &kmerge_storage::TensorFile,
    offset: u64,
    length: u64,
) -> Result<bytes::Bytes, ServerError> {
    let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut buffer, offset)
        .map_err(ServerError::FileUnreadable)?;
    Ok(buffer.into())
}

async fn send(
    sender: &Sender<Result<ExportPart, ServerError>>,
    part: ExportPart,
    idle: Duration,
) -> Result<(), ServerError> {
    match tokio::time::timeout(idle, sender.send(Ok(part))).await {
        Ok(Ok(())) => Ok(()),
        // The reader has gone, or as good as.
        Ok(Err(_)) | Err(_) => Err(ServerError::ReaderStalled {
            seconds: idle.as_secs(),
        }),
    }
}

/// Runs what blocks where it may.
pub async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<T, ServerError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ServerError::Panicked)?
}
