//! Entries of runtimes: what is right is read, and every mistake is refused with its key.

#![expect(
    clippy::disallowed_methods,
    reason = "the tests write configurations and secrets"
)]

use std::os::unix::fs::PermissionsExt as _;

use kmerge_storage::SlotIndex;

use super::super::{Config, ConfigError};
use super::*;
use crate::args::Args;
use crate::paths::Surroundings;

fn load(directory: &Path, toml: &str) -> Result<Vec<RuntimeConfig>, ConfigError> {
    let file = directory.join("kmerged.toml");
    std::fs::write(&file, toml).unwrap();
    let args = Args {
        config: Some(file),
        state_dir: Some("/state".into()),
        socket: None,
        check_config: false,
        print_default_config: false,
        ..Args::default()
    };
    let surroundings = Surroundings {
        uid: 1000,
        temporary: "/tmp".into(),
        macos: false,
        variable: |_| None,
    };
    Config::from_sources(&args, std::collections::BTreeMap::new(), &surroundings)
        .map(|config| config.runtimes)
}

/// The problems of one entry that is right but for `lines`.
fn problems(directory: &Path, lines: &str) -> Vec<String> {
    let mut toml = String::from("[[runtime]]\n");
    for line in [
        "name = \"one\"",
        "kind = \"vllm\"",
        "address = \"http://127.0.0.1:8000\"",
        "base_model = \"tiny\"",
    ] {
        let key = line.split('=').next().unwrap();
        if !lines.lines().any(|given| given.starts_with(key)) {
            toml.push_str(line);
            toml.push('\n');
        }
    }
    toml.push_str(lines);
    load(directory, &toml).unwrap_err().problems
}

fn secret(directory: &Path, mode: u32, text: &str) -> PathBuf {
    let path = directory.join(format!("secret-{mode:o}"));
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn entries_are_read_with_their_defaults() {
    let room = tempfile::tempdir().unwrap();
    let key = secret(room.path(), 0o600, "  key\n");
    let toml = format!(
        r#"
        [[runtime]]
        name = "gpu"
        kind = "vllm"
        address = "http://127.0.0.1:8000"
        base_model = "tiny"

        [[runtime]]
        name = "hook"
        kind = "webhook"
        address = "/run/hook.sock"
        base_model = "tiny"
        tasks = ["mail", "notes"]
        slots = [0, 3]
        pattern = "x-{{slot}}"
        format = "gguf"
        max_adapters = 3
        secret_file = "{}"
        directory = "/adapters"
        seen_as = "/mnt"
        timeout_seconds = 1
        load_seconds = 2
        probe_seconds = 3
        drain_seconds = 0
        "#,
        key.display()
    );
    let runtimes = load(room.path(), &toml).unwrap();
    let [gpu, hook] = &runtimes[..] else {
        panic!("{runtimes:?}");
    };
    assert_eq!((gpu.name.as_str(), gpu.kind), ("gpu", RuntimeKind::Vllm));
    assert_eq!(gpu.format, Format::Peft);
    assert_eq!(gpu.selection.most, 64);
    assert_eq!(
        gpu.selection.pattern,
        Pattern::parse("{base_model}-{task}").unwrap()
    );
    assert_eq!((gpu.secret.as_ref(), gpu.directory.as_ref()), (None, None));
    assert_eq!(gpu.drain, Duration::from_secs(60));
    assert_eq!(hook.address, Some(Address::Unix("/run/hook.sock".into())));
    assert_eq!(hook.selection.slots, [SlotIndex(0), SlotIndex(3)]);
    assert_eq!(hook.selection.tasks.len(), 2);
    assert_eq!(hook.selection.most, 3);
    assert_eq!(hook.format, Format::Gguf);
    assert_eq!(hook.secret, Some(Secret::new(b"key".to_vec())));
    assert_eq!(hook.timeout, Duration::from_secs(1));
    assert_eq!(hook.load_timeout, Duration::from_secs(2));
    assert_eq!(hook.probe, Duration::from_secs(3));
    assert_eq!(hook.drain, Duration::ZERO);
}

#[test]
fn no_entries_are_none() {
    let room = tempfile::tempdir().unwrap();
    assert_eq!(load(room.path(), "").unwrap(), []);
    assert_eq!(load(room.path(), "runtime = []").unwrap(), []);
}

#[test]
fn every_mistake_is_refused_with_its_key() {
    let room = tempfile::tempdir().unwrap();
    let open = secret(room.path(), 0o604, "key");
    let empty = secret(room.path(), 0o400, " \n");
    let lines = secret(room.path(), 0o440, "two words");
    let key = secret(room.path(), 0o600, "key");
    let file = |path: &Path| format!("secret_file = \"{}\"", path.display());
    let remote = format!("address = \"http://10.0.0.1:1\"\n{}", file(&key));
    let cases = [
        ("name = \"\"", "name is not set"),
        ("name = \"A b\"", "name is \"A b\""),
        ("kind = \"magic\"", "kind is \"magic\"; it must be one of"),
        ("kind = \"\"", "kind is \"\""),
        (
            "address = \"\"",
            "address is not set; the kind vllm needs it",
        ),
        (
            "address = \"https://x\"",
            "address is \"https://x\"; it is https",
        ),
        ("address = \"tcp:1\"", "address is \"tcp:1\"; it must be"),
        ("base_model = \"No\"", "base_model is \"No\""),
        ("base_model = \"\"", "base_model is not set"),
        ("tasks = \"mail\"", "tasks is \"mail\""),
        ("tasks = [\"No\"]", "tasks is \"No\""),
        ("slots = [-1]", "slots is -1"),
        (
            "pattern = \"plain\"",
            "pattern is \"plain\"; it must have either",
        ),
        (
            "format = \"gguf\"",
            "format is \"gguf\"; the kind vllm reads peft",
        ),
        ("max_adapters = 0", "max_adapters is 0"),
        (
            "command = [\"/bin/true\"]",
            "command is set, and the kind vllm has no use for it",
        ),
        ("directory = \"here\"", "directory is \"here\""),
        ("seen_as = \"here\"", "seen_as is \"here\""),
        ("timeout_seconds = 0", "timeout_seconds is 0"),
        ("load_seconds = \"soon\"", "load_seconds is \"soon\""),
        ("probe_seconds = 0", "probe_seconds is 0"),
        ("drain_seconds = -1", "drain_seconds is -1"),
        ("adress = \"x\"", "adress is not a key that kmerged knows"),
        (
            "secret_file = \"/nowhere/key\"",
            "secret_file is /nowhere/key",
        ),
        (&file(&open), "which everyone may read"),
        (&file(&empty), "one word"),
        (&file(&lines), "one word"),
        (&remote, "secret_file would send a token unencrypted"),
        (
            "kind = \"webhook\"",
            "secret_file is not set; the kind webhook needs it",
        ),
        (
            "kind = \"exec\"\ncommand = [\"true\"]\naddress = \"\"",
            "command begins with \"true\"",
        ),
        ("kind = \"exec\"\naddress = \"\"", "command is not set"),
        (
            "model = \"x\"",
            "model is set, and the kind vllm has no use for it",
        ),
        (
            "kind = \"ollama\"",
            "model is not set; the kind ollama needs it",
        ),
        (
            "kind = \"directory\"",
            "address is set, and the kind directory has no use for it",
        ),
    ];
    for (given, said) in cases {
        let problems = problems(room.path(), given);
        assert_eq!(problems.len(), 1, "{given}: {problems:?}");
        assert!(problems[0].starts_with("runtime[0]."), "{problems:?}");
        assert!(problems[0].contains(said), "{given}: {problems:?}");
    }
}

#[test]
fn a_token_may_go_to_a_socket_or_a_loopback_address() {
    let room = tempfile::tempdir().unwrap();
    let key = secret(room.path(), 0o600, "key");
    for address in ["/run/x.sock", "http://[::1]:1", "http://localhost:1"] {
        let toml = format!(
            "[[runtime]]\nname = \"a\"\nkind = \"vllm\"\nbase_model = \"tiny\"\n\
             address = \"{address}\"\nsecret_file = \"{}\"",
            key.display()
        );
        assert_eq!(load(room.path(), &toml).unwrap().len(), 1, "{address}");
    }
}

#[test]
fn entries_must_be_tables_with_names_and_directories_of_their_own() {
    let room = tempfile::tempdir().unwrap();
    let entry = "[[runtime]]\nname = \"a\"\nkind = \"directory\"\nbase_model = \"tiny\"\n\
                 directory = \"/a\"\n";
    let problems = |toml: &str| load(room.path(), toml).unwrap_err().problems;
    let twice = problems(&format!("{entry}{entry}"));
    assert_eq!(twice.len(), 2, "{twice:?}");
    assert!(
        twice[0].starts_with("runtime[1].name is \"a\""),
        "{twice:?}"
    );
    assert!(twice[1].starts_with("runtime[1].directory"), "{twice:?}");
    let served = |name: &str, base_model: &str, pattern: &str| {
        format!(
            "[[runtime]]\nname = \"{name}\"\nkind = \"vllm\"\naddress = \"http://localhost:1\"\n\
             base_model = \"{base_model}\"\npattern = \"{pattern}\"\n"
        )
    };
    let same = served("a", "one", "{task}") + &served("b", "two", "{task}");
    let same = problems(&same);
    assert_eq!(same.len(), 1, "{same:?}");
    assert!(same[0].starts_with("runtime[1].pattern makes the same names"));
    let apart =
        served("a", "one", "{base_model}-{task}") + &served("b", "two", "{base_model}-{task}");
    assert_eq!(load(room.path(), &apart).unwrap().len(), 2);
    assert!(problems("runtime = 3")[0].contains("[[runtime]] tables"));
    assert!(problems("runtime = [1]")[0].starts_with("runtime[0] is 1"));
    assert!(problems("[runtime]\nname = \"a\"")[0].starts_with("runtime.name is not a key"));
    let many = problems(&entry.repeat(MOST_RUNTIMES + 1));
    assert!(many[0].starts_with("runtime has 33 entries"), "{many:?}");
}
