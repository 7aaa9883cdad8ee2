//! The page space: 4 KiB pages with checksums over a mapped file, copied on write.
//!
//! * [`Pages`] gives a page by number. A page is in one of four places: nowhere in memory ([`Absent`], which becomes a
//!   [`Miss`]), in the mapping and verified, in a heap block of the *active* generation (being changed), or in a heap
//!   block of the *frozen* generation (being written by a checkpoint). One table entry per page number says which.
//! * Only pages of the active generation are changed in place. Any other page is copied to a new number first, taken from
//!   a run of free pages, so that a checkpoint writes long contiguous runs.
//! * A page that a checkpoint on the device may still name is never handed out again before two newer meta pages are
//!   durable ([`space`]).
//! * Nothing here reads a clock or waits for the device, save [`Pages::open`] and [`Pages::load_now`], which say so. All
//!   other device work is a job: a `Send` value that a pool thread (or a simulator) runs.
//!
//! The page space knows nothing of trees; a page's bytes behind its header belong to its user.

mod blocks;
mod buffer;
mod error;
mod fetch;
mod file;
mod frames;
mod growth;
mod header;
mod residency;
mod scrub;
mod sim;
mod slab;
mod space;

pub use blocks::Relocation;
pub use buffer::AlignedBuf;
pub use error::{OpenError, PageError, PageFault};
pub use fetch::{FetchDone, FetchJob};
pub use file::{PageDir, PageFile, RealDir, RealFile};
pub use growth::GrowJob;
pub use scrub::{ScrubDone, ScrubJob};
pub use sim::{Keep, SimFile};

pub use crate::checkpoint::{
    is_disk_full, CheckpointDone, CheckpointJob, Copy, CopyError, CopySource, Meta, OpenReport,
    Opened, Pin, Progress, Stage,
};

pub(crate) use fetch::Shape;
pub(crate) use frames::Generation;
pub(crate) use header::{extent_pages, Header, Kind, HEADER_BYTES};
pub(crate) use header::{level, u16_at, u32_at, u64_at};
pub use space::FreeSpace;
pub(crate) use space::{Extent, Space, SpaceImage, RUN_PAGES};

use crate::{
    checkpoint::{Completed, Demand},
    map::Map,
};
use frames::Frames;
use residency::{Place, Table};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, Weak},
};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// The two meta pages come first; page number 0 therefore never names a tree page and stands for "none".
pub(crate) const META_PAGES: u32 = 2;

pub(crate) type Page = [u8; PAGE_BYTES];

/// A page's number: its file offset is `number * 4096`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageNo(pub u32);

impl PageNo {
    pub(crate) const NONE: PageNo = PageNo(0);

    pub(crate) fn is_none(self) -> bool {
        self == PageNo::NONE
    }

    pub fn offset(self) -> u64 {
        u64::from(self.0) * PAGE_BYTES as u64
    }
}

/// Pages that a step needs and that are not resident. The step changed nothing and is run again once they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Miss {
    pub pages: Vec<PageNo>,
}

impl Miss {
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    pub(crate) fn add(&mut self, page: PageNo) {
        if !self.pages.contains(&page) {
            self.pages.push(page);
        }
    }
}

/// A single page that is not resident: the small form in which it travels inside the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Absent(pub PageNo);

impl From<Absent> for Miss {
    fn from(absent: Absent) -> Miss {
        Miss {
            pages: vec![absent.0],
        }
    }
}

/// How a page file is opened and used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Lay out a new file where there is none or one whose creation was interrupted. Without it an empty or short file
    /// is an error, so that a lost file is never taken for a new one.
    pub create: bool,
    /// Clean pages kept readable at most; the oldest unused ones leave first. Branch pages do not count as evictable.
    pub resident_bytes_max: u64,
    /// The file grows in steps of this size.
    pub growth_bytes: u64,
    /// Kept allocated behind what a checkpoint needs: with the last of the file system's space it can still be written what
    /// makes room, such as deletions.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            create: false,
            resident_bytes_max: 1 << 30,
            growth_bytes: 16 << 20,
            reserve_bytes: 0,
        }
    }
}

/// The page space of one file. Owned by one thread.
pub struct Pages {
    pub(crate) file: Arc<dyn PageFile>,
    pub(crate) options: Options,
    map: Option<Arc<Map>>,
    table: Table,
    frames: Frames,
    /// Number of the checkpoint that the active generation will become; every active page carries it.
    pub(crate) generation: u64,
    pub(crate) completed: Completed,
    pub(crate) demand: Demand,
    pub(crate) space: Space,
    /// The place that the running checkpoint has for its index.
    pub(crate) index_reserve: Option<Extent>,
    pub(crate) pins: Vec<Weak<u64>>,
    /// Pages being fetched, with the job that does it. A page handed out anew leaves the list, so that a late answer about
    /// its former content is not believed.
    fetching: BTreeMap<PageNo, u64>,
    fetch_jobs: u64,
    sync_loads: u64,
    load_error: Option<PageError>,
    /// Memory faults under the mapping that were answered for.
    faults_seen: u64,
    /// Pages whose checksum holds but whose content contradicts the page that names them.
    rejected: RefCell<BTreeMap<PageNo, &'static str>>,
    shape: Shape,
    /// A buffer for one cell, kept so that an insert need not allocate.
    scratch: Vec<u8>,
    read_only: bool,
    /// Bytes of the file, as far as is known.
    allocated_bytes: u64,
    is_growing: bool,
    /// So many of the next checkpoints cut the file's unused end.
    pub(crate) shrink_checkpoints: u8,
}

impl Pages {
    /// A page space on a simulated file, for tests of the floors above.
    pub fn in_memory() -> Pages {
        let options = Options {
            create: true,
            ..Options::default()
        };
        match Pages::open(Arc::new(SimFile::new()), options) {
            Ok(opened) => opened.pages,
            Err(e) => unreachable!("a new simulated file opens: {e}"),
        }
    }

    pub(crate) fn assemble(
        file: Arc<dyn PageFile>,
        options: Options,
        generation: u64,
        completed: Completed,
        space: Space,
        shape: Shape,
        read_only: bool,
    ) -> Pages {
        let map = file.map();
        // 0 where it cannot be told: then the file is made longer without need.
        let allocated_bytes = file.len().unwrap_or(0);
        let faults_seen = map.as_ref().map_or(0, |m| m.faults().0);
        Pages {
            map,
            file,
            options,
            table: Table::default(),
            frames: Frames::default(),
            generation,
            completed,
            demand: Demand::default(),
            space,
            index_reserve: None,
            pins: Vec::new(),
            fetching: BTreeMap::new(),
            fetch_jobs: 0,
            sync_loads: 0,
            load_error: None,
            faults_seen,
            rejected: RefCell::default(),
            shape,
            scratch: Vec::new(),
            read_only,
            allocated_bytes,
            is_growing: false,
            shrink_checkpoints: 0,
        }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// For messages.
    pub fn file_name(&self) -> String {
        self.file.name()
    }

    /// Bytes of the file up to the last page in use, pages not yet written included.
    pub fn file_bytes(&self) -> u64 {
        u64::from(self.space.high()) * PAGE_BYTES as u64
    }

    /// Bytes of it that nothing needs, or only an older checkpoint or a pin.
    pub fn free_bytes(&self) -> u64 {
        self.space.free_below_high() * PAGE_BYTES as u64
    }

    /// Up to this length the file may grow so that half of it is free, for the sake of long writes; beyond it a quarter.
    pub fn set_roomy(&mut self, bytes: u64) {
        self.space.set_roomy(bytes / PAGE_BYTES as u64);
    }

    pub fn free_space(&self) -> FreeSpace {
        self.space.free_space()
    }

    /// The pages of the file that the newest checkpoint needs, or waits for an older one: for tools and tests.
    pub fn pages_in_use(&self) -> impl Iterator<Item = u32> + '_ {
        let retired: std::collections::BTreeSet<u32> = self
            .space
            .retired_extents()
            .flat_map(|e| e.start.0..e.end())
            .collect();
        (META_PAGES..self.space.high())
            .filter(move |no| !self.space.is_free(*no) && !retired.contains(no))
    }

    /// Bytes changed since the last checkpoint began.
    pub fn dirty_bytes(&self) -> u64 {
        self.frames.active_bytes()
    }

    /// Bytes that the running checkpoint still holds in memory.
    pub fn frozen_bytes(&self) -> u64 {
        self.frames.frozen_bytes()
    }

    /// Bytes of clean pages kept readable.
    pub fn resident_bytes(&self) -> u64 {
        self.table.resident_pages() * PAGE_BYTES as u64
    }

    /// Pages that a write operation had to load while it waited, because no plan had asked for them before.
    pub fn sync_loads(&self) -> u64 {
        self.sync_loads
    }

    /// Why the last write operation that ended as a miss did.
    pub fn load_error(&self) -> Option<&PageError> {
        self.load_error.as_ref()
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn map(&self) -> Option<&Arc<Map>> {
        self.map.as_ref()
    }

    /// The bytes that start at a page, `bytes_max` at most.
    #[inline]
    fn bytes_at(&self, no: PageNo, len: usize) -> Result<&[u8], Absent> {
        match self.table.touch(no) {
            Place::Absent => Err(Absent(no)),
            Place::Mapped => match &self.map {
                Some(map) => Ok(map.slice(no.offset(), len)),
                None => Err(Absent(no)),
            },
            Place::Frame(place) => self.frames.bytes(place).get(..len).ok_or(Absent(no)),
        }
    }

    /// A tree page.
    #[inline]
    pub(crate) fn page(&self, no: PageNo) -> Result<&Page, Absent> {
        let bytes = self.bytes_at(no, PAGE_BYTES)?;
        bytes.first_chunk().ok_or(Absent(no))
    }

    /// The `len` payload bytes of the extent that starts at a page.
    pub(crate) fn extent(&self, no: PageNo, len: usize) -> Result<&[u8], Absent> {
        let header = Header::of(self.page_head(no)?);
        if header.kind() != Some(Kind::Overflow) || header.payload_len() as usize != len {
            return Err(self.reject(no, "is not the overflow extent that its cell describes"));
        }
        Ok(&self.bytes_at(no, HEADER_BYTES + len)?[HEADER_BYTES..])
    }

    fn page_head(&self, no: PageNo) -> Result<&[u8; HEADER_BYTES], Absent> {
        let bytes = self.bytes_at(no, HEADER_BYTES)?;
        bytes.first_chunk().ok_or(Absent(no))
    }

    pub(crate) fn take_scratch(&mut self) -> Vec<u8> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch
    }

    pub(crate) fn return_scratch(&mut self, scratch: Vec<u8>) {
        self.scratch = scratch;
    }

    pub(crate) fn is_resident(&self, no: PageNo) -> bool {
        !matches!(self.table.touch(no), Place::Absent)
    }

    /// Notes that a page contradicts its parent. The step that found it ends as a miss; the fetch of that page then
    /// ends in a [`PageError`] that says why.
    #[cold]
    pub(crate) fn reject(&self, no: PageNo, why: &'static str) -> Absent {
        self.rejected.borrow_mut().insert(no, why);
        Absent(no)
    }

    /// Whether the page belongs to the active generation and may be changed in place.
    #[inline]
    pub(crate) fn is_active(&self, no: PageNo) -> bool {
        match self.table.peek(no) {
            Place::Frame(place) => self.frames.is_active(place),
            _ => false,
        }
    }

    /// Makes a tree page changeable: itself if it is of the active generation, else a copy under a new number.
    pub(crate) fn own(&mut self, no: PageNo) -> Result<PageNo, Absent> {
        if self.is_active(no) {
            return Ok(no);
        }
        self.verify(no, 1)?;
        let new = match (self.table.touch(no), &self.map) {
            // The mapping stays where it is whatever happens to the memory for pages.
            (Place::Mapped, Some(map)) => {
                let map = map.clone();
                let new = self.take_page();
                let page = self.install(new);
                page.copy_from_slice(map.slice(no.offset(), PAGE_BYTES));
                new
            }
            _ => {
                let copy = *self.page(no)?;
                let new = self.take_page();
                *self.install(new) = copy;
                new
            }
        };
        self.stamp(new);
        self.release(no, 1);
        Ok(new)
    }

    /// Refuses a page or an extent that is not what was checked when it came in: the kernel may have dropped it since, and
    /// read something else from the device. A copy of that would get a checksum that fits. Frames are this process's own.
    pub(crate) fn verify(&self, no: PageNo, pages: u32) -> Result<(), Absent> {
        let (Place::Mapped, Some(map)) = (self.table.peek(no), &self.map) else {
            return Ok(());
        };
        let bytes = map.slice(no.offset(), pages as usize * PAGE_BYTES);
        match Header::check(bytes, no) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.reject(no, "is not what was read from the device before")),
        }
    }

    /// Gives a page of the active generation another number.
    pub(crate) fn renumber(&mut self, no: PageNo) -> PageNo {
        let copy = *self.page_mut(no);
        let new = self.take_page();
        *self.install(new) = copy;
        self.stamp(new);
        self.release(no, 1);
        new
    }

    /// A page of the active generation, to be changed.
    ///
    /// # Panics
    /// When the page is not of the active generation: a defect of the caller, never a matter of input.
    #[inline]
    pub(crate) fn page_mut(&mut self, no: PageNo) -> &mut Page {
        let Place::Frame(place) = self.table.peek(no) else {
            panic!("page {} is changed without being owned", no.0);
        };
        self.frames.active_mut(place, no)
    }

    /// A new tree page, zero behind its header.
    pub(crate) fn create(&mut self, kind: Kind, level: u8) -> PageNo {
        let no = self.take_page();
        let page = self.install(no);
        page.fill(0);
        Header::init(page, kind, level);
        self.stamp(no);
        no
    }

    /// A new extent that holds `payload`: one header, then all bytes in one piece.
    pub(crate) fn create_extent(&mut self, payload: &[u8]) -> PageNo {
        let pages = extent_pages(payload.len());
        let no = self.space.take(pages);
        let mut bytes = vec![0; pages as usize * PAGE_BYTES].into_boxed_slice();
        bytes[HEADER_BYTES..][..payload.len()].copy_from_slice(payload);
        Header::init(&mut bytes, Kind::Overflow, 0);
        Header::set_payload(&mut bytes, payload.len() as u32, pages);
        Header::stamp(&mut bytes, no, self.generation);
        self.displace(no);
        let place = self.frames.add_extent(no, bytes);
        self.table.set(no, Place::Frame(place), 0, false);
        no
    }

    fn take_page(&mut self) -> PageNo {
        self.space.take(1)
    }

    /// Memory of the active generation for a page, which is to be written and then stamped.
    fn install(&mut self, no: PageNo) -> &mut Page {
        self.displace(no);
        let place = self.frames.add_page(no);
        self.table.set(no, Place::Frame(place), 0, false);
        self.frames.active_mut(place, no)
    }

    fn stamp(&mut self, no: PageNo) {
        let generation = self.generation;
        Header::stamp(self.page_mut(no), no, generation);
    }

    /// A page number is handed out anew: nothing that is known of its former content counts.
    fn displace(&mut self, no: PageNo) {
        if !self.fetching.is_empty() {
            self.fetching.remove(&no);
        }
        self.forget(no);
    }

    /// Gives a page or extent up. It can be handed out at once if no checkpoint has seen it.
    pub(crate) fn release(&mut self, no: PageNo, pages: u32) {
        let extent = Extent { start: no, pages };
        if let Place::Frame(place) = self.table.peek(no) {
            if self.frames.is_active(place) {
                self.frames.remove_active(place);
                self.table.clear(no);
                self.space.free(extent);
                return;
            }
        }
        self.forget(no);
        self.space.retire(extent);
    }

    /// Drops whatever is known of a page number's content.
    fn forget(&mut self, no: PageNo) {
        if let Place::Frame(place) = self.table.peek(no) {
            self.frames.remove_clean(place);
        }
        self.table.clear(no);
    }

    pub(crate) fn is_checkpointing(&self) -> bool {
        self.frames.is_frozen()
    }

    /// Writes that a checkpoint of the active generation makes at most.
    pub(crate) fn writes_max(&self) -> usize {
        self.frames.breaks() + (self.dirty_bytes() / crate::checkpoint::STEP_BYTES as u64) as usize
    }

    /// Ends the active generation: its pages may no longer change and wait for the checkpoint. The next one begins.
    pub(crate) fn freeze(&mut self) -> Arc<Generation> {
        self.generation += 1;
        self.frames.freeze()
    }

    /// The frozen pages are on the device: from now on they are read from the file. They were written through the page
    /// cache that the mapping shows, so they are trusted without another check; after an eviction they are verified again.
    pub(crate) fn thaw(&mut self) {
        let Some(frames) = self.frames.take_frozen() else {
            return;
        };
        for (slot, page, bytes) in frames.iter() {
            if !self.frames.is_frozen_slot(self.table.peek(page), slot) {
                continue;
            }
            let pages = (bytes.len() / PAGE_BYTES) as u32;
            let keep = Header::of_bytes(bytes).kind() == Some(Kind::Branch);
            let place = match &self.map {
                Some(_) => Place::Mapped,
                None => Place::Frame(self.frames.add_clean(bytes.into())),
            };
            self.table.set(page, place, pages, keep);
        }
        self.frames.recycle(frames);
        self.evict_some();
    }

    /// Gives memory back that no page will need soon, a little at a time. Cheap where there is none.
    pub fn shed_memory(&mut self) {
        self.frames.shed();
    }

    /// Loads pages that a write operation found absent, waiting for the device. A plan makes this unnecessary; it is
    /// counted where it happens all the same.
    #[cold]
    pub(crate) fn load_now(&mut self, absent: Absent) -> Result<(), Miss> {
        let miss = Miss::from(absent);
        let under_way = self.fetching.remove(&absent.0);
        self.sync_loads += 1;
        let Some(job) = self.fetch_exactly(&miss) else {
            return Ok(());
        };
        self.fetch_settle(job.run()).map_err(|error| {
            if let Some(id) = under_way {
                // The answer that comes is what tells of the damage. If each try made it obsolete, and asked again, none
                // of the answers would ever count.
                self.fetching.insert(absent.0, id);
            }
            self.load_error = Some(error);
            miss
        })
    }
}
