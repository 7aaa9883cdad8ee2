//! Proposals: what a leader takes into its log, and what a follower passes on.

use std::fmt;

use bytes::Bytes;
use proto::raftpb::{ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType};

use crate::confchange::{is_leave, ConfChange};
use crate::config::Error;
use crate::message::{entry, entry_bytes, message, payload_bytes};
use crate::node::{Node, Role, StepError};
use crate::planted::Fault;

/// Where a proposal went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Term of the entry; 0 if it was passed on to the leader.
    pub term: u64,
    /// Index of the entry; 0 if it was passed on to the leader.
    pub index: u64,
    /// A configuration change that is not possible now: an empty entry takes its place.
    pub refused: bool,
}

/// A proposal that was not taken. Nothing of it is in any log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// No leader is known, or this node may neither take nor pass on proposals.
    Dropped,
    /// Leadership is being handed over.
    Transferring,
    /// The limit of uncommitted bytes is reached.
    UncommittedFull,
    /// As much waits for the own log's writes as may, or entries are committed and have not been durable here for long.
    WritesStalled,
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProposeError::Dropped => "raft proposal dropped: no leader",
            ProposeError::Transferring => "raft proposal dropped: leadership is being transferred",
            ProposeError::UncommittedFull => "raft proposal dropped: too many uncommitted bytes",
            ProposeError::WritesStalled => "raft proposal dropped: too much waits for the own log",
        })
    }
}

impl std::error::Error for ProposeError {}

impl Node {
    /// Proposes a normal entry.
    pub fn propose(&mut self, data: Bytes) -> Result<Proposed, ProposeError> {
        if self.role != Role::Leader {
            self.forward(entry(EntryType::EntryNormal, 0, 0, Some(data)))?;
            return Ok(FORWARDED);
        }
        self.may_append(data.len() as u64)?;
        Ok(self.append_own(EntryType::EntryNormal, Some(data)))
    }

    /// Proposes a membership change.
    pub fn propose_conf_change(
        &mut self,
        change: impl Into<ConfChange>,
    ) -> Result<Proposed, ProposeError> {
        let change = change.into();
        let (kind, data) = change.encode();
        if self.role != Role::Leader {
            self.forward(entry(kind, 0, 0, Some(data)))?;
            return Ok(FORWARDED);
        }
        self.may_append(data.len() as u64)?;
        Ok(self.append_conf_change(&change, kind, data))
    }

    /// Whether the leader takes an entry of this payload.
    fn may_append(&self, payload: u64) -> Result<(), ProposeError> {
        if !self.tracker.config.contains(self.id) {
            return Err(ProposeError::Dropped);
        }
        if self.transferee != 0 {
            return Err(ProposeError::Transferring);
        }
        let limit = self.config.uncommitted_bytes_max;
        // One proposal may cross the limit when nothing else waits, or a big one would never get in.
        let over = self.uncommitted_bytes > 0 && self.uncommitted_bytes + payload > limit;
        if limit != 0 && payload > 0 && over {
            return Err(ProposeError::UncommittedFull);
        }
        let behind = self.log.commit() > self.log.durable();
        let stalled = behind && self.stalled_ticks() >= u64::from(self.config.undurable_ticks_max);
        if stalled || (payload > 0 && self.would_exceed_undurable(payload)) {
            return Err(ProposeError::WritesStalled);
        }
        Ok(())
    }

    /// Whether so many bytes more would wait for the own log than may. One message may cross the bound when nothing
    /// else waits.
    pub(crate) fn would_exceed_undurable(&self, bytes: u64) -> bool {
        let waiting = self.log.undurable_bytes();
        waiting > 0 && waiting + bytes > self.config.undurable_bytes_max
    }

    pub(crate) fn append_own(&mut self, kind: EntryType, data: Option<Bytes>) -> Proposed {
        let index = self.log.last() + 1;
        let own = entry(kind, self.term, index, data);
        if self.config.uncommitted_bytes_max != 0 {
            self.uncommitted_bytes += payload_bytes(&own);
        }
        self.log.push(own);
        if self.planted(Fault::CountUndurable) {
            self.acknowledge_own(index);
        }
        self.broadcast = true;
        Proposed {
            term: self.term,
            index,
            refused: false,
        }
    }

    fn append_conf_change(
        &mut self,
        change: &ConfChange,
        kind: EntryType,
        data: Bytes,
    ) -> Proposed {
        let change = change.to_v2();
        let joint = self.tracker.config.is_joint();
        let pending =
            self.pending_conf_index > self.log.applied() && !self.planted(Fault::PileUpConfChanges);
        let refused = pending || joint != is_leave(&change);
        if refused && self.config.validate_conf_changes {
            let empty = self.append_own(EntryType::EntryNormal, None);
            return Proposed {
                refused: true,
                ..empty
            };
        }
        let proposed = self.append_own(kind, Some(data));
        self.pending_conf_index = proposed.index;
        proposed
    }

    /// Proposes the end of a joint phase that ends by itself. Called again and again, since the entry may be lost with
    /// a leader, or be held back by a transfer.
    pub(crate) fn leave_joint_if_due(&mut self) {
        let due = self.role == Role::Leader
            && self.tracker.config.auto_leave
            && self.log.applied() >= self.pending_conf_index
            && self.transferee == 0;
        if due {
            let left = self.append_own(EntryType::EntryConfChangeV2, None);
            self.pending_conf_index = left.index;
        }
    }

    /// Passes an entry on to the leader, together with others that wait to be sent.
    fn forward(&mut self, entry: Entry) -> Result<(), ProposeError> {
        if self.leader == 0 || self.role != Role::Follower || !self.config.forward_proposals {
            return Err(ProposeError::Dropped);
        }
        let leader = self.leader;
        if let Some(waiting) = self.messages.last_mut() {
            let same = waiting.r#type() == MessageType::MsgProp
                && waiting.to() == leader
                && waiting.from() == self.id;
            let weight: u64 = waiting
                .entries
                .iter()
                .map(entry_bytes)
                .take(FORWARD_ENTRIES_MAX)
                .sum();
            if same
                && waiting.entries.len() < FORWARD_ENTRIES_MAX
                && weight + entry_bytes(&entry) <= self.config.message_bytes_max
            {
                waiting.entries.push(entry);
                return Ok(());
            }
        }
        let mut proposal = message(MessageType::MsgProp, self.id, leader);
        proposal.entries.push(entry);
        self.send(proposal);
        Ok(())
    }

    /// A proposal that another node passed on.
    pub(crate) fn handle_proposal(&mut self, m: Message) -> Result<(), StepError> {
        if self.role != Role::Leader {
            if self.leader == 0 || self.role != Role::Follower || !self.config.forward_proposals {
                return Err(StepError::ProposalDropped);
            }
            let mut proposal = message(MessageType::MsgProp, m.from(), self.leader);
            proposal.entries = m.entries;
            self.send(proposal);
            return Ok(());
        }
        let mut changes = Vec::new();
        for entry in &m.entries {
            let kind = entry.r#type();
            changes.push(if kind == EntryType::EntryNormal {
                None
            } else {
                let change = ConfChange::decode(kind, entry.data());
                Some(change.map_err(|_| StepError::Malformed("configuration change"))?)
            });
        }
        // All of it or nothing: the sender can not tell which part was dropped.
        let payload = m.entries.iter().map(payload_bytes).sum();
        self.may_append(payload)
            .map_err(|_| StepError::ProposalDropped)?;
        for (entry, change) in m.entries.into_iter().zip(changes) {
            match change {
                None => {
                    self.append_own(EntryType::EntryNormal, entry.data);
                }
                Some(change) => {
                    let kind = entry.r#type();
                    self.append_conf_change(&change, kind, entry.data.unwrap_or_default());
                }
            }
        }
        self.passed_on = self.log.last();
        Ok(())
    }

    /// A configuration change is being applied: to be called for each one in the order of the log, before
    /// [`Node::applied`] covers it. Returns the configuration that is now in force. A change that the embedding has
    /// rejected is not to be given at all. While a snapshot waits to be installed, the configuration in force is already
    /// the snapshot's; the answer is the one that belongs to the entry.
    pub fn apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, Error> {
        if self.installing.is_some() {
            self.overtaken = self.overtaken.apply(change)?;
            return Ok(self.overtaken.to_conf_state());
        }
        let config = self.tracker.config.apply(change)?;
        self.snapshot_after = self.log.handed();
        self.switch_config(config);
        Ok(self.conf_state())
    }

    fn switch_config(&mut self, config: crate::confchange::Configuration) {
        self.tracker.switch(config, self.log.last());
        let config = &self.tracker.config;
        let out = !config.contains(self.id) || config.learners.contains(self.id);
        if self.role != Role::Leader {
            return;
        }
        if out {
            if self.config.step_down_on_removal {
                // The followers hear of the latest entries once more before they are left alone.
                self.broadcast_appends();
                self.become_follower(self.term, 0);
            } else {
                self.broadcast = true;
            }
            return;
        }
        if let Some(own) = self.tracker.get_mut(self.id) {
            own.recent_active = true;
            own.acknowledge(self.log.durable());
        }
        // A smaller quorum may have been there already.
        self.maybe_commit();
        self.release_reads();
        self.broadcast = true;
        if self.transferee != 0 && !self.tracker.config.voters.contains(self.transferee) {
            self.transferee = 0;
        }
    }

    /// A new leader takes stock of the tail that it has inherited.
    pub(crate) fn count_uncommitted_tail(&mut self) {
        if self.config.uncommitted_bytes_max != 0 {
            self.uncommitted_bytes = self.log.unhanded_payload_bytes();
        }
    }

    pub(crate) fn stop_counting_uncommitted(&mut self) {
        self.uncommitted_bytes = 0;
        for part in &mut self.applying {
            part.uncommitted = 0;
        }
    }
}

/// Entries that one forwarded message gathers.
const FORWARD_ENTRIES_MAX: usize = 256;

/// The proposal went to the leader.
const FORWARDED: Proposed = Proposed {
    term: 0,
    index: 0,
    refused: false,
};
