//! The hub's tables: streams and watchers, and how a watcher moves between being synced, ready, held and gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::publish::Scratch;
use super::scan::Scan;
use super::streams::{Outbox, Stream, Ticker};
use super::targets::Targets;
use super::types::{StreamKey, WatchOut};
use super::watchers::{State, Watchers, FRAGMENT, PROGRESS, QUIET};
use super::wire::{fragments, HeadBuilder, Identity, Payload};

/// Watchers of one connection, over all of its streams. More are refused with `etcdserver: too many requests`.
pub const CONNECTION_WATCHERS_MAX: u32 = 100_000;
/// What a response with fragments may exceed `--max-request-bytes` by: the room that etcd leaves for gRPC.
pub const FRAGMENT_OVERHEAD_BYTES: usize = 512 * 1024;
/// Time between two progress notifications unless configured.
pub const PROGRESS_INTERVAL_DEFAULT_NS: u64 = 600_000_000_000;
/// Shorter intervals are raised to this.
pub const PROGRESS_INTERVAL_MIN_NS: u64 = 100_000_000;
/// Watchers of a closed stream that are removed at once; the rest goes in slices of `catch_up`.
const CLOSE_WATCHERS_MAX: usize = 1024;

/// Watch id of answers that concern no watcher: failed creates and progress of a whole stream.
pub(super) const NO_WATCH_ID: i64 = -1;

#[derive(Clone, Debug)]
pub struct Config {
    pub identity: Identity,
    pub max_request_bytes: usize,
    /// 0: the default. Values below 100 ms are raised to it.
    pub progress_interval_ns: u64,
    /// Drawn once at process start; keeps clients from aiming at the weak spots of hash map and tree.
    pub seed: u64,
}

/// As at etcd's default request limit, with the same seed each time: for tools and tests, not for a server.
impl Default for Config {
    fn default() -> Config {
        Config {
            identity: Identity::default(),
            max_request_bytes: 1_572_864,
            progress_interval_ns: 0,
            seed: 1,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub streams: usize,
    pub watchers: usize,
    /// Watchers that are behind, those killed by compaction included.
    pub unsynced: usize,
    /// Events handed to watchers since the start.
    pub events_total: u64,
}

/// All watchers of this member. See the module documentation.
#[derive(Debug)]
pub struct WatchHub {
    pub(super) identity: Identity,
    pub(super) fragment_bytes: usize,
    progress_interval_ns: u64,
    pub(super) seed: u64,
    /// The newest published revision.
    pub(super) revision: i64,
    pub(super) keys: BTreeMap<StreamKey, u32>,
    pub(super) streams: Vec<Option<Stream>>,
    free_streams: Vec<u32>,
    pub(super) connections: BTreeMap<u64, u32>,
    pub(super) watchers: Watchers,
    pub(super) targets: Targets,
    pub(super) synced: usize,
    /// `(next revision, watcher)` of watchers that are behind and may catch up.
    pub(super) ready: BTreeSet<(i64, u32)>,
    /// Streams whose held watchers become ready.
    pub(super) waking: VecDeque<u32>,
    /// Closed streams that still have watchers.
    pub(super) closing: VecDeque<u32>,
    pub(super) ticks: BTreeSet<(u64, u32)>,
    pub(super) scan: Option<Box<Scan>>,
    pub(super) newest_first: bool,
    pub(super) outbox: Outbox,
    pub(super) scratch: Scratch,
    pub(super) events_total: u64,
}

impl WatchHub {
    /// `revision` is the store's at this moment.
    pub fn new(config: Config, revision: i64) -> WatchHub {
        let progress_interval_ns = match config.progress_interval_ns {
            0 => PROGRESS_INTERVAL_DEFAULT_NS,
            given => given.max(PROGRESS_INTERVAL_MIN_NS),
        };
        WatchHub {
            identity: config.identity,
            fragment_bytes: config
                .max_request_bytes
                .saturating_add(FRAGMENT_OVERHEAD_BYTES),
            progress_interval_ns,
            seed: config.seed,
            revision,
            keys: BTreeMap::new(),
            streams: Vec::new(),
            free_streams: Vec::new(),
            connections: BTreeMap::new(),
            watchers: Watchers::default(),
            targets: Targets::new(config.seed),
            synced: 0,
            ready: BTreeSet::new(),
            waking: VecDeque::new(),
            closing: VecDeque::new(),
            ticks: BTreeSet::new(),
            scan: None,
            newest_first: false,
            outbox: Outbox::default(),
            scratch: Scratch::default(),
            events_total: 0,
        }
    }

    /// Ids and term of the headers from now on.
    pub fn set_identity(&mut self, identity: Identity) {
        self.identity = identity;
    }

    pub fn set_term(&mut self, raft_term: u64) {
        self.identity.raft_term = raft_term;
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn stats(&self) -> Stats {
        let dead = self
            .streams
            .iter()
            .flatten()
            .filter(|stream| stream.closed)
            .count();
        Stats {
            streams: self.streams.iter().flatten().count() - dead,
            watchers: self.watchers.len(),
            unsynced: self.watchers.len() - self.synced,
            events_total: self.events_total,
        }
    }

    /// Opens a stream. `draw` is a random number: the progress ticker of the stream runs up to a tenth slower by it.
    /// `connection` groups the streams that share [`CONNECTION_WATCHERS_MAX`].
    pub fn open_stream(&mut self, key: StreamKey, connection: u64, draw: u64, now_ns: u64) {
        let jitter_ns = draw % (self.progress_interval_ns / 10);
        let ticker = Ticker::new(now_ns, self.progress_interval_ns.saturating_add(jitter_ns));
        let stream = Some(Stream::new(key, connection, ticker));
        let slot = match self.free_streams.pop() {
            Some(slot) => {
                self.streams[slot as usize] = stream;
                slot
            }
            None => {
                self.streams.push(stream);
                (self.streams.len() - 1) as u32
            }
        };
        let old = self.keys.insert(key, slot);
        assert!(old.is_none(), "a stream key is used once");
    }

    /// The stream has ended, for whatever reason. Nothing is sent for it any more.
    pub fn close_stream(&mut self, key: StreamKey) {
        let Some(slot) = self.keys.remove(&key) else {
            return;
        };
        let Some(stream) = self.streams[slot as usize].as_mut() else {
            return;
        };
        stream.closed = true;
        if let Some(due) = stream.ticker.due_ns.take() {
            self.ticks.remove(&(due, slot));
        }
        self.closing.push_back(slot);
        let mut left = CLOSE_WATCHERS_MAX;
        self.reap(&mut left);
    }

    /// The front says whether the stream's output is above its bound. While it is, only answers to requests are queued;
    /// watchers that miss an event keep their place and catch up later.
    pub fn set_blocked(&mut self, key: StreamKey, blocked: bool) {
        let Some(&slot) = self.keys.get(&key) else {
            return;
        };
        let stream = stream_mut(&mut self.streams, slot);
        stream.blocked = blocked;
        if !blocked {
            self.wake_later(slot);
        }
    }

    /// A snapshot replaced the store's content: watchers stay, and read what they missed from the new history.
    pub fn restored(&mut self, revision: i64) {
        assert!(
            revision >= self.revision,
            "a snapshot never takes a member back"
        );
        if let Some(scan) = self.scan.take() {
            self.abandon(*scan);
        }
        let seen = std::mem::replace(&mut self.revision, revision);
        for watcher in self.watchers.in_state(State::Synced) {
            let next = self.watchers.get(watcher).next.max(seen + 1);
            if next <= revision {
                self.unlink_synced(watcher);
                self.make_ready(watcher, next);
            }
        }
    }

    /// Everything to be sent, in order for each stream. Take it after every call that may have queued something: a stream's
    /// watchers fall behind when too much of it waits here.
    pub fn take_out(&mut self, out: &mut Vec<WatchOut>) {
        self.outbox.take(out);
    }

    pub fn has_out(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Removes watchers of closed streams, at most `left`.
    pub(super) fn reap(&mut self, left: &mut usize) {
        while let Some(&slot) = self.closing.front() {
            let stream = stream_mut(&mut self.streams, slot);
            let Some((_, &watcher)) = stream.ids.last_key_value() else {
                self.closing.pop_front();
                self.streams[slot as usize] = None;
                self.free_streams.push(slot);
                continue;
            };
            if *left == 0 {
                return;
            }
            *left -= 1;
            self.remove_watcher(watcher);
        }
    }

    pub(super) fn remove_watcher(&mut self, at: u32) {
        let watcher = self.watchers.get(at);
        let (id, slot, target, next, state) = (
            watcher.id,
            watcher.stream,
            watcher.target,
            watcher.next,
            watcher.state,
        );
        match state {
            State::Synced => self.unlink_synced(at),
            State::Ready => {
                self.ready.remove(&(next, at));
            }
            State::Held => {
                stream_mut(&mut self.streams, slot).held.remove(&(next, at));
            }
            State::Scanning => {
                if let Some(scan) = self.scan.as_mut() {
                    scan.forget(watcher.before, at);
                }
            }
            State::Compacted | State::Free => {}
        }
        let stream = stream_mut(&mut self.streams, slot);
        stream.unsynced -= 1;
        stream.ids.remove(&id);
        stream.future.remove(&(next, at));
        if stream.ticker.ids.remove(&id) && stream.ticker.ids.is_empty() {
            if let Some(due) = stream.ticker.due_ns.take() {
                self.ticks.remove(&(due, slot));
            }
        }
        if let Some(count) = self.connections.get_mut(&stream.connection) {
            *count -= 1;
            if *count == 0 {
                self.connections.remove(&stream.connection);
            }
        }
        self.targets.release(target);
        self.watchers.remove(at);
    }

    /// Makes a watcher that is in no list synced.
    pub(super) fn link_synced(&mut self, at: u32) {
        self.watchers.get_mut(at).state = State::Synced;
        self.targets.link(&mut self.watchers, at);
        self.synced += 1;
    }

    /// Takes a synced watcher out of its list; the caller puts it elsewhere.
    pub(super) fn unlink_synced(&mut self, at: u32) {
        self.targets.unlink(&mut self.watchers, at);
        self.synced -= 1;
        stream_mut(&mut self.streams, self.watchers.get(at).stream).unsynced += 1;
    }

    /// Puts a watcher that is in no list among those that catch up from `next` on.
    pub(super) fn make_ready(&mut self, at: u32, next: i64) {
        let watcher = self.watchers.get_mut(at);
        watcher.state = State::Ready;
        watcher.next = next;
        self.ready.insert((next, at));
    }

    /// Puts a watcher that is in no list aside until its stream takes responses again.
    pub(super) fn hold(&mut self, at: u32) {
        let watcher = self.watchers.get_mut(at);
        watcher.state = State::Held;
        let slot = watcher.stream;
        let stream = stream_mut(&mut self.streams, slot);
        stream.held.insert((watcher.next, at));
        if !stream.blocked {
            // Only the queue is full, which the next take_out ends.
            self.wake_later(slot);
        }
    }

    fn wake_later(&mut self, slot: u32) {
        let stream = stream_mut(&mut self.streams, slot);
        if !stream.held.is_empty() && !stream.waking {
            stream.waking = true;
            self.waking.push_back(slot);
        }
    }

    /// Queues one response of events for a watcher, cut into fragments if it asked for that.
    pub(super) fn send_events(&mut self, at: u32, header: HeadBuilder, payload: &Payload) {
        let watcher = self.watchers.get_mut(at);
        if watcher.has(PROGRESS) {
            watcher.flags &= !QUIET;
        }
        self.events_total += payload.events() as u64;
        let stream = stream_mut(&mut self.streams, watcher.stream);
        let head = header.watch_id(watcher.id);
        let cuts = match watcher.has(FRAGMENT) {
            true => fragments(&head, payload, self.fragment_bytes),
            false => Vec::new(),
        };
        let Some((&last, parts)) = cuts.split_last() else {
            return self
                .outbox
                .push(stream, head.build(), payload.bytes.clone());
        };
        let mut start = 0;
        for &end in parts {
            let part = payload.bytes.slice(start..end);
            self.outbox.push(stream, head.fragment().build(), part);
            start = end;
        }
        self.outbox
            .push(stream, head.build(), payload.bytes.slice(start..last));
    }
}

/// A stream that is known to be there: slots are freed only after their last watcher.
pub(super) fn stream_mut(streams: &mut [Option<Stream>], slot: u32) -> &mut Stream {
    streams[slot as usize]
        .as_mut()
        .expect("a slot in use holds a stream")
}
