//! The daemon behind `kmerged`: takes adapters in, has them merged, keeps them safe, serves them.
//!
//! The way of an adapter, room by room; each room hands a value on and never calls back:
//!
//! ```text
//! grpc (door) → uploads (admission, staging, validation) → owner (queue)
//!    → workers → step (mathematics of kmerge-merge) → owner (commit, exports, publication)
//!    → serving, watching (answers)
//! ```
//!
//! | thread or task | owns | woken by |
//! |---|---|---|
//! | `catalog` (`owner`) | the only writer of the state; exports; the catalog view | commands, the end of a grace |
//! | `job-N` (`workers`) | one running job each | catalog changes, the end of a job |
//! | `merge-N`, `check-N` | nothing: the mathematics of jobs, of validation | the threads above |
//! | one task per call (`grpc`) | one request | its client |
//! | one blocking thread per backup (`backup`) | a snapshot | its reader |
//! | one tracked task per stream (`watching`) and per finished upload (`uploads`) | one stream | catalog changes, progress |
//! | one tracked task per configured runtime (`runtimes`) | what that runtime is known to have | catalog changes, the ends of its waits |
//! | signals (`shutdown`) | nothing | the system |
//! | one task, or thread where there is no service manager's (`watchdog`) | nothing | a timer |
//!
//! Where a change goes: what is let in, `admission`; the order of jobs, `schedule`; what a client
//! sees, `grpc::convert`; which status an error becomes, `grpc::status`; a new key, `config`.

pub mod access;
pub mod admission;
pub mod app;
pub mod args;
pub mod backup;
pub mod base_models;
pub mod clock;
pub mod config;
pub mod converted;
pub mod doubts;
pub mod error;
pub mod exports;
pub mod facts;
pub mod grpc;
pub mod liveness;
pub mod maintenance;
pub mod owner;
pub mod pace;
pub mod packs;
pub mod pages;
pub mod paths;
pub mod progress;
pub mod restore;
pub mod runtimes;
pub mod schedule;
pub mod scrub;
pub mod served;
pub mod service_manager;
pub mod serving;
pub mod shares;
pub mod shutdown;
pub mod status_report;
pub mod step;
pub mod telemetry;
pub mod tensors;
pub mod uploads;
pub mod wake;
pub mod watchdog;
pub mod watching;
pub mod workers;
