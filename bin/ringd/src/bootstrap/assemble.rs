//! From a page file and a log directory to a member, whatever the two are made of: files here, memory in the simulator.
//!
//! In: the page file, the log's directory, and a [`Plan`] of everything that is configured or drawn by chance. Out: a
//! [`Member`] that has done nothing yet. What the page file and the log say of each other is checked before either is
//! believed.

use super::{
    alone,
    refetch::{self, Damage, Kept, Trouble},
    Failure,
};
use crate::{
    identity::{self, Founding},
    member::{self, Member},
    promises::{sync_parent, PromiseFile, Promises, RealPromises},
};
use engine::{
    page::{is_disk_full, Options as PageOptions, PageFile, Pages, RealFile},
    store::{self, Store},
    wal::{
        self, driver::LogFiles, Expect, FileOp, Identity, LogDir, LogPosition, Mark, Recovered,
        SegmentId, TermHistory, Wal, Walked, Write,
    },
    watch,
};
use prost::Message;
use proto::raftpb::{ConfChange, ConfChangeType, Entry, EntryType, HardState};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Sets of damaged files that are kept; with so many there, no more are made.
const ASIDE_MAX: usize = 4;

/// Pages that the replay at start changes at most, in bytes: as many as may be changed in memory at any time. The rest of
/// a log that holds more is applied while the first ones are written back.
const REPLAYED_BYTES_MAX: u64 = 240 << 20;

/// A log directory that is written as well.
pub trait LogMedium: LogDir {
    /// Carries out a change of the directory.
    fn run(&self, op: &FileOp) -> io::Result<()>;
    /// Writes a batch; it is durable when this returns.
    fn write(&self, write: &Write) -> io::Result<()>;
}

impl LogMedium for LogFiles {
    fn run(&self, op: &FileOp) -> io::Result<()> {
        LogFiles::run(self, op)
    }

    fn write(&self, write: &Write) -> io::Result<()> {
        self.write_inline(write)
    }
}

/// What a member keeps its state on.
pub trait Disk {
    /// Opens the page file, or lays out a new one.
    fn pages(&self) -> io::Result<Arc<dyn PageFile>>;
    fn log(&self) -> &dyn LogMedium;
    fn promises(&self) -> Arc<dyn PromiseFile>;
    /// Puts page file and log out of the way, durably, under the names that are returned. What is not there is no error.
    fn set_aside(&self) -> io::Result<Vec<String>>;
}

/// Files in the member's directory.
pub struct RealDisk {
    pages: PathBuf,
    log: Arc<LogFiles>,
    promises: Arc<RealPromises>,
}

impl RealDisk {
    /// The paths are those of the page file and of the promises.
    pub fn new(pages: &Path, log: Arc<LogFiles>, promises: &Path) -> RealDisk {
        RealDisk {
            pages: pages.to_owned(),
            log,
            promises: Arc::new(RealPromises::new(promises)),
        }
    }

    fn pages_aside(&self, name: &str) -> PathBuf {
        let mut aside = self.pages.as_os_str().to_owned();
        aside.push(format!(".{name}"));
        PathBuf::from(aside)
    }
}

impl Disk for RealDisk {
    fn pages(&self) -> io::Result<Arc<dyn PageFile>> {
        let file = RealFile::open_or_create(&self.pages).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.pages.display()))
        })?;
        Ok(Arc::new(file))
    }

    fn log(&self) -> &dyn LogMedium {
        &*self.log
    }

    fn promises(&self) -> Arc<dyn PromiseFile> {
        self.promises.clone()
    }

    fn set_aside(&self) -> io::Result<Vec<String>> {
        let names = (1..=ASIDE_MAX).map(|number| format!("damaged-{number}"));
        let is_free = |name: &String| {
            !self.pages_aside(name).exists() && !self.log.path().join(name).exists()
        };
        let name = names.clone().find(is_free).ok_or_else(|| {
            let last = self.pages_aside(&format!("damaged-{ASIDE_MAX}"));
            io::Error::other(format!(
                "{} and others before it are there already: check the device, and remove them",
                last.display()
            ))
        })?;
        let log = self.log.set_aside(&name)?;
        let pages = self.pages_aside(&name);
        match std::fs::rename(&self.pages, &pages) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => sync_parent(&self.pages)?,
        }
        Ok(vec![pages.display().to_string(), log.display().to_string()])
    }
}

/// How a member is put together. What depends on its identity is asked for once that is known.
pub struct Plan<M> {
    pub pages: PageOptions,
    /// Without the watch hub's identity.
    pub store: store::Options,
    pub wal: wal::Config,
    /// Without the node's id.
    pub raft: raft::Config,
    pub member: M,
}

/// Where the member of an empty data directory comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// It founds a cluster, with others that compute the same.
    Founding(Founding),
    /// It joins a cluster that knows it already, and learns everything else from the leader.
    Joining(Identity),
}

impl Origin {
    fn identity(&self) -> Identity {
        match self {
            Origin::Founding(founding) => Identity {
                cluster_id: founding.cluster_id,
                member_id: founding.local_id,
            },
            Origin::Joining(identity) => *identity,
        }
    }
}

/// How a member comes to be that has no data.
enum Beginning {
    New(Origin),
    /// It is a member that lost what it had, and can have promised something up to this term.
    Refetching(Identity, u64),
}

impl Beginning {
    fn identity(&self) -> Identity {
        match self {
            Beginning::New(origin) => origin.identity(),
            Beginning::Refetching(identity, _) => *identity,
        }
    }
}

pub struct Assembled {
    pub member: Member,
    pub ids: Identity,
    /// The data directory was empty.
    pub new: bool,
    /// How often the member was started by now; none if that could not be written down.
    pub boot: Option<u64>,
    /// Lines that an operator may want to read.
    pub notes: Vec<String>,
}

/// Opens the member whose page file and log these are; `originate` says where it comes from if both are new.
pub fn open<M, F>(plan: Plan<M>, disk: &dyn Disk, originate: F) -> Result<Assembled, Failure>
where
    M: FnOnce(Identity) -> Result<member::Config, Failure>,
    F: FnOnce() -> Result<Origin, Failure>,
{
    open_with(plan, disk, originate, None)
}

/// As [`open`], but a member that has data becomes the only one of its cluster. The URLs are its own, in case the cluster
/// does not know it yet.
pub fn open_alone<M, F>(
    plan: Plan<M>,
    disk: &dyn Disk,
    originate: F,
    peer_urls: &[String],
) -> Result<Assembled, Failure>
where
    M: FnOnce(Identity) -> Result<member::Config, Failure>,
    F: FnOnce() -> Result<Origin, Failure>,
{
    open_with(plan, disk, originate, Some(peer_urls))
}

fn open_with<M, F>(
    plan: Plan<M>,
    disk: &dyn Disk,
    originate: F,
    alone: Option<&[String]>,
) -> Result<Assembled, Failure>
where
    M: FnOnce(Identity) -> Result<member::Config, Failure>,
    F: FnOnce() -> Result<Origin, Failure>,
{
    let log_path = plan.wal.directory.display().to_string();
    let mut notes = Vec::new();
    let (files, kept) = read_or_empty(&plan, disk, alone.is_some(), &mut notes)?;
    let Files {
        mut store,
        recovered,
        known,
        path,
    } = files;
    // The first batch of a log says whose it is; it may hold no entry where a member joined.
    let beginning = match (known || recovered.tail.identity().is_some(), kept.known()) {
        (true, _) => None,
        (false, Some(promises)) => Some(refetching(&promises)),
        (false, None) => Some(Beginning::New(originate()?)),
    };
    let ids = match (&beginning, recovered.tail.identity()) {
        (Some(beginning), _) => beginning.identity(),
        (None, Some(found)) => found,
        (None, None) => return Err(no_log(&path, &log_path).into()),
    };
    refuse_other_cluster(&store, ids, &path, &log_path)?;
    refuse_other_promises(&kept, ids, &*disk.promises())?;
    store.hub_mut().set_identity(watch::Identity {
        cluster_id: ids.cluster_id,
        member_id: ids.member_id,
        raft_term: 0,
    });
    let config = (plan.member)(ids)?;
    let new = matches!(beginning, Some(Beginning::New(_)));
    let found = Found {
        beginning,
        store,
        recovered,
        lost_until: kept.refetch().map(|refetch| refetch.until),
    };
    let mut member = build(config, plan.wal, plan.raft, found, disk.log(), alone)?;
    let boot = keep_promises(&mut member, ids, kept, disk.promises(), &mut notes)?;
    Ok(Assembled {
        member,
        ids,
        new,
        boot,
        notes,
    })
}

/// What the files hold; without anything in them, if they were damaged and the member may fetch its data again.
fn read_or_empty<M>(
    plan: &Plan<M>,
    disk: &dyn Disk,
    alone: bool,
    notes: &mut Vec<String>,
) -> Result<(Files, Kept), Failure> {
    let mut kept = Kept::read(&*disk.promises())?;
    if let (true, Some(_)) = (alone, kept.refetch()) {
        return Err(format!(
            "{} says that this member was fetching again what it had lost, so that it may lack what the cluster \
             acknowledged: use --force-new-cluster with the data of another member, or restore a snapshot",
            disk.promises().name()
        )
        .into());
    }
    if let Some(promises) = kept.known() {
        if promises.refetch.is_some_and(|refetch| !refetch.emptied) {
            kept = Kept::Known(refetch::empty(disk, promises, notes)?);
        }
    }
    let is_refetching = kept.refetch().is_some();
    let damage = match read(plan, disk, alone, notes) {
        Ok(files) if files.is_empty() && !is_refetching => match kept.known() {
            None => return Ok((files, kept)),
            Some(_) => all_lost(&files, plan, disk),
        },
        Ok(files) => return Ok((files, kept)),
        Err(Trouble::Damage(damage)) if !alone => damage,
        Err(trouble) => return Err(trouble.into()),
    };
    let promises = refetch::begin(disk, kept, damage, notes)?;
    let files = read(plan, disk, alone, notes).map_err(Failure::from)?;
    Ok((files, Kept::Known(promises)))
}

/// Page file and log, opened.
struct Files {
    store: Store,
    recovered: Recovered,
    /// The page file has a checkpoint.
    known: bool,
    path: String,
}

impl Files {
    fn is_empty(&self) -> bool {
        !self.known && self.recovered.tail.identity().is_none()
    }
}

/// `alone`: what the log says to be committed is not what counts.
fn read<M>(
    plan: &Plan<M>,
    disk: &dyn Disk,
    alone: bool,
    notes: &mut Vec<String>,
) -> Result<Files, Trouble> {
    let file = disk.pages().map_err(Failure::from)?;
    let path = file.name();
    let opened = Pages::open(file, plan.pages.clone())?;
    if let Some(reason) = &opened.report.fell_back {
        notes.push(format!(
            "{path}: fell back to the older meta page: {reason}"
        ));
    }
    let known = opened.meta.is_some();
    let mut store = match &opened.meta {
        Some(meta) => Store::open(opened.pages, meta, plan.store.clone())?,
        None => Store::create(opened.pages, plan.store.clone()),
    };
    let expect = match known {
        true => expectation(&store, &path)?,
        false => Expect::default(),
    };
    let mut recovered = wal::recover_while(disk.log(), expect, |walked| {
        if !alone {
            replay(&mut store, &walked);
        }
    })?;
    let (applied, _) = store.applied();
    recovered.entries.retain(|entry| entry.index() > applied);
    notes.append(&mut recovered.notes);
    if let wal::Report::TornTail { .. } = &recovered.report {
        notes.push(format!(
            "the log ended in an unfinished write, which was cut off: {:?}",
            recovered.report
        ));
    }
    if known && recovered.tail.identity().is_none() {
        let advice = no_log(&path, &plan.wal.directory.display().to_string());
        let what = advice.clone();
        return Err(Trouble::Damage(Damage { what, advice }));
    }
    Ok(Files {
        store,
        recovered,
        known,
        path,
    })
}

fn no_log(path: &str, log_path: &str) -> String {
    format!(
        "{path} needs a log that is not in {log_path}: put the log's directory back, or start with an empty data directory"
    )
}

/// Neither page file nor log holds anything, but the promises name a member that had something there.
fn all_lost<M>(files: &Files, plan: &Plan<M>, disk: &dyn Disk) -> Damage {
    let promises = disk.promises().name();
    let what = format!(
        "{} and the log in {} hold nothing, but {promises} says that a member had its data there",
        files.path,
        plan.wal.directory.display()
    );
    let advice = format!(
        "{what}: put both back, or remove what is left of the data directory if this is to become a new member"
    );
    Damage { what, advice }
}

/// A member that begins anew, under the identity that it had.
fn refetching(promises: &Promises) -> Beginning {
    let ids = Identity {
        cluster_id: promises.cluster_id,
        member_id: promises.member_id,
    };
    Beginning::Refetching(ids, promises.refetch.map_or(0, |refetch| refetch.until))
}

fn refuse_other_promises(
    kept: &Kept,
    ids: Identity,
    file: &dyn PromiseFile,
) -> Result<(), Failure> {
    match kept.known() {
        Some(kept) if (kept.cluster_id, kept.member_id) != (ids.cluster_id, ids.member_id) => {
            Err(format!(
                "{} belongs to member {:x} of cluster {:x}, the log to member {:x} of cluster {:x}: put both back from the \
                 same copy",
                file.name(),
                kept.member_id,
                kept.cluster_id,
                ids.member_id,
                ids.cluster_id
            )
            .into())
        }
        _ => Ok(()),
    }
}

/// Has the member keep its promises in view, and what is written of them true from the start. The answer is the number of
/// this start, if that is durable.
fn keep_promises(
    member: &mut Member,
    ids: Identity,
    kept: Kept,
    file: Arc<dyn PromiseFile>,
    notes: &mut Vec<String>,
) -> Result<Option<u64>, Failure> {
    let voters = &member.node().configuration().voters.incoming.ids;
    if let Kept::Unreadable(why) = &kept {
        if !member.may_write_inline() {
            return Err(format!(
                "{why}; nothing else says whether this member may vote: remove it from the cluster and add it again with \
                 an empty data directory"
            )
            .into());
        }
        notes.push(format!("{why}; it is written anew"));
    }
    let before = kept.known().unwrap_or_default();
    let mut promises = Promises {
        cluster_id: ids.cluster_id,
        member_id: ids.member_id,
        ..before
    };
    if !voters.as_slice().is_empty() {
        promises.voters = voters.as_slice().len() as u32;
        promises.is_voter = voters.contains(ids.member_id);
    }
    if !member.node().is_refetching() {
        promises.refetch = None;
    }
    promises.boots += 1;
    let promises = promises.ahead_of(member.node().term());
    let durable = match (file.replace(&promises.encode()), kept.known()) {
        (Ok(()), _) => promises,
        // A restart needs no room: it is tried again, and what was written before holds until then.
        (Err(error), Some(before)) if is_disk_full(&error) => before,
        (Err(error), _) => return Err(refetch::unwritable(&*file, error)),
    };
    member.set_promises(file, durable);
    Ok((durable.boots == promises.boots).then_some(durable.boots))
}

/// Applies what the log holds, and says itself to be committed, beyond the pages. Nothing but memory changes.
fn replay(store: &mut Store, walked: &Walked<'_>) {
    let (applied, _) = store.applied();
    // Pages that came from another member and a log that was not yet told do not follow one another.
    if store.log_mark().restarts || walked.start.is_some_and(|(index, _)| index > applied) {
        return;
    }
    let committed = |entry: &Entry| entry.index() <= walked.commit;
    let committed = walked.entries.partition_point(committed);
    let (committed, others) = walked.entries.split_at(committed);
    store.replay(committed, REPLAYED_BYTES_MAX);
    store.read_ahead(others);
}

/// Pages of one cluster beside the log of another, as far as the members tell.
///
/// A member that joined lately may have applied the others' entries without its own. But then the only member that it
/// knows founded the cluster, or others were removed.
pub(super) fn refuse_other_cluster(
    store: &Store,
    ids: Identity,
    path: &str,
    log_path: &str,
) -> Result<(), Failure> {
    let Identity {
        cluster_id,
        member_id,
    } = ids;
    let known: Vec<u64> = store.members().map(|member| member.id).collect();
    let is_none_of_them = !known.contains(&member_id) && !store.is_removed_member(member_id);
    let has_history = store.removed_members().next().is_some();
    let founded_by_it = identity::cluster_id(&known) == cluster_id;
    if known.len() == 1 && is_none_of_them && !has_history && !founded_by_it {
        return Err(format!(
            "the log in {log_path} belongs to another cluster: its member {member_id:x} of cluster {cluster_id:x} is none of \
             the members in {path}"
        )
        .into());
    }
    Ok(())
}

/// What the meta page claims of the log.
fn expectation(store: &Store, path: &str) -> Result<Expect, Failure> {
    let mark = store.log_mark();
    let position: &[u8; LogPosition::BYTES] = mark.position[..]
        .try_into()
        .map_err(|_| format!("{path}: the meta page's log position is malformed"))?;
    Ok(Expect {
        identity: None,
        claim: Some(LogPosition::from_bytes(position)),
        first_needed: Some(SegmentId(mark.first_needed_segment)),
        applied: store.applied().0,
        // Other members may be behind and want older entries.
        skips_older: store.members().nth(1).is_none(),
    })
}

/// What page file and log hold.
struct Found {
    /// If they hold nothing.
    beginning: Option<Beginning>,
    store: Store,
    recovered: Recovered,
    /// The last term of promises that may be lost.
    lost_until: Option<u64>,
}

fn build(
    config: member::Config,
    wal_config: wal::Config,
    mut raft_config: raft::Config,
    found: Found,
    log: &dyn LogMedium,
    alone: Option<&[String]>,
) -> Result<Member, Failure> {
    let Found {
        beginning,
        store,
        recovered,
        lost_until,
    } = found;
    let new = beginning.is_some();
    let ids = Identity {
        cluster_id: config.cluster_id,
        member_id: config.member_id,
    };
    let path = wal_config.directory.display().to_string();
    let mut wal = Wal::new(wal_config, ids, recovered.tail)?;
    let mut initial = match beginning {
        Some(beginning) => {
            let (hard_state, entries) = match beginning {
                Beginning::New(Origin::Founding(founding)) => first_entries(&founding),
                Beginning::New(Origin::Joining(_)) => Default::default(),
                Beginning::Refetching(_, until) => (term_after(until), Vec::new()),
            };
            write_now(&mut wal, log, &path, &entries, &hard_state)?;
            raft::Initial {
                hard_state,
                entries,
                ..Default::default()
            }
        }
        None if store.log_mark().restarts && recovered.start != Some(store.applied()) => {
            // The pages are a snapshot, and the log was not yet told.
            let (index, term) = store.applied();
            wal.append_mark(&Mark::Start { index, term })?;
            let hard_state = recovered.hard_state;
            write_now(&mut wal, log, &path, &[], &hard_state)?;
            raft::Initial {
                hard_state,
                start: (index, term),
                ..Default::default()
            }
        }
        None => recovered_log(
            recovered.hard_state,
            recovered.entries,
            recovered.last,
            &recovered.history,
            wal.first_index(),
            store.applied(),
        ),
    };
    initial.conf_state = store.conf_state().clone();
    (initial.applied, _) = store.applied();
    initial.lost_until = lost_until;
    if let (Some(peer_urls), false) = (alone, new) {
        let changes = alone::leave_alone(ids.member_id, peer_urls, &store, &mut initial)?;
        if !changes.is_empty() {
            write_now(&mut wal, log, &path, &changes, &initial.hard_state)?;
        }
    }
    raft_config.id = ids.member_id;
    let node = raft::Node::new(raft_config, initial)?;
    Ok(Member::new(config, node, wal, store))
}

/// With a later term than any leader's that this member can have promised something, the others elect a new one.
fn term_after(until: u64) -> HardState {
    HardState {
        term: Some(until + 1),
        vote: Some(0),
        commit: Some(0),
    }
}

/// What Raft is told of a log that was read back. Entries that are applied stay on disk, where followers that are behind
/// get them from, as far as their terms are known.
fn recovered_log(
    hard_state: HardState,
    mut entries: Vec<Entry>,
    last: Option<Entry>,
    history: &TermHistory,
    first_index: u64,
    (applied, applied_term): (u64, u64),
) -> raft::Initial {
    let (origin, origin_term) = history.origin;
    if entries.is_empty() {
        // Raft wants the end of the log.
        entries.extend(last);
    }
    let first = entries.first().map_or(0, |entry| entry.index());
    let readable = origin < applied && origin + 1 >= first_index && first > origin;
    if !readable {
        entries.retain(|entry| entry.index() > applied);
        return raft::Initial {
            hard_state,
            start: (applied, applied_term),
            entries,
            ..Default::default()
        };
    }
    let older = history.runs.iter().filter(|run| run.0 < first);
    raft::Initial {
        hard_state,
        start: (origin, origin_term),
        terms: older
            .map(|(first, term)| raft::TermRun {
                first: *first,
                term: *term,
            })
            .collect(),
        entries,
        ..Default::default()
    }
}

/// The log of a new cluster begins with one membership entry per founder, alike on all of them.
fn first_entries(founding: &Founding) -> (HardState, Vec<Entry>) {
    let entries: Vec<Entry> = founding
        .members
        .iter()
        .enumerate()
        .map(|(place, founder)| {
            let urls: Vec<&str> = founder.peer_urls.iter().map(|url| url.as_str()).collect();
            let context = serde_json::json!({
                "id": founder.id,
                "peerURLs": urls,
                "name": founder.name,
            });
            let kind = ConfChangeType::ConfChangeAddNode;
            change_entry(1, place as u64 + 1, kind, founder.id, Some(context))
        })
        .collect();
    let state = HardState {
        term: Some(1),
        vote: Some(0),
        commit: Some(entries.len() as u64),
    };
    (state, entries)
}

/// A membership change as it stands in the log.
pub(super) fn change_entry(
    term: u64,
    index: u64,
    kind: ConfChangeType,
    member: u64,
    context: Option<serde_json::Value>,
) -> Entry {
    let mut change = ConfChange {
        id: Some(0),
        node_id: Some(member),
        context: context.map(|context| context.to_string().into_bytes().into()),
        ..Default::default()
    };
    change.set_type(kind);
    let mut entry = Entry {
        term: Some(term),
        index: Some(index),
        data: Some(change.encode_to_vec().into()),
        ..Default::default()
    };
    entry.set_type(EntryType::EntryConfChange);
    entry
}

/// Appends and waits: before the server runs there is nobody to keep waiting.
pub(super) fn write_now(
    wal: &mut Wal,
    log: &dyn LogMedium,
    path: &str,
    entries: &[Entry],
    state: &HardState,
) -> Result<(), Failure> {
    let ticket = wal.append(entries, Some(state))?;
    while wal.durable() < ticket {
        let mut moved = false;
        while let Some(op) = wal.next_file_op() {
            let result = log.run(&op);
            wal.file_op_done(op.tag, result, 0)?;
            moved = true;
        }
        while let Some(write) = wal.next_write(0) {
            let result = log.write(&write);
            wal.write_done(write.tag, result)?;
            wal.reuse(write.buf);
            moved = true;
        }
        if !moved {
            return Err(format!("the log in {path} cannot be written").into());
        }
    }
    Ok(())
}
