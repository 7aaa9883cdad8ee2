//! The other members: who is reachable, who leads, and handing leadership over.
//!
//! Flows in: Raft messages, and what the transport notices of its connections. Liveness is judged by Raft's answers; the
//! connections only feed the health rule of membership changes, the wording of time-outs, and the fast failover: a
//! connection that closed and could not be opened again because nobody listens is proof of a dead process.

use super::{read::encode, Effect, Member};
use crate::planted::{planted, Fault};
use crate::{peers::PeerAddress, request::CallId};
use engine::error::RequestError;
use proto::{etcdserverpb as pb, raftpb};
use raft::{Role, SoftState};
use std::collections::{BTreeMap, VecDeque};

/// A member counts as healthy after being connected for this long.
const HEALTHY_AFTER_NS: u64 = 5_000_000_000;
/// How long after its start a member may have its first election advanced.
const ADVANCE_WITHIN_NS: u64 = 5_000_000_000;
/// Ticks that stay of an election timeout then, for a leader to be heard of.
const ADVANCE_LEAVES_TICKS: u32 = 2;
/// Proposals of other members that wait for a leader; more are dropped.
const HELD_BYTES_MAX: usize = 16 << 20;
/// What a proposal weighs beside its payload.
const HELD_OVERHEAD_BYTES: usize = 256;
/// How long the followers may hear of a commit later than they could, for want of a message that it can go with. A message
/// of its own costs them and the leader a wake-up, and that much is what a watcher at a follower can see an event late.
const COMMIT_GATHER_NS: u64 = 500_000;
/// Callers of MoveLeader at once.
const TRANSFERS_MAX: usize = 16;

#[derive(Default)]
pub(super) struct Cluster {
    /// Since when each reachable member is reachable.
    connected: BTreeMap<u64, u64>,
    /// The leader last known, and since when; kept while there is none.
    leader: u64,
    leader_since_ns: u64,
    /// Callers of MoveLeader, with the leader that they wait for.
    transfers: VecDeque<(CallId, u64)>,
    /// The first election is to come sooner once enough members are connected.
    advances: bool,
    /// Proposals of other members that found no leader here, or one that is handing over, each with its time; and their
    /// weight.
    held: VecDeque<(u64, raftpb::Message)>,
    held_bytes: usize,
    /// Since when the followers were not told of a commit index, and whether a wake-up was asked for because of that.
    commit_news_since_ns: Option<u64>,
    commit_timer: bool,
    /// When the fast failover goes on.
    failover_due_ns: Option<u64>,
    /// A stop waits for another leader until then.
    stopping_until_ns: Option<u64>,
    /// This member was removed, and says so at that time: until then the others may learn of it from this one.
    removed_due_ns: Option<u64>,
}

impl Member {
    /// All other members.
    pub fn peers(&self) -> Vec<PeerAddress> {
        self.store
            .members()
            .filter(|member| member.id != self.config.member_id)
            .map(|member| PeerAddress {
                id: member.id,
                urls: member
                    .raft_attributes
                    .as_ref()
                    .map(|attributes| attributes.peer_urls.clone())
                    .unwrap_or_default(),
            })
            .collect()
    }

    /// Where the others reach this member, if the cluster knows it.
    pub fn own_peer_urls(&self) -> Vec<String> {
        let own = self.store.member(self.config.member_id);
        own.and_then(|member| member.raft_attributes.as_ref())
            .map(|attributes| attributes.peer_urls.clone())
            .unwrap_or_default()
    }

    pub fn removed_members(&self) -> impl Iterator<Item = u64> + '_ {
        self.store.removed_members()
    }

    /// Whether the executor may wait for the log's device itself: nobody else counts on this member's heartbeat.
    pub fn may_write_inline(&self) -> bool {
        let configuration = self.node.configuration();
        configuration.voters.is_only(self.config.member_id) && configuration.learners.is_empty()
    }

    pub fn is_learner(&self) -> bool {
        let learners = &self.node.configuration().learners;
        learners.contains(self.config.member_id)
    }

    pub(super) fn message(&mut self, mut message: raftpb::Message) {
        let kind = message.r#type();
        if kind == raftpb::MessageType::MsgApp && self.wal.is_congested() {
            // Raft bounds what its log holds; what other leaders replaced may still wait for the disk as well. The leader
            // sends the entries again.
            message.entries.clear();
        }
        if kind == raftpb::MessageType::MsgProp && !self.takes_proposals() {
            return self.hold(message);
        }
        let from = message.from();
        if let Err(error) = self.node.step(message) {
            if error.is_fatal() {
                self.halt(format!(
                    "a {kind:?} of member {from:x} contradicts this member's log: {error}. One of the two lost data that \
                     it had acknowledged; remove the member that was restored or copied, and add it with an empty data \
                     directory"
                ));
            }
        }
    }

    /// Whether Raft would not drop a proposal that another member passed on: there is a leader, and it stays.
    fn takes_proposals(&self) -> bool {
        self.has_leader() && self.node.transferee() == 0
    }

    /// Keeps a proposal that nobody can take at the moment: dropped, its caller would wait in vain until its time is up.
    fn hold(&mut self, message: raftpb::Message) {
        let bytes = proposal_bytes(&message);
        if self.cluster.held_bytes + bytes <= HELD_BYTES_MAX {
            self.cluster.held_bytes += bytes;
            self.cluster.held.push_back((self.now_ns, message));
        }
    }

    /// Proposals that were kept go to whoever leads now.
    pub(super) fn release_held(&mut self, now_ns: u64) {
        if self.cluster.held.is_empty() {
            return;
        }
        let timeout_ns = self.config.request_timeout_ns();
        let takes = self.takes_proposals();
        self.cluster.held_bytes = 0;
        for (since_ns, message) in std::mem::take(&mut self.cluster.held) {
            if takes {
                self.message(message);
            } else if now_ns < since_ns + timeout_ns {
                self.cluster.held_bytes += proposal_bytes(&message);
                self.cluster.held.push_back((since_ns, message));
            }
        }
    }

    pub(super) fn send(&mut self, messages: Vec<raftpb::Message>) {
        for message in messages {
            if message.r#type() == raftpb::MessageType::MsgSnap {
                self.send_snapshot(message);
            } else {
                self.effects.push(Effect::Send(Box::new(message)));
            }
        }
    }

    pub(super) fn connected(&mut self, peer: u64, connected: bool, now_ns: u64) {
        if connected {
            self.cluster.connected.entry(peer).or_insert(now_ns);
            self.comparison.connected(peer);
            self.advance_election(now_ns);
        } else {
            self.cluster.connected.remove(&peer);
        }
    }

    /// Lets the first election come sooner, once more than one other member is connected: then a leader that there is
    /// would be heard of.
    pub fn advance_first_election(&mut self) {
        self.cluster.advances = true;
    }

    fn advance_election(&mut self, now_ns: u64) {
        if !self.cluster.advances || self.cluster.connected.len() < 2 {
            return;
        }
        self.cluster.advances = false;
        if now_ns > ADVANCE_WITHIN_NS || self.has_leader() || self.node.role() != Role::Follower {
            return;
        }
        for _ in ADVANCE_LEAVES_TICKS..self.config.election_ticks {
            self.node.tick();
        }
    }

    /// The process of this member is gone. If it led, there is no reason to wait for an election timeout.
    pub(super) fn refused(&mut self, peer: u64, now_ns: u64) {
        let delay_ms = self.node.leader_refused(peer, self.node.term());
        self.failover_in(delay_ms, now_ns);
    }

    fn failover_in(&mut self, delay_ms: Option<u32>, now_ns: u64) {
        let Some(delay_ms) = delay_ms else {
            return;
        };
        let after_ns = u64::from(delay_ms) * 1_000_000;
        self.cluster.failover_due_ns = Some(now_ns + after_ns);
        self.effects.push(Effect::Wake { after_ns });
    }

    /// A commit index that the followers were not told of goes with the next append, which comes soon where there is load;
    /// else after a moment.
    pub(super) fn gather_commits(&mut self, now_ns: u64) {
        if !self.node.has_commit_news() {
            self.cluster.commit_news_since_ns = None;
            return;
        }
        self.cluster.commit_news_since_ns.get_or_insert(now_ns);
        self.announce_commit_in(COMMIT_GATHER_NS);
    }

    fn announce_commit_in(&mut self, after_ns: u64) {
        if !self.cluster.commit_timer {
            self.cluster.commit_timer = true;
            self.effects.push(Effect::Wake { after_ns });
        }
    }

    /// Any wake-up may be the one that was wanted for this.
    pub(super) fn announce_commit(&mut self, now_ns: u64) {
        self.cluster.commit_timer = false;
        let Some(since_ns) = self.cluster.commit_news_since_ns else {
            return;
        };
        match (since_ns + COMMIT_GATHER_NS).saturating_sub(now_ns) {
            0 => self.node.announce_commit(),
            after_ns => self.announce_commit_in(after_ns),
        }
    }

    /// Whatever has a time of its own between two ticks.
    pub(super) fn cluster_timers(&mut self, now_ns: u64) {
        if self
            .cluster
            .failover_due_ns
            .is_some_and(|due_ns| due_ns <= now_ns)
        {
            self.cluster.failover_due_ns = None;
            let delay_ms = self.node.failover_due();
            self.failover_in(delay_ms, now_ns);
        }
        let me = self.config.member_id;
        if self.store.is_removed_member(me) && self.cluster.removed_due_ns.is_none() {
            // The log that this member was removed by was applied before it was started.
            self.removed_after(0, now_ns);
        }
        if self
            .cluster
            .removed_due_ns
            .is_some_and(|due_ns| due_ns <= now_ns)
        {
            self.removed();
        }
    }

    pub(super) fn removed_after(&mut self, delay_ns: u64, now_ns: u64) {
        self.cluster.removed_due_ns.get_or_insert(now_ns + delay_ns);
    }

    /// This member does not belong to the cluster any more.
    pub(super) fn removed(&mut self) {
        if !self.halted {
            self.halted = true;
            self.effects.push(Effect::Removed);
        }
    }

    /// Leader or role changed.
    pub(super) fn leadership(&mut self, state: &SoftState, now_ns: u64) {
        if state.role != Role::Leader && !planted(Fault::ExpireAsFollower) {
            self.store.lessor_mut().demote();
            self.lease_answers();
        }
        if state.leader == 0 {
            return;
        }
        if state.leader != self.cluster.leader {
            self.cluster.leader = state.leader;
            self.cluster.leader_since_ns = now_ns;
        }
        self.retry_leaderless(now_ns);
        let transfers = std::mem::take(&mut self.cluster.transfers);
        for (call, target) in transfers {
            if target == state.leader {
                self.reply(call, Ok(encode(&pb::MoveLeaderResponse::default())));
            } else {
                self.cluster.transfers.push_back((call, target));
            }
        }
    }

    pub(super) fn move_leader(&mut self, call: CallId, target: u64) {
        if self.node.role() != Role::Leader {
            return self.reply(call, Err(RequestError::NotLeader.into()));
        }
        if !self.node.configuration().voters.contains(target) {
            return self.reply(call, Err(RequestError::BadLeaderTransferee.into()));
        }
        if target == self.config.member_id {
            return self.reply(call, Ok(encode(&pb::MoveLeaderResponse::default())));
        }
        if self.cluster.transfers.len() >= TRANSFERS_MAX {
            return self.reply(call, Err(RequestError::TooManyRequests.into()));
        }
        self.cluster.transfers.push_back((call, target));
        self.node.transfer_leader(target);
    }

    pub(super) fn forget_transfer(&mut self, call: CallId) {
        if !self.cluster.transfers.is_empty() {
            self.cluster
                .transfers
                .retain(|(waiting, _)| *waiting != call);
        }
    }

    /// Who is to lead after this member: the voter that was connected longest.
    pub(super) fn successor(&self) -> Option<u64> {
        let voters = &self.node.configuration().voters;
        let connected = self.cluster.connected.iter();
        connected
            .filter(|(&id, _)| voters.contains(id))
            .min_by_key(|(_, &since_ns)| since_ns)
            .map(|(&id, _)| id)
    }

    /// A stop was asked for: whoever was connected longest leads from here on.
    pub(super) fn hand_over(&mut self, now_ns: u64) {
        if self.node.role() != Role::Leader {
            return;
        }
        if let Some(target) = self.successor() {
            self.cluster.stopping_until_ns = Some(now_ns + self.config.request_timeout_ns());
            self.node.transfer_leader(target);
        }
    }

    /// Whether a stop should wait a little for another member to lead.
    pub fn is_handing_over(&self, now_ns: u64) -> bool {
        let waits = self
            .cluster
            .stopping_until_ns
            .is_some_and(|until_ns| now_ns < until_ns);
        waits && self.node.role() == Role::Leader && !self.halted
    }

    /// Voters that are healthy from here, this member included.
    pub(super) fn healthy_voters(&self, now_ns: u64) -> usize {
        let healthy = |id: &&u64| self.is_healthy(**id, now_ns);
        let voters = &self.node.conf_state().voters;
        voters.iter().filter(healthy).count()
    }

    fn is_healthy(&self, id: u64, now_ns: u64) -> bool {
        id == self.config.member_id
            || self
                .cluster
                .connected
                .get(&id)
                .is_some_and(|since_ns| now_ns.saturating_sub(*since_ns) >= HEALTHY_AFTER_NS)
    }

    pub(super) fn is_connected(&self, id: u64) -> bool {
        id == self.config.member_id || self.cluster.connected.contains_key(&id)
    }

    /// What a caller is told whose proposal was begun then and not applied in time.
    pub(super) fn timeout_error(&self, begun_ns: u64) -> RequestError {
        if planted(Fault::UnknownRefused) {
            return RequestError::TooManyRequests;
        }
        let elected_ns = self.cluster.leader_since_ns;
        let election_ns = self.config.tick_ns * u64::from(self.config.election_ticks);
        if begun_ns < elected_ns && begun_ns + 2 * election_ns > elected_ns {
            return RequestError::TimeoutLeaderFailure;
        }
        let me = self.config.member_id;
        let since = |id: u64| {
            let connected = &self.cluster.connected;
            id == me || connected.get(&id).is_some_and(|since| *since <= begun_ns)
        };
        let leader = self.node.leader();
        let reachable = match leader {
            0 => true,
            leader if leader == me => {
                let voters = self.node.conf_state().voters;
                voters.iter().filter(|id| since(**id)).count() > voters.len() / 2
            }
            leader => since(leader),
        };
        match reachable {
            true => RequestError::Timeout,
            false => RequestError::TimeoutConnectionLost,
        }
    }
}

fn proposal_bytes(message: &raftpb::Message) -> usize {
    let entries = message.entries.iter().map(|entry| entry.data().len());
    HELD_OVERHEAD_BYTES + entries.sum::<usize>()
}
