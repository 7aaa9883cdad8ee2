//! From a data directory to a member: the first start of a cluster, and every restart.
//!
//! The page file's meta page says what the store holds and which log it needs; the log says the rest. Neither is trusted
//! before it was verified from the device.

pub mod assemble;
mod fetch;
mod join;

use crate::{
    config::{ClusterState, Config, Quota},
    identity::{self, SystemResolver},
    member::{self, Member},
};
use assemble::{Origin, Plan};
use engine::{
    lease,
    page::{Options as PageOptions, PageDir, RealDir, RealFile},
    store,
    wal::{self, driver::LogFiles, Identity},
    watch,
};
use std::{error::Error, sync::Arc};

/// Name of the page file in the member's directory.
const PAGE_FILE: &str = "store.pages";
/// The server version that clients see: the etcd release whose behaviour this is.
pub const VERSION: &str = "3.5.33";
const CLUSTER_VERSION: &str = "3.5.0";
/// Kept allocated behind the page file's content: what deletions and compactions are written with on a full disk.
const PAGE_FILE_RESERVE_BYTES: u64 = 16 << 20;
/// Recent log entries kept in memory.
const LOG_RING_BYTES_MAX: u64 = 16 << 20;
/// Share of the memory limit that clean pages may stay resident in, in percent.
const RESIDENT_PERCENT: u64 = 60;

/// What the start found, for the log.
pub struct Start {
    pub member: Member,
    pub files: Arc<LogFiles>,
    pub page_dir: Arc<dyn PageDir>,
    pub member_id: u64,
    pub cluster_id: u64,
    pub new: bool,
    /// Lines that an operator may want to read.
    pub notes: Vec<String>,
}

/// Why a member cannot start; the text says what to do.
pub type Failure = Box<dyn Error>;

/// Opens or creates the member of a data directory that is locked for this process.
pub fn start(config: &Config) -> Result<Start, Failure> {
    let files = Arc::new(LogFiles::open(&config.wal_path())?);
    let path = config.member_dir().join(PAGE_FILE);
    let file =
        RealFile::open_or_create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let ticks = (
        config.election_ticks(),
        config.heartbeat_interval_ms * 1_000_000,
    );
    let plan = Plan {
        pages: page_options(),
        store: store_options(config, ticks, random_u64()?),
        wal: wal::Config::new(files.path(), random_u64()?),
        raft: raft_config(config)?,
        member: |ids| member_config(config, ids),
    };
    let mut assembled = assemble::open(plan, Arc::new(file), &*files, || originate(config))?;
    assembled
        .member
        .set_scrub_interval(config.scrub_interval_ns);
    Ok(Start {
        member: assembled.member,
        files,
        page_dir: Arc::new(RealDir::new(&path)),
        member_id: assembled.ids.member_id,
        cluster_id: assembled.ids.cluster_id,
        new: assembled.new,
        notes: assembled.notes,
    })
}

/// Where the member of an empty data directory comes from.
fn originate(config: &Config) -> Result<Origin, Failure> {
    match config.initial_cluster_state {
        ClusterState::New => {
            let founding = identity::found(config, &SystemResolver)?;
            join::refuse_bootstrapped(&founding)?;
            Ok(Origin::Founding(founding))
        }
        ClusterState::Existing => Ok(Origin::Joining(join::join(config, &SystemResolver)?)),
    }
}

fn page_options() -> PageOptions {
    let limit = crate::process::memory_limit_bytes();
    PageOptions {
        create: true,
        resident_bytes_max: limit / 100 * RESIDENT_PERCENT,
        reserve_bytes: PAGE_FILE_RESERVE_BYTES,
        ..PageOptions::default()
    }
}

/// Without the node's id, which the log or the founding says.
fn raft_config(config: &Config) -> Result<raft::Config, Failure> {
    let mut raft = raft::Config::new(0);
    raft.election_ticks = config.election_ticks() as u32;
    raft.pre_vote = config.pre_vote;
    raft.seed = random_u64()?;
    raft.ring_bytes_max = LOG_RING_BYTES_MAX;
    Ok(raft)
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

/// Bits for the log's incarnation and for the election time-outs.
fn random_u64() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
    Ok(u64::from_le_bytes(bytes))
}
