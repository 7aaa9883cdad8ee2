//! The requests that the recipes are made of.

use crate::request::Request;
use bytes::{BufMut, Bytes, BytesMut};
use proto::etcdserverpb as pb;

/// TTL of the lease that is granted when the caller brings none, in seconds.
const SESSION_TTL_S: i64 = 60;

/// A lease for a caller that brings none.
pub fn grant() -> Request {
    Request::LeaseGrant(pb::LeaseGrantRequest {
        ttl: SESSION_TTL_S,
        id: 0,
    })
}

/// `<name>/`: every claim of one lock or election lies under it.
pub fn prefix(name: &Bytes) -> Bytes {
    let mut key = BytesMut::with_capacity(name.len() + 1);
    key.put_slice(name);
    key.put_u8(b'/');
    key.freeze()
}

/// `<prefix><lease in hex>`; a negative lease prints with its sign.
pub fn claim_key(prefix: &Bytes, lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let mut key = BytesMut::from(&prefix[..]);
    key.put_slice(format!("{sign}{:x}", lease.unsigned_abs()).as_bytes());
    key.freeze()
}

/// The end of the range of keys that begin with `prefix`, which ends in `/` and so can be incremented.
pub fn prefix_end(prefix: &Bytes) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// The oldest key under the prefix.
pub fn first_created(prefix: Bytes) -> pb::RangeRequest {
    let range_end = prefix_end(&prefix);
    let mut range = pb::RangeRequest {
        key: prefix,
        range_end,
        limit: 1,
        ..Default::default()
    };
    range.set_sort_target(pb::range_request::SortTarget::Create);
    range.set_sort_order(pb::range_request::SortOrder::Ascend);
    range
}

/// The newest key under the prefix that was created at or before `created_max`.
pub fn last_created(prefix: Bytes, created_max: i64) -> pb::RangeRequest {
    let mut range = first_created(prefix);
    range.set_sort_order(pb::range_request::SortOrder::Descend);
    range.max_create_revision = created_max;
    range
}

pub fn get(key: Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key,
        ..Default::default()
    }
}

pub fn delete(key: Bytes) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key,
        ..Default::default()
    }
}

pub fn put(key: Bytes, value: Bytes, lease: i64) -> pb::PutRequest {
    pb::PutRequest {
        key,
        value,
        lease,
        ..Default::default()
    }
}

pub fn created_at(key: Bytes, revision: i64) -> pb::Compare {
    let mut compare = pb::Compare {
        key,
        target_union: Some(pb::compare::TargetUnion::CreateRevision(revision)),
        ..Default::default()
    };
    compare.set_target(pb::compare::CompareTarget::Create);
    compare
}

pub fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

pub fn put_if_created(key: Bytes, revision: i64, value: Bytes, lease: i64) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: vec![created_at(key.clone(), revision)],
        success: vec![op(pb::request_op::Request::RequestPut(put(
            key, value, lease,
        )))],
        failure: Vec::new(),
    }
}

pub fn delete_if_created(key: Bytes, revision: i64) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: vec![created_at(key.clone(), revision)],
        success: vec![op(pb::request_op::Request::RequestDeleteRange(delete(key)))],
        failure: Vec::new(),
    }
}

pub fn watch(key: Bytes, range_end: Bytes, start_revision: i64) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
            pb::WatchCreateRequest {
                key,
                range_end,
                start_revision,
                ..Default::default()
            },
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_keys_are_unpadded_hex() {
        let prefix = prefix(&Bytes::from_static(b"l"));
        assert_eq!(&claim_key(&prefix, 7000)[..], b"l/1b58");
        assert_eq!(&claim_key(&prefix, -1)[..], b"l/-1");
        assert_eq!(&prefix_end(&prefix)[..], b"l0");
    }
}
