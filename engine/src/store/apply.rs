//! What a committed entry does.

use super::large_write::Write;
use super::txn::Evaluated;
use super::watching::event_of;
use super::{header, quota, ApplyError, FatalError, Store, PLANNED};
use crate::error::RequestError;
use crate::mvcc::batch::{Batch, Change};
use crate::mvcc::kv::Kv;
use crate::mvcc::row::WELL_FORMED;
use crate::mvcc::write::{prior, write_change, NewVersion};
use crate::mvcc::Revision;
use crate::page::Miss;
use bytes::Bytes;
use proto::etcdserverpb::*;
use proto::mvccpb::KeyValue;

/// The answer to an entry. Headers carry only the revision.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Empty,
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compaction(CompactionResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(LeaseRevokeResponse),
    LeaseCheckpoint(LeaseCheckpointResponse),
    Alarm(AlarmResponse),
}

/// What applying an entry came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    pub response: Result<Response, RequestError>,
    /// Revision of the store after the entry.
    pub revision: i64,
    /// The entry was applied although this member is over its quota: whoever proposed it raises the NOSPACE alarm for
    /// itself and answers [`RequestError::NoSpace`]. Differs between members.
    pub over_quota: bool,
    /// For a compaction, refused ones included: the answer to a physical one waits until
    /// [`Store::compactions_done`] has reached this number.
    pub compaction: Option<u64>,
}

impl Store {
    /// Applies one entry in one go. `None` is an entry without a request, such as a new leader's first one. An entry that was
    /// applied before changes nothing.
    pub fn apply(
        &mut self,
        index: u64,
        term: u64,
        request: Option<&InternalRaftRequest>,
        now_ns: u64,
    ) -> Result<Applied, ApplyError> {
        let applied = self.apply_slice((index, term), request, now_ns, usize::MAX)?;
        Ok(applied.expect("without a bound everything is one slice"))
    }

    /// As [`Store::apply`], but an entry that is about more than `keys_max` keys takes many calls, each of which looks at so many
    /// at most. `None`: to be called again.
    pub fn apply_slice(
        &mut self,
        (index, term): (u64, u64),
        request: Option<&InternalRaftRequest>,
        now_ns: u64,
        keys_max: usize,
    ) -> Result<Option<Applied>, ApplyError> {
        let mut applied = Applied {
            response: Ok(Response::Empty),
            revision: self.revision,
            over_quota: false,
            compaction: None,
        };
        if index <= self.applied_index {
            return Ok(Some(applied));
        }
        let keys_max = keys_max.max(1);
        if let Some(large) = self.large_write.take() {
            return Ok(self.continue_write(large, (index, term), request, keys_max)?);
        }
        self.results.begin();
        if let Some(request) = request {
            if !self.apply_request(index, request, now_ns, keys_max, &mut applied)? {
                return Ok(None);
            }
            self.results.outcome(&applied.response);
        }
        self.entry_applied(index, term);
        applied.revision = self.revision;
        Ok(Some(applied))
    }

    pub(super) fn entry_applied(&mut self, index: u64, term: u64) {
        self.applied_index = index;
        self.applied_term = term;
        let (revision, compacted) = (self.revision, self.compacted);
        self.results.end(index, term, revision, compacted);
    }

    /// Whether all of it is applied.
    fn apply_request(
        &mut self,
        index: u64,
        request: &InternalRaftRequest,
        now_ns: u64,
        keys_max: usize,
        applied: &mut Applied,
    ) -> Result<bool, ApplyError> {
        // The hot path first; the others are told apart below.
        if let Some(put) = &request.put {
            let cost = quota::put_cost(put);
            applied.over_quota = self.over_quota(cost);
            applied.response = match self.refused_by_alarm(cost) {
                Some(error) => Err(error),
                None => self.apply_put(put)?.map(Response::Put),
            };
        } else if let Some(write) = Write::of(request) {
            let cost = write.cost();
            applied.over_quota = self.over_quota(cost);
            let written = match self.refused_by_alarm(cost) {
                Some(error) => Err(error),
                None => self.begin_write(index, write, applied.over_quota, keys_max)?,
            };
            applied.response = match written {
                Ok(None) => return Ok(false),
                Ok(Some(response)) => Ok(response),
                Err(error) => Err(error),
            };
        } else {
            self.apply_other(index, request, now_ns, applied)?;
        }
        if applied.response.is_err() {
            applied.over_quota = false;
        }
        Ok(true)
    }

    fn apply_other(
        &mut self,
        index: u64,
        request: &InternalRaftRequest,
        now_ns: u64,
        applied: &mut Applied,
    ) -> Result<(), ApplyError> {
        let refused = self.refused_by_alarm(0);
        applied.response = if let Some(range) = &request.range {
            match refused {
                Some(error) => Err(error),
                None => self.range(range)?.map(Response::Range),
            }
        } else if let Some(compaction) = &request.compaction {
            let response = match refused {
                Some(error) => Err(error),
                None => self.apply_compaction(compaction.revision),
            };
            applied.compaction = Some(self.compactor.scheduled());
            response.map(|()| {
                Response::Compaction(CompactionResponse {
                    header: Some(self.header()),
                })
            })
        } else if let Some(grant) = &request.lease_grant {
            let cost = quota::lease_grant_cost(grant);
            applied.over_quota = self.over_quota(cost);
            match self.refused_by_alarm(cost) {
                Some(error) => Err(error),
                None => self
                    .apply_lease_grant(grant, now_ns)?
                    .map(Response::LeaseGrant),
            }
        } else if let Some(checkpoint) = &request.lease_checkpoint {
            self.apply_lease_checkpoint(checkpoint)?
                .map(Response::LeaseCheckpoint)
        } else if let Some(alarm) = &request.alarm {
            self.apply_alarm(alarm)?.map(Response::Alarm)
        } else {
            self.apply_cluster(index, request)?
        };
        Ok(())
    }

    fn apply_cluster(
        &mut self,
        index: u64,
        request: &InternalRaftRequest,
    ) -> Result<Result<Response, RequestError>, ApplyError> {
        let done = if let Some(set) = &request.cluster_version_set {
            self.apply_cluster_version(set)?
        } else if let Some(set) = &request.cluster_member_attr_set {
            self.apply_member_attributes(set)?
        } else if let Some(set) = &request.downgrade_info_set {
            self.apply_downgrade_info(set)?
        } else if is_auth(request) {
            Err(RequestError::AuthUnavailable)
        } else if request.downgrade_version_test.is_some() {
            // An entry without effect that etcd 3.6 writes in its own tests.
            Ok(())
        } else {
            return Err(ApplyError::Fatal(FatalError::NoOperation { index }));
        };
        Ok(done.map(|()| Response::Empty))
    }

    /// `cost`: of the request against the quota; zero for one that needs no space.
    pub(super) fn refused_by_alarm(&self, cost: u64) -> Option<RequestError> {
        match self.settings.ruling_alarm()? {
            AlarmType::Corrupt => Some(RequestError::Corrupt),
            AlarmType::Nospace if cost > 0 => Some(RequestError::NoSpace),
            _ => None,
        }
    }

    /// The hot path: one cell read, one cell and one row written, no copy of key or value but the row's own.
    fn apply_put(&mut self, put: &PutRequest) -> Evaluated<PutResponse> {
        if let Err(error) = self.check_lease(put.lease) {
            return Ok(Err(error));
        }
        let before = prior(&self.trees, &self.pages, &put.key)?;
        let live = before
            .as_ref()
            .map(|(head, _)| *head)
            .filter(|head| !head.tombstone);
        if live.is_none() && (put.ignore_value || put.ignore_lease) {
            return Ok(Err(RequestError::KeyNotFound));
        }
        let main = self.revision + 1;
        let mut prev_kv: Option<KeyValue> = None;
        if let Some(head) = live.filter(|_| put.prev_kv || put.ignore_value) {
            let row = self.reader().row(head.at)?.expect(WELL_FORMED);
            let kv = row.body();
            prev_kv = Some(Kv::parse(&kv).expect(WELL_FORMED).to_message(false));
        }
        let kept: Bytes;
        let value = match &prev_kv {
            Some(previous) if put.ignore_value => {
                kept = previous.value.clone();
                &kept
            }
            _ => &put.value,
        };
        let lease_before = live.map_or(0, |head| head.lease);
        let change = NewVersion {
            at: Revision::new(main, 0),
            tombstone: false,
            kv: Kv {
                key: &put.key,
                create: live.map_or(main, |head| head.create),
                modified: main,
                version: live.map_or(1, |head| head.version + 1),
                value,
                lease: if put.ignore_lease {
                    lease_before
                } else {
                    put.lease
                },
            },
            lease_before,
        };
        let mut missing = Miss::default();
        self.plan_edge(&mut missing);
        change.plan_lease(&self.trees, &self.pages, &mut self.scratch, &mut missing);
        if !missing.is_empty() {
            return Err(missing);
        }
        let (trees, pages) = (&mut self.trees, &mut self.pages);
        write_change(trees, pages, &change, before, &mut self.scratch).expect(PLANNED);
        self.results.change(false, self.scratch.body());
        self.lessor_moved(lease_before, change.kv.lease);
        self.revision = main;
        self.edge_is_dirty = true;
        self.publish(&[event_of(&change)]);
        Ok(Ok(PutResponse {
            header: Some(header(main)),
            prev_kv: prev_kv.filter(|_| put.prev_kv),
        }))
    }

    /// Writes an evaluated transaction, all of it or, on a miss, nothing.
    pub(super) fn write(&mut self, batch: &Batch) -> Result<(), Miss> {
        if batch.is_empty() {
            return Ok(());
        }
        let missing = self.plan_batch(batch);
        if !missing.is_empty() {
            return Err(missing);
        }
        let main = batch.main();
        for (sub, change) in (0..).zip(batch.changes()) {
            self.write_one(change, Revision::new(main, sub));
        }
        for change in batch.changes() {
            self.lessor_moved(change.lease_before, change.lease);
        }
        self.revision = main;
        self.edge_is_dirty = true;
        let events: Vec<_> = batch
            .changes()
            .iter()
            .map(|change| event_of(&change.version_at(Revision::new(main, 0))))
            .collect();
        self.publish(&events);
        Ok(())
    }

    /// Writes one change whose pages are at hand.
    pub(super) fn write_one(&mut self, change: &Change, at: Revision) {
        let change = change.version_at(at);
        let (trees, pages) = (&mut self.trees, &mut self.pages);
        let before = prior(trees, pages, change.kv.key).expect(PLANNED);
        write_change(trees, pages, &change, before, &mut self.scratch).expect(PLANNED);
        self.results.change(change.tombstone, self.scratch.body());
    }

    fn plan_batch(&mut self, batch: &Batch) -> Miss {
        let mut missing = Miss::default();
        self.plan_edge(&mut missing);
        self.plan_changes(batch.main(), batch.changes(), &mut missing);
        missing
    }

    pub(super) fn plan_changes(&mut self, main: i64, changes: &[Change], missing: &mut Miss) {
        for change in changes {
            let change = change.version_at(Revision::new(main, 0));
            let keys = &self.trees.keys;
            keys.plan_insert(&self.pages, change.kv.key, missing);
            change.plan_lease(&self.trees, &self.pages, &mut self.scratch, missing);
        }
    }

    pub(super) fn lessor_moved(&mut self, before: i64, after: i64) {
        if before == after {
            return;
        }
        if before != 0 {
            self.lessor.detach(before);
        }
        if after != 0 {
            self.lessor.attach(after);
        }
    }
}

fn is_auth(request: &InternalRaftRequest) -> bool {
    request.auth_enable.is_some()
        || request.auth_disable.is_some()
        || request.authenticate.is_some()
        || request.auth_status.is_some()
        || request.auth_user_add.is_some()
        || request.auth_user_delete.is_some()
        || request.auth_user_get.is_some()
        || request.auth_user_change_password.is_some()
        || request.auth_user_grant_role.is_some()
        || request.auth_user_revoke_role.is_some()
        || request.auth_user_list.is_some()
        || request.auth_role_list.is_some()
        || request.auth_role_add.is_some()
        || request.auth_role_delete.is_some()
        || request.auth_role_get.is_some()
        || request.auth_role_grant_permission.is_some()
        || request.auth_role_revoke_permission.is_some()
}
