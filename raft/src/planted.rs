//! Planted bugs: switches that break one safety rule each, so that the cluster test can show that it would notice.
//! Without the feature `planted-bugs` there is no switch, and each question for one is a constant `false`.

/// A rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), allow(dead_code))]
pub enum Fault {
    /// The leader counts its own entries before they are durable.
    CountUndurable,
    /// Acknowledgements leave before the entries are durable.
    AckUndurable,
    /// Votes leave before they are durable.
    VoteUndurable,
    /// A second vote in one term.
    VoteTwice,
    /// Entries of earlier terms are committed by counting.
    CommitOldTerm,
    /// A follower commits up to the leader's commit index, proved or not.
    CommitUnproved,
    /// A follower takes entries whatever stands before them.
    AppendUnchecked,
    /// A heartbeat commits beyond the end of the log.
    HeartbeatTrusted,
    /// The leader counts as two.
    CountTwice,
    /// A write that was overtaken by a truncation still counts as durable.
    AbaWrite,
    /// Reads are answered without asking a quorum.
    ReadUnconfirmed,
    /// A new leader confirms reads before it has committed anything itself.
    ReadBeforeOwnTerm,
    /// During a joint phase only the new voters decide.
    IncomingOnly,
    /// A node campaigns although a committed configuration change is not applied.
    CampaignUnapplied,
    /// Several unapplied configuration changes are let into the log.
    PileUpConfChanges,
    /// A node that lost part of its log goes on as if it had not.
    LossForgotten,
    /// It counts again as soon as its log holds anything.
    LossMadeUpEarly,
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::Fault;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Plants a bug in all nodes of this thread, or none.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.with(|planted| planted.set(fault));
    }

    pub(crate) fn is_planted(fault: Fault) -> bool {
        PLANTED.with(|planted| planted.get() == Some(fault))
    }
}

#[cfg(feature = "planted-bugs")]
pub(crate) use switch::is_planted;
#[cfg(feature = "planted-bugs")]
pub use switch::plant;

#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub(crate) fn is_planted(_fault: Fault) -> bool {
    false
}

impl crate::Node {
    #[inline(always)]
    pub(crate) fn planted(&self, fault: Fault) -> bool {
        is_planted(fault)
    }
}
