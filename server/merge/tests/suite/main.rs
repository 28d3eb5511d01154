//! Everything that is tested through the public API, in one binary: goldens, laws, hostile bytes.

#![expect(
    clippy::unwrap_used,
    reason = "in a test a failed unwrap is the failure"
)]

mod support;

mod bad_files;
mod baselines;
mod best_pair;
mod budget;
mod exact;
mod formats;
mod goldens;
mod hostile;
mod laws;
mod lending;
mod normal_form;
mod progressive;
