//! Cost of the watch hub: `cargo run --release -p ringd-engine --example watch_fanout`.

use std::fs;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;
use engine::page::Miss;
use engine::watch::{
    Config, EventKind, EventRef, Found, History, Identity, KeyValueRef, Permission, Position,
    StreamKey, WatchHub,
};
use proto::etcdserverpb::WatchCreateRequest;

const KEY: &[u8] = b"/registry/pods/default/some-pod-name";
const BATCHES: usize = 100;
const BATCH_PUBLISHES: usize = 40;

fn hub() -> WatchHub {
    let identity = Identity {
        cluster_id: 0x1234_5678_9abc_def0,
        member_id: 0x0fed_cba9_8765_4321,
        raft_term: 7,
    };
    let config = Config {
        identity,
        max_request_bytes: 1_572_864,
        progress_interval_ns: 0,
        seed: 1,
    };
    WatchHub::new(config, 1)
}

fn event<'a>(key: &'static [u8], revision: i64, value: &'a [u8]) -> EventRef<'a> {
    EventRef {
        kind: EventKind::Put,
        kv: KeyValueRef {
            key,
            create_revision: 2,
            mod_revision: revision,
            version: revision - 1,
            value,
            lease: 0,
        },
    }
}

/// Nanoseconds of one publish with taking its output, and of one delivery.
fn fan_out(name: &str, streams: u64, per_stream: u64, request: &WatchCreateRequest, value: &[u8]) {
    let mut hub = hub();
    for stream in 0..streams {
        hub.open_stream(StreamKey(stream), stream, 0, 0);
        for _ in 0..per_stream {
            hub.create(StreamKey(stream), request, Permission::Granted, 0);
        }
    }
    let mut out = Vec::new();
    hub.take_out(&mut out);
    out.clear();
    let old = value.to_vec();
    let mut revision = 2;
    // The fastest of many batches: the machine may be busy with other things.
    let mut best = f64::MAX;
    let mut delivered = 0;
    for _ in 0..BATCHES {
        let start = Instant::now();
        delivered = 0;
        for _ in 0..BATCH_PUBLISHES {
            revision += 1;
            hub.publish(revision, &[event(KEY, revision, value)], &mut |_, found| {
                found(&event(KEY, revision - 1, &old).kv);
                Ok(())
            });
            hub.take_out(&mut out);
            delivered += out.len();
            black_box(&out);
            out.clear();
        }
        best = best.min(start.elapsed().as_nanos() as f64);
    }
    let each = if delivered > 0 {
        best / delivered as f64
    } else {
        0.0
    };
    let publish = best / BATCH_PUBLISHES as f64;
    println!("{name:44} {publish:9.0} ns/publish {each:7.1} ns/delivery");
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let field = line.and_then(|line| line.split_whitespace().nth(1));
    field.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn footprint(name: &str, count: u64, request: impl Fn(u64) -> WatchCreateRequest) {
    let before = resident_bytes();
    let mut hub = hub();
    let mut out = Vec::with_capacity(1024);
    let start = Instant::now();
    for i in 0..count {
        if i % 100_000 == 0 {
            hub.open_stream(StreamKey(i / 100_000), i / 100_000, 0, 0);
        }
        hub.create(StreamKey(i / 100_000), &request(i), Permission::Granted, 0);
        if i % 1000 == 0 {
            hub.take_out(&mut out);
            out.clear();
        }
    }
    let create_ns = start.elapsed().as_nanos() as u64 / count;
    let bytes = (resident_bytes() - before) / count;
    let start = Instant::now();
    for revision in 2..100_002 {
        hub.publish(revision, &[event(KEY, revision, b"v")], &mut |_, _| Ok(()));
    }
    let publish_ns = start.elapsed().as_nanos() as u64 / 100_000;
    println!("{name:44} {bytes:6} bytes/watcher {create_ns:6} ns/create {publish_ns:6} ns/publish that concerns none");
}

struct Past {
    revision: i64,
}

impl History for Past {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compacted(&self) -> i64 {
        0
    }

    fn rows(
        &self,
        from: Position,
        visit: &mut dyn FnMut(Position, &EventRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), Miss> {
        let first = from.main + i64::from(from.sub > 0);
        for main in first..=self.revision {
            if visit(Position { main, sub: 0 }, &event(KEY, main, &[b'v'; 100])).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn value_at(&self, _: &[u8], _: i64, _: &mut Found<'_>) -> Result<(), Miss> {
        Ok(())
    }
}

fn catch_up(name: &str, watchers: u64, request: &WatchCreateRequest) {
    let mut hub = hub();
    let past = Past { revision: 200_000 };
    hub.restored(past.revision);
    for stream in 0..watchers {
        hub.open_stream(StreamKey(stream), stream, 0, 0);
        hub.create(StreamKey(stream), request, Permission::Granted, 0);
    }
    let mut out = Vec::new();
    let mut slices = 0;
    let mut longest = 0;
    let start = Instant::now();
    loop {
        let slice = Instant::now();
        let more = hub.catch_up(&past, 2048);
        longest = longest.max(slice.elapsed().as_micros());
        slices += 1;
        hub.take_out(&mut out);
        out.clear();
        if !matches!(more, Ok(true)) {
            break;
        }
    }
    let rows_ns = start.elapsed().as_nanos() as f64 / past.revision as f64;
    println!("{name:44} {rows_ns:6.0} ns/revision, {slices} slices, longest {longest} us");
}

fn main() {
    let exact = WatchCreateRequest {
        key: Bytes::from_static(KEY),
        ..Default::default()
    };
    let prefix = WatchCreateRequest {
        key: Bytes::from_static(b"/registry/pods/"),
        range_end: Bytes::from_static(b"/registry/pods0"),
        ..Default::default()
    };
    let previous = WatchCreateRequest {
        prev_kv: true,
        ..prefix.clone()
    };
    let (small, large) = ([b'v'; 100], vec![b'v'; 100_000]);
    fan_out("nobody watches", 0, 0, &exact, &small);
    fan_out("1 watcher, key", 1, 1, &exact, &small);
    fan_out("1 watcher, prefix", 1, 1, &prefix, &small);
    fan_out("1000 watchers, key, 1000 streams", 1000, 1, &exact, &small);
    fan_out("1000 watchers, key, 8 streams", 8, 125, &exact, &small);
    fan_out(
        "1000 watchers, prefix, 1000 streams",
        1000,
        1,
        &prefix,
        &small,
    );
    fan_out(
        "1000 watchers, prev_kv, 1000 streams",
        1000,
        1,
        &previous,
        &small,
    );
    fan_out("1000 watchers, key, 100 kB value", 1000, 1, &exact, &large);
    footprint("1,000,000 watchers of distinct keys", 1_000_000, |i| {
        WatchCreateRequest {
            key: Bytes::from(format!("/registry/pods/namespace/{i:08}")),
            ..Default::default()
        }
    });
    footprint("1,000,000 watchers of one key", 1_000_000, |_| {
        WatchCreateRequest {
            key: Bytes::from_static(b"/registry/other"),
            ..Default::default()
        }
    });
    footprint("100,000 watchers of distinct prefixes", 100_000, |i| {
        WatchCreateRequest {
            key: Bytes::from(format!("/registry/{i:08}/")),
            range_end: Bytes::from(format!("/registry/{i:08}0")),
            ..Default::default()
        }
    });
    let from_start = |request: &WatchCreateRequest| WatchCreateRequest {
        start_revision: 2,
        ..request.clone()
    };
    catch_up("history, 1 watcher", 1, &from_start(&prefix));
    catch_up(
        "history, 100 watchers, same bytes",
        100,
        &from_start(&prefix),
    );
    let other = WatchCreateRequest {
        key: Bytes::from_static(b"/other"),
        ..Default::default()
    };
    catch_up("history of others, 1 watcher", 1, &from_start(&other));
}
