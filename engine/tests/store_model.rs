//! Random requests against the store and against a plain model of it, with checkpoints, restarts from the page file
//! with nothing resident, and compactions in between. Every answer is compared field by field.

mod model;

use bytes::Bytes;
use engine::error::RequestError;
use engine::page::{self, Miss, Pages, SimFile};
use engine::store::meta::LogMark;
use engine::store::validate::validate_txn;
use engine::store::{Applied, ApplyError, CompactionProgress, Options, Response, Store};
use engine::watch::{Permission, StreamKey};
use model::Model;
use prost::Message;
use proto::etcdserverpb::*;
use std::sync::Arc;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 32) % n
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

const LONG_KEY_BYTES: usize = 300;

struct Requests {
    random: Random,
    revision: i64,
    compacted: i64,
}

impl Requests {
    fn key(&mut self) -> Bytes {
        let n = self.random.below(24);
        match self.random.below(20) {
            0 => Bytes::from(vec![b'L'; LONG_KEY_BYTES + (n % 3) as usize]),
            1 => Bytes::from_static(b"\0"),
            2 => Bytes::from_static(&[0xff, 0xff]),
            _ => format!("{}/{n:02}", self.random.pick(&["a", "b", "ab"])).into(),
        }
    }

    fn range_end(&mut self) -> Bytes {
        match self.random.below(10) {
            0..=3 => Bytes::new(),
            4 => Bytes::from_static(b"\0"),
            5 => Bytes::from_static(b"\0\0"),
            6 => Bytes::from_static(b"b"),
            7 => Bytes::from_static(b"b0"),
            _ => self.key(),
        }
    }

    fn value(&mut self) -> Bytes {
        let len = match self.random.below(20) {
            0 => 5000,
            1 => 1500,
            2 => 0,
            _ => 1 + self.random.below(40) as usize,
        };
        Bytes::from(vec![self.random.below(256) as u8; len])
    }

    fn some_revision(&mut self) -> i64 {
        if self.random.chance(60) {
            return 0;
        }
        let from = self.compacted.max(0) - 2;
        from + self.random.below((self.revision + 4 - from) as u64) as i64
    }

    fn lease(&mut self) -> i64 {
        match self.random.chance(40) {
            true => self.random.below(6) as i64 - 1,
            false => 0,
        }
    }

    fn put(&mut self) -> PutRequest {
        let (ignore_value, ignore_lease) = (self.random.chance(7), self.random.chance(7));
        PutRequest {
            key: self.key(),
            value: if ignore_value {
                Bytes::new()
            } else {
                self.value()
            },
            lease: if ignore_lease { 0 } else { self.lease() },
            prev_kv: self.random.chance(20),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest {
            key: self.key(),
            range_end: match self.random.chance(60) {
                true => Bytes::new(),
                false => self.range_end(),
            },
            prev_kv: self.random.chance(30),
        }
    }

    fn range(&mut self) -> RangeRequest {
        let filters = self.random.chance(20);
        let mut filter = || match filters && self.random.chance(50) {
            true => self.random.below(self.revision as u64 + 2) as i64,
            false => 0,
        };
        let filters = [filter(), filter(), filter(), filter()];
        let sorted = self.random.chance(40);
        RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit: match self.random.chance(50) {
                true => self.random.below(8) as i64 - 1,
                false => 0,
            },
            revision: self.some_revision(),
            sort_order: if sorted {
                self.random.below(3) as i32
            } else {
                0
            },
            sort_target: if sorted {
                self.random.below(5) as i32
            } else {
                0
            },
            serializable: true,
            keys_only: self.random.chance(20),
            count_only: self.random.chance(15),
            min_mod_revision: filters[0],
            max_mod_revision: filters[1],
            min_create_revision: filters[2],
            max_create_revision: filters[3],
        }
    }

    fn compare(&mut self) -> Compare {
        use compare::TargetUnion;
        let small = self.random.below(4) as i64;
        let revision = self.random.below(self.revision as u64 + 2) as i64;
        Compare {
            result: self.random.below(5) as i32,
            target: self.random.below(6) as i32,
            key: self.key(),
            range_end: self.range_end(),
            target_union: match self.random.below(6) {
                0 => None,
                1 => Some(TargetUnion::Version(small)),
                2 => Some(TargetUnion::CreateRevision(revision)),
                3 => Some(TargetUnion::ModRevision(revision)),
                4 => Some(TargetUnion::Lease(small)),
                _ => Some(TargetUnion::Value(self.value())),
            },
        }
    }

    fn txn(&mut self, levels: usize) -> TxnRequest {
        let compares = self.random.below(3);
        let mut ops = || {
            let count = self.random.below(5);
            (0..count).map(|_| self.op(levels)).collect::<Vec<_>>()
        };
        let (success, failure) = (ops(), ops());
        TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success,
            failure,
        }
    }

    fn op(&mut self, levels: usize) -> RequestOp {
        use request_op::Request;
        let request = match self.random.below(10) {
            0..=2 => Request::RequestRange(self.range()),
            3 | 4 => Request::RequestDeleteRange(self.delete()),
            5 | 6 if levels > 0 => Request::RequestTxn(self.txn(levels - 1)),
            _ => Request::RequestPut(self.put()),
        };
        RequestOp {
            request: Some(request),
        }
    }

    fn entry(&mut self) -> InternalRaftRequest {
        let mut entry = InternalRaftRequest::default();
        match self.random.below(100) {
            0..=49 => entry.put = Some(self.put()),
            50..=64 => entry.delete_range = Some(self.delete()),
            65..=84 => {
                let txn = self.txn(3);
                // What validation refuses never reaches the log.
                if validate_txn(&txn, 128).is_ok() {
                    entry.txn = Some(txn);
                } else {
                    entry.put = Some(self.put());
                }
            }
            85..=89 => {
                entry.lease_grant = Some(LeaseGrantRequest {
                    id: self.random.below(6) as i64 - 1,
                    ttl: self.random.below(10) as i64 - 2,
                });
            }
            90..=92 => {
                entry.lease_revoke = Some(LeaseRevokeRequest {
                    id: self.random.below(6) as i64 - 1,
                });
            }
            93 => entry.range = Some(Box::new(self.range())),
            _ => {
                let from = self.compacted.max(0);
                let revision = from + self.random.below((self.revision + 2 - from) as u64) as i64;
                let revision = if self.random.chance(70) {
                    from + (revision - from) / 4
                } else {
                    revision
                };
                entry.compaction = Some(CompactionRequest {
                    revision,
                    physical: false,
                });
            }
        }
        entry
    }
}

struct Machine {
    file: SimFile,
    store: Store,
    index: u64,
    /// Applied after the last checkpoint, with what came of it.
    tail: Vec<(u64, InternalRaftRequest, Applied)>,
    misses: u64,
    /// Loses everything after the last checkpoint at the next slice that leaves an entry half-applied.
    crashes: bool,
    met: Met,
}

/// What happened to entries that took slices.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    deletes: u64,
    revokes: u64,
    txns: u64,
    /// The rest of it was lost half-way.
    crashes: u64,
}

fn options() -> Options {
    Options {
        quota_bytes: None,
        compaction_hash_rows_max: u64::MAX,
        ..Options::default()
    }
}

fn page_options() -> page::Options {
    page::Options {
        create: true,
        resident_bytes_max: 40 * 4096,
        ..page::Options::default()
    }
}

impl Machine {
    fn new() -> Machine {
        let file = SimFile::new();
        let opened = Pages::open(Arc::new(file.clone()), page_options()).unwrap();
        Machine {
            file,
            store: Store::create(opened.pages, options()),
            index: 0,
            tail: Vec::new(),
            misses: 0,
            crashes: false,
            met: Met::default(),
        }
    }

    fn fetch(&mut self, miss: &Miss) {
        assert!(!miss.is_empty());
        self.misses += 1;
        if let Some(job) = self.store.pages_mut().fetch_job(miss) {
            self.store.pages_mut().fetch_done(job.run()).unwrap();
        }
    }

    fn settle<T>(&mut self, step: impl Fn(&mut Store) -> Result<T, Miss>) -> T {
        loop {
            match step(&mut self.store) {
                Ok(done) => return done,
                Err(miss) => self.fetch(&miss),
            }
        }
    }

    fn apply_at(&mut self, index: u64, entry: &InternalRaftRequest) -> Applied {
        let slice = [1, 2, 3, usize::MAX][index as usize % 4];
        let mut in_slices = 0;
        loop {
            let before = (self.store.revision(), self.store.applied());
            let at = (index, 1);
            match self.store.apply_slice(at, Some(entry), index, slice) {
                Ok(Some(applied)) => return applied,
                Ok(None) => {
                    let after = (self.store.revision(), self.store.applied());
                    assert_eq!(before, after);
                    assert!(self.store.is_applying());
                    in_slices += 1;
                    if in_slices == 1 {
                        self.met.deletes += u64::from(entry.delete_range.is_some());
                        self.met.revokes += u64::from(entry.lease_revoke.is_some());
                        self.met.txns += u64::from(entry.txn.is_some());
                    }
                    self.store.pages_mut().evict_some();
                    if in_slices == 1 + index % 7 && std::mem::take(&mut self.crashes) {
                        self.met.crashes += 1;
                        self.restart();
                    }
                }
                Err(ApplyError::Miss(miss)) => {
                    let after = (self.store.revision(), self.store.applied());
                    assert_eq!(before, after);
                    self.fetch(&miss);
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    fn apply(&mut self, entry: InternalRaftRequest, planned: bool) -> Applied {
        let mut missing = Miss::default();
        if planned {
            self.store.plan(&entry, &mut missing);
        }
        while !missing.is_empty() {
            self.fetch(&missing);
            missing.pages.clear();
            self.store.plan(&entry, &mut missing);
        }
        let index = self.index + 1;
        let applied = self.apply_at(index, &entry);
        self.index = index;
        self.tail.push((index, entry, applied.clone()));
        applied
    }

    fn checkpoint(&mut self) {
        let log = LogMark {
            position: Bytes::copy_from_slice(&self.index.to_le_bytes()),
            first_needed_segment: self.index,
            restarts: false,
        };
        let job = self.store.begin_checkpoint(log).unwrap();
        self.store.pages_mut().checkpoint_done(job.run().unwrap());
        self.tail.clear();
    }

    /// Starts again from the last checkpoint and replays the rest: with the same answers.
    fn restart(&mut self) {
        let opened = Pages::open(Arc::new(self.file.clone()), page_options()).unwrap();
        let first = self.tail.first().map_or(self.index + 1, |first| first.0);
        let index = first - 1;
        self.store = match opened.meta {
            Some(meta) => Store::open(opened.pages, &meta, options()).unwrap(),
            None => Store::create(opened.pages, options()),
        };
        assert_eq!(self.store.applied().0, index);
        for (index, entry, applied) in std::mem::take(&mut self.tail) {
            let again = self.apply_at(index, &entry);
            assert_eq!(again.response, applied.response);
            assert_eq!(again.revision, applied.revision);
            self.tail.push((index, entry, applied));
        }
    }

    fn compact_fully(&mut self) {
        while self.settle(|store| store.compaction_step(7)) != CompactionProgress::Idle {}
        assert!(!self.store.compaction_pending());
    }

    fn range_bytes(&mut self, request: &RangeRequest) -> Result<Vec<u8>, RequestError> {
        let header = ResponseHeader {
            revision: self.store.revision(),
            ..ResponseHeader::default()
        };
        self.settle(|store| {
            let mut out = vec![7];
            let done = store.range_encoded(request, &header, &mut out);
            if done.as_ref().map_or(true, |done| done.is_err()) {
                assert_eq!(out, [7]);
            }
            Ok(done?.map(|()| out.split_off(1)))
        })
    }
}

fn compare_reads(machine: &mut Machine, model: &Model, requests: &mut Requests) {
    for _ in 0..2 {
        let request = requests.range();
        let expected = model.range(&request);
        let typed = machine.settle(|store| store.range(&request));
        assert_eq!(typed, expected, "{request:?}");
        let bytes = machine.range_bytes(&request);
        assert_eq!(bytes, expected.map(|response| response.encode_to_vec()));
    }
}

/// The same bytes piece by piece, while the store goes on.
fn compare_pieces(machine: &mut Machine, requests: &mut Requests, model: &mut Model) {
    let request = requests.range();
    let header = ResponseHeader::default();
    let job = machine.store.range_job(&request, &header);
    let whole = machine.settle(|store| {
        let mut out = Vec::new();
        Ok(store
            .range_encoded(&request, &header, &mut out)?
            .map(|()| out))
    });
    let mut job = match job {
        Ok(job) => job,
        Err(error) => return assert_eq!(whole, Err(error)),
    };
    let entry = InternalRaftRequest {
        put: Some(requests.put()),
        ..InternalRaftRequest::default()
    };
    let expected = model.apply(&entry);
    assert_eq!(machine.apply(entry, false).response, expected);
    let len = loop {
        match job.measure(&machine.store, 3) {
            Ok(done) => {
                if let Some(len) = done.unwrap() {
                    break len;
                }
            }
            Err(miss) => machine.fetch(&miss),
        }
    };
    let mut out = Vec::new();
    loop {
        match job.emit(&machine.store, 2, &mut out) {
            Ok(ended) if ended.unwrap() => break,
            Ok(_) => {}
            Err(miss) => machine.fetch(&miss),
        }
    }
    assert_eq!(Ok(out), whole, "{request:?}");
    assert_eq!(len, whole.unwrap().len() as u64);
}

fn compare_hash(machine: &mut Machine, model: &Model, revision: i64) {
    let mut job = machine.store.hash_kv(revision);
    let hash = loop {
        let step = job.step(&machine.store, 5);
        match step {
            Ok(Some(done)) => break done,
            Ok(None) => {}
            Err(miss) => machine.fetch(&miss),
        }
    };
    let hash = hash.map(|hash| (hash.hash, hash.compact_revision));
    assert_eq!(hash, model.hash_kv(revision), "HashKV({revision})");
}

/// Watches everything with previous values, from where it was before a restart.
struct Watcher {
    stream: u64,
    /// The next revision to see.
    next: i64,
}

impl Watcher {
    fn open(&mut self, machine: &mut Machine) {
        self.stream += 1;
        self.next = self.next.max(machine.store.compacted());
        let hub = machine.store.hub_mut();
        hub.open_stream(StreamKey(self.stream), 1, 0, 0);
        let create = WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: self.next,
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        hub.create(StreamKey(self.stream), &create, Permission::Granted, 0);
    }

    fn compare(&mut self, machine: &mut Machine, model: &Model) {
        loop {
            let more = machine.settle(|store| store.watch_catch_up(20));
            let mut out = Vec::new();
            machine.store.hub_mut().take_out(&mut out);
            for out in &out {
                let response = WatchResponse::decode(out.message()).unwrap();
                assert!(!response.canceled, "{response:?}");
                self.compare_events(model, &response.events);
            }
            if !more {
                break;
            }
        }
        assert_eq!(self.next, model.revision + 1);
    }

    fn compare_events(&mut self, model: &Model, mut events: &[proto::mvccpb::Event]) {
        while let Some(first) = events.first() {
            let revision = first.kv.as_ref().unwrap().mod_revision;
            let expected = model.log.range(self.next..).next().unwrap();
            assert_eq!(revision, *expected.0);
            assert!(
                events.len() >= expected.1.len(),
                "a revision is never split"
            );
            let (these, later) = events.split_at(expected.1.len());
            for (event, row) in these.iter().zip(expected.1) {
                let mut kv = row.kv.clone();
                kv.mod_revision = revision;
                assert_eq!(event.kv.as_ref(), Some(&kv));
                assert_eq!(event.r#type, i32::from(row.tombstone));
                // Nothing is looked up for a key that the revision created, be it after a deletion in the same one.
                let is_new = !row.tombstone && kv.create_revision == revision;
                let before = model.value_at(&row.key, revision - 1);
                let before = before.filter(|_| !is_new);
                assert_eq!(event.prev_kv, before, "{kv:?}");
            }
            self.next = revision + 1;
            events = later;
        }
        if events.is_empty() {
            let pending = model.log.range(self.next..).next();
            self.next = pending.map_or(model.revision + 1, |(&revision, _)| revision);
        }
    }
}

fn run(seed: u64, steps: usize) -> Met {
    eprintln!("seed {seed}");
    let mut requests = Requests {
        random: Random(seed),
        revision: 1,
        compacted: -1,
    };
    let mut machine = Machine::new();
    let mut model = Model::new();
    let mut watcher = Watcher { stream: 0, next: 2 };
    watcher.open(&mut machine);
    for _ in 0..steps {
        let entry = requests.entry();
        let expected = model.apply(&entry);
        let planned = requests.random.chance(50);
        let compacts = entry.compaction.is_some();
        let text = format!("{entry:?}");
        machine.crashes = requests.random.chance(25);
        let crashes = machine.met.crashes;
        let applied = machine.apply(entry, planned);
        machine.crashes = false;
        assert_eq!(applied.response, expected, "seed {seed}: {text}");
        if machine.met.crashes > crashes {
            watcher.open(&mut machine);
        }
        assert_eq!(machine.store.revision(), model.revision);
        assert_eq!(machine.store.compacted(), model.compacted);
        (requests.revision, requests.compacted) = (model.revision, model.compacted);
        compare_reads(&mut machine, &model, &mut requests);
        watcher.compare(&mut machine, &model);
        match requests.random.below(60) {
            0 => machine.checkpoint(),
            1 => {
                machine.restart();
                // From some way back, as a client that was cut off.
                watcher.next -= requests.random.below(30).min(watcher.next as u64 - 2) as i64;
                watcher.open(&mut machine);
                // Before a compaction can overtake it.
                watcher.compare(&mut machine, &model);
            }
            7..=10 => compare_pieces(&mut machine, &mut requests, &mut model),
            2..=5 => {
                machine.settle(|store| store.compaction_step(3));
            }
            6 => {
                machine.compact_fully();
                compare_hash(&mut machine, &model, 0);
                // The compacted revision itself has a remembered hash: `store_answers` covers it.
                let from = model.compacted.max(0) + 1;
                let width = (model.revision + 1 - from) as u64;
                if width > 0 {
                    let revision = from + requests.random.below(width) as i64;
                    compare_hash(&mut machine, &model, revision);
                }
            }
            _ => {}
        }
        if compacts && requests.random.chance(50) {
            machine.compact_fully();
        }
    }
    machine.compact_fully();
    compare_hash(&mut machine, &model, 0);
    compare_rows(&mut machine, &model);
    assert!(machine.misses > 0, "restarts leave nothing resident");
    eprintln!(
        "revision {}, {} misses, {} synchronous loads",
        model.revision,
        machine.misses,
        machine.store.pages().sync_loads()
    );
    machine.met
}

/// After a finished compaction the rows are exactly the ones that etcd would keep.
fn compare_rows(machine: &mut Machine, model: &Model) {
    use engine::watch::Position;
    let from = Position { main: 0, sub: 0 };
    let rows = machine.settle(|store| {
        let mut rows = Vec::new();
        store.visit_rows(from, &mut |at, event| {
            rows.push(((at.main, at.sub), event.kv.key.to_vec()));
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(rows)
    });
    let expected: Vec<_> = model
        .rows
        .iter()
        .map(|(at, row)| (*at, row.key.clone()))
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn random_requests_are_answered_as_by_the_model() {
    let met: Vec<Met> = (1..=5).map(|seed| run(seed * 0x9e37_79b9, 700)).collect();
    for of in [
        |met: &Met| met.deletes,
        |met: &Met| met.revokes,
        |met: &Met| met.txns,
        |met: &Met| met.crashes,
    ] {
        assert!(met.iter().map(of).sum::<u64>() > 5, "{met:?}");
    }
}

#[test]
#[ignore = "minutes"]
fn many_random_requests_are_answered_as_by_the_model() {
    for seed in 100..=200 {
        run(seed * 0x9e37_79b9, 1500);
    }
}

#[test]
fn responses_of_reads_in_the_log_are_the_same() {
    let mut machine = Machine::new();
    let entry = InternalRaftRequest {
        range: Some(Box::new(RangeRequest {
            key: Bytes::from_static(b"a"),
            ..RangeRequest::default()
        })),
        ..InternalRaftRequest::default()
    };
    let applied = machine.apply(entry, true);
    assert!(matches!(applied.response, Ok(Response::Range(_))));
}
