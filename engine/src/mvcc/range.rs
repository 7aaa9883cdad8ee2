//! `Range`: every option with etcd's order of steps, into a message or straight into wire bytes.

use super::batch::Batch;
use super::key_range::KeyRange;
use super::read::{Found, Reader, Walk};
use super::selection::{
    fetch_limit, has_filters, is_backwards, is_by_value, is_plain, limit, order, passes_filters,
    rank, Order,
};
use super::varint::put_varint;
use crate::error::RequestError;
use crate::page::Miss;
use prost::Message;
use proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};

/// Rows that are read together, sorted by where they lie.
pub(crate) const BATCH_KEYS: usize = 128;

/// A range gives up collecting absent pages at this number and asks for them.
const MISSING_PAGES_MAX: usize = 256;

const TAG_HEADER: u8 = 0x0a;
pub(crate) const TAG_KVS: u8 = 0x12;
const TAG_MORE: u8 = 0x18;
const TAG_COUNT: u8 = 0x20;

/// What a range found, before it is encoded.
struct Selection<'p> {
    found: Vec<Found<'p>>,
    more: bool,
    count: i64,
}

/// The revision to read at: `None` for the newest.
pub fn resolve_revision(
    reader: &Reader<'_>,
    revision: i64,
    newest: i64,
) -> Result<Option<i64>, RequestError> {
    if revision > newest {
        return Err(RequestError::FutureRevision);
    }
    if revision <= 0 {
        return Ok(None);
    }
    if revision < reader.compacted {
        return Err(RequestError::Compacted);
    }
    Ok(Some(revision))
}

impl<'p> Reader<'p> {
    /// Answers a range. `batch` is the transaction that the range belongs to, if any; its changes are seen unless an
    /// older revision was asked for. The header stays empty.
    pub fn range(
        &self,
        request: &RangeRequest,
        batch: Option<&Batch>,
    ) -> Result<Result<RangeResponse, RequestError>, Miss> {
        let revision = match resolve_revision(self, request.revision, self.revision) {
            Ok(revision) => revision,
            Err(error) => return Ok(Err(error)),
        };
        if request.count_only {
            let range = KeyRange::new(&request.key, &request.range_end);
            return Ok(Ok(RangeResponse {
                count: self.count(range, revision, batch_for(revision, batch))?,
                ..RangeResponse::default()
            }));
        }
        let selection = self.select(request, revision, batch_for(revision, batch))?;
        let kvs = selection
            .found
            .iter()
            .map(|found| found.message(self, request.keys_only))
            .collect::<Result<Vec<_>, Miss>>()?;
        Ok(Ok(RangeResponse {
            header: None,
            kvs,
            more: selection.more,
            count: selection.count,
        }))
    }

    /// Appends the encoded `RangeResponse` to `out`. After a miss or a refusal `out` is as it was.
    pub fn range_encoded(
        &self,
        request: &RangeRequest,
        header: &ResponseHeader,
        out: &mut Vec<u8>,
    ) -> Result<Result<(), RequestError>, Miss> {
        let revision = match resolve_revision(self, request.revision, self.revision) {
            Ok(revision) => revision,
            Err(error) => return Ok(Err(error)),
        };
        let start = out.len();
        append_header(header, out);
        let done = self.append_range(request, revision, out);
        if done.is_err() {
            out.truncate(start);
        }
        done.map(Ok)
    }

    fn append_range(
        &self,
        request: &RangeRequest,
        revision: Option<i64>,
        out: &mut Vec<u8>,
    ) -> Result<(), Miss> {
        let range = KeyRange::new(&request.key, &request.range_end);
        let is_get = matches!(range, KeyRange::One(_)) && revision.is_none();
        if is_get && !request.count_only && !has_filters(request) {
            return self.append_newest(request, out);
        }
        let (more, count) = if request.count_only {
            (false, self.count(range, revision, None)?)
        } else if is_plain(request) {
            let walk = self.walk(range, revision, None);
            self.append_walk(request, range, walk, revision, out)?
        } else if is_backwards(request) {
            let walk = self.walk_stored(&range, revision.unwrap_or(self.revision), true);
            self.append_walk(request, range, walk, revision, out)?
        } else {
            let mut selection = self.select(request, revision, None)?;
            if !request.keys_only {
                let mut missing = Miss::default();
                self.read_bodies(&mut selection.found, &mut missing);
                fail_on(missing)?;
            }
            for found in &selection.found {
                found.append_field(TAG_KVS, request.keys_only, out);
            }
            (selection.more, selection.count)
        };
        append_end(more, count, out);
        Ok(())
    }

    /// One key, as it is now.
    fn append_newest(&self, request: &RangeRequest, out: &mut Vec<u8>) -> Result<(), Miss> {
        let Some(mut found) = self.get(&request.key, None)? else {
            return Ok(());
        };
        if !request.keys_only {
            found.read(self)?;
        }
        found.append_field(TAG_KVS, request.keys_only, out);
        append_end(false, 1, out);
        Ok(())
    }

    /// The common case: nothing is sorted or dropped, so keys go out batch by batch.
    fn append_walk<'a>(
        &self,
        request: &RangeRequest,
        range: KeyRange<'_>,
        mut walk: Walk<'a>,
        revision: Option<i64>,
        out: &mut Vec<u8>,
    ) -> Result<(bool, i64), Miss>
    where
        'p: 'a,
    {
        let reader: Reader<'a> = *self;
        let limit = limit(request);
        let mut batch: Vec<Found<'a>> = Vec::new();
        let mut missing = Miss::default();
        let mut taken = 0;
        let more = loop {
            let next = match walk.next() {
                Ok(next) => next,
                Err(miss) => {
                    missing.pages.extend(miss.pages);
                    return Err(missing);
                }
            };
            let last = next.is_none() || taken == limit;
            let more = next.is_some() && taken == limit;
            if let (Some(found), false) = (next, last) {
                batch.push(found);
                taken += 1;
            }
            if last || batch.len() == BATCH_KEYS {
                if !request.keys_only {
                    reader.read_bodies(&mut batch, &mut missing);
                }
                if missing.is_empty() {
                    for found in &batch {
                        found.append_field(TAG_KVS, request.keys_only, out);
                    }
                } else if last || missing.pages.len() >= MISSING_PAGES_MAX {
                    return Err(missing);
                }
                batch.clear();
            }
            if last {
                break more;
            }
        };
        let count = match more {
            true => self.count(range, revision, None)?,
            false => taken as i64,
        };
        Ok((more, count))
    }

    fn select<'a>(
        &self,
        request: &'a RangeRequest,
        revision: Option<i64>,
        batch: Option<&'a Batch>,
    ) -> Result<Selection<'a>, Miss>
    where
        'p: 'a,
    {
        let range = KeyRange::new(&request.key, &request.range_end);
        let fetch = fetch_limit(request);
        let mut found = Vec::new();
        let mut count = 0;
        let mut walk = self.walk(range, revision, batch);
        while found.len() < fetch {
            let Some(next) = walk.next()? else { break };
            count += 1;
            if passes_filters(request, &next) {
                found.push(next);
            }
        }
        if found.len() == fetch {
            count = self.count(range, revision, batch)?;
        }
        self.sort(request, &mut found)?;
        let limit = limit(request);
        let more = found.len() > limit;
        found.truncate(limit);
        Ok(Selection { found, more, count })
    }

    fn sort<'a>(&self, request: &RangeRequest, found: &mut [Found<'a>]) -> Result<(), Miss>
    where
        'p: 'a,
    {
        let descending = match order(request) {
            Order::Keys => return Ok(()),
            Order::Backwards => {
                found.reverse();
                return Ok(());
            }
            Order::Field { descending } => descending,
        };
        if is_by_value(request) {
            let mut missing = Miss::default();
            let reader: Reader<'a> = *self;
            reader.read_bodies(found, &mut missing);
            fail_on(missing)?;
        }
        let compare = |a: &Found<'_>, b: &Found<'_>| rank(request, a).cmp(&rank(request, b));
        match descending {
            true => found.sort_by(|a, b| compare(b, a)),
            false => found.sort_by(compare),
        }
        Ok(())
    }
}

pub(crate) fn append_header(header: &ResponseHeader, out: &mut Vec<u8>) {
    out.push(TAG_HEADER);
    put_varint(out, header.encoded_len() as u64);
    header
        .encode(out)
        .expect("a vector grows as far as it must");
}

/// What follows the keys.
pub(crate) fn append_end(more: bool, count: i64, out: &mut Vec<u8>) {
    if more {
        out.extend_from_slice(&[TAG_MORE, 1]);
    }
    if count != 0 {
        out.push(TAG_COUNT);
        put_varint(out, count as u64);
    }
}

fn batch_for(revision: Option<i64>, batch: Option<&Batch>) -> Option<&Batch> {
    batch.filter(|_| revision.is_none())
}

pub(crate) fn fail_on(missing: Miss) -> Result<(), Miss> {
    match missing.is_empty() {
        true => Ok(()),
        false => Err(missing),
    }
}
