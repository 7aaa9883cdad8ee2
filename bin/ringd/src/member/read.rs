//! Reads: the linearizable ones wait for a read-index round, all of them for their pages.

use super::{Effect, Member};
use crate::planted::{planted, Fault};
use crate::{
    request::{CallId, Request},
    status::Status,
};
use bytes::Bytes;
use engine::{
    error::RequestError,
    page::{Miss, PageNo},
};
use prost::Message;
use proto::etcdserverpb as pb;
use std::collections::VecDeque;

/// Reads waiting for rounds or pages; above it the caller is told to slow down.
const READS_WAITING_MAX: usize = 200_000;

pub(super) struct Read {
    pub call: CallId,
    pub request: Request,
    pub deadline_ns: u64,
}

/// One read-index round and the reads that it answers.
struct Round {
    context: u64,
    /// The leader that was asked.
    leader: u64,
    /// Known once a quorum confirmed the leader.
    index: Option<u64>,
    reads: Vec<Read>,
}

#[derive(Default)]
pub(super) struct Reads {
    /// Arrived since the last round began.
    unread: Vec<Read>,
    rounds: VecDeque<Round>,
    /// Need no round, only the entries up to the index, which was committed when they arrived.
    behind: Vec<(u64, Read)>,
    /// Confirmed reads that wait for pages, or for an entry that is applied in part.
    parked: Vec<Read>,
    next_context: u64,
    pages_arrived: bool,
    /// Some of them wait for such an entry.
    held: bool,
    /// The page that turned out to be damaged: who needs it is refused.
    damaged: Option<PageNo>,
}

impl Reads {
    pub fn waiting(&self) -> usize {
        self.unread.len()
            + self.behind.len()
            + self.parked.len()
            + self
                .rounds
                .iter()
                .map(|round| round.reads.len())
                .sum::<usize>()
    }

    pub fn pages_arrived(&mut self) {
        self.pages_arrived = true;
    }

    pub fn wait_for_pages(&self) -> bool {
        !self.parked.is_empty()
    }

    /// A page will not come, and others may have.
    pub fn page_damaged(&mut self, page: PageNo) {
        self.pages_arrived = true;
        self.damaged = Some(page);
    }
}

/// A transaction whose operations are all ranges is not proposed. A nested one counts as a write.
pub(super) fn is_read_only(txn: &pb::TxnRequest) -> bool {
    txn.success
        .iter()
        .chain(&txn.failure)
        .all(|op| matches!(op.request, Some(pb::request_op::Request::RequestRange(_))))
}

/// Whether a request needs a confirmed leader before it is answered.
pub(super) fn is_linearizable(request: &Request) -> bool {
    match request {
        Request::Range(range) | Request::RangeStream(range) => !range.serializable,
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(|op| {
            !matches!(&op.request, Some(pb::request_op::Request::RequestRange(range)) if range.serializable)
        }),
        Request::MemberList(list) => list.linearizable,
        Request::Downgrade(_) => true,
        _ => false,
    }
}

/// Whether the answer says something of keys, which while an entry is applied in part are neither as before nor as after it.
fn shows_keys(request: &Request) -> bool {
    matches!(
        request,
        Request::Range(_)
            | Request::RangeStream(_)
            | Request::Txn(_)
            | Request::LeaseTimeToLive(_)
            | Request::Hash
            | Request::HashKv(_)
            | Request::Peer(_)
    )
}

impl Member {
    pub(super) fn ask_read(&mut self, call: CallId, request: Request, now_ns: u64) {
        if self.reads.waiting() + self.large_ranges.len() >= READS_WAITING_MAX {
            return self.refuse(call, &request, RequestError::TooManyRequests.into());
        }
        let read = Read {
            call,
            deadline_ns: now_ns + self.config.request_timeout_ns(),
            request,
        };
        match read.request {
            // Both are for the member where the lease's time runs.
            Request::LeaseKeepAlive(_) | Request::LeaseTimeToLive(_) => self.route_lease_call(read),
            _ if is_linearizable(&read.request) => self.reads.unread.push(read),
            _ => self.try_read(read, now_ns),
        }
    }

    /// Answers the read after a round that begins now or later.
    pub(super) fn await_round(&mut self, read: Read) {
        self.reads.unread.push(read);
    }

    /// Answers the read from what is committed here, without asking others.
    pub(super) fn await_applied(&mut self, read: Read) {
        self.reads.behind.push((self.node.commit_index(), read));
    }

    /// Begins one round for everything that arrived since the last one.
    pub(super) fn begin_round(&mut self) {
        if self.reads.unread.is_empty() || !self.has_leader() {
            return; // reads wait for a leader, as long as their time lasts
        }
        self.reads.next_context += 1;
        let context = self.reads.next_context;
        let reads = std::mem::take(&mut self.reads.unread);
        self.reads.rounds.push_back(Round {
            context,
            leader: self.node.leader(),
            index: None,
            reads,
        });
        self.node.read_index(context);
    }

    pub(super) fn round_confirmed(&mut self, context: u64, index: u64) {
        if let Some(round) = self
            .reads
            .rounds
            .iter_mut()
            .find(|round| round.context == context)
        {
            round.index = Some(index);
        }
    }

    /// The round came to nothing: either its leader is gone, or it could not answer yet.
    pub(super) fn round_failed(&mut self, context: u64) {
        if let Some(at) = self
            .reads
            .rounds
            .iter()
            .position(|round| round.context == context)
        {
            if let Some(round) = self.reads.rounds.remove(at) {
                // Without a leader they wait for one, as they would if they came now.
                let another = self.has_leader() && round.leader != self.node.leader();
                for read in round.reads {
                    if let Request::LeaseKeepAlive(_) | Request::LeaseTimeToLive(_) = read.request {
                        self.route_lease_call(read);
                    } else if another {
                        let status = RequestError::LeaderChanged.into();
                        self.refuse(read.call, &read.request, status);
                    } else {
                        self.reads.unread.push(read);
                    }
                }
            }
        }
    }

    /// Answers the reads whose round is confirmed and whose index is applied, and retries those whose pages came. True if
    /// pages came.
    pub(super) fn run_reads(&mut self, now_ns: u64) -> bool {
        let mut arrived = std::mem::take(&mut self.reads.pages_arrived);
        if !self.store.is_applying() {
            arrived |= std::mem::take(&mut self.reads.held);
        }
        if arrived {
            for read in std::mem::take(&mut self.reads.parked) {
                self.try_read(read, now_ns);
            }
        }
        self.reads.damaged = None;
        let (applied, _) = self.store.applied();
        self.run_behind(applied, now_ns);
        while let Some(round) = self.reads.rounds.front() {
            let waits = |index| index > applied && !planted(Fault::ReadUnapplied);
            if round.index.is_none_or(waits) {
                break;
            }
            if let Some(round) = self.reads.rounds.pop_front() {
                for read in round.reads {
                    self.try_read(read, now_ns);
                }
            }
        }
        arrived
    }

    fn run_behind(&mut self, applied: u64, now_ns: u64) {
        if self.reads.behind.is_empty() {
            return;
        }
        for (index, read) in std::mem::take(&mut self.reads.behind) {
            match index <= applied {
                true => self.try_read(read, now_ns),
                false => self.reads.behind.push((index, read)),
            }
        }
    }

    pub(super) fn expire_reads(&mut self, now_ns: u64) {
        let mut expired = Vec::new();
        for (index, read) in std::mem::take(&mut self.reads.behind) {
            match read.deadline_ns <= now_ns {
                true => expired.push(read),
                false => self.reads.behind.push((index, read)),
            }
        }
        let is_late = |read: &Read| read.deadline_ns <= now_ns;
        let mut sweep = |reads: &mut Vec<Read>| {
            if reads.iter().any(is_late) {
                let (late, rest) = reads.drain(..).partition(is_late);
                *reads = rest;
                let late: Vec<Read> = late;
                expired.extend(late);
            }
        };
        sweep(&mut self.reads.unread);
        sweep(&mut self.reads.parked);
        for round in &mut self.reads.rounds {
            sweep(&mut round.reads);
        }
        self.reads
            .rounds
            .retain(|round| !round.reads.is_empty() || round.index.is_none());
        for read in expired {
            self.refuse(read.call, &read.request, RequestError::Timeout.into());
        }
    }

    /// Ends a read without an answer. A keep-alive is a message of a stream: its refusal ends that.
    pub(super) fn refuse(&mut self, call: CallId, request: &Request, status: Status) {
        match request {
            Request::LeaseKeepAlive(_) => self.end_keep_alive(call, status),
            Request::RangeStream(_) | Request::Watch(_) | Request::Snapshot => {
                self.effects.push(Effect::End {
                    call,
                    status: Some(status),
                })
            }
            _ => self.reply(call, Err(status)),
        }
    }

    pub(super) fn try_read(&mut self, read: Read, now_ns: u64) {
        if self.store.is_applying() && shows_keys(&read.request) {
            self.reads.held = true;
            return self.reads.parked.push(read);
        }
        match self.read(&read, now_ns) {
            Ok(()) => {}
            Err(miss)
                if self
                    .reads
                    .damaged
                    .is_some_and(|no| miss.pages.contains(&no)) =>
            {
                self.refuse(read.call, &read.request, RequestError::Corrupt.into())
            }
            Err(miss) => {
                self.fetch(&miss);
                self.reads.parked.push(read);
            }
        }
    }

    /// When the read came in.
    pub(super) fn asked_ns(&self, read: &Read) -> u64 {
        let timeout_ns = self.config.request_timeout_ns();
        read.deadline_ns.saturating_sub(timeout_ns)
    }

    /// Answers a read, or names the pages that it lacks.
    fn read(&mut self, read: &Read, now_ns: u64) -> Result<(), Miss> {
        let call = read.call;
        match &read.request {
            Request::Range(range) if self.take_large(call, range)? => {}
            Request::Range(range) => {
                let mut out = Vec::new();
                let header = self.header(self.store.revision());
                let result = self.store.range_encoded(range, &header, &mut out)?;
                self.reply(call, result.map(|()| out.into()).map_err(Status::from));
            }
            Request::Txn(txn) if self.take_large_txn(call, txn)? => {}
            Request::Txn(txn) => {
                let result = self.store.txn_read_only(txn)?;
                let result = result.map(|mut response| {
                    let revision = self.store.revision();
                    response.header = Some(self.header(revision));
                    encode(&response)
                });
                self.reply(call, result.map_err(Status::from));
            }
            Request::RangeStream(range) => self.range_stream(call, range)?,
            Request::MemberList(_) => {
                let response = pb::MemberListResponse {
                    header: Some(self.header(0)),
                    members: self.store.member_list(),
                };
                self.reply(call, Ok(encode(&response)));
            }
            Request::LeaseKeepAlive(keep_alive) => {
                let asked_ns = self.asked_ns(read);
                self.keep_alive(call, keep_alive.id, asked_ns, now_ns)
            }
            Request::LeaseTimeToLive(request) => {
                let response = self.time_to_live(request, now_ns)?;
                self.reply(call, Ok(encode(&response)));
            }
            Request::Peer(request) => self.read_for_peer(read, request, now_ns)?,
            Request::LeaseLeases => self.lease_leases(call),
            Request::Status => self.status(call),
            Request::Hash => self.hash(call),
            Request::HashKv(request) => self.hash_kv(call, request.revision),
            Request::Downgrade(request) => self.downgrade(call, request),
            _ => self.reply(call, Err(RequestError::UnknownMethod.into())),
        }
        Ok(())
    }

    pub(super) fn header(&self, revision: i64) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.config.cluster_id,
            member_id: self.config.member_id,
            revision,
            raft_term: self.node.term(),
        }
    }
}

pub(super) fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}
