//! Jobs, slots and runtimes as they change, over lost connections.
//!
//! A watch is pulled: its `next` gives one change each. When the
//! connection is lost or the daemon stops, a watch opens its stream again under its
//! [`Policy`]; only when that is spent does the caller hear of it. A job's watch starts from the
//! job as it is; a slots' watch goes on after the last revision that was given, so nothing is
//! missed and nothing comes twice; a watch of runtimes begins again with all of them as they are.
//!
//! Dropping a call to `next` loses nothing.

use kmerge_proto::v1;
use tonic::{Request, Streaming};

use crate::client::{Client, present};
use crate::error::{Error, Unreachable};
use crate::retry::{Policy, Retry, chance};

/// The largest message of a watch, in bytes: one slot or one job with all its members.
const CHANGE_BYTES: usize = 16 * 1024 * 1024;

/// One job as it changes, until it has ended.
#[derive(Debug)]
pub struct JobWatch {
    client: Client,
    id: u64,
    stream: Option<Streaming<v1::WatchJobResponse>>,
    retry: Retry,
    ended: bool,
}

/// A change of a slot.
#[derive(Debug, Clone, PartialEq)]
pub enum SlotEvent {
    /// It has a new generation.
    Changed(Box<v1::Slot>),
    /// It holds nothing any more.
    Emptied(v1::EmptiedSlot),
}

impl SlotEvent {
    /// The slot at its new generation, unless it was emptied.
    #[must_use]
    pub fn into_slot(self) -> Option<v1::Slot> {
        match self {
            Self::Changed(slot) => Some(*slot),
            Self::Emptied(_) => None,
        }
    }
}

/// Slots as they change, for ever.
#[derive(Debug)]
pub struct SlotWatch {
    client: Client,
    base_model: String,
    revision: u64,
    stream: Option<Streaming<v1::WatchSlotsResponse>>,
    retry: Retry,
}

/// Runtimes as they change, for ever.
#[derive(Debug)]
pub struct RuntimeWatch {
    client: Client,
    name: String,
    stream: Option<Streaming<v1::WatchRuntimesResponse>>,
    retry: Retry,
}

impl Client {
    /// Watches the runtime of that name, or all. First comes each as it is, then each change.
    /// Nothing is sent before the first [`RuntimeWatch::next`].
    #[must_use]
    pub fn watch_runtimes(&self, name: Option<&str>) -> RuntimeWatch {
        RuntimeWatch {
            client: self.clone(),
            name: name.unwrap_or_default().to_owned(),
            stream: None,
            retry: Retry::new(Policy::WATCH),
        }
    }

    /// Watches a job. Nothing is sent before the first [`JobWatch::next`].
    #[must_use]
    pub fn watch_job(&self, id: u64) -> JobWatch {
        let retry = Retry::new(Policy::WATCH);
        JobWatch {
            client: self.clone(),
            id,
            stream: None,
            retry,
            ended: false,
        }
    }

    /// Watches the slots of one base model, or of all. First come the slots that changed after
    /// `after_revision` (0: every slot), then each change as it is committed. Nothing is sent
    /// before the first [`SlotWatch::next`].
    #[must_use]
    pub fn watch_slots(&self, base_model: Option<&str>, after_revision: u64) -> SlotWatch {
        SlotWatch {
            client: self.clone(),
            base_model: base_model.unwrap_or_default().to_owned(),
            revision: after_revision,
            stream: None,
            retry: Retry::new(Policy::WATCH),
        }
    }
}

impl JobWatch {
    /// The same watch under another policy.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.retry = Retry::new(policy);
        self
    }

    /// The job now or at its next change; `None` once it has ended and that was given.
    ///
    /// # Errors
    /// Not found if there is no such job; [`Error::Unreachable`] once the policy is spent.
    pub async fn next(&mut self) -> Result<Option<v1::Job>, Error> {
        while !self.ended {
            match self.step().await {
                Ok(job) => {
                    self.retry.succeeded();
                    self.ended = has_ended(&job);
                    return Ok(Some(job));
                }
                Err(error) => {
                    self.stream = None;
                    pause(&mut self.retry, error).await?;
                }
            }
        }
        Ok(None)
    }

    /// The job once it has ended.
    ///
    /// # Errors
    /// See [`Self::next`].
    pub async fn ended(mut self) -> Result<v1::Job, Error> {
        let mut last = None;
        while let Some(job) = self.next().await? {
            last = Some(job);
        }
        present(last, "job")
    }

    async fn step(&mut self) -> Result<v1::Job, Error> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let request = Request::new(v1::WatchJobRequest { id: self.id });
                let answer = self.client.jobs().watch_job(request).await;
                none.insert(self.client.read(answer)?)
            }
        };
        match stream.message().await {
            Ok(Some(change)) => present(change.job, "job"),
            Ok(None) => Err(cut(&self.client)),
            Err(status) => Err(self.client.error(&status)),
        }
    }
}

impl SlotWatch {
    /// The same watch under another policy.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.retry = Retry::new(policy);
        self
    }

    /// A later watch can go on from here: at most the last change's revision, and the one before as
    /// long as other changes of that revision are to come.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The next change. It never comes from before the last one; changes that were made together may
    /// come again after a lost connection.
    ///
    /// # Errors
    /// Refused if there is no such base model; [`Error::Unreachable`] once the policy is spent.
    pub async fn next(&mut self) -> Result<SlotEvent, Error> {
        loop {
            match self.step().await {
                Ok((_, revision)) if revision < self.revision => {}
                Ok((event, revision)) => {
                    self.retry.succeeded();
                    self.revision = revision;
                    return Ok(event);
                }
                Err(error) => {
                    self.stream = None;
                    pause(&mut self.retry, error).await?;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<(SlotEvent, u64), Error> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let request = Request::new(v1::WatchSlotsRequest {
                    base_model: self.base_model.clone(),
                    after_revision: self.revision,
                });
                let answer = self.client.slots(CHANGE_BYTES).watch_slots(request).await;
                none.insert(self.client.read(answer)?)
            }
        };
        match stream.message().await {
            Ok(Some(v1::WatchSlotsResponse {
                emptied: Some(emptied),
                revision,
                ..
            })) => Ok((SlotEvent::Emptied(emptied), revision)),
            Ok(Some(change)) => {
                let slot = present(change.slot, "slot")?;
                Ok((SlotEvent::Changed(Box::new(slot)), change.revision))
            }
            Ok(None) => Err(cut(&self.client)),
            Err(status) => Err(self.client.error(&status)),
        }
    }
}

impl RuntimeWatch {
    /// The same watch under another policy.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.retry = Retry::new(policy);
        self
    }

    /// The next state of a runtime.
    ///
    /// # Errors
    /// Not found if there is no such runtime; [`Error::Unreachable`] once the policy is spent.
    pub async fn next(&mut self) -> Result<v1::Runtime, Error> {
        loop {
            match self.step().await {
                Ok(runtime) => {
                    self.retry.succeeded();
                    return Ok(runtime);
                }
                Err(error) => {
                    self.stream = None;
                    pause(&mut self.retry, error).await?;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<v1::Runtime, Error> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let request = Request::new(v1::WatchRuntimesRequest {
                    name: self.name.clone(),
                });
                let answer = self.client.runtimes().watch_runtimes(request).await;
                none.insert(self.client.read(answer)?)
            }
        };
        match stream.message().await {
            Ok(Some(change)) => present(change.runtime, "runtime"),
            Ok(None) => Err(cut(&self.client)),
            Err(status) => Err(self.client.error(&status)),
        }
    }
}

/// Whether nothing more will happen to a job. A state that this version does not know is taken as
/// one that goes on.
#[must_use]
pub fn has_ended(job: &v1::Job) -> bool {
    match job.state() {
        v1::JobState::Done | v1::JobState::Failed | v1::JobState::Cancelled => true,
        v1::JobState::Unspecified | v1::JobState::Queued | v1::JobState::Running => false,
    }
}

/// Waits before the next attempt, or gives the error back if there is to be none.
async fn pause(retry: &mut Retry, error: Error) -> Result<(), Error> {
    if !error.is_transient() {
        return Err(error);
    }
    match retry.failed(error.retry_after(), chance()) {
        Some(wait) => {
            tokio::time::sleep(wait).await;
            Ok(())
        }
        None => Err(error),
    }
}

/// A stream that ends although its subject has not.
fn cut(client: &Client) -> Error {
    Error::Unreachable {
        address: Box::new(client.address().clone()),
        why: Unreachable::Lost("the stream ended early".into()),
    }
}
