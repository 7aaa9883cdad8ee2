//! Which keys a range delivers and in which order: the rules that every way of reading it shares.

use super::read::Found;
use proto::etcdserverpb::{
    range_request::{SortOrder, SortTarget},
    RangeRequest,
};

/// The order of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As the keys lie.
    Keys,
    /// The last key first.
    Backwards,
    /// By one field of the keys. Ties stay in key order in both directions, as in etcd's answers.
    Field { descending: bool },
}

/// What keys are sorted by. All ranks of a request are of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank<V> {
    Number(i64),
    Value(V),
}

impl<V> Rank<V> {
    pub fn map<'a, W>(&'a self, of: impl FnOnce(&'a V) -> W) -> Rank<W> {
        match self {
            Rank::Number(number) => Rank::Number(*number),
            Rank::Value(value) => Rank::Value(of(value)),
        }
    }
}

/// Another target than the key means ascending unless told otherwise.
pub(crate) fn order(request: &RangeRequest) -> Order {
    let by_key = request.sort_target == SortTarget::Key as i32;
    match (SortOrder::try_from(request.sort_order), by_key) {
        (Ok(SortOrder::None | SortOrder::Ascend), true) => Order::Keys,
        (Ok(SortOrder::Descend), true) => Order::Backwards,
        (Ok(order), false) => Order::Field {
            descending: order == SortOrder::Descend,
        },
        // etcd 3.5 does not sort by an order it does not know.
        (Err(_), _) => Order::Keys,
    }
}

pub(crate) fn is_by_value(request: &RangeRequest) -> bool {
    request.sort_target == SortTarget::Value as i32
}

/// Sorting by value needs the row to have been read.
pub(crate) fn rank<'f>(request: &RangeRequest, found: &'f Found<'_>) -> Rank<&'f [u8]> {
    match SortTarget::try_from(request.sort_target) {
        Ok(SortTarget::Version) => Rank::Number(found.version),
        Ok(SortTarget::Create) => Rank::Number(found.create),
        Ok(SortTarget::Mod) => Rank::Number(found.at.main),
        Ok(SortTarget::Value) => Rank::Value(found.value()),
        // Keys have an order of their own. Validation refuses unknown targets; etcd 3.5 crashes on them.
        Ok(SortTarget::Key) | Err(_) => Rank::Number(0),
    }
}

pub(crate) fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

pub(crate) fn passes_filters(request: &RangeRequest, found: &Found<'_>) -> bool {
    let modified = found.at.main;
    let at_most = |max: i64, value: i64| max == 0 || value <= max;
    let at_least = |min: i64, value: i64| min == 0 || value >= min;
    at_most(request.max_mod_revision, modified)
        && at_least(request.min_mod_revision, modified)
        && at_most(request.max_create_revision, found.create)
        && at_least(request.min_create_revision, found.create)
}

/// Number of keys to fetch: all of them when they are sorted or filtered afterwards, else one more than the limit. A
/// target without an order sorts what was fetched by the limit.
pub(crate) fn fetch_limit(request: &RangeRequest) -> usize {
    let sorted = request.sort_order != SortOrder::None as i32 && order(request) != Order::Keys;
    match sorted || has_filters(request) {
        true => usize::MAX,
        false => limit(request).saturating_add(1),
    }
}

/// Number of keys that pass the filters after which nothing that follows in the walk matters. Where keys go out in the
/// order of the walk, that is one more than the limit.
pub(crate) fn walk_limit(request: &RangeRequest) -> usize {
    match order(request) {
        Order::Keys | Order::Backwards => limit(request).saturating_add(1),
        Order::Field { .. } => fetch_limit(request),
    }
}

pub(crate) fn limit(request: &RangeRequest) -> usize {
    match usize::try_from(request.limit) {
        Ok(limit) if limit > 0 => limit,
        _ => usize::MAX,
    }
}

/// Whether the answer is the keys as they lie, up to the limit.
pub(crate) fn is_plain(request: &RangeRequest) -> bool {
    !request.count_only && order(request) == Order::Keys && !has_filters(request)
}

/// Whether the answer is the keys in reverse, up to the limit.
pub(crate) fn is_backwards(request: &RangeRequest) -> bool {
    !request.count_only && order(request) == Order::Backwards && !has_filters(request)
}
