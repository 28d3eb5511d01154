//! Uploads: what is sent, and what happens when the daemon or the disk does otherwise.

use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kmerge_client::error::{Code, ErrorDetails, NotAnAdapter};
use kmerge_client::retry::Policy;
use kmerge_client::v1::AdapterFormat;
use kmerge_client::{Adapter, Error, Upload, UploadEvent};
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::fake::{Fake, OnUpload, Script};
use crate::{adapter_directory, bytes};

const SIZE: usize = 3 * 512 * 1024 + 17;

/// As persistent as usual, without the waiting.
const HASTY: Policy = Policy {
    initial: Duration::from_millis(1),
    longest: Duration::from_millis(2),
    attempts: 4,
    patience: Duration::from_secs(60),
};

fn upload() -> Upload {
    Upload {
        policy: HASTY,
        ..Upload::new("slug-en", "smollm2")
    }
}

fn scripted(on_upload: impl Into<Vec<OnUpload>>) -> Script {
    Script {
        on_upload: on_upload.into().into(),
        ..Script::default()
    }
}

fn queue_full() -> Status {
    let mut details = ErrorDetails::new();
    details
        .set_error_info("QUEUE_FULL", "kmerge.dev", [])
        .set_retry_info(Some(Duration::from_millis(5)));
    Status::with_error_details(Code::ResourceExhausted, "the queue is full", details)
}

#[tokio::test]
async fn the_bytes_arrive_whole_after_their_header() {
    let fake = Fake::start(scripted([])).await;
    let directory = adapter_directory(SIZE);
    let adapter = Adapter::open(directory.path()).await.unwrap();
    let progress = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&progress);
    let answer = fake
        .client()
        .await
        .upload_adapter(&adapter, &upload(), move |event| {
            if let UploadEvent::Sent { bytes, of } = event {
                seen.lock().unwrap().push((bytes, of));
            }
        })
        .await
        .unwrap();
    assert_eq!(answer.job.unwrap().id, 7);
    let script = fake.script();
    let (header, received) = &script.uploads[0];
    assert!(
        *received == bytes(SIZE),
        "other bytes arrived than were sent"
    );
    assert_eq!(
        (header.task.as_str(), header.base_model.as_str()),
        ("slug-en", "smollm2")
    );
    assert_eq!(header.size_bytes, u64::try_from(SIZE).unwrap());
    assert_eq!(header.config, br#"{"r": 2}"#);
    assert_eq!(header.request_id.len(), 36);
    let chunk = 512 * 1024;
    let size = header.size_bytes;
    let expected = [
        (chunk, size),
        (2 * chunk, size),
        (3 * chunk, size),
        (size, size),
    ];
    assert_eq!(*progress.lock().unwrap(), expected);
}

#[tokio::test]
async fn an_adapter_in_memory_is_sent_like_one_on_disk() {
    let fake = Fake::start(scripted([])).await;
    let adapter = Adapter::from_bytes(b"{}".to_vec(), bytes(SIZE).into());
    let upload = Upload {
        request_id: Some("mine".into()),
        ..upload()
    };
    fake.client()
        .await
        .upload_adapter(&adapter, &upload, |_| ())
        .await
        .unwrap();
    let script = fake.script();
    assert!(script.uploads[0].1 == bytes(SIZE));
    assert_eq!(script.uploads[0].0.request_id, "mine");
}

#[tokio::test]
async fn an_early_answer_is_an_answer() {
    let fake = Fake::start(scripted([OnUpload::KnownAlready])).await;
    // More than the connection's window, so that the daemon's answer overtakes the bytes.
    let adapter = Adapter::from_bytes(b"{}".to_vec(), bytes(16 << 20).into());
    let answer = fake
        .client()
        .await
        .upload_adapter(&adapter, &upload(), |_| ())
        .await
        .unwrap();
    assert!(answer.existing);
    assert_eq!(answer.job.unwrap().id, 7);
}

#[tokio::test]
async fn a_full_queue_is_tried_again_under_the_same_request_id() {
    let full = || OnUpload::Refuse(queue_full());
    let fake = Fake::start(scripted([full(), full(), OnUpload::Accept])).await;
    let adapter = Adapter::from_bytes(b"{}".to_vec(), bytes(SIZE).into());
    let waits = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&waits);
    let answer = fake
        .client()
        .await
        .upload_adapter(&adapter, &upload(), move |event| {
            if let UploadEvent::Waiting { wait, error } = event {
                seen.lock().unwrap().push((wait, error.to_string()));
            }
        })
        .await
        .unwrap();
    assert!(answer.job.is_some());
    let script = fake.script();
    let ids: Vec<_> = script
        .uploads
        .iter()
        .map(|(header, _)| &header.request_id)
        .collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let waits = waits.lock().unwrap();
    assert_eq!(waits.len(), 2);
    // The daemon's hint is kept.
    assert!(
        waits
            .iter()
            .all(|(wait, _)| *wait >= Duration::from_millis(5)),
        "{waits:?}"
    );
    assert_eq!(waits[0].1, "the queue is full");
}

#[tokio::test]
async fn a_daemon_that_stops_after_the_last_byte_is_tried_again() {
    let fake = Fake::start(scripted([OnUpload::Vanish, OnUpload::KnownAlready])).await;
    let adapter = Adapter::from_bytes(b"{}".to_vec(), bytes(SIZE).into());
    let answer = fake
        .client()
        .await
        .upload_adapter(&adapter, &upload(), |_| ())
        .await
        .unwrap();
    assert!(answer.existing);
    let script = fake.script();
    assert_eq!(
        script.uploads[0].0.request_id,
        script.uploads[1].0.request_id
    );
}

#[tokio::test]
async fn patience_ends() {
    let refusals = std::iter::repeat_with(|| OnUpload::Refuse(queue_full())).take(9);
    let fake = Fake::start(scripted(refusals.collect::<Vec<_>>())).await;
    let adapter = Adapter::from_bytes(b"{}".to_vec(), bytes(10).into());
    let error = fake
        .client()
        .await
        .upload_adapter(&adapter, &upload(), |_| ())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Refused(r) if r.reason == "QUEUE_FULL"),
        "{error:?}"
    );
    assert_eq!(fake.script().uploads.len(), 4);
}

#[tokio::test]
async fn a_spent_budget_is_not_tried_again() {
    let refuse = OnUpload::Refuse(Status::resource_exhausted("the budget is spent"));
    let fake = Fake::start(scripted([refuse])).await;
    let adapter = Adapter::from_bytes(b"{}".to_vec(), bytes(SIZE).into());
    let error = fake
        .client()
        .await
        .upload_adapter(&adapter, &upload(), |_| ())
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the budget is spent");
    assert_eq!(fake.script().uploads.len(), 1);
}

#[tokio::test]
async fn a_rehearsal_has_a_decision_and_no_job() {
    let fake = Fake::start(scripted([])).await;
    let adapter = Adapter::from_bytes(b"{}".to_vec(), bytes(SIZE).into());
    let upload = Upload {
        validate_only: true,
        ..upload()
    };
    let answer = fake
        .client()
        .await
        .upload_adapter(&adapter, &upload, |_| ())
        .await
        .unwrap();
    assert_eq!(answer.job, None);
    assert_eq!(answer.decision.unwrap().slot, 1);
}

#[tokio::test]
async fn a_file_that_shrinks_meanwhile_is_named() {
    let fake = Fake::start(scripted([])).await;
    let directory = adapter_directory(SIZE);
    let adapter = Adapter::open(directory.path()).await.unwrap();
    let tensors = directory.path().join("adapter_model.safetensors");
    std::fs::OpenOptions::new()
        .write(true)
        .open(tensors)
        .unwrap()
        .set_len(600_000)
        .unwrap();
    let error = fake
        .client()
        .await
        .upload_adapter(&adapter, &upload(), |_| ())
        .await
        .unwrap_err();
    let why = not_an_adapter(error);
    assert_eq!(why, NotAnAdapter::Shrunk);
}

#[tokio::test]
async fn a_file_that_is_written_to_meanwhile_is_refused() {
    let fake = Fake::start(scripted([])).await;
    let directory = adapter_directory(SIZE);
    let adapter = Adapter::open(directory.path()).await.unwrap();
    let tensors = directory.path().join("adapter_model.safetensors");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(tensors)
        .unwrap();
    file.write_at(b"x", 700_000).unwrap();
    let error = fake
        .client()
        .await
        .upload_adapter(&adapter, &upload(), |_| ())
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the bytes are not those of the header");
}

#[tokio::test]
async fn a_file_that_is_replaced_meanwhile_is_still_the_one_that_was_opened() {
    let fake = Fake::start(scripted([])).await;
    let directory = adapter_directory(SIZE);
    let adapter = Adapter::open(directory.path()).await.unwrap();
    let other = directory.path().join("other");
    std::fs::write(&other, b"something else").unwrap();
    std::fs::rename(other, directory.path().join("adapter_model.safetensors")).unwrap();
    fake.client()
        .await
        .upload_adapter(&adapter, &upload(), |_| ())
        .await
        .unwrap();
    assert!(fake.script().uploads[0].1 == bytes(SIZE));
}

fn not_an_adapter(error: Error) -> NotAnAdapter {
    let Error::NotAnAdapter { why, .. } = error else {
        panic!("expected no adapter: {error:?}")
    };
    why
}

#[tokio::test]
async fn directories_that_are_no_adapters_are_refused_by_what_they_lack() {
    let directory = adapter_directory(10);
    let path = |name| directory.path().join(name);
    let open = async || not_an_adapter(Adapter::open(directory.path()).await.unwrap_err());

    std::fs::rename(path("adapter_model.safetensors"), path("adapter_model.bin")).unwrap();
    assert_eq!(open().await, NotAnAdapter::OnlyPickle);
    std::fs::remove_file(path("adapter_model.bin")).unwrap();
    assert_eq!(
        open().await,
        NotAnAdapter::Missing("adapter_model.safetensors")
    );
    std::fs::create_dir(path("adapter_model.safetensors")).unwrap();
    assert_eq!(
        open().await,
        NotAnAdapter::NotAFile("adapter_model.safetensors")
    );
    std::fs::write(path("adapter_config.json"), vec![b' '; 256 * 1024 + 1]).unwrap();
    let large = NotAnAdapter::LargeConfig {
        bytes: 262_145,
        limit: 262_144,
    };
    assert_eq!(open().await, large);
    std::fs::remove_file(path("adapter_config.json")).unwrap();
    assert_eq!(open().await, NotAnAdapter::Missing("adapter_config.json"));
}

#[tokio::test]
async fn formats_are_told_apart_by_content() {
    let directory = adapter_directory(10);
    let path = |name| directory.path().join(name);
    let open = async || Adapter::open(directory.path()).await;
    assert_eq!(open().await.unwrap().format(), AdapterFormat::Peft);
    // mlx-lm's configuration has the same name, and both kinds of tensors may lie beside it.
    std::fs::write(path("adapters.safetensors"), bytes(7)).unwrap();
    assert_eq!(open().await.unwrap().format(), AdapterFormat::Peft);
    std::fs::write(path("adapter_config.json"), r#"{"lora_parameters":{}}"#).unwrap();
    let mlx = open().await.unwrap();
    assert_eq!((mlx.format(), mlx.size_bytes()), (AdapterFormat::Mlx, 7));
    std::fs::remove_file(path("adapters.safetensors")).unwrap();
    let missing = NotAnAdapter::Missing("adapters.safetensors");
    assert_eq!(not_an_adapter(open().await.unwrap_err()), missing);
    // A GGUF file is known by its first bytes, whatever it is called.
    let gguf = [&b"GGUF"[..], &bytes(20)].concat();
    std::fs::write(path("lora.bin"), &gguf).unwrap();
    let adapter = Adapter::open(path("lora.bin")).await.unwrap();
    assert_eq!(adapter.format(), AdapterFormat::Gguf);
    assert_eq!((adapter.config(), adapter.size_bytes()), (&b""[..], 24));
    // A directory without a configuration may hold one.
    std::fs::remove_file(path("adapter_config.json")).unwrap();
    std::fs::rename(path("lora.bin"), path("lora.gguf")).unwrap();
    assert_eq!(open().await.unwrap().format(), AdapterFormat::Gguf);
    std::fs::write(path("other.gguf"), &gguf).unwrap();
    assert_eq!(
        not_an_adapter(open().await.unwrap_err()),
        NotAnAdapter::SeveralGguf
    );
}

#[tokio::test]
async fn a_file_is_no_adapter_and_a_missing_directory_is_a_file_error() {
    let directory = adapter_directory(10);
    let file = directory.path().join("adapter_config.json");
    let error = Adapter::open(file).await.unwrap_err();
    assert!(
        error
            .hint()
            .unwrap()
            .contains(&directory.path().display().to_string())
    );
    assert_eq!(not_an_adapter(error), NotAnAdapter::NotADirectory);
    let error = Adapter::open(directory.path().join("gone"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::File { verb: "open", .. }),
        "{error:?}"
    );
}
