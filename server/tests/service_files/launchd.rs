//! The LaunchAgent: a valid property list with the keys that kmerged relies on.

use plist::{Dictionary, Value};

use crate::{longest_stop_seconds, shipped};

const AGENT: &str = "launchd/dev.kmerge.kmerged.plist";

pub(crate) fn parse(text: &str) -> Dictionary {
    let value = Value::from_reader_xml(text.as_bytes()).expect("a valid property list");
    value.into_dictionary().expect("an agent is a dictionary")
}

pub(crate) fn arguments(agent: &Dictionary) -> Vec<&str> {
    let arguments = agent["ProgramArguments"].as_array().expect("a list");
    arguments
        .iter()
        .map(|argument| argument.as_string().expect("a string"))
        .collect()
}

#[test]
fn the_agent_is_labelled_as_its_file() {
    let label = parse(&shipped(AGENT))["Label"].clone();
    assert_eq!(
        format!("launchd/{}.plist", label.as_string().expect("a string")),
        AGENT
    );
}

#[test]
fn the_agent_runs_kmerged_with_macos_directories() {
    let agent = parse(&shipped(AGENT));
    assert_eq!(
        arguments(&agent),
        [
            "@PREFIX@/bin/kmerged",
            "--config",
            "@HOME@/Library/Application Support/kmerge/kmerged.toml",
            "--state-dir",
            "@HOME@/Library/Application Support/kmerge",
            "--socket",
            "@HOME@/Library/Application Support/kmerge/kmerged.sock",
        ]
    );
    // launchd takes the first argument as the program unless this says otherwise.
    assert!(!agent.contains_key("Program"));
    // An agent runs as its user; these belong to a daemon's list.
    assert!(!agent.contains_key("UserName") && !agent.contains_key("GroupName"));
}

#[test]
fn the_agent_is_supervised_as_the_units_are() {
    let agent = parse(&shipped(AGENT));
    let number = |key: &str| agent[key].as_signed_integer().expect("a number");
    assert_eq!(agent["RunAtLoad"].as_boolean(), Some(true));
    let keep_alive = agent["KeepAlive"].as_dictionary().expect("conditions");
    assert_eq!(keep_alive["SuccessfulExit"].as_boolean(), Some(false));
    assert_eq!(keep_alive.len(), 1);
    assert!(number("ThrottleInterval") >= 1);
    assert!(number("ExitTimeOut") >= longest_stop_seconds());
    assert_eq!(number("Umask"), 0o077);
    assert_eq!(agent["ProcessType"].as_string(), Some("Background"));
    assert_eq!(agent["LowPriorityBackgroundIO"].as_boolean(), Some(true));
    let limits = agent["SoftResourceLimits"].as_dictionary().expect("limits");
    assert_eq!(limits["NumberOfFiles"].as_signed_integer(), Some(4096));
    assert_eq!(limits["Core"].as_signed_integer(), Some(0));
}
