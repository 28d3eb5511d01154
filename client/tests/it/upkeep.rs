//! Commands that bring no adapter send what they were told, and say what came of it.

use kmerge_client::v1::JobState::Done;
use kmerge_client::v1::{self, WatchJobResponse};

use crate::cli::{furnished, run};
use crate::fake::{Fake, Script, job};

/// A fake whose watched job ends well, having done something.
fn ending_well() -> Script {
    let change = v1::Change {
        reason: "slot 0 gives back 9 bytes".into(),
        forgotten_tasks: vec!["mail".into()],
        ..v1::Change::default()
    };
    let done = v1::Job {
        change: Some(change),
        kind: v1::JobKind::Forget.into(),
        decision: None,
        ..job(7, Done)
    };
    let states = [Ok(WatchJobResponse { job: Some(done) })].into();
    Script {
        job_streams: [states].into(),
        ..furnished()
    }
}

#[tokio::test]
async fn what_was_asked_is_sent() {
    let fake = Fake::start(furnished()).await;
    for (arguments, expected) in [
        (
            vec!["forget", "mail", "--dry-run"],
            r#"ForgetTaskRequest { base_model: "smollm2", task: "mail", request_id: "", validate_only: true }"#,
        ),
        (
            vec![
                "rollback",
                "3",
                "--to",
                "5",
                "--no-wait",
                "--request-id",
                "r",
            ],
            r#"RollbackSlotRequest { base_model: "smollm2", slot: 3, generation: 5, request_id: "r", validate_only: false }"#,
        ),
        (
            vec!["pin", "2", "--no-wait"],
            r#"PinSlotRequest { base_model: "smollm2", slot: 2, pinned: Some(true), request_id: "" }"#,
        ),
        (
            vec!["unpin", "2", "--no-wait", "--base", "other"],
            r#"PinSlotRequest { base_model: "other", slot: 2, pinned: Some(false), request_id: "" }"#,
        ),
        (
            vec![
                "base",
                "set",
                "smollm2",
                "--slots",
                "2",
                "--slot-bytes",
                "1KiB",
                "-n",
            ],
            r#"SetBudgetRequest { base_model: "smollm2", slots: Some(2), max_bytes: None, slot_bytes: Some(1024), floor: None, request_id: "", validate_only: true }"#,
        ),
    ] {
        let (code, stdout, stderr) = run(&fake.socket(), &arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        let is_dry = expected.contains("validate_only: true");
        assert_eq!(stdout.contains("would be: as asked"), is_dry, "{stdout}");
        assert_eq!(stderr.contains("nothing was changed"), is_dry, "{stderr}");
        assert_eq!(fake.script().asked.pop().unwrap(), expected);
    }
    let (code, ..) = run(&fake.socket(), &["base", "set", "smollm2"]);
    assert_eq!(code, 2, "there is nothing to set");
}

#[tokio::test]
async fn the_end_is_waited_for_and_told() {
    let fake = Fake::start(ending_well()).await;
    let (code, stdout, _) = run(&fake.socket(), &["forget", "mail"]);
    assert_eq!(code, 0);
    assert_eq!(stdout, "slot 0 gives back 9 bytes\nforgotten: mail\n");
    let fake = Fake::start(ending_well()).await;
    let (_, stdout, _) = run(&fake.socket(), &["forget", "mail", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(document["kind"], "forget");
    assert_eq!(document["change"]["forgotten_tasks"][0], "mail");
}

#[tokio::test]
async fn a_scrub_that_is_cut_off_has_found_nothing() {
    let fake = Fake::start(furnished()).await;
    let (code, stdout, _) = run(&fake.socket(), &["scrub"]);
    assert_ne!(code, 0);
    assert_eq!(stdout, "");
}
