//! What a restart applies as a whole comes to the same as what is applied entry by entry.

use engine::page::{Miss, Options as PageOptions, Pages, SimFile};
use engine::store::{meta::LogMark, ApplyError, Options, Store};
use prost::Message;
use proto::etcdserverpb::{
    request_op::Request, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest, PutRequest,
    RangeRequest, RangeResponse, RequestHeader, RequestOp, TxnRequest,
};
use proto::raftpb::Entry;
use std::sync::Arc;

const LEASE: i64 = 7;
const UNBOUNDED: u64 = 1 << 30;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1);
        (self.0 >> 33) % n
    }
}

fn entry(index: u64, request: &InternalRaftRequest) -> Entry {
    Entry {
        r#type: Some(0),
        term: Some(1 + index / 5000),
        index: Some(index),
        data: Some(request.encode_to_vec().into()),
    }
}

fn put(random: &mut Random, keys: u64) -> PutRequest {
    // Of different lengths, long ones with an overflow extent among them; values as well.
    let n = random.below(keys);
    let mut key = format!("key/{n:06}");
    if n % 31 == 0 {
        key.push_str(&"x".repeat(700));
    }
    let bytes = match random.below(40) {
        0 => 3000,
        _ => random.below(200),
    };
    PutRequest {
        key: key.into_bytes().into(),
        value: vec![random.below(256) as u8; bytes as usize].into(),
        ..Default::default()
    }
}

/// Mostly puts; one entry in `others` is something else.
fn entries(seed: u64, count: u64, keys: u64, others: u64) -> Vec<Entry> {
    let mut random = Random(seed);
    let grant = LeaseGrantRequest {
        ttl: 100,
        id: LEASE,
    };
    let mut all = vec![entry(
        1,
        &InternalRaftRequest {
            header: Some(RequestHeader::default()),
            lease_grant: Some(grant),
            ..Default::default()
        },
    )];
    for index in 2..=count {
        let mut request = InternalRaftRequest {
            header: Some(RequestHeader {
                id: index,
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut put = put(&mut random, keys);
        match random.below(others * 3) {
            0 => {
                request.delete_range = Some(DeleteRangeRequest {
                    key: put.key,
                    ..Default::default()
                });
            }
            1 => {
                let success = vec![RequestOp {
                    request: Some(Request::RequestPut(put)),
                }];
                request.txn = Some(TxnRequest {
                    success,
                    ..Default::default()
                });
            }
            2 => {
                put.lease = LEASE;
                request.put = Some(put);
            }
            _ => request.put = Some(put),
        }
        all.push(entry(index, &request));
    }
    all
}

fn fetch(store: &mut Store, miss: &Miss) {
    let pages = store.pages_mut();
    if let Some(job) = pages.fetch_job(miss) {
        pages.fetch_done(job.run()).unwrap();
    }
}

fn apply(store: &mut Store, entry: &Entry) {
    let request = InternalRaftRequest::decode(entry.data.clone().unwrap()).unwrap();
    loop {
        match store.apply(entry.index(), entry.term(), Some(&request), 0) {
            Ok(_) => return,
            Err(ApplyError::Miss(miss)) => fetch(store, &miss),
            Err(ApplyError::Fatal(fatal)) => panic!("{fatal}"),
        }
    }
}

fn range(store: &mut Store, request: &RangeRequest) -> RangeResponse {
    loop {
        match store.range(request) {
            Ok(response) => return response.unwrap(),
            Err(miss) => fetch(store, &miss),
        }
    }
}

fn everything(revision: i64) -> RangeRequest {
    RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision,
        ..Default::default()
    }
}

/// A store with these entries that was checkpointed and opened again, so that it has no page in memory.
fn reopened(entries: &[Entry]) -> Store {
    let file = SimFile::new();
    let page_options = PageOptions {
        create: true,
        ..Default::default()
    };
    let opened = Pages::open(Arc::new(file.clone()), page_options.clone()).unwrap();
    let mut store = Store::create(opened.pages, Options::default());
    entries.iter().for_each(|entry| apply(&mut store, entry));
    let job = store.begin_checkpoint(LogMark::default()).unwrap();
    let done = job.run().unwrap();
    store.pages_mut().checkpoint_done(done);
    let opened = Pages::open(Arc::new(file), page_options).unwrap();
    let meta = opened.meta.expect("a checkpoint");
    Store::open(opened.pages, &meta, Options::default()).unwrap()
}

fn check_same(replayed: &mut Store, applied: &mut Store, seed: u64) {
    assert_eq!(replayed.applied(), applied.applied(), "seed {seed}");
    assert_eq!(replayed.revision(), applied.revision(), "seed {seed}");
    let last = applied.applied().0;
    assert!(applied.result_hash(last).is_some());
    for index in last - 20..=last {
        let (a, b) = (replayed.result_hash(index), applied.result_hash(index));
        assert_eq!(a, b, "seed {seed}, entry {index}");
    }
    let newest = applied.revision();
    // Old revisions follow the pointers from version to version.
    for revision in (1..=newest).rev().step_by(1 + newest as usize / 40) {
        let request = everything(revision);
        let (a, b) = (range(replayed, &request), range(applied, &request));
        assert_eq!(a.kvs, b.kvs, "seed {seed}, revision {revision}");
        assert_eq!(a.count, b.count, "seed {seed}, revision {revision}");
    }
    let hash = |store: &mut Store| {
        let mut job = store.hash_kv(0);
        loop {
            match job.step(store, 1000) {
                Ok(Some(found)) => return found.unwrap().hash,
                Ok(None) => {}
                Err(miss) => fetch(store, &miss),
            }
        }
    };
    assert_eq!(hash(replayed), hash(applied), "seed {seed}");
}

fn compare(seed: u64, count: u64, keys: u64, others: u64, changed_bytes_max: u64) -> u64 {
    let all = entries(seed, count, keys, others);
    let (first, rest) = all.split_at(all.len() / 3);
    let mut applied = reopened(&all[..0]);
    all.iter().for_each(|entry| apply(&mut applied, entry));
    let mut replayed = reopened(first);
    replayed.replay(rest, changed_bytes_max);
    let (reached, _) = replayed.applied();
    // What is left goes the ordinary way.
    all.iter()
        .filter(|entry| entry.index() > reached)
        .for_each(|entry| apply(&mut replayed, entry));
    check_same(&mut replayed, &mut applied, seed);
    // And so does what comes later.
    for entry in entries(seed + 1, count + 50, keys, others) {
        if entry.index() > count {
            apply(&mut replayed, &entry);
            apply(&mut applied, &entry);
        }
    }
    check_same(&mut replayed, &mut applied, seed);
    reached - first.len() as u64
}

#[test]
fn a_replay_comes_to_the_same_as_entry_by_entry() {
    for seed in 0..6 {
        let keys = [3, 100, 2000][seed as usize % 3];
        assert_eq!(compare(seed, 3000, keys, 1 << 40, UNBOUNDED), 2000);
        assert_eq!(compare(seed, 3000, keys, 300, UNBOUNDED), 2000);
        assert_eq!(compare(seed, 3000, keys, 20, UNBOUNDED), 2000);
    }
}

#[test]
fn a_replay_stops_at_its_bound_of_changed_pages() {
    let reached = compare(9, 6000, 5000, 1 << 40, 1 << 20);
    assert!((1000..4000).contains(&reached), "{reached} of 4000");
}

/// An entry that is about more than keys, a gap, or something that cannot be read is left alone, with all behind it.
#[test]
fn a_replay_ends_before_what_it_does_not_know() {
    let all = entries(4, 900, 100, 1 << 40);
    let (first, rest) = all.split_at(300);
    for (place, index) in [(0, 300), (70, 370), (599, 899)] {
        let mut store = reopened(first);
        let mut rest = rest.to_vec();
        rest[place].data = None;
        store.replay(&rest, UNBOUNDED);
        assert_eq!(store.applied().0, index);
        let mut store = reopened(first);
        rest[place].data = Some(vec![0xff; 9].into());
        store.replay(&rest, UNBOUNDED);
        assert_eq!(store.applied().0, index);
    }
    let mut store = reopened(first);
    store.replay(&rest[1..], UNBOUNDED);
    assert_eq!(store.applied().0, 300);
}
