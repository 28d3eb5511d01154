//! Slots that keep their members apart: within their bytes at every moment, each task served by an
//! adapter of its own, with figures that hold.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests look at files from outside"
)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use kmerge_client::{Client, v1};
use support::adapters::{Files, demo_directory};
use support::calls::{Refusal, ended, golden, merge, policy, push, register, upload};
use support::tensors::{Matrix, read, updates};
use support::{BASE, Daemon, Setup, files_below};
use tonic::Code;
use v1::fetch_slot_response::Content;
use v1::slot_service_client::SlotServiceClient;

const TENSORS: &str = "adapter_model.safetensors";

/// The real adapters of the demo, in an order that mixes their families.
const TASKS: [&str; 8] = [
    "slug-en",
    "correction-de",
    "lookup-en",
    "longest-de",
    "slug-de",
    "correction-en",
    "lookup-de",
    "longest-en",
];

fn progressive(slots: u32, slot_bytes: u64) -> v1::MergePolicy {
    v1::MergePolicy {
        operator: v1::Operator::Progressive.into(),
        assignment: v1::AssignmentRule::Roomiest.into(),
        slot_bytes: Some(slot_bytes),
        ..policy(slots)
    }
}

async fn register_demo(client: &Client, policy: v1::MergePolicy) {
    let request = v1::RegisterBaseModelRequest {
        name: BASE.to_owned(),
        config: std::fs::read(demo_directory().join("config.json")).unwrap(),
        policy: Some(policy),
        served_as: String::new(),
    };
    client.register_base_model(request).await.unwrap();
}

fn demo(task: &str) -> Files {
    Files::read(&demo_directory().join(task))
}

/// Sends the demo's adapters and waits for each.
async fn push_demo(client: &Client, tasks: &[&str]) -> Vec<v1::Decision> {
    let mut decisions = Vec::new();
    for task in tasks {
        decisions.push(merge(client, task, &demo(task).adapter()).await);
    }
    decisions
}

/// ‖D − D̂‖ / ‖D‖ over all modules, D scaled as the adapter is.
fn error(original: &Files, served: &Path) -> f64 {
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(served.join("adapter_config.json")).unwrap())
            .unwrap();
    assert_eq!(config["r"], config["lora_alpha"], "served in normal form");
    let written: serde_json::Value = serde_json::from_slice(&original.config).unwrap();
    let scaling = written["lora_alpha"].as_f64().unwrap() / written["r"].as_f64().unwrap();
    let truth: BTreeMap<String, Matrix> = updates(&read(&original.tensors))
        .into_iter()
        .map(|(name, update)| (name, update.scaled(scaling)))
        .collect();
    let served = updates(&read(&std::fs::read(served.join(TENSORS)).unwrap()));
    assert!(served.keys().all(|name| truth.contains_key(name)));
    let (mut off, mut all) = (0.0, 0.0);
    for (name, update) in &truth {
        let size = |matrix: &Matrix| matrix.distance(&matrix.scaled(0.0));
        all += size(update).powi(2);
        off += served
            .get(name)
            .map_or_else(|| size(update), |served| update.distance(served))
            .powi(2);
    }
    (off / all).sqrt()
}

/// All that one slot takes on disk: its file and its manifest.
fn on_disk(daemon: &Daemon, slot: &v1::Slot) -> u64 {
    let manifests = daemon.state().join("manifests").join(BASE);
    let manifest = manifests
        .join(slot.slot.to_string())
        .join(format!("{}.json", slot.generation));
    let tensor = daemon
        .state()
        .join("tensors")
        .join(&slot.sha256[..2])
        .join(&slot.sha256);
    let length = |path: &Path| std::fs::metadata(path).unwrap().len();
    assert_eq!(length(&tensor), slot.bytes);
    length(&manifest) + slot.bytes
}

#[tokio::test]
async fn a_slot_never_takes_more_than_its_bytes_and_says_what_that_costs() {
    const BUDGET: u64 = 240_000;
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register_demo(&client, progressive(1, BUDGET)).await;
    let mut before: BTreeMap<String, v1::Fidelity> = BTreeMap::new();
    for (count, task) in (1..).zip(TASKS) {
        let decision = merge(&client, task, &demo(task).adapter()).await;
        let slot = client.get_slot(BASE, 0).await.unwrap();
        assert!(on_disk(&daemon, &slot) <= BUDGET, "{slot:?}");
        assert_eq!(slot.budget_bytes, Some(BUDGET));
        assert_eq!(slot.operator(), v1::Operator::Progressive);
        assert_eq!(slot.members.len(), count);
        assert_eq!(decision.slot_budget_bytes, Some(BUDGET));
        assert_eq!(decision.costs.len(), count);
        let now: BTreeMap<String, v1::Fidelity> = slot
            .members
            .iter()
            .map(|member| (member.task.clone(), member.fidelity.unwrap()))
            .collect();
        for cost in &decision.costs {
            let stored = before.get(&cost.task);
            assert_eq!(
                cost.before.map(|kept| kept.bytes),
                stored.map(|kept| kept.bytes)
            );
            let after = cost.after.unwrap();
            assert_eq!(after.bytes, now[&cost.task].bytes);
            assert!((after.retention - now[&cost.task].retention).abs() < 1e-8);
            assert!(stored.is_none_or(|stored| stored.retention > after.retention - 1e-8));
        }
        before = now;
    }
    let sum: u64 = before.values().map(|kept| kept.bytes).sum();
    let slot = client.get_slot(BASE, 0).await.unwrap();
    assert!(
        sum <= slot.bytes && slot.bytes > BUDGET * 9 / 10,
        "the bytes are used"
    );
    let worst = before
        .values()
        .map(|kept| kept.retention)
        .fold(1.0, f64::min);
    let best = before
        .values()
        .map(|kept| kept.retention)
        .fold(0.0, f64::max);
    assert!(worst > 0.7 && best - worst < 0.1, "{worst} {best}");
}

#[tokio::test]
async fn each_task_is_served_its_own_adapter_within_its_certified_error() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register_demo(&client, progressive(2, 230_000)).await;
    push_demo(&client, &TASKS).await;
    let tasks = client.list_adapters(Some(BASE)).await.unwrap();
    for task in TASKS {
        let resolved = client.resolve_task(BASE, task).await.unwrap();
        let kept = resolved.fidelity.unwrap();
        let path = Path::new(&resolved.path);
        let bytes = std::fs::read(path.join(TENSORS)).unwrap();
        assert_eq!(
            kmerge_storage::Digest::of(&bytes).to_string(),
            resolved.sha256
        );
        let error = error(&demo(task), path);
        assert!(error <= kept.error_bound, "{task}: {error} {kept:?}");
        assert!(error > kept.error_bound - 0.02, "{task}: {error} {kept:?}");
        let listed = tasks.iter().find(|listed| listed.task == task).unwrap();
        assert_eq!(listed.fidelity, Some(kept));
        // Asked again, it is the same directory.
        assert_eq!(client.resolve_task(BASE, task).await.unwrap(), resolved);
    }
}

/// Fetches an export's header and its tensor file.
async fn fetch(
    daemon: &Daemon,
    slot: u32,
    task: &str,
) -> Result<(v1::ExportHeader, Vec<u8>), Refusal> {
    let request = v1::FetchSlotRequest {
        base_model: BASE.to_owned(),
        slot,
        task: task.to_owned(),
        ..v1::FetchSlotRequest::default()
    };
    let mut slots = SlotServiceClient::new(daemon.channel().await);
    let mut stream = slots.fetch_slot(request).await?.into_inner();
    let Some(Content::Header(header)) = stream.message().await?.unwrap().content else {
        panic!("no header");
    };
    let tensors = header
        .files
        .iter()
        .position(|file| file.name == TENSORS)
        .unwrap();
    let mut bytes = Vec::new();
    while let Some(message) = stream.message().await? {
        if let Some(Content::Chunk(chunk)) = message.content
            && usize::try_from(chunk.file).unwrap() == tensors
        {
            bytes.extend_from_slice(&chunk.data);
        }
    }
    Ok((header, bytes))
}

#[tokio::test]
async fn a_fetch_gives_a_task_or_the_mean_of_all() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register_demo(&client, progressive(1, 400_000)).await;
    push_demo(&client, &TASKS[..2]).await;
    let (header, one) = fetch(&daemon, 0, TASKS[0]).await.unwrap();
    assert_eq!(header.task, TASKS[0]);
    let (_, two) = fetch(&daemon, 0, TASKS[1]).await.unwrap();
    let (header, mean) = fetch(&daemon, 0, "").await.unwrap();
    assert_eq!((header.task.as_str(), header.slot), ("", 0));
    let [one, two, mean] = [one, two, mean].map(|bytes| updates(&read(&bytes)));
    let (mut kept, mut all) = (0.0, 0.0);
    for (name, mean) in &mean {
        let (one, two) = (&one[name], &two[name]);
        // |D1 + D2| / 2 is half the distance of one to the other's opposite.
        all += (one.distance(&two.scaled(-1.0)) / 2.0).powi(2);
        kept += mean.distance(&mean.scaled(0.0)).powi(2);
    }
    // The mean of two adapters of rank 2 has rank 4; the best approximation at rank 2 keeps most.
    assert!((0.6..=1.001).contains(&(kept / all)), "{}", kept / all);
    let slot = client.get_slot(BASE, 0).await.unwrap();
    assert!(
        Path::new(&slot.path).join(TENSORS).is_file(),
        "{}",
        slot.path
    );
    assert_eq!(
        fetch(&daemon, 0, "nobody").await.unwrap_err().code,
        Code::NotFound
    );
    assert_eq!(
        fetch(&daemon, 1, "").await.unwrap_err().code,
        Code::NotFound
    );
}

#[tokio::test]
async fn the_order_of_arrival_hardly_matters() {
    let mut figures: Vec<BTreeMap<String, f64>> = Vec::new();
    for turn in 0..3 {
        let daemon = Daemon::start().await;
        let client = daemon.client().await;
        register_demo(&client, progressive(1, 200_000)).await;
        let mut tasks = TASKS;
        tasks.rotate_left(turn * 3);
        if turn == 2 {
            tasks.reverse();
        }
        push_demo(&client, &tasks).await;
        let slot = client.get_slot(BASE, 0).await.unwrap();
        let kept = slot.members.into_iter();
        figures.push(
            kept.map(|member| (member.task, member.fidelity.unwrap().retention))
                .collect(),
        );
    }
    for task in TASKS {
        let found: Vec<f64> = figures.iter().map(|figures| figures[task]).collect();
        let spread =
            found.iter().copied().fold(0.0, f64::max) - found.iter().copied().fold(1.0, f64::min);
        assert!(spread < 0.03, "{task}: {found:?}");
    }
}

#[tokio::test]
async fn a_dry_run_tells_the_price_and_changes_nothing() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register_demo(&client, progressive(1, 150_000)).await;
    push_demo(&client, &TASKS[..3]).await;
    let before = client.get_slot(BASE, 0).await.unwrap();
    let asked = kmerge_client::Upload {
        validate_only: true,
        ..upload(TASKS[3])
    };
    let adapter = demo(TASKS[3]).adapter();
    let answer = client
        .upload_adapter(&adapter, &asked, |_| ())
        .await
        .unwrap();
    let promised = answer.decision.unwrap();
    assert_eq!(promised.costs.len(), 4);
    assert_eq!(promised.costs[3].before, None);
    assert_eq!(client.get_slot(BASE, 0).await.unwrap(), before);
    let done = merge(&client, TASKS[3], &adapter).await;
    for (promised, done) in promised.costs.iter().zip(&done.costs) {
        let bytes = |cost: &v1::MemberCost| cost.after.unwrap().bytes;
        let found = promised.task == done.task;
        assert!(
            !found || bytes(promised) == bytes(done),
            "{promised:?} {done:?}"
        );
    }
    assert_eq!(promised.bytes, done.bytes);
}

#[tokio::test]
async fn a_floor_is_not_fallen_below() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let strict = v1::MergePolicy {
        floor: Some(0.97),
        ..progressive(1, 180_000)
    };
    register_demo(&client, strict).await;
    let mut refused = None;
    for task in TASKS {
        let job = push(&client, task, &demo(task).adapter()).await;
        let job = ended(&client, job.id).await;
        if job.state() == v1::JobState::Failed {
            refused = Some(job.error.unwrap());
            break;
        }
        let slot = client.get_slot(BASE, 0).await.unwrap();
        let kept = slot
            .members
            .iter()
            .map(|member| member.fidelity.unwrap().retention);
        assert!(kept.fold(1.0, f64::min) >= 0.97);
    }
    let refused = refused.expect("eight do not fit at that floor");
    assert_eq!(refused.reason, "BELOW_FLOOR");
    assert_eq!(Code::from_i32(refused.code), Code::FailedPrecondition);
    assert!(
        refused.message.contains("floor is 0.970"),
        "{}",
        refused.message
    );
    assert!(
        refused.message.contains("slot_bytes"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn everything_is_there_again_after_a_kill_and_without_a_catalog() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    register_demo(&client, progressive(2, 200_000)).await;
    push_demo(&client, &TASKS[..5]).await;
    let slots = client.list_slots(Some(BASE)).await.unwrap();
    let resolved = client.resolve_task(BASE, TASKS[1]).await.unwrap();
    assert!(Path::new(&resolved.path).is_dir());
    for lose_catalog in [false, true] {
        daemon.kill();
        if lose_catalog {
            std::fs::remove_dir_all(daemon.state().join("catalog")).unwrap();
        }
        daemon.launch();
        daemon.ready().await;
        let client = daemon.client().await;
        let found = client.list_slots(Some(BASE)).await.unwrap();
        let figures = |slots: &[v1::Slot]| -> Vec<(String, u64, Vec<v1::Member>)> {
            let slots = slots.iter();
            slots
                .map(|slot| (slot.sha256.clone(), slot.generation, slot.members.clone()))
                .collect()
        };
        assert_eq!(figures(&found), figures(&slots));
        // What was made on demand is made again, with the same bytes.
        let again = client.resolve_task(BASE, TASKS[1]).await.unwrap();
        assert_eq!(again.sha256, resolved.sha256);
        let bytes = std::fs::read(Path::new(&again.path).join(TENSORS)).unwrap();
        assert_eq!(kmerge_storage::Digest::of(&bytes).to_string(), again.sha256);
    }
}

#[tokio::test]
async fn adapters_made_on_demand_make_room_for_others_and_go_with_their_generation() {
    let daemon = Setup::default()
        .config("[serving]\ncache_bytes = 2000000\ncache_seconds = 0\ngrace_seconds = 0")
        .start()
        .await;
    let client = daemon.client().await;
    register_demo(&client, progressive(1, 400_000)).await;
    push_demo(&client, &TASKS[..4]).await;
    let derived = daemon.state().join("derived");
    for task in &TASKS[..4] {
        let resolved = client.resolve_task(BASE, task).await.unwrap();
        assert!(Path::new(&resolved.path).join(TENSORS).is_file(), "{task}");
        let kept: u64 = files_below(&derived)
            .iter()
            .map(|file| std::fs::metadata(derived.join(file)).unwrap().len())
            .sum();
        assert!(kept <= 2_000_000, "{kept}");
    }
    push_demo(&client, &TASKS[4..5]).await;
    support::eventually("the old generation's adapters are gone", async || {
        files_below(&derived).is_empty()
    })
    .await;
}

#[tokio::test]
async fn newcomers_fill_free_slots_and_then_go_where_there_is_room() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register_demo(&client, progressive(2, 120_000)).await;
    let decisions = push_demo(&client, &TASKS[..6]).await;
    let slots: Vec<u32> = decisions.iter().map(|decision| decision.slot).collect();
    assert_eq!(&slots[..2], [0, 1]);
    let counts = [0, 1].map(|slot| slots.iter().filter(|&&found| found == slot).count());
    assert_eq!(counts, [3, 3], "{slots:?}");
    for decision in &decisions[2..] {
        assert_eq!(decision.similarities.len(), 2);
        assert!(decision.reason.contains("keeps its worst member best"));
    }
    // Adapters of one family are more alike.
    let slug_de = &decisions[4];
    let of = |slot: u32| {
        let found = slug_de.similarities.iter().find(|found| found.slot == slot);
        found.unwrap().similarity
    };
    assert!(of(slots[0]) > of(1 - slots[0]), "{slug_de:?}");
}

#[tokio::test]
async fn any_small_adapter_can_be_kept_apart() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    register(&client, BASE, progressive(1, 0)).await;
    let names: Vec<String> = std::fs::read_dir(support::goldens().join("adapters"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut kept = 0;
    for name in names {
        let job = push(&client, &name.replace('_', "-"), &golden(&name)).await;
        let job = ended(&client, job.id).await;
        if job.state() == v1::JobState::Done {
            kept += 1;
            let task = name.replace('_', "-");
            let resolved = client.resolve_task(BASE, &task).await.unwrap();
            let bound = resolved.fidelity.unwrap().error_bound;
            assert!(bound >= 0.0, "{name}");
            assert!(Path::new(&resolved.path).join(TENSORS).is_file());
        } else {
            let error = job.error.unwrap();
            assert_eq!(error.reason, "SLOT_FULL", "{name}: {error:?}");
        }
    }
    assert!(kept >= 3, "{kept}");
}
