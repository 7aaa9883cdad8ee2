//! The files' upkeep: room for the page file ahead of its need, and the scrub, which looks for rot in what nobody reads.
//!
//! The scrub reads every page of the newest checkpoint and every log segment that takes no more batches from the device,
//! past the page cache, a slice at a time at a bounded rate. Damage is reported with file and offset and raises the CORRUPT
//! alarm. One job of each kind is under way at most.

use super::{
    promises::{PromiseJob, Written},
    rebuild::{Reapplied, ReapplyJob},
    Effect, Member,
};
use engine::{
    page::{is_disk_full, GrowJob, PageNo, ScrubDone, ScrubJob},
    wal::{self, LogDir, ReadError, SegmentId},
};
use std::io;

/// Time between two attempts to make the page file longer on a full file system.
const FULL_DISK_RETRY_NS: u64 = 1_000_000_000;
/// What a slice of the scrub reads, and how much of that in a second: little beside what a disk can do.
const SLICE_PAGES: u32 = 256;
const SLICE_BYTES: u64 = SLICE_PAGES as u64 * engine::page::PAGE_BYTES as u64;
const SCRUB_BYTES_PER_S: u64 = 8 << 20;
const SLICE_PAUSE_NS: u64 = SLICE_BYTES * 1_000_000_000 / SCRUB_BYTES_PER_S;
/// The first pass begins so soon after the start, unless they follow one another faster than that.
const FIRST_PASS_NS: u64 = 60_000_000_000;

/// Work on the files for a thread that may block.
pub enum UpkeepJob {
    Grow(GrowJob),
    ScrubPages(ScrubJob),
    ScrubLog(Box<wal::ScrubJob>),
    Promises(PromiseJob),
    /// See [`super::rebuild`].
    Reapply(Box<ReapplyJob>),
}

/// What came of it.
pub enum UpkeepDone {
    Grown(io::Result<u64>),
    Pages(ScrubDone),
    /// Whether there is more of the segment.
    Log(Box<wal::ScrubJob>, Result<bool, ReadError>),
    Promises(Written),
    Reapplied(Box<Reapplied>),
}

impl UpkeepJob {
    pub fn run(self, log: &dyn LogDir) -> UpkeepDone {
        match self {
            UpkeepJob::Grow(job) => UpkeepDone::Grown(job.run()),
            UpkeepJob::ScrubPages(job) => UpkeepDone::Pages(job.run()),
            UpkeepJob::ScrubLog(mut job) => {
                let result = job.step(log, SLICE_BYTES);
                UpkeepDone::Log(job, result)
            }
            UpkeepJob::Promises(job) => UpkeepDone::Promises(job.run()),
            UpkeepJob::Reapply(job) => UpkeepDone::Reapplied(Box::new(job.run(log))),
        }
    }
}

/// Where a pass is.
enum Place {
    /// It begins when the time has come.
    Waiting,
    Pages(Option<PageNo>),
    /// The next segment to look at is the first one from this on.
    Log(SegmentId),
    Segment(SegmentId, Box<wal::ScrubJob>),
}

#[derive(Default)]
pub(super) struct Upkeep {
    /// Not before this is the page file made longer: there was no room.
    grow_again_ns: u64,
    scrub: Option<Scrub>,
}

struct Scrub {
    interval_ns: u64,
    place: Place,
    begun_ns: u64,
    /// When the next slice is due; none while one is under way.
    next_ns: Option<u64>,
    /// A segment whose slice is under way.
    reading: Option<SegmentId>,
    /// The slice of pages under way is of a file that was replaced meanwhile.
    reads_old_file: bool,
    /// Damaged places of this pass.
    damaged: u64,
    bytes: u64,
}

impl Member {
    /// Scrubs the files so often; never, if this is 0.
    pub fn set_scrub_interval(&mut self, interval_ns: u64) {
        self.upkeep.scrub = (interval_ns > 0).then(|| Scrub {
            interval_ns,
            place: Place::Waiting,
            begun_ns: 0,
            next_ns: Some(interval_ns.min(FIRST_PASS_NS)),
            reading: None,
            reads_old_file: false,
            damaged: 0,
            bytes: 0,
        });
    }

    /// Makes the page file longer when it is used up to its reserve.
    pub(super) fn grow_pages(&mut self, now_ns: u64) {
        if now_ns < self.upkeep.grow_again_ns {
            return;
        }
        if let Some(job) = self.store.pages_mut().grow_job() {
            self.effects.push(Effect::Upkeep(UpkeepJob::Grow(job)));
        }
    }

    pub(super) fn upkeep_done(&mut self, done: UpkeepDone, now_ns: u64) {
        match done {
            UpkeepDone::Grown(result) => {
                self.store.pages_mut().grow_done(&result);
                match &result {
                    Ok(_) => self.checkpoints.set_short(false),
                    Err(error) => {
                        // Whatever else is wrong with the file shows when it is written.
                        self.upkeep.grow_again_ns = now_ns + FULL_DISK_RETRY_NS;
                        if is_disk_full(error) {
                            self.checkpoints.set_short(true);
                        }
                    }
                }
                self.look_at_space();
            }
            UpkeepDone::Pages(done) => {
                let scrub = self.upkeep.scrub.as_mut();
                let of_old_file = scrub.is_some_and(|s| std::mem::take(&mut s.reads_old_file));
                for damaged in done.damaged.iter().filter(|_| !of_old_file) {
                    self.count_rot();
                    self.page_damaged(&damaged.to_string());
                }
                let place = match done.next {
                    Some(next) => Place::Pages(Some(next)),
                    None => Place::Log(SegmentId(0)),
                };
                let bytes = done.verified_pages * engine::page::PAGE_BYTES as u64;
                self.scrubbed(place, bytes, now_ns);
            }
            UpkeepDone::Log(job, result) => self.segment_scrubbed(job, result, now_ns),
            UpkeepDone::Promises(written) => self.promises_written(written),
            UpkeepDone::Reapplied(done) => self.reapplied(*done),
        }
    }

    fn segment_scrubbed(
        &mut self,
        job: Box<wal::ScrubJob>,
        result: Result<bool, ReadError>,
        now_ns: u64,
    ) {
        let reading = self.upkeep.scrub.as_mut().and_then(|s| s.reading.take());
        let Some(segment) = reading else { return };
        let place = match result {
            Ok(true) => Place::Segment(segment, job),
            Ok(false) => Place::Log(SegmentId(segment.0 + 1)),
            Err(error) => {
                // One that was released meanwhile may have another content already.
                if self.wal.segment_ids().any(|id| id == segment) {
                    self.count_rot();
                    self.raise_corrupt(&format!(
                        "{error}; what the page file holds is not affected. Check the device, and replace this member or \
                         restore it from a snapshot"
                    ));
                }
                Place::Log(SegmentId(segment.0 + 1))
            }
        };
        self.scrubbed(place, SLICE_BYTES, now_ns);
    }

    fn count_rot(&mut self) {
        if let Some(scrub) = &mut self.upkeep.scrub {
            scrub.damaged += 1;
        }
    }

    fn scrubbed(&mut self, place: Place, bytes: u64, now_ns: u64) {
        if let Some(scrub) = &mut self.upkeep.scrub {
            scrub.place = place;
            scrub.bytes += bytes;
            scrub.next_ns = Some(now_ns + SLICE_PAUSE_NS.min(scrub.interval_ns / 8));
        }
    }

    /// Starts the slice that is due.
    pub(super) fn scrub(&mut self, now_ns: u64) {
        let Some(scrub) = &mut self.upkeep.scrub else {
            return;
        };
        if self.halted || scrub.next_ns.is_none_or(|at_ns| now_ns < at_ns) {
            return;
        }
        if matches!(scrub.place, Place::Waiting) {
            (scrub.begun_ns, scrub.damaged, scrub.bytes) = (now_ns, 0, 0);
            scrub.place = Place::Pages(None);
        }
        if let Place::Pages(from) = scrub.place {
            if let Some(job) = self.store.pages_mut().scrub_job(from, SLICE_PAGES) {
                scrub.next_ns = None;
                return self
                    .effects
                    .push(Effect::Upkeep(UpkeepJob::ScrubPages(job)));
            }
            scrub.place = Place::Log(SegmentId(0));
        }
        let (segment, job) = match std::mem::replace(&mut scrub.place, Place::Waiting) {
            Place::Segment(segment, job) => (segment, Some(job)),
            Place::Log(from) => {
                let mut later = self.wal.segment_ids().filter(|id| *id >= from);
                let found = later.find_map(|id| Some((id, self.wal.scrub_job(id)?)));
                found.map_or((from, None), |(id, job)| (id, Some(Box::new(job))))
            }
            Place::Waiting | Place::Pages(_) => (SegmentId(0), None),
        };
        let Some(job) = job else {
            // The pass is over.
            scrub.next_ns = Some((scrub.begun_ns + scrub.interval_ns).max(now_ns));
            return;
        };
        (scrub.reading, scrub.next_ns) = (Some(segment), None);
        self.effects.push(Effect::Upkeep(UpkeepJob::ScrubLog(job)));
    }

    /// The files are others than those that a pass has begun with.
    pub(super) fn reset_upkeep(&mut self) {
        if let Some(scrub) = &mut self.upkeep.scrub {
            // An answer that is still to come is about the old files, and taken for the end of a slice.
            scrub.reads_old_file =
                scrub.next_ns.is_none() && matches!(scrub.place, Place::Pages(_));
            if !matches!(scrub.place, Place::Waiting) {
                scrub.place = Place::Pages(None);
            }
        }
    }
}
