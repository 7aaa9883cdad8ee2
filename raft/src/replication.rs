//! The leader: sends appends, heartbeats and snapshots, counts acknowledgements, hands leadership over.

use bytes::Bytes;
use proto::raftpb::{Message, MessageType, Snapshot, SnapshotMetadata};

use crate::message::message;
use crate::node::{Node, Role};
use crate::planted::Fault;
use crate::tracker::ProgressState;

/// Election timeouts between two attempts of a leader with a stalled log to hand leadership over; the first of them is
/// the time that a transfer is given.
const STALL_TRANSFER_TIMEOUTS: u32 = 3;

impl Node {
    /// Messages to this node are being lost: the pipeline to it gives way to a probe.
    pub fn report_unreachable(&mut self, id: u64) {
        if self.role != Role::Leader || id == self.id {
            return;
        }
        if let Some(progress) = self.tracker.get_mut(id) {
            if progress.state == ProgressState::Replicate {
                progress.become_probe();
            }
        }
    }

    /// The transfer of a snapshot to this node has ended. Its acknowledgement may come before or after.
    pub fn report_snapshot(&mut self, id: u64, delivered: bool) {
        if self.role != Role::Leader {
            return;
        }
        if let Some(progress) = self.tracker.get_mut(id) {
            if progress.state == ProgressState::Snapshot {
                if !delivered {
                    progress.pending_snapshot = 0;
                }
                progress.become_probe();
                // The acknowledgement, or the next heartbeat's answer, tells when to go on.
                progress.paused = true;
            }
        }
    }

    /// Asks for leadership to move to `to`: a voter, brought up to date first. It is given one election timeout, during
    /// which proposals are refused. A follower passes the request on.
    pub fn transfer_leader(&mut self, to: u64) {
        match self.role {
            Role::Leader => self.begin_transfer(to),
            Role::Follower if self.leader != 0 && to != 0 => {
                let request = message(MessageType::MsgTransferLeader, to, self.leader);
                self.send(request);
            }
            _ => {}
        }
    }

    fn begin_transfer(&mut self, to: u64) {
        let voter = self.tracker.config.voters.contains(to);
        if !voter || self.transferee == to {
            return;
        }
        self.transferee = 0;
        if to == self.id {
            return;
        }
        self.transferee = to;
        self.election_elapsed = 0;
        let Some(at) = self.tracker.peers.iter().position(|peer| peer.id == to) else {
            return;
        };
        if self.tracker.peers[at].progress.matched == self.log.last() {
            self.send_timeout_now(to);
        } else {
            self.send_append(at, true);
        }
    }

    fn send_timeout_now(&mut self, to: u64) {
        // From here on the target may lead at any moment, whatever the voters have promised.
        self.rounds.lease_broken = true;
        let order = message(MessageType::MsgTimeoutNow, self.id, to);
        self.send(order);
    }

    /// A leader that can not write for half an election timeout gives leadership to the voter that holds most. Proposals
    /// are refused meanwhile, so that one that does not take over is not asked again at once: for two election timeouts
    /// the leader goes on with its followers' disks, and then it asks another one.
    pub(crate) fn hand_over_if_stalled(&mut self) {
        let (asked, not_before) = self.stall_transfer;
        let wanted = self.config.transfer_on_stall && self.is_stalled();
        if !wanted || self.transferee != 0 || self.ticks < not_before {
            return;
        }
        let best = self
            .tracker
            .peers
            .iter()
            .filter(|peer| peer.id != self.id && peer.progress.recent_active)
            .filter(|peer| self.tracker.config.voters.incoming.ids.contains(peer.id))
            .max_by_key(|peer| (peer.id != asked, peer.progress.matched))
            .map(|peer| peer.id);
        if let Some(best) = best {
            let pause = u64::from(STALL_TRANSFER_TIMEOUTS * self.config.election_ticks);
            self.stall_transfer = (best, self.ticks + pause);
            self.begin_transfer(best);
        }
    }

    pub(crate) fn check_quorum(&mut self) {
        if !self.tracker.quorum_active() {
            self.become_follower(self.term, 0);
            return;
        }
        for peer in &mut self.tracker.peers {
            peer.progress.recent_active = peer.id == self.id;
        }
    }

    pub(crate) fn step_leader(&mut self, m: &Message) {
        let from = m.from();
        let Some(at) = self.tracker.peers.iter().position(|peer| peer.id == from) else {
            // A node that was removed still answers for a while.
            return;
        };
        match m.r#type() {
            MessageType::MsgAppResp => {
                self.tracker.peers[at].progress.recent_active = true;
                if m.reject() {
                    self.append_rejected(at, m);
                } else {
                    self.append_acknowledged(at, m);
                }
            }
            MessageType::MsgHeartbeatResp => self.heartbeat_answered(at, m),
            _ => {}
        }
    }

    fn append_rejected(&mut self, at: usize, m: &Message) {
        let hint = if m.log_term() > 0 {
            self.log
                .find_conflict_by_term(m.reject_hint(), m.log_term())
                .0
        } else {
            m.reject_hint()
        };
        let progress = &mut self.tracker.peers[at].progress;
        if progress.reject(m.index(), hint) {
            if progress.state == ProgressState::Replicate {
                progress.become_probe();
            }
            self.send_append(at, true);
        }
    }

    fn append_acknowledged(&mut self, at: usize, m: &Message) {
        let index = m.index();
        if index > self.log.last() {
            return;
        }
        let start = self.log.start();
        let progress = &mut self.tracker.peers[at].progress;
        let was_paused = progress.is_paused();
        let news = progress.acknowledge(index);
        // An answer to the probe speaks of what stands before `next` at least. A follower that only tells an old leader
        // its term speaks of nothing, and its log was not found by that.
        let found = progress.state == ProgressState::Probe
            && progress.matched == index
            && index + 1 >= progress.next;
        if !news && !found {
            return;
        }
        match progress.state {
            ProgressState::Probe => progress.become_replicate(),
            // The log can go on from there, even if the snapshot under way would have ended later.
            ProgressState::Snapshot if progress.matched >= start => progress.become_replicate(),
            ProgressState::Snapshot => {}
            ProgressState::Replicate => progress.inflights.free_to(index),
        }
        let matched = progress.matched;
        let committed = self.maybe_commit();
        let tell = !self.commit_news && self.may_send_commit(at);
        if !committed && (was_paused || tell) {
            self.send_append(at, true);
        }
        while self.send_append(at, false) {}
        let id = self.tracker.peers[at].id;
        if id == self.transferee && matched == self.log.last() {
            self.send_timeout_now(id);
        }
    }

    fn heartbeat_answered(&mut self, at: usize, m: &Message) {
        let last = self.log.last();
        let progress = &mut self.tracker.peers[at].progress;
        progress.recent_active = true;
        if !progress.nudged {
            progress.nudged = true;
            progress.paused = false;
            if progress.matched < last || progress.state == ProgressState::Probe {
                self.send_append(at, true);
            }
        }
        self.note_round_answer(at, m.context());
    }

    /// The own copy counts up to `durable`.
    pub(crate) fn acknowledge_own(&mut self, durable: u64) {
        let news = match self.tracker.get_mut(self.id) {
            Some(own) => own.acknowledge(durable),
            None => false,
        };
        if news {
            self.maybe_commit();
        }
    }

    /// Commits what a quorum has stored, if it is of the own term: entries of earlier terms are committed only by what
    /// follows them (Raft paper, section 5.4.2).
    pub(crate) fn maybe_commit(&mut self) -> bool {
        let index = if self.planted(Fault::IncomingOnly) {
            let matched = |id| self.tracker.get(id).map_or(0, |progress| progress.matched);
            self.tracker.config.voters.incoming.committed(matched)
        } else if self.planted(Fault::CountTwice) {
            self.committed_counting_twice()
        } else {
            self.tracker.committed()
        };
        if index > self.log.last() {
            return false;
        }
        let own_term = self.log.matches(index, self.term) || self.planted(Fault::CommitOldTerm);
        let before = self.log.commit();
        if !own_term || !self.log.commit_to(index) {
            return false;
        }
        if self.config.gather_commits && before >= self.passed_on {
            self.commit_news = self.tracker.peers.len() > 1;
        } else {
            self.broadcast = true;
        }
        self.unpark_reads();
        true
    }

    /// What a majority would have stored if the leader were two of them.
    fn committed_counting_twice(&self) -> u64 {
        let voters = self.tracker.config.to_conf_state().voters;
        let matched = |id: u64| self.tracker.get(id).map_or(0, |progress| progress.matched);
        let mut acks: Vec<u64> = voters.iter().map(|id| matched(*id)).collect();
        acks.push(matched(self.id));
        acks.sort_unstable_by(|a, b| b.cmp(a));
        acks[voters.len() / 2]
    }

    /// Whether the follower could commit more than it was told.
    fn may_send_commit(&self, at: usize) -> bool {
        let progress = &self.tracker.peers[at].progress;
        self.log.commit() > progress.sent_commit && progress.sent_commit < progress.next - 1
    }

    /// Sends what is new to everyone who may be sent to.
    pub(crate) fn broadcast_appends(&mut self) {
        for at in 0..self.tracker.peers.len() {
            if self.tracker.peers[at].id == self.id {
                continue;
            }
            let mut sent = false;
            while self.send_append(at, false) {
                sent = true;
            }
            if !sent && self.may_send_commit(at) {
                self.send_append(at, true);
            }
        }
    }

    /// Sends one append, or a snapshot if the log no longer reaches back that far. Without entries it is sent only if
    /// `even_empty`. Returns whether anything was sent.
    pub(crate) fn send_append(&mut self, at: usize, even_empty: bool) -> bool {
        let progress = &self.tracker.peers[at].progress;
        if progress.is_paused() {
            return false;
        }
        let (to, next, state) = (self.tracker.peers[at].id, progress.next, progress.state);
        let Some(prev_term) = self.log.term(next - 1) else {
            return self.send_snapshot(at);
        };
        let full = state == ProgressState::Replicate && progress.inflights.is_full();
        let on_disk = next < self.log.ring_first() && next <= self.log.last();
        let blind = on_disk && state == ProgressState::Probe;
        if on_disk && !blind && !full {
            self.tracker.peers[at].progress.reading = Some(next);
            self.request_read(next, self.log.ring_first() - 1);
            return false;
        }
        // A probe does not have to carry entries that would have to be read first.
        let (entries, bytes) = if full || on_disk {
            (Vec::new(), 0)
        } else {
            self.log
                .collect(next, self.log.last(), self.config.message_bytes_max)
        };
        if entries.is_empty() && !even_empty && !blind {
            return false;
        }
        self.send_entries(at, to, (next - 1, prev_term), entries, bytes);
        true
    }

    fn send_entries(
        &mut self,
        at: usize,
        to: u64,
        prev: (u64, u64),
        entries: Vec<proto::raftpb::Entry>,
        bytes: u64,
    ) {
        let commit = self.log.commit();
        let count = entries.len() as u64;
        let mut append = message(MessageType::MsgApp, self.id, to);
        append.index = Some(prev.0);
        append.log_term = Some(prev.1);
        append.commit = Some(commit);
        append.entries = entries;
        self.send(append);
        self.tracker.peers[at].progress.sent(count, bytes, commit);
    }

    /// Entries read back from disk go to those who wait for them; if there are none, these need a snapshot.
    pub(crate) fn send_entries_read(&mut self, from: u64, entries: &[proto::raftpb::Entry]) {
        for at in 0..self.tracker.peers.len() {
            let progress = &mut self.tracker.peers[at].progress;
            if progress.reading != Some(from) {
                continue;
            }
            progress.reading = None;
            let (next, to) = (progress.next, self.tracker.peers[at].id);
            let wanted = next == from && !self.tracker.peers[at].progress.is_paused();
            if wanted && entries.is_empty() {
                self.send_snapshot(at);
                continue;
            }
            if let (true, Some(prev_term)) = (wanted, self.log.term(from - 1)) {
                let bytes = entries.iter().map(crate::message::entry_bytes).sum();
                self.send_entries(at, to, (from - 1, prev_term), entries.to_vec(), bytes);
            }
            while self.send_append(at, false) {}
        }
    }

    fn send_snapshot(&mut self, at: usize) -> bool {
        let index = self.log.applied();
        let progress = &self.tracker.peers[at].progress;
        let behind = progress.matched < index;
        // A node that does not answer would only make work; and index and configuration must belong together.
        if !progress.recent_active || !behind || index < self.snapshot_after {
            return false;
        }
        let Some(term) = self.log.term(index) else {
            return false;
        };
        let to = self.tracker.peers[at].id;
        self.tracker.peers[at].progress.become_snapshot(index);
        let mut snapshot = message(MessageType::MsgSnap, self.id, to);
        snapshot.snapshot = Some(Snapshot {
            data: None,
            metadata: Some(SnapshotMetadata {
                conf_state: Some(self.conf_state()),
                index: Some(index),
                term: Some(term),
            }),
        });
        self.send(snapshot);
        true
    }

    /// The regular heartbeat. It carries the newest open read round, so that a lost question is asked again.
    pub(crate) fn broadcast_heartbeat_tick(&mut self) {
        for peer in &mut self.tracker.peers {
            peer.progress.nudged = false;
        }
        if self.reads_by_lease() {
            self.open_lease_round();
        }
        let context = self.rounds.newest();
        for at in 0..self.tracker.peers.len() {
            self.send_heartbeat(at, context.clone());
        }
    }

    /// A heartbeat proves nothing about the log, so it must not commit beyond what the follower is known to hold.
    pub(crate) fn send_heartbeat(&mut self, at: usize, context: Option<Bytes>) {
        let peer = &self.tracker.peers[at];
        if peer.id == self.id {
            return;
        }
        let mut heartbeat = message(MessageType::MsgHeartbeat, self.id, peer.id);
        heartbeat.commit = Some(peer.progress.matched.min(self.log.commit()));
        heartbeat.context = context;
        self.send(heartbeat);
    }
}

#[cfg(test)]
mod tests;
