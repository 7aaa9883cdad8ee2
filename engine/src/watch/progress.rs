//! How far a watcher is when nothing happens to its keys: on request for a whole stream, and periodically.

use bytes::Bytes;

use super::hub::{stream_mut, WatchHub, NO_WATCH_ID};
use super::types::StreamKey;
use super::watchers::{State, QUIET};
use super::wire::HeadBuilder;
use crate::planted::{planted, Fault};

impl WatchHub {
    /// Tells the revision up to which all watchers of the stream have seen everything; says nothing if one is behind or waits
    /// for a future revision, or if there is none.
    pub fn progress(&mut self, key: StreamKey) {
        let Some(&slot) = self.keys.get(&key) else {
            return;
        };
        let revision = self.revision;
        let stream = stream_mut(&mut self.streams, slot);
        stream.forget_arrived(revision);
        let behind = stream.unsynced > 0 && !planted(Fault::ProgressAhead);
        if stream.ids.is_empty() || behind || !stream.future.is_empty() {
            return;
        }
        if self.outbox.has_room(stream) {
            let head = HeadBuilder::new(&self.identity, revision).watch_id(NO_WATCH_ID);
            self.send_control(slot, head, Bytes::new());
        }
    }

    /// When [`WatchHub::on_timer`] next has something to do.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.ticks.first().map(|&(due, _)| due)
    }

    /// Periodic progress.
    pub fn on_timer(&mut self, now_ns: u64) {
        while let Some(&(due, slot)) = self.ticks.first().filter(|&&(due, _)| due <= now_ns) {
            self.ticks.remove(&(due, slot));
            self.tick(slot);
            let ticker = &mut stream_mut(&mut self.streams, slot).ticker;
            let next = ticker.next_ns(now_ns);
            ticker.due_ns = Some(next);
            self.ticks.insert((next, slot));
        }
    }

    pub(super) fn want_progress(&mut self, slot: u32, id: i64, now_ns: u64) {
        let ticker = &mut stream_mut(&mut self.streams, slot).ticker;
        ticker.ids.insert(id);
        if ticker.due_ns.is_none() {
            let due = ticker.next_ns(now_ns);
            ticker.due_ns = Some(due);
            self.ticks.insert((due, slot));
        }
    }

    /// Tells each watcher that asked for it, got no event since the last tick and is synced, how far it is. Without room for
    /// all, the next tick goes on with those left out.
    fn tick(&mut self, slot: u32) {
        let stream = stream_mut(&mut self.streams, slot);
        let head = HeadBuilder::new(&self.identity, self.revision);
        let resume_at = std::mem::replace(&mut stream.ticker.resume_at, i64::MIN);
        let ids: Vec<i64> = {
            let ids = &stream.ticker.ids;
            ids.range(resume_at..)
                .chain(ids.range(..resume_at))
                .copied()
                .collect()
        };
        let mut left_out = None;
        for id in ids {
            let Some(&at) = stream.ids.get(&id) else {
                continue;
            };
            let watcher = self.watchers.get_mut(at);
            let quiet = watcher.has(QUIET);
            watcher.flags |= QUIET;
            let synced = watcher.state == State::Synced || planted(Fault::ProgressAhead);
            if !quiet || !synced || watcher.next > self.revision {
                continue;
            }
            // Many watchers of one stream may share a tick, so only the bytes are bounded here.
            if self.outbox.has_room_bytes(stream) {
                self.outbox
                    .push(stream, head.watch_id(id).build(), Bytes::new());
            } else {
                left_out = left_out.or(Some(id));
            }
        }
        stream.ticker.resume_at = left_out.unwrap_or(i64::MIN);
    }
}
