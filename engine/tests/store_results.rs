//! The running hash: the same on stores that are right, whatever may differ between these, and another one wherever an
//! entry came to something else.

use engine::page::{Miss, Options as PageOptions, Pages, SimFile};
use engine::store::{meta::LogMark, ApplyError, MemberChange, Options, Store};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::*;
use proto::membershippb::{ClusterVersionSetRequest, Member};
use proto::raftpb::ConfState;
use std::sync::Arc;

const LEASE: i64 = 77;

fn options(min_ttl_seconds: i64) -> Options {
    let lease = engine::lease::Config {
        min_ttl_seconds,
        ..Default::default()
    };
    Options::new(lease, Default::default())
}

fn put(key: &str, value: &str, lease: i64) -> PutRequest {
    PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        lease,
        ..Default::default()
    }
}

fn range(key: &str) -> RequestOp {
    let range = RangeRequest {
        key: key.as_bytes().to_vec().into(),
        ..Default::default()
    };
    RequestOp {
        request: Some(Request::RequestRange(range)),
    }
}

fn delete(key: &str, end: &str) -> RequestOp {
    let delete = DeleteRangeRequest {
        key: key.as_bytes().to_vec().into(),
        range_end: end.as_bytes().to_vec().into(),
        prev_kv: true,
    };
    RequestOp {
        request: Some(Request::RequestDeleteRange(delete)),
    }
}

/// Puts, and deletes of these and others.
fn put_and_delete(end: &str) -> TxnRequest {
    let puts = ["e", "f", "g"].map(|key| RequestOp {
        request: Some(Request::RequestPut(put(key, "v", LEASE))),
    });
    let nested = |ops: Vec<RequestOp>| RequestOp {
        request: Some(Request::RequestTxn(TxnRequest {
            success: ops,
            ..Default::default()
        })),
    };
    TxnRequest {
        success: vec![
            nested(puts.to_vec()),
            nested(vec![range("f"), delete("d", end)]),
            range("f"),
            delete("h", ""),
        ],
        ..Default::default()
    }
}

/// A put, and a look at a key beside it.
fn put_and_look(key: &str, at: &str) -> TxnRequest {
    let put = RequestOp {
        request: Some(Request::RequestPut(put(key, "v", 0))),
    };
    TxnRequest {
        success: vec![put, range(at)],
        ..Default::default()
    }
}

macro_rules! entry {
    ($field:ident: $request:expr) => {
        Step::Entry(Box::new(InternalRaftRequest {
            $field: Some($request.into()),
            ..Default::default()
        }))
    };
}

enum Step {
    Entry(Box<InternalRaftRequest>),
    Change(MemberChange),
    Nothing,
}

struct Applying {
    store: Store,
    index: u64,
    /// Keys that are looked at together.
    slice_keys: usize,
}

impl Applying {
    fn new(min_ttl_seconds: i64) -> Applying {
        Applying {
            store: Store::create(Pages::in_memory(), options(min_ttl_seconds)),
            index: 0,
            slice_keys: usize::MAX,
        }
    }

    fn fetch(&mut self, miss: &Miss) {
        let pages = self.store.pages_mut();
        let job = pages.fetch_job(miss).unwrap();
        pages.fetch_done(job.run()).unwrap();
    }

    fn apply(&mut self, step: &Step) {
        self.index += 1;
        loop {
            let applied = match step {
                Step::Change(change) => {
                    let state = ConfState {
                        voters: vec![1, 2],
                        ..Default::default()
                    };
                    let store = &mut self.store;
                    store
                        .apply_conf_change(self.index, 1, Some(change), state)
                        .map_err(ApplyError::Miss)
                }
                Step::Entry(request) => {
                    let (at, slice_keys) = ((self.index, 1), self.slice_keys);
                    match self.store.apply_slice(at, Some(request), 0, slice_keys) {
                        Ok(None) => continue,
                        applied => applied.map(drop),
                    }
                }
                Step::Nothing => self.store.apply(self.index, 1, None, 0).map(drop),
            };
            match applied {
                Ok(()) => return,
                Err(ApplyError::Miss(miss)) => self.fetch(&miss),
                Err(ApplyError::Fatal(fatal)) => panic!("{fatal}"),
            }
        }
    }

    fn hash(&self) -> u64 {
        self.store.result_hash(self.index).unwrap()
    }
}

fn alarm(action: i32, member_id: u64) -> AlarmRequest {
    AlarmRequest {
        action,
        member_id,
        alarm: AlarmType::Nospace as i32,
    }
}

fn member(id: u64) -> MemberChange {
    MemberChange::Add(Member {
        id,
        ..Default::default()
    })
}

/// Entries of every kind, and for some of them one that does something else.
fn steps() -> Vec<(Step, Vec<Step>)> {
    let grant = |id, ttl| entry!(lease_grant: LeaseGrantRequest { id, ttl });
    let revoke = |id| entry!(lease_revoke: LeaseRevokeRequest { id });
    let delete = |key: &str| {
        entry!(delete_range: DeleteRangeRequest {
            key: key.as_bytes().to_vec().into(),
            ..Default::default()
        })
    };
    let delete_up_to = |end: &str| {
        entry!(delete_range: DeleteRangeRequest {
            key: "a".as_bytes().into(),
            range_end: end.as_bytes().to_vec().into(),
            prev_kv: true,
        })
    };
    let compact = |revision| {
        entry!(compaction: CompactionRequest {
            revision,
            physical: false,
        })
    };
    let version =
        |ver: &str| entry!(cluster_version_set: ClusterVersionSetRequest { ver: ver.into() });
    vec![
        (grant(LEASE, 1), vec![grant(LEASE + 1, 1), Step::Nothing]),
        (
            entry!(put: put("a", "1", 0)),
            vec![
                entry!(put: put("a", "2", 0)),
                entry!(put: put("b", "1", 0)),
                Step::Nothing,
            ],
        ),
        (
            entry!(put: put("b", "1", LEASE)),
            vec![entry!(put: put("b", "1", 0))],
        ),
        (delete("a"), vec![delete("b"), delete("c")]),
        (
            entry!(txn: put_and_look("c", "b")),
            vec![
                entry!(txn: put_and_look("c", "a")),
                entry!(put: put("c", "v", 0)),
            ],
        ),
        (entry!(put: put("d", "1", 99)), vec![Step::Nothing]),
        // The tombstone goes with it where compactions come that far, and the next put finds nothing.
        (compact(4), vec![compact(3), compact(300)]),
        (entry!(put: put("a", "after", 0)), vec![]),
        (delete_up_to("c"), vec![delete_up_to("d"), delete("a")]),
        (
            entry!(alarm: alarm(1, 5)),
            vec![entry!(alarm: alarm(1, 6)), Step::Nothing],
        ),
        (entry!(alarm: alarm(2, 5)), vec![entry!(alarm: alarm(2, 6))]),
        (version("3.5.0"), vec![version("3.6.0"), Step::Nothing]),
        (
            Step::Change(member(7)),
            vec![Step::Change(member(8)), Step::Nothing],
        ),
        (
            entry!(txn: put_and_delete("f")),
            vec![
                entry!(txn: put_and_delete("g")),
                entry!(txn: put_and_look("e", "f")),
            ],
        ),
        (entry!(put: put("e", "1", LEASE)), vec![]),
        (revoke(LEASE), vec![revoke(LEASE + 1), Step::Nothing]),
        (Step::Nothing, vec![]),
    ]
}

#[test]
fn whatever_an_entry_did_otherwise_shows_from_there_on() {
    let steps = steps();
    let right = |upto: usize| {
        let mut applying = Applying::new(2);
        steps[..upto]
            .iter()
            .for_each(|(step, _)| applying.apply(step));
        applying
    };
    let expected = right(steps.len()).hash();
    let mut seen = vec![expected];
    for (place, (_, others)) in steps.iter().enumerate() {
        for other in others {
            let mut applying = right(place);
            applying.apply(other);
            for (step, _) in &steps[place + 1..] {
                applying.apply(step);
            }
            seen.push(applying.hash());
        }
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count, "two of them have the same hash");
}

/// One store compacts at once, deletes key by key, has another lease minimum, and is opened again after every entry; the other never does any
/// of it.
#[test]
fn stores_that_are_right_have_the_same_hash() {
    let mut idle = Applying::new(2);
    let file = SimFile::new();
    let page_options = PageOptions {
        create: true,
        ..Default::default()
    };
    let opened = Pages::open(Arc::new(file.clone()), page_options.clone()).unwrap();
    let mut busy = Applying {
        store: Store::create(opened.pages, options(60)),
        index: 0,
        slice_keys: 1,
    };
    for round in 0..3 {
        for (number, (step, _)) in steps().iter().enumerate() {
            if round > 0 && matches!(step, Step::Change(_)) {
                continue;
            }
            idle.apply(step);
            busy.apply(step);
            assert_eq!(idle.hash(), busy.hash(), "round {round}, entry {number}");
            while busy.store.compaction_pending() {
                if let Err(miss) = busy.store.compaction_step(100) {
                    busy.fetch(&miss);
                }
            }
            let job = busy.store.begin_checkpoint(LogMark::default()).unwrap();
            let done = job.run().unwrap();
            busy.store.pages_mut().checkpoint_done(done);
            let opened = Pages::open(Arc::new(file.clone()), page_options.clone()).unwrap();
            let meta = opened.meta.expect("a checkpoint");
            busy.store = Store::open(opened.pages, &meta, options(60)).unwrap();
        }
    }
    assert_ne!(idle.store.compacted(), -1);
}
