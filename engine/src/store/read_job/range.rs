//! A range in slices.
//!
//! The length of the answer is measured first, because it goes before the answer on the wire: from the index cells alone
//! where they are not newer than the revision, unless values are what it is sorted by. Then the pieces follow, as the
//! receiver takes them. In the order of the keys they are found again by a second walk; in another one, by the revisions
//! that were kept and sorted.

use super::count::CountJob;
use super::pinned::{Pinned, Place};
use super::sorted::Sorted;
use super::{Slice, Store};
use crate::error::RequestError;
use crate::mvcc::range::{append_end, append_header, resolve_revision, BATCH_KEYS, TAG_KVS};
use crate::mvcc::selection::{is_by_value, limit, order, rank, walk_limit, Order};
use proto::etcdserverpb::{RangeRequest, ResponseHeader};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Look,
    Sort,
    Count,
    Measured,
}

/// A range in slices.
#[derive(Clone, Debug)]
pub struct RangeJob {
    pinned: Pinned,
    /// Goes into the answer.
    header: ResponseHeader,
    phase: Phase,
    looked: Place,
    /// Keys that passed the filters so far.
    passed: usize,
    /// Their length in the answer, where they are not sorted.
    field_bytes: u64,
    sorted: Option<Sorted>,
    counting: CountJob,
    /// Number of keys in the range, known when everything is measured.
    count: i64,
    has_begun: bool,
    emitted: Place,
    delivered: usize,
}

impl Store {
    /// Begins a range in slices.
    pub fn range_job(
        &self,
        request: &RangeRequest,
        header: &ResponseHeader,
    ) -> Result<RangeJob, RequestError> {
        let revision = resolve_revision(&self.reader(), request.revision, self.revision)?;
        let revision = revision.unwrap_or(self.revision);
        Ok(RangeJob::new(request, header, revision))
    }
}

impl RangeJob {
    /// At this revision, whatever the request says.
    pub(super) fn new(request: &RangeRequest, header: &ResponseHeader, revision: i64) -> RangeJob {
        let order = order(request);
        RangeJob {
            pinned: Pinned {
                request: request.clone(),
                revision,
                backwards: order == Order::Backwards,
            },
            header: *header,
            phase: match request.count_only {
                true => Phase::Count,
                false => Phase::Look,
            },
            looked: Place::default(),
            passed: 0,
            field_bytes: 0,
            sorted: match order {
                Order::Field { descending } => Some(Sorted::new(descending, limit(request))),
                Order::Keys | Order::Backwards => None,
            },
            counting: CountJob::default(),
            count: 0,
            has_begun: false,
            emitted: Place::default(),
            delivered: 0,
        }
    }

    /// The revision that all pieces show.
    pub fn revision(&self) -> i64 {
        self.pinned.revision
    }

    pub(super) fn request(&self) -> &RangeRequest {
        &self.pinned.request
    }

    pub(super) fn is_measured(&self) -> bool {
        self.phase == Phase::Measured
    }

    /// Measures, and then emits.
    pub fn step(&mut self, store: &Store, budget: usize, out: &mut Vec<u8>) -> Slice<bool> {
        if self.is_measured() {
            return self.emit(store, budget, out);
        }
        let measured = self.measure(store, budget)?;
        Ok(measured.map(|bytes| {
            out.reserve_exact(bytes.unwrap_or(0) as usize);
            false
        }))
    }

    /// Looks at up to `budget` cells, or does other work that takes as long. The length of the whole encoded answer once
    /// it is known.
    pub fn measure(&mut self, store: &Store, budget: usize) -> Slice<Option<u64>> {
        if let Err(error) = self.pinned.check(store) {
            return Ok(Err(error));
        }
        match self.phase {
            Phase::Look => {
                if let Err(error) = self.look(store, budget)? {
                    return Ok(Err(error));
                }
            }
            Phase::Sort => {
                if self
                    .sorted
                    .as_mut()
                    .is_none_or(|sorted| sorted.sort(budget))
                {
                    self.phase = Phase::Count;
                }
            }
            Phase::Count => {
                if let Some(count) = self.counting.step(&self.pinned, store, budget)? {
                    self.count = count;
                    self.phase = Phase::Measured;
                }
            }
            Phase::Measured => {}
        }
        Ok(Ok(self.is_measured().then(|| self.len())))
    }

    fn look(&mut self, store: &Store, budget: usize) -> Slice<()> {
        let request = &self.pinned.request;
        let walk_limit = walk_limit(request);
        let keys_max = BATCH_KEYS.min(walk_limit - self.passed);
        let by_value = self.sorted.is_some() && is_by_value(request);
        let place = &mut self.looked;
        let batch = self
            .pinned
            .batch(store, place, budget, keys_max, by_value)?;
        for found in &batch {
            self.passed += 1;
            let bytes = found.field_len(request.keys_only);
            if let Some(sorted) = &mut self.sorted {
                if let Err(error) = sorted.push(rank(request, found), found.at, bytes) {
                    return Ok(Err(error));
                }
            } else if self.passed <= limit(request) {
                self.field_bytes += bytes;
            }
        }
        if self.looked.ended {
            self.counting = CountJob::Done(self.looked.live);
        }
        if self.looked.ended || self.passed == walk_limit {
            self.phase = Phase::Sort;
        }
        Ok(Ok(()))
    }

    /// Number of keys to deliver.
    fn deliver(&self) -> usize {
        self.passed.min(limit(self.request()))
    }

    fn append_end(&self, out: &mut Vec<u8>) {
        append_end(self.passed > self.deliver(), self.count, out);
    }

    fn len(&self) -> u64 {
        let mut around = Vec::new();
        append_header(&self.header, &mut around);
        self.append_end(&mut around);
        let sorted = self.sorted.as_ref().map(Sorted::field_bytes);
        sorted.unwrap_or(self.field_bytes) + around.len() as u64
    }

    /// Appends the next piece, from up to `budget` cells, and tells whether it was the last. Everything was measured
    /// before. After a miss or an error `out` is as it was.
    pub fn emit(&mut self, store: &Store, budget: usize, out: &mut Vec<u8>) -> Slice<bool> {
        debug_assert!(self.is_measured());
        if let Err(error) = self.pinned.check(store) {
            return Ok(Err(error));
        }
        let keys_only = self.request().keys_only;
        let keys_max = BATCH_KEYS.min(self.deliver() - self.delivered);
        let batch = match &self.sorted {
            _ if keys_max == 0 => Vec::new(),
            Some(sorted) => {
                let keys_max = keys_max.min(budget.max(1));
                sorted.batch(store, self.delivered, keys_max)?
            }
            None => {
                let place = &mut self.emitted;
                self.pinned
                    .batch(store, place, budget, keys_max, !keys_only)?
            }
        };
        if !self.has_begun {
            self.has_begun = true;
            append_header(&self.header, out);
        }
        for found in &batch {
            found.append_field(TAG_KVS, keys_only, out);
        }
        self.delivered += batch.len();
        let ended = self.delivered == self.deliver();
        debug_assert!(
            ended || !self.emitted.ended,
            "it was measured at the same revision"
        );
        if ended {
            self.append_end(out);
        }
        Ok(Ok(ended || self.emitted.ended))
    }
}
