//! `kmerge status`: how the daemon is.

use std::time::SystemTime;

use kmerge_client::{json, v1};
use owo_colors::OwoColorize as _;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::record::Record;
use crate::output::{text, views};

pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let status = context.client().await?.get_status().await?;
    let now = SystemTime::now();
    context
        .output
        .document(&json::message(&status), || view(&status, now))?;
    Ok(Exit::Done)
}

fn view(status: &v1::GetStatusResponse, now: SystemTime) -> String {
    let state = if status.accepts_writes {
        status.state.green().to_string()
    } else {
        status.state.red().to_string()
    };
    let memory = (status.resident_bytes > 0).then(|| text::bytes(status.resident_bytes));
    let kept = format!(
        "{}, {} in {}",
        text::count(status.base_models.into(), "base model"),
        text::count(status.tasks, "task"),
        text::count(status.slots.into(), "slot"),
    );
    let queue = format!(
        "{} queued, {} running, at most {}",
        status.jobs_queued, status.jobs_running, status.queue_limit
    );
    Record::new()
        .fact("state", state)
        .fact("version", &status.version)
        .fact("process", status.process_id.to_string())
        .fact("started", text::ago(status.start_time.as_ref(), now))
        .fact("directory", &status.state_directory)
        .fact("socket", &status.socket)
        .fact("revision", status.revision.to_string())
        .fact("keeps", kept)
        .fact("jobs", queue)
        .fact("threads", status.worker_threads.to_string())
        .maybe("memory", memory)
        .maybe("disk", status.disk.as_ref().map(disk))
        .maybe("runtimes", views::runtime_summaries(&status.runtimes))
        .maybe(
            "scrubbed",
            status
                .last_scrub
                .as_ref()
                .map(|last| super::scrub::summary(last, now)),
        )
        .maybe(
            "scrubbing",
            status.scrub.as_ref().map(super::scrub::own_state),
        )
        .maybe("recovery", status.recovery.as_ref().map(recovery))
        .render()
}

fn disk(disk: &v1::DiskUsage) -> String {
    format!(
        "{} ({} current tensors, {} older ones), {} free",
        text::bytes(disk.total),
        text::bytes(disk.tensors_live),
        text::bytes(disk.tensors_grace),
        text::bytes(disk.free)
    )
}

fn recovery(report: &v1::RecoveryReport) -> String {
    if report.notes.is_empty() {
        "nothing to do".to_owned()
    } else {
        report.notes.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_at_a_glance() {
        let status = v1::GetStatusResponse {
            version: "0.1.0".into(),
            process_id: 4711,
            state_directory: "/var/lib/kmerge".into(),
            socket: "/run/kmerge/kmerged.sock".into(),
            revision: 12,
            base_models: 1,
            slots: 3,
            tasks: 8,
            jobs_running: 1,
            queue_limit: 64,
            worker_threads: 2,
            disk: Some(v1::DiskUsage {
                total: 3 << 20,
                tensors_live: 1 << 20,
                free: 40 << 30,
                ..v1::DiskUsage::default()
            }),
            recovery: Some(v1::RecoveryReport {
                notes: vec!["set the catalog aside".into(), "rebuilt 3 slots".into()],
                ..v1::RecoveryReport::default()
            }),
            runtimes: vec![
                v1::RuntimeSummary {
                    name: "gpu".into(),
                    kind: "vllm".into(),
                    condition: v1::RuntimeCondition::Ready.into(),
                    adapters: 8,
                    up_to_date: 8,
                    message: String::new(),
                },
                v1::RuntimeSummary {
                    name: "hook".into(),
                    kind: "webhook".into(),
                    condition: v1::RuntimeCondition::Unreachable.into(),
                    adapters: 8,
                    up_to_date: 3,
                    message: "cannot be reached: Connection refused".into(),
                },
            ],
            resident_bytes: 18 << 20,
            accepts_writes: true,
            state: "ready".into(),
            ..v1::GetStatusResponse::default()
        };
        let view = view(&status, SystemTime::UNIX_EPOCH);
        insta::assert_snapshot!(anstream::adapter::strip_str(&view).to_string());
    }
}
