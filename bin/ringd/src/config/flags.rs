//! Every flag of etcd 3.5.33, 3.6 and 3.7, and ringd's own.
//!
//! One row gives a flag's type, default, the releases that have it, where it stands in a configuration file and what
//! ringd makes of it. Command line, environment, file, help and warnings are all derived from these rows.

use super::value::{self, Value};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Uint,
    Uint32,
    /// Signed 64 bits.
    Int,
    Duration,
    Text,
    Choice(&'static [&'static str]),
    /// As `Choice`, but the message for another value repeats it.
    QuotedChoice(&'static [&'static str]),
    Urls,
    /// URLs, or `*` for all.
    Origins,
    /// Comma list, kept in order.
    Words,
    /// Comma list, sorted without duplicates.
    WordSet,
}

/// What ringd does with a value that differs from the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Acts,
    /// Accepted; a warning says that it changes nothing yet.
    Ignored,
    /// Refused, because running without the protection asked for would be worse than not running.
    RefusedSecurity,
    /// Refused, because ignoring it would form another cluster or serve another role than the one asked for.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Member,
    Clustering,
    Security,
    Auth,
    Profiling,
    Logging,
    Tracing,
    Proxy,
    Experimental,
    Unsafe,
    Ringd,
}

impl Group {
    pub(super) fn title(self) -> &'static str {
        match self {
            Group::Member => "Member",
            Group::Clustering => "Clustering",
            Group::Security => "Security",
            Group::Auth => "Auth",
            Group::Profiling => "Profiling and Monitoring",
            Group::Logging => "Logging",
            Group::Tracing => "Distributed tracing",
            Group::Proxy => "v2 Proxy",
            Group::Experimental => "Experimental feature",
            Group::Unsafe => "Unsafe feature",
            Group::Ringd => "ringd",
        }
    }
}

/// Where a value stands in a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Top(&'static str),
    /// The path of the block, with dots, and the key in it.
    Block(&'static str, &'static str),
    None,
}

#[derive(Debug, PartialEq)]
pub(super) struct Flag {
    /// The name on the command line. A name with a dot exists in files only.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: &'static str,
    /// The first release that has it; one below 3.5 is written as 3.5.
    pub(super) since: &'static str,
    /// The first release without it, or empty.
    pub(super) until: &'static str,
    pub(super) group: Group,
    pub(super) effect: Effect,
    pub(super) help: &'static str,
}

impl Flag {
    pub(super) fn on_command_line(&self) -> bool {
        !self.name.contains('.')
    }

    pub(super) fn env(&self) -> String {
        format!("ETCD_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    pub(super) fn default_value(&self) -> Value {
        match value::parse(self.kind, self.default) {
            Ok(Some(value)) => value,
            // The only default that yields nothing is an empty URL list; a test parses all the others.
            _ => Value::Urls(Vec::new()),
        }
    }

    pub(super) fn place(&self) -> Place {
        let name = self.name;
        if let Some((block, key)) = name.split_once('.') {
            return Place::Block(block, key);
        }
        const DISCOVERY: &str = "discovery-config";
        const DISCOVERY_CLIENT: &str = "discovery-config.client";
        const DISCOVERY_SECURE: &str = "discovery-config.client.secure";
        const DISCOVERY_AUTH: &str = "discovery-config.client.auth";
        const PEER: &str = "peer-transport-security";
        const CLIENT: &str = "client-transport-security";
        match name {
            "config-file" | "version" | "client-crl-file" | "peer-crl-file" => Place::None,
            "discovery-token" => Place::Block(DISCOVERY, "token"),
            "discovery-user" => Place::Block(DISCOVERY_AUTH, "username"),
            "discovery-password" => Place::Block(DISCOVERY_AUTH, "password"),
            "discovery-cert"
            | "discovery-key"
            | "discovery-cacert"
            | "discovery-insecure-transport"
            | "discovery-insecure-skip-tls-verify" => {
                Place::Block(DISCOVERY_SECURE, &name["discovery-".len()..])
            }
            "discovery-endpoints"
            | "discovery-dial-timeout"
            | "discovery-request-timeout"
            | "discovery-keepalive-time"
            | "discovery-keepalive-timeout" => {
                Place::Block(DISCOVERY_CLIENT, &name["discovery-".len()..])
            }
            "socket-reuse-port" => Place::Block("socket-options", "reuse-port"),
            "socket-reuse-address" => Place::Block("socket-options", "reuse-address"),
            "experimental-snapshot-catchup-entries" => {
                Place::Top("experimental-snapshot-catch-up-entries")
            }
            "client-cert-allowed-hostname" => Place::Block(CLIENT, "allowed-hostname"),
            "cert-file" | "key-file" | "client-cert-file" | "client-key-file"
            | "client-cert-auth" | "trusted-ca-file" | "auto-tls" => Place::Block(CLIENT, name),
            "peer-cert-allowed-cn" => Place::Block(PEER, "allowed-cn"),
            "peer-cert-allowed-hostname" => Place::Block(PEER, "allowed-hostname"),
            "peer-cert-file"
            | "peer-key-file"
            | "peer-client-cert-file"
            | "peer-client-key-file"
            | "peer-client-cert-auth"
            | "peer-trusted-ca-file"
            | "peer-auto-tls"
            | "peer-skip-client-san-verification" => Place::Block(PEER, &name["peer-".len()..]),
            _ => Place::Top(name),
        }
    }

    /// Whether a file gives it as a list rather than as text with commas.
    pub(super) fn is_yaml_list(&self) -> bool {
        matches!(self.kind, Kind::Words | Kind::WordSet) && self.name != "host-whitelist"
    }

    /// The name that 3.6 gave an experimental flag.
    pub(super) fn successor(&self) -> Option<&'static Flag> {
        find(self.name.strip_prefix("experimental-")?)
    }
}

pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|f| f.name == name)
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    group: Group,
    effect: Effect,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        kind,
        default,
        since: "3.5",
        until: "",
        group,
        effect,
        help,
    }
}

impl Flag {
    const fn since(mut self, release: &'static str) -> Flag {
        self.since = release;
        self
    }
    const fn until(mut self, release: &'static str) -> Flag {
        self.until = release;
        self
    }
}

use Effect::{Acts, Ignored, Refused, RefusedSecurity};
use Group::{
    Auth, Clustering, Experimental, Logging, Member, Profiling, Proxy, Ringd, Security, Tracing,
    Unsafe,
};
use Kind::{
    Bool, Choice, Duration, Int, Origins, QuotedChoice, Text, Uint, Uint32, Urls, WordSet, Words,
};

/// Flags of releases long gone: accepted in any form, with a warning.
pub(super) const LEGACY: &[&str] = &[
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
    "test.coverprofile",
    "test.outputdir",
];

#[rustfmt::skip]
pub(super) static FLAGS: &[Flag] = &[
    flag("name", Text, "default", Member, Acts, "Human-readable name of this member, unique in its cluster."),
    flag("data-dir", Text, "", Member, Acts, "Data directory; ${name}.ringd when it is not given."),
    flag("wal-dir", Text, "", Member, Acts, "Directory of the write-ahead log, when it is not to be inside the data directory."),
    flag("snapshot-count", Uint, "100000", Member, Ignored, "Accepted for compatibility: ringd checkpoints by size and time, not by a count of entries."),
    flag("heartbeat-interval", Uint, "100", Member, Acts, "Milliseconds between a leader's heartbeats."),
    flag("election-timeout", Uint, "1000", Member, Acts, "Milliseconds without a heartbeat after which a follower campaigns."),
    flag("initial-election-tick-advance", Bool, "true", Member, Acts, "Start with the election timer advanced, so that the first election comes sooner."),
    flag("listen-peer-urls", Urls, "http://localhost:2380", Member, Acts, "URLs to listen on for peers."),
    flag("listen-client-urls", Urls, "http://localhost:2379", Member, Acts, "URLs to listen on for clients: gRPC, and HTTP unless listen-client-http-urls is given."),
    flag("listen-client-http-urls", Urls, "", Member, Ignored, "URLs to listen on for HTTP alone.").since("3.5.8"),
    flag("max-snapshots", Uint, "5", Member, Ignored, "Snapshot files to keep, 0 for all."),
    flag("max-wals", Uint, "5", Member, Ignored, "Write-ahead log files to keep, 0 for all."),
    flag("quota-backend-bytes", Int, "0", Member, Acts, "Bytes of storage above which writes are refused and the NOSPACE alarm is raised; 0 for 2 GiB, negative for none."),
    flag("backend-bbolt-freelist-type", Text, "map", Member, Ignored, "Accepted for compatibility: ringd does not store in bbolt."),
    flag("backend-batch-interval", Duration, "0", Member, Ignored, "Accepted for compatibility: ringd does not batch backend transactions."),
    flag("backend-batch-limit", Int, "0", Member, Ignored, "Accepted for compatibility: ringd does not batch backend transactions."),
    flag("max-txn-ops", Uint, "128", Member, Acts, "Operations that a transaction may hold."),
    flag("max-request-bytes", Uint, "1572864", Member, Acts, "Size of the largest request accepted."),
    flag("max-concurrent-streams", Uint32, "4294967295", Member, Acts, "Streams that a client may have open on one connection.").since("3.5.5"),
    flag("enable-grpc-gateway", Bool, "true", Member, Ignored, "Serve the JSON gateway under /v3/."),
    flag("grpc-keepalive-min-time", Duration, "5s", Member, Acts, "Shortest interval at which a client may ping."),
    flag("grpc-keepalive-interval", Duration, "2h", Member, Acts, "Interval of the server's own pings, 0 for none."),
    flag("grpc-keepalive-timeout", Duration, "20s", Member, Acts, "Time without an answer to a ping after which a connection is closed, 0 for none."),
    flag("socket-reuse-port", Bool, "false", Member, Ignored, "Set SO_REUSEPORT on listeners."),
    flag("socket-reuse-address", Bool, "false", Member, Ignored, "Set SO_REUSEADDR on listeners."),
    flag("raft-read-timeout", Duration, "5s", Member, Ignored, "Read time-out of peer connections, at least 5s.").since("3.5.8"),
    flag("raft-write-timeout", Duration, "5s", Member, Ignored, "Write time-out of peer connections, at least 5s.").since("3.5.8"),
    flag("config-file", Text, "", Member, Acts, "Configuration file; all other flags and the environment are then ignored."),
    flag("version", Bool, "false", Member, Acts, "Print the version and exit."),

    flag("initial-advertise-peer-urls", Urls, "http://localhost:2380", Clustering, Acts, "This member's peer URLs as the other members see them."),
    flag("initial-cluster", Text, "", Clustering, Acts, "The members at bootstrap: name=url[,name=url...]."),
    flag("initial-cluster-state", Choice(&["new", "existing"]), "new", Clustering, Acts, "`new` to found a cluster, `existing` to join one."),
    flag("initial-cluster-token", Text, "etcd-cluster", Clustering, Acts, "Text that keeps the identifiers of clusters with equal URLs apart."),
    flag("advertise-client-urls", Urls, "http://localhost:2379", Clustering, Acts, "This member's client URLs as clients see them."),
    flag("discovery", Text, "", Clustering, Refused, "URL of a v2 discovery token.").until("3.7"),
    flag("discovery-fallback", Choice(&["exit", "proxy"]), "proxy", Clustering, Ignored, "What to do when v2 discovery fails.").until("3.7"),
    flag("discovery-proxy", Text, "", Clustering, Ignored, "HTTP proxy for v2 discovery.").until("3.7"),
    flag("discovery-endpoints", Words, "", Clustering, Acts, "Endpoints of the v3 discovery service.").since("3.6"),
    flag("discovery-token", Text, "", Clustering, Acts, "Token of v3 discovery.").since("3.6"),
    flag("discovery-dial-timeout", Duration, "2s", Clustering, Acts, "Dial time-out of v3 discovery.").since("3.6"),
    flag("discovery-request-timeout", Duration, "5s", Clustering, Acts, "Request time-out of v3 discovery.").since("3.6"),
    flag("discovery-keepalive-time", Duration, "2s", Clustering, Acts, "Keep-alive interval of v3 discovery.").since("3.6"),
    flag("discovery-keepalive-timeout", Duration, "6s", Clustering, Acts, "Keep-alive time-out of v3 discovery.").since("3.6"),
    flag("discovery-insecure-transport", Bool, "true", Clustering, RefusedSecurity, "Allow v3 discovery without TLS.").since("3.6"),
    flag("discovery-insecure-skip-tls-verify", Bool, "false", Clustering, Ignored, "Skip the certificate check of v3 discovery.").since("3.6"),
    flag("discovery-cert", Text, "", Clustering, RefusedSecurity, "Client certificate for v3 discovery.").since("3.6"),
    flag("discovery-key", Text, "", Clustering, RefusedSecurity, "Client key for v3 discovery.").since("3.6"),
    flag("discovery-cacert", Text, "", Clustering, RefusedSecurity, "CA certificate for v3 discovery.").since("3.6"),
    flag("discovery-user", Text, "", Clustering, RefusedSecurity, "User for v3 discovery: name[:password].").since("3.6"),
    flag("discovery-password", Text, "", Clustering, RefusedSecurity, "Password for v3 discovery.").since("3.6"),
    flag("discovery-srv", Text, "", Clustering, Acts, "DNS domain whose SRV records list the members."),
    flag("discovery-srv-name", Text, "", Clustering, Acts, "Suffix of the SRV service name."),
    flag("strict-reconfig-check", Bool, "true", Clustering, Acts, "Refuse membership changes that would cost the quorum."),
    flag("pre-vote", Bool, "true", Clustering, Acts, "Ask whether an election could be won before starting it."),
    flag("auto-compaction-retention", Text, "0", Clustering, Acts, "History to keep: hours or a duration (periodic), or a number of revisions; 0 for all."),
    flag("auto-compaction-mode", Text, "periodic", Clustering, Acts, "Meaning of auto-compaction-retention: `periodic` or `revision`."),
    flag("enable-v2", Bool, "false", Clustering, Ignored, "The v2 API; not offered.").until("3.6"),
    flag("experimental-enable-v2v3", Text, "", Clustering, Ignored, "The v2 API over v3 storage; not offered.").until("3.6"),
    flag("v2-deprecation", QuotedChoice(&["not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "not-yet", Clustering, Ignored, "Phase of the v2 store's removal; ringd has none."),
    flag("max-learners", Int, "1", Clustering, Acts, "Learners that the cluster may have.").since("3.6"),

    flag("cert-file", Text, "", Security, RefusedSecurity, "Certificate for client listeners."),
    flag("key-file", Text, "", Security, RefusedSecurity, "Key for client listeners."),
    flag("client-cert-file", Text, "", Security, RefusedSecurity, "Certificate for connections of the server to itself.").since("3.5.2"),
    flag("client-key-file", Text, "", Security, RefusedSecurity, "Key for connections of the server to itself.").since("3.5.2"),
    flag("client-cert-auth", Bool, "false", Security, RefusedSecurity, "Require and verify client certificates."),
    flag("client-crl-file", Text, "", Security, RefusedSecurity, "Revocation list for client certificates."),
    flag("client-cert-allowed-hostname", Words, "", Security, RefusedSecurity, "Host names of which a client certificate must carry one."),
    flag("client-transport-security.allowed-cn", Words, "", Security, RefusedSecurity, "Common names of which a client certificate must carry one."),
    flag("trusted-ca-file", Text, "", Security, RefusedSecurity, "CA certificate for client listeners."),
    flag("auto-tls", Bool, "false", Security, RefusedSecurity, "Client TLS with a generated certificate."),
    flag("peer-cert-file", Text, "", Security, RefusedSecurity, "Certificate for peer connections."),
    flag("peer-key-file", Text, "", Security, RefusedSecurity, "Key for peer connections."),
    flag("peer-client-cert-file", Text, "", Security, RefusedSecurity, "Certificate for outgoing peer connections.").since("3.5.2"),
    flag("peer-client-key-file", Text, "", Security, RefusedSecurity, "Key for outgoing peer connections.").since("3.5.2"),
    flag("peer-client-cert-auth", Bool, "false", Security, RefusedSecurity, "Require and verify peers' certificates."),
    flag("peer-trusted-ca-file", Text, "", Security, RefusedSecurity, "CA certificate for peer connections."),
    flag("peer-auto-tls", Bool, "false", Security, RefusedSecurity, "Peer TLS with a generated certificate."),
    flag("peer-crl-file", Text, "", Security, RefusedSecurity, "Revocation list for peers' certificates."),
    flag("peer-cert-allowed-cn", Words, "", Security, RefusedSecurity, "Common names of which a peer's certificate must carry one."),
    flag("peer-cert-allowed-hostname", Words, "", Security, RefusedSecurity, "Host names of which a peer's certificate must carry one."),
    flag("experimental-peer-skip-client-san-verification", Bool, "false", Security, RefusedSecurity, "Do not compare a peer's address with its certificate.").until("3.7"),
    flag("peer-skip-client-san-verification", Bool, "false", Security, RefusedSecurity, "Do not compare a peer's address with its certificate.").since("3.6"),
    flag("client-transport-security.skip-client-san-verification", Bool, "false", Security, RefusedSecurity, "Without meaning for clients."),
    flag("self-signed-cert-validity", Uint, "1", Security, Ignored, "Years for which generated certificates are valid."),
    flag("cipher-suites", Words, "", Security, RefusedSecurity, "TLS cipher suites to offer."),
    flag("tls-min-version", Text, "TLS1.2", Security, RefusedSecurity, "Lowest TLS version: TLS1.2 or TLS1.3.").since("3.5.8"),
    flag("tls-max-version", Text, "", Security, RefusedSecurity, "Highest TLS version: TLS1.2 or TLS1.3.").since("3.5.8"),
    flag("cors", Origins, "*", Security, RefusedSecurity, "Origins that browsers may call from."),
    flag("host-whitelist", WordSet, "*", Security, RefusedSecurity, "Host names that plain HTTP requests may name."),

    flag("auth-token", Text, "simple", Auth, RefusedSecurity, "Kind of authentication token, `simple` or `jwt`, with its options."),
    flag("bcrypt-cost", Uint, "10", Auth, Ignored, "Cost of password hashes, 4 to 31."),
    flag("auth-token-ttl", Uint, "300", Auth, Ignored, "Seconds for which a simple token is valid."),

    flag("enable-pprof", Bool, "false", Profiling, Ignored, "Serve run-time profiles under /debug/pprof/."),
    flag("metrics", Text, "basic", Profiling, Ignored, "`extensive` adds histograms of gRPC handling times."),
    flag("listen-metrics-urls", Urls, "", Profiling, Ignored, "Additional URLs to serve metrics and health on."),

    flag("logger", Text, "zap", Logging, Acts, "Only `zap`: structured lines."),
    flag("log-outputs", WordSet, "default", Logging, Acts, "`default`, `stderr`, `stdout`, `systemd/journal` or file names."),
    flag("log-level", Text, "info", Logging, Acts, "debug, info, warn, error, dpanic, panic or fatal."),
    flag("log-format", Text, "json", Logging, Acts, "`json` or `console`.").since("3.6"),
    flag("enable-log-rotation", Bool, "false", Logging, Ignored, "Rotate the one log file."),
    flag("log-rotation-config-json", Text, r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#, Logging, Ignored, "How to rotate: megabytes, days, number of files."),

    flag("experimental-enable-distributed-tracing", Bool, "false", Tracing, Ignored, "Export traces.").until("3.7"),
    flag("experimental-distributed-tracing-address", Text, "localhost:4317", Tracing, Ignored, "Address of the collector.").until("3.7"),
    flag("experimental-distributed-tracing-service-name", Text, "etcd", Tracing, Ignored, "Service name in traces.").until("3.7"),
    flag("experimental-distributed-tracing-instance-id", Text, "", Tracing, Ignored, "Instance identifier in traces.").until("3.7"),
    flag("experimental-distributed-tracing-sampling-rate", Int, "0", Tracing, Ignored, "Samples per million.").since("3.5.11").until("3.7"),
    flag("enable-distributed-tracing", Bool, "false", Tracing, Ignored, "Export traces.").since("3.6"),
    flag("distributed-tracing-address", Text, "localhost:4317", Tracing, Ignored, "Address of the collector.").since("3.6"),
    flag("distributed-tracing-service-name", Text, "etcd", Tracing, Ignored, "Service name in traces.").since("3.6"),
    flag("distributed-tracing-instance-id", Text, "", Tracing, Ignored, "Instance identifier in traces.").since("3.6"),
    flag("distributed-tracing-sampling-rate", Int, "0", Tracing, Ignored, "Samples per million.").since("3.6"),

    flag("proxy", Choice(&["off", "readonly", "on"]), "off", Proxy, Refused, "The v2 proxy; not offered.").until("3.6"),
    flag("proxy-failure-wait", Uint, "5000", Proxy, Ignored, "v2 proxy only.").until("3.6"),
    flag("proxy-refresh-interval", Uint, "30000", Proxy, Ignored, "v2 proxy only.").until("3.6"),
    flag("proxy-dial-timeout", Uint, "1000", Proxy, Ignored, "v2 proxy only.").until("3.6"),
    flag("proxy-write-timeout", Uint, "5000", Proxy, Ignored, "v2 proxy only.").until("3.6"),
    flag("proxy-read-timeout", Uint, "0", Proxy, Ignored, "v2 proxy only.").until("3.6"),

    flag("experimental-initial-corrupt-check", Bool, "false", Experimental, Ignored, "Compare hashes with peers before serving.").until("3.7"),
    flag("experimental-corrupt-check-time", Duration, "0s", Experimental, Ignored, "Interval of the leader's hash comparison, 0 for none.").until("3.7"),
    flag("corrupt-check-time", Duration, "0s", Experimental, Ignored, "Interval of the leader's hash comparison, 0 for none.").since("3.6"),
    flag("experimental-compact-hash-check-enabled", Bool, "false", Experimental, Ignored, "Compare hashes of compactions.").since("3.5.5").until("3.7"),
    flag("experimental-compact-hash-check-time", Duration, "1m", Experimental, Ignored, "Interval of the comparison of compaction hashes.").since("3.5.5").until("3.7"),
    flag("compact-hash-check-time", Duration, "1m", Experimental, Ignored, "Interval of the comparison of compaction hashes.").since("3.6"),
    flag("experimental-enable-lease-checkpoint", Bool, "false", Experimental, Ignored, "Replicate remaining lease times.").until("3.7"),
    flag("experimental-enable-lease-checkpoint-persist", Bool, "false", Experimental, Ignored, "Store remaining lease times.").since("3.5.2").until("3.7"),
    flag("experimental-compaction-batch-limit", Int, "1000", Experimental, Ignored, "Accepted for compatibility: ringd compacts in short slices between requests.").until("3.7"),
    flag("compaction-batch-limit", Int, "1000", Experimental, Ignored, "Accepted for compatibility: ringd compacts in short slices between requests.").since("3.6"),
    flag("experimental-compaction-sleep-interval", Duration, "10ms", Experimental, Ignored, "Accepted for compatibility: ringd compacts in short slices between requests.").since("3.5.16").until("3.7"),
    flag("compaction-sleep-interval", Duration, "10ms", Experimental, Ignored, "Accepted for compatibility: ringd compacts in short slices between requests.").since("3.6"),
    flag("experimental-watch-progress-notify-interval", Duration, "10m", Experimental, Acts, "Interval of progress notifications to watchers that ask for them.").until("3.7"),
    flag("watch-progress-notify-interval", Duration, "10m", Experimental, Acts, "Interval of progress notifications to watchers that ask for them.").since("3.6"),
    flag("experimental-warning-apply-duration", Duration, "100ms", Experimental, Ignored, "Requests that take longer are logged.").until("3.7"),
    flag("warning-apply-duration", Duration, "100ms", Experimental, Ignored, "Requests that take longer are logged.").since("3.6"),
    flag("experimental-warning-unary-request-duration", Duration, "300ms", Experimental, Ignored, "Unary calls that take longer are logged.").since("3.6").until("3.7"),
    flag("warning-unary-request-duration", Duration, "300ms", Experimental, Ignored, "Unary calls that take longer are logged.").since("3.6"),
    flag("experimental-memory-mlock", Bool, "false", Experimental, Ignored, "Lock the memory map.").until("3.7"),
    flag("memory-mlock", Bool, "false", Experimental, Ignored, "Lock the memory map.").since("3.6"),
    flag("experimental-txn-mode-write-with-shared-buffer", Bool, "true", Experimental, Ignored, "Accepted for compatibility: ringd has no such buffer.").until("3.7"),
    flag("experimental-bootstrap-defrag-threshold-megabytes", Uint, "0", Experimental, Ignored, "Defragment at start when it frees this many megabytes.").until("3.7"),
    flag("bootstrap-defrag-threshold-megabytes", Uint, "0", Experimental, Ignored, "Defragment at start when it frees this many megabytes.").since("3.6"),
    flag("experimental-stop-grpc-service-on-defrag", Bool, "false", Experimental, Ignored, "Report not serving during defragmentation.").since("3.5.14").until("3.7"),
    flag("experimental-snapshot-catchup-entries", Uint, "5000", Experimental, Ignored, "Log entries kept for slow followers.").since("3.5.21").until("3.7"),
    flag("snapshot-catchup-entries", Uint, "5000", Experimental, Ignored, "Log entries kept for slow followers.").since("3.6"),
    flag("experimental-downgrade-check-time", Duration, "5s", Experimental, Ignored, "Interval of the downgrade check.").until("3.7"),
    flag("downgrade-check-time", Duration, "5s", Experimental, Ignored, "Interval of the downgrade check.").since("3.6"),
    flag("feature-gates", Text, "", Experimental, Ignored, "Features to switch: Name=true[,Name=false...].").since("3.6"),

    flag("force-new-cluster", Bool, "false", Unsafe, Acts, "Make a one-member cluster of this member's data; for one start only."),
    flag("unsafe-no-fsync", Bool, "false", Unsafe, Ignored, "Write without flushing. ringd always flushes."),

    flag("wal-io", Choice(&["auto", "thread", "inline", "ring"]), "auto", Ringd, Acts, "How log writes reach the device; `auto` measures at first start."),
    flag("scrub-interval", Duration, "24h0m0s", Ringd, Acts, "How often all pages and log segments are read from the device and checked; 0s for never."),
    flag("requests-held-bytes", Uint, "0", Ringd, Acts, "What requests may hold together until they are answered; 0 for an eighth of the memory limit, 256 MiB at most."),
    flag("lease-drift-bound", Uint, "0", Ringd, Acts, "How much slower than a member's a client's clock may run, in parts per million: so much longer a lease lives than its TTL."),
    flag("cores", Choice(&["fused", "split"]), "fused", Ringd, Acts, "Placement of the roles: one core for all, or a core for each."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_parses_and_names_are_unique() {
        let mut names = std::collections::BTreeSet::new();
        for flag in FLAGS {
            assert!(names.insert(flag.name), "{} twice", flag.name);
            assert!(
                value::parse(flag.kind, flag.default).is_ok(),
                "{}: {:?}",
                flag.name,
                flag.default
            );
            assert!(!LEGACY.contains(&flag.name));
        }
    }

    #[test]
    fn rows_know_their_place_in_a_file() {
        let place = |name| find(name).unwrap().place();
        assert_eq!(place("name"), Place::Top("name"));
        assert_eq!(
            place("peer-cert-file"),
            Place::Block("peer-transport-security", "cert-file")
        );
        assert_eq!(
            place("peer-client-cert-file"),
            Place::Block("peer-transport-security", "client-cert-file")
        );
        assert_eq!(
            place("client-cert-auth"),
            Place::Block("client-transport-security", "client-cert-auth")
        );
        assert_eq!(
            place("socket-reuse-port"),
            Place::Block("socket-options", "reuse-port")
        );
        assert_eq!(place("client-crl-file"), Place::None);
        assert_eq!(
            find("experimental-memory-mlock")
                .unwrap()
                .successor()
                .unwrap()
                .name,
            "memory-mlock"
        );
        assert_eq!(
            find("listen-peer-urls").unwrap().env(),
            "ETCD_LISTEN_PEER_URLS"
        );
    }
}
