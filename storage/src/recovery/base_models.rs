//! Step 3 of recovery: the catalog and the files in `base-models/` agree.

use std::sync::Arc;

use super::Recovery;
use crate::error::OpenError;
use crate::sealed;

impl Recovery<'_> {
    /// Registers base models that are on file only, and writes again the files that are missing.
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
        for (name, record) in &self.survey.base_models {
            if self.before.base_model(name).is_none() {
                self.transaction.put_base_model(&Arc::new(record.clone()))?;
                self.unrecorded += 1;
            }
        }
        for (name, state) in &self.before.base_models {
            let on_file = self.survey.base_models.get(name);
            if on_file.is_some_and(|record| *record == *state.record) {
                continue;
            }
            let path = layout.base_model(name);
            let temporary = layout.temporary("base-model");
            self.shared
                .disk
                .put_durably(&temporary, &path, &sealed::seal(&*state.record))?;
            self.note(format!(
                "wrote {} again, which was missing or damaged",
                path.display()
            ));
        }
        Ok(())
    }
}
