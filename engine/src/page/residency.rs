//! Where each page is: one word per page number, and the clock that evicts clean pages.

use super::{
    frames::{FramePlace, Store},
    PageNo, Pages, PAGE_BYTES,
};
use std::cell::Cell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Absent,
    /// Verified, readable through the mapping.
    Mapped,
    Frame(FramePlace),
}

// Table word: bits 0-2 state, 3-4 visits of the clock hand to go since the last use, 5 keep (branch page), 6 an extent of
// several pages, 7-31 frame slot. 25 bits of slots are 128 GiB of frames.
const STATE: u32 = 7;
const ABSENT: u32 = 0;
const MAPPED: u32 = 1;
const EVEN: u32 = 2;
const ODD: u32 = 3;
const CLEAN: u32 = 4;
const USED: u32 = 3 << 3;
const VISIT: u32 = 1 << 3;
const KEEP: u32 = 1 << 5;
const EXTENT: u32 = 1 << 6;
const SLOT_SHIFT: u32 = 7;

/// Pages that the clock hand passes in one go at most.
const HAND_STEPS_MAX: usize = 1 << 16;

#[derive(Default)]
pub(super) struct Table {
    words: Vec<Cell<u32>>,
    /// Clean pages that are readable, extents with all their pages.
    resident: u64,
    /// Page counts of resident extents, which a word has no room for.
    extents: std::collections::BTreeMap<PageNo, u32>,
    hand: usize,
}

fn decode(word: u32) -> Place {
    let slot = word >> SLOT_SHIFT;
    let frame = |store| Place::Frame(FramePlace { store, slot });
    match word & STATE {
        MAPPED => Place::Mapped,
        EVEN => frame(Store::Even),
        ODD => frame(Store::Odd),
        CLEAN => frame(Store::Clean),
        _ => Place::Absent,
    }
}

impl Table {
    pub(super) fn resident_pages(&self) -> u64 {
        self.resident
    }

    #[inline]
    pub(super) fn peek(&self, no: PageNo) -> Place {
        match self.words.get(no.0 as usize) {
            Some(word) => decode(word.get()),
            None => Place::Absent,
        }
    }

    /// As `peek`, and the clock learns of the use.
    #[inline]
    pub(super) fn touch(&self, no: PageNo) -> Place {
        let Some(word) = self.words.get(no.0 as usize) else {
            return Place::Absent;
        };
        let value = word.get();
        if value & USED != USED && value != ABSENT {
            word.set(value | USED);
        }
        decode(value)
    }

    /// `clean_pages` is 0 for frames that are not clean.
    pub(super) fn set(&mut self, no: PageNo, place: Place, clean_pages: u32, keep: bool) {
        let (state, slot) = match place {
            Place::Absent => (ABSENT, 0),
            Place::Mapped => (MAPPED, 0),
            Place::Frame(p) => match p.store {
                Store::Even => (EVEN, p.slot),
                Store::Odd => (ODD, p.slot),
                Store::Clean => (CLEAN, p.slot),
            },
        };
        self.clear(no);
        if self.words.len() <= no.0 as usize {
            self.words.resize(no.0 as usize + 1, Cell::new(ABSENT));
        }
        let mut word = state | slot << SLOT_SHIFT;
        if matches!(state, MAPPED | CLEAN) {
            word |= USED;
            self.resident += u64::from(clean_pages);
            if keep {
                word |= KEEP;
            }
            if clean_pages > 1 {
                word |= EXTENT;
                self.extents.insert(no, clean_pages);
            }
        }
        self.words[no.0 as usize].set(word);
    }

    /// Makes a page absent and returns how many clean pages that were.
    pub(super) fn clear(&mut self, no: PageNo) -> u32 {
        let Some(word) = self.words.get(no.0 as usize) else {
            return 0;
        };
        let old = word.replace(ABSENT);
        let pages = match old & STATE {
            MAPPED | CLEAN if old & EXTENT != 0 => self.extents.remove(&no).unwrap_or(1),
            MAPPED | CLEAN => 1,
            _ => 0,
        };
        self.resident -= u64::from(pages);
        pages
    }

    /// Makes all pages absent that are read through the mapping.
    pub(super) fn clear_mapped(&mut self) {
        for no in 0..self.words.len() as u32 {
            if self.peek(PageNo(no)) == Place::Mapped {
                self.clear(PageNo(no));
            }
        }
    }

    /// The first page of the resident extent that a page lies in.
    pub(super) fn extent_around(&self, no: PageNo) -> Option<PageNo> {
        let (start, pages) = self.extents.range(..=no).next_back()?;
        (no.0 - start.0 < *pages).then_some(*start)
    }

    /// Turns the clock until it meets a clean page that was not used for some rounds, or has made its steps.
    fn victim(&mut self, steps: &mut usize) -> Option<PageNo> {
        while *steps > 0 {
            *steps -= 1;
            if self.hand >= self.words.len() {
                self.hand = 0;
            }
            let word = self.words.get(self.hand)?;
            let value = word.get();
            let at = self.hand;
            self.hand += 1;
            if !matches!(value & STATE, MAPPED | CLEAN) || value & KEEP != 0 {
                continue;
            }
            if value & USED == 0 {
                return Some(PageNo(at as u32));
            }
            word.set(value - VISIT);
        }
        None
    }
}

impl Pages {
    /// Makes clean pages absent that were not used lately, while there are more than the budget allows. Whether there still
    /// are: the owner may go on when it has time.
    ///
    /// The hand makes one round per call at most and a page survives three visits, so what a step touched before it missed is
    /// still there when it runs again, however small the budget: the budget is exceeded rather than a step starved.
    pub fn evict_some(&mut self) -> bool {
        let pages_max = self.options.resident_bytes_max / PAGE_BYTES as u64;
        let mut steps = self.table.words.len().min(HAND_STEPS_MAX);
        let mut run = (0, 0); // start and end page
        while self.table.resident > pages_max {
            let Some(no) = self.table.victim(&mut steps) else {
                break;
            };
            self.forget_frame(no);
            let pages = self.table.clear(no);
            if run.1 != no.0 {
                self.unmap(run);
                run = (no.0, no.0);
            }
            run.1 += pages;
        }
        self.unmap(run);
        self.table.resident > pages_max
    }

    fn forget_frame(&mut self, no: PageNo) {
        if let Place::Frame(place) = self.table.peek(no) {
            self.frames.remove_clean(place);
        }
    }

    fn unmap(&self, (start, end): (u32, u32)) {
        if let (Some(map), true) = (self.map(), end > start) {
            map.evict(PageNo(start).offset(), (end - start) as usize * PAGE_BYTES);
        }
    }
}
