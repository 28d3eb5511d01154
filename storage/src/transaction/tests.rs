//! The view and the batch of a transaction say the same, and only what may be forgotten is.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Retention, Transaction};
use crate::catalog::Catalog;
use crate::catalog_memory::Memory;
use crate::digest::Digest;
use crate::ids::{BaseModelName, Generation, JobId, Revision, SlotIndex, UnixMillis};
use crate::load::{Loaded, load};
use crate::manifest::MemberEntry;
use crate::records::{
    BaseModelRecord, EmptiedRecord, Event, GenerationRecord, JobRecord, JobState, UploadFacts,
};

const RETENTION: Retention = Retention {
    finished_jobs: 2,
    events: 3,
};
const SLOT: SlotIndex = SlotIndex(4);

fn name() -> BaseModelName {
    "tiny".parse().unwrap()
}

fn base_model() -> Arc<BaseModelRecord> {
    Arc::new(BaseModelRecord {
        name: name(),
        config: "x".repeat(9000),
        settings: "{}".to_owned(),
        served_as: "tiny".to_owned(),
        created: UnixMillis(1),
    })
}

fn entry(job: u64) -> MemberEntry {
    MemberEntry {
        task: format!("task-{job}").parse().unwrap(),
        weight_at_join: 0.5,
        placed: false,
        job: JobId(job),
        generation: Generation(job),
        request_id: None,
        upload: UploadFacts {
            format: "peft".to_owned(),
            size_bytes: job,
            digest: Digest::of(b"a"),
            config_digest: Digest::of(b"b"),
        },
        created: UnixMillis(1),
    }
}

fn emptied(number: u64) -> EmptiedRecord {
    EmptiedRecord {
        base_model: name(),
        slot: SLOT,
        generation: Generation(number),
        job: JobId(number),
        revision: Revision(number),
        committed: UnixMillis(9),
    }
}

fn generation(number: u64, members: u32) -> GenerationRecord {
    GenerationRecord {
        base_model: name(),
        slot: SLOT,
        generation: Generation(number),
        digest: Digest::of(&number.to_le_bytes()),
        bytes: 8,
        members,
        facts: "{}".to_owned(),
        job: JobId(number),
        revision: Revision(number),
        committed: UnixMillis(number),
        members_since: Generation::FIRST,
        superseded: None,
    }
}

fn job(id: u64, state: JobState, ended: u64) -> JobRecord {
    JobRecord {
        state,
        ended: state.is_finished().then_some(UnixMillis(ended)),
        result: (state == JobState::Done).then(|| "{}".to_owned()),
        ..JobRecord::of_task(&entry(id).task(&name(), SLOT))
    }
}

/// A catalog and the database that should hold the same.
#[derive(Default)]
struct Pair {
    catalog: Catalog,
    memory: Memory,
}

impl Pair {
    fn change(&mut self, just_finished: Option<u64>, change: impl FnOnce(&mut Transaction)) {
        let revision = self.catalog.revision.next();
        let mut transaction = Transaction::new(&self.catalog, revision, UnixMillis(9));
        assert!(transaction.is_empty());
        change(&mut transaction);
        let event = Event::Recovered;
        let (next, batch) = transaction
            .finish(event, just_finished.map(JobId), RETENTION)
            .unwrap();
        let mut store = self.memory.open();
        store.apply(&batch).unwrap();
        self.catalog = next;
        let Loaded::Catalog(loaded) = load(&*store).unwrap() else {
            panic!("it does not load")
        };
        assert_eq!(loaded, self.catalog, "the view and the database differ");
    }
}

#[test]
fn what_is_changed_is_what_is_loaded() {
    let mut pair = Pair::default();
    pair.change(None, |t| t.put_base_model(&base_model(), None).unwrap());
    pair.change(None, |t| {
        drop(t.put_job(job(1, JobState::Running, 0)).unwrap())
    });
    pair.change(Some(1), |t| {
        t.supersede(&name(), SLOT, UnixMillis(1)).unwrap();
        t.push_member(&name(), SLOT, &entry(1)).unwrap();
        t.put_generation(generation(1, 1)).unwrap();
        t.put_job(job(1, JobState::Done, 5)).unwrap();
    });
    let slot = |pair: &Pair| Arc::clone(pair.catalog.slot(&name(), SLOT).unwrap());
    let first = slot(&pair);
    pair.change(None, |t| {
        t.supersede(&name(), SLOT, UnixMillis(2)).unwrap();
        t.push_member(&name(), SLOT, &entry(2)).unwrap();
        t.put_generation(generation(2, 2)).unwrap();
    });
    let superseded = &slot(&pair).generations[&Generation(1)];
    assert_eq!(superseded.superseded, Some(UnixMillis(2)));
    assert_eq!(slot(&pair).members.len(), 2);
    assert_eq!(
        first.members.len(),
        1,
        "a view that was given out does not change"
    );

    pair.change(None, |t| {
        t.remove_generation(&generation(2, 2));
        t.put_generation(generation(3, 1)).unwrap();
        t.replace_members(&name(), SLOT, &[entry(1)]).unwrap();
    });
    assert!(pair.catalog.task(&name(), &entry(2).task).is_none());
    pair.change(None, |t| {
        t.remove_generation(&generation(1, 1));
        t.supersede(&name(), SLOT, UnixMillis(9)).unwrap();
        t.empty_slot(emptied(4)).unwrap();
    });
    assert_eq!(pair.catalog.base_models[&name()].slots, BTreeMap::new());
    assert_eq!(pair.catalog.base_models[&name()].tasks, BTreeMap::new());
    assert_eq!(pair.catalog.number(&name(), SLOT), Some(Generation(4)));
    let in_grace = pair.catalog.generation(&name(), SLOT, Generation(3));
    assert_eq!(in_grace.unwrap().superseded, Some(UnixMillis(9)));

    pair.change(None, |t| {
        t.open_again(&name(), SLOT);
        t.push_member(&name(), SLOT, &entry(5)).unwrap();
        t.put_generation(generation(5, 1)).unwrap();
        t.remove_generation(&generation(3, 1));
    });
    assert_eq!(pair.catalog.emptied_slots().count(), 0);
    assert_eq!(pair.catalog.generations().count(), 1);
    pair.change(None, |t| {
        t.supersede(&name(), SLOT, UnixMillis(9)).unwrap();
        t.empty_slot(emptied(6)).unwrap();
        t.remove_generation(&generation(5, 1));
    });
    assert_eq!(pair.catalog.generations().count(), 0);
    assert_eq!(pair.catalog.number(&name(), SLOT), Some(Generation(6)));
}

#[test]
fn the_past_is_bounded() {
    let mut pair = Pair::default();
    for number in 1..=6 {
        pair.change(None, |t| t.skip_jobs_to(JobId(number)));
    }
    let revisions: Vec<u64> = pair
        .catalog
        .events
        .iter()
        .map(|event| event.revision.0)
        .collect();
    assert_eq!(revisions, [4, 5, 6]);
    assert_eq!(pair.catalog.last_job, JobId(6));
}

#[test]
fn jobs_that_ended_first_are_forgotten_first_and_unfinished_ones_never() {
    let mut pair = Pair::default();
    let ids = |pair: &Pair| pair.catalog.jobs.keys().map(|id| id.0).collect::<Vec<_>>();
    pair.change(None, |t| {
        t.put_job(job(1, JobState::Queued, 0)).unwrap();
        t.put_job(job(2, JobState::Running, 0)).unwrap();
        t.put_job(job(3, JobState::Done, 30)).unwrap();
        t.put_job(job(4, JobState::Failed, 20)).unwrap();
    });
    assert_eq!(ids(&pair), [1, 2, 3, 4]);
    pair.change(None, |t| {
        drop(t.put_job(job(5, JobState::Done, 40)).unwrap())
    });
    assert_eq!(ids(&pair), [1, 2, 3, 5]);
    // The clock went back, but what has ended just now is still the last.
    pair.change(Some(1), |t| {
        drop(t.put_job(job(1, JobState::Cancelled, 1)).unwrap())
    });
    assert_eq!(ids(&pair), [1, 2, 5]);
    assert_eq!(pair.catalog.last_job, JobId(5));
}

#[test]
fn what_does_not_fit_fails_before_anything_is_written() {
    let mut transaction = Transaction::new(&Catalog::default(), Revision(1), UnixMillis(1));
    let large = JobRecord {
        result: Some("x".repeat(5000)),
        ..job(1, JobState::Done, 1)
    };
    let error = transaction.put_job(large).unwrap_err();
    assert_eq!(error.what, "the result of a job");
}
