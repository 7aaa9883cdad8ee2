//! The configuration as the start message states it.

use std::time::Duration;

use super::{
    go_arch, AutoCompaction, Config, ETCD_VERSION, GIT_SHA, GO_OS, GO_VERSION, RINGD_VERSION,
};
use crate::{
    caller,
    logging::{Level, Record, Value},
};

impl Config {
    /// The line `starting an etcd server` with etcd's fields in etcd's order, and ringd's own at the end.
    pub fn start_record(&self, member_initialized: bool) -> Record {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let wal_dir = self
            .wal_dir
            .as_deref()
            .map_or(String::new(), |d| d.to_string_lossy().into_owned());
        let (retention, interval) = match self.auto_compaction {
            AutoCompaction::Off => (0, 0),
            AutoCompaction::Periodic { retention_ns } => (retention_ns, retention_ns),
            AutoCompaction::Revision { retention } => (retention, REVISION_COMPACTION_INTERVAL_NS),
        };
        let ms = |value| Value::Duration(Duration::from_millis(value));
        let ns = |value| Value::Duration(Duration::from_nanos(value));
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        Record::new(Level::Info, caller!(), "starting an etcd server")
            .with("etcd-version", ETCD_VERSION)
            .with("git-sha", GIT_SHA)
            .with("go-version", GO_VERSION)
            .with("go-os", GO_OS)
            .with("go-arch", go_arch())
            .with("max-cpu-set", cpus)
            .with("max-cpu-available", cpus)
            .with("member-initialized", member_initialized)
            .with("name", self.name.clone())
            .with("data-dir", path(&self.data_dir))
            .with("wal-dir", wal_dir.clone())
            .with("wal-dir-dedicated", wal_dir)
            .with("member-dir", path(&self.member_dir()))
            .with("force-new-cluster", self.force_new_cluster)
            .with("heartbeat-interval", ms(self.heartbeat_interval_ms))
            .with("election-timeout", ms(self.election_timeout_ms))
            .with(
                "initial-election-tick-advance",
                self.initial_election_tick_advance,
            )
            .with("snapshot-count", self.snapshot_count)
            .with("snapshot-catchup-entries", self.snapshot_catchup_entries)
            .with(
                "initial-advertise-peer-urls",
                Value::strs(&self.initial_advertise_peer_urls),
            )
            .with("listen-peer-urls", Value::strs(&self.listen_peer_urls))
            .with(
                "advertise-client-urls",
                Value::strs(&self.advertise_client_urls),
            )
            .with("listen-client-urls", Value::strs(&self.listen_client_urls))
            .with(
                "listen-metrics-urls",
                Value::strs(&self.listen_metrics_urls),
            )
            .with("cors", Value::strs(["*"]))
            .with("host-whitelist", Value::strs(["*"]))
            .with("initial-cluster", self.initial_cluster.clone())
            .with("initial-cluster-state", self.initial_cluster_state.as_str())
            .with("initial-cluster-token", self.initial_cluster_token.clone())
            .with("quota-backend-bytes", self.quota_bytes_shown())
            .with("pre-vote", self.pre_vote)
            .with("initial-corrupt-check", false)
            .with(
                "corrupt-check-time-interval",
                ns(self.corrupt_check_time_ns),
            )
            .with("auto-compaction-mode", self.auto_compaction_mode.clone())
            .with("auto-compaction-retention", ns(retention))
            .with("auto-compaction-interval", ns(interval))
            .with("discovery-url", "")
            .with("discovery-proxy", "")
            .with("downgrade-check-interval", ns(self.downgrade_check_time_ns))
            .with("ringd-version", RINGD_VERSION)
    }

    /// Warnings of limits above what etcd recommends; they act as they are.
    pub fn limit_records(&self) -> Vec<Record> {
        let warn = |msg: &'static str| Record::new(Level::Warn, caller!(), msg);
        let mut records = Vec::new();
        if self.max_request_bytes > REQUEST_BYTES_RECOMMENDED {
            records.push(
                warn("exceeded recommended request limit")
                    .with("max-request-bytes", self.max_request_bytes)
                    .with("max-request-size", size(self.max_request_bytes))
                    .with("recommended-request-bytes", REQUEST_BYTES_RECOMMENDED)
                    .with("recommended-request-size", size(REQUEST_BYTES_RECOMMENDED)),
            );
        }
        let quota_bytes = u64::try_from(self.quota_backend_bytes).unwrap_or(0);
        if quota_bytes > QUOTA_BYTES_RECOMMENDED {
            records.push(
                warn("quota exceeds the maximum value")
                    .with("quota-name", "v3-applier")
                    .with("quota-size-bytes", quota_bytes)
                    .with("quota-size", size(quota_bytes))
                    .with("quota-maximum-size-bytes", QUOTA_BYTES_RECOMMENDED)
                    .with("quota-maximum-size", size(QUOTA_BYTES_RECOMMENDED)),
            );
        }
        records
    }

    fn quota_bytes_shown(&self) -> i64 {
        match self.quota_backend_bytes {
            0 => super::QUOTA_BYTES_DEFAULT as i64,
            bytes => bytes,
        }
    }
}

const REQUEST_BYTES_RECOMMENDED: u64 = 10 << 20;
const QUOTA_BYTES_RECOMMENDED: u64 = 8 << 30;

/// A size as etcd writes it: in powers of 1000, with one decimal below ten.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    let mut one: u64 = 1;
    while unit + 1 < UNITS.len() && bytes / one >= 1000 {
        unit += 1;
        one *= 1000;
    }
    // Rounded before the choice of digits, so that 9,999,999 is "10 MB".
    let tenths = (bytes as f64 / one as f64 * 10.0).round() / 10.0;
    match unit == 0 || tenths >= 10.0 {
        true => format!("{tenths:.0} {}", UNITS[unit]),
        false => format!("{tenths:.1} {}", UNITS[unit]),
    }
}

/// How often the revision mode looks.
const REVISION_COMPACTION_INTERVAL_NS: u64 = 300_000_000_000;

#[cfg(test)]
mod tests {
    use crate::config::{load_on, System};

    fn loaded(flags: &[&str]) -> crate::config::Config {
        let args = ["ringd", "--data-dir=d"].iter().chain(flags);
        let args = args.map(|arg| arg.to_string()).collect();
        load_on(&System, args, &[]).unwrap().config
    }

    #[test]
    fn sizes_read_as_in_etcds_lines() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (20_000_000, "20 MB"),
            (9_999_999, "10 MB"),
            (8 << 30, "8.6 GB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(super::size(bytes), text);
        }
    }

    #[test]
    fn limits_above_the_recommended_ones_are_warned_of() {
        let lines = |flags: &[&str]| -> Vec<serde_json::Value> {
            let records = loaded(flags).limit_records();
            let json = |r: &crate::logging::Record| serde_json::from_str(&r.to_line()).unwrap();
            records.iter().map(json).collect()
        };
        for quiet in [
            &[][..],
            &["--max-request-bytes=10485760"],
            &["--quota-backend-bytes=8589934592"],
            &["--quota-backend-bytes=-1"],
        ] {
            assert!(lines(quiet).is_empty(), "{quiet:?}");
        }
        let lines = lines(&[
            "--max-request-bytes=20000000",
            "--quota-backend-bytes=9999999999",
        ]);
        let expected = [
            serde_json::json!({
                "level": "warn",
                "msg": "exceeded recommended request limit",
                "max-request-bytes": 20_000_000,
                "max-request-size": "20 MB",
                "recommended-request-bytes": 10_485_760,
                "recommended-request-size": "10 MB",
            }),
            serde_json::json!({
                "level": "warn",
                "msg": "quota exceeds the maximum value",
                "quota-name": "v3-applier",
                "quota-size-bytes": 9_999_999_999_u64,
                "quota-size": "10 GB",
                "quota-maximum-size-bytes": 8_589_934_592_u64,
                "quota-maximum-size": "8.6 GB",
            }),
        ];
        assert_eq!(lines.len(), expected.len());
        for (line, expected) in lines.iter().zip(&expected) {
            for (name, value) in expected.as_object().unwrap() {
                assert_eq!(&line[name], value, "{name}");
            }
        }
    }

    #[test]
    fn the_start_message_states_the_configuration() {
        let args = [
            "ringd",
            "--name=n1",
            "--data-dir=d",
            "--listen-peer-urls=http://127.0.0.1:1",
        ];
        let config = load_on(&System, args.map(String::from).to_vec(), &[])
            .unwrap()
            .config;
        let line = config.start_record(false).to_line();
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["etcd-version"], "3.5.33");
        assert_eq!(json["heartbeat-interval"], "100ms");
        assert_eq!(json["election-timeout"], "1s");
        assert_eq!(
            json["listen-peer-urls"],
            serde_json::json!(["http://127.0.0.1:1"])
        );
        assert_eq!(json["initial-cluster"], "n1=http://localhost:2380");
        assert_eq!(json["quota-backend-bytes"], 2_147_483_648u64);
        assert_eq!(json["downgrade-check-interval"], "5s");
    }
}
