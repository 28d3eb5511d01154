//! The lock that keeps a state directory to one process.
//!
//! Held by every capability through what they share, so that it outlives the last of them. The
//! file says who holds it, for the one who comes second.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom};

use crate::durable;
use crate::error::{FileError, OpenError};
use crate::ids::UnixMillis;
use crate::layout::Layout;

/// The lock. The system gives it back when this is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock and signs it.
    pub(crate) fn take(layout: &Layout, now: UnixMillis) -> Result<Self, OpenError> {
        let path = layout.lock();
        let failed = |verb, source| FileError {
            verb,
            path: path.clone(),
            source,
        };
        let mut file = durable::open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Whatever cannot be read says as little as an empty file.
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "a process that has not signed yet".to_owned(),
                    signed => signed.to_owned(),
                };
                return Err(OpenError::Locked {
                    holder,
                    directory: layout.root().to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", source).into()),
        }
        let signature = format!(
            "process {}, since {}\n",
            std::process::id(),
            now.to_rfc3339()
        );
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .map_err(|source| failed("sign", source))?;
        match durable::write(&file, &path, signature.as_bytes()) {
            // The lock holds without it, and a start on a full disk must not fail for a sentence.
            Err(error) if error.is_disk_full() => {}
            signed => signed?,
        }
        Ok(Self { _file: file })
    }
}
