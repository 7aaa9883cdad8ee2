//! Free space: which page numbers may be handed out.
//!
//! A bit per page, set when free; a word of 64 bits is a run of 256 KiB, so a free run is a word of all ones. Numbers are
//! handed out from one run at a time, so that what a checkpoint writes is contiguous. A page given up that a durable
//! checkpoint may still name is *retired*: it waits until two newer meta pages are durable and no pin needs it.

use super::{PageNo, META_PAGES};
use std::{collections::VecDeque, sync::Arc};

/// Pages of a run: one word.
pub(crate) const RUN_PAGES: u32 = 64;
const RUN_FREE: u64 = u64::MAX;
/// While less than one in so many pages is free in fragments the file grows rather than using them.
const FRAGMENT_SHARE: u64 = 4;
/// A fragmented word is worth a visit from so many free pages up.
const FRAGMENT_PAGES_MIN: u32 = 8;

/// Contiguous pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extent {
    pub start: PageNo,
    pub pages: u32,
}

impl Extent {
    pub(crate) fn end(self) -> u32 {
        self.start.0.saturating_add(self.pages)
    }
}

/// Pages retired by one generation.
#[derive(Clone)]
pub(crate) struct Retired {
    pub generation: u64,
    pub extents: Arc<Vec<Extent>>,
}

pub(crate) struct Space {
    words: Vec<u64>,
    /// A bit per word that is free as a whole.
    whole: Vec<u64>,
    free: u64,
    /// The run in use, and the next page in it.
    run: usize,
    next: u32,
    /// Where the search for fragments goes on.
    fragment: usize,
    /// One past the highest page in use.
    high: u32,
    retired: Vec<Extent>,
    retired_pages: u64,
    waiting: VecDeque<Retired>,
    /// Hand out the lowest pages, whole runs or not: while the file's end is being emptied.
    is_compacting: bool,
    /// Pages given up twice: always zero unless the file lies or the code is wrong. The invariant checker reports it.
    pub(crate) anomalies: u64,
}

fn mask(from: u32, count: u32) -> u64 {
    if count == RUN_PAGES {
        return RUN_FREE;
    }
    ((1 << count) - 1) << from
}

impl Space {
    /// The space of a file with nothing in it but the meta pages.
    pub(crate) fn new() -> Space {
        let mut space = Space {
            words: Vec::new(),
            whole: Vec::new(),
            free: 0,
            run: 0,
            next: 0,
            fragment: 0,
            high: META_PAGES,
            retired: Vec::new(),
            retired_pages: 0,
            waiting: VecDeque::new(),
            is_compacting: false,
            anomalies: 0,
        };
        space.grow(1);
        space.mark(0, META_PAGES, false);
        space
    }

    /// The space of a file of which everything below `high` is in use except for what is given.
    pub(crate) fn restore(
        high: u32,
        free: &[Extent],
        retired: Vec<Extent>,
        generation: u64,
    ) -> Space {
        let mut space = Space::new();
        let words = high.div_ceil(RUN_PAGES) as usize;
        space.grow(words.saturating_sub(space.words.len()));
        space.high = high.max(META_PAGES);
        space.mark(META_PAGES, space.high - META_PAGES, false);
        for extent in free {
            space.mark(extent.start.0, extent.pages, true);
        }
        space.retired_pages = retired.iter().map(|e| u64::from(e.pages)).sum();
        space.waiting.push_back(Retired {
            generation,
            extents: Arc::new(retired),
        });
        space
    }

    pub(crate) fn high(&self) -> u32 {
        self.high
    }

    pub(crate) fn free_below_high(&self) -> u64 {
        let beyond = self.words.len() as u64 * u64::from(RUN_PAGES) - u64::from(self.high);
        self.free - beyond + self.retired_pages
    }

    pub(crate) fn is_free(&self, no: u32) -> bool {
        match self.words.get((no / RUN_PAGES) as usize) {
            Some(word) => word >> (no % RUN_PAGES) & 1 == 1,
            None => true,
        }
    }

    /// Hands out contiguous pages.
    pub(crate) fn take(&mut self, pages: u32) -> PageNo {
        let start = if pages == 1 {
            self.take_one()
        } else if pages <= RUN_PAGES {
            self.take_few(pages)
        } else {
            self.take_many(pages)
        };
        self.mark(start, pages, false);
        self.high = self.high.max(start + pages);
        PageNo(start)
    }

    /// Whether so many contiguous pages would be handed out below a mark, while the file's end is being emptied.
    pub(crate) fn has_place_below(&self, mark: u32, pages: u32) -> bool {
        let words = (mark / RUN_PAGES) as usize;
        let words = &self.words[..words.min(self.words.len())];
        if pages <= RUN_PAGES {
            return words.iter().any(|word| longest_hole(*word) >= pages);
        }
        let wanted = pages.div_ceil(RUN_PAGES) as usize;
        let mut row = 0;
        words.iter().enumerate().any(|(at, word)| {
            let is_whole = *word == RUN_FREE && at != self.run;
            row = if is_whole { row + 1 } else { 0 };
            row == wanted
        })
    }

    fn take_one(&mut self) -> u32 {
        loop {
            if self.next < RUN_PAGES {
                let rest = self.words[self.run] & (u64::MAX << self.next);
                if rest != 0 {
                    let bit = rest.trailing_zeros();
                    self.next = bit + 1;
                    return self.run as u32 * RUN_PAGES + bit;
                }
            }
            self.next_run(true);
        }
    }

    fn take_few(&mut self, pages: u32) -> u32 {
        if self.is_compacting {
            let hole = |word: &u64| longest_hole(*word) >= pages;
            if let Some(at) = self.words.iter().position(hole) {
                (self.run, self.next) = (at, 0);
            }
        }
        for fresh in [false, true] {
            if fresh {
                self.next_run(false);
            }
            let mut bit = self.next;
            while bit + pages <= RUN_PAGES {
                let hole = mask(bit, pages);
                let used = !self.words[self.run] & hole;
                if used == 0 {
                    self.next = bit + pages;
                    return self.run as u32 * RUN_PAGES + bit;
                }
                bit = 64 - used.leading_zeros();
            }
        }
        unreachable!("a whole run holds {pages} pages")
    }

    /// More than a run: whole runs in a row, else the end of the file.
    fn take_many(&mut self, pages: u32) -> u32 {
        let wanted = pages.div_ceil(RUN_PAGES) as usize;
        let mut row = 0;
        for (at, word) in self.words.iter().enumerate() {
            row = if *word == RUN_FREE && at != self.run {
                row + 1
            } else {
                0
            };
            if row == wanted {
                return (at + 1 - wanted) as u32 * RUN_PAGES;
            }
        }
        let start = self.words.len() - row;
        self.grow(wanted - row);
        start as u32 * RUN_PAGES
    }

    /// Turns to the lowest whole run, to a fragmented one if there is too much of those, or to a new one at the end.
    fn next_run(&mut self, fragments: bool) {
        self.next = 0;
        if self.is_compacting && fragments {
            if let Some(at) = self.words.iter().position(|w| *w != 0) {
                self.run = at;
                return;
            }
        }
        let whole = self.whole.iter().position(|w| *w != 0);
        if let Some(at) = whole {
            self.run = at * 64 + self.whole[at].trailing_zeros() as usize;
            return;
        }
        let total = self.words.len() as u64 * u64::from(RUN_PAGES);
        if fragments && self.free * FRAGMENT_SHARE > total {
            let count = self.words.len();
            for step in 0..count {
                let at = (self.fragment + step) % count;
                if self.words[at].count_ones() >= FRAGMENT_PAGES_MIN {
                    self.fragment = at + 1;
                    self.run = at;
                    return;
                }
            }
        }
        self.run = self.words.len();
        self.grow(1);
    }

    /// Begins or ends to hand out the lowest pages.
    pub(crate) fn set_compacting(&mut self, is_compacting: bool) {
        self.is_compacting = is_compacting;
        self.leave_run();
    }

    /// Goes on in the lowest run that there is now.
    pub(crate) fn leave_run(&mut self) {
        self.next = RUN_PAGES;
    }

    /// Pages below `high` that are in use.
    pub(crate) fn used(&self) -> u32 {
        self.high - self.free_below_high().min(u64::from(self.high)) as u32
    }

    fn grow(&mut self, words: usize) {
        for _ in 0..words {
            let at = self.words.len();
            self.words.push(RUN_FREE);
            if at % 64 == 0 {
                self.whole.push(0);
            }
            self.whole[at / 64] |= 1 << (at % 64);
        }
        self.free += words as u64 * u64::from(RUN_PAGES);
    }

    /// Makes pages free or used, counting those that already were.
    fn mark(&mut self, start: u32, pages: u32, free: bool) {
        let (mut at, end) = (start, start.saturating_add(pages));
        while at < end {
            let (word, bit) = ((at / RUN_PAGES) as usize, at % RUN_PAGES);
            let count = (RUN_PAGES - bit).min(end - at);
            let bits = mask(bit, count);
            let Some(value) = self.words.get_mut(word) else {
                self.anomalies += u64::from(end - at);
                return;
            };
            let changed = if free { !*value & bits } else { *value & bits };
            *value ^= changed;
            let changed = u64::from(changed.count_ones());
            self.anomalies += u64::from(count) - changed;
            self.free = if free {
                self.free + changed
            } else {
                self.free - changed
            };
            let whole = u64::from(*value == RUN_FREE);
            let flag = &mut self.whole[word / 64];
            *flag = *flag & !(1 << (word % 64)) | whole << (word % 64);
            at += count;
        }
    }

    /// Pages that no checkpoint has seen are free at once.
    pub(crate) fn free(&mut self, extent: Extent) {
        self.mark(extent.start.0, extent.pages, true);
    }

    pub(crate) fn retire(&mut self, extent: Extent) {
        self.retired_pages += u64::from(extent.pages);
        self.retired.push(extent);
    }

    /// The generation ends: what it retired waits under its number.
    pub(crate) fn seal(&mut self, generation: u64) -> Arc<Vec<Extent>> {
        let extents = Arc::new(std::mem::take(&mut self.retired));
        self.waiting.push_back(Retired {
            generation,
            extents: extents.clone(),
        });
        extents
    }

    /// Checkpoint `completed` is durable and the oldest pin is on `pinned`. Pages retired by generation `g` are named by
    /// checkpoints before `g` only: once a checkpoint after `g` is durable, both meta pages are past them.
    pub(crate) fn settle(&mut self, completed: u64, pinned: Option<u64>) {
        while let Some(oldest) = self.waiting.front() {
            if oldest.generation >= completed || pinned.is_some_and(|p| p < oldest.generation) {
                break;
            }
            let extents = oldest.extents.clone();
            self.waiting.pop_front();
            for extent in extents.iter() {
                self.retired_pages -= u64::from(extent.pages);
                self.free(*extent);
            }
        }
        self.lower_high();
    }

    fn lower_high(&mut self) {
        let used = |word: &u64| *word != RUN_FREE;
        self.high = match self.words.iter().rposition(used) {
            Some(at) => at as u32 * RUN_PAGES + (64 - (!self.words[at]).leading_zeros()),
            None => META_PAGES,
        };
    }

    /// Free runs below `high`, in order, for the checkpoint's index.
    pub(crate) fn free_runs(&self) -> Vec<Extent> {
        let mut runs: Vec<Extent> = Vec::new();
        for (at, word) in self.words.iter().enumerate() {
            let (mut rest, base) = (*word, at as u32 * RUN_PAGES);
            while rest != 0 {
                let bit = rest.trailing_zeros();
                let count = (!(rest >> bit)).trailing_zeros().min(RUN_PAGES - bit);
                rest &= !mask(bit, count);
                push_run(&mut runs, base + bit, count);
            }
        }
        while let Some(last) = runs.last_mut() {
            if last.start.0 < self.high {
                last.pages = last.pages.min(self.high - last.start.0);
                break;
            }
            runs.pop();
        }
        runs
    }

    /// The map as it is, for a job that turns it into runs elsewhere.
    pub(crate) fn image(&self) -> SpaceImage {
        SpaceImage {
            words: self.words.clone(),
            high: self.high,
            waiting: self.waiting.iter().cloned().collect(),
        }
    }

    /// An upper bound of the runs that an image of this space has.
    pub(crate) fn runs_max(&self) -> usize {
        let bits: u32 = self
            .words
            .iter()
            .map(|w| (w & !(w << 1)).count_ones())
            .sum();
        let waiting: usize = self.waiting.iter().map(|r| r.extents.len()).sum();
        bits as usize + waiting + self.retired.len()
    }

    pub(crate) fn retired_extents(&self) -> impl Iterator<Item = Extent> + '_ {
        let waiting = self.waiting.iter().flat_map(|r| r.extents.iter().copied());
        waiting.chain(self.retired.iter().copied())
    }

    /// Pages kept back by generations after `checkpoint`, which a pin on it holds.
    pub(crate) fn retired_since(&self, checkpoint: u64) -> u64 {
        let held = self.waiting.iter().filter(|r| r.generation > checkpoint);
        let pages = |e: &Extent| u64::from(e.pages);
        held.flat_map(|r| r.extents.iter()).map(pages).sum::<u64>()
            + self.retired.iter().map(pages).sum::<u64>()
    }
}

/// The most free pages in a row in a run.
fn longest_hole(word: u64) -> u32 {
    let (mut rest, mut longest) = (word, 0);
    while rest != 0 {
        rest &= rest << 1;
        longest += 1;
    }
    longest
}

fn push_run(runs: &mut Vec<Extent>, start: u32, pages: u32) {
    match runs.last_mut() {
        Some(last) if last.end() == start => last.pages += pages,
        _ => runs.push(Extent {
            start: PageNo(start),
            pages,
        }),
    }
}

/// A copy of the space at the end of a generation.
pub(crate) struct SpaceImage {
    words: Vec<u64>,
    pub high: u32,
    waiting: Vec<Retired>,
}

impl SpaceImage {
    /// What the index states: free runs (with what older generations retired: their checkpoints are gone by the time
    /// this one can be opened), and what this generation retired.
    pub(crate) fn into_runs(self, generation: u64) -> (Vec<Extent>, Vec<Extent>) {
        let mut space = Space {
            words: self.words,
            high: self.high,
            ..Space::new()
        };
        let words = space.words.len();
        space.whole = vec![0; words.div_ceil(64)];
        let mut retired = Vec::new();
        for entry in self.waiting {
            if entry.generation == generation {
                retired.extend_from_slice(&entry.extents);
                continue;
            }
            entry.extents.iter().for_each(|e| space.free(*e));
        }
        (space.free_runs(), retired)
    }
}
