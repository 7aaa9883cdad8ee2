//! From a page file and a log directory to a member, whatever the two are made of: files here, memory in the simulator.
//!
//! In: the page file, the log's directory, and a [`Plan`] of everything that is configured or drawn by chance. Out: a
//! [`Member`] that has done nothing yet. What the page file and the log say of each other is checked before either is
//! believed.

use super::{alone, Failure};
use crate::{
    identity::{self, Founding},
    member::{self, Member},
};
use engine::{
    page::{Opened, Options as PageOptions, PageFile, Pages},
    store::{self, Store},
    wal::{
        self, driver::LogFiles, Expect, FileOp, Identity, LogDir, LogPosition, Mark, Recovered,
        SegmentId, TermHistory, Wal, Walked, Write,
    },
    watch,
};
use prost::Message;
use proto::raftpb::{ConfChange, ConfChangeType, Entry, EntryType, HardState};
use std::{io, sync::Arc};

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

pub struct Assembled {
    pub member: Member,
    pub ids: Identity,
    /// The data directory was empty.
    pub new: bool,
    /// Lines that an operator may want to read.
    pub notes: Vec<String>,
}

/// Opens the member whose page file and log these are; `originate` says where it comes from if both are new.
pub fn open<M, F>(
    plan: Plan<M>,
    file: Arc<dyn PageFile>,
    log: &dyn LogMedium,
    originate: F,
) -> Result<Assembled, Failure>
where
    M: FnOnce(Identity) -> Result<member::Config, Failure>,
    F: FnOnce() -> Result<Origin, Failure>,
{
    open_with(plan, file, log, originate, None)
}

/// As [`open`], but a member that has data becomes the only one of its cluster. The URLs are its own, in case the cluster
/// does not know it yet.
pub fn open_alone<M, F>(
    plan: Plan<M>,
    file: Arc<dyn PageFile>,
    log: &dyn LogMedium,
    originate: F,
    peer_urls: &[String],
) -> Result<Assembled, Failure>
where
    M: FnOnce(Identity) -> Result<member::Config, Failure>,
    F: FnOnce() -> Result<Origin, Failure>,
{
    open_with(plan, file, log, originate, Some(peer_urls))
}

fn open_with<M, F>(
    plan: Plan<M>,
    file: Arc<dyn PageFile>,
    log: &dyn LogMedium,
    originate: F,
    alone: Option<&[String]>,
) -> Result<Assembled, Failure>
where
    M: FnOnce(Identity) -> Result<member::Config, Failure>,
    F: FnOnce() -> Result<Origin, Failure>,
{
    let path = file.name();
    let log_path = plan.wal.directory.display().to_string();
    let mut notes = Vec::new();
    let opened = Pages::open(file, plan.pages)?;
    if let Some(reason) = &opened.report.fell_back {
        notes.push(format!(
            "{path}: fell back to the older meta page: {reason}"
        ));
    }
    let known = opened.meta.is_some();
    let mut store = open_store(opened, plan.store)?;
    let expect = match known {
        true => expectation(&store, &path)?,
        false => Expect::default(),
    };
    let mut recovered = wal::recover_while(log, expect, |walked| {
        if alone.is_none() {
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
    // The first batch of a log says whose it is; it may hold no entry where a member joined.
    let origin = match !known && recovered.tail.identity().is_none() {
        true => Some(originate()?),
        false => None,
    };
    let ids = match (&origin, recovered.tail.identity()) {
        (Some(origin), _) => origin.identity(),
        (None, Some(found)) => found,
        (None, None) => {
            return Err(format!(
                "{path} needs a log that is not in {log_path}: put the log's directory back, or start with an empty data \
                 directory"
            )
            .into())
        }
    };
    refuse_other_cluster(&store, ids, &path, &log_path)?;
    store.hub_mut().set_identity(watch::Identity {
        cluster_id: ids.cluster_id,
        member_id: ids.member_id,
        raft_term: 0,
    });
    let config = (plan.member)(ids)?;
    let new = origin.is_some();
    let found = Found {
        origin,
        store,
        recovered,
    };
    let member = build(config, plan.wal, plan.raft, found, log, alone)?;
    Ok(Assembled {
        member,
        ids,
        new,
        notes,
    })
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

/// Opens the store that the meta page names, or an empty one.
fn open_store(opened: Opened, options: store::Options) -> Result<Store, Failure> {
    Ok(match &opened.meta {
        Some(meta) => Store::open(opened.pages, meta, options)?,
        None => Store::create(opened.pages, options),
    })
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
    })
}

/// What page file and log hold.
struct Found {
    /// If they hold nothing.
    origin: Option<Origin>,
    store: Store,
    recovered: Recovered,
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
        origin,
        store,
        recovered,
    } = found;
    let new = origin.is_some();
    let ids = Identity {
        cluster_id: config.cluster_id,
        member_id: config.member_id,
    };
    let path = wal_config.directory.display().to_string();
    let mut wal = Wal::new(wal_config, ids, recovered.tail)?;
    let mut initial = match origin {
        Some(origin) => {
            let (hard_state, entries) = match origin {
                Origin::Founding(founding) => first_entries(&founding),
                Origin::Joining(_) => Default::default(),
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
