//! A catalog that no commit has left does not load.

use super::{Loaded, load};
use crate::catalog_memory::Memory;
use crate::catalog_store::{Batch, CatalogStore};
use crate::digest::Digest;
use crate::envelope;
use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex, UnixMillis};
use crate::manifest::MemberEntry;
use crate::records::{BaseModelRecord, GenerationRecord, JobRecord, UploadFacts};
use crate::stored::{BaseModelHead, Position, Stored, config_pieces};

fn name() -> BaseModelName {
    "tiny".parse().unwrap()
}

fn member(task: &str) -> MemberEntry {
    MemberEntry {
        task: task.parse().unwrap(),
        weight_at_join: 1.0,
        placed: false,
        job: JobId(1),
        generation: Generation(1),
        request_id: None,
        upload: UploadFacts {
            format: "peft".to_owned(),
            size_bytes: 1,
            digest: Digest::of(b"a"),
            config_digest: Digest::of(b"b"),
        },
        created: UnixMillis(1),
    }
}

fn generation(slot: u32, members: u32) -> GenerationRecord {
    GenerationRecord {
        base_model: name(),
        slot: SlotIndex(slot),
        generation: Generation(1),
        digest: Digest::of(b"c"),
        bytes: 1,
        members,
        facts: "{}".to_owned(),
        job: JobId(1),
        revision: Revision(1),
        committed: UnixMillis(1),
        members_since: Generation::FIRST,
        superseded: None,
    }
}

/// A small catalog that loads, to be spoilt.
fn whole() -> Vec<Stored> {
    let base_model = BaseModelRecord {
        name: name(),
        config: "x".repeat(9000),
        settings: "{}".to_owned(),
        served_as: "tiny".to_owned(),
        created: UnixMillis(1),
    };
    let job = JobRecord::of_task(&member("a").task(&name(), SlotIndex(0)));
    let mut records = vec![
        Stored::Position(Position {
            revision: Revision(9),
            last_job: JobId(1),
        }),
        Stored::BaseModel(BaseModelHead::new(&base_model, None)),
        Stored::Generation(generation(0, 1)),
        Stored::Member(name(), SlotIndex(0), 0, member("a")),
        Stored::Job(job),
        Stored::JobResult(JobId(1), "{}".to_owned()),
    ];
    records.extend(config_pieces(&base_model));
    records
}

fn store(records: &[Stored]) -> Box<dyn CatalogStore> {
    let mut batch = Batch::default();
    for record in records {
        batch.put(record.key(), record.value().unwrap());
    }
    let mut store = Memory::default().open();
    store.apply(&batch).unwrap();
    store
}

fn damage(records: &[Stored]) -> String {
    let loaded = load(&*store(records)).unwrap();
    let Loaded::Damaged(what) = loaded else {
        panic!("{loaded:?}")
    };
    what
}

#[test]
fn a_whole_catalog_loads_and_nothing_is_empty() {
    assert!(matches!(
        load(&*store(&whole())).unwrap(),
        Loaded::Catalog(_)
    ));
    assert!(matches!(load(&*store(&[])).unwrap(), Loaded::Empty));
}

#[test]
fn a_catalog_that_lacks_any_record_is_damaged() {
    // A job without its result cannot be told from one that has none.
    let all = whole();
    for (index, record) in all.iter().enumerate() {
        if matches!(record, Stored::JobResult(..)) {
            continue;
        }
        let mut records = all.clone();
        records.remove(index);
        damage(&records);
    }
}

#[test]
fn a_catalog_with_a_record_too_many_is_damaged() {
    let two_slots = [
        Stored::Generation(generation(1, 1)),
        Stored::Member(name(), SlotIndex(1), 0, member("a")),
    ];
    let superseded = GenerationRecord {
        superseded: Some(UnixMillis(1)),
        ..generation(0, 1)
    };
    let late = JobRecord {
        id: JobId(2),
        ..JobRecord::of_task(&member("a").task(&name(), SlotIndex(0)))
    };
    let cases: [(&[Stored], &str); 5] = [
        (&two_slots, "two slots"),
        (
            &[Stored::Member(name(), SlotIndex(0), 2, member("b"))],
            "gap",
        ),
        (
            &[Stored::Member(name(), SlotIndex(0), 1, member("b"))],
            "another number of members",
        ),
        (&[Stored::Generation(superseded)], "superseded by none"),
        (&[Stored::Job(late)], "younger"),
    ];
    for (more, expected) in cases {
        let records = [whole(), more.to_vec()].concat();
        let found = damage(&records);
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn a_damaged_record_is_named_and_a_later_schema_is_told_apart() {
    let mut memory = store(&whole());
    let mut batch = Batch::default();
    batch.put("job/0000000000000001".to_owned(), b"nonsense".to_vec());
    memory.apply(&batch).unwrap();
    let Loaded::Damaged(what) = load(&*memory).unwrap() else {
        panic!("it loads")
    };
    assert!(what.contains("job/0000000000000001"), "{what}");

    let mut batch = Batch::default();
    batch.put("later".to_owned(), envelope::wrap(b"later", 77, 2, b"?"));
    memory.apply(&batch).unwrap();
    assert!(matches!(load(&*memory).unwrap(), Loaded::NewerSchema(2)));
}
