//! Work that waits for idle moments: compaction, defragmentation, relocation, watch catch-up, hashes.

use super::{read::encode, Effect, Member};
use crate::planted::{planted, Fault};
use crate::request::CallId;
use engine::{
    error::RequestError,
    page::{FetchDone, Miss, PageError, PageNo},
    store::{hash::HashJob, WholeHashJob},
};
use proto::etcdserverpb as pb;
use std::collections::VecDeque;

/// Rows that one slice of compaction or hashing looks at: some 100 µs of work.
const SLICE_ROWS_MAX: usize = 200;
/// Rows that one slice of watch catch-up reads.
const CATCH_UP_ROWS_MAX: usize = 500;
/// Hashes under way at once; the next caller is told to slow down.
const HASHES_MAX: usize = 16;

/// Work that met a damaged page is tried again after this time: somebody may have repaired it.
const DAMAGE_PAUSE_NS: u64 = 10_000_000_000;

enum Hash {
    Kv(HashJob),
    All(WholeHashJob),
}

/// The caller of a physical compaction.
struct Waiting {
    call: CallId,
    /// The compaction that must be over before it is answered.
    number: u64,
    result: Result<i64, RequestError>,
}

#[derive(Default)]
pub(super) struct Background {
    hashes: VecDeque<(CallId, Hash)>,
    /// Callers of physical compactions, with the number of the compaction that they wait for.
    compactions: VecDeque<Waiting>,
    /// A step lacked pages: no use in trying before some arrive.
    starved: bool,
    /// The pages that it lacked.
    awaits: Vec<PageNo>,
    /// One of them is damaged: nothing is tried before this time.
    pause_until_ns: u64,
    turn: usize,
    /// Pages arrived that the step of this turn may have waited for: it goes first, and nothing is evicted before.
    tries_again: bool,
    /// The next turn is a large range's.
    reads_next: bool,
    /// Since the last settling.
    pub has_changed_pages: bool,
}

impl Member {
    pub fn wants_work(&self) -> bool {
        if self.store.is_applying() {
            return !self.halted && self.wants_apply_slice();
        }
        !self.halted && (self.wants_read_slice() || self.wants_background())
    }

    /// Whether a caller waits for work that goes on in slices, and so gets one in every turn.
    pub fn wants_read_slice(&self) -> bool {
        !self.halted && self.large_ranges.wants_work() && !self.store.is_applying()
    }

    fn wants_background(&self) -> bool {
        !self.background.starved
            && self.now_ns >= self.background.pause_until_ns
            && (!self.background.hashes.is_empty()
                || self.store.hub().has_work()
                || (self.store.compaction_pending() || self.is_moving() || self.is_relocating())
                    && self.has_room_for_background())
    }

    /// One slice of one kind of work; the kinds take turns.
    pub(super) fn work(&mut self) {
        if self.store.is_applying() {
            // The next slice of that is part of every settling.
            return;
        }
        // Somebody waits for a large range; the rest gets every other turn beside it.
        self.background.reads_next ^= true;
        if self.wants_read_slice() && (self.background.reads_next || !self.wants_background()) {
            return self.large_range_slice();
        }
        // Where little may stay in memory, another kind of work would push out what this one waited for.
        if !std::mem::take(&mut self.background.tries_again) {
            self.background.turn = (self.background.turn + 1) % 4;
        }
        let result = match self.background.turn {
            0 if self.has_room_for_background() => self.compact_slice(),
            // Never both at the same time.
            1 if self.is_moving() && self.has_room_for_background() => self.move_slice(),
            1 if self.has_room_for_background() => self.relocate_slice(),
            2 => self.hash_slice(),
            _ => self.catch_up_slice(),
        };
        if let Err(miss) = result {
            self.background.starved = true;
            self.fetch(&miss);
            self.background.awaits = miss.pages;
        }
    }

    fn compact_slice(&mut self) -> Result<(), Miss> {
        if !self.store.compaction_pending() {
            return Ok(());
        }
        self.background.has_changed_pages = true;
        self.store.compaction_step(SLICE_ROWS_MAX)?;
        let done = self.store.compactions_done();
        while let Some(first) = self.background.compactions.front() {
            if first.number > done {
                break;
            }
            if let Some(waiting) = self.background.compactions.pop_front() {
                self.answer_compaction(waiting.call, waiting.result);
            }
        }
        self.defragmentation_compacted();
        Ok(())
    }

    fn catch_up_slice(&mut self) -> Result<(), Miss> {
        self.store.watch_catch_up(CATCH_UP_ROWS_MAX)?;
        Ok(())
    }

    fn hash_slice(&mut self) -> Result<(), Miss> {
        let Some((call, mut hash)) = self.background.hashes.pop_front() else {
            return Ok(());
        };
        let header = Some(self.header(self.store.revision()));
        let step = match &mut hash {
            Hash::All(job) => job
                .step(&self.store, SLICE_ROWS_MAX)
                .map(|done| done.map(|hash| Ok(encode(&pb::HashResponse { header, hash })))),
            Hash::Kv(job) => job.step(&self.store, SLICE_ROWS_MAX).map(|done| {
                done.map(|result| {
                    result.map(|found| {
                        if call.connection() == CallId::PEER_CONNECTION {
                            return Self::hash_kv_json(&found, self.store.revision());
                        }
                        encode(&pb::HashKvResponse {
                            header,
                            hash: found.hash,
                            compact_revision: found.compact_revision,
                            hash_revision: 0,
                        })
                    })
                })
            }),
        };
        match step {
            Ok(Some(result)) => {
                self.reply(call, result.map_err(Into::into));
                Ok(())
            }
            unfinished => {
                self.background.hashes.push_front((call, hash));
                unfinished.map(|_| ())
            }
        }
    }

    pub(super) fn hash(&mut self, call: CallId) {
        let job = self.store.hash();
        self.queue_hash(call, Hash::All(job));
    }

    pub(super) fn hash_kv(&mut self, call: CallId, revision: i64) {
        let job = self.store.hash_kv(revision);
        self.queue_hash(call, Hash::Kv(job));
    }

    fn queue_hash(&mut self, call: CallId, hash: Hash) {
        if self.background.hashes.len() >= HASHES_MAX {
            return self.reply(call, Err(RequestError::TooManyRequests.into()));
        }
        self.background.hashes.push_back((call, hash));
    }

    pub(super) fn abort_hashes(&mut self, error: RequestError) {
        for (call, _) in std::mem::take(&mut self.background.hashes) {
            self.reply(call, Err(error.into()));
        }
    }

    /// The store's content was replaced: what was being computed of the old one is asked for again by its callers.
    pub(super) fn reset_background(&mut self) {
        self.background.starved = false;
        self.background.tries_again = false;
        self.abort_hashes(RequestError::LeaderChanged);
        for waiting in std::mem::take(&mut self.background.compactions) {
            self.answer_compaction(waiting.call, waiting.result);
        }
        self.abort_large_ranges(RequestError::LeaderChanged);
        self.reset_defragmentation();
        self.reset_upkeep();
    }

    /// The answer to a compaction: at once, or after its rows are gone when the caller asked for that.
    pub(super) fn compacted(
        &mut self,
        call: CallId,
        number: u64,
        result: Result<i64, RequestError>,
    ) {
        if self.store.compactions_done() >= number {
            self.answer_compaction(call, result);
        } else {
            self.background.compactions.push_back(Waiting {
                call,
                number,
                result,
            });
        }
    }

    fn answer_compaction(&mut self, call: CallId, result: Result<i64, RequestError>) {
        let result = result.map(|revision| {
            encode(&pb::CompactionResponse {
                header: Some(self.header(revision)),
            })
        });
        self.reply(call, result.map_err(Into::into));
    }

    /// Asks for pages, unless they are on their way already; false if all of them are.
    pub(super) fn fetch(&mut self, miss: &Miss) -> bool {
        if miss.is_empty() {
            return false;
        }
        match self.store.pages_mut().fetch_job(miss) {
            Some(job) => self.effects.push(Effect::Fetch(job)),
            None => return false,
        }
        true
    }

    pub(super) fn fetched(&mut self, done: FetchDone) {
        self.background.tries_again |= std::mem::take(&mut self.background.starved);
        self.evict_due = true;
        match self.store.pages_mut().fetch_done_keeping(done) {
            Ok(()) => {
                if planted(Fault::EvictAtOnce) {
                    self.store.pages_mut().evict_some();
                }
                self.reads.pages_arrived();
                self.large_ranges.pages_arrived();
            }
            Err(error) => self.damaged(&error),
        }
    }

    /// Makes room after whoever waits for pages had another try. Each round of the clock brings pages closer to their end, and
    /// a step that runs again must find what it touched before: one round between two tries, however many fetches end.
    pub(super) fn evict(&mut self, tried_again: bool) {
        let works_first = self.background.tries_again && self.wants_background();
        let reads_first = self.reads.wait_for_pages() && !tried_again;
        if self.evict_due && !works_first && !reads_first {
            self.evict_due = false;
            // Whether more is left to evict shows at the next pulse.
            self.store.pages_mut().evict_some();
        }
    }

    /// A page does not pass its check. Reads that need it are refused and the member reports itself; an entry that needs
    /// it cannot be applied before the pages were made anew, and where they cannot be, it stops.
    fn damaged(&mut self, error: &PageError) {
        self.page_damaged(&error.to_string());
        let blocks = !self.apply_queue.is_empty() && self.apply_awaits.contains(&error.page);
        if blocks && !self.waits_for_rebuild() {
            return self.halt(format!("{error}; committed entries need that page"));
        }
        self.reads.page_damaged(error.page);
        self.large_range_damaged(error.page);
        self.abort_hashes(RequestError::Corrupt);
        if self.background.awaits.contains(&error.page) {
            self.background.pause_until_ns = self.now_ns + DAMAGE_PAUSE_NS;
            self.abort_defragmentation(RequestError::Corrupt);
            self.store.hold_relocation(true);
        }
    }
}
