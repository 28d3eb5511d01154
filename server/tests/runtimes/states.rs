//! How runtimes stand, as it is told: over gRPC, in `kmerge runtimes` and in `kmerge status`.

use kmerge_client::{Client, v1};
use serde_json::json;
use v1::RuntimeCondition;

use super::server::{Fake, Fault, Said};
use super::vllm::Vllm;
use super::{daemon, entry, push, short};
use crate::support::calls::Refusal;
use crate::support::command::Cli;
use crate::support::eventually;

async fn state(client: &Client, name: &str) -> v1::Runtime {
    let runtimes = client.list_runtimes().await.unwrap();
    runtimes
        .into_iter()
        .find(|runtime| runtime.name == name)
        .unwrap()
}

/// Waits until a runtime stands like that.
async fn stands(client: &Client, name: &str, condition: RuntimeCondition) -> v1::Runtime {
    eventually(&format!("{name} is {condition:?}"), async || {
        state(client, name).await.condition() == condition
    })
    .await;
    state(client, name).await
}

#[tokio::test]
async fn a_runtime_is_shown_with_what_it_serves_and_what_is_in_the_way() {
    let mut vllm = Fake::start(Vllm::default()).await;
    let config = entry("gpu", "vllm", &vllm.url(), "") + &entry("dir", "directory", "", "");
    let (daemon, client) = daemon(&config).await;
    let names: Vec<_> = client.list_runtimes().await.unwrap();
    let names: Vec<_> = names.iter().map(|runtime| runtime.name.as_str()).collect();
    assert_eq!(names, ["dir", "gpu"]);

    push(&client, &["a", "b"]).await;
    eventually("it serves the newest", async || {
        let gpu = state(&client, "gpu").await;
        gpu.condition() == RuntimeCondition::Ready && gpu.adapters.len() == 2
    })
    .await;
    let gpu = state(&client, "gpu").await;
    assert_eq!(
        (gpu.kind.as_str(), gpu.address.as_str()),
        ("vllm", vllm.url().as_str())
    );
    assert_eq!(
        gpu.directory,
        daemon.state().join("runtimes/gpu").display().to_string()
    );
    assert!(gpu.answer_time.is_some() && gpu.trouble.is_none());
    for (adapter, task) in gpu.adapters.iter().zip(["a", "b"]) {
        assert_eq!(adapter.alias, format!("tiny-{task}"));
        assert_eq!(adapter.tasks, ["a", "b"], "they share the slot's adapter");
        assert_eq!((adapter.slot, adapter.generation), (0, 2));
        assert_eq!(adapter.serving, adapter.name);
        assert_eq!(short(&adapter.name), "tiny-slot-0.g2");
    }

    // What it serves stays what it serves while the next cannot be loaded.
    let refusal = json!({"error": {"message": "no room", "type": "x", "code": 500}});
    for _ in 0..20 {
        vllm.fault("/v1/load", Fault::Answer(Said::json(500, &refusal)));
    }
    push(&client, &["c"]).await;
    eventually("it says what is in the way", async || {
        let gpu = state(&client, "gpu").await;
        gpu.condition() == RuntimeCondition::Troubled && gpu.adapters.len() == 3
    })
    .await;
    let gpu = state(&client, "gpu").await;
    assert_eq!(short(&gpu.adapters[0].serving), "tiny-slot-0.g2");
    assert_eq!(short(&gpu.adapters[0].name), "tiny-slot-0.g3");
    assert_eq!(gpu.adapters[2].serving, "", "nothing answers for c yet");
    let trouble = gpu.adapters[2].trouble.clone().unwrap();
    assert_eq!(trouble.message, "answered 500: no room");
    assert!(trouble.failures > 0 && trouble.retry_time != trouble.time);

    vllm.pause();
    let gpu = stands(&client, "gpu", RuntimeCondition::Unreachable).await;
    let message = gpu.trouble.unwrap().message;
    assert!(message.starts_with("cannot be reached: "), "{message}");
    let status = client.get_status().await.unwrap();
    let gpu = &status.runtimes[1];
    assert_eq!((gpu.adapters, gpu.up_to_date), (3, 0));
    assert_eq!(gpu.condition(), RuntimeCondition::Unreachable);
    assert_eq!(gpu.message, message);
    assert_eq!(
        status.runtimes[0].up_to_date, 3,
        "the other is none the worse"
    );

    vllm.heal();
    vllm.resume().await;
    stands(&client, "gpu", RuntimeCondition::Ready).await;
    daemon.assert_quiet(&["the runtime refused", "does not answer"]);
}

#[tokio::test]
async fn changes_are_watched() {
    let vllm = Fake::start(Vllm::default()).await;
    let config = entry("gpu", "vllm", &vllm.url(), "") + &entry("dir", "directory", "", "");
    let (daemon, client) = daemon(&config).await;
    let mut all = client.watch_runtimes(None);
    let first = all.next().await.unwrap().name;
    let second = all.next().await.unwrap().name;
    assert_eq!((first.as_str(), second.as_str()), ("dir", "gpu"));
    let mut gpu = client.watch_runtimes(Some("gpu"));
    push(&client, &["a"]).await;
    loop {
        let state = gpu.next().await.unwrap();
        assert_eq!(state.name, "gpu");
        if state
            .adapters
            .iter()
            .any(|adapter| adapter.serving == adapter.name)
        {
            assert_eq!(state.condition(), RuntimeCondition::Ready);
            break;
        }
    }
    let nobody = client.watch_runtimes(Some("nobody")).next().await;
    let said = nobody.unwrap_err().to_string();
    assert!(said.contains("there is no runtime \"nobody\""), "{said}");
    let request = v1::WatchRuntimesRequest {
        name: "nobody".to_owned(),
    };
    let mut raw = v1::runtime_service_client::RuntimeServiceClient::new(daemon.channel().await);
    let refused = raw.watch_runtimes(request).await.map(drop);
    let refused = Refusal::from(refused.unwrap_err());
    assert_eq!(refused.reason, "RUNTIME_UNKNOWN");
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn the_command_line_shows_them() {
    let vllm = Fake::start(Vllm::default()).await;
    let (daemon, client) = daemon(&entry("gpu", "vllm", &vllm.url(), "")).await;
    push(&client, &["a"]).await;
    stands(&client, "gpu", RuntimeCondition::Ready).await;
    eventually("it serves", async || !vllm.loaded().is_empty()).await;
    let cli = Cli::new(&daemon.socket());
    let list = cli.json(&["runtimes"]);
    assert_eq!(list["runtimes"][0]["name"], "gpu");
    let one = cli.json(&["runtimes", "gpu"]);
    assert_eq!(one["condition"], "ready");
    assert_eq!(one["adapters"][0]["serving"], one["adapters"][0]["name"]);
    let status = cli.json(&["status"]);
    assert_eq!(status["runtimes"][0]["up_to_date"], 1);
    let table = cli.done(&["runtimes"]).stdout;
    assert!(table.contains("gpu") && table.contains("ready"), "{table}");
    let mut lines = cli.follow(&["runtimes", "gpu", "--watch", "--json"]);
    assert_eq!(lines.json()["name"], "gpu");
    push(&client, &["b"]).await;
    while lines.json()["adapters"].as_array().unwrap().len() < 2 {}
    assert_eq!(cli.run(&["runtimes", "nobody"]).code, 4);
    daemon.assert_quiet(&[]);
}
