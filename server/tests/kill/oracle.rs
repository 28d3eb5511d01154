//! Remembers, outside the state directory, what a daemon has promised, and holds every later run
//! to it.
//!
//! Owned by the test. What holds: only what a client was told is remembered, so that a promise is
//! known exactly from the moment on at which somebody could rely on it. The letters in the checks are
//! those of the invariants in storage's DESIGN.md; (g), that it serves again at all, is checked by
//! whoever starts the daemon.

mod disk;
mod leaving;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use kmerge_client::retry::Policy;
use kmerge_client::{Adapter, Client, Error, Upload, v1};

use crate::support::calls::policy;
use crate::support::goldens;
use leaving::{Budget, Leaving};

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
    /// Base models whose slots keep their members apart.
    packed: BTreeSet<String>,
    /// SHA-256 of each generation that was seen.
    generations: BTreeMap<(String, u32, u64), String>,
    /// SHA-256 of what tasks of slots that keep them apart were served at each generation.
    served: BTreeMap<(Task, u64), String>,
    /// Slot and generation of each job that was seen done.
    done: BTreeMap<u64, (u32, u64)>,
    /// Tasks that were asked to leave.
    leaving: BTreeMap<Task, Leaving>,
    /// Bytes of a slot, where they were changed.
    budgets: BTreeMap<String, Budget>,
    /// The slots as they were when nothing was left to do.
    listed: Vec<v1::Slot>,
}

impl Promises {
    /// Whether anything else than arrivals has changed the base model's slots.
    fn is_rearranged(&self, base_model: &str) -> bool {
        self.budgets.contains_key(base_model)
            || self.leaving.keys().any(|(base, _)| base == base_model)
    }
}

/// What one daemon's clients were told.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    promises: Mutex<Promises>,
    /// Whether the daemon may refuse, because its disk does.
    may_refuse: AtomicBool,
}

impl Oracle {
    fn promises(&self) -> std::sync::MutexGuard<'_, Promises> {
        self.promises.lock().unwrap()
    }

    /// From now on the daemon may refuse what it cannot write, or must not any more.
    pub(crate) fn let_it_refuse(&self, may: bool) {
        self.may_refuse.store(may, Ordering::SeqCst);
    }

    /// What a daemon that is there answered; `None` if it has gone, or refused while it may.
    fn here<T>(&self, answer: Result<T, Error>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(error) if error.is_transient() => None,
            // Superseded generations have no grace here, so one may go while it is asked for.
            Err(Error::NotFound(refusal)) if refusal.reason == "GENERATION_REMOVED" => None,
            Err(Error::Refused(_)) if self.may_refuse.load(Ordering::SeqCst) => None,
            Err(error) => panic!("{error}: {error:?}"),
        }
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
        let is_packed = policy.operator() == v1::Operator::Progressive;
        let request = v1::RegisterBaseModelRequest {
            name: name.to_owned(),
            config: std::fs::read(goldens().join("base/config.json")).unwrap(),
            policy: Some(policy),
            served_as: String::new(),
        };
        self.here(client.register_base_model(request).await)?;
        let mut promises = self.promises();
        promises.base_models.insert(name.to_owned(), count);
        if is_packed {
            promises.packed.insert(name.to_owned());
        }
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
        let job = self.here(answer)?.job.unwrap().id;
        self.acknowledged(&key, job);
        let watch = client.watch_job(job).with_policy(Policy::NEVER);
        let ended = self.here(watch.ended().await)?;
        self.ended(&ended);
        let resolved = client.resolve_task(base_model, task).await;
        if !fails && let Some(found) = self.here(resolved) {
            if self.promises().packed.contains(base_model) {
                self.served(&key, &found);
            } else {
                self.saw(base_model, found.slot, found.generation, &found.sha256);
            }
        }
        Some(())
    }

    /// Remembers what a task was served that its slot keeps apart.
    fn served(&self, task: &Task, found: &v1::ResolveTaskResponse) {
        let key = (task.clone(), found.generation);
        let before = self.promises().served.insert(key, found.sha256.clone());
        assert!(
            before.is_none_or(|before| before == found.sha256),
            "what {task:?} is served has changed: {found:?}"
        );
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
        while let Some(event) = self.here(watch.next().await) {
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
        self.leave_again(client).await;
    }

    /// Holds what the daemon serves against all promises. Its queue must be empty.
    pub(crate) async fn check_served(&self, client: &Client) {
        let jobs = client.list_jobs(None, None).await.unwrap();
        let listed = client.list_slots(None).await.unwrap();
        for slot in &listed {
            self.saw(&slot.base_model, slot.slot, slot.generation, &slot.sha256);
        }
        let mut promises = self.promises();
        promises.listed.clone_from(&listed);
        let mut expected = BTreeSet::new();
        for ((base_model, task), sent) in &promises.sent {
            let of_task: Vec<_> = jobs
                .iter()
                .filter(|job| job.task == *task && job.base_model == *base_model)
                .filter(|job| job.kind() == v1::JobKind::Upload)
                .collect();
            assert_eq!(of_task.len(), 1, "{task} has jobs {of_task:?}");
            assert_eq!(Some(of_task[0].id), sent.job, "{task}");
            let key = (base_model.clone(), task.clone());
            if !sent.fails && !promises.leaving.contains_key(&key) {
                expected.insert(key);
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
            if promises.is_rearranged(&slot.base_model) {
                continue;
            }
            assert_eq!(
                usize::try_from(slot.generation).unwrap(),
                slot.members.len(),
                "one generation for each member: {slot:?}"
            );
            if promises.packed.contains(&slot.base_model) {
                continue;
            }
            let sum: f64 = slot.members.iter().map(|member| member.weight).sum();
            assert!((sum - 1.0).abs() < 1e-9, "weights of {slot:?}");
        }
        for (base_model, slot, generation) in promises.generations.keys() {
            let now = listed
                .iter()
                .find(|now| now.base_model == *base_model && now.slot == *slot);
            let Some(now) = now else {
                // A slot that its last task has left is free.
                assert!(
                    promises.is_rearranged(base_model),
                    "slot {slot} of {base_model} is gone"
                );
                continue;
            };
            assert!(now.generation >= *generation, "went back: {now:?}");
        }
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
