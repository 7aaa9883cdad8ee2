//! Checks of a request by itself, before anything is looked up.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::SortTarget;
use proto::etcdserverpb::request_op::Request as Op;

use super::{refuse, Model, Refusal};

/// What a put costs beside its key and value.
const PUT_OVERHEAD_BYTES: u64 = 256;

/// Request ids fill nine or ten bytes of the envelope, depending on the member's id; the model takes nine.
const NINE_BYTE_REQUEST_ID: u64 = i64::MAX as u64;

fn no_key<T>() -> Result<T, Refusal> {
    refuse(3, "etcdserver: key is not provided")
}

pub(super) fn range(r: &pb::RangeRequest) -> Result<(), Refusal> {
    if r.key.is_empty() {
        return no_key();
    }
    // 3.5 dies of an unknown target; an unknown order is accepted there and sorts nothing.
    if SortTarget::try_from(r.sort_target).is_err() {
        return refuse(3, "etcdserver: invalid sort option");
    }
    Ok(())
}

pub(super) fn put(r: &pb::PutRequest) -> Result<(), Refusal> {
    if r.key.is_empty() {
        return no_key();
    }
    if r.ignore_value && !r.value.is_empty() {
        return refuse(3, "etcdserver: value is provided");
    }
    if r.ignore_lease && r.lease != 0 {
        return refuse(3, "etcdserver: lease is provided");
    }
    Ok(())
}

pub(super) fn delete_range(r: &pb::DeleteRangeRequest) -> Result<(), Refusal> {
    if r.key.is_empty() {
        return no_key();
    }
    Ok(())
}

pub(super) fn put_cost(r: &pb::PutRequest) -> u64 {
    PUT_OVERHEAD_BYTES + (r.key.len() + r.value.len()) as u64
}

pub(super) fn txn_cost(txn: &pb::TxnRequest) -> u64 {
    let cost = |ops: &[pb::RequestOp]| -> u64 {
        let of = |op: &pb::RequestOp| match &op.request {
            Some(Op::RequestPut(put)) => put_cost(put),
            Some(Op::RequestTxn(inner)) => txn_cost(inner),
            _ => 0,
        };
        ops.iter().map(of).sum()
    };
    cost(&txn.success).max(cost(&txn.failure))
}

/// Operation counts, keys, ops and duplicate keys of a whole txn.
pub(super) fn txn(txn: &pb::TxnRequest, ops_max: usize) -> Result<(), Refusal> {
    shape(txn, ops_max)?;
    touched(&txn.success)?;
    touched(&txn.failure)?;
    Ok(())
}

fn shape(txn: &pb::TxnRequest, budget: usize) -> Result<(), Refusal> {
    let longest = txn
        .compare
        .len()
        .max(txn.success.len())
        .max(txn.failure.len());
    if longest > budget {
        return refuse(3, "etcdserver: too many operations in txn request");
    }
    if txn.compare.iter().any(|c| c.key.is_empty()) {
        return no_key();
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(Op::RequestRange(r)) => range(r)?,
            Some(Op::RequestPut(r)) => put(r)?,
            Some(Op::RequestDeleteRange(r)) => delete_range(r)?,
            Some(Op::RequestTxn(inner)) => shape(inner, budget - longest)?,
            None => return refuse(3, "etcdserver: key not found"),
        }
    }
    Ok(())
}

/// Keys that a list of ops puts, and the literal intervals that it deletes.
#[derive(Default)]
struct Touched {
    puts: BTreeSet<Bytes>,
    deletes: Vec<pb::DeleteRangeRequest>,
}

impl Touched {
    fn deletes(&self, key: &Bytes) -> bool {
        self.deletes.iter().any(|d| {
            if d.range_end.is_empty() {
                d.key == key
            } else {
                // Literal: an end of one zero byte makes an empty interval here, not an open one.
                d.key <= key && key < &d.range_end
            }
        })
    }
}

fn touched(ops: &[pb::RequestOp]) -> Result<Touched, Refusal> {
    let mut all = Touched::default();
    for op in ops {
        if let Some(Op::RequestDeleteRange(d)) = &op.request {
            all.deletes.push(d.clone());
        }
    }
    for op in ops {
        let Some(Op::RequestTxn(inner)) = &op.request else {
            continue;
        };
        let (success, failure) = (touched(&inner.success)?, touched(&inner.failure)?);
        for key in &success.puts {
            if all.puts.contains(key) || all.deletes(key) {
                return duplicate();
            }
        }
        for key in &failure.puts {
            if all.puts.contains(key) || all.deletes(key) {
                return duplicate();
            }
        }
        all.puts.extend(success.puts);
        all.puts.extend(failure.puts);
        all.deletes.extend(success.deletes);
        all.deletes.extend(failure.deletes);
    }
    for op in ops {
        let Some(Op::RequestPut(put)) = &op.request else {
            continue;
        };
        if all.deletes(&put.key) || !all.puts.insert(put.key.clone()) {
            return duplicate();
        }
    }
    Ok(all)
}

fn duplicate<T>() -> Result<T, Refusal> {
    refuse(3, "etcdserver: duplicate key given in txn request")
}

impl Model {
    /// The whole log entry must not exceed the request limit.
    pub(super) fn check_size(&self, request: &pb::InternalRaftRequest) -> Result<(), Refusal> {
        let mut request = request.clone();
        request.header = Some(pb::RequestHeader {
            id: NINE_BYTE_REQUEST_ID,
            ..Default::default()
        });
        if request.encoded_len() > self.limits.request_bytes_max {
            return refuse(3, "etcdserver: request is too large");
        }
        Ok(())
    }
}
