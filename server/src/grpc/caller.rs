//! Who calls, and what may be told.
//!
//! The door puts a [`Caller`] into every request. Nobody is told apart beyond what the kernel or a
//! certificate proves, and there are no roles: a caller who is in may do everything. Only where
//! things are on this machine is told to whoever can make use of it.

use tonic::Request;

use super::redact::Paths;
use crate::shares::Peer;

/// What a caller may know of this machine's directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// Comes over the network: no paths.
    Network,
    /// Another user of this machine: the paths that are answers, such as where an adapter is.
    User,
    /// The daemon's own user, or root.
    Owner,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Whose limits it counts towards; none where nobody said.
    pub peer: Peer,
    /// What it may know.
    pub trust: Trust,
}

impl Caller {
    /// Who sent a request. One that did not come through the door, which would be a bug, is nobody
    /// who may know anything.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let nobody = Self {
            peer: Peer::at(std::net::Ipv6Addr::UNSPECIFIED.into()),
            trust: Trust::Network,
        };
        request.extensions().get().copied().unwrap_or(nobody)
    }

    /// An answer as this caller may see it.
    pub(super) fn may_see<M: Paths>(self, mut message: M) -> M {
        if self.trust < M::FOR {
            message.remove_paths();
        }
        message
    }
}
