//! Who may connect: the daemon's own user and root, and those whom the configuration names.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use kmerge_client::Client;

use crate::support::{Daemon, Setup};

/// Tells the helper below where to connect.
const SOCKET: &str = "PEER_TEST_SOCKET";

/// A user that is neither root nor the daemon's own.
const STRANGER: u32 = 65_534;

/// Not a test: the other user's side of the tests below, run by them in a process of its own.
#[tokio::test]
#[ignore = "run by the other tests of this file"]
async fn connect_as_this_user() {
    let socket = std::env::var(SOCKET).unwrap();
    let client = Client::connect(Path::new(&socket)).await.unwrap();
    let status = client.get_status().await.unwrap();
    // Only the daemon's own user and root are told where things are.
    assert_eq!(
        (status.socket.as_str(), status.state_directory.as_str()),
        ("", "")
    );
    assert_eq!(status.state, "ready");
}

/// Runs this test program's helper as the stranger; `None` where that is not possible.
fn stranger_gets_in(daemon: &Daemon) -> Option<bool> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return None;
    }
    // The stranger must be able to reach the socket and the program.
    for path in [daemon.room().to_owned(), daemon.room().join("helper")] {
        if !path.exists() {
            std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let uid = STRANGER.to_string();
    let helper = daemon.room().join("helper");
    let status = Command::new("setpriv")
        .args(["--reuid", &uid, "--regid", &uid, "--clear-groups"])
        .arg(&helper)
        .args(["--exact", "peers::connect_as_this_user", "--ignored"])
        .env(SOCKET, daemon.socket())
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(status) => Some(status.success()),
        Err(error) => {
            println!("skipped: no setpriv ({error})");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_user_is_kept_out() {
    let daemon = Setup::default()
        .config("[listen]\nsocket_mode = \"0666\"")
        .start()
        .await;
    let Some(got_in) = stranger_gets_in(&daemon) else {
        return;
    };
    assert!(!got_in);
    let log = daemon.log();
    assert!(
        log.contains("refused a connection") && log.contains(&format!("uid={STRANGER}")),
        "{log}"
    );
    // Everybody else is still served.
    daemon.client().await.get_status().await.unwrap();
    daemon.assert_quiet(&["refused a connection"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_was_named_gets_in() {
    let daemon = Setup::default()
        .config("[listen]\nsocket_mode = \"0666\"\nallowed_uids = [65534]")
        .start()
        .await;
    if let Some(got_in) = stranger_gets_in(&daemon) {
        assert!(got_in, "{}", daemon.log());
    }
    daemon.assert_quiet(&[]);
}
