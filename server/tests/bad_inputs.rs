//! Bad uploads and bad configurations, each by itself: refused with its own code, reason and
//! words, and nothing is left of it. The daemon that refused them all serves as before.
//!
//! | module | makes |
//! |---|---|
//! | `container` | hostile safetensors files |
//! | `config` | configurations that are malformed or ask for what cannot be merged |
//! | `tensors` | tensors that are no factors, no pairs, not of this base, or hold bad values |
//! | `protocol` | headers that lie and messages out of order |
//! | `base_models` | config.json files that describe no base model |

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the tests read their own files")]

#[path = "bad_inputs/base_models.rs"]
mod base_models;
#[path = "bad_inputs/config.rs"]
mod config;
#[path = "bad_inputs/container.rs"]
mod container;
#[path = "bad_inputs/protocol.rs"]
mod protocol;
mod support;
#[path = "bad_inputs/tensors.rs"]
mod tensors;

use std::collections::BTreeSet;

use kmerge_client::{Health, v1};
use support::calls::{Picture, Refusal, header, messages, policy, register, send};
use support::{BASE, Setup, adapters, calls, eventually};
use tonic::Code;

/// The largest tensor file that the daemon of these tests takes, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// A base model whose budget is smaller than any adapter.
const CRAMPED: &str = "cramped";

/// One bad upload, and the answer that it must get.
struct Case {
    name: String,
    code: Code,
    reason: &'static str,
    /// What the message must say.
    word: &'static str,
    messages: Vec<v1::UploadAdapterRequest>,
}

impl Case {
    fn new(
        name: impl Into<String>,
        (code, reason, word): (Code, &'static str, &'static str),
        messages: Vec<v1::UploadAdapterRequest>,
    ) -> Self {
        Self {
            name: name.into(),
            code,
            reason,
            word,
            messages,
        }
    }

    /// Two files that are announced truthfully: what is wrong is in them.
    fn of_files(
        name: impl Into<String>,
        answer: (Code, &'static str, &'static str),
        config: &[u8],
        tensors: &[u8],
    ) -> Self {
        Self::new(
            name,
            answer,
            messages(header("bad", config, tensors), tensors),
        )
    }
}

/// The configuration that fits the tensors made here.
fn good_config() -> Vec<u8> {
    adapters::small(4, 1).config
}

#[tokio::test]
async fn every_bad_upload_is_refused_by_name_and_leaves_nothing() {
    let mut daemon = Setup::default()
        .config(&format!("uploads.max_bytes = {MAX_BYTES}"))
        .start()
        .await;
    let client = daemon.client().await;
    let channel = daemon.channel().await;
    register(&client, BASE, policy(2)).await;
    let cramped = v1::MergePolicy {
        max_bytes: Some(1000),
        ..policy(2)
    };
    register(&client, CRAMPED, cramped).await;
    let before = Picture::take(&client).await;

    let cases: Vec<Case> = [
        container::cases(),
        config::cases(),
        tensors::cases(),
        protocol::cases(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    assert!(cases.len() >= 60, "{} cases", cases.len());

    let mut wrong = Vec::new();
    for case in cases {
        let name = case.name;
        let refusal = match send(&channel, case.messages).await {
            Err(status) => Refusal::from(status),
            Ok(answer) => {
                wrong.push(format!("{name}: accepted with {answer:?}"));
                continue;
            }
        };
        let as_expected = (refusal.code, refusal.reason.as_str()) == (case.code, case.reason)
            && refusal.message.contains(case.word);
        if !as_expected {
            wrong.push(format!(
                "{name}: expected {:?} {} \"{}\", got {:?} {} \"{}\"",
                case.code, case.reason, case.word, refusal.code, refusal.reason, refusal.message
            ));
        }
        if refusal
            .message
            .contains(&daemon.state().display().to_string())
        {
            wrong.push(format!(
                "{name}: a path is told to strangers: {}",
                refusal.message
            ));
        }
        assert_eq!(
            client.health().await.unwrap(),
            Health::Serving,
            "after {name}"
        );
        eventually(&format!("{name} leaves no staged file"), async || {
            daemon.staged().is_empty()
        })
        .await;
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(Picture::take(&client).await, before);

    // A good one goes the whole way through the same daemon.
    calls::merge(&client, "good", &adapters::small(4, 1).adapter()).await;
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn every_bad_base_model_is_refused_by_name_and_leaves_nothing() {
    let mut daemon = Setup::default().start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(2)).await;
    let known = client.list_base_models().await.unwrap();
    let revision = client.get_status().await.unwrap().revision;
    let mut wrong = Vec::new();
    for (name, (code, reason, word), request) in base_models::cases() {
        match client.register_base_model(request).await {
            Err(error) => {
                let refusal = calls::refusal(error);
                if (refusal.code, refusal.reason.as_str()) != (code, reason)
                    || !refusal.message.contains(word)
                {
                    wrong.push(format!(
                        "{name}: expected {code:?} {reason} \"{word}\", got {refusal:?}"
                    ));
                }
            }
            Ok(base) => wrong.push(format!("{name}: accepted as {base:?}")),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(client.list_base_models().await.unwrap(), known);
    assert_eq!(client.get_status().await.unwrap().revision, revision);
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}
