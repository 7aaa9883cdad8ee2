//! Alarm, Status, Defragment, Hash, HashKV, Snapshot, MoveLeader, Downgrade.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::AlarmType;
use tonic::Code;

use super::{put, refused, revision, Etcd};

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

fn alarm(action: i32, member_id: u64, alarm: i32) -> pb::AlarmRequest {
    pb::AlarmRequest {
        action,
        member_id,
        alarm,
    }
}

async fn status(etcd: &mut Etcd) -> pb::StatusResponse {
    let answer = etcd.maintenance.status(pb::StatusRequest {}).await;
    answer.expect("a status").into_inner()
}

#[tokio::test]
async fn status_tells_of_the_member() {
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    let status = status(&mut etcd).await;
    let header = status.header.expect("a header");
    assert_eq!(header.revision, 2);
    assert_eq!(status.leader, header.member_id);
    assert_eq!(status.raft_term, header.raft_term);
    assert!(status.raft_applied_index <= status.raft_index);
    assert!(status.db_size >= status.db_size_in_use && status.db_size_in_use > 0);
    assert!(status.errors.is_empty() && !status.is_learner);
    assert!(status.version.starts_with("3."), "{}", status.version);
}

#[tokio::test]
async fn alarms_are_raised_listed_and_lifted_by_member() {
    let mut etcd = Etcd::fresh().await;
    let (activate, get, lift) = (
        AlarmAction::Activate as i32,
        AlarmAction::Get as i32,
        AlarmAction::Deactivate as i32,
    );
    let no_space = AlarmType::Nospace as i32;
    let mut ask = async |request| {
        let answer = etcd.maintenance.alarm(request).await.expect("alarms");
        answer.into_inner().alarms.len()
    };
    assert_eq!(ask(alarm(get, 0, 0)).await, 0);
    assert_eq!(ask(alarm(activate, 5, no_space)).await, 1);
    assert_eq!(ask(alarm(activate, 5, no_space)).await, 1);
    assert_eq!(ask(alarm(get, 0, no_space)).await, 1);
    assert_eq!(ask(alarm(get, 0, AlarmType::Corrupt as i32)).await, 0);
    assert_eq!(ask(alarm(lift, 0, no_space)).await, 0, "0 is no wildcard");
    assert_eq!(ask(alarm(get, 0, 0)).await, 1);
    let errors = status(&mut etcd).await.errors;
    assert_eq!(errors, ["memberID:5 alarm:NOSPACE "]);
    let mut ask = async |request| {
        let answer = etcd.maintenance.alarm(request).await.expect("alarms");
        answer.into_inner().alarms.len()
    };
    assert_eq!(ask(alarm(lift, 5, no_space)).await, 1);
    assert_eq!(ask(alarm(get, 0, 0)).await, 0);
}

#[tokio::test]
async fn without_space_only_growth_is_refused() {
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    let raise = alarm(AlarmAction::Activate as i32, 5, AlarmType::Nospace as i32);
    etcd.maintenance.alarm(raise).await.expect("an alarm");
    let result = etcd.kv.put(put("k", "w")).await;
    refused(result, Code::ResourceExhausted, NO_SPACE);
    let lease = pb::LeaseGrantRequest { ttl: 60, id: 1 };
    let result = etcd.lease.lease_grant(lease).await;
    refused(result, Code::ResourceExhausted, NO_SPACE);
    assert_eq!(etcd.get("k", "").await.count, 1);
    etcd.delete("k").await;
    etcd.compact(2).await;
    let defragment = etcd.maintenance.defragment(pb::DefragmentRequest {}).await;
    defragment.expect("a defragmentation");
    let result = etcd.kv.put(put("k", "w")).await;
    refused(result, Code::ResourceExhausted, NO_SPACE);
}

#[tokio::test]
async fn the_alarm_of_corruption_stops_writes_only() {
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    let raise = alarm(AlarmAction::Activate as i32, 0, AlarmType::Corrupt as i32);
    etcd.maintenance.alarm(raise).await.expect("an alarm");
    let corrupt = "etcdserver: corrupt cluster";
    refused(etcd.kv.put(put("k", "w")).await, Code::DataLoss, corrupt);
    assert_eq!(etcd.get("k", "").await.count, 1);
    assert_eq!(status(&mut etcd).await.errors, ["alarm:CORRUPT "]);
}

/// A real 3.5 dies of both.
#[tokio::test]
async fn unknown_alarms_are_errors() {
    if !ringd_tests::server::is_ringd() {
        return;
    }
    let mut etcd = Etcd::fresh().await;
    for request in [alarm(9, 0, 1), alarm(AlarmAction::Activate as i32, 0, 9)] {
        assert!(
            etcd.maintenance.alarm(request).await.is_err(),
            "{request:?}"
        );
    }
    for action in [AlarmAction::Get, AlarmAction::Deactivate] {
        let answer = etcd.maintenance.alarm(alarm(action as i32, 0, 9)).await;
        assert!(answer
            .expect("an empty answer")
            .into_inner()
            .alarms
            .is_empty());
    }
    assert_eq!(etcd.put("k", "v").await, 2);
}

#[tokio::test]
async fn defragment_and_move_leader_have_no_header() {
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    let answer = etcd.maintenance.defragment(pb::DefragmentRequest {}).await;
    assert_eq!(answer.expect("a defragmentation").into_inner().header, None);
    let own_id = status(&mut etcd).await.leader;
    let to = |target_id| pb::MoveLeaderRequest { target_id };
    let answer = etcd.maintenance.move_leader(to(own_id)).await;
    assert_eq!(answer.expect("a leader stays").into_inner().header, None);
    refused(
        etcd.maintenance.move_leader(to(own_id ^ 1)).await,
        Code::FailedPrecondition,
        "etcdserver: bad leader transferee",
    );
    assert_eq!(etcd.get("k", "").await.count, 1);
}

#[tokio::test]
async fn hashes_follow_the_content() {
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    let mut hash = async |revision| {
        let request = pb::HashKvRequest { revision };
        etcd.maintenance.hash_kv(request).await
    };
    let first = hash(0).await.expect("a hash").into_inner();
    assert_eq!((first.compact_revision, revision(&first.header)), (-1, 2));
    let future = "etcdserver: mvcc: required revision is a future revision";
    refused(hash(3).await, Code::OutOfRange, future);
    etcd.put("k", "w").await;
    let mut hash = async |revision| {
        let request = pb::HashKvRequest { revision };
        etcd.maintenance.hash_kv(request).await
    };
    assert_eq!(hash(2).await.expect("a hash").into_inner().hash, first.hash);
    assert_ne!(hash(0).await.expect("a hash").into_inner().hash, first.hash);
    let whole = etcd.maintenance.hash(pb::HashRequest {}).await;
    assert_eq!(revision(&whole.expect("a hash").into_inner().header), 3);
}

#[tokio::test]
async fn defragmenting_an_idle_member_again_is_answered() {
    let mut etcd = Etcd::fresh().await;
    for _ in 0..3 {
        let answer = etcd.maintenance.defragment(pb::DefragmentRequest {}).await;
        assert_eq!(answer.expect("an answer").into_inner().header, None);
    }
}

#[tokio::test]
async fn a_snapshot_is_a_database_in_blobs_with_its_checksum_at_the_end() {
    const BLOB_BYTES: usize = 32 << 10;
    let mut etcd = Etcd::fresh().await;
    for n in 0..40 {
        let put = pb::PutRequest {
            key: format!("key{n}").into(),
            value: vec![n; 10_000].into(),
            ..Default::default()
        };
        etcd.kv.put(put).await.expect("a put");
    }
    let stream = etcd.maintenance.snapshot(pb::SnapshotRequest {}).await;
    let mut stream = stream.expect("a stream").into_inner();
    let mut parts = Vec::new();
    while let Some(part) = stream.message().await.expect("a part") {
        assert_eq!(part.header, None);
        parts.push((part.blob, part.remaining_bytes));
    }
    let checksum = parts.pop().expect("a checksum");
    assert_eq!((checksum.0.len(), checksum.1), (32, 0));
    let all: usize = parts.iter().map(|(blob, _)| blob.len()).sum();
    assert!(all > 400_000 && all % 4096 == 0, "{all} bytes");
    let mut sent = 0;
    for (blob, remaining) in &parts {
        assert!(blob.len() == BLOB_BYTES || *remaining == 0);
        sent += blob.len();
        assert_eq!(*remaining as usize, all - sent);
    }
    assert_eq!(parts[0].0[16..20], [0xed, 0xda, 0x0c, 0xed]);
}

#[tokio::test]
async fn downgrades_are_checked() {
    let mut etcd = Etcd::fresh().await;
    let mut ask = async |action: i32, version: &str| {
        let version = version.to_owned();
        let request = pb::DowngradeRequest { action, version };
        etcd.maintenance.downgrade(request).await
    };
    let validate = DowngradeAction::Validate as i32;
    let version = ask(validate, "3.4.0")
        .await
        .expect("one minor lower")
        .into_inner();
    assert_eq!(version.version, "3.5.0");
    let format = "etcdserver: wrong downgrade target version format";
    refused(ask(validate, "x").await, Code::InvalidArgument, format);
    let target = "etcdserver: invalid downgrade target version";
    refused(ask(validate, "3.3.0").await, Code::InvalidArgument, target);
    let cancel = DowngradeAction::Cancel as i32;
    let none = "etcdserver: no inflight downgrade job";
    refused(ask(cancel, "").await, Code::FailedPrecondition, none);
    refused(
        ask(17, "").await,
        Code::Unknown,
        "etcdserver: unknown method",
    );
}
