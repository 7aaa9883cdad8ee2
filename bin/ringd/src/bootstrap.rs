//! From a data directory to a member: the first start of a cluster, and every restart.
//!
//! The page file's meta page says what the store holds and which log it needs; the log says the rest. Neither is trusted
//! before it was verified from the device.

use crate::{
    config::{Config, Quota},
    identity::{self, Founding, SystemResolver},
    member::{self, Member},
};
use engine::{
    lease,
    page::{Opened, Options as PageOptions, Pages, RealFile},
    store::{self, Store},
    wal::{self, driver::LogFiles, Expect, Identity, LogPosition, Recovered, SegmentId, Wal},
    watch,
};
use prost::Message;
use proto::raftpb::{ConfChange, ConfChangeType, Entry, EntryType, HardState};
use std::{error::Error, path::Path, sync::Arc};

/// Name of the page file in the member's directory.
const PAGE_FILE: &str = "store.pages";
/// The server version that clients see: the etcd release whose behaviour this is.
pub const VERSION: &str = "3.5.33";
const CLUSTER_VERSION: &str = "3.5.0";
/// Recent log entries kept in memory.
const LOG_RING_BYTES_MAX: u64 = 16 << 20;
/// Share of the memory limit that clean pages may stay resident in, in percent.
const RESIDENT_PERCENT: u64 = 60;

/// What the start found, for the log.
pub struct Start {
    pub member: Member,
    pub files: Arc<LogFiles>,
    pub member_id: u64,
    pub cluster_id: u64,
    pub new: bool,
    /// Lines that an operator may want to read.
    pub notes: Vec<String>,
}

type Failure = Box<dyn Error>;

/// Opens or creates the member of a data directory that is locked for this process.
pub fn start(config: &Config) -> Result<Start, Failure> {
    let files = Arc::new(LogFiles::open(&config.wal_path())?);
    let path = config.member_dir().join(PAGE_FILE);
    let mut notes = Vec::new();
    let opened = open_pages(&path)?;
    if let Some(reason) = &opened.report.fell_back {
        notes.push(format!(
            "{}: fell back to the older meta page: {reason}",
            path.display()
        ));
    }
    let ticks = (
        config.election_ticks(),
        config.heartbeat_interval_ms * 1_000_000,
    );
    let options = store_options(config, ticks, random_u64()?);
    let known = opened.meta.is_some();
    let mut store = open_store(opened, options)?;
    let expect = match known {
        true => expectation(&store, &path)?,
        false => Expect::default(),
    };
    let mut recovered = wal::recover(&*files, expect)?;
    notes.append(&mut recovered.notes);
    if let wal::Report::TornTail { .. } = &recovered.report {
        notes.push(format!(
            "the log ended in an unfinished write, which was cut off: {:?}",
            recovered.report
        ));
    }
    let founding = match !known && recovered.last_index == 0 {
        true => Some(found(config)?),
        false => None,
    };
    let ids = match (&founding, recovered.tail.identity()) {
        (Some(founding), _) => Identity {
            cluster_id: founding.cluster_id,
            member_id: founding.local_id,
        },
        (None, Some(found)) => found,
        (None, None) => {
            return Err(format!(
                "{} needs a log that is not in {}: put the log's directory back, or start with an empty data directory",
                path.display(),
                files.path().display()
            )
            .into())
        }
    };
    if store.members().next().is_some() && store.member(ids.member_id).is_none() {
        return Err(format!(
            "the log in {} belongs to another cluster: its member {:x} of cluster {:x} is none of the members in {}",
            files.path().display(),
            ids.member_id,
            ids.cluster_id,
            path.display()
        )
        .into());
    }
    store.hub_mut().set_identity(watch::Identity {
        cluster_id: ids.cluster_id,
        member_id: ids.member_id,
        raft_term: 0,
    });
    build(config, ids, founding, store, recovered, files, notes)
}

fn found(config: &Config) -> Result<Founding, Failure> {
    let founding = identity::found(config, &SystemResolver)?;
    if founding.members.len() > 1 {
        return Err("ringd does not form clusters of several members yet: --initial-cluster may name this member only".into());
    }
    Ok(founding)
}

fn open_pages(path: &Path) -> Result<Opened, Failure> {
    let file =
        RealFile::open_or_create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let limit = crate::process::memory_limit_bytes();
    let options = PageOptions {
        create: true,
        resident_bytes_max: limit / 100 * RESIDENT_PERCENT,
        ..PageOptions::default()
    };
    Ok(Pages::open(Arc::new(file), options)?)
}

/// Opens the store that the meta page names, or an empty one.
fn open_store(opened: Opened, options: store::Options) -> Result<Store, Failure> {
    Ok(match &opened.meta {
        Some(meta) => Store::open(opened.pages, meta, options)?,
        None => Store::create(opened.pages, options),
    })
}

/// What the meta page claims of the log.
fn expectation(store: &Store, path: &Path) -> Result<Expect, Failure> {
    let mark = store.log_mark();
    let position: &[u8; LogPosition::BYTES] = mark.position[..].try_into().map_err(|_| {
        format!(
            "{}: the meta page's log position is malformed",
            path.display()
        )
    })?;
    Ok(Expect {
        identity: None,
        claim: Some(LogPosition::from_bytes(position)),
        first_needed: Some(SegmentId(mark.first_needed_segment)),
        applied: store.applied().0,
    })
}

fn build(
    config: &Config,
    ids: Identity,
    founding: Option<Founding>,
    store: Store,
    recovered: Recovered,
    files: Arc<LogFiles>,
    notes: Vec<String>,
) -> Result<Start, Failure> {
    let new = founding.is_some();
    let mut wal = Wal::new(
        wal::Config::new(files.path(), random_u64()?),
        ids,
        recovered.tail,
    )?;
    let (applied, applied_term) = store.applied();
    let (hard_state, entries, start) = match founding {
        Some(founding) => {
            let (state, entries) = first_entries(&founding);
            write_now(&mut wal, &files, &entries, &state)?;
            (state, entries, (0, 0))
        }
        None => (
            recovered.hard_state,
            recovered.entries,
            (applied, applied_term),
        ),
    };
    let mut raft_config = raft::Config::new(ids.member_id);
    raft_config.election_ticks = config.election_ticks() as u32;
    raft_config.pre_vote = config.pre_vote;
    raft_config.seed = random_u64()?;
    raft_config.ring_bytes_max = LOG_RING_BYTES_MAX;
    let node = raft::Node::new(
        raft_config,
        raft::Initial {
            hard_state,
            conf_state: store.conf_state().clone(),
            start,
            entries,
            applied,
            ..Default::default()
        },
    )?;
    let member = Member::new(member_config(config, ids)?, node, wal, store);
    Ok(Start {
        member,
        files,
        member_id: ids.member_id,
        cluster_id: ids.cluster_id,
        new,
        notes,
    })
}

fn store_options(
    config: &Config,
    (election_ticks, tick_ns): (u64, u64),
    seed: u64,
) -> store::Options {
    let request_timeout_ns = 5_000_000_000 + 2 * election_ticks * tick_ns;
    let lease = lease::Config {
        min_ttl_seconds: lease::min_ttl_seconds(election_ticks, tick_ns),
        revoke_retry_ns: request_timeout_ns,
        drift_bound_ppm: 0,
        checkpoint: None,
    };
    // The ids follow once they are known.
    let watch = watch::Config {
        identity: watch::Identity::default(),
        max_request_bytes: config.max_request_bytes as usize,
        progress_interval_ns: config.watch_progress_notify_interval_ns,
        seed,
    };
    let mut options = store::Options::new(lease, watch);
    options.quota_bytes = match config.quota() {
        Quota::Bytes(bytes) => Some(bytes),
        Quota::Unlimited => None,
    };
    options
}

fn member_config(config: &Config, ids: Identity) -> Result<member::Config, Failure> {
    let unix_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    Ok(member::Config {
        cluster_id: ids.cluster_id,
        member_id: ids.member_id,
        name: config.name.clone(),
        client_urls: config
            .advertise_client_urls
            .iter()
            .map(|url| url.as_str().to_string())
            .collect(),
        version: VERSION,
        cluster_version: CLUSTER_VERSION,
        tick_ns: config.heartbeat_interval_ms * 1_000_000,
        election_ticks: config.election_ticks() as u32,
        request_bytes_max: config.max_request_bytes as usize,
        txn_ops_max: config.max_txn_ops as usize,
        request_ids: lease::RequestIds::new(ids.member_id, unix_ms),
        seed: random_u64()?,
        strict_reconfig_check: config.strict_reconfig_check,
        unix_ms,
        checkpoint: member::Thresholds::default(),
    })
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
            let mut change = ConfChange {
                id: Some(0),
                node_id: Some(founder.id),
                context: Some(context.to_string().into_bytes().into()),
                ..Default::default()
            };
            change.set_type(ConfChangeType::ConfChangeAddNode);
            let mut entry = Entry {
                term: Some(1),
                index: Some(place as u64 + 1),
                data: Some(change.encode_to_vec().into()),
                ..Default::default()
            };
            entry.set_type(EntryType::EntryConfChange);
            entry
        })
        .collect();
    let state = HardState {
        term: Some(1),
        vote: Some(0),
        commit: Some(entries.len() as u64),
    };
    (state, entries)
}

/// Appends and waits: before the server runs there is nobody to keep waiting.
fn write_now(
    wal: &mut Wal,
    files: &LogFiles,
    entries: &[Entry],
    state: &HardState,
) -> Result<(), Failure> {
    let ticket = wal.append(entries, Some(state))?;
    while wal.durable() < ticket {
        let mut moved = false;
        while let Some(op) = wal.next_file_op() {
            let result = files.run(&op);
            wal.file_op_done(op.tag, result, 0)?;
            moved = true;
        }
        while let Some(write) = wal.next_write(0) {
            let result = files.write_inline(&write);
            wal.write_done(write.tag, result)?;
            wal.reuse(write.buf);
            moved = true;
        }
        if !moved {
            return Err(format!("the log in {} cannot be written", files.path().display()).into());
        }
    }
    Ok(())
}

/// Bits for the log's incarnation and for the election time-outs.
fn random_u64() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
    Ok(u64::from_le_bytes(bytes))
}
