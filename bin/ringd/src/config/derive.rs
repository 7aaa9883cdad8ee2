//! From checked settings to the [`Config`], with the defaults that depend on other settings.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    flags,
    load::Host,
    settings::{Mode, Settings},
    value::Value,
    AutoCompaction, ClusterState, Config, Discovery, Url, WalIo, NAME_DEFAULT,
};
use crate::logging;

const INITIAL_CLUSTER_DEFAULT: &str = "default=http://localhost:2380";
const SNAPSHOT_COUNT_DEFAULT: u64 = 100_000;
const COMPACTION_BATCH_LIMIT_DEFAULT: u64 = 1_000;
const COMPACTION_SLEEP_NS_DEFAULT: u64 = 10_000_000;
const PROGRESS_NOTIFY_NS_DEFAULT: u64 = 600_000_000_000;

/// What follows from other settings.
pub(super) struct Derived {
    peer_urls: Vec<Url>,
    client_urls: Vec<Url>,
    initial_cluster: String,
    /// The address advertised in place of a wildcard.
    pub(super) detected: Option<IpAddr>,
}

/// The advertised URLs and the initial cluster, where they follow from other settings.
pub(super) fn derive(settings: &Settings, host: &dyn Host) -> Derived {
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
            let Some(ip) = host.default_address() else {
                continue;
            };
            let address = SocketAddr::new(ip, first.port().unwrap_or(0)).to_string();
            *urls = vec![urls[0].with_address(&address)];
            detected = Some(ip);
        }
    }
    let name = settings.text("name");
    let initial_cluster = match settings.text("initial-cluster") {
        // An empty list is a list, and bootstrap misses this member in it.
        text if settings.is_set("initial-cluster") => text,
        _ if is_discovered(settings) => String::new(),
        // A member without a name is in no cluster; bootstrap says so.
        _ if name.is_empty() => String::new(),
        _ if name != NAME_DEFAULT => cluster_of(&name, &peer_urls),
        _ => INITIAL_CLUSTER_DEFAULT.to_owned(),
    };
    Derived {
        peer_urls,
        client_urls,
        initial_cluster,
        detected,
    }
}

/// Puts the typed values together. The settings have passed all checks.
pub(super) fn config(
    settings: &Settings,
    derived: Derived,
    log: logging::Config,
    auto_compaction: AutoCompaction,
    data_dir: PathBuf,
) -> Config {
    let ns = |name: &str| u64::try_from(settings.duration_ns(name)).unwrap_or(0);
    let or_default = |value: u64, default: u64| if value == 0 { default } else { value };
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
        discovery_srv: settings.text("discovery-srv"),
        discovery_srv_name: settings.text("discovery-srv-name"),
        discovery: discovery(settings),
        force_new_cluster: settings.bool("force-new-cluster"),
        strict_reconfig_check: settings.bool("strict-reconfig-check"),
        max_learners: usize::try_from(settings.int("max-learners")).unwrap_or(0),
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
        scrub_interval_ns: ns("scrub-interval"),
        requests_held_bytes: settings.uint("requests-held-bytes"),
        lease_drift_bound_ppm: settings.uint("lease-drift-bound") as u32,
        wal_io: match settings.text("wal-io").as_str() {
            "thread" => WalIo::Thread,
            "inline" => WalIo::Inline,
            "ring" => WalIo::Ring,
            _ => WalIo::Auto,
        },
    }
}

/// The members are not configured but found.
fn is_discovered(settings: &Settings) -> bool {
    !settings.text("discovery-srv").is_empty() || !settings.words("discovery-endpoints").is_empty()
}

fn discovery(settings: &Settings) -> Option<Discovery> {
    let endpoints = settings.words("discovery-endpoints");
    let time = |name: &str| {
        let ns = settings.duration_ns(name);
        Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
    };
    (!endpoints.is_empty()).then(|| Discovery {
        token: settings.text("discovery-token"),
        endpoints: endpoints
            .iter()
            .map(|endpoint| plain_endpoint(endpoint).to_owned())
            .collect(),
        dial_timeout: time("discovery-dial-timeout"),
        request_timeout: time("discovery-request-timeout"),
        keepalive_time: time("discovery-keepalive-time"),
        keepalive_timeout: time("discovery-keepalive-timeout"),
    })
}

/// `host:port` of an endpoint without TLS.
pub(super) fn plain_endpoint(endpoint: &str) -> &str {
    let endpoint = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    endpoint.trim_end_matches('/')
}

fn urls_of(value: &Value) -> Vec<Url> {
    match value {
        Value::Urls(urls) => urls.clone(),
        _ => Vec::new(),
    }
}

fn cluster_of(name: &str, urls: &[Url]) -> String {
    urls.iter()
        .map(|url| format!("{name}={url}"))
        .collect::<Vec<_>>()
        .join(",")
}
