//! Connections: how many, how idle, how fast, and what happens when there are no descriptors left.

use std::time::Duration;

use tokio::net::UnixStream;

use crate::gets_in;
use crate::http::{Raw, STATUS, WATCH, empty, grpc};
use crate::support::{Daemon, Setup, eventually};

/// What the log says of one too many.
const CLOSED: &str = "closed a connection";

/// Connects until one is closed at once, and gives those that are not.
async fn fill(daemon: &Daemon) -> Vec<UnixStream> {
    let mut open = Vec::new();
    loop {
        let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
        if !gets_in(&mut stream).await {
            return open;
        }
        open.push(stream);
    }
}

async fn limited(config: &str, limit: usize, key: &str) {
    let mut daemon = Setup::default().config(config).start().await;
    let client = daemon.client().await;
    // The connection that looked whether the daemon was ready may be seen to close later.
    let mut open = Vec::new();
    eventually("all connections but the client's are open", async || {
        open.extend(fill(&daemon).await);
        open.len() + 1 == limit
    })
    .await;
    assert!(daemon.log().contains(key), "{}", daemon.log());
    // Who is in is served, and a place that is left is had by the next.
    client.get_status().await.unwrap();
    open.pop();
    eventually("there is room for one", async || {
        !fill(&daemon).await.is_empty()
    })
    .await;
    drop(open);
    daemon.stop().await;
    daemon.assert_quiet(&[CLOSED]);
}

#[tokio::test]
async fn one_user_has_so_many() {
    let config = "listen.connections = 64\nlisten.connections_per_user = 5";
    limited(config, 5, "listen.connections_per_user").await;
}

#[tokio::test]
async fn all_together_have_so_many() {
    let config = "listen.connections = 6\nlisten.connections_per_user = 64";
    limited(config, 6, "listen.connections").await;
}

#[tokio::test]
async fn without_being_told_the_limits_are_those_of_the_shipped_configuration() {
    limited("", 16, "listen.connections_per_user").await;
}

#[tokio::test]
async fn the_network_has_half_and_the_socket_the_rest() {
    let config = format!("{}\nlisten.connections = 8", crate::TCP);
    let daemon = Setup::default().config(&config).start().await;
    let mut remote = Vec::new();
    loop {
        let stream = tokio::net::TcpStream::connect(crate::port(&daemon)).await;
        let mut stream = stream.unwrap();
        if !gets_in(&mut stream).await {
            break;
        }
        remote.push(stream);
    }
    assert_eq!(remote.len(), 4);
    daemon.client().await.get_status().await.unwrap();
    daemon.assert_quiet(&[CLOSED]);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_call_is_not() {
    let daemon = Setup::default()
        .config("listen.idle_seconds = 1")
        .start()
        .await;
    let mut busy = Raw::unix(&daemon.socket()).await;
    let watch = busy.begin(grpc("kmerged", WATCH, empty())).await.unwrap();
    // Three in a row, so that the busy one has been open for three times the limit.
    for _ in 0..3 {
        let mut idle = Raw::unix(&daemon.socket()).await;
        assert!(idle.ask(grpc("kmerged", STATUS, empty())).await.is_ok());
        eventually("the idle connection is closed", async || {
            idle.sender.is_closed()
        })
        .await;
    }
    assert!(!busy.sender.is_closed());
    assert!(busy.ask(grpc("kmerged", STATUS, empty())).await.is_ok());
    drop(watch);
    eventually("it is idle now", async || busy.sender.is_closed()).await;
    // A client library does not notice: it connects again.
    let client = daemon.client().await;
    for _ in 0..2 {
        client.get_status().await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    client.get_status().await.unwrap();
    daemon.assert_quiet(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connects_do_not_keep_others_out() {
    let mut daemon = Setup::default().config(crate::TCP).start().await;
    let client = daemon.client().await;
    let (socket, port) = (daemon.socket(), crate::port(&daemon));
    let connects = 2_000 * crate::factor();
    let unix = tokio::spawn(async move {
        for number in 0..connects {
            let stream = UnixStream::connect(&socket).await;
            if number % 3 == 0
                && let Ok(stream) = stream
            {
                // Some say something that is no HTTP/2.
                let _ = stream.try_write(b"GET / HTTP/1.1\r\n\r\n");
            }
        }
    });
    let tcp = tokio::spawn(async move {
        for _ in 0..connects {
            let _ = tokio::net::TcpStream::connect(port).await;
        }
    });
    let mut answers = 0;
    while answers < 50 || !(unix.is_finished() && tcp.is_finished()) {
        client.get_status().await.unwrap();
        answers += 1;
    }
    unix.await.unwrap();
    tcp.await.unwrap();
    println!("{connects} connects each way, {answers} answers meanwhile");
    eventually(
        "a new client gets in",
        async || match kmerge_client::Client::connect(&daemon.socket()).await {
            Ok(client) => client.get_status().await.is_ok(),
            Err(_) => false,
        },
    )
    .await;
    // A flood of connections is not one of the log.
    let lines = daemon
        .log()
        .lines()
        .filter(|line| line.contains(CLOSED))
        .count();
    assert!(lines < 200, "{lines} lines");
    daemon.stop().await;
    daemon.assert_quiet(&[CLOSED]);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_it_waits_and_goes_on_when_they_come_back() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    let daemon = Setup::default()
        .config("listen.connections = 1000\nlisten.connections_per_user = 1000")
        .start()
        .await;
    let client = daemon.client().await;
    let pid = daemon.pid();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    let limit = |current: usize| {
        let limit = Rlimit {
            current: Some(u64::try_from(current).unwrap()),
            maximum: Some(4096),
        };
        let process = Pid::from_raw(i32::try_from(pid).unwrap());
        prlimit(process, Resource::Nofile, limit).unwrap()
    };
    limit(open + 4);
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(UnixStream::connect(daemon.socket()).await.unwrap());
    }
    eventually("there are no descriptors left", async || {
        daemon.log().contains("cannot accept a connection")
    })
    .await;
    // Who is in is served meanwhile, and nothing spins: of the next second it takes a part only.
    let before = cpu_ticks(pid);
    for _ in 0..10 {
        client.list_base_models().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = cpu_ticks(pid) - before;
    assert!(took < 50, "{took} hundredths of a second of processor time");
    held.clear();
    eventually("the daemon takes connections again", async || {
        let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
        gets_in(&mut stream).await
    })
    .await;
    daemon.client().await.list_base_models().await.unwrap();
    limit(4096);
    daemon.assert_quiet(&["cannot accept a connection"]);
}

/// Processor time of a process, in hundredths of a second.
#[cfg(target_os = "linux")]
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = after.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
