//! Which adapters under which names.

use std::sync::Arc;

use kmerge_merge::Operator;
use kmerge_storage::{
    BaseModelRecord, JobId, MemberRecord, Revision, TaskRecord, UnixMillis, UploadFacts,
};

use super::*;
use crate::facts::GenerationFacts;

fn base() -> BaseModelName {
    "tiny".parse().unwrap()
}

fn generation(slot: u32, generation: u64, packed: bool, members: u32) -> Arc<GenerationRecord> {
    let facts = GenerationFacts {
        rank: 2,
        dtype: kmerge_merge::Dtype::F32,
        modules: 1,
        operator: if packed {
            Operator::Progressive
        } else {
            Operator::Exact
        },
        budget: None,
        member_norms: None,
    };
    Arc::new(GenerationRecord {
        base_model: base(),
        slot: SlotIndex(slot),
        generation: Generation(generation),
        digest: Digest::of(format!("{slot} {generation}").as_bytes()),
        bytes: 1,
        members,
        members_since: Generation(1),
        facts: serde_json::to_string(&facts).unwrap(),
        job: JobId(1),
        revision: Revision(generation),
        committed: UnixMillis(0),
        superseded: None,
    })
}

/// Slots with their members; every task's job is its place.
fn catalog(slots: &[(u32, u64, bool, &[&str])]) -> Catalog {
    let record = BaseModelRecord {
        name: base(),
        config: String::new(),
        settings: String::new(),
        served_as: String::new(),
        created: UnixMillis(0),
    };
    let mut state = BaseModelState {
        record: Arc::new(record),
        settings_change: None,
        slots: BTreeMap::new(),
        emptied: BTreeMap::new(),
        tasks: BTreeMap::new(),
    };
    let mut job = 0;
    for (slot, number, packed, tasks) in slots {
        let count = u32::try_from(tasks.len()).unwrap();
        let current = generation(*slot, *number, *packed, count);
        let mut members = Vec::new();
        for task in *tasks {
            job += 1;
            let task: TaskName = task.parse().unwrap();
            members.push(Arc::new(MemberRecord {
                task: task.clone(),
                weight_at_join: 1.0,
                placed: false,
                job: JobId(job),
                generation: Generation(*number),
            }));
            let record = TaskRecord {
                base_model: base(),
                task: task.clone(),
                slot: SlotIndex(*slot),
                generation: Generation(*number),
                job: JobId(job),
                request_id: None,
                upload: UploadFacts {
                    format: "peft".to_owned(),
                    size_bytes: 1,
                    digest: Digest::of(b"x"),
                    config_digest: Digest::of(b"x"),
                },
                created: UnixMillis(0),
            };
            state.tasks.insert(task, Arc::new(record));
        }
        let generations = BTreeMap::from([(current.generation, current)]);
        let slot_state = SlotState {
            generations,
            members,
        };
        state.slots.insert(SlotIndex(*slot), Arc::new(slot_state));
    }
    let mut catalog = Catalog::default();
    catalog.base_models.insert(base(), Arc::new(state));
    catalog
}

fn selection(pattern: &str) -> Selection {
    Selection {
        base_model: base(),
        tasks: Vec::new(),
        slots: Vec::new(),
        pattern: Pattern::parse(pattern).unwrap(),
        most: 64,
    }
}

/// Aliases with the names they lead to, the digests' digits left out.
fn routes(desired: &Desired) -> Vec<String> {
    let name = |name: &str| name.rsplit_once('.').unwrap().0.to_owned();
    desired
        .routes
        .iter()
        .map(|(alias, led)| format!("{alias} → {}", name(led)))
        .collect()
}

#[test]
fn tasks_of_a_packed_slot_have_adapters_of_their_own_and_others_share() {
    let catalog = catalog(&[(0, 3, true, &["a", "b"]), (1, 7, false, &["c", "d"])]);
    let desired = Desired::of(&catalog, &selection("{base_model}-{task}"));
    assert_eq!(
        routes(&desired),
        [
            "tiny-a → tiny-a.g3",
            "tiny-b → tiny-b.g3",
            "tiny-c → tiny-slot-1.g7",
            "tiny-d → tiny-slot-1.g7",
        ]
    );
    assert_eq!(desired.adapters.len(), 3);
    let digest = Digest::of(b"1 7").to_string();
    let shared = &desired.adapters[&format!("tiny-slot-1.g7.{}", &digest[..8])];
    assert_eq!(shared.of, served::Wanted::Slot);
    let tasks: Vec<_> = shared.tasks.iter().map(TaskName::as_str).collect();
    assert_eq!(tasks, ["c", "d"]);
}

#[test]
fn a_pattern_of_slots_gives_one_for_each_slot() {
    let catalog = catalog(&[(0, 3, true, &["a", "b"]), (1, 7, false, &["c"])]);
    let mut selection = selection("kmerge-{slot}");
    let desired = Desired::of(&catalog, &selection);
    assert_eq!(
        routes(&desired),
        ["kmerge-0 → kmerge-0.g3", "kmerge-1 → kmerge-1.g7"]
    );
    selection.tasks = vec!["c".parse().unwrap()];
    assert_eq!(
        routes(&Desired::of(&catalog, &selection)),
        ["kmerge-1 → kmerge-1.g7"]
    );
}

#[test]
fn only_what_is_selected_and_the_newest_first() {
    let catalog = catalog(&[(0, 3, true, &["a", "b"]), (1, 7, true, &["c"])]);
    let all = selection("{task}");
    let some = Selection {
        tasks: vec!["a".parse().unwrap(), "c".parse().unwrap()],
        ..all.clone()
    };
    assert_eq!(
        routes(&Desired::of(&catalog, &some)),
        ["a → a.g3", "c → c.g7"]
    );
    let slot = Selection {
        slots: vec![SlotIndex(1)],
        ..all.clone()
    };
    assert_eq!(routes(&Desired::of(&catalog, &slot)), ["c → c.g7"]);
    let few = Selection {
        most: 2,
        ..all.clone()
    };
    let desired = Desired::of(&catalog, &few);
    assert_eq!(routes(&desired), ["b → b.g3", "c → c.g7"]);
    assert_eq!(desired.left_out, 1);
    let other = Selection {
        base_model: "other".parse().unwrap(),
        ..all
    };
    assert_eq!(Desired::of(&catalog, &other), Desired::default());
}

#[test]
fn long_names_are_shortened_and_stay_apart() {
    let long = "x".repeat(128);
    let twin = format!("{}y", "x".repeat(127));
    let catalog = catalog(&[(0, 1, true, &[&long, &twin])]);
    let desired = Desired::of(&catalog, &selection("{base_model}-{task}-{base_model}"));
    assert_eq!(desired.routes.len(), 2);
    let longer = selection(&format!("{}{{task}}", "p".repeat(120)));
    let desired = Desired::of(&catalog, &longer);
    assert_eq!(desired.adapters.len(), 2);
    assert!(desired.adapters.keys().all(|name| name.len() <= 220));
}

#[test]
fn an_alias_never_hides_a_name() {
    let digest = Digest::of(b"0 1").to_string();
    let rival = format!("a.g1.{}", &digest[..8]);
    let catalog = catalog(&[(0, 1, true, &["a", &rival])]);
    let desired = Desired::of(&catalog, &selection("{task}"));
    assert_eq!(routes(&desired), ["a → a.g1"]);
}

#[test]
fn names_are_told_from_what_others_put_there() {
    let catalog = catalog(&[(0, 12, true, &["a", "b.g1"]), (1, 7, false, &["c"])]);
    let desired = Desired::of(&catalog, &selection("{task}"));
    assert!(desired.adapters.keys().all(|name| is_versioned(name)));
    for other in [
        "",
        "mine",
        "a.g1",
        "a.g.0123abcd",
        "a.g1.0123abc",
        ".g1.0123abcd",
        "a.gx.0123abcd",
    ] {
        assert!(!is_versioned(other), "{other}");
    }
}

#[test]
fn patterns_that_cannot_be_used_are_refused() {
    for (text, error) in [
        ("plain", PatternError::Placeholder),
        ("{task}-{slot}", PatternError::Placeholder),
        ("{task}{task}", PatternError::Placeholder),
        ("{tusk}", PatternError::Placeholder),
        ("a b {task}", PatternError::Letter),
        ("../{task}", PatternError::Letter),
        ("-{task}", PatternError::Letter),
        ("{base}{task}", PatternError::Letter),
        ("x/{task}", PatternError::Letter),
    ] {
        assert_eq!(Pattern::parse(text), Err(error), "{text}");
    }
}
