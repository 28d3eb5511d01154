//! Whether an upload may come in. Plain code: no locks, no I/O, no clock.
//!
//! Refused before its bytes are read, with what would help; a refusal is a status, never a wait.

use kmerge_merge::{AdapterLayout, Dtype, Policy, SlotDtype};

use crate::config;

/// Why an upload was refused before its bytes were read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The tensor file is larger than this daemon takes.
    #[error(
        "the tensor file has {size} bytes and this daemon takes at most {limit}: \
         lower the adapter's rank, store it as F16, or raise uploads.max_bytes"
    )]
    TooLarge {
        /// As announced.
        size: u64,
        /// As configured.
        limit: u64,
    },
    /// Too many jobs wait.
    #[error(
        "{waiting} adapters are waiting to be merged, as many as the queue takes: try again soon"
    )]
    QueueFull {
        /// Jobs that wait or run, and uploads under way.
        waiting: usize,
    },
    /// Too many uploads at once.
    #[error(
        "{parallel} uploads are under way, as many as this daemon takes at once: try again soon"
    )]
    UploadsBusy {
        /// As configured.
        parallel: usize,
    },
    /// Too many uploads of one user at once.
    #[error(
        "{parallel} uploads of this user are under way, as many as one may have at once: try again \
         soon"
    )]
    UserBusy {
        /// As configured, or all that the network may have.
        parallel: usize,
    },
    /// The disk is too full.
    #[error(
        "{free} bytes are free on the state directory's filesystem and {needed} would be needed: \
         free some space, or lower state.min_free_bytes"
    )]
    DiskFull {
        /// Free now.
        free: u64,
        /// The upload, its merged copy and the reserve.
        needed: u64,
    },
    /// The adapter can never fit the base model's budget.
    #[error(
        "the adapter takes {needed} bytes as a slot and the budget of base model {base_model} is \
         {budget} bytes: lower its rank, or register the base model with a larger max_bytes"
    )]
    OverBudget {
        /// Whose budget.
        base_model: String,
        /// The tensors alone.
        needed: u64,
        /// As registered.
        budget: u64,
    },
}

/// How busy the daemon is.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Jobs that wait or run.
    pub jobs: usize,
    /// Uploads under way, without this one.
    pub uploads: usize,
    /// Bytes free on the state directory's filesystem.
    pub free: u64,
}

/// Decides by the announced size and the daemon's load.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn admit(
    size: u64,
    load: Load,
    limits: &config::Uploads,
    min_free_bytes: u64,
) -> Result<(), Refusal> {
    if size > limits.max_bytes {
        return Err(Refusal::TooLarge {
            size,
            limit: limits.max_bytes,
        });
    }
    let waiting = load.jobs + load.uploads;
    if waiting >= limits.queue {
        return Err(Refusal::QueueFull { waiting });
    }
    // The staged bytes, and a merged slot of about their size beside them.
    let needed = size.saturating_mul(2).saturating_add(min_free_bytes);
    if load.free < needed {
        return Err(Refusal::DiskFull {
            free: load.free,
            needed,
        });
    }
    Ok(())
}

/// Decides by what a validated adapter takes as a slot of its own: less than that no slot with it
/// can take, since a slot has the largest rank and all modules of its members.
///
/// # Errors
/// [`Refusal::OverBudget`].
pub fn fits_budget(
    layout: &AdapterLayout,
    policy: &Policy,
    base_model: &str,
) -> Result<(), Refusal> {
    let Some(budget) = policy.max_bytes else {
        return Ok(());
    };
    // A slot that keeps its members apart makes any of them fit.
    if policy.operator.is_progressive() {
        return Ok(());
    }
    let dtype = match policy.dtype {
        SlotDtype::Widest => layout.dtype(),
        SlotDtype::F32 => Dtype::F32,
        SlotDtype::F16 => Dtype::F16,
        SlotDtype::Bf16 => Dtype::Bf16,
    };
    let width: usize = layout
        .modules
        .iter()
        .map(|module| module.in_features + module.out_features)
        .sum();
    let needed = u64::try_from(
        width
            .saturating_mul(layout.rank())
            .saturating_mul(dtype.size_bytes()),
    )
    .unwrap_or(u64::MAX);
    if needed > budget {
        return Err(Refusal::OverBudget {
            base_model: base_model.to_owned(),
            needed,
            budget,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Pace;
    use std::time::Duration;

    const LIMITS: config::Uploads = config::Uploads {
        max_bytes: 100,
        parallel: 2,
        parallel_per_user: 2,
        pace: Pace {
            bytes_per_second: 0,
            grace: Duration::ZERO,
            longest: Duration::ZERO,
        },
        queue: 4,
    };
    const IDLE: Load = Load {
        jobs: 0,
        uploads: 0,
        free: 1000,
    };

    #[test]
    fn an_idle_daemon_takes_what_it_can_hold() {
        assert_eq!(admit(100, IDLE, &LIMITS, 800), Ok(()));
        assert_eq!(
            admit(101, IDLE, &LIMITS, 0),
            Err(Refusal::TooLarge {
                size: 101,
                limit: 100
            })
        );
        assert_eq!(
            admit(100, IDLE, &LIMITS, 801),
            Err(Refusal::DiskFull {
                free: 1000,
                needed: 1001
            })
        );
    }

    #[test]
    fn the_queue_counts_uploads_under_way() {
        let load = Load {
            jobs: 3,
            uploads: 1,
            ..IDLE
        };
        assert_eq!(
            admit(1, load, &LIMITS, 0),
            Err(Refusal::QueueFull { waiting: 4 })
        );
        let load = Load {
            jobs: 2,
            uploads: 1,
            ..IDLE
        };
        assert_eq!(admit(1, load, &LIMITS, 0), Ok(()));
    }
}
