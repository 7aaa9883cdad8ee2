//! The member: one replica of the store, and the order in which it persists, sends, applies and replies.
//!
//! Flows in: [`Input`]s, one per thing that happened. Flows out: [`Effect`]s, one per thing to do. It owns the Raft node,
//! the write-ahead log and the store, and none of the three knows the others. It reads no clock and does no I/O, so that
//! the simulator runs the very code of the shipped server.
//!
//! Invariants:
//! * an answer to a write leaves after its entry was applied, and an entry is applied after a quorum of logs has it;
//! * a linearizable read is answered at an applied index that is at least the read index of a round begun after it arrived;
//! * a checkpoint never contains an entry that the own log has not made durable;
//! * after a failed log write nothing is acknowledged any more.

mod apply;
mod auto_compaction;
mod background;
mod backup;
mod checkpoint;
mod cluster;
mod defragment;
mod divergence;
mod election_lines;
mod forward;
mod large_range;
mod lease;
mod log;
mod maintenance;
mod membership;
mod peer_port;
mod promises;
mod propose;
mod read;
mod rebuild;
mod relocation;
mod room;
mod snapshot;
mod upkeep;
mod watch;

use crate::{
    peers::{PeerAsk, PeerFailure},
    request::{CallId, Request},
    status::Status,
};
use bytes::Bytes;
pub use checkpoint::Thresholds;
use engine::lease::RequestIds;
use engine::{
    error::RequestError,
    page::{CheckpointDone, CheckpointJob, CopySource, FetchDone, FetchJob, PageNo, Pin},
    store::{
        install::{InstallError, InstallJob, StageJob, Staged},
        Outgoing, Payload, Store,
    },
    wal::{AlignedBuf, FileOp, ReadError, ReadJob, Ticket, Wal, Write},
    watch::StreamKey,
};
pub use large_range::KEYS_AT_ONCE_MAX;
use propose::{Caller, Proposals};
use proto::{etcdserverpb::InternalRaftRequest, raftpb};
use raft::Node;
use read::Reads;
use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::Arc,
};
pub use upkeep::{UpkeepDone, UpkeepJob};

/// Something that happened.
pub enum Input {
    Ask {
        call: CallId,
        request: Request,
    },
    /// Nobody waits for the call any more.
    Cancel {
        call: CallId,
    },
    /// The reader of a stream fell behind its bound, or caught up.
    Blocked {
        call: CallId,
        blocked: bool,
    },
    LogWritten {
        tag: u64,
        result: io::Result<()>,
        /// The write's buffer, to be used again.
        buffer: AlignedBuf,
    },
    LogFile {
        tag: u64,
        result: io::Result<()>,
    },
    LogRead {
        from: u64,
        result: Result<Vec<raftpb::Entry>, ReadError>,
    },
    Fetched {
        done: FetchDone,
    },
    Checkpointed {
        result: io::Result<CheckpointDone>,
    },
    /// There is no room in the file system to make the page file longer; the job can be tried again.
    CheckpointFull {
        job: Box<CheckpointJob>,
    },
    Upkeep(UpkeepDone),
    /// A Raft message of another member of this cluster.
    Message(Box<raftpb::Message>),
    /// Messages to this member are being lost.
    Unreachable {
        peer: u64,
    },
    /// The connection to this member closed, and nobody listens there any more: its process is dead.
    Refused {
        peer: u64,
    },
    /// The first message stream from or to this member came up, or the last one went down.
    Connected {
        peer: u64,
        connected: bool,
    },
    /// The answer to an [`Effect::AskPeer`].
    PeerAnswered {
        ask: u64,
        result: Result<Bytes, PeerFailure>,
    },
    /// A snapshot was looked through and can be sent.
    SnapshotPrepared {
        peer: u64,
        id: u64,
        result: Result<Box<CopySource>, String>,
    },
    /// The transport asks for the bytes of a snapshot from this place on.
    SnapshotWanted {
        peer: u64,
        id: u64,
        format: SnapshotFormat,
        offset: u64,
    },
    SnapshotRead {
        peer: u64,
        id: u64,
        offset: u64,
        result: io::Result<Vec<u8>>,
    },
    /// The transfer has ended.
    SnapshotSent {
        peer: u64,
        id: u64,
        delivered: bool,
    },
    /// Bytes of a snapshot arrived from another member.
    SnapshotChunk(SnapshotChunk),
    Staged {
        transfer: u64,
        staged: Box<Staged>,
    },
    Installed {
        result: Result<Box<Store>, InstallError>,
    },
    /// Another member says that this one was removed.
    RemovedHere,
    /// Another member knows that this one's data went back in time.
    WentBack {
        why: String,
    },
    /// The process is about to stop: another member should lead.
    Stop,
    /// The time of an [`Effect::Wake`] has come.
    Wake,
    /// The regular pulse, at least twice per tick.
    Pulse,
    /// A moment for background work.
    Work,
}

/// The form in which a snapshot travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotFormat {
    /// Pieces of a checkpoint. A transfer that broke off goes on where it was.
    Ringd,
    /// etcd's database, from its beginning to its end.
    Etcd,
}

/// A part of a snapshot. The next one comes only after this one was taken.
pub struct SnapshotChunk {
    /// Names the connection that it came by.
    pub transfer: u64,
    /// Names the snapshot, among those of the same sender.
    pub id: u64,
    /// The Raft message that it belongs to.
    pub message: Box<raftpb::Message>,
    pub format: SnapshotFormat,
    pub offset: u64,
    pub bytes: Bytes,
    pub last: bool,
}

/// Something to be done.
pub enum Effect {
    Reply {
        call: CallId,
        result: Result<Bytes, Status>,
    },
    Stream {
        call: CallId,
        message: Bytes,
    },
    End {
        call: CallId,
        status: Option<Status>,
    },
    WriteLog(Write),
    LogFile(FileOp),
    /// Entries from this index on, to be read back from the log.
    ReadLog {
        from: u64,
        job: ReadJob,
    },
    Fetch(FetchJob),
    Checkpoint(CheckpointJob),
    /// For [`Input::Upkeep`].
    Upkeep(UpkeepJob),
    /// A Raft message to the member that it names; never a snapshot.
    Send(Box<raftpb::Message>),
    /// A request to the peer port of another member.
    AskPeer {
        ask: u64,
        peer: u64,
        request: PeerAsk,
    },
    /// The pinned checkpoint is to be looked through, for [`Input::SnapshotPrepared`].
    PrepareSnapshot {
        peer: u64,
        id: u64,
        pin: Pin,
    },
    /// The transport is to send this snapshot, whose bytes it asks for.
    SendSnapshot {
        peer: u64,
        id: u64,
        message: Box<raftpb::Message>,
    },
    /// For [`Input::SnapshotRead`].
    ReadSnapshot {
        peer: u64,
        id: u64,
        offset: u64,
        bytes_max: usize,
        source: Arc<Outgoing>,
    },
    /// The answer to [`Input::SnapshotWanted`].
    SnapshotBytes {
        peer: u64,
        id: u64,
        offset: u64,
        bytes: Bytes,
        last: bool,
    },
    /// There is no such snapshot any more.
    CancelSnapshot {
        peer: u64,
        id: u64,
    },
    /// For [`Input::Staged`].
    Stage {
        transfer: u64,
        job: StageJob,
    },
    /// The bytes up to this offset were taken; true if they were the last ones. Or the transfer failed.
    SnapshotTaken {
        transfer: u64,
        offset: u64,
        result: Result<bool, String>,
    },
    /// For [`Input::Installed`].
    Install(Box<InstallJob>),
    /// Members came, went or moved: [`Member::peers`] says which there are.
    MembersChanged,
    /// An [`Input::Wake`] is wanted, earlier than the next pulse.
    Wake {
        after_ns: u64,
    },
    /// This member was removed from the cluster, and ends.
    Removed,
    Halt(String),
}

/// What the member is told about itself.
#[derive(Clone, Debug)]
pub struct Config {
    pub cluster_id: u64,
    pub member_id: u64,
    pub name: String,
    pub client_urls: Vec<String>,
    pub version: &'static str,
    pub cluster_version: &'static str,
    pub tick_ns: u64,
    pub election_ticks: u32,
    pub request_bytes_max: usize,
    pub txn_ops_max: usize,
    /// An entry that is about more keys than this is applied in slices of so many.
    pub apply_slice_keys: usize,
    /// Names proposals and leases.
    pub request_ids: RequestIds,
    /// Draws the jitter of watch streams.
    pub seed: u64,
    /// Membership changes must leave enough started and connected members for a quorum.
    pub strict_reconfig_check: bool,
    /// The wall clock, in ms since the epoch, at time 0 of the member's clock.
    pub unix_ms: u64,
    pub checkpoint: checkpoint::Thresholds,
    /// A read of more keys than this goes in slices.
    pub keys_at_once_max: i64,
}

impl Config {
    /// How long a proposal or a read round may take: 5 s and two election timeouts.
    pub fn request_timeout_ns(&self) -> u64 {
        5_000_000_000 + 2 * self.tick_ns * u64::from(self.election_ticks)
    }
}

/// An append on its way to the disk.
struct Persisting {
    ticket: Ticket,
    /// The Raft output that it carries.
    seq: u64,
    /// What it promises is of this term at the latest.
    term: u64,
}

pub struct Member {
    config: Config,
    node: Node,
    wal: Wal,
    store: Store,
    effects: Vec<Effect>,
    /// Log appends on their way to the disk.
    persisting: VecDeque<Persisting>,
    /// A newer commit index that waits for company.
    lazy_hard_state: Option<raftpb::HardState>,
    apply_queue: VecDeque<raftpb::Entry>,
    /// A configuration change that Raft has applied and the store may not, by its index.
    half_applied: Option<(u64, raftpb::ConfState)>,
    /// Pages that the first of them waits for.
    apply_awaits: Vec<PageNo>,
    /// The first of them, by its index: it is not decoded again for every slice.
    decoded: Option<(u64, Payload)>,
    proposals: Proposals,
    /// Proposals that another member took into its log.
    passed: propose::Passed,
    /// Proposals that found no leader.
    leaderless: VecDeque<(Box<InternalRaftRequest>, Caller)>,
    /// Proposals that found no room.
    waiting: room::Queue,
    reads: Reads,
    background: background::Background,
    large_ranges: large_range::LargeRanges,
    checkpoints: checkpoint::Checkpoints,
    leases: lease::Leases,
    cluster: cluster::Cluster,
    changes: membership::Changes,
    comparison: divergence::Comparison,
    forwarded: forward::Forwarded,
    versions: peer_port::Versions,
    last_ask: u64,
    snapshots: snapshot::Snapshots,
    backups: backup::Backups,
    rebuild: rebuild::Rebuild,
    /// The time of the last input.
    now_ns: u64,
    /// Watch streams that the hub knows.
    watch_streams: BTreeSet<StreamKey>,
    defragmentation: defragment::Defragmentation,
    upkeep: upkeep::Upkeep,
    kept: promises::Kept,
    auto_compaction: Option<auto_compaction::Schedule>,
    next_tick_ns: u64,
    introduced: Introduction,
    /// The log's writes of this turn left first; what is committed is still to be applied.
    applies_next: bool,
    /// There may be more pages resident than the budget allows.
    evict_due: bool,
    /// A damaged page was met and the alarm was raised for it.
    corrupt: bool,
    /// The places of damage that the log was told of.
    damage_told: BTreeSet<String>,
    /// Until then the alarm for want of space is not proposed again.
    alarm_again_ns: u64,
    /// What the log is to be told.
    notices: Vec<String>,
    election_lines: election_lines::ElectionLines,
    halted: bool,
}

/// How far this member is with telling the cluster its name and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Introduction {
    Wanted,
    /// Proposed, and to be proposed again at that time unless it was applied.
    Proposed {
        again_ns: u64,
    },
    Done,
}

impl Member {
    /// A member whose store and log are recovered; it does nothing before its first input.
    pub fn new(config: Config, node: Node, wal: Wal, store: Store) -> Member {
        Member {
            checkpoints: checkpoint::Checkpoints::new(config.checkpoint),
            config,
            node,
            wal,
            store,
            effects: Vec::new(),
            persisting: VecDeque::new(),
            lazy_hard_state: None,
            apply_queue: VecDeque::new(),
            half_applied: None,
            apply_awaits: Vec::new(),
            decoded: None,
            proposals: Proposals::default(),
            passed: propose::Passed::default(),
            leaderless: VecDeque::new(),
            waiting: room::Queue::default(),
            reads: Reads::default(),
            background: background::Background::default(),
            large_ranges: large_range::LargeRanges::default(),
            leases: lease::Leases::default(),
            cluster: cluster::Cluster::default(),
            changes: membership::Changes::default(),
            comparison: divergence::Comparison::default(),
            forwarded: forward::Forwarded::default(),
            versions: peer_port::Versions::default(),
            last_ask: 0,
            snapshots: snapshot::Snapshots::default(),
            backups: backup::Backups::default(),
            rebuild: rebuild::Rebuild::default(),
            now_ns: 0,
            watch_streams: BTreeSet::new(),
            defragmentation: defragment::Defragmentation::default(),
            upkeep: upkeep::Upkeep::default(),
            kept: promises::Kept::default(),
            auto_compaction: None,
            next_tick_ns: 0,
            introduced: Introduction::Wanted,
            applies_next: false,
            evict_due: false,
            corrupt: false,
            damage_told: BTreeSet::new(),
            alarm_again_ns: 0,
            notices: Vec::new(),
            election_lines: Default::default(),
            halted: false,
        }
    }

    pub fn tick_ns(&self) -> u64 {
        self.config.tick_ns
    }

    pub fn has_leader(&self) -> bool {
        self.node.leader() != 0
    }

    /// Whether clients can be served: the member knows a leader and the cluster knows the member.
    pub fn is_ready(&self) -> bool {
        self.introduced == Introduction::Done && self.has_leader() && !self.is_refetching()
    }

    /// Calls that wait for the log, of this member or of the leader, for room, or for a read round.
    pub fn calls_waiting(&self) -> usize {
        self.proposals.len() + self.passed.len() + self.waiting.len() + self.reads.waiting()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// For status, metrics and checks from outside.
    pub fn node(&self) -> &Node {
        &self.node
    }

    pub fn log(&self) -> &Wal {
        &self.wal
    }

    /// Takes in one thing that happened. [`Member::settle`] draws the conclusions.
    pub fn step(&mut self, input: Input, now_ns: u64) {
        self.now_ns = now_ns;
        match input {
            Input::Ask { call, request } => self.ask(call, request, now_ns),
            Input::Cancel { call } => self.cancel(call),
            Input::Blocked { call, blocked } => self.set_blocked(call, blocked),
            Input::LogWritten {
                tag,
                result,
                buffer,
            } => self.log_written(tag, result, buffer),
            Input::LogFile { tag, result } => self.log_file_done(tag, result, now_ns),
            Input::LogRead { from, result } => self.log_read(from, result),
            Input::Fetched { done } => self.fetched(done),
            Input::Checkpointed { result } => self.checkpointed(result),
            Input::Upkeep(done) => self.upkeep_done(done, now_ns),
            Input::CheckpointFull { job } => self.checkpoint_found_full(job, now_ns),
            Input::Message(message) => self.message(*message),
            Input::Unreachable { peer } => self.node.report_unreachable(peer),
            Input::Refused { peer } => self.refused(peer, now_ns),
            Input::Connected { peer, connected } => self.connected(peer, connected, now_ns),
            Input::PeerAnswered { ask, result } => self.peer_answered(ask, result),
            Input::SnapshotPrepared { peer, id, result } => {
                self.snapshot_prepared(peer, id, result)
            }
            Input::SnapshotWanted {
                peer,
                id,
                format,
                offset,
            } => self.snapshot_wanted(peer, id, format, offset),
            Input::SnapshotRead {
                peer,
                id,
                offset,
                result,
            } => self.snapshot_read(peer, id, offset, result),
            Input::SnapshotSent {
                peer,
                id,
                delivered,
            } => self.snapshot_sent(peer, id, delivered),
            Input::SnapshotChunk(chunk) => self.snapshot_chunk(chunk),
            Input::Staged { transfer, staged } => self.staged(transfer, staged.result),
            Input::Installed { result } => self.installed(result),
            Input::RemovedHere => self.removed(),
            Input::WentBack { why } => self.halt(why),
            Input::Stop => self.hand_over(now_ns),
            Input::Wake => {
                self.announce_commit(now_ns);
                self.cluster_timers(now_ns);
            }
            Input::Pulse => self.pulse(now_ns),
            Input::Work => self.work(),
        }
    }

    /// Whether [`Member::settle`] stopped half-way, for its effects to be carried out before it is called again.
    pub fn wants_settle(&self) -> bool {
        self.applies_next
    }

    /// What other members wait for, messages and the own log's writes, leaves before this one applies what is committed.
    fn writes_first(&mut self, now_ns: u64) -> bool {
        if self.apply_queue.is_empty() || self.may_write_inline() {
            return false;
        }
        let others = self.effects.len();
        self.emit_log_writes(now_ns);
        self.effects.len() > others
    }

    /// Runs Raft, the log, apply and reads until nothing follows from what is known, or what follows should leave first
    /// (see [`Member::wants_settle`]). One call covers all inputs of a turn, so that they share a batch.
    pub fn settle(&mut self, now_ns: u64) {
        if self.halted {
            return;
        }
        let (applied_before, _) = self.store.applied();
        self.begin_round();
        self.admit_waiting(now_ns);
        self.drain_ready(now_ns);
        let goes_on = std::mem::take(&mut self.applies_next);
        if !goes_on && self.writes_first(now_ns) {
            self.check_memory(applied_before);
            self.applies_next = !self.halted;
            return;
        }
        loop {
            self.apply_committed(now_ns);
            if !self.node.has_ready() {
                break;
            }
            self.drain_ready(now_ns);
        }
        self.gather_commits(now_ns);
        self.compare_applied(now_ns);
        self.keep_promises();
        self.introduce(now_ns);
        let tried_again = self.run_reads(now_ns);
        self.evict(tried_again);
        self.emit_log_writes(now_ns);
        self.emit_watch_events();
        self.check_memory(applied_before);
        self.background.has_changed_pages = false;
        self.maybe_checkpoint(now_ns);
        self.grow_pages(now_ns);
        self.begin_install();
        self.go_on_rebuilding();
    }

    /// Before anything leaves that was read.
    fn check_memory(&mut self, applied_before: u64) {
        if let Some(error) = self.store.pages_mut().take_fault() {
            self.memory_fault(&error.to_string(), applied_before);
        }
    }

    /// A page turned out to be unreadable while this turn read it: nothing that was read leaves.
    fn memory_fault(&mut self, error: &str, applied_before: u64) {
        if self.store.applied().0 != applied_before || self.background.has_changed_pages {
            return self.halt(format!(
                "{error}; pages were changed meanwhile, so this member stops"
            ));
        }
        self.abort_hashes(RequestError::Corrupt);
        self.abort_large_ranges(RequestError::Corrupt);
        let mut ended = Vec::new();
        for effect in &mut self.effects {
            match effect {
                Effect::Reply { result, .. } => *result = Err(RequestError::Corrupt.into()),
                Effect::Stream { call, .. } => {
                    ended.push(*call);
                    *effect = Effect::End {
                        call: *call,
                        status: Some(RequestError::Corrupt.into()),
                    };
                }
                _ => {}
            }
        }
        for call in ended {
            self.cancel(call);
        }
        self.page_damaged(error);
    }

    /// Lines for the operator.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Lines about elections.
    pub fn take_election_lines(&mut self) -> Vec<String> {
        let changes = self.node.take_role_changes();
        let (leader, term) = (self.node.leader(), self.node.term());
        let me = self.node.id();
        self.election_lines.news(me, &changes, leader, term)
    }

    pub fn take_effects(&mut self, into: &mut Vec<Effect>) {
        into.append(&mut self.effects);
    }

    fn ask(&mut self, call: CallId, request: Request, now_ns: u64) {
        let refused = match self.is_refetching() {
            // Even what a learner shows from its own data would look like a loss here.
            true => !matches!(request, Request::Status | Request::Peer(_)),
            false => self.is_learner() && !is_served_by_learners(&request),
        };
        if refused {
            let status = RequestError::NotSupportedForLearner.into();
            return self.refuse(call, &request, status);
        }
        match request {
            Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::Alarm(_) => self.ask_write(call, request, now_ns),
            Request::Txn(ref txn) if !read::is_read_only(txn) => {
                self.ask_write(call, request, now_ns)
            }
            Request::Txn(ref txn) => {
                let limit = self.config.txn_ops_max;
                match engine::store::validate::validate_txn(txn, limit) {
                    Ok(()) => self.ask_read(call, request, now_ns),
                    Err(error) => self.reply(call, Err(error.into())),
                }
            }
            Request::Watch(watch) => self.ask_watch(call, watch, now_ns),
            Request::Defragment => self.defragment(call),
            Request::Snapshot => self.back_up(call),
            Request::MoveLeader(request) => self.move_leader(call, request.target_id),
            Request::MemberAdd(_)
            | Request::MemberRemove(_)
            | Request::MemberUpdate(_)
            | Request::MemberPromote(_) => self.ask_change(call, &request, now_ns),
            Request::Peer(request) => self.ask_peer_port(call, request, now_ns),
            _ => self.ask_read(call, request, now_ns),
        }
    }

    fn cancel(&mut self, call: CallId) {
        // An answer to a call that is gone is dropped by the front; only what would go on for ever is ended here.
        self.large_ranges.forget(call);
        self.forget_backup(call);
        self.leases.forget(call);
        self.forwarded.forget(call);
        self.changes.forget(call);
        self.forget_transfer(call);
        self.close_watch(call);
    }

    fn pulse(&mut self, now_ns: u64) {
        if self.next_tick_ns == 0 {
            self.next_tick_ns = now_ns + self.config.tick_ns;
        }
        if !self.has_leader()
            && self
                .node
                .configuration()
                .voters
                .is_only(self.config.member_id)
        {
            // Nobody else could lead: no reason to wait for an election timeout.
            self.node.campaign();
        }
        if now_ns >= self.next_tick_ns {
            self.next_tick_ns = now_ns + self.config.tick_ns;
            self.node.tick();
            self.expire_proposals(now_ns);
            self.expire_reads(now_ns);
            self.retry_leaderless(now_ns);
            self.propose_changes(now_ns);
            self.snapshot_timers(now_ns);
            self.complain_while_refetching(now_ns);
            self.rebuild_timers(now_ns);
        }
        self.retry_full_checkpoint(now_ns);
        self.scrub(now_ns);
        self.auto_compact(now_ns);
        self.cluster_timers(now_ns);
        self.retry_lease_calls(now_ns);
        self.compare_versions(now_ns);
        self.compare_results(now_ns);
        self.wal.on_timer(now_ns);
        self.expire_leases(now_ns);
        self.watch_timer(now_ns);
        self.evict_due = true;
    }
}

/// A learner may be behind: it shows what it has where that was asked for, and speaks with the other members.
fn is_served_by_learners(request: &Request) -> bool {
    match request {
        Request::Status | Request::Snapshot | Request::Peer(_) => true,
        Request::Range(range) => range.serializable,
        _ => false,
    }
}
