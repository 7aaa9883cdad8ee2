//! The work of a checkpoint, a bounded step at a time.

use super::{
    bytes_of,
    index::{Index, Written, EXTENT},
    meta, Completed,
};
use crate::planted::{planted, Fault};
use crate::{
    map::Map,
    page::{
        extent_pages, Extent, Generation, Header, Kind, PageFile, PageNo, Pages, SpaceImage,
        HEADER_BYTES, PAGE_BYTES, RUN_PAGES,
    },
};
use std::{
    io,
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc,
    },
};

/// Bytes written by one step.
pub const STEP_BYTES: usize = 256 << 10;

/// How far the owner is on its way to the next checkpoint, shared with the job that writes this one.
#[derive(Clone, Default)]
pub(crate) struct Demand(Arc<AtomicU32>);

impl Demand {
    /// In thousandths: at 1000 the next checkpoint is due.
    pub(crate) fn set(&self, thousandths: u32) {
        self.0.store(thousandths, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        u64::from(self.0.load(Ordering::Relaxed))
    }
}

/// What the next step of a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Makes the file longer. The only stage that may be tried again after an error: for want of space.
    Grow,
    Write,
    Index,
    Flush,
    /// Makes the checkpoint valid. Not to be entered before the log is durable up to what the content states.
    Meta,
    /// Cuts what neither meta page needs off the file's end.
    Shrink,
    Finished,
    /// A write or flush failed: never tried again, whatever the device says next.
    Failed,
}

pub enum Progress {
    /// Bytes written by this step.
    Wrote(usize),
    Finished(CheckpointDone),
}

/// Writes a frozen generation. Runs on any thread.
pub struct CheckpointJob {
    file: Arc<dyn PageFile>,
    map: Option<Arc<Map>>,
    growth_bytes: u64,
    reserve_bytes: u64,
    /// The file system has no room for the reserve.
    is_short: bool,
    shrink: bool,
    completed: Completed,
    image: Option<SpaceImage>,
    /// Dropped before the job is done, so that the owner can use the blocks again.
    frames: Option<Arc<Generation>>,
    /// Frames in page order.
    order: Vec<u32>,
    /// The next frame in order, and how much of it is written.
    next: (usize, usize),
    written: Vec<Written>,
    /// Bytes of pages to write, and of these written.
    bytes: (u64, u64),
    demand: Demand,
    spare: Extent,
    index_crc: u32,
    stage: Stage,
    buf: Vec<u8>,
}

/// All of a job's work is durable; to be given to [`Pages::checkpoint_done`].
pub struct CheckpointDone {
    pub(super) completed: Completed,
    is_short: bool,
    /// Bytes of the file; none if they could not be told.
    pub(super) file_bytes: Option<u64>,
    /// What the index did not use of its reservation.
    pub(super) spare: Extent,
}

impl CheckpointDone {
    pub fn checkpoint(&self) -> u64 {
        self.completed.number
    }

    /// Bytes of the file; none if they could not be told.
    pub fn file_bytes(&self) -> Option<u64> {
        self.file_bytes
    }

    /// Whether the file system had no room for the reserve behind it: the next checkpoints live on that.
    pub fn is_short_of_space(&self) -> bool {
        self.is_short
    }
}

/// Whether an error says that the file system, or what this user may have of it, is used up.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl CheckpointJob {
    pub(super) fn new(
        pages: &Pages,
        completed: Completed,
        image: SpaceImage,
        frames: Arc<Generation>,
        shrink: bool,
    ) -> CheckpointJob {
        CheckpointJob {
            file: pages.file.clone(),
            map: pages.map().cloned(),
            growth_bytes: pages.options.growth_bytes,
            reserve_bytes: pages.options.reserve_bytes,
            is_short: false,
            shrink,
            spare: completed.index,
            completed,
            image: Some(image),
            bytes: (frames.bytes_held(), 0),
            demand: pages.demand.clone(),
            frames: Some(frames),
            order: Vec::new(),
            next: (0, 0),
            written: Vec::new(),
            index_crc: 0,
            stage: Stage::Grow,
            buf: Vec::new(),
        }
    }

    /// What the next step does.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    pub fn checkpoint(&self) -> u64 {
        self.completed.number
    }

    /// Whether so much changes meanwhile that the next checkpoint would be due before this one is durable. Then it is no
    /// time for pauses.
    pub fn is_behind(&self) -> bool {
        let (all, written) = self.bytes;
        u128::from(written) * 1000 < u128::from(all) * u128::from(self.demand.get())
    }

    /// A checksum of all that is to be written but the index: changed pages and their places, roots, and content. For traces;
    /// it reads every page.
    pub fn checksum(&self) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        for (_, page, bytes) in self.frames.iter().flat_map(|frames| frames.iter()) {
            sum.update(&page.0.to_le_bytes());
            sum.update(bytes);
        }
        for tree in &self.completed.roots {
            sum.update(&tree.root.0.to_le_bytes());
        }
        sum.update(&self.completed.high.to_le_bytes());
        sum.update(&self.completed.content);
        sum.finalize()
    }

    /// Does one step: at most [`STEP_BYTES`] are written, or one flush made. An error other than of [`Stage::Grow`] is
    /// final: the member must not acknowledge anything after it, and every further step fails.
    pub fn step(&mut self) -> io::Result<Progress> {
        let result = self.advance();
        if result.is_err() && self.stage != Stage::Grow {
            self.stage = Stage::Failed;
        }
        result
    }

    /// All steps at once.
    pub fn run(mut self) -> io::Result<CheckpointDone> {
        loop {
            if let Progress::Finished(done) = self.step()? {
                return Ok(done);
            }
        }
    }

    fn advance(&mut self) -> io::Result<Progress> {
        let mut wrote = 0;
        match self.stage {
            Stage::Grow => {
                self.grow()?;
                self.sort();
                self.stage = Stage::Write;
            }
            Stage::Write => {
                wrote = self.write_run()?;
                if self.next.0 == self.order.len() {
                    self.frames = None;
                    self.stage = Stage::Index;
                }
            }
            Stage::Index => {
                wrote = self.write_index()?;
                self.stage = Stage::Flush;
            }
            Stage::Flush => {
                if !planted(Fault::FlushSkipped) {
                    self.file.flush()?;
                }
                self.populate();
                self.stage = Stage::Meta;
            }
            Stage::Meta => {
                let page = meta::encode(&self.completed, self.index_crc);
                let offset = u64::from(self.completed.slot) * PAGE_BYTES as u64;
                self.file.write_meta(offset, &page)?;
                wrote = PAGE_BYTES;
                self.stage = Stage::Shrink;
            }
            Stage::Shrink => {
                self.cut()?;
                self.stage = Stage::Finished;
                return Ok(Progress::Finished(CheckpointDone {
                    completed: self.completed.clone(),
                    is_short: self.is_short,
                    file_bytes: self.file.len().ok(),
                    spare: self.spare,
                }));
            }
            Stage::Finished | Stage::Failed => {
                return Err(io::Error::other(
                    "this checkpoint has ended; a failed write is never tried again",
                ));
            }
        }
        Ok(Progress::Wrote(wrote))
    }

    fn needed_bytes(&self) -> u64 {
        let needed = u64::from(self.completed.high) * PAGE_BYTES as u64;
        needed.div_ceil(self.growth_bytes.max(1)) * self.growth_bytes.max(1)
    }

    fn grow(&mut self) -> io::Result<()> {
        let (needed, len) = (self.needed_bytes(), self.file.len()?);
        let wanted = needed + self.reserve_bytes;
        self.is_short = false;
        if len >= wanted {
            return Ok(());
        }
        match self.file.grow(wanted) {
            Err(error) if is_disk_full(&error) && self.reserve_bytes > 0 => {
                self.is_short = true;
                if len >= needed {
                    return Ok(());
                }
                self.file.grow(needed)
            }
            grown => grown,
        }
    }

    fn sort(&mut self) {
        let frames = self.frames();
        let mut order: Vec<(PageNo, u32)> = frames.iter().map(|(at, page, _)| (page, at)).collect();
        order.sort_unstable();
        self.order = order.into_iter().map(|(_, at)| at).collect();
    }

    fn frames(&self) -> Arc<Generation> {
        self.frames.clone().unwrap_or_default()
    }

    /// Writes up to [`STEP_BYTES`] of contiguous pages with their checksums.
    fn write_run(&mut self) -> io::Result<usize> {
        let frames = self.frames();
        self.buf.clear();
        let mut start: Option<u64> = None;
        while let Some(at) = self.order.get(self.next.0) {
            let (page, bytes) = frames.get(*at);
            let offset = page.offset() + self.next.1 as u64;
            let begin = *start.get_or_insert(offset);
            let room = STEP_BYTES - self.buf.len();
            if begin + self.buf.len() as u64 != offset || room == 0 {
                break;
            }
            let rest = bytes.len() - self.next.1;
            let count = rest.min(room);
            let at = self.buf.len();
            self.buf.extend_from_slice(&bytes[self.next.1..][..count]);
            if self.next.1 == 0 {
                self.buf[at..at + HEADER_BYTES].copy_from_slice(&Header::sealed(bytes));
            }
            self.next = if count == rest {
                (self.next.0 + 1, 0)
            } else {
                (self.next.0, self.next.1 + count)
            };
        }
        let Some(start) = start else { return Ok(0) };
        self.bytes.1 += self.buf.len() as u64;
        self.file.write_at(start, &self.buf)?;
        self.written.push(Written {
            extent: Extent {
                start: PageNo((start / PAGE_BYTES as u64) as u32),
                pages: (self.buf.len() / PAGE_BYTES) as u32,
            },
            crc: crc32fast::hash(&self.buf),
        });
        Ok(self.buf.len())
    }

    fn write_index(&mut self) -> io::Result<usize> {
        let reserve = self.completed.index;
        let mut index = Index {
            written: std::mem::take(&mut self.written),
            ..Index::default()
        };
        if let Some(image) = self.image.take() {
            (index.free, index.retired) = image.into_runs(self.completed.number);
        }
        // One entry more is counted than there may be, for what stays over of the reservation.
        let mut len = index.bytes() + EXTENT;
        if reserve.pages % RUN_PAGES == 0 {
            // It has whole runs for itself.
            len = len.max(bytes_of(reserve) - HEADER_BYTES);
        }
        let pages = extent_pages(len).min(reserve.pages);
        self.spare = Extent {
            start: PageNo(reserve.start.0 + pages),
            pages: reserve.pages - pages,
        };
        if self.spare.pages > 0 {
            index.free.push(self.spare);
        }
        self.completed.index.pages = pages;
        let mut bytes = vec![0; bytes_of(self.completed.index)];
        let mut payload = index.encode();
        // Without a rest the entry for it is empty: the pages follow from the length, for whoever reads the header alone.
        let filled = len.min(bytes.len() - HEADER_BYTES);
        payload.resize(payload.len().max(filled), 0);
        if HEADER_BYTES + payload.len() > bytes.len() {
            return Err(io::Error::other("the checkpoint's index outgrew its place"));
        }
        bytes[HEADER_BYTES..][..payload.len()].copy_from_slice(&payload);
        Header::init(&mut bytes, Kind::Index, 0);
        Header::set_payload(
            &mut bytes,
            payload.len() as u32,
            extent_pages(payload.len()),
        );
        Header::stamp(&mut bytes, reserve.start, self.completed.number);
        let head = Header::sealed(&bytes);
        bytes[..HEADER_BYTES].copy_from_slice(&head);
        self.index_crc = crc32fast::hash(&bytes);
        for (at, chunk) in bytes.chunks(STEP_BYTES).enumerate() {
            let offset = reserve.start.offset() + (at * STEP_BYTES) as u64;
            self.file.write_at(offset, chunk)?;
        }
        self.written = index.written;
        Ok(bytes.len())
    }

    /// Maps what was written before its heap blocks go, so that the owner's next touch does not fault.
    fn populate(&self) {
        let Some(map) = &self.map else { return };
        for run in &self.written {
            map.populate(run.extent.start.offset(), bytes_of(run.extent));
        }
    }

    /// `high` covers what waits for the older meta page, so neither of them loses anything.
    fn cut(&self) -> io::Result<()> {
        let kept = self.needed_bytes() + self.reserve_bytes;
        if self.shrink && self.file.len()? > kept {
            self.file.set_len(kept)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    #[test]
    fn a_job_is_behind_when_the_next_checkpoint_would_be_due_before_it_ends() {
        let mut pages = Pages::in_memory();
        let mut tree = Tree::new();
        for n in 0..20_000u32 {
            let key = n.to_be_bytes();
            tree.insert(&mut pages, &key, &[1; 100], 1).unwrap();
        }
        let mut job = pages.begin_checkpoint(&[tree], &[]).unwrap();
        let steps = job.bytes.0.div_ceil(STEP_BYTES as u64);
        assert!(steps >= 8, "{steps}");
        assert!(!job.is_behind(), "nothing presses");
        job.step().unwrap();
        assert_eq!(job.stage(), Stage::Write);
        pages.press_checkpoint(500);
        let mut wrote = 0;
        while job.is_behind() {
            job.step().unwrap();
            wrote += 1;
        }
        assert!(wrote > steps / 3 && wrote < steps, "{wrote} of {steps}");
        pages.press_checkpoint(5000);
        while job.stage() != Stage::Shrink {
            assert!(job.is_behind());
            job.step().unwrap();
        }
        let done = job.run().unwrap();
        pages.checkpoint_done(done);
        tree.insert(&mut pages, b"one more", &[], 1).unwrap();
        let job = pages.begin_checkpoint(&[tree], &[]).unwrap();
        assert!(!job.is_behind(), "the pressure was on the last one");
    }

    #[test]
    fn a_long_index_has_whole_runs_and_is_found_again() {
        let file = Arc::new(crate::page::SimFile::new());
        let options = crate::page::Options {
            create: true,
            ..Default::default()
        };
        let mut pages = Pages::open(file.clone(), options.clone()).unwrap().pages;
        let taken: Vec<PageNo> = (0..20_000).map(|_| pages.space.take(1)).collect();
        for start in taken.into_iter().step_by(2) {
            pages.space.free(Extent { start, pages: 1 });
        }
        let mut tree = Tree::new();
        let (mut indexes, mut highs) = (Vec::new(), Vec::new());
        for n in 0..12u32 {
            tree.insert(&mut pages, &n.to_be_bytes(), &[1; 100], 1)
                .unwrap();
            let job = pages.begin_checkpoint(&[tree], &[]).unwrap();
            pages.checkpoint_done(job.run().unwrap());
            indexes.push(pages.completed.index);
            highs.push(pages.space.high());
        }
        let whole = |index: &Extent| index.pages % RUN_PAGES == 0 && index.start.0 % RUN_PAGES == 0;
        assert!(indexes.iter().all(whole), "{indexes:?}");
        assert_eq!(highs[6], highs[11], "{highs:?}");
        let opened = Pages::open(file, options).unwrap();
        assert_eq!(opened.report.fell_back, None);
        assert_eq!(opened.pages.completed.index, indexes[11]);
        let free = |pages: &Pages| pages.space.free_space().free_pages;
        assert!(free(&opened.pages).abs_diff(free(&pages)) <= 2 * 128);
        let value = tree.get(&opened.pages, &3u32.to_be_bytes());
        assert!(value.is_err(), "its page is not resident yet");
    }
}
