//! The node: its state, its clock of ticks, and the dispatch of messages.

use std::collections::VecDeque;
use std::fmt;

use proto::raftpb::{ConfState, Entry, HardState, Message, MessageType, Snapshot};

use crate::confchange::Configuration;
use crate::config::{open_log, Config, Error, Initial, ReadOnly};
use crate::failover::Failover;
use crate::log::Log;
use crate::message::{check_inbound, is_termless, message, CAMPAIGN_TRANSFER};
use crate::planted::Fault;
use crate::random::Random;
use crate::read_index::{Forwarding, Rounds};
use crate::ready::{Applying, Gated, PendingWrite, ReadState, SoftState};
use crate::tracker::{ProgressState, Tracker};

/// What a node is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it could win an election.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads its term.
    Leader,
}

/// A node took up a role, maybe one that it had, in a later term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// What the node is now.
    pub role: Role,
    /// The term in which it is that.
    pub term: u64,
}

/// Role changes that are kept for the embedding. Above: dropped, because nobody asks for them.
const ROLE_CHANGES_MAX: usize = 64;

/// A message that was not taken. Unless [`StepError::is_fatal`], the node is unharmed and nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepError {
    /// The kind does not travel between nodes.
    LocalMessage,
    /// Addressed to another node, or sent by this one.
    WrongAddress,
    /// Fields contradict each other.
    Malformed(&'static str),
    /// A forwarded proposal found no leader here, or a leader that refuses it.
    ProposalDropped,
    /// A leader's entry contradicts a committed one: this log, or another, was lost or forged.
    CommittedConflict {
        /// Where.
        index: u64,
        /// Term of the entry that is committed here.
        own_term: u64,
        /// Term of the entry that was sent.
        sent_term: u64,
    },
    /// A leader knows entries as stored here that this log does not have: it was lost.
    LogLost {
        /// The commit index that was sent.
        commit: u64,
        /// The last entry of this log.
        last: u64,
    },
}

impl StepError {
    /// Whether the promise that logs rest on is broken: the member must stop and say so.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            StepError::CommittedConflict { .. } | StepError::LogLost { .. }
        )
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepError::LocalMessage => f.write_str("message kind is local to a node"),
            StepError::WrongAddress => f.write_str("message is not for this node"),
            StepError::Malformed(what) => write!(f, "malformed message: {what}"),
            StepError::ProposalDropped => f.write_str("forwarded proposal dropped"),
            StepError::CommittedConflict {
                index,
                own_term,
                sent_term,
            } => write!(
                f,
                "entry {index} is committed with term {own_term}, but the leader sent term {sent_term}: a log was lost; \
                 stop this member and add it again with an empty data directory"
            ),
            StepError::LogLost { commit, last } => write!(
                f,
                "the leader committed entry {commit} with this member's help, but its log ends at {last}: the log was \
                 lost; stop this member and add it again with an empty data directory"
            ),
        }
    }
}

impl std::error::Error for StepError {}

/// How one follower is served, for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The follower, or the leader itself.
    pub id: u64,
    /// Highest index known to be durable there.
    pub matched: u64,
    /// Next index to send.
    pub next: u64,
    /// Probe, replicate or snapshot.
    pub state: ProgressState,
    /// Nothing may be sent now.
    pub paused: bool,
    /// Heard from since the last quorum check.
    pub recent_active: bool,
    /// Receives the log without counting.
    pub learner: bool,
    /// Index of the snapshot under way, 0 if none.
    pub pending_snapshot: u64,
    /// Appends under way.
    pub inflight_messages: usize,
    /// Their weight.
    pub inflight_bytes: u64,
}

/// A view of the node for status, metrics and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub id: u64,
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// For whom it voted in this term, 0 if for none.
    pub vote: u64,
    /// The leader, 0 if not known.
    pub leader: u64,
    /// Highest committed index.
    pub commit: u64,
    /// Highest applied index.
    pub applied: u64,
    /// Highest index of the log.
    pub last: u64,
    /// Highest index durable here.
    pub durable: u64,
    /// Target of a leadership transfer under way, 0 if none.
    pub transferee: u64,
    /// Followers, ascending by id; empty unless leader.
    pub peers: Vec<PeerStatus>,
}

/// A Raft node. See the crate's documentation for how it is driven.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) config: Config,
    pub(crate) id: u64,
    pub(crate) random: Random,
    pub(crate) log: Log,
    pub(crate) tracker: Tracker,

    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) role: Role,
    pub(crate) role_changes: Vec<RoleChange>,
    pub(crate) leader: u64,
    /// Ticks since a leader was heard from, or since the last quorum check of a leader.
    pub(crate) election_elapsed: u32,
    pub(crate) heartbeat_elapsed: u32,
    pub(crate) election_timeout: u32,
    /// All ticks of this life.
    pub(crate) ticks: u64,
    /// Target of a leadership transfer, 0 if none.
    pub(crate) transferee: u64,
    /// No new configuration change before this index is applied.
    pub(crate) pending_conf_index: u64,
    /// The embedding does not want this node to lead while others can.
    pub(crate) passive: bool,
    pub(crate) failover: Failover,
    /// A node that lost part of its log votes again once it has an entry of a later term than this one.
    pub(crate) lost: Option<u64>,

    pub(crate) messages: Vec<Message>,
    /// Messages that wait for writes, oldest first.
    pub(crate) gated: VecDeque<Gated>,
    /// The own vote of an election waits for this write.
    pub(crate) self_vote: Option<u64>,
    pub(crate) writes: VecDeque<PendingWrite>,
    /// The last write handed out, and the last one reported durable.
    pub(crate) seq: u64,
    pub(crate) persisted_seq: u64,
    /// Who was last asked to lead because of a stalled log, and when the next one may be asked, in ticks.
    pub(crate) stall_transfer: (u64, u64),
    /// Term, vote and commit index as last handed out for writing.
    pub(crate) written: HardState,
    pub(crate) told: SoftState,
    /// New entries or a new commit index are to be sent to the followers.
    pub(crate) broadcast: bool,
    /// The followers were not told of the newest commit index, which can wait.
    pub(crate) commit_news: bool,
    /// A follower has passed on what stands in the log up to here.
    pub(crate) passed_on: u64,
    /// A snapshot that the embedding has to install; `true` once it was handed out.
    pub(crate) installing: Option<(Snapshot, bool)>,
    /// Meanwhile, the configuration as of what is applied.
    pub(crate) overtaken: Configuration,
    pub(crate) applying: VecDeque<Applying>,
    pub(crate) applying_bytes: u64,
    pub(crate) uncommitted_bytes: u64,
    pub(crate) reads: Vec<crate::ready::EntryRead>,
    /// Entries to apply that are being read back, from this index on; and the entries once they are there.
    pub(crate) apply_reading: Option<u64>,
    pub(crate) apply_page: Vec<Entry>,
    /// The configuration may belong to an index up to here: no snapshot is made of less.
    pub(crate) snapshot_after: u64,

    pub(crate) rounds: Rounds,
    pub(crate) forwarding: Forwarding,
    pub(crate) read_states: Vec<ReadState>,
    pub(crate) read_failures: Vec<u64>,
}

impl Node {
    /// A follower that continues from durable state.
    pub fn new(config: Config, mut initial: Initial) -> Result<Node, Error> {
        config.check()?;
        if crate::planted::is_planted(Fault::LossForgotten) {
            initial.lost_until = None;
        }
        let membership = Configuration::from_conf_state(&initial.conf_state)?;
        let log = open_log(&config, &initial)?;
        let mut random = Random::new(config.seed);
        // Bits 0 to 15 stay free for counting, so that ids of one life do not run into those of another soon.
        let first_read = random.next_u64() & !0xffff;
        let hard = &initial.hard_state;
        let lost = initial.lost_until.filter(|until| log.last_term() <= *until);
        let least = initial.lost_until.map_or(0, |until| until + 1);
        let (term, vote) = (hard.term().max(log.last_term()).max(least), hard.vote());
        let mut tracker = Tracker::new(config.inflight_messages_max, config.inflight_bytes_max);
        tracker.switch(membership, log.last());
        let mut node = Node {
            id: config.id,
            term,
            vote: if term == hard.term() { vote } else { 0 },
            role: Role::Follower,
            role_changes: Vec::new(),
            leader: 0,
            election_elapsed: 0,
            heartbeat_elapsed: 0,
            election_timeout: 0,
            ticks: 0,
            transferee: 0,
            pending_conf_index: 0,
            passive: false,
            failover: Failover::default(),
            lost,
            messages: Vec::new(),
            gated: VecDeque::new(),
            self_vote: None,
            writes: VecDeque::new(),
            seq: 0,
            persisted_seq: 0,
            stall_transfer: (0, 0),
            written: HardState {
                term: Some(hard.term()),
                vote: Some(hard.vote()),
                commit: Some(log.commit()),
            },
            told: SoftState::default(),
            broadcast: false,
            commit_news: false,
            passed_on: 0,
            installing: None,
            overtaken: Configuration::default(),
            applying: VecDeque::new(),
            applying_bytes: 0,
            uncommitted_bytes: 0,
            reads: Vec::new(),
            apply_reading: None,
            apply_page: Vec::new(),
            snapshot_after: 0,
            rounds: Rounds::new(first_read),
            forwarding: Forwarding::new(first_read),
            read_states: Vec::new(),
            read_failures: Vec::new(),
            config,
            random,
            log,
            tracker,
        };
        node.draw_election_timeout();
        Ok(node)
    }

    /// One tick of the embedding's clock.
    pub fn tick(&mut self) {
        self.ticks += 1;
        if self.role == Role::Leader {
            self.tick_leader();
        } else {
            self.tick_election();
            self.tick_forwarded_reads();
        }
    }

    fn tick_leader(&mut self) {
        self.heartbeat_elapsed += 1;
        self.election_elapsed += 1;
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            if self.config.check_quorum {
                self.check_quorum();
            }
            // A transfer has one election timeout; then the leader serves again.
            self.transferee = 0;
        }
        if self.role != Role::Leader {
            return;
        }
        if self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            self.broadcast_heartbeat_tick();
            self.leave_joint_if_due();
        }
        self.hand_over_if_stalled();
    }

    /// Takes a message from another node.
    pub fn step(&mut self, m: Message) -> Result<(), StepError> {
        check_inbound(&m, self.id)?;
        let kind = m.r#type();
        if m.term() > self.term && !is_termless(kind) {
            if !self.adopt_term(&m) {
                return Ok(());
            }
        } else if m.term() < self.term && !is_termless(kind) {
            self.answer_old_term(&m);
            return Ok(());
        }
        match kind {
            MessageType::MsgVote | MessageType::MsgPreVote => self.handle_vote_request(&m),
            MessageType::MsgProp => return self.handle_proposal(m),
            MessageType::MsgReadIndex => self.handle_read_request(m),
            MessageType::MsgTransferLeader => self.handle_transfer_request(&m),
            _ => match self.role {
                Role::Leader => self.step_leader(&m),
                Role::Follower => return self.step_follower(m),
                Role::PreCandidate | Role::Candidate => return self.step_candidate(m),
            },
        }
        Ok(())
    }

    /// A message of a later term. False if it is not to be looked at any further.
    fn adopt_term(&mut self, m: &Message) -> bool {
        match m.r#type() {
            MessageType::MsgVote | MessageType::MsgPreVote => {
                let forced = m.context() == CAMPAIGN_TRANSFER;
                if self.promised_to_leader() && !forced {
                    // Its leader is alive as far as this node knows: a node that lost contact must not disturb it.
                    return false;
                }
                if m.r#type() == MessageType::MsgVote {
                    self.become_follower(m.term(), 0);
                }
            }
            // The term of a granted PreVote is one that nobody has entered.
            MessageType::MsgPreVoteResp if !m.reject() => {}
            MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgSnap => {
                self.become_follower(m.term(), m.from());
            }
            _ => self.become_follower(m.term(), 0),
        }
        true
    }

    /// Whether a leader may rely on this node not to elect another one.
    fn promised_to_leader(&self) -> bool {
        let election = self.config.election_ticks;
        let heard = self.leader != 0 && self.election_elapsed < election;
        // A node that was restarted does not remember its promise, on which reads by lease may rest.
        let restarted = self.reads_by_lease() && self.ticks < u64::from(election);
        self.config.check_quorum && (heard || restarted)
    }

    /// A message of an earlier term is not acted on; but its sender may have to learn the term.
    fn answer_old_term(&mut self, m: &Message) {
        match m.r#type() {
            MessageType::MsgApp | MessageType::MsgHeartbeat
                if self.config.check_quorum || self.config.pre_vote || self.lost.is_some() =>
            {
                // Frees a node that is stuck with a higher term than the leader's: the leader steps down on this.
                let answer = message(MessageType::MsgAppResp, self.id, m.from());
                self.send(answer);
            }
            MessageType::MsgPreVote => {
                let mut answer = message(MessageType::MsgPreVoteResp, self.id, m.from());
                answer.reject = Some(true);
                self.send(answer);
            }
            _ => {}
        }
    }

    /// Queues a message, with the current term where none is set yet.
    pub(crate) fn send(&mut self, mut m: Message) {
        if m.term() == 0 && !is_termless(m.r#type()) {
            m.term = Some(self.term);
        }
        self.messages.push(m);
    }

    /// For how many ticks the oldest log write has been under way, 0 if none is.
    pub fn stalled_ticks(&self) -> u64 {
        self.writes
            .front()
            .map_or(0, |oldest| self.ticks - oldest.tick)
    }

    /// Whether the own log is so slow that others had better lead: a write takes half an election timeout.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled_ticks() >= u64::from((self.config.election_ticks / 2).max(1))
    }

    /// Whether this node may stand for election: a voter that is not busy installing a snapshot.
    pub(crate) fn is_promotable(&self) -> bool {
        self.tracker.config.voters.contains(self.id) && self.installing.is_none()
    }

    /// Whether this node lost part of what it had promised and has not made up for it yet.
    ///
    /// Until then it gives no vote. It does store entries and acknowledge them, which is safe because its term is later
    /// than any in which it can have promised something: a leader of such a term was elected without it and holds
    /// everything that was ever committed in earlier ones, this node's lost copies included or not (the Leader
    /// Completeness proof needs one voter that both stored the entry and voted, and finds it among the others). And a
    /// leader commits only by entries of its own term, so the first acknowledgement that counts towards a commit is that
    /// of such an entry: with it, everything before it is back, and the node is a voter again.
    pub fn is_refetching(&self) -> bool {
        self.lost.is_some()
    }

    /// Ends it if the entries that are durable prove enough.
    pub(crate) fn note_refetched(&mut self) {
        let term = self.log.term(self.log.durable());
        let early = self.planted(Fault::LossMadeUpEarly) && term > Some(0);
        if early || self.lost.is_some_and(|until| term > Some(until)) {
            self.lost = None;
        }
    }

    /// What it is at the moment.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The role changes since they were last taken: something to tell operators, and no part of the algorithm.
    pub fn take_role_changes(&mut self) -> Vec<RoleChange> {
        std::mem::take(&mut self.role_changes)
    }

    pub(crate) fn enter_role(&mut self, role: Role) {
        self.role = role;
        if self.role_changes.len() < ROLE_CHANGES_MAX {
            let term = self.term;
            self.role_changes.push(RoleChange { role, term });
        }
    }

    /// The leader of this term, 0 if not known.
    pub fn leader(&self) -> u64 {
        self.leader
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// This node.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether there is a commit index that the followers do not hear of before the next append, or
    /// [`Node::announce_commit`].
    pub fn has_commit_news(&self) -> bool {
        self.commit_news
    }

    /// Sends the commit index that was held back (see [`Config::gather_commits`](crate::Config::gather_commits)), if any.
    pub fn announce_commit(&mut self) {
        self.broadcast |= self.commit_news;
    }

    /// The highest committed index.
    pub fn commit_index(&self) -> u64 {
        self.log.commit()
    }

    /// The highest applied index.
    pub fn applied_index(&self) -> u64 {
        self.log.applied()
    }

    /// The highest index of the log.
    pub fn last_index(&self) -> u64 {
        self.log.last()
    }

    /// The highest index that is durable here.
    pub fn durable_index(&self) -> u64 {
        self.log.durable()
    }

    /// The first index that is still in the log.
    pub fn first_index(&self) -> u64 {
        self.log.start() + 1
    }

    /// The term of an entry, if the log knows it.
    pub fn entry_term(&self, index: u64) -> Option<u64> {
        self.log.term(index)
    }

    /// An entry of the log, if it is still in memory.
    pub fn recent_entry(&self, index: u64) -> Option<&Entry> {
        let there = (self.log.ring_first()..=self.log.last()).contains(&index);
        there.then(|| self.log.slice(index, index).next()).flatten()
    }

    /// The configuration in force.
    pub fn conf_state(&self) -> ConfState {
        self.tracker.config.to_conf_state()
    }

    /// The configuration in force.
    pub fn configuration(&self) -> &Configuration {
        &self.tracker.config
    }

    /// Number of configuration changes in the log that are not applied.
    pub fn unapplied_conf_changes(&self) -> usize {
        self.log.unapplied_conf_changes()
    }

    /// Whether one of them is committed.
    pub fn has_unapplied_conf_change(&self) -> bool {
        self.log.has_unapplied_conf_change()
    }

    /// Target of a leadership transfer under way, 0 if none.
    pub fn transferee(&self) -> u64 {
        self.transferee
    }

    /// Everything worth showing.
    pub fn status(&self) -> Status {
        let peers = if self.role == Role::Leader {
            self.peer_statuses()
        } else {
            Vec::new()
        };
        Status {
            id: self.id,
            role: self.role,
            term: self.term,
            vote: self.vote,
            leader: self.leader,
            commit: self.log.commit(),
            applied: self.log.applied(),
            last: self.log.last(),
            durable: self.log.durable(),
            transferee: self.transferee,
            peers,
        }
    }

    fn peer_statuses(&self) -> Vec<PeerStatus> {
        let learners = &self.tracker.config.learners;
        let status = |peer: &crate::tracker::Peer| {
            let progress = &peer.progress;
            PeerStatus {
                id: peer.id,
                matched: progress.matched,
                next: progress.next,
                state: progress.state,
                paused: progress.is_paused(),
                recent_active: progress.recent_active,
                learner: learners.contains(peer.id),
                pending_snapshot: progress.pending_snapshot,
                inflight_messages: progress.inflights.count(),
                inflight_bytes: progress.inflights.bytes(),
            }
        };
        self.tracker.peers.iter().map(status).collect()
    }

    /// Whether reads may be answered from the lease.
    pub(crate) fn reads_by_lease(&self) -> bool {
        self.config.read_only == ReadOnly::Lease
    }

    /// Whether the leader has committed an entry of its own term. Before that it does not know what is committed.
    pub(crate) fn committed_in_term(&self) -> bool {
        self.log.matches(self.log.commit(), self.term)
    }
}
