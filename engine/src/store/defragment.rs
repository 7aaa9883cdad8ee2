//! Moving the end of the page file down while the store is used.

use super::Store;
use crate::mvcc::Trees;
use crate::page::Miss;
use crate::tree::Defragment;

impl Store {
    /// Begins to empty the file's end; none if the file is about as short as it can be. What was deleted counts as free
    /// once two checkpoints are past it.
    pub fn begin_defragment(&mut self) -> Option<Defragment> {
        self.relocator.give_up(&mut self.pages);
        Defragment::begin(&mut self.pages)
    }

    /// A slice of the walk, between other steps; whether there is more. See [`Defragment::step`].
    pub fn defragment_step(
        &mut self,
        walk: &mut Defragment,
        leaves_max: usize,
        bytes_max: usize,
    ) -> Result<bool, Miss> {
        let mut roots = self.trees.roots();
        let more = walk.step(&mut self.pages, &mut roots, leaves_max, bytes_max);
        // What was moved before a page was missing stays moved.
        if let Some(trees) = Trees::from_roots(&roots) {
            self.trees = trees;
        }
        more
    }

    /// Gives a walk up. What it moved stays where it is, and what became free at the end is cut off.
    pub fn end_defragment(&mut self, walk: &Defragment) {
        walk.end(&mut self.pages);
    }
}
