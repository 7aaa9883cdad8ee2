//! Every change of every key, and the reads over it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::mvccpb::KeyValue;

/// One change: a put holds the whole new record, a deletion nothing.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub main: i64,
    pub sub: i64,
    pub kv: Option<KeyValue>,
}

#[derive(Clone, Debug)]
pub(super) struct History {
    pub revision: i64,
    /// -1 as long as nothing was compacted.
    pub compacted: i64,
    pub keys: BTreeMap<Bytes, Vec<Change>>,
    /// The main revision being written, and how many changes it has so far.
    sub: (i64, i64),
    /// Compactions only move the boundary: what is below it can still be looked at by a checker.
    pub keeps_all: bool,
}

/// `key` and `range_end` of a request.
#[derive(Clone, Debug)]
pub struct KeyRange {
    key: Bytes,
    end: Bytes,
}

impl KeyRange {
    pub fn new(key: &Bytes, end: &Bytes) -> Self {
        Self {
            key: key.clone(),
            end: end.clone(),
        }
    }

    pub fn all() -> Self {
        let zero = Bytes::from_static(b"\0");
        Self::new(&zero, &zero)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end[..] {
            [] => key == self.key,
            [0] => key >= &self.key[..],
            end => key >= &self.key[..] && key < end,
        }
    }
}

impl History {
    pub fn new() -> Self {
        Self {
            revision: 1,
            compacted: -1,
            keys: BTreeMap::new(),
            sub: (0, 0),
            keeps_all: false,
        }
    }

    fn next_sub(&mut self, main: i64) -> i64 {
        if self.sub.0 != main {
            self.sub = (main, 0);
        }
        self.sub.1 += 1;
        self.sub.1 - 1
    }

    /// The newest record of a key, whatever its revision; inside a txn that includes the txn's own writes.
    pub fn latest(&self, key: &Bytes) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.kv.as_ref()
    }

    /// The record of a key as it was when `revision` was the newest.
    pub fn at(&self, key: &Bytes, revision: i64) -> Option<&KeyValue> {
        let changes = self.keys.get(key)?;
        let newest = changes.iter().rev().find(|c| c.main <= revision)?;
        newest.kv.as_ref()
    }

    /// Records alive at `revision`, by key.
    pub fn live(&self, range: &KeyRange, revision: i64) -> Vec<KeyValue> {
        let keys = self.keys.keys().filter(|key| range.contains(key));
        keys.filter_map(|key| self.at(key, revision).cloned())
            .collect()
    }

    /// Writes one put at `main`; gives the record before it.
    pub fn put(&mut self, r: &pb::PutRequest, main: i64) -> Option<KeyValue> {
        let before = self.latest(&r.key).cloned();
        let value = match &before {
            Some(kv) if r.ignore_value => kv.value.clone(),
            _ => r.value.clone(),
        };
        let lease = match &before {
            Some(kv) if r.ignore_lease => kv.lease,
            _ => r.lease,
        };
        let kv = KeyValue {
            key: r.key.clone(),
            create_revision: before.as_ref().map_or(main, |kv| kv.create_revision),
            mod_revision: main,
            version: before.as_ref().map_or(1, |kv| kv.version + 1),
            value,
            lease,
        };
        self.push(r.key.clone(), main, Some(kv));
        before
    }

    /// Deletes what is alive in the range; gives the records, by key.
    pub fn delete(&mut self, range: &KeyRange, main: i64) -> Vec<KeyValue> {
        let deleted = self.live(range, i64::MAX);
        for kv in &deleted {
            self.push(kv.key.clone(), main, None);
        }
        deleted
    }

    fn push(&mut self, key: Bytes, main: i64, kv: Option<KeyValue>) {
        let sub = self.next_sub(main);
        self.keys
            .entry(key)
            .or_default()
            .push(Change { main, sub, kv });
    }

    /// Takes back what the revision being written has changed so far.
    pub fn undo(&mut self, main: i64) {
        for changes in self.keys.values_mut() {
            while changes.last().is_some_and(|change| change.main == main) {
                changes.pop();
            }
        }
        self.keys.retain(|_, changes| !changes.is_empty());
        self.sub = (0, 0);
    }

    /// Whether anything was written at `main` yet.
    pub fn wrote(&self, main: i64) -> bool {
        self.sub.0 == main && self.sub.1 > 0
    }

    /// Keeps, of each key, what is above `revision` and its newest change up to there, unless that is a deletion of an
    /// earlier revision.
    pub fn compact(&mut self, revision: i64) {
        self.compacted = revision;
        if self.keeps_all {
            return;
        }
        for changes in self.keys.values_mut() {
            let newest = changes.iter().rposition(|c| c.main <= revision);
            let mut index = 0;
            changes.retain(|c| {
                let keep = c.main > revision
                    || Some(index) == newest && (c.kv.is_some() || c.main == revision);
                index += 1;
                keep
            });
        }
        self.keys.retain(|_, changes| !changes.is_empty());
    }

    /// A Range whose revision was checked; `current` is what revision 0 means. The header is the caller's.
    pub fn range(&self, r: &pb::RangeRequest, current: i64) -> pb::RangeResponse {
        let revision = if r.revision > 0 { r.revision } else { current };
        let mut kvs = self.live(&KeyRange::new(&r.key, &r.range_end), revision);
        let count = kvs.len() as i64;
        if r.count_only {
            return pb::RangeResponse {
                count,
                ..Default::default()
            };
        }
        let filters = [
            r.min_mod_revision,
            r.max_mod_revision,
            r.min_create_revision,
            r.max_create_revision,
        ];
        let limit = usize::try_from(r.limit).unwrap_or(0);
        let unsorted = r.sort_order == SortOrder::None as i32;
        if limit > 0 && unsorted && filters.iter().all(|f| *f == 0) {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| passes(r, kv));
        sort(r, &mut kvs);
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if r.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        pb::RangeResponse {
            header: None,
            kvs,
            more,
            count,
        }
    }
}

fn passes(r: &pb::RangeRequest, kv: &KeyValue) -> bool {
    let above = |bound: i64, n: i64| bound == 0 || n >= bound;
    let below = |bound: i64, n: i64| bound == 0 || n <= bound;
    above(r.min_mod_revision, kv.mod_revision)
        && below(r.max_mod_revision, kv.mod_revision)
        && above(r.min_create_revision, kv.create_revision)
        && below(r.max_create_revision, kv.create_revision)
}

/// Ties stay in key order, which etcd does not promise and a test must not demand of it.
fn sort(r: &pb::RangeRequest, kvs: &mut [KeyValue]) {
    let target = SortTarget::try_from(r.sort_target).unwrap_or(SortTarget::Key);
    let descending = match SortOrder::try_from(r.sort_order) {
        Ok(SortOrder::None) | Ok(SortOrder::Ascend) => false,
        Ok(SortOrder::Descend) => true,
        Err(_) => return,
    };
    let by_target = |a: &KeyValue, b: &KeyValue| -> Ordering {
        match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    kvs.sort_by(|a, b| {
        if descending {
            by_target(b, a)
        } else {
            by_target(a, b)
        }
    });
}
