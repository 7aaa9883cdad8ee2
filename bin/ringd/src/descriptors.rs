//! Who may use how many of the process's file descriptors.
//!
//! A member that cannot open its next log segment ends, so clients only get what is left above a reserve: when all of
//! theirs are taken, further connections wait in the kernel's queue until others close. Connections that arrive at the
//! peer port have a bound of their own, which no client can use up.

/// Descriptors that files and members need, as etcd counts them; only what is above is left for clients.
pub const RESERVED_DESCRIPTORS: u64 = 150;
/// Of the reserved ones, for connections that other members open here. The rest is for files, rings, threads and the
/// connections that this member opens: some 30 in itself and up to 8 for each other member.
const PEERS_MIN: u64 = 64;
/// Where there are more descriptors, one in so many of those above the reserve is for other members as well.
const PEERS_SHARE: u64 = 8;
const PEERS_MAX: u64 = 528;
/// Connections at the peer port that are on their way out: evicted by a newer one, or refused.
const PEERS_LEAVING: usize = 16;

/// The most connections that are held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    pub clients: usize,
    /// At the peer port; those that this member opens are bounded by the number of members.
    pub peers: usize,
}

impl Shares {
    /// Divides what the limit of open files allows. A limit that leaves clients nothing is refused at start.
    pub fn of(limit: u64) -> Shares {
        let free = limit.saturating_sub(RESERVED_DESCRIPTORS);
        let for_peers = (free / PEERS_SHARE).min(PEERS_MAX - PEERS_MIN);
        Shares {
            clients: usize::try_from(free - for_peers).unwrap_or(usize::MAX),
            peers: (PEERS_MIN + for_peers) as usize,
        }
    }

    /// Connections at the peer port that are served, beside which there is room for newer ones that push out idle ones.
    pub fn peers_served(&self) -> usize {
        self.peers - PEERS_LEAVING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_get_what_is_reserved() {
        for limit in (RESERVED_DESCRIPTORS + 1..5000).chain([65_536, 1 << 20, u64::MAX]) {
            let shares = Shares::of(limit);
            assert!(shares.clients >= 1, "{limit}");
            assert!(shares.peers_served() >= 48, "{limit}");
            // What is neither for clients nor for connections of others is left for the server's own, whatever the limit.
            let own = limit - shares.clients as u64 - shares.peers as u64;
            assert_eq!(own, RESERVED_DESCRIPTORS - PEERS_MIN, "{limit}");
        }
    }

    #[test]
    fn known_limits() {
        let shares = |clients, peers| Shares { clients, peers };
        assert_eq!(Shares::of(151), shares(1, 64));
        assert_eq!(Shares::of(256), shares(93, 77));
        assert_eq!(Shares::of(1024), shares(765, 173));
        assert_eq!(Shares::of(65_536), shares(64_922, 528));
        assert_eq!(shares(64_922, 528).peers_served(), 512);
    }
}
