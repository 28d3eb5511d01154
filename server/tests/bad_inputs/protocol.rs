//! Uploads that break the contract: headers that lie or name nothing, and messages out of order.

use kmerge_client::v1;
use kmerge_proto::limits::{MAX_CHUNK_BYTES, MAX_CONFIG_BYTES, MAX_REQUEST_ID_BYTES};
use tonic::Code::{self, InvalidArgument, NotFound, ResourceExhausted};
use v1::upload_adapter_request::Content;

use crate::support::adapters;
use crate::support::calls::{header, message, messages};
use crate::{CRAMPED, Case, MAX_BYTES};

type Answer = (Code, &'static str, &'static str);

/// A good upload whose header is changed.
fn announced(name: &str, answer: Answer, change: impl FnOnce(&mut v1::UploadHeader)) -> Case {
    let files = adapters::small(4, 1);
    let mut header = header("bad", &files.config, &files.tensors);
    change(&mut header);
    Case::new(name, answer, messages(header, &files.tensors))
}

/// The messages of a good upload after a change.
fn sent(
    name: &str,
    answer: Answer,
    change: impl FnOnce(&mut Vec<v1::UploadAdapterRequest>),
) -> Case {
    let files = adapters::small(4, 1);
    let mut sent = messages(header("bad", &files.config, &files.tensors), &files.tensors);
    change(&mut sent);
    Case::new(name, answer, sent)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = names();
    cases.extend(lies());
    cases.extend(limits());
    cases.extend(order());
    cases
}

fn names() -> Vec<Case> {
    let field = |word| (InvalidArgument, "FIELD_INVALID", word);
    vec![
        announced("no task", field("task"), |header| header.task.clear()),
        announced("a task with capitals", field("'S'"), |header| {
            header.task = "Slug".into()
        }),
        announced("a task that starts with a dot", field("start"), |header| {
            header.task = ".hidden".into()
        }),
        announced("a task that climbs out", field("task"), |header| {
            header.task = "a/../../b".into()
        }),
        announced("a task with a line break", field("\\n"), |header| {
            header.task = "a\nb".into()
        }),
        announced("a task of 129 characters", field("128"), |header| {
            header.task = "a".repeat(129)
        }),
        announced("no base model", field("base_model"), |header| {
            header.base_model.clear()
        }),
        announced("a base model with a space", field("base_model"), |header| {
            header.base_model = "my model".into()
        }),
        announced(
            "a base model nobody registered",
            (NotFound, "BASE_MODEL_UNKNOWN", "kmerge base add"),
            |header| header.base_model = "unheard-of".into(),
        ),
        announced("a format of the future", field("format"), |header| {
            header.format = 42
        }),
    ]
}

fn lies() -> Vec<Case> {
    let field = |word| (InvalidArgument, "FIELD_INVALID", word);
    let size = |word| (InvalidArgument, "SIZE_MISMATCH", word);
    vec![
        announced("no hash", field("sha256"), |header| header.sha256.clear()),
        announced("a hash too short", field("64"), |header| {
            header.sha256.truncate(63)
        }),
        announced("a hash in capitals", field("0-9 and a-f"), |header| {
            header.sha256 = "A".repeat(64)
        }),
        announced(
            "a hash of other bytes",
            (InvalidArgument, "DIGEST_MISMATCH", "SHA-256"),
            |header| header.sha256 = "0".repeat(64),
        ),
        announced("a size too small", size("longer than"), |header| {
            header.size_bytes -= 1
        }),
        announced("a size of nothing", size("longer than"), |header| {
            header.size_bytes = 0
        }),
        announced("a size too large", size("ended after"), |header| {
            header.size_bytes += 1
        }),
    ]
}

fn limits() -> Vec<Case> {
    let exhausted = |reason, word| (ResourceExhausted, reason, word);
    let large = u64::try_from(MAX_BYTES).unwrap() + 1;
    vec![
        announced(
            "a file over the limit",
            exhausted("UPLOAD_TOO_LARGE", "uploads.max_bytes"),
            |header| header.size_bytes = large,
        ),
        announced(
            "a file of 2^64 - 1 bytes",
            exhausted("UPLOAD_TOO_LARGE", "at most"),
            |header| header.size_bytes = u64::MAX,
        ),
        announced(
            "an adapter over the budget",
            exhausted("BUDGET_EXCEEDED", "max_bytes"),
            |header| header.base_model = CRAMPED.into(),
        ),
        announced(
            "a configuration over the limit",
            (InvalidArgument, "FIELD_INVALID", "config"),
            |header| header.config = vec![b' '; MAX_CONFIG_BYTES + 1],
        ),
        announced(
            "a request id over the limit",
            (InvalidArgument, "FIELD_INVALID", "request_id"),
            |header| header.request_id = "x".repeat(MAX_REQUEST_ID_BYTES + 1),
        ),
    ]
}

fn order() -> Vec<Case> {
    let invalid = |reason, word| (InvalidArgument, reason, word);
    let empty = v1::UploadAdapterRequest { content: None };
    vec![
        sent(
            "nothing at all",
            invalid("HEADER_MISSING", "header"),
            Vec::clear,
        ),
        sent(
            "no header",
            invalid("HEADER_MISSING", "UploadHeader first"),
            |sent| drop(sent.remove(0)),
        ),
        sent(
            "an empty message first",
            invalid("EMPTY_MESSAGE", "neither"),
            {
                let empty = empty.clone();
                |sent| sent.insert(0, empty)
            },
        ),
        sent(
            "an empty message later",
            invalid("EMPTY_MESSAGE", "neither"),
            |sent| sent.push(empty),
        ),
        sent(
            "the header twice",
            invalid("SECOND_HEADER", "one header"),
            |sent| sent.insert(1, sent[0].clone()),
        ),
        sent(
            "the header again at the end",
            invalid("SECOND_HEADER", "one header"),
            |sent| sent.push(sent[0].clone()),
        ),
        sent(
            "a header and no bytes",
            invalid("SIZE_MISMATCH", "ended after 0"),
            |sent| sent.truncate(1),
        ),
        sent(
            "a chunk too large",
            invalid("CHUNK_TOO_LARGE", "smaller chunks"),
            |sent| {
                sent[1] = message(Content::Chunk(vec![0; MAX_CHUNK_BYTES + 1].into()));
            },
        ),
    ]
}
