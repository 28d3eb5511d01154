//! Certificates: the commands of the runbook make them, and without one nobody is let in.

use std::path::{Path, PathBuf};
use std::process::Command;

use kmerge_client::{Address, Client, Error, Network};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::port;
use crate::support::adapters::small;
use crate::support::calls::{merge, policy, register};
use crate::support::command::{kmerge, run};
use crate::support::{BASE, Daemon, Setup, workspace};

/// The block of the runbook after a mark.
fn from_runbook(mark: &str) -> String {
    let runbook = std::fs::read_to_string(workspace().join("deploy/RUNBOOK.md")).unwrap();
    let (_, after) = runbook
        .split_once(&format!("<!-- {mark} -->\n```sh\n"))
        .unwrap();
    after.split_once("```").unwrap().0.to_owned()
}

/// A directory of certificates; none where openssl is missing.
fn certificates() -> Option<tempfile::TempDir> {
    let directory = tempfile::tempdir().unwrap();
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: no openssl");
        return None;
    }
    let output = Command::new("sh")
        .args(["-euc", &from_runbook("certificates")])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(directory)
}

fn config(files: &Path, key: &str) -> String {
    let at = files.display();
    format!(
        "[listen]\ntcp = \"0.0.0.0:0\"\n[listen.tls]\ncertificate = \"{at}/kmerged.pem\"\n\
         key = \"{at}/{key}\"\nclient_ca = \"{at}/root.pem\"\n"
    )
}

/// The address as a caller with the given files has it.
fn address(daemon: &Daemon, ca: &Path, own: Option<(PathBuf, PathBuf)>) -> Address {
    let url = format!("https://localhost:{}", port(daemon).port());
    let mut network = Network::new(&url).unwrap();
    network.ca = Some(ca.to_owned());
    (network.certificate, network.key) = own.unzip();
    Address::Network(network)
}

fn pair(files: &Path, name: &str) -> Option<(PathBuf, PathBuf)> {
    Some((
        files.join(format!("{name}.pem")),
        files.join(format!("{name}.key")),
    ))
}

/// What a caller is told that does not get in: nothing that the daemon's services say.
async fn kept_out(address: &Address) -> Error {
    let error = match Client::connect_to(address).await {
        Ok(client) => client.get_status().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_lets_in_and_nothing_else_does() {
    let (Some(files), Some(others)) = (certificates(), certificates()) else {
        return;
    };
    let (files, others) = (files.path(), others.path());
    let mut daemon = Setup::default()
        .config(&config(files, "kmerged.key"))
        .start()
        .await;
    // No token is made, and none is asked for.
    assert!(!daemon.state().join("token").exists());
    let root = files.join("root.pem");
    let good = address(&daemon, &root, pair(files, "laptop"));
    let client = Client::connect_to(&good).await.unwrap();
    register(&client, BASE, policy(2)).await;
    merge(&client, "a", &small(4, 1).adapter()).await;
    assert_eq!(client.get_status().await.unwrap().state_directory, "");

    // Nobody's, somebody else's, and one that is not for callers.
    let nobody = kept_out(&address(&daemon, &root, None)).await;
    assert!(nobody.hint().unwrap().contains("certificate"), "{nobody:?}");
    kept_out(&address(&daemon, &root, pair(others, "laptop"))).await;
    kept_out(&address(&daemon, &root, pair(files, "kmerged"))).await;
    // A daemon that is not the one that is meant.
    let other = address(&daemon, &others.join("root.pem"), pair(files, "laptop"));
    let error = kept_out(&other).await;
    assert!(error.to_string().contains("peer certificate"), "{error}");
    assert!(error.hint().unwrap().contains("--ca"), "{error:?}");
    // In the clear there is nothing at all.
    for words in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = TcpStream::connect(("127.0.0.1", port(&daemon).port()))
            .await
            .unwrap();
        stream.write_all(words.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() < 16, "{answer:?}");
    }

    let url = format!("https://127.0.0.1:{}", port(&daemon).port());
    let cli = run(kmerge()
        .args(["--address", &url, "--ca"])
        .arg(&root)
        .arg("--certificate")
        .arg(files.join("laptop.pem"))
        .arg("--key")
        .arg(files.join("laptop.key"))
        .arg("doctor"));
    assert_eq!(cli.code, 0, "{cli:?}");
    let without_root = run(kmerge().args(["--address", &url, "status"]));
    assert_eq!(without_root.code, 2, "{without_root:?}");
    assert!(without_root.stderr.contains("--ca"), "{without_root:?}");
    daemon.stop().await;
    daemon.assert_quiet(&["a TLS handshake failed"]);
}

#[test]
fn files_that_do_not_do_are_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(files) = certificates() else { return };
    let files = files.path();
    let start = |key: &str| {
        let daemon = Setup::default().config(&config(files, key)).prepare();
        let output = daemon.command().output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = start("laptop.key");
    assert!(said.contains("does not fit its key"), "{said}");
    let said = start("kmerged.pem");
    assert!(said.contains("no private key"), "{said}");
    let said = start("missing.key");
    assert!(said.contains("missing.key"), "{said}");
    let key = files.join("kmerged.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = start("kmerged.key");
    assert!(said.contains("chmod 600"), "{said}");
}
