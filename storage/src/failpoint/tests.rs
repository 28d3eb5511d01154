//! The list of points is complete, and plans are read as written.

use std::collections::BTreeSet;
use std::path::Path;

use super::NAMES;

/// Collects the names in calls of `hit` and `operation` below `directory`.
fn called(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            called(&path, names);
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "reads the sources, not the state"
        )]
        let text = std::fs::read_to_string(&path).unwrap();
        for function in ["hit", "operation", "writing"] {
            for rest in text.split(&format!("failpoint::{function}(\"")).skip(1) {
                let (name, _) = rest.split_once('"').unwrap();
                names.insert(name.to_owned());
            }
        }
    }
}

#[test]
fn the_list_is_complete() {
    let mut found = BTreeSet::new();
    called(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    let listed: BTreeSet<String> = NAMES.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(listed.len(), NAMES.len(), "a name is listed twice");
    assert_eq!(found, listed);
}

#[cfg(feature = "failpoints")]
#[test]
fn plans_are_read_as_written() {
    use std::time::Duration;

    use super::plan::{Fault, Plan};

    let plan = |name: &str, fault, at| {
        Some(Plan {
            name: name.to_owned(),
            fault,
            at,
        })
    };
    assert_eq!(Plan::parse("a.b=kill@3"), plan("a.b", Fault::Kill, 3));
    assert_eq!(Plan::parse("a=error@1"), plan("a", Fault::Error, 1));
    assert_eq!(Plan::parse("*=full@4"), plan("*", Fault::Full(None), 4));
    assert_eq!(
        Plan::parse("*=full@4:2"),
        plan("*", Fault::Full(Some(2)), 4)
    );
    assert_eq!(Plan::parse("*=short@9"), plan("*", Fault::Short, 9));
    assert_eq!(Plan::parse("a=panic@2"), plan("a", Fault::Panic, 2));
    assert_eq!(Plan::parse("*=torn@9"), plan("*", Fault::Torn, 9));
    assert_eq!(Plan::parse("*=list@1"), plan("*", Fault::List, 1));
    assert_eq!(
        Plan::parse("a=sleep@2:50"),
        plan("a", Fault::Sleep(Duration::from_millis(50)), 2)
    );
    for wrong in [
        "",
        "a",
        "a=kill",
        "a=kill@",
        "a=kill@x",
        "a=panic@1:2",
        "a=sleep@1",
        "a=kill@1:2",
        "a=torn@1:2",
        "a=full@1:x",
        "a=die@1",
    ] {
        assert_eq!(Plan::parse(wrong), None, "{wrong}");
    }
}

#[cfg(feature = "failpoints")]
#[test]
fn a_star_counts_file_operations_alone() {
    use super::plan::Plan;

    let all = Plan::parse("*=kill@1").unwrap();
    assert!(all.counts("durable.write", true));
    assert!(!all.counts("commit.checked", false));
    let one = Plan::parse("commit.checked=kill@1").unwrap();
    assert!(one.counts("commit.checked", false));
    assert!(!one.counts("durable.write", true));
}
