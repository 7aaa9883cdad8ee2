//! Large reads in slices: ranges of many keys, and transactions of nothing but ranges. They neither hold up the store nor
//! see what is written between their slices.
//!
//! In: a request, and then a budget of cells for each step. Out: the encoded answer, byte for byte the one that
//! [`Store::range_encoded`] or [`Store::txn_read_only`] would have given when the job began.
//!
//! Invariants: the revision is pinned at the start, and a compaction beyond it ends the job with an error, before anything
//! that it may have removed is looked at; a step that misses pages has changed nothing; a step looks at no more than its
//! budget of cells, and [`BATCH_BYTES_MAX`] of what it copies (but at least one key).

use super::Store;
use crate::error::RequestError;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::selection::{has_filters, walk_limit};
use crate::page::Miss;
use proto::etcdserverpb::{request_op::Request, RangeRequest, ResponseHeader, TxnRequest};

mod count;
mod pinned;
mod range;
mod sorted;
mod txn;

pub use range::RangeJob;
pub use txn::TxnJob;

/// A value, a refusal of the request, or pages that are missing.
type Slice<T> = super::txn::Evaluated<T>;

/// What one step copies at most, or one key if that is larger.
const BATCH_BYTES_MAX: u64 = 256 << 10;

/// A read in slices.
#[derive(Debug)]
pub enum ReadJob {
    Range(Box<RangeJob>),
    Txn(Box<TxnJob>),
}

impl ReadJob {
    /// Goes on by up to `budget` cells, appends what is ready of the answer, and tells whether that was the last of it.
    /// After a miss or an error `out` is as it was.
    pub fn step(&mut self, store: &Store, budget: usize, out: &mut Vec<u8>) -> Slice<bool> {
        match self {
            ReadJob::Range(job) => job.step(store, budget, out),
            ReadJob::Txn(job) => job.step(store, budget, out),
        }
    }

    /// Begins again with the newest revision, for a job that a compaction overtook. Refused if the revision that was
    /// compacted is one that the request names.
    pub fn restart(&mut self, store: &Store, header: &ResponseHeader) -> Result<(), RequestError> {
        match self {
            ReadJob::Range(job) => **job = store.range_job(job.request(), header)?,
            ReadJob::Txn(job) => **job = store.txn_job(job.take_request(), header),
        }
        Ok(())
    }
}

impl Store {
    /// Begins a range in slices if it looks at more than `keys_min` keys.
    pub fn large_range_job(
        &self,
        request: &RangeRequest,
        header: &ResponseHeader,
        keys_min: i64,
    ) -> Result<Option<ReadJob>, Miss> {
        if self.keys_to_read(request, keys_min)? <= keys_min {
            return Ok(None);
        }
        // What is wrong with the request is told by whoever answers it.
        let job = self.range_job(request, header).ok();
        Ok(job.map(|job| ReadJob::Range(Box::new(job))))
    }

    /// Begins a read-only transaction in slices if its conditions and ranges look at more than `keys_min` keys together.
    pub fn large_txn_job(
        &self,
        request: &TxnRequest,
        header: &ResponseHeader,
        keys_min: i64,
    ) -> Result<Option<ReadJob>, Miss> {
        let mut keys = 0i64;
        for compare in &request.compare {
            keys += match KeyRange::new(&compare.key, &compare.range_end) {
                KeyRange::One(_) => 1,
                range => self.reader().count(range, None, None)?,
            };
        }
        for op in request.success.iter().chain(&request.failure) {
            if let Some(Request::RequestRange(range)) = &op.request {
                keys += self.keys_to_read(range, keys_min)?;
            }
        }
        let job = || ReadJob::Txn(Box::new(self.txn_job(request.clone(), header)));
        Ok((keys > keys_min).then(job))
    }

    /// How many keys a range looks at, as far as the trees know without looking at them; no more is said of one that
    /// stops below `keys_min`.
    fn keys_to_read(&self, request: &RangeRequest, keys_min: i64) -> Result<i64, Miss> {
        let range = match KeyRange::new(&request.key, &request.range_end) {
            KeyRange::One(_) => return Ok(1),
            range if range.is_empty() => return Ok(0),
            range => range,
        };
        let walked = match request.count_only {
            true => 1,
            // Who knows how many do not pass.
            false if has_filters(request) => i64::MAX,
            false => i64::try_from(walk_limit(request)).unwrap_or(i64::MAX),
        };
        let is_older = (1..self.revision).contains(&request.revision);
        if !is_older && walked.saturating_sub(1) <= keys_min {
            return Ok(walked.min(keys_min));
        }
        let keys = self.reader().count(range, None, None)?;
        // What the walk does not count is counted by itself, which is short at the newest revision only.
        let counted = match is_older && walked < keys {
            true => keys.min(self.reader().changes_since(request.revision)?),
            false => 0,
        };
        Ok(keys.min(walked).saturating_add(counted))
    }
}
