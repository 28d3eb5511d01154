//! A database that is waited for only so long.
//!
//! Owned by the committer. The database below is opened and called on a thread of its own; whoever
//! asks waits for the answer, and after the deadline no longer. What holds: a call that was given
//! up is the last one, because nobody knows what it has done or will still do. The thread stays
//! with the database until the process ends, so a database that hung must not be opened again in
//! this process: sled names some of its files by their path, and the thread may come back.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::catalog_store::{Batch, CatalogStore, StoreOpener, Visit};
use crate::error::CatalogError;

/// How many pairs of a scan come at once.
const SCAN_PIECE: usize = 256;

/// A pair of a scan.
type Pair = (Vec<u8>, Vec<u8>);

/// What the thread is asked for.
#[derive(Debug)]
enum Call {
    Scan,
    MakeRoom(u64),
    Apply(Batch),
    Flush,
    Sync,
    Close,
}

/// What it answers.
#[derive(Debug)]
enum Answer {
    Pairs(Vec<Pair>),
    Done(Result<(), CatalogError>),
}

/// The side of whoever asks.
#[derive(Debug)]
pub(crate) struct PatientStore {
    /// There until no more is asked for.
    calls: Option<Sender<Call>>,
    answers: Receiver<Answer>,
    patience: Duration,
    /// What did not come back.
    hung: OnceCell<&'static str>,
}

impl PatientStore {
    /// An opener of databases that are waited for no longer than `patience`.
    pub(crate) fn opener(opener: StoreOpener, patience: Duration) -> StoreOpener {
        StoreOpener::new(move |path| {
            let store = Self::open(path, opener.clone(), patience)?;
            Ok(Box::new(store) as Box<dyn CatalogStore>)
        })
    }

    fn open(path: &Path, opener: StoreOpener, patience: Duration) -> Result<Self, CatalogError> {
        let (calls, received) = channel();
        let (answer, answers) = channel();
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("catalog".to_owned())
            .spawn(move || match opener.open(&path) {
                Ok(store) => {
                    // Whoever asked may have given up.
                    drop(answer.send(Answer::Done(Ok(()))));
                    serve(store, &received, &answer);
                }
                Err(error) => drop(answer.send(Answer::Done(Err(error)))),
            })
            .map_err(|source| CatalogError::Engine {
                during: "begin a thread",
                source: Box::new(source),
            })?;
        let store = Self {
            calls: Some(calls),
            answers,
            patience,
            hung: OnceCell::new(),
        };
        store.wait("open", &mut |_, _| {})?;
        Ok(store)
    }

    fn ask(
        &self,
        during: &'static str,
        call: Call,
        visit: &mut Visit<'_>,
    ) -> Result<(), CatalogError> {
        if let Some(during) = self.hung.get() {
            return Err(self.given_up(during));
        }
        // A thread that is gone does not answer either, and that is told below.
        if let Some(calls) = &self.calls {
            drop(calls.send(call));
        }
        self.wait(during, visit)
    }

    fn wait(&self, during: &'static str, visit: &mut Visit<'_>) -> Result<(), CatalogError> {
        loop {
            match self.answers.recv_timeout(self.patience) {
                Ok(Answer::Pairs(pairs)) => {
                    pairs.iter().for_each(|(key, value)| visit(key, value));
                }
                Ok(Answer::Done(result)) => return result,
                Err(RecvTimeoutError::Timeout) => {
                    let during = self.hung.get_or_init(|| during);
                    return Err(self.given_up(during));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let message = "its thread has ended".to_owned();
                    return Err(CatalogError::Panicked { during, message });
                }
            }
        }
    }

    fn given_up(&self, during: &'static str) -> CatalogError {
        CatalogError::Hung {
            during,
            patience: self.patience,
        }
    }
}

impl Drop for PatientStore {
    fn drop(&mut self) {
        self.calls = None;
        if self.hung.get().is_none() {
            // The database lets go of its files on its thread; the state's lock goes after that.
            drop(self.answers.recv_timeout(self.patience));
        }
    }
}

impl CatalogStore for PatientStore {
    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), CatalogError> {
        self.ask("read its records", Call::Scan, visit)
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), CatalogError> {
        self.ask("make room", Call::MakeRoom(bytes), &mut |_, _| {})
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), CatalogError> {
        self.ask("apply a change", Call::Apply(batch.clone()), &mut |_, _| {})
    }

    fn flush(&mut self) -> Result<(), CatalogError> {
        self.ask("flush a change", Call::Flush, &mut |_, _| {})
    }

    fn sync(&mut self) -> Result<(), CatalogError> {
        self.ask("flush its log to the disk", Call::Sync, &mut |_, _| {})
    }

    fn close(self: Box<Self>) -> Result<(), CatalogError> {
        self.ask("close", Call::Close, &mut |_, _| {})
    }
}

/// The thread's side: one call after the other, until nobody can ask any more.
fn serve(mut store: Box<dyn CatalogStore>, calls: &Receiver<Call>, answers: &Sender<Answer>) {
    while let Ok(call) = calls.recv() {
        let done = match call {
            Call::Scan => scan(&*store, answers),
            Call::MakeRoom(bytes) => store.make_room(bytes),
            Call::Apply(batch) => store.apply(&batch),
            Call::Flush => store.flush(),
            Call::Sync => store.sync(),
            Call::Close => {
                drop(answers.send(Answer::Done(store.close())));
                return;
            }
        };
        if answers.send(Answer::Done(done)).is_err() {
            return;
        }
    }
}

fn scan(store: &dyn CatalogStore, answers: &Sender<Answer>) -> Result<(), CatalogError> {
    let mut pairs = Vec::new();
    let send = |pairs: &mut Vec<Pair>| {
        // Nobody to hear it, nobody to mind.
        drop(answers.send(Answer::Pairs(std::mem::take(pairs))));
    };
    store.scan(&mut |key, value| {
        pairs.push((key.to_vec(), value.to_vec()));
        if pairs.len() == SCAN_PIECE {
            send(&mut pairs);
        }
    })?;
    send(&mut pairs);
    Ok(())
}
