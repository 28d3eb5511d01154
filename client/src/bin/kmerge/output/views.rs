//! What people see of each thing: its table, its facts. Text in, text out; the clock is an
//! argument.

mod change;
mod fidelity;
mod runtimes;

use std::time::SystemTime;

use kmerge_client::json::word_of;
use kmerge_client::v1;
use owo_colors::OwoColorize as _;

pub(crate) use change::{change, emptied};

use super::record::Record;
use super::table::{Column, Table};
use super::text;
pub(crate) use runtimes::{runtime, runtime_change, runtime_summaries, runtimes};

/// The base models.
pub(crate) fn base_models(bases: &[v1::BaseModel]) -> String {
    if bases.is_empty() {
        return "no base model is registered".into();
    }
    let mut table = Table::new(&[
        Column::Left("NAME"),
        Column::Left("ARCHITECTURE"),
        Column::Right("SLOTS"),
        Column::Right("TASKS"),
        Column::Right("SIZE"),
        Column::Right("LIMIT"),
        Column::Left("ASSIGNMENT"),
        Column::Left("OPERATOR"),
    ]);
    for base in bases {
        let policy = base.policy.unwrap_or_default();
        table.row([
            base.name.bold().to_string(),
            base.architecture.clone(),
            format!("{}/{}", base.slots_used, policy.slots()),
            base.tasks.to_string(),
            text::bytes(base.bytes_used),
            text::limit(policy.max_bytes()),
            assignment_rule(&policy),
            word(policy.operator()),
        ]);
    }
    table.render()
}

/// One base model.
pub(crate) fn base_model(base: &v1::BaseModel, now: SystemTime) -> String {
    let policy = base.policy.unwrap_or_default();
    let shape = format!("{} layers, hidden size {}", base.layers, base.hidden_size);
    Record::new()
        .fact("name", base.name.bold().to_string())
        .fact("architecture", &base.architecture)
        .fact("shape", shape)
        .fact("served as", &base.served_as)
        .fact(
            "slots",
            format!("{} of {}", base.slots_used, policy.slots()),
        )
        .fact("tasks", base.tasks.to_string())
        .fact("size", text::of_limit(base.bytes_used, policy.max_bytes()))
        .fact("assignment", assignment_rule(&policy))
        .fact("operator", word(policy.operator()))
        .fact("dtype", word(policy.dtype()))
        .maybe("weighting", word_of(policy.weighting()))
        .maybe("density", policy.density.map(|share| share.to_string()))
        .maybe("slot bytes", policy.slot_bytes.map(slot_bytes))
        .maybe("floor", policy.floor.map(text::figure))
        .fact("config", text::digest(&base.config_sha256))
        .fact("registered", text::ago(base.create_time.as_ref(), now))
        .render()
}

fn slot_bytes(bytes: u64) -> String {
    if bytes == 0 {
        "as the first adapter".to_owned()
    } else {
        text::bytes(bytes)
    }
}

fn assignment_rule(policy: &v1::MergePolicy) -> String {
    match policy.threshold {
        Some(threshold) if policy.assignment() == v1::AssignmentRule::KmergePlusPlus => {
            format!("{} at {threshold}", word(policy.assignment()))
        }
        _ => word(policy.assignment()),
    }
}

/// The slots.
pub(crate) fn slots(slots: &[v1::Slot], now: SystemTime) -> String {
    if slots.is_empty() {
        return "no slot is in use".into();
    }
    let mut table = Table::new(&[
        Column::Left("BASE"),
        Column::Right("SLOT"),
        Column::Right("GENERATION"),
        Column::Left("MEMBERS"),
        Column::Right("RANK"),
        Column::Left("DTYPE"),
        Column::Right("SIZE"),
        Column::Left("CHANGED"),
    ]);
    for slot in slots {
        table.row([
            slot.base_model.clone(),
            slot.slot.bold().to_string(),
            slot.generation.to_string(),
            tasks_of(&slot.members),
            slot.rank.to_string(),
            word(slot.dtype()),
            text::bytes(slot.bytes),
            text::ago(slot.update_time.as_ref(), now),
        ]);
    }
    table.render()
}

/// One slot.
pub(crate) fn slot(slot: &v1::Slot, now: SystemTime) -> String {
    let facts = Record::new()
        .fact(
            "slot",
            format!("{} of {}", slot.slot.bold(), slot.base_model),
        )
        .fact("generation", slot.generation.to_string())
        .fact("rank", slot.rank.to_string())
        .fact("modules", slot.modules.to_string())
        .fact("dtype", word(slot.dtype()))
        .fact("size", text::bytes(slot.bytes))
        .maybe("operator", word_of(slot.operator()))
        .maybe("budget", slot.budget_bytes.map(text::bytes))
        .maybe("pinned", slot.pinned.then(|| "yes".to_owned()))
        .maybe("earlier", earlier(&slot.earlier_generations))
        .fact("sha256", &slot.sha256)
        .maybe(
            "path",
            Some(slot.path.clone()).filter(|path| !path.is_empty()),
        )
        .fact("changed", text::ago(slot.update_time.as_ref(), now))
        .render();
    format!("{facts}\n{}", fidelity::members(&slot.members))
}

/// The generations that a slot could go back to.
fn earlier(generations: &[u64]) -> Option<String> {
    let texts: Vec<String> = generations.iter().map(u64::to_string).collect();
    (!texts.is_empty()).then(|| format!("generations {}", texts.join(", ")))
}

/// One change of a slot, as a line.
pub(crate) fn slot_line(slot: &v1::Slot) -> String {
    format!(
        "{} slot {} generation {} {} {}",
        format!("revision {:<6}", slot.revision).dimmed(),
        slot.slot.bold(),
        slot.generation,
        format!("({})", slot.base_model).dimmed(),
        tasks_of(&slot.members),
    )
}

/// The tasks that have been merged.
pub(crate) fn adapters(adapters: &[v1::Adapter], now: SystemTime) -> String {
    if adapters.is_empty() {
        return "no task has been merged".into();
    }
    let mut table = Table::new(&[
        Column::Left("TASK"),
        Column::Left("BASE"),
        Column::Right("SLOT"),
        Column::Right("GENERATION"),
        Column::Right("JOB"),
        Column::Right("SIZE"),
        Column::Right("RETENTION"),
        Column::Left("SHA256"),
        Column::Left("ARRIVED"),
    ]);
    for adapter in adapters {
        table.row([
            adapter.task.bold().to_string(),
            adapter.base_model.clone(),
            adapter.slot.to_string(),
            adapter.generation.to_string(),
            adapter.job_id.to_string(),
            text::bytes(adapter.size_bytes),
            fidelity::retention(adapter.fidelity.as_ref()),
            text::digest(&adapter.sha256).to_owned(),
            text::ago(adapter.create_time.as_ref(), now),
        ]);
    }
    table.render()
}

/// Which slot serves a task.
pub(crate) fn resolved(resolved: &v1::ResolveTaskResponse) -> String {
    Record::new()
        .fact(
            "task",
            format!("{} of {}", resolved.task.bold(), resolved.base_model),
        )
        .fact("slot", resolved.slot.to_string())
        .fact("generation", resolved.generation.to_string())
        .fact("path", &resolved.path)
        .fact("sha256", &resolved.sha256)
        .facts(fidelity::facts(resolved.fidelity.as_ref()))
        .render()
}

/// The jobs.
pub(crate) fn jobs(jobs: &[v1::Job], now: SystemTime) -> String {
    if jobs.is_empty() {
        return "there are no jobs".into();
    }
    let mut table = Table::new(&[
        Column::Right("JOB"),
        Column::Left("STATE"),
        Column::Left("TASK"),
        Column::Left("BASE"),
        Column::Left("OUTCOME"),
        Column::Right("SIZE"),
        Column::Left("ARRIVED"),
    ]);
    for job in jobs {
        table.row([
            job.id.bold().to_string(),
            state(job),
            subject(job),
            job.base_model.clone(),
            text::shorten(&outcome(job), 60),
            text::bytes(job.size_bytes),
            text::ago(job.create_time.as_ref(), now),
        ]);
    }
    table.render()
}

/// One job, with its decision once there is one.
pub(crate) fn job(job: &v1::Job, now: SystemTime) -> String {
    let is_upload = matches!(job.kind(), v1::JobKind::Upload | v1::JobKind::Unspecified);
    let attempts = (job.attempts > 1).then(|| job.attempts.to_string());
    let facts = Record::new()
        .fact("job", job.id.bold().to_string())
        .fact("state", state(job))
        .fact("task", format!("{} of {}", subject(job), job.base_model))
        .maybe("size", is_upload.then(|| text::bytes(job.size_bytes)))
        .maybe("sha256", is_upload.then(|| job.sha256.clone()))
        .maybe(
            "request id",
            Some(job.request_id.clone()).filter(|id| !id.is_empty()),
        )
        .maybe("attempts", attempts)
        .fact("arrived", text::ago(job.create_time.as_ref(), now))
        .maybe("ended", job.end_time.map(|end| text::ago(Some(&end), now)))
        .maybe(
            "error",
            job.error.as_ref().map(|error| error.message.clone()),
        )
        .render();
    match (&job.decision, &job.change) {
        (Some(made), _) => format!("{facts}\n{}", decision(made)),
        (None, Some(done)) => format!("{facts}\n{}", change(done, false)),
        (None, None) => facts,
    }
}

/// One job as a line.
pub(crate) fn job_line(job: &v1::Job) -> String {
    format!(
        "job {}: {} of {}, {}",
        job.id,
        subject(job),
        job.base_model,
        state(job)
    )
}

/// What a job works on: its task, or what it does.
fn subject(job: &v1::Job) -> String {
    match job.kind() {
        v1::JobKind::Upload | v1::JobKind::Unspecified => job.task.clone(),
        v1::JobKind::Forget => format!("forget {}", job.task),
        v1::JobKind::Rollback => format!("rollback {}", job.task),
        v1::JobKind::Settings => "settings".to_owned(),
    }
}

/// A decision and the figures that explain it.
pub(crate) fn decision(decision: &v1::Decision) -> String {
    let mut said = format!("{}\n", headline(decision).bold());
    if !decision.similarities.is_empty() {
        let mut table = Table::new(&[
            Column::Right("SLOT"),
            Column::Right("SIMILARITY"),
            Column::Left(""),
        ]);
        for compared in &decision.similarities {
            let taken =
                compared.slot == decision.slot && decision.assignment() == v1::Assignment::Merged;
            let mark = if taken {
                "<- merged here".green().to_string()
            } else {
                String::new()
            };
            table.row([
                compared.slot.to_string(),
                text::similarity(compared.similarity),
                mark,
            ]);
        }
        said += &table.render();
    }
    if !decision.costs.is_empty() {
        said += &fidelity::costs(&decision.costs);
    }
    let members = decision
        .members
        .iter()
        .map(|member| format!("{} ({:.3})", member.task, member.weight))
        .collect::<Vec<_>>()
        .join(", ");
    said + &Record::new()
        .fact("reason", &decision.reason)
        .maybe(
            "members",
            Some(members).filter(|members| !members.is_empty()),
        )
        .fact(
            "size",
            format!("rank {}, {}", decision.rank, text::bytes(decision.bytes)),
        )
        .maybe(
            "budget",
            decision
                .slot_budget_bytes
                .map(|budget| text::of_limit(decision.bytes, budget)),
        )
        .maybe("energy kept", decision.energy_kept.map(text::percent))
        .render()
}

/// A decision in a few words: `merged into slot 1, generation 3`.
pub(crate) fn headline(decision: &v1::Decision) -> String {
    let verb = match decision.assignment() {
        v1::Assignment::Opened => "opened",
        v1::Assignment::Merged => "merged into",
        v1::Assignment::Unspecified => "put into",
    };
    format!(
        "{verb} slot {}, generation {}",
        decision.slot, decision.generation
    )
}

/// What a job is doing, in a few words.
pub(crate) fn stage(job: &v1::Job) -> String {
    let doing = match job.stage() {
        v1::JobStage::DiskSpace => "waiting for disk space",
        v1::JobStage::Similarity => "comparing with the slots",
        v1::JobStage::Merge => "merging",
        v1::JobStage::Commit => "making it durable and writing the export",
        v1::JobStage::Unspecified => match job.state() {
            v1::JobState::Queued => "waiting for its turn",
            v1::JobState::Running => "running",
            v1::JobState::Done
            | v1::JobState::Failed
            | v1::JobState::Cancelled
            | v1::JobState::Unspecified => "ending",
        },
    };
    doing.to_owned()
}

/// A job's state in its colour.
pub(crate) fn state(job: &v1::Job) -> String {
    let word = word(job.state());
    match job.state() {
        v1::JobState::Done => word.green().to_string(),
        v1::JobState::Failed => word.red().to_string(),
        v1::JobState::Running => word.cyan().to_string(),
        v1::JobState::Cancelled => word.yellow().to_string(),
        v1::JobState::Queued | v1::JobState::Unspecified => word,
    }
}

fn outcome(job: &v1::Job) -> String {
    match (&job.decision, &job.error) {
        (Some(decision), _) => headline(decision),
        (None, Some(error)) => error.message.clone(),
        (None, None) if job.change.is_some() => job
            .change
            .as_ref()
            .map_or_else(String::new, |done| done.reason.clone()),
        (None, None) if job.state() == v1::JobState::Running => {
            format!("{}, {} %", stage(job), job.percent)
        }
        (None, None) => "-".to_owned(),
    }
}

fn tasks_of(members: &[v1::Member]) -> String {
    members
        .iter()
        .map(|member| member.task.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

fn word<E: kmerge_client::json::Words>(value: E) -> String {
    word_of(value).unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests;
