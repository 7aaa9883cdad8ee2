//! A large range in slices: it neither holds up the store nor waits in memory as a whole.
//!
//! The revision is pinned at the start, so writes in between do not show. The length of the answer is measured first,
//! from the index cells alone where they are not newer than the revision, because it goes before the answer on the
//! wire; then the pieces follow, as the receiver takes them.

use super::Store;
use crate::error::RequestError;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::range::{
    append_end, append_header, is_plain, limit, resolve_revision, BATCH_KEYS, TAG_KVS,
};
use crate::mvcc::read::Found;
use crate::page::Miss;
use proto::etcdserverpb::{RangeRequest, ResponseHeader};

/// Progress through the keys of the range.
#[derive(Clone, Debug, Default)]
struct Place {
    /// Where to go on; `None` at the start.
    from: Option<Vec<u8>>,
    taken: usize,
    ended: bool,
}

/// A range in slices. For requests that neither sort nor filter nor only count.
#[derive(Clone, Debug)]
pub struct RangeJob {
    request: RangeRequest,
    header: ResponseHeader,
    /// The revision that is read.
    revision: i64,
    /// Keys to deliver at most.
    limit: usize,
    measured: Place,
    /// Bytes of the keys measured so far.
    bytes: u64,
    emitted: Place,
    /// Number of keys in the range, known when everything is measured.
    count: i64,
}

type Slice<T> = Result<Result<T, RequestError>, Miss>;

impl Store {
    /// Begins a range in slices; `None` for one that has to be answered in one go by [`Store::range_encoded`].
    pub fn range_job(
        &self,
        request: &RangeRequest,
        header: &ResponseHeader,
    ) -> Result<Option<RangeJob>, RequestError> {
        let revision = resolve_revision(&self.reader(), request.revision, self.revision)?;
        Ok(is_plain(request).then(|| RangeJob {
            request: request.clone(),
            header: *header,
            revision: revision.unwrap_or(self.revision),
            limit: limit(request),
            measured: Place::default(),
            bytes: 0,
            emitted: Place::default(),
            count: 0,
        }))
    }
}

impl Store {
    /// As [`Store::range_job`], for a range of more than `keys_min` keys today. Any other is answered in one go.
    pub fn large_range_job(
        &self,
        request: &RangeRequest,
        header: &ResponseHeader,
        keys_min: i64,
    ) -> Result<Option<RangeJob>, Miss> {
        let few = request.range_end.is_empty() || (1..=keys_min).contains(&request.limit);
        if few || !is_plain(request) {
            return Ok(None);
        }
        let range = KeyRange::new(&request.key, &request.range_end);
        if self.reader().count(range, None, None)? <= keys_min {
            return Ok(None);
        }
        // What is wrong with the request is told by whoever answers it.
        Ok(self.range_job(request, header).unwrap_or(None))
    }
}

impl Place {
    fn range<'a>(&'a self, request: &'a RangeRequest) -> KeyRange<'a> {
        let from = self.from.as_deref().unwrap_or(&request.key);
        match (&self.from, &request.range_end[..]) {
            // A single key has no rest.
            (Some(_), []) => KeyRange::Between(from, from),
            (_, end) => KeyRange::new(from, end),
        }
    }

    /// Goes on after this key.
    fn pass(&mut self, key: &[u8]) {
        let from = self.from.get_or_insert_default();
        from.clear();
        from.extend_from_slice(key);
        from.push(0);
        self.taken += 1;
    }
}

impl RangeJob {
    /// The revision that all pieces show.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Looks at up to `budget` keys. The length of the whole encoded answer once it is known.
    pub fn measure(&mut self, store: &Store, budget: usize) -> Slice<Option<u64>> {
        if !self.measured.ended {
            let mut place = std::mem::take(&mut self.measured);
            let mut bytes = 0;
            let done = self.walk(store, &mut place, budget, |found, keys_only| {
                bytes += found.field_len(keys_only);
            });
            self.measured = place;
            self.bytes += bytes;
            match done? {
                Err(error) => return Ok(Err(error)),
                Ok(false) => return Ok(Ok(None)),
                Ok(true) => {}
            }
        }
        if self.measured.taken < self.limit {
            self.count = self.measured.taken as i64;
        } else {
            let range = KeyRange::new(&self.request.key, &self.request.range_end);
            self.count = store.reader().count(range, Some(self.revision), None)?;
        }
        let mut around = Vec::new();
        append_header(&self.header, &mut around);
        append_end(self.more(), self.count, &mut around);
        Ok(Ok(Some(self.bytes + around.len() as u64)))
    }

    fn more(&self) -> bool {
        self.count > self.measured.taken as i64
    }

    /// Appends the next piece, of up to `budget` keys, and tells whether it was the last. Everything was measured
    /// before. After a miss or an error `out` is as it was.
    pub fn emit(&mut self, store: &Store, budget: usize, out: &mut Vec<u8>) -> Slice<bool> {
        debug_assert!(self.measured.ended);
        let start = out.len();
        if self.emitted.from.is_none() && !self.emitted.ended {
            append_header(&self.header, out);
        }
        let before = self.emitted.clone();
        let mut place = std::mem::take(&mut self.emitted);
        let mut found: Vec<Found<'_>> = Vec::new();
        let reader = store.reader();
        let mut missing = Miss::default();
        let done = self.walk(store, &mut place, budget.min(BATCH_KEYS), |key, _| {
            found.push(key);
        });
        if !self.request.keys_only {
            reader.read_bodies(&mut found, &mut missing);
        }
        let done = match (done, missing.is_empty()) {
            (done, true) => done,
            (_, false) => Err(missing),
        };
        if !matches!(done, Ok(Ok(_))) {
            self.emitted = before;
            out.truncate(start);
            return done;
        }
        self.emitted = place;
        for found in &found {
            found.append_field(TAG_KVS, self.request.keys_only, out);
        }
        if self.emitted.ended {
            append_end(self.more(), self.count, out);
        }
        done
    }

    /// Visits up to `budget` keys and tells whether the range has ended.
    fn walk<'s>(
        &self,
        store: &'s Store,
        place: &mut Place,
        budget: usize,
        mut visit: impl FnMut(Found<'s>, bool),
    ) -> Slice<bool> {
        if self.revision < store.compacted {
            return Ok(Err(RequestError::Compacted));
        }
        let keys_only = self.request.keys_only;
        let from = place.clone();
        let mut walk = store
            .reader()
            .walk_stored(&from.range(&self.request), self.revision, false);
        for seen in 0..budget.max(1) {
            if place.taken == self.limit {
                place.ended = true;
                return Ok(Ok(true));
            }
            let next = match walk.next() {
                Err(_) if seen > 0 => return Ok(Ok(false)),
                next => next?,
            };
            let Some(found) = next else {
                place.ended = true;
                return Ok(Ok(true));
            };
            place.pass(&found.key);
            visit(found, keys_only);
        }
        Ok(Ok(false))
    }
}
