//! Every record comes back under its own key and under no other.

use super::{BaseModelHead, Position, Stored, config_pieces, key};
use crate::digest::Digest;
use crate::envelope::{PAYLOAD_LIMIT, VALUE_LIMIT};
use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex, UnixMillis};
use crate::manifest::MemberEntry;
use crate::records::{
    BaseModelRecord, EmptiedRecord, Event, EventRecord, GenerationRecord, JobFailure, JobKind,
    JobRecord, JobState, SettingsChange, UploadFacts,
};
use crate::sealed::SealError;

fn name() -> BaseModelName {
    "tiny-1.0_b".parse().unwrap()
}

fn upload() -> UploadFacts {
    UploadFacts {
        format: "peft".to_owned(),
        size_bytes: u64::MAX,
        digest: Digest::of(b"a"),
        config_digest: Digest::of(b"b"),
    }
}

fn base_model() -> BaseModelRecord {
    BaseModelRecord {
        name: name(),
        config: "ü".repeat(PAYLOAD_LIMIT),
        settings: "{}".to_owned(),
        served_as: "tiny".to_owned(),
        created: UnixMillis(1),
    }
}

fn job() -> JobRecord {
    JobRecord {
        id: JobId(u64::MAX),
        base_model: name(),
        kind: JobKind::Upload,
        task: "a".parse().unwrap(),
        state: JobState::Failed,
        attempts: 3,
        request_id: Some("x".repeat(128)),
        upload: upload(),
        created: UnixMillis(1),
        started: Some(UnixMillis(2)),
        ended: Some(UnixMillis(3)),
        result: None,
        failure: Some(JobFailure {
            code: 13,
            reason: "REASON".to_owned(),
            message: "why".to_owned(),
        }),
    }
}

fn examples() -> Vec<Stored> {
    let slot = SlotIndex(u32::MAX);
    let member = MemberEntry {
        task: "a".parse().unwrap(),
        weight_at_join: 0.1 + 0.2,
        placed: false,
        job: JobId(1),
        generation: Generation(2),
        request_id: Some("r".to_owned()),
        upload: upload(),
        created: UnixMillis(1),
    };
    let generation = GenerationRecord {
        base_model: name(),
        slot,
        generation: Generation(u64::MAX),
        digest: Digest::of(b"c"),
        bytes: 1,
        members: 2,
        facts: "{\"rank\":8}".to_owned(),
        job: JobId(1),
        revision: Revision(9),
        committed: UnixMillis(1),
        members_since: Generation(7),
        superseded: Some(UnixMillis(2)),
    };
    let emptied = EmptiedRecord {
        base_model: name(),
        slot,
        generation: Generation(3),
        job: JobId(1),
        revision: Revision(9),
        committed: UnixMillis(1),
    };
    let event = EventRecord {
        revision: Revision(3),
        at: UnixMillis(1),
        event: Event::SlotsCommitted {
            base_model: name(),
            job: JobId(1),
            slots: vec![(slot, Generation(2))],
        },
    };
    let mut examples: Vec<Stored> = config_pieces(&base_model()).collect();
    assert_eq!(examples.len(), 2);
    examples.extend([
        Stored::Position(Position {
            revision: Revision(7),
            last_job: JobId(8),
        }),
        Stored::BaseModel(BaseModelHead::new(
            &base_model(),
            Some(SettingsChange {
                registered_as: Digest::of(b"registered"),
                revision: Revision(4),
            }),
        )),
        Stored::Generation(generation),
        Stored::Emptied(emptied),
        Stored::Member(name(), slot, 10, member),
        Stored::Job(job()),
        Stored::JobResult(JobId(5), "{\"a\":\"\\\"\"}".to_owned()),
        Stored::Event(event),
    ]);
    examples
}

#[test]
fn records_come_back_under_their_own_key_only() {
    let examples = examples();
    for record in &examples {
        let value = record.value().unwrap();
        assert_eq!(
            Stored::decode(record.key().as_bytes(), &value).as_ref(),
            Ok(record)
        );
        for other in &examples {
            if other.key() != record.key() {
                let decoded = Stored::decode(other.key().as_bytes(), &value);
                assert_eq!(decoded, Err(SealError::Damaged));
            }
        }
    }
}

#[test]
fn a_record_sealed_for_another_content_is_refused() {
    // Whole in itself, but what it says of itself is not what its key says.
    let payload = serde_json::to_vec(&job()).unwrap();
    for wrong in [
        key::job(JobId(1)),
        key::job_result(JobId(1)),
        "strange".to_owned(),
    ] {
        let value = crate::envelope::wrap(wrong.as_bytes(), super::kind::JOB, 1, &payload);
        assert_eq!(
            Stored::decode(wrong.as_bytes(), &value),
            Err(SealError::Damaged),
            "{wrong}"
        );
    }
    let value = crate::envelope::wrap(b"job/1", 99, 1, &payload);
    assert_eq!(Stored::decode(b"job/1", &value), Err(SealError::Damaged));
}

#[test]
fn the_position_comes_last_and_numbers_keep_their_order() {
    for record in examples() {
        assert!(record.key().as_str() <= key::POSITION, "{}", record.key());
    }
    assert!(key::job(JobId(9)) < key::job(JobId(10)));
    assert!(key::member(&name(), SlotIndex(9), 1) < key::member(&name(), SlotIndex(10), 0));
    let generation = |number| key::generation(&name(), SlotIndex(0), Generation(number));
    assert!(generation(255) < generation(256));
    assert!(key::event(Revision(99)) < key::event(Revision(100)));
}

#[test]
fn no_value_is_larger_than_the_limit() {
    let fits = Stored::JobResult(JobId(1), "x".repeat(PAYLOAD_LIMIT));
    assert_eq!(fits.value().unwrap().len(), VALUE_LIMIT);
    let error = Stored::JobResult(JobId(1), "x".repeat(PAYLOAD_LIMIT + 1))
        .value()
        .unwrap_err();
    assert_eq!(
        (error.bytes, error.limit),
        (PAYLOAD_LIMIT + 1, PAYLOAD_LIMIT)
    );
    for record in config_pieces(&base_model()) {
        assert!(record.value().unwrap().len() <= VALUE_LIMIT);
    }
}

#[test]
fn the_longest_failure_fits_its_job() {
    let long = |character: &str| JobFailure {
        code: i32::MIN,
        reason: character.repeat(10_000),
        message: character.repeat(10_000),
    };
    let longest_name = "x".repeat(128);
    for character in ["x", "\"", "\\", "\u{1}", "\u{7f}", "é", "\u{10ffff}"] {
        let failure = crate::commit::shorten(long(character));
        assert!(failure.message.starts_with(character) && failure.message.ends_with('…'));
        let mut job = JobRecord {
            failure: Some(failure),
            ..job()
        };
        job.base_model = longest_name.parse().unwrap();
        job.task = longest_name.parse().unwrap();
        job.upload.format.clone_from(&longest_name);
        job.request_id = Some("\u{1}".repeat(128));
        let value = Stored::Job(job).value().unwrap();
        assert!(value.len() <= VALUE_LIMIT, "{character:?}: {}", value.len());
    }
    let short = JobFailure {
        code: 1,
        reason: "R".to_owned(),
        message: "m \"q\"".to_owned(),
    };
    assert_eq!(crate::commit::shorten(short.clone()), short);
}
