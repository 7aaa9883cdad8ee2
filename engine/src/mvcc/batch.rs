//! The changes of one write transaction before they reach the trees.
//!
//! A request is evaluated against the trees and its own earlier changes. Nothing is written until the whole request
//! has succeeded and all its pages are at hand, so a refused request or a missing page needs no undoing.

use super::key_range::{KeyRange, Progress};
use super::kv::Kv;
use super::read::{Found, Reader, Seen};
use super::revision::Revision;
use super::write::NewVersion;
use crate::error::RequestError;
use crate::page::Miss;
use bytes::Bytes;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest};
use proto::mvccpb::KeyValue;
use std::collections::BTreeMap;

/// One put or delete of one key.
#[derive(Clone, Debug)]
pub struct Change {
    pub key: Bytes,
    pub value: Bytes,
    pub tombstone: bool,
    pub create: i64,
    pub version: i64,
    pub lease: i64,
    /// The lease that the key was attached to before; zero for none.
    pub lease_before: i64,
}

#[derive(Clone, Copy, Debug)]
pub struct Latest {
    /// Index into `changes`.
    pub change: usize,
    /// Whether the key was live before the transaction.
    pub was_live: bool,
}

#[derive(Clone, Debug)]
pub struct Batch {
    main: i64,
    changes: Vec<Change>,
    latest: BTreeMap<Bytes, Latest>,
    /// Nobody reads its changes before they are written: they are not looked up by key, and come in the order of the keys.
    is_write_only: bool,
}

/// A range on its way to be deleted.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    progress: Progress,
    pub deleted: i64,
    pub previous: Vec<KeyValue>,
}

/// What a key looks like inside the transaction.
struct Live<'a> {
    create: i64,
    version: i64,
    lease: i64,
    pending: bool,
    found: Found<'a>,
}

impl Batch {
    /// An empty transaction that will get the revision `main` if it changes anything.
    pub fn new(main: i64) -> Batch {
        Batch {
            main,
            changes: Vec::new(),
            latest: BTreeMap::new(),
            is_write_only: false,
        }
    }

    /// For a request that reads none of its own changes, and makes them in the order of their keys.
    pub fn write_only(main: i64) -> Batch {
        Batch {
            is_write_only: true,
            ..Batch::new(main)
        }
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn main(&self) -> i64 {
        self.main
    }

    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub fn change(&self, index: usize) -> &Change {
        &self.changes[index]
    }

    /// The changes in their order, and the latest of each key in that of the keys: the latter only where they are looked up.
    pub fn into_parts(self) -> (Vec<Change>, BTreeMap<Bytes, Latest>) {
        (self.changes, self.latest)
    }

    pub fn sub_of(&self, change: usize) -> i64 {
        change as i64
    }

    /// The revision that a response shows after what has been evaluated so far.
    pub fn revision(&self) -> i64 {
        if self.is_empty() {
            self.main - 1
        } else {
            self.main
        }
    }

    pub fn pending<'a>(
        &'a self,
        range: &KeyRange<'_>,
    ) -> std::collections::btree_map::Range<'a, Bytes, Latest> {
        debug_assert!(!range.is_empty() && !self.is_write_only);
        self.latest.range::<[u8], _>(range.bounds())
    }

    fn record(&mut self, change: Change, was_live: bool) {
        let index = self.changes.len();
        if self.is_write_only {
            debug_assert!(self.changes.last().is_none_or(|last| last.key < change.key));
            return self.changes.push(change);
        }
        let latest = self.latest.entry(change.key.clone()).or_insert(Latest {
            change: index,
            was_live,
        });
        latest.change = index;
        self.changes.push(change);
    }

    /// Evaluates one put. The lease was checked by the caller.
    pub fn put(
        &mut self,
        reader: &Reader<'_>,
        put: &PutRequest,
    ) -> Result<Result<Option<KeyValue>, RequestError>, Miss> {
        let live = self.live(reader, &put.key)?;
        let needs_row = live.is_some() && (put.prev_kv || put.ignore_value);
        if live.is_none() && (put.ignore_value || put.ignore_lease) {
            // Validation saw the key before the transaction, but an earlier operation deleted it.
            return Ok(Err(RequestError::KeyNotFound));
        }
        let before = match &live {
            Some(live) if needs_row => Some(live.found.message(reader, false)?),
            _ => None,
        };
        let (create, version, lease_before) = match &live {
            Some(live) => (live.create, live.version + 1, live.lease),
            None => (self.main, 1, 0),
        };
        let was_live = live.as_ref().is_some_and(|live| !live.pending);
        drop(live);
        let value = match &before {
            Some(before) if put.ignore_value => before.value.clone(),
            _ => put.value.clone(),
        };
        let change = Change {
            key: put.key.clone(),
            value,
            tombstone: false,
            create,
            version,
            lease: if put.ignore_lease {
                lease_before
            } else {
                put.lease
            },
            lease_before,
        };
        self.record(change, was_live);
        Ok(Ok(before.filter(|_| put.prev_kv)))
    }

    fn live<'a>(&'a self, reader: &Reader<'a>, key: &'a [u8]) -> Result<Option<Live<'a>>, Miss> {
        let found = reader.get(key, Some(self))?;
        Ok(found.map(|found| Live {
            create: found.create,
            version: found.version,
            lease: found.lease,
            pending: found.is_pending(),
            found,
        }))
    }

    /// Goes on with a delete by up to `keys_left` keys, live or not, which are taken off, and tells whether that was the last
    /// of it. What came before a miss is kept.
    pub fn delete_range(
        &mut self,
        reader: &Reader<'_>,
        delete: &DeleteRangeRequest,
        deletion: &mut Deletion,
        keys_left: &mut usize,
    ) -> Result<bool, Miss> {
        let mut tombstones = Vec::new();
        let looked = self.look_for_live(reader, delete, deletion, keys_left, &mut tombstones);
        deletion.deleted += tombstones.len() as i64;
        for (change, was_live) in tombstones {
            self.record(change, was_live);
        }
        looked
    }

    fn look_for_live(
        &self,
        reader: &Reader<'_>,
        delete: &DeleteRangeRequest,
        deletion: &mut Deletion,
        keys_left: &mut usize,
        tombstones: &mut Vec<(Change, bool)>,
    ) -> Result<bool, Miss> {
        let progress = deletion.progress.clone();
        let Some(range) = progress.rest(&delete.key, &delete.range_end) else {
            return Ok(true);
        };
        let batch = (!self.is_write_only).then_some(self);
        let mut walk = reader.walk(range, None, batch);
        while *keys_left > 0 {
            let Some(seen) = walk.next_of_any()? else {
                return Ok(true);
            };
            let key = match &seen {
                Seen::Dead(key) => key,
                Seen::Live(found) => {
                    if delete.prev_kv {
                        deletion.previous.push(found.message(reader, false)?);
                    }
                    tombstones.push((tombstone(found), !found.is_pending()));
                    &found.key
                }
            };
            *keys_left -= 1;
            deletion.progress.pass(key);
        }
        Ok(false)
    }

    /// Deletes one key that is live, for a revoked lease.
    pub fn delete_key(&mut self, key: &[u8], lease: i64) {
        let change = Change {
            key: Bytes::copy_from_slice(key),
            value: Bytes::new(),
            tombstone: true,
            create: 0,
            version: 0,
            lease: 0,
            lease_before: lease,
        };
        self.record(change, true);
    }
}

pub fn tombstone(found: &Found<'_>) -> Change {
    Change {
        key: Bytes::copy_from_slice(&found.key),
        value: Bytes::new(),
        tombstone: true,
        create: 0,
        version: 0,
        lease: 0,
        lease_before: found.lease,
    }
}

impl Change {
    /// The pair as the row will hold it: a tombstone has only its key.
    pub fn kv(&self, main: i64) -> Kv<'_> {
        Kv {
            key: &self.key,
            create: self.create,
            modified: if self.tombstone { 0 } else { main },
            version: self.version,
            value: &self.value,
            lease: self.lease,
        }
    }

    pub fn version_at(&self, at: Revision) -> NewVersion<'_> {
        NewVersion {
            at,
            tombstone: self.tombstone,
            kv: self.kv(at.main),
            lease_before: self.lease_before,
        }
    }
}
