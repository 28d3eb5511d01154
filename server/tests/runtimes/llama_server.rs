//! llama-server: started again with what is there, and scales that are put right.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::json;

use super::server::{Asked, Fake, Said, Speaker};
use super::{daemon, entry, push, short};
use crate::support::eventually;

/// As `tools/server` has it. What it was started with is in a file that the test's command writes;
/// another content is another start.
#[derive(Debug)]
struct LlamaServer {
    started_with: PathBuf,
    last_start: String,
    scales: BTreeMap<usize, f64>,
}

impl LlamaServer {
    fn new(room: &Path) -> Self {
        Self {
            started_with: room.join("started"),
            last_start: String::new(),
            scales: BTreeMap::new(),
        }
    }

    /// The files, and their scales: 1 after a start.
    fn adapters(&mut self) -> Vec<(String, f64)> {
        let start = std::fs::read_to_string(&self.started_with).unwrap_or_default();
        if start != self.last_start {
            self.last_start.clone_from(&start);
            self.scales.clear();
        }
        let files = start.lines().filter(|line| line.ends_with(".gguf"));
        files
            .enumerate()
            .map(|(id, path)| {
                (
                    path.to_owned(),
                    self.scales.get(&id).copied().unwrap_or(1.0),
                )
            })
            .collect()
    }

    /// Names with their scales.
    fn named(&mut self) -> Vec<(String, f64)> {
        let name = |path: &str| {
            let name = Path::new(path).parent().unwrap().file_name().unwrap();
            short(name.to_str().unwrap())
        };
        self.adapters()
            .iter()
            .map(|(path, scale)| (name(path), *scale))
            .collect()
    }
}

impl Speaker for LlamaServer {
    fn answer(&mut self, asked: &Asked, note: &mut dyn FnMut(String)) -> Said {
        let adapters = self.adapters();
        match (&asked.method, asked.path.as_str()) {
            (&Method::GET, "/lora-adapters") => {
                let list: Vec<_> = adapters
                    .iter()
                    .enumerate()
                    .map(|(id, (path, scale))| {
                        json!({"id": id, "path": path, "scale": scale, "task_name": "",
                               "prompt_prefix": ""})
                    })
                    .collect();
                Said::json(200, &json!(list))
            }
            (&Method::POST, "/lora-adapters") => {
                // What is not named gets 0.
                self.scales = (0..adapters.len()).map(|id| (id, 0.0)).collect();
                for scale in asked.json().as_array().unwrap() {
                    let id = usize::try_from(scale["id"].as_u64().unwrap()).unwrap();
                    if id >= adapters.len() {
                        let error = json!({"error": {"code": 400, "message": "Invalid LoRA id",
                                                     "type": "invalid_request_error"}});
                        return Said::json(400, &error);
                    }
                    self.scales.insert(id, scale["scale"].as_f64().unwrap());
                }
                note(format!("scales {:?}", self.named()));
                Said::json(200, &json!({"success": true}))
            }
            _ => Said::text(404, ""),
        }
    }

    fn restart(&mut self) {
        self.last_start.clear();
    }
}

/// A command that starts the server with all files that are there.
fn restart(room: &Path) -> PathBuf {
    let path = room.join("restart.sh");
    let text = format!(
        "#!/bin/sh\n(ls \"$KMERGE_DIRECTORY\"/*/*.gguf; echo start $$) > {0}.new\nmv {0}.new {0}\n",
        room.join("started").display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

fn starts(server: &Fake<LlamaServer>) -> String {
    server.look(|server| {
        server.adapters();
        server.last_start.clone()
    })
}

#[tokio::test]
async fn it_is_started_again_with_all_files_and_requests_choose() {
    let room = tempfile::tempdir().unwrap();
    let server = Fake::start(LlamaServer::new(room.path())).await;
    let more = format!(
        "command = [\"{}\"]\npattern = \"x-{{slot}}\"",
        restart(room.path()).display()
    );
    let (mut daemon, client) = daemon(&entry("llama", "llama-server", &server.url(), &more)).await;
    push(&client, &["a"]).await;
    server.logs(&["scales [(\"x-0.g1\", 0.0)]"]).await;
    let file = starts(&server).lines().next().unwrap().to_owned();
    assert_eq!(&std::fs::read(file).unwrap()[..4], b"GGUF");
    push(&client, &["b"]).await;
    server
        .logs(&[
            "scales [(\"x-0.g1\", 0.0)]",
            "scales [(\"x-0.g1\", 0.0), (\"x-0.g2\", 0.0)]",
        ])
        .await;
    let last = starts(&server);
    // A crash: the same files, and scales of 1 again, which are put right.
    server.restart();
    eventually("the scales are put right", async || server.log().len() == 4).await;
    assert_eq!(server.log()[2], "restart");
    assert_eq!(starts(&server), last, "that took no start");
    // So are they after a restart of the daemon.
    daemon.restart().await;
    eventually("the scales are set again", async || server.log().len() == 5).await;
    assert_eq!(starts(&server), last);
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn where_there_is_one_it_is_for_every_request() {
    let room = tempfile::tempdir().unwrap();
    let server = Fake::start(LlamaServer::new(room.path())).await;
    let more = format!(
        "max_adapters = 1\ntasks = [\"a\"]\ncommand = [\"{}\"]",
        restart(room.path()).display()
    );
    let (daemon, client) = daemon(&entry("llama", "llama-server", &server.url(), &more)).await;
    push(&client, &["a", "b"]).await;
    eventually("the newest has scale 1 and no other", async || {
        let log = server.log();
        let last = log.last().map(String::as_str);
        last == Some("scales [(\"tiny-slot-0.g1\", 0.0), (\"tiny-slot-0.g2\", 1.0)]")
            || last == Some("scales [(\"tiny-slot-0.g2\", 1.0)]")
    })
    .await;
    daemon.assert_quiet(&[]);
}

#[tokio::test]
async fn without_a_command_it_says_what_to_do_and_finds_what_was_done() {
    let room = tempfile::tempdir().unwrap();
    let server = Fake::start(LlamaServer::new(room.path())).await;
    let (daemon, client) = daemon(&entry("llama", "llama-server", &server.url(), "")).await;
    push(&client, &["a"]).await;
    let directory = daemon.state().join("runtimes/llama");
    eventually("it says what to do", async || {
        let runtime = client.list_runtimes().await.unwrap().remove(0);
        let message = runtime.trouble.map(|trouble| trouble.message);
        message.is_some_and(|message| {
            message.contains("start llama-server again with the files in")
                && message.contains(&directory.display().to_string())
        })
    })
    .await;
    let status = std::process::Command::new(restart(room.path()))
        .env("KMERGE_DIRECTORY", &directory)
        .status();
    assert!(status.unwrap().success());
    server.logs(&["scales [(\"tiny-slot-0.g1\", 0.0)]"]).await;
    daemon.assert_quiet(&["the runtime refused"]);
}
