//! Whether the state may still be written.
//!
//! Shared by all capabilities. After a flush to the medium has failed, the kernel has marked the
//! lost pages as clean, so trying again would report a success that is none. From then on every
//! write is refused; the next start reads what is really there.

use std::sync::OnceLock;

/// Starts well and can only get worse.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failure: OnceLock<String>,
}

impl Health {
    /// Notes a failure after which nothing more must be written. The first one is kept.
    pub(crate) fn fail(&self, error: &dyn std::error::Error) {
        self.failure.get_or_init(|| {
            let mut why = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                why = format!("{why}: {error}");
                cause = error.source();
            }
            why
        });
    }

    /// The failure, if there was one.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}
