//! A transaction of nothing but ranges, in slices. All of it shows one revision: conditions, checks and ranges.

use super::super::header;
use super::super::txn::{branch, check_range};
use super::pinned::{Pinned, Place};
use super::range::RangeJob;
use super::{Slice, Store};
use crate::error::RequestError;
use crate::mvcc::range::{append_header, BATCH_KEYS};
use crate::mvcc::varint::{put_varint, varint_len};
use proto::etcdserverpb::{
    compare::CompareTarget, request_op::Request, Compare, RangeRequest, ResponseHeader, TxnRequest,
};

const TAG_SUCCEEDED: u8 = 0x10;
const TAG_RESPONSES: u8 = 0x1a;
const TAG_RESPONSE_RANGE: u8 = 0x0a;

/// A read-only transaction in slices.
#[derive(Debug)]
pub struct TxnJob {
    txn: TxnRequest,
    header: ResponseHeader,
    revision: i64,
    /// Conditions that hold.
    compared: usize,
    comparing: Option<Comparing>,
    succeeded: Option<bool>,
    /// Ranges that are answered.
    answered: usize,
    range: Option<RangeJob>,
}

/// A condition on the way through its keys.
#[derive(Debug)]
struct Comparing {
    pinned: Pinned,
    place: Place,
}

impl Comparing {
    fn new(compare: &Compare, revision: i64) -> Comparing {
        Comparing {
            pinned: Pinned {
                request: RangeRequest {
                    key: compare.key.clone(),
                    range_end: compare.range_end.clone(),
                    ..RangeRequest::default()
                },
                revision,
                backwards: false,
            },
            place: Place::default(),
        }
    }

    /// Whether the condition holds, once that is known.
    fn step(&mut self, compare: &Compare, store: &Store, budget: usize) -> Slice<Option<bool>> {
        if let Err(error) = self.pinned.check(store) {
            return Ok(Err(error));
        }
        let by_value = compare.target == CompareTarget::Value as i32;
        let place = &mut self.place;
        let batch = self
            .pinned
            .batch(store, place, budget, BATCH_KEYS, by_value)?;
        let reader = store.reader();
        for found in &batch {
            if !reader.holds(compare, Some(found))? {
                return Ok(Ok(Some(false)));
            }
        }
        Ok(Ok(match (self.place.ended, self.place.live) {
            (false, _) => None,
            (true, 0) => Some(reader.holds(compare, None)?),
            (true, _) => Some(true),
        }))
    }
}

impl Store {
    pub(super) fn txn_job(&self, txn: TxnRequest, header: &ResponseHeader) -> TxnJob {
        TxnJob {
            txn,
            header: *header,
            revision: self.revision,
            compared: 0,
            comparing: None,
            succeeded: None,
            answered: 0,
            range: None,
        }
    }
}

impl TxnJob {
    /// For one that begins again.
    pub(super) fn take_request(&mut self) -> TxnRequest {
        std::mem::take(&mut self.txn)
    }

    pub(super) fn step(&mut self, store: &Store, budget: usize, out: &mut Vec<u8>) -> Slice<bool> {
        match (self.succeeded, &mut self.range) {
            (None, _) => self.compare(store, budget, out),
            (Some(succeeded), None) => Ok(Ok(self.next_range(succeeded))),
            (_, Some(range)) if !range.is_measured() => {
                let measured = range.measure(store, budget)?;
                Ok(measured.map(|bytes| {
                    if let Some(bytes) = bytes {
                        append_response_head(bytes, out);
                    }
                    false
                }))
            }
            (_, Some(range)) => {
                let emitted = range.emit(store, budget, out)?;
                Ok(emitted.map(|ended| {
                    if ended {
                        self.range = None;
                    }
                    false
                }))
            }
        }
    }

    fn compare(&mut self, store: &Store, budget: usize, out: &mut Vec<u8>) -> Slice<bool> {
        let succeeded = match self.txn.compare.get(self.compared) {
            None => true,
            Some(compare) => {
                let new = || Comparing::new(compare, self.revision);
                let comparing = self.comparing.get_or_insert_with(new);
                match comparing.step(compare, store, budget)? {
                    Err(error) => return Ok(Err(error)),
                    Ok(Some(false)) => false,
                    Ok(holds) => {
                        if holds.is_some() {
                            self.compared += 1;
                            self.comparing = None;
                        }
                        return Ok(Ok(false));
                    }
                }
            }
        };
        if let Err(error) = self.check_ranges(succeeded, store.compacted) {
            return Ok(Err(error));
        }
        self.succeeded = Some(succeeded);
        append_header(&self.header, out);
        if succeeded {
            out.extend_from_slice(&[TAG_SUCCEEDED, 1]);
        }
        Ok(Ok(false))
    }

    fn check_ranges(&self, succeeded: bool, compacted: i64) -> Result<(), RequestError> {
        for op in branch(&self.txn, succeeded) {
            if let Some(Request::RequestRange(range)) = &op.request {
                check_range(range, self.revision, compacted)?;
            }
        }
        Ok(())
    }

    /// True if there is none left.
    fn next_range(&mut self, succeeded: bool) -> bool {
        let op = branch(&self.txn, succeeded).get(self.answered);
        let Some(Request::RequestRange(range)) = op.and_then(|op| op.request.as_ref()) else {
            return true;
        };
        let revision = match range.revision > 0 {
            true => range.revision,
            false => self.revision,
        };
        let header = header(self.revision);
        self.range = Some(RangeJob::new(range, &header, revision));
        self.answered += 1;
        false
    }
}

/// What goes before a `RangeResponse` of this length.
fn append_response_head(range_bytes: u64, out: &mut Vec<u8>) {
    let op_bytes = 1 + varint_len(range_bytes) as u64 + range_bytes;
    out.push(TAG_RESPONSES);
    put_varint(out, op_bytes);
    out.push(TAG_RESPONSE_RANGE);
    put_varint(out, range_bytes);
    out.reserve(range_bytes as usize);
}
