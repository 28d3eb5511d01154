//! What went wrong, its exit code, and how it is said.

use std::process::ExitCode;

use kmerge_client::error::code_name;
use kmerge_client::{Error, v1};

/// How the process ends. `--help` and the man page list the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// The daemon refused, or failed.
    Refused = 1,
    /// The arguments make no sense, or name what cannot be used.
    Usage = 2,
    /// The daemon cannot be reached.
    Unreachable = 3,
    /// The daemon knows no such thing.
    NotFound = 4,
    /// Interrupted from the keyboard: 128 and the signal's number, as shells count.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // The discriminants are the codes.
        Self::from(exit as u8)
    }
}

/// What went wrong, ready to be said.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// A canonical gRPC code, for programs.
    pub(crate) code: &'static str,
    /// UPPER_SNAKE_CASE, for programs.
    pub(crate) reason: String,
    /// What happened, to what. Empty: there is nobody to say it to.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hint: Option<String>,
}

impl Failure {
    fn new(exit: Exit, code: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code,
            reason: reason.to_owned(),
            message: message.into(),
            hint: None,
        }
    }

    /// The same with what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Arguments that make no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "INVALID_ARGUMENT", "USAGE", message)
    }

    /// Something that is not there.
    pub(crate) fn not_found(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, "NOT_FOUND", reason, message)
    }

    /// Something this side could not do.
    pub(crate) fn failed(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, "INTERNAL", reason, message)
    }

    /// What the system refused: "cannot `what`: …".
    pub(crate) fn system(what: &str, error: &std::io::Error) -> Self {
        Self::failed("SYSTEM", format!("cannot {what}: {error}"))
    }

    /// Interrupted from the keyboard.
    pub(crate) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "CANCELLED", "INTERRUPTED", "interrupted")
    }

    /// The reader of stdout has gone, as `head` does: nothing to say, and nothing is wrong.
    pub(crate) fn reader_gone() -> Self {
        Self::new(Exit::Done, "CANCELLED", "READER_GONE", "")
    }

    /// A job that ended without having been done.
    pub(crate) fn job(job: &v1::Job) -> Self {
        let what = format!("job {} ({} of {})", job.id, job.task, job.base_model);
        match &job.error {
            Some(error) => {
                let code = code_name(kmerge_client::error::Code::from_i32(error.code));
                let message = format!("{what} failed: {}", error.message);
                Self::new(Exit::Refused, code, &error.reason, message)
            }
            None if job.state() == v1::JobState::Cancelled => {
                let message = format!("{what} was cancelled");
                Self::new(Exit::Refused, "CANCELLED", "JOB_CANCELLED", message)
            }
            None => Self::new(
                Exit::Refused,
                "UNKNOWN",
                "JOB_FAILED",
                format!("{what} failed"),
            ),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (exit, code, reason) = match &error {
            Error::Unreachable { .. } => (Exit::Unreachable, "UNAVAILABLE", "UNREACHABLE"),
            Error::Address { .. } => (Exit::Usage, "INVALID_ARGUMENT", "ADDRESS"),
            Error::Refused(refusal) => (
                Exit::Refused,
                code_name(refusal.code),
                refusal.reason.as_str(),
            ),
            Error::NotFound(refusal) => (Exit::NotFound, "NOT_FOUND", refusal.reason.as_str()),
            Error::Protocol(_) => (Exit::Refused, "INTERNAL", "PROTOCOL"),
            Error::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                (Exit::Usage, "INVALID_ARGUMENT", "FILE")
            }
            Error::File { .. } => (Exit::Refused, "INTERNAL", "FILE"),
            Error::Sink(_) => (Exit::Refused, "INTERNAL", "FILE"),
            Error::NotAnAdapter { .. } => (Exit::Usage, "INVALID_ARGUMENT", "NOT_AN_ADAPTER"),
            Error::Target { .. } => (Exit::Usage, "INVALID_ARGUMENT", "TARGET"),
            _ => (Exit::Refused, "UNKNOWN", "UNKNOWN"),
        };
        let mut failure = Self::new(exit, code, reason, said(&error));
        failure.hint = error.hint();
        failure
    }
}

/// An error with its causes.
fn said(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_error_names_its_cause() {
        let error = Error::File {
            verb: "open",
            path: "/a".into(),
            source: std::io::Error::from_raw_os_error(2),
        };
        let failure = Failure::from(error);
        assert_eq!(
            failure.message,
            "cannot open /a: No such file or directory (os error 2)"
        );
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[test]
    fn a_failed_job_says_why_and_a_cancelled_one_that_it_was() {
        let job = v1::Job {
            id: 4,
            task: "slug".into(),
            base_model: "b".into(),
            state: v1::JobState::Failed.into(),
            error: Some(v1::JobError {
                code: 9,
                reason: "DORA".into(),
                message: "DoRA cannot be merged".into(),
            }),
            ..v1::Job::default()
        };
        let failure = Failure::job(&job);
        assert_eq!(
            failure.message,
            "job 4 (slug of b) failed: DoRA cannot be merged"
        );
        assert_eq!(
            (failure.code, failure.reason.as_str()),
            ("FAILED_PRECONDITION", "DORA")
        );
        let cancelled = v1::Job {
            error: None,
            state: v1::JobState::Cancelled.into(),
            ..job
        };
        assert_eq!(
            Failure::job(&cancelled).message,
            "job 4 (slug of b) was cancelled"
        );
    }
}
