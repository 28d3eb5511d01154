//! Lists are read to their end, and plain calls give what the daemon answers.

use kmerge_client::error::Code;
use kmerge_client::{Error, v1};

use crate::fake::{Fake, Script, base_model, job, slot};

#[tokio::test]
async fn every_list_is_read_page_by_page() {
    let fake = Fake::start(Script {
        base_models: ["a", "b", "c"].map(base_model).into(),
        slots: (0..5).map(|number| slot(number, 1)).collect(),
        jobs: (0..7).map(|id| job(id, v1::JobState::Done)).collect(),
        adapters: vec![v1::Adapter::default(); 3],
        page: 2,
        ..Script::default()
    })
    .await;
    let client = fake.client().await;
    let names: Vec<_> = client
        .list_base_models()
        .await
        .unwrap()
        .into_iter()
        .map(|base| base.name)
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    let slots: Vec<_> = client
        .list_slots(None)
        .await
        .unwrap()
        .into_iter()
        .map(|slot| slot.slot)
        .collect();
    assert_eq!(slots, [0, 1, 2, 3, 4]);
    assert_eq!(client.list_jobs(None, None).await.unwrap().len(), 7);
    assert_eq!(client.list_adapters(Some("a")).await.unwrap().len(), 3);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let fake = Fake::start(Script::default()).await;
    let client = fake.client().await;
    let errors = [
        client.get_job(9).await.unwrap_err(),
        client.get_slot("smollm2", 9).await.unwrap_err(),
        client.get_adapter("smollm2", "x").await.unwrap_err(),
        client.get_base_model("x").await.unwrap_err(),
        client.resolve_task("smollm2", "x").await.unwrap_err(),
        client.watch_job(404).next().await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_words() {
    let fake = Fake::start(Script::default()).await;
    let client = fake.client().await;
    assert_eq!(
        client.cancel_job(2).await.unwrap().state(),
        v1::JobState::Cancelled
    );
    let Error::Refused(refusal) = client.cancel_job(1).await.unwrap_err() else {
        panic!("not refused");
    };
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert_eq!(refusal.message, "job 1 runs and cannot be cancelled");
}
