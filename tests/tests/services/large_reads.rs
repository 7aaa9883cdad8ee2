//! Reads and deletes of so many keys that they are carried out bit by bit, beside other work.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use tonic::Code;

use super::{bytes, keys, put, range, refused, revision, Etcd};

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

fn puts(of: impl IntoIterator<Item = (usize, String)>) -> pb::TxnRequest {
    let op = |(n, value): (usize, String)| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(put(
            &format!("k{n:05}"),
            &value,
        ))),
    };
    pb::TxnRequest {
        success: of.into_iter().map(op).collect(),
        ..Default::default()
    }
}

/// Fills `k00000` and so on, with values in the opposite order of the keys.
async fn fill(etcd: &mut Etcd, keys: usize) {
    for first in (0..keys).step_by(100) {
        let txn = puts((first..first + 100).map(|n| (n, format!("{:05}", keys - n))));
        etcd.kv.txn(txn).await.expect("a txn");
    }
}

fn by_value(order: SortOrder) -> pb::RangeRequest {
    pb::RangeRequest {
        sort_order: order as i32,
        sort_target: SortTarget::Value as i32,
        ..range("k", "l")
    }
}

/// On one connection, so that the large read is the first to arrive. A member that reads it in one go never lets so many calls
/// pass, one after the other; one that does not will sooner or later, however the machine is loaded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_calls_pass_a_large_read() {
    const KEYS: usize = 40_000;
    const ROUNDS_MAX: usize = 50;
    let mut etcd = Etcd::fresh().await;
    fill(&mut etcd, KEYS).await;
    for round in 0..ROUNDS_MAX {
        // The answer is short, so that its way is.
        let request = pb::RangeRequest {
            limit: 2,
            ..by_value(SortOrder::Ascend)
        };
        let mut kv = etcd.kv.clone();
        let large = tokio::spawn(async move { kv.range(request).await });
        tokio::task::yield_now().await;
        for n in 0..8 {
            etcd.put("small", &n.to_string()).await;
            assert_eq!(etcd.get("small", "").await.count, 1);
        }
        let passed = !large.is_finished();
        let answer = large
            .await
            .expect("no panic")
            .expect("a range")
            .into_inner();
        assert_eq!(
            keys(&answer),
            [format!("k{:05}", KEYS - 1), format!("k{:05}", KEYS - 2)]
        );
        assert_eq!((answer.count, answer.more), (KEYS as i64, true));
        if passed {
            return;
        }
        eprintln!("round {round}: the large read was faster");
    }
    panic!("calls that came after a large read were never answered before it");
}

/// Several orders in one transaction, while the first and the last key are written together, and history is compacted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_shows_one_revision() {
    const KEYS: usize = 12_000;
    let mut etcd = Etcd::fresh().await;
    fill(&mut etcd, KEYS).await;
    let first_revision = etcd.revision().await;
    let mut writer = etcd.kv.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut round = 0;
        while stopped.try_recv().is_err() {
            round += 1;
            // Before and after all other values.
            let value = format!("{}{round}", if round % 2 == 0 { 'x' } else { '-' });
            let txn = puts([0, KEYS - 1].map(|n| (n, value.clone())));
            let answer = writer.txn(txn).await.expect("a txn").into_inner();
            let compaction = pb::CompactionRequest {
                revision: revision(&answer.header),
                physical: false,
            };
            writer.compact(compaction).await.expect("a compaction");
        }
        round
    });
    let backwards = pb::RangeRequest {
        sort_order: SortOrder::Descend as i32,
        ..range("k", "l")
    };
    let filtered = pb::RangeRequest {
        min_mod_revision: first_revision + 1,
        ..range("k", "l")
    };
    let ranges = [by_value(SortOrder::Descend), backwards, filtered];
    let op = |range: &pb::RangeRequest| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestRange(range.clone())),
    };
    // Holds for the many and fails for none.
    let condition = pb::Compare {
        result: pb::compare::CompareResult::Greater as i32,
        target: pb::compare::CompareTarget::Version as i32,
        key: bytes("k"),
        range_end: bytes("l"),
        target_union: Some(pb::compare::TargetUnion::Version(0)),
    };
    for _ in 0..10 {
        let txn = pb::TxnRequest {
            compare: vec![condition.clone()],
            success: ranges.iter().map(op).collect(),
            failure: vec![],
        };
        let answer = etcd.kv.txn(txn).await.expect("a txn").into_inner();
        assert!(answer.succeeded);
        let newest = revision(&answer.header);
        let answers: Vec<pb::RangeResponse> = answer
            .responses
            .into_iter()
            .map(|op| match op.response {
                Some(pb::response_op::Response::ResponseRange(range)) => range,
                other => panic!("{other:?}"),
            })
            .collect();
        let [by_value, backwards, filtered] = &answers[..] else {
            panic!("{} answers", answers.len());
        };
        for answer in &answers {
            assert_eq!(revision(&answer.header), newest);
            assert_eq!((answer.count, answer.more), (KEYS as i64, false));
        }
        let mut expected = backwards.kvs.clone();
        expected.reverse();
        assert!(expected.is_sorted_by_key(|kv| kv.key.clone()));
        assert_eq!(expected.len(), KEYS);
        assert_eq!(expected[0].value, expected[KEYS - 1].value);
        assert_eq!(expected[0].mod_revision, expected[KEYS - 1].mod_revision);
        let changed = expected
            .iter()
            .filter(|kv| kv.mod_revision > first_revision);
        assert!(changed.eq(&filtered.kvs));
        // Ties, here the first and the last key, stay in key order.
        expected.sort_by(|a, b| b.value.cmp(&a.value));
        assert!(expected == by_value.kvs);
    }
    stop.send(()).expect("a writer");
    assert!(writing.await.expect("no panic") > 0);
    let old = pb::RangeRequest {
        revision: first_revision,
        ..range("k", "l")
    };
    let txn = pb::TxnRequest {
        success: vec![op(&range("k", "l")), op(&old)],
        ..Default::default()
    };
    refused(etcd.kv.txn(txn).await, Code::OutOfRange, COMPACTED);
}

/// More keys than are read in one go, while the first and the last are written together, and history is compacted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_range_shows_one_revision() {
    const KEYS: usize = 12_000;
    let mut etcd = Etcd::fresh().await;
    for first in (0..KEYS).step_by(100) {
        let txn = puts((first..first + 100).map(|n| (n, "0".to_owned())));
        etcd.kv.txn(txn).await.expect("a txn");
    }
    let first_revision = etcd.revision().await;
    let mut writer = etcd.kv.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut round = 0;
        while stopped.try_recv().is_err() {
            round += 1;
            let txn = puts([0, KEYS - 1].map(|n| (n, round.to_string())));
            let answer = writer.txn(txn).await.expect("a txn").into_inner();
            let compaction = pb::CompactionRequest {
                revision: revision(&answer.header),
                physical: false,
            };
            writer.compact(compaction).await.expect("a compaction");
        }
        round
    });
    for round in 0..10 {
        let (limit, keys_only) = ((KEYS - 1) as i64, round % 3 == 2);
        let request = pb::RangeRequest {
            limit: if round % 2 == 0 { 0 } else { limit },
            keys_only,
            ..range("k", "l")
        };
        let limited = request.limit > 0;
        let answer = etcd.kv.range(request).await.expect("a range").into_inner();
        assert_eq!(answer.kvs.len(), KEYS - usize::from(limited));
        assert_eq!((answer.count, answer.more), (KEYS as i64, limited));
        let seen = keys(&answer);
        let expected = (0..KEYS).map(|n| format!("k{n:05}"));
        assert!(seen.into_iter().eq(expected.take(answer.kvs.len())));
        if !limited && !keys_only {
            assert_eq!(answer.kvs[0].value, answer.kvs[KEYS - 1].value);
            assert_eq!(answer.kvs[1].value, bytes("0"));
        }
        let newest = answer.kvs.iter().map(|kv| kv.mod_revision).max();
        assert!(newest <= Some(revision(&answer.header)));
    }
    stop.send(()).expect("a writer");
    assert!(writing.await.expect("no panic") > 0);
    let old = pb::RangeRequest {
        revision: first_revision,
        ..range("k", "l")
    };
    refused(etcd.kv.range(old).await, Code::OutOfRange, COMPACTED);
}

/// More keys than are deleted in one go: whoever reads meanwhile sees all of them or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_delete_is_seen_whole() {
    const KEYS: usize = 3_000;
    let mut etcd = Etcd::fresh().await;
    for round in 0..2 {
        fill(&mut etcd, KEYS).await;
        let before = etcd.revision().await;
        let mut writer = etcd.kv.clone();
        let deleting = tokio::spawn(async move {
            let delete = pb::DeleteRangeRequest {
                key: bytes("k"),
                range_end: bytes("l"),
                prev_kv: round == 0,
            };
            writer.delete_range(delete).await.expect("a delete")
        });
        let mut reads = 0;
        while !deleting.is_finished() {
            reads += 1;
            let request = pb::RangeRequest {
                serializable: reads % 2 == 0,
                keys_only: true,
                ..range("k", "l")
            };
            let answer = etcd.kv.range(request).await.expect("a range").into_inner();
            let expected = match revision(&answer.header) - before {
                0 => KEYS,
                _ => 0,
            };
            assert_eq!(
                (answer.kvs.len(), answer.count),
                (expected, expected as i64)
            );
        }
        let answer = deleting.await.expect("no panic").into_inner();
        assert_eq!(answer.deleted, KEYS as i64);
        assert_eq!(revision(&answer.header), before + 1);
        assert_eq!(answer.prev_kvs.len(), if round == 0 { KEYS } else { 0 });
        let left = etcd.kv.range(range("k", "l")).await.expect("a range");
        assert_eq!(left.into_inner().count, 0);
        let old = pb::RangeRequest {
            revision: before,
            count_only: true,
            ..range("k", "l")
        };
        let old = etcd.kv.range(old).await.expect("a range").into_inner();
        assert_eq!(old.count, KEYS as i64);
    }
}
