//! Put, Range, DeleteRange, Compact.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use tonic::Code;

use super::{bytes, keys, put, range, refused, revision, Etcd};

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const NO_KEY: &str = "etcdserver: key is not provided";

#[tokio::test]
async fn put_writes_a_new_version_and_tells_the_old_one() {
    let mut etcd = Etcd::fresh().await;
    assert_eq!(etcd.put("k", "1").await, 2);
    let again = pb::PutRequest {
        prev_kv: true,
        ..put("k", "2")
    };
    let answer = etcd.kv.put(again).await.expect("a put").into_inner();
    assert_eq!(revision(&answer.header), 3);
    let old = answer.prev_kv.expect("the old record");
    assert_eq!(
        (old.value, old.version, old.mod_revision),
        (bytes("1"), 1, 2)
    );
    let now = etcd.get("k", "").await.kvs.remove(0);
    assert_eq!((now.value, now.version), (bytes("2"), 2));
    assert_eq!((now.create_revision, now.mod_revision), (2, 3));
}

#[tokio::test]
async fn put_of_an_equal_value_is_a_write() {
    let mut etcd = Etcd::fresh().await;
    let first = etcd.put("k", "same").await;
    assert_eq!(etcd.put("k", "same").await, first + 1);
}

#[tokio::test]
async fn put_refuses_contradictions() {
    let mut etcd = Etcd::fresh().await;
    refused(
        etcd.kv.put(put("", "v")).await,
        Code::InvalidArgument,
        NO_KEY,
    );
    let with = |ignore_value, ignore_lease, lease, value| pb::PutRequest {
        ignore_value,
        ignore_lease,
        lease,
        ..put("k", value)
    };
    let cases = [
        (
            with(true, false, 0, "v"),
            Code::InvalidArgument,
            "etcdserver: value is provided",
        ),
        (
            with(false, true, 7, "v"),
            Code::InvalidArgument,
            "etcdserver: lease is provided",
        ),
        (
            with(true, false, 0, ""),
            Code::InvalidArgument,
            "etcdserver: key not found",
        ),
        (
            with(false, true, 0, "v"),
            Code::InvalidArgument,
            "etcdserver: key not found",
        ),
        (
            with(false, false, 7, "v"),
            Code::NotFound,
            "etcdserver: requested lease not found",
        ),
    ];
    for (request, code, message) in cases {
        refused(etcd.kv.put(request).await, code, message);
    }
    assert_eq!(etcd.revision().await, 1);
}

#[tokio::test]
async fn range_counts_all_and_tells_the_current_revision() {
    let mut etcd = Etcd::fresh().await;
    for key in ["s3", "s1", "s2", "s5", "s4"] {
        etcd.put(key, "v").await;
    }
    etcd.put("s3", "w").await;
    let limited = pb::RangeRequest {
        limit: 2,
        revision: 4,
        ..range("s", "t")
    };
    let answer = etcd.kv.range(limited).await.expect("a range").into_inner();
    assert_eq!(
        revision(&answer.header),
        7,
        "the current one, not the requested"
    );
    assert_eq!(
        (keys(&answer), answer.more, answer.count),
        (vec!["s1".into(), "s2".into()], true, 3)
    );
    let counted = pb::RangeRequest {
        limit: 1,
        count_only: true,
        ..range("s", "t")
    };
    let answer = etcd.kv.range(counted).await.expect("a range").into_inner();
    assert_eq!((answer.kvs.len(), answer.more, answer.count), (0, false, 5));
}

#[tokio::test]
async fn range_sorts_within_the_limit_only_if_no_order_was_named() {
    let mut etcd = Etcd::fresh().await;
    for key in ["s3", "s1", "s2", "s5", "s4", "s3"] {
        etcd.put(key, "v").await;
    }
    let mut ask = async |target: SortTarget, order: SortOrder, limit| {
        let request = pb::RangeRequest {
            sort_target: target as i32,
            sort_order: order as i32,
            limit,
            ..range("s", "t")
        };
        keys(&etcd.kv.range(request).await.expect("a range").into_inner()).join(" ")
    };
    assert_eq!(
        ask(SortTarget::Mod, SortOrder::None, 0).await,
        "s1 s2 s5 s4 s3"
    );
    assert_eq!(ask(SortTarget::Mod, SortOrder::None, 2).await, "s1 s2");
    assert_eq!(
        ask(SortTarget::Create, SortOrder::Descend, 2).await,
        "s4 s5"
    );
    assert_eq!(ask(SortTarget::Key, SortOrder::Descend, 2).await, "s5 s4");
}

#[tokio::test]
async fn range_filters_and_leaves_values_out() {
    let mut etcd = Etcd::fresh().await;
    for key in ["a", "b", "c"] {
        etcd.put(key, "v").await;
    }
    let filtered = pb::RangeRequest {
        min_mod_revision: 3,
        limit: 1,
        keys_only: true,
        ..range("a", "z")
    };
    let answer = etcd.kv.range(filtered).await.expect("a range").into_inner();
    assert_eq!(
        (keys(&answer), answer.more, answer.count),
        (vec!["b".into()], true, 3)
    );
    assert!(answer.kvs[0].value.is_empty());
}

#[tokio::test]
async fn range_ends() {
    let mut etcd = Etcd::fresh().await;
    for key in ["a", "b", "c"] {
        etcd.put(key, "v").await;
    }
    for (key, end, expected) in [
        ("a", "", "a"),
        ("a", "c", "a b"),
        ("b", "\0", "b c"),
        ("\0", "\0", "a b c"),
        ("a", "\0\0", ""),
        ("c", "a", ""),
    ] {
        let answer = etcd.get(key, end).await;
        assert_eq!(keys(&answer).join(" "), expected, "[{key:?}, {end:?})");
    }
}

#[tokio::test]
async fn range_refuses_what_it_cannot_read() {
    let mut etcd = Etcd::fresh().await;
    for n in 0..5 {
        etcd.put("k", &n.to_string()).await;
    }
    etcd.compact(4).await;
    refused(
        etcd.kv.range(range("", "")).await,
        Code::InvalidArgument,
        NO_KEY,
    );
    let at = |revision| pb::RangeRequest {
        revision,
        ..range("k", "")
    };
    refused(etcd.kv.range(at(3)).await, Code::OutOfRange, COMPACTED);
    refused(etcd.kv.range(at(99)).await, Code::OutOfRange, FUTURE);
    let oldest = etcd.kv.range(at(4)).await.expect("a range").into_inner();
    assert_eq!(oldest.kvs[0].value, bytes("2"));
}

/// A real 3.5 dies of it; an error is the least that a server owes.
#[tokio::test]
async fn range_survives_an_unknown_sort_target() {
    if !ringd_tests::server::is_ringd() {
        return;
    }
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    let odd = pb::RangeRequest {
        sort_target: 17,
        sort_order: 1,
        ..range("\0", "\0")
    };
    assert!(etcd.kv.range(odd).await.is_err());
    assert_eq!(etcd.revision().await, 2);
}

#[tokio::test]
async fn delete_range_tells_what_it_deleted() {
    let mut etcd = Etcd::fresh().await;
    for key in ["a", "b", "c"] {
        etcd.put(key, key).await;
    }
    let request = |key: &str, end: &str| pb::DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        prev_kv: true,
    };
    let answer = etcd
        .kv
        .delete_range(request("a", "c"))
        .await
        .expect("a deletion");
    let answer = answer.into_inner();
    assert_eq!((revision(&answer.header), answer.deleted), (5, 2));
    let values: Vec<_> = answer.prev_kvs.into_iter().map(|kv| kv.value).collect();
    assert_eq!(values, [bytes("a"), bytes("b")]);
    refused(
        etcd.kv.delete_range(request("", "")).await,
        Code::InvalidArgument,
        NO_KEY,
    );
}

#[tokio::test]
async fn deleting_nothing_moves_no_revision() {
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    assert_eq!(etcd.delete("absent").await, 2);
    assert_eq!(etcd.revision().await, 2);
}

#[tokio::test]
async fn a_deleted_key_starts_again() {
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "1").await;
    etcd.delete("k").await;
    etcd.put("k", "2").await;
    let kv = etcd.get("k", "").await.kvs.remove(0);
    assert_eq!((kv.create_revision, kv.version), (4, 1));
}

#[tokio::test]
async fn compact_goes_forward_only() {
    let mut etcd = Etcd::fresh().await;
    for n in 0..5 {
        etcd.put("k", &n.to_string()).await;
    }
    let to = |revision| pb::CompactionRequest {
        revision,
        physical: false,
    };
    refused(etcd.kv.compact(to(7)).await, Code::OutOfRange, FUTURE);
    refused(etcd.kv.compact(to(-1)).await, Code::OutOfRange, COMPACTED);
    let answer = etcd.kv.compact(to(4)).await.expect("a compaction");
    assert_eq!(revision(&answer.into_inner().header), 6);
    refused(etcd.kv.compact(to(4)).await, Code::OutOfRange, COMPACTED);
    refused(etcd.kv.compact(to(3)).await, Code::OutOfRange, COMPACTED);
    etcd.compact(6).await;
    assert_eq!(etcd.get("k", "").await.kvs[0].value, bytes("4"));
}
