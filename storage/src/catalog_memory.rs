//! A database in memory, for tests: the model that sled is held against, and one that fails on
//! request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog_store::{Batch, CatalogStore, Visit};
use crate::error::CatalogError;

/// What stays when a store is closed, and can be opened again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    pairs: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    /// What fails from now on, if anything.
    failing: Arc<Mutex<Option<&'static str>>>,
}

impl Memory {
    /// Opens a store on this memory.
    pub(crate) fn open(&self) -> Box<dyn CatalogStore> {
        Box::new(self.clone())
    }

    /// Lets `operation` fail from now on.
    pub(crate) fn fail(&self, operation: &'static str) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(operation);
    }

    fn check(&self, operation: &'static str) -> Result<(), CatalogError> {
        let failing = *self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failing == Some(operation) {
            let source = "the test asked for it".into();
            return Err(CatalogError::Engine {
                during: operation,
                source,
            });
        }
        Ok(())
    }
}

impl CatalogStore for Memory {
    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), CatalogError> {
        self.check("scan")?;
        for (key, value) in &*self.pairs.lock().unwrap_or_else(PoisonError::into_inner) {
            visit(key, value);
        }
        Ok(())
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), CatalogError> {
        self.check("apply")?;
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in batch.changes() {
            match value {
                Some(value) => drop(pairs.insert(key.into(), value.to_owned())),
                None => drop(pairs.remove(key.as_bytes())),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), CatalogError> {
        self.check("flush")
    }

    fn sync(&mut self) -> Result<(), CatalogError> {
        self.check("sync")
    }

    fn close(self: Box<Self>) -> Result<(), CatalogError> {
        self.check("close")
    }
}
