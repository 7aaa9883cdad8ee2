//! The follower: takes entries, heartbeats and snapshots from the leader.

use proto::raftpb::{Entry, Message, MessageType};

use crate::confchange::Configuration;
use crate::log::Conflict;
use crate::message::{entry_bytes, message};
use crate::node::{Node, Role, StepError};
use crate::planted::Fault;

impl Node {
    pub(crate) fn step_follower(&mut self, m: Message) -> Result<(), StepError> {
        match m.r#type() {
            MessageType::MsgApp => {
                self.follow(&m);
                self.handle_append(m)
            }
            MessageType::MsgHeartbeat => {
                self.follow(&m);
                self.handle_heartbeat(&m)
            }
            MessageType::MsgSnap => {
                self.follow(&m);
                self.handle_snapshot(m);
                Ok(())
            }
            MessageType::MsgTimeoutNow => {
                self.handle_timeout_now();
                Ok(())
            }
            MessageType::MsgReadIndexResp => {
                self.handle_read_answer(&m);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn follow(&mut self, m: &Message) {
        self.election_elapsed = 0;
        self.leader = m.from();
        self.leader_heard();
    }

    fn handle_append(&mut self, mut m: Message) -> Result<(), StepError> {
        let commit = self.log.commit();
        if m.index() < commit {
            if self.lost.is_none() {
                self.log
                    .check_committed((m.index(), m.log_term()), &m.entries)?;
            }
            let known = (commit - m.index()) as usize;
            if self.lost.is_some() || m.entries.len() <= known {
                // An old message: what it could prove is known to be stored here already.
                self.acknowledge(m.from(), commit);
                return Ok(());
            }
            // A leader that has not heard how far this log goes, because its answer waits for a slow disk, goes on
            // sending from there; what is new is behind the commit index.
            m.entries.drain(..known);
            m.index = Some(commit);
            m.log_term = self.log.term(commit);
        }
        let unchecked = self.planted(Fault::AppendUnchecked) && m.index() <= self.log.last();
        if !self.log.matches(m.index(), m.log_term()) && !unchecked {
            self.reject_append(&m);
            return Ok(());
        }
        if self.has_no_room(&m.entries) {
            // A stalled disk must not gather entries without end. The leader finds out what is missing with the next
            // append or heartbeat.
            m.entries.clear();
        }
        let proved = m.index() + m.entries.len() as u64;
        let replaced = self.log.append(std::mem::take(&mut m.entries))?;
        if let Some(first) = replaced {
            self.cut_writes(first);
        }
        let commit = if self.planted(Fault::CommitUnproved) {
            m.commit().min(self.log.last())
        } else {
            m.commit().min(proved)
        };
        self.log.commit_to(commit);
        self.acknowledge(m.from(), proved);
        Ok(())
    }

    fn has_no_room(&self, entries: &[Entry]) -> bool {
        !entries.is_empty() && self.would_exceed_undurable(entries.iter().map(entry_bytes).sum())
    }

    /// Tells the leader, once it is durable, that the log agrees with its own up to `index`.
    fn acknowledge(&mut self, leader: u64, index: u64) {
        if !self.counts() {
            return;
        }
        let mut answer = message(MessageType::MsgAppResp, self.id, leader);
        answer.index = Some(index);
        if self.planted(Fault::AckUndurable) {
            self.send(answer);
            return;
        }
        self.send_when_durable(answer);
    }

    /// Whether what this node says may be taken for the word of a voter, or is not counted anyhow.
    fn counts(&self) -> bool {
        self.lost.is_none() || self.tracker.config.learners.contains(self.id)
    }

    /// Names the best place to go on: the last entry here that can be in a log which ends with the leader's term there.
    fn reject_append(&mut self, m: &Message) {
        let hint = m.index().min(self.log.last());
        let (hint, term) = self.log.find_conflict_by_term(hint, m.log_term());
        let mut answer = message(MessageType::MsgAppResp, self.id, m.from());
        answer.index = Some(m.index());
        answer.reject = Some(true);
        answer.reject_hint = Some(hint);
        answer.log_term = Some(term);
        self.send(answer);
    }

    fn handle_heartbeat(&mut self, m: &Message) -> Result<(), StepError> {
        // A node that knows that it lost entries takes no commit index on the strength of what it once acknowledged: what
        // is left may even be older than what stood there.
        if self.lost.is_none() {
            if m.commit() > self.log.last() && !self.planted(Fault::HeartbeatTrusted) {
                return Err(StepError::LogLost {
                    commit: m.commit(),
                    last: self.log.last(),
                });
            }
            self.log.commit_to(m.commit());
        }
        let mut answer = message(MessageType::MsgHeartbeatResp, self.id, m.from());
        // Byte for byte: members of other versions put other things there. It confirms that no later leader is known,
        // which a node that lost part of its log can not tell.
        answer.context = m.context.clone().filter(|_| self.counts());
        self.send(answer);
        Ok(())
    }

    fn handle_snapshot(&mut self, mut m: Message) {
        let Some(snapshot) = m.snapshot.take() else {
            return;
        };
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        let (index, term) = (metadata.index(), metadata.term());
        if index <= self.log.commit() {
            self.acknowledge(m.from(), self.log.commit());
            return;
        }
        let config = metadata
            .conf_state
            .as_ref()
            .map(Configuration::from_conf_state);
        let config = match config {
            Some(Ok(config)) if config.contains(self.id) => config,
            // Not meant for this node, or nonsense: nothing changes.
            _ => return,
        };
        if self.log.matches(index, term) {
            // The log already holds everything that is in it.
            self.log.commit_to(index);
            self.acknowledge(m.from(), self.log.commit());
            return;
        }
        self.cut_writes(self.log.commit() + 1);
        self.log.restore(index, term);
        self.apply_page.clear();
        self.apply_reading = None;
        self.applying.clear();
        self.applying_bytes = 0;
        if self.installing.replace((snapshot, false)).is_none() {
            self.overtaken = self.tracker.config.clone();
        }
        self.tracker.switch(config, index);
        self.acknowledge(m.from(), index);
    }

    /// The snapshot at `index` is durable, and the state machine is that snapshot.
    pub(crate) fn snapshot_installed(&mut self, index: u64) {
        let current = self.installing.as_ref().is_some_and(|(snapshot, told)| {
            let metadata = snapshot.metadata.as_ref();
            *told && metadata.is_some_and(|metadata| metadata.index() == index)
        });
        if current {
            self.installing = None;
            self.log.installed(index);
        }
    }

    /// Passes a transfer request on, or acts on it. The message names the target as its sender.
    pub(crate) fn handle_transfer_request(&mut self, m: &Message) {
        match self.role {
            Role::Leader => self.transfer_leader(m.from()),
            Role::Follower if self.leader != 0 => {
                let request = message(MessageType::MsgTransferLeader, m.from(), self.leader);
                self.send(request);
            }
            _ => {}
        }
    }
}

impl From<Conflict> for StepError {
    fn from(conflict: Conflict) -> StepError {
        StepError::CommittedConflict {
            index: conflict.index,
            own_term: conflict.own_term,
            sent_term: conflict.sent_term,
        }
    }
}
