//! What must be true of a state directory whose process was ended, by the journal of that process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use kmerge_storage::{
    BaseModelRecord, Catalog, Digest, Generation, JobId, JobState, OpenError, Opened, Options,
    Rearrangement, SlotIndex, TensorFile, UnixMillis, open,
};

use crate::child::{content, repack};
use crate::common::{
    at, base_model, base_name, commit_of, current, read_file, remove, stage, task, write_tensor,
};

type SlotGeneration = (SlotIndex, Generation);

/// The journal, read.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) lines: Vec<String>,
    registered: bool,
    queued: BTreeMap<String, JobId>,
    started: BTreeSet<JobId>,
    ending: BTreeSet<JobId>,
    ended: BTreeSet<JobId>,
    committed: BTreeSet<SlotGeneration>,
    published: BTreeSet<SlotGeneration>,
    collecting: bool,
    collected: BTreeSet<SlotGeneration>,
    forgetting: BTreeSet<String>,
    forgot: BTreeSet<String>,
    to_repack: BTreeMap<JobId, String>,
    setting: Vec<String>,
    set: Vec<String>,
    pub(crate) failed: bool,
    pub(crate) read_only: bool,
    /// How often there was no room.
    pub(crate) refused: u32,
    /// The file operations of the child, if it was to list them.
    pub(crate) operations: Vec<String>,
}

pub(crate) fn read_journal(path: &Path) -> Journal {
    if !path.exists() {
        return Journal::default();
    }
    let text = String::from_utf8(read_file(path)).unwrap();
    journal_of(text.lines())
}

/// A journal of these lines.
pub(crate) fn journal_of<'a>(lines: impl Iterator<Item = &'a str>) -> Journal {
    let mut journal = Journal::default();
    for line in lines {
        journal.lines.push(line.to_owned());
        let words: Vec<&str> = line.split(' ').collect();
        let job = |at: usize| words[at].parse::<JobId>().unwrap();
        let pair = || (words[1].parse().unwrap(), words[2].parse().unwrap());
        match words[0] {
            "registered" => journal.registered = true,
            "queued" => drop(journal.queued.insert(words[1].to_owned(), job(2))),
            "started" => drop(journal.started.insert(job(1))),
            "ending" => drop(journal.ending.insert(job(1))),
            "ended" => drop(journal.ended.insert(job(1))),
            "committed" => drop(journal.committed.insert(pair())),
            "published" => drop(journal.published.insert(pair())),
            "collecting" => journal.collecting = true,
            "collected" => drop(journal.collected.insert(pair())),
            "forgetting" => drop(journal.forgetting.insert(words[1].to_owned())),
            "forgot" => drop(journal.forgot.insert(words[1].to_owned())),
            "to-repack" => drop(journal.to_repack.insert(job(1), words[2].to_owned())),
            "setting" => add(&mut journal.setting, words[1]),
            "set" => add(&mut journal.set, words[1]),
            "error" => journal.failed = true,
            "refused" => journal.refused += 1,
            "operation" => journal.operations.push(words[1].to_owned()),
            "read-only" => journal.read_only = true,
            other => panic!("{other}"),
        }
    }
    journal
}

/// What a later run finds done is told once more.
fn add(list: &mut Vec<String>, word: &str) {
    if !list.iter().any(|known| known == word) {
        list.push(word.to_owned());
    }
}

/// Opens the state as a start would.
///
/// When another test starts its child at this very moment, that child holds a copy of our last
/// lock until it has become another program.
fn open_patiently(state: &Path, now: UnixMillis) -> Opened {
    for _ in 0..1000 {
        match open(state, &Options::default(), now) {
            Err(OpenError::Locked { .. }) => std::thread::sleep(Duration::from_millis(2)),
            opened => return opened.unwrap(),
        }
    }
    panic!("the state stays locked");
}

/// Opens the state as a start would and checks everything.
pub(crate) fn check(state: &Path, journal: &Path, plan: &str) {
    let journal = read_journal(journal);
    let context = format!("{plan}\n{}", journal.lines.join("\n"));
    // (g) It opens, and without having lost its catalog.
    let mut opened = open_patiently(state, at(1000));
    assert!(
        !opened.report.catalog_rebuilt,
        "{:?}\n{context}",
        opened.report
    );
    check_all(&mut opened, state, &journal, &context);
    drop(opened);
    let again = open_patiently(state, at(2000));
    assert_eq!(
        again.report,
        Default::default(),
        "a second start has nothing to do: {context}"
    );
    files_alone_say_the_same(again, state, &context);
}

fn check_all(opened: &mut Opened, state: &Path, journal: &Journal, context: &str) {
    let catalog = opened.committer.catalog();
    acknowledged_is_there(opened, &catalog, journal, context);
    everything_is_whole(opened, &catalog, state, context);
    ended_stays_ended(&catalog, state, journal, context);
    disk_is_at_its_baseline(&catalog, state, context);
    retries_find_their_jobs(opened, journal, context);
    goes_on(opened, context);
}

/// Opens what a power cut has left and checks everything; gives whether the catalog had to be made
/// again from files.
pub(crate) fn check_after_power_cut(state: &Path, journal: &Journal, plan: &str) -> bool {
    let context = format!("{plan}\n{}", journal.lines.join("\n"));
    let mut opened = open_patiently(state, at(1000));
    let context = format!("{:?}\n{context}", opened.report);
    let rebuilt = opened.report.catalog_rebuilt;
    // While the first database is made there is nothing in it that could be lost.
    assert!(!rebuilt || !journal.registered, "{context}");
    if rebuilt {
        files_tell_what_they_promise(&opened, state, journal, &context);
        goes_on(&mut opened, &context);
    } else {
        check_all(&mut opened, state, journal, &context);
    }
    drop(opened);
    let again = open_patiently(state, at(2000));
    assert_eq!(again.report, Default::default(), "{context}");
    files_alone_say_the_same(again, state, &context);
    rebuilt
}

/// Opens the state as a start would that finds no catalog, and checks what files alone promise.
pub(crate) fn check_without_catalog(state: &Path, journal: &Path, plan: &str) {
    let journal = read_journal(journal);
    let context = format!("without a catalog, {plan}\n{}", journal.lines.join("\n"));
    if !journal.registered {
        return;
    }
    remove(&state.join("catalog"));
    let opened = open_patiently(state, at(1000));
    assert!(opened.report.catalog_rebuilt, "{context}");
    files_tell_what_they_promise(&opened, state, &journal, &context);
    let catalog = opened.committer.catalog();
    drop(opened);
    let again = open_patiently(state, at(2000));
    assert_eq!(again.report, Default::default(), "{context}");
    assert_eq!(again.committer.catalog(), catalog, "{context}");
}

/// What was acknowledged and is told by files is there.
fn files_tell_what_they_promise(opened: &Opened, state: &Path, journal: &Journal, context: &str) {
    let catalog = opened.committer.catalog();
    if journal.registered {
        settings_are_the_last(&catalog, journal, context);
    }
    for &(slot, generation) in &journal.committed {
        assert!(number(&catalog, slot) >= Some(generation), "{context}");
    }
    for (name, id) in &journal.queued {
        let is_there = catalog.task(&base_name(), &task(name)).is_some();
        let waits = catalog.unfinished_jobs().any(|job| job.id == *id);
        let has_gone = journal.forgetting.contains(name) || journal.ending.contains(id);
        assert!(is_there || waits || has_gone, "{name} is lost: {context}");
        assert!(
            !is_there || !journal.forgot.contains(name),
            "{name} is back: {context}"
        );
    }
    everything_is_whole(opened, &catalog, state, context);
    disk_is_at_its_baseline(&catalog, state, context);
}

/// What is in slots, and what is not any more, is the same when the catalog is lost.
fn files_alone_say_the_same(opened: Opened, state: &Path, context: &str) {
    let before = opened.committer.catalog();
    drop(opened);
    remove(&state.join("catalog"));
    let rebuilt = open_patiently(state, at(3000));
    assert!(rebuilt.report.catalog_rebuilt, "{context}");
    let after = rebuilt.committer.catalog();
    assert_eq!(after.base_models, before.base_models, "{context}");
}

/// (a) What was acknowledged is listed and readable, unless it was just being taken away.
fn acknowledged_is_there(opened: &Opened, catalog: &Catalog, journal: &Journal, context: &str) {
    if journal.registered {
        settings_are_the_last(catalog, journal, context);
    }
    for &(slot, generation) in &journal.committed {
        let found = number(catalog, slot).unwrap();
        assert!(found >= generation, "{context}");
        let is_there = catalog.generation(&base_name(), slot, generation).is_some();
        assert!(
            is_there || journal.collecting,
            "{slot} {generation} is gone: {context}"
        );
    }
    for (name, id) in &journal.queued {
        let job = &catalog.jobs[id];
        assert_eq!(job.task, task(name), "{context}");
        match job.state {
            JobState::Queued => {
                let files = opened.reader.staged(job.id).unwrap();
                assert_eq!(
                    digest(&files.tensor),
                    Digest::of(&content(name)),
                    "{context}"
                );
                assert!(
                    !journal.started.contains(id) || job.attempts == 1,
                    "{context}"
                );
            }
            JobState::Done => {
                let is_there = catalog.task(&base_name(), &job.task).is_some();
                let may_be_gone = journal.forgetting.contains(name);
                assert!(is_there || may_be_gone, "{context}");
                assert!(!is_there || !journal.forgot.contains(name), "{context}");
            }
            JobState::Cancelled | JobState::Failed => {
                assert!(journal.ending.contains(id), "{context}");
            }
            JobState::Running => panic!("nobody runs it: {context}"),
        }
    }
    for (id, settings) in &journal.to_repack {
        let job = &catalog.jobs[id];
        assert_eq!(job.kind, repack(settings), "{context}");
        let is_set = journal.set.contains(settings);
        let is_done = job.state == JobState::Done;
        assert!(
            is_done || (job.state == JobState::Queued && !is_set),
            "{context}"
        );
    }
}

/// The base model has the settings that were acknowledged last, or what was being set after them.
fn settings_are_the_last(catalog: &Catalog, journal: &Journal, context: &str) {
    let found = &catalog.base_model(&base_name()).unwrap().record;
    let mut settings = vec![base_model().settings];
    settings.extend(journal.setting.clone());
    settings.drain(..journal.set.len());
    assert!(settings.contains(&found.settings), "{context}");
    let settings = found.settings.clone();
    let expected = BaseModelRecord {
        settings,
        ..base_model()
    };
    assert_eq!(**found, expected, "{context}");
    // The first change came together with slots: both are there or neither.
    if let Some(id) = journal.to_repack.keys().next() {
        let is_done = catalog.jobs[id].state == JobState::Done;
        let is_set = found.settings != base_model().settings;
        assert_eq!(is_done, is_set, "{context}");
    }
}

/// (b) What is listed is whole, acknowledged or not.
fn everything_is_whole(opened: &Opened, catalog: &Catalog, state: &Path, context: &str) {
    for record in catalog.generations() {
        let tensor = opened.reader.tensor(record).unwrap();
        assert_eq!(digest(&tensor), record.digest, "{context}");
    }
    for base_model in catalog.base_models.values() {
        let mut tasks = 0;
        for slot in base_model.slots.values() {
            let members = u32::try_from(slot.members.len()).unwrap();
            assert_eq!(slot.current().members, members, "{context}");
            tasks += slot.members.len();
            for member in &slot.members {
                assert_eq!(catalog.jobs[&member.job].state, JobState::Done, "{context}");
            }
        }
        assert_eq!(base_model.tasks.len(), tasks, "{context}");
        // Whoever rearranges leaves nobody out: `a` goes and `h` comes, or neither.
        let has = |name| base_model.tasks.contains_key(&task(name));
        let moved = base_model.tasks.get(&task("e")).map(|task| task.slot);
        assert!(
            !has("h") || (!has("a") && moved == Some(SlotIndex(0))),
            "{context}"
        );
        assert!(has("h") || !has("b") || has("a"), "{context}");
    }
    exports_are_whole(catalog, &state.join("exports/peft/tiny"), context);
    tensors_are_what_they_are_called(&state.join("tensors"), context);
}

/// (c) `current` names exactly one export, which is whole.
fn exports_are_whole(catalog: &Catalog, exports: &Path, context: &str) {
    for name in children(exports) {
        let slot = exports.join(&name);
        let index: SlotIndex = name.strip_prefix("slot-").unwrap().parse().unwrap();
        let Ok(target) = std::fs::read_link(slot.join("current")) else {
            continue;
        };
        let generation: Generation = target.to_str().unwrap().parse().unwrap();
        let is_empty = catalog.emptied(&base_name(), index).is_some();
        assert!(!is_empty, "an empty slot serves nothing: {context}");
        let record = catalog.generation(&base_name(), index, generation).unwrap();
        assert_eq!(
            read_file(&slot.join(&target).join("config")),
            b"{}",
            "{context}"
        );
        let tensors = read_file(&slot.join(&target).join("tensors"));
        assert_eq!(Digest::of(&tensors), record.digest, "{context}");
    }
}

/// (d) The name of each tensor file is its digest.
fn tensors_are_what_they_are_called(tensors: &Path, context: &str) {
    for prefix in children(tensors) {
        for name in children(&tensors.join(&prefix)) {
            let bytes = read_file(&tensors.join(&prefix).join(&name));
            assert_eq!(Digest::of(&bytes).to_string(), name, "{context}");
        }
    }
}

/// (e) What was cancelled, failed or collected does not come back.
fn ended_stays_ended(catalog: &Catalog, state: &Path, journal: &Journal, context: &str) {
    for id in &journal.ended {
        let found = catalog.jobs[id].state;
        assert!(
            matches!(found, JobState::Cancelled | JobState::Failed),
            "{context}"
        );
        assert!(
            !state.join("staging").join(id.to_string()).exists(),
            "{context}"
        );
    }
    for &(slot, generation) in &journal.collected {
        let found = catalog.generation(&base_name(), slot, generation);
        assert!(found.is_none(), "{context}");
    }
    for &(slot, generation) in &journal.published {
        let path = state.join(format!("exports/peft/tiny/slot-{slot}/{generation}"));
        assert!(path.is_dir() || journal.collecting, "{context}");
    }
}

/// (f) Nothing lies about that the catalog does not need.
fn disk_is_at_its_baseline(catalog: &Catalog, state: &Path, context: &str) {
    let unfinished: BTreeSet<String> = catalog
        .unfinished_jobs()
        .map(|job| job.id.to_string())
        .collect();
    assert_eq!(children(&state.join("staging")), unfinished, "{context}");
    let live: BTreeSet<String> = catalog
        .generations()
        .map(|record| record.digest.to_string())
        .collect();
    assert_eq!(grandchildren(&state.join("tensors")), live, "{context}");
    let manifests: BTreeSet<String> = catalog
        .generations()
        .map(|record| (record.slot, record.generation))
        .chain(
            catalog
                .emptied_slots()
                .map(|record| (record.slot, record.generation)),
        )
        .map(|(slot, generation)| format!("{slot}/{generation}.json"))
        .collect();
    let directory = state.join("manifests/tiny");
    let mut found = BTreeSet::new();
    for slot in children(&directory) {
        for name in children(&directory.join(&slot)) {
            found.insert(format!("{slot}/{name}"));
        }
    }
    assert_eq!(found, manifests, "{context}");
}

/// (h) Sending the same again gives the same job.
fn retries_find_their_jobs(opened: &mut Opened, journal: &Journal, context: &str) {
    for (name, &id) in &journal.queued {
        let request = format!("request-{name}");
        let staged = stage(opened, name, &content(name), Some(&request)).unwrap();
        let again = opened.committer.enqueue(staged, at(1100)).unwrap();
        assert_eq!((again.job.id, again.existing), (id, true), "{context}");
    }
    for (&id, settings) in &journal.to_repack {
        let request = Some(format!("request-{settings}"));
        let committer = &mut opened.committer;
        let again =
            committer.enqueue_maintenance(&base_name(), repack(settings), request, at(1100));
        let again = again.unwrap();
        assert_eq!((again.job.id, again.existing), (id, true), "{context}");
    }
}

/// The state is as good as any: what waits can be merged, and new work as well.
fn goes_on(opened: &mut Opened, context: &str) {
    if opened.committer.catalog().base_models.is_empty() {
        opened.committer.register_base_model(base_model()).unwrap();
    }
    let staged = stage(opened, "new", b"new", None).unwrap();
    let new = opened.committer.enqueue(staged, at(1200)).unwrap();
    assert!(!new.existing, "{context}");
    let waiting: Vec<_> = opened
        .committer
        .catalog()
        .unfinished_jobs()
        .cloned()
        .collect();
    assert_eq!(
        waiting.last().map(|job| job.id),
        Some(new.job.id),
        "ids rise: {context}"
    );
    for job in waiting {
        let slot = SlotIndex(0);
        opened.committer.start_job(job.id, at(1300)).unwrap();
        if !job.kind.is_upload() {
            let nothing = Rearrangement {
                job: job.id,
                steps: Vec::new(),
                settings: None,
                result: "{}".to_owned(),
            };
            opened.committer.rearrange(nothing, at(1400)).unwrap();
            continue;
        }
        let expected = current(&opened.committer.catalog(), slot);
        let tensor = write_tensor(opened, format!("after all: {}", job.task).as_bytes());
        let commit = commit_of(&job, slot, expected, tensor);
        opened.committer.commit(commit, at(1400)).unwrap();
    }
    assert_eq!(
        opened.committer.catalog().unfinished_jobs().count(),
        0,
        "{context}"
    );
}

/// The number that a slot is at.
fn number(catalog: &Catalog, slot: SlotIndex) -> Option<Generation> {
    let emptied = catalog.emptied(&base_name(), slot);
    let emptied = emptied.map(|slot| slot.record.generation);
    current(catalog, slot).or(emptied)
}

fn digest(tensor: &TensorFile) -> Digest {
    let mut bytes = vec![0; usize::try_from(tensor.len()).unwrap()];
    tensor.read_exact_at(&mut bytes, 0).unwrap();
    Digest::of(&bytes)
}

/// The names in a directory; none if it is not there.
fn children(path: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return BTreeSet::new();
    };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// The names in the directories of a directory.
fn grandchildren(path: &Path) -> BTreeSet<String> {
    children(path)
        .iter()
        .flat_map(|name| children(&path.join(name)))
        .collect()
}
