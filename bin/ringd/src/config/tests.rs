//! The tables of etcd's configuration rules, row by row.

mod discovery;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use super::{load::Host, *};
use crate::logging::Record;

/// A machine with the given files and a default route.
#[derive(Default)]
struct Fake {
    files: BTreeMap<PathBuf, String>,
}

impl Host for Fake {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let text = self
            .files
            .get(path)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        Ok(text.clone().into_bytes())
    }
    fn exists(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }
    fn default_address(&self) -> Option<IpAddr> {
        Some(Ipv4Addr::new(192, 0, 2, 7).into())
    }
}

fn run(args: &[&str], env: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Loaded, Exit> {
    let host = Fake {
        files: files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), text.to_string()))
            .collect(),
    };
    let args = ["ringd"]
        .iter()
        .chain(args)
        .map(|a| a.to_string())
        .collect();
    let env: Vec<_> = env
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect();
    load_on(&host, args, &env)
}

fn flags(args: &[&str]) -> Config {
    run(args, &[], &[])
        .unwrap_or_else(|exit| panic!("{args:?}: {}", exit.stderr))
        .config
}

fn yaml(text: &str) -> Result<Loaded, Exit> {
    run(&["--config-file=c.yaml"], &[], &[("c.yaml", text)])
}

/// Exit code and first line of stderr.
fn first_line(result: Result<Loaded, Exit>) -> (i32, String) {
    let exit = result.expect_err("must not load");
    (
        exit.code,
        exit.stderr.lines().next().unwrap_or_default().to_owned(),
    )
}

/// The `error` field of the last line with this message.
fn error_of(result: Result<Loaded, Exit>, msg: &str) -> String {
    let exit = result.expect_err("must not load");
    assert_eq!(exit.code, 1, "{}", exit.stderr);
    let mut lines = exit
        .stderr
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).expect(l));
    let line = lines
        .rfind(|l| l["msg"] == msg)
        .unwrap_or_else(|| panic!("no {msg:?} in {}", exit.stderr));
    line["error"].as_str().unwrap().to_owned()
}

fn refused(args: &[&str]) -> String {
    error_of(run(args, &[], &[]), "failed to verify flags")
}

fn yaml_refused(text: &str) -> String {
    error_of(yaml(text), "failed to verify flags")
}

fn messages(loaded: &Loaded) -> Vec<String> {
    let one = |r: &Record| {
        let fields: Vec<String> = r
            .fields
            .iter()
            .map(|(name, value)| match value {
                logging::Value::Str(s) => format!("{name}={s}"),
                other => format!("{name}={other:?}"),
            })
            .collect();
        format!("{} {}", r.msg, fields.join(" "))
            .trim_end()
            .to_owned()
    };
    loaded.records().map(one).collect()
}

#[test]
fn defaults_are_etcds() {
    let loaded = run(&[], &[], &[]).unwrap();
    let c = &loaded.config;
    assert_eq!(
        (c.name.as_str(), c.data_dir.to_str(), &c.wal_dir),
        ("default", Some("default.ringd"), &None)
    );
    assert_eq!(
        (
            c.heartbeat_interval_ms,
            c.election_timeout_ms,
            c.election_ticks()
        ),
        (100, 1000, 10)
    );
    assert_eq!(url::join(&c.listen_client_urls), "http://localhost:2379");
    assert_eq!(url::join(&c.listen_peer_urls), "http://localhost:2380");
    assert_eq!(c.initial_cluster, "default=http://localhost:2380");
    assert_eq!(
        (c.max_txn_ops, c.max_request_bytes, c.max_concurrent_streams),
        (128, 1_572_864, u32::MAX)
    );
    assert_eq!(
        (c.quota_backend_bytes, c.quota()),
        (0, Quota::Bytes(2_147_483_648))
    );
    assert_eq!(c.auto_compaction, AutoCompaction::Off);
    assert_eq!(
        (c.compaction_batch_limit, c.compaction_sleep_interval_ns),
        (1000, 10_000_000)
    );
    assert_eq!(c.watch_progress_notify_interval_ns, 600_000_000_000);
    assert_eq!(
        (
            c.grpc_keepalive_min_time_ns,
            c.grpc_keepalive_interval_ns,
            c.grpc_keepalive_timeout_ns
        ),
        (5_000_000_000, 7_200_000_000_000, 20_000_000_000)
    );
    assert_eq!(
        (c.snapshot_count, c.wal_io, c.initial_cluster_state),
        (100_000, WalIo::Auto, ClusterState::New)
    );
    assert_eq!(c.log, logging::Config::default());
    assert!(c.pre_vote && c.strict_reconfig_check && c.initial_election_tick_advance);
    assert_eq!(
        messages(&loaded),
        ["'data-dir' was empty; using default data-dir=default.ringd"]
    );
}

#[test]
fn flags_follow_gos_grammar() {
    let c = flags(&[
        "-name",
        "a",
        "--name=b",
        "--pre-vote=false",
        "-data-dir=d",
        "--election-timeout",
        "0x7d0",
    ]);
    assert_eq!(
        (c.name.as_str(), c.pre_vote, c.election_timeout_ms),
        ("b", false, 2000)
    );
    assert!(flags(&["--pre-vote", "--data-dir=d"]).pre_vote);
    assert_eq!(
        url::join(
            &flags(&[
                "--listen-peer-urls= http://127.0.0.1:2 , http://127.0.0.1:1,http://127.0.0.1:2"
            ])
            .listen_peer_urls
        ),
        "http://127.0.0.1:1,http://127.0.0.1:2"
    );
    assert_eq!(
        refused(&["--pre-vote", "maybe"]),
        "'maybe' is not a valid flag"
    );
    assert_eq!(refused(&["foo", "--bogus"]), "'foo' is not a valid flag");
    assert_eq!(refused(&["--", "foo"]), "'foo' is not a valid flag");
    assert_eq!(refused(&["-"]), "'-' is not a valid flag");
    assert_eq!(
        refused(&["--version", "extra"]),
        "'extra' is not a valid flag"
    );
}

#[test]
fn mistakes_end_with_code_2_and_the_usage() {
    for (args, line) in [
        (&["--bogus"][..], "flag provided but not defined: -bogus"),
        (&["--config-file=c", "--bogus"], "flag provided but not defined: -bogus"),
        (&["---x"], "bad flag syntax: ---x"),
        (&["-=x"], "bad flag syntax: -=x"),
        (&["--name"], "flag needs an argument: -name"),
        (&["--election-timeout", "abc"], "invalid value \"abc\" for flag -election-timeout: parse error"),
        (&["--election-timeout", "-5"], "invalid value \"-5\" for flag -election-timeout: parse error"),
        (&["--grpc-keepalive-min-time=5"], "invalid value \"5\" for flag -grpc-keepalive-min-time: parse error"),
        (&["--quota-backend-bytes", "1G"], "invalid value \"1G\" for flag -quota-backend-bytes: parse error"),
        (
            &["--quota-backend-bytes", "99999999999999999999"],
            "invalid value \"99999999999999999999\" for flag -quota-backend-bytes: value out of range",
        ),
        (&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote: parse error"),
        (&["--initial-cluster-state", "foo"], "invalid value \"foo\" for flag -initial-cluster-state: invalid value"),
        (&["--v2-deprecation", "foo"], "invalid value \"foo\" for flag -v2-deprecation: invalid value \"foo\""),
        (&["--discovery-fallback", "foo"], "invalid value \"foo\" for flag -discovery-fallback: invalid value"),
        (&["--proxy", "foo"], "invalid value \"foo\" for flag -proxy: invalid value"),
        (
            &["--listen-peer-urls", "http://foo"],
            "invalid value \"http://foo\" for flag -listen-peer-urls: URL address does not have the form \"host:port\": http://foo",
        ),
        (
            &["--listen-peer-urls", "http://127.0.0.1:2380/x"],
            "invalid value \"http://127.0.0.1:2380/x\" for flag -listen-peer-urls: URL must not contain a path: http://127.0.0.1:2380/x",
        ),
        (
            &["--listen-peer-urls", "ftp://x:1"],
            "invalid value \"ftp://x:1\" for flag -listen-peer-urls: URL scheme must be http, https, unix, or unixs: ftp://x:1",
        ),
        (
            &["--listen-peer-urls", "127.0.0.1:24779"],
            "invalid value \"127.0.0.1:24779\" for flag -listen-peer-urls: parse \"127.0.0.1:24779\": first path segment in URL cannot contain colon",
        ),
        (
            &["--cors", "https://x.com"],
            "invalid value \"https://x.com\" for flag -cors: URL address does not have the form \"host:port\": https://x.com",
        ),
        (&["--name", "x", "--bogus", "--help"], "flag provided but not defined: -bogus"),
    ] {
        let exit = run(args, &[], &[]).err().unwrap();
        assert_eq!((exit.code, exit.stderr.lines().next()), (2, Some(line)), "{args:?}");
        assert!(exit.stderr.contains("\nUsage:\n") && exit.stdout.is_empty());
    }
    let typo = run(&["--listen-peers-urls=x"], &[], &[]).err().unwrap();
    assert_eq!(
        typo.stderr.lines().nth(1),
        Some("Did you mean --listen-peer-urls?")
    );
}

#[test]
fn help_and_version_end_with_code_0() {
    for args in [
        &["--help"][..],
        &["-h", "--bogus"],
        &["--name", "x", "-help"],
    ] {
        let exit = run(args, &[], &[]).err().unwrap();
        assert_eq!((exit.code, exit.stderr.lines().next()), (0, Some("Usage:")));
        assert!(exit.stdout.contains("Member:") && exit.stdout.contains("--listen-client-urls"));
    }
    let exit = run(&["--version", "--config-file=missing"], &[], &[])
        .err()
        .unwrap();
    assert_eq!(
        (exit.code, exit.stdout.lines().next()),
        (0, Some("etcd Version: 3.5.33"))
    );
    assert_eq!(first_line(run(&["grpc-proxy", "start"], &[], &[])).0, 1);
}

#[test]
fn the_environment_stands_below_the_command_line() {
    let env = [
        ("ETCD_NAME", "abc"),
        ("ETCD_FOO", "bar"),
        ("ETCD_HEARTBEAT_INTERVAL", "150"),
        ("ETCD_DATA_DIR", ""),
        ("etcd_x", "1"),
        ("ETCD_VERSION", "3"),
    ];
    let loaded = run(&[], &env, &[]).unwrap();
    assert_eq!(
        (
            loaded.config.name.as_str(),
            loaded.config.heartbeat_interval_ms
        ),
        ("abc", 150)
    );
    assert_eq!(
        messages(&loaded),
        [
            "cannot set special environment variable key=ETCD_VERSION value=3",
            "recognized and used environment variable variable-name=ETCD_HEARTBEAT_INTERVAL variable-value=150",
            "recognized and used environment variable variable-name=ETCD_NAME variable-value=abc",
            "unrecognized environment variable environment-variable=ETCD_FOO=bar",
            "unrecognized environment variable environment-variable=ETCD_DATA_DIR=",
            "'data-dir' was empty; using default data-dir=abc.ringd",
        ]
    );
    let exit = run(&["--name", "x"], &[("ETCD_NAME", "abc")], &[])
        .err()
        .unwrap();
    assert_eq!((exit.code, exit.stderr.lines().count()), (1, 1));
    assert!(
        exit.stderr.contains("\"level\":\"fatal\"")
            && exit
                .stderr
                .contains("\"environment-variable\":\"ETCD_NAME\"")
    );
    assert!(exit.stderr.contains("conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))"));
    for (name, value, error) in [
        (
            "ETCD_ELECTION_TIMEOUT",
            "abc",
            "invalid value \"abc\" for ETCD_ELECTION_TIMEOUT: parse error",
        ),
        (
            "ETCD_PRE_VOTE",
            "maybe",
            "invalid value \"maybe\" for ETCD_PRE_VOTE: parse error",
        ),
        (
            "ETCD_INITIAL_CLUSTER_STATE",
            "foo",
            "invalid value \"foo\" for ETCD_INITIAL_CLUSTER_STATE: invalid value",
        ),
    ] {
        assert_eq!(
            error_of(run(&[], &[(name, value)], &[]), "failed to verify flags"),
            error
        );
    }
}

#[test]
fn a_file_silences_everything_else() {
    let file = [("c.yaml", "name: n1\n")];
    let env = [
        ("ETCD_NAME", "n2"),
        ("ETCD_FOO", "x"),
        ("ETCD_ELECTION_TIMEOUT", "abc"),
    ];
    let loaded = run(
        &[
            "--config-file=c.yaml",
            "--name=n3",
            "--listen-client-urls=http://127.0.0.1:1",
        ],
        &env,
        &file,
    )
    .unwrap();
    assert_eq!(
        (
            loaded.config.name.as_str(),
            url::join(&loaded.config.listen_client_urls)
        ),
        ("n1", "http://localhost:2379".into())
    );
    assert_eq!(
        messages(&loaded)[..1],
        ["loaded server configuration, other configuration command line flags and environment variables will be ignored if provided path=c.yaml"]
    );
    let loaded = run(&["--name=n3"], &[("ETCD_CONFIG_FILE", "c.yaml")], &file).unwrap();
    assert_eq!(loaded.config.name, "n1");
    assert_eq!(
        refused(&["--config-file=nofile"]),
        "open nofile: no such file or directory"
    );
}

#[test]
fn yaml_is_read_by_gos_rules() {
    let c = yaml("name: n1\nElection-Timeout: 5000.0\nHEARTBEAT-INTERVAL: 1e2\npre-vote: no\nstrict-reconfig-check: Off\n\
         grpc-keepalive-interval: 5000000000\nlisten-client-urls: http://127.0.0.1:2, http://127.0.0.1:1  \n\
         initial-cluster-state: \"\"\nlog-outputs: [stdout]\nwal-dir: ~\nquota-backend-bytes: -1\n")
    .unwrap()
    .config;
    assert_eq!(
        (c.election_timeout_ms, c.heartbeat_interval_ms),
        (5000, 100)
    );
    assert!(!c.pre_vote && !c.strict_reconfig_check);
    assert_eq!(c.grpc_keepalive_interval_ns, 5_000_000_000);
    assert_eq!(
        url::join(&c.listen_client_urls),
        "http://127.0.0.1:1,http://127.0.0.1:2"
    );
    assert_eq!(url::join(&c.advertise_client_urls), "http://localhost:2379");
    assert_eq!(c.log.outputs, [logging::Output::Stdout]);
    assert_eq!((c.wal_dir, c.auto_compaction_mode.as_str()), (None, ""));
    assert_eq!(
        Quota::Unlimited,
        yaml("quota-backend-bytes: -1").unwrap().config.quota()
    );
    assert_eq!(yaml("").unwrap().config.name, "default");
    assert_eq!(yaml("# nothing\n").unwrap().config.name, "default");
    let merged = yaml("base: &b {name: a, election-timeout: 3000}\n<<: *b\nname: c\n")
        .unwrap()
        .config;
    assert_eq!(
        (merged.name.as_str(), merged.election_timeout_ms),
        ("c", 3000)
    );
    assert!(!yaml("client-transport-security: {auto-tls: off}\nsocket-options:\n  reuse-port: no\npre-vote: n # yes\n").unwrap().config.pre_vote);
    assert_eq!(yaml("name: 'yes'\n").unwrap().config.name, "yes");
    assert_eq!(yaml("name: '010'\n").unwrap().config.name, "010");
    let old = yaml("heartbeat-interval: 017\nelection-timeout: 1_000\n")
        .unwrap()
        .config;
    assert_eq!(
        (old.heartbeat_interval_ms, old.election_timeout_ms),
        (15, 1000)
    );
}

#[test]
fn yaml_types_are_strict() {
    for (text, kind, key, go_type) in [
        ("name: 5", "number", "name", "string"),
        ("name: yes", "bool", "name", "string"),
        ("name: 1_000", "number", "name", "string"),
        (
            "initial-cluster-token: true",
            "bool",
            "initial-cluster-token",
            "string",
        ),
        (
            "election-timeout: '1000'",
            "string",
            "election-timeout",
            "uint",
        ),
        (
            "election-timeout: 5.5",
            "number 5.5",
            "election-timeout",
            "uint",
        ),
        (
            "election-timeout: -5",
            "number -5",
            "election-timeout",
            "uint",
        ),
        (
            "election-timeout: 100000000000000000000",
            "number 100000000000000000000",
            "election-timeout",
            "uint",
        ),
        ("pre-vote: 'true'", "string", "pre-vote", "bool"),
        ("pre-vote: \"yes\"", "string", "pre-vote", "bool"),
        ("pre-vote: 1", "number", "pre-vote", "bool"),
        ("name: [a]", "array", "name", "string"),
        ("name: {a: b}", "object", "name", "string"),
        ("log-outputs: stderr", "string", "log-outputs", "[]string"),
        (
            "log-outputs: [stderr, 5]",
            "number",
            "log-outputs",
            "string",
        ),
        (
            "grpc-keepalive-interval: 5s",
            "string",
            "grpc-keepalive-interval",
            "time.Duration",
        ),
        (
            "quota-backend-bytes: 1.5",
            "number 1.5",
            "quota-backend-bytes",
            "int64",
        ),
        (
            "auto-compaction-retention: 1",
            "number",
            "auto-compaction-retention",
            "string",
        ),
        (
            "pre-vote: 1\nelection-timeout: x\n",
            "string",
            "election-timeout",
            "uint",
        ),
    ] {
        assert_eq!(
            yaml_refused(text),
            format!("error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {kind} into Go struct field configYAML.Config.{key} of type {go_type}"),
            "{text}"
        );
    }
    assert!(yaml_refused("client-transport-security: x").ends_with(
        "cannot unmarshal string into Go struct field configYAML.configJSON.client-transport-security of type embed.securityConfig"
    ));
    assert!(yaml_refused("client-transport-security: {cert-file: 5}")
        .contains("client-transport-security.cert-file of type string"));
    for (text, kind) in [("[a]", "array"), ("foo", "string"), ("5", "number")] {
        assert_eq!(
            yaml_refused(text),
            format!("error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {kind} into Go value of type embed.configYAML")
        );
    }
    for text in [
        "name: a\n\tb: c\n",
        "name: a\n  b: c\n",
        "name: 'a\n",
        "name: *b\n",
        "? [a]\n: b\n",
    ] {
        let error = yaml_refused(text);
        assert!(
            error.starts_with("error converting YAML to JSON: yaml: "),
            "{text:?}: {error}"
        );
    }
    let lists = "unexpected error setting up listen-peer-urls: URL address does not have the form \"host:port\": http://foo";
    assert_eq!(
        first_line(yaml("listen-peer-urls: http://foo")),
        (1, lists.into())
    );
    assert_eq!(
        first_line(yaml("advertise-client-urls: http://foo")),
        (1, lists.replace("listen-peer", "advertise-peer"))
    );
    assert_eq!(first_line(yaml("cors: http://foo")).0, 2);
    assert_eq!(
        first_line(yaml("log-level: foo")),
        (2, "panic: unrecognized level: \"foo\"".into())
    );
    assert_eq!(
        yaml_refused("initial-cluster-state: foo"),
        "unexpected clusterState \"foo\""
    );
    assert_eq!(
        yaml_refused("auto-compaction-mode: foo"),
        "unknown auto-compaction-mode \"foo\""
    );
}

#[test]
fn what_etcd_overlooks_in_yaml_is_reported() {
    let loaded = yaml(
        "Name: a\nname: b\ndataDir: x\ninitial_cluster_state: existing\nconfig-file: y\ncert-file: z\nzzzz: 1\nname: c\n\
         client-transport-security: {cert-flie: ''}\n---\nname: d\n",
    )
    .unwrap();
    // All lower case sorts last and wins; of equal keys the last one does.
    assert_eq!(
        (
            loaded.config.name.as_str(),
            loaded.config.initial_cluster_state
        ),
        ("c", ClusterState::New)
    );
    let mut found = messages(&loaded);
    found.retain(|m| !m.starts_with("loaded server") && !m.starts_with("'data-dir'"));
    found.sort();
    assert_eq!(
        found,
        [
            "duplicate configuration key key=name",
            "duplicate configuration key key=name",
            "ignored unknown configuration key key=cert-file nearest=client-transport-security.cert-file",
            "ignored unknown configuration key key=client-transport-security.cert-flie nearest=cert-file",
            "ignored unknown configuration key key=config-file",
            "ignored unknown configuration key key=dataDir nearest=data-dir",
            "ignored unknown configuration key key=initial_cluster_state nearest=initial-cluster-state",
            "ignored unknown configuration key key=zzzz",
            "only the first document of the configuration file is read",
        ]
        .map(String::from)
    );
}

#[test]
fn checks_come_in_etcds_order_with_its_texts() {
    for (args, error) in [
        (&["--logger=capnslog", "--heartbeat-interval=0"][..], "--logger=capnslog is removed in v3.5"),
        (&["--logger=foo"], "unknown logger option \"foo\""),
        (&["--log-outputs=default,stderr"], "multi logoutput for \"default\" is not supported yet"),
        (&["--log-format=xml"], "unknown log format: xml, supported values json, console"),
        (
            &["--enable-log-rotation", "--log-outputs=stderr"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (&["--listen-peer-urls=http://foo:24779"], "expected IP in URL for binding (http://foo:24779)"),
        (&["--listen-metrics-urls=http://:1"], "expected IP in URL for binding (http://:1)"),
        (
            &["--initial-advertise-peer-urls=http://:24780"],
            "--initial-advertise-peer-urls \"http://:24780\" must be \"host:port\" (unexpected empty host (http://:24780))",
        ),
        (
            &["--advertise-client-urls=http://:2379"],
            "--advertise-client-urls \"http://:2379\" must be \"host:port\" (unexpected empty host (http://:2379))",
        ),
        (
            &["--initial-cluster=a=http://x:1", "--discovery=http://y:1"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\" or \"discovery-srv\"",
        ),
        (&["--discovery-token=x"], "both --discovery-token and --discovery-endpoints must be set"),
        (
            &["--discovery-token=x", "--discovery-endpoints=a,"],
            "--discovery-endpoints must not contain empty endpoints",
        ),
        (&["--heartbeat-interval=0", "--election-timeout=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            &["--heartbeat-interval=300"],
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
        ),
        (
            &["--election-timeout=60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (
            &["--lease-drift-bound=1000001"],
            "--lease-drift-bound[1000001] is too large: it is in parts per million, 1000000 at most",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:2379"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (&["--listen-client-urls="], "--advertise-client-urls is required when --listen-client-urls is set explicitly"),
        (&["--auto-compaction-mode=foo"], "unknown auto-compaction-mode \"foo\""),
        (
            &["--experimental-enable-lease-checkpoint-persist"],
            "setting experimental-enable-lease-checkpoint-persist requires experimental-enable-lease-checkpoint",
        ),
        (
            &["--experimental-compact-hash-check-time=0s"],
            "--experimental-compact-hash-check-time must be >0 (set to 0s)",
        ),
        (&["--compact-hash-check-time=0"], "--compact-hash-check-time must be >0 (set to 0s)"),
        (
            &["--corrupt-check-time=1s", "--experimental-corrupt-check-time=1s"],
            "cannot set --experimental-corrupt-check-time and --corrupt-check-time at the same time, please use --corrupt-check-time only",
        ),
        (&["--tls-min-version=X"], "unexpected TLS version \"X\" (must be one of: TLS1.2, TLS1.3)"),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--cipher-suites=X"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            &["--experimental-enable-distributed-tracing", "--experimental-distributed-tracing-sampling-rate=-1"],
            "distributed tracing configurition is not valid: (tracing sampling rate must be positive)",
        ),
        (&["--feature-gates=X=true"], "unrecognized feature gate: X"),
        (&["--feature-gates=AllBeta"], "missing bool value for AllBeta"),
    ] {
        assert_eq!(refused(args), error, "{args:?}");
    }
    assert_eq!(
        first_line(run(&["--log-level=foo"], &[], &[])),
        (2, "panic: unrecognized level: \"foo\"".into())
    );
    let exit = run(&["--listen-client-urls=http://127.0.0.1:1"], &[], &[])
        .err()
        .unwrap();
    let last = exit.stderr.lines().last().unwrap();
    assert!(
        last.contains("\"msg\":\"advertise client URLs are not set\""),
        "{last}"
    );
}

#[test]
fn what_does_not_act_is_named_and_security_is_refused() {
    let loaded = run(
        &[
            "--data-dir=d",
            "--max-wals=7",
            "--max-snapshots=5",
            "--metrics=extensive",
        ],
        &[],
        &[],
    )
    .unwrap();
    assert_eq!(
        messages(&loaded),
        [
            "accepted setting has no effect in this version of ringd setting=max-wals value=7",
            "accepted setting has no effect in this version of ringd setting=metrics value=extensive",
        ]
    );
    for args in [
        "--cert-file=x",
        "--client-cert-auth",
        "--peer-auto-tls=true",
        "--client-crl-file=x",
        "--cipher-suites=X",
        "--auth-token=jwt,pub-key=x",
        "--cors=http://a:1",
        "--host-whitelist=a",
        "--tls-min-version=TLS1.3",
    ] {
        let error = refused(&[args]);
        let name = args.split('=').next().unwrap();
        assert!(
            error.starts_with(&format!("{name} is not supported by this version of ringd")),
            "{error}"
        );
    }
    for args in [
        "--auth-token=simple",
        "--cors=*",
        "--host-whitelist=*",
        "--cert-file=",
        "--client-cert-auth=false",
    ] {
        assert!(run(&[args], &[], &[]).is_ok(), "{args}");
    }
    assert!(
        yaml_refused("client-transport-security: {cert-file: x, key-file: k}")
            .starts_with("--cert-file is not supported")
    );
    assert!(yaml_refused("client-transport-security: {allowed-cn: [x]}")
        .starts_with("client-transport-security.allowed-cn"));
    assert!(refused(&["--proxy=on"]).contains("is not supported by this version of ringd"));
    assert!(refused(&["--discovery=http://x:1"]).contains("use --discovery-endpoints with"));
    for args in [
        "--discovery-user=root",
        "--discovery-password=x",
        "--discovery-cacert=ca.crt",
        "--discovery-insecure-transport=false",
    ] {
        assert!(
            refused(&[args]).contains("without the protection"),
            "{args}"
        );
    }
    assert_eq!(
        refused(&["--cores=split"]),
        "--cores=split is not available in this version of ringd; use --cores=fused"
    );
    let legacy = run(&["--data-dir=d", "--force", "--snapshot=x"], &[], &[]).unwrap();
    assert_eq!(
        messages(&legacy),
        [
            "flag is no longer supported - ignoring flag-name=force",
            "flag is no longer supported - ignoring flag-name=snapshot"
        ]
    );
    assert_eq!(
        error_of(
            run(&["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"], &[], &[]),
            "discovery failed"
        ),
        "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme"
    );
}

#[test]
fn derived_defaults() {
    let c = flags(&[
        "--name=n1",
        "--initial-advertise-peer-urls=http://a:2,http://a:1",
    ]);
    assert_eq!(c.initial_cluster, "n1=http://a:1,n1=http://a:2");
    assert_eq!(
        flags(&["--initial-advertise-peer-urls=http://a:1"]).initial_cluster,
        "default=http://localhost:2380"
    );
    let loaded = run(
        &[
            "--name=n1",
            "--data-dir=d",
            "--listen-peer-urls=http://0.0.0.0:23801",
            "--listen-client-urls=http://0.0.0.0:23802",
            "--advertise-client-urls=http://localhost:2379",
        ],
        &[],
        &[],
    )
    .unwrap();
    let c = &loaded.config;
    assert_eq!(
        url::join(&c.initial_advertise_peer_urls),
        "http://192.0.2.7:23801"
    );
    assert_eq!(
        url::join(&c.advertise_client_urls),
        "http://192.0.2.7:23802"
    );
    assert_eq!(c.initial_cluster, "n1=http://192.0.2.7:23801");
    assert_eq!(
        messages(&loaded),
        ["detected default host for advertise host=192.0.2.7"]
    );
}

#[test]
fn an_etcd_data_directory_is_not_hidden() {
    let files = [("n1.etcd", "")];
    let (code, line) = first_line(run(&["--name=n1"], &[], &files));
    assert_eq!(code, 1);
    assert!(
        line.contains("n1.ringd")
            && line.contains("n1.etcd")
            && line.contains("start an etcd with it"),
        "{line}"
    );
    assert!(run(&["--name=n1", "--data-dir=n1.ringd"], &[], &files).is_ok());
    assert!(run(&["--name=n1"], &[], &[("n1.etcd", ""), ("n1.ringd", "")]).is_ok());
}

#[test]
fn auto_compaction_is_read() {
    let of = |args: &[&str]| flags(args).auto_compaction;
    assert_eq!(
        of(&["--auto-compaction-retention=1"]),
        AutoCompaction::Periodic {
            retention_ns: 3_600_000_000_000
        }
    );
    assert_eq!(
        of(&["--auto-compaction-retention=5m"]),
        AutoCompaction::Periodic {
            retention_ns: 300_000_000_000
        }
    );
    assert_eq!(
        of(&[
            "--auto-compaction-mode=revision",
            "--auto-compaction-retention=1000"
        ]),
        AutoCompaction::Revision { retention: 1000 }
    );
    for (text, error) in [
        (
            "foo",
            "error parsing CompactionRetention: time: invalid duration \"foo\"",
        ),
        (
            "-1",
            "error parsing CompactionRetention: time: missing unit in duration \"-1\"",
        ),
    ] {
        let flag = format!("--auto-compaction-retention={text}");
        for mode in ["periodic", "revision"] {
            let mode = format!("--auto-compaction-mode={mode}");
            for msg in ["failed to start etcd", "discovery failed"] {
                assert_eq!(error_of(run(&[&flag, &mode], &[], &[]), msg), error);
            }
        }
    }
}

#[test]
fn both_spellings_of_a_renamed_flag_act() {
    for name in [
        "experimental-compaction-batch-limit",
        "compaction-batch-limit",
    ] {
        assert_eq!(flags(&[&format!("--{name}=77")]).compaction_batch_limit, 77);
    }
    assert_eq!(
        flags(&["--experimental-watch-progress-notify-interval=1s"])
            .watch_progress_notify_interval_ns,
        1_000_000_000
    );
}

#[test]
fn the_seed_files_keys_are_read() {
    let text = "name: node1\ninitial-cluster-token: PostgreSQL_HA_Cluster_1\ninitial-cluster-state: new\n\
        initial-cluster: node1=http://10.104.0.1:2380\ndata-dir: /var/lib/etcd\n\
        initial-advertise-peer-urls: http://10.104.0.1:2380 \nlisten-peer-urls: http://10.104.0.1:2380\n\
        advertise-client-urls: http://10.104.0.1:2379\nlisten-client-urls: http://10.104.0.1:2379\n";
    let loaded = yaml(text).unwrap();
    assert_eq!(messages(&loaded).len(), 1);
    let cluster = crate::identity::InitialCluster::parse(&loaded.config.initial_cluster).unwrap();
    let token = &loaded.config.initial_cluster_token;
    let founding = crate::identity::Founding::of(&cluster, token, "node1");
    assert_eq!(
        (founding.local_id, founding.cluster_id),
        (0x4923373642ca36f2, 0xc39bc92ce1ccfb2c)
    );
}
