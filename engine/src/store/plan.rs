//! Which pages an entry will need, worked out when it is proposed, so that they arrive while the log is flushed.

use super::leases::AttachedKeys;
use super::Store;
use crate::mvcc::batch::Batch;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::Seen;
use crate::mvcc::selection::walk_limit;
use crate::mvcc::Revision;
use crate::page::Miss;
use proto::etcdserverpb::{
    request_op::Request, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest,
    TxnRequest,
};

/// Keys of a range, or of a lease, that planning looks at. The rest misses at apply, page by page, which only costs time.
const PLANNED_KEYS_MAX: usize = 256;

impl Store {
    /// Adds pages that applying `request` will touch and that are absent. A hint: state may change before the entry
    /// is applied, and apply checks for itself.
    pub fn plan(&self, request: &InternalRaftRequest, missing: &mut Miss) {
        self.plan_edge(missing);
        if let Some(put) = &request.put {
            self.plan_put(put, missing);
        } else if let Some(delete) = &request.delete_range {
            self.plan_delete(delete, missing);
        } else if let Some(txn) = &request.txn {
            self.plan_txn(txn, missing);
        } else if let Some(revoke) = &request.lease_revoke {
            let key = revoke.id.to_be_bytes();
            self.trees.leases.plan_remove(&self.pages, &key, missing);
            let mut attached = AttachedKeys::of(revoke.id);
            let keys = &self.trees.keys;
            let visited = self.visit_attached(&mut attached, PLANNED_KEYS_MAX, &mut |key| {
                keys.plan_insert(&self.pages, key, missing);
            });
            note(visited.map(drop), missing);
        } else if let Some(grant) = &request.lease_grant {
            let key = grant.id.to_be_bytes();
            self.trees.leases.plan_insert(&self.pages, &key, missing);
        }
    }

    /// Adds the absent pages of the right edge of `rows`.
    pub(super) fn plan_edge(&self, missing: &mut Miss) {
        if !self.edge_is_dirty {
            let edge = Revision::new(self.revision + 1, 0).to_key();
            self.trees.rows.plan_insert(&self.pages, &edge, missing);
        }
    }

    fn plan_put(&self, put: &PutRequest, missing: &mut Miss) {
        self.trees.keys.plan_insert(&self.pages, &put.key, missing);
        if put.prev_kv || put.ignore_value || put.lease != 0 {
            // Evaluating reads everything else that the put depends on.
            let mut batch = Batch::new(self.revision + 1);
            note(batch.put(&self.reader(), put).map(drop), missing);
        }
    }

    fn plan_delete(&self, delete: &DeleteRangeRequest, missing: &mut Miss) {
        let range = KeyRange::new(&delete.key, &delete.range_end);
        self.plan_keys(range, PLANNED_KEYS_MAX, delete.prev_kv, missing);
    }

    fn plan_range(&self, range: &RangeRequest, missing: &mut Miss) {
        let keys = KeyRange::new(&range.key, &range.range_end);
        if range.count_only && range.revision <= 0 {
            return note(self.reader().count(keys, None, None).map(drop), missing);
        }
        let keys_max = walk_limit(range).min(PLANNED_KEYS_MAX);
        self.plan_keys(keys, keys_max, !range.keys_only, missing);
    }

    /// `keys_max`: live ones. As many dead ones as planning looks at may lie between them.
    fn plan_keys(&self, range: KeyRange<'_>, keys_max: usize, values: bool, missing: &mut Miss) {
        let reader = self.reader();
        let mut walk = reader.walk(range, None, None);
        let mut found = Vec::new();
        for _ in 0..PLANNED_KEYS_MAX {
            match walk.next_of_any() {
                Ok(Some(Seen::Live(next))) => found.push(next),
                Ok(Some(Seen::Dead(_))) => {}
                Ok(None) => break,
                Err(miss) => {
                    missing.pages.extend(miss.pages);
                    break;
                }
            }
            if found.len() >= keys_max {
                break;
            }
        }
        for found in &found {
            self.trees
                .keys
                .plan_insert(&self.pages, &found.key, missing);
        }
        if values {
            reader.read_bodies(&mut found, missing);
        }
    }

    fn plan_txn(&self, txn: &TxnRequest, missing: &mut Miss) {
        for compare in &txn.compare {
            let value = compare.target == proto::etcdserverpb::compare::CompareTarget::Value as i32;
            let range = KeyRange::new(&compare.key, &compare.range_end);
            self.plan_keys(range, PLANNED_KEYS_MAX, value, missing);
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Request::RequestPut(put)) => self.plan_put(put, missing),
                Some(Request::RequestDeleteRange(delete)) => self.plan_delete(delete, missing),
                Some(Request::RequestRange(range)) => self.plan_range(range, missing),
                Some(Request::RequestTxn(nested)) => self.plan_txn(nested, missing),
                None => {}
            }
        }
    }
}

fn note(read: Result<(), Miss>, missing: &mut Miss) {
    if let Err(miss) = read {
        missing.pages.extend(miss.pages);
    }
}
