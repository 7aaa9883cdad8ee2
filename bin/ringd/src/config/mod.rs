//! Configuration: etcd's flags, environment and file in, one typed [`Config`] out.
//!
//! [`load`] reads the three sources by etcd's rules, checks the result in etcd's order and either returns the
//! configuration with the log lines that belong to it, or an [`Exit`]: what to print and the code to end with. It opens
//! nothing but the configuration file and starts nothing.
//!
//! The flow: `flags` is the table; `args`, `env` and `yaml` turn a source into values of that table (`settings`);
//! `load` orders the sources, `validate` holds the checks, `derive` makes the [`Config`].

mod args;
mod derive;
pub mod duration;
mod env;
mod flags;
mod help;
mod load;
mod settings;
mod start;
#[cfg(test)]
mod tests;
pub mod url;
mod validate;
mod value;
mod yaml;

use std::{io, path::PathBuf, time::Duration};

pub use help::{go_arch, ETCD_VERSION, GIT_SHA, GO_OS, GO_VERSION, RINGD_VERSION};
pub use load::{load, load_on, Host, System};
pub use url::Url;
pub use validate::AutoCompaction;

use crate::{
    caller,
    logging::{self, Level, Log, Record},
};

/// Bytes of storage that are allowed when `quota-backend-bytes` is 0.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;
pub const NAME_DEFAULT: &str = "default";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

impl ClusterState {
    pub fn as_str(self) -> &'static str {
        match self {
            ClusterState::New => "new",
            ClusterState::Existing => "existing",
        }
    }
}

/// How log writes reach the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalIo {
    Auto,
    Thread,
    Inline,
    Ring,
}

/// The largest storage that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    Unlimited,
    Bytes(u64),
}

/// The service in which the members of a new cluster find one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    pub token: String,
    /// `host:port`
    pub endpoints: Vec<String>,
    pub dial_timeout: Duration,
    pub request_timeout: Duration,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
}

/// A server's configuration, checked and complete. Lists of URLs are sorted and never empty unless noted.
#[derive(Debug, Clone)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// A directory for the log of its own; `None` means inside the data directory.
    pub wal_dir: Option<PathBuf>,
    pub snapshot_count: u64,
    pub heartbeat_interval_ms: u64,
    pub election_timeout_ms: u64,
    pub initial_election_tick_advance: bool,
    pub listen_peer_urls: Vec<Url>,
    pub listen_client_urls: Vec<Url>,
    /// May be empty.
    pub listen_client_http_urls: Vec<Url>,
    /// May be empty.
    pub listen_metrics_urls: Vec<Url>,
    pub initial_advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    /// As given or derived: `name=url[,name=url...]`; [`crate::identity::InitialCluster`] reads it.
    pub initial_cluster: String,
    pub initial_cluster_state: ClusterState,
    pub initial_cluster_token: String,
    /// Domain whose SRV records list the members; empty for none.
    pub discovery_srv: String,
    /// Suffix of the service's name in those records.
    pub discovery_srv_name: String,
    pub discovery: Option<Discovery>,
    /// A member that has data becomes the only one of its cluster.
    pub force_new_cluster: bool,
    pub strict_reconfig_check: bool,
    /// Alike on all members: it decides when an entry is applied.
    pub max_learners: usize,
    pub pre_vote: bool,
    /// As given: 0 is the default, negative is unlimited.
    pub quota_backend_bytes: i64,
    pub max_txn_ops: u64,
    pub max_request_bytes: u64,
    pub max_concurrent_streams: u32,
    /// Clients that ping more often are disconnected.
    pub grpc_keepalive_min_time_ns: u64,
    /// 0 for no pings of the server's own.
    pub grpc_keepalive_interval_ns: u64,
    /// 0 for no pings of the server's own.
    pub grpc_keepalive_timeout_ns: u64,
    pub auto_compaction: AutoCompaction,
    /// The mode as given, which the start message repeats.
    pub auto_compaction_mode: String,
    pub compaction_batch_limit: u64,
    pub compaction_sleep_interval_ns: u64,
    pub watch_progress_notify_interval_ns: u64,
    pub corrupt_check_time_ns: u64,
    pub downgrade_check_time_ns: u64,
    pub snapshot_catchup_entries: u64,
    /// In seconds.
    pub auth_token_ttl_s: u64,
    pub bcrypt_cost: u64,
    pub log: logging::Config,
    pub wal_io: WalIo,
    /// 0 for never.
    pub scrub_interval_ns: u64,
    /// 0 for a share of the memory limit.
    pub requests_held_bytes: u64,
    /// How much slower than this member's a client's clock may run; at most one million.
    pub lease_drift_bound_ppm: u32,
}

impl Config {
    pub fn quota(&self) -> Quota {
        match self.quota_backend_bytes {
            0 => Quota::Bytes(QUOTA_BYTES_DEFAULT),
            bytes => u64::try_from(bytes).map_or(Quota::Unlimited, Quota::Bytes),
        }
    }

    /// Ticks of one heartbeat interval that make an election timeout.
    pub fn election_ticks(&self) -> u64 {
        self.election_timeout_ms / self.heartbeat_interval_ms
    }

    /// The directory under which the member's files are kept.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// Where the write-ahead log is.
    pub fn wal_path(&self) -> PathBuf {
        self.wal_dir
            .clone()
            .unwrap_or_else(|| self.member_dir().join("wal"))
    }
}

/// A configuration with the messages that its sources gave rise to.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// The program's arguments, its own name first.
    pub args: Vec<String>,
    early: Vec<Record>,
    late: Vec<Record>,
}

impl Loaded {
    /// Writes the messages in etcd's order, with the `Running: ` line among them.
    pub fn announce(&self, log: &Log) {
        for record in &self.early {
            log.record(record);
        }
        log.record(&running(&self.args));
        for record in &self.late {
            log.record(record);
        }
    }

    /// Opens the log that the configuration asks for.
    pub fn open_log(&self) -> Result<Log, Exit> {
        Log::open(&self.config.log).map_err(|error| {
            let failed = Record::new(Level::Warn, caller!(), "failed to verify flags")
                .with("error", error.to_string());
            Exit::lines(1, self.early.iter().chain([&running(&self.args), &failed]))
        })
    }

    /// All messages, for tests.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.early.iter().chain(&self.late)
    }
}

fn running(args: &[String]) -> Record {
    Record::new(Level::Info, caller!(), "Running: ").with("args", logging::Value::strs(args))
}

/// How the process ends when it does not become a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Exit {
    /// Prints both texts and returns the code.
    pub fn report(&self) -> i32 {
        use io::Write as _;
        let _ = io::stderr().write_all(self.stderr.as_bytes());
        let _ = io::stdout().write_all(self.stdout.as_bytes());
        let _ = io::stdout().flush();
        self.code
    }

    fn mistake(code: i32, first_line: &str) -> Exit {
        Exit {
            code,
            stdout: String::new(),
            stderr: format!("{first_line}\n"),
        }
    }

    fn lines<'a>(code: i32, records: impl IntoIterator<Item = &'a Record>) -> Exit {
        let stderr = records.into_iter().map(Record::to_line).collect();
        Exit {
            code,
            stdout: String::new(),
            stderr,
        }
    }
}
