//! In by any way, out by any way.

use kmerge_client::{Client, v1};

use super::{FORMATS, open, pull, register_demo, written};
use crate::support::adapters::demo_directory;
use crate::support::calls::{ended, merge, policy, register, upload};
use crate::support::command::Cli;
use crate::support::{BASE, Daemon};

/// The digest of each slot's file, in order of slot.
async fn digests(client: &Client, base_model: &str) -> Vec<String> {
    let slots = client.list_slots(Some(base_model)).await.unwrap();
    slots.into_iter().map(|slot| slot.sha256).collect()
}

#[tokio::test]
async fn an_adapter_is_the_same_whichever_way_it_comes() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for name in ["a1", "a4-f16", "a4-bf16"] {
        register(&client, name, policy(3)).await;
        for (format, path) in written(name) {
            let adapter = open(&path).await;
            assert_eq!(adapter.format(), format, "{}", path.display());
            let task = format.as_str_name().to_lowercase();
            let upload = kmerge_client::Upload {
                base_model: name.to_owned(),
                ..upload(&task)
            };
            let send = async || {
                let answer = client.upload_adapter(&adapter, &upload, |_| ()).await;
                answer.unwrap()
            };
            let job = ended(&client, send().await.job.unwrap().id).await;
            assert_eq!(job.state(), v1::JobState::Done, "{task}: {:?}", job.error);
            // What was sent is what is remembered, and known again.
            assert_eq!(job.sha256, adapter.sha256());
            let again = send().await;
            assert!(again.existing && again.job.unwrap().id == job.id);
            let kept = client.get_adapter(name, &task).await.unwrap();
            assert_eq!(kept.format(), format);
            assert_eq!(kept.size_bytes, adapter.size_bytes());
        }
        let digests = digests(&client, name).await;
        assert_eq!(digests.len(), 3);
        assert_eq!(digests[0], digests[1], "{name}: PEFT and GGUF");
        assert_eq!(digests[0], digests[2], "{name}: PEFT and MLX");
    }
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_slot_is_the_same_whichever_way_it_goes() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    for name in ["a1", "a2", "a4-bf16"] {
        let [(_, peft), ..] = written(name);
        merge(&client, name, &open(&peft).await).await;
    }
    register(&client, "again", policy(3)).await;
    for (format, word, tensors) in FORMATS {
        let into = daemon.room().join(word);
        let fetched = pull(&client, &into, format, None).await;
        assert_eq!(fetched.header.format(), format);
        assert!(into.join(tensors).is_file(), "{word}");
        // Made once, and the same a second time.
        let again = pull(&client, &into, format, Some("a2")).await;
        assert_eq!(fetched.header.files, again.header.files, "{word}");
        let adapter = open(&into).await;
        assert_eq!(adapter.format(), format);
        let upload = kmerge_client::Upload {
            base_model: "again".to_owned(),
            ..upload(word)
        };
        let answer = client.upload_adapter(&adapter, &upload, |_| ()).await;
        let job = ended(&client, answer.unwrap().job.unwrap().id).await;
        assert_eq!(job.state(), v1::JobState::Done, "{word}: {:?}", job.error);
    }
    let slot = client.get_slot(BASE, 0).await.unwrap();
    let expected = vec![slot.sha256.clone(); 3];
    assert_eq!(digests(&client, "again").await, expected);
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_task_of_a_slot_that_keeps_members_apart_goes_in_every_format() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register_demo(&client).await;
    for task in ["slug-en", "lookup-de", "longest-en"] {
        merge(&client, task, &open(&demo_directory().join(task)).await).await;
    }
    register_from_demo(&client, "again").await;
    for (format, word, tensors) in FORMATS {
        let into = daemon.room().join(word);
        let fetched = pull(&client, &into, format, Some("slug-en")).await;
        assert_eq!(fetched.header.task, "slug-en");
        if word == "gguf" {
            let bytes = std::fs::read(into.join(tensors)).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            assert!(text.contains("slug-en@1"), "the task and its generation");
        }
        let upload = kmerge_client::Upload {
            base_model: "again".to_owned(),
            ..upload(word)
        };
        let answer = client
            .upload_adapter(&open(&into).await, &upload, |_| ())
            .await;
        let job = ended(&client, answer.unwrap().job.unwrap().id).await;
        assert_eq!(job.state(), v1::JobState::Done, "{word}: {:?}", job.error);
        // The slot as a whole goes too.
        pull(&client, &daemon.room().join("whole"), format, None).await;
    }
    let found = digests(&client, "again").await;
    assert_eq!(found, vec![found[0].clone(); 3]);
    daemon.assert_quiet(&[]);
}

async fn register_from_demo(client: &Client, name: &str) {
    let config = demo_directory().join("config.json");
    super::register_from(client, name, &config, policy(3)).await;
}

#[tokio::test]
async fn the_command_line_takes_and_gives_every_format() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(3)).await;
    let cli = Cli::new(&daemon.socket());
    let mut slots = Vec::new();
    for (format, path) in written("a1") {
        let path = path.display().to_string();
        let task = format.as_str_name().to_lowercase();
        cli.done(&["push", &path, "--task", &task, "--dry-run"]);
        let ran = cli.done(&["push", &path, "--task", &task, "--wait", "--json"]);
        slots.push(ran.json()["decision"]["slot"].clone());
    }
    assert_eq!(slots, [0, 1, 2]);
    for (_, word, tensors) in FORMATS {
        let out = daemon.room().join(word);
        let out = out.display().to_string();
        for _ in 0..2 {
            let ran = cli.done(&[
                "pull", "1", "--as", word, "--out", &out, "--force", "--json",
            ]);
            assert_eq!(ran.json()["format"], word);
        }
        assert!(daemon.room().join(word).join(tensors).is_file());
    }
}

/// The header of a GGUF model of the goldens' shape: keys only.
fn model_header() -> Vec<u8> {
    let sized = |text: &str| {
        let length = u64::try_from(text.len()).unwrap();
        [&length.to_le_bytes()[..], text.as_bytes()].concat()
    };
    let numbers = [
        ("block_count", 3_u32),
        ("embedding_length", 64),
        ("feed_forward_length", 96),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 16),
    ];
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(u64::try_from(numbers.len() + 1).unwrap().to_le_bytes());
    bytes.extend(sized("general.architecture"));
    bytes.extend(8_u32.to_le_bytes());
    bytes.extend(sized("llama"));
    for (key, number) in numbers {
        bytes.extend(sized(&format!("llama.{key}")));
        bytes.extend(4_u32.to_le_bytes());
        bytes.extend(number.to_le_bytes());
    }
    bytes
}

#[tokio::test]
async fn a_base_model_may_be_registered_from_its_gguf_file() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, policy(1)).await;
    let cli = Cli::new(&daemon.socket());
    let path = daemon.room().join("model.gguf");
    std::fs::write(&path, model_header()).unwrap();
    let path = path.display().to_string();
    let add = [
        "base",
        "add",
        "from-gguf",
        "--gguf",
        &path,
        "--operator",
        "kmerge-linear",
    ];
    let base = cli.json(&add);
    assert_eq!(base["architecture"], "LlamaForCausalLM");
    assert_eq!(
        (&base["layers"], &base["hidden_size"]),
        (&3.into(), &64.into())
    );
    assert_eq!(cli.json(&add), base, "registering it again changes nothing");
    let [(_, peft), (_, gguf), _] = written("a1");
    merge(&client, "a1", &open(&peft).await).await;
    let gguf = gguf.display().to_string();
    cli.done(&[
        "push",
        &gguf,
        "--task",
        "a1",
        "--base",
        "from-gguf",
        "--wait",
    ]);
    assert_eq!(
        digests(&client, BASE).await,
        digests(&client, "from-gguf").await
    );
    let both = cli.run(&[&add[..], &["--config", &path]].concat());
    assert_eq!(both.code, 2, "{both:?}");
    std::fs::write(daemon.room().join("model.gguf"), b"GGUF").unwrap();
    let cut = cli.run(&add);
    assert_eq!(cut.code, 2);
    assert!(cut.stderr.contains("ends inside its header"), "{cut:?}");
}
