//! TCP: off unless asked for, and then for whoever has the token and is no web page.

use std::os::unix::fs::PermissionsExt as _;

use kmerge_client::{Address, Client, Error, Network};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::http::{Raw, STATUS, empty, endless, grpc};
use crate::support::adapters::small;
use crate::support::calls::{merge, policy, register};
use crate::support::command::{kmerge, run};
use crate::support::{BASE, Daemon, Setup};
use crate::{TCP, port, with_token};

/// What is in the log when a call was refused.
const REFUSED: &str = "refused a call at the door";

fn token(daemon: &Daemon) -> String {
    let text = std::fs::read_to_string(daemon.state().join("token")).unwrap();
    text.trim().to_owned()
}

#[tokio::test]
async fn it_is_off_by_default() {
    let daemon = Daemon::start().await;
    assert!(!daemon.log().contains("TCP"));
    assert!(!daemon.state().join("token").exists());
    if cfg!(target_os = "linux") {
        // No socket of its own is a TCP one.
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
        for descriptor in descriptors.flatten() {
            let Ok(target) = std::fs::read_link(descriptor.path()) else {
                continue;
            };
            let target = target.to_string_lossy().into_owned();
            if let Some(inode) = target.strip_prefix("socket:[") {
                let inode = format!(" {} ", inode.trim_end_matches(']'));
                assert!(!sockets.contains(&inode), "{target}");
            }
        }
    }
}

#[tokio::test]
async fn the_token_lets_in_and_everything_works() {
    let mut daemon = Setup::default().config(TCP).start().await;
    let mode = std::fs::metadata(daemon.state().join("token")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    let client = Client::connect_to(&with_token(&daemon)).await.unwrap();
    register(&client, BASE, policy(2)).await;
    merge(&client, "a", &small(4, 1).adapter()).await;
    let resolved = client.resolve_task(BASE, "a").await.unwrap();
    assert_eq!((resolved.generation, resolved.path.as_str()), (1, ""));
    // The same token after a restart.
    let before = token(&daemon);
    daemon.restart().await;
    assert_eq!(token(&daemon), before);
    let client = Client::connect_to(&with_token(&daemon)).await.unwrap();
    assert_eq!(client.resolve_task(BASE, "a").await.unwrap().generation, 1);
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn without_the_token_nobody_is_let_in_and_no_body_is_waited_for() {
    let daemon = Setup::default().config(TCP).start().await;
    let address = port(&daemon);
    let authority = address.to_string();
    let mut raw = Raw::tcp(address).await;
    let services = [
        STATUS,
        "/kmerge.v1.AdapterService/UploadAdapter",
        "/kmerge.v1.BaseModelService/RegisterBaseModel",
        "/grpc.health.v1.Health/Check",
        "/no.such.Service/Call",
    ];
    for path in services {
        // The body never comes, so an answer is one that did not wait for it.
        let answer = raw.ask(grpc(&authority, path, endless())).await;
        let refusal = answer.refusal();
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::Unauthenticated, "TOKEN_MISSING"),
            "{path}"
        );
    }
    let right = token(&daemon);
    let cut = &right[..63];
    for wrong in ["", "0", cut, &right.to_uppercase(), &format!("{right}0")] {
        let mut request = grpc(&authority, STATUS, endless());
        let value = format!("Bearer {wrong}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        let refusal = raw.ask(request).await.refusal();
        assert_eq!(refusal.code, Code::Unauthenticated, "{wrong}");
        assert_eq!(refusal.reason, "TOKEN_WRONG", "{wrong}");
    }
    let mut request = grpc(&authority, STATUS, empty());
    let value = format!("Bearer {right}").parse().unwrap();
    request.headers_mut().insert("authorization", value);
    assert!(raw.ask(request).await.is_ok());
    daemon.assert_quiet(&[REFUSED]);
}

#[tokio::test]
async fn web_pages_and_other_names_are_refused_although_they_have_the_token() {
    let daemon = Setup::default().config(TCP).start().await;
    let address = port(&daemon);
    let here = address.to_string();
    let bearer = format!("Bearer {}", token(&daemon));
    let mut raw = Raw::tcp(address).await;
    let ask = |authority: &str, more: &[(&'static str, &str)]| {
        let mut request = grpc(authority, STATUS, endless());
        let headers = request.headers_mut();
        headers.insert("authorization", bearer.parse().unwrap());
        for (name, value) in more {
            headers.insert(*name, value.parse().unwrap());
        }
        request
    };
    // DNS rebinding: a name that somebody else points here.
    for authority in [
        format!("evil.example:{}", address.port()),
        format!("localhost.evil.example:{}", address.port()),
        "localhost:1".to_owned(),
        "localhost".to_owned(),
        format!("0.0.0.0:{}", address.port()),
    ] {
        let refusal = raw.ask(ask(&authority, &[])).await.refusal();
        let found = (refusal.code, refusal.reason.as_str());
        let expected = (Code::PermissionDenied, "AUTHORITY_REFUSED");
        assert_eq!(found, expected, "{authority}");
    }
    for origin in ["https://evil.example", "null", &format!("http://{here}")] {
        let refusal = raw.ask(ask(&here, &[("origin", origin)])).await.refusal();
        let found = (refusal.code, refusal.reason.as_str());
        assert_eq!(
            found,
            (Code::PermissionDenied, "ORIGIN_REFUSED"),
            "{origin}"
        );
    }
    // Nor does the Unix socket answer a web page, however it got there.
    let mut unix = Raw::unix(&daemon.socket()).await;
    let mut request = grpc("kmerged", STATUS, endless());
    let headers = request.headers_mut();
    headers.insert("origin", "null".parse().unwrap());
    assert_eq!(unix.ask(request).await.refusal().reason, "ORIGIN_REFUSED");
    for kind in ["application/grpc-web", "application/json", "text/plain"] {
        let answer = raw.ask(ask(&here, &[("content-type", kind)])).await;
        assert_eq!(answer.http, 415, "{kind}");
        // No service has said anything: not even a status of gRPC.
        assert!(
            answer
                .status()
                .is_none_or(|status| status.code() != Code::Ok)
        );
    }
    let mut get = ask(&here, &[]);
    *get.method_mut() = "GET".parse().unwrap();
    assert_eq!(raw.ask(get).await.http, 405);
    for name in ["localhost", "127.0.0.1", "[::1]"] {
        let authority = format!("{name}:{}", address.port());
        let mut request = ask(&authority, &[]);
        *request.body_mut() = empty();
        assert!(raw.ask(request).await.is_ok(), "{authority}");
    }
    daemon.assert_quiet(&[REFUSED]);
}

#[tokio::test]
async fn http_1_is_not_spoken() {
    let daemon = Setup::default().config(TCP).start().await;
    let bearer = token(&daemon);
    let host = port(&daemon).to_string();
    let head = format!(
        "Host: {host}\r\nAuthorization: Bearer {bearer}\r\nContent-Type: application/grpc\r\n\
         Content-Length: 5\r\n"
    );
    let requests = [
        format!("POST {STATUS} HTTP/1.1\r\n{head}\r\n\0\0\0\0\0"),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("OPTIONS {STATUS} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n\r\n"),
        format!(
            "POST {STATUS} HTTP/1.1\r\n{head}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n\0\0\0\0\0"
        ),
        "GET / HTTP/0.9\r\n\r\n".to_owned(),
        "\0".repeat(64),
    ];
    for request in requests {
        let mut stream = TcpStream::connect(port(&daemon)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // It ends: with frames of HTTP/2 that say so, or at once.
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(
            !text.contains("HTTP/1") && !text.contains("kmerge"),
            "{text}"
        );
    }
    daemon.client().await.get_status().await.unwrap();
    daemon.assert_quiet(&[REFUSED]);
}

#[tokio::test]
async fn a_token_that_others_can_read_keeps_the_daemon_from_starting() {
    let mut daemon = Setup::default().config(TCP).start().await;
    daemon.stop().await;
    let path = daemon.state().join("token");
    let before = token(&daemon);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = daemon.command().output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("chmod 600") && said.contains("0644"),
        "{said}"
    );
    assert!(!said.contains(&before), "{said}");
    // Rotation: without the file a new one is made, and the old one is worth nothing.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(daemon.room().join("old"), &before).unwrap();
    daemon.launch();
    daemon.ready().await;
    assert_ne!(token(&daemon), before);
    let Address::Network(mut network) = with_token(&daemon) else {
        unreachable!("it is a port")
    };
    network.token_file = Some(daemon.room().join("old"));
    let client = Client::connect_to(&Address::Network(network))
        .await
        .unwrap();
    let Err(Error::Refused(refusal)) = client.get_status().await else {
        panic!("the old token still lets in")
    };
    assert_eq!(refusal.reason, "TOKEN_WRONG");
    daemon.assert_quiet(&[REFUSED]);
}

#[test]
fn beyond_loopback_nothing_is_served_without_certificates() {
    let daemon = Setup::default()
        .config("listen.tcp = \"0.0.0.0:0\"")
        .prepare();
    let output = daemon.command().output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(
        said.contains("listen.tcp") && said.contains("client_ca"),
        "{said}"
    );
    assert!(!daemon.state().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_says_what_is_missing() {
    let daemon = Setup::default().config(TCP).start().await;
    let url = format!("http://{}", port(&daemon));
    let file = daemon.state().join("token");
    let ask = |arguments: &[&str]| run(kmerge().args(["--address", &url]).args(arguments));
    let good = ["--token-file", file.to_str().unwrap(), "status", "--json"];
    let status = ask(&good);
    assert_eq!(status.code, 0, "{status:?}");
    assert_eq!(status.json()["state_directory"], "");
    let by_environment = run(kmerge()
        .env("KMERGE_ADDRESS", &url)
        .env("KMERGE_TOKEN_FILE", &file)
        .args(["doctor", "--json"]));
    assert_eq!(by_environment.code, 0, "{by_environment:?}");

    let missing = ask(&["status"]);
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("--token-file"), "{missing:?}");
    let doctor = ask(&["doctor"]);
    assert_eq!(doctor.code, 1);
    assert!(doctor.stdout.contains("KMERGE_TOKEN_FILE"), "{doctor:?}");
    let wrong = daemon.room().join("wrong");
    std::fs::write(&wrong, "0".repeat(64)).unwrap();
    let wrong = ask(&["--token-file", wrong.to_str().unwrap(), "status"]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("copy the token again"), "{wrong:?}");
    let absent = ask(&["--token-file", "/no/such/token", "status"]);
    assert_eq!(absent.code, 2);
    assert!(absent.stderr.contains("/no/such/token"), "{absent:?}");
    let network = Network::new("http://127.0.0.1:1").unwrap();
    let nobody = Client::connect_to(&Address::Network(network)).await;
    let Err(error @ Error::Unreachable { .. }) = nobody else {
        panic!("somebody listens on port 1")
    };
    assert!(error.hint().unwrap().contains("listen.tcp"), "{error:?}");
    daemon.assert_quiet(&[REFUSED]);
}
