//! What a node is told at start.

use std::fmt;

use proto::raftpb::{ConfState, Entry, HardState};

use crate::confchange::ConfChangeError;
use crate::log::{Log, TermRun};

/// How linearizable reads are confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadOnly {
    /// By a round of heartbeats that began after the request.
    #[default]
    Safe,
    /// Without a round while one that began less than an election timeout ago was answered by a quorum. Needs
    /// CheckQuorum, clocks that run alike, and is wrong under a pause of the whole machine, which no clock inside shows.
    Lease,
}

/// Parameters of a node. [`Config::new`] gives etcd's.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node, not 0.
    pub id: u64,
    /// Ticks without a leader after which an election starts, at least; up to twice as many less one.
    pub election_ticks: u32,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// Ask whether an election could be won before the term is raised.
    pub pre_vote: bool,
    /// A leader that hears from no quorum for an election timeout steps down, and votes are refused while a leader is
    /// heard from.
    pub check_quorum: bool,
    /// A leader that is removed or demoted becomes follower when the change is applied. Its followers may not know yet
    /// that the change is committed, and where the old majority needs the leader (two voters) a longer log of its
    /// keeps them from being elected. Off, it goes on heartbeating until the embedding stops it.
    pub step_down_on_removal: bool,
    /// Followers pass proposals on to the leader.
    pub forward_proposals: bool,
    /// Refuse a configuration change while another one is not applied. Off, the embedding decides.
    pub validate_conf_changes: bool,
    /// Entries may be applied as soon as they are committed, even if not durable on this node.
    pub apply_undurable: bool,
    /// A leader whose log writes stall for half an election timeout hands leadership over.
    pub transfer_on_stall: bool,
    /// A new commit index makes no message of its own at once: it goes with the next append, or when the embedding calls
    /// [`Node::announce_commit`](crate::Node::announce_commit). Where a follower waits for it, because it passed the
    /// proposal on or reads, it is sent all the same.
    pub gather_commits: bool,
    /// Weight of the entries of one append message; one entry may exceed it.
    pub message_bytes_max: u64,
    /// Weight of committed entries handed out and not yet reported applied; one entry may exceed it.
    pub applying_bytes_max: u64,
    /// Appends under way to one follower.
    pub inflight_messages_max: usize,
    /// Weight of the appends under way to one follower; 0 is no limit.
    pub inflight_bytes_max: u64,
    /// Payload of the entries that a leader has accepted and that are not applied; 0 is no limit.
    pub uncommitted_bytes_max: u64,
    /// Weight of entries that are not durable on this node. At the limit a leader refuses proposals, and a follower takes
    /// no entries: they are sent again once its log moves on.
    pub undurable_bytes_max: u64,
    /// Ticks of a stalled log write after which a leader with committed but locally undurable entries refuses proposals.
    pub undurable_ticks_max: u32,
    /// Weight of recent entries kept in memory. Entries that are not durable stay beyond it.
    pub ring_bytes_max: u64,
    /// How reads are confirmed.
    pub read_only: ReadOnly,
    /// Seed of time-outs and of the ids of forwarded reads. It must differ at each start of a node, or an answer to a
    /// read of an earlier life could be taken for one of this life.
    pub seed: u64,
}

impl Config {
    /// etcd's parameters for a tick of 100 ms.
    pub fn new(id: u64) -> Config {
        Config {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            check_quorum: true,
            step_down_on_removal: false,
            forward_proposals: true,
            validate_conf_changes: true,
            apply_undurable: true,
            transfer_on_stall: true,
            gather_commits: false,
            message_bytes_max: 1 << 20,
            applying_bytes_max: 64 << 20,
            inflight_messages_max: 512,
            inflight_bytes_max: 0,
            uncommitted_bytes_max: 0,
            undurable_bytes_max: 64 << 20,
            undurable_ticks_max: 50,
            ring_bytes_max: 64 << 20,
            read_only: ReadOnly::Safe,
            seed: id,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |what| Err(Error::Config(what));
        if self.id == 0 {
            return wrong("the node id must not be 0");
        }
        if self.heartbeat_ticks == 0 {
            return wrong("the heartbeat interval must be at least one tick");
        }
        if self.election_ticks <= self.heartbeat_ticks {
            return wrong("the election timeout must be longer than the heartbeat interval");
        }
        if self.inflight_messages_max == 0 {
            return wrong("at least one append must be allowed under way");
        }
        if self.inflight_bytes_max != 0 && self.inflight_bytes_max < self.message_bytes_max {
            return wrong("the bytes under way must allow for one message");
        }
        if self.read_only == ReadOnly::Lease && !self.check_quorum {
            return wrong("lease reads need CheckQuorum");
        }
        Ok(())
    }
}

/// The durable state from which a node starts.
#[derive(Clone, Debug, Default)]
pub struct Initial {
    /// Term, vote and commit index as last written.
    pub hard_state: HardState,
    /// The configuration as of `applied`.
    pub conf_state: ConfState,
    /// Index and term of the entry before the first one in the log: (0, 0), or the last one compacted.
    pub start: (u64, u64),
    /// Terms of the entries between `start` and the first of `entries`; empty if there are none.
    pub terms: Vec<TermRun>,
    /// The recent tail of the log, all of it durable. It reaches to the end of the log and covers at least what is
    /// not applied.
    pub entries: Vec<Entry>,
    /// What the state machine holds.
    pub applied: u64,
    /// Part of what this node had acknowledged, or a vote that it gave, may be gone; it did neither in a later term than
    /// this one. The node enters the term after it at least, and neither votes nor campaigns nor confirms reads until an
    /// entry of a later term is durable here: see [`Node::is_refetching`].
    pub lost_until: Option<u64>,
}

/// A node can not start, or an input of the embedding is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The configuration contradicts itself.
    Config(&'static str),
    /// The state given at start contradicts itself.
    Initial(&'static str),
    /// A membership change is not possible.
    ConfChange(ConfChangeError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(what) => write!(f, "raft configuration: {what}"),
            Error::Initial(what) => write!(f, "raft state at start: {what}"),
            Error::ConfChange(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<ConfChangeError> for Error {
    fn from(error: ConfChangeError) -> Error {
        Error::ConfChange(error)
    }
}

/// Checks the state given at start, and builds the log from it.
pub(crate) fn open_log(config: &Config, initial: &Initial) -> Result<Log, Error> {
    let wrong = |what| Err(Error::Initial(what));
    let (start, start_term) = initial.start;
    let first = initial
        .entries
        .first()
        .map_or(start + 1, |entry| entry.index());
    if first <= start {
        return wrong("entries begin at or below the start of the log");
    }
    let (mut index, mut term) = (start, start_term);
    for run in &initial.terms {
        if run.first <= index || run.first >= first || run.term <= term {
            return wrong("the terms of older entries are not ascending");
        }
        (index, term) = (run.first, run.term);
    }
    if first > start + 1 && initial.terms.first().map_or(start_term, |run| run.term) == 0 {
        return wrong("the terms of older entries are missing");
    }
    for (entry, index) in initial.entries.iter().zip(first..) {
        if entry.index() != index || entry.term() < term {
            return wrong("entries are not consecutive");
        }
        term = entry.term();
    }
    let mut log = Log::new(
        initial.start,
        &initial.terms,
        initial.entries.clone(),
        config.ring_bytes_max,
    );
    let applied = initial.applied.max(start);
    if applied > log.last() {
        return wrong("the log ends below what was applied: a part of it was lost");
    }
    if applied + 1 < first && applied < log.last() {
        return wrong("entries that are not applied are missing");
    }
    let commit = initial.hard_state.commit().max(applied);
    if commit > log.last() {
        return wrong("the log ends below the commit index: a part of it was lost");
    }
    log.set_applied(applied, commit);
    Ok(log)
}
