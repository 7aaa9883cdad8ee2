//! State of one watch stream, and the queue of responses that all streams share.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::types::{Head, StreamKey, WatchOut};

/// Responses that a stream may have waiting in the hub before its watchers fall back to catching up.
pub const STREAM_QUEUE_RESPONSES_MAX: usize = 128;
/// Bytes that a stream may have waiting in the hub before its watchers fall back to catching up. One response may exceed it.
pub const STREAM_QUEUE_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) key: StreamKey,
    pub(super) connection: u64,
    pub(super) ids: BTreeMap<i64, u32>,
    pub(super) next_id: i64,
    /// Watchers that are not synced, those killed by compaction included.
    pub(super) unsynced: u32,
    /// `(start revision, watcher)` of watchers created for a revision that was not there yet.
    pub(super) future: BTreeSet<(i64, u32)>,
    /// `(next revision, watcher)` of watchers that are behind while the stream takes nothing.
    pub(super) held: BTreeSet<(i64, u32)>,
    /// In the hub's list of streams whose held watchers become ready.
    pub(super) waking: bool,
    /// The front asked for silence.
    pub(super) blocked: bool,
    /// The client is gone; watchers are removed in slices.
    pub(super) closed: bool,
    pub(super) ticker: Ticker,
    queued: Queued,
}

#[derive(Debug, Default)]
struct Queued {
    epoch: u64,
    responses: usize,
    bytes: usize,
}

/// The ticker of periodic progress, which runs from the opening of the stream on.
#[derive(Debug)]
pub(super) struct Ticker {
    opened_ns: u64,
    period_ns: u64,
    /// Set while a watcher wants progress.
    pub(super) due_ns: Option<u64>,
    /// Ids that want progress.
    pub(super) ids: BTreeSet<i64>,
    /// Where the last round stopped for want of room.
    pub(super) resume_at: i64,
}

impl Ticker {
    pub(super) fn new(opened_ns: u64, period_ns: u64) -> Ticker {
        Ticker {
            opened_ns,
            period_ns,
            due_ns: None,
            ids: BTreeSet::new(),
            resume_at: i64::MIN,
        }
    }

    /// The first tick after `now_ns`.
    pub(super) fn next_ns(&self, now_ns: u64) -> u64 {
        let ticks = now_ns.saturating_sub(self.opened_ns) / self.period_ns + 1;
        self.opened_ns
            .saturating_add(ticks.saturating_mul(self.period_ns))
    }
}

impl Stream {
    pub(super) fn new(key: StreamKey, connection: u64, ticker: Ticker) -> Stream {
        Stream {
            key,
            connection,
            ids: BTreeMap::new(),
            next_id: 0,
            unsynced: 0,
            future: BTreeSet::new(),
            held: BTreeSet::new(),
            waking: false,
            blocked: false,
            closed: false,
            ticker,
            queued: Queued::default(),
        }
    }

    /// Drops start revisions that are no longer in the future.
    pub(super) fn forget_arrived(&mut self, revision: i64) {
        while self
            .future
            .first()
            .is_some_and(|&(start, _)| start <= revision)
        {
            self.future.pop_first();
        }
    }

    /// The next automatic id: a counter that skips ids in use and never goes back.
    pub(super) fn automatic_id(&mut self) -> i64 {
        while self.ids.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        id
    }
}

/// Encoded responses on their way to the front.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    responses: Vec<WatchOut>,
    /// Counts the times that the outbox was emptied; a stream's figures of an older epoch are void.
    epoch: u64,
}

impl Outbox {
    /// Whether a response of events or progress may be queued for the stream.
    pub(super) fn has_room(&self, stream: &Stream) -> bool {
        self.has_room_bytes(stream)
            && (stream.queued.epoch != self.epoch
                || stream.queued.responses < STREAM_QUEUE_RESPONSES_MAX)
    }

    pub(super) fn has_room_bytes(&self, stream: &Stream) -> bool {
        !stream.blocked
            && !stream.closed
            && (stream.queued.epoch != self.epoch || stream.queued.bytes < STREAM_QUEUE_BYTES_MAX)
    }

    /// How many more responses the stream may be given.
    pub(super) fn room(&self, stream: &Stream) -> usize {
        if !self.has_room(stream) {
            0
        } else if stream.queued.epoch != self.epoch {
            STREAM_QUEUE_RESPONSES_MAX
        } else {
            STREAM_QUEUE_RESPONSES_MAX - stream.queued.responses
        }
    }

    /// Queues a response; answers to requests come here whether there is room or not.
    pub(super) fn push(&mut self, stream: &mut Stream, head: Head, tail: Bytes) {
        let queued = &mut stream.queued;
        if queued.epoch != self.epoch {
            *queued = Queued {
                epoch: self.epoch,
                ..Queued::default()
            };
        }
        queued.responses += 1;
        queued.bytes += usize::from(head.len) + tail.len();
        self.responses.push(WatchOut {
            stream: stream.key,
            head,
            tail,
        });
    }

    pub(super) fn take(&mut self, out: &mut Vec<WatchOut>) {
        if !self.responses.is_empty() {
            self.epoch += 1;
            out.append(&mut self.responses);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.responses.is_empty()
    }
}
