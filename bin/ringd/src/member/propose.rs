//! From a write request to a log entry, and the callers that wait for it.

use super::{Effect, Member};
use crate::planted::{planted, Fault};
use crate::{
    request::{CallId, Request},
    status::Status,
};
use bytes::Bytes;
use engine::{
    error::RequestError,
    store::{
        quota, validate,
        wrap::{wrap_direct_ranges, Wrapped},
    },
};
use prost::Message;
use proto::etcdserverpb::{self as pb, InternalRaftRequest};
use raft::ProposeError;
use std::collections::{BTreeMap, VecDeque};

/// Entries that may be committed and not yet applied before new proposals are refused, as in etcd.
const APPLY_BACKLOG_ENTRIES_MAX: u64 = 5_000;
/// Proposals waiting for a leader.
const LEADERLESS_MAX: usize = 100_000;
/// Proposals in flight, whatever their size; above it the caller is told to slow down.
const PROPOSALS_IN_FLIGHT_MAX: usize = 100_000;

/// An alarm that was proposed is not proposed again for this time, unless it was applied and lifted.
const ALARM_AGAIN_NS: u64 = 1_000_000_000;

/// Damaged places that the operator is told of; more of them say nothing new.
const DAMAGE_TOLD_MAX: usize = 100;

/// A proposal of this member that is not applied yet.
pub(super) struct Proposal {
    pub term: u64,
    pub index: u64,
    pub request: Box<InternalRaftRequest>,
    /// `None` once the caller was told that it took too long, or left.
    pub caller: Option<Caller>,
}

#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub call: CallId,
    pub deadline_ns: u64,
    /// Direct ranges of the transaction that were nested: the answer is put back into the client's form.
    pub wrapped: Wrapped,
    /// A compaction that is answered only when its rows are gone.
    pub physical: bool,
}

/// Proposals passed on to the leader, by request id. Each is here until its entry is applied or its caller's time is up.
#[derive(Default)]
pub(super) struct Passed {
    callers: BTreeMap<u64, Caller>,
}

impl Passed {
    /// The caller of the entry with this request id.
    pub fn take(&mut self, id: u64) -> Option<Caller> {
        match self.callers.is_empty() {
            true => None,
            false => self.callers.remove(&id),
        }
    }

    pub fn len(&self) -> usize {
        self.callers.len()
    }

    fn expire(&mut self, now_ns: u64, expired: &mut Vec<Caller>) {
        self.callers.retain(|_, caller| {
            let late = caller.deadline_ns <= now_ns;
            if late {
                expired.push(caller.clone());
            }
            !late
        });
    }
}

/// Proposals in the order of their indexes.
#[derive(Default)]
pub(super) struct Proposals {
    queue: VecDeque<Proposal>,
}

impl Proposals {
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes in what was just appended to the log. Proposals of an earlier leadership that stood at or behind that index
    /// were cut off meanwhile; their callers are lost.
    fn push(&mut self, proposal: Proposal, lost: &mut Vec<Caller>) {
        while self
            .queue
            .back()
            .is_some_and(|last| last.index >= proposal.index)
        {
            lost.extend(self.queue.pop_back().and_then(|last| last.caller));
        }
        self.queue.push_back(proposal);
    }

    /// The proposal that became this entry. What stands before it was overwritten by another leader.
    pub fn take(&mut self, index: u64, term: u64, lost: &mut Vec<Caller>) -> Option<Proposal> {
        while let Some(first) = self.queue.front() {
            if first.index > index {
                return None;
            }
            let proposal = self.queue.pop_front()?;
            if proposal.index == index && proposal.term == term {
                return Some(proposal);
            }
            lost.extend(proposal.caller);
        }
        None
    }

    /// Takes the callers whose time is up. Their proposals stay: they may still be applied.
    pub fn expire(&mut self, now_ns: u64, expired: &mut Vec<Caller>) {
        for proposal in &mut self.queue {
            if proposal
                .caller
                .as_ref()
                .is_some_and(|caller| caller.deadline_ns <= now_ns)
            {
                expired.extend(proposal.caller.take());
            }
        }
    }

    /// Forgets proposals up to an index: their entries were applied elsewhere, or never.
    pub fn drop_through(&mut self, index: u64, lost: &mut Vec<Caller>) {
        while self.queue.front().is_some_and(|first| first.index <= index) {
            lost.extend(self.queue.pop_front().and_then(|first| first.caller));
        }
    }

    /// Forgets proposals that nobody waits for and that another leader cut off the log.
    pub fn forget_cut(&mut self, node: &raft::Node) {
        while self.queue.back().is_some_and(|last| {
            last.caller.is_none() && node.entry_term(last.index) != Some(last.term)
        }) {
            self.queue.pop_back();
        }
    }

    /// Takes back what could not be applied yet.
    pub fn put_back(&mut self, proposal: Proposal) {
        self.queue.push_front(proposal);
    }
}

impl Member {
    /// Validates a write and proposes it; a refusal is answered at once.
    pub(super) fn ask_write(&mut self, call: CallId, request: Request, now_ns: u64) {
        if let Err(status) = self.try_write(call, request, now_ns) {
            self.reply(call, Err(status));
        }
    }

    fn try_write(&mut self, call: CallId, request: Request, now_ns: u64) -> Result<(), Status> {
        let mut wrapped = Wrapped::default();
        let mut physical = false;
        let mut revoked = None;
        let mut entry = Box::<InternalRaftRequest>::default();
        match request {
            Request::Put(put) => {
                self.admit(quota::put_cost(&put))?;
                validate::validate_put(&put)?;
                entry.put = Some(put);
            }
            Request::DeleteRange(delete) => {
                validate::validate_delete_range(&delete)?;
                entry.delete_range = Some(delete);
            }
            Request::Txn(mut txn) => {
                self.admit(quota::txn_cost(&txn))?;
                validate::validate_txn(&txn, self.config.txn_ops_max)?;
                let size = txn.encoded_len();
                self.refuse_too_large(size)?;
                let mixed = self
                    .store
                    .cluster_version()
                    .is_none_or(|v| (v.major, v.minor) < (3, 7));
                if mixed {
                    wrapped = wrap_direct_ranges(&mut txn, false);
                }
                entry.txn = Some(*txn);
            }
            Request::Compact(compaction) => {
                physical = compaction.physical;
                entry.compaction = Some(compaction);
            }
            Request::LeaseGrant(mut grant) => {
                self.admit(quota::lease_grant_cost(&grant))?;
                validate::validate_lease_grant(&grant)?;
                if grant.id == 0 {
                    grant.id = self.config.request_ids.next_lease_id();
                }
                entry.lease_grant = Some(grant);
            }
            Request::LeaseRevoke(revoke) => {
                revoked = Some(revoke.id);
                entry.lease_revoke = Some(revoke);
            }
            Request::Alarm(alarm) => entry.alarm = Some(Box::new(alarm)),
            _ => return Err(RequestError::UnknownMethod.into()),
        }
        let caller = Caller {
            call,
            deadline_ns: now_ns + self.config.request_timeout_ns(),
            wrapped,
            physical,
        };
        self.propose(entry, Some(caller))?;
        if let Some(lease) = revoked {
            self.note_revoke(lease);
        }
        Ok(())
    }

    /// Refuses what would exceed the quota, and raises the alarm.
    fn admit(&mut self, cost_bytes: u64) -> Result<(), Status> {
        // An active alarm refuses when the entry is applied, after the checks of form.
        if cost_bytes > 0 && self.is_at_reserve() {
            self.raise_disk_full();
            return Err(RequestError::NoSpace.into());
        }
        if self.store.over_quota(cost_bytes) {
            self.raise_no_space();
            return Err(RequestError::NoSpace.into());
        }
        Ok(())
    }

    /// The alarm stops the writes of the whole cluster until it is lifted. Where others have room that is too much: then this
    /// member refuses writes while it leads, for as long as its own disk is full.
    pub(super) fn raise_disk_full(&mut self) {
        if self.store.members().nth(1).is_none() {
            self.raise_no_space();
        }
    }

    /// Raises the alarm, unless it is raised or on its way: it is asked for by each refused request, and on a full disk the
    /// log has no room for that.
    pub(super) fn raise_no_space(&mut self) {
        let me = self.config.member_id;
        let is_mine = |alarm: &pb::AlarmMember| {
            alarm.member_id == me && alarm.alarm() == pb::AlarmType::Nospace
        };
        if self.now_ns >= self.alarm_again_ns
            && !self.store.alarms().iter().any(is_mine)
            && self.raise(pb::AlarmType::Nospace)
        {
            self.alarm_again_ns = self.now_ns + ALARM_AGAIN_NS;
            self.checkpoints.alarm_taken();
        }
    }

    pub(super) fn tell_damage(&mut self, what: &str) {
        if self.damage_told.len() < DAMAGE_TOLD_MAX && self.damage_told.insert(what.to_string()) {
            self.notices.push(what.to_string());
        }
    }

    /// Something of this member is damaged: the cluster is told, and the operator with the place, once for each.
    pub(super) fn raise_corrupt(&mut self, what: &str) {
        self.tell_damage(what);
        if !self.corrupt {
            self.corrupt = self.raise(pb::AlarmType::Corrupt);
        }
    }

    fn raise(&mut self, kind: pb::AlarmType) -> bool {
        self.raise_for(self.config.member_id, kind)
    }

    /// Whether the alarm was proposed. If not, what brought it about comes again.
    pub(super) fn raise_for(&mut self, member_id: u64, kind: pb::AlarmType) -> bool {
        let mut alarm = pb::AlarmRequest {
            member_id,
            ..Default::default()
        };
        alarm.set_action(pb::alarm_request::AlarmAction::Activate);
        alarm.set_alarm(kind);
        let entry = Box::new(InternalRaftRequest {
            alarm: Some(Box::new(alarm)),
            ..Default::default()
        });
        self.propose(entry, None).is_ok()
    }

    fn refuse_too_large(&self, bytes: usize) -> Result<(), Status> {
        if bytes > self.config.request_bytes_max {
            return Err(RequestError::RequestTooLarge.into());
        }
        Ok(())
    }

    /// Hands an entry to Raft; the caller, if any, is answered when it is applied.
    pub(super) fn propose(
        &mut self,
        request: Box<InternalRaftRequest>,
        caller: Option<Caller>,
    ) -> Result<(), Status> {
        if self.halted {
            return Err(RequestError::Stopped.into());
        }
        let is_stuck = !self.wal.has_room() && self.wal.disk_full();
        if self.is_backlogged()
            || self.proposals.len() + self.passed.callers.len() >= PROPOSALS_IN_FLIGHT_MAX
            || is_stuck
        {
            return Err(RequestError::TooManyRequests.into());
        }
        match caller {
            // Behind those that wait already.
            Some(caller) if !self.waiting.is_empty() || !self.has_room() => {
                self.wait_for_room(request, caller)
            }
            None if !self.has_room() => Err(RequestError::TooManyRequests.into()),
            caller => self.propose_now(request, caller),
        }
    }

    /// Whether so much is committed and not applied that etcd would refuse more.
    pub(super) fn is_backlogged(&self) -> bool {
        let (applied, _) = self.store.applied();
        self.node.commit_index() > applied + APPLY_BACKLOG_ENTRIES_MAX
    }

    pub(super) fn propose_now(
        &mut self,
        mut request: Box<InternalRaftRequest>,
        caller: Option<Caller>,
    ) -> Result<(), Status> {
        let id = self.next_request_id();
        request.header = Some(pb::RequestHeader {
            id,
            ..Default::default()
        });
        let data = Bytes::from(request.encode_to_vec());
        self.refuse_too_large(data.len())?;
        if planted(Fault::ProposeTwice) && id % 64 == 0 {
            let _ = self.node.propose(data.clone());
        }
        match self.node.propose(data) {
            Ok(proposed) if proposed.index == 0 => {
                if let Some(caller) = caller {
                    self.passed.callers.insert(id, caller);
                }
                Ok(())
            }
            Ok(proposed) => {
                self.plan(&request);
                let mut lost = Vec::new();
                let proposal = Proposal {
                    term: proposed.term,
                    index: proposed.index,
                    request,
                    caller,
                };
                self.proposals.push(proposal, &mut lost);
                self.lose(lost);
                Ok(())
            }
            // While leadership moves there is nobody to take it either.
            Err(ProposeError::Dropped | ProposeError::Transferring) => {
                let Some(caller) = caller else {
                    return Ok(());
                };
                if self.leaderless.len() >= LEADERLESS_MAX {
                    return Err(RequestError::TooManyRequests.into());
                }
                self.leaderless.push_back((request, caller));
                Ok(())
            }
            Err(_) => Err(RequestError::TooManyRequests.into()),
        }
    }

    /// Starts fetching the pages that applying the entry will need, so that they arrive while it is being written.
    fn plan(&mut self, request: &InternalRaftRequest) {
        let mut missing = engine::page::Miss::default();
        self.store.plan(request, &mut missing);
        self.fetch(&missing);
    }

    /// Proposals that found no leader go in as soon as there is one.
    pub(super) fn retry_leaderless(&mut self, now_ns: u64) {
        self.release_held(now_ns);
        let mut late = Vec::new();
        for _ in 0..self.leaderless.len() {
            let Some((request, caller)) = self.leaderless.pop_front() else {
                break;
            };
            let call = caller.call;
            if caller.deadline_ns <= now_ns {
                late.push(call);
            } else if let Err(status) = self.propose(request, Some(caller)) {
                self.reply(call, Err(status));
            }
        }
        // Never taken by anyone: this is certain to have had no effect.
        for call in late {
            self.reply(call, Err(RequestError::DeadlineExceeded.into()));
        }
    }

    /// Entries of these callers were overwritten by another leader's, as far as this member sees.
    pub(super) fn lose(&mut self, callers: Vec<Caller>) {
        let timeout_ns = self.config.request_timeout_ns();
        for caller in callers {
            let error = self.timeout_error(caller.deadline_ns.saturating_sub(timeout_ns));
            self.reply(caller.call, Err(error.into()));
        }
    }

    /// Tells callers whose time is up; what they asked for may still happen, and the text says so.
    pub(super) fn expire_proposals(&mut self, now_ns: u64) {
        let mut expired = Vec::new();
        self.proposals.expire(now_ns, &mut expired);
        self.proposals.forget_cut(&self.node);
        self.passed.expire(now_ns, &mut expired);
        self.lose(expired);
    }

    pub(super) fn next_request_id(&mut self) -> u64 {
        self.config.request_ids.next_id()
    }

    pub(super) fn reply(&mut self, call: CallId, result: Result<Bytes, Status>) {
        if call != CallId::NOBODY {
            self.effects.push(Effect::Reply { call, result });
        }
    }
}
