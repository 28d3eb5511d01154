//! Step 3 of recovery: the catalog and the files in `base-models/` agree.

use std::sync::Arc;

use super::{Recovery, set_aside};
use crate::base_model_file::BaseModelFile;
use crate::catalog::BaseModelState;
use crate::error::OpenError;
use crate::ids::Revision;

impl Recovery<'_> {
    /// Registers base models that are on file only, and takes newer settings from there.
    pub(super) fn recover_base_models(&mut self) -> Result<(), OpenError> {
        let layout = &self.shared.layout;
        if self.rebuilding {
            // Without its base model a slot could only be swept. That is not for us to decide.
            if let Some(path) = self.survey.damaged_base_models.first() {
                return Err(OpenError::BaseModelLost { path: path.clone() });
            }
            let owners = self
                .survey
                .manifests
                .keys()
                .map(|(base_model, _)| base_model);
            if let Some(lost) = owners
                .clone()
                .find(|base_model| !self.survey.base_models.contains_key(*base_model))
            {
                return Err(OpenError::BaseModelLost {
                    path: layout.base_model(lost),
                });
            }
        }
        for (name, file) in &self.survey.base_models {
            let BaseModelFile {
                record,
                settings_change,
            } = file;
            let Some(known) = self.before.base_model(name) else {
                let record = Arc::new(record.clone());
                self.transaction.put_base_model(&record, *settings_change)?;
                self.unrecorded += 1;
                continue;
            };
            let Some(change) = settings_change else {
                continue;
            };
            let is_it = change.registered_as == known.registered_as();
            if is_it && is_later(change.revision, known) {
                let settings = record.settings.clone();
                self.transaction
                    .set_settings(name, settings, change.revision)?;
                self.note(format!(
                    "took the settings of {name} from its file, which is newer than the catalog"
                ));
                // Perhaps a part of a commit, which counts once.
                self.settings_taken.insert(change.revision);
                self.unrecorded += 1;
            }
        }
        Ok(())
    }

    /// Writes the files again that are not what the catalog says. After the generations, which may
    /// bring settings.
    pub(super) fn write_base_models(&mut self) -> Result<(), OpenError> {
        for state in self.transaction.catalog().base_models.values() {
            let file = BaseModelFile::of(state);
            let name = &state.record.name;
            if self.survey.base_models.get(name) == Some(&file) {
                continue;
            }
            let path = self.shared.layout.base_model(name);
            if self.survey.damaged_base_models.contains(&path) {
                set_aside(self.shared, &path, self.now)?;
            }
            file.write(self.shared)?;
            self.report.notes.push(format!(
                "wrote {} again, which was missing, damaged or older than its slots",
                self.shared.layout.base_model(name).display()
            ));
        }
        Ok(())
    }
}

/// Whether settings of that revision are later than those that the base model has.
pub(super) fn is_later(revision: Revision, known: &BaseModelState) -> bool {
    known
        .settings_change
        .is_none_or(|change| change.revision < revision)
}
