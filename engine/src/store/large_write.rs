//! What deletes and transactions write, and what a revoked lease leaves behind: it may be so much that applying it in one go
//! would hold up the member, heartbeats included. Such an entry is applied in slices.
//!
//! First the request is evaluated, key by key, which changes nothing. What comes of it is written as a whole if it fits into a
//! slice, and part by part otherwise. An entry without a bound on its slices takes one, by the same way.
//!
//! Between two slices the trees may hold a part of the entry, so nothing may be read of the store, nothing compacted or moved,
//! and no checkpoint begun, until it is whole ([`Store::is_applying`]). A crash in between costs nothing: the entry is in the
//! log, and no checkpoint knows of it.

use super::leases::AttachedKeys;
use super::txn::{Evaluated, TxnRun};
use super::{header, quota, Applied, Response, Store};
use crate::error::RequestError;
use crate::mvcc::batch::{Batch, Change, Deletion, Latest};
use crate::mvcc::Revision;
use crate::page::Miss;
use bytes::Bytes;
use proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, InternalRaftRequest, LeaseRevokeResponse, TxnRequest,
};
use std::collections::BTreeMap;

/// The operation of an entry that can be a large one.
#[derive(Clone, Copy)]
pub(super) enum Write<'r> {
    Txn(&'r TxnRequest),
    Delete(&'r DeleteRangeRequest),
    /// Of this lease.
    Revoke(i64),
}

/// An entry of which a part is applied.
pub(super) struct LargeWrite {
    index: u64,
    /// As it was when it began.
    over_quota: bool,
    stage: Stage,
}

enum Stage {
    Evaluate(Evaluation),
    /// Evaluating took several slices, and writing takes one.
    WriteWhole(Response, Batch),
    WriteParts(Box<Parts>),
}

/// How far evaluating has come.
struct Evaluation {
    batch: Batch,
    run: Run,
}

enum Run {
    Txn(TxnRun),
    Delete(Deletion),
    Revoke(AttachedKeys),
}

/// How far writing has come.
struct Parts {
    /// Of a refused entry nothing is written, and what was worked out for it goes away in slices as well.
    response: Result<Response, RequestError>,
    /// Those that are left.
    changes: std::vec::IntoIter<Change>,
    /// The sub-revision of the next one.
    sub: i64,
    /// The keys of the changes, where these have another order: they are moved to `keys` at last.
    unsorted: BTreeMap<Bytes, Latest>,
    keys: SortedKeys,
}

/// Keys in their order, in two pieces of memory: those of a million changes are given back at once.
#[derive(Default)]
struct SortedKeys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl SortedKeys {
    fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, at: usize) -> Option<&[u8]> {
        let end = *self.ends.get(at)?;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }

    fn first_from(&self, from: &[u8]) -> Option<&[u8]> {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle) {
                Some(key) if key < from => low = middle + 1,
                _ => high = middle,
            }
        }
        self.get(low)
    }
}

impl<'r> Write<'r> {
    /// Of an entry that is about several things, which nobody writes, one counts.
    pub fn of(request: &'r InternalRaftRequest) -> Option<Write<'r>> {
        if let Some(txn) = &request.txn {
            return Some(Write::Txn(txn));
        }
        let delete = request.delete_range.as_ref().map(Write::Delete);
        let is_another = request.range.is_some()
            || request.compaction.is_some()
            || request.lease_grant.is_some();
        let revoke = request.lease_revoke.as_ref().filter(|_| !is_another);
        delete.or(revoke.map(|revoke| Write::Revoke(revoke.id)))
    }

    /// Against the quota.
    pub fn cost(self) -> u64 {
        match self {
            Write::Txn(txn) => quota::txn_cost(txn),
            Write::Delete(_) | Write::Revoke(_) => 0,
        }
    }
}

impl Store {
    /// Whether an entry is applied in part. Only [`Store::apply_slice`] with this entry may follow.
    pub fn is_applying(&self) -> bool {
        self.large_write.is_some()
    }

    /// Applies a write, or begins to. `None`: it takes more than a slice.
    pub(super) fn begin_write(
        &mut self,
        index: u64,
        write: Write<'_>,
        over_quota: bool,
        keys_max: usize,
    ) -> Evaluated<Option<Response>> {
        let mut evaluation = match self.begin_evaluation(write) {
            Ok(evaluation) => evaluation,
            Err(error) => return Ok(Err(error)),
        };
        match self.evaluate(write, &mut evaluation, keys_max)? {
            Ok(None) => {
                self.large_write = Some(LargeWrite {
                    index,
                    over_quota,
                    stage: Stage::Evaluate(evaluation),
                });
                Ok(Ok(None))
            }
            Ok(Some(response)) => {
                self.write_whole(write, &evaluation.batch)?;
                Ok(Ok(Some(response)))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Goes on with the entry that is applied in part.
    pub(super) fn continue_write(
        &mut self,
        mut large: LargeWrite,
        (index, term): (u64, u64),
        request: Option<&InternalRaftRequest>,
        keys_max: usize,
    ) -> Result<Option<Applied>, Miss> {
        assert_eq!(large.index, index, "nothing else is applied meanwhile");
        let write = request.and_then(Write::of).expect("the same request");
        let step = self.next_slice(&mut large, write, keys_max);
        let Ok(Some(response)) = step else {
            self.large_write = Some(large);
            return step.map(|_| None);
        };
        self.results.outcome(&response);
        self.entry_applied(index, term);
        Ok(Some(Applied {
            over_quota: large.over_quota && response.is_ok(),
            response,
            revision: self.revision,
            compaction: None,
        }))
    }

    /// The outcome, once it is applied.
    fn next_slice(
        &mut self,
        large: &mut LargeWrite,
        write: Write<'_>,
        keys_max: usize,
    ) -> Result<Option<Result<Response, RequestError>>, Miss> {
        match &mut large.stage {
            Stage::Evaluate(evaluation) => {
                let outcome = match self.evaluate(write, evaluation, keys_max)? {
                    Ok(None) => return Ok(None),
                    Ok(Some(response)) => Ok(response),
                    Err(error) => Err(error),
                };
                let batch = Batch::write_only(evaluation.batch.main());
                let batch = std::mem::replace(&mut evaluation.batch, batch);
                large.stage = match outcome {
                    Ok(response) if batch.changes().len() <= keys_max => {
                        Stage::WriteWhole(response, batch)
                    }
                    outcome => Stage::WriteParts(Box::new(Parts::new(outcome, batch))),
                };
                Ok(None)
            }
            Stage::WriteWhole(response, batch) => {
                self.write_whole(write, batch)?;
                Ok(Some(Ok(std::mem::replace(response, Response::Empty))))
            }
            Stage::WriteParts(parts) => match self.write_part(write, parts, keys_max)? {
                false => Ok(None),
                true => Ok(Some(std::mem::replace(
                    &mut parts.response,
                    Ok(Response::Empty),
                ))),
            },
        }
    }

    fn begin_evaluation(&self, write: Write<'_>) -> Result<Evaluation, RequestError> {
        let main = self.revision + 1;
        let begun = |run| Evaluation {
            batch: match run {
                Run::Txn(_) => Batch::new(main),
                Run::Delete(_) | Run::Revoke(_) => Batch::write_only(main),
            },
            run,
        };
        match write {
            Write::Txn(_) => Ok(begun(Run::Txn(TxnRun::default()))),
            Write::Delete(_) => Ok(begun(Run::Delete(Deletion::default()))),
            Write::Revoke(id) => self
                .check_revoke(id)
                .map(|()| begun(Run::Revoke(AttachedKeys::of(id)))),
        }
    }

    /// Looks at up to `keys_max` keys. The answer, once it is known.
    fn evaluate(
        &self,
        write: Write<'_>,
        evaluation: &mut Evaluation,
        keys_max: usize,
    ) -> Evaluated<Option<Response>> {
        let mut keys_left = keys_max.max(1);
        let batch = &mut evaluation.batch;
        let response = match (write, &mut evaluation.run) {
            (Write::Txn(txn), Run::Txn(run)) => {
                return Ok(run
                    .go_on(self, txn, batch, &mut keys_left)?
                    .map(|done| done.map(Response::Txn)));
            }
            (Write::Delete(delete), Run::Delete(deletion)) => {
                if !batch.delete_range(&self.reader(), delete, deletion, &mut keys_left)? {
                    return Ok(Ok(None));
                }
                Response::DeleteRange(DeleteRangeResponse {
                    header: Some(header(batch.revision())),
                    deleted: deletion.deleted,
                    prev_kvs: std::mem::take(&mut deletion.previous),
                })
            }
            (Write::Revoke(id), Run::Revoke(keys)) => {
                let delete = &mut |key: &[u8]| batch.delete_key(key, id);
                if !self.visit_attached(keys, keys_left, delete)? {
                    return Ok(Ok(None));
                }
                Response::LeaseRevoke(LeaseRevokeResponse {
                    header: Some(header(batch.revision())),
                })
            }
            _ => unreachable!("an entry goes on as what it began as"),
        };
        Ok(Ok(Some(response)))
    }

    /// All of it or, on a miss, nothing.
    fn write_whole(&mut self, write: Write<'_>, batch: &Batch) -> Result<(), Miss> {
        let Write::Revoke(id) = write else {
            return self.write(batch);
        };
        self.plan_lease_removal(id)?;
        self.write(batch)?;
        self.remove_lease(id);
        Ok(())
    }

    /// Up to `keys_max` changes. Whether the entry is applied.
    fn write_part(
        &mut self,
        write: Write<'_>,
        parts: &mut Parts,
        keys_max: usize,
    ) -> Result<bool, Miss> {
        let many = keys_max.max(1);
        if parts.changes.len() > 0 {
            self.write_changes(parts, many)?;
        } else if !parts.unsorted.is_empty() {
            for _ in 0..many {
                let Some((key, _)) = parts.unsorted.pop_first() else {
                    break;
                };
                parts.keys.push(&key);
            }
        } else {
            self.end_parts(write, parts)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn write_changes(&mut self, parts: &mut Parts, many: usize) -> Result<(), Miss> {
        let slice = parts.changes.as_slice();
        let slice = &slice[..many.min(slice.len())];
        let count = slice.len();
        if parts.response.is_err() {
            parts.changes.by_ref().take(count).for_each(drop);
            return Ok(());
        }
        let main = self.revision + 1;
        let mut missing = Miss::default();
        self.plan_edge(&mut missing);
        self.plan_changes(main, slice, &mut missing);
        if !missing.is_empty() {
            return Err(missing);
        }
        let is_sorted = parts.unsorted.is_empty();
        for change in parts.changes.by_ref().take(count) {
            self.write_one(&change, Revision::new(main, parts.sub));
            self.lessor_moved(change.lease_before, change.lease);
            parts.sub += 1;
            if is_sorted {
                parts.keys.push(&change.key);
            }
        }
        self.edge_is_dirty = true;
        Ok(())
    }

    fn end_parts(&mut self, write: Write<'_>, parts: &Parts) -> Result<(), Miss> {
        if parts.response.is_err() {
            return Ok(());
        }
        if let Write::Revoke(id) = write {
            self.plan_lease_removal(id)?;
        }
        self.revision += 1;
        let keys = &parts.keys;
        self.hub
            .publish_large(self.revision, &|from| keys.first_from(from));
        if let Write::Revoke(id) = write {
            self.remove_lease(id);
        }
        Ok(())
    }
}

impl Parts {
    fn new(response: Result<Response, RequestError>, batch: Batch) -> Parts {
        let (changes, unsorted) = batch.into_parts();
        Parts {
            response,
            changes: changes.into_iter(),
            sub: 0,
            unsorted,
            keys: SortedKeys::default(),
        }
    }
}
