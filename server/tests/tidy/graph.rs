//! Which crate may depend on which: the arrows of the house, and what may not come in at all.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Which of a crate's dependencies a dependency is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Normal,
    Build,
    Dev,
}

/// The workspace's members with what they name in their manifests, and what stands behind that.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// Per member: every dependency, optional ones and those of other platforms included.
    pub(crate) declared: BTreeMap<String, BTreeSet<(Kind, String)>>,
    /// Per package of the lock file: its dependencies.
    pub(crate) locked: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// From the output of `cargo metadata --no-deps` and the lock file.
    pub(crate) fn read(metadata: &Value, lock: &toml::Table) -> Self {
        let mut graph = Self::default();
        for package in array(metadata, "packages") {
            let dependencies = array(package, "dependencies")
                .iter()
                .map(|dependency| {
                    let kind = match dependency["kind"].as_str() {
                        Some("dev") => Kind::Dev,
                        Some("build") => Kind::Build,
                        _ => Kind::Normal,
                    };
                    (kind, text(&dependency["name"]))
                })
                .collect();
            graph.declared.insert(text(&package["name"]), dependencies);
        }
        for package in lock["package"]
            .as_array()
            .expect("a lock file lists packages")
        {
            let named = |value: &toml::Value| {
                // "name", or "name version" where the tree has several.
                let entry = value.as_str().expect("dependencies are strings");
                entry.split(' ').next().unwrap_or(entry).to_owned()
            };
            let dependencies = package.get("dependencies").and_then(toml::Value::as_array);
            let entry = graph.locked.entry(named(&package["name"])).or_default();
            entry.extend(dependencies.into_iter().flatten().map(named));
        }
        graph
    }

    /// Everything that comes with `member` when it ships: not what only its tests need.
    fn behind(&self, member: &str) -> BTreeSet<String> {
        let declared = self.declared.get(member).into_iter().flatten();
        let mut waiting: Vec<&str> = declared
            .filter(|(kind, _)| *kind != Kind::Dev)
            .map(|(_, name)| name.as_str())
            .collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = waiting.pop() {
            if seen.insert(name.to_owned()) {
                waiting.extend(
                    self.locked
                        .get(name)
                        .into_iter()
                        .flatten()
                        .map(String::as_str),
                );
            }
        }
        seen
    }
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .expect("cargo metadata names its packages")
        .to_owned()
}

/// The edges between members; there is no other.
const ARROWS: &[(&str, Kind, &str)] = &[
    ("kmerge-client", Kind::Normal, "kmerge-proto"),
    ("kmerge-server", Kind::Normal, "kmerge-proto"),
    ("kmerge-server", Kind::Normal, "kmerge-merge"),
    ("kmerge-server", Kind::Normal, "kmerge-storage"),
    // Tests talk to the real daemon through the real client, and kill it at storage's named points.
    ("kmerge-server", Kind::Dev, "kmerge-client"),
    ("kmerge-server", Kind::Dev, "kmerge-storage"),
    // Its own tests are killed there too: the one way to turn a feature on for them alone.
    ("kmerge-storage", Kind::Dev, "kmerge-storage"),
];

/// What must not stand behind a member, by the first word of its name, and why.
const ABSENT: &[(&str, &[&str], &str)] = &[
    (
        "kmerge-merge",
        &["tokio", "tonic", "sled", "prost", "hyper", "mio"],
        "the mathematics is pure",
    ),
    (
        "kmerge-storage",
        &[
            "tokio", "tonic", "prost", "hyper", "candle", "faer", "gemm", "tracing",
        ],
        "storage is synchronous and does not know what tensors mean",
    ),
    (
        "kmerge-proto",
        &["sled", "candle", "faer", "gemm"],
        "the contract has no logic",
    ),
    (
        "kmerge-client",
        &["sled", "faer"],
        "a client asks the daemon; what it runs itself is a model, to score adapters on",
    ),
];

/// What is reached only through these members.
const THROUGH: &[(&str, &[&str])] = &[
    ("sled", &["kmerge-storage"]),
    // The mathematics, and the model that adapters are scored on.
    ("candle-core", &["kmerge-merge", "kmerge-client"]),
    ("faer", &["kmerge-merge"]),
    ("gemm", &["kmerge-merge"]),
];

/// Every way in which `graph` breaks the rules.
pub(crate) fn violations(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for (member, dependencies) in &graph.declared {
        for (kind, name) in dependencies {
            let arrow = (member.as_str(), *kind, name.as_str());
            if graph.declared.contains_key(name) && !ARROWS.contains(&arrow) {
                found.push(format!("{member} must not depend on {name} ({kind:?})"));
            }
            for (only, owners) in THROUGH {
                if name == only && !owners.contains(&member.as_str()) && *kind != Kind::Dev {
                    found.push(format!(
                        "{member} must reach {name} through {}",
                        owners.join(" or ")
                    ));
                }
            }
        }
    }
    for (from, kind, to) in ARROWS.iter().filter(|(_, kind, _)| *kind == Kind::Normal) {
        let edge = (*kind, (*to).to_owned());
        if !graph
            .declared
            .get(*from)
            .is_some_and(|dependencies| dependencies.contains(&edge))
        {
            found.push(format!(
                "{from} no longer depends on {to}: the rules describe another house"
            ));
        }
    }
    for (member, absent, why) in ABSENT {
        for name in graph.behind(member) {
            let first = name.split(['-', '_']).next().unwrap_or(&name);
            if absent.contains(&first) {
                found.push(format!("{name} comes with {member}: {why}"));
            }
        }
    }
    found
}

/// The smallest graph that breaks no rule.
fn house() -> Graph {
    let mut graph = Graph::default();
    for member in [
        "kmerge-merge",
        "kmerge-storage",
        "kmerge-proto",
        "kmerge-client",
    ] {
        graph.declared.insert(member.to_owned(), BTreeSet::new());
    }
    for (from, kind, to) in ARROWS {
        graph
            .declared
            .entry((*from).to_owned())
            .or_default()
            .insert((*kind, (*to).to_owned()));
    }
    graph
}

fn with(member: &str, kind: Kind, name: &str) -> Vec<String> {
    let mut graph = house();
    graph
        .declared
        .entry(member.to_owned())
        .or_default()
        .insert((kind, name.to_owned()));
    violations(&graph)
}

#[test]
fn the_house_itself_breaks_no_rule() {
    assert_eq!(violations(&house()), [""; 0]);
}

#[test]
fn every_other_edge_between_members_is_found() {
    let members: Vec<_> = house().declared.into_keys().collect();
    for from in &members {
        for to in &members {
            for kind in [Kind::Normal, Kind::Build, Kind::Dev] {
                let allowed = ARROWS.contains(&(from.as_str(), kind, to.as_str()));
                assert_eq!(
                    with(from, kind, to).is_empty(),
                    allowed,
                    "{from} → {to} ({kind:?})"
                );
            }
        }
    }
}

#[test]
fn a_missing_arrow_is_found() {
    let mut graph = house();
    graph
        .declared
        .get_mut("kmerge-client")
        .expect("a member")
        .clear();
    assert_eq!(violations(&graph).len(), 1);
}

#[test]
fn what_must_be_absent_is_found_behind_others_too() {
    for (member, name) in [
        ("kmerge-merge", "tokio-util"),
        ("kmerge-storage", "candle-core"),
        ("kmerge-client", "sled"),
        ("kmerge-server", "sled"),
    ] {
        assert!(
            !with(member, Kind::Normal, name).is_empty(),
            "{member} → {name}"
        );
    }
    let mut graph = house();
    graph
        .declared
        .entry("kmerge-merge".to_owned())
        .or_default()
        .insert((Kind::Normal, "innocent".to_owned()));
    graph
        .locked
        .insert("innocent".to_owned(), BTreeSet::from(["tonic".to_owned()]));
    assert_eq!(
        violations(&graph),
        ["tonic comes with kmerge-merge: the mathematics is pure"]
    );
}

#[test]
fn metadata_and_lock_file_are_read() {
    let metadata = serde_json::json!({ "packages": [{ "name": "a", "dependencies": [
        { "name": "b", "kind": null }, { "name": "c", "kind": "dev" }, { "name": "d", "kind": "build" },
    ]}]});
    let lock = "[[package]]\nname = \"b\"\nversion = \"1\"\ndependencies = [\"e 1.0\", \"f\"]\n";
    let graph = Graph::read(&metadata, &lock.parse().expect("valid TOML"));
    let kinds: Vec<_> = graph.declared["a"].iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Kind::Normal, Kind::Build, Kind::Dev]);
    assert_eq!(
        graph.behind("a"),
        BTreeSet::from(["b", "d", "e", "f"].map(str::to_owned))
    );
}
