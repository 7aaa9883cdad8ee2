//! Requests at the edges: nesting to the limit, undecodable ones, and the ones on which etcd crashes or diverges.

use bytes::Bytes;
use engine::error::RequestError;
use engine::page::Pages;
use engine::store::{
    decode_internal_request, decode_txn, validate, wrap, ApplyError, DecodeError, FatalError,
    Options, Payload, Response, Store,
};
use engine::watch::{Permission, StreamKey};
use prost::Message;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::*;
use proto::raftpb::{ConfChange, ConfState};

const OPS_MAX: usize = 128;

struct Machine {
    store: Store,
    index: u64,
}

impl Machine {
    fn new() -> Machine {
        Machine {
            store: Store::create(Pages::in_memory(), Options::default()),
            index: 0,
        }
    }

    fn apply(&mut self, entry: InternalRaftRequest) -> Result<Response, RequestError> {
        self.index += 1;
        let applied = self.store.apply(self.index, 1, Some(&entry), 0);
        applied.unwrap().response
    }

    fn put(&mut self, key: &'static str, value: &'static str) -> Result<Response, RequestError> {
        self.apply(InternalRaftRequest {
            put: Some(put(key, value)),
            ..InternalRaftRequest::default()
        })
    }

    fn txn(&mut self, success: Vec<RequestOp>) -> Result<TxnResponse, RequestError> {
        let txn = TxnRequest {
            success,
            ..TxnRequest::default()
        };
        validate::validate_txn(&txn, OPS_MAX)?;
        match self.apply(InternalRaftRequest {
            txn: Some(txn),
            ..InternalRaftRequest::default()
        })? {
            Response::Txn(txn) => Ok(txn),
            other => panic!("{other:?}"),
        }
    }

    fn compact(&mut self, revision: i64) {
        let compaction = Some(CompactionRequest {
            revision,
            physical: false,
        });
        self.apply(InternalRaftRequest {
            compaction,
            ..InternalRaftRequest::default()
        })
        .unwrap();
        while self.store.compaction_pending() {
            self.store.compaction_step(10).unwrap();
        }
    }

    fn set_version(&mut self, version: &str) -> Result<Response, RequestError> {
        let set = proto::membershippb::ClusterVersionSetRequest {
            ver: version.into(),
        };
        self.apply(InternalRaftRequest {
            cluster_version_set: Some(Box::new(set)),
            ..InternalRaftRequest::default()
        })
    }

    fn alarm(&mut self, action: i32, alarm: i32) -> Result<AlarmResponse, RequestError> {
        match self.apply(InternalRaftRequest {
            alarm: Some(Box::new(AlarmRequest {
                action,
                member_id: 7,
                alarm,
            })),
            ..InternalRaftRequest::default()
        })? {
            Response::Alarm(alarm) => Ok(alarm),
            other => panic!("{other:?}"),
        }
    }
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
        ..PutRequest::default()
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn range(key: &'static str, revision: i64) -> RequestOp {
    op(Request::RequestRange(RangeRequest {
        key: Bytes::from_static(key.as_bytes()),
        revision,
        ..RangeRequest::default()
    }))
}

fn field(tag: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(tag << 3 | 2);
    prost::encoding::encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// A transaction of so many levels, encoded without recursion. The innermost one holds a put. It is built from its end.
fn nest(levels: usize) -> Bytes {
    let mut request = Vec::new();
    field(2, &put("k", "v").encode_to_vec(), &mut request);
    let mut reversed: Vec<u8> = request.into_iter().rev().collect();
    let mut enclose = |tag: u8| {
        let mut head = vec![tag << 3 | 2];
        prost::encoding::encode_varint(reversed.len() as u64, &mut head);
        reversed.extend(head.into_iter().rev());
    };
    enclose(2);
    for _ in 1..levels {
        enclose(4);
        enclose(2);
    }
    reversed.reverse();
    reversed.into()
}

#[test]
fn transactions_nest_to_the_limit() {
    let txn = decode_txn(nest(128), OPS_MAX).unwrap();
    assert_eq!(validate::validate_txn(&txn, OPS_MAX), Ok(()));
    assert_eq!(txn.encode_to_vec(), nest(128));
    let mut machine = Machine::new();
    let entry = InternalRaftRequest {
        txn: Some(txn),
        ..InternalRaftRequest::default()
    };
    let bytes = Bytes::from(entry.encode_to_vec());
    let Payload::Request(decoded) = decode_internal_request(bytes).unwrap() else {
        panic!("a request");
    };
    assert_eq!(*decoded, entry);
    let Ok(Response::Txn(response)) = machine.apply(*decoded) else {
        panic!("a transaction's answer");
    };
    assert_eq!(machine.store.revision(), 2);
    assert_eq!(response.header.unwrap().revision, 2);

    for levels in [129, 513, 10_000] {
        assert_eq!(
            decode_txn(nest(levels), OPS_MAX),
            Err(DecodeError::TooManyOps),
            "{levels}"
        );
    }
    // 1.5 MB of nothing but nesting, and in the log, where no budget holds.
    let deep = nest(200_000);
    assert!(deep.len() > 1_500_000);
    let mut entry = Vec::new();
    field(6, &deep, &mut entry);
    assert_eq!(
        decode_internal_request(entry.into()),
        Err(DecodeError::TooManyOps)
    );
}

#[test]
fn lists_are_refused_while_they_are_decoded() {
    for tag in 1..=3u8 {
        let mut txn = Vec::new();
        for _ in 0..750_000 {
            field(tag, &[], &mut txn);
        }
        assert_eq!(
            decode_txn(txn.into(), OPS_MAX),
            Err(DecodeError::TooManyOps)
        );
    }
}

/// What is decoded without the generated code is decoded like the generated code does it.
#[test]
fn decoding_accepts_what_protobuf_accepts() {
    let nested = TxnRequest {
        compare: vec![Compare {
            key: Bytes::from_static(b"k"),
            target_union: Some(compare::TargetUnion::Version(0)),
            range_end: Bytes::from_static(b"l"),
            ..Compare::default()
        }],
        success: vec![range("a", 7), op(Request::RequestPut(put("k", "v")))],
        failure: vec![RequestOp::default()],
    };
    let txn = TxnRequest {
        compare: vec![],
        success: vec![
            op(Request::RequestTxn(nested.clone())),
            op(Request::RequestDeleteRange(DeleteRangeRequest {
                key: Bytes::from_static(b"d"),
                ..DeleteRangeRequest::default()
            })),
        ],
        failure: vec![op(Request::RequestTxn(nested))],
    };
    let bytes = txn.encode_to_vec();
    let same = |bytes: &[u8]| {
        let ours = decode_txn(Bytes::copy_from_slice(bytes), usize::MAX);
        let theirs = TxnRequest::decode(bytes);
        assert_eq!(ours.ok(), theirs.ok(), "{bytes:?}");
    };
    for cut in 0..=bytes.len() {
        same(&bytes[..cut]);
    }
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005) + 1;
        (state >> 33) as usize % n
    };
    for _ in 0..60_000 {
        let mut changed = bytes.clone();
        for _ in 0..1 + random(3) {
            let at = random(changed.len());
            match random(4) {
                0 => changed[at] = random(256) as u8,
                1 => changed[at] ^= 1 << random(8),
                2 => changed.insert(at, random(40) as u8),
                _ => drop(changed.remove(at)),
            }
        }
        same(&changed);
    }
    // A member of an operation that comes twice is merged.
    let mut twice = Vec::new();
    field(4, &txn.encode_to_vec(), &mut twice);
    field(4, &txn.encode_to_vec(), &mut twice);
    let mut outer = Vec::new();
    field(2, &twice, &mut outer);
    same(&outer);
}

#[test]
fn entries_of_other_kinds_are_understood_or_stop_the_member() {
    assert_eq!(decode_internal_request(Bytes::new()), Ok(Payload::Nothing));
    let header = InternalRaftRequest {
        header: Some(RequestHeader {
            id: 5,
            ..RequestHeader::default()
        }),
        ..InternalRaftRequest::default()
    };
    let alone = Bytes::from(header.encode_to_vec());
    assert_eq!(
        decode_internal_request(alone.clone()),
        Err(DecodeError::NotOneOperation)
    );
    for unknown in [12u32, 999, 1400, 20_000] {
        let mut bytes = alone.to_vec();
        prost::encoding::encode_varint(u64::from(unknown << 3 | 2), &mut bytes);
        bytes.extend_from_slice(&[2, 8, 1]);
        assert_eq!(
            decode_internal_request(bytes.into()),
            Err(DecodeError::UnknownOperation { field: unknown })
        );
    }
    let several = InternalRaftRequest {
        put: Some(put("a", "b")),
        compaction: Some(CompactionRequest::default()),
        ..InternalRaftRequest::default()
    };
    assert_eq!(
        decode_internal_request(several.encode_to_vec().into()),
        Err(DecodeError::NotOneOperation)
    );
    let mut store = Machine::new().store;
    let fatal = store.apply(4, 1, Some(&header), 0);
    assert_eq!(
        fatal,
        Err(ApplyError::Fatal(FatalError::NoOperation { index: 4 }))
    );
    assert_eq!(store.applied(), (0, 0));
}

#[test]
fn v2_requests_of_older_members_are_converted() {
    let v2 = |method: &str, path: &str, value: &str| {
        let mut bytes = vec![8, 9];
        field(2, method.as_bytes(), &mut bytes);
        field(3, path.as_bytes(), &mut bytes);
        field(4, value.as_bytes(), &mut bytes);
        bytes.extend_from_slice(&[40, 0, 50, 0, 56, 0]);
        decode_internal_request(bytes.into())
    };
    let Ok(Payload::Request(version)) = v2("PUT", "/0/version", "3.5.0") else {
        panic!("a version");
    };
    assert_eq!(version.cluster_version_set.unwrap().ver, "3.5.0");
    let attributes = r#"{"name":"m0","clientURLs":["http://127.0.0.1:2379"]}"#;
    let published = v2("PUT", "/0/members/b8f705acc4c5705/attributes", attributes);
    let Ok(Payload::Request(published)) = published else {
        panic!("attributes");
    };
    let published = published.cluster_member_attr_set.unwrap();
    assert_eq!(published.member_id, 0xb8f705acc4c5705);
    assert_eq!(published.member_attributes.unwrap().name, "m0");
    assert_eq!(v2("SYNC", "", ""), Ok(Payload::Nothing));
    assert!(v2("DELETE", "/1/key", "").is_err());
    assert!(decode_internal_request(Bytes::from_static(b"\xff\xff\xff")).is_err());
}

#[test]
fn a_put_may_find_its_key_gone_and_fails_as_a_whole() {
    let mut machine = Machine::new();
    machine.put("k1", "v").unwrap();
    let delete = DeleteRangeRequest {
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"\0"),
        prev_kv: false,
    };
    let kept = PutRequest {
        ignore_value: true,
        ..put("k1", "")
    };
    let both = vec![
        op(Request::RequestPut(put("z", "z"))),
        op(Request::RequestDeleteRange(delete)),
        op(Request::RequestPut(kept)),
    ];
    // The end of one zero byte hides the conflict from validation, and the delete takes the key away.
    assert_eq!(machine.txn(both), Err(RequestError::KeyNotFound));
    assert_eq!(machine.store.revision(), 2);
    let all = RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..RangeRequest::default()
    };
    assert_eq!(machine.store.range(&all).unwrap().unwrap().count, 1);
}

#[test]
fn direct_ranges_count_from_version_3_7_on() {
    let mut machine = Machine::new();
    let ops = || vec![range("a", 99), op(Request::RequestPut(put("a", "1")))];
    for version in ["3.5.0", "3.6.0"] {
        machine.set_version(version).unwrap();
        let before = machine.store.revision();
        machine.txn(ops()).unwrap();
        assert_eq!(machine.store.revision(), before + 1);
    }
    // Nested by the proposer, every member of every version refuses it.
    let mut txn = TxnRequest {
        success: ops(),
        ..TxnRequest::default()
    };
    wrap::wrap_direct_ranges(&mut txn, false);
    assert_eq!(
        machine.txn(txn.success.clone()),
        Err(RequestError::FutureRevision)
    );
    machine.set_version("3.7.0").unwrap();
    assert_eq!(machine.txn(ops()), Err(RequestError::FutureRevision));
    assert_eq!(machine.store.revision(), 3);
}

#[test]
fn wrapping_changes_no_answer() {
    let mut machine = Machine::new();
    machine.put("a", "0").unwrap();
    let plain = TxnRequest {
        success: vec![
            range("a", 0),
            range("a", 2),
            op(Request::RequestPut(put("a", "1"))),
            range("a", 2),
            range("a", 0),
        ],
        ..TxnRequest::default()
    };
    let mut wrapped_txn = plain.clone();
    let wrapped = wrap::wrap_direct_ranges(&mut wrapped_txn, true);
    assert_ne!(plain, wrapped_txn);
    let mut other = Machine::new();
    other.put("a", "0").unwrap();
    let expected = machine.txn(plain.success).unwrap();
    let mut response = other.txn(wrapped_txn.success).unwrap();
    assert_ne!(response, expected);
    wrapped.unwrap_response(&mut response);
    assert_eq!(response, expected);
}

#[test]
fn a_watch_from_the_compacted_revision_sees_its_tombstone() {
    let mut machine = Machine::new();
    machine.put("a", "1").unwrap();
    let delete = DeleteRangeRequest {
        key: Bytes::from_static(b"a"),
        ..DeleteRangeRequest::default()
    };
    machine
        .apply(InternalRaftRequest {
            delete_range: Some(delete),
            ..InternalRaftRequest::default()
        })
        .unwrap();
    machine.put("b", "1").unwrap();
    machine.compact(3);
    let key = StreamKey(1);
    let hub = machine.store.hub_mut();
    hub.open_stream(key, 1, 0, 0);
    let create = WatchCreateRequest {
        key: Bytes::from_static(b"a"),
        start_revision: 3,
        prev_kv: true,
        ..WatchCreateRequest::default()
    };
    hub.create(key, &create, Permission::Granted, 0);
    while machine.store.watch_catch_up(100).unwrap() {}
    machine.put("a", "2").unwrap();
    machine.put("a", "3").unwrap();
    let mut out = Vec::new();
    machine.store.hub_mut().take_out(&mut out);
    let events: Vec<_> = out
        .iter()
        .flat_map(|out| WatchResponse::decode(out.message()).unwrap().events)
        .collect();
    let seen: Vec<_> = events
        .iter()
        .map(|event| {
            let kv = event.kv.as_ref().unwrap();
            let before = event.prev_kv.as_ref().map(|kv| kv.mod_revision);
            (event.r#type, kv.mod_revision, before)
        })
        .collect();
    // Revision 2 is compacted away, so the deletion has no previous value.
    assert_eq!(seen, [(1, 3, None), (0, 5, None), (0, 6, Some(5))]);
    // The next compaction takes the tombstone.
    machine.compact(4);
    let from = engine::watch::Position { main: 0, sub: 0 };
    let mut first = None;
    machine
        .store
        .visit_rows(from, &mut |at, _| {
            first = Some(at.main);
            std::ops::ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(first, Some(4));
}

#[test]
fn alarms_refuse_what_needs_space_or_trust() {
    let mut machine = Machine::new();
    machine.put("a", "1").unwrap();
    let nospace = AlarmType::Nospace as i32;
    for _ in 0..2 {
        let answer = machine.alarm(1, nospace).unwrap();
        assert_eq!(answer.alarms.len(), 1);
    }
    assert_eq!(machine.put("a", "2"), Err(RequestError::NoSpace));
    let putting = vec![op(Request::RequestTxn(TxnRequest {
        failure: vec![op(Request::RequestPut(put("b", "1")))],
        ..TxnRequest::default()
    }))];
    assert_eq!(machine.txn(putting), Err(RequestError::NoSpace));
    let deleting = vec![op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: Bytes::from_static(b"a"),
        ..DeleteRangeRequest::default()
    }))];
    machine.txn(deleting.clone()).unwrap();
    let grant = InternalRaftRequest {
        lease_grant: Some(LeaseGrantRequest { id: 5, ttl: 10 }),
        ..InternalRaftRequest::default()
    };
    assert_eq!(machine.apply(grant.clone()), Err(RequestError::NoSpace));
    machine.compact(2);
    // Only the very member and type disarm it; memberID 0 is no wildcard.
    let foreign = InternalRaftRequest {
        alarm: Some(Box::new(AlarmRequest {
            action: 2,
            member_id: 0,
            alarm: nospace,
        })),
        ..InternalRaftRequest::default()
    };
    machine.apply(foreign).unwrap();
    assert!(!machine.store.alarms().is_empty());
    assert_eq!(machine.alarm(2, nospace).unwrap().alarms.len(), 1);
    assert!(machine.alarm(2, nospace).unwrap().alarms.is_empty());
    machine.put("a", "3").unwrap();
    machine.apply(grant).unwrap();

    machine.alarm(1, AlarmType::Corrupt as i32).unwrap();
    assert_eq!(machine.put("a", "4"), Err(RequestError::Corrupt));
    assert_eq!(machine.txn(deleting), Err(RequestError::Corrupt));
    assert_eq!(machine.store.alarms().len(), 1);
    assert_eq!(machine.alarm(0, 0).unwrap().alarms.len(), 1);
    assert!(machine.alarm(0, nospace).unwrap().alarms.is_empty());
}

#[test]
fn a_put_over_quota_is_applied_and_told() {
    let mut machine = Machine::new();
    machine.put("a", "1").unwrap();
    let quota = machine.store.pages().file_bytes() + 300;
    machine.store.options_mut().quota_bytes = Some(quota);
    assert!(machine.store.over_quota(300));
    assert!(!machine.store.over_quota(299));
    assert!(!machine.store.over_quota(0));
    let mut apply = |put: PutRequest| {
        machine.index += 1;
        let entry = InternalRaftRequest {
            put: Some(put),
            ..InternalRaftRequest::default()
        };
        let applied = machine.store.apply(machine.index, 1, Some(&entry), 0);
        let applied = applied.unwrap();
        (applied.response.is_ok(), applied.over_quota)
    };
    assert_eq!(apply(put("a", "2")), (true, false));
    let large = PutRequest {
        value: Bytes::from_static(&[1; 100]),
        ..put("a", "")
    };
    assert_eq!(apply(large), (true, true));
}

#[test]
fn what_crashes_etcd_is_an_error() {
    let mut machine = Machine::new();
    assert_eq!(machine.alarm(9, 1), Err(RequestError::UnknownAlarmAction));
    assert_eq!(machine.alarm(1, 3), Err(RequestError::UnknownAlarmType));
    assert!(machine.alarm(0, 3).unwrap().alarms.is_empty());
    assert!(machine.alarm(2, 3).unwrap().alarms.is_empty());
    let unknown_target = RangeRequest {
        key: Bytes::from_static(b"a"),
        sort_target: 9,
        ..RangeRequest::default()
    };
    assert_eq!(
        validate::validate_range(&unknown_target),
        Err(RequestError::InvalidSortOption)
    );
    assert!(machine.store.range(&unknown_target).unwrap().is_ok());
    assert!(machine.set_version("three").is_err());
    let stranger = proto::membershippb::ClusterMemberAttrSetRequest {
        member_id: 99,
        member_attributes: None,
    };
    let stranger = InternalRaftRequest {
        cluster_member_attr_set: Some(Box::new(stranger)),
        ..InternalRaftRequest::default()
    };
    assert_eq!(machine.apply(stranger), Err(RequestError::MemberNotFound));
    let auth = InternalRaftRequest {
        auth_enable: Some(Box::new(AuthEnableRequest {})),
        ..InternalRaftRequest::default()
    };
    assert_eq!(machine.apply(auth), Err(RequestError::AuthUnavailable));
}

fn conf_change(kind: i32, id: u64, context: &'static str) -> ConfChange {
    ConfChange {
        id: Some(0),
        r#type: Some(kind),
        node_id: Some(id),
        context: Some(Bytes::from_static(context.as_bytes())),
    }
}

#[test]
fn members_come_and_go_by_the_log() {
    let mut machine = Machine::new();
    let mut step = |kind: i32, id: u64, context: &'static str| {
        let change = machine
            .store
            .check_conf_change(&conf_change(kind, id, context))
            .unwrap();
        machine.index += 1;
        machine
            .store
            .apply_conf_change(machine.index, 1, change.as_ref().ok(), ConfState::default())
            .unwrap();
        (change.map(|_| ()), machine.store.member_list())
    };
    let m1 = r#"{"id":1,"peerURLs":["http://a:1"],"name":"one","isPromote":false}"#;
    let m2 = r#"{"id":2,"peerURLs":["http://b:1"],"isLearner":true,"isPromote":false}"#;
    let promote = r#"{"id":2,"peerURLs":null,"isPromote":true}"#;
    assert_eq!(step(0, 1, m1).0, Ok(()));
    assert_eq!(step(0, 1, m1).0, Err(RequestError::MemberIdExists));
    assert_eq!(step(0, 3, m1).0, Err(RequestError::PeerUrlsExist));
    let (added, members) = step(3, 2, m2);
    assert_eq!(added, Ok(()));
    assert!(members[1].is_learner);
    let m3 = r#"{"id":3,"peerURLs":["http://c:1"],"isLearner":true}"#;
    assert_eq!(step(3, 3, m3).0, Err(RequestError::TooManyLearners));
    let (promoted, members) = step(0, 2, promote);
    assert_eq!(promoted, Ok(()));
    assert!(!members[1].is_learner);
    assert_eq!(members[1].peer_ur_ls, ["http://b:1"]);
    assert_eq!(step(0, 2, promote).0, Err(RequestError::MemberNotLearner));
    let moved = r#"{"id":1,"peerURLs":["http://d:1"]}"#;
    let (updated, members) = step(2, 1, moved);
    assert_eq!(updated, Ok(()));
    assert_eq!(members[0].peer_ur_ls, ["http://d:1"]);
    assert_eq!(members[0].name, "one");
    assert_eq!(step(2, 2, moved).0, Err(RequestError::PeerUrlsExist));
    assert_eq!(step(1, 2, "").0, Ok(()));
    assert_eq!(step(1, 2, "").0, Err(RequestError::MemberNotFound));
    let (again, members) = step(0, 2, m2);
    assert_eq!(again, Err(RequestError::MemberNotFound));
    assert_eq!(members.len(), 1);
    for bad in [conf_change(7, 5, "{}"), conf_change(0, 5, "no json")] {
        assert!(machine.store.check_conf_change(&bad).is_err());
    }
}

/// HashKV of a small history, by independent code that agreed with etcd: (compacted, revision, hash).
const HASHES: &[(i64, i64, u32)] = &[
    (-1, 1, 1_084_519_789),
    (-1, 2, 2_587_454_935),
    (-1, 3, 2_143_169_314),
    (-1, 4, 3_086_679_940),
    (-1, 5, 1_416_966_122),
    (-1, 6, 3_770_220_211),
    (-1, 7, 913_134_062),
    (-1, 8, 1_179_430_927),
    (4, 5, 194_725_478),
    (4, 6, 1_058_051_077),
    (4, 7, 368_870_661),
    (4, 8, 3_232_850_265),
    (5, 6, 1_696_434_148),
    (5, 7, 1_341_254_529),
    (5, 8, 1_943_308_951),
    (6, 7, 1_341_254_529),
    (6, 8, 3_793_669_192),
    (7, 8, 2_758_719_142),
];

fn small_history(machine: &mut Machine) {
    let delete = |key: &'static str| {
        Request::RequestDeleteRange(DeleteRangeRequest {
            key: Bytes::from_static(key.as_bytes()),
            ..DeleteRangeRequest::default()
        })
    };
    machine.put("a", "1").unwrap();
    machine.put("b", "1").unwrap();
    machine.put("a", "2").unwrap();
    machine.txn(vec![op(delete("b"))]).unwrap();
    machine.put("b", "new").unwrap();
    machine.txn(vec![op(delete("a"))]).unwrap();
    let last = vec![
        op(Request::RequestPut(put("c", "x"))),
        op(Request::RequestPut(put("d", "y"))),
        op(delete("b")),
    ];
    machine.txn(last).unwrap();
    assert_eq!(machine.store.revision(), 8);
}

#[test]
fn hashes_of_a_small_history() {
    for &(compacted, revision, expected) in HASHES {
        let mut machine = Machine::new();
        small_history(&mut machine);
        if compacted > 0 {
            machine.compact(compacted);
        }
        let hash = machine.store.hash_kv_now(revision).unwrap().unwrap();
        assert_eq!(
            (hash.hash, hash.compact_revision),
            (expected, compacted),
            "HashKV({revision}) of a store compacted at {compacted}"
        );
        // The compacted revision is answered from memory: its hash before the compaction.
        if compacted == revision - 1 {
            let remembered = machine.store.hash_kv_now(compacted).unwrap().unwrap();
            let before = HASHES.iter().find(|of| (of.0, of.1) == (-1, compacted));
            assert_eq!(remembered.hash, before.unwrap().2);
            assert_eq!(remembered.compact_revision, -1);
        }
    }
}

#[test]
fn the_whole_hash_is_the_same_for_the_same_entries() {
    let whole = |extra: bool| {
        let mut machine = Machine::new();
        machine.set_version("3.5.0").unwrap();
        small_history(&mut machine);
        if extra {
            machine.alarm(1, 1).unwrap();
        }
        let mut job = machine.store.hash();
        loop {
            if let Some(hash) = job.step(&machine.store, 2).unwrap() {
                return hash;
            }
        }
    };
    assert_eq!(whole(false), whole(false));
    assert_ne!(whole(false), whole(true));
}
