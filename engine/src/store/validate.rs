//! Checks that need no state: made by the member that is asked, before anything is proposed. First error wins, in
//! etcd's order. The NOSPACE check goes before them ([`super::quota`]).

use crate::error::RequestError;
use proto::etcdserverpb::{
    alarm_request::AlarmAction,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
    AlarmRequest, AlarmType, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

type Check = Result<(), RequestError>;

pub fn validate_range(range: &RangeRequest) -> Check {
    if range.key.is_empty() {
        return Err(RequestError::EmptyKey);
    }
    // etcd 3.5 crashes on an unknown target, 3.6 refuses both; an unknown order is no order in 3.5.
    if SortTarget::try_from(range.sort_target).is_err() {
        return Err(RequestError::InvalidSortOption);
    }
    Ok(())
}

/// As etcd 3.6: unknown orders are refused too.
pub fn validate_sort_order(range: &RangeRequest) -> Check {
    match SortOrder::try_from(range.sort_order) {
        Ok(_) => Ok(()),
        Err(_) => Err(RequestError::InvalidSortOption),
    }
}

pub fn validate_put(put: &PutRequest) -> Check {
    if put.key.is_empty() {
        Err(RequestError::EmptyKey)
    } else if put.ignore_value && !put.value.is_empty() {
        Err(RequestError::ValueProvided)
    } else if put.ignore_lease && put.lease != 0 {
        Err(RequestError::LeaseProvided)
    } else {
        Ok(())
    }
}

pub fn validate_delete_range(delete: &DeleteRangeRequest) -> Check {
    match delete.key.is_empty() {
        true => Err(RequestError::EmptyKey),
        false => Ok(()),
    }
}

pub fn validate_lease_grant(grant: &LeaseGrantRequest) -> Check {
    match grant.ttl > crate::lease::TTL_MAX_SECONDS {
        true => Err(RequestError::LeaseTtlTooLarge),
        false => Ok(()),
    }
}

/// etcd 3.5 crashes on what is refused here; it must never reach the log.
pub fn validate_alarm(alarm: &AlarmRequest) -> Check {
    match AlarmAction::try_from(alarm.action) {
        Err(_) => Err(RequestError::UnknownAlarmAction),
        Ok(AlarmAction::Activate) if AlarmType::try_from(alarm.alarm).is_err() => {
            Err(RequestError::UnknownAlarmType)
        }
        Ok(_) => Ok(()),
    }
}

/// A transaction with everything nested in it. `max_ops` is `--max-txn-ops`.
pub fn validate_txn(txn: &TxnRequest, max_ops: usize) -> Check {
    validate_level(txn, max_ops)?;
    written_keys(&txn.success)?;
    written_keys(&txn.failure)?;
    Ok(())
}

/// Number of operations of a level as the budget counts them: its longest list.
pub fn level_ops(txn: &TxnRequest) -> usize {
    txn.compare
        .len()
        .max(txn.success.len())
        .max(txn.failure.len())
}

/// Every level costs one at least, so the recursion is as deep as the budget at most.
fn validate_level(txn: &TxnRequest, budget: usize) -> Check {
    let ops = level_ops(txn);
    if ops > budget {
        return Err(RequestError::TooManyOps);
    }
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(RequestError::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => validate_range(range)?,
            Some(Request::RequestPut(put)) => validate_put(put)?,
            Some(Request::RequestDeleteRange(delete)) => validate_delete_range(delete)?,
            Some(Request::RequestTxn(nested)) => validate_level(nested, budget - ops)?,
            None => return Err(RequestError::KeyNotFound),
        }
    }
    Ok(())
}

/// Disjoint half-open intervals of keys.
#[derive(Default)]
struct Intervals<'a> {
    /// Start → end; `None`: the single key that starts it.
    ends: BTreeMap<&'a [u8], End<'a>>,
}

/// End of an interval: a key itself, or just past one. `PastKey(k)` sorts after `Before(k)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct End<'a> {
    key: &'a [u8],
    inclusive: bool,
}

impl End<'_> {
    fn covers(&self, key: &[u8]) -> bool {
        key < self.key || (self.inclusive && key == self.key)
    }
}

fn up_to(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(key))
}

fn from(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(key), Bound::Unbounded)
}

impl<'a> Intervals<'a> {
    fn add_delete(&mut self, delete: &'a DeleteRangeRequest) {
        let end = match &delete.range_end[..] {
            [] => End {
                key: &delete.key,
                inclusive: true,
            },
            end => End {
                key: end,
                inclusive: false,
            },
        };
        self.add(&delete.key, end);
    }

    fn add(&mut self, mut start: &'a [u8], mut end: End<'a>) {
        // An inverted interval never conflicts; "\0" as the end makes one, since it is taken literally here.
        if !end.covers(start) {
            return;
        }
        if let Some((&before, &before_end)) = self.ends.range::<[u8], _>(up_to(start)).next_back() {
            if before_end.covers(start) {
                start = before;
                end = end.max(before_end);
            }
        }
        while let Some((&next, &next_end)) = self.ends.range::<[u8], _>(from(start)).next() {
            if !end.covers(next) {
                break;
            }
            end = end.max(next_end);
            self.ends.remove(next);
        }
        self.ends.insert(start, end);
    }

    fn covers(&self, key: &[u8]) -> bool {
        let before = self.ends.range::<[u8], _>(up_to(key)).next_back();
        before.is_some_and(|(_, end)| end.covers(key))
    }

    fn covers_any(&self, keys: &BTreeSet<&[u8]>) -> bool {
        if keys.len() <= self.ends.len() {
            return keys.iter().any(|key| self.covers(key));
        }
        self.ends.iter().any(|(&start, end)| {
            let first = keys.range::<[u8], _>(from(start)).next();
            first.is_some_and(|first| end.covers(first))
        })
    }

    fn merge(&mut self, other: Intervals<'a>) {
        if self.ends.is_empty() {
            *self = other;
            return;
        }
        for (start, end) in other.ends {
            self.add(start, end);
        }
    }
}

#[derive(Default)]
struct Written<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Intervals<'a>,
}

fn disjoint(a: &BTreeSet<&[u8]>, b: &BTreeSet<&[u8]>) -> bool {
    let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
    few.iter().all(|key| !many.contains(key))
}

fn union<'a>(into: &mut BTreeSet<&'a [u8]>, mut other: BTreeSet<&'a [u8]>) {
    // The smaller set moves, so that a key deep in a nest is not moved once per level.
    if other.len() > into.len() {
        std::mem::swap(into, &mut other);
    }
    into.extend(other);
}

/// What a list of operations writes. Fails if a key is written twice where etcd says so: not symmetric, since a
/// nested delete conflicts with a sibling's put that comes later but not with one that came before.
fn written_keys(ops: &[RequestOp]) -> Result<Written<'_>, RequestError> {
    let mut written = Written::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            written.deletes.add_delete(delete);
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else {
            continue;
        };
        let success = written_keys(&nested.success)?;
        let failure = written_keys(&nested.failure)?;
        for branch in [&success, &failure] {
            // Only one of the two branches runs, so they may write the same keys.
            if !disjoint(&written.puts, &branch.puts) || written.deletes.covers_any(&branch.puts) {
                return Err(RequestError::DuplicateKey);
            }
        }
        for branch in [success, failure] {
            union(&mut written.puts, branch.puts);
            written.deletes.merge(branch.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            let key = &put.key[..];
            if written.deletes.covers(key) || !written.puts.insert(key) {
                return Err(RequestError::DuplicateKey);
            }
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn put(key: &'static str) -> RequestOp {
        RequestOp {
            request: Some(Request::RequestPut(PutRequest {
                key: Bytes::from_static(key.as_bytes()),
                ..PutRequest::default()
            })),
        }
    }

    fn delete(key: &'static str, end: &'static str) -> RequestOp {
        RequestOp {
            request: Some(Request::RequestDeleteRange(DeleteRangeRequest {
                key: Bytes::from_static(key.as_bytes()),
                range_end: Bytes::from_static(end.as_bytes()),
                prev_kv: false,
            })),
        }
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp {
            request: Some(Request::RequestTxn(TxnRequest {
                compare: vec![],
                success,
                failure,
            })),
        }
    }

    fn check(success: Vec<RequestOp>) -> Check {
        let txn = TxnRequest {
            success,
            ..TxnRequest::default()
        };
        validate_txn(&txn, 128)
    }

    #[test]
    fn a_key_is_written_once() {
        let twice = Err(RequestError::DuplicateKey);
        assert_eq!(check(vec![put("a"), put("b")]), Ok(()));
        assert_eq!(check(vec![put("a"), put("a")]), twice);
        assert_eq!(check(vec![put("b"), delete("a", "c")]), twice);
        assert_eq!(check(vec![delete("b", ""), put("b")]), twice);
        assert_eq!(check(vec![delete("a", "c"), delete("b", "d")]), Ok(()));
        assert_eq!(check(vec![put("c"), delete("a", "c")]), Ok(()));
        assert_eq!(check(vec![nested(vec![put("a")], vec![put("a")])]), Ok(()));
        assert_eq!(check(vec![nested(vec![put("a")], vec![]), put("a")]), twice);
        assert_eq!(
            check(vec![
                nested(vec![put("a")], vec![]),
                nested(vec![], vec![put("a")])
            ]),
            twice
        );
    }

    #[test]
    fn the_check_is_not_symmetric() {
        let deletes = || nested(vec![delete("a", "b")], vec![]);
        let puts = || nested(vec![put("a")], vec![]);
        assert_eq!(
            check(vec![deletes(), puts()]),
            Err(RequestError::DuplicateKey)
        );
        assert_eq!(check(vec![puts(), deletes()]), Ok(()));
        // An end of one zero byte is taken literally: inverted, so it covers nothing.
        assert_eq!(check(vec![put("k1"), delete("a", "\0")]), Ok(()));
    }

    #[test]
    fn intervals_merge() {
        let mut intervals = Intervals::default();
        let before = |key: &'static str| End {
            key: key.as_bytes(),
            inclusive: false,
        };
        for (start, end) in [("a", "c"), ("e", "g"), ("k", "m"), ("b", "f")] {
            intervals.add(start.as_bytes(), before(end));
        }
        assert_eq!(intervals.ends.len(), 2);
        for (key, covered) in [("a", true), ("d", true), ("g", false), ("l", true)] {
            assert_eq!(intervals.covers(key.as_bytes()), covered, "{key}");
        }
    }

    fn nest(levels: usize) -> TxnRequest {
        let mut txn = TxnRequest {
            success: vec![put("a")],
            ..TxnRequest::default()
        };
        for _ in 1..levels {
            txn = TxnRequest {
                success: vec![RequestOp {
                    request: Some(Request::RequestTxn(txn)),
                }],
                ..TxnRequest::default()
            };
        }
        txn
    }

    #[test]
    fn the_budget_shrinks_level_by_level() {
        assert_eq!(validate_txn(&nest(128), 128), Ok(()));
        assert_eq!(validate_txn(&nest(129), 128), Err(RequestError::TooManyOps));
        // Siblings do not add up.
        let wide = |n: usize| TxnRequest {
            failure: (0..n).map(|_| delete("a", "")).collect(),
            ..TxnRequest::default()
        };
        let outer = |n: usize| TxnRequest {
            success: (0..64)
                .map(|_| RequestOp {
                    request: Some(Request::RequestTxn(wide(n))),
                })
                .collect(),
            ..TxnRequest::default()
        };
        assert_eq!(validate_txn(&outer(64), 128), Ok(()));
        assert_eq!(validate_txn(&outer(65), 128), Err(RequestError::TooManyOps));
    }
}
