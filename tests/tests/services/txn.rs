//! Txn: what it compares, checks, writes and tells.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as Answer;
use tonic::Code;

use super::{bytes, put, range, refused, revision, Etcd};

const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";

fn op(op: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(op) }
}

fn put_op(key: &str, value: &str) -> pb::RequestOp {
    op(Op::RequestPut(put(key, value)))
}

fn get_op(key: &str) -> pb::RequestOp {
    op(Op::RequestRange(range(key, "")))
}

fn delete_op(key: &str, end: &str) -> pb::RequestOp {
    op(Op::RequestDeleteRange(pb::DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        prev_kv: false,
    }))
}

fn then(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest {
        success,
        ..Default::default()
    }
}

fn nested(success: Vec<pb::RequestOp>) -> pb::RequestOp {
    op(Op::RequestTxn(then(success)))
}

fn compare(
    key: &str,
    result: CompareResult,
    target: CompareTarget,
    operand: TargetUnion,
) -> pb::Compare {
    pb::Compare {
        result: result as i32,
        target: target as i32,
        key: bytes(key),
        target_union: Some(operand),
        ..Default::default()
    }
}

async fn run(etcd: &mut Etcd, txn: pb::TxnRequest) -> pb::TxnResponse {
    etcd.kv.txn(txn).await.expect("a txn").into_inner()
}

fn answer(response: &pb::TxnResponse, n: usize) -> &Answer {
    response.responses[n].response.as_ref().expect("an answer")
}

#[tokio::test]
async fn one_branch_is_taken_under_one_revision() {
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "1").await;
    let txn = |expected: &str| pb::TxnRequest {
        compare: vec![compare(
            "k",
            CompareResult::Equal,
            CompareTarget::Value,
            TargetUnion::Value(bytes(expected)),
        )],
        success: vec![put_op("k", "2"), put_op("l", "2")],
        failure: vec![get_op("k")],
    };
    let won = run(&mut etcd, txn("1")).await;
    assert!(won.succeeded);
    assert_eq!(revision(&won.header), 3);
    let all = etcd.get("\0", "\0").await;
    assert!(all.kvs.iter().all(|kv| kv.mod_revision == 3));
    let lost = run(&mut etcd, txn("1")).await;
    assert!(!lost.succeeded);
    assert_eq!(revision(&lost.header), 3);
    assert!(matches!(answer(&lost, 0), Answer::ResponseRange(r) if r.count == 1));
}

#[tokio::test]
async fn a_missing_key_has_no_value_and_zero_everything_else() {
    let mut etcd = Etcd::fresh().await;
    let holds = async |etcd: &mut Etcd, c: pb::Compare| {
        let txn = pb::TxnRequest {
            compare: vec![c],
            ..Default::default()
        };
        run(etcd, txn).await.succeeded
    };
    for result in [
        CompareResult::Equal,
        CompareResult::NotEqual,
        CompareResult::Less,
    ] {
        let value = TargetUnion::Value(bytes("x"));
        let c = compare("absent", result, CompareTarget::Value, value);
        assert!(!holds(&mut etcd, c).await, "{result:?}");
    }
    let zeros = [
        (CompareTarget::Version, TargetUnion::Version(0)),
        (CompareTarget::Create, TargetUnion::CreateRevision(0)),
        (CompareTarget::Mod, TargetUnion::ModRevision(0)),
        (CompareTarget::Lease, TargetUnion::Lease(0)),
    ];
    for (target, zero) in zeros {
        let c = compare("absent", CompareResult::Equal, target, zero);
        assert!(holds(&mut etcd, c.clone()).await, "{target:?}");
        let empty_range = pb::Compare {
            range_end: bytes("absentz"),
            ..c
        };
        assert!(
            holds(&mut etcd, empty_range).await,
            "{target:?} over a range"
        );
    }
}

#[tokio::test]
async fn all_compares_come_before_all_writes() {
    let mut etcd = Etcd::fresh().await;
    let inner = pb::TxnRequest {
        compare: vec![compare(
            "k",
            CompareResult::Equal,
            CompareTarget::Version,
            TargetUnion::Version(0),
        )],
        success: vec![put_op("saw", "nothing")],
        failure: vec![put_op("saw", "the write")],
    };
    let txn = then(vec![put_op("k", "v"), op(Op::RequestTxn(inner))]);
    assert!(run(&mut etcd, txn).await.succeeded);
    assert_eq!(etcd.get("saw", "").await.kvs[0].value, bytes("nothing"));
}

#[tokio::test]
async fn checks_happen_on_the_branch_taken_only_and_undo_everything() {
    let mut etcd = Etcd::fresh().await;
    let with_lease = op(Op::RequestPut(pb::PutRequest {
        lease: 404,
        ..put("l", "v")
    }));
    let failing = then(vec![put_op("k", "v"), with_lease.clone()]);
    refused(
        etcd.kv.txn(failing).await,
        Code::NotFound,
        "etcdserver: requested lease not found",
    );
    assert_eq!(etcd.revision().await, 1);
    let untaken = pb::TxnRequest {
        success: vec![put_op("k", "v")],
        failure: vec![with_lease],
        ..Default::default()
    };
    assert!(run(&mut etcd, untaken).await.succeeded);
    let future = op(Op::RequestRange(pb::RangeRequest {
        revision: 99,
        ..range("k", "")
    }));
    refused(
        etcd.kv.txn(then(vec![put_op("k", "w"), future])).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
    assert_eq!(etcd.revision().await, 2);
}

#[tokio::test]
async fn duplicate_keys() {
    let mut etcd = Etcd::fresh().await;
    let refused_lists = [
        vec![put_op("k", "1"), put_op("k", "2")],
        vec![put_op("k", "1"), delete_op("k", "")],
        vec![delete_op("a", "z"), put_op("k", "1")],
        vec![
            nested(vec![delete_op("k", "")]),
            nested(vec![put_op("k", "1")]),
        ],
        vec![nested(vec![put_op("k", "1")]), put_op("k", "2")],
    ];
    for list in refused_lists {
        let result = etcd.kv.txn(then(list)).await;
        refused(result, Code::InvalidArgument, DUPLICATE);
    }
    let accepted_lists = [
        vec![delete_op("a", "z"), delete_op("k", "")],
        vec![put_op("k", "1"), delete_op("a", "\0")],
        vec![
            nested(vec![put_op("k", "1")]),
            nested(vec![delete_op("k", "")]),
        ],
    ];
    for list in accepted_lists {
        assert!(run(&mut etcd, then(list)).await.succeeded);
    }
}

/// The put is to keep the value of a key that an op before it deletes: a real etcd dies of it.
#[tokio::test]
async fn keeping_the_value_of_a_key_just_deleted_fails_the_txn() {
    if !ringd_tests::server::is_ringd() {
        return;
    }
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    let keep = op(Op::RequestPut(pb::PutRequest {
        ignore_value: true,
        ..put("k", "")
    }));
    let txn = then(vec![put_op("other", "v"), delete_op("a", "\0"), keep]);
    assert!(etcd.kv.txn(txn).await.is_err());
    assert_eq!(etcd.revision().await, 2);
    assert_eq!(etcd.get("\0", "\0").await.count, 1);
    etcd.server.kill();
    etcd.server.restart().await;
}

#[tokio::test]
async fn headers_of_ops_tell_the_running_revision() {
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    let txn = then(vec![
        get_op("k"),
        put_op("l", "v"),
        get_op("l"),
        nested(vec![get_op("k")]),
    ]);
    let response = run(&mut etcd, txn).await;
    assert_eq!(revision(&response.header), 3);
    match answer(&response, 0) {
        Answer::ResponseRange(r) => assert_eq!(revision(&r.header), 2),
        other => panic!("{other:?}"),
    }
    match answer(&response, 1) {
        Answer::ResponsePut(r) => {
            let header = r.header.expect("a header");
            assert_eq!((header.revision, header.cluster_id), (3, 0));
        }
        other => panic!("{other:?}"),
    }
    match answer(&response, 2) {
        Answer::ResponseRange(r) => assert_eq!((revision(&r.header), r.count), (3, 1)),
        other => panic!("{other:?}"),
    }
    match answer(&response, 3) {
        Answer::ResponseTxn(r) => assert_eq!(r.header, Some(pb::ResponseHeader::default())),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn reading_txns_move_no_revision() {
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    for txn in [
        then(vec![]),
        then(vec![get_op("k")]),
        then(vec![nested(vec![get_op("k")])]),
        then(vec![delete_op("absent", "")]),
    ] {
        let response = run(&mut etcd, txn).await;
        assert!(response.succeeded);
        assert_eq!(revision(&response.header), 2);
    }
}

#[tokio::test]
async fn op_counts_and_empty_ops() {
    let mut etcd = Etcd::fresh().await;
    let many = |n: usize| (0..n).map(|i| put_op(&format!("k{i}"), "")).collect();
    assert!(run(&mut etcd, then(many(128))).await.succeeded);
    let too_many = "etcdserver: too many operations in txn request";
    let result = etcd.kv.txn(then(many(129))).await;
    refused(result, Code::InvalidArgument, too_many);
    let mut list: Vec<_> = (0..100).map(|i| put_op(&format!("k{i}"), "")).collect();
    list[0] = nested((0..29).map(|i| put_op(&format!("l{i}"), "")).collect());
    let result = etcd.kv.txn(then(list)).await;
    refused(result, Code::InvalidArgument, too_many);
    let result = etcd
        .kv
        .txn(then(vec![pb::RequestOp { request: None }]))
        .await;
    refused(result, Code::InvalidArgument, "etcdserver: key not found");
}
