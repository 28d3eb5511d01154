//! Starting: one instance for each state directory and socket, permissions, health, reflection.

use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::support::calls::{golden, merge, policy, register};
use crate::support::{BASE, Daemon, Setup};
use crate::{mode, run};

const SERVICES: [&str; 5] = [
    "kmerge.v1.AdapterService",
    "kmerge.v1.AdminService",
    "kmerge.v1.BaseModelService",
    "kmerge.v1.JobService",
    "kmerge.v1.SlotService",
];

#[tokio::test]
async fn nobody_else_gets_at_the_state() {
    let mut daemon = Daemon::start().await;
    assert_eq!(mode(&daemon.socket()), 0o600);
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    merge(&client, "a", &golden("a0")).await;
    merge(&client, "b", &golden("a1")).await;
    assert_eq!(mode(&daemon.state()), 0o700);
    let mut open = vec![daemon.state()];
    let mut looked_at = 0;
    while let Some(path) = open.pop() {
        looked_at += 1;
        if path.symlink_metadata().unwrap().is_symlink() {
            continue;
        }
        let bits = mode(&path);
        assert_eq!(bits & 0o027, 0, "{} is {bits:o}", path.display());
        if path.is_dir() {
            assert_eq!(bits, 0o700, "{}", path.display());
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        } else if path.starts_with(daemon.state().join("tensors")) {
            assert_eq!(bits & 0o222, 0, "{} can be written", path.display());
        }
    }
    assert!(looked_at > 20, "only {looked_at} files");
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_second_instance_is_told_who_is_first() {
    let daemon = Daemon::start().await;
    let state = daemon.state();
    let socket = daemon.room().join("other.sock");
    let second = run(
        &daemon,
        &[
            "--state-dir",
            state.to_str().unwrap(),
            "--socket",
            socket.to_str().unwrap(),
        ],
    );
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{complaint}");
    let process = format!("process {}", daemon.pid());
    assert!(complaint.contains(&process), "{complaint}");
    assert!(complaint.contains(state.to_str().unwrap()), "{complaint}");
    assert!(!socket.exists());
    daemon.client().await.get_status().await.unwrap();
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_socket_in_use_is_left_to_its_owner() {
    let daemon = Daemon::start().await;
    let socket = daemon.socket();
    let state = daemon.room().join("other");
    let arguments = [
        "--state-dir",
        state.to_str().unwrap(),
        "--socket",
        socket.to_str().unwrap(),
    ];
    let second = run(&daemon, &arguments);
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.contains("in use by another process"),
        "{complaint}"
    );
    let status = daemon.client().await.get_status().await.unwrap();
    assert_eq!(status.process_id, daemon.pid());
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_file_is_not() {
    let mut daemon = Daemon::start().await;
    daemon.kill();
    assert!(daemon.socket().exists());
    daemon.restart().await;
    assert!(daemon.log().contains("a socket that nobody listens on"));
    daemon.stop().await;
    assert!(!daemon.socket().exists());
    daemon.assert_quiet(&[]);

    std::fs::write(daemon.socket(), "precious").unwrap();
    daemon.launch();
    assert_eq!(daemon.wait().await.code(), Some(1));
    assert!(daemon.log().contains("is not a socket"), "{}", daemon.log());
    assert_eq!(std::fs::read(daemon.socket()).unwrap(), b"precious");
}

#[tokio::test]
async fn health_is_told_for_each_service() {
    let daemon = Daemon::start().await;
    let mut health = HealthClient::new(daemon.channel().await);
    for service in SERVICES.into_iter().chain([""]) {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let request = HealthCheckRequest {
        service: "kmerge.v1.NoService".to_owned(),
    };
    let unknown = health.check(request).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    daemon.assert_quiet(&[]);
}

async fn reflect(
    daemon: &Daemon,
    request: MessageRequest,
) -> Result<ServerReflectionResponse, tonic::Status> {
    let mut client = ServerReflectionClient::new(daemon.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await?
        .into_inner();
    answers.next().await.unwrap()
}

#[tokio::test]
async fn reflection_is_there_only_when_asked_for() {
    let list = MessageRequest::ListServices(String::new());
    let silent = Daemon::start().await;
    let refused = reflect(&silent, list.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);

    let daemon = Setup::default()
        .config("[listen]\nreflection = true")
        .start()
        .await;
    let answer = reflect(&daemon, list).await.unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
        assert!(names.iter().any(|name| name == service), "{names:?}");
    }
    let symbol = "kmerge.v1.SlotService.ResolveTask".to_owned();
    let answer = reflect(&daemon, MessageRequest::FileContainingSymbol(symbol)).await;
    let answer = answer.unwrap().message_response;
    assert!(
        matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))),
        "{answer:?}"
    );
    daemon.assert_quiet(&[]);
}
