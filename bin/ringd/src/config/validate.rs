//! The checks that follow parsing, in etcd's order and words, and then ringd's own refusals.

use super::{
    duration::{self, format_ns},
    flags::{Effect, Flag, Kind},
    settings::{Mode, Settings},
    url::{quoted, split_host_port, Url},
    value::Value,
};
use crate::{
    caller,
    logging::{self, Level, Record},
};

/// Text of the check that a second line follows in etcd's log.
pub(super) const NO_ADVERTISED_CLIENT_URLS: &str =
    "--advertise-client-urls is required when --listen-client-urls is set explicitly";

/// The logging set-up, which etcd checks before everything else. `Err` with code 2 is what etcd panics with.
pub(super) fn logging(settings: &Settings) -> Result<logging::Config, (String, i32)> {
    match settings.text("logger").as_str() {
        "zap" => {}
        "capnslog" => return Err(("--logger=capnslog is removed in v3.5".into(), 1)),
        other => return Err((format!("unknown logger option {}", quoted(other)), 1)),
    }
    let mut names = settings.words("log-outputs");
    if names.is_empty() {
        names.push(if settings.mode == Mode::File {
            "default".into()
        } else {
            String::new()
        });
    }
    if names.len() > 1 && names.iter().any(|n| n == "default") {
        return Err((
            "multi logoutput for \"default\" is not supported yet".into(),
            1,
        ));
    }
    if settings.bool("enable-log-rotation") {
        rotation(settings, &names).map_err(|text| (text, 1))?;
    }
    let level = settings.text("log-level");
    let level = logging::Level::parse(&level)
        .ok_or((format!("unrecognized level: {}", quoted(&level)), 2))?;
    let format = match settings.text("log-format").as_str() {
        "json" | "" => logging::Format::Json,
        "console" => logging::Format::Console,
        other => {
            return Err((
                format!("unknown log format: {other}, supported values json, console"),
                1,
            ))
        }
    };
    let outputs = names
        .iter()
        .map(|name| match name.as_str() {
            "default" | "stderr" => logging::Output::Stderr,
            "stdout" => logging::Output::Stdout,
            "systemd/journal" => logging::Output::Journal,
            path => logging::Output::File(path.into()),
        })
        .collect();
    Ok(logging::Config {
        level,
        format,
        outputs,
    })
}

fn rotation(settings: &Settings, outputs: &[String]) -> Result<(), String> {
    let files = outputs.iter().filter(|n| {
        !matches!(
            n.as_str(),
            "default" | "stderr" | "stdout" | "systemd/journal"
        )
    });
    let json = settings.text("log-rotation-config-json");
    let parsed: serde_json::Value = serde_json::from_str(&json)
        .map_err(|e| format!("improperly formatted log rotation config: {e}"))?;
    for (key, wanted) in [
        ("maxsize", true),
        ("maxage", true),
        ("maxbackups", true),
        ("localtime", false),
        ("compress", false),
    ] {
        let fits = match parsed.get(key) {
            None => true,
            Some(value) if wanted => value.is_i64(),
            Some(value) => value.is_boolean(),
        };
        if !fits {
            return Err(format!(
                "invalid log rotation config: {key} has the wrong type"
            ));
        }
    }
    if files.count() != 1 || outputs.len() != 1 {
        return Err(
            "--log-outputs requires a single file path when --log-rotate-config-json is defined"
                .into(),
        );
    }
    Ok(())
}

/// Everything that goes with `failed to verify flags`.
pub(super) fn check(settings: &Settings) -> Result<(), String> {
    for name in [
        "listen-peer-urls",
        "listen-client-urls",
        "listen-client-http-urls",
        "listen-metrics-urls",
    ] {
        if let Some(url) = settings.urls(name).iter().find(|url| !url.is_bindable()) {
            return Err(format!("expected IP in URL for binding ({url})"));
        }
    }
    for name in ["initial-advertise-peer-urls", "advertise-client-urls"] {
        let urls = settings.urls(name);
        if let Some(url) = urls
            .iter()
            .find(|url| url.host().is_empty() && !url.scheme().is_unix())
        {
            let all = super::url::join(&urls);
            return Err(format!(
                "--{name} {} must be \"host:port\" (unexpected empty host ({url}))",
                quoted(&all)
            ));
        }
    }
    let state = settings.text("initial-cluster-state");
    if !matches!(state.as_str(), "" | "new" | "existing") {
        return Err(format!("unexpected clusterState {}", quoted(&state)));
    }
    bootstrap(settings)?;
    timing(settings)?;
    if settings.mode == Mode::CommandLine
        && settings.is_set("listen-client-urls")
        && !settings.is_set("advertise-client-urls")
    {
        return Err(NO_ADVERTISED_CLIENT_URLS.into());
    }
    let mode = settings.text("auto-compaction-mode");
    if !matches!(mode.as_str(), "" | "periodic" | "revision") {
        return Err(format!("unknown auto-compaction-mode {}", quoted(&mode)));
    }
    experimental(settings)?;
    tls_versions(settings)?;
    tracing(settings)?;
    lease_drift(settings)?;
    feature_gates(&settings.text("feature-gates"))?;
    choices(settings)
}

fn bootstrap(settings: &Settings) -> Result<(), String> {
    let given = |name: &str| settings.is_set(name) && !settings.text(name).is_empty();
    let v3 = !settings.words("discovery-endpoints").is_empty();
    let count = [
        given("initial-cluster"),
        given("discovery"),
        given("discovery-srv"),
        v3,
    ]
    .iter()
    .filter(|b| **b)
    .count();
    if count > 1 {
        // The text of the release that has the flags.
        let known = match v3 {
            true => {
                "\"initial-cluster\", \"discovery\", \"discovery-endpoints\" or \"discovery-srv\""
            }
            false => "\"initial-cluster\", \"discovery\" or \"discovery-srv\"",
        };
        return Err(format!(
            "multiple discovery or bootstrap flags are set. Choose one of {known}"
        ));
    }
    let v3_names = [
        "discovery-token",
        "discovery-cert",
        "discovery-key",
        "discovery-cacert",
        "discovery-user",
        "discovery-password",
    ];
    if (given("discovery") || given("discovery-proxy")) && (v3 || v3_names.iter().any(|n| given(n)))
    {
        return Err("both v2 discovery settings (discovery, discovery-proxy) and v3 discovery settings (discovery-token, discovery-endpoints, discovery-cert, discovery-key, discovery-cacert, discovery-user, discovery-password) are set".into());
    }
    if v3 != given("discovery-token") {
        return Err("both --discovery-token and --discovery-endpoints must be set".into());
    }
    if settings
        .words("discovery-endpoints")
        .iter()
        .any(String::is_empty)
    {
        return Err("--discovery-endpoints must not contain empty endpoints".into());
    }
    Ok(())
}

const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;
/// An election timeout must be at least this many heartbeats long.
const HEARTBEATS_PER_ELECTION_MIN: u64 = 5;

fn timing(settings: &Settings) -> Result<(), String> {
    let (tick, election) = (
        settings.uint("heartbeat-interval"),
        settings.uint("election-timeout"),
    );
    if tick == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".into());
    }
    if election == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".into());
    }
    if tick.saturating_mul(HEARTBEATS_PER_ELECTION_MIN) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{tick}ms]"
        ));
    }
    if election > ELECTION_TIMEOUT_MS_MAX {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than 50000ms"
        ));
    }
    Ok(())
}

fn experimental(settings: &Settings) -> Result<(), String> {
    for (flag, _) in settings.given() {
        if let Some(new) = flag.successor().filter(|new| settings.is_set(new.name)) {
            if new.name == "warning-unary-request-duration" {
                return Err("both --experimental-warning-unary-request-duration and --warning-unary-request-duration flags are set. Use only --warning-unary-request-duration".into());
            }
            return Err(format!(
                "cannot set --{} and --{} at the same time, please use --{} only",
                flag.name, new.name, new.name
            ));
        }
    }
    let checkpoint = settings.bool("experimental-enable-lease-checkpoint");
    if settings.bool("experimental-enable-lease-checkpoint-persist") && !checkpoint {
        return Err("setting experimental-enable-lease-checkpoint-persist requires experimental-enable-lease-checkpoint".into());
    }
    let name = settings.either("compact-hash-check-time");
    let ns = settings.duration_ns(&name);
    if ns <= 0 {
        return Err(format!("--{name} must be >0 (set to {})", format_ns(ns)));
    }
    Ok(())
}

fn tls_versions(settings: &Settings) -> Result<(), String> {
    let rank = |name: &str| match settings.text(name).as_str() {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(2)),
        "TLS1.3" => Ok(Some(3)),
        other => Err(format!(
            "unexpected TLS version {} (must be one of: TLS1.2, TLS1.3)",
            quoted(other)
        )),
    };
    let (min, max) = (rank("tls-min-version")?, rank("tls-max-version")?);
    if let (Some(low), Some(high)) = (min, max) {
        if low > high {
            return Err("min version (TLS1.3) is greater than max version (TLS1.2)".into());
        }
    }
    if min == Some(3) && !settings.words("cipher-suites").is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".into());
    }
    Ok(())
}

const DRIFT_BOUND_PPM_MAX: u64 = 1_000_000;

fn lease_drift(settings: &Settings) -> Result<(), String> {
    match settings.uint("lease-drift-bound") {
        ..=DRIFT_BOUND_PPM_MAX => Ok(()),
        bound => Err(format!(
            "--lease-drift-bound[{bound}] is too large: it is in parts per million, {DRIFT_BOUND_PPM_MAX} at most"
        )),
    }
}

const SAMPLES_PER_MILLION_MAX: i64 = 1_000_000;

fn tracing(settings: &Settings) -> Result<(), String> {
    if !settings.bool(&settings.either("enable-distributed-tracing")) {
        return Ok(());
    }
    let rate = settings.int(&settings.either("distributed-tracing-sampling-rate"));
    let why = match rate {
        ..=-1 => "tracing sampling rate must be positive",
        r if r > SAMPLES_PER_MILLION_MAX => "tracing sampling rate must be less than 1000000",
        _ => return Ok(()),
    };
    Err(format!(
        "distributed tracing configurition is not valid: ({why})"
    ))
}

const FEATURE_GATES: &[&str] = &[
    "AllAlpha",
    "AllBeta",
    "CompactHashCheck",
    "FastLeaseKeepAlive",
    "InitialCorruptCheck",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "PriorityRequest",
    "SetMemberLocalAddr",
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
];

fn feature_gates(text: &str) -> Result<(), String> {
    for item in text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        let Some((name, value)) = item.split_once('=') else {
            return Err(format!("missing bool value for {item}"));
        };
        let (name, value) = (name.trim(), value.trim());
        if super::value::parse(Kind::Bool, value).is_err() {
            let why = format!(
                "strconv.ParseBool: parsing {}: invalid syntax",
                quoted(value)
            );
            return Err(format!("invalid value of {name}={value}, err: {why}"));
        }
        if !FEATURE_GATES.contains(&name) {
            return Err(format!("unrecognized feature gate: {name}"));
        }
    }
    Ok(())
}

/// The command line checks choices as it parses; a file does not.
fn choices(settings: &Settings) -> Result<(), String> {
    for (flag, value) in settings.given() {
        if let (Kind::Choice(options) | Kind::QuotedChoice(options), Value::Text(text)) =
            (flag.kind, value)
        {
            if !text.is_empty() && !options.contains(&text.as_str()) {
                return Err(format!(
                    "invalid value {} for {}: must be one of {}",
                    quoted(text),
                    flag.name,
                    options.join(", ")
                ));
            }
        }
    }
    Ok(())
}

/// What ringd does not do yet and must not pretend to do.
pub(super) fn refuse(settings: &Settings) -> Result<(), String> {
    for (flag, value) in settings
        .given()
        .filter(|(flag, value)| differs(flag, value))
    {
        let name = match flag.on_command_line() {
            true => format!("--{}", flag.name),
            false => flag.name.to_owned(),
        };
        match flag.effect {
            Effect::RefusedSecurity => {
                return Err(format!(
                    "{name} is not supported by this version of ringd, which would run without the protection that it asks for; remove it to start all the same"
                ))
            }
            Effect::Refused if flag.name == "discovery" => return Err(format!(
                "{name} is not supported by ringd, which has no v2 store (etcd 3.7 removed it as well): use --discovery-endpoints with --discovery-token, or --discovery-srv"
            )),
            Effect::Refused => return Err(format!("{name} is not supported by this version of ringd ({})", shown(value))),
            Effect::Acts | Effect::Ignored => {}
        }
    }
    for endpoint in settings.words("discovery-endpoints") {
        let plain = super::derive::plain_endpoint(&endpoint);
        if plain.contains('/') || split_host_port(plain).is_none() {
            return Err(format!(
                "--discovery-endpoints has {}, and this version of ringd speaks to the discovery service without TLS only: \
                 name it as http://host:port or host:port",
                quoted(&endpoint)
            ));
        }
    }
    if settings.text("cores") == "split" {
        return Err(
            "--cores=split is not available in this version of ringd; use --cores=fused".into(),
        );
    }
    Ok(())
}

/// A TLS scheme without a certificate can't be served; etcd's own text.
pub(super) fn plain_listeners(settings: &Settings) -> Result<(), String> {
    let tls = |name: &str| {
        settings
            .urls(name)
            .into_iter()
            .find(|url: &Url| url.scheme().is_tls())
    };
    for name in ["listen-client-urls", "listen-client-http-urls"] {
        if let Some(url) = tls(name) {
            return Err(format!("TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"));
        }
    }
    for name in ["listen-peer-urls", "initial-advertise-peer-urls"] {
        if let Some(url) = tls(name) {
            return Err(format!(
                "TLS between members is not supported by this version of ringd: --{name} has {url}"
            ));
        }
    }
    if let Some(url) = tls("listen-metrics-urls") {
        return Err(format!("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url {url}"));
    }
    Ok(())
}

/// One warning for each setting that changes nothing.
pub(super) fn without_effect(settings: &Settings) -> Vec<Record> {
    settings
        .given()
        .filter(|(flag, value)| flag.effect == Effect::Ignored && differs(flag, value))
        .map(|(flag, value)| {
            Record::new(
                Level::Warn,
                caller!(),
                "accepted setting has no effect in this version of ringd",
            )
            .with("setting", flag.name)
            .with("value", shown(value))
        })
        .collect()
}

fn differs(flag: &Flag, value: &Value) -> bool {
    match value {
        // `zero means default` for these; an empty text is as good as none.
        Value::Text(text) => !text.is_empty() && *value != flag.default_value(),
        Value::Words(words) => !words.is_empty() && *value != flag.default_value(),
        _ => *value != flag.default_value(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Bool(v) => v.to_string(),
        Value::Uint(v) => v.to_string(),
        Value::Int(v) => v.to_string(),
        Value::Duration(ns) => format_ns(*ns),
        Value::Text(text) => text.clone(),
        Value::Urls(urls) => super::url::join(urls),
        Value::Words(words) => words.join(","),
    }
}

/// How much history automatic compaction keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Keeps the revisions of the last so many nanoseconds.
    Periodic {
        retention_ns: u64,
    },
    /// Keeps the last so many revisions.
    Revision {
        retention: u64,
    },
}

/// Reads mode and retention together: a bare number is hours or revisions, anything else a duration.
pub(super) fn auto_compaction(settings: &Settings) -> Result<AutoCompaction, String> {
    const HOUR_NS: u64 = 3_600_000_000_000;
    let text = settings.text("auto-compaction-retention");
    let revision = settings.text("auto-compaction-mode") == "revision";
    let amount = match text.parse::<u64>() {
        _ if text.is_empty() => 0,
        Ok(number) if revision => number,
        Ok(hours) => hours.saturating_mul(HOUR_NS),
        Err(_) => {
            let ns = duration::parse_ns(&text)
                .map_err(|e| format!("error parsing CompactionRetention: {e}"))?;
            u64::try_from(ns).unwrap_or(0)
        }
    };
    Ok(match (amount, revision) {
        (0, _) => AutoCompaction::Off,
        (retention, true) => AutoCompaction::Revision { retention },
        (retention_ns, false) => AutoCompaction::Periodic { retention_ns },
    })
}
