//! Random life of a hub against a list of everything that ever happened. Each watcher must get exactly the events that it
//! asked for, in order, whatever is slow, missing, compacted or cancelled meanwhile.

mod watch_support;

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::watch::{Config, EventKind, StreamKey};
use proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use watch_support::*;

const SEEDS: u64 = 200;
const STEPS: usize = 1500;

#[derive(Debug)]
struct Watch {
    request: WatchCreateRequest,
    /// The first revision that it wants.
    from: i64,
    /// Rows before this one are dealt with: received or of no concern.
    row: usize,
    created: bool,
    over: bool,
    in_fragment: bool,
}

impl Watch {
    fn wants(&self, row: &Row) -> bool {
        let key = &row.key[..];
        let start: &[u8] = match self.request.key.is_empty() {
            true => b"\0",
            false => &self.request.key,
        };
        let inside = match &self.request.range_end[..] {
            b"" => key == start,
            b"\0" => key >= start,
            end => start <= key && key < end,
        };
        let filter = match row.kind {
            EventKind::Put => 0,
            EventKind::Delete => 1,
        };
        inside && row.main >= self.from && !self.request.filters.contains(&filter)
    }

    /// Skips rows that do not concern it and returns the next one that does.
    fn next<'s>(&mut self, store: &'s FakeStore) -> Option<&'s Row> {
        while let Some(row) = store.rows.get(self.row) {
            if self.wants(row) {
                return Some(row);
            }
            self.row += 1;
        }
        None
    }
}

struct Model {
    fixture: Fixture,
    random: Random,
    watches: BTreeMap<(u64, i64), Watch>,
    streams: Vec<u64>,
    blocked: BTreeMap<u64, bool>,
    next_stream: u64,
    progress_seen: u64,
    batches_seen: u64,
    compacted_seen: u64,
    events_seen: u64,
    fragments_seen: u64,
}

impl Model {
    fn new(seed: u64) -> Model {
        Model {
            fixture: Fixture::with(Config {
                identity: IDENTITY,
                // Fragments from 512 KiB on.
                max_request_bytes: 0,
                progress_interval_ns: 1000 * MILLISECOND,
                seed,
            }),
            random: Random(seed),
            watches: BTreeMap::new(),
            streams: Vec::new(),
            blocked: BTreeMap::new(),
            next_stream: 1,
            progress_seen: 0,
            batches_seen: 0,
            compacted_seen: 0,
            events_seen: 0,
            fragments_seen: 0,
        }
    }

    fn key(&mut self) -> String {
        let alphabet = ["a", "b", "c", "p/1", "p/2", "p/3", "q", "\0"];
        alphabet[self.random.below(alphabet.len() as u64) as usize].into()
    }

    fn stream(&mut self) -> Option<u64> {
        let count = self.streams.len() as u64;
        (count > 0).then(|| self.streams[self.random.below(count) as usize])
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=44 => self.write(),
            45..=54 => self.create(),
            55..=59 => self.cancel(),
            60..=62 => self.open(),
            63 => self.close(),
            64..=69 => self.block(),
            70 => self.compact(),
            71..=76 => {
                if let Some(stream) = self.stream() {
                    self.fixture.hub.progress(StreamKey(stream));
                }
            }
            77..=79 => {
                self.fixture.now_ns += self.random.below(1500) * MILLISECOND;
                self.fixture.hub.on_timer(self.fixture.now_ns);
            }
            80 => self.snapshot(),
            81..=93 => {
                let budget = 1 + self.random.below(60) as usize;
                let _ = self.fixture.hub.catch_up(&self.fixture.store, budget);
            }
            _ => self.drain(),
        }
    }

    fn ops(&mut self) -> Vec<Op> {
        let count = match self.random.below(4) {
            0 => 1 + self.random.below(6),
            _ => 1,
        };
        let mut ops = Vec::new();
        for _ in 0..count {
            let key = self.key();
            if self.random.one_in(4) {
                ops.push(Op::Delete(key.into()));
            } else {
                let len = match self.random.below(200) {
                    0 => 300_000,
                    _ => self.random.below(20) as usize,
                };
                ops.push(Op::Put(key.into(), vec![b'v'; len]));
            }
        }
        ops
    }

    fn write(&mut self) {
        let ops = self.ops();
        self.fixture.txn(&ops);
    }

    fn snapshot(&mut self) {
        if !self.random.one_in(4) {
            return;
        }
        for _ in 0..self.random.below(20) {
            let ops = self.ops();
            self.fixture.store.apply(&ops);
        }
        if self.random.one_in(3) {
            self.fixture.store.compacted = self.fixture.store.revision;
        }
        self.fixture.hub.restored(self.fixture.store.revision);
    }

    fn open(&mut self) {
        if self.streams.len() < 5 {
            let stream = self.next_stream;
            self.next_stream += 1;
            let (draw, now_ns) = (self.random.below(u64::MAX), self.fixture.now_ns);
            self.fixture
                .hub
                .open_stream(StreamKey(stream), stream % 2, draw, now_ns);
            self.streams.push(stream);
            self.blocked.insert(stream, false);
        }
    }

    fn close(&mut self) {
        if let Some(stream) = self.stream().filter(|_| self.random.one_in(3)) {
            self.drain();
            self.fixture.hub.close_stream(StreamKey(stream));
            self.streams.retain(|&known| known != stream);
            self.watches.retain(|&(known, _), _| known != stream);
            self.fixture.received.remove(&stream);
        }
    }

    fn block(&mut self) {
        if let Some(stream) = self.stream() {
            let blocked = self.random.one_in(2);
            self.blocked.insert(stream, blocked);
            self.fixture.hub.set_blocked(StreamKey(stream), blocked);
        }
    }

    fn compact(&mut self) {
        let store = &mut self.fixture.store;
        let behind = self.random.below(200) as i64;
        store.compacted = store.compacted.max(store.revision - behind);
    }

    fn create(&mut self) {
        let Some(stream) = self.stream() else {
            return;
        };
        let revision = self.fixture.store.revision;
        let start_revision = match self.random.below(4) {
            0 => 0,
            1 => revision + self.random.below(10) as i64,
            _ => (revision - self.random.below(80) as i64).max(1),
        };
        let range_end = match self.random.below(4) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            2 => Bytes::from_static(b"p0"),
            _ => Bytes::from_static(b"zz"),
        };
        let filters = match self.random.below(6) {
            0 => vec![0],
            1 => vec![1],
            _ => vec![],
        };
        let request = WatchCreateRequest {
            key: Bytes::from(self.key()),
            range_end,
            start_revision,
            progress_notify: self.random.one_in(2),
            filters,
            prev_kv: self.random.one_in(2),
            watch_id: self.random.below(8) as i64 - 2,
            fragment: self.random.one_in(2),
        };
        // Whether and under which id it was created is learnt from the answer, which comes at once.
        self.drain();
        self.fixture.create(stream, request.clone());
        self.fixture.take();
        let mut answers = self
            .fixture
            .received
            .remove(&stream)
            .expect("creates are answered at once");
        assert_eq!(answers.len(), 1);
        let answer = answers.remove(0);
        assert!(answer.created && answer.events.is_empty());
        assert_eq!(answer.header.unwrap().revision, revision);
        if answer.canceled {
            assert_eq!(answer.watch_id, -1);
            return;
        }
        if request.watch_id != 0 {
            assert_eq!(answer.watch_id, request.watch_id);
        }
        let from = match start_revision {
            0 => revision + 1,
            start => start,
        };
        let old = self.watches.insert(
            (stream, answer.watch_id),
            Watch {
                request,
                from,
                row: 0,
                created: true,
                over: false,
                in_fragment: false,
            },
        );
        assert!(old.is_none(), "an id in use was given out again");
    }

    fn cancel(&mut self) {
        let Some(stream) = self.stream() else {
            return;
        };
        self.drain();
        let id = self.random.below(10) as i64 - 2;
        self.fixture.cancel(stream, id);
        self.fixture.take();
        let answers = self.fixture.received.remove(&stream).unwrap_or_default();
        let known = self.watches.remove(&(stream, id)).is_some();
        assert_eq!(
            answers.len(),
            usize::from(known),
            "a cancel is answered if the id is known"
        );
        if let [answer] = &answers[..] {
            assert!(answer.canceled && answer.compact_revision == 0 && answer.events.is_empty());
            assert_eq!(
                answer.header.as_ref().unwrap().revision,
                self.fixture.store.revision
            );
        }
    }

    /// Takes what is there and checks it.
    fn drain(&mut self) {
        self.fixture.take();
        for (stream, responses) in std::mem::take(&mut self.fixture.received) {
            for response in responses {
                self.check(stream, response);
            }
        }
    }

    fn check(&mut self, stream: u64, response: WatchResponse) {
        let store = &self.fixture.store;
        let revision = response.header.as_ref().expect("a header").revision;
        assert!(revision <= store.revision);
        let covered: Vec<(u64, i64)> = match response.watch_id {
            -1 if response.events.is_empty() && !response.canceled && !self.is_periodic(stream) => {
                self.watches
                    .keys()
                    .copied()
                    .filter(|&(known, _)| known == stream)
                    .collect()
            }
            id => vec![(stream, id)],
        };
        if response.compact_revision != 0 {
            let watch = self.watches.get_mut(&covered[0]).expect("a known watch");
            assert!(
                response.canceled && revision == 0 && response.events.is_empty() && !watch.over
            );
            assert!(response.compact_revision <= store.compacted);
            watch.over = true;
            self.compacted_seen += 1;
            return;
        }
        assert!(!response.canceled && !response.created);
        if response.events.is_empty() {
            self.progress_seen += 1;
            for key in covered {
                let watch = self.watches.get_mut(&key).expect("a known watch");
                assert!(!watch.over && watch.created && !watch.in_fragment);
                assert!(watch.from <= revision + 1);
                let next = watch.next(store).map(|row| row.main);
                assert!(
                    next.is_none_or(|next| next > revision),
                    "progress ran ahead"
                );
            }
            return;
        }
        let watch = self.watches.get_mut(&covered[0]).expect("a known watch");
        assert!(!watch.over && watch.created);
        let mut revisions = 0;
        let mut last = 0;
        for event in &response.events {
            let row = watch.next(store).expect("an event that happened");
            watch.row += 1;
            let kv = event.kv.as_ref().unwrap();
            assert_eq!(kv.key, row.key);
            assert_eq!(event.r#type == 1, row.kind == EventKind::Delete);
            assert_eq!(
                (kv.create_revision, kv.mod_revision, kv.version, kv.lease),
                (row.create, row.main, row.version, row.lease)
            );
            assert_eq!(kv.value, row.value);
            let old = store.at(&row.key, row.main - 1);
            match (&event.prev_kv, watch.request.prev_kv) {
                (Some(previous), true) => {
                    let old = old.expect("a previous value that existed");
                    assert_eq!(
                        (&previous.value[..], previous.mod_revision),
                        (&old.value[..], old.main)
                    );
                    assert!(row.kind == EventKind::Delete || row.create != row.main);
                }
                (None, true) => {
                    let shown = row.kind == EventKind::Delete || row.create != row.main;
                    assert!(old.is_none() || !shown || row.main - 1 < store.compacted);
                }
                (previous, false) => assert!(previous.is_none()),
            }
            if row.main != last {
                last = row.main;
                revisions += 1;
            }
        }
        assert!(revisions <= 1000 && revision >= last);
        if revisions > 1 {
            self.batches_seen += 1;
        }
        watch.in_fragment = response.fragment;
        self.events_seen += response.events.len() as u64;
        if response.fragment {
            self.fragments_seen += 1;
            assert!(watch.request.fragment);
        } else if let Some(next) = watch.next(store) {
            assert!(next.main > last, "a revision was spread over two responses");
        }
    }

    /// Whether an empty response for id -1 may be the periodic progress of a watcher with that id.
    fn is_periodic(&self, stream: u64) -> bool {
        self.watches.contains_key(&(stream, -1))
    }

    /// Everyone who is alive must end up with everything.
    fn finish(&mut self) {
        self.fixture.store.miss_one_in = 0;
        for stream in self.streams.clone() {
            self.fixture.hub.set_blocked(StreamKey(stream), false);
        }
        self.drain();
        self.fixture.settle();
        self.drain();
        let store = &self.fixture.store;
        for (key, watch) in &mut self.watches {
            if !watch.over {
                let next = watch.next(store);
                assert!(next.is_none(), "watch {key:?} misses {next:?}");
            }
        }
        let dead = self.watches.values().filter(|watch| watch.over).count();
        assert_eq!(self.fixture.hub.stats().unsynced, dead);
        assert_eq!(self.fixture.hub.stats().watchers, self.watches.len());
    }
}

#[test]
fn every_watcher_gets_exactly_what_it_asked_for() {
    let mut seen = [0; 5];
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut model = Model::new(seed);
        model.fixture.store.miss_one_in = [0, 3, 40][(seed % 3) as usize];
        for _ in 0..STEPS {
            model.step();
        }
        model.finish();
        let counts = [
            model.events_seen,
            model.progress_seen,
            model.batches_seen,
            model.compacted_seen,
            model.fragments_seen,
        ];
        seen.iter_mut()
            .zip(counts)
            .for_each(|(sum, count)| *sum += count);
    }
    println!("events, progress, batches, compacted, fragments: {seen:?}");
    // The runs must have met what they are about.
    let at_least = [50_000, 500, 1000, 100, 150];
    assert!(seen
        .iter()
        .zip(at_least)
        .all(|(seen, least)| *seen >= least));
}

#[test]
fn equal_inputs_give_equal_outputs() {
    let run = |seed| {
        let mut model = Model::new(seed);
        model.fixture.store.miss_one_in = 20;
        for _ in 0..500 {
            model.step();
        }
        model.finish();
        model.fixture.sizes
    };
    assert_eq!(run(5), run(5));
}
