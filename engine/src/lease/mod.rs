//! Leases: who holds which time to live, and when it is over.
//!
//! Two kinds of knowledge live here and must not be mixed. *Replicated* knowledge (which leases exist, their granted and
//! checkpointed remaining TTL) changes only when an entry is applied: [`Lessor::grant`], [`Lessor::revoke`],
//! [`Lessor::checkpoint`]. *Local* knowledge (deadlines on this member's monotonic clock) exists only while the member is
//! the primary, that is between [`Lessor::promote`] and [`Lessor::demote`]; everywhere else a lease never ends.
//!
//! The primary proposes: [`Lessor::take_expired`] names leases to revoke, [`Lessor::take_checkpoints`] names remaining
//! TTLs to record. Nothing disappears before the proposal has come back as an applied entry, so a client that hears "the
//! lease is gone" hears the truth of the whole cluster.
//!
//! The keys of a lease are not kept here: the store's `lease_keys` tree has them.

mod checkpoint;
mod expiry;
mod ids;
mod lessor;

pub use checkpoint::CheckpointConfig;
pub use expiry::{EXPIRY_PASS_INTERVAL_NS, EXPIRY_PASS_LEASES_MAX, REVOKES_IN_FLIGHT_MAX};
pub use ids::RequestIds;
pub use lessor::{
    min_ttl_seconds, Config, GrantError, LeaseRecord, Lessor, Renewal, TimeToLive,
    CHECKPOINTS_PER_ENTRY_MAX, CHECKPOINT_INTERVAL_DEFAULT_NS, PILE_UP_LEASES_MIN,
    PILE_UP_PER_SECOND_MAX, RENEW_WAITERS_MAX, TTL_MAX_SECONDS,
};
