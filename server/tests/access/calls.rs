//! Calls: how many, how large, and what becomes of those who do not keep to what they were told.

use kmerge_client::v1;
use kmerge_proto::limits;
use tonic::{Code, Request};
use v1::base_model_service_client::BaseModelServiceClient;
use v1::slot_service_client::SlotServiceClient;

use crate::frames::{Frames, GOAWAY, HEADERS, RST_STREAM, open, reset};
use crate::http::{Raw, STATUS, WATCH, empty, grpc};
use crate::support::calls::{Refusal, message, send};
use crate::support::{Daemon, Setup, eventually};

/// The error codes of HTTP/2 that are looked for.
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let daemon = Setup::default().config("listen.streams = 3").start().await;
    let mut frames = Frames::connect(&daemon.socket()).await;
    // A good client would wait. Requests that do not end keep their streams open.
    for number in 0..4 {
        assert!(frames.send(&open(1 + 2 * number, WATCH, false)).await);
    }
    let refused = loop {
        let frame = frames.next().await.expect("the connection stays");
        if frame.kind == RST_STREAM {
            break frame;
        }
        assert_ne!(frame.kind, HEADERS, "a stream was answered: {frame:?}");
    };
    assert_eq!((refused.stream, refused.code()), (7, REFUSED_STREAM));
    daemon.client().await.get_status().await.unwrap();
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_their_connection_and_no_other() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let resets = 5_000 * u32::try_from(crate::factor()).unwrap();
    let (mut sent, mut connections) = (0, 0);
    while sent < resets {
        let mut frames = Frames::connect(&daemon.socket()).await;
        connections += 1;
        for number in 0..resets {
            let stream = 1 + 2 * number;
            let both = [open(stream, WATCH, false), reset(stream)].concat();
            if !frames.send(&both).await {
                break;
            }
            sent += 1;
        }
        let mut last = None;
        while let Some(frame) = frames.next().await {
            if frame.kind == GOAWAY {
                last = Some(frame.code());
            }
        }
        // Hung up, and mostly there is time to say why.
        assert!(
            last.is_none_or(|code| code == ENHANCE_YOUR_CALM),
            "{last:?}"
        );
        client.get_status().await.unwrap();
    }
    println!("{sent} resets took {connections} connections");
    assert!(connections > 1, "one connection was good for all resets");
    client.get_status().await.unwrap();
    daemon.client().await.get_status().await.unwrap();
    daemon.assert_quiet(&["remotely-reset pending-accept streams"]);
}

async fn busy(config: &str, limit: usize, key: &str) {
    let daemon = Setup::default().config(config).start().await;
    let mut raw = Raw::unix(&daemon.socket()).await;
    let mut open = Vec::new();
    for _ in 0..limit {
        open.push(raw.begin(grpc("kmerged", WATCH, empty())).await.unwrap());
    }
    // On another connection too.
    for raw in [&mut raw, &mut Raw::unix(&daemon.socket()).await] {
        let refusal = raw.ask(grpc("kmerged", STATUS, empty())).await.refusal();
        let found = (refusal.code, refusal.reason.as_str());
        assert_eq!(found, (Code::ResourceExhausted, "CALLS_BUSY"));
        let violations = &refusal.details.quota_failure().unwrap().violations;
        assert_eq!(violations[0].subject, key);
        assert!(refusal.details.retry_info().unwrap().retry_delay.is_some());
    }
    open.pop();
    eventually("a call that ends makes room", async || {
        raw.ask(grpc("kmerged", STATUS, empty())).await.is_ok()
    })
    .await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn one_user_has_so_many_calls() {
    let config = "listen.calls = 9\nlisten.calls_per_user = 4";
    busy(config, 4, "listen.calls_per_user").await;
}

#[tokio::test]
async fn all_together_have_so_many_calls() {
    let config = "listen.calls = 5\nlisten.calls_per_user = 9";
    busy(config, 5, "listen.calls").await;
}

#[tokio::test]
async fn headers_have_a_limit() {
    let daemon = Daemon::start().await;
    let mut raw = Raw::unix(&daemon.socket()).await;
    for (bytes, fits) in [(6 * 1024, true), (9 * 1024, false), (60 * 1024, false)] {
        let mut request = grpc("kmerged", STATUS, empty());
        let value = "x".repeat(bytes).parse().unwrap();
        request.headers_mut().insert("x-large", value);
        let is_ok = match raw.begin(request).await {
            Ok(answer) => answer.status() == 200,
            Err(_) => false,
        };
        assert_eq!(is_ok, fits, "{bytes} bytes");
        if raw.sender.is_closed() {
            raw = Raw::unix(&daemon.socket()).await;
        }
    }
    assert!(raw.ask(grpc("kmerged", STATUS, empty())).await.is_ok());
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn messages_have_a_limit() {
    let daemon = Daemon::start().await;
    let channel = daemon.channel().await;
    let mut slots = SlotServiceClient::new(channel.clone());
    for (bytes, fits) in [(60 * 1024, true), (70 * 1024, false)] {
        let request = v1::GetSlotRequest {
            base_model: "x".repeat(bytes),
            slot: 0,
        };
        let refused = slots.get_slot(request).await.unwrap_err();
        // One that fits is read, and refused for what it says.
        let expected = if fits {
            Code::InvalidArgument
        } else {
            Code::OutOfRange
        };
        assert_eq!(refused.code(), expected, "{bytes}: {refused:?}");
    }
    let mut bases = BaseModelServiceClient::new(channel.clone());
    for (bytes, fits) in [(limits::MAX_CONFIG_BYTES, true), (400 * 1024, false)] {
        let request = v1::RegisterBaseModelRequest {
            name: "b".into(),
            config: vec![b' '; bytes],
            ..v1::RegisterBaseModelRequest::default()
        };
        let refused = bases.register_base_model(request).await.unwrap_err();
        let expected = if fits {
            Code::InvalidArgument
        } else {
            Code::OutOfRange
        };
        assert_eq!(refused.code(), expected, "{bytes}: {refused:?}");
    }
    let huge = vec![0; limits::MAX_MESSAGE_BYTES + 1];
    let content = v1::upload_adapter_request::Content::Chunk(huge.into());
    let refused = send(&channel, vec![message(content)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_callers_deadline_is_kept() {
    // The first registration waits long enough for the deadline to pass first.
    let daemon = Setup::default()
        .env("KMERGE_FAILPOINT", "base_model.file_durable=sleep@1:2000")
        .start()
        .await;
    let mut bases = BaseModelServiceClient::new(daemon.channel().await);
    let mut request = Request::new(v1::RegisterBaseModelRequest {
        name: "b".into(),
        config: std::fs::read(crate::support::goldens().join("base/config.json")).unwrap(),
        ..v1::RegisterBaseModelRequest::default()
    });
    request
        .metadata_mut()
        .insert("grpc-timeout", "50m".parse().unwrap());
    let refused = bases.register_base_model(request).await.unwrap_err();
    // The client's own clock may be first; then it says so without a word of the daemon.
    assert!(
        matches!(refused.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{refused:?}"
    );
    if refused.code() == Code::DeadlineExceeded {
        assert_eq!(Refusal::from(refused).reason, "DEADLINE_PASSED");
    }
}
