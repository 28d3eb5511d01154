//! Remembers, outside the state directory, what a daemon has promised, and holds every later run
//! to it.
//!
//! Owned by the test. What holds: only what a client was told is remembered, so that a promise is
//! known exactly from the moment on at which somebody could rely on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use kmerge_client::retry::Policy;
use kmerge_client::{Adapter, Client, Error, Upload, v1};
use kmerge_storage::Digest;

use crate::support::calls::policy;
use crate::support::goldens;

/// A task of a base model.
type Task = (String, String);

/// What a client tried to send.
#[derive(Debug, Clone)]
struct Sent {
    adapter: Adapter,
    /// The job, once the upload was acknowledged.
    job: Option<u64>,
    /// Whether the job is to fail.
    fails: bool,
}

#[derive(Debug, Default)]
struct Promises {
    base_models: BTreeMap<String, u32>,
    sent: BTreeMap<Task, Sent>,
    /// SHA-256 of each generation that was seen.
    generations: BTreeMap<(String, u32, u64), String>,
    /// Slot and generation of each job that was seen done.
    done: BTreeMap<u64, (u32, u64)>,
}

/// What one daemon's clients were told.
#[derive(Debug, Default)]
pub(crate) struct Oracle(Mutex<Promises>);

impl Oracle {
    fn promises(&self) -> std::sync::MutexGuard<'_, Promises> {
        self.0.lock().unwrap()
    }

    /// Registers a base model of K slots; `None` once the daemon is gone.
    pub(crate) async fn register(&self, client: &Client, name: &str, count: u32) -> Option<()> {
        self.register_with(client, name, policy(count)).await
    }

    /// As [`Oracle::register`], under a policy.
    pub(crate) async fn register_with(
        &self,
        client: &Client,
        name: &str,
        policy: v1::MergePolicy,
    ) -> Option<()> {
        let count = policy.slots.unwrap();
        let request = v1::RegisterBaseModelRequest {
            name: name.to_owned(),
            config: std::fs::read(goldens().join("base/config.json")).unwrap(),
            policy: Some(policy),
            served_as: String::new(),
        };
        here(client.register_base_model(request).await)?;
        self.promises().base_models.insert(name.to_owned(), count);
        Some(())
    }

    /// Sends an adapter and follows its job to the end; `None` once the daemon is gone.
    pub(crate) async fn push(
        &self,
        client: &Client,
        task: &str,
        base_model: &str,
        adapter: Adapter,
        fails: bool,
    ) -> Option<()> {
        let key = (base_model.to_owned(), task.to_owned());
        let sent = Sent {
            adapter: adapter.clone(),
            job: None,
            fails,
        };
        self.promises().sent.insert(key.clone(), sent);
        let answer = client
            .upload_adapter(&adapter, &once(task, base_model), |_| {})
            .await;
        let job = here(answer)?.job.unwrap().id;
        self.acknowledged(&key, job);
        let watch = client.watch_job(job).with_policy(Policy::NEVER);
        let ended = here(watch.ended().await)?;
        self.ended(&ended);
        let resolved = client.resolve_task(base_model, task).await;
        if !fails && let Some(found) = here(resolved) {
            self.saw(base_model, found.slot, found.generation, &found.sha256);
        }
        Some(())
    }

    fn acknowledged(&self, key: &Task, job: u64) {
        let mut promises = self.promises();
        let sent = promises.sent.get_mut(key).unwrap();
        assert!(
            sent.job.is_none_or(|known| known == job),
            "{key:?} was job {:?} and is now job {job}",
            sent.job
        );
        sent.job = Some(job);
    }

    fn ended(&self, job: &v1::Job) {
        let mut promises = self.promises();
        let key = (job.base_model.clone(), job.task.clone());
        let state = if promises.sent[&key].fails {
            v1::JobState::Failed
        } else {
            v1::JobState::Done
        };
        assert_eq!(job.state(), state, "{job:?}");
        if let Some(decision) = &job.decision {
            let decided = (decision.slot, decision.generation);
            let before = promises.done.insert(job.id, decided);
            assert!(
                before.is_none_or(|before| before == decided),
                "job {} was decided twice: {before:?}, {decided:?}",
                job.id
            );
        }
    }

    /// Remembers a generation that somebody could read.
    fn saw(&self, base_model: &str, slot: u32, generation: u64, sha256: &str) {
        let key = (base_model.to_owned(), slot, generation);
        let mut promises = self.promises();
        let before = promises.generations.insert(key, sha256.to_owned());
        assert!(
            before.is_none_or(|before| before == sha256),
            "generation {generation} of slot {slot} of {base_model} has changed"
        );
    }

    /// Notes every slot change that is published, until the daemon is gone.
    pub(crate) async fn watch(&self, client: Client) {
        let mut watch = client.watch_slots(None, 0).with_policy(Policy::NEVER);
        let mut revision = 0;
        while let Some(event) = here(watch.next().await) {
            let Some(slot) = event.into_slot() else {
                continue;
            };
            assert!(slot.revision > revision, "the watch went back: {slot:?}");
            revision = slot.revision;
            self.saw(&slot.base_model, slot.slot, slot.generation, &slot.sha256);
        }
    }

    /// Sends again whatever was ever sent, with the same request ids, and waits for all jobs.
    /// What had been acknowledged must be the job that it was.
    pub(crate) async fn send_again(&self, client: &Client) {
        let base_models = self.promises().base_models.clone();
        for (name, count) in base_models {
            let found = client.get_base_model(&name).await.unwrap();
            assert_eq!(found.policy.unwrap().slots, Some(count), "{name}");
        }
        let sent = self.promises().sent.clone();
        for ((base_model, task), sent) in sent {
            let upload = once(&task, &base_model);
            let answer = client
                .upload_adapter(&sent.adapter, &upload, |_| {})
                .await
                .unwrap();
            let job = answer.job.unwrap().id;
            assert!(
                answer.existing || sent.job.is_none(),
                "{task} was forgotten: it is job {job} now"
            );
            self.acknowledged(&(base_model, task), job);
            self.ended(&client.watch_job(job).ended().await.unwrap());
        }
    }

    /// Holds what the daemon serves against all promises. Its queue must be empty.
    pub(crate) async fn check_served(&self, client: &Client) {
        let jobs = client.list_jobs(None, None).await.unwrap();
        let listed = client.list_slots(None).await.unwrap();
        for slot in &listed {
            self.saw(&slot.base_model, slot.slot, slot.generation, &slot.sha256);
        }
        let promises = self.promises();
        let mut expected = BTreeSet::new();
        for ((base_model, task), sent) in &promises.sent {
            let of_task: Vec<_> = jobs
                .iter()
                .filter(|job| job.task == *task && job.base_model == *base_model)
                .collect();
            assert_eq!(of_task.len(), 1, "{task} has jobs {of_task:?}");
            assert_eq!(Some(of_task[0].id), sent.job, "{task}");
            if !sent.fails {
                expected.insert((base_model.clone(), task.clone()));
            }
        }
        let members: Vec<Task> = listed
            .iter()
            .flat_map(|slot| {
                slot.members
                    .iter()
                    .map(|member| (slot.base_model.clone(), member.task.clone()))
            })
            .collect();
        assert_eq!(members.len(), expected.len(), "members: {members:?}");
        assert_eq!(members.into_iter().collect::<BTreeSet<_>>(), expected);
        for slot in &listed {
            assert_eq!(
                usize::try_from(slot.generation).unwrap(),
                slot.members.len(),
                "one generation for each member: {slot:?}"
            );
            let sum: f64 = slot.members.iter().map(|member| member.weight).sum();
            assert!((sum - 1.0).abs() < 1e-9, "weights of {slot:?}");
        }
        for (base_model, slot, generation) in promises.generations.keys() {
            let now = listed
                .iter()
                .find(|now| now.base_model == *base_model && now.slot == *slot)
                .unwrap_or_else(|| panic!("slot {slot} of {base_model} is gone"));
            assert!(now.generation >= *generation, "went back: {now:?}");
        }
    }

    /// Holds the directory of a stopped daemon against all promises.
    pub(crate) fn check_disk(&self, state: &Path) {
        let promises = self.promises();
        let mut newest: BTreeMap<(&str, u32), (u64, &str)> = BTreeMap::new();
        for ((base_model, slot, generation), sha256) in &promises.generations {
            // The keys come in order, so the last one is the newest.
            newest.insert((base_model, *slot), (*generation, sha256));
        }
        for ((base_model, slot), (generation, sha256)) in &newest {
            let exports = state.join(format!("exports/peft/{base_model}/slot-{slot}"));
            let current = std::fs::read_link(exports.join("current")).unwrap();
            assert_eq!(current, PathBuf::from(generation.to_string()));
            assert_eq!(
                names(&exports),
                BTreeSet::from(["current".to_owned(), generation.to_string()])
            );
            let export = exports.join("current");
            assert_eq!(
                names(&export),
                BTreeSet::from([
                    "adapter_config.json".to_owned(),
                    "adapter_model.safetensors".to_owned()
                ])
            );
            assert_eq!(hash(&export.join("adapter_model.safetensors")), *sha256);
            let manifests = state.join(format!("manifests/{base_model}/{slot}"));
            let manifest = format!("{generation}.json");
            assert_eq!(names(&manifests), BTreeSet::from([manifest]));
        }
        let live: BTreeSet<String> = newest.values().map(|(_, sha)| (*sha).to_owned()).collect();
        assert_eq!(tensors(state), live, "tensor files");
        assert_eq!(names(&state.join("staging")), BTreeSet::new());
    }
}

/// An upload that is tried once, under a request id of the test's own.
fn once(task: &str, base_model: &str) -> Upload {
    Upload {
        request_id: Some(format!("{base_model}/{task}")),
        policy: Policy::NEVER,
        ..Upload::new(task, base_model)
    }
}

/// What a daemon that is there answered; `None` if it has gone.
fn here<T>(answer: Result<T, Error>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) if error.is_transient() => None,
        Err(error) => panic!("{error}: {error:?}"),
    }
}

/// The names in a directory; none if it is not there.
pub(crate) fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// SHA-256 of a file.
pub(crate) fn hash(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Digest::of(&bytes).to_string()
}

/// The tensor files, each of which must have its hash as its name.
pub(crate) fn tensors(state: &Path) -> BTreeSet<String> {
    let tensors = state.join("tensors");
    let mut found = BTreeSet::new();
    for part in names(&tensors) {
        for name in names(&tensors.join(&part)) {
            assert_eq!(
                hash(&tensors.join(&part).join(&name)),
                name,
                "a tensor file"
            );
            found.insert(name);
        }
    }
    found
}
