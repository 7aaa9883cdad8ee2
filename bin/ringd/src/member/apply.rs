//! Committed entries into the store, and the answers that follow.

use super::{
    propose::{Caller, Proposal},
    read::encode,
    Introduction, Member,
};
use crate::status::Status;
use bytes::Bytes;
use engine::{error::RequestError, page::Miss, store::Response};
use prost::Message;
use proto::{
    etcdserverpb::{self as pb, InternalRaftRequest},
    membershippb, raftpb,
};

impl Member {
    /// Applies what is committed, as far as its pages are there.
    pub(super) fn apply_committed(&mut self, now_ns: u64) {
        let mut applied = None;
        while let Some(entry) = self.apply_queue.pop_front() {
            if self.halted {
                return;
            }
            let index = entry.index();
            if let Err(miss) = self.apply_entry(&entry, now_ns) {
                self.fetch(&miss);
                self.apply_queue.push_front(entry);
                break;
            }
            applied = Some(index);
        }
        if let Some(index) = applied {
            self.node.applied(index);
        }
    }

    fn apply_entry(&mut self, entry: &raftpb::Entry, now_ns: u64) -> Result<(), Miss> {
        let (index, term) = (entry.index(), entry.term());
        match entry.r#type() {
            raftpb::EntryType::EntryNormal => {}
            _ => return self.apply_membership(entry),
        }
        let mut lost = Vec::new();
        let proposal = self.proposals.take(index, term, &mut lost);
        for caller in lost {
            self.reply(caller.call, Err(RequestError::Timeout.into()));
        }
        match proposal {
            Some(proposal) => self.apply_own(proposal, now_ns),
            None => self.apply_foreign(entry, now_ns),
        }
    }

    fn apply_own(&mut self, proposal: Proposal, now_ns: u64) -> Result<(), Miss> {
        let Proposal {
            index,
            term,
            request,
            caller,
        } = proposal;
        match self.store.apply(index, term, Some(&request), now_ns) {
            Err(miss) => {
                self.proposals.put_back(Proposal {
                    index,
                    term,
                    request,
                    caller,
                });
                Err(miss)
            }
            Ok(applied) => {
                self.after_apply(index, &request, applied.revision);
                if let Some(caller) = caller {
                    self.answer(&caller, applied.response, applied.revision);
                }
                Ok(())
            }
        }
    }

    /// An entry that nobody here waits for: another member's, or one from before a restart.
    fn apply_foreign(&mut self, entry: &raftpb::Entry, now_ns: u64) -> Result<(), Miss> {
        let (index, term) = (entry.index(), entry.term());
        let data = entry.data.clone().unwrap_or_default();
        if data.is_empty() {
            self.store.apply(index, term, None, now_ns)?;
            self.leader_began(term, now_ns);
            return Ok(());
        }
        match proto::decode::decode_internal_request(&data) {
            Ok(request) => {
                let applied = self.store.apply(index, term, Some(&request), now_ns)?;
                self.after_apply(index, &request, applied.revision);
                Ok(())
            }
            Err(error) => {
                self.halt(format!(
                    "log entry {index} of term {term} cannot be read ({error}); it was written by a newer or a \
                     different server. Nothing was applied from it on; restore this member from a peer or a snapshot"
                ));
                Ok(())
            }
        }
    }

    fn apply_membership(&mut self, entry: &raftpb::Entry) -> Result<(), Miss> {
        let data = entry.data.clone().unwrap_or_default();
        let change = match raftpb::ConfChange::decode(data) {
            Ok(change) => change,
            Err(error) => {
                self.halt(format!(
                    "configuration change at log index {} cannot be read: {error}",
                    entry.index()
                ));
                return Ok(());
            }
        };
        let state = self.node.apply_conf_change(&raft::as_v2(&change));
        match state {
            Ok(state) => self
                .store
                .apply_conf_change(entry.index(), entry.term(), &change, &state)
                .map(|_| ()),
            Err(error) => {
                self.halt(format!(
                    "configuration change at log index {} cannot be applied: {error}",
                    entry.index()
                ));
                Ok(())
            }
        }
    }

    fn after_apply(&mut self, index: u64, request: &InternalRaftRequest, _revision: i64) {
        if let Some(fatal) = self.store.fatal() {
            return self.halt(format!("log entry {index} cannot be applied: {fatal}"));
        }
        if let Some(set) = &request.cluster_member_attr_set {
            if set.member_id == self.config.member_id {
                self.introduced = Introduction::Done;
            }
        }
        self.lease_answers();
    }

    fn answer(&mut self, caller: &Caller, result: Result<Response, RequestError>, revision: i64) {
        let header = Some(self.header(revision));
        let message: Result<Bytes, Status> = match result {
            Err(error) => Err(error.into()),
            Ok(Response::Put(mut response)) => {
                response.header = header;
                Ok(encode(&response))
            }
            Ok(Response::DeleteRange(mut response)) => {
                response.header = header;
                Ok(encode(&response))
            }
            Ok(Response::Txn(response)) => {
                let mut response = match caller.wrapped {
                    true => engine::store::unwrap_direct_ranges(response),
                    false => response,
                };
                response.header = header;
                Ok(encode(&response))
            }
            Ok(Response::Compact(compaction)) => {
                return self.compacted(caller.call, compaction, revision)
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

    /// Once there is a leader: tells the cluster this member's name and addresses, and sets the cluster version.
    pub(super) fn introduce(&mut self) {
        if self.introduced != Introduction::Wanted || !self.is_leader_begun() {
            return;
        }
        let attributes = membershippb::Attributes {
            name: self.config.name.clone(),
            client_urls: self.config.client_urls.clone(),
        };
        let known = self.store.attributes(self.config.member_id) == Some(attributes.clone());
        if self.store.cluster_version().is_none() {
            let set = membershippb::ClusterVersionSetRequest {
                ver: self.config.cluster_version.to_string(),
            };
            let entry = Box::new(InternalRaftRequest {
                cluster_version_set: Some(set),
                ..Default::default()
            });
            if self.propose(entry, None).is_err() {
                return; // again at the next turn
            }
        }
        if known {
            self.introduced = Introduction::Done;
            return;
        }
        let set = membershippb::ClusterMemberAttrSetRequest {
            member_id: self.config.member_id,
            member_attributes: Some(attributes),
        };
        let entry = Box::new(InternalRaftRequest {
            cluster_member_attr_set: Some(set),
            ..Default::default()
        });
        if self.propose(entry, None).is_ok() {
            self.introduced = Introduction::Proposed;
        }
    }
}

