//! What systemd sees: READY and STOPPING on its datagram socket, and a listener that it passed.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use kmerge_client::{Client, v1};
use rustix::process::{Pid, Signal};

use crate::support::daemon::PATIENCE;
use crate::support::{Daemon, Setup, eventually, goldens};

/// Reads states until one has `wanted`.
fn told(manager: &UnixDatagram, wanted: &str) -> String {
    let mut buffer = [0; 4096];
    loop {
        let length = manager.recv(&mut buffer).unwrap();
        let state = String::from_utf8(buffer[..length].to_vec()).unwrap();
        if state.lines().any(|line| line == wanted) {
            return state;
        }
    }
}

#[tokio::test]
async fn the_service_manager_is_told() {
    let mut daemon = Setup::default().prepare();
    let path = daemon.room().join("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    daemon.env("NOTIFY_SOCKET", path.to_str().unwrap());
    daemon.launch();
    let ready = told(&manager, "READY=1");
    assert!(ready.contains("STATUS=ready"), "{ready}");
    // Told that it is ready, anybody may call.
    daemon.client().await.get_status().await.unwrap();

    daemon.signal(Signal::TERM);
    let stopping = told(&manager, "STOPPING=1");
    assert!(stopping.contains("STATUS=stopping"), "{stopping}");
    assert_eq!(daemon.wait().await.code(), Some(0));
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn the_watchdog_is_petted() {
    let mut daemon = Setup::default().prepare();
    let path = daemon.room().join("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    daemon.env("NOTIFY_SOCKET", path.to_str().unwrap());
    daemon.env("WATCHDOG_USEC", "2000000");
    daemon.launch();
    daemon.ready().await;
    for _ in 0..2 {
        told(&manager, "WATCHDOG=1");
    }
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

/// A commit that does not end: the catalog's owner is stuck in it.
const STUCK: (&str, &str) = ("KMERGE_FAILPOINT", "catalog.synced=sleep@2:600000");

/// Sends what the owner gets stuck with.
async fn get_stuck(daemon: &Daemon) -> tokio::task::JoinHandle<()> {
    let client = daemon.client().await;
    tokio::spawn(async move {
        let names = ["one", "two", "three"];
        for name in names {
            let request = v1::RegisterBaseModelRequest {
                name: name.to_owned(),
                config: std::fs::read(goldens().join("base/config.json")).unwrap(),
                ..v1::RegisterBaseModelRequest::default()
            };
            if client.register_base_model(request).await.is_err() {
                return;
            }
        }
    })
}

// Reading from the manager's socket blocks one thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watchdog_hears_nothing_of_a_daemon_that_is_stuck() {
    let mut daemon = Setup::default().prepare();
    let path = daemon.room().join("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    daemon.env("NOTIFY_SOCKET", path.to_str().unwrap());
    daemon.env("WATCHDOG_USEC", "2000000");
    daemon.env(STUCK.0, STUCK.1);
    daemon.launch();
    told(&manager, "WATCHDOG=1");
    let stuck = get_stuck(&daemon).await;
    let mut buffer = [0; 4096];
    let deadline = std::time::Instant::now() + PATIENCE;
    let status = loop {
        assert!(std::time::Instant::now() < deadline, "it was not noticed");
        let length = manager.recv(&mut buffer).unwrap();
        let state = String::from_utf8(buffer[..length].to_vec()).unwrap();
        if state.contains("STATUS=stuck") {
            break state;
        }
    };
    assert!(status.contains("the catalog for"), "{status}");
    assert!(!status.contains("the door"), "{status}");
    // From here on nothing, for several periods.
    manager
        .set_read_timeout(Some(Duration::from_secs(6)))
        .unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(6);
    while std::time::Instant::now() < end {
        let Ok(length) = manager.recv(&mut buffer) else {
            break;
        };
        let state = String::from_utf8_lossy(&buffer[..length]);
        assert!(!state.contains("WATCHDOG=1"), "{state}");
    }
    daemon.kill();
    stuck.abort();
}

#[tokio::test]
async fn a_daemon_that_nobody_watches_ends_itself_and_starts_again() {
    let mut daemon = Setup::default()
        .config("[shutdown]\nstuck_seconds = 2")
        .prepare();
    daemon.env(STUCK.0, STUCK.1);
    daemon.launch();
    daemon.ready().await;
    let stuck = get_stuck(&daemon).await;
    let status = daemon.wait().await;
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{status}");
    assert!(daemon.log().contains("stuck: the catalog for"));
    stuck.abort();
    daemon.clear(STUCK.0);
    daemon.launch();
    daemon.ready().await;
    // What was acknowledged before is there.
    let client = daemon.client().await;
    let listed = client.list_base_models().await.unwrap();
    assert!(listed.iter().any(|base| base.name == "one"), "{listed:?}");
    daemon.stop().await;
}

/// A daemon that got its listener from somebody else, as process 3 of a shell's making.
struct Activated(std::process::Child);

impl Activated {
    fn start(daemon: &Daemon, listener: UnixListener) -> Self {
        let command = daemon.command();
        let log = std::fs::File::create(daemon.room().join("activated.txt")).unwrap();
        // The descriptor must be 3, and the process must be the one that is named.
        let script = r#"exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@""#;
        let child = Command::new("sh")
            .args(["-c", script])
            .arg(command.get_program())
            .args(command.get_args())
            .envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stderr(log)
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        // It may have ended, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_listener_that_was_passed_is_taken_and_left() {
    let daemon = Setup::default().prepare();
    let listener = UnixListener::bind(daemon.socket()).unwrap();
    let kept = listener.try_clone().unwrap();
    let mut activated = Activated::start(&daemon, listener);
    let client = Client::connect(&daemon.socket()).await.unwrap();
    eventually("the daemon serves", async || {
        client.get_status().await.is_ok()
    })
    .await;
    let status = client.get_status().await.unwrap();
    assert_eq!(status.process_id, activated.0.id());

    rustix::process::kill_process(Pid::from_child(&activated.0), Signal::TERM).unwrap();
    eventually("the daemon ends", async || {
        activated.0.try_wait().unwrap().is_some()
    })
    .await;
    assert_eq!(activated.0.wait().unwrap().code(), Some(0));
    // The next connection is the service manager's to take.
    assert!(daemon.socket().exists(), "the socket is the manager's own");
    let again = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    again
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    kept.accept().unwrap();
}
