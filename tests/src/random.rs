//! Random requests from a seed, biased towards the corners: few keys, so that they meet; revisions around the newest and
//! the compacted one; leases that exist, are gone, or never were.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request as Op;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::model::{Model, Request};

const TXN_DEPTH_MAX: u32 = 3;
const TXN_OPS_MAX: usize = 4;
/// So long that no lease ends during a test.
const TTL_S: std::ops::Range<i64> = 5_000..9_000;
const LEASE_IDS: std::ops::Range<i64> = 1..12;

/// The seed from `RINGD_SEED`, or else `otherwise`; printed, so that a failure can be run again.
pub fn seed(otherwise: u64) -> u64 {
    let seed = std::env::var("RINGD_SEED").map_or(otherwise, |text| {
        text.parse().expect("RINGD_SEED is a number")
    });
    println!("RINGD_SEED={seed}");
    seed
}

/// A number from the environment, for runs that are longer than CI's.
pub fn amount(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number"))
    })
}

pub struct Generator {
    pub rng: StdRng,
    /// Whether to ask for what a real etcd leaves open or dies of.
    pub strict: bool,
}

impl Generator {
    pub fn new(seed: u64, strict: bool) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            strict,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    pub fn request(&mut self, model: &Model) -> Request {
        match self.rng.random_range(0..100) {
            0..=34 => Request::Put(self.put(model)),
            35..=54 => Request::Range(self.range(model)),
            55..=63 => Request::DeleteRange(self.delete_range()),
            64..=81 => Request::Txn(self.txn(model, 0)),
            82..=84 => Request::Compact(pb::CompactionRequest {
                revision: self.compaction(model),
                physical: true,
            }),
            85..=88 => Request::LeaseGrant(pb::LeaseGrantRequest {
                ttl: self.rng.random_range(TTL_S),
                id: self.rng.random_range(LEASE_IDS),
            }),
            89..=91 => Request::LeaseRevoke(pb::LeaseRevokeRequest {
                id: self.rng.random_range(LEASE_IDS),
            }),
            92..=93 => Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest {
                id: self.rng.random_range(LEASE_IDS),
            }),
            94..=95 => Request::LeaseTimeToLive(pb::LeaseTimeToLiveRequest {
                id: self.rng.random_range(LEASE_IDS),
                keys: self.chance(80),
            }),
            96 => Request::LeaseLeases(pb::LeaseLeasesRequest {}),
            // 3.5.1 remembers no hashes and refuses the compacted revision itself.
            _ if !self.strict => Request::HashKv(pb::HashKvRequest { revision: 0 }),
            _ => Request::HashKv(pb::HashKvRequest {
                revision: self.revision(model),
            }),
        }
    }

    pub fn key(&mut self) -> Bytes {
        match self.rng.random_range(0..40) {
            0 => Bytes::from_static(b"\0"),
            1 => Bytes::from_static(b"\xff\xff"),
            2 => Bytes::from_static(b"b/"),
            3 => vec![b'L'; 300].into(),
            n => format!("{}/{:02}", ["a", "b", "c"][n % 3], n / 3).into(),
        }
    }

    /// An end for a range that starts at `key`: none, prefix, open, any key, reversed.
    pub fn range_end(&mut self, key: &Bytes) -> Bytes {
        match self.rng.random_range(0..10) {
            0..=3 => Bytes::new(),
            4..=5 => Bytes::from_static(b"\0"),
            6 => {
                let mut end = key.to_vec();
                *end.last_mut().expect("keys are not empty") |= 0x80;
                end.into()
            }
            7 => Bytes::from_static(b"\0\0"),
            _ => self.key(),
        }
    }

    fn value(&mut self) -> Bytes {
        let length = match self.rng.random_range(0..50) {
            0..=4 => 0,
            5..=44 => self.rng.random_range(1..40),
            45..=48 => self.rng.random_range(500..6_000),
            _ => self.rng.random_range(20_000..70_000),
        };
        let fill = self.rng.random_range(b'a'..=b'z');
        vec![fill; length].into()
    }

    /// Mostly a revision that can be read, sometimes one that cannot.
    pub fn revision(&mut self, model: &Model) -> i64 {
        let (current, oldest) = (model.revision(), model.compacted().max(1));
        match self.rng.random_range(0..20) {
            0..=11 => 0,
            12..=17 => self.rng.random_range(oldest..=current),
            18 => oldest - 1,
            _ => current + self.rng.random_range(0..3),
        }
    }

    fn compaction(&mut self, model: &Model) -> i64 {
        let (current, compacted) = (model.revision(), model.compacted());
        match self.rng.random_range(0..8) {
            0 => compacted,
            1 => current + 1,
            2 => current,
            _ => self
                .rng
                .random_range(compacted + 1..=current.max(compacted + 1)),
        }
    }

    fn lease(&mut self, model: &Model) -> i64 {
        let known = model.lease_ids();
        match self.rng.random_range(0..10) {
            0..=5 => 0,
            6 => self.rng.random_range(LEASE_IDS),
            _ => known.choose(&mut self.rng).copied().unwrap_or(0),
        }
    }

    fn put(&mut self, model: &Model) -> pb::PutRequest {
        let ignore_value = self.chance(6);
        let ignore_lease = self.chance(6);
        let keep_invalid = self.chance(2);
        pb::PutRequest {
            key: if keep_invalid {
                Bytes::new()
            } else {
                self.key()
            },
            value: if ignore_value && !keep_invalid {
                Bytes::new()
            } else {
                self.value()
            },
            lease: if ignore_lease && !keep_invalid {
                0
            } else {
                self.lease(model)
            },
            prev_kv: self.chance(40),
            ignore_value,
            ignore_lease,
        }
    }

    fn range(&mut self, model: &Model) -> pb::RangeRequest {
        let key = self.key();
        let range_end = self.range_end(&key);
        let mut filter = |percent| {
            if self.rng.random_range(0..100) < percent {
                self.rng.random_range(1..=model.revision())
            } else {
                0
            }
        };
        let filters = [filter(8), filter(8), filter(8), filter(8)];
        let sorted = self.strict && self.chance(30);
        pb::RangeRequest {
            key,
            range_end,
            limit: if self.chance(30) {
                self.rng.random_range(-1..6)
            } else {
                0
            },
            revision: self.revision(model),
            sort_order: if sorted || self.chance(10) {
                self.rng.random_range(0..3)
            } else {
                0
            },
            sort_target: if sorted {
                self.rng.random_range(0..5)
            } else {
                0
            },
            serializable: self.chance(30),
            keys_only: self.chance(15),
            count_only: self.chance(10),
            min_mod_revision: filters[0],
            max_mod_revision: filters[1],
            min_create_revision: filters[2],
            max_create_revision: filters[3],
        }
    }

    fn delete_range(&mut self) -> pb::DeleteRangeRequest {
        let key = self.key();
        let range_end = if self.chance(50) {
            Bytes::new()
        } else {
            self.range_end(&key)
        };
        pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.chance(40),
        }
    }

    fn compare(&mut self, model: &Model) -> pb::Compare {
        let key = self.key();
        let revision = self.rng.random_range(0..=model.revision());
        let (target, operand) = match self.rng.random_range(0..6) {
            0 => (0, Some(TargetUnion::Version(self.rng.random_range(0..3)))),
            1 => (1, Some(TargetUnion::CreateRevision(revision))),
            2 => (2, Some(TargetUnion::ModRevision(revision))),
            3 => (3, Some(TargetUnion::Value(self.value()))),
            4 => (4, Some(TargetUnion::Lease(self.lease(model)))),
            _ => (self.rng.random_range(0..5), None),
        };
        pb::Compare {
            result: self.rng.random_range(0..4),
            target,
            range_end: if self.chance(20) {
                self.range_end(&key)
            } else {
                Bytes::new()
            },
            key,
            target_union: operand,
        }
    }

    fn txn(&mut self, model: &Model, depth: u32) -> pb::TxnRequest {
        let compares = self.rng.random_range(0..3);
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare(model)).collect(),
            success: self.ops(model, depth),
            failure: self.ops(model, depth),
        }
    }

    fn ops(&mut self, model: &Model, depth: u32) -> Vec<pb::RequestOp> {
        let read_only = self.chance(20);
        (0..self.rng.random_range(0..=TXN_OPS_MAX))
            .map(|_| {
                let kind = if read_only {
                    9
                } else {
                    self.rng.random_range(0..10)
                };
                let op = match kind {
                    0..=4 => Op::RequestPut(self.put_in_txn(model)),
                    5..=6 => Op::RequestDeleteRange(self.delete_range()),
                    7 if depth < TXN_DEPTH_MAX => Op::RequestTxn(self.txn(model, depth + 1)),
                    _ => Op::RequestRange(self.range(model)),
                };
                pb::RequestOp { request: Some(op) }
            })
            .collect()
    }

    /// An earlier op may delete the key whose value or lease is to stay: etcd dies of that.
    fn put_in_txn(&mut self, model: &Model) -> pb::PutRequest {
        let mut put = self.put(model);
        if !self.strict {
            put.ignore_value = false;
            put.ignore_lease = false;
        }
        put
    }
}
