//! A naive etcd in memory: the reference that servers and recordings are compared with.
//!
//! Written from the description of the API alone; it shares nothing with the engine but the message types. Every key has
//! the list of all its changes, every read walks them, nothing is indexed: slow and plain on purpose.
//!
//! Flow: [`Model::call`] takes one request at a time and answers as a single healthy member would, at once. Watch streams
//! ([`Model::watch`]) queue what the server must send. Time stands still unless the test moves it ([`Model::advance`]).

mod hash;
mod history;
mod lease;
mod maintenance;
mod txn;
mod validate;
mod watch;

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::etcdserverpb as pb;

pub use history::KeyRange;
pub use lease::MIN_TTL_S;
pub use txn::decode as decode_txn;

use history::History;

/// A refused request: gRPC code and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: i32,
    pub message: String,
}

pub(crate) fn refuse<T>(code: i32, message: &str) -> Result<T, Refusal> {
    Err(Refusal {
        code,
        message: message.to_owned(),
    })
}

pub(crate) fn compacted<T>() -> Result<T, Refusal> {
    refuse(11, "etcdserver: mvcc: required revision has been compacted")
}

pub(crate) fn future<T>() -> Result<T, Refusal> {
    refuse(
        11,
        "etcdserver: mvcc: required revision is a future revision",
    )
}

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    LeaseKeepAlive(pb::LeaseKeepAliveRequest),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    LeaseLeases(pb::LeaseLeasesRequest),
    HashKv(pb::HashKvRequest),
    Alarm(pb::AlarmRequest),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    LeaseKeepAlive(pb::LeaseKeepAliveResponse),
    LeaseTimeToLive(pb::LeaseTimeToLiveResponse),
    LeaseLeases(pb::LeaseLeasesResponse),
    HashKv(pb::HashKvResponse),
    Alarm(pb::AlarmResponse),
}

/// What stands in every header and what the server was started with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
    pub raft_term: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub txn_ops_max: usize,
    pub request_bytes_max: usize,
    /// Bytes of the database file at which writes are refused.
    pub quota_bytes: u64,
    /// The model has no file; this is how large it is taken to be.
    pub file_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            txn_ops_max: 128,
            request_bytes_max: 1_572_864,
            quota_bytes: 2 << 30,
            file_bytes: 0,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Model {
    identity: Identity,
    limits: Limits,
    now_ms: u64,
    history: History,
    leases: BTreeMap<i64, lease::Lease>,
    streams: BTreeMap<u64, watch::Stream>,
    /// (member, alarm type), in the order in which they were raised
    alarms: Vec<(u64, i32)>,
    /// HashKV at the newest compactions: (compaction revision, hash, compact revision before it).
    compaction_hashes: Vec<(i64, u32, i64)>,
}

impl Model {
    pub fn new(identity: Identity, limits: Limits) -> Self {
        Self {
            identity,
            limits,
            now_ms: 0,
            history: History::new(),
            leases: BTreeMap::new(),
            streams: BTreeMap::new(),
            alarms: Vec::new(),
            compaction_hashes: Vec::new(),
        }
    }

    pub fn revision(&self) -> i64 {
        self.history.revision
    }

    /// The last compacted revision, -1 if there was none.
    pub fn compacted(&self) -> i64 {
        self.history.compacted
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The term changes with a restart.
    pub fn set_term(&mut self, raft_term: u64) {
        self.identity.raft_term = raft_term;
    }

    /// Has compactions remove nothing, for a checker that needs all revisions. Hashes are not etcd's from then on.
    pub fn keep_history(&mut self) {
        self.history.keeps_all = true;
    }

    /// What a range would have answered when `revision` was the newest; no header.
    pub fn range_as_of(&self, r: &pb::RangeRequest, revision: i64) -> pb::RangeResponse {
        self.history.range(r, revision)
    }

    /// A restart forgets what is not durable: streams and remembered hashes.
    pub fn restart(&mut self) {
        self.streams.clear();
        self.compaction_hashes.clear();
    }

    pub fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    pub fn call(&mut self, request: &Request) -> Result<Response, Refusal> {
        Ok(match request {
            Request::Range(r) => Response::Range(self.range(r)?),
            Request::Put(r) => Response::Put(self.put(r)?),
            Request::DeleteRange(r) => Response::DeleteRange(self.delete_range(r)?),
            Request::Txn(r) => Response::Txn(self.txn(r)?),
            Request::Compact(r) => Response::Compact(self.compact(r)?),
            Request::LeaseGrant(r) => Response::LeaseGrant(self.lease_grant(r)?),
            Request::LeaseRevoke(r) => Response::LeaseRevoke(self.lease_revoke(r)?),
            Request::LeaseKeepAlive(r) => Response::LeaseKeepAlive(self.lease_keep_alive(r)),
            Request::LeaseTimeToLive(r) => Response::LeaseTimeToLive(self.lease_time_to_live(r)),
            Request::LeaseLeases(_) => Response::LeaseLeases(self.lease_leases()),
            Request::HashKv(r) => Response::HashKv(self.hash_kv(r)?),
            Request::Alarm(r) => Response::Alarm(self.alarm(r)?),
        })
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id: self.identity.cluster_id,
            member_id: self.identity.member_id,
            revision: self.history.revision,
            raft_term: self.identity.raft_term,
        })
    }

    fn range(&self, r: &pb::RangeRequest) -> Result<pb::RangeResponse, Refusal> {
        validate::range(r)?;
        let current = self.history.revision;
        if r.revision > current {
            return future();
        }
        if r.revision > 0 && r.revision < self.history.compacted {
            return compacted();
        }
        let mut response = self.history.range(r, current);
        response.header = self.header();
        Ok(response)
    }

    fn put(&mut self, r: &pb::PutRequest) -> Result<pb::PutResponse, Refusal> {
        self.check_quota(validate::put_cost(r))?;
        validate::put(r)?;
        self.check_size(&pb::InternalRaftRequest {
            put: Some(r.clone()),
            ..Default::default()
        })?;
        self.check_alarms(validate::put_cost(r))?;
        self.check_lease(r.lease)?;
        self.check_ignored(r)?;
        let main = self.history.revision + 1;
        let prev_kv = self.history.put(r, main);
        self.commit(main);
        Ok(pb::PutResponse {
            header: self.header(),
            prev_kv: prev_kv.filter(|_| r.prev_kv),
        })
    }

    fn check_lease(&self, id: i64) -> Result<(), Refusal> {
        if id == 0 || self.leases.contains_key(&id) {
            return Ok(());
        }
        lease::not_found()
    }

    fn check_ignored(&self, r: &pb::PutRequest) -> Result<(), Refusal> {
        if (r.ignore_value || r.ignore_lease) && self.history.latest(&r.key).is_none() {
            return refuse(3, "etcdserver: key not found");
        }
        Ok(())
    }

    fn delete_range(
        &mut self,
        r: &pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Refusal> {
        validate::delete_range(r)?;
        self.check_size(&pb::InternalRaftRequest {
            delete_range: Some(r.clone()),
            ..Default::default()
        })?;
        self.check_alarms(0)?;
        let main = self.history.revision + 1;
        let deleted = self
            .history
            .delete(&KeyRange::new(&r.key, &r.range_end), main);
        if !deleted.is_empty() {
            self.commit(main);
        }
        Ok(pb::DeleteRangeResponse {
            header: self.header(),
            deleted: deleted.len() as i64,
            prev_kvs: if r.prev_kv { deleted } else { Vec::new() },
        })
    }

    fn compact(&mut self, r: &pb::CompactionRequest) -> Result<pb::CompactionResponse, Refusal> {
        self.check_alarms(0)?;
        if r.revision <= self.history.compacted {
            return compacted();
        }
        if r.revision > self.history.revision {
            return future();
        }
        self.remember_hash(r.revision);
        self.history.compact(r.revision);
        Ok(pb::CompactionResponse {
            header: self.header(),
        })
    }

    /// Makes the changes of `main` the newest revision and tells the watchers.
    fn commit(&mut self, main: i64) {
        self.history.revision = main;
        self.publish(main);
    }

    /// The live keys with a lease, for the leases and for tests.
    pub fn keys_of_lease(&self, id: i64) -> Vec<Bytes> {
        self.history
            .live(&KeyRange::all(), self.history.revision)
            .into_iter()
            .filter(|kv| kv.lease == id)
            .map(|kv| kv.key)
            .collect()
    }

    pub fn lease_ids(&self) -> Vec<i64> {
        self.leases.keys().copied().collect()
    }
}
