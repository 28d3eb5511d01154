//! Taking a backup: whole, or an error.

use kmerge_client::error::Breach;
use kmerge_client::{Error, v1};
use tonic::Status;
use v1::backup_response::Content;

use crate::fake::{Fake, Script};

fn message(content: Content) -> Result<v1::BackupResponse, Status> {
    let content = Some(content);
    Ok(v1::BackupResponse { content })
}

fn header() -> Content {
    Content::Header(v1::BackupHeader {
        contents: Some(v1::BackupContents::default()),
        length: 6,
    })
}

fn chunk(data: &'static [u8]) -> Content {
    let data = data.into();
    Content::Chunk(v1::BackupChunk { data })
}

fn trailer(length: u64) -> Content {
    // Of "abcdef".
    let sha256 = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721".into();
    Content::Trailer(v1::BackupTrailer { sha256, length })
}

async fn taken(
    messages: impl IntoIterator<Item = Content>,
) -> (Result<kmerge_client::Backup, Error>, Vec<u8>) {
    let fake = Fake::start(Script {
        backup: messages.into_iter().map(message).collect(),
        ..Script::default()
    })
    .await;
    let mut bytes = Vec::new();
    let client = fake.client().await;
    let mut sink = |piece: &[u8], total: u64| {
        assert_eq!(total, 6);
        bytes.extend_from_slice(piece);
        Ok(())
    };
    let taken = client.backup(&mut sink).await;
    (taken, bytes)
}

#[tokio::test]
async fn the_bytes_come_in_order() {
    let (taken, bytes) = taken([header(), chunk(b"abc"), chunk(b"def"), trailer(6)]).await;
    assert_eq!(taken.unwrap().length, 6);
    assert_eq!(bytes, b"abcdef");
}

#[tokio::test]
async fn what_is_not_whole_is_an_error() {
    let broken: [(&str, Vec<Content>); 5] = [
        ("cut", vec![header(), chunk(b"abcdef")]),
        ("other bytes", vec![header(), chunk(b"abcdeF"), trailer(6)]),
        (
            "another length",
            vec![header(), chunk(b"abcdef"), trailer(7)],
        ),
        ("no header", vec![chunk(b"abcdef"), trailer(6)]),
        ("two headers", vec![header(), header(), trailer(6)]),
    ];
    for (what, messages) in broken {
        let (taken, _) = taken(messages).await;
        assert!(
            matches!(
                taken,
                Err(Error::Protocol(
                    Breach::Backup | Breach::Cut(_) | Breach::Sequence(_)
                ))
            ),
            "{what}: {taken:?}"
        );
    }
}

#[tokio::test]
async fn a_sink_that_refuses_ends_it() {
    let fake = Fake::start(Script {
        backup: [header(), chunk(b"abcdef"), trailer(6)].map(message).into(),
        ..Script::default()
    })
    .await;
    let full = |_: &[u8], _| Err(std::io::ErrorKind::StorageFull.into());
    let taken = fake.client().await.backup(&mut { full }).await;
    assert!(matches!(taken, Err(Error::Sink(_))), "{taken:?}");
}
