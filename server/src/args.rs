//! The arguments of `kmerged`. Everything else is configuration.

use std::path::PathBuf;

use clap::Parser;

/// Merges LoRA adapters into a few slots, keeps them safe, and serves them to local apps.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "kmerged", version, after_help = AFTER_HELP)]
pub struct Args {
    /// A TOML file with what differs from the defaults.
    #[arg(long, value_name = "FILE", env = "KMERGE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where slots, tasks and jobs are kept.
    #[arg(long, value_name = "DIR", env = "KMERGE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// The Unix socket to listen on.
    #[arg(long, value_name = "PATH", env = "KMERGE_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Read the configuration, report every problem in it, and exit.
    #[arg(long)]
    pub check_config: bool,
    /// Make the state directory from a backup, and exit; - for stdin. It must be empty or not there.
    #[arg(long, value_name = "FILE")]
    pub restore: Option<PathBuf>,
    /// With --restore: check the backup, every byte of it, and change nothing.
    #[arg(long, requires = "restore")]
    pub dry_run: bool,
    /// With --restore: answer in JSON.
    #[arg(long, requires = "restore")]
    pub json: bool,
    /// Print the default configuration, with comments, and exit.
    #[arg(long)]
    pub print_default_config: bool,
}

const AFTER_HELP: &str = "\
Examples:
  kmerged
  kmerged --config ~/.config/kmerge/kmerged.toml --state-dir ~/.local/state/kmerge
  KMERGE_LOG__LEVEL=debug kmerged
  kmerged --restore kmerge.tar --state-dir ~/.local/state/kmerge

Exit codes:
  0   stopped as asked, or restored
  1   could not start, or had to stop
  64  the configuration is wrong
";
