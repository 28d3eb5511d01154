//! The arguments: they hold together, say no to nonsense, and their help is as reviewed.

use clap::CommandFactory as _;

use super::*;

fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(["kmerge"].iter().chain(arguments))
}

#[test]
fn the_arguments_hold_together() {
    Cli::command().debug_assert();
}

/// The help of a command, at a fixed width.
fn help(path: &[&str]) -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut command = &mut command;
    for name in path {
        command = command
            .find_subcommand_mut(name)
            .expect("there is such a command");
    }
    command.render_long_help().to_string()
}

#[test]
fn help_of_kmerge() {
    insta::assert_snapshot!(help(&[]));
}

#[test]
fn help_of_base_add() {
    insta::assert_snapshot!(help(&["base", "add"]));
}

#[test]
fn help_of_push() {
    insta::assert_snapshot!(help(&["push"]));
}

#[test]
fn help_of_pull() {
    insta::assert_snapshot!(help(&["pull"]));
}

#[test]
fn help_of_job() {
    insta::assert_snapshot!(help(&["job"]));
}

#[test]
fn help_of_runtimes() {
    insta::assert_snapshot!(help(&["runtimes"]));
}

#[test]
fn help_of_watch() {
    insta::assert_snapshot!(help(&["watch"]));
}

#[test]
#[cfg(feature = "score")]
fn help_of_score() {
    insta::assert_snapshot!(help(&["score"]));
}

#[test]
#[cfg(feature = "score")]
fn help_of_replay() {
    insta::assert_snapshot!(help(&["replay"]));
}

#[test]
fn help_of_demo() {
    insta::assert_snapshot!(help(&["demo"]));
}

#[test]
fn every_command_has_examples() {
    fn check(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        let below: Vec<_> = command.get_subcommands().collect();
        if below.is_empty() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.starts_with("EXAMPLES:\n  kmerge "),
                "{path} has no examples"
            );
        }
        below.into_iter().for_each(|command| check(command, &path));
    }
    check(&Cli::command(), "");
}

#[test]
fn examples_can_be_typed() {
    fn examples(command: &clap::Command, found: &mut Vec<String>) {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let lines = help.lines().skip_while(|line| *line != "EXAMPLES:").skip(1);
        let lines = lines.map_while(|line| line.strip_prefix("  "));
        found.extend(
            lines
                .filter(|line| line.starts_with("kmerge "))
                .map(str::to_owned),
        );
        command
            .get_subcommands()
            .for_each(|below| examples(below, found));
    }
    let mut found = Vec::new();
    examples(&Cli::command(), &mut found);
    assert!(found.len() > 30, "only {} examples were found", found.len());
    for example in found {
        let typed = example
            .split([' '])
            .take_while(|word| !matches!(*word, "|" | ">" | "#"));
        let parsed = Cli::try_parse_from(typed);
        assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
    }
}

#[test]
fn nonsense_is_refused() {
    let nonsense: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["push", "dir"],
        &["push", "dir", "--task", "Not A Name"],
        &["push", "dir", "--task", "a", "--wait", "--dry-run"],
        &["push", "dir", "--task", "a", "--request-id", ""],
        &["slot", "-1"],
        &["slot", "99999999999"],
        &["job", "seven"],
        &["jobs", "--state", "lost"],
        &["pull", "0"],
        &["pull", "0", "--out", "d", "--as", "ggml"],
        &["pull", "0", "--out", "d", "--generation", "0"],
        &["base", "add", "b"],
        &["base", "add", "b", "--config", "c", "--max-bytes", "1M"],
        &[
            "base",
            "add",
            "b",
            "--config",
            "c",
            "--assignment",
            "k-means",
        ],
        &["status", "--format", "yaml"],
        &["status", "--json", "--format", "table"],
        &["status", "--color", "sometimes"],
    ];
    for arguments in nonsense {
        let error = parse(arguments).expect_err(&arguments.join(" "));
        assert_eq!(error.exit_code(), 2, "{arguments:?}");
    }
}

#[test]
fn global_options_go_before_and_after_the_command() {
    for arguments in [["--socket", "/s", "status"], ["status", "--socket", "/s"]] {
        let target = parse(&arguments).unwrap().globals.target(|_| None);
        assert_eq!(target.unwrap(), Address::Socket("/s".into()));
    }
    assert_eq!(
        parse(&["slots", "--json"]).unwrap().globals.format(),
        Format::Json
    );
}

#[test]
fn the_command_line_counts_before_the_environment_and_an_address_before_a_socket() {
    const SOCKET: (&str, &str) = ("KMERGE_SOCKET", "/env.sock");
    const ADDRESS: (&str, &str) = ("KMERGE_ADDRESS", "http://127.0.0.1:1");
    let target = |arguments: &[&str], environment: &[(&str, &str)]| {
        let look = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let arguments = [arguments, &["status"]].concat();
        let target = parse(&arguments).unwrap().globals.target(look);
        target.map(|address| address.to_string())
    };
    let both = [SOCKET, ADDRESS];
    assert_eq!(target(&[], &[SOCKET]).unwrap(), "/env.sock");
    assert_eq!(target(&[], &both).unwrap(), "http://127.0.0.1:1");
    assert_eq!(target(&["--socket", "/s"], &both).unwrap(), "/s");
    let flag = ["--address", "https://h:2"];
    assert_eq!(target(&flag, &both).unwrap(), "https://h:2");
    assert_eq!(
        target(&[], &[SOCKET, ("KMERGE_ADDRESS", "")]).unwrap(),
        "/env.sock"
    );
    let refused = target(&["--address", "http://192.0.2.1:1"], &[]).unwrap_err();
    assert_eq!(refused.exit, crate::failure::Exit::Usage);
    let two = ["--address", "http://[::1]:1", "--socket", "/s", "status"];
    assert_eq!(parse(&two).unwrap_err().exit_code(), 2);
}

#[test]
fn a_wish_for_json_is_seen_in_arguments_that_cannot_be_read() {
    let wants = |arguments: &[&str]| wants_json(arguments.iter().map(OsString::from));
    assert!(wants(&["kmerge", "--format", "json", "frobnicate"]));
    assert!(wants(&["kmerge", "frobnicate", "--format=jsonl"]));
    assert!(wants(&["kmerge", "frobnicate", "--json"]));
    assert!(!wants(&["kmerge", "--format", "table", "json"]));
}
