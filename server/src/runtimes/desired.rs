//! What a runtime should have: which adapters under which names, and which name answers for which
//! task. Computed from the catalog alone: plain code, no locks, no clock, no I/O.
//!
//! An adapter's *name* is never used for anything else again, because it ends in the generation and
//! in the first digits of the slot's digest. An *alias* is what stays when generations change: one
//! for each task, or one for each slot, as the pattern says. Where a slot is one adapter for all its
//! members, their aliases lead to one name, so that it is loaded once.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use kmerge_storage::{
    BaseModelName, BaseModelState, Catalog, Digest, Generation, GenerationRecord, SlotIndex,
    SlotState, TaskName,
};

use crate::packs;
use crate::served;

/// The longest alias and the longest name without its version, in bytes. A name is a file name and
/// must fit what runtimes take.
const STEM_BYTES: usize = 180;

/// Bytes that are left of a stem that was too long, before the digest that keeps it apart.
const SHORTENED_BYTES: usize = 160;

/// Which adapters a runtime is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Of this base model.
    pub base_model: BaseModelName,
    /// Of these tasks only; empty: of all.
    pub tasks: Vec<TaskName>,
    /// Of these slots only; empty: of all.
    pub slots: Vec<SlotIndex>,
    /// How they are called.
    pub pattern: Pattern,
    /// At most so many; the newest tasks come first.
    pub most: usize,
}

impl Selection {
    /// The pattern of this base model's aliases. Selections with the same one share names.
    pub fn stems(&self) -> String {
        let base_model = self.base_model.as_str();
        self.pattern.text.replace("{base_model}", base_model)
    }
}

/// How aliases are formed: a text with `{task}` or `{slot}`, and `{base_model}` if wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    by_slot: bool,
}

/// Why a pattern cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Neither or both of the placeholders that tell adapters apart.
    #[error("must have either {{task}} or {{slot}} in it, once")]
    Placeholder,
    /// Another letter.
    #[error(
        "may have letters, digits, '.', '_', '-', {{base_model}} and one of {{task}} and {{slot}}, \
         and must not begin with a sign"
    )]
    Letter,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// If it does not tell adapters apart, or makes names that some runtime does not take.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let count = |placeholder: &str| text.matches(placeholder).count();
        let by_slot = match (count("{task}"), count("{slot}")) {
            (1, 0) => false,
            (0, 1) => true,
            _ => return Err(PatternError::Placeholder),
        };
        let plain = text
            .replace("{base_model}", "x")
            .replace("{task}", "x")
            .replace("{slot}", "0");
        let is_plain = plain
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !is_plain || !plain.starts_with(|letter: char| letter.is_ascii_alphanumeric()) {
            return Err(PatternError::Letter);
        }
        Ok(Self {
            text: text.to_owned(),
            by_slot,
        })
    }

    fn fill(&self, base_model: &BaseModelName, task: &str, slot: SlotIndex) -> String {
        // Names have no braces, so that nothing is filled in twice.
        let stem = self
            .text
            .replace("{base_model}", base_model.as_str())
            .replace("{task}", task)
            .replace("{slot}", &slot.to_string());
        if stem.len() <= STEM_BYTES {
            return stem;
        }
        let digest = Digest::of(stem.as_bytes()).to_string();
        format!("{}-{}", &stem[..SHORTENED_BYTES], &digest[..12])
    }
}

/// One adapter that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Of this base model.
    pub base_model: BaseModelName,
    /// From this slot.
    pub slot: SlotIndex,
    /// At this generation.
    pub generation: Generation,
    /// The SHA-256 of the slot's file.
    pub digest: Digest,
    /// The slot's own, or one member's.
    pub of: served::Wanted,
    /// The tasks that it answers for, in order.
    pub tasks: Vec<TaskName>,
}

/// What a runtime should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The adapters by name.
    pub adapters: BTreeMap<String, Wanted>,
    /// The name that each alias should lead to.
    pub routes: BTreeMap<String, String>,
    /// Tasks, or slots, that were selected and are beyond the limit.
    pub left_out: usize,
}

impl Desired {
    /// What `selection` asks for in `catalog`.
    pub fn of(catalog: &Catalog, selection: &Selection) -> Self {
        let mut desired = Self::default();
        if let Some(base_model) = catalog.base_model(&selection.base_model) {
            if selection.pattern.by_slot {
                desired.add_slots(base_model, selection);
            } else {
                desired.add_tasks(base_model, selection);
            }
        }
        // An alias that looks like a name would make the one hide the other.
        let adapters = &desired.adapters;
        desired
            .routes
            .retain(|alias, _| !adapters.contains_key(alias));
        desired
    }

    fn add_slots(&mut self, base_model: &BaseModelState, selection: &Selection) {
        let mut slots: Vec<_> = base_model
            .slots
            .iter()
            .filter(|(index, slot)| {
                wanted(&selection.slots, index)
                    && (selection.tasks.is_empty()
                        || tasks_of(slot).any(|task| selection.tasks.contains(task)))
            })
            .map(|(_, slot)| slot)
            .collect();
        slots.sort_by_key(|slot| (Reverse(slot.current().revision), slot.current().slot));
        self.left_out = slots.len().saturating_sub(selection.most);
        for slot in slots.into_iter().take(selection.most) {
            let current = slot.current();
            let alias = selection
                .pattern
                .fill(&current.base_model, "", current.slot);
            let name = versioned(&alias, current);
            let mut tasks: Vec<_> = tasks_of(slot).cloned().collect();
            tasks.sort();
            self.adapters
                .insert(name.clone(), adapter(current, served::Wanted::Slot, tasks));
            self.routes.insert(alias, name);
        }
    }

    fn add_tasks(&mut self, base_model: &BaseModelState, selection: &Selection) {
        let mut tasks: Vec<_> = base_model
            .tasks
            .values()
            .filter(|task| {
                wanted(&selection.tasks, &task.task) && wanted(&selection.slots, &task.slot)
            })
            .collect();
        tasks.sort_by_key(|task| (Reverse(task.job), task.task.clone()));
        // There are more tasks than slots, and what a slot is takes some reading.
        let packed: BTreeMap<SlotIndex, bool> = base_model
            .slots
            .iter()
            .map(|(index, slot)| (*index, packs::is_packed(slot.current()).unwrap_or(false)))
            .collect();
        for task in tasks {
            let Some(slot) = base_model.slots.get(&task.slot) else {
                continue;
            };
            let current = slot.current();
            let pattern = &selection.pattern;
            let alias = pattern.fill(&current.base_model, task.task.as_str(), current.slot);
            let (name, of) = if packed.get(&task.slot) == Some(&true) {
                let of = served::Wanted::Task(task.task.clone());
                (versioned(&alias, current), of)
            } else {
                let shared = format!("slot-{}", current.slot);
                let stem = pattern.fill(&current.base_model, &shared, current.slot);
                (versioned(&stem, current), served::Wanted::Slot)
            };
            if !self.adapters.contains_key(&name) && self.adapters.len() == selection.most {
                self.left_out += 1;
                continue;
            }
            let entry = self.adapters.entry(name.clone());
            let entry = entry.or_insert_with(|| adapter(current, of, Vec::new()));
            entry.tasks.push(task.task.clone());
            entry.tasks.sort();
            self.routes.insert(alias, name);
        }
    }
}

fn wanted<T: PartialEq>(chosen: &[T], one: &T) -> bool {
    chosen.is_empty() || chosen.contains(one)
}

fn tasks_of(slot: &SlotState) -> impl Iterator<Item = &TaskName> {
    slot.members.iter().map(|member| &member.task)
}

fn adapter(current: &GenerationRecord, of: served::Wanted, tasks: Vec<TaskName>) -> Wanted {
    Wanted {
        base_model: current.base_model.clone(),
        slot: current.slot,
        generation: current.generation,
        digest: current.digest,
        of,
        tasks,
    }
}

/// A name that no other content ever has. Plain letters only: every runtime takes them, and none
/// gives them a meaning of its own.
fn versioned(stem: &str, current: &GenerationRecord) -> String {
    let digest = current.digest.to_string();
    format!("{stem}.g{}.{}", current.generation, &digest[..8])
}

/// Whether a name is of the form that is given here. A directory may have others' things in it.
pub fn is_versioned(name: &str) -> bool {
    let parts = name.rsplit_once('.').and_then(|(rest, digits)| {
        let (stem, generation) = rest.rsplit_once(".g")?;
        Some((stem, generation, digits))
    });
    parts.is_some_and(|(stem, generation, digits)| {
        !stem.is_empty()
            && !generation.is_empty()
            && generation.bytes().all(|byte| byte.is_ascii_digit())
            && digits.len() == 8
            && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests;
