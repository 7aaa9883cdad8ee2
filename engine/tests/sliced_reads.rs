//! Reads in slices answer what the same reads in one go would have answered when they began, byte for byte: whatever is
//! written, compacted, checkpointed and evicted between the slices, and however small these are.

use bytes::Bytes;
use engine::error::RequestError;
use engine::page::{self, Miss, Pages, SimFile};
use engine::store::meta::LogMark;
use engine::store::{CompactionProgress, Options, ReadJob, Store};
use prost::Message;
use proto::etcdserverpb::{compare::TargetUnion, request_op::Request, *};
use std::sync::Arc;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % n
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

const KEYS: u64 = 20;

struct World {
    random: Random,
    store: Store,
    index: u64,
    /// Steps that missed pages.
    misses: u64,
    /// Jobs that a compaction overtook.
    overtaken: u64,
    /// Compactions that the present job has to expect: it begins again each time.
    compactions: u64,
}

/// The one read or the other.
#[derive(Clone, Debug)]
enum Read {
    Range(RangeRequest),
    Txn(TxnRequest),
}

impl World {
    fn new(seed: u64) -> World {
        let options_of_pages = page::Options {
            create: true,
            resident_bytes_max: 6 * 4096,
            ..page::Options::default()
        };
        let pages = Pages::open(Arc::new(SimFile::new()), options_of_pages).unwrap();
        let mut world = World {
            random: Random(seed),
            store: Store::create(pages.pages, Options::default()),
            index: 0,
            misses: 0,
            overtaken: 0,
            compactions: 0,
        };
        for _ in 0..150 {
            world.write();
        }
        world
    }

    fn fetch(&mut self, miss: &Miss) {
        assert!(!miss.is_empty());
        self.misses += 1;
        if let Some(job) = self.store.pages_mut().fetch_job(miss) {
            let done = job.run();
            self.store.pages_mut().fetch_done_keeping(done).unwrap();
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

    fn apply(&mut self, entry: &InternalRaftRequest) {
        self.index += 1;
        let index = self.index;
        self.settle(|store| match store.apply(index, 1, Some(entry), index) {
            Ok(_) => Ok(()),
            Err(engine::store::ApplyError::Miss(miss)) => Err(miss),
            Err(error) => panic!("{error:?}"),
        });
    }

    fn key(&mut self) -> Bytes {
        format!(
            "{}{:02}",
            self.random.pick(&["a/", "b/"]),
            self.random.below(KEYS)
        )
        .into()
    }

    fn write(&mut self) {
        let mut entry = InternalRaftRequest::default();
        let key = self.key();
        match self.random.below(10) {
            0 | 1 => {
                entry.delete_range = Some(DeleteRangeRequest {
                    key,
                    range_end: match self.random.chance(10) {
                        true => self.key(),
                        false => Bytes::new(),
                    },
                    ..Default::default()
                })
            }
            _ => {
                let len = self.random.pick(&[0, 1, 1, 2, 30, 3000]);
                entry.put = Some(PutRequest {
                    key,
                    value: vec![b'x'; len].into(),
                    ..Default::default()
                })
            }
        }
        self.apply(&entry);
    }

    fn compact(&mut self) {
        let from = self.store.compacted().max(0);
        let width = (self.store.revision() - from) as u64 + 1;
        let compaction = CompactionRequest {
            revision: from + self.random.below(width) as i64,
            physical: false,
        };
        self.apply(&InternalRaftRequest {
            compaction: Some(compaction),
            ..Default::default()
        });
        while self.settle(|store| store.compaction_step(7)) != CompactionProgress::Idle {}
    }

    /// Writes what changed, so that nothing of it must stay in memory.
    fn checkpoint(&mut self) {
        let log = LogMark {
            position: Bytes::copy_from_slice(&self.index.to_le_bytes()),
            first_needed_segment: self.index,
            restarts: false,
        };
        let job = self.store.begin_checkpoint(log).unwrap();
        self.store.pages_mut().checkpoint_done(job.run().unwrap());
    }

    /// Something that happens between two slices.
    fn disturb(&mut self) {
        match self.random.below(40) {
            0..=9 => self.write(),
            10 if self.compactions > 0 => {
                self.compactions -= 1;
                self.compact();
            }
            11..=13 => self.checkpoint(),
            14..=28 => {
                self.store.pages_mut().evict_some();
            }
            _ => {}
        }
    }

    fn header(&self) -> ResponseHeader {
        ResponseHeader {
            cluster_id: 11,
            member_id: 12,
            revision: self.store.revision(),
            raft_term: 13,
        }
    }

    /// In one go.
    fn whole(&mut self, read: &Read) -> Result<Vec<u8>, RequestError> {
        let header = self.header();
        self.settle(|store| match read {
            Read::Range(range) => {
                let mut out = Vec::new();
                let done = store.range_encoded(range, &header, &mut out)?;
                Ok(done.map(|()| out))
            }
            Read::Txn(txn) => Ok(store.txn_read_only(txn)?.map(|mut response| {
                response.header = Some(header);
                response.encode_to_vec()
            })),
        })
    }

    fn begin(&mut self, read: &Read) -> Option<ReadJob> {
        let header = self.header();
        self.settle(|store| match read {
            Read::Range(range) => store.large_range_job(range, &header, -1),
            Read::Txn(txn) => store.large_txn_job(txn, &header, -1),
        })
    }

    fn compare(&mut self, read: &Read, budget: usize) {
        self.compactions = self.random.below(3);
        let mut expected = self.whole(read);
        let Some(mut job) = self.begin(read) else {
            assert!(
                matches!(read, Read::Range(_)) && expected.is_err(),
                "{read:?}"
            );
            return;
        };
        let mut out = Vec::new();
        loop {
            let before = out.len();
            match job.step(&self.store, budget, &mut out) {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => break,
                Ok(Err(RequestError::Compacted)) => {
                    assert_eq!(out.len(), before);
                    self.overtaken += 1;
                    expected = self.whole(read);
                    out.clear();
                    if let Err(error) = job.restart(&self.store, &self.header()) {
                        return assert_eq!(expected, Err(error), "{read:?}");
                    }
                }
                Ok(Err(error)) => return assert_eq!(expected, Err(error), "{read:?}"),
                Err(miss) => {
                    assert_eq!(out.len(), before);
                    self.fetch(&miss);
                }
            }
            self.disturb();
        }
        assert_eq!(Ok(out), expected, "{read:?}");
    }

    fn range_end(&mut self) -> Bytes {
        match self.random.below(8) {
            0 => Bytes::new(),
            1 => self.key(),
            2 => Bytes::from_static(b"b"),
            _ => Bytes::from_static(b"\0"),
        }
    }

    fn range(&mut self, order: i32, target: i32, limit: i64) -> RangeRequest {
        let newest = self.store.revision() as u64;
        let filtered = self.random.chance(40);
        let mut filter = || match filtered && self.random.chance(50) {
            true => self.random.below(newest + 2) as i64,
            false => 0,
        };
        let filters = [filter(), filter(), filter(), filter()];
        RangeRequest {
            key: match self.random.chance(30) {
                true => self.key(),
                false => Bytes::from_static(b"a"),
            },
            range_end: self.range_end(),
            limit,
            revision: match self.random.chance(50) {
                true => 0,
                false => self.random.below(newest + 3) as i64 - 1,
            },
            sort_order: order,
            sort_target: target,
            keys_only: self.random.chance(30),
            count_only: self.random.chance(5),
            min_mod_revision: filters[0],
            max_mod_revision: filters[1],
            min_create_revision: filters[2],
            max_create_revision: filters[3],
            ..Default::default()
        }
    }

    fn condition(&mut self) -> Compare {
        let small = self.random.below(3) as i64;
        let revision = self.random.below(self.store.revision() as u64) as i64;
        let (target, union) = match self.random.below(5) {
            0 => (0, TargetUnion::Version(small)),
            1 => (1, TargetUnion::CreateRevision(revision)),
            2 => (2, TargetUnion::ModRevision(revision)),
            3 => (3, TargetUnion::Value(vec![b'x'; small as usize].into())),
            _ => (4, TargetUnion::Lease(0)),
        };
        Compare {
            result: self.random.below(4) as i32,
            target,
            key: self.key(),
            range_end: self.range_end(),
            target_union: Some(union),
        }
    }

    fn txn(&mut self) -> TxnRequest {
        let ops = |world: &mut World| {
            let count = world.random.below(4);
            let op = |_| {
                let (order, target) = (world.random.below(3), world.random.below(5));
                let limit = world.random.pick(&[0, 0, 1, 3]);
                let range = world.range(order as i32, target as i32, limit);
                RequestOp {
                    request: Some(Request::RequestRange(range)),
                }
            };
            (0..count).map(op).collect::<Vec<_>>()
        };
        let (success, failure) = (ops(self), ops(self));
        let compares = self.random.below(3);
        TxnRequest {
            compare: (0..compares).map(|_| self.condition()).collect(),
            success,
            failure,
        }
    }
}

#[test]
fn ranges_in_slices_are_ranges() {
    let (mut misses, mut overtaken) = (0, 0);
    for seed in 1..=6 {
        let mut world = World::new(seed);
        // An order that nobody knows is none; a target without an order sorts what the limit lets through.
        for order in [0, 1, 2, 9] {
            for target in 0..5 {
                for limit in [-1, 0, 1, 2, 5, 40, 1000] {
                    for _ in 0..3 {
                        let range = world.range(order, target, limit);
                        let budget = world.random.pick(&[0, 1, 2, 3, 10, 30, 1000]);
                        world.compare(&Read::Range(range), budget);
                    }
                }
            }
        }
        misses += world.misses;
        overtaken += world.overtaken;
    }
    eprintln!("{misses} misses, {overtaken} overtaken by a compaction");
    assert!(misses > 100 && overtaken > 10);
}

#[test]
fn transactions_in_slices_are_transactions() {
    let (mut misses, mut overtaken) = (0, 0);
    for seed in 1..=6 {
        let mut world = World::new(seed);
        for _ in 0..200 {
            let txn = world.txn();
            let budget = world.random.pick(&[0, 1, 2, 3, 10, 30, 1000]);
            world.compare(&Read::Txn(txn), budget);
        }
        misses += world.misses;
        overtaken += world.overtaken;
    }
    eprintln!("{misses} misses, {overtaken} overtaken by a compaction");
    assert!(misses > 100 && overtaken > 10);
}

/// What is read in slices, and what is not worth it.
#[test]
fn only_large_reads_go_in_slices() {
    let mut world = World::new(1);
    for n in 0..100 {
        world.apply(&InternalRaftRequest {
            put: Some(PutRequest {
                key: format!("k{n:02}").into(),
                ..Default::default()
            }),
            ..Default::default()
        });
    }
    let all = RangeRequest {
        key: Bytes::from_static(b"k"),
        range_end: Bytes::from_static(b"l"),
        ..Default::default()
    };
    let older = world.store.revision() - 50;
    let ranges = [
        (true, all.clone()),
        (
            false,
            RangeRequest {
                limit: 50,
                ..all.clone()
            },
        ),
        (
            true,
            RangeRequest {
                limit: 51,
                ..all.clone()
            },
        ),
        (
            true,
            RangeRequest {
                limit: 5,
                sort_order: 1,
                sort_target: 3,
                ..all.clone()
            },
        ),
        (
            false,
            RangeRequest {
                limit: 5,
                sort_order: 2,
                ..all.clone()
            },
        ),
        // What is sorted is only what the limit lets through.
        (
            false,
            RangeRequest {
                limit: 5,
                sort_target: 3,
                ..all.clone()
            },
        ),
        (
            true,
            RangeRequest {
                limit: 5,
                min_mod_revision: 3,
                ..all.clone()
            },
        ),
        (
            false,
            RangeRequest {
                count_only: true,
                ..all.clone()
            },
        ),
        // 5 and one more to look at, and 50 changes since to count.
        (
            true,
            RangeRequest {
                limit: 5,
                revision: older,
                ..all.clone()
            },
        ),
        (
            false,
            RangeRequest {
                count_only: true,
                revision: older + 2,
                ..all.clone()
            },
        ),
        (
            false,
            RangeRequest {
                range_end: Bytes::new(),
                ..all.clone()
            },
        ),
        (
            false,
            RangeRequest {
                range_end: Bytes::from_static(b"k5"),
                ..all.clone()
            },
        ),
        // Refused by whoever answers in one go.
        (
            false,
            RangeRequest {
                revision: 1_000_000,
                ..all.clone()
            },
        ),
    ];
    let header = ResponseHeader::default();
    for (expected, range) in ranges {
        let job = world.settle(|store| store.large_range_job(&range, &header, 50));
        assert_eq!(job.is_some(), expected, "{range:?}");
    }
    let half = RangeRequest { limit: 26, ..all };
    let op = RequestOp {
        request: Some(Request::RequestRange(half)),
    };
    for (expected, ops) in [(false, 1), (true, 2)] {
        let txn = TxnRequest {
            success: vec![op.clone(); ops],
            ..Default::default()
        };
        let job = world.settle(|store| store.large_txn_job(&txn, &header, 50));
        assert_eq!(job.is_some(), expected, "{ops}");
    }
}

/// For a release build: how long slices take over a million keys, and the same read in one go.
#[test]
#[ignore = "a measurement"]
fn how_long_slices_take() {
    use std::time::{Duration, Instant};
    const SLICE: (usize, usize) = (2, 128);
    let mut world = World::new(1);
    for first in 0..10_000 {
        let op = |n: u64| RequestOp {
            request: Some(Request::RequestPut(PutRequest {
                key: format!("k/{:08}", (n * 7_919) % 1_000_000).into(),
                value: format!("{:08}{}", (n * 104_729) % 1_000_000, "v".repeat(92)).into(),
                ..Default::default()
            })),
        };
        world.apply(&InternalRaftRequest {
            txn: Some(TxnRequest {
                success: (first * 100..first * 100 + 100).map(op).collect(),
                ..Default::default()
            }),
            ..Default::default()
        });
    }
    let older = world.store.revision();
    for _ in 0..1_000 {
        world.write();
    }
    let range = |sort_order, sort_target, limit| RangeRequest {
        key: Bytes::from_static(b"k"),
        range_end: Bytes::from_static(b"l"),
        sort_order,
        sort_target,
        limit,
        ..Default::default()
    };
    let kinds = [
        ("keys", range(0, 0, 0)),
        (
            "keys at an older revision",
            RangeRequest {
                revision: older,
                ..range(0, 0, 0)
            },
        ),
        (
            "filtered",
            RangeRequest {
                max_mod_revision: 5_000,
                ..range(0, 0, 0)
            },
        ),
        ("backwards", range(2, 0, 0)),
        ("by mod revision, descending", range(2, 3, 0)),
        ("by create revision, limit 1", range(2, 2, 1)),
        ("by value", range(1, 4, 0)),
        ("by value, limit 10", range(1, 4, 10)),
        (
            "by value, keys only",
            RangeRequest {
                keys_only: true,
                ..range(2, 4, 0)
            },
        ),
    ];
    for (name, range) in kinds {
        let read = Read::Range(range);
        let begun = Instant::now();
        let whole = world.whole(&read).unwrap();
        let at_once = begun.elapsed();
        let mut job = world.begin(&read).unwrap();
        let mut out = Vec::new();
        let mut slices: Vec<Duration> = Vec::new();
        let mut ended = false;
        while !ended {
            let (begun, before) = (Instant::now(), out.len());
            for _ in 0..SLICE.0 {
                ended = job.step(&world.store, SLICE.1, &mut out).unwrap().unwrap();
                if ended || out.len() - before > 1 << 20 {
                    break;
                }
            }
            slices.push(begun.elapsed());
        }
        assert!(out == whole);
        slices.sort();
        let at = |part: f64| slices[((slices.len() - 1) as f64 * part) as usize].as_micros();
        eprintln!(
            "{name}: at once {} ms; {} slices, {} ms together; median {} µs, 99% {} µs, longest {} µs",
            at_once.as_millis(),
            slices.len(),
            slices.iter().sum::<Duration>().as_millis(),
            at(0.5),
            at(0.99),
            at(1.0),
        );
    }
}
