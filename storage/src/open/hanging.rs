//! Databases that do not come back.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Opened, Options, open, open_with};
use crate::catalog_memory::Memory;
use crate::catalog_patient::PatientStore;
use crate::catalog_store::{Batch, CatalogStore, StoreOpener, Visit};
use crate::durable::{self, Disk};
use crate::error::{CatalogError, CommitError, OpenError};
use crate::ids::UnixMillis;
use crate::layout::Layout;
use crate::records::BaseModelRecord;

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

/// Short for whoever waits, long for a database in memory.
const PATIENCE: Duration = Duration::from_millis(500);

fn base_model(name: &str) -> BaseModelRecord {
    BaseModelRecord {
        name: name.parse().unwrap(),
        config: "{}".to_owned(),
        settings: "{}".to_owned(),
        served_as: "example".to_owned(),
        created: NOW,
    }
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

/// A database in memory that stops in one of its operations, once asked to.
#[derive(Debug)]
struct Hanging {
    store: Box<dyn CatalogStore>,
    stops_in: &'static str,
    stops: Arc<AtomicBool>,
}

impl Hanging {
    fn may_stop(&self, operation: &str) {
        if self.stops_in == operation && self.stops.load(Ordering::SeqCst) {
            forever();
        }
    }
}

impl CatalogStore for Hanging {
    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), CatalogError> {
        self.may_stop("scan");
        self.store.scan(visit)
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), CatalogError> {
        self.may_stop("make_room");
        self.store.make_room(bytes)
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), CatalogError> {
        self.may_stop("apply");
        self.store.apply(batch)
    }

    fn flush(&mut self) -> Result<(), CatalogError> {
        self.may_stop("flush");
        self.store.flush()
    }

    fn sync(&mut self) -> Result<(), CatalogError> {
        self.may_stop("sync");
        self.store.sync()
    }

    fn close(self: Box<Self>) -> Result<(), CatalogError> {
        self.may_stop("close");
        self.store.close()
    }
}

fn open_by(directory: &Path, opener: StoreOpener) -> Result<Opened, OpenError> {
    let opener = PatientStore::opener(opener, PATIENCE);
    let options = Options::default();
    open_with(directory, &options, NOW, Disk::default(), opener)
}

#[test]
fn a_catalog_that_hangs_is_moved_away_and_made_again_by_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut opened = open(path, &Options::default(), NOW).unwrap();
    let registered = opened.committer.register_base_model(base_model("tiny"));
    registered.unwrap();
    let before = opened.committer.catalog();
    opened.committer.close().unwrap();
    drop((opened.ingest, opened.reader));

    let error = open_by(path, StoreOpener::new(|_| forever())).unwrap_err();
    let OpenError::CatalogHung { quarantined, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(quarantined.join("db").is_file());
    assert!(error.to_string().contains("start again"), "{error}");
    assert_eq!(error.reason(), "CATALOG_ERROR");
    let layout = Layout::new(path.to_owned());
    assert!(!durable::exists(&layout.catalog()));

    let again = open(path, &Options::default(), NOW).unwrap();
    assert!(again.report.catalog_rebuilt);
    assert_eq!(again.committer.catalog().base_models, before.base_models);
}

#[test]
fn a_catalog_that_hangs_when_it_is_read_is_moved_away_too() {
    let directory = tempfile::tempdir().unwrap();
    let memory = Memory::default();
    let opener = StoreOpener::new(move |_| {
        Ok(Box::new(Hanging {
            store: memory.open(),
            stops_in: "scan",
            stops: Arc::new(AtomicBool::new(true)),
        }) as Box<dyn CatalogStore>)
    });
    let error = open_by(directory.path(), opener).unwrap_err();
    assert!(matches!(error, OpenError::CatalogHung { .. }), "{error:?}");
}

#[test]
fn an_operation_that_hangs_leaves_the_state_to_be_read_only() {
    for stops_in in ["make_room", "apply", "flush", "sync"] {
        let directory = tempfile::tempdir().unwrap();
        let (memory, stops) = (Memory::default(), Arc::new(AtomicBool::new(false)));
        let asked = Arc::clone(&stops);
        let opener = StoreOpener::new(move |_| {
            Ok(Box::new(Hanging {
                store: memory.open(),
                stops_in,
                stops: Arc::clone(&asked),
            }) as Box<dyn CatalogStore>)
        });
        let mut opened = open_by(directory.path(), opener).unwrap();
        let committer = &mut opened.committer;
        committer.register_base_model(base_model("one")).unwrap();
        stops.store(true, Ordering::SeqCst);
        let error = committer
            .register_base_model(base_model("two"))
            .unwrap_err();
        assert!(
            matches!(&error, CommitError::Catalog(CatalogError::Hung { .. })),
            "{stops_in}: {error:?}"
        );
        assert!(committer.is_read_only());
        let error = committer
            .register_base_model(base_model("three"))
            .unwrap_err();
        assert_eq!(error.reason(), "READ_ONLY");
        assert_eq!(committer.catalog().base_models.len(), 1);
    }
}
