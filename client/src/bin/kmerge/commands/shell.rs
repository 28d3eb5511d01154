//! `kmerge completions` and `kmerge man`: what the shell and `man` need, made from the arguments
//! themselves.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _};
use serde_json::json;

use crate::cli::Cli;
use crate::failure::{Exit, Failure};
use crate::files;
use crate::output::Output;

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

const COMPLETIONS: &str = "\
EXAMPLES:
  kmerge completions bash > ~/.local/share/bash-completion/completions/kmerge
  kmerge completions zsh > ~/.zfunc/_kmerge
  kmerge completions fish > ~/.config/fish/completions/kmerge.fish";

impl Completions {
    pub(crate) fn run(self, output: &Output) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "kmerge", &mut script);
        output.raw(&script)?;
        Ok(Exit::Done)
    }
}

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  kmerge man --out ~/.local/share/man/man1\n  man kmerge-push")]
pub(crate) struct Man {
    /// The directory to write kmerge.1, kmerge-push.1 and the others to
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
}

impl Man {
    pub(crate) fn run(self, output: &Output) -> Result<Exit, Failure> {
        files::create_directories(&self.out)?;
        let mut command = Cli::command();
        command.build();
        let mut pages = Vec::new();
        write_pages(&command, &self.out, &mut pages)?;
        let document = json!({ "pages": pages, "out": self.out.display().to_string() });
        output.document(&document, || {
            format!("{} man pages in {}", pages.len(), self.out.display())
        })?;
        Ok(Exit::Done)
    }
}

/// Writes the page of a command and of all below it.
fn write_pages(
    command: &clap::Command,
    out: &Path,
    pages: &mut Vec<String>,
) -> Result<(), Failure> {
    let page = clap_mangen::Man::new(command.clone());
    let name = page.get_filename();
    let mut text = Vec::new();
    page.render(&mut text).expect("memory takes everything");
    files::write(&out.join(&name), &text)?;
    pages.push(name);
    command
        .get_subcommands()
        .try_for_each(|below| write_pages(below, out, pages))
}
