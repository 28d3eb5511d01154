//! The file of a base model: all that was registered, and since when it has its settings.
//!
//! Written by the committer and by recovery, read by recovery. What holds: a file is whole, and its
//! settings are never older than those of a commit that was acknowledged.

use serde::{Deserialize, Serialize};

use crate::catalog::BaseModelState;
use crate::error::FileError;
use crate::ids::Revision;
use crate::records::BaseModelRecord;
use crate::sealed::{self, Document};
use crate::shared::Shared;

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BaseModelFile {
    #[serde(flatten)]
    pub(crate) record: BaseModelRecord,
    /// The revision that changed the settings last.
    #[serde(default)]
    pub(crate) settings_revision: Revision,
}

impl Document for BaseModelFile {
    const KIND: &'static str = "base-model";
}

impl BaseModelFile {
    /// The file of a base model.
    pub(crate) fn of(state: &BaseModelState) -> Self {
        Self {
            record: BaseModelRecord::clone(&state.record),
            settings_revision: state.settings_revision,
        }
    }

    /// Puts the file in its place. Durable on return.
    pub(crate) fn write(&self, shared: &Shared) -> Result<(), FileError> {
        let layout = &shared.layout;
        let path = layout.base_model(&self.record.name);
        let temporary = layout.temporary("base-model");
        shared
            .disk
            .put_durably(&temporary, &path, &sealed::seal(self))
    }
}
