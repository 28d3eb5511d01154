//! What commands do: an adapter goes in, a slot changes, files come out.

use std::path::Path;

use kmerge_storage::Digest;
use serde_json::{Value, json};

use crate::support::adapters::{self, Files, Tensor, Tensors, factor};
use crate::support::command::{kmerge, run};
use crate::support::{BASE, Setup, tensors};
use crate::{furnish, furnished, golden, push};

/// An adapter of modules that no golden adapter has.
pub(crate) fn mlp_adapter() -> Files {
    let tensors = (0..3).flat_map(|layer| {
        [("A", [4, 64]), ("B", [96, 4])]
            .map(|(name, shape)| Tensor::random(factor(layer, "mlp.up_proj", name), &shape, 5))
    });
    Files {
        config: Value::Object(adapters::config(4)).to_string().into_bytes(),
        tensors: Tensors(tensors.collect()).file(),
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_tells_what_will_be() {
    let (daemon, cli) = furnished().await;
    push(&cli, &["a0", "a1"]);
    let before = cli.json(&["status"])["revision"].clone();
    let dry = cli.json(&["push", &golden("a2"), "--task", "a2", "--dry-run"]);
    assert_eq!(cli.json(&["status"])["revision"], before);
    assert_eq!(dry["task"], "a2");
    let job = cli.json(&["push", &golden("a2"), "--task", "a2", "--wait"]);
    assert_eq!(job["state"], "done");
    for field in [
        "assignment",
        "slot",
        "generation",
        "similarities",
        "reason",
        "rank",
        "bytes",
    ] {
        assert_eq!(dry["decision"][field], job["decision"][field], "{field}");
    }
    assert_ne!(cli.json(&["status"])["revision"], before);
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn pushing_again_gives_the_same_job() {
    let (daemon, cli) = furnished().await;
    let first = cli.json(&["push", &golden("a0"), "--task", "a0", "--request-id", "r1"]);
    assert_eq!(first["request_id"], "r1");
    for more in [
        vec![],
        vec!["--request-id", "r1"],
        vec!["--request-id", "r2"],
    ] {
        let arguments = ["push", &golden("a0"), "--task", "a0"];
        let again = cli.json(&[&arguments[..], &more].concat());
        assert_eq!(again["id"], first["id"], "{more:?}");
    }
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_watch_gives_what_is_and_what_comes() {
    let (daemon, cli) = furnished().await;
    push(&cli, &["a0"]);
    let mut all = cli.follow(&["watch", "--json"]);
    let first = all.json();
    assert_eq!(
        (&first["slot"], &first["generation"]),
        (&json!(0), &json!(1))
    );
    let after = first["revision"].to_string();
    push(&cli, &["a1", "a2"]);
    let mut later = cli.follow(&["watch", "--json", "--after", &after]);
    let mut people = cli.follow(&["watch", "--after", &after]);
    for (slot, generation, tasks) in [(1, 1, vec!["a1"]), (0, 2, vec!["a0", "a2"])] {
        for watch in [&mut all, &mut later] {
            let change = watch.json();
            assert_eq!(
                (&change["slot"], &change["generation"]),
                (&json!(slot), &json!(generation))
            );
            let members: Vec<_> = change["members"]
                .as_array()
                .unwrap()
                .iter()
                .map(|member| &member["task"])
                .collect();
            assert_eq!(members, tasks, "{change}");
        }
        let line = people.next();
        assert!(
            line.contains(&format!("slot {slot}")) || line.contains(&slot.to_string()),
            "{line}"
        );
    }
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn what_is_resolved_and_pulled_is_the_adapter() {
    let (daemon, cli) = furnished().await;
    push(&cli, &["a0", "a1", "a2"]);
    let resolved = cli.json(&["resolve", "a2"]);
    let served = Path::new(resolved["path"].as_str().unwrap());
    let files = Files::read(served);
    assert_eq!(resolved["sha256"], Digest::of(&files.tensors).to_string());
    assert_eq!(tensors::read(&files.tensors).len(), 24);
    let config: Value = serde_json::from_slice(&files.config).unwrap();
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&json!(4), &json!(4))
    );

    // By task and by slot, and over an earlier export.
    for (what, more) in [
        ("a2", vec![]),
        ("0", vec!["--force"]),
        ("0", vec!["--force", "--generation", "2"]),
    ] {
        let out = daemon.room().join("pulled");
        let arguments = ["pull", what, "--out", out.to_str().unwrap()];
        let pulled = cli.json(&[&arguments[..], &more].concat());
        assert_eq!(
            (&pulled["slot"], &pulled["generation"]),
            (&json!(0), &json!(2))
        );
        let copy = Files::read(&out);
        assert_eq!(copy.tensors, files.tensors, "{what}");
        assert_eq!(copy.config, files.config, "{what}");
    }
    // Somebody's own directory is left alone, and nothing is left beside it.
    let own = daemon.room().join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("thesis.tex"), "years of work").unwrap();
    for more in [vec![], vec!["--force"]] {
        let arguments = ["pull", "a2", "--out", own.to_str().unwrap()];
        let ran = cli.run(&[&arguments[..], &more].concat());
        assert_eq!(ran.code, 2, "{ran:?}");
        assert_eq!(std::fs::read_dir(&own).unwrap().count(), 1);
    }
    let left: Vec<_> = std::fs::read_dir(daemon.room())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().contains("tmp")),
        "{left:?}"
    );
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_queued_job_can_be_taken_back() {
    // Each merge takes a while before its commit, so that the second job waits.
    let setup = Setup::default().env("KMERGE_FAILPOINT", "tensor.data_durable=sleep@1:3000");
    let (mut daemon, cli) = furnish(setup).await;
    cli.done(&["push", &golden("a0"), "--task", "a0"]);
    cli.done(&["push", &golden("a1"), "--task", "a1"]);
    let cancelled = cli.json(&["cancel", "2"]);
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    let watched = cli.run(&["job", "2", "--watch"]);
    assert_eq!(watched.code, 1, "{watched:?}");
    assert!(watched.stderr.contains("cancelled"), "{watched:?}");
    assert_eq!(cli.done(&["job", "1", "--watch", "--json"]).code, 0);
    assert_eq!(cli.run(&["cancel", "1"]).code, 1);
    assert_eq!(cli.json(&["tasks"])["tasks"].as_array().unwrap().len(), 1);
    daemon.stop().await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_watched_job_ends_in_json_lines() {
    let (daemon, cli) = furnished().await;
    let id = cli.json(&["push", &golden("a0"), "--task", "a0"])["id"].to_string();
    let ran = cli.done(&["job", &id, "--watch", "--json"]);
    let lines: Vec<Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let percents: Vec<u64> = lines
        .iter()
        .map(|job| job["percent"].as_u64().unwrap())
        .collect();
    assert!(percents.is_sorted(), "{percents:?}");
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["state"], &last["percent"]),
        (&json!("done"), &json!(100))
    );
    assert_eq!(last["base_model"], BASE);
    daemon.assert_quiet(&[]);
}

#[test]
fn shells_and_man_get_their_files() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(kmerge().args(["completions", shell]));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(
            ran.stdout.contains("push") && ran.stdout.contains("dry-run"),
            "{shell}"
        );
    }
    let room = tempfile::tempdir().unwrap();
    let ran = run(kmerge().arg("man").arg("--out").arg(room.path()));
    assert_eq!(ran.code, 0, "{ran:?}");
    let page = std::fs::read_to_string(room.path().join("kmerge-push.1")).unwrap();
    assert!(page.contains("dry\\-run"), "{page}");
}

#[tokio::test]
async fn slots_are_kept_changed_and_given_back() {
    let (daemon, cli) = furnished().await;
    push(&cli, &["a0", "a1", "a2"]);
    let slot = cli.json(&["slot", "0"]);
    assert_eq!(
        (&slot["pinned"], &slot["earlier_generations"]),
        (&json!(false), &json!([1]))
    );

    let pinned = cli.json(&["pin", "0"]);
    assert_eq!(
        (&pinned["kind"], &pinned["state"]),
        (&json!("settings"), &json!("done"))
    );
    assert!(cli.done(&["slot", "0"]).stdout.contains("pinned"));
    let refused = cli.run(&["rollback", "0"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("unpin"), "{}", refused.stderr);
    cli.done(&["unpin", "0"]);

    let dry = cli.json(&["rollback", "0", "--dry-run"]);
    let back = cli.json(&["rollback", "0"]);
    assert_eq!(back["change"], dry);
    assert_eq!(dry["forgotten_tasks"], json!(["a2"]));
    assert_eq!(
        cli.json(&["slot", "0"])["sha256"],
        cli.json(&["resolve", "a0"])["sha256"]
    );

    let said = cli
        .done(&["base", "set", BASE, "--slots", "1", "--dry-run"])
        .stdout;
    assert!(
        said.contains("slots 2 to 1") && said.contains("<- emptied"),
        "{said}"
    );
    cli.done(&["base", "set", BASE, "--slots", "1"]);
    let tasks = cli.json(&["tasks"]);
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 2);

    let stuck = cli.run(&["forget", "a0"]);
    assert_eq!(stuck.code, 1);
    assert!(stuck.stderr.contains("average"), "{}", stuck.stderr);
    assert_eq!(cli.run(&["forget", "nobody"]).code, 4);
    let jobs = cli.done(&["jobs"]).stdout;
    assert!(jobs.contains("rollback slot-0"), "{jobs}");
    daemon.assert_quiet(&[]);
}
