//! Writes of very many keys, applied in slices: no slice looks at more than it is told to, and what comes of all of them is
//! what one go comes to. (`store_model` has random ones, with restarts in between.)

use engine::error::RequestError;
use engine::page::Pages;
use engine::store::{Applied, Options, Response, Store};
use engine::watch::{Permission, StreamKey};
use prost::Message;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::*;
use std::time::{Duration, Instant};

const LEASE: i64 = 7;
const SLICE_KEYS: usize = 3;

struct World {
    store: Store,
    slice_keys: usize,
    /// Slices of the last entry.
    slices: usize,
    longest: Duration,
}

fn key(number: usize) -> Vec<u8> {
    format!("key/{number:07}").into_bytes()
}

fn delete(from: usize, to: usize, prev_kv: bool) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key(from).into(),
        range_end: key(to).into(),
        prev_kv,
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn nested(success: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(TxnRequest {
        success,
        ..Default::default()
    }))
}

fn put(number: usize, lease: i64) -> PutRequest {
    PutRequest {
        key: key(number).into(),
        value: b"value".as_slice().into(),
        lease,
        ..Default::default()
    }
}

fn txn_entry(success: Vec<RequestOp>) -> InternalRaftRequest {
    InternalRaftRequest {
        txn: Some(TxnRequest {
            success,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn delete_entry(delete: DeleteRangeRequest) -> InternalRaftRequest {
    InternalRaftRequest {
        delete_range: Some(delete),
        ..Default::default()
    }
}

fn revoke_entry() -> InternalRaftRequest {
    InternalRaftRequest {
        lease_revoke: Some(LeaseRevokeRequest { id: LEASE }),
        ..Default::default()
    }
}

impl World {
    /// With so many keys that are attached to a lease.
    fn new(slice_keys: usize, keys: usize) -> World {
        let mut world = World {
            store: Store::create(Pages::in_memory(), Options::default()),
            slice_keys,
            slices: 0,
            longest: Duration::ZERO,
        };
        let grant = InternalRaftRequest {
            lease_grant: Some(LeaseGrantRequest { id: LEASE, ttl: 60 }),
            ..Default::default()
        };
        world.apply(&grant).response.expect("a grant");
        for number in 0..keys {
            let put = InternalRaftRequest {
                put: Some(put(number, LEASE)),
                ..Default::default()
            };
            world.apply(&put).response.expect("a put");
        }
        world
    }

    fn apply(&mut self, entry: &InternalRaftRequest) -> Applied {
        (self.slices, self.longest) = (0, Duration::ZERO);
        let index = self.store.applied().0 + 1;
        loop {
            self.slices += 1;
            let begun = Instant::now();
            let applied = self
                .store
                .apply_slice((index, 1), Some(entry), 0, self.slice_keys);
            self.longest = self.longest.max(begun.elapsed());
            if let Some(applied) = applied.expect("everything is in memory") {
                return applied;
            }
        }
    }

    fn watch(&mut self, stream: u64, from: usize, range_end: Vec<u8>) {
        let hub = self.store.hub_mut();
        hub.open_stream(StreamKey(stream), 1, 0, 0);
        let create = WatchCreateRequest {
            key: key(from).into(),
            range_end: range_end.into(),
            prev_kv: true,
            ..Default::default()
        };
        hub.create(StreamKey(stream), &create, Permission::Granted, 0);
    }

    fn events(&mut self) -> Vec<(u64, proto::mvccpb::Event)> {
        let mut events = Vec::new();
        loop {
            let more = self.store.watch_catch_up(20).expect("in memory");
            let mut out = Vec::new();
            self.store.hub_mut().take_out(&mut out);
            for out in &out {
                let response = WatchResponse::decode(out.message()).expect("a response");
                let stream = out.stream.0;
                events.extend(response.events.into_iter().map(|event| (stream, event)));
            }
            if !more {
                events.sort_by_key(|(stream, _)| *stream);
                return events;
            }
        }
    }
}

/// In slices and in one go: the same in all that can be seen. The number of slices is that of the keys and changes.
fn compare(keys: usize, entry: &InternalRaftRequest, slices_min: usize) -> Applied {
    let mut whole = World::new(usize::MAX, keys);
    let mut sliced = World::new(SLICE_KEYS, keys);
    let mut seen = Vec::new();
    for world in [&mut whole, &mut sliced] {
        world.watch(1, 0, key(keys));
        world.watch(2, keys / 2, key(keys / 2 + 2));
        world.watch(3, keys / 3, Vec::new());
        world.watch(4, keys, key(keys + 100));
        world.events();
        let applied = world.apply(entry);
        let events = world.events();
        let left = world.store.range(&RangeRequest {
            key: key(0).into(),
            range_end: b"l".as_slice().into(),
            ..Default::default()
        });
        let lease = world.store.lease_keys(LEASE).expect("in memory");
        let attached = world.store.lessor().attached(LEASE);
        let hash = world.store.result_hash(world.store.applied().0);
        seen.push((applied, events, left, lease, attached, hash));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(whole.slices, 1);
    assert!(
        sliced.slices >= slices_min,
        "{} slices, not {slices_min}",
        sliced.slices
    );
    seen.remove(1).0
}

#[test]
fn a_revoked_lease_of_many_keys_is_one_revision() {
    let applied = compare(60, &revoke_entry(), 2 * 60 / SLICE_KEYS);
    assert!(matches!(applied.response, Ok(Response::LeaseRevoke(_))));
    assert_eq!(applied.revision, 62);
}

#[test]
fn deletes_in_a_transaction_add_up() {
    // Each of them fits into a slice.
    let mut ops: Vec<_> = (0..20)
        .map(|at| {
            op(Request::RequestDeleteRange(delete(
                3 * at,
                3 * at + 3,
                true,
            )))
        })
        .collect();
    let several = txn_entry(ops.clone());
    let applied = compare(60, &several, 2 * 60 / SLICE_KEYS);
    assert_eq!(applied.revision, 62);
    // Nested, beside puts and ranges that see what went before, and deletes of what was put.
    let later = ops.split_off(10);
    let mixed = txn_entry(vec![
        nested(
            (70..75)
                .map(|at| op(Request::RequestPut(put(at, LEASE))))
                .collect(),
        ),
        nested(ops),
        op(Request::RequestRange(RangeRequest {
            key: key(0).into(),
            range_end: key(80).into(),
            ..Default::default()
        })),
        nested(vec![nested(later), op(Request::RequestPut(put(80, 0)))]),
        nested(vec![op(Request::RequestDeleteRange(delete(20, 80, true)))]),
    ]);
    let applied = compare(60, &mixed, 2 * 65 / SLICE_KEYS);
    assert_eq!(applied.revision, 62);
}

/// The put is found out to be impossible when most of the transaction is evaluated.
#[test]
fn a_large_transaction_that_is_refused_changes_nothing() {
    let impossible = PutRequest {
        ignore_value: true,
        value: Default::default(),
        ..put(30, 0)
    };
    let entry = txn_entry(vec![
        nested(vec![op(Request::RequestDeleteRange(delete(0, 60, false)))]),
        nested(vec![op(Request::RequestPut(impossible))]),
    ]);
    let applied = compare(60, &entry, 2 * 60 / SLICE_KEYS);
    assert_eq!(applied.response, Err(RequestError::KeyNotFound));
    assert_eq!(applied.revision, 61);
}

/// Conditions look at many keys as well, be it that they hold for all of them or not for the last one.
#[test]
fn conditions_over_many_keys_are_looked_at_in_slices() {
    let condition = |from: usize, to: usize, version| Compare {
        target: compare::CompareTarget::Version as i32,
        key: key(from).into(),
        range_end: key(to).into(),
        target_union: Some(compare::TargetUnion::Version(version)),
        ..Default::default()
    };
    // The last key has another version than the others.
    let twice = put(59, LEASE);
    for (to, version, holds) in [(59, 1, true), (60, 1, false), (60, 2, false)] {
        let txn = TxnRequest {
            compare: vec![condition(70, 80, 0), condition(0, to, version)],
            success: vec![nested(vec![op(Request::RequestPut(twice.clone()))])],
            failure: vec![op(Request::RequestDeleteRange(delete(0, 1, true)))],
        };
        for slice_keys in [SLICE_KEYS, usize::MAX] {
            let mut world = World::new(slice_keys, 60);
            world.apply(&InternalRaftRequest {
                put: Some(twice.clone()),
                ..Default::default()
            });
            let applied = world.apply(&InternalRaftRequest {
                txn: Some(txn.clone()),
                ..Default::default()
            });
            let Ok(Response::Txn(response)) = applied.response else {
                panic!("{:?}", applied.response);
            };
            assert_eq!(response.succeeded, holds);
            assert_eq!(applied.revision, 63);
            let is_long = version == 1 && slice_keys == SLICE_KEYS;
            assert!(world.slices >= if is_long { 59 / SLICE_KEYS } else { 1 });
        }
    }
}

/// What was deleted and not compacted yet is passed by, and that takes time as well.
#[test]
fn dead_keys_are_passed_by_in_slices() {
    for slice_keys in [SLICE_KEYS, usize::MAX] {
        let mut world = World::new(slice_keys, 60);
        world.apply(&delete_entry(delete(0, 59, false)));
        for entry in [
            delete_entry(delete(0, 59, false)),
            txn_entry(vec![op(Request::RequestDeleteRange(delete(0, 59, false)))]),
        ] {
            let applied = world.apply(&entry);
            assert_eq!(applied.revision, 62, "nothing is left to be deleted");
            assert!(world.slices >= 59 / slice_keys);
        }
        let applied = world.apply(&delete_entry(delete(0, 60, true)));
        assert_eq!(applied.revision, 63);
        let Ok(Response::DeleteRange(response)) = applied.response else {
            panic!("{:?}", applied.response);
        };
        assert_eq!((response.deleted, response.prev_kvs.len()), (1, 1));
    }
}

/// The quota counts as of the beginning, however much the file grows meanwhile.
#[test]
fn the_quota_is_decided_on_once() {
    let puts: Vec<_> = (0..2_000)
        .map(|number| op(Request::RequestPut(put(number, 0))))
        .collect();
    let entry = txn_entry(puts);
    let cost = engine::store::quota::txn_cost(entry.txn.as_ref().expect("a transaction"));
    for slice_keys in [SLICE_KEYS, usize::MAX] {
        for (room, is_over) in [(0, true), (1, false)] {
            let mut world = World::new(slice_keys, 1);
            let quota = world.store.pages().file_bytes() + cost + room;
            world.store.options_mut().quota_bytes = Some(quota);
            let applied = world.apply(&entry);
            assert!(applied.response.is_ok());
            assert_eq!(applied.over_quota, is_over, "slices of {slice_keys}");
            assert!(world.store.over_quota(cost), "it has grown");
        }
    }
}

/// `cargo test --release -p ringd-engine --test large_writes -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn how_long_slices_take() {
    const KEYS: usize = 300_000;
    let halves = || {
        txn_entry(vec![
            op(Request::RequestDeleteRange(delete(KEYS / 2, KEYS, false))),
            op(Request::RequestDeleteRange(delete(0, KEYS / 2, false))),
        ])
    };
    let entries = [
        ("a delete", delete_entry(delete(0, KEYS, false))),
        (
            "a delete that returns all",
            delete_entry(delete(0, KEYS, true)),
        ),
        ("two deletes in a transaction", halves()),
        ("a revoked lease", revoke_entry()),
    ];
    for (name, entry) in entries {
        for slice_keys in [usize::MAX, 512] {
            let mut world = World::new(slice_keys, KEYS);
            world.apply(&entry).response.expect("a write");
            println!(
                "{name} of {KEYS} keys: {} slices, the longest {:?}",
                world.slices, world.longest
            );
        }
    }
}
