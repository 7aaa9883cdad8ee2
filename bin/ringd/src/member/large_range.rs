//! Ranges, alone or in a transaction, of so many keys that answering in one go would hold up everybody else: they are read
//! a slice at a time, between other work, at the revision at which they began.

use super::Member;
use crate::request::CallId;
use engine::{
    error::RequestError,
    page::{Miss, PageNo},
    store::ReadJob,
};
use proto::etcdserverpb::{RangeRequest, TxnRequest};
use std::collections::VecDeque;

/// Default of `Config::keys_at_once_max`. To read as many in one go takes some milliseconds.
pub const KEYS_AT_ONCE_MAX: i64 = 10_000;
/// What one slice looks at. Most of the work is to write out rows that lie scattered.
const SLICE_STEPS_MAX: usize = 2;
const STEP_CELLS_MAX: usize = 128;
const SLICE_BYTES_MAX: usize = 1 << 20;
/// A read that a compaction overtook goes on in slices twice as large, up to so many times: then the whole of it fits into
/// one, and no compaction comes between.
const DOUBLINGS_MAX: u32 = 16;

struct LargeRange {
    call: CallId,
    job: ReadJob,
    /// The answer so far.
    answer: Vec<u8>,
    /// Compactions that overtook it.
    restarts: u32,
}

/// One is read at a time. They are bounded with the other reads that wait.
#[derive(Default)]
pub(super) struct LargeRanges {
    queue: VecDeque<LargeRange>,
    /// The pages that the first of them lacks.
    awaits: Vec<PageNo>,
}

impl LargeRanges {
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn wants_work(&self) -> bool {
        !self.queue.is_empty() && self.awaits.is_empty()
    }

    pub fn forget(&mut self, call: CallId) {
        if self.queue.front().is_some_and(|first| first.call == call) {
            self.awaits.clear();
        }
        self.queue.retain(|range| range.call != call);
    }

    pub fn pages_arrived(&mut self) {
        self.awaits.clear();
    }

    fn push(&mut self, call: CallId, job: ReadJob, restarts: u32) {
        self.queue.push_back(LargeRange {
            call,
            job,
            answer: Vec::new(),
            restarts,
        });
    }
}

impl Member {
    /// Takes a range in if it is a large one.
    pub(super) fn take_large(&mut self, call: CallId, range: &RangeRequest) -> Result<bool, Miss> {
        let header = self.header(self.store.revision());
        let keys_max = self.config.keys_at_once_max;
        let job = self.store.large_range_job(range, &header, keys_max)?;
        let is_large = job.is_some();
        if let Some(job) = job {
            self.large_ranges.push(call, job, 0);
        }
        Ok(is_large)
    }

    /// Takes a read-only transaction in if it reads large ranges.
    pub(super) fn take_large_txn(&mut self, call: CallId, txn: &TxnRequest) -> Result<bool, Miss> {
        let header = self.header(self.store.revision());
        let keys_max = self.config.keys_at_once_max;
        let job = self.store.large_txn_job(txn, &header, keys_max)?;
        let is_large = job.is_some();
        if let Some(job) = job {
            self.large_ranges.push(call, job, 0);
        }
        Ok(is_large)
    }

    pub(super) fn large_range_slice(&mut self) {
        let Some(mut range) = self.large_ranges.queue.pop_front() else {
            return;
        };
        let call = range.call;
        match self.read_slice(&mut range) {
            Ok(Ok(true)) => self.reply(call, Ok(range.answer.into())),
            Ok(Ok(false)) => self.large_ranges.queue.push_front(range),
            // Who asked for the newest revision did not ask for one that is compacted meanwhile: it begins again.
            Ok(Err(RequestError::Compacted)) => {
                let header = self.header(self.store.revision());
                match range.job.restart(&self.store, &header) {
                    Ok(()) => {
                        self.large_ranges
                            .push(call, range.job, range.restarts.saturating_add(1))
                    }
                    Err(error) => self.reply(call, Err(error.into())),
                }
            }
            Ok(Err(error)) => self.reply(call, Err(error.into())),
            Err(miss) => {
                self.fetch(&miss);
                self.large_ranges.awaits = miss.pages;
                self.large_ranges.queue.push_front(range);
            }
        }
    }

    /// Reads on; whether the answer is whole.
    fn read_slice(&self, range: &mut LargeRange) -> Result<Result<bool, RequestError>, Miss> {
        let doublings = range.restarts.min(DOUBLINGS_MAX);
        let end = range.answer.len() + (SLICE_BYTES_MAX << doublings);
        for step in 0..SLICE_STEPS_MAX << doublings {
            let answer = &mut range.answer;
            match range.job.step(&self.store, STEP_CELLS_MAX, answer) {
                Ok(Ok(false)) if range.answer.len() < end => {}
                // What was read before stays in the answer.
                Err(_) if step > 0 => break,
                done => return done,
            }
        }
        Ok(Ok(false))
    }

    pub(super) fn abort_large_ranges(&mut self, error: RequestError) {
        self.large_ranges.awaits.clear();
        for range in std::mem::take(&mut self.large_ranges.queue) {
            self.reply(range.call, Err(error.into()));
        }
    }

    /// A page will not come.
    pub(super) fn large_range_damaged(&mut self, page: PageNo) {
        if self.large_ranges.awaits.contains(&page) {
            self.large_ranges.awaits.clear();
            if let Some(range) = self.large_ranges.queue.pop_front() {
                self.reply(range.call, Err(RequestError::Corrupt.into()));
            }
        }
    }
}
