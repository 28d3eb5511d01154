//! Commands, webhooks and directories: told once for each step, in order, and again until it worked.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;

use super::server::{Asked, Fake, Fault, Said, Speaker};
use super::{daemon, entry, push, short};
use crate::support::{Setup, eventually, files_below};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A program that is run by its path.
fn script(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("hook.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A line of the hook's log with its name shortened.
fn told(path: &Path) -> Vec<String> {
    let shorten = |line: &String| line.split(' ').map(short).collect::<Vec<_>>().join(" ");
    lines(path).iter().map(shorten).collect()
}

#[tokio::test]
async fn a_command_is_run_for_each_step_with_the_facts_in_its_environment() {
    let room = tempfile::tempdir().unwrap();
    let log = room.path().join("log");
    let text = format!(
        "test -z \"$KMERGE_LOG__FORMAT\" || exit 9\n\
         test \"$KMERGE_EVENT\" != load || test -f \"$KMERGE_PATH/adapter_model.safetensors\" || exit 8\n\
         echo \"$1 $KMERGE_RUNTIME $KMERGE_EVENT name=$KMERGE_NAME alias=$KMERGE_ALIAS \
         $KMERGE_BASE_MODEL/$KMERGE_SLOT/$KMERGE_GENERATION $KMERGE_TASKS $KMERGE_FORMAT\" >> {}",
        log.display()
    );
    let hook = script(room.path(), &text);
    let more = format!(
        "command = [\"{}\", \"a b; $HOME\"]\npattern = \"x-{{slot}}\"",
        hook.display()
    );
    let (daemon, client) = daemon(&entry("hook", "exec", "", &more)).await;
    push(&client, &["a", "b"]).await;
    eventually("the old one is unloaded", async || {
        lines(&log).iter().any(|line| line.contains(" unload "))
    })
    .await;
    let told = told(&log);
    let last: Vec<_> = told[told.len() - 3..].to_vec();
    assert_eq!(
        last,
        [
            "a b; $HOME hook load name=x-0.g2 alias= tiny/0/2 a,b peft",
            "a b; $HOME hook switch name=x-0.g2 alias=x-0 tiny/0/2 a,b peft",
            "a b; $HOME hook unload name=x-0.g1 alias= //  ",
        ],
        "{told:?}"
    );
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_command_that_fails_or_hangs_is_run_again_and_leaves_nothing_behind() {
    let room = tempfile::tempdir().unwrap();
    let log = room.path().join("log");
    // First it fails, then it hangs with a child of its own, then it works.
    let text = format!(
        "echo run >> {log}\ncase $(wc -l < {log}) in\n\
         1) echo 'no disk today' >&2; exit 3;;\n\
         2) sleep 1000 & echo $! > {child}; wait;;\nesac",
        log = log.display(),
        child = room.path().join("child").display()
    );
    let hook = script(room.path(), &text);
    let more = format!("command = [\"{}\"]\nload_seconds = 1", hook.display());
    let (daemon, client) = daemon(&entry("hook", "exec", "", &more)).await;
    push(&client, &["a"]).await;
    eventually("it has worked", async || lines(&log).len() >= 4).await;
    let child: i32 = lines(&room.path().join("child"))[0].parse().unwrap();
    eventually("what the command started has gone", async || {
        let child = rustix::process::Pid::from_raw(child).unwrap();
        rustix::process::test_kill_process(child).is_err()
    })
    .await;
    let said = daemon.log();
    assert!(said.contains("answered 3: no disk today"), "{said}");
    daemon.assert_quiet(&["the runtime refused", "does not answer"]);
}

#[tokio::test]
async fn all_of_it_is_told_again_after_a_restart() {
    let room = tempfile::tempdir().unwrap();
    let log = room.path().join("log");
    let text = format!("echo \"$KMERGE_EVENT $KMERGE_NAME\" >> {}", log.display());
    let hook = script(room.path(), &text);
    let more = format!("command = [\"{}\"]", hook.display());
    let (mut daemon, client) = daemon(&entry("hook", "exec", "", &more)).await;
    push(&client, &["a"]).await;
    eventually("it is told", async || lines(&log).len() == 2).await;
    daemon.restart().await;
    eventually("it is told again", async || lines(&log).len() == 4).await;
    assert_eq!(
        told(&log),
        [
            "load tiny-slot-0.g1",
            "switch tiny-slot-0.g1",
            "load tiny-slot-0.g1",
            "switch tiny-slot-0.g1",
        ]
    );
    daemon.assert_quiet(&[]);
}

/// A receiver that checks what the standard asks it to check.
#[derive(Debug, Default)]
struct Receiver {
    ids: Vec<String>,
}

impl Speaker for Receiver {
    fn answer(&mut self, asked: &Asked, note: &mut dyn FnMut(String)) -> Said {
        let header = |name: &str| asked.headers[name].to_str().unwrap().to_owned();
        let (id, time) = (header("webhook-id"), header("webhook-timestamp"));
        let key = STANDARD
            .decode(SECRET.strip_prefix("whsec_").unwrap())
            .unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{id}.{time}.").as_bytes());
        mac.update(&asked.body);
        let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        assert_eq!(header("webhook-signature"), signature);
        assert!(!asked.headers.contains_key("authorization"));
        let body: Value = asked.json();
        assert_eq!(body["id"], id.as_str());
        assert_eq!(body["runtime"], "hook");
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        assert!(now.as_secs().abs_diff(time.parse().unwrap()) < 300);
        self.ids.push(id);
        let name = body["name"].as_str().map(short).unwrap_or_default();
        note(format!("{} {name}", body["event"].as_str().unwrap()));
        Said::text(204, "")
    }

    fn restart(&mut self) {}
}

#[tokio::test]
async fn events_are_signed_and_sent_until_they_are_accepted_with_one_id() {
    let room = tempfile::tempdir().unwrap();
    let secret = room.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let hook = Fake::start(Receiver::default()).await;
    // Accepted, and the answer is lost: it comes again, and the receiver can tell.
    hook.fault("/hooks", Fault::DoneBut(Said::text(500, "lost")));
    hook.fault(
        "/hooks",
        Fault::Answer(Said::text(503, "later").with("retry-after", "1")),
    );
    let address = format!("{}/hooks", hook.url());
    let more = format!("secret_file = \"{}\"", secret.display());
    let (daemon, client) = daemon(&entry("hook", "webhook", &address, &more)).await;
    push(&client, &["a"]).await;
    hook.logs(&[
        "load tiny-slot-0.g1",
        "POST /hooks → 503",
        "load tiny-slot-0.g1",
        "switch tiny-slot-0.g1",
    ])
    .await;
    let ids = hook.look(|hook| hook.ids.clone());
    assert_eq!(ids[0], ids[1], "the same event has the same id");
    assert_ne!(ids[1], ids[2], "another has another");
    daemon.assert_quiet(&["the runtime refused"]);
}

#[tokio::test]
async fn a_directory_has_the_layout_of_the_filesystem_resolver() {
    let room = tempfile::tempdir().unwrap();
    let directory = room.path().join("adapters");
    let more = format!("directory = \"{}\"", directory.display());
    let (daemon, client) = daemon(&entry("resolver", "directory", "", &more)).await;
    push(&client, &["a", "b"]).await;
    let names = || -> Vec<String> {
        files_below(&directory)
            .iter()
            .filter_map(|file| Some(short(file.parent()?.to_str()?)))
            .collect()
    };
    eventually("only the newest is there", async || {
        names() == ["tiny-slot-0.g2", "tiny-slot-0.g2"]
    })
    .await;
    let file = files_below(&directory).remove(0);
    assert_eq!(file.file_name().unwrap(), "adapter_config.json");
    let config: Value =
        serde_json::from_slice(&std::fs::read(directory.join(file)).unwrap()).unwrap();
    // What the resolver compares with the model that it serves.
    assert_eq!(
        (&config["peft_type"], &config["base_model_name_or_path"]),
        (&"LORA".into(), &"tiny".into())
    );
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_refused_at_the_start() {
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("file");
    std::fs::write(&file, "").unwrap();
    let more = format!("directory = \"{}\"", file.join("adapters").display());
    let config = entry("resolver", "directory", "", &more);
    let daemon = Setup::default().config(&config).prepare();
    let output = daemon.command().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the `directory` of the runtime \"resolver\" cannot be used"),
        "{said}"
    );
}
