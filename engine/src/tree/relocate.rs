//! Making whole blocks of free pages in the background, so that checkpoints go on being written in long pieces.
//!
//! When a checkpoint began, blocks are chosen ([`Relocation`]); a walk through the trees in slices then copies what is live
//! in them, as any change would, and so the next checkpoint writes it elsewhere. What they held is used again like
//! everything that was given up: when neither meta page nor a pin needs it.
//!
//! What may be moved is earned: a fixed share of what checkpoints write for others. So a member where nothing happens moves
//! nothing, and no choice of blocks, however bad, makes much work.

use super::{
    moving::{Goal, Place},
    Tree,
};
use crate::page::{Miss, Pages, Relocation, PAGE_BYTES};

/// Bytes that can be saved up where checkpoints are small: so much as four blocks.
const CREDIT_BYTES_MIN: i64 = 1 << 20;
/// A slice ends when it has changed so many bytes.
const SLICE_BYTES: u64 = 64 << 10;
/// Checkpoints after which blocks are tried again that could not be emptied.
const STUBBORN_CHECKPOINTS: u32 = 32;
/// The longest pause, in checkpoints, when most of what was chosen could not be emptied. It doubles up to this.
const PAUSE_CHECKPOINTS_MAX: u32 = 32;

pub struct Relocator {
    rule: Relocation,
    walk: Option<Place>,
    /// Bytes that may still be moved. Negative after a leaf that took more.
    credit: i64,
    /// Of the changed bytes since the last checkpoint began, those that were changed here.
    moved: u64,
    moved_ever: u64,
    checkpoints: u32,
    /// Blocks that the walk under way is to empty.
    chosen: usize,
    /// Checkpoints until the next choice, and how many it will be after the next one that brought little.
    pause: u32,
    next_pause: u32,
    is_held: bool,
}

impl Relocator {
    pub fn new(rule: Relocation) -> Relocator {
        Relocator {
            rule,
            walk: None,
            credit: 0,
            moved: 0,
            moved_ever: 0,
            checkpoints: 0,
            chosen: 0,
            pause: 0,
            next_pause: 1,
            is_held: false,
        }
    }

    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Whether nothing is to be moved for now, nor kept free for longer writes.
    pub fn hold(&mut self, pages: &mut Pages, is_held: bool) {
        self.is_held = is_held;
        if is_held {
            self.give_up(pages);
        }
    }

    /// Bytes changed here since it was made.
    pub fn moved_bytes(&self) -> u64 {
        self.moved_ever
    }

    /// A checkpoint began: what it writes earns what may be moved until the next one.
    pub fn checkpoint_begun(&mut self, pages: &mut Pages) {
        let written = pages.frozen_bytes();
        let of_others = written.saturating_sub(std::mem::take(&mut self.moved));
        let Some(earned) = of_others.checked_div(self.rule.cost_share) else {
            return;
        };
        let earned = i64::try_from(earned).unwrap_or(i64::MAX);
        self.credit = (self.credit.saturating_add(earned)).min(earned.max(CREDIT_BYTES_MIN));
        self.checkpoints = self.checkpoints.wrapping_add(1);
        self.pause = self.pause.saturating_sub(1);
        if self.checkpoints % STUBBORN_CHECKPOINTS == 0 {
            pages.space.forget_stubborn();
        }
        let is_large = u64::from(pages.space.high()) >= self.rule.file_pages_min;
        let may_choose = self.pause == 0 && !self.is_held && !pages.is_being_emptied();
        if self.walk.is_none() && is_large && may_choose {
            self.choose(pages, written / PAGE_BYTES as u64);
        }
    }

    fn choose(&mut self, pages: &mut Pages, written_pages: u64) {
        let fixed = pages.index_extent();
        let space = &mut pages.space;
        // A quarter is for the branches above what is moved, so that the walk is over when the next choice is made.
        let affordable = self.credit.max(0) as u64 / 4 * 3 / PAGE_BYTES as u64;
        let chosen = self
            .rule
            .choose(space.blocks(fixed), written_pages, affordable);
        let stock: Vec<u32> = space
            .blocks(fixed)
            .filter(|block| block.live == 0)
            .map(|block| block.at)
            .collect();
        space.forget_emptying();
        space.begin_emptying(stock);
        if !chosen.is_empty() {
            self.chosen = chosen.len();
            space.begin_emptying(chosen);
            self.walk = Some(Place::default());
        }
    }

    /// Whether there is something to move, and leave to move it.
    pub fn wants_step(&self) -> bool {
        self.walk.is_some() && self.credit > 0
    }

    /// Looks at so many leaves at most. The trees are all of the file, in the same order each time.
    pub fn step(
        &mut self,
        pages: &mut Pages,
        trees: &mut [Tree],
        leaves_max: usize,
    ) -> Result<(), Miss> {
        let begun = pages.dirty_bytes();
        for _ in 0..leaves_max {
            if !self.wants_step() || pages.dirty_bytes() >= begun + SLICE_BYTES {
                break;
            }
            let Some(walk) = &mut self.walk else { break };
            let before = pages.dirty_bytes();
            // Large values of one leaf may be worth several slices.
            let mut bytes_left = self.credit.clamp(1, SLICE_BYTES as i64) as usize;
            let more = walk.move_leaf(pages, trees, Goal::Emptying, &mut bytes_left);
            let moved = pages.dirty_bytes().saturating_sub(before);
            self.credit -= i64::try_from(moved).unwrap_or(i64::MAX);
            self.moved += moved;
            self.moved_ever += moved;
            if !more? {
                self.walk_ended(pages);
            }
        }
        Ok(())
    }

    fn walk_ended(&mut self, pages: &mut Pages) {
        self.walk = None;
        let fixed = pages.index_extent();
        let held = pages.space.end_emptying(fixed);
        if held * 2 > self.chosen {
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(PAUSE_CHECKPOINTS_MAX);
        } else {
            self.next_pause = 1;
        }
    }

    /// Gives up what is under way: all blocks are used like others.
    pub fn give_up(&mut self, pages: &mut Pages) {
        self.walk = None;
        pages.space.forget_emptying();
    }
}
