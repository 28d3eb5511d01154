//! The file of a base model: all that was registered, and that it has other settings since.
//!
//! Written by the committer and by recovery, read by recovery. What holds: a file is whole, and its
//! settings are never older than those of a commit that was acknowledged.

use serde::{Deserialize, Serialize};

use crate::catalog::BaseModelState;
use crate::error::FileError;
use crate::records::{BaseModelRecord, SettingsChange};
use crate::sealed::{self, Document};
use crate::shared::Shared;

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BaseModelFile {
    #[serde(flatten)]
    pub(crate) record: BaseModelRecord,
    /// There if the settings are no longer those of the registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) settings_change: Option<SettingsChange>,
}

impl Document for BaseModelFile {
    const KIND: &'static str = "base-model";
}

impl BaseModelFile {
    /// The file of a base model.
    pub(crate) fn of(state: &BaseModelState) -> Self {
        Self {
            record: BaseModelRecord::clone(&state.record),
            settings_change: state.settings_change,
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
