//! The service files in `deploy/`: that they say what kmerged relies on, that they agree with its
//! arguments and its configuration, and that the installer puts them in place.
//!
//! What systemd itself says of the units is asked in CI, where systemd is; these tests run anywhere.

#![expect(
    clippy::disallowed_methods,
    reason = "reading the shipped files is the test's purpose"
)]

#[path = "service_files/installer.rs"]
mod installer;
#[path = "service_files/launchd.rs"]
mod launchd;
#[path = "service_files/unit.rs"]
mod unit;

use std::path::{Path, PathBuf};

use unit::Unit;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn shipped(name: &str) -> String {
    let path = deploy().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The longest orderly stop under the default configuration: calls drain, then streams, then jobs
/// end, then the catalog closes.
fn longest_stop_seconds() -> i64 {
    const CATALOG_CLOSES: i64 = 5;
    let config: toml::Table = shipped("config.toml").parse().expect("the default is TOML");
    let seconds = |key: &str| config["shutdown"][key].as_integer().expect("whole seconds");
    2 * seconds("drain_seconds") + seconds("jobs_seconds") + CATALOG_CLOSES
}

fn system() -> Unit {
    Unit::parse(&shipped("systemd/kmerged.service"))
}

fn user() -> Unit {
    Unit::parse(&shipped("systemd/user/kmerged.service"))
}

#[test]
fn both_units_are_supervised_alike() {
    for (unit, target) in [(system(), "multi-user.target"), (user(), "default.target")] {
        let service = |key| unit.value("Service", key);
        // kmerged tells readiness, its stop and that it lives; the manager must listen for it.
        assert_eq!(service("Type"), "notify");
        assert_eq!(service("NotifyAccess"), "main");
        assert_eq!(service("WatchdogSec"), "30");
        assert_eq!(service("Restart"), "on-failure");
        // The exit code for a wrong configuration, which a restart would not mend.
        assert_eq!(service("RestartPreventExitStatus"), "64");
        let stop: i64 = service("TimeoutStopSec").parse().expect("seconds");
        assert!(
            stop >= longest_stop_seconds(),
            "{stop} s would cut an orderly stop short"
        );
        assert_eq!(unit.value("Install", "WantedBy"), target);
        // setpriority is of @resources: without it merges could not give way to reads.
        let filter = unit.values("Service", "SystemCallFilter");
        assert_eq!(
            filter,
            ["@system-service", "~@privileged @resources", "setpriority"]
        );
        assert!(!unit.value("Unit", "Description").is_empty());
    }
}

#[test]
fn both_units_name_only_what_kmerged_accepts() {
    for unit in [system(), user()] {
        let command = unit.value("Service", "ExecStart");
        let words: Vec<_> = command.split(' ').collect();
        assert!(words[0].ends_with("/kmerged"), "{command}");
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_kmerged"))
            .arg("--help")
            .output()
            .expect("kmerged runs");
        let help = String::from_utf8_lossy(&output.stdout);
        for flag in words[1..].iter().step_by(2) {
            assert!(help.contains(flag), "kmerged has no {flag}");
        }
    }
}

#[test]
fn the_system_unit_gives_its_directories_to_kmerged_alone() {
    let unit = system();
    let service = |key| unit.value("Service", key);
    assert_eq!(service("DynamicUser"), "yes");
    assert_eq!(service("Group"), "kmerge");
    // With the user's own name a fixed group would forbid the dynamic user.
    assert_ne!(service("User"), service("Group"));
    assert_eq!(service("StateDirectoryMode"), "0700");
    assert_eq!(service("RuntimeDirectoryMode"), "0750");
    assert_eq!(service("UMask"), "0077");
    let command = service("ExecStart");
    let state = format!("--state-dir /var/lib/{}", service("StateDirectory"));
    let socket = format!("--socket /run/{}/kmerged.sock", service("RuntimeDirectory"));
    assert!(
        command.contains(&state) && command.contains(&socket),
        "{command}"
    );
    assert!(
        command.contains("--config /etc/kmerge/kmerged.toml"),
        "{command}"
    );
}

#[test]
fn the_system_unit_takes_everything_else_away() {
    let unit = system();
    for key in [
        "NoNewPrivileges",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "PrivateNetwork",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectClock",
        "ProtectHostname",
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "RemoveIPC",
    ] {
        assert_eq!(unit.value("Service", key), "yes", "{key}");
    }
    for (key, value) in [
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
        ("ProtectSystem", "strict"),
        ("ProtectProc", "invisible"),
        ("ProcSubset", "pid"),
        ("RestrictAddressFamilies", "AF_UNIX"),
        ("IPAddressDeny", "any"),
        ("SystemCallArchitectures", "native"),
        ("SystemCallErrorNumber", "EPERM"),
        ("LimitNOFILE", "4096"),
        ("LimitCORE", "0"),
        ("MemoryHigh", "75%"),
        ("MemoryMax", "85%"),
        ("TasksMax", "256"),
        ("CPUWeight", "50"),
        ("IOWeight", "50"),
    ] {
        assert_eq!(unit.value("Service", key), value, "{key}");
    }
    // Every peer on the socket would have the same user id.
    assert_eq!(unit.values("Service", "PrivateUsers"), [""; 0]);
}

#[test]
fn the_user_unit_asks_only_for_what_a_users_manager_can_do() {
    let unit = user();
    let service = |key| unit.value("Service", key);
    assert!(service("ExecStart").contains("--socket %t/kmerge/kmerged.sock"));
    assert!(service("ExecStart").contains("--config %E/kmerge/kmerged.toml"));
    assert_eq!(service("RuntimeDirectory"), "kmerge");
    assert_eq!(service("RuntimeDirectoryMode"), "0700");
    assert_eq!(service("UMask"), "0077");
    assert_eq!(service("NoNewPrivileges"), "yes");
    // Each of these needs root or a user namespace, or means another directory before 254.
    for key in [
        "AmbientCapabilities",
        "CapabilityBoundingSet",
        "DynamicUser",
        "Group",
        "IPAddressDeny",
        "PrivateDevices",
        "PrivateNetwork",
        "PrivateTmp",
        "ProcSubset",
        "ProtectClock",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "StateDirectory",
        "User",
    ] {
        assert_eq!(unit.values("Service", key), [""; 0], "{key}");
    }
}
