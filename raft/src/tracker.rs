//! What the leader knows of each follower, and how much it may send.
//!
//! A follower is in one of three states. *Probe*: its log is not known yet, one append at a time finds the point where
//! it agrees. *Replicate*: appends are pipelined up to a window of messages and bytes. *Snapshot*: nothing is sent until
//! the snapshot is acknowledged or reported failed.

use std::collections::VecDeque;

use crate::confchange::Configuration;

/// Appends under way to one follower: the last index and the weight of each, oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Inflights {
    window: VecDeque<(u64, u64)>,
    bytes: u64,
    messages_max: usize,
    bytes_max: u64,
}

impl Inflights {
    pub(crate) fn new(messages_max: usize, bytes_max: u64) -> Inflights {
        Inflights {
            window: VecDeque::new(),
            bytes: 0,
            messages_max,
            bytes_max,
        }
    }

    /// Notes an append that ends at `last`. One append may cross the limit of bytes, none may follow it.
    pub(crate) fn add(&mut self, last: u64, bytes: u64) {
        debug_assert!(!self.is_full(), "the window was checked before sending");
        self.window.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Frees what an acknowledgement of `index` covers.
    pub(crate) fn free_to(&mut self, index: u64) {
        while let Some((last, bytes)) = self.window.front() {
            if *last > index {
                break;
            }
            self.bytes -= bytes;
            self.window.pop_front();
        }
    }

    /// Whether another append has to wait. No limit of bytes is 0.
    pub(crate) fn is_full(&self) -> bool {
        self.window.len() >= self.messages_max
            || (self.bytes_max != 0 && self.bytes >= self.bytes_max)
    }

    pub(crate) fn count(&self) -> usize {
        self.window.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.window.clear();
        self.bytes = 0;
    }
}

/// How a follower is being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressState {
    /// One append at a time until the logs agree.
    Probe,
    /// Pipelined appends.
    Replicate,
    /// Waits for a snapshot to arrive.
    Snapshot,
}

/// What the leader knows of one follower.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// Highest index known to be stored there.
    pub(crate) matched: u64,
    /// Next index to send.
    pub(crate) next: u64,
    /// Highest commit index that was sent; what is not sent yet needs an append even without entries.
    pub(crate) sent_commit: u64,
    pub(crate) state: ProgressState,
    /// Index of the snapshot under way, 0 if none.
    pub(crate) pending_snapshot: u64,
    /// Heard from since the last quorum check.
    pub(crate) recent_active: bool,
    /// No append until an answer comes, or the answer to a heartbeat.
    pub(crate) paused: bool,
    /// A heartbeat answer has already caused an append in this heartbeat interval. Answers to read rounds come much
    /// more often than that, and must not repeat a probe each time.
    pub(crate) nudged: bool,
    /// Entries that have left memory are being read for this follower, from this index on.
    pub(crate) reading: Option<u64>,
    /// Highest read round that it has answered.
    pub(crate) acked_round: u64,
    pub(crate) inflights: Inflights,
}

impl Progress {
    fn new(next: u64, inflights: Inflights) -> Progress {
        Progress {
            matched: 0,
            next: next.max(1),
            sent_commit: 0,
            state: ProgressState::Probe,
            pending_snapshot: 0,
            // A node that just joined counts as active for one interval, so that adding it costs no quorum at once.
            recent_active: true,
            paused: false,
            nudged: false,
            reading: None,
            acked_round: 0,
            inflights,
        }
    }

    /// Start of a new term.
    pub(crate) fn reset(&mut self, next: u64, matched: u64) {
        self.enter(ProgressState::Probe);
        self.matched = matched;
        self.next = next;
        self.sent_commit = 0;
        self.recent_active = false;
        self.nudged = false;
        self.acked_round = 0;
    }

    fn enter(&mut self, state: ProgressState) {
        self.state = state;
        self.paused = false;
        self.pending_snapshot = 0;
        self.reading = None;
        self.inflights.clear();
    }

    pub(crate) fn become_probe(&mut self) {
        // A snapshot that was delivered lets the probe start behind it, even before it is acknowledged.
        let next = (self.matched + 1).max(self.pending_snapshot + 1);
        self.enter(ProgressState::Probe);
        self.next = next;
        self.sent_commit = self.sent_commit.min(next - 1);
    }

    pub(crate) fn become_replicate(&mut self) {
        self.enter(ProgressState::Replicate);
        self.next = self.matched + 1;
    }

    pub(crate) fn become_snapshot(&mut self, index: u64) {
        self.enter(ProgressState::Snapshot);
        self.pending_snapshot = index;
        self.next = index + 1;
        self.sent_commit = index;
    }

    /// Whether nothing may be sent now.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused || self.reading.is_some() || self.state == ProgressState::Snapshot
    }

    /// Notes an append with `count` entries that was just sent.
    pub(crate) fn sent(&mut self, count: u64, bytes: u64, commit: u64) {
        match self.state {
            ProgressState::Replicate => {
                if count > 0 {
                    self.next += count;
                    self.inflights.add(self.next - 1, bytes);
                }
                self.paused = self.inflights.is_full();
            }
            ProgressState::Probe => self.paused = true,
            ProgressState::Snapshot => {
                debug_assert!(false, "no append while a snapshot is under way")
            }
        }
        self.sent_commit = self.sent_commit.max(commit);
    }

    /// An acknowledgement of `index`; false if it says nothing new.
    pub(crate) fn acknowledge(&mut self, index: u64) -> bool {
        if index <= self.matched {
            return false;
        }
        self.matched = index;
        self.next = self.next.max(index + 1);
        self.paused = false;
        true
    }

    /// A rejection of an append behind `rejected`; `hint` is the best place to go on. False if it is outdated.
    pub(crate) fn reject(&mut self, rejected: u64, hint: u64) -> bool {
        if self.state == ProgressState::Replicate {
            if rejected <= self.matched {
                return false;
            }
            self.next = self.matched + 1;
        } else {
            if self.next - 1 != rejected {
                return false;
            }
            self.next = rejected.min(hint + 1).max(self.matched + 1);
        }
        self.paused = false;
        self.reading = None;
        self.sent_commit = self.sent_commit.min(self.next - 1);
        true
    }
}

/// A follower, or the node itself.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) progress: Progress,
}

/// The configuration and the progress of each of its members.
#[derive(Clone, Debug)]
pub(crate) struct Tracker {
    pub(crate) config: Configuration,
    /// Ascending by id. Few, so that a search is a walk.
    pub(crate) peers: Vec<Peer>,
    /// Answers to the current election.
    pub(crate) votes: Vec<(u64, bool)>,
    inflight_messages_max: usize,
    inflight_bytes_max: u64,
}

impl Tracker {
    pub(crate) fn new(inflight_messages_max: usize, inflight_bytes_max: u64) -> Tracker {
        Tracker {
            config: Configuration::default(),
            peers: Vec::new(),
            votes: Vec::new(),
            inflight_messages_max,
            inflight_bytes_max,
        }
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Progress> {
        self.peers
            .iter()
            .find(|peer| peer.id == id)
            .map(|peer| &peer.progress)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Progress> {
        self.peers
            .iter_mut()
            .find(|peer| peer.id == id)
            .map(|peer| &mut peer.progress)
    }

    /// Takes over a configuration: members that stay keep their progress, new ones start as a probe at `last`.
    pub(crate) fn switch(&mut self, config: Configuration, last: u64) {
        let members = config.members();
        self.peers.retain(|peer| members.contains(peer.id));
        for id in members.as_slice() {
            if self.get(*id).is_none() {
                let inflights = Inflights::new(self.inflight_messages_max, self.inflight_bytes_max);
                self.peers.push(Peer {
                    id: *id,
                    progress: Progress::new(last, inflights),
                });
            }
        }
        self.peers.sort_unstable_by_key(|peer| peer.id);
        self.config = config;
    }

    /// The highest index that a quorum has stored.
    pub(crate) fn committed(&self) -> u64 {
        self.config
            .voters
            .committed(|id| self.get(id).map_or(0, |progress| progress.matched))
    }

    /// The highest read round that a quorum has answered.
    pub(crate) fn confirmed_round(&self) -> u64 {
        self.config
            .voters
            .committed(|id| self.get(id).map_or(0, |progress| progress.acked_round))
    }

    /// Whether a quorum was heard from since the last check.
    pub(crate) fn quorum_active(&self) -> bool {
        let active = |id| Some(self.get(id).is_some_and(|progress| progress.recent_active));
        self.config.voters.vote_result(active) == crate::quorum::VoteResult::Won
    }

    /// Notes a vote; the first answer of a node counts.
    pub(crate) fn record_vote(&mut self, id: u64, granted: bool) {
        if !self.votes.iter().any(|(voter, _)| *voter == id) {
            self.votes.push((id, granted));
        }
    }

    pub(crate) fn vote_result(&self) -> crate::quorum::VoteResult {
        self.config.voters.vote_result(|id| {
            self.votes
                .iter()
                .find(|(voter, _)| *voter == id)
                .map(|(_, granted)| *granted)
        })
    }
}

#[cfg(test)]
mod tests;
