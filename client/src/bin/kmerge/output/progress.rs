//! Progress on stderr, on a terminal only: bytes of an upload, stages of a job, steps of a
//! long computation.
//!
//! A bar that is dropped is wiped, so what follows starts on a clean line.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kmerge_client::{UploadEvent, v1};

use super::Output;
use super::views;

/// A bar on stderr; where nobody watches, only what makes an upload wait.
#[derive(Debug, Clone)]
pub(crate) struct Bar(ProgressBar, Output);

impl Bar {
    /// A bar for `total` bytes.
    pub(crate) fn upload(output: &Output, task: &str, total: u64) -> Self {
        let bar = Self::new(
            output,
            total,
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
        );
        bar.0.set_message(format!("sending {task}"));
        bar
    }

    /// A bar for bytes of which it is not known yet how many there are.
    pub(crate) fn bytes(output: &Output, doing: &str) -> Self {
        let bar = Self::new(
            output,
            0,
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
        );
        bar.0.set_message(doing.to_owned());
        bar
    }

    /// So many of so many are done.
    pub(crate) fn reached(&self, done: u64, all: u64) {
        self.0.set_length(all);
        self.0.set_position(done);
    }

    /// A bar for a job's percent.
    pub(crate) fn job(output: &Output) -> Self {
        Self::new(output, 100, "{spinner} {msg:32} {wide_bar} {pos:>3} %")
    }

    /// A bar for `total` steps of the same kind.
    #[cfg(feature = "score")]
    pub(crate) fn steps(output: &Output, total: usize) -> Self {
        let total = u64::try_from(total).unwrap_or(u64::MAX);
        Self::new(output, total, "{spinner} {msg:40} {wide_bar} {pos}/{len}")
    }

    fn new(output: &Output, length: u64, template: &str) -> Self {
        let target = if output.draws_progress() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template(template).expect("the template is well formed");
        let bar = ProgressBar::with_draw_target(Some(length), target).with_style(style);
        Self(bar, *output)
    }

    /// Shows an upload's progress.
    pub(crate) fn uploading(&self, event: &UploadEvent<'_>) {
        match event {
            UploadEvent::Sent { bytes, .. } => self.0.set_position(*bytes),
            UploadEvent::Waiting { wait, error } => {
                let wait = wait.as_secs_f64();
                let text = format!("{error}; trying again in {wait:.1} s");
                // A hidden bar swallows what it is told, and a silent wait looks like a hang.
                if self.0.is_hidden() {
                    self.1.note(&text);
                } else {
                    self.0.println(text);
                }
            }
            _ => {}
        }
    }

    /// Shows a job's progress.
    pub(crate) fn watching(&self, job: &v1::Job) {
        self.0.enable_steady_tick(Duration::from_millis(120));
        self.0.set_position(job.percent.into());
        self.0.set_message(views::stage(job));
    }

    /// Says what the next step is.
    #[cfg(feature = "score")]
    pub(crate) fn at(&self, what: &str) {
        self.0.enable_steady_tick(Duration::from_millis(120));
        self.0.set_message(what.to_owned());
    }

    /// Says how many steps there are, once that is known.
    #[cfg(feature = "score")]
    pub(crate) fn of(&self, total: usize) {
        self.0.set_length(u64::try_from(total).unwrap_or(u64::MAX));
    }

    /// Some more steps are done.
    #[cfg(feature = "score")]
    pub(crate) fn steps_done(&self, count: usize) {
        self.0.inc(u64::try_from(count).unwrap_or(0));
    }

    /// Wipes the bar.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
