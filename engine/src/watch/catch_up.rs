//! The way back for watchers that are behind: new ones with a start in the past, and those whose stream was slow.

use super::hub::{stream_mut, WatchHub};
use super::scan::{Ended, Scan, ScanBuilder, Stop};
use super::types::History;
use super::watchers::State;
use super::wire::HeadBuilder;
use crate::page::Miss;

/// Watchers that share one scan.
pub const SCAN_WATCHERS_MAX: usize = 512;
/// Watchers share a scan if they are within this many revisions of each other.
const SCAN_WINDOW_REVISIONS: i64 = 1000;

impl WatchHub {
    /// Whether `catch_up` has something to do.
    pub fn has_work(&self) -> bool {
        self.scan.is_some()
            || !self.ready.is_empty()
            || !self.waking.is_empty()
            || !self.closing.is_empty()
    }

    /// Brings watchers that are behind closer to the present. `budget` bounds the work: rows read, watchers moved. Returns
    /// whether there is more to do; take the output before calling again, or full queues stop the progress.
    ///
    /// On a miss nothing is lost: once the pages are there the next call goes on where this one stopped.
    pub fn catch_up(&mut self, history: &dyn History, budget: usize) -> Result<bool, Miss> {
        debug_assert_eq!(
            history.revision(),
            self.revision,
            "everything in the store was published"
        );
        let mut left = budget;
        self.reap(&mut left);
        self.wake(&mut left);
        while left > 0 {
            self.cancel_compacted(history.compacted(), &mut left);
            if self.scan.is_none() && !self.choose(&mut left) {
                break;
            }
            if let Some(scan) = self.scan.take() {
                self.read(scan, history, &mut left)?;
            }
        }
        Ok(self.has_work())
    }

    /// Makes held watchers of streams that take responses again ready, those farthest behind first.
    fn wake(&mut self, left: &mut usize) {
        for _ in 0..self.waking.len() {
            let Some(slot) = self.waking.pop_front() else {
                return;
            };
            let Some(stream) = self.streams[slot as usize].as_mut() else {
                continue;
            };
            if stream.blocked || stream.closed {
                // Unblocking puts it here again; a closed stream's watchers are removed by `reap`.
                stream.waking = false;
                continue;
            }
            // No more than the stream can be given: the others would only be put back.
            for _ in 0..self.outbox.room(stream).min(*left) {
                let held = &mut stream_mut(&mut self.streams, slot).held;
                let Some((next, watcher)) = held.pop_first() else {
                    break;
                };
                *left -= 1;
                self.make_ready(watcher, next);
            }
            let stream = stream_mut(&mut self.streams, slot);
            if stream.held.is_empty() {
                stream.waking = false;
            } else {
                self.waking.push_back(slot);
            }
        }
    }

    /// Tells watchers whose next revision is gone so. They keep their id until the client cancels it.
    fn cancel_compacted(&mut self, compacted: i64, left: &mut usize) {
        let reaches = |scan: &Scan| scan.at.main >= compacted;
        if let Some(scan) = self.scan.take_if(|scan| !reaches(scan)) {
            self.abandon(*scan);
        }
        while *left > 0 {
            let Some(&(_, at)) = self.ready.first().filter(|&&(next, _)| next < compacted) else {
                return;
            };
            *left -= 1;
            self.ready.pop_first();
            let watcher = self.watchers.get(at);
            let (id, slot) = (watcher.id, watcher.stream);
            let stream = stream_mut(&mut self.streams, slot);
            if !self.outbox.has_room(stream) {
                self.hold(at);
                continue;
            }
            let head = HeadBuilder::new(&self.identity, 0)
                .watch_id(id)
                .canceled()
                .compact_revision(compacted);
            self.outbox.push(stream, head.build(), Default::default());
            self.watchers.get_mut(at).state = State::Compacted;
        }
    }

    /// Begins a scan: in turn for those that are farthest behind and for those that have least to read, so that neither a long
    /// history nor a stream of short delays keeps the others waiting.
    fn choose(&mut self, left: &mut usize) -> bool {
        let Some(&(oldest, _)) = self.ready.first() else {
            return false;
        };
        self.newest_first = !self.newest_first;
        let recent = self.revision.saturating_sub(SCAN_WINDOW_REVISIONS);
        let has_recent = self.ready.range((recent, 0)..).next().is_some();
        let from = match self.newest_first && has_recent {
            true => recent,
            false => oldest,
        };
        let to = from.saturating_add(SCAN_WINDOW_REVISIONS);
        let mut scan = ScanBuilder::new(self.seed);
        let mut room = std::collections::BTreeMap::new();
        let mut after = (from, 0);
        while *left > 0 && scan.members() < SCAN_WATCHERS_MAX {
            let Some(&(next, at)) = self.ready.range(after..(to, u32::MAX)).next() else {
                break;
            };
            after = (next, at + 1);
            *left -= 1;
            let slot = self.watchers.get(at).stream;
            let stream = stream_mut(&mut self.streams, slot);
            let room = room.entry(slot).or_insert_with(|| self.outbox.room(stream));
            self.ready.remove(&(next, at));
            if *room == 0 {
                self.hold(at);
                continue;
            }
            *room -= 1;
            let class = scan.add(&self.targets, at, self.watchers.get(at));
            let watcher = self.watchers.get_mut(at);
            watcher.state = State::Scanning;
            watcher.before = class;
        }
        let scan = scan.build();
        if scan.has_members() {
            self.scan = Some(Box::new(scan));
        }
        self.scan.is_some() || !self.ready.is_empty()
    }

    fn read(
        &mut self,
        mut scan: Box<Scan>,
        history: &dyn History,
        left: &mut usize,
    ) -> Result<(), Miss> {
        if !scan.has_members() {
            return Ok(());
        }
        let stop = match scan.read(history, left) {
            Ok(stop) => stop,
            Err(miss) => {
                self.scan = Some(scan);
                return Err(miss);
            }
        };
        let end = self.revision + 1;
        match stop {
            Stop::Budget => self.scan = Some(scan),
            Stop::Full { class, next } => {
                self.hand_out(&mut scan, class, next);
                self.scan = Some(scan);
            }
            Stop::Turn { next } => self.hand_out_all(scan, next),
            Stop::End => self.hand_out_all(scan, end),
        }
        Ok(())
    }

    fn hand_out_all(&mut self, mut scan: Box<Scan>, next: i64) {
        for class in 0..scan.classes.len() as u32 {
            // Members from farther ahead were not reached when the scan gave way to others.
            let next = next.max(scan.classes[class as usize].from);
            self.hand_out(&mut scan, class, next);
        }
    }

    /// Queues what a class has gathered for each of its members, who go on at `next`. A member whose queue is full meanwhile
    /// keeps its place and will read again.
    fn hand_out(&mut self, scan: &mut Scan, class: u32, next: i64) {
        let Ended {
            members,
            payload,
            again,
        } = scan.end_class(class);
        let header = HeadBuilder::new(&self.identity, self.revision);
        for at in members {
            let watcher = self.watchers.get(at);
            let (slot, from) = (watcher.stream, watcher.next);
            if again {
                self.make_ready(at, from);
                continue;
            }
            if let Some(payload) = &payload {
                if !self.outbox.has_room(stream_mut(&mut self.streams, slot)) {
                    self.make_ready(at, from);
                    continue;
                }
                self.send_events(at, header, payload);
            }
            if next > self.revision {
                stream_mut(&mut self.streams, slot).unsynced -= 1;
                self.watchers.get_mut(at).next = 0;
                self.link_synced(at);
            } else {
                self.make_ready(at, next);
            }
        }
    }

    /// Forgets a scan: its members are where they were before it.
    pub(super) fn abandon(&mut self, scan: Scan) {
        for class in scan.classes {
            for at in class.members {
                let next = self.watchers.get(at).next;
                self.make_ready(at, next);
            }
        }
    }
}
