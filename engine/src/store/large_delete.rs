//! A delete of so many keys that applying it in one go would hold up the member, heartbeats included. It is applied in slices.
//!
//! First the keys are collected, then their tombstones are written. Between two slices the trees hold a part of it, so nothing
//! may be read of the store, nothing compacted or moved, and no checkpoint begun, until it is whole ([`Store::is_applying`]).
//! A crash in between costs nothing: the entry is in the log, and no checkpoint knows of it.

use super::{header, ApplyError, Store};
use crate::mvcc::batch::{tombstone, Change};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::Revision;
use crate::page::Miss;
use crate::store::{Applied, Response};
use proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse, InternalRaftRequest};
use proto::mvccpb::KeyValue;

/// How far it has come.
pub(super) struct LargeDelete {
    index: u64,
    /// Where collecting goes on.
    from: Vec<u8>,
    is_collected: bool,
    changes: Vec<Change>,
    previous: Vec<KeyValue>,
    /// Of the changes.
    written: usize,
}

impl Store {
    /// Whether an entry is applied in part. Only [`Store::apply_slice`] with this entry may follow.
    pub fn is_applying(&self) -> bool {
        self.large_delete.is_some()
    }

    /// As [`Store::apply`], but an entry that deletes more than `keys_max` keys takes many calls, each of which looks at so many
    /// at most. `None`: to be called again.
    pub fn apply_slice(
        &mut self,
        (index, term): (u64, u64),
        request: Option<&InternalRaftRequest>,
        now_ns: u64,
        keys_max: usize,
    ) -> Result<Option<Applied>, ApplyError> {
        let delete = request.and_then(|request| request.delete_range.as_ref());
        let Some(delete) = delete.filter(|delete| !delete.range_end.is_empty()) else {
            return self.apply(index, term, request, now_ns).map(Some);
        };
        if self.large_delete.is_none() && !self.begin_large_delete(index, delete, keys_max)? {
            return self.apply(index, term, request, now_ns).map(Some);
        }
        let mut large = self.large_delete.take().expect("it was begun");
        assert_eq!(large.index, index, "nothing else is applied meanwhile");
        let step = match large.is_collected {
            false => self.collect(&mut large, delete, keys_max),
            true => self.write_tombstones(&mut large, keys_max),
        };
        if step.is_err() || !large.is_collected || large.written < large.changes.len() {
            self.large_delete = Some(large);
            return step.map(|()| None).map_err(ApplyError::from);
        }
        Ok(Some(self.end_large_delete(large, term)))
    }

    fn begin_large_delete(
        &mut self,
        index: u64,
        delete: &DeleteRangeRequest,
        keys_max: usize,
    ) -> Result<bool, Miss> {
        if index <= self.applied_index || self.refused_by_alarm(0).is_some() {
            return Ok(false);
        }
        let range = KeyRange::new(&delete.key, &delete.range_end);
        let count = self.reader().count(range, None, None)? as usize;
        if count <= keys_max {
            return Ok(false);
        }
        self.results.begin();
        self.large_delete = Some(LargeDelete {
            index,
            from: delete.key.to_vec(),
            is_collected: false,
            changes: Vec::with_capacity(count),
            previous: Vec::new(),
            written: 0,
        });
        Ok(true)
    }

    fn collect(
        &self,
        large: &mut LargeDelete,
        delete: &DeleteRangeRequest,
        keys_max: usize,
    ) -> Result<(), Miss> {
        let from = large.from.clone();
        let range = KeyRange::new(&from, &delete.range_end);
        let reader = self.reader();
        let mut walk = reader.walk(range, None, None);
        for _ in 0..keys_max.max(1) {
            let Some(found) = walk.next()? else {
                large.is_collected = true;
                return Ok(());
            };
            if delete.prev_kv {
                large.previous.push(found.message(&reader, false)?);
            }
            let change = tombstone(&found);
            large.from.clear();
            large.from.extend_from_slice(&change.key);
            large.from.push(0);
            large.changes.push(change);
        }
        Ok(())
    }

    fn write_tombstones(&mut self, large: &mut LargeDelete, keys_max: usize) -> Result<(), Miss> {
        let main = self.revision + 1;
        let end = (large.written + keys_max.max(1)).min(large.changes.len());
        let slice = &large.changes[large.written..end];
        let mut missing = Miss::default();
        self.plan_edge(&mut missing);
        self.plan_changes(main, slice, &mut missing);
        if !missing.is_empty() {
            return Err(missing);
        }
        for (sub, change) in (large.written as i64..).zip(slice) {
            self.write_one(change, Revision::new(main, sub));
        }
        self.edge_is_dirty = true;
        large.written = end;
        Ok(())
    }

    fn end_large_delete(&mut self, large: LargeDelete, term: u64) -> Applied {
        debug_assert!(!large.changes.is_empty());
        let main = self.revision + 1;
        for change in &large.changes {
            self.lessor_moved(change.lease_before, change.lease);
        }
        self.revision = main;
        // They were collected in order.
        let changes = &large.changes;
        self.hub.publish_large(main, &|from| {
            let at = changes.partition_point(|change| &change.key[..] < from);
            changes.get(at).map(|change| &change.key[..])
        });
        let response = Ok(Response::DeleteRange(DeleteRangeResponse {
            header: Some(header(main)),
            deleted: large.changes.len() as i64,
            prev_kvs: large.previous,
        }));
        self.results.outcome(&response);
        self.entry_applied(large.index, term);
        Applied {
            response,
            revision: main,
            over_quota: false,
            compaction: None,
        }
    }
}
