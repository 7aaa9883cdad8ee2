//! Elections: roles, votes, PreVote, and the target's side of a leadership transfer.

use bytes::Bytes;
use proto::raftpb::{EntryType, Message, MessageType};

use crate::message::{entry, message, CAMPAIGN_TRANSFER};
use crate::node::{Node, Role};
use crate::quorum::VoteResult;
use crate::ready::Gated;

/// A node that should not lead stands for election after all when nobody has led for this many election timeouts.
const PASSIVE_ELECTION_TIMEOUTS: u32 = 20;

/// Why a node stands for election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Campaign {
    /// It asks first whether it could win.
    Pre,
    /// It raises the term.
    Election,
    /// The leader told it to.
    Transfer,
}

impl Node {
    /// Stands for election now, with a PreVote round if that is configured. No effect on a leader, on a node that is
    /// not a voter, or while a committed configuration change is not applied.
    pub fn campaign(&mut self) {
        self.stand(if self.config.pre_vote {
            Campaign::Pre
        } else {
            Campaign::Election
        });
    }

    /// Drops the leader without touching term, vote or timer, so that an election is not held back by it. Refused
    /// (false) for a leader, without a leader, and with lease reads, whose promise it would break.
    pub fn forget_leader(&mut self) -> bool {
        if self.reads_by_lease() || self.role != Role::Follower || self.leader == 0 {
            return false;
        }
        self.leader = 0;
        self.fail_forwarded_reads();
        true
    }

    /// Whether this node leaves leading to others: it still votes, but neither campaigns nor takes over. If nobody
    /// leads for twenty election timeouts it stands all the same.
    pub fn set_passive(&mut self, passive: bool) {
        self.passive = passive;
    }

    /// The drawn election timeout, for tests that need a certain one. The next change of role or term draws anew.
    #[doc(hidden)]
    pub fn set_election_timeout(&mut self, ticks: u32) {
        self.election_timeout = ticks;
    }

    /// The drawn election timeout.
    #[doc(hidden)]
    pub fn election_timeout(&self) -> u32 {
        self.election_timeout
    }

    pub(crate) fn tick_election(&mut self) {
        self.election_elapsed = self.election_elapsed.saturating_add(1);
        let timeout = if self.passive {
            self.election_timeout
                .saturating_mul(PASSIVE_ELECTION_TIMEOUTS)
        } else {
            self.election_timeout
        };
        if self.is_promotable() && self.election_elapsed >= timeout {
            self.election_elapsed = 0;
            self.campaign();
        }
    }

    pub(crate) fn draw_election_timeout(&mut self) {
        let spread = u64::from(self.config.election_ticks);
        self.election_timeout = self.config.election_ticks + self.random.below(spread) as u32;
    }

    fn stand(&mut self, campaign: Campaign) {
        if self.role == Role::Leader || !self.is_promotable() || self.lost.is_some() {
            return;
        }
        if self.is_stalled() && !self.tracker.config.voters.is_only(self.id) {
            // Its own vote would not become durable: a term that it can not even ask for would only depose a leader.
            return;
        }
        let unsure = self.log.has_unapplied_conf_change();
        if unsure && !self.planted(crate::planted::Fault::CampaignUnapplied) {
            // It does not know yet whose votes it needs.
            return;
        }
        self.begin(campaign);
    }

    fn begin(&mut self, campaign: Campaign) {
        let (kind, term) = if campaign == Campaign::Pre {
            self.become_pre_candidate();
            (MessageType::MsgPreVote, self.term + 1)
        } else {
            self.become_candidate();
            (MessageType::MsgVote, self.term)
        };
        let voters = self.tracker.config.members();
        for id in voters.as_slice() {
            if *id == self.id || !self.tracker.config.voters.contains(*id) {
                continue;
            }
            let mut request = message(kind, self.id, *id);
            request.term = Some(term);
            request.index = Some(self.log.last());
            request.log_term = Some(self.log.last_term());
            if campaign == Campaign::Transfer {
                request.context = Some(Bytes::from_static(CAMPAIGN_TRANSFER));
            }
            if campaign == Campaign::Pre {
                self.send(request);
            } else {
                self.send_when_durable(request);
            }
        }
        if campaign == Campaign::Pre {
            self.tracker.record_vote(self.id, true);
            self.count_votes();
        } else {
            self.self_vote = Some(self.gate());
        }
    }

    /// The write that held the own vote is durable.
    pub(crate) fn self_vote_durable(&mut self) {
        if self.self_vote.is_some_and(|seq| seq <= self.persisted_seq) {
            self.self_vote = None;
            if self.role == Role::Candidate {
                self.tracker.record_vote(self.id, true);
                self.count_votes();
            }
        }
    }

    fn count_votes(&mut self) {
        match (self.tracker.vote_result(), self.role) {
            (VoteResult::Won, Role::PreCandidate) => self.begin(Campaign::Election),
            (VoteResult::Won, Role::Candidate) => self.become_leader(),
            // Same term, and for a candidate the vote for itself stays.
            (VoteResult::Lost, _) => self.become_follower(self.term, 0),
            _ => {}
        }
    }

    /// Starts the bookkeeping of a role or term anew.
    fn reset(&mut self, term: u64) {
        if self.term != term {
            self.term = term;
            self.vote = 0;
        }
        self.leader = 0;
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        self.draw_election_timeout();
        self.transferee = 0;
        self.self_vote = None;
        self.pending_conf_index = 0;
        self.stall_transfer = (0, 0);
        self.broadcast = false;
        self.commit_news = false;
        self.passed_on = 0;
        self.tracker.votes.clear();
        let next = self.log.last() + 1;
        for peer in &mut self.tracker.peers {
            let own = peer.id == self.id;
            peer.progress
                .reset(next, if own { self.log.durable() } else { 0 });
            peer.progress.recent_active = own;
        }
        self.stop_counting_uncommitted();
        self.fail_reads();
        // Older messages speak of a state that is over.
        self.gated.retain(|waiting| waiting.message.term() >= term);
    }

    pub(crate) fn become_follower(&mut self, term: u64, leader: u64) {
        self.reset(term);
        self.enter_role(Role::Follower);
        self.leader = leader;
        self.leader_heard();
    }

    fn become_pre_candidate(&mut self) {
        assert_ne!(self.role, Role::Leader, "a leader does not campaign");
        // Term and vote stay: nothing has been decided.
        let (term, vote) = (self.term, self.vote);
        self.reset(term);
        debug_assert_eq!(vote, self.vote);
        self.enter_role(Role::PreCandidate);
    }

    fn become_candidate(&mut self) {
        assert_ne!(self.role, Role::Leader, "a leader does not campaign");
        self.reset(self.term + 1);
        self.vote = self.id;
        self.enter_role(Role::Candidate);
    }

    fn become_leader(&mut self) {
        assert_ne!(self.role, Role::Follower, "only a candidate can win");
        self.reset(self.term);
        self.enter_role(Role::Leader);
        self.leader = self.id;
        self.failover.cancel();
        if let Some(own) = self.tracker.get_mut(self.id) {
            own.become_replicate();
        }
        // An older change may be among the entries: nothing is known of it before all of them are applied.
        self.pending_conf_index = self.log.last();
        self.count_uncommitted_tail();
        let empty = entry(EntryType::EntryNormal, self.term, self.log.last() + 1, None);
        self.log.push(empty);
        self.broadcast = true;
    }

    pub(crate) fn handle_vote_request(&mut self, m: &Message) {
        if self.lost.is_some() {
            // Its log, and even its vote, may be less than what it once answered.
            return;
        }
        let pre = m.r#type() == MessageType::MsgPreVote;
        let free = self.vote == m.from()
            || (self.vote == 0 && self.leader == 0)
            || (pre && m.term() > self.term);
        let free = free || self.planted(crate::planted::Fault::VoteTwice);
        let granted = free && self.log.is_up_to_date(m.index(), m.log_term());
        let kind = if pre {
            MessageType::MsgPreVoteResp
        } else {
            MessageType::MsgVoteResp
        };
        let mut answer = message(kind, self.id, m.from());
        if !granted {
            answer.reject = Some(true);
            self.send(answer);
            if pre && free {
                self.stand_instead();
            }
        } else if pre {
            // The term asked for, not the own one: else the candidate would take it for an old answer.
            answer.term = Some(m.term());
            self.send(answer);
        } else {
            self.election_elapsed = 0;
            self.vote = m.from();
            // To stand now would only depose whoever is about to lead.
            self.failover.cancel();
            self.send_when_durable(answer);
        }
    }

    /// An answer to an election, or a leader that makes it pointless.
    pub(crate) fn step_candidate(&mut self, m: Message) -> Result<(), crate::StepError> {
        match m.r#type() {
            MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgSnap => {
                self.become_follower(m.term(), m.from());
                self.step_follower(m)
            }
            MessageType::MsgPreVoteResp if self.role == Role::PreCandidate => {
                self.note_vote(&m);
                Ok(())
            }
            MessageType::MsgVoteResp if self.role == Role::Candidate => {
                self.note_vote(&m);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn note_vote(&mut self, m: &Message) {
        let pre = self.role == Role::PreCandidate;
        if pre && !m.reject() && m.term() != self.term + 1 {
            // Granted for a term that has begun in the meantime.
            return;
        }
        self.tracker.record_vote(m.from(), !m.reject());
        self.count_votes();
    }

    /// The leader wants this node to take over: no PreVote, and the voters' leases do not count.
    pub(crate) fn handle_timeout_now(&mut self) {
        if !self.passive {
            self.stand(Campaign::Transfer);
        }
    }

    /// Sends a message once everything that this node has decided so far is durable.
    pub(crate) fn send_when_durable(&mut self, mut m: Message) {
        if m.term() == 0 {
            m.term = Some(self.term);
        }
        let seq = self.gate();
        let vote = m.r#type() == MessageType::MsgVoteResp;
        let early = vote && self.planted(crate::planted::Fault::VoteUndurable);
        if seq <= self.persisted_seq || early {
            self.messages.push(m);
            return;
        }
        if let Some(last) = self.gated.back_mut() {
            // Acknowledgements that wait for the same write are one: the highest. So a stalled disk gathers no more of
            // them than there are writes.
            let ack = |m: &Message| m.r#type() == MessageType::MsgAppResp && !m.reject();
            let same =
                (last.seq, last.message.to(), last.message.term()) == (seq, m.to(), m.term());
            if same && ack(&last.message) && ack(&m) {
                last.message.index = Some(last.message.index().max(m.index()));
                return;
            }
        }
        self.gated.push_back(Gated { seq, message: m });
    }
}

#[cfg(test)]
mod tests;
