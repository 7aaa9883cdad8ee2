//! Free space: which page numbers may be handed out.
//!
//! A bit per page, set when free; a word of 64 bits is a run of 256 KiB, so a free run is a word of all ones. Numbers are
//! handed out from one run at a time, so that what a checkpoint writes is contiguous. A page given up that a durable
//! checkpoint may still name is *retired*: it waits until two newer meta pages are durable and no pin needs it.

mod emptying;

use super::{PageNo, META_PAGES};
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

/// Pages of a run: one word.
pub(crate) const RUN_PAGES: u32 = 64;
const RUN_FREE: u64 = u64::MAX;
/// While less than one in so many pages is free the file grows rather than using fragments of runs.
const FRAGMENT_SHARE: u64 = 4;
/// The same where the file has room to grow. Where pages are given up all over a file, runs can only be emptied at a bearable
/// price when half of it is free.
const FRAGMENT_SHARE_ROOMY: u64 = 2;
/// A fragmented word is worth a visit from so many free pages up.
const FRAGMENT_PAGES_MIN: u32 = 8;
/// With so many no emptier one is looked for.
const FRAGMENT_PAGES_GOOD: u32 = 48;

/// A checkpoint's index of more pages has whole runs for itself.
const INDEX_PAGES_SHORT: u32 = 16;
/// Places kept for indexes: that of the newest checkpoint, those that wait for older ones, and one more.
const HOMES_MAX: usize = 6;

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

/// How the free pages of a file lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreeSpace {
    /// Pages up to the last one in use.
    pub file_pages: u64,
    /// Those of them that can be handed out.
    pub free_pages: u64,
    /// Those of the free ones that fill aligned blocks of 64, which a checkpoint writes in one piece.
    pub whole_block_pages: u64,
    /// Given up, and kept for an older checkpoint or a pin.
    pub waiting_pages: u64,
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
    /// A file of fewer runs has room to grow.
    roomy_words: usize,
    /// Runs that long indexes have, or had and come back to: nothing else is put there.
    homes: VecDeque<Extent>,
    /// One past the highest page in use.
    high: u32,
    retired: Vec<Extent>,
    retired_pages: u64,
    waiting: VecDeque<Retired>,
    /// Runs that are being emptied, or will be free as a whole when what was retired is: no fragments are taken from them.
    emptying: BTreeSet<u32>,
    /// Runs that could not be emptied.
    stubborn: BTreeSet<u32>,
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
            roomy_words: 0,
            homes: VecDeque::new(),
            high: META_PAGES,
            retired: Vec::new(),
            retired_pages: 0,
            waiting: VecDeque::new(),
            emptying: BTreeSet::new(),
            stubborn: BTreeSet::new(),
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

    pub(crate) fn free_space(&self) -> FreeSpace {
        let below = (self.high / RUN_PAGES) as usize;
        let whole: u32 = self.whole[..below / 64]
            .iter()
            .chain([&(self.whole.get(below / 64).unwrap_or(&0) & ((1 << (below % 64)) - 1))])
            .map(|words| words.count_ones())
            .sum();
        FreeSpace {
            file_pages: u64::from(self.high),
            free_pages: self.free_below_high() - self.retired_pages,
            whole_block_pages: u64::from(whole * RUN_PAGES),
            waiting_pages: self.retired_pages,
        }
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

    /// Hands out the place of a checkpoint's index. A long one has whole runs for itself, and comes back to those of an older
    /// one: among scattered holes there is seldom a place for it, and the file would grow with every checkpoint.
    pub(crate) fn take_index(&mut self, pages: u32) -> Extent {
        if pages <= INDEX_PAGES_SHORT || self.is_compacting {
            let start = self.take(pages);
            return Extent { start, pages };
        }
        let pages = pages.next_multiple_of(RUN_PAGES);
        let is_vacant = |home: &&Extent| {
            let runs = home.start.0 / RUN_PAGES..home.end() / RUN_PAGES;
            home.pages >= pages
                && self.words[runs.start as usize..runs.end as usize]
                    .iter()
                    .all(|w| *w == RUN_FREE)
        };
        let vacant = self.homes.iter().find(is_vacant).map(|home| home.start);
        let start = vacant.unwrap_or_else(|| self.take(pages));
        let home = Extent { start, pages };
        match vacant {
            Some(PageNo(start)) => {
                self.mark(start, pages, false);
                self.high = self.high.max(start + pages);
            }
            None => {
                if self.homes.len() == HOMES_MAX {
                    self.homes.pop_front();
                }
                self.homes.push_back(home);
            }
        }
        home
    }

    fn is_home(&self, run: usize) -> bool {
        let start = run as u32 * RUN_PAGES;
        let is_in = |home: &Extent| (home.start.0..home.end()).contains(&start);
        self.homes.iter().any(is_in)
    }

    /// The next indexes are put wherever other pages are.
    pub(crate) fn forget_homes(&mut self) {
        self.homes.clear();
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
            self.next_run(1);
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
                self.next_run(pages);
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
        unreachable!("a run was turned to that has {pages} pages in a row")
    }

    /// More than a run: whole runs in a row, else the end of the file.
    fn take_many(&mut self, pages: u32) -> u32 {
        let wanted = pages.div_ceil(RUN_PAGES) as usize;
        let mut row = 0;
        for (at, word) in self.words.iter().enumerate() {
            row = if *word == RUN_FREE && at != self.run && !self.is_home(at) {
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

    /// Turns to the lowest whole run, to a fragmented one with so many pages in a row if there is too much of those, or to a
    /// new one at the end.
    fn next_run(&mut self, pages: u32) {
        self.next = 0;
        if self.is_compacting && pages == 1 {
            if let Some(at) = self.words.iter().position(|w| *w != 0) {
                self.run = at;
                return;
            }
        }
        let total = self.words.len() as u64 * u64::from(RUN_PAGES);
        let share = match self.words.len() < self.roomy_words {
            true => FRAGMENT_SHARE_ROOMY,
            false => FRAGMENT_SHARE,
        };
        let many_fragments = self.free * share > total;
        if let Some(at) = self.lowest_whole() {
            self.run = at;
            return;
        }
        if many_fragments {
            if let Some(at) = self.best_fragment(pages) {
                (self.run, self.fragment) = (at, at + 1);
                return;
            }
        }
        self.run = self.words.len();
        self.grow(1);
    }

    fn lowest_whole(&self) -> Option<usize> {
        for (at, word) in self.whole.iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                let run = at * 64 + rest.trailing_zeros() as usize;
                if !self.is_home(run) {
                    return Some(run);
                }
                rest &= rest - 1;
            }
        }
        None
    }

    /// The emptiest run that has so many free pages in a row, or one that is empty enough.
    fn best_fragment(&self, pages: u32) -> Option<usize> {
        let (count, mut best, mut most) = (self.words.len(), None, FRAGMENT_PAGES_MIN - 1);
        for step in 0..count {
            let at = (self.fragment + step) % count;
            let word = self.words[at];
            let free = word.count_ones();
            if free > most
                && !self.emptying.contains(&(at as u32))
                && !self.is_home(at)
                && (pages == 1 || longest_hole(word) >= pages)
            {
                (best, most) = (Some(at), free);
                if free >= FRAGMENT_PAGES_GOOD {
                    break;
                }
            }
        }
        best
    }

    /// Begins or ends to hand out the lowest pages.
    pub(crate) fn set_compacting(&mut self, is_compacting: bool) {
        self.is_compacting = is_compacting;
        self.forget_homes();
        self.leave_run();
    }

    /// Goes on in the lowest run that there is now.
    pub(crate) fn leave_run(&mut self) {
        self.next = RUN_PAGES;
    }

    pub(crate) fn is_compacting(&self) -> bool {
        self.is_compacting
    }

    /// Says up to which length the file has room to grow.
    pub(crate) fn set_roomy(&mut self, pages: u64) {
        self.roomy_words = usize::try_from(pages / u64::from(RUN_PAGES)).unwrap_or(usize::MAX);
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
            if !free && *value == RUN_FREE {
                // It is whole, so there is nothing more to empty.
                self.emptying.remove(&(word as u32));
            }
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file of so many runs with every other page free.
    pub(super) fn scattered(runs: u32) -> Space {
        let high = runs * RUN_PAGES;
        let holes = (META_PAGES..high).filter(|no| no % 2 == 1);
        let hole = |no| Extent {
            start: PageNo(no),
            pages: 1,
        };
        let free: Vec<Extent> = holes.map(hole).collect();
        Space::restore(high, &free, Vec::new(), 0)
    }

    #[test]
    fn a_long_index_finds_the_place_of_an_older_one() {
        let mut space = scattered(100);
        let (mut index, mut highs) = (None, Vec::new());
        for generation in 1..40 {
            // What changes: as many pages given up as taken.
            let taken: Vec<u32> = (0..200).map(|_| space.take(1).0).collect();
            for start in taken {
                space.retire(Extent {
                    start: PageNo(start),
                    pages: 1,
                });
            }
            index.into_iter().for_each(|index| space.retire(index));
            index = Some(space.take_index(40));
            space.seal(generation);
            space.settle(generation, None);
            highs.push(space.high());
        }
        let most = |highs: &[u32]| highs.iter().max().copied();
        assert_eq!(most(&highs[12..18]), most(&highs[33..]), "{highs:?}");
        assert_eq!(space.anomalies, 0);
    }

    #[test]
    fn several_pages_are_taken_from_a_hole_before_the_file_grows() {
        let mut space = scattered(10);
        space.leave_run();
        for at in [0, 2, 4] {
            space.free(Extent {
                start: PageNo(5 * RUN_PAGES + at),
                pages: 1,
            });
        }
        let high = space.high();
        assert_eq!(space.take(6), PageNo(5 * RUN_PAGES));
        assert_eq!(space.high(), high);
        assert_eq!(space.take(6).0, high, "no such hole is left");
    }
}
