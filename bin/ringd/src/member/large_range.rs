//! Ranges of so many keys that answering in one go would hold up everybody else: they are read a slice at a time, between other
//! work, at the revision at which they began.

use super::Member;
use crate::request::CallId;
use engine::{
    error::RequestError,
    page::{Miss, PageNo},
    store::RangeJob,
};
use proto::etcdserverpb::RangeRequest;
use std::collections::VecDeque;

/// A range of more keys than this is read in slices. One of as many takes some milliseconds.
const KEYS_MIN: i64 = 10_000;
/// What one slice looks at: some 100 µs of work.
const SLICE_KEYS_MAX: usize = 1_024;
const SLICE_BATCHES_MAX: usize = 8;
const SLICE_BYTES_MAX: usize = 1 << 20;

struct LargeRange {
    call: CallId,
    request: RangeRequest,
    job: RangeJob,
    /// The answer so far, once its length is known.
    answer: Option<Vec<u8>>,
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
}

impl Member {
    /// Takes a range in if it is a large one.
    pub(super) fn take_large(&mut self, call: CallId, range: &RangeRequest) -> Result<bool, Miss> {
        let header = self.header(self.store.revision());
        let Some(job) = self.store.large_range_job(range, &header, KEYS_MIN)? else {
            return Ok(false);
        };
        self.large_ranges.queue.push_back(LargeRange {
            call,
            request: range.clone(),
            job,
            answer: None,
        });
        Ok(true)
    }

    pub(super) fn large_range_slice(&mut self) {
        let Some(mut range) = self.large_ranges.queue.pop_front() else {
            return;
        };
        let call = range.call;
        match self.read_slice(&mut range) {
            Ok(Ok(true)) => {
                let answer = range.answer.unwrap_or_default().into();
                self.reply(call, Ok(answer));
            }
            Ok(Ok(false)) => self.large_ranges.queue.push_front(range),
            // Who asked for the newest revision did not ask for one that is compacted meanwhile: it begins again.
            Ok(Err(RequestError::Compacted)) if range.request.revision <= 0 => {
                let header = self.header(self.store.revision());
                match self.store.range_job(&range.request, &header) {
                    Ok(Some(job)) => {
                        (range.job, range.answer) = (job, None);
                        self.large_ranges.queue.push_back(range);
                    }
                    Ok(None) => self.reply(call, Err(RequestError::Compacted.into())),
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
        let Some(answer) = &mut range.answer else {
            return Ok(range
                .job
                .measure(&self.store, SLICE_KEYS_MAX)?
                .map(|bytes| {
                    range.answer = bytes.map(|bytes| Vec::with_capacity(bytes as usize));
                    false
                }));
        };
        let end = answer.len() + SLICE_BYTES_MAX;
        for batch in 0..SLICE_BATCHES_MAX {
            match range.job.emit(&self.store, SLICE_KEYS_MAX, answer) {
                Ok(Ok(false)) if answer.len() < end => {}
                // What was read before stays in the answer.
                Err(_) if batch > 0 => break,
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
