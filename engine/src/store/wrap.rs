//! Ranges in writing transactions, so that all members of a mixed cluster decide alike.
//!
//! An etcd member below 3.7 on which no client waits drops the ranges that stand directly in a writing transaction
//! before it checks them, so a range at a bad revision (or an unreadable one) is refused by the member that was asked
//! and the writes are applied by all others. A range nested in a transaction of its own is checked by everybody. The
//! proposer therefore nests such ranges, and takes the answers out again.

use proto::etcdserverpb::{
    request_op::Request, response_op::Response, RequestOp, ResponseOp, TxnRequest, TxnResponse,
};

/// Whether a transaction goes through the log: it has an operation that is no range. Nested ones count as such.
pub fn is_writing(txn: &TxnRequest) -> bool {
    let is_range = |op: &RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
    !txn.success.iter().chain(&txn.failure).all(is_range)
}

/// Where a request was changed: per branch, the places of the nested ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrapped {
    success: Vec<usize>,
    failure: Vec<usize>,
}

/// Nests the direct ranges of a writing transaction that must not be dropped: those that name a revision, and all of
/// them while authentication is on. Only for clusters below version 3.7.
pub fn wrap_direct_ranges(txn: &mut TxnRequest, auth_enabled: bool) -> Wrapped {
    if !is_writing(txn) {
        return Wrapped::default();
    }
    let wrap = |ops: &mut Vec<RequestOp>| {
        let mut places = Vec::new();
        for (place, op) in ops.iter_mut().enumerate() {
            let Some(Request::RequestRange(range)) = &op.request else {
                continue;
            };
            if range.revision != 0 || auth_enabled {
                let range = RequestOp {
                    request: op.request.take(),
                };
                op.request = Some(Request::RequestTxn(TxnRequest {
                    success: vec![range],
                    ..TxnRequest::default()
                }));
                places.push(place);
            }
        }
        places
    };
    Wrapped {
        success: wrap(&mut txn.success),
        failure: wrap(&mut txn.failure),
    }
}

impl Wrapped {
    /// Puts the answer into the form of the client's request.
    pub fn unwrap_response(&self, response: &mut TxnResponse) {
        let places = match response.succeeded {
            true => &self.success,
            false => &self.failure,
        };
        for &place in places {
            let Some(op) = response.responses.get_mut(place) else {
                continue;
            };
            if let Some(Response::ResponseTxn(nested)) = &mut op.response {
                if let Some(range) = nested.responses.pop() {
                    *op = range;
                }
            }
        }
    }
}

/// The answer of an operation, for readability where they are built.
pub(super) fn response_op(response: Response) -> ResponseOp {
    ResponseOp {
        response: Some(response),
    }
}
