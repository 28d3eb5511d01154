//! Another user of this machine, in a process of its own: kept out, or let in and told no paths,
//! with connections of its own to spend. Only root can become another user; elsewhere these tests say
//! that they are skipped.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use kmerge_client::Client;
use tokio::net::UnixStream;

use crate::gets_in;
use crate::support::adapters::small;
use crate::support::calls::{merge, policy, register};
use crate::support::{BASE, Daemon, Setup};

/// Tells the helpers below where to connect.
const SOCKET: &str = "ACCESS_TEST_SOCKET";

/// A user that is neither root nor the daemon's own.
const STRANGER: u32 = 65_534;

fn socket() -> String {
    std::env::var(SOCKET).unwrap()
}

/// Not a test: the stranger's side of the tests below.
#[tokio::test]
#[ignore = "run by the other tests of this file"]
async fn stranger_connects() {
    let mut stream = UnixStream::connect(socket()).await.unwrap();
    assert!(gets_in(&mut stream).await);
}

/// Not a test: the stranger asks for everything that could tell where things are.
#[tokio::test]
#[ignore = "run by the other tests of this file"]
async fn stranger_looks_around() {
    let client = Client::connect(Path::new(&socket())).await.unwrap();
    let status = client.get_status().await.unwrap();
    let room = Path::new(&socket()).parent().unwrap().to_owned();
    let said = format!("{status:?}");
    assert!(!said.contains(room.to_str().unwrap()), "{said}");
    // An answer whose purpose is a path is one.
    let resolved = client.resolve_task(BASE, "a").await.unwrap();
    assert!(resolved.path.starts_with(room.to_str().unwrap()));
    let wrong = client.get_slot(BASE, 77).await.unwrap_err();
    assert!(!format!("{wrong:?}").contains(room.to_str().unwrap()));
}

/// Runs a helper as the stranger; `None` where that is not possible.
fn as_stranger(daemon: &Daemon, helper: &str) -> Option<bool> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return None;
    }
    // The stranger must be able to reach the socket and the program.
    let program = daemon.room().join("helper");
    if !program.exists() {
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    }
    for path in [daemon.room(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let status = Command::new(&program)
        .args(["--exact", helper, "--ignored"])
        .env(SOCKET, daemon.socket())
        .current_dir("/")
        .uid(STRANGER)
        .gid(STRANGER)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    Some(status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mode_keeps_a_stranger_from_the_socket() {
    let daemon = Daemon::start().await;
    let mode = std::fs::metadata(daemon.socket()).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let state = std::fs::metadata(daemon.state()).unwrap().permissions();
    assert_eq!(state.mode() & 0o077, 0);
    if let Some(got_in) = as_stranger(&daemon, "users::stranger_connects") {
        assert!(!got_in);
    }
    // It did not even come to the daemon.
    daemon.assert_quiet(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_is_not_named_is_closed_at_once() {
    let daemon = Setup::default()
        .config("listen.socket_mode = \"0666\"")
        .start()
        .await;
    if let Some(got_in) = as_stranger(&daemon, "users::stranger_connects") {
        assert!(!got_in);
        assert!(daemon.log().contains("uid=65534"), "{}", daemon.log());
    }
    daemon.client().await.get_status().await.unwrap();
    daemon.assert_quiet(&["refused a connection"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_is_named_is_told_no_directories_of_the_daemon() {
    let daemon = Setup::default()
        .config("listen.socket_mode = \"0666\"\nlisten.allowed_uids = [65534]")
        .start()
        .await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    merge(&client, "a", &small(4, 1).adapter()).await;
    if let Some(seen) = as_stranger(&daemon, "users::stranger_looks_around") {
        assert!(seen, "{}", daemon.log());
    }
    let own = client.get_status().await.unwrap();
    assert_eq!(Path::new(&own.state_directory), daemon.state());
    daemon.assert_quiet(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_all_connections_open_leaves_those_of_others() {
    let daemon = Setup::default()
        .config(
            "listen.socket_mode = \"0666\"\nlisten.allowed_uids = [65534]\n\
             listen.connections = 8\nlisten.connections_per_user = 4",
        )
        .start()
        .await;
    let mut open = Vec::new();
    crate::support::eventually("this user has all that it may have", async || {
        let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
        let is_full = !gets_in(&mut stream).await;
        open.push(stream);
        is_full
    })
    .await;
    if let Some(got_in) = as_stranger(&daemon, "users::stranger_connects") {
        assert!(got_in, "{}", daemon.log());
    }
    assert!(daemon.log().contains("listen.connections_per_user"));
    daemon.assert_quiet(&["closed a connection"]);
}
