//! One generation of a slot into a directory, checked, whole or not at all.
//!
//! 1. The target is looked at before anything is asked of the daemon.
//! 2. The files are written into a temporary directory beside the target.
//! 3. Each file's size and SHA-256 are compared with the header, and the file is synced.
//! 4. The temporary directory takes the target's name by rename, and that is synced.
//!
//! A failure anywhere before the rename leaves the target as it was, and nothing beside it.

mod export;
mod target;

use std::path::PathBuf;

use kmerge_proto::{limits, v1};
use tokio::sync::mpsc;
use tonic::{Request, Streaming};

use crate::client::Client;
use crate::error::{Breach, Error};
use export::Export;
use target::Directory;
use v1::fetch_slot_response::Content;

/// Chunks that wait for the disk before the daemon is held up.
const WRITE_BEHIND: usize = 3;

/// What to fetch, and where to put it.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// The slot's base model.
    pub base_model: String,
    /// The slot. [`Client::fetch_task`] does not look at it.
    pub slot: u32,
    /// The generation; 0: the newest.
    pub generation: u64,
    /// The format in which it is wanted.
    pub format: v1::AdapterFormat,
    /// The directory that is to hold the export. Its parents are made as needed.
    pub into: PathBuf,
    /// Whether an earlier export in that directory may be replaced. Anything else that is found
    /// there is left alone, and is an error.
    pub replace: bool,
}

/// What was fetched.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The slot, its generation, and the files with their sizes and digests.
    pub header: v1::ExportHeader,
    /// The directory that holds them now.
    pub directory: PathBuf,
}

impl Client {
    /// Fetches one generation of a slot.
    ///
    /// # Errors
    /// Refused where the base model's form in that format is not known. Not found if the slot is free or the generation gone, [`Error::Target`] if the directory
    /// may not be used, [`Error::Protocol`] if what came is not what was announced.
    pub async fn fetch_slot(&self, fetch: &Fetch) -> Result<Fetched, Error> {
        self.fetch(fetch, String::new()).await
    }

    /// Fetches the adapter that serves a task: the task's own where its slot keeps members apart,
    /// else the slot's. `fetch.slot` is not looked at.
    ///
    /// # Errors
    /// As [`Client::fetch_slot`]; not found if the task has not been merged.
    pub async fn fetch_task(&self, fetch: &Fetch, task: &str) -> Result<Fetched, Error> {
        self.fetch(fetch, task.to_owned()).await
    }

    async fn fetch(&self, fetch: &Fetch, task: String) -> Result<Fetched, Error> {
        let (into, replace) = (fetch.into.clone(), fetch.replace);
        let target = blocking(move || Directory::new(&into, replace)).await?;
        let request = Request::new(v1::FetchSlotRequest {
            base_model: fetch.base_model.clone(),
            slot: fetch.slot,
            generation: fetch.generation,
            format: fetch.format.into(),
            task,
        });
        let answer = self
            .slots(limits::MAX_MESSAGE_BYTES)
            .fetch_slot(request)
            .await;
        let mut stream = self.read(answer)?;
        let header = match self.message(&mut stream).await? {
            Some(Content::Header(header)) => header,
            Some(Content::Chunk(_)) => return Err(sequence("the first message is no header")),
            None => return Err(Error::Protocol(Breach::Cut("before its header"))),
        };
        let (chunks, mut waiting) = mpsc::channel::<v1::ExportChunk>(WRITE_BEHIND);
        let announced = header.clone();
        let writer = blocking(move || {
            let mut export = Export::begin(target.temporary()?, announced)?;
            while let Some(chunk) = waiting.blocking_recv() {
                export.take(&chunk)?;
            }
            Ok((export, target))
        });
        let reader = async {
            while let Some(content) = self.message(&mut stream).await? {
                let Content::Chunk(chunk) = content else {
                    return Err(sequence("a second header"));
                };
                // The writer has given up; it says why.
                if chunks.send(chunk).await.is_err() {
                    break;
                }
            }
            drop(chunks);
            Ok(())
        };
        // Both run to their end: a broken stream must not outrun the writer's clean-up.
        let (read, written) = tokio::join!(reader, writer);
        let (export, target) = match (read, written) {
            (Ok(()), Ok(written)) => written,
            (_, Err(error)) | (Err(error), Ok(_)) => return Err(error),
        };
        let directory = blocking(move || target.publish(export)).await?;
        Ok(Fetched { header, directory })
    }

    async fn message(
        &self,
        stream: &mut Streaming<v1::FetchSlotResponse>,
    ) -> Result<Option<Content>, Error> {
        match stream.message().await {
            Ok(Some(message)) => crate::client::present(message.content, "content").map(Some),
            Ok(None) => Ok(None),
            Err(status) => Err(self.error(&status)),
        }
    }
}

fn sequence(what: &'static str) -> Error {
    Error::Protocol(Breach::Sequence(what))
}

/// Runs file work off the reactor.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("file work does not panic")
}
