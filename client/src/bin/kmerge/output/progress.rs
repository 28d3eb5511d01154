//! Progress on stderr, on a terminal only: bytes of an upload, stages of a job.
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

    /// A bar for a job's percent.
    pub(crate) fn job(output: &Output) -> Self {
        Self::new(output, 100, "{spinner} {msg:32} {wide_bar} {pos:>3} %")
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

    /// Wipes the bar.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
