//! How a command answers: as a table for people or as JSON for programs, in colour or not.
//!
//! What always holds: results go to stdout and everything else to stderr; styled text is stripped
//! on the way out wherever colour is not wanted, so whoever renders need not ask; with JSON,
//! stdout holds JSON and nothing else.

pub(crate) mod progress;
pub(crate) mod record;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod views;

use std::io::{self, IsTerminal as _, Write};

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use owo_colors::OwoColorize as _;
use serde_json::{Value as Json, json};

use crate::failure::Failure;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// One JSON document a line
    Jsonl,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWish {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Where and how a command answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
    color: ColorChoice,
    quiet: bool,
}

impl Output {
    pub(crate) fn new(format: Format, color: ColorWish, quiet: bool) -> Self {
        let color = match color {
            ColorWish::Auto => ColorChoice::Auto,
            ColorWish::Always => ColorChoice::Always,
            ColorWish::Never => ColorChoice::Never,
        };
        Self {
            format,
            color,
            quiet,
        }
    }

    /// Whether people read along, so that partial results and tables make sense.
    pub(crate) fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// Whether progress may be drawn on stderr.
    pub(crate) fn draws_progress(&self) -> bool {
        self.is_table() && !self.quiet && io::stderr().is_terminal()
    }

    /// One result: a document, or what `text` renders.
    pub(crate) fn document(
        &self,
        document: &Json,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&text()),
            Format::Json => self.line(&format!("{document:#}")),
            Format::Jsonl => self.line(&document.to_string()),
        }
    }

    /// A list: an object with the one array `name`, or a line for each, or what `text` renders.
    pub(crate) fn list(
        &self,
        name: &str,
        items: Json,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match (self.format, items) {
            (Format::Jsonl, Json::Array(items)) => items
                .iter()
                .try_for_each(|item| self.line(&item.to_string())),
            (_, items) => self.document(&json!({ name: items }), text),
        }
    }

    /// One of a sequence of results, a line each.
    pub(crate) fn event(
        &self,
        document: &Json,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&text()),
            Format::Json | Format::Jsonl => self.line(&document.to_string()),
        }
    }

    /// Text for people on stdout; nothing with JSON.
    pub(crate) fn say(&self, text: &str) -> Result<(), Failure> {
        if self.is_table() {
            self.text(text)
        } else {
            Ok(())
        }
    }

    /// A remark on stderr that is no result: what to type next, what was noticed.
    pub(crate) fn note(&self, text: &str) {
        if self.is_table() && !self.quiet {
            self.complain(text);
        }
    }

    /// What went wrong, on stderr.
    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.message.is_empty() {
            return;
        }
        if !self.is_table() {
            let Failure {
                code,
                reason,
                message,
                ..
            } = failure;
            let error = json!({ "error": { "code": code, "reason": reason, "message": message } });
            self.complain(&error.to_string());
            return;
        }
        self.complain(&format!("{} {}", "error:".red().bold(), failure.message));
        if let Some(hint) = &failure.hint {
            self.complain(&format!("{} {hint}", "hint:".cyan().bold()));
        }
    }

    /// Raw bytes on stdout: a script for a shell.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(not_written)
    }

    fn text(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = AutoStream::new(io::stdout().lock(), self.color);
        write!(
            stdout,
            "{text}{}",
            if text.ends_with('\n') || text.is_empty() {
                ""
            } else {
                "\n"
            }
        )
        .and_then(|()| stdout.flush())
        .map_err(not_written)
    }

    fn line(&self, line: &str) -> Result<(), Failure> {
        self.raw(format!("{line}\n").as_bytes())
    }

    fn complain(&self, text: &str) {
        let mut stderr = AutoStream::new(io::stderr().lock(), self.color);
        // If stderr is gone, there is nobody left to tell.
        let _ = writeln!(stderr, "{text}");
    }
}

/// A reader that has gone, as `head` does, is no failure.
fn not_written(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::reader_gone()
    } else {
        Failure::system("write to stdout", &error)
    }
}
