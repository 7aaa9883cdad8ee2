//! What the transport is told.

use net::peer::Local;

#[derive(Clone, Debug)]
pub struct Config {
    /// This member, as it presents itself.
    pub local: Local,
    /// A follower that hears nothing from its leader for this long stands for election.
    pub election_ns: u64,
    /// How long a question to another member may take.
    pub request_timeout_ns: u64,
    /// The wall clock, in ms since the epoch, at time 0 of the transport's clock.
    pub unix_ms: u64,
    /// Connections that others may have open at the peer port. Above: the one that has been idle longest makes room, or
    /// the new one is closed.
    pub inbound_max: usize,
}

/// [`Config::inbound_max`] where descriptors are no concern.
pub const INBOUND_MAX: usize = 512;

/// The shortest and longest patience with a connection that is being opened.
const DIAL_NS_MIN: u64 = 200_000_000;
const DIAL_NS_MAX: u64 = 5_000_000_000;

impl Config {
    /// Patience with a connection that is being opened: below the election timeout, so that a member which comes back is
    /// heard of before its absence has consequences.
    pub fn dial_timeout_ns(&self) -> u64 {
        (self.election_ns / 2).clamp(DIAL_NS_MIN, DIAL_NS_MAX)
    }
}
