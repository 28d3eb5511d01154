//! The records of the database: their keys, their payloads, and the way back.
//!
//! Used by transactions (to write) and by loading (to read). Keys are readable text with numbers
//! in fixed-width hexadecimal, so that the database's order is the numbers' order. What holds: a
//! record decodes only under the key that it was written for.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::envelope::{self, PAYLOAD_LIMIT};
use crate::error::RecordTooLarge;
use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex, UnixMillis};
use crate::manifest::MemberEntry;
use crate::records::{
    BaseModelRecord, EmptiedRecord, EventRecord, GenerationRecord, JobRecord, SettingsChange,
};
use crate::sealed::{SCHEMA, SealError};

/// The part of a base model that fits one record; its configuration follows in pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BaseModelHead {
    pub(crate) name: BaseModelName,
    pub(crate) settings: String,
    pub(crate) served_as: String,
    pub(crate) created: UnixMillis,
    pub(crate) fingerprint: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) settings_change: Option<SettingsChange>,
}

impl BaseModelHead {
    /// The head of a base model whose settings have changed, or have not.
    pub(crate) fn new(record: &BaseModelRecord, settings_change: Option<SettingsChange>) -> Self {
        Self {
            name: record.name.clone(),
            settings: record.settings.clone(),
            served_as: record.served_as.clone(),
            created: record.created,
            fingerprint: record.fingerprint(),
            settings_change,
        }
    }
}

/// The numbers that the catalog is at. The one record that a catalog which is not empty must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) revision: Revision,
    pub(crate) last_job: JobId,
}

/// A record of the database.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stored {
    Position(Position),
    BaseModel(BaseModelHead),
    /// A piece of a base model's configuration.
    BaseModelConfig(BaseModelName, u32, Vec<u8>),
    Generation(GenerationRecord),
    /// That a slot was emptied.
    Emptied(EmptiedRecord),
    /// A member of a slot, by its place.
    Member(BaseModelName, SlotIndex, u32, MemberEntry),
    /// A job without its result.
    Job(JobRecord),
    /// The result of a job, as it came: quoting it inside the job would double its length.
    JobResult(JobId, String),
    Event(EventRecord),
}

/// The keys, and nothing else.
pub(crate) mod key {
    use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex};

    pub(crate) const POSITION: &str = "position";

    pub(crate) fn base_model(name: &BaseModelName) -> String {
        format!("base-model/{name}")
    }

    pub(crate) fn base_model_config(name: &BaseModelName, piece: u32) -> String {
        format!("base-model-config/{name}/{piece:08x}")
    }

    pub(crate) fn generation(
        base_model: &BaseModelName,
        slot: SlotIndex,
        generation: Generation,
    ) -> String {
        format!(
            "generation/{base_model}/{:08x}/{:016x}",
            slot.0, generation.0
        )
    }

    pub(crate) fn emptied(base_model: &BaseModelName, slot: SlotIndex) -> String {
        format!("emptied/{base_model}/{:08x}", slot.0)
    }

    pub(crate) fn member(base_model: &BaseModelName, slot: SlotIndex, place: u32) -> String {
        format!("member/{base_model}/{:08x}/{place:08x}", slot.0)
    }

    pub(crate) fn job(id: JobId) -> String {
        format!("job/{:016x}", id.0)
    }

    pub(crate) fn job_result(id: JobId) -> String {
        format!("job-result/{:016x}", id.0)
    }

    pub(crate) fn event(revision: Revision) -> String {
        format!("event/{:016x}", revision.0)
    }
}

/// The kinds as the envelope numbers them. A number never gets another meaning.
mod kind {
    pub(super) const POSITION: u8 = 1;
    pub(super) const BASE_MODEL: u8 = 2;
    pub(super) const BASE_MODEL_CONFIG: u8 = 3;
    pub(super) const GENERATION: u8 = 4;
    pub(super) const MEMBER: u8 = 5;
    pub(super) const JOB: u8 = 6;
    pub(super) const JOB_RESULT: u8 = 7;
    pub(super) const EVENT: u8 = 8;
    pub(super) const EMPTIED: u8 = 9;

    /// The kind of the record under a key.
    pub(super) fn of_key(key: &str) -> Option<u8> {
        Some(match key.split('/').next()? {
            super::key::POSITION => POSITION,
            "base-model" => BASE_MODEL,
            "base-model-config" => BASE_MODEL_CONFIG,
            "generation" => GENERATION,
            "emptied" => EMPTIED,
            "member" => MEMBER,
            "job" => JOB,
            "job-result" => JOB_RESULT,
            "event" => EVENT,
            _ => return None,
        })
    }
}

/// The records of a base model's configuration.
pub(crate) fn config_pieces(record: &BaseModelRecord) -> impl Iterator<Item = Stored> + '_ {
    record
        .config
        .as_bytes()
        .chunks(PAYLOAD_LIMIT)
        .zip(0..)
        .map(|(piece, number)| Stored::BaseModelConfig(record.name.clone(), number, piece.to_vec()))
}

impl Stored {
    /// The key that the record stands under.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Position(_) => key::POSITION.to_owned(),
            Self::BaseModel(head) => key::base_model(&head.name),
            Self::BaseModelConfig(name, piece, _) => key::base_model_config(name, *piece),
            Self::Generation(record) => {
                key::generation(&record.base_model, record.slot, record.generation)
            }
            Self::Emptied(record) => key::emptied(&record.base_model, record.slot),
            Self::Member(base_model, slot, place, _) => key::member(base_model, *slot, *place),
            Self::Job(job) => key::job(job.id),
            Self::JobResult(id, _) => key::job_result(*id),
            Self::Event(event) => key::event(event.revision),
        }
    }

    fn describe(&self) -> (u8, &'static str) {
        match self {
            Self::Position(_) => (kind::POSITION, "the catalog's position"),
            Self::BaseModel(_) => (kind::BASE_MODEL, "the settings of a base model"),
            Self::BaseModelConfig(..) => (kind::BASE_MODEL_CONFIG, "the config of a base model"),
            Self::Generation(_) => (kind::GENERATION, "the facts of a generation"),
            Self::Emptied(_) => (kind::EMPTIED, "that a slot was emptied"),
            Self::Member(..) => (kind::MEMBER, "a member of a slot"),
            Self::Job(_) => (kind::JOB, "a job"),
            Self::JobResult(..) => (kind::JOB_RESULT, "the result of a job"),
            Self::Event(_) => (kind::EVENT, "an event"),
        }
    }

    fn payload(&self) -> Vec<u8> {
        match self {
            Self::Position(position) => json(position),
            Self::BaseModel(head) => json(head),
            Self::BaseModelConfig(_, _, piece) => piece.clone(),
            Self::Generation(record) => json(record),
            Self::Emptied(record) => json(record),
            Self::Member(_, _, _, entry) => json(entry),
            Self::Job(job) => json(job),
            Self::JobResult(_, text) => text.clone().into_bytes(),
            Self::Event(event) => json(event),
        }
    }

    /// The value that the record stands as.
    pub(crate) fn value(&self) -> Result<Vec<u8>, RecordTooLarge> {
        let (kind, what) = self.describe();
        let payload = self.payload();
        if payload.len() > PAYLOAD_LIMIT {
            return Err(RecordTooLarge {
                what,
                bytes: payload.len(),
                limit: PAYLOAD_LIMIT,
            });
        }
        Ok(envelope::wrap(
            self.key().as_bytes(),
            kind,
            SCHEMA,
            &payload,
        ))
    }

    /// The record under `key`.
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Self, SealError> {
        let (kind, payload) = envelope::unwrap(key, value, SCHEMA)?;
        let key = std::str::from_utf8(key).map_err(|_| SealError::Damaged)?;
        Self::decode_whole(key, kind, payload)
            .filter(|record| record.key() == key)
            .ok_or(SealError::Damaged)
    }

    /// The record as a line of JSON, for a backup: its key, and its value as JSON or as a text. There
    /// is none for a piece of a configuration, which need not be a text.
    pub(crate) fn line(&self) -> String {
        let payload = self.payload();
        let value = match self {
            Self::JobResult(_, text) => serde_json::to_string(text),
            Self::BaseModelConfig(_, _, piece) => serde_json::to_string(piece),
            Self::Position(_)
            | Self::BaseModel(_)
            | Self::Generation(_)
            | Self::Emptied(_)
            | Self::Member(..)
            | Self::Job(_)
            | Self::Event(_) => Ok(String::from_utf8_lossy(&payload).into_owned()),
        };
        let value = value.expect("texts and numbers can be written as JSON");
        let key = self.key();
        format!("{{\"key\":\"{key}\",\"value\":{value}}}")
    }

    /// The record in a line.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Line<'a> {
            key: &'a str,
            #[serde(borrow)]
            value: &'a serde_json::value::RawValue,
        }
        let Line { key, value } = serde_json::from_str(line).ok()?;
        let kind = kind::of_key(key)?;
        let text: String;
        let payload = match kind {
            kind::BASE_MODEL_CONFIG => return None,
            kind::JOB_RESULT => {
                text = serde_json::from_str(value.get()).ok()?;
                text.as_bytes()
            }
            _ => value.get().as_bytes(),
        };
        Self::decode_whole(key, kind, payload).filter(|record| record.key() == key)
    }

    pub(crate) fn decode_whole(key: &str, kind: u8, payload: &[u8]) -> Option<Self> {
        let mut parts = key.split('/').skip(1);
        let mut next = || parts.next();
        Some(match kind {
            kind::POSITION => Self::Position(parse(payload)?),
            kind::BASE_MODEL => Self::BaseModel(parse(payload)?),
            kind::BASE_MODEL_CONFIG => {
                let name = next()?.parse().ok()?;
                Self::BaseModelConfig(name, hexadecimal(next()?)?, payload.to_vec())
            }
            kind::GENERATION => Self::Generation(parse(payload)?),
            kind::EMPTIED => Self::Emptied(parse(payload)?),
            kind::MEMBER => {
                let base_model = next()?.parse().ok()?;
                let slot = SlotIndex(hexadecimal(next()?)?);
                Self::Member(base_model, slot, hexadecimal(next()?)?, parse(payload)?)
            }
            kind::JOB => Self::Job(parse(payload)?),
            kind::JOB_RESULT => {
                let id = JobId(u64::from_str_radix(next()?, 16).ok()?);
                Self::JobResult(id, std::str::from_utf8(payload).ok()?.to_owned())
            }
            kind::EVENT => Self::Event(parse(payload)?),
            _ => return None,
        })
    }
}

fn json<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record)
        .expect("records are made of texts, finite numbers and lists of these")
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    serde_json::from_slice(payload).ok()
}

fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

/// The key of a generation that is no longer there.
pub(crate) fn generation_key(record: &GenerationRecord) -> String {
    let (slot, generation): (SlotIndex, Generation) = (record.slot, record.generation);
    key::generation(&record.base_model, slot, generation)
}

#[cfg(test)]
mod tests;
