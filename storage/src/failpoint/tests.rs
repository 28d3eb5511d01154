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
        for function in ["hit", "operation"] {
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

    use super::active::{Action, Plan, parse};

    let plan = |name: &str, action, at| {
        Some(Plan {
            name: name.to_owned(),
            action,
            at,
        })
    };
    assert_eq!(parse("a.b=kill@3"), plan("a.b", Action::Kill, 3));
    assert_eq!(parse("a=error@1"), plan("a", Action::Error, 1));
    assert_eq!(
        parse("a=sleep@2:50"),
        plan("a", Action::Sleep(Duration::from_millis(50)), 2)
    );
    for wrong in [
        "",
        "a",
        "a=kill",
        "a=kill@",
        "a=kill@x",
        "a=sleep@1",
        "a=kill@1:2",
        "a=die@1",
    ] {
        assert_eq!(parse(wrong), None, "{wrong}");
    }
}
