//! `install.sh`, run for real below a temporary directory with the real `kmerged`. `kmerge` is
//! stood in for by a script, because another package builds it.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::launchd;
use crate::unit::Unit;
use crate::{deploy, shipped};

/// Writes one man page and one completion, as `kmerge` does.
const STAND_IN: &str = "#!/bin/sh
case $1 in
  man) mkdir -p \"$3\" && echo page >\"$3/kmerge.1\" ;;
  completions) echo \"completions for $2\" ;;
  *) exit 2 ;;
esac
";

/// A machine that the installer may change: programs to install, and a root to install below.
struct Machine {
    directory: tempfile::TempDir,
    home: &'static str,
}

impl Machine {
    /// A machine whose `uname` answers `system`.
    fn new(system: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let machine = Self {
            directory,
            home: "/home/a person & co",
        };
        for name in ["programs", "path", "root"] {
            std::fs::create_dir(machine.at(name)).expect("a directory");
        }
        machine.program("programs/kmerge", STAND_IN);
        machine.program("path/uname", &format!("#!/bin/sh\necho {system}\n"));
        std::fs::copy(
            env!("CARGO_BIN_EXE_kmerged"),
            machine.at("programs/kmerged"),
        )
        .expect("a copy of kmerged");
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn program(&self, path: &str, text: &str) {
        let path = self.at(path);
        std::fs::write(&path, text).expect("a script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    fn install(&self, arguments: &[&str]) -> Output {
        let path = std::env::var("PATH").expect("a PATH");
        Command::new("sh")
            .arg(deploy().join("install.sh"))
            .arg("--from")
            .arg(self.at("programs"))
            .args(arguments)
            .env("DESTDIR", self.at("root"))
            .env("HOME", self.home)
            .env("PATH", format!("{}:{path}", self.at("path").display()))
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_STATE_HOME")
            .output()
            .expect("sh runs")
    }

    /// Installs, and expects that to work.
    fn installed(&self, arguments: &[&str]) -> String {
        let output = self.install(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{complaints}");
        said
    }

    /// All files below the root.
    fn files(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![self.at("root")];
        while let Some(directory) = waiting.pop() {
            for entry in std::fs::read_dir(directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    waiting.push(path);
                } else {
                    let inner = path.strip_prefix(self.at("root")).expect("below the root");
                    found.insert(inner.display().to_string());
                }
            }
        }
        found
    }

    fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.at("root").join(file)).expect("an installed file")
    }

    fn mode(&self, file: &str) -> u32 {
        let metadata = self
            .at("root")
            .join(file)
            .metadata()
            .expect("an installed file");
        metadata.permissions().mode() & 0o777
    }
}

const CONFIG: &str = "etc/kmerge/kmerged.toml";
const UNIT: &str = "etc/systemd/system/kmerged.service";

#[test]
fn a_system_install_is_whole_and_is_removed_again() {
    let machine = Machine::new("Linux");
    let said = machine.installed(&["--system", "--prefix", "/opt/kmerge"]);
    let files = machine.files();
    assert_eq!(
        files,
        BTreeSet::from(
            [
                CONFIG,
                UNIT,
                "opt/kmerge/bin/kmerge",
                "opt/kmerge/bin/kmerged",
                "opt/kmerge/share/bash-completion/completions/kmerge",
                "opt/kmerge/share/fish/vendor_completions.d/kmerge.fish",
                "opt/kmerge/share/man/man1/kmerge.1",
                "opt/kmerge/share/zsh/site-functions/_kmerge",
            ]
            .map(str::to_owned)
        )
    );
    for file in &files {
        assert!(
            said.contains(file.as_str()),
            "{file} was installed without a word"
        );
        let expected = if file.contains("/bin/") { 0o755 } else { 0o644 };
        assert_eq!(machine.mode(file), expected, "{file}");
    }
    let unit = Unit::parse(&machine.text(UNIT));
    assert!(
        unit.value("Service", "ExecStart")
            .starts_with("/opt/kmerge/bin/kmerged --config ")
    );

    let said = machine.installed(&["--system", "--prefix", "/opt/kmerge", "--uninstall"]);
    assert_eq!(machine.files(), BTreeSet::from([CONFIG.to_owned()]));
    assert!(
        said.contains("etc/kmerge (conf") && said.contains("var/lib/kmerge (slots"),
        "{said}"
    );
}

#[test]
fn a_user_install_stays_in_the_users_home() {
    let machine = Machine::new("Linux");
    machine.installed(&["--user"]);
    let home = &machine.home[1..];
    for file in machine.files() {
        assert!(Path::new(&file).starts_with(home), "{file}");
    }
    // With the default prefix the unit is as shipped: %h finds the home.
    let unit = machine.text(&format!("{home}/.config/systemd/user/kmerged.service"));
    assert_eq!(unit, shipped("systemd/user/kmerged.service"));
}

#[test]
fn a_macos_install_has_a_valid_agent_without_placeholders() {
    let machine = Machine::new("Darwin");
    machine.installed(&["--user"]);
    let path = format!(
        "{}/Library/LaunchAgents/dev.kmerge.kmerged.plist",
        &machine.home[1..]
    );
    let agent = launchd::parse(&machine.text(&path));
    let arguments = launchd::arguments(&agent);
    assert_eq!(arguments[0], format!("{}/.local/bin/kmerged", machine.home));
    let config = format!(
        "{}/Library/Application Support/kmerge/kmerged.toml",
        machine.home
    );
    assert_eq!(arguments[2], config);
    assert!(
        machine.files().contains(&config[1..]),
        "the agent names the installed configuration"
    );
    assert!(!format!("{agent:?}").contains('@'));
    let refused = machine.install(&["--system"]);
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn the_installed_configuration_changes_no_default() {
    let machine = Machine::new("Linux");
    machine.installed(&["--system"]);
    let installed: toml::Table = machine.text(CONFIG).parse().expect("TOML");
    let default: toml::Table = shipped("config.toml").parse().expect("TOML");
    assert_eq!(
        installed.keys().collect::<Vec<_>>(),
        default.keys().collect::<Vec<_>>()
    );
    for (section, values) in &installed {
        let values = values.as_table().expect("a section");
        let is_blank = |value: &toml::Value| value.as_table().is_some_and(toml::Table::is_empty);
        assert!(values.values().all(is_blank), "[{section}] pins {values:?}");
    }
    // The real kmerged reads it: a second install asks it to before anything is replaced.
    let said = machine.installed(&["--system"]);
    assert!(
        said.starts_with("check ") && said.contains("keep "),
        "{said}"
    );
}

#[test]
fn an_upgrade_keeps_the_configuration_and_refuses_a_bad_one() {
    let machine = Machine::new("Linux");
    machine.installed(&["--system"]);
    let config = machine.at("root").join(CONFIG);
    let mine = "[merge]\nslots = 3\n";
    std::fs::write(&config, mine).expect("a configuration");
    machine.installed(&["--system"]);
    assert_eq!(machine.text(CONFIG), mine);

    std::fs::write(&config, "[merge]\nslots = \"many\"\n").expect("a configuration");
    std::fs::write(machine.at("root").join(UNIT), "as it was").expect("a unit");
    let output = machine.install(&["--system"]);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaints.contains("merge.slots") && complaints.contains("nothing was changed"));
    assert_eq!(machine.text(UNIT), "as it was");
}

#[test]
fn a_dry_run_says_everything_and_does_nothing() {
    let machine = Machine::new("Linux");
    let said = machine.installed(&["--system", "--dry-run"]);
    assert_eq!(machine.files(), BTreeSet::new());
    machine.installed(&["--system"]);
    let installed = machine.files();
    for file in &installed {
        assert!(said.contains(file.as_str()), "{file} was not announced");
    }
    machine.installed(&["--system", "--uninstall", "--dry-run"]);
    assert_eq!(machine.files(), installed);
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let machine = Machine::new("Linux");
    for arguments in [
        &["--nonsense"][..],
        &["--prefix"],
        &["--prefix", "relative"],
    ] {
        let output = machine.install(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--help"));
    }
    std::fs::remove_file(machine.at("programs/kmerged")).expect("a file");
    let output = machine.install(&["--system"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cargo build --release"));
    assert_eq!(machine.files(), BTreeSet::new());
}
