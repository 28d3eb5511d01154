//! How much each caller has of something that there is little of: connections, calls, uploads.
//!
//! Plain counting behind one short lock. Nobody waits: a share is had at once or refused. One peer
//! has at most its own limit, and all of the network together at most half, so that neither a busy
//! user nor a flooded port keeps everybody else out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Who counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A user of this machine, as the kernel says.
    User(u32),
    /// An address of the network. Of IPv6 the first half, which is what one subscriber has.
    Address(IpAddr),
}

impl Peer {
    /// The peer at an address.
    pub fn at(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self::Address(match address {
            IpAddr::V6(long) if !long.is_loopback() => {
                IpAddr::V6((long.to_bits() >> 64 << 64).into())
            }
            IpAddr::V4(_) | IpAddr::V6(_) => address,
        })
    }

    fn is_remote(self) -> bool {
        matches!(self, Self::Address(_))
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// Whose limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The one for all together, or for the network together.
    All(usize),
    /// The peer's own.
    Peer(usize),
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    remote: usize,
    each: HashMap<Peer, usize>,
}

#[derive(Debug)]
struct Limited {
    all: usize,
    per_peer: usize,
    taken: Mutex<Taken>,
}

/// Something that is shared.
#[derive(Debug, Clone)]
pub struct Shares(Arc<Limited>);

/// One share, given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    peer: Peer,
}

impl Shares {
    /// `all` shares, of which one peer may have `per_peer`.
    pub fn new(all: usize, per_peer: usize) -> Self {
        Self(Arc::new(Limited {
            all,
            per_peer,
            taken: Mutex::default(),
        }))
    }

    /// Takes a share.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn take(&self, peer: Peer) -> Result<Share, Full> {
        let Limited { all, per_peer, .. } = *self.0;
        let remote_limit = all.div_ceil(2);
        let mut taken = self.taken();
        if taken.all >= all {
            return Err(Full::All(all));
        }
        if taken.each.get(&peer).copied().unwrap_or_default() >= per_peer {
            return Err(Full::Peer(per_peer));
        }
        if peer.is_remote() && taken.remote >= remote_limit {
            return Err(Full::All(remote_limit));
        }
        taken.all += 1;
        taken.remote += usize::from(peer.is_remote());
        *taken.each.entry(peer).or_default() += 1;
        Ok(Share {
            shares: self.clone(),
            peer,
        })
    }

    /// How many are taken.
    pub fn count(&self) -> usize {
        self.taken().all
    }

    /// The counts are whole numbers that are changed together; a panic cannot leave them between.
    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.all -= 1;
        taken.remote -= usize::from(self.peer.is_remote());
        if let Some(count) = taken.each.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                // The map would else grow with every address that ever came.
                taken.each.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Peer = Peer::User(1);
    const TWO: Peer = Peer::User(2);

    fn address(text: &str) -> Peer {
        Peer::at(text.parse().unwrap())
    }

    #[test]
    fn a_peer_has_its_limit_and_leaves_the_rest() {
        let shares = Shares::new(3, 2);
        let mut held = vec![shares.take(ONE).unwrap(), shares.take(ONE).unwrap()];
        assert_eq!(shares.take(ONE).unwrap_err(), Full::Peer(2));
        held.push(shares.take(TWO).unwrap());
        assert_eq!(shares.take(TWO).unwrap_err(), Full::All(3));
        held.remove(0);
        assert_eq!(shares.count(), 2);
        held.push(shares.take(ONE).unwrap());
        held.clear();
        assert_eq!(shares.count(), 0);
        assert!(shares.taken().each.is_empty());
    }

    #[test]
    fn the_network_leaves_half_to_users() {
        let shares = Shares::new(4, 4);
        let _held = [
            shares.take(address("192.0.2.1")).unwrap(),
            shares.take(address("192.0.2.2")).unwrap(),
        ];
        let refused = shares.take(address("192.0.2.3")).unwrap_err();
        assert_eq!(refused, Full::All(2));
        let _users = [shares.take(ONE).unwrap(), shares.take(ONE).unwrap()];
        // Even one alone is not kept from the network.
        Shares::new(1, 1).take(address("192.0.2.1")).unwrap();
    }

    #[test]
    fn addresses_of_one_subscriber_are_one_peer() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("127.0.0.1"), address("127.0.0.2"));
        assert_ne!(address("::1"), address("::2"));
    }
}
