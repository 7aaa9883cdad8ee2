//! The `Hash` call: one number over everything stored, in the order and form of etcd's buckets. A test aid; only
//! HashKV is promised to equal etcd's.

use super::buckets::SmallBucket;
use super::Store;
use crate::hash::{Sum, KEY_BUCKET};
use crate::mvcc::Revision;
use crate::page::Miss;
use std::ops::Bound;

/// A hash under way. Rows that are written meanwhile are not covered, other changes may be.
#[derive(Clone, Debug)]
pub struct WholeHashJob {
    revision: i64,
    next: Revision,
    sum: Option<Sum>,
}

fn pair(sum: &mut Sum, key: &[u8], value: &[u8]) {
    sum.feed(key);
    sum.feed(value);
}

fn feed_bucket(sum: &mut Sum, (name, entries): &SmallBucket) {
    sum.feed(name.as_bytes());
    for (key, value) in entries {
        pair(sum, key, value);
    }
}

impl Store {
    /// Begins the hash over everything.
    pub fn hash(&self) -> WholeHashJob {
        WholeHashJob {
            revision: self.revision,
            next: Revision::default(),
            sum: None,
        }
    }

    fn hash_before_rows(&self) -> Sum {
        let mut sum = Sum::default();
        for bucket in self.buckets_before_rows() {
            feed_bucket(&mut sum, &bucket);
        }
        sum.feed(KEY_BUCKET);
        sum
    }

    fn hash_after_rows(&self, sum: &mut Sum) -> Result<(), Miss> {
        sum.feed(b"lease");
        let leases = &self.trees.leases;
        let mut leases = leases.range(&self.pages, Bound::Unbounded, Bound::Unbounded);
        while let Some((id, record)) = leases.next()? {
            pair(sum, &id, record);
        }
        for bucket in self.buckets_after_leases() {
            feed_bucket(sum, &bucket);
        }
        Ok(())
    }
}

impl WholeHashJob {
    /// Looks at up to `budget` rows; `None` until it is done.
    pub fn step(&mut self, store: &Store, budget: usize) -> Result<Option<u32>, Miss> {
        let mut sum = self.sum.unwrap_or_else(|| store.hash_before_rows());
        // No revision above the last one counts as compacted here, so no tombstone is left out.
        let end = self.revision + 1;
        let more = store.hash_rows(&mut self.next, &mut sum, end, budget.max(1))?;
        self.sum = Some(sum);
        if more {
            return Ok(None);
        }
        store.hash_after_rows(&mut sum)?;
        Ok(Some(sum.crc))
    }
}
