//! Watch streams: what a server must send, in order, as if every watcher always kept up.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};

use super::{KeyRange, Model};

/// Distinct revisions in one response of history.
const CATCH_UP_REVISIONS_MAX: usize = 1000;
/// A fragment may exceed the request limit by this much.
const FRAGMENT_SLACK_BYTES: usize = 512 * 1024;
/// Stands for the stream itself, and for a watcher that could not be created.
const NO_WATCHER: i64 = -1;

#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    next_id: i64,
    watchers: BTreeMap<i64, Watcher>,
    out: VecDeque<pb::WatchResponse>,
}

#[derive(Clone, Debug)]
struct Watcher {
    range: KeyRange,
    /// The first revision not sent yet.
    next: i64,
    filters: Vec<i32>,
    prev_kv: bool,
    fragment: bool,
    /// Ended by a compaction; its id stays taken until the client cancels it.
    ended: bool,
}

impl Model {
    /// One request of a watch stream; streams come into being with their first request.
    pub fn watch(&mut self, stream: u64, request: &pb::WatchRequest) {
        self.streams.entry(stream).or_default();
        match &request.request_union {
            Some(RequestUnion::CreateRequest(r)) => self.watch_create(stream, r),
            Some(RequestUnion::CancelRequest(r)) => self.watch_cancel(stream, r.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.watch_progress(stream),
            None => {}
        }
    }

    /// Ids that are not known get no answer.
    fn watch_cancel(&mut self, stream: u64, watch_id: i64) {
        let header = self.header();
        let stream = self.stream(stream);
        if stream.watchers.remove(&watch_id).is_some() {
            stream.out.push_back(pb::WatchResponse {
                header,
                watch_id,
                canceled: true,
                ..Default::default()
            });
        }
    }

    pub fn close_watch(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    /// The next thing to send on a stream.
    pub fn watch_next(&mut self, stream: u64) -> Option<pb::WatchResponse> {
        self.streams.get_mut(&stream)?.out.pop_front()
    }

    fn stream(&mut self, stream: u64) -> &mut Stream {
        self.streams.get_mut(&stream).expect("an open stream")
    }

    fn watch_create(&mut self, stream: u64, r: &pb::WatchCreateRequest) {
        let header = self.header();
        let current = self.history.revision;
        let key = if r.key.is_empty() {
            Bytes::from_static(b"\0")
        } else {
            r.key.clone()
        };
        let taken = self.stream(stream).watchers.contains_key(&r.watch_id);
        let refused = if r.start_revision < 0 {
            "etcdserver: mvcc: required revision has been compacted"
        } else if !r.range_end.is_empty() && r.range_end != b"\0"[..] && key >= r.range_end {
            "mvcc: watcher range is empty"
        } else if r.watch_id != 0 && taken {
            "mvcc: duplicate watch ID provided on the WatchStream"
        } else {
            ""
        };
        if !refused.is_empty() {
            return self.stream(stream).out.push_back(pb::WatchResponse {
                header,
                watch_id: NO_WATCHER,
                created: true,
                canceled: true,
                cancel_reason: refused.to_owned(),
                ..Default::default()
            });
        }
        let watcher = Watcher {
            range: KeyRange::new(&key, &r.range_end),
            next: if r.start_revision == 0 {
                current + 1
            } else {
                r.start_revision
            },
            filters: r.filters.clone(),
            prev_kv: r.prev_kv,
            fragment: r.fragment,
            ended: false,
        };
        let id = self.stream(stream).add(r.watch_id, watcher);
        self.stream(stream).out.push_back(pb::WatchResponse {
            header,
            watch_id: id,
            created: true,
            ..Default::default()
        });
        self.catch_up(stream, id);
    }

    /// History from the start revision on, or the end of the watcher if that is gone.
    fn catch_up(&mut self, stream: u64, id: i64) {
        let (current, compacted) = (self.history.revision, self.history.compacted);
        let watcher = self.streams[&stream].watchers[&id].clone();
        if watcher.next > current {
            return;
        }
        let mut header = self.header();
        if watcher.next < compacted {
            if let Some(header) = &mut header {
                header.revision = 0;
            }
            let stream = self.stream(stream);
            stream.watchers.get_mut(&id).expect("just added").ended = true;
            return stream.out.push_back(pb::WatchResponse {
                header,
                watch_id: id,
                canceled: true,
                compact_revision: compacted,
                ..Default::default()
            });
        }
        let mut batch = Vec::new();
        let mut revisions = 0;
        for main in watcher.next..=current {
            let events = self.events(&watcher, main);
            if events.is_empty() {
                continue;
            }
            batch.extend(events);
            revisions += 1;
            if revisions == CATCH_UP_REVISIONS_MAX {
                self.send(stream, id, &watcher, std::mem::take(&mut batch));
                revisions = 0;
            }
        }
        if !batch.is_empty() {
            self.send(stream, id, &watcher, batch);
        }
        let watchers = &mut self.stream(stream).watchers;
        watchers.get_mut(&id).expect("just added").next = current + 1;
    }

    /// Tells all watchers of the changes of the newest revision.
    pub(super) fn publish(&mut self, main: i64) {
        let all: Vec<_> = self
            .streams
            .iter()
            .flat_map(|(s, stream)| stream.watchers.iter().map(|(id, w)| (*s, *id, w.clone())))
            .filter(|(_, _, watcher)| !watcher.ended && watcher.next <= main)
            .collect();
        for (stream, id, watcher) in all {
            let events = self.events(&watcher, main);
            if !events.is_empty() {
                self.send(stream, id, &watcher, events);
            }
            let watchers = &mut self.stream(stream).watchers;
            watchers.get_mut(&id).expect("still there").next = main + 1;
        }
    }

    /// All events of one revision, in the order of execution, with the records before them.
    pub fn events_of(&self, main: i64) -> Vec<Event> {
        let watcher = Watcher {
            range: KeyRange::all(),
            next: main,
            filters: Vec::new(),
            prev_kv: true,
            fragment: false,
            ended: false,
        };
        self.events(&watcher, main)
    }

    /// The events of one revision that a watcher wants, in the order of execution.
    fn events(&self, watcher: &Watcher, main: i64) -> Vec<Event> {
        let mut found = Vec::new();
        for (key, changes) in &self.history.keys {
            if watcher.range.contains(key) {
                let recent = changes.iter().rev().take_while(|c| c.main >= main);
                let of_main = recent.filter(|c| c.main == main);
                found.extend(of_main.map(|c| (c.sub, key.clone(), c.kv.clone())));
            }
        }
        found.sort_by_key(|(sub, _, _)| *sub);
        found
            .into_iter()
            .map(|(_, key, kv)| self.event(watcher, main, key, kv))
            .filter(|event| {
                let filter = if event.r#type == EventType::Put as i32 {
                    FilterType::Noput
                } else {
                    FilterType::Nodelete
                };
                !watcher.filters.contains(&(filter as i32))
            })
            .collect()
    }

    fn event(&self, watcher: &Watcher, main: i64, key: Bytes, kv: Option<KeyValue>) -> Event {
        let created = kv.as_ref().is_some_and(|kv| kv.create_revision == main);
        let readable = main > self.history.compacted;
        let prev_kv = if watcher.prev_kv && !created && readable {
            self.history.at(&key, main - 1).cloned()
        } else {
            None
        };
        let r#type = if kv.is_some() {
            EventType::Put
        } else {
            EventType::Delete
        };
        let deleted = KeyValue {
            key,
            mod_revision: main,
            ..Default::default()
        };
        Event {
            r#type: r#type as i32,
            kv: Some(kv.unwrap_or(deleted)),
            prev_kv,
        }
    }

    fn send(&mut self, stream: u64, id: i64, watcher: &Watcher, events: Vec<Event>) {
        let whole = pb::WatchResponse {
            header: self.header(),
            watch_id: id,
            events,
            ..Default::default()
        };
        let limit = self.limits.request_bytes_max + FRAGMENT_SLACK_BYTES;
        let pieces = if watcher.fragment {
            fragments(whole, limit)
        } else {
            vec![whole]
        };
        self.stream(stream).out.extend(pieces);
    }

    fn watch_progress(&mut self, stream: u64) {
        let header = self.header();
        let current = self.history.revision;
        let stream = self.stream(stream);
        let synced = |w: &Watcher| !w.ended && w.next <= current + 1;
        if !stream.watchers.is_empty() && stream.watchers.values().all(synced) {
            stream.out.push_back(pb::WatchResponse {
                header,
                watch_id: NO_WATCHER,
                ..Default::default()
            });
        }
    }
}

impl Stream {
    fn add(&mut self, wanted: i64, watcher: Watcher) -> i64 {
        let id = if wanted != 0 {
            wanted
        } else {
            while self.watchers.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            self.next_id - 1
        };
        self.watchers.insert(id, watcher);
        id
    }
}

/// Pieces below `limit` bytes, of at least one event each.
fn fragments(whole: pb::WatchResponse, limit: usize) -> Vec<pb::WatchResponse> {
    if whole.encoded_len() < limit || whole.events.len() < 2 {
        return vec![whole];
    }
    let empty = pb::WatchResponse {
        events: Vec::new(),
        fragment: true,
        ..whole.clone()
    };
    let mut pieces = vec![empty.clone()];
    for event in whole.events {
        let piece = pieces.last_mut().expect("never empty");
        piece.events.push(event);
        if piece.events.len() > 1 && piece.encoded_len() >= limit {
            let event = piece.events.pop().expect("just pushed");
            let mut next = empty.clone();
            next.events.push(event);
            pieces.push(next);
        }
    }
    pieces.last_mut().expect("never empty").fragment = false;
    pieces
}
