//! A store's page file out of a database of etcd's.
//!
//! The database is spooled to a file first, because its buckets lie in it in no useful order. Then it is walked through, once,
//! every page verified before it is used, and every entry held against what etcd can have written; what is sound goes into a
//! new page file, as the same changes would have put it there. Nothing of that counts before [`Import::finish`].
//!
//! [`Import::advance`] does a bounded slice of it. Memory is bounded by a page and an entry of the database, the changed pages
//! of the new file between two checkpoints, and the ids of the leases.

use super::backend::{parse_row_key, Facts, KEY};
use super::bbolt::read::{Bucket, Database, Image, ReadError, Walk};
use super::v2_store;
use crate::checkpoint::blank_meta_page;
use crate::mvcc::kv::Kv;
use crate::mvcc::write::{self, NewVersion, Prior, Scratch};
use crate::mvcc::{Revision, Trees};
use crate::page::{CheckpointJob, Miss, Options, PageFile, Pages, Progress, PAGE_BYTES};
use crate::store::meta::{self, Contained};
use crate::store::settings;
use bytes::Bytes;
use prost::Message;
use proto::leasepb::Lease;
use proto::raftpb::Snapshot;
use std::collections::{BTreeSet, VecDeque};
use std::{fmt, io, sync::Arc};

/// Entries, and bytes of them, that one slice takes at most.
const SLICE_ENTRIES: usize = 1000;
const SLICE_BYTES: usize = 1 << 20;
/// Steps of a checkpoint, of 256 KiB each, in one slice.
const SLICE_STEPS: usize = 4;
/// Changed pages of the new file are written back at this size.
const CHANGED_BYTES_MAX: u64 = 32 << 20;
/// Pages of the new file that are kept readable.
const RESIDENT_BYTES_MAX: u64 = 32 << 20;
/// No entry of the log, and hence no row, can be longer.
const ROW_BYTES_MAX: usize = 64 << 20;
/// Tries to bring in the pages of one key.
const ROUNDS_MAX: usize = 64;

/// Why a database is not taken over.
#[derive(Debug)]
pub enum ImportError {
    Read(ReadError),
    /// It is sound and holds what this server cannot go on with, or not what it should.
    Refused(String),
    /// Writing failed, of the database itself or of the new page file.
    Write(io::Error),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportError::Read(error) => error.fmt(f),
            ImportError::Refused(why) => write!(f, "the database cannot be taken over: {why}"),
            ImportError::Write(error) => {
                write!(f, "writing what came of the database failed: {error}")
            }
        }
    }
}

impl std::error::Error for ImportError {}

impl From<ReadError> for ImportError {
    fn from(error: ReadError) -> ImportError {
        ImportError::Read(error)
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::Refused(why.into()))
}

/// The database as it came in.
struct Spool {
    file: Arc<dyn PageFile>,
    bytes: u64,
}

impl Image for Spool {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.file.read_at(offset, out)? == out.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A database that is coming in, and then what becomes of it.
pub struct Import {
    spool: Spool,
    /// The last bytes, which are not in the file, and how many are.
    tail: Vec<u8>,
    spilled: u64,
    target: Arc<dyn PageFile>,
    snapshot: Snapshot,
    conversion: Option<Box<Conversion>>,
    content: Option<Bytes>,
}

impl Import {
    /// `spool` and `target` are empty files of their own; the latter becomes the page file. `snapshot` is the message that
    /// the database belongs to.
    pub fn new(spool: Arc<dyn PageFile>, target: Arc<dyn PageFile>, snapshot: Snapshot) -> Import {
        Import {
            spool: Spool {
                file: spool,
                bytes: 0,
            },
            tail: Vec::new(),
            spilled: 0,
            target,
            snapshot,
            conversion: None,
            content: None,
        }
    }

    /// Bytes of the database taken in.
    pub fn offset(&self) -> u64 {
        self.spool.bytes
    }

    /// Takes the next bytes of the database.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        self.tail.extend_from_slice(bytes);
        self.spool.bytes += bytes.len() as u64;
        let whole = self.tail.len() / PAGE_BYTES * PAGE_BYTES;
        self.spill(whole)
    }

    /// Writes the first bytes of what is not in the file yet: whole pages, as everything that is written.
    fn spill(&mut self, count: usize) -> Result<(), ImportError> {
        if count > 0 {
            let written = self.spool.file.write_at(self.spilled, &self.tail[..count]);
            written.map_err(ImportError::Write)?;
            self.tail.drain(..count);
            self.spilled += count as u64;
        }
        Ok(())
    }

    /// All bytes have come: what follows is [`Import::advance`] until [`Import::is_whole`].
    pub fn end(&mut self) -> Result<(), ImportError> {
        let whole = self.tail.len().next_multiple_of(PAGE_BYTES);
        self.tail.resize(whole, 0);
        self.spill(whole)?;
        let spool = Spool {
            file: self.spool.file.clone(),
            bytes: self.spool.bytes,
        };
        let conversion = Conversion::new(spool, self.target.clone())?;
        self.conversion = Some(Box::new(conversion));
        Ok(())
    }

    /// Whether there is work for [`Import::advance`].
    pub fn is_working(&self) -> bool {
        self.conversion.is_some() && !self.is_whole()
    }

    /// Whether the database is in the new page file, all of it.
    pub fn is_whole(&self) -> bool {
        self.content.is_some()
    }

    /// What the new file's checkpoint has beside its trees.
    pub fn content(&self) -> Option<&Bytes> {
        self.content.as_ref()
    }

    /// What the operator should know of it.
    pub fn notice(&self) -> Option<String> {
        let entries = self.conversion.as_ref()?.facts.auth_entries;
        (entries > 0).then(|| {
            format!(
                "{entries} users and roles of the snapshot were left out: this server has no authentication yet"
            )
        })
    }

    /// Does the next slice.
    pub fn advance(&mut self) -> Result<(), ImportError> {
        let Some(conversion) = self.conversion.as_mut().filter(|_| self.content.is_none()) else {
            return Ok(());
        };
        if conversion.advance(&self.snapshot)? {
            self.content = Some(conversion.content(&self.snapshot).into());
        }
        Ok(())
    }

    /// Writes the meta page with `content`. From then on the new file can be opened; the caller puts it into place.
    pub fn finish(self, content: &[u8]) -> Result<(), ImportError> {
        match self.conversion.filter(|_| self.content.is_some()) {
            Some(conversion) => conversion.finish(content),
            None => refused("the end of it is missing"),
        }
    }
}

/// What is walked through.
enum Stage {
    /// All buckets but the one of the rows.
    Small(Option<(Bucket, Walk)>),
    Rows(Walk),
    /// The last pages are written back.
    Saving,
}

struct Conversion {
    database: Database<Spool>,
    /// Buckets to come, the one of the rows last.
    buckets: VecDeque<Bucket>,
    stage: Stage,
    facts: Facts,
    leases: BTreeSet<i64>,
    revision: i64,
    last: Revision,
    pages: Pages,
    trees: Trees,
    job: Option<CheckpointJob>,
    scratch: Scratch,
    row: Vec<u8>,
}

impl Conversion {
    fn new(spool: Spool, target: Arc<dyn PageFile>) -> Result<Conversion, ImportError> {
        let mut database = Database::open(spool)?;
        let mut buckets: VecDeque<Bucket> = database.buckets()?.into();
        let rows = buckets.iter().position(|b| b.name == KEY.as_bytes());
        let Some(rows) = rows.and_then(|at| buckets.remove(at)) else {
            return refused("it is no database of etcd's: the bucket `key` is missing");
        };
        buckets.push_back(rows);
        let options = Options {
            create: true,
            resident_bytes_max: RESIDENT_BYTES_MAX,
            ..Options::default()
        };
        let opened = Pages::open(target, options).map_err(write_failed)?;
        Ok(Conversion {
            database,
            buckets,
            stage: Stage::Small(None),
            facts: Facts::new(),
            leases: BTreeSet::new(),
            revision: 1,
            last: Revision::default(),
            pages: opened.pages,
            trees: Trees::default(),
            job: None,
            scratch: Scratch::default(),
            row: Vec::new(),
        })
    }

    /// Does a slice; true if that was the last one.
    fn advance(&mut self, snapshot: &Snapshot) -> Result<bool, ImportError> {
        if self.job.is_some() {
            return self.save();
        }
        let is_walked = matches!(self.stage, Stage::Saving);
        if is_walked && self.pages.dirty_bytes() == 0 {
            return Ok(true);
        }
        if is_walked || self.pages.dirty_bytes() > CHANGED_BYTES_MAX {
            self.job = self.pages.begin_checkpoint(&self.trees.roots(), &[]);
            return Ok(false);
        }
        let (mut entries, mut bytes) = (0, 0);
        while entries < SLICE_ENTRIES && bytes < SLICE_BYTES {
            let Some(taken) = self.step(snapshot)? else {
                break;
            };
            entries += 1;
            bytes += taken;
        }
        self.pages.evict_some();
        Ok(false)
    }

    /// Writes changed pages back. A file without any, which a new store is, has nothing to write either.
    fn save(&mut self) -> Result<bool, ImportError> {
        for _ in 0..SLICE_STEPS {
            let Some(job) = &mut self.job else { break };
            let progress = job.step().map_err(ImportError::Write)?;
            if let Progress::Finished(done) = progress {
                self.pages.checkpoint_done(done);
                self.job = None;
            }
        }
        Ok(false)
    }

    /// Takes the next entry, and gives its size; none at the end of a stage.
    fn step(&mut self, snapshot: &Snapshot) -> Result<Option<usize>, ImportError> {
        let (is_row, bucket, walk) = match &mut self.stage {
            Stage::Saving => return Ok(None),
            Stage::Rows(walk) => (true, None, walk),
            Stage::Small(Some((bucket, walk))) => (false, Some(bucket), walk),
            Stage::Small(None) => {
                self.next_bucket(snapshot)?;
                return Ok(Some(0));
            }
        };
        let Some(entry) = walk.next(&mut self.database)? else {
            self.stage = match is_row {
                true => Stage::Saving,
                false => Stage::Small(None),
            };
            return Ok(Some(0));
        };
        let (offset, bytes) = (entry.offset, entry.key.len() + entry.value.len());
        let taken = match bucket {
            Some(bucket) if Facts::wants(&bucket.name) => {
                self.facts.take(&bucket.name, entry.key, entry.value)
            }
            Some(_) => {
                let lease = lease_of(entry.key, entry.value);
                match lease {
                    Some(lease) => {
                        self.leases.insert(lease.id);
                        let record = lease.encode_to_vec();
                        let (leases, pages) = (&mut self.trees.leases, &mut self.pages);
                        let put = leases.insert(pages, entry.key, &record, 1);
                        put.map_err(|miss| unreadable(&self.pages, &miss))?;
                        Ok(())
                    }
                    None => Err("a lease is malformed"),
                }
            }
            None => {
                let mut target = Target {
                    pages: &mut self.pages,
                    trees: &mut self.trees,
                    scratch: &mut self.scratch,
                    row: &mut self.row,
                    leases: &self.leases,
                    compacted: self.facts.compacted(),
                };
                match parse_row_key(entry.key).filter(|(at, _)| *at > self.last) {
                    Some((at, tombstone)) => {
                        self.last = at;
                        self.revision = self.revision.max(at.main);
                        target.put_row(at, tombstone, entry.value)?
                    }
                    None => Err("a row's key is no revision, or one twice"),
                }
            }
        };
        match taken {
            Ok(()) => Ok(Some(bytes)),
            Err(why) => Err(ReadError::Malformed { offset, why }.into()),
        }
    }

    fn next_bucket(&mut self, snapshot: &Snapshot) -> Result<(), ImportError> {
        let Some(bucket) = self.buckets.pop_front() else {
            self.stage = Stage::Saving;
            return Ok(());
        };
        let walk = Walk::new(&bucket);
        if !self.buckets.is_empty() {
            self.stage = Stage::Small(Some((bucket, walk)));
            return Ok(());
        }
        // Before the long part of the work it is known whether it is worth it.
        self.settle_facts(snapshot)?;
        for (key, value) in settings::records(&self.facts) {
            let (tree, pages) = (&mut self.trees.settings, &mut self.pages);
            let put = tree.insert(pages, &key, &value, 1);
            put.map_err(|miss| unreadable(&self.pages, &miss))?;
        }
        self.stage = Stage::Rows(walk);
        Ok(())
    }

    /// Holds the small buckets against the snapshot's message, and decides who the members are.
    fn settle_facts(&mut self, snapshot: &Snapshot) -> Result<(), ImportError> {
        let facts = &mut self.facts;
        if facts.auth_is_enabled {
            return refused(
                "authentication is enabled, and this server has none yet. Disable it (etcdctl auth disable) before a ringd \
                 member joins",
            );
        }
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        let (index, term) = (metadata.index(), metadata.term());
        let stated = facts.applied_term.filter(|stated| *stated != 0);
        if facts.applied_index != index || stated.is_some_and(|stated| stated != term) {
            return refused(format!(
                "it contains the log up to entry {} of term {stated:?}, and its message says {index} of term {term}",
                facts.applied_index
            ));
        }
        // Before 3.6 the database's own record of members is not kept up to date.
        if facts.storage_version.is_none() {
            let data = snapshot.data.as_deref().unwrap_or_default();
            let membership = match v2_store::decode(data) {
                Ok(membership) => membership,
                Err(why) => return refused(format!("the members in its message: {why}")),
            };
            let version = facts.membership.cluster_version;
            facts.membership = membership;
            let known = &mut facts.membership.cluster_version;
            *known = known.or(version);
        }
        let state = metadata.conf_state.unwrap_or_default();
        let is_joint = !state.voters_outgoing.is_empty() || !state.learners_next.is_empty();
        let mut ids: Vec<u64> = state
            .voters
            .iter()
            .chain(&state.learners)
            .copied()
            .collect();
        ids.sort_unstable();
        let members = &facts.membership.members;
        if is_joint || state.voters.is_empty() || !members.keys().eq(&ids) {
            return refused(format!(
                "Raft's configuration in its message has the members {ids:x?}, and the cluster {:x?}",
                members.keys().collect::<Vec<_>>()
            ));
        }
        Ok(())
    }

    fn content(&self, snapshot: &Snapshot) -> Vec<u8> {
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        let compacted = self.facts.compacted();
        let contained = Contained {
            applied_index: metadata.index(),
            applied_term: metadata.term(),
            revision: self.revision.max(compacted),
            conf_state: metadata.conf_state.unwrap_or_default(),
        };
        meta::imported(contained, compacted, self.facts.finished)
    }

    fn finish(mut self, content: &[u8]) -> Result<(), ImportError> {
        let roots = self.trees.roots();
        let job = self.pages.begin_checkpoint(&roots, content);
        let job = job.ok_or_else(|| ImportError::Refused("it is still being written".into()))?;
        let done = job.run().map_err(ImportError::Write)?;
        self.pages.checkpoint_done(done);
        // The checkpoints before know nothing of the log that the new file belongs to.
        let other = 1 - self.pages.completed.slot;
        let offset = u64::from(other) * PAGE_BYTES as u64;
        let blank = blank_meta_page(other);
        let file = &self.pages.file;
        file.write_meta(offset, &blank).map_err(ImportError::Write)
    }
}

fn lease_of(key: &[u8], value: &[u8]) -> Option<Lease> {
    let id = key.try_into().ok().map(i64::from_be_bytes)?;
    let lease = Lease::decode(value).ok()?;
    (lease.id == id && id != 0).then_some(lease)
}

fn write_failed(error: impl fmt::Display) -> ImportError {
    ImportError::Write(io::Error::other(error.to_string()))
}

fn unreadable(pages: &Pages, miss: &Miss) -> ImportError {
    match pages.load_error() {
        Some(error) => write_failed(error),
        None => write_failed(format_args!("pages {:?} cannot be read", miss.pages)),
    }
}

/// Where rows go.
struct Target<'c> {
    pages: &'c mut Pages,
    trees: &'c mut Trees,
    scratch: &'c mut Scratch,
    row: &'c mut Vec<u8>,
    leases: &'c BTreeSet<i64>,
    compacted: i64,
}

impl Target<'_> {
    /// Puts a row into the trees as the change would have done that it is the trace of.
    fn put_row(
        &mut self,
        at: Revision,
        tombstone: bool,
        value: &[u8],
    ) -> Result<Result<(), &'static str>, ImportError> {
        if value.len() > ROW_BYTES_MAX {
            return Ok(Err("a row is longer than 64 MiB"));
        }
        let Some(kv) = Kv::parse(value) else {
            return Ok(Err("a row is no key and value"));
        };
        self.row.clear();
        kv.encode(self.row);
        if self.row != value {
            return Ok(Err("a row is not written as etcd writes it"));
        }
        let prior = self.prior(kv.key)?;
        if let Err(why) = self.check_row(at, tombstone, &kv, &prior) {
            return Ok(Err(why));
        }
        let change = NewVersion {
            at,
            tombstone,
            kv,
            lease_before: prior.as_ref().map_or(0, |(head, _)| head.lease),
        };
        let (trees, pages) = (&mut *self.trees, &mut *self.pages);
        let written = write::write_change(trees, pages, &change, prior, self.scratch);
        written.map_err(|miss| unreadable(self.pages, &miss))?;
        if kv.lease != 0 && !self.leases.contains(&kv.lease) {
            // As at an etcd that opens the database: the key stays and belongs to no lease.
            let mut key = Vec::new();
            write::lease_key(kv.lease, kv.key, &mut key);
            let removed = self.trees.lease_keys.remove(self.pages, &key);
            removed.map_err(|miss| unreadable(self.pages, &miss))?;
        }
        Ok(Ok(()))
    }

    fn prior(&mut self, key: &[u8]) -> Result<Prior, ImportError> {
        for _ in 0..ROUNDS_MAX {
            let miss = match write::prior(self.trees, self.pages, key) {
                Ok(prior) => return Ok(prior),
                Err(miss) => miss,
            };
            if let Some(job) = self.pages.fetch_job(&miss) {
                let fetched = self.pages.fetch_done_keeping(job.run());
                fetched.map_err(write_failed)?;
            }
        }
        Err(write_failed("the new page file cannot be read"))
    }

    /// Holds a row against the one of the same key before it.
    fn check_row(
        &self,
        at: Revision,
        tombstone: bool,
        kv: &Kv<'_>,
        prior: &Prior,
    ) -> Result<(), &'static str> {
        let bare = Kv {
            key: kv.key,
            ..Kv::default()
        };
        if tombstone {
            let is_bare = *kv == bare && !kv.key.is_empty();
            return is_bare.then_some(()).ok_or("a tombstone holds a value");
        }
        if *kv == Kv::default() {
            return Ok(()); // the mark of a restore that raised the revision
        }
        if kv.key.is_empty() || kv.modified != at.main {
            return Err("a row is of another revision than its key says");
        }
        let follows = match prior {
            Some((head, _)) if !head.tombstone => {
                kv.create == head.create && kv.version == head.version + 1
            }
            None if self.compacted >= 0 => kv.create <= at.main && kv.create > 0 && kv.version > 0,
            _ => kv.create == at.main && kv.version == 1,
        };
        follows
            .then_some(())
            .ok_or("a row does not follow the one of its key before")
    }
}
