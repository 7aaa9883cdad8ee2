//! Which blocks of the file are to be emptied, so that checkpoints can be written in long pieces.
//!
//! A block is an aligned run of 64 pages. One of which no page is live becomes free as a whole once the checkpoints that
//! still name its pages are gone; those are the *stock* that the next checkpoints are written to. When the stock is short,
//! the blocks that hold the fewest live pages are chosen, and these pages are moved.

use super::space::RUN_PAGES;

/// How far pages are moved to make whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// A shorter file is left as it is: little is written there anyway.
    pub file_pages_min: u64,
    /// Nothing is done while fewer of the file's pages, in percent, are free or about to be. Where pages are given up all over
    /// a file, the emptiest blocks then hold more than what is earned can move: the work would be for nothing.
    pub dead_percent_min: u64,
    /// A block with more live pages is left as it is: emptying it gains too little.
    pub live_pages_max: u32,
    /// At most one page in so many that checkpoints write for others is moved besides; 0 moves none.
    pub cost_share: u64,
}

impl Default for Relocation {
    fn default() -> Relocation {
        Relocation {
            file_pages_min: 4096,
            dead_percent_min: 45,
            live_pages_max: 24,
            cost_share: 4,
        }
    }
}

/// What is moved while a checkpoint is written leaves blocks that can be used after the next one but one: three checkpoints
/// are written to the stock until then. Above that nothing is moved.
const STOCK_CHECKPOINTS_MIN: u64 = 3;
/// Once something is moved the stock is made to last for so many.
const STOCK_CHECKPOINTS: u64 = 4;

/// A block with pages in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Block {
    /// Pages that the trees need.
    pub live: u32,
    pub at: u32,
    /// Whether all of them can be moved, as far as is known.
    pub is_movable: bool,
}

impl Relocation {
    /// The blocks to empty, where checkpoints write so many pages each and so many may be moved.
    pub(crate) fn choose(
        &self,
        blocks: impl Iterator<Item = Block>,
        written_pages: u64,
        moved_pages_max: u64,
    ) -> Vec<u32> {
        let (mut stock, mut pages, mut live) = (0, 0, 0);
        let mut candidates = Vec::new();
        for block in blocks {
            pages += u64::from(RUN_PAGES);
            live += u64::from(block.live);
            if block.live == 0 {
                stock += u64::from(RUN_PAGES);
            } else if block.is_movable && block.live <= self.live_pages_max {
                candidates.push(block);
            }
        }
        let too_little_is_dead = (pages - live) * 100 < pages * self.dead_percent_min;
        if too_little_is_dead || stock >= written_pages * STOCK_CHECKPOINTS_MIN {
            return Vec::new();
        }
        candidates.sort_unstable();
        let mut moved_pages = 0;
        let affordable = candidates.iter().take_while(|block| {
            moved_pages += u64::from(block.live);
            stock += u64::from(RUN_PAGES);
            moved_pages <= moved_pages_max
                && stock < written_pages * STOCK_CHECKPOINTS + u64::from(RUN_PAGES)
        });
        affordable.map(|block| block.at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Relocation = Relocation {
        file_pages_min: 0,
        dead_percent_min: 25,
        live_pages_max: 16,
        cost_share: 4,
    };

    fn choose(live: &[u32], written_pages: u64, moved_pages_max: u64) -> Vec<u32> {
        let blocks = live.iter().enumerate().map(|(at, live)| Block {
            live: *live,
            at: at as u32,
            is_movable: at != 0,
        });
        RULE.choose(blocks, written_pages, moved_pages_max)
    }

    #[test]
    fn the_emptiest_blocks_are_chosen_until_the_stock_is_enough() {
        // One checkpoint writes a block: two are too few, three enough.
        assert_eq!(choose(&[1, 9, 3, 0, 0, 16, 64], 64, 1000), [2, 1]);
        assert_eq!(choose(&[1, 9, 3, 0, 0, 0, 64], 64, 1000), [0; 0]);
    }

    #[test]
    fn what_is_full_or_cannot_be_moved_is_left() {
        assert_eq!(choose(&[1, 17, 64, 30], 64, 1000), [0; 0]);
        assert_eq!(choose(&[1, 17, 16, 30], 64, 1000), [2]);
    }

    #[test]
    fn no_more_is_moved_than_may_be() {
        assert_eq!(choose(&[64, 5, 5, 5], 1000, 14), [1, 2]);
        assert_eq!(choose(&[64, 5, 5, 5], 1000, 4), [0; 0]);
    }

    #[test]
    fn where_most_pages_are_live_nothing_is_moved() {
        assert_eq!(choose(&[64, 1, 64, 64, 64], 64, 1000), [0; 0]);
        assert_eq!(choose(&[64, 1, 64, 64], 64, 1000), [0; 0]);
        assert_eq!(choose(&[64, 1, 64, 60], 64, 1000), [1]);
    }

    #[test]
    fn where_nothing_is_written_nothing_is_moved() {
        assert_eq!(choose(&[64, 1, 1, 1], 0, 1000), [0; 0]);
    }
}
