//! Bugs planted one at a time, to see whether the simulator notices each: the figure that says how good it is.
//!
//! Most break a rule of the server ([`raft::planted`], [`engine::planted`], [`ringd::planted`]), some of the shell around
//! it, which the simulator replaces. They exist with the feature `planted-bugs` only.
//!
//! The mistakes that any such list should have, and what stands for them here: one flush skipped (`FlushSkipped`,
//! `CopyUnflushed`, `LogUnflushed`), acknowledged too early (`AckUndurable`, `CountUndurable`), a previous value dropped
//! (`PreviousDropped`), a compaction off by one (`CompactOneMore`), the leader counted twice (`CountTwice`), a directory not
//! flushed (`DirSyncForgotten`), a lease used that is stale (`ExpireAsFollower`, `RenewUnconfirmed`; for reads
//! `ReadUnconfirmed`).
//!
//! Not among them is [`raft::planted::Fault::IncomingOnly`]: members change one at a time, so that no member ever is in the
//! joint phase that it breaks. What breaks decoding (`LengthsTrusted`, `ShapeUnchecked`, `ElementsOverlap`) is for the fuzz
//! targets, because what whole members read here has a checksum.

/// A rule of the shell to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), allow(dead_code))]
pub enum Shell {
    /// The directory is not flushed after the page file was replaced.
    DirSyncForgotten,
    /// A write of the log is reported before it is flushed: the power may take the last one.
    LogUnflushed,
}

#[cfg(not(feature = "planted-bugs"))]
pub fn in_shell(_fault: Shell) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use on::{in_shell, plant, plant_named, Plant, ALL};

#[cfg(feature = "planted-bugs")]
mod on {
    use std::cell::Cell;

    use super::Shell;
    use engine::planted::Fault as InEngine;
    use raft::planted::Fault as InRaft;
    use ringd::planted::Fault as InMember;

    #[derive(Clone, Copy, Debug)]
    pub enum Plant {
        Raft(InRaft),
        Engine(InEngine),
        Member(InMember),
        Shell(Shell),
    }

    pub const ALL: &[Plant] = &[
        Plant::Raft(InRaft::VoteUndurable),
        Plant::Raft(InRaft::VoteTwice),
        Plant::Raft(InRaft::AckUndurable),
        Plant::Raft(InRaft::CountUndurable),
        Plant::Raft(InRaft::CountTwice),
        Plant::Raft(InRaft::AppendUnchecked),
        Plant::Raft(InRaft::CommitUnproved),
        Plant::Raft(InRaft::CommitOldTerm),
        Plant::Raft(InRaft::HeartbeatTrusted),
        Plant::Raft(InRaft::CampaignUnapplied),
        Plant::Raft(InRaft::PileUpConfChanges),
        Plant::Raft(InRaft::AbaWrite),
        Plant::Raft(InRaft::ReadUnconfirmed),
        Plant::Raft(InRaft::ReadBeforeOwnTerm),
        Plant::Raft(InRaft::LossForgotten),
        Plant::Raft(InRaft::LossMadeUpEarly),
        Plant::Engine(InEngine::WatchSkips),
        Plant::Engine(InEngine::PreviousDropped),
        Plant::Engine(InEngine::ProgressAhead),
        Plant::Engine(InEngine::CompactOneMore),
        Plant::Engine(InEngine::CompareFirstOnly),
        Plant::Engine(InEngine::FailureTaken),
        Plant::Engine(InEngine::RemoveForgets),
        Plant::Engine(InEngine::RevisionForgotten),
        Plant::Engine(InEngine::ExpireEarly),
        Plant::Engine(InEngine::DriftIgnored),
        Plant::Engine(InEngine::FlushSkipped),
        Plant::Engine(InEngine::CopyUnflushed),
        Plant::Engine(InEngine::PageUnchecked),
        Plant::Engine(InEngine::ClaimIgnored),
        Plant::Engine(InEngine::InstallKeepsLog),
        Plant::Engine(InEngine::CopyUnchecked),
        Plant::Member(InMember::ExpireAsFollower),
        Plant::Member(InMember::RenewUnconfirmed),
        Plant::Member(InMember::UnknownRefused),
        Plant::Member(InMember::ChangeLazy),
        Plant::Member(InMember::ReadUnapplied),
        Plant::Member(InMember::CheckpointAhead),
        Plant::Member(InMember::ProposeTwice),
        Plant::Member(InMember::InstallOvertaken),
        Plant::Member(InMember::TransfersOverlap),
        Plant::Member(InMember::EvictAtOnce),
        Plant::Member(InMember::ApplyOtherwise),
        Plant::Shell(Shell::DirSyncForgotten),
        Plant::Shell(Shell::LogUnflushed),
    ];

    thread_local! {
        static SHELL: Cell<Option<Shell>> = const { Cell::new(None) };
    }

    pub fn in_shell(fault: Shell) -> bool {
        SHELL.with(|planted| planted.get() == Some(fault))
    }

    /// Plants a bug in everything that this thread runs, or none.
    pub fn plant(plant: Option<Plant>) {
        raft::planted::plant(match plant {
            Some(Plant::Raft(fault)) => Some(fault),
            _ => None,
        });
        engine::planted::plant(match plant {
            Some(Plant::Engine(fault)) => Some(fault),
            _ => None,
        });
        ringd::planted::plant(match plant {
            Some(Plant::Member(fault)) => Some(fault),
            _ => None,
        });
        SHELL.with(|planted| {
            planted.set(match plant {
                Some(Plant::Shell(fault)) => Some(fault),
                _ => None,
            })
        });
    }

    /// Plants the bug of this name for all that follows. False if there is none.
    pub fn plant_named(name: &str) -> bool {
        let found = ALL.iter().find(|bug| format!("{bug:?}").contains(name));
        plant(found.copied());
        found.is_some()
    }
}
