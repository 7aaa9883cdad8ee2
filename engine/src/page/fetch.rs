//! Bringing pages in: read and verified off the owner's thread, then marked readable.

use super::{
    Absent, Header, Kind, Miss, Page, PageError, PageFault, PageFile, PageNo, Pages, Place,
    PAGE_BYTES,
};
use crate::map::Map;
use crate::planted::{planted, Fault};
use std::sync::Arc;

/// Pages read by one system call at most.
const GROUP_PAGES_MAX: u32 = 64;

/// The check of a tree page's content, given by the floor above: after it, reading the page cannot go out of bounds.
pub(crate) type Shape = fn(&Page) -> Result<(), &'static str>;

/// Reads and verifies pages. Runs on any thread.
pub struct FetchJob {
    id: u64,
    file: Arc<dyn PageFile>,
    map: Option<Arc<Map>>,
    shape: Shape,
    pages: Vec<PageNo>,
    /// No page can be of a later generation.
    generation_max: u64,
    rejected: Vec<(PageNo, &'static str)>,
}

/// What a [`FetchJob`] found.
pub struct FetchDone {
    id: u64,
    found: Vec<(PageNo, Result<Fetched, PageFault>)>,
}

struct Fetched {
    pages: u32,
    keep: bool,
    /// The bytes, where there is no mapping to read them from.
    bytes: Option<Box<[u8]>>,
}

impl FetchJob {
    /// Its number, which its answer bears.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn pages(&self) -> &[PageNo] {
        &self.pages
    }

    pub fn run(self) -> FetchDone {
        let mut found = Vec::with_capacity(self.pages.len());
        let mut rest = &self.pages[..];
        while let Some(first) = rest.first() {
            let count = rest
                .iter()
                .zip(first.0..)
                .take(GROUP_PAGES_MAX as usize)
                .take_while(|(page, expected)| page.0 == *expected)
                .count();
            let (group, later) = rest.split_at(count);
            self.read_group(group, &mut found);
            rest = later;
        }
        for (no, why) in &self.rejected {
            found.push((*no, Err(PageFault::Malformed(why))));
        }
        FetchDone { id: self.id, found }
    }

    fn read_group(&self, group: &[PageNo], found: &mut Vec<(PageNo, Result<Fetched, PageFault>)>) {
        let Some(first) = group.first() else { return };
        let mut buf = vec![0; group.len() * PAGE_BYTES];
        let read = match self.file.read_at(first.offset(), &mut buf) {
            Ok(read) => read,
            Err(_) if group.len() > 1 => {
                // One bad page must not take its neighbours with it.
                group
                    .iter()
                    .for_each(|no| self.read_group(std::slice::from_ref(no), found));
                return;
            }
            Err(e) => return found.push((*first, Err(PageFault::Io(e.to_string())))),
        };
        if let Some(map) = &self.map {
            map.populate(first.offset(), buf.len());
        }
        for (no, (at, bytes)) in group.iter().zip(buf.chunks(PAGE_BYTES).enumerate()) {
            let result = if (at + 1) * PAGE_BYTES > read {
                Err(PageFault::BeyondEnd)
            } else {
                self.verify(*no, bytes)
            };
            found.push((*no, result));
        }
    }

    fn verify(&self, no: PageNo, first: &[u8]) -> Result<Fetched, PageFault> {
        let header = Header::of_bytes(first);
        let pages = header.announced_pages().ok_or(PageFault::Checksum)?;
        let rest;
        let bytes = if pages == 1 {
            first
        } else {
            rest = self.read_extent(no, pages)?;
            &rest
        };
        if !planted(Fault::PageUnchecked) {
            Header::check(bytes, no)?;
        }
        if header.generation() > self.generation_max {
            return Err(PageFault::Malformed(
                "is of a later generation than the file",
            ));
        }
        if let (Some(Kind::Leaf | Kind::Branch), Some(page)) = (header.kind(), bytes.first_chunk())
        {
            (self.shape)(page).map_err(PageFault::Malformed)?;
        }
        Ok(Fetched {
            pages,
            keep: header.kind() == Some(Kind::Branch),
            bytes: self.map.is_none().then(|| bytes.into()),
        })
    }

    fn read_extent(&self, no: PageNo, pages: u32) -> Result<Vec<u8>, PageFault> {
        let bytes = pages as usize * PAGE_BYTES;
        // The length is compared with the file before memory is taken for it.
        let len = self.file.len().map_err(|e| PageFault::Io(e.to_string()))?;
        if no.offset() + bytes as u64 > len {
            return Err(PageFault::BeyondEnd);
        }
        let mut buf = vec![0; bytes];
        match self.file.read_at(no.offset(), &mut buf) {
            Ok(read) if read == bytes => {
                if let Some(map) = &self.map {
                    map.populate(no.offset(), bytes);
                }
                Ok(buf)
            }
            Ok(_) => Err(PageFault::BeyondEnd),
            Err(e) => Err(PageFault::Io(e.to_string())),
        }
    }
}

impl FetchDone {
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What became of each page: its length in pages, or what is wrong with it.
    pub fn outcomes(&self) -> impl Iterator<Item = (PageNo, Result<u32, &PageFault>)> {
        let found = self.found.iter();
        found.map(|(no, found)| (*no, found.as_ref().map(|fetched| fetched.pages)))
    }
}

impl Pages {
    /// Goes on with the job numbers of the page space that this one replaces: an answer to a job of that one is then not
    /// taken for an answer to one of this.
    pub(crate) fn number_jobs_after(&mut self, replaced: &Pages) {
        self.fetch_jobs = self.fetch_jobs.max(replaced.fetch_jobs);
    }

    /// A job that fetches the missing pages that are not being fetched already; none if there are no such pages, and the
    /// step is to run again after the fetches under way.
    pub fn fetch_job(&mut self, miss: &Miss) -> Option<FetchJob> {
        self.fetch_exactly(miss)
    }

    pub(super) fn fetch_exactly(&mut self, miss: &Miss) -> Option<FetchJob> {
        let id = self.fetch_jobs;
        let mut pages = Vec::new();
        let mut rejected = Vec::new();
        for no in &miss.pages {
            if let Some(why) = self.rejected.borrow_mut().remove(no) {
                rejected.push((*no, why));
            } else if !self.is_resident(*no) && !self.fetching.contains_key(no) {
                self.fetching.insert(*no, id);
                pages.push(*no);
            }
        }
        if pages.is_empty() && rejected.is_empty() {
            return None;
        }
        pages.sort_unstable();
        self.fetch_jobs += 1;
        Some(FetchJob {
            id,
            file: self.file.clone(),
            map: self.map.clone(),
            shape: self.shape,
            pages,
            generation_max: self.generation,
            rejected,
        })
    }

    /// Takes a job's answer. The pages found good are readable from now on; the first damaged one is reported, and a step
    /// that needs it keeps missing it.
    pub fn fetch_done(&mut self, done: FetchDone) -> Result<(), PageError> {
        let result = self.fetch_settle(done);
        self.evict_some();
        result
    }

    /// As [`Pages::fetch_done`] without evicting anything: for whole-file checks, which hold all pages at once.
    pub fn fetch_done_keeping(&mut self, done: FetchDone) -> Result<(), PageError> {
        self.fetch_settle(done)
    }

    pub(super) fn fetch_settle(&mut self, done: FetchDone) -> Result<(), PageError> {
        let mut damaged = None;
        for (no, found) in done.found {
            // Handed out anew meanwhile, or rejected without a fetch: only errors matter.
            let is_current = self.fetching.get(&no) == Some(&done.id);
            if is_current {
                self.fetching.remove(&no);
            }
            match found {
                Ok(fetched) if is_current && !self.is_resident(no) => {
                    let place = match fetched.bytes {
                        Some(bytes) => Place::Frame(self.frames.add_clean(bytes)),
                        None => Place::Mapped,
                    };
                    self.table.set(no, place, fetched.pages, fetched.keep);
                }
                Ok(_) => {}
                Err(fault) if is_current || matches!(fault, PageFault::Malformed(_)) => {
                    damaged.get_or_insert_with(|| self.page_error(no, fault));
                }
                Err(_) => {}
            }
        }
        match damaged {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn page_error(&self, page: PageNo, fault: PageFault) -> PageError {
        let file = self.file.name();
        PageError { file, page, fault }
    }

    /// Asks whether a page that was readable through the mapping has turned out not to be. To be called before anything
    /// read since the last call leaves the process; what faulted is fetched and verified anew when it is next needed.
    pub fn take_fault(&mut self) -> Option<PageError> {
        let map = self.map.clone()?;
        let (count, offset) = map.faults();
        if count == self.faults_seen {
            return None;
        }
        let page = PageNo((offset / PAGE_BYTES as u64) as u32);
        let restored = if count - self.faults_seen == 1 {
            // The page may lie inside an extent, which is known by its first page.
            let head = self.table.extent_around(page).unwrap_or(page);
            self.table.clear(head);
            map.restore(page.offset(), PAGE_BYTES)
        } else {
            // Only the last one is known by name.
            self.table.clear_mapped();
            map.restore(0, map.len() as usize)
        };
        self.rejected.borrow_mut().clear();
        self.faults_seen = count;
        let fault = match restored {
            Ok(()) => PageFault::Unmapped,
            Err(e) => PageFault::Io(e.to_string()),
        };
        Some(self.page_error(page, fault))
    }

    /// Whether a page is resident, as an error that names it.
    pub(crate) fn require(&self, no: PageNo) -> Result<(), Absent> {
        if self.is_resident(no) {
            return Ok(());
        }
        Err(Absent(no))
    }
}
