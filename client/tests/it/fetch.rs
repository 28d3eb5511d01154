//! Fetching an export: whole or not at all.

use std::path::Path;

use kmerge_client::error::{Breach, Target};
use kmerge_client::{Error, Fetch, v1};
use tonic::Status;
use v1::fetch_slot_response::Content;

use crate::bytes;
use crate::fake::{Fake, Messages, Script, export, message};

async fn fake(messages: Messages<v1::FetchSlotResponse>) -> Fake {
    Fake::start(Script {
        exports: [messages].into(),
        ..Script::default()
    })
    .await
}

fn into(directory: &Path) -> Fetch {
    Fetch {
        base_model: "smollm2".into(),
        slot: 1,
        generation: 0,
        format: v1::AdapterFormat::Peft,
        into: directory.to_owned(),
        replace: false,
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_files_arrive_under_their_names() {
    let fake = fake(export()).await;
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let fetched = fake.client().await.fetch_slot(&into(&out)).await.unwrap();
    assert_eq!(fetched.header.generation, 2);
    assert_eq!(fetched.directory, out.canonicalize().unwrap());
    assert_eq!(
        names(&out),
        ["adapter_config.json", "adapter_model.safetensors"]
    );
    assert_eq!(names(root.path()), ["out"]);
    let tensors = std::fs::read(out.join("adapter_model.safetensors")).unwrap();
    assert!(
        tensors == bytes(3000),
        "other bytes were written than were sent"
    );
}

/// Fetches what must fail, and checks that nothing is left behind.
async fn breach(messages: Messages<v1::FetchSlotResponse>) -> Error {
    let fake = fake(messages).await;
    let root = tempfile::tempdir().unwrap();
    let error = fake
        .client()
        .await
        .fetch_slot(&into(&root.path().join("out")))
        .await
        .unwrap_err();
    assert_eq!(names(root.path()), [""; 0]);
    error
}

fn header_of(messages: &mut Messages<v1::FetchSlotResponse>) -> &mut v1::ExportHeader {
    match &mut messages[0].as_mut().unwrap().content {
        Some(Content::Header(header)) => header,
        _ => panic!("an export starts with its header"),
    }
}

#[tokio::test]
async fn a_wrong_hash_leaves_nothing() {
    let mut messages = export();
    header_of(&mut messages).files[1].sha256 = "00".repeat(32);
    let error = breach(messages).await;
    let Error::Protocol(Breach::Digest { name, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(name, "adapter_model.safetensors");
}

#[tokio::test]
async fn a_name_with_a_slash_is_never_a_path() {
    for name in ["../evil", "/tmp/evil", "a/b", ".."] {
        let mut messages = export();
        header_of(&mut messages).files[0].name = name.into();
        let error = breach(messages).await;
        assert!(
            matches!(error, Error::Protocol(Breach::FileName(_))),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_dropped_stream_leaves_nothing() {
    let mut messages = export();
    messages.truncate(3);
    let error = breach(messages).await;
    assert!(
        matches!(error, Error::Protocol(Breach::Cut(_))),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_stream_that_ends_with_a_status_says_so() {
    let mut messages = export();
    messages.truncate(3);
    messages.push(Err(Status::data_loss("the tensors of slot 1 are damaged")));
    let error = breach(messages).await;
    assert_eq!(error.to_string(), "the tensors of slot 1 are damaged");
}

#[tokio::test]
async fn too_much_is_refused() {
    let mut messages = export();
    let chunk = v1::ExportChunk {
        file: 1,
        data: b"more".as_slice().into(),
    };
    messages.push(Ok(message(Content::Chunk(chunk))));
    let error = breach(messages).await;
    assert!(
        matches!(error, Error::Protocol(Breach::Sequence(_))),
        "{error:?}"
    );
}

#[tokio::test]
async fn streams_without_a_proper_start_are_refused() {
    let cut = breach(Vec::new()).await;
    assert!(matches!(cut, Error::Protocol(Breach::Cut(_))), "{cut:?}");
    let headless = breach(export().split_off(1)).await;
    assert!(
        matches!(headless, Error::Protocol(Breach::Sequence(_))),
        "{headless:?}"
    );
    let mut twice = export();
    twice.insert(1, export().remove(0));
    let twice = breach(twice).await;
    assert!(
        matches!(twice, Error::Protocol(Breach::Sequence(_))),
        "{twice:?}"
    );
    let empty = breach(vec![Ok(v1::FetchSlotResponse::default())]).await;
    assert!(
        matches!(empty, Error::Protocol(Breach::Missing(_))),
        "{empty:?}"
    );
}

#[tokio::test]
async fn a_full_target_is_refused_before_the_daemon_is_asked() {
    let fake = fake(export()).await;
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("adapter_config.json"), "earlier").unwrap();
    let error = fake
        .client()
        .await
        .fetch_slot(&into(root.path()))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Target {
                why: Target::NotEmpty,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(fake.script().fetched.is_empty());
    let replace = Fetch {
        replace: true,
        ..into(root.path())
    };
    fake.client().await.fetch_slot(&replace).await.unwrap();
    assert_eq!(
        names(root.path()),
        ["adapter_config.json", "adapter_model.safetensors"]
    );
    assert_ne!(
        std::fs::read(root.path().join("adapter_config.json")).unwrap(),
        b"earlier"
    );
}
