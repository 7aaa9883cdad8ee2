//! Planted bugs: switches that break one rule each, so that the simulator can show that it would notice. Without the feature
//! `planted-bugs` there is no switch, and each question for one is a constant `false`.

/// A rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), allow(dead_code))]
pub enum Fault {
    /// A member that led goes on counting leases, and ends those that nobody renews there.
    ExpireAsFollower,
    /// Renewals are confirmed without asking a quorum.
    RenewUnconfirmed,
    /// Reads do not wait until what they must show is applied.
    ReadUnapplied,
    /// Checkpoints hold entries that the own log has not made durable.
    CheckpointAhead,
    /// A proposal is handed to Raft twice.
    ProposeTwice,
    /// A caller whose write may have been done is told that it was refused.
    UnknownRefused,
    /// That a change of members is committed is not persisted at once. Once a bug.
    ChangeLazy,
    /// What Raft gives out while a snapshot is being installed is logged at once, and not behind the snapshot.
    InstallOvertaken,
    /// A snapshot may begin to come in while another one is being written. Once a bug.
    TransfersOverlap,
    /// Pages are evicted at each fetch, before whoever waits for them tries again. Once a bug.
    EvictAtOnce,
    /// The first member applies a put now and then otherwise than it was asked for.
    ApplyOtherwise,
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::Fault;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Plants a bug in everything that this thread runs, or none.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.with(|planted| planted.set(fault));
    }

    pub(crate) fn planted(fault: Fault) -> bool {
        PLANTED.with(|planted| planted.get() == Some(fault))
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::plant;
#[cfg(feature = "planted-bugs")]
pub(crate) use switch::planted;

#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub(crate) fn planted(_fault: Fault) -> bool {
    false
}
