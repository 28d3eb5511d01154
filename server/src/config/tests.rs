//! The configuration: the shipped file is complete, and every mistake is named.

use super::*;

fn args() -> Args {
    Args {
        config: None,
        state_dir: Some("/state".into()),
        socket: None,
        check_config: false,
        print_default_config: false,
        ..Args::default()
    }
}

fn surroundings() -> Surroundings {
    Surroundings {
        uid: 1000,
        temporary: "/tmp".into(),
        macos: false,
        variable: |_| None,
    }
}

fn load(environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Config::from_sources(&args(), environment, &surroundings())
}

#[test]
fn the_shipped_file_is_the_default_and_every_key_in_it_is_read() {
    let config = load(&[]).unwrap();
    assert_eq!(config.uploads.max_bytes, 512 << 20);
    assert_eq!(config.uploads.queue, 64);
    assert_eq!(config.merge.slots, 8);
    let progressive = Policy {
        operator: Operator::Progressive,
        assignment: AssignmentRule::Roomiest,
        ..Policy::default()
    };
    assert_eq!(config.merge, progressive);
    assert_eq!(
        config.listen.socket,
        Path::new("/tmp/kmerge-1000/kmerged.sock")
    );
    assert_eq!(config.listen.socket_mode, 0o600);
    assert!(!config.listen.reflection);
    assert_eq!(config.listen.tcp, None);
    assert_eq!(config.uploads.parallel_per_user, config.uploads.parallel);
}

#[test]
fn loopback_asks_for_a_token_and_everything_else_for_certificates() {
    let proof = |more: &[(&str, &str)]| {
        let tcp = load(more)?.listen.tcp;
        Ok::<_, ConfigError>(tcp.unwrap().proof)
    };
    for address in ["127.0.0.1:7447", "[::1]:7447", "127.0.0.9:0"] {
        let found = proof(&[("KMERGE_LISTEN__TCP", address)]).unwrap();
        assert_eq!(found, Proof::Token("/state/token".into()));
    }
    let elsewhere = [
        ("KMERGE_LISTEN__TCP", "127.0.0.1:7447"),
        ("KMERGE_LISTEN__TOKEN_FILE", "/secret"),
    ];
    assert_eq!(proof(&elsewhere).unwrap(), Proof::Token("/secret".into()));
    let tls = [
        ("KMERGE_LISTEN__TLS__CERTIFICATE", "/c"),
        ("KMERGE_LISTEN__TLS__KEY", "/k"),
        ("KMERGE_LISTEN__TLS__CLIENT_CA", "/ca"),
    ];
    for address in ["0.0.0.0:7447", "192.0.2.1:1", "[::]:7447", "10.0.0.1:7447"] {
        let tcp = ("KMERGE_LISTEN__TCP", address);
        let error = proof(&[tcp]).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        assert!(error.to_string().contains("listen.tls"), "{error}");
        let found = proof(&[&[tcp][..], &tls].concat()).unwrap();
        assert!(matches!(found, Proof::Certificates(_)));
        // One file less is not less of a check: it is a problem.
        for missing in 0..tls.len() {
            let mut some = tls.to_vec();
            let (name, _) = some.remove(missing);
            let key = name
                .replace("KMERGE_", "")
                .replace("__", ".")
                .to_lowercase();
            let error = proof(&[&[tcp][..], &some].concat()).unwrap_err();
            assert!(error.to_string().contains(&key), "{key}: {error}");
        }
    }
    for (tcp, word) in [("localhost:7447", "listen.tcp"), ("7447", "127.0.0.1:7447")] {
        let error = proof(&[("KMERGE_LISTEN__TCP", tcp)]).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = load(&tls).unwrap_err();
    assert!(error.to_string().contains("listen.tcp"), "{error}");
}

#[test]
fn one_upload_is_kept_for_somebody_else_where_there_can_be_somebody_else() {
    let of = |more: &[(&str, &str)]| load(more).unwrap().uploads.parallel_per_user;
    assert_eq!(of(&[("KMERGE_LISTEN__TCP", "127.0.0.1:7447")]), 3);
    let others = ("KMERGE_LISTEN__ALLOWED_UIDS", "7");
    assert_eq!(of(&[others]), 3);
    assert_eq!(of(&[others, ("KMERGE_UPLOADS__PARALLEL", "1")]), 1);
    assert_eq!(of(&[others, ("KMERGE_UPLOADS__PARALLEL_PER_USER", "9")]), 9);
}

#[test]
fn the_environment_wins_over_the_file_and_the_flag_over_both() {
    let config = load(&[
        ("KMERGE_UPLOADS__QUEUE", "7"),
        ("KMERGE_STATE__DIRECTORY", "/elsewhere"),
        ("KMERGE_MERGE__ASSIGNMENT", "kmerge++"),
        ("KMERGE_MERGE__THRESHOLD", "0.35"),
        ("KMERGE_MERGE__OPERATOR", "dare-ties"),
        ("KMERGE_MERGE__WEIGHTING", "released"),
        ("KMERGE_MERGE__DENSITY", "0.25"),
        ("KMERGE_LISTEN__REFLECTION", "true"),
        ("KMERGE_LISTEN__ALLOWED_UIDS", "1,2"),
        ("KMERGE_SOCKET", "not a key"),
    ])
    .unwrap();
    assert_eq!(config.uploads.queue, 7);
    assert_eq!(config.state.directory, Path::new("/state"));
    assert_eq!(
        config.merge.assignment,
        AssignmentRule::KMergePlusPlus {
            threshold: Some(0.35)
        }
    );
    assert_eq!(config.merge.operator, Operator::DareTies);
    assert_eq!(config.merge.weighting, Weighting::Released);
    assert_eq!(config.merge.density.to_bits(), 0.25_f64.to_bits());
    assert!(config.listen.reflection);
    assert_eq!(config.listen.allowed_uids, [1, 2]);
}

#[test]
fn exported_formats_are_a_list_in_which_peft_goes_without_saying() {
    let formats = |text: &str| load(&[("KMERGE_EXPORTS__FORMATS", text)]);
    assert_eq!(load(&[]).unwrap().exports, []);
    assert_eq!(formats("").unwrap().exports, []);
    assert_eq!(formats("mlx, peft,mlx").unwrap().exports, [Foreign::Mlx]);
    assert_eq!(
        formats("mlx,gguf").unwrap().exports,
        [Foreign::Gguf, Foreign::Mlx]
    );
    let error = formats("gguf,onnx").unwrap_err();
    assert_eq!(error.problems.len(), 1);
    let problem = &error.problems[0];
    assert!(
        problem.contains("a list of \"peft\", \"gguf\", \"mlx\""),
        "{problem}"
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let error = load(&[
        ("KMERGE_UPLOADS__QUEUE", "0"),
        ("KMERGE_UPLOADS__MAX_BYTES", "much"),
        ("KMERGE_MERGE__OPERATOR", "magic"),
        ("KMERGE_MERGE__THRESHOLD", "2"),
        ("KMERGE_MERGE__WEIGHTING", "fair"),
        ("KMERGE_MERGE__DENSITY", "0"),
        ("KMERGE_LISTEN__SOCKET", "relative.sock"),
        ("KMERGE_LISTEN__SOCKET_MODE", "0777"),
        ("KMERGE_LISTEN__SOKET", "/x"),
        ("KMERGE_LOG__LEVEL", "info,=="),
    ])
    .unwrap_err();
    let keys = [
        "uploads.queue",
        "uploads.max_bytes",
        "merge.operator",
        "merge.threshold",
        "merge.weighting",
        "merge.density",
        "listen.socket is",
        "listen.socket_mode",
        "listen.soket",
        "log.level",
    ];
    for key in keys {
        assert!(
            error
                .problems
                .iter()
                .any(|problem| problem.starts_with(key)),
            "{key}: {error}"
        );
    }
    assert_eq!(error.problems.len(), keys.len(), "{error}");
    assert!(
        error.to_string().contains("did you mean listen.socket?"),
        "{error}"
    );
}

#[test]
fn a_missing_file_is_a_problem_and_not_the_default() {
    let args = Args {
        config: Some("/nowhere/kmerged.toml".into()),
        ..args()
    };
    let error = Config::from_sources(&args, BTreeMap::new(), &surroundings()).unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/kmerged.toml"),
        "{error}"
    );
}

#[test]
fn without_a_home_the_state_directory_must_be_given() {
    let args = Args {
        state_dir: None,
        ..args()
    };
    let error = Config::from_sources(&args, BTreeMap::new(), &surroundings()).unwrap_err();
    assert!(error.to_string().contains("--state-dir"), "{error}");
}

#[test]
fn sizes_take_units() {
    assert_eq!(keys::parse_bytes("64MiB"), Some(64 << 20));
    assert_eq!(keys::parse_bytes("1 GB"), Some(1_000_000_000));
    assert_eq!(keys::parse_bytes("17"), Some(17));
    assert_eq!(keys::parse_bytes("1.5GB"), None);
    assert_eq!(keys::parse_bytes("99999999999TiB"), None);
    assert_eq!(keys::parse_bytes(""), None);
}

#[test]
fn every_operator_has_its_word() {
    for word in [
        "kmerge-linear",
        "linear",
        "exact",
        "progressive",
        "ties",
        "dare-linear",
        "dare-ties",
        "opcm",
        "svd",
    ] {
        let config = load(&[("KMERGE_MERGE__OPERATOR", word)]).unwrap();
        assert_eq!(config.merge.operator.to_string(), word);
    }
}
