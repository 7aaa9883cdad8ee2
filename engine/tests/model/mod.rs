//! The store as plainly as it can be said: all rows in one map, every question answered by walking it.

use bytes::Bytes;
use engine::error::RequestError;
use engine::store::Response;
use prost::Message;
use proto::etcdserverpb::*;
use proto::mvccpb::KeyValue;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub key: Vec<u8>,
    pub tombstone: bool,
    pub kv: KeyValue,
}

#[derive(Clone)]
pub struct Model {
    pub revision: i64,
    pub compacted: i64,
    pub rows: BTreeMap<(i64, i64), Row>,
    leases: BTreeSet<i64>,
}

type View = BTreeMap<Vec<u8>, KeyValue>;

fn holds(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == from,
        [0] => key >= from,
        end => key >= from && key < end,
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

impl Model {
    pub fn new() -> Model {
        Model {
            revision: 1,
            compacted: -1,
            rows: BTreeMap::new(),
            leases: BTreeSet::new(),
        }
    }

    fn view(&self, revision: i64) -> View {
        let mut view = View::new();
        for ((main, _), row) in &self.rows {
            if *main > revision {
                break;
            }
            if row.tombstone {
                view.remove(&row.key);
            } else {
                view.insert(row.key.clone(), row.kv.clone());
            }
        }
        view
    }

    /// Everything, a running transaction's changes included.
    fn newest(&self) -> View {
        self.view(i64::MAX)
    }

    fn sub(&self) -> i64 {
        let main = self.revision + 1;
        self.rows.range((main, 0)..).count() as i64
    }

    fn running_revision(&self) -> i64 {
        match self.sub() {
            0 => self.revision,
            _ => self.revision + 1,
        }
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, RequestError> {
        if request.revision > self.revision {
            return Err(RequestError::FutureRevision);
        }
        let view = match request.revision {
            ..=0 => self.newest(),
            revision if revision < self.compacted => return Err(RequestError::Compacted),
            revision => self.view(revision),
        };
        let mut kvs: Vec<KeyValue> = view
            .into_iter()
            .filter(|(key, _)| holds(key, &request.key, &request.range_end))
            .map(|(_, kv)| kv)
            .collect();
        let count = kvs.len() as i64;
        let header = header(self.running_revision());
        if request.count_only {
            return Ok(RangeResponse {
                header,
                count,
                ..RangeResponse::default()
            });
        }
        let filtered = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ] != [0; 4];
        let limit = request.limit.max(0) as usize;
        if limit > 0 && request.sort_order == 0 && !filtered {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| {
            (request.max_mod_revision == 0 || kv.mod_revision <= request.max_mod_revision)
                && kv.mod_revision >= request.min_mod_revision
                && (request.max_create_revision == 0
                    || kv.create_revision <= request.max_create_revision)
                && kv.create_revision >= request.min_create_revision
        });
        let order = match (request.sort_order, request.sort_target) {
            (0, target) if target != 0 => 1,
            (order, _) => order,
        };
        let sort_key = |kv: &KeyValue| match request.sort_target {
            0 => kv.key.to_vec(),
            1 => kv.version.to_be_bytes().to_vec(),
            2 => kv.create_revision.to_be_bytes().to_vec(),
            3 => kv.mod_revision.to_be_bytes().to_vec(),
            _ => kv.value.to_vec(),
        };
        match order {
            1 => kvs.sort_by_key(sort_key),
            2 => kvs.sort_by_key(|kv| std::cmp::Reverse(sort_key(kv))),
            _ => {}
        }
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeResponse {
            header,
            kvs,
            more,
            count,
        })
    }

    fn put(&mut self, put: &PutRequest) -> Result<Option<KeyValue>, RequestError> {
        let before = self.newest().remove(&put.key[..]);
        if before.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(RequestError::KeyNotFound);
        }
        let at = (self.revision + 1, self.sub());
        let old = before.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: before.as_ref().map_or(at.0, |kv| kv.create_revision),
            mod_revision: at.0,
            version: old.version + 1,
            value: if put.ignore_value {
                old.value
            } else {
                put.value.clone()
            },
            lease: if put.ignore_lease {
                old.lease
            } else {
                put.lease
            },
        };
        let row = Row {
            key: put.key.to_vec(),
            tombstone: false,
            kv,
        };
        self.rows.insert(at, row);
        Ok(before.filter(|_| put.prev_kv))
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) -> (i64, Vec<KeyValue>) {
        let mut gone = Vec::new();
        for (key, kv) in self.newest() {
            if holds(&key, &delete.key, &delete.range_end) {
                self.delete_key(&key);
                gone.push(kv);
            }
        }
        let deleted = gone.len() as i64;
        (deleted, if delete.prev_kv { gone } else { vec![] })
    }

    fn delete_key(&mut self, key: &[u8]) {
        let at = (self.revision + 1, self.sub());
        let row = Row {
            key: key.to_vec(),
            tombstone: true,
            kv: KeyValue {
                key: Bytes::copy_from_slice(key),
                ..KeyValue::default()
            },
        };
        self.rows.insert(at, row);
    }

    fn compare(&self, compare: &Compare) -> bool {
        use compare::TargetUnion;
        let holds_for = |order: std::cmp::Ordering| match compare.result {
            0 => order.is_eq(),
            1 => order.is_gt(),
            2 => order.is_lt(),
            3 => order.is_ne(),
            _ => true,
        };
        let operand = |target: i32| match &compare.target_union {
            Some(TargetUnion::Version(v)) if target == 0 => *v,
            Some(TargetUnion::CreateRevision(v)) if target == 1 => *v,
            Some(TargetUnion::ModRevision(v)) if target == 2 => *v,
            Some(TargetUnion::Lease(v)) if target == 4 => *v,
            _ => 0,
        };
        let value = match &compare.target_union {
            Some(TargetUnion::Value(value)) => value.clone(),
            _ => Bytes::new(),
        };
        let found: Vec<KeyValue> = self
            .newest()
            .into_iter()
            .filter(|(key, _)| holds(key, &compare.key, &compare.range_end))
            .map(|(_, kv)| kv)
            .collect();
        let order = |kv: &KeyValue| match compare.target {
            0 => kv.version.cmp(&operand(0)),
            1 => kv.create_revision.cmp(&operand(1)),
            2 => kv.mod_revision.cmp(&operand(2)),
            3 => kv.value.cmp(&value),
            4 => kv.lease.cmp(&operand(4)),
            _ => std::cmp::Ordering::Equal,
        };
        if found.is_empty() {
            return compare.target != 3 && holds_for(order(&KeyValue::default()));
        }
        found.iter().all(|kv| holds_for(order(kv)))
    }

    fn check_lease(&self, lease: i64) -> Result<(), RequestError> {
        match lease == 0 || self.leases.contains(&lease) {
            true => Ok(()),
            false => Err(RequestError::LeaseNotFound),
        }
    }

    /// The operations of the chosen path, before the transaction; `ranges`: which kind to check.
    fn check(&self, txn: &TxnRequest, ranges: bool, direct: bool) -> Result<(), RequestError> {
        let view = self.newest();
        for op in self.chosen(txn) {
            match &op.request {
                Some(request_op::Request::RequestTxn(nested)) => {
                    self.check(nested, ranges, true)?
                }
                Some(request_op::Request::RequestPut(put)) if !ranges => {
                    let needed = put.ignore_value || put.ignore_lease;
                    if needed && !view.contains_key(&put.key[..]) {
                        return Err(RequestError::KeyNotFound);
                    }
                    self.check_lease(put.lease)?;
                }
                Some(request_op::Request::RequestRange(range)) if ranges && direct => {
                    if range.revision > self.revision {
                        return Err(RequestError::FutureRevision);
                    }
                    if range.revision != 0 && range.revision < self.compacted {
                        return Err(RequestError::Compacted);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn chosen<'t>(&self, txn: &'t TxnRequest) -> &'t [RequestOp] {
        match txn.compare.iter().all(|compare| self.compare(compare)) {
            true => &txn.success,
            false => &txn.failure,
        }
    }

    /// `before`: the store before the transaction, which all conditions see.
    fn execute(&mut self, txn: &TxnRequest, before: &Model) -> Result<TxnResponse, RequestError> {
        use request_op::Request;
        use response_op::Response;
        let succeeded = txn.compare.iter().all(|compare| before.compare(compare));
        let mut responses = Vec::new();
        for op in before.chosen(txn) {
            let response = match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => {
                    // Direct ranges at a bad revision are exempt from the check below cluster version 3.7.
                    let response = self.range(range).unwrap_or_default();
                    Response::ResponseRange(RangeResponse {
                        header: header(self.running_revision()),
                        ..response
                    })
                }
                Request::RequestPut(put) => {
                    let prev_kv = self.put(put)?;
                    Response::ResponsePut(PutResponse {
                        header: header(self.running_revision()),
                        prev_kv,
                    })
                }
                Request::RequestDeleteRange(delete) => {
                    let (deleted, prev_kvs) = self.delete(delete);
                    Response::ResponseDeleteRange(DeleteRangeResponse {
                        header: header(self.running_revision()),
                        deleted,
                        prev_kvs,
                    })
                }
                Request::RequestTxn(nested) => Response::ResponseTxn(TxnResponse {
                    header: header(0),
                    ..self.execute(nested, before)?
                }),
            };
            responses.push(ResponseOp {
                response: Some(response),
            });
        }
        Ok(TxnResponse {
            header: header(self.running_revision()),
            succeeded,
            responses,
        })
    }

    fn txn(&mut self, txn: &TxnRequest) -> Result<TxnResponse, RequestError> {
        let is_range =
            |op: &RequestOp| matches!(op.request, Some(request_op::Request::RequestRange(_)));
        let writing = !txn.success.iter().chain(&txn.failure).all(is_range);
        if writing {
            self.check(txn, false, true)?;
        }
        self.check(txn, true, !writing)?;
        let before = self.clone();
        self.execute(txn, &before)
    }

    /// Applies an entry; a refused one leaves nothing.
    pub fn apply(&mut self, entry: &InternalRaftRequest) -> Result<Response, RequestError> {
        let mut next = self.clone();
        let response = next.apply_entry(entry)?;
        *self = next;
        Ok(response)
    }

    fn commit(&mut self) {
        self.revision = self.running_revision();
    }

    fn apply_entry(&mut self, entry: &InternalRaftRequest) -> Result<Response, RequestError> {
        if let Some(put) = &entry.put {
            self.check_lease(put.lease)?;
            let prev_kv = self.put(put)?;
            self.commit();
            let header = header(self.revision);
            return Ok(Response::Put(PutResponse { header, prev_kv }));
        }
        if let Some(delete) = &entry.delete_range {
            let (deleted, prev_kvs) = self.delete(delete);
            self.commit();
            return Ok(Response::DeleteRange(DeleteRangeResponse {
                header: header(self.revision),
                deleted,
                prev_kvs,
            }));
        }
        if let Some(txn) = &entry.txn {
            let response = self.txn(txn)?;
            self.commit();
            return Ok(Response::Txn(response));
        }
        if let Some(range) = &entry.range {
            return self.range(range).map(Response::Range);
        }
        if let Some(grant) = &entry.lease_grant {
            if grant.id == 0 {
                return Err(RequestError::LeaseNotFound);
            }
            if !self.leases.insert(grant.id) {
                return Err(RequestError::LeaseExists);
            }
            return Ok(Response::LeaseGrant(LeaseGrantResponse {
                header: header(self.revision),
                id: grant.id,
                ttl: grant.ttl.max(2),
                error: String::new(),
            }));
        }
        if let Some(revoke) = &entry.lease_revoke {
            if !self.leases.remove(&revoke.id) {
                return Err(RequestError::LeaseNotFound);
            }
            for (key, kv) in self.newest() {
                if kv.lease == revoke.id {
                    self.delete_key(&key);
                }
            }
            self.commit();
            let header = header(self.revision);
            return Ok(Response::LeaseRevoke(LeaseRevokeResponse { header }));
        }
        self.compact(entry.compaction.as_ref().unwrap().revision)?;
        let header = header(self.revision);
        Ok(Response::Compaction(CompactionResponse { header }))
    }

    fn compact(&mut self, revision: i64) -> Result<(), RequestError> {
        if revision <= self.compacted {
            return Err(RequestError::Compacted);
        }
        if revision > self.revision {
            return Err(RequestError::FutureRevision);
        }
        let keep = self.newest_rows(revision);
        self.rows.retain(|at, row| {
            at.0 > revision || (keep.contains(at) && (!row.tombstone || at.0 == revision))
        });
        self.compacted = revision;
        Ok(())
    }

    /// The newest row of each key up to a revision.
    fn newest_rows(&self, revision: i64) -> BTreeSet<(i64, i64)> {
        let mut newest = BTreeMap::new();
        for (at, row) in self.rows.range(..(revision + 1, 0)) {
            newest.insert(&row.key, *at);
        }
        newest.into_values().collect()
    }

    pub fn hash_kv(&self, revision: i64) -> Result<(u32, i64), RequestError> {
        let revision = if revision == 0 {
            self.revision
        } else {
            revision
        };
        if revision < self.compacted {
            return Err(RequestError::Compacted);
        }
        let mut keep = self.newest_rows(revision);
        keep.retain(|at| !self.rows[at].tombstone);
        let mut bytes = b"key".to_vec();
        for (at, row) in self.rows.range(..(revision + 1, 0)) {
            let old = at.0 <= self.compacted;
            if (old && !keep.is_empty() && !keep.contains(at))
                || (row.tombstone && at.0 == self.compacted)
            {
                continue;
            }
            bytes.extend_from_slice(&at.0.to_be_bytes());
            bytes.push(b'_');
            bytes.extend_from_slice(&at.1.to_be_bytes());
            if row.tombstone {
                bytes.push(b't');
            }
            bytes.extend_from_slice(&row.kv.encode_to_vec());
        }
        Ok((crc32c::crc32c(&bytes), self.compacted))
    }
}
