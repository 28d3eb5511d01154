//! Connecting, and what is said when that fails.

use kmerge_client::error::Unreachable;
use kmerge_client::{Address, Client, Error, Health};

use crate::fake::{Fake, Script};

async fn why(socket: &std::path::Path) -> Unreachable {
    match Client::connect(socket).await {
        Err(Error::Unreachable { why, address }) => {
            assert_eq!(*address, Address::from(socket));
            why
        }
        other => panic!("expected nobody there, got {other:?}"),
    }
}

#[tokio::test]
async fn a_daemon_that_listens_is_connected_to() {
    let fake = Fake::start(Script::default()).await;
    assert_eq!(fake.client().await.health().await.unwrap(), Health::Serving);
}

#[tokio::test]
async fn a_socket_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(
        why(&directory.path().join("no.sock")).await,
        Unreachable::Absent
    ));
}

#[tokio::test]
async fn a_file_that_is_no_socket() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(why(file.path()).await, Unreachable::NotASocket));
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(matches!(why(&socket).await, Unreachable::Silent));
}

#[tokio::test]
async fn a_daemon_that_went_away_is_unreachable_and_one_that_came_back_is_found_again() {
    let mut fake = Fake::start(Script::default()).await;
    let client = fake.client().await;
    client.get_status().await.unwrap();
    fake.stop();
    // The first call may still find the connection closing; every one after it finds no socket.
    let _ = client.get_status().await;
    let error = client.get_status().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.is_transient());
    fake.listen().await;
    client.get_status().await.unwrap();
}
