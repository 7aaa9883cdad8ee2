//! From a data directory to a member: the first start of a cluster, and every restart.
//!
//! The page file's meta page says what the store holds and which log it needs; the log says the rest. Neither is trusted
//! before it was verified from the device.

mod alone;
pub mod assemble;
mod discovery;
pub mod dns;
mod draws;
mod fetch;
mod found;
mod grpc;
mod join;
mod refetch;
pub mod resolve;
mod srv;
#[cfg(test)]
mod tests;

use crate::{
    config::{ClusterState, Config, Quota, Url},
    identity::{Founding, InitialCluster},
    info,
    logging::Log,
    member, peers,
    recording::{self, Recorded},
    warn,
};
use assemble::{Assembled, Origin, Plan, RealDisk};
use dns::NameServers;
pub use draws::Draws;
use engine::{
    lease,
    page::{Options as PageOptions, PageDir, RealDir},
    store,
    wal::{self, driver::LogFiles, Identity},
    watch,
};
use resolve::{Comparison, Resolver, SystemResolver};
use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Name of the page file in the member's directory.
const PAGE_FILE: &str = "store.pages";
/// And of what says which terms this member may have promised something in.
pub(crate) const PROMISES_FILE: &str = "promises";
/// The server version that clients see: the etcd release whose behaviour this is.
pub const VERSION: &str = "3.5.33";
const CLUSTER_VERSION: &str = "3.5.0";
/// Kept allocated behind the page file's content: what deletions and compactions are written with on a full disk.
const PAGE_FILE_RESERVE_BYTES: u64 = 16 << 20;
/// Recent log entries kept in memory.
const LOG_RING_BYTES_MAX: u64 = 16 << 20;
/// Log entries on their way to one member: what a stalled disk makes it hold is less than it may hold.
const PEER_BYTES_IN_FLIGHT_MAX: u64 = 32 << 20;
/// Proposals that are not applied: so many bytes, or this part of the memory limit, whichever is less.
const UNCOMMITTED_BYTES_MAX: u64 = 256 << 20;
const UNCOMMITTED_SHARE: u64 = 8;
/// Entries that are not durable in the own log: so many bytes, and as long as others have them durable for so long.
const UNDURABLE_BYTES_MAX: u64 = 64 << 20;
const UNDURABLE_MS_MAX: u64 = 5_000;
/// Changed pages that begin a checkpoint take this part of the memory limit at most: while one is written, several times as
/// many are held.
const DIRTY_SHARE: u64 = 32;
/// An entry that is about more keys is applied in slices of so many: to delete a million takes 1.9 s, so a slice less than a
/// millisecond.
const APPLY_SLICE_KEYS: usize = 512;
/// Share of the memory limit that clean pages may stay resident in, in percent.
const RESIDENT_PERCENT: u64 = 60;

/// What the start found, for the log.
pub struct Start {
    pub member: Recorded,
    pub files: Arc<LogFiles>,
    pub page_dir: Arc<dyn PageDir>,
    pub member_id: u64,
    pub cluster_id: u64,
    /// What the transport is to know.
    pub peers: peers::Config,
    /// Lines that an operator may want to read.
    pub notes: Vec<String>,
}

/// Why a member cannot start; the text says what to do.
pub type Failure = Box<dyn Error>;

/// What the start of a new member asks of the world; tests bring their own.
pub struct Surroundings<'a> {
    pub resolver: &'a dyn Resolver,
    /// Asked for SRV records.
    pub name_servers: NameServers,
    pub log: &'a Log,
}

/// Opens or creates the member of a data directory that is locked for this process.
pub fn start(config: &Config, log: &Log) -> Result<Start, Failure> {
    let surroundings = Surroundings {
        resolver: &SystemResolver,
        name_servers: NameServers::of_system(),
        log,
    };
    let path = config.member_dir().join(PAGE_FILE);
    refuse_etcds_data(config, &path)?;
    let draws = Draws::of_this_machine()?;
    let recording = recording::begin(config, &path)?;
    let mut seen = None;
    let opened = open(config, &draws, || {
        let origin = originate(config, &surroundings)?;
        seen = Some(origin.clone());
        Ok(origin)
    })?;
    let Opened {
        assembled,
        files,
        page_dir,
    } = opened;
    announce(config, &assembled, log);
    let is_discovered = config.discovery.is_some() || !config.discovery_srv.is_empty();
    if !assembled.new && is_discovered {
        warn!(log, "discovery token is ignored since cluster already initialized; valid logs are found",
            "wal-dir" => config.wal_path().display().to_string());
    }
    let node = assembled.member.node();
    let life = draws::random_u64()?;
    let standing = assembled.boot.map(|boot| net::peer::Standing {
        boot,
        life,
        term: node.term(),
        index: node.last_index(),
    });
    Ok(Start {
        peers: peers_config(config, assembled.ids, standing),
        member: recording.of(assembled.member, &draws, seen.as_ref())?,
        files,
        page_dir,
        member_id: assembled.ids.member_id,
        cluster_id: assembled.ids.cluster_id,
        notes: assembled.notes,
    })
}

/// A member and the files that it was opened on.
pub struct Opened {
    pub assembled: Assembled,
    pub files: Arc<LogFiles>,
    pub page_dir: Arc<dyn PageDir>,
}

/// Opens the files that the configuration names. The member that results depends on nothing but the arguments and those.
pub fn open(
    config: &Config,
    draws: &Draws,
    originate: impl FnOnce() -> Result<Origin, Failure>,
) -> Result<Opened, Failure> {
    let path = config.member_dir().join(PAGE_FILE);
    let files = Arc::new(LogFiles::open(&config.wal_path())?);
    let promises = config.member_dir().join(PROMISES_FILE);
    let disk = RealDisk::new(&path, files.clone(), &promises);
    let ticks = (
        config.election_ticks(),
        config.heartbeat_interval_ms * 1_000_000,
    );
    let plan = Plan {
        pages: page_options(draws.memory_limit_bytes),
        store: store_options(config, ticks, draws.store_seed),
        wal: wal::Config::new(files.path(), draws.incarnation),
        raft: raft_config(config, draws),
        member: |ids| Ok(member_config(config, draws, ids)),
    };
    let mut assembled = match config.force_new_cluster {
        false => assemble::open(plan, &disk, originate)?,
        true => {
            let urls = config.initial_advertise_peer_urls.iter();
            let urls: Vec<String> = urls.map(ToString::to_string).collect();
            assemble::open_alone(plan, &disk, originate, &urls)?
        }
    };
    let member = &mut assembled.member;
    if config.initial_election_tick_advance {
        member.advance_first_election();
    }
    member.set_scrub_interval(config.scrub_interval_ns);
    member.set_auto_compaction(config.auto_compaction);
    Ok(Opened {
        assembled,
        files,
        page_dir: Arc::new(RealDir::new(&path)),
    })
}

/// Where etcd left its data, starting empty beside it would look like a loss of all keys, and a member that forgot its
/// votes is a danger to the rest of its cluster.
fn refuse_etcds_data(config: &Config, page_file: &Path) -> Result<(), Failure> {
    if page_file.exists() {
        return Ok(());
    }
    let backend = config.member_dir().join("snap").join("db");
    let logs = std::fs::read_dir(config.wal_path()).into_iter().flatten();
    let mut logs = logs.flatten().map(|entry| entry.path());
    // etcd's segments are named by two numbers, ringd's by one.
    let is_etcds = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.ends_with(".wal") && name.contains('-'))
    };
    let found = match backend.exists() {
        true => Some(backend),
        false => logs.find(is_etcds),
    };
    match found {
        None => Ok(()),
        Some(found) => Err(format!(
            "{} is etcd's data, which this version of ringd cannot read: name an empty directory with --data-dir, and copy \
             the keys from a running etcd (`etcdctl make-mirror`)",
            found.display()
        )
        .into()),
    }
}

/// Who starts, and whether it is new.
fn announce(config: &Config, assembled: &Assembled, log: &Log) {
    let local = format!("{:x}", assembled.ids.member_id);
    let cluster = format!("{:x}", assembled.ids.cluster_id);
    if assembled.new {
        info!(log, "starting local member",
            "local-member-id" => local, "cluster-id" => cluster);
        return;
    }
    let message = match config.force_new_cluster {
        true => "forcing restart member",
        false => "restarting local member",
    };
    info!(log, message, "cluster-id" => cluster, "local-member-id" => local,
        "commit-index" => assembled.member.node().commit_index());
}

/// Where the member of an empty data directory comes from.
pub fn originate(config: &Config, world: &Surroundings<'_>) -> Result<Origin, Failure> {
    // A member that is to discover the others knows itself only.
    let (cluster, token) = match &config.discovery {
        Some(discovery) => (InitialCluster::alone(config), &discovery.token),
        None if !config.discovery_srv.is_empty() => (
            srv::cluster(config, &world.name_servers, world.resolver, world.log)?,
            &config.initial_cluster_token,
        ),
        None => (found::configured(config)?, &config.initial_cluster_token),
    };
    let comparison = Comparison::new(world.resolver, world.log);
    if config.initial_cluster_state == ClusterState::Existing {
        found::check_joining(config, &cluster)?;
        if config.discovery.is_some() {
            return Err(
                "discovery URL should not be set when joining existing initial cluster".into(),
            );
        }
        refuse_tls(cluster.members().flat_map(|(_, urls)| urls))?;
        let identity = join::join(config, &cluster, &comparison, world.log)?;
        return Ok(Origin::Joining(identity));
    }
    let mut founding = found::found(config, &cluster, token, &comparison)?;
    if let Some(service) = &config.discovery {
        let found = discovery::cluster(config, service, &cluster, founding.local_id, world.log)?;
        founding = Founding::of(&found, token, &config.name);
    }
    refuse_tls(founding.members.iter().flat_map(|m| &m.peer_urls))?;
    join::refuse_bootstrapped(&founding)?;
    Ok(Origin::Founding(founding))
}

/// Members that cannot be spoken to would never form a quorum.
fn refuse_tls<'a>(mut peer_urls: impl Iterator<Item = &'a Url>) -> Result<(), Failure> {
    match peer_urls.find(|url| url.scheme().is_tls()) {
        None => Ok(()),
        Some(url) => Err(format!(
            "TLS between members is not supported by this version of ringd: a member has {url}"
        )
        .into()),
    }
}

fn page_options(memory_limit_bytes: u64) -> PageOptions {
    PageOptions {
        create: true,
        resident_bytes_max: memory_limit_bytes / 100 * RESIDENT_PERCENT,
        reserve_bytes: PAGE_FILE_RESERVE_BYTES,
        ..PageOptions::default()
    }
}

fn checkpoint_thresholds(draws: &Draws) -> member::Thresholds {
    let mut thresholds = member::Thresholds::default();
    let share = draws.memory_limit_bytes / DIRTY_SHARE;
    thresholds.dirty_bytes = thresholds.dirty_bytes.min(share);
    thresholds
}

/// Without the node's id, which the log or the founding says.
fn raft_config(config: &Config, draws: &Draws) -> raft::Config {
    let mut raft = raft::Config::new(0);
    raft.election_ticks = config.election_ticks() as u32;
    raft.pre_vote = config.pre_vote;
    raft.seed = draws.raft_seed;
    raft.gather_commits = true;
    raft.ring_bytes_max = LOG_RING_BYTES_MAX;
    raft.inflight_bytes_max = PEER_BYTES_IN_FLIGHT_MAX;
    raft.uncommitted_bytes_max =
        UNCOMMITTED_BYTES_MAX.min(draws.memory_limit_bytes / UNCOMMITTED_SHARE);
    raft.undurable_bytes_max = UNDURABLE_BYTES_MAX;
    raft.undurable_ticks_max = (UNDURABLE_MS_MAX / config.heartbeat_interval_ms).max(1) as u32;
    raft
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
        drift_bound_ppm: config.lease_drift_bound_ppm,
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
    options.learners_max = config.max_learners;
    options.quota_bytes = match config.quota() {
        Quota::Bytes(bytes) => Some(bytes),
        Quota::Unlimited => None,
    };
    options
}

fn peers_config(
    config: &Config,
    ids: Identity,
    standing: Option<net::peer::Standing>,
) -> peers::Config {
    let tick_ns = config.heartbeat_interval_ms * 1_000_000;
    let election_ns = config.election_ticks() * tick_ns;
    peers::Config {
        local: net::peer::Local {
            member_id: ids.member_id,
            cluster_id: ids.cluster_id,
            version: VERSION,
            peer_urls: crate::config::url::join(&config.initial_advertise_peer_urls),
            standing,
        },
        election_ns,
        request_timeout_ns: 5_000_000_000 + 2 * election_ns,
        unix_ms: unix_ms(),
        inbound_max: peers::INBOUND_MAX,
    }
}

/// The wall clock.
pub fn unix_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

fn member_config(config: &Config, draws: &Draws, ids: Identity) -> member::Config {
    member::Config {
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
        apply_slice_keys: APPLY_SLICE_KEYS,
        request_ids: lease::RequestIds::new(ids.member_id, draws.unix_ms),
        seed: draws.member_seed,
        strict_reconfig_check: config.strict_reconfig_check,
        unix_ms: draws.unix_ms,
        checkpoint: checkpoint_thresholds(draws),
        keys_at_once_max: member::KEYS_AT_ONCE_MAX,
    }
}
