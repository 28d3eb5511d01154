//! Lists page by page, and what is said about things that are not there.

use kmerge_client::v1;
use tonic::{Code, Status};
use v1::adapter_service_client::AdapterServiceClient;
use v1::base_model_service_client::BaseModelServiceClient;
use v1::job_service_client::JobServiceClient;
use v1::slot_service_client::SlotServiceClient;

use crate::merge;
use crate::support::Daemon;
use crate::support::calls::{Refusal, golden, policy, refusal, register};

/// Reads a list page by page and holds it against all that there is; then asks for pages that
/// cannot be given.
async fn page_through<T: PartialEq + std::fmt::Debug>(
    what: &str,
    all: &[T],
    mut page: impl AsyncFnMut(i32, String) -> Result<(Vec<T>, String), Status>,
) {
    assert!(all.len() > 2, "{what}: too few to be paged");
    for size in [1, 2] {
        let mut found = Vec::new();
        let mut token = String::new();
        let mut pages = 0;
        loop {
            let (items, next) = page(size, token).await.unwrap();
            assert!(items.len() <= usize::try_from(size).unwrap(), "{what}");
            assert!(!items.is_empty(), "{what}: an empty page");
            found.extend(items);
            pages += 1;
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(found, all, "{what} in pages of {size}");
        assert_eq!(pages, all.len().div_ceil(usize::try_from(size).unwrap()));
    }
    for size in [0, i32::MAX] {
        let (items, next) = page(size, String::new()).await.unwrap();
        assert_eq!((items.as_slice(), next.as_str()), (all, ""), "{what}");
    }
    for (size, token, field) in [
        (-1, "", "page_size"),
        (i32::MIN, "", "page_size"),
        (1, "no such token", "page_token"),
        (1, "\u{1f980}/../0", "page_token"),
    ] {
        let refused = Refusal::from(page(size, token.to_owned()).await.unwrap_err());
        assert_eq!(refused.code, Code::InvalidArgument, "{what} {size} {token}");
        assert_eq!(refused.reason, "FIELD_INVALID", "{what}");
        let violations = refused.details.bad_request().unwrap();
        assert_eq!(violations.field_violations[0].field, field, "{what}");
    }
}

#[tokio::test]
async fn every_list_is_read_page_by_page() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for name in ["one", "three", "two"] {
        register(&client, name, policy(2)).await;
    }
    for (number, base_model) in ["one", "two", "one", "three", "one"].iter().enumerate() {
        let (task, adapter) = (format!("task-{number}"), golden(&format!("a{number}")));
        merge(&client, base_model, &task, &adapter).await;
    }
    let channel = daemon.channel().await;

    let all = client.list_slots(None).await.unwrap();
    page_through("slots", &all, async |page_size, page_token| {
        let request = v1::ListSlotsRequest {
            base_model: String::new(),
            page_size,
            page_token,
        };
        let answer = SlotServiceClient::new(channel.clone())
            .list_slots(request)
            .await?;
        let page = answer.into_inner();
        Ok((page.slots, page.next_page_token))
    })
    .await;

    let all = client.list_adapters(None).await.unwrap();
    page_through("adapters", &all, async |page_size, page_token| {
        let request = v1::ListAdaptersRequest {
            base_model: String::new(),
            page_size,
            page_token,
        };
        let mut adapters = AdapterServiceClient::new(channel.clone());
        let page = adapters.list_adapters(request).await?.into_inner();
        Ok((page.adapters, page.next_page_token))
    })
    .await;

    let all = client.list_jobs(Some("one"), None).await.unwrap();
    assert!(
        all.windows(2).all(|pair| pair[0].id > pair[1].id),
        "newest first"
    );
    page_through("jobs", &all, async |page_size, page_token| {
        let request = v1::ListJobsRequest {
            base_model: "one".to_owned(),
            state: v1::JobState::Done.into(),
            page_size,
            page_token,
        };
        let answer = JobServiceClient::new(channel.clone())
            .list_jobs(request)
            .await?;
        let page = answer.into_inner();
        Ok((page.jobs, page.next_page_token))
    })
    .await;

    let all = client.list_base_models().await.unwrap();
    page_through("base models", &all, async |page_size, page_token| {
        let request = v1::ListBaseModelsRequest {
            page_size,
            page_token,
        };
        let mut models = BaseModelServiceClient::new(channel.clone());
        let page = models.list_base_models(request).await?.into_inner();
        Ok((page.base_models, page.next_page_token))
    })
    .await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn what_is_not_there_is_not_found_and_named() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, "one", policy(2)).await;
    merge(&client, "one", "there", &golden("a0")).await;

    let mut refusals = Vec::new();
    for (base_model, slot, reason) in [
        ("nobody", 0, "BASE_MODEL_UNKNOWN"),
        ("one", 1, "SLOT_EMPTY"),
        ("one", u32::MAX, "SLOT_EMPTY"),
    ] {
        refusals.push((client.get_slot(base_model, slot).await.unwrap_err(), reason));
    }
    for (base_model, task, reason) in [
        ("nobody", "there", "BASE_MODEL_UNKNOWN"),
        ("one", "nothing", "TASK_UNKNOWN"),
    ] {
        let error = client.resolve_task(base_model, task).await.unwrap_err();
        refusals.push((error, reason));
        let error = client.get_adapter(base_model, task).await.unwrap_err();
        refusals.push((error, reason));
    }
    let error = client.get_base_model("nobody").await.unwrap_err();
    refusals.push((error, "BASE_MODEL_UNKNOWN"));
    let error = client.list_slots(Some("nobody")).await.unwrap_err();
    refusals.push((error, "BASE_MODEL_UNKNOWN"));
    let error = client.get_job(99).await.unwrap_err();
    refusals.push((error, "JOB_UNKNOWN"));
    for (error, reason) in refusals {
        let refused = refusal(error);
        assert_eq!(refused.code, Code::NotFound, "{}", refused.message);
        assert_eq!(refused.reason, reason, "{}", refused.message);
        let named = refused.details.resource_info().unwrap();
        assert!(!named.resource_name.is_empty(), "{named:?}");
    }

    for name in ["", "No Such Name", "../one"] {
        let error = client.resolve_task("one", name).await.unwrap_err();
        let refused = refusal(error);
        assert_eq!(refused.code, Code::InvalidArgument, "{name:?}");
        assert_eq!(refused.reason, "FIELD_INVALID", "{name:?}");
    }
    daemon.assert_quiet(&[]);
}
