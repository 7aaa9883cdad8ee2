//! The store: the replicated state machine of a member, over trees of pages.
//!
//! In: committed entries ([`Store::apply`]), reads ([`Store::range`], [`Store::txn_read_only`]), slices of background
//! work ([`Store::compaction_step`], [`hash::HashJob`]). Out: responses, watch events, pages that are missing.
//!
//! Invariants:
//! * Apply is deterministic: the same entries give the same trees on every member, whatever was resident, whoever
//!   waits, however far compaction got. Time and quota never decide what is written.
//! * A step either completes or changes nothing and returns the pages it needs ([`Miss`]). Requests are evaluated into
//!   a [`Batch`](crate::mvcc::batch::Batch) first, the pages of its writes are planned, then it is written. Only what
//!   is about very many keys takes several steps, with nothing in between ([`Store::apply_slice`]).
//! * A refused request changes nothing, and still advances the applied index.
//! * An entry that this version does not understand stops the member ([`FatalError`]): skipping it would make this
//!   member differ from those that understand it.

use crate::error::RequestError;
use crate::lease::{self, Lessor};
use crate::mvcc::batch::Batch;
use crate::mvcc::read::Reader;
use crate::mvcc::write::Scratch;
use crate::mvcc::Trees;
use crate::page::{Miss, Pages, Relocation};
use crate::tree::Relocator;
use crate::watch::{self, WatchHub};
use proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse};
use proto::raftpb::ConfState;
use std::fmt;

mod apply;
pub(crate) mod buckets;
pub mod compaction;
pub mod decode;
mod defragment;
pub mod fuzzing;
pub mod hash;
pub mod install;
mod large_write;
mod leases;
pub mod members;
pub mod meta;
mod outgoing;
mod plan;
pub mod quota;
mod read_job;
mod relocation;
mod replay;
pub mod results;
pub mod settings;
mod txn;
pub mod validate;
mod watching;
mod whole_hash;
pub mod wrap;

pub use apply::{Applied, Response};
pub use compaction::CompactionProgress;
pub use decode::{decode_internal_request, decode_txn, DecodeError, Payload};
pub use members::MemberChange;
pub use outgoing::Outgoing;
pub use read_job::{RangeJob, ReadJob};
pub use settings::ClusterVersion;
pub use whole_hash::WholeHashJob;

/// Configuration of this member. What differs between members must not change what an entry does, except where etcd
/// has it so (the lease minimum, which is stored).
#[derive(Clone, Debug)]
pub struct Options {
    /// `--quota-backend-bytes`; `None` for unlimited.
    pub quota_bytes: Option<u64>,
    pub lease: lease::Config,
    pub watch: watch::Config,
    /// Whether checkpointed remaining TTLs are stored below cluster version 3.6; from there on they always are.
    pub lease_checkpoint_persist: bool,
    /// `--max-learners`.
    pub learners_max: usize,
    /// A compaction that leaves at most this many older rows computes its hash at once; a longer one only when it is
    /// asked for in time. `u64::MAX` for `--experimental-compact-hash-check-enabled`.
    pub compaction_hash_rows_max: u64,
    /// How pages are moved to keep checkpoints in long pieces.
    pub relocation: Relocation,
}

/// Default of [`Options::compaction_hash_rows_max`]: about a millisecond of background work.
pub const COMPACTION_HASH_ROWS: u64 = 10_000;

/// For tools and tests: see [`watch::Config`]'s default.
impl Default for Options {
    fn default() -> Options {
        Options::new(lease::Config::default(), watch::Config::default())
    }
}

impl Options {
    pub fn new(lease: lease::Config, watch: watch::Config) -> Options {
        Options {
            quota_bytes: Some(quota::QUOTA_DEFAULT_BYTES),
            lease,
            watch,
            lease_checkpoint_persist: false,
            learners_max: 1,
            compaction_hash_rows_max: COMPACTION_HASH_ROWS,
            relocation: Relocation::default(),
        }
    }
}

/// An entry that must stop the member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FatalError {
    /// The entry has no operation that this version knows.
    NoOperation { index: u64 },
}

impl fmt::Display for FatalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FatalError::NoOperation { index } => write!(
                f,
                "log entry {index} has no operation that this version knows: upgrade this member before it goes on"
            ),
        }
    }
}

impl std::error::Error for FatalError {}

/// Why an entry was not applied. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyError {
    /// Apply again when the pages are there.
    Miss(Miss),
    Fatal(FatalError),
}

impl From<Miss> for ApplyError {
    fn from(miss: Miss) -> ApplyError {
        ApplyError::Miss(miss)
    }
}

/// Pages stay resident within a step, and a planned write finds all of its own.
const PLANNED: &str = "planned pages stay resident within a step";

/// Revision of a store that nothing was written to.
const REVISION_FIRST: i64 = 1;

pub struct Store {
    pages: Pages,
    trees: Trees,
    options: Options,
    /// Newest revision; 1 in a new store.
    revision: i64,
    /// Reads below are refused; -1 before the first compaction.
    compacted: i64,
    applied_index: u64,
    applied_term: u64,
    conf_state: ConfState,
    log: meta::LogMark,
    settings: settings::Settings,
    lessor: Lessor,
    hub: WatchHub,
    compactor: compaction::Compactor,
    results: results::Results,
    large_write: Option<large_write::LargeWrite>,
    relocator: Relocator,
    /// Whether a row was written since the last checkpoint began: then the right edge of `rows` is dirty, hence in
    /// memory, and need not be planned for.
    edge_is_dirty: bool,
    scratch: Scratch,
}

impl Store {
    /// An empty store.
    pub fn create(pages: Pages, options: Options) -> Store {
        let lessor = Lessor::new(options.lease.clone());
        let hub = WatchHub::new(options.watch.clone(), REVISION_FIRST);
        Store {
            pages,
            trees: Trees::default(),
            relocator: Relocator::new(options.relocation),
            options,
            revision: REVISION_FIRST,
            compacted: -1,
            applied_index: 0,
            applied_term: 0,
            conf_state: ConfState::default(),
            log: meta::LogMark::default(),
            settings: settings::Settings::default(),
            lessor,
            hub,
            compactor: compaction::Compactor::default(),
            results: results::Results::default(),
            large_write: None,
            edge_is_dirty: false,
            scratch: Scratch::default(),
        }
    }

    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// For fetches, and for the end of checkpoints. They begin with [`Store::begin_checkpoint`].
    pub fn pages_mut(&mut self) -> &mut Pages {
        &mut self.pages
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// For what can change while the process runs, such as the quota.
    pub fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// -1 before the first compaction.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Index and term of the last applied entry.
    pub fn applied(&self) -> (u64, u64) {
        (self.applied_index, self.applied_term)
    }

    /// The running hash over everything up to this entry; `None` if it is not applied, or its hash is not known (any more).
    pub fn result_hash(&self, index: u64) -> Option<u64> {
        self.results.at(index, self.applied_index)
    }

    /// The last entry of each former era whose hash is kept, and the hash (see [`results`]).
    pub fn closed_result_hashes(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.results.closed()
    }

    pub fn lessor(&self) -> &Lessor {
        &self.lessor
    }

    pub fn lessor_mut(&mut self) -> &mut Lessor {
        &mut self.lessor
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader {
            pages: &self.pages,
            trees: &self.trees,
            revision: self.revision,
            compacted: self.compacted,
        }
    }

    /// Answers a range as a message; its header has only the revision.
    pub fn range(
        &self,
        request: &RangeRequest,
    ) -> Result<Result<RangeResponse, RequestError>, Miss> {
        let response = self.reader().range(request, None)?;
        Ok(response.map(|response| RangeResponse {
            header: Some(self.header()),
            ..response
        }))
    }

    /// Appends the encoded `RangeResponse` to `out`. After a miss or an error `out` is as it was.
    pub fn range_encoded(
        &self,
        request: &RangeRequest,
        header: &ResponseHeader,
        out: &mut Vec<u8>,
    ) -> Result<Result<(), RequestError>, Miss> {
        self.reader().range_encoded(request, header, out)
    }

    /// Answers a transaction that has only ranges, or no operation at all.
    pub fn txn_read_only(
        &self,
        txn: &TxnRequest,
    ) -> Result<Result<TxnResponse, RequestError>, Miss> {
        let mut run = txn::TxnRun::default();
        let mut batch = Batch::new(self.revision + 1);
        let mut keys_left = usize::MAX;
        let response = run.go_on(self, txn, &mut batch, &mut keys_left)?;
        debug_assert!(
            batch.is_empty(),
            "a writing transaction goes through the log"
        );
        Ok(response.map(|response| response.expect("without a bound nothing is left")))
    }

    /// Whether a request of this cost must be refused before it is proposed.
    pub fn over_quota(&self, cost: u64) -> bool {
        match self.options.quota_bytes {
            Some(quota) if cost > 0 => self.pages.file_bytes().saturating_add(cost) >= quota,
            _ => false,
        }
    }

    /// A header as operations inside the store see it: the caller adds ids and term.
    fn header(&self) -> ResponseHeader {
        header(self.revision)
    }
}

fn header(revision: i64) -> ResponseHeader {
    ResponseHeader {
        revision,
        ..ResponseHeader::default()
    }
}
