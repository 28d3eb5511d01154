//! Between the contract's messages and the server's own types. Strict types are made here, once,
//! at the edge; what cannot be converted is INVALID_ARGUMENT with the field's name.

mod change;

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use kmerge_merge::progressive::{Fidelity, PackedSlot};
use kmerge_merge::{
    Assignment, AssignmentRule, BaseModel, Dtype, Format, Operator, Policy, SlotDtype, Weighting,
};
use kmerge_proto::{limits, v1};
use kmerge_storage::{
    BaseModelName, BaseModelState, Digest, DiskUsage, JobFailure, JobRecord, JobState,
    RecoveryReport, Revision, TaskName,
};

pub(super) use change::{budget, change, generation, pin, request};

use crate::backup::BackupPart;
use crate::base_models::{PolicyWish, Registration};
use crate::clock::timestamp;
use crate::error::ServerError;
use crate::facts::{self, CostFacts, DecisionFacts, saturate};
use crate::progress::Stage;
use crate::scrub::{Damage, OwnState, Scrubbed};
use crate::serving::{JobView, Resolved, Serving, SlotEvent, SlotView, TaskView, WeightedMember};
use crate::status_report::{About, StatusReport};
use crate::uploads::Announced;
use crate::watching::ExportPart;

fn field<T: FromStr>(field: &'static str, text: &str) -> Result<T, ServerError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|problem: T::Err| ServerError::Field {
        field,
        problem: problem.to_string(),
    })
}

/// A base model's name.
pub(super) fn base_model(text: &str) -> Result<BaseModelName, ServerError> {
    field("base_model", text)
}

/// A base model's name where it is called just that.
pub(super) fn name(text: &str) -> Result<BaseModelName, ServerError> {
    field("name", text)
}

/// A task's name.
pub(super) fn task(text: &str) -> Result<TaskName, ServerError> {
    field("task", text)
}

/// A base model's name, or empty for all.
pub(super) fn filter(text: &str) -> Result<Option<BaseModelName>, ServerError> {
    (!text.is_empty()).then(|| base_model(text)).transpose()
}

/// A value of an enum. One that this version does not know is refused: taking the default instead
/// would do something else than was asked.
fn known<T: TryFrom<i32>>(field: &'static str, number: i32) -> Result<T, ServerError> {
    T::try_from(number).map_err(|_| ServerError::Field {
        field,
        problem: format!(
            "is {number}, which this kmerged does not know; is it older than its client?"
        ),
    })
}

/// The format of an adapter or an export.
pub(super) fn format(number: i32) -> Result<Format, ServerError> {
    Ok(match known("format", number)? {
        v1::AdapterFormat::Peft | v1::AdapterFormat::Unspecified => Format::Peft,
        v1::AdapterFormat::Gguf => Format::Gguf,
        v1::AdapterFormat::Mlx => Format::Mlx,
    })
}

fn format_number(format: Format) -> i32 {
    let format = match format {
        Format::Peft => v1::AdapterFormat::Peft,
        Format::Gguf => v1::AdapterFormat::Gguf,
        Format::Mlx => v1::AdapterFormat::Mlx,
    };
    format.into()
}

fn bounded(field: &'static str, size: usize, limit: usize) -> Result<(), ServerError> {
    if size > limit {
        let problem = format!("has {size} bytes; at most {limit} are allowed");
        return Err(ServerError::Field { field, problem });
    }
    Ok(())
}

/// The header of an upload.
pub(super) fn announced(header: v1::UploadHeader) -> Result<Announced, ServerError> {
    let format = format(header.format)?;
    if format == Format::Gguf && !header.config.is_empty() {
        return Err(ServerError::Field {
            field: "config",
            problem: "must be empty for GGUF, whose one file says it all".into(),
        });
    }
    bounded("config", header.config.len(), limits::MAX_CONFIG_BYTES)?;
    bounded(
        "request_id",
        header.request_id.len(),
        limits::MAX_REQUEST_ID_BYTES,
    )?;
    Ok(Announced {
        format,
        task: task(&header.task)?,
        base_model: base_model(&header.base_model)?,
        digest: field::<Digest>("sha256", &header.sha256)?,
        config: header.config,
        size_bytes: header.size_bytes,
        request_id: (!header.request_id.is_empty()).then_some(header.request_id),
        validate_only: header.validate_only,
    })
}

/// The request that registers a base model.
pub(super) fn registration(
    request: v1::RegisterBaseModelRequest,
) -> Result<Registration, ServerError> {
    bounded("config", request.config.len(), limits::MAX_CONFIG_BYTES)?;
    bounded("served_as", request.served_as.len(), 512)?;
    Ok(Registration {
        name: name(&request.name)?,
        config: request.config,
        served_as: (!request.served_as.is_empty()).then_some(request.served_as),
        wish: policy_wish(&request.policy.unwrap_or_default())?,
    })
}

fn policy_wish(policy: &v1::MergePolicy) -> Result<PolicyWish, ServerError> {
    Ok(PolicyWish {
        slots: policy.slots,
        max_bytes: policy.max_bytes,
        threshold: policy.threshold,
        assignment: match known("policy.assignment", policy.assignment)? {
            v1::AssignmentRule::Unspecified => None,
            v1::AssignmentRule::Kmerge => Some(AssignmentRule::KMerge),
            // The threshold is filled in where the wish meets the defaults.
            v1::AssignmentRule::KmergePlusPlus => {
                Some(AssignmentRule::KMergePlusPlus { threshold: None })
            }
            v1::AssignmentRule::Roomiest => Some(AssignmentRule::Roomiest),
            v1::AssignmentRule::BestPair => Some(AssignmentRule::BestPair),
        },
        operator: match known("policy.operator", policy.operator)? {
            v1::Operator::Unspecified => None,
            v1::Operator::KmergeLinear => Some(Operator::KMergeLinear),
            v1::Operator::Linear => Some(Operator::Linear),
            v1::Operator::Exact => Some(Operator::Exact),
            v1::Operator::Progressive => Some(Operator::Progressive),
            v1::Operator::Ties => Some(Operator::Ties),
            v1::Operator::DareLinear => Some(Operator::DareLinear),
            v1::Operator::DareTies => Some(Operator::DareTies),
            v1::Operator::Opcm => Some(Operator::Opcm),
            v1::Operator::Svd => Some(Operator::Svd),
        },
        dtype: match known("policy.dtype", policy.dtype)? {
            v1::SlotDtype::Unspecified => None,
            v1::SlotDtype::Widest => Some(SlotDtype::Widest),
            v1::SlotDtype::F32 => Some(SlotDtype::F32),
            v1::SlotDtype::F16 => Some(SlotDtype::F16),
            v1::SlotDtype::Bf16 => Some(SlotDtype::Bf16),
        },
        weighting: match known("policy.weighting", policy.weighting)? {
            v1::Weighting::Unspecified => None,
            v1::Weighting::Running => Some(Weighting::Running),
            v1::Weighting::Released => Some(Weighting::Released),
        },
        density: policy.density,
        slot_bytes: policy.slot_bytes,
        floor: policy.floor,
    })
}

fn policy(policy: &Policy) -> v1::MergePolicy {
    let (assignment, threshold) = match policy.assignment {
        AssignmentRule::KMerge => (v1::AssignmentRule::Kmerge, None),
        AssignmentRule::KMergePlusPlus { threshold } => {
            (v1::AssignmentRule::KmergePlusPlus, threshold)
        }
        AssignmentRule::Roomiest => (v1::AssignmentRule::Roomiest, None),
        AssignmentRule::BestPair => (v1::AssignmentRule::BestPair, None),
    };
    let progressive = policy.operator.is_progressive();
    let dtype = match policy.dtype {
        SlotDtype::Widest => v1::SlotDtype::Widest,
        SlotDtype::F32 => v1::SlotDtype::F32,
        SlotDtype::F16 => v1::SlotDtype::F16,
        SlotDtype::Bf16 => v1::SlotDtype::Bf16,
    };
    v1::MergePolicy {
        slots: Some(policy.slots),
        max_bytes: Some(policy.max_bytes.unwrap_or(0)),
        assignment: assignment.into(),
        threshold,
        operator: operator(policy.operator).into(),
        dtype: dtype.into(),
        weighting: match policy.weighting {
            Weighting::Running => v1::Weighting::Running,
            Weighting::Released => v1::Weighting::Released,
        }
        .into(),
        density: Some(policy.density),
        slot_bytes: progressive.then(|| policy.slot_bytes.unwrap_or(0)),
        floor: progressive.then_some(policy.floor),
    }
}

fn operator(operator: Operator) -> v1::Operator {
    match operator {
        Operator::KMergeLinear => v1::Operator::KmergeLinear,
        Operator::Linear => v1::Operator::Linear,
        Operator::Exact => v1::Operator::Exact,
        Operator::Progressive => v1::Operator::Progressive,
        Operator::Ties => v1::Operator::Ties,
        Operator::DareLinear => v1::Operator::DareLinear,
        Operator::DareTies => v1::Operator::DareTies,
        Operator::Opcm => v1::Operator::Opcm,
        Operator::Svd => v1::Operator::Svd,
    }
}

/// A registered base model and what it holds.
pub(super) fn base_model_message(state: &BaseModelState) -> Result<v1::BaseModel, ServerError> {
    let shapes = BaseModel::from_config_json(state.record.config.as_bytes())?;
    Ok(v1::BaseModel {
        name: state.record.name.to_string(),
        architecture: shapes.architecture().to_owned(),
        layers: shapes.layers(),
        hidden_size: shapes.hidden_size(),
        policy: Some(policy(&facts::policy(&state.record)?)),
        served_as: state.record.served_as.clone(),
        config_sha256: Digest::of(state.record.config.as_bytes()).to_string(),
        slots_used: saturate(state.slots.len()),
        bytes_used: state.slots.values().map(|slot| slot.current().bytes).sum(),
        tasks: u64::from(saturate(state.tasks.len())),
        create_time: Some(timestamp(state.record.created)),
    })
}

/// The format of the word that storage keeps.
fn format_of_word(word: &str) -> i32 {
    Format::from_name(word).map_or(v1::AdapterFormat::Unspecified.into(), format_number)
}

/// An adapter as it arrived.
pub(super) fn adapter(view: &TaskView) -> v1::Adapter {
    let task = &view.record;
    v1::Adapter {
        fidelity: view.fidelity.map(fidelity),
        task: task.task.to_string(),
        base_model: task.base_model.to_string(),
        format: format_of_word(&task.upload.format),
        size_bytes: task.upload.size_bytes,
        sha256: task.upload.digest.to_string(),
        slot: task.slot.0,
        generation: task.generation.0,
        job_id: task.job.0,
        create_time: Some(timestamp(task.created)),
    }
}

fn members(members: Vec<WeightedMember>, packed: Option<&PackedSlot>) -> Vec<v1::Member> {
    let kept: HashMap<&str, Fidelity> = packed
        .iter()
        .flat_map(|packed| packed.fidelities())
        .collect();
    members
        .into_iter()
        .map(|(task, weight)| v1::Member {
            fidelity: kept.get(task.as_str()).copied().map(fidelity),
            task: task.to_string(),
            weight,
        })
        .collect()
}

/// What is kept of a task.
fn fidelity(kept: Fidelity) -> v1::Fidelity {
    v1::Fidelity {
        retention: kept.retention,
        error_bound: kept.error_bound,
        energy_kept: kept.energy_kept,
        bytes: kept.bytes,
        rank: saturate(kept.rank),
        mean_rank: kept.mean_rank,
    }
}

fn cost(cost: &CostFacts) -> v1::MemberCost {
    v1::MemberCost {
        task: cost.task.clone(),
        before: cost.before.map(|before| fidelity(before.0)),
        after: Some(fidelity(cost.after.0)),
    }
}

/// A decision; `with` are the slot's members after it.
pub(super) fn decision(decision: &DecisionFacts, with: Vec<WeightedMember>) -> v1::Decision {
    let assignment = match decision.assignment {
        Assignment::Opened => v1::Assignment::Opened,
        Assignment::Merged => v1::Assignment::Merged,
    };
    v1::Decision {
        costs: decision.costs.iter().map(cost).collect(),
        slot_budget_bytes: decision.budget,
        assignment: assignment.into(),
        slot: decision.slot,
        generation: decision.generation,
        similarities: decision
            .similarities
            .iter()
            .map(|&(slot, similarity)| v1::SlotSimilarity { slot, similarity })
            .collect(),
        reason: decision.reason.clone(),
        members: members(with, None),
        rank: decision.rank,
        bytes: decision.bytes,
        energy_kept: decision.energy_kept,
        freed_into: decision.freed_into,
    }
}

fn job_state(state: JobState) -> v1::JobState {
    match state {
        JobState::Queued => v1::JobState::Queued,
        JobState::Running => v1::JobState::Running,
        JobState::Done => v1::JobState::Done,
        JobState::Failed => v1::JobState::Failed,
        JobState::Cancelled => v1::JobState::Cancelled,
    }
}

/// The state that a list is narrowed to; unspecified is none.
pub(super) fn state_filter(number: i32) -> Result<Option<JobState>, ServerError> {
    Ok(match known("state", number)? {
        v1::JobState::Unspecified => None,
        v1::JobState::Queued => Some(JobState::Queued),
        v1::JobState::Running => Some(JobState::Running),
        v1::JobState::Done => Some(JobState::Done),
        v1::JobState::Failed => Some(JobState::Failed),
        v1::JobState::Cancelled => Some(JobState::Cancelled),
    })
}

fn job_error(failure: &JobFailure) -> v1::JobError {
    v1::JobError {
        code: failure.code,
        reason: failure.reason.clone(),
        message: failure.message.clone(),
    }
}

/// A job as it stands.
pub(super) fn job(view: JobView) -> v1::Job {
    let record = &view.record;
    let stage = view
        .progress
        .map_or(v1::JobStage::Unspecified, |progress| match progress.stage {
            Stage::DiskSpace => v1::JobStage::DiskSpace,
            Stage::Similarity => v1::JobStage::Similarity,
            Stage::Merge => v1::JobStage::Merge,
            Stage::Commit => v1::JobStage::Commit,
        });
    let percent = match record.state {
        JobState::Done => 100,
        JobState::Queued | JobState::Running | JobState::Failed | JobState::Cancelled => {
            view.progress.map_or(0, |progress| progress.percent)
        }
    };
    v1::Job {
        id: record.id.0,
        task: record.task.to_string(),
        base_model: record.base_model.to_string(),
        state: job_state(record.state).into(),
        stage: stage.into(),
        percent,
        error: record.failure.as_ref().map(job_error),
        size_bytes: record.upload.size_bytes,
        sha256: record.upload.digest.to_string(),
        request_id: record.request_id.clone().unwrap_or_default(),
        attempts: record.attempts,
        create_time: Some(timestamp(record.created)),
        start_time: record.started.map(timestamp),
        end_time: record.ended.map(timestamp),
        decision: view
            .decision
            .map(|(facts, members)| decision(&facts, members)),
        kind: change::kind(&record.kind).into(),
        change: view.change.as_ref().map(change),
    }
}

/// A job that was just made, if one was.
pub(super) fn job_of(
    serving: &Serving,
    record: Option<&Arc<JobRecord>>,
) -> Result<Option<v1::Job>, ServerError> {
    record
        .map(|record| serving.view_of(record).map(job))
        .transpose()
}

/// Something new about a slot, and the revision to resume from.
pub(super) fn slot_event((event, resume): (SlotEvent, Revision)) -> v1::WatchSlotsResponse {
    let (slot, emptied) = match event {
        SlotEvent::Moved(view) => (Some(slot(*view)), None),
        SlotEvent::Emptied(record) => (None, Some(change::emptied(&record))),
    };
    v1::WatchSlotsResponse {
        slot,
        revision: resume.0,
        emptied,
    }
}

/// A slot at its newest generation.
pub(super) fn slot(view: SlotView) -> v1::Slot {
    let dtype = match view.facts.dtype {
        Dtype::F32 => v1::Dtype::F32,
        Dtype::F16 => v1::Dtype::F16,
        Dtype::Bf16 => v1::Dtype::Bf16,
    };
    v1::Slot {
        operator: operator(view.facts.operator).into(),
        budget_bytes: view.budget,
        pinned: view.is_pinned,
        earlier_generations: view.earlier.iter().map(|generation| generation.0).collect(),
        base_model: view.record.base_model.to_string(),
        slot: view.record.slot.0,
        generation: view.record.generation.0,
        members: members(view.members, view.packed.as_deref()),
        rank: view.facts.rank,
        bytes: view.record.bytes,
        dtype: dtype.into(),
        modules: view.facts.modules,
        sha256: view.record.digest.to_string(),
        path: view
            .path
            .map_or_else(String::new, |path| path.display().to_string()),
        revision: view.record.revision.0,
        update_time: Some(timestamp(view.record.committed)),
    }
}

/// Where a task is served from.
pub(super) fn resolved(
    request: v1::ResolveTaskRequest,
    resolved: &Resolved,
) -> v1::ResolveTaskResponse {
    v1::ResolveTaskResponse {
        fidelity: resolved.fidelity.map(fidelity),
        task: request.task,
        base_model: request.base_model,
        slot: resolved.slot.0,
        generation: resolved.generation.0,
        path: resolved.path.display().to_string(),
        sha256: resolved.digest.to_string(),
    }
}

/// A part of an export.
pub(super) fn export_part(part: ExportPart) -> v1::FetchSlotResponse {
    use v1::fetch_slot_response::Content;
    let content = match part {
        ExportPart::Files {
            record,
            task,
            format,
            files,
        } => Content::Header(v1::ExportHeader {
            task: task.map_or_else(String::new, |task| task.to_string()),
            base_model: record.base_model.to_string(),
            slot: record.slot.0,
            generation: record.generation.0,
            format: format_number(format),
            files: files
                .into_iter()
                .map(|file| v1::ExportFile {
                    name: file.name,
                    size_bytes: file.size_bytes,
                    sha256: file.digest.to_string(),
                })
                .collect(),
        }),
        ExportPart::Bytes { file, data } => Content::Chunk(v1::ExportChunk {
            file: saturate(file),
            data,
        }),
    };
    v1::FetchSlotResponse {
        content: Some(content),
    }
}

/// How things stand.
pub(super) fn status(about: &About, report: StatusReport) -> v1::GetStatusResponse {
    let base_models = || report.catalog.base_models.values();
    v1::GetStatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process_id: std::process::id(),
        start_time: Some(timestamp(about.started)),
        state_directory: about.state_directory.display().to_string(),
        socket: about.socket.display().to_string(),
        revision: report.catalog.revision.0,
        base_models: saturate(base_models().count()),
        slots: saturate(base_models().map(|base| base.slots.len()).sum()),
        tasks: u64::from(saturate(base_models().map(|base| base.tasks.len()).sum())),
        jobs_queued: report.queued,
        jobs_running: report.running,
        queue_limit: saturate(about.queue_limit),
        worker_threads: saturate(about.worker_threads),
        disk: Some(disk(&report.disk)),
        recovery: Some(recovery(&about.recovery)),
        resident_bytes: report.resident_bytes,
        accepts_writes: report.accepts_writes,
        last_scrub: None,
        scrub: None,
        state: report.state,
        // Whoever knows the runtimes adds them.
        runtimes: Vec::new(),
    }
}

fn disk(usage: &DiskUsage) -> v1::DiskUsage {
    v1::DiskUsage {
        tensors_live: usage.tensors_live,
        tensors_grace: usage.tensors_grace,
        staging: usage.staging,
        catalog: usage.catalog,
        manifests: usage.manifests,
        exports: usage.exports,
        quarantine: usage.quarantine,
        reserve: usage.reserve,
        total: usage.total,
        free: usage.free,
    }
}

fn recovery(report: &RecoveryReport) -> v1::RecoveryReport {
    v1::RecoveryReport {
        catalog_rebuilt: report.catalog_rebuilt,
        quarantined: report
            .quarantined
            .as_deref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        generations_recovered: report.generations_recovered,
        jobs_requeued: report.jobs_requeued,
        uploads_swept: report.uploads_swept,
        orphans_removed: report.orphans_removed,
        notes: report.notes.clone(),
    }
}

/// How far a scrub is.
pub(super) fn scrubbed(state: Scrubbed) -> v1::Scrubbed {
    let damage = |damage: Damage| v1::Damage {
        base_model: damage.generation.base_model.to_string(),
        slot: damage.generation.slot.0,
        generation: damage.generation.generation.0,
        current: damage.is_current,
        what: damage.what,
        done: damage.done,
    };
    v1::Scrubbed {
        generations_checked: state.generations.0,
        generations: state.generations.1,
        bytes_checked: state.bytes.0,
        bytes: state.bytes.1,
        damaged: state.damaged.into_iter().map(damage).collect(),
        end_time: state.ended.map(timestamp),
    }
}

/// What the daemon's own scrubbing does.
pub(super) fn own_scrub(state: OwnState) -> v1::ScrubState {
    v1::ScrubState {
        paused: state.paused,
        running: state.running,
        yielding: state.yielding,
        progress: state.progress.map(scrubbed),
        enabled: state.enabled,
    }
}

/// A part of a backup.
pub(super) fn backup_part(part: BackupPart) -> v1::BackupResponse {
    use v1::backup_response::Content;
    let content = match part {
        BackupPart::Header(contents, length) => Content::Header(v1::BackupHeader {
            contents: Some(v1::BackupContents {
                version: contents.version,
                create_time: Some(timestamp(contents.created)),
                revision: contents.revision.0,
                base_models: contents.base_models,
                slots: contents.slots,
                tasks: contents.tasks,
                jobs: contents.jobs,
                unfinished_jobs: contents.unfinished_jobs,
                tensors: contents.tensors,
                bytes: contents.bytes,
            }),
            length,
        }),
        BackupPart::Bytes(data) => Content::Chunk(v1::BackupChunk { data }),
        BackupPart::Trailer(written) => Content::Trailer(v1::BackupTrailer {
            sha256: written.digest.to_string(),
            length: written.length,
        }),
    };
    v1::BackupResponse {
        content: Some(content),
    }
}
