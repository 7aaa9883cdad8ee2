//! What requests cost against the quota, and which of them the alarms refuse.

use proto::etcdserverpb::{
    request_op::Request, LeaseGrantRequest, PutRequest, RequestOp, TxnRequest,
};

/// Quota when none is configured, bytes.
pub const QUOTA_DEFAULT_BYTES: u64 = 2 << 30;

const PUT_OVERHEAD_BYTES: u64 = 256;
const LEASE_GRANT_BYTES: u64 = 64;

pub fn put_cost(put: &PutRequest) -> u64 {
    PUT_OVERHEAD_BYTES + put.key.len() as u64 + put.value.len() as u64
}

pub fn lease_grant_cost(_: &LeaseGrantRequest) -> u64 {
    LEASE_GRANT_BYTES
}

/// The dearer branch; nested transactions count. Zero for a transaction that puts nothing.
pub fn txn_cost(txn: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_cost(put),
                Some(Request::RequestTxn(nested)) => txn_cost(nested),
                _ => 0,
            })
            .sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}
