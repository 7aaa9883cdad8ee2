//! Emptying the file's end, so that it can be cut, while the trees stay in use.

use super::{
    moving::{Goal, Place},
    Tree,
};
use crate::page::{Miss, Pages};

/// Of the pages in use one in so many is left as room above them, with [`ROOM_PAGES_MIN`] at least.
const ROOM_SHARE: u32 = 16;
const ROOM_PAGES_MIN: u32 = 256;

/// A walk through all trees that moves what lies beyond a mark to below it. Goes on between other writes.
pub struct Defragment {
    /// Pages from here on are to be emptied.
    mark: u32,
    place: Place,
}

impl Defragment {
    /// Begins a walk; none if the file is about as short as it can be.
    pub fn begin(pages: &mut Pages) -> Option<Defragment> {
        let used = pages.space.used();
        let mark = used + (used / ROOM_SHARE).max(ROOM_PAGES_MIN);
        if pages.space.high() <= mark {
            return None;
        }
        pages.space.set_compacting(true);
        Some(Defragment {
            mark,
            place: Place::default(),
        })
    }

    /// Looks at so many leaves at most, moving them and what they need, and ends early once about so many bytes of overflow
    /// extents were moved; whether there is more to do. The trees are all of the file, in the same order each time. After
    /// the last step the file is cut as the next checkpoints become durable.
    pub fn step(
        &mut self,
        pages: &mut Pages,
        trees: &mut [Tree],
        leaves_max: usize,
        bytes_max: usize,
    ) -> Result<bool, Miss> {
        let (goal, mut bytes_left) = (Goal::Below(self.mark), bytes_max);
        for _ in 0..leaves_max {
            if !self.place.move_leaf(pages, trees, goal, &mut bytes_left)? {
                self.end(pages);
                return Ok(false);
            }
            if bytes_left == 0 {
                break;
            }
        }
        Ok(true)
    }

    /// Gives up, or is through: numbers are handed out in whole runs again.
    pub fn end(&self, pages: &mut Pages) {
        pages.space.set_compacting(false);
        pages.shrink();
    }
}
