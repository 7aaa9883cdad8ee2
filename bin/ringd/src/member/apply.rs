//! Committed entries into the store, and the answers that follow.

use super::{
    propose::{Caller, Proposal},
    read::encode,
    Effect, Introduction, Member,
};
use crate::planted::{planted, Fault};
use crate::status::Status;
use bytes::Bytes;
use engine::{
    error::RequestError,
    page::Miss,
    store::{decode_internal_request, Applied, ApplyError, Payload, Response},
};
use prost::Message;
use proto::{etcdserverpb::InternalRaftRequest, membershippb, raftpb};

/// A removed member goes on for this long, so that the others learn of its removal from it if it led them.
pub(super) const REMOVED_LINGER_NS: u64 = 1_000_000_000;
/// When an entry lacks pages, those of so many entries behind it are fetched along: a restart and a follower that catches up
/// would otherwise wait for one page after the other.
const PLANNED_ENTRIES_MAX: usize = 1024;
const PLANNED_PAGES_PER_JOB: usize = 64;

/// Why an entry is not applied yet.
enum Unapplied {
    Miss(Miss),
    /// It takes many slices, and this was one of them.
    InPart,
}

impl From<Miss> for Unapplied {
    fn from(miss: Miss) -> Unapplied {
        Unapplied::Miss(miss)
    }
}

impl Member {
    /// Whether an entry is applied in part, and the next slice has its pages.
    pub(super) fn wants_apply_slice(&self) -> bool {
        self.store.is_applying()
            && self.apply_awaits.is_empty()
            && !self.apply_queue.is_empty()
            && !self.holds_apply()
    }

    /// Applies what is committed, as far as its pages are there.
    pub(super) fn apply_committed(&mut self, now_ns: u64) {
        let mut applied = None;
        // What was begun has to end, or no checkpoint could make room.
        while !self.is_overfull() || self.store.is_applying() {
            let Some(entry) = self.apply_queue.pop_front() else {
                break;
            };
            if self.halted {
                return;
            }
            let index = entry.index();
            if self.skip_entry(&entry, now_ns) {
                applied = Some(index);
                continue;
            }
            if self.holds_apply() {
                self.apply_queue.push_front(entry);
                break;
            }
            match self.apply_entry(&entry, now_ns) {
                Ok(()) => {
                    self.apply_awaits.clear();
                    applied = Some(index);
                }
                Err(Unapplied::InPart) => {
                    self.apply_awaits.clear();
                    self.background.has_changed_pages = true;
                    self.apply_queue.push_front(entry);
                    break;
                }
                Err(Unapplied::Miss(miss)) => {
                    // What was evaluated of it is kept.
                    self.background.has_changed_pages |= self.store.is_applying();
                    // Pages that are on their way already were planned for with their neighbours.
                    if self.fetch(&miss) {
                        self.fetch_queued();
                    }
                    self.apply_awaits = miss.pages;
                    self.apply_queue.push_front(entry);
                    break;
                }
            }
        }
        if let Some(index) = applied {
            self.node.applied(index);
        }
    }

    /// Asks for the pages that the next entries will need. Entries that cannot be read are left for their turn.
    fn fetch_queued(&mut self) {
        let mut missing = Miss::default();
        for entry in self.apply_queue.iter().take(PLANNED_ENTRIES_MAX) {
            if entry.r#type() != raftpb::EntryType::EntryNormal {
                continue;
            }
            let data = entry.data.clone().unwrap_or_default();
            if let Ok(Payload::Request(request)) = decode_internal_request(data) {
                self.store.plan(&request, &mut missing);
            }
        }
        // Several jobs, for several threads of the pool, and so that the first pages are here soon.
        for pages in missing.pages.chunks(PLANNED_PAGES_PER_JOB) {
            let pages = pages.to_vec();
            self.fetch(&Miss { pages });
        }
    }

    fn apply_entry(&mut self, entry: &raftpb::Entry, now_ns: u64) -> Result<(), Unapplied> {
        let (index, term) = (entry.index(), entry.term());
        match entry.r#type() {
            raftpb::EntryType::EntryNormal => {}
            _ => return Ok(self.apply_membership(entry, now_ns)?),
        }
        let mut lost = Vec::new();
        let proposal = self.proposals.take(index, term, &mut lost);
        self.lose(lost);
        match proposal {
            Some(proposal) => self.apply_own(proposal, now_ns),
            None => self.apply_foreign(entry, now_ns),
        }
    }

    fn apply_own(&mut self, proposal: Proposal, now_ns: u64) -> Result<(), Unapplied> {
        let (index, term) = (proposal.index, proposal.term);
        match self.apply_to_store(index, term, Some(&proposal.request), now_ns) {
            Err(ApplyError::Miss(miss)) => {
                self.proposals.put_back(proposal);
                Err(miss.into())
            }
            Err(ApplyError::Fatal(fatal)) => {
                self.halt(fatal.to_string());
                Ok(())
            }
            Ok(None) => {
                self.proposals.put_back(proposal);
                Err(Unapplied::InPart)
            }
            Ok(Some(applied)) => {
                self.after_apply(&proposal.request);
                if let Some(caller) = proposal.caller {
                    self.answer(&caller, applied);
                } else if applied.over_quota {
                    self.raise_no_space();
                }
                Ok(())
            }
        }
    }

    fn apply_to_store(
        &mut self,
        index: u64,
        term: u64,
        request: Option<&InternalRaftRequest>,
        now_ns: u64,
    ) -> Result<Option<Applied>, ApplyError> {
        if planted(Fault::ApplyOtherwise) {
            let other = request.and_then(|request| self.otherwise(index, request));
            if let Some(other) = other {
                let applied = self.store.apply(index, term, Some(&other), now_ns);
                return applied.map(Some);
            }
        }
        let keys_max = self.config.apply_slice_keys;
        self.store
            .apply_slice((index, term), request, now_ns, keys_max)
    }

    /// What the planted bug makes of an entry, if it is its turn.
    fn otherwise(&self, index: u64, request: &InternalRaftRequest) -> Option<InternalRaftRequest> {
        let first = self.store.members().map(|member| member.id).next();
        let is_due = first == Some(self.config.member_id) && index % 50 == 0;
        let mut other = request.clone();
        let put = other.put.as_mut().filter(|_| is_due)?;
        put.value = Bytes::from_static(b"otherwise");
        Some(other)
    }

    /// An entry that nobody here waits for: another member's, or one from before a restart.
    fn apply_foreign(&mut self, entry: &raftpb::Entry, now_ns: u64) -> Result<(), Unapplied> {
        let (index, term) = (entry.index(), entry.term());
        let decoded = self.decoded.take().filter(|(of, _)| *of == index);
        let decoded = match decoded {
            Some((_, payload)) => Ok(payload),
            None => decode_internal_request(entry.data.clone().unwrap_or_default()),
        };
        let payload = match decoded {
            Ok(payload) => payload,
            Err(error) => {
                self.halt(format!(
                    "log entry {index} of term {term} cannot be read: {error}. Nothing was applied from it on"
                ));
                return Ok(());
            }
        };
        let request = match &payload {
            Payload::Nothing => None,
            Payload::Request(request) => Some(&**request),
        };
        match self.apply_to_store(index, term, request, now_ns) {
            Err(ApplyError::Miss(miss)) => {
                self.decoded = Some((index, payload));
                return Err(miss.into());
            }
            Ok(None) => {
                self.decoded = Some((index, payload));
                return Err(Unapplied::InPart);
            }
            Err(ApplyError::Fatal(fatal)) => self.halt(fatal.to_string()),
            Ok(Some(applied)) => match request {
                Some(request) => {
                    self.after_apply(request);
                    let id = request.header.as_ref().map_or(0, |header| header.id);
                    if let Some(caller) = self.passed.take(id) {
                        self.answer(&caller, applied);
                    }
                }
                None => self.leader_began(term, now_ns),
            },
        }
        Ok(())
    }

    fn apply_membership(&mut self, entry: &raftpb::Entry, now_ns: u64) -> Result<(), Miss> {
        let (index, term) = (entry.index(), entry.term());
        let change = match raftpb::ConfChange::decode(entry.data.clone().unwrap_or_default()) {
            Ok(change) => change,
            Err(error) => {
                self.halt(format!(
                    "configuration change at log index {index} cannot be read: {error}"
                ));
                return Ok(());
            }
        };
        let accepted = match self.store.check_conf_change(&change) {
            Ok(accepted) => accepted,
            Err(error) => {
                self.halt(format!(
                    "configuration change at log index {index}: {error}"
                ));
                return Ok(());
            }
        };
        // A refused change still is an entry: Raft applies it as a change of nobody.
        let mut raft_change = change.clone();
        if accepted.is_err() {
            raft_change.node_id = Some(0);
        }
        let state = match self.half_applied.take() {
            Some((of, state)) if of == index => Ok(state),
            _ => self
                .node
                .apply_conf_change(&raft::ConfChange::V1(raft_change).to_v2()),
        };
        match state {
            Ok(state) => {
                // Raft takes a change once, however often the store has to wait for pages.
                self.half_applied = Some((index, state.clone()));
                self.store
                    .apply_conf_change(index, term, accepted.as_ref().ok(), state)?;
                self.changed(&change, accepted.map(|_| ()));
                self.effects.push(Effect::MembersChanged);
                if self.store.is_removed_member(self.config.member_id) {
                    self.removed_after(REMOVED_LINGER_NS, now_ns);
                }
                Ok(())
            }
            Err(error) => {
                self.halt(format!(
                    "configuration change at log index {index} cannot be applied: {error}"
                ));
                Ok(())
            }
        }
    }

    fn after_apply(&mut self, request: &InternalRaftRequest) {
        if request.alarm.is_some() {
            // Raised, or lifted and to be raised again at once: none is on its way any more.
            self.alarm_again_ns = 0;
        }
        if let Some(set) = &request.cluster_member_attr_set {
            if set.member_id == self.config.member_id {
                self.introduced = Introduction::Done;
                if self.checkpoints.is_first() {
                    // From the start on the page file says whose log it goes with.
                    self.checkpoints.force();
                }
            }
        }
        self.lease_answers();
    }

    fn answer(&mut self, caller: &Caller, applied: Applied) {
        if let (true, Some(number)) = (caller.physical, applied.compaction) {
            let result = applied.response.map(|_| applied.revision);
            return self.compacted(caller.call, number, result);
        }
        if applied.over_quota {
            // It was applied, and there is no room for more: the caller is told so.
            self.raise_no_space();
            return self.reply(caller.call, Err(RequestError::NoSpace.into()));
        }
        let header = Some(self.header(applied.revision));
        let message: Result<Bytes, Status> = match applied.response {
            Err(error) => Err(error.into()),
            Ok(Response::Put(mut response)) => {
                response.header = header;
                Ok(encode(&response))
            }
            Ok(Response::DeleteRange(mut response)) => {
                response.header = header;
                Ok(encode(&response))
            }
            Ok(Response::Txn(mut response)) => {
                caller.wrapped.unwrap_response(&mut response);
                response.header = header;
                Ok(encode(&response))
            }
            Ok(Response::Compaction(mut response)) => {
                response.header = header;
                Ok(encode(&response))
            }
            Ok(Response::LeaseGrant(mut response)) => {
                response.header = header;
                Ok(encode(&response))
            }
            Ok(Response::LeaseRevoke(mut response)) => {
                response.header = header;
                Ok(encode(&response))
            }
            Ok(Response::Alarm(mut response)) => {
                response.header = header;
                Ok(encode(&response))
            }
            Ok(_) => Ok(Bytes::new()),
        };
        self.reply(caller.call, message);
    }

    /// Once there is a leader: tells the cluster this member's name and addresses, until that is applied.
    pub(super) fn introduce(&mut self, now_ns: u64) {
        match self.introduced {
            Introduction::Done => return,
            Introduction::Proposed { again_ns } if now_ns < again_ns => return,
            _ => {}
        }
        let me = self.config.member_id;
        // A member that joins learns from the log that it belongs to the cluster.
        let Some(present) = self.store.member(me) else {
            return;
        };
        if !self.has_leader() || self.leads_without_having_begun() {
            return;
        }
        let attributes = membershippb::Attributes {
            name: self.config.name.clone(),
            client_urls: self.config.client_urls.clone(),
        };
        if present.member_attributes.as_ref() == Some(&attributes) {
            self.introduced = Introduction::Done;
            return;
        }
        let set = membershippb::ClusterMemberAttrSetRequest {
            member_id: me,
            member_attributes: Some(attributes),
        };
        let entry = Box::new(InternalRaftRequest {
            cluster_member_attr_set: Some(Box::new(set)),
            ..Default::default()
        });
        if self.propose(entry, None).is_ok() {
            let again_ns = now_ns + self.config.request_timeout_ns();
            self.introduced = Introduction::Proposed { again_ns };
        }
    }

    fn leads_without_having_begun(&self) -> bool {
        self.node.role() == raft::Role::Leader && !self.is_leader_begun()
    }
}
