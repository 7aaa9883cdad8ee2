//! Looking for rot in pages that nobody reads, on the device itself: the page cache would hide it.

use super::{
    fetch::Shape, AlignedBuf, Extent, Header, Kind, PageError, PageFault, PageFile, PageNo, Pages,
    Place, META_PAGES, PAGE_BYTES,
};
use crate::checkpoint::Pin;
use std::sync::Arc;

/// Bytes of one direct read; an extent that is longer is read in one piece.
const READ_PAGES: u32 = 64;

/// Verifies a slice of the newest durable checkpoint. Runs on any thread; what it looks at stays pinned meanwhile.
pub struct ScrubJob {
    _pin: Pin,
    file: Arc<dyn PageFile>,
    shape: Shape,
    runs: Vec<Extent>,
    from: PageNo,
    end: u32,
}

/// What a slice was like.
#[derive(Debug)]
pub struct ScrubDone {
    /// Where the next slice begins; none if the file is through.
    pub next: Option<PageNo>,
    pub verified_pages: u64,
    pub damaged: Vec<PageError>,
}

impl ScrubJob {
    /// The slice: its first page, and the one behind its last.
    pub fn slice(&self) -> (PageNo, PageNo) {
        (self.from, PageNo(self.end))
    }
}

impl Pages {
    /// A job that verifies about `pages_max` pages from a place on: [`ScrubDone::next`] of the slice before, or the first one.
    /// None if nothing is left from there on.
    pub fn scrub_job(&mut self, from: Option<PageNo>, pages_max: u32) -> Option<ScrubJob> {
        let from = from.map_or(META_PAGES, |no| no.0.max(META_PAGES));
        let end = from.saturating_add(pages_max).min(self.completed.high);
        if from >= end {
            return None;
        }
        Some(ScrubJob {
            runs: self.durable_runs(from, end),
            _pin: self.pin(),
            file: self.file.clone(),
            shape: self.shape,
            from: PageNo(from),
            end,
        })
    }

    /// Runs of pages that the newest durable checkpoint has in use.
    fn durable_runs(&self, from: u32, end: u32) -> Vec<Extent> {
        let mut retired: Vec<Extent> = self.space.retired_extents().collect();
        retired.extend(self.index_reserve);
        retired.sort_unstable();
        let mut runs: Vec<Extent> = Vec::new();
        let (mut no, mut skip) = (from, retired.iter().peekable());
        while no < end {
            while skip.next_if(|e| e.end() <= no).is_some() {}
            if let Some(extent) = skip.peek().filter(|e| e.start.0 <= no) {
                no = extent.end();
                continue;
            }
            // Frames of the active and the frozen generation are not written yet.
            if let Place::Frame(place) = self.table.peek(PageNo(no)) {
                if !self.frames.is_clean(place) {
                    no += (self.frames.bytes(place).len() / PAGE_BYTES).max(1) as u32;
                    continue;
                }
            }
            if !self.space.is_free(no) {
                match runs.last_mut() {
                    Some(last) if last.end() == no => last.pages += 1,
                    _ => runs.push(Extent {
                        start: PageNo(no),
                        pages: 1,
                    }),
                }
            }
            no += 1;
        }
        runs
    }
}

impl ScrubJob {
    pub fn run(self) -> ScrubDone {
        let mut done = ScrubDone {
            next: None,
            verified_pages: 0,
            damaged: Vec::new(),
        };
        let mut next = self.from.0;
        for run in &self.runs {
            let mut no = run.start.0.max(next);
            // The first page of a slice may lie inside an extent: until a sound page is met, nothing is damage.
            let mut is_placed = run.start != self.from;
            while no < run.end() {
                let buf = self.read(no, READ_PAGES.min(run.end() - no));
                let mut at = 0;
                loop {
                    let bytes = buf.as_ref().map_or(&[][..], |b| b.get(at..).unwrap_or(&[]));
                    if at > 0 && bytes.is_empty() {
                        break;
                    }
                    match self.verify(PageNo(no), bytes, &buf) {
                        Ok(pages) => {
                            is_placed = true;
                            done.verified_pages += u64::from(pages);
                            no += pages;
                            at += pages as usize * PAGE_BYTES;
                        }
                        Err(fault) => {
                            if is_placed {
                                done.damaged.push(PageError {
                                    file: self.file.name(),
                                    page: PageNo(no),
                                    fault,
                                });
                                // How long the damaged one was is not known.
                                is_placed = false;
                            }
                            no += 1;
                            at += PAGE_BYTES;
                        }
                    }
                    if no >= run.end() {
                        break;
                    }
                }
            }
            next = next.max(no);
        }
        done.next = Some(PageNo(next.max(self.end)));
        done
    }

    fn read(&self, no: u32, pages: u32) -> Result<AlignedBuf, PageFault> {
        let mut buf = AlignedBuf::zeroed(pages as usize * PAGE_BYTES);
        match self.file.read_at_direct(PageNo(no).offset(), &mut buf) {
            Ok(read) if read == buf.len() => Ok(buf),
            Ok(_) => Err(PageFault::BeyondEnd),
            Err(e) => Err(PageFault::Io(e.to_string())),
        }
    }

    /// Verifies the page or extent at the front of `bytes`; its pages.
    fn verify(
        &self,
        no: PageNo,
        bytes: &[u8],
        read: &Result<AlignedBuf, PageFault>,
    ) -> Result<u32, PageFault> {
        if let Err(fault) = read {
            return Err(fault.clone());
        }
        let header = Header::of_bytes(bytes);
        let pages = header.announced_pages().ok_or(PageFault::Checksum)?;
        let len = pages as usize * PAGE_BYTES;
        let whole;
        let bytes = match bytes.get(..len) {
            Some(bytes) => bytes,
            None => {
                let file_len = self.file.len().map_err(|e| PageFault::Io(e.to_string()))?;
                if no.offset() + len as u64 > file_len {
                    return Err(PageFault::BeyondEnd);
                }
                whole = self.read(no.0, pages)?;
                &whole[..]
            }
        };
        Header::check(bytes, no)?;
        if let (Some(Kind::Leaf | Kind::Branch), Some(page)) = (header.kind(), bytes.first_chunk())
        {
            (self.shape)(page).map_err(PageFault::Malformed)?;
        }
        Ok(pages)
    }
}
