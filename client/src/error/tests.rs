//! What each kind of failure is read as, and whether it is worth another attempt.

use std::time::Duration;

use tonic::Status;
use tonic_types::StatusExt as _;

use super::*;

const SOCKET: &str = "/run/test.sock";

fn read(status: &Status) -> Error {
    Error::from_status(status, &Address::Socket(SOCKET.into()))
}

fn refused(error: Error) -> Refusal {
    let Error::Refused(refusal) = error else {
        panic!("expected a refusal, got {error:?}")
    };
    *refusal
}

#[test]
fn the_daemons_details_are_decoded() {
    let mut details = ErrorDetails::new();
    details
        .set_error_info(
            "QUEUE_FULL",
            "kmerge.dev",
            [("queue_limit".to_owned(), "64".to_owned())],
        )
        .set_retry_info(Some(Duration::from_millis(1500)));
    let error = read(&Status::with_error_details(
        Code::ResourceExhausted,
        "64 jobs wait",
        details,
    ));
    assert_eq!(error.to_string(), "64 jobs wait");
    assert_eq!(error.retry_after(), Some(Duration::from_millis(1500)));
    assert!(error.is_transient());
    assert_eq!(error.hint().as_deref(), Some("try again in 1.5 s"));
    let refusal = refused(error);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::ResourceExhausted, "QUEUE_FULL")
    );
    let info = refusal.details.error_info().expect("it was sent");
    assert_eq!(info.metadata["queue_limit"], "64");
}

#[test]
fn a_spent_budget_is_final() {
    let error = read(&Status::resource_exhausted("the budget is spent"));
    assert!(!error.is_transient());
    assert_eq!(error.hint(), None);
}

#[test]
fn without_details_the_code_is_the_reason() {
    let refusal = refused(read(&Status::new(Code::Internal, "")));
    assert_eq!(refusal.reason, "INTERNAL");
    assert_eq!(refusal.message, "kmerged answered INTERNAL");
}

#[test]
fn not_found_is_its_own_kind() {
    let error = read(&Status::not_found("there is no task \"x\""));
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    assert!(!error.is_transient());
}

#[test]
fn unavailable_from_the_daemon_is_a_refusal_worth_another_attempt() {
    let error = read(&Status::unavailable("stopping"));
    assert!(error.is_transient());
    assert_eq!(refused(error).reason, "UNAVAILABLE");
}

/// What the transport makes of a failure: the cause is boxed inside the status.
fn transport(cause: io::Error) -> Error {
    let mut status = Status::unavailable("transport");
    status.set_source(std::sync::Arc::new(cause));
    read(&status)
}

#[test]
fn the_systems_word_is_found_in_the_chain() {
    let cases = [
        (io::ErrorKind::NotFound, "there is no such socket", true),
        (
            io::ErrorKind::ConnectionRefused,
            "nobody listens on it",
            true,
        ),
        (
            io::ErrorKind::PermissionDenied,
            "you may not open it",
            false,
        ),
        (io::ErrorKind::TimedOut, "no answer came in time", true),
        (
            io::ErrorKind::BrokenPipe,
            "the connection was lost (broken pipe)",
            true,
        ),
        (io::ErrorKind::StorageFull, "no storage space", false),
    ];
    for (kind, text, transient) in cases {
        let error = transport(kind.into());
        assert_eq!(
            error.to_string(),
            format!("cannot reach kmerged at {SOCKET}: {text}")
        );
        assert_eq!(error.is_transient(), transient, "{kind:?}");
        assert!(error.hint().is_some(), "{kind:?}");
    }
}

#[test]
fn hints_for_a_file_name_its_directory() {
    let error = Error::NotAnAdapter {
        path: "adapters/slug/adapter_model.safetensors".into(),
        why: NotAnAdapter::NotADirectory,
    };
    assert_eq!(
        error.hint().as_deref(),
        Some("name the directory, perhaps adapters/slug")
    );
}

#[test]
fn every_code_has_its_own_name() {
    let mut names: Vec<_> = (0..17)
        .map(|code| code_name(Code::from_i32(code)))
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 17);
}
