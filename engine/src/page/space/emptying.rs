//! Runs that are being emptied, so that they become free as a whole.

use super::{
    super::{blocks::Block, Extent},
    Space, RUN_PAGES,
};

impl Space {
    /// The runs in use, with the pages in them that nothing has given up yet. Those in `fixed` cannot be moved.
    pub(crate) fn blocks(&self, fixed: Extent) -> impl Iterator<Item = Block> + '_ {
        let words = self.high.div_ceil(RUN_PAGES) as usize;
        let mut dead = self.words[..words].to_vec();
        for extent in self.retired_extents() {
            for no in extent.start.0..extent.end() {
                if let Some(word) = dead.get_mut((no / RUN_PAGES) as usize) {
                    *word |= 1 << (no % RUN_PAGES);
                }
            }
        }
        let fixed = fixed.start.0 / RUN_PAGES..fixed.end().div_ceil(RUN_PAGES);
        dead.into_iter().zip(0..).map(move |(dead, at)| Block {
            live: dead.count_zeros(),
            at,
            is_movable: at > 0
                && at as usize != self.run
                && !fixed.contains(&at)
                && !self.stubborn.contains(&at),
        })
    }

    /// Takes no more fragments from these runs, until they are free as a whole or [`Space::end_emptying`].
    pub(crate) fn begin_emptying(&mut self, runs: impl IntoIterator<Item = u32>) {
        self.emptying.extend(runs);
    }

    /// Whether any of these pages lies in a run that is being emptied.
    pub(crate) fn is_emptying(&self, start: u32, pages: u32) -> bool {
        // More than a run would cost more than it gains.
        let last = start.saturating_add(pages - 1) / RUN_PAGES;
        !self.emptying.is_empty()
            && pages <= RUN_PAGES
            && self
                .emptying
                .range(start / RUN_PAGES..=last)
                .next()
                .is_some()
    }

    /// What could be moved was: runs that still hold something are used like others, and not chosen again for a while. How
    /// many these are.
    pub(crate) fn end_emptying(&mut self, fixed: Extent) -> usize {
        let held: Vec<u32> = self
            .blocks(fixed)
            .filter(|block| block.live > 0 && self.emptying.contains(&block.at))
            .map(|block| block.at)
            .collect();
        for at in &held {
            self.emptying.remove(at);
        }
        self.stubborn.extend(&held);
        held.len()
    }

    pub(crate) fn forget_emptying(&mut self) {
        self.emptying.clear();
    }

    pub(crate) fn forget_stubborn(&mut self) {
        self.stubborn.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{super::PageNo, tests::scattered},
        *,
    };

    #[test]
    fn the_emptiest_fragment_is_taken_and_none_that_is_being_emptied() {
        let mut space = scattered(10);
        space.leave_run();
        let extra = |run: u32| Extent {
            start: PageNo(run * RUN_PAGES),
            pages: 1,
        };
        space.free(extra(7));
        space.free(extra(4));
        space.begin_emptying([7]);
        assert!(space.is_emptying(7 * RUN_PAGES + 3, 2));
        assert_eq!(space.take(1).0 / RUN_PAGES, 4);
        space.forget_emptying();
        space.leave_run();
        assert_eq!(space.take(1).0 / RUN_PAGES, 7);
    }

    #[test]
    fn what_could_not_be_emptied_is_not_chosen_again() {
        let mut space = scattered(4);
        let nothing = Extent {
            start: PageNo(2),
            pages: 1,
        };
        space.begin_emptying([1, 2]);
        let live = |no| no % 2 == 0;
        for no in (RUN_PAGES..2 * RUN_PAGES).filter(|no| live(*no)) {
            space.retire(Extent {
                start: PageNo(no),
                pages: 1,
            });
        }
        assert_eq!(space.end_emptying(nothing), 1);
        let blocks: Vec<Block> = space.blocks(nothing).collect();
        assert_eq!((blocks[1].live, blocks[1].is_movable), (0, true));
        assert_eq!((blocks[2].live, blocks[2].is_movable), (32, false));
        assert!(
            space.is_emptying(RUN_PAGES, 1),
            "until it is free as a whole"
        );
        assert!(!space.is_emptying(2 * RUN_PAGES, 1));
        space.forget_stubborn();
        assert!(space
            .blocks(nothing)
            .all(|block| block.is_movable == (block.at > 0)));
    }
}
