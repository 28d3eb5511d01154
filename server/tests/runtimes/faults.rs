//! What can go wrong between the daemon and a runtime, and that none of it matters to anyone else.

use serde_json::json;

use super::server::{Fake, Fault, Said};
use super::vllm::Vllm;
use super::{daemon, entry, push};
use crate::support::eventually;

const LOAD: &str = "/v1/load_lora_adapter";
const MODELS: &str = "/v1/models";

/// Waits until exactly these are loaded.
async fn has(vllm: &Fake<Vllm>, names: &[&str]) {
    eventually(&format!("{names:?} are loaded"), async || {
        vllm.loaded() == names
    })
    .await;
}

#[tokio::test]
async fn a_runtime_that_is_not_there_yet_is_told_when_it_comes() {
    let mut vllm = Fake::absent(Vllm::default()).await;
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    // Merges do not wait for it.
    push(&client, &["a", "b", "c"]).await;
    vllm.resume().await;
    // What it missed in between does not come: only what counts now.
    vllm.logs(&["load tiny-slot-0.g3"]).await;
    vllm.pause();
    push(&client, &["d"]).await;
    vllm.resume().await;
    has(&vllm, &["tiny-slot-0.g4"]).await;
    daemon.assert_quiet(&["does not answer"]);
}

#[tokio::test]
async fn merges_go_on_while_a_runtime_hangs_and_others_are_told() {
    let stuck = Fake::start(Vllm::default()).await;
    let well = Fake::start(Vllm::default()).await;
    stuck.fault(LOAD, Fault::Hang);
    let config = entry("stuck", "vllm", &stuck.url(), "load_seconds = 600")
        + &entry("well", "vllm", &well.url(), "");
    let (mut daemon, client) = daemon(&config).await;
    push(&client, &["a"]).await;
    stuck.logs(&["POST /v1/load_lora_adapter hangs"]).await;
    push(&client, &["b", "c"]).await;
    has(&well, &["tiny-slot-0.g3"]).await;
    assert_eq!(stuck.log().len(), 1, "one call at a time");
    // Nor does the stop wait for it.
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_call_that_hangs_is_given_up_and_tried_again() {
    let vllm = Fake::start(Vllm::default()).await;
    vllm.fault(MODELS, Fault::Hang);
    vllm.fault(LOAD, Fault::Hang);
    let more = "load_seconds = 1\ntimeout_seconds = 1";
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), more)).await;
    push(&client, &["a"]).await;
    has(&vllm, &["tiny-slot-0.g1"]).await;
    daemon.assert_quiet(&["does not answer"]);
}

#[tokio::test]
async fn refusals_are_tried_again_and_the_old_one_serves_meanwhile() {
    let vllm = Fake::start(Vllm::default()).await;
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    push(&client, &["a"]).await;
    has(&vllm, &["tiny-slot-0.g1"]).await;
    let body = json!({"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16.",
                                "type": "InternalServerError", "param": null, "code": 500}});
    vllm.fault(LOAD, Fault::Answer(Said::json(500, &body)));
    vllm.fault(LOAD, Fault::Answer(Said::text(409, "conflict")));
    vllm.fault(LOAD, Fault::Break);
    push(&client, &["b"]).await;
    has(&vllm, &["tiny-slot-0.g2"]).await;
    let log = vllm.log();
    let place = |line: &str| log.iter().position(|found| found == line).unwrap();
    assert!(
        place("load tiny-slot-0.g2") < place("unload tiny-slot-0.g1"),
        "{log:?}"
    );
    assert!(daemon.log().contains("greater than max_lora_rank"));
    daemon.assert_quiet(&["the runtime refused", "does not answer"]);
}

#[tokio::test]
async fn a_busy_runtime_is_left_alone_for_as_long_as_it_asks() {
    let vllm = Fake::start(Vllm::default()).await;
    let busy = Said::text(429, "busy").with("retry-after", "1");
    vllm.fault(LOAD, Fault::Answer(busy));
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    push(&client, &["a"]).await;
    has(&vllm, &["tiny-slot-0.g1"]).await;
    daemon.assert_quiet(&["is busy: 429: busy"]);
}

#[tokio::test]
async fn a_load_that_was_done_and_not_confirmed_is_found_done() {
    let vllm = Fake::start(Vllm::default()).await;
    vllm.fault(LOAD, Fault::DoneBut(Said::text(500, "too late")));
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    push(&client, &["a", "b"]).await;
    has(&vllm, &["tiny-slot-0.g2"]).await;
    let loads = vllm
        .log()
        .iter()
        .filter(|line| line.starts_with("load"))
        .count();
    assert_eq!(loads, 2, "{:?}", vllm.log());
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_load_that_was_confirmed_and_not_done_is_not_believed() {
    let vllm = Fake::start(Vllm::default()).await;
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    push(&client, &["a"]).await;
    has(&vllm, &["tiny-slot-0.g1"]).await;
    vllm.look(|vllm| vllm.lies = true);
    push(&client, &["b"]).await;
    eventually("it is tried again", async || {
        let log = vllm.log();
        log.iter()
            .filter(|line| *line == "load tiny-slot-0.g2")
            .count()
            > 1
    })
    .await;
    assert_eq!(vllm.loaded(), ["tiny-slot-0.g1"], "the old one stays");
    vllm.look(|vllm| vllm.lies = false);
    has(&vllm, &["tiny-slot-0.g2"]).await;
    daemon.assert_quiet(&["does not list it"]);
}

#[tokio::test]
async fn answers_that_make_no_sense_are_no_answers() {
    let vllm = Fake::start(Vllm::default()).await;
    for body in ["", "<html>", "{}", "[1]"] {
        vllm.fault(MODELS, Fault::Answer(Said::text(200, body)));
    }
    vllm.fault(MODELS, Fault::Answer(Said::text(200, &" ".repeat(2 << 20))));
    vllm.fault(
        MODELS,
        Fault::Answer(Said::text(302, "over there").with("location", "/x")),
    );
    vllm.fault(MODELS, Fault::Break);
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    push(&client, &["a"]).await;
    // The waits grow, so not all of them need be met.
    eventually("some are met", async || vllm.log().len() >= 3).await;
    assert_eq!(vllm.loaded(), [""; 0]);
    vllm.heal();
    has(&vllm, &["tiny-slot-0.g1"]).await;
    daemon.assert_quiet(&["does not answer"]);
}

#[tokio::test]
async fn oversized_answers_are_not_read() {
    let vllm = Fake::start(Vllm::default()).await;
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    push(&client, &["a"]).await;
    has(&vllm, &["tiny-slot-0.g1"]).await;
    let huge = Said::text(200, &"x".repeat(64 << 20));
    vllm.fault(MODELS, Fault::Answer(huge.clone()));
    vllm.fault(LOAD, Fault::DoneBut(huge));
    push(&client, &["b"]).await;
    has(&vllm, &["tiny-slot-0.g2"]).await;
    let resident = client.get_status().await.unwrap().resident_bytes;
    assert!(resident < 64 << 20, "{resident}");
    daemon.assert_quiet(&["does not answer", "longer than 1048576 bytes"]);
}

#[tokio::test]
async fn a_runtime_that_must_not_be_changed_says_how_to_allow_it() {
    let vllm = Fake::start(Vllm::default()).await;
    let absent = Said::json(404, &json!({"detail": "Not Found"}));
    vllm.fault(LOAD, Fault::Answer(absent));
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    push(&client, &["a"]).await;
    has(&vllm, &["tiny-slot-0.g1"]).await;
    daemon.assert_quiet(&["VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"]);
}
