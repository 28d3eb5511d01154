//! The one table from errors to statuses: code, reason, and the details a program can act on.
//! Exhaustive on purpose: a new error does not compile until it has its row.

use std::collections::HashMap;
use std::time::Duration;

use kmerge_merge::{AdapterError, AdapterErrorKind, BaseModelError, FormatError, MergeError};
use kmerge_proto::limits::ERROR_DOMAIN;
use kmerge_storage::{
    BackupError, CommitError, Existing, ExportError, FileError, IngestError, ReadError,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::redact::without_paths;
use crate::access::{AccessError, Whose};
use crate::admission::Refusal;
use crate::error::{Resource, ServerError};

/// What to wait before trying again when the queue or the uploads are busy.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// What to wait before trying again when kmerged itself has to come back.
const RESTART_RETRY: Duration = Duration::from_secs(5);

/// What to do about a full disk.
const DISK_FULL: &str = "the disk of the state directory is full: free some space, or forget tasks; \
     what waits goes on by itself when there is room";

/// One row of the table.
struct Row {
    code: Code,
    reason: &'static str,
    detail: Detail,
}

/// What goes with the code beside `ErrorInfo`.
enum Detail {
    None,
    /// The request field that is wrong.
    Field(String),
    /// What stands in the way.
    Precondition(&'static str),
    /// What is used up, and when to try again, where that helps.
    Quota(&'static str, Option<Duration>),
    /// When to try again.
    Retry(Duration),
    /// The thing that is not there, or is there already.
    Resource(&'static str, String),
}

fn row(code: Code, reason: &'static str, detail: Detail) -> Row {
    Row {
        code,
        reason,
        detail,
    }
}

/// The canonical code of an error.
pub fn code(error: &ServerError) -> Code {
    look_up(error).code
}

/// The stable word of an error, UPPER_SNAKE_CASE.
pub fn reason(error: &ServerError) -> &'static str {
    look_up(error).reason
}

/// The sentence for people: the error and its causes, without paths. Strangers need not know where
/// things are; the log has them.
pub fn message(error: &ServerError) -> String {
    without_paths(&told(error))
}

fn told(error: &ServerError) -> String {
    if error.is_disk_full() {
        return DISK_FULL.to_owned();
    }
    if let Some(source) = file_error(error) {
        return format!(
            "could not {} a file of the state: {}",
            source.verb, source.source
        );
    }
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let text = next.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = next.source();
    }
    message
}

/// The failed file operation behind an error, if that is what it is.
fn file_error(error: &ServerError) -> Option<&FileError> {
    if let ServerError::Ingest(IngestError::File(file))
    | ServerError::Commit(CommitError::File(file))
    | ServerError::Read(ReadError::File(file))
    | ServerError::Export(ExportError::File(file))
    | ServerError::Backup(BackupError::File(file)) = error
    {
        Some(file)
    } else {
        None
    }
}

impl From<ServerError> for Status {
    fn from(error: ServerError) -> Self {
        let row = look_up(&error);
        let message = message(&error);
        if matches!(row.code, Code::Internal | Code::DataLoss) {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, reason = row.reason, "call failed");
        } else {
            tracing::debug!(reason = row.reason, message, "call refused");
        }
        let mut details = ErrorDetails::new();
        details.set_error_info(row.reason, ERROR_DOMAIN, HashMap::new());
        match row.detail {
            Detail::None => {}
            Detail::Field(field) => {
                details.add_bad_request_violation(field, &message);
            }
            Detail::Precondition(subject) => {
                details.add_precondition_failure_violation(row.reason, subject, &message);
            }
            Detail::Quota(subject, retry) => {
                details.add_quota_failure_violation(subject, &message);
                if let Some(retry) = retry {
                    details.set_retry_info(Some(retry));
                }
            }
            Detail::Retry(after) => {
                details.set_retry_info(Some(after));
            }
            Detail::Resource(kind, name) => {
                details.set_resource_info(kind, name, "", &message);
            }
        }
        Self::with_error_details(row.code, message, details)
    }
}

fn look_up(error: &ServerError) -> Row {
    // Whatever had to be written, and through whatever it was written.
    if error.is_disk_full() {
        return disk_full();
    }
    match error {
        ServerError::Access(error) => access(error),
        ServerError::Field { field, .. } => row(
            Code::InvalidArgument,
            "FIELD_INVALID",
            Detail::Field((*field).to_owned()),
        ),
        ServerError::HeaderMissing => row(
            Code::InvalidArgument,
            "HEADER_MISSING",
            Detail::Field("header".into()),
        ),
        ServerError::SecondHeader => row(
            Code::InvalidArgument,
            "SECOND_HEADER",
            Detail::Field("header".into()),
        ),
        ServerError::EmptyMessage => row(
            Code::InvalidArgument,
            "EMPTY_MESSAGE",
            Detail::Field("content".into()),
        ),
        ServerError::ChunkTooLarge { .. } => row(
            Code::InvalidArgument,
            "CHUNK_TOO_LARGE",
            Detail::Field("chunk".into()),
        ),
        ServerError::UploadSilent { .. } => {
            row(Code::DeadlineExceeded, "UPLOAD_SILENT", Detail::None)
        }
        ServerError::UploadSlow { .. } => row(Code::DeadlineExceeded, "UPLOAD_SLOW", Detail::None),
        ServerError::UploadLong { .. } => row(Code::DeadlineExceeded, "UPLOAD_LONG", Detail::None),
        ServerError::ReaderStalled { .. } => {
            row(Code::DeadlineExceeded, "READER_STALLED", Detail::None)
        }
        ServerError::Refused(refusal) => refused(refusal),
        ServerError::Adapter(error) => adapter(error),
        ServerError::BaseModel(error) => base_model(error),
        ServerError::Merge(error) => merge(error),
        ServerError::StoredAdapter(_) => row(Code::DataLoss, "SLOT_DAMAGED", Detail::None),
        ServerError::NotFound { resource, name, .. } => {
            let reason = match resource {
                Resource::BaseModel => "BASE_MODEL_UNKNOWN",
                Resource::Task => "TASK_UNKNOWN",
                Resource::Slot => "SLOT_EMPTY",
                Resource::Runtime => "RUNTIME_UNKNOWN",
            };
            row(
                Code::NotFound,
                reason,
                Detail::Resource(resource.type_name(), name.clone()),
            )
        }
        ServerError::UnknownJob { id } => row(
            Code::NotFound,
            "JOB_UNKNOWN",
            Detail::Resource("kmerge.v1.Job", id.to_string()),
        ),
        ServerError::UnknownGeneration {
            base_model,
            slot,
            generation,
            ..
        } => row(
            Code::NotFound,
            "GENERATION_UNKNOWN",
            Detail::Resource(
                "kmerge.v1.Slot",
                format!("{base_model}/{slot}@{generation}"),
            ),
        ),
        ServerError::NothingEarlier { .. } => row(
            Code::FailedPrecondition,
            "NO_EARLIER_GENERATION",
            Detail::Precondition("generation"),
        ),
        ServerError::CannotReturn { .. } => row(
            Code::FailedPrecondition,
            "GENERATION_CANNOT_RETURN",
            Detail::Precondition("generation"),
        ),
        ServerError::InAverage { .. } => row(
            Code::FailedPrecondition,
            "TASK_IN_AVERAGE",
            Detail::Precondition("task"),
        ),
        ServerError::RequestIdTaken { request_id, .. } => row(
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
            Detail::Resource("kmerge.v1.Job", request_id.clone()),
        ),
        ServerError::RevisionAhead { .. } => row(
            Code::OutOfRange,
            "REVISION_AHEAD",
            Detail::Field("after_revision".into()),
        ),
        ServerError::Ingest(error) => ingest(error),
        ServerError::Commit(error) => commit(error),
        ServerError::Read(error) => read(error),
        ServerError::Export(error) => export(error),
        ServerError::Format(error) => format(error),
        ServerError::UnknownFormat { .. } => row(
            Code::FailedPrecondition,
            "FORMAT_UNKNOWN",
            Detail::Precondition("format"),
        ),
        ServerError::FileUnreadable(_) => row(Code::DataLoss, "FILE_UNREADABLE", Detail::None),
        ServerError::Facts { .. } => row(Code::Internal, "RECORD_UNREADABLE", Detail::None),
        ServerError::Backup(error) => backup(error),
        ServerError::BackupRunning => row(
            Code::ResourceExhausted,
            "BACKUP_RUNNING",
            Detail::Quota("backups", Some(RESTART_RETRY)),
        ),
        ServerError::Stopping => row(Code::Unavailable, "STOPPING", Detail::Retry(RESTART_RETRY)),
        ServerError::CatalogStuck => row(
            Code::DeadlineExceeded,
            "CATALOG_STUCK",
            Detail::Retry(RESTART_RETRY),
        ),
        ServerError::Panicked => row(Code::Internal, "BUG", Detail::None),
    }
}

fn access(error: &AccessError) -> Row {
    match error {
        AccessError::TokenMissing => row(Code::Unauthenticated, "TOKEN_MISSING", Detail::None),
        AccessError::TokenWrong => row(Code::Unauthenticated, "TOKEN_WRONG", Detail::None),
        AccessError::Origin => row(Code::PermissionDenied, "ORIGIN_REFUSED", Detail::None),
        AccessError::Authority { .. } => {
            row(Code::PermissionDenied, "AUTHORITY_REFUSED", Detail::None)
        }
        AccessError::CallsBusy { whose, .. } => {
            let subject = match whose {
                Whose::All => "listen.calls",
                Whose::Caller => "listen.calls_per_user",
            };
            let detail = Detail::Quota(subject, Some(BUSY_RETRY));
            row(Code::ResourceExhausted, "CALLS_BUSY", detail)
        }
        AccessError::DeadlinePassed(_) => {
            row(Code::DeadlineExceeded, "DEADLINE_PASSED", Detail::None)
        }
    }
}

fn refused(refusal: &Refusal) -> Row {
    let (reason, subject, retry) = match refusal {
        Refusal::TooLarge { .. } => ("UPLOAD_TOO_LARGE", "uploads.max_bytes", None),
        Refusal::QueueFull { .. } => ("QUEUE_FULL", "uploads.queue", Some(BUSY_RETRY)),
        Refusal::UploadsBusy { .. } => ("UPLOADS_BUSY", "uploads.parallel", Some(BUSY_RETRY)),
        Refusal::UserBusy { .. } => (
            "USER_UPLOADS_BUSY",
            "uploads.parallel_per_user",
            Some(BUSY_RETRY),
        ),
        Refusal::DiskFull { .. } => ("DISK_FULL", "state.min_free_bytes", Some(BUSY_RETRY * 30)),
        Refusal::OverBudget { .. } => ("BUDGET_EXCEEDED", "max_bytes", None),
    };
    row(
        Code::ResourceExhausted,
        reason,
        Detail::Quota(subject, retry),
    )
}

fn adapter(error: &AdapterError) -> Row {
    match error.kind() {
        AdapterErrorKind::Malformed => row(
            Code::InvalidArgument,
            error.reason(),
            Detail::Field(error.field().to_owned()),
        ),
        AdapterErrorKind::Unsupported => row(
            Code::FailedPrecondition,
            error.reason(),
            Detail::Precondition("adapter"),
        ),
        AdapterErrorKind::WrongBase => row(
            Code::FailedPrecondition,
            error.reason(),
            Detail::Precondition("base_model"),
        ),
        AdapterErrorKind::Io => row(Code::Internal, error.reason(), Detail::None),
    }
}

fn base_model(error: &BaseModelError) -> Row {
    row(
        Code::InvalidArgument,
        error.reason(),
        Detail::Field("config".into()),
    )
}

fn merge(error: &MergeError) -> Row {
    let code = match error {
        MergeError::Source(_) | MergeError::DamagedSlot { .. } => Code::DataLoss,
        MergeError::Sink(_) | MergeError::Device { .. } => Code::Internal,
        MergeError::NotFinite { .. }
        | MergeError::SlotOutOfRange { .. }
        | MergeError::ShapeMismatch { .. }
        | MergeError::Decomposition { .. } => Code::FailedPrecondition,
        MergeError::OverBudget { .. } => {
            return row(
                Code::ResourceExhausted,
                error.reason(),
                Detail::Quota("max_bytes", None),
            );
        }
        MergeError::SlotFull { .. } => {
            return row(
                Code::ResourceExhausted,
                error.reason(),
                Detail::Quota("slot_bytes", None),
            );
        }
        MergeError::BelowFloor { .. } => {
            return row(
                Code::FailedPrecondition,
                error.reason(),
                Detail::Precondition("floor"),
            );
        }
        MergeError::Pinned { .. } | MergeError::AllPinned { .. } => {
            return row(
                Code::FailedPrecondition,
                error.reason(),
                Detail::Precondition("pinned"),
            );
        }
        MergeError::StalePlan { .. } => Code::Aborted,
        MergeError::NoSlots
        | MergeError::NotAnAverage
        | MergeError::DuplicateSlot { .. }
        | MergeError::OtherAdapters => Code::Internal,
    };
    row(code, error.reason(), Detail::None)
}

fn file(error: &FileError, reason: &'static str) -> Row {
    if error.is_disk_full() {
        disk_full()
    } else {
        row(Code::Internal, reason, Detail::None)
    }
}

fn disk_full() -> Row {
    row(
        Code::ResourceExhausted,
        "DISK_FULL",
        Detail::Quota("disk", Some(BUSY_RETRY * 30)),
    )
}

fn read_only(reason: &'static str) -> Row {
    row(Code::Unavailable, reason, Detail::Retry(RESTART_RETRY))
}

fn ingest(error: &IngestError) -> Row {
    let field = |name: &str| {
        row(
            Code::InvalidArgument,
            error.reason(),
            Detail::Field(name.to_owned()),
        )
    };
    match error {
        IngestError::TooLong { .. } | IngestError::TooShort { .. } => field("size_bytes"),
        IngestError::DigestMismatch { .. } => field("sha256"),
        IngestError::ConfigTooLarge { .. } => field("config"),
        IngestError::RequestIdLength { .. } => field("request_id"),
        IngestError::Format(_) => field("format"),
        IngestError::ReadOnly { .. } => read_only(error.reason()),
        IngestError::File(source) => file(source, error.reason()),
    }
}

fn commit(error: &CommitError) -> Row {
    let reason = error.reason();
    match error {
        CommitError::ReadOnly { .. } | CommitError::Catalog(_) => read_only(reason),
        CommitError::UnknownBaseModel { base_model } => row(
            Code::NotFound,
            reason,
            Detail::Resource(Resource::BaseModel.type_name(), base_model.to_string()),
        ),
        CommitError::UnknownJob { job } => row(
            Code::NotFound,
            reason,
            Detail::Resource("kmerge.v1.Job", job.to_string()),
        ),
        CommitError::JobState { .. } => row(
            Code::FailedPrecondition,
            reason,
            Detail::Precondition("job"),
        ),
        CommitError::AlreadyExists { existing } => {
            let (kind, name) = match existing {
                Existing::RequestId { request_id, .. } => ("kmerge.v1.Job", request_id.clone()),
                Existing::Task {
                    base_model, task, ..
                } => (Resource::Task.type_name(), format!("{base_model}/{task}")),
                Existing::BaseModel { base_model } => {
                    (Resource::BaseModel.type_name(), base_model.to_string())
                }
            };
            row(Code::AlreadyExists, reason, Detail::Resource(kind, name))
        }
        CommitError::GenerationMoved { .. } => row(Code::Aborted, reason, Detail::None),
        CommitError::TensorMissing { .. } => row(Code::DataLoss, reason, Detail::None),
        CommitError::ConfigTooLarge { .. } => row(
            Code::InvalidArgument,
            reason,
            Detail::Field("config".into()),
        ),
        CommitError::Invalid { .. } | CommitError::Record(_) => {
            row(Code::Internal, reason, Detail::None)
        }
        CommitError::File(source) => file(source, reason),
    }
}

fn read(error: &ReadError) -> Row {
    match error {
        ReadError::TensorMissing { .. }
        | ReadError::TensorLength { .. }
        | ReadError::TensorAltered { .. }
        | ReadError::ManifestAltered { .. }
        | ReadError::StagedMissing { .. }
        | ReadError::StagedDamaged { .. }
        | ReadError::ExportMissing { .. } => row(Code::DataLoss, error.reason(), Detail::None),
        ReadError::ReadOnly { .. } => read_only(error.reason()),
        ReadError::File(source) => file(source, error.reason()),
    }
}

fn backup(error: &BackupError) -> Row {
    match error {
        BackupError::ReadOnly { .. } => read_only(error.reason()),
        BackupError::Missing { .. } | BackupError::Damaged { .. } => {
            row(Code::DataLoss, error.reason(), Detail::None)
        }
        BackupError::TooLarge { .. } => row(
            Code::FailedPrecondition,
            error.reason(),
            Detail::Precondition("state"),
        ),
        // Nobody is there to read this.
        BackupError::Sink(_) => row(Code::Cancelled, error.reason(), Detail::None),
        BackupError::File(source) => file(source, error.reason()),
    }
}

fn export(error: &ExportError) -> Row {
    match error {
        ExportError::Format { .. } | ExportError::FileName { .. } => {
            row(Code::Internal, error.reason(), Detail::None)
        }
        ExportError::GenerationRemoved { .. } => row(Code::NotFound, error.reason(), Detail::None),
        ExportError::ReadOnly { .. } => read_only(error.reason()),
        ExportError::File(source) => file(source, error.reason()),
    }
}

fn format(error: &FormatError) -> Row {
    match error {
        FormatError::Source(_) => row(Code::DataLoss, error.reason(), Detail::None),
        FormatError::Sink(_) => row(Code::Internal, error.reason(), Detail::None),
        FormatError::NoGgufModule { .. }
        | FormatError::OddHead { .. }
        | FormatError::NoMlxModule { .. }
        | FormatError::SeveralScales { .. } => row(
            Code::FailedPrecondition,
            error.reason(),
            Detail::Precondition("base_model"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn a_refusal_carries_quota_and_retry() {
        let status = Status::from(ServerError::from(Refusal::QueueFull { waiting: 64 }));
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("QUEUE_FULL", ERROR_DOMAIN)
        );
        assert_eq!(
            details.quota_failure().unwrap().violations[0].subject,
            "uploads.queue"
        );
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(BUSY_RETRY));
    }

    #[test]
    fn a_field_is_named() {
        let error = ServerError::Field {
            field: "task",
            problem: "is empty".into(),
        };
        let status = Status::from(error);
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(
            details.bad_request().unwrap().field_violations[0].field,
            "task"
        );
    }

    #[test]
    fn strangers_are_told_no_paths() {
        let error = ServerError::Commit(CommitError::File(FileError {
            verb: "write",
            path: PathBuf::from("/var/lib/kmerge/secret"),
            source: std::io::ErrorKind::StorageFull.into(),
        }));
        let status = Status::from(error);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(!status.message().contains("secret"), "{}", status.message());
    }

    #[test]
    fn a_full_disk_is_one_however_deep_it_lies() {
        let file = FileError {
            verb: "write",
            path: PathBuf::from("/var/lib/kmerge/secret"),
            source: std::io::ErrorKind::StorageFull.into(),
        };
        let sink = std::io::Error::other(ReadError::File(file));
        let status = Status::from(ServerError::Merge(MergeError::Sink(sink)));
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "DISK_FULL");
        assert!(status.message().contains("free some space"));
        let other = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let other = ServerError::Merge(MergeError::Sink(other));
        assert_eq!(reason(&other), "TENSOR_SINK_FAILED");
    }
}
