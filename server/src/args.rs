//! The arguments of `kmerged`. Everything else is configuration.

use std::path::PathBuf;

use clap::Parser;

/// Merges LoRA adapters into a few slots, keeps them safe, and serves them to local apps.
#[derive(Debug, Clone, Parser)]
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
    /// Print the default configuration, with comments, and exit.
    #[arg(long)]
    pub print_default_config: bool,
}

const AFTER_HELP: &str = "\
Examples:
  kmerged
  kmerged --config ~/.config/kmerge/kmerged.toml --state-dir ~/.local/state/kmerge
  KMERGE_LOG__LEVEL=debug kmerged

Exit codes:
  0   stopped as asked
  1   could not start, or had to stop
  64  the configuration is wrong
";
