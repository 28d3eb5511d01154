//! Documents and records as storage writes them, here as text: whether they are still what it
//! reads is asked by the test that replays the corpus.

use super::{Seed, seed};

const DIGEST: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn upload() -> String {
    format!(r#"{{"format":"peft","size_bytes":96,"digest":"{DIGEST}","config_digest":"{DIGEST}"}}"#)
}

fn job(state: &str) -> String {
    let upload = upload();
    format!(
        r#"{{"id":7,"base_model":"tiny","task":"french","state":"{state}","attempts":1,"request_id":"r1","upload":{upload},"created":5,"started":6,"ended":7,"result":null,"failure":null}}"#
    )
}

fn member() -> String {
    format!(r#"["french",0.30000000000000004,7,1,null,"peft",96,"{DIGEST}","{DIGEST}",5,true]"#)
}

fn manifest() -> String {
    let (job, member) = (job("done"), member());
    format!(
        r#"{{"base_model":"tiny","base_model_fingerprint":"{DIGEST}","slot":0,"generation":1,"revision":9,"committed":8,"commit":[[0,1],[1,4]],"tensor":{{"digest":"{DIGEST}","bytes":200}},"facts":"{{\"rank\":2}}","reopens":null,"members_since":1,"job":{job},"member_fields":["task","weight_at_join","job","generation","request_id","format","size_bytes","digest","config_digest","created","placed"],"members":[{member}]}}"#
    )
}

const BASE_MODEL: &str = r#"{"name":"tiny","config":"{\"hidden_size\":12}","settings":"{\"slots\":2}","served_as":"tiny","created":5}"#;

/// The documents by their number, as `kmerge_storage::fuzzing::document` counts them.
fn documents() -> [(&'static str, u8, String); 6] {
    let header = format!(
        r#"{{"job":7,"base_model":"tiny","task":"french","request_id":null,"upload":{},"created":5}}"#,
        upload()
    );
    let emptied = manifest()
        .replace(&format!(r#"{{"digest":"{DIGEST}","bytes":200}}"#), "null")
        .replace(&format!("[{}]", member()), "[]");
    [
        ("manifest", 0, manifest()),
        ("manifest-emptied", 0, emptied),
        ("manifest-head", 1, manifest()),
        ("base-model", 2, BASE_MODEL.to_owned()),
        ("staged-header", 3, header),
        ("counter", 4, r#"{"ceiling":1000}"#.to_owned()),
    ]
}

/// The records by the envelope's number of their kind, each with its key.
fn records() -> [(&'static str, u8, &'static str, String); 9] {
    let generation = format!(
        r#"{{"base_model":"tiny","slot":0,"generation":1,"digest":"{DIGEST}","bytes":200,"members":1,"members_since":1,"facts":"{{}}","job":7,"revision":9,"committed":8,"superseded":null}}"#
    );
    let head = format!(
        r#"{{"name":"tiny","settings":"{{}}","served_as":"tiny","created":5,"fingerprint":"{DIGEST}"}}"#
    );
    let event = r#"{"revision":9,"at":8,"event":{"slots_committed":{"base_model":"tiny","job":7,"slots":[[0,1]]}}}"#;
    [
        (
            "position",
            1,
            "position",
            r#"{"revision":9,"last_job":7}"#.to_owned(),
        ),
        ("base-model", 2, "base-model/tiny", head),
        (
            "config",
            3,
            "base-model-config/tiny/00000000",
            "{\"hidden_size\":12}".to_owned(),
        ),
        (
            "generation",
            4,
            "generation/tiny/00000000/0000000000000001",
            generation,
        ),
        ("member", 5, "member/tiny/00000000/00000000", member()),
        ("job", 6, "job/0000000000000007", job("failed")),
        (
            "result",
            7,
            "job-result/0000000000000007",
            "{\"slot\":0}".to_owned(),
        ),
        ("event", 8, "event/0000000000000009", event.to_owned()),
        (
            "emptied",
            9,
            "emptied/tiny/00000000",
            r#"{"base_model":"tiny","slot":0,"generation":1,"job":7,"revision":9,"committed":8}"#
                .to_owned(),
        ),
    ]
}

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, number, body) in documents() {
        let bytes = [&[number + 1], body.as_bytes()].concat();
        seeds.push(seed("document", format!("good-{name}"), bytes));
    }
    for (name, kind, key, payload) in records() {
        let bytes = [&[kind + 5], key.as_bytes(), &[0], payload.as_bytes()].concat();
        seeds.push(seed("document", format!("good-record-{name}"), bytes));
    }
    let envelope =
        format!(r#"{{"kind":"counter","schema":1,"sha256":"{DIGEST}","body":{{"ceiling":1}}}}"#);
    seeds.push(seed(
        "document",
        "wrong-digest",
        [&[0], envelope.as_bytes()].concat(),
    ));
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    seeds.push(seed(
        "document",
        "attack-deep",
        [&[1], deep.as_bytes()].concat(),
    ));
    seeds
}
