//! Configuration: etcd's flags, environment and file in, one typed [`Config`] out.
//!
//! [`load`] reads the three sources by etcd's rules, checks the result in etcd's order and either returns the
//! configuration with the log lines that belong to it, or an [`Exit`]: what to print and the code to end with. It opens
//! nothing but the configuration file and starts nothing.
//!
//! The flow: [`flags`] is the table; `args`, `env` and `yaml` turn a source into values of that table (`settings`);
//! `validate` holds the checks; this file makes the [`Config`].

mod args;
pub mod duration;
mod env;
mod flags;
mod help;
mod settings;
#[cfg(test)]
mod tests;
pub mod url;
mod validate;
mod value;
mod yaml;

use std::{
    ffi::OsString,
    io,
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
};

pub use help::{go_arch, ETCD_VERSION, GIT_SHA, GO_OS, GO_VERSION, RINGD_VERSION};
pub use url::Url;
pub use validate::AutoCompaction;

use crate::{
    caller,
    logging::{self, os_text, Level, Log, Record},
};
use settings::{Mode, Settings};

/// Bytes of storage that are allowed when `quota-backend-bytes` is 0.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;
pub const NAME_DEFAULT: &str = "default";
const DATA_DIR_SUFFIX: &str = "ringd";
const ETCD_DATA_DIR_SUFFIX: &str = "etcd";

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
    pub strict_reconfig_check: bool,
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

/// What loading asks of the machine; a test brings its own.
pub trait Host {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    fn exists(&self, path: &Path) -> bool;
    /// The address that packets to the outside would carry as their source.
    fn default_address(&self) -> Option<IpAddr>;
}

/// The machine this runs on.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Host for System {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn default_address(&self) -> Option<IpAddr> {
        // Connecting a datagram socket sends nothing; it makes the kernel choose route and source. The address is one
        // reserved for documentation.
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    }
}

/// Loads the configuration. `args` are the program's arguments including its name, `env` the environment.
pub fn load(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Exit> {
    let text = |s: OsString| s.to_string_lossy().into_owned();
    let args: Vec<String> = args.into_iter().map(text).collect();
    let env: Vec<(String, String)> = env.into_iter().map(|(k, v)| (text(k), text(v))).collect();
    load_on(&System, args, &env)
}

/// [`load`] on a given machine.
pub fn load_on(
    host: &dyn Host,
    args: Vec<String>,
    env: &[(String, String)],
) -> Result<Loaded, Exit> {
    if let Some(role @ ("gateway" | "grpc-proxy")) = args.get(1).map(String::as_str) {
        return Err(Exit::mistake(
            1,
            &format!("ringd has no {role}; use etcd's, which works with ringd servers"),
        ));
    }
    let (set, rest, ignored) = match args::parse(args.get(1..).unwrap_or_default()) {
        Ok(args::Parsed::Help) => {
            return Err(Exit {
                code: 0,
                stdout: help::flag_list(),
                stderr: help::USAGE.into(),
            });
        }
        Ok(args::Parsed::Flags { set, rest, ignored }) => (set, rest, ignored),
        Err(error) => return Err(usage_error(error)),
    };
    let mut loading = Loading {
        host,
        args,
        early: Vec::new(),
        late: Vec::new(),
    };
    for name in ignored {
        let note = Record::new(
            Level::Warn,
            caller!(),
            "flag is no longer supported - ignoring",
        );
        loading.early.push(note.with("flag-name", name));
    }
    if let Some(first) = rest.first() {
        return Err(loading.verify_failed(&format!("'{first}' is not a valid flag")));
    }
    let mut settings = Settings::new(Mode::CommandLine);
    for (flag, value) in set {
        settings.set(flag, value);
    }
    if settings.bool("version") {
        return Err(Exit {
            code: 0,
            stdout: help::version_text(),
            stderr: String::new(),
        });
    }
    let settings = loading.sources(settings, env)?;
    loading.finish(settings)
}

fn usage_error(error: args::ArgError) -> Exit {
    let mut text = error.text;
    if let Some(unknown) = error.unknown {
        let known: Vec<_> = flags::FLAGS
            .iter()
            .filter(|f| f.on_command_line())
            .map(|f| f.name)
            .collect();
        if let Some(name) = help::nearest(&unknown, &known) {
            text.push_str(&format!("\nDid you mean --{name}?"));
        }
    }
    Exit {
        code: 2,
        stdout: String::new(),
        stderr: format!("{text}\n{}", help::USAGE),
    }
}

/// A load on its way: the messages so far.
struct Loading<'a> {
    host: &'a dyn Host,
    args: Vec<String>,
    early: Vec<Record>,
    late: Vec<Record>,
}

impl Loading<'_> {
    fn exit(&self, code: i32, last: Vec<Record>) -> Exit {
        let running = running(&self.args);
        Exit::lines(code, self.early.iter().chain([&running]).chain(&last))
    }

    fn verify_failed(&self, error: &str) -> Exit {
        let warn = |msg: &'static str| {
            Record::new(Level::Warn, caller!(), msg).with("error", error.to_owned())
        };
        let mut last = vec![warn("failed to verify flags")];
        if error == validate::NO_ADVERTISED_CLIENT_URLS {
            last.push(warn("advertise client URLs are not set"));
        }
        self.exit(1, last)
    }

    /// What etcd says of any error between validation and serving.
    fn start_failed(&self, error: &str) -> Exit {
        let fatal = Record::new(Level::Fatal, caller!(), "discovery failed")
            .with("error", error.to_owned());
        self.exit(1, self.late.iter().cloned().chain([fatal]).collect())
    }

    /// The file when one is named, otherwise the environment below the command line.
    fn sources(&mut self, mut flags: Settings, env: &[(String, String)]) -> Result<Settings, Exit> {
        let named = match flags.text("config-file") {
            path if path.is_empty() => env::lookup(env, "ETCD_CONFIG_FILE").map(str::to_owned),
            path => Some(path),
        };
        let Some(path) = named else {
            return match env::apply(env, &mut flags, &mut self.early) {
                Ok(()) => Ok(flags),
                Err(env::EnvError::Invalid(text)) => Err(self.verify_failed(&text)),
                Err(env::EnvError::Shadowed(record)) => {
                    Err(Exit::lines(1, self.early.iter().chain([&record])))
                }
            };
        };
        let text = self.host.read(Path::new(&path)).map_err(|e| {
            let text = format!("open {path}: {}", os_text(&e));
            self.verify_failed(&text)
        })?;
        let text = String::from_utf8(text).map_err(|_| {
            self.verify_failed("error converting YAML to JSON: yaml: invalid UTF-8")
        })?;
        let mut settings = Settings::new(Mode::File);
        let mut warnings = Vec::new();
        let given = yaml::parse(&text, &mut warnings);
        self.early.append(&mut warnings);
        match given {
            Ok(given) => given
                .into_iter()
                .for_each(|(flag, value)| settings.set(flag, value)),
            Err(yaml::FileError::Verify(text)) => return Err(self.verify_failed(&text)),
            Err(yaml::FileError::Plain(line, code)) => return Err(Exit::mistake(code, &line)),
        }
        // Two settings are properties of the process rather than of the member and stay in force beside a file.
        let process: Vec<_> = flags
            .given()
            .filter(|(flag, _)| matches!(flag.name, "raft-read-timeout" | "raft-write-timeout"))
            .map(|(flag, value)| (flag, value.clone()))
            .collect();
        for (flag, value) in process {
            settings.set(flag, value);
        }
        self.early.push(
            Record::new(
                Level::Info,
                caller!(),
                "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided",
            )
            .with("path", path),
        );
        Ok(settings)
    }

    fn finish(mut self, settings: Settings) -> Result<Loaded, Exit> {
        let log = validate::logging(&settings).map_err(|(text, code)| match code {
            2 => Exit::mistake(2, &format!("panic: {text}")),
            _ => self.verify_failed(&text),
        })?;
        validate::check(&settings)
            .and_then(|()| validate::refuse(&settings))
            .map_err(|text| self.verify_failed(&text))?;
        self.late = validate::without_effect(&settings);
        validate::plain_listeners(&settings).map_err(|text| self.start_failed(&text))?;
        let auto_compaction =
            validate::auto_compaction(&settings).map_err(|text| self.start_failed(&text))?;
        let data_dir = self.data_dir(&settings)?;
        let config = self.config(&settings, log, auto_compaction, data_dir);
        Ok(Loaded {
            config,
            args: self.args,
            early: self.early,
            late: self.late,
        })
    }

    /// An unset data directory is named after the member, and must not hide one of etcd's.
    fn data_dir(&mut self, settings: &Settings) -> Result<PathBuf, Exit> {
        let given = settings.text("data-dir");
        if !given.is_empty() {
            return Ok(given.into());
        }
        let name = settings.text("name");
        let own = PathBuf::from(format!("{name}.{DATA_DIR_SUFFIX}"));
        let etcds = PathBuf::from(format!("{name}.{ETCD_DATA_DIR_SUFFIX}"));
        if self.host.exists(&etcds) && !self.host.exists(&own) {
            let text = format!(
                "refusing to start empty: {} does not exist but {}, which holds etcd's data, does; import it with `ringutl import` (or start with --import-etcd), or name a data directory with --data-dir",
                own.display(),
                etcds.display()
            );
            return Err(Exit::mistake(1, &text));
        }
        let note = Record::new(
            Level::Warn,
            caller!(),
            "'data-dir' was empty; using default",
        );
        self.late
            .insert(0, note.with("data-dir", own.to_string_lossy().into_owned()));
        Ok(own)
    }

    fn config(
        &mut self,
        settings: &Settings,
        log: logging::Config,
        auto_compaction: AutoCompaction,
        data_dir: PathBuf,
    ) -> Config {
        let ns = |name: &str| u64::try_from(settings.duration_ns(name)).unwrap_or(0);
        let or_default = |value: u64, default: u64| if value == 0 { default } else { value };
        let derived = self.derive(settings);
        let limit = settings.int(&settings.either("compaction-batch-limit"));
        Config {
            name: settings.text("name"),
            data_dir,
            wal_dir: Some(settings.text("wal-dir"))
                .filter(|d| !d.is_empty())
                .map(PathBuf::from),
            snapshot_count: or_default(settings.uint("snapshot-count"), SNAPSHOT_COUNT_DEFAULT),
            heartbeat_interval_ms: settings.uint("heartbeat-interval"),
            election_timeout_ms: settings.uint("election-timeout"),
            initial_election_tick_advance: settings.bool("initial-election-tick-advance"),
            listen_peer_urls: settings.urls("listen-peer-urls"),
            listen_client_urls: settings.urls("listen-client-urls"),
            listen_client_http_urls: settings.urls("listen-client-http-urls"),
            listen_metrics_urls: settings.urls("listen-metrics-urls"),
            initial_advertise_peer_urls: derived.peer_urls,
            advertise_client_urls: derived.client_urls,
            initial_cluster: derived.initial_cluster,
            initial_cluster_state: match settings.text("initial-cluster-state").as_str() {
                "existing" => ClusterState::Existing,
                _ => ClusterState::New,
            },
            initial_cluster_token: settings.text("initial-cluster-token"),
            strict_reconfig_check: settings.bool("strict-reconfig-check"),
            pre_vote: settings.bool("pre-vote"),
            quota_backend_bytes: settings.int("quota-backend-bytes"),
            max_txn_ops: settings.uint("max-txn-ops"),
            max_request_bytes: settings.uint("max-request-bytes"),
            max_concurrent_streams: u32::try_from(settings.uint("max-concurrent-streams"))
                .unwrap_or(u32::MAX),
            grpc_keepalive_min_time_ns: ns("grpc-keepalive-min-time"),
            grpc_keepalive_interval_ns: ns("grpc-keepalive-interval"),
            grpc_keepalive_timeout_ns: ns("grpc-keepalive-timeout"),
            auto_compaction,
            auto_compaction_mode: match settings.mode {
                Mode::File if !settings.is_set("auto-compaction-mode") => String::new(),
                _ => settings.text("auto-compaction-mode"),
            },
            compaction_batch_limit: or_default(
                u64::try_from(limit).unwrap_or(0),
                COMPACTION_BATCH_LIMIT_DEFAULT,
            ),
            compaction_sleep_interval_ns: or_default(
                ns(&settings.either("compaction-sleep-interval")),
                COMPACTION_SLEEP_NS_DEFAULT,
            ),
            watch_progress_notify_interval_ns: or_default(
                ns(&settings.either("watch-progress-notify-interval")),
                PROGRESS_NOTIFY_NS_DEFAULT,
            ),
            corrupt_check_time_ns: ns(&settings.either("corrupt-check-time")),
            downgrade_check_time_ns: ns(&settings.either("downgrade-check-time")),
            snapshot_catchup_entries: settings.uint(&settings.either("snapshot-catchup-entries")),
            auth_token_ttl_s: settings.uint("auth-token-ttl"),
            bcrypt_cost: settings.uint("bcrypt-cost"),
            log,
            wal_io: match settings.text("wal-io").as_str() {
                "thread" => WalIo::Thread,
                "inline" => WalIo::Inline,
                "ring" => WalIo::Ring,
                _ => WalIo::Auto,
            },
        }
    }

    /// The advertised URLs and the initial cluster, where they follow from other settings.
    fn derive(&mut self, settings: &Settings) -> Derived {
        let mut peer_urls = settings.urls("initial-advertise-peer-urls");
        let mut client_urls = settings.urls("advertise-client-urls");
        let mut detected = None;
        for (listen, advertise, urls) in [
            (
                "listen-peer-urls",
                "initial-advertise-peer-urls",
                &mut peer_urls,
            ),
            (
                "listen-client-urls",
                "advertise-client-urls",
                &mut client_urls,
            ),
        ] {
            let listening = settings.urls(listen);
            let at_default =
                *urls == flags::find(advertise).map_or(Vec::new(), |f| urls_of(&f.default_value()));
            if let (Some(first), true) = (
                listening.first().filter(|u| u.host() == "0.0.0.0"),
                at_default,
            ) {
                let Some(ip) = self.host.default_address() else {
                    continue;
                };
                let address = std::net::SocketAddr::new(ip, first.port().unwrap_or(0)).to_string();
                *urls = vec![urls[0].with_address(&address)];
                detected = Some(ip);
            }
        }
        if let Some(ip) = detected {
            let note = Record::new(
                Level::Info,
                caller!(),
                "detected default host for advertise",
            );
            self.late.push(note.with("host", ip.to_string()));
        }
        let name = settings.text("name");
        let initial_cluster = match settings.text("initial-cluster") {
            text if settings.is_set("initial-cluster")
                && !(text.is_empty() && settings.mode == Mode::File) =>
            {
                text
            }
            _ if name != NAME_DEFAULT => cluster_of(&name, &peer_urls),
            _ => INITIAL_CLUSTER_DEFAULT.to_owned(),
        };
        Derived {
            peer_urls,
            client_urls,
            initial_cluster,
        }
    }
}

const INITIAL_CLUSTER_DEFAULT: &str = "default=http://localhost:2380";
const SNAPSHOT_COUNT_DEFAULT: u64 = 100_000;
const COMPACTION_BATCH_LIMIT_DEFAULT: u64 = 1_000;
const COMPACTION_SLEEP_NS_DEFAULT: u64 = 10_000_000;
const PROGRESS_NOTIFY_NS_DEFAULT: u64 = 600_000_000_000;

struct Derived {
    peer_urls: Vec<Url>,
    client_urls: Vec<Url>,
    initial_cluster: String,
}

fn urls_of(value: &value::Value) -> Vec<Url> {
    match value {
        value::Value::Urls(urls) => urls.clone(),
        _ => Vec::new(),
    }
}

fn cluster_of(name: &str, urls: &[Url]) -> String {
    urls.iter()
        .map(|url| format!("{name}={url}"))
        .collect::<Vec<_>>()
        .join(",")
}
