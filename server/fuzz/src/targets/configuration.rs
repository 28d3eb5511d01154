//! The daemon's configuration file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use kmerge_server::args::Args;
use kmerge_server::config::Config;
use kmerge_server::paths::Surroundings;

thread_local! {
    /// Where the file is written, for as long as the thread lives.
    static PLACE: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

fn place() -> PathBuf {
    PLACE.with_borrow_mut(|place| {
        let directory = place.get_or_insert_with(|| super::upload::room("configuration"));
        directory.path().join("config.toml")
    })
}

pub fn check(input: &[u8]) {
    let path = place();
    std::fs::write(&path, input).expect("the file can be written");
    let args = Args {
        config: Some(path.clone()),
        state_dir: None,
        socket: None,
        check_config: true,
        restore: None,
        dry_run: false,
        json: false,
        print_default_config: false,
    };
    let surroundings = Surroundings {
        uid: 1000,
        temporary: PathBuf::from("/tmp"),
        macos: false,
        variable: |name| (name == "HOME").then(|| "/home/user".into()),
    };
    match Config::from_sources(&args, BTreeMap::new(), &surroundings) {
        Ok(config) => {
            assert!(config.uploads.max_bytes > 0 && config.uploads.parallel > 0);
            assert!(config.workers.threads > 0 && config.workers.jobs > 0);
            assert!(config.merge.slots > 0 && config.listen.limits.streams > 0);
            assert!(!config.state.directory.as_os_str().is_empty());
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            assert!(error.problems.iter().all(|problem| !problem.is_empty()));
        }
    }
}
