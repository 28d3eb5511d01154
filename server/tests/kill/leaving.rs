//! Promises about tasks that were asked to leave and about slots that were given other sizes.

use kmerge_client::{Client, Error, retry::Policy, upkeep::Maintained, v1};

use super::Oracle;

/// How far a task is that was asked to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// Nobody was told anything.
    Asked,
    /// The job was acknowledged.
    Accepted(u64),
    /// The job was seen done.
    Gone,
}

/// What a slot's bytes were last set to.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget {
    /// The value that was seen done, and those asked for since, with their request ids.
    done: Option<u64>,
    asked: Vec<(String, u64)>,
}

fn forgetting(base_model: &str, task: &str) -> v1::ForgetTaskRequest {
    v1::ForgetTaskRequest {
        base_model: base_model.to_owned(),
        task: task.to_owned(),
        request_id: format!("forget/{base_model}/{task}"),
        validate_only: false,
    }
}

fn resizing(base_model: &str, request_id: &str, slot_bytes: u64) -> v1::SetBudgetRequest {
    v1::SetBudgetRequest {
        base_model: base_model.to_owned(),
        slot_bytes: Some(slot_bytes),
        request_id: request_id.to_owned(),
        ..v1::SetBudgetRequest::default()
    }
}

impl Oracle {
    /// Tasks of a base model that are known to be merged and were not asked to leave.
    pub(crate) fn merged(&self, base_model: &str) -> Vec<String> {
        let promises = self.promises();
        let merged = promises.sent.iter().filter(|((base, task), sent)| {
            let key = (base.clone(), task.clone());
            let is_done = |job: u64| promises.done.contains_key(&job);
            base == base_model
                && sent.job.is_some_and(is_done)
                && !promises.leaving.contains_key(&key)
        });
        merged.map(|((_, task), _)| task.clone()).collect()
    }

    /// Asks for a task to be taken out and follows the job; `None` once the daemon is gone.
    pub(crate) async fn forget(&self, client: &Client, base_model: &str, task: &str) -> Option<()> {
        let key = (base_model.to_owned(), task.to_owned());
        let known = self.promises().leaving.get(&key).copied();
        let is_new = known.is_none();
        if is_new {
            self.promises().leaving.insert(key.clone(), Leaving::Asked);
        }
        let answer = client.forget_task(forgetting(base_model, task)).await;
        let job = self.here(answer)?.job.unwrap().id;
        // (h) The same request is the same job.
        if let Some(Leaving::Accepted(before)) = known {
            assert_eq!(before, job, "{task} is forgotten by another job");
        }
        self.promises()
            .leaving
            .insert(key.clone(), Leaving::Accepted(job));
        let watch = client.watch_job(job).with_policy(Policy::NEVER);
        let ended = self.here(watch.ended().await)?;
        assert_eq!(ended.state(), v1::JobState::Done, "{ended:?}");
        self.promises().leaving.insert(key, Leaving::Gone);
        // (e) What has left is not served.
        let resolved = client.resolve_task(base_model, task).await;
        match resolved {
            Err(Error::NotFound(_)) => Some(()),
            other => self
                .here(other)
                .map(|found| panic!("{task} is back: {found:?}")),
        }
    }

    /// Gives a base model's slots another size; `None` once the daemon is gone.
    pub(crate) async fn resize(
        &self,
        client: &Client,
        base_model: &str,
        request_id: &str,
        slot_bytes: u64,
    ) -> Option<()> {
        let asked = (request_id.to_owned(), slot_bytes);
        {
            let mut promises = self.promises();
            let budget = promises.budgets.entry(base_model.to_owned()).or_default();
            if !budget.asked.contains(&asked) {
                budget.asked.push(asked);
            }
        }
        let request = resizing(base_model, request_id, slot_bytes);
        let Maintained { job, .. } = self.here(client.set_budget(request).await)?;
        let watch = client.watch_job(job.unwrap().id).with_policy(Policy::NEVER);
        let ended = self.here(watch.ended().await)?;
        assert_eq!(ended.state(), v1::JobState::Done, "{ended:?}");
        let mut promises = self.promises();
        let budget = promises.budgets.entry(base_model.to_owned()).or_default();
        budget.done = Some(slot_bytes);
        budget.asked.clear();
        Some(())
    }

    /// Asks again for what may not have been done, and holds the daemon to what was.
    pub(super) async fn leave_again(&self, client: &Client) {
        let budgets = self.promises().budgets.clone();
        for (base_model, budget) in budgets {
            let found = client.get_base_model(&base_model).await.unwrap();
            let now = found.policy.unwrap().slot_bytes;
            let asked = budget.asked.iter().map(|(_, bytes)| Some(*bytes));
            let mut allowed = std::iter::once(budget.done).chain(asked);
            // (a) and (b): the last value that was acknowledged, or one that was asked for since.
            assert!(
                budget.done.is_none() || allowed.any(|bytes| bytes == now),
                "{base_model}: {now:?} instead of {budget:?}"
            );
            for (request_id, bytes) in budget.asked {
                self.resize(client, &base_model, &request_id, bytes)
                    .await
                    .expect("the daemon stays");
            }
        }
        let leaving = self.promises().leaving.clone();
        for ((base_model, task), how_far) in leaving {
            if how_far == Leaving::Gone {
                // (e) Deleted stays deleted.
                let resolved = client.resolve_task(&base_model, &task).await;
                assert!(
                    matches!(resolved, Err(Error::NotFound(_))),
                    "{task} is back"
                );
            } else {
                self.forget(client, &base_model, &task)
                    .await
                    .expect("the daemon stays");
            }
        }
    }
}
