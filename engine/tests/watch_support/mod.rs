//! A store that keeps its whole history in a list, and a hub on top of it.

#![allow(dead_code)] // each test binary uses a part of it

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use engine::page::{Miss, PageNo};
use engine::watch::{
    Config, EventKind, EventRef, Found, History, Identity, KeyValueRef, Permission, Position,
    StreamKey, WatchHub, WatchOut,
};
use prost::Message;
use proto::etcdserverpb::{WatchCreateRequest, WatchResponse};

pub const IDENTITY: Identity = Identity {
    cluster_id: 11,
    member_id: 22,
    raft_term: 3,
};
pub const MILLISECOND: u64 = 1_000_000;

/// Small deterministic generator; the seed is printed by the test that uses it.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub sub: i64,
    pub kind: EventKind,
    pub key: Vec<u8>,
    pub create: i64,
    pub main: i64,
    pub version: i64,
    pub value: Vec<u8>,
    pub lease: i64,
}

impl Row {
    pub fn kv(&self) -> KeyValueRef<'_> {
        KeyValueRef {
            key: &self.key,
            create_revision: self.create,
            mod_revision: self.main,
            version: self.version,
            value: &self.value,
            lease: self.lease,
        }
    }

    pub fn event(&self) -> EventRef<'_> {
        EventRef {
            kind: self.kind,
            kv: self.kv(),
        }
    }
}

pub enum Op {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}

pub fn put(key: &str, value: &str) -> Op {
    Op::Put(key.into(), value.into())
}

pub fn delete(key: &str) -> Op {
    Op::Delete(key.into())
}

pub struct FakeStore {
    pub rows: Vec<Row>,
    pub revision: i64,
    pub compacted: i64,
    heads: BTreeMap<Vec<u8>, (i64, i64)>,
    /// One read in this many misses; 0: none.
    pub miss_one_in: u64,
    pub reads: Cell<u64>,
    random: Cell<u64>,
}

impl FakeStore {
    pub fn new() -> FakeStore {
        FakeStore {
            rows: Vec::new(),
            revision: 1,
            compacted: 0,
            heads: BTreeMap::new(),
            miss_one_in: 0,
            reads: Cell::new(0),
            random: Cell::new(7),
        }
    }

    /// Applies the operations as one revision; returns the range of the new rows, empty if nothing changed.
    pub fn apply(&mut self, ops: &[Op]) -> std::ops::Range<usize> {
        let first = self.rows.len();
        let main = self.revision + 1;
        for op in ops {
            let sub = (self.rows.len() - first) as i64;
            match op {
                Op::Put(key, value) => {
                    let (create, version) = self.heads.get(key).copied().unwrap_or((main, 0));
                    self.heads.insert(key.clone(), (create, version + 1));
                    self.rows.push(Row {
                        sub,
                        kind: EventKind::Put,
                        key: key.clone(),
                        create,
                        main,
                        version: version + 1,
                        value: value.clone(),
                        lease: 0,
                    });
                }
                Op::Delete(key) => {
                    if self.heads.remove(key).is_some() {
                        self.rows.push(Row {
                            sub,
                            kind: EventKind::Delete,
                            key: key.clone(),
                            create: 0,
                            main,
                            version: 0,
                            value: Vec::new(),
                            lease: 0,
                        });
                    }
                }
            }
        }
        if self.rows.len() > first {
            self.revision = main;
        }
        first..self.rows.len()
    }

    pub fn at(&self, key: &[u8], revision: i64) -> Option<&Row> {
        let before = self.rows.partition_point(|row| row.main <= revision);
        let last = self.rows[..before]
            .iter()
            .rev()
            .find(|row| row.key == key)?;
        (last.kind == EventKind::Put).then_some(last)
    }

    fn touch(&self) -> Result<(), Miss> {
        self.reads.set(self.reads.get() + 1);
        if self.miss_one_in > 0 {
            let mut random = Random(self.random.get());
            let missed = random.one_in(self.miss_one_in);
            self.random.set(random.0);
            if missed {
                return Err(Miss {
                    pages: vec![PageNo(1)],
                });
            }
        }
        Ok(())
    }
}

impl History for FakeStore {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compacted(&self) -> i64 {
        self.compacted
    }

    fn rows(
        &self,
        from: Position,
        visit: &mut dyn FnMut(Position, &EventRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), Miss> {
        assert!(
            from.main >= self.compacted,
            "the hub never reads what compaction may have removed"
        );
        let first = self
            .rows
            .partition_point(|row| (row.main, row.sub) < (from.main, from.sub));
        for row in &self.rows[first..] {
            self.touch()?;
            let position = Position {
                main: row.main,
                sub: row.sub,
            };
            if visit(position, &row.event()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn value_at(&self, key: &[u8], revision: i64, found: &mut Found<'_>) -> Result<(), Miss> {
        assert!(revision >= self.compacted);
        self.touch()?;
        if let Some(row) = self.at(key, revision) {
            found(&row.kv());
        }
        Ok(())
    }
}

pub struct Fixture {
    pub hub: WatchHub,
    pub store: FakeStore,
    pub now_ns: u64,
    pub received: BTreeMap<u64, Vec<WatchResponse>>,
    pub sizes: Vec<usize>,
}

impl Fixture {
    pub fn new() -> Fixture {
        Fixture::with(Config {
            identity: IDENTITY,
            max_request_bytes: 1_572_864,
            progress_interval_ns: 1000 * MILLISECOND,
            seed: 42,
        })
    }

    pub fn with(config: Config) -> Fixture {
        Fixture {
            hub: WatchHub::new(config, 1),
            store: FakeStore::new(),
            now_ns: 0,
            received: BTreeMap::new(),
            sizes: Vec::new(),
        }
    }

    pub fn open(&mut self, stream: u64) {
        self.hub.open_stream(StreamKey(stream), 1, 0, self.now_ns);
    }

    pub fn create(&mut self, stream: u64, request: WatchCreateRequest) {
        self.hub.create(
            StreamKey(stream),
            &request,
            Permission::Granted,
            self.now_ns,
        );
    }

    pub fn cancel(&mut self, stream: u64, id: i64) {
        self.hub.cancel(StreamKey(stream), id);
    }

    pub fn txn(&mut self, ops: &[Op]) {
        let new = self.store.apply(ops);
        if new.is_empty() {
            return;
        }
        let store = &self.store;
        let events: Vec<EventRef<'_>> = store.rows[new].iter().map(Row::event).collect();
        self.hub.publish(store.revision, &events, &mut |at, found| {
            let kv = &events[at].kv;
            store.value_at(kv.key, kv.mod_revision - 1, found)
        });
    }

    pub fn put(&mut self, key: &str, value: &str) {
        self.txn(&[put(key, value)]);
    }

    pub fn delete(&mut self, key: &str) {
        self.txn(&[delete(key)]);
    }

    pub fn take(&mut self) -> Vec<WatchOut> {
        let mut out = Vec::new();
        self.hub.take_out(&mut out);
        for response in &out {
            self.sizes.push(response.len());
            let decoded = WatchResponse::decode(response.message()).expect("a valid message");
            assert_eq!(
                decoded.encode_to_vec(),
                response.message(),
                "canonical encoding"
            );
            self.received
                .entry(response.stream.0)
                .or_default()
                .push(decoded);
        }
        out
    }

    /// Takes the output and catches up until nothing is left to do.
    pub fn settle(&mut self) {
        self.take();
        for _ in 0..1_000_000 {
            match self.hub.catch_up(&self.store, 1 << 20) {
                Ok(true) | Err(_) => {
                    self.take();
                }
                Ok(false) => {
                    self.take();
                    return;
                }
            }
        }
        panic!("catching up does not end");
    }

    /// What the stream got since the last call.
    pub fn got(&mut self, stream: u64) -> Vec<WatchResponse> {
        self.settle();
        self.received.remove(&stream).unwrap_or_default()
    }
}

pub fn request(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..Default::default()
    }
}

pub fn range(key: &str, end: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        range_end: Bytes::copy_from_slice(end.as_bytes()),
        ..request(key)
    }
}

/// One line per response, short enough to compare with.
pub fn line(response: &WatchResponse) -> String {
    let header = response
        .header
        .as_ref()
        .expect("every response has a header");
    assert_eq!(
        (header.cluster_id, header.member_id, header.raft_term),
        (11, 22, 3)
    );
    let mut line = format!("{}@{}", response.watch_id, header.revision);
    for (set, text) in [
        (response.created, " created"),
        (response.canceled, " canceled"),
        (response.fragment, " fragment"),
    ] {
        if set {
            line += text;
        }
    }
    if response.compact_revision != 0 {
        line += &format!(" compacted={}", response.compact_revision);
    }
    if !response.cancel_reason.is_empty() {
        line += &format!(" \"{}\"", response.cancel_reason);
    }
    for event in &response.events {
        let kv = event.kv.as_ref().expect("an event has a key");
        let key = String::from_utf8_lossy(&kv.key);
        let value = String::from_utf8_lossy(&kv.value);
        match event.r#type {
            0 => {
                line += &format!(
                    " {key}={value}({},{},{})",
                    kv.create_revision, kv.mod_revision, kv.version
                )
            }
            _ => {
                assert_eq!(
                    (kv.create_revision, kv.version, kv.lease, kv.value.len()),
                    (0, 0, 0, 0)
                );
                line += &format!(" -{key}({})", kv.mod_revision);
            }
        }
        if let Some(previous) = &event.prev_kv {
            line += &format!(
                "<{}@{}",
                String::from_utf8_lossy(&previous.value),
                previous.mod_revision
            );
        }
    }
    line
}

pub fn lines(responses: &[WatchResponse]) -> Vec<String> {
    responses.iter().map(line).collect()
}

/// The lines in the order of their watch ids, where the order between watchers is free.
pub fn by_id(responses: &[WatchResponse]) -> Vec<String> {
    let mut sorted: Vec<&WatchResponse> = responses.iter().collect();
    sorted.sort_by_key(|response| response.watch_id);
    sorted.into_iter().map(line).collect()
}
