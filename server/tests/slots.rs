//! Slots as apps and runtimes get them: lists, watches, and the files of each generation.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests look at files from outside"
)]

#[path = "slots/exports.rs"]
mod exports;
#[path = "slots/lists.rs"]
mod lists;
mod support;
#[path = "slots/watching.rs"]
mod watching;

use kmerge_client::{Adapter, Client, Upload, retry::Policy, v1};
use support::calls::ended;

/// Sends an adapter to a base model and waits until it is merged.
async fn merge(client: &Client, base_model: &str, task: &str, adapter: &Adapter) -> v1::Decision {
    let upload = Upload {
        policy: Policy::NEVER,
        ..Upload::new(task, base_model)
    };
    let answer = client.upload_adapter(adapter, &upload, |_| ()).await;
    let job = ended(client, answer.unwrap().job.unwrap().id).await;
    assert_eq!(job.state(), v1::JobState::Done, "{job:?}");
    job.decision.unwrap()
}
