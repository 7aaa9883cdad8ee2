//! Moving pages in the background to make whole blocks of free ones ([`crate::tree::Relocator`]).

use super::Store;
use crate::mvcc::Trees;
use crate::page::Miss;

impl Store {
    /// Whether there is something to move, and leave to move it. The answer changes when a checkpoint begins.
    pub fn relocation_pending(&self) -> bool {
        self.relocator.wants_step()
    }

    /// A slice of the walk, between other steps: looks at so many leaves at most.
    pub fn relocation_step(&mut self, leaves_max: usize) -> Result<(), Miss> {
        debug_assert!(!self.is_applying(), "half an entry is applied");
        let mut roots = self.trees.roots();
        let done = self.relocator.step(&mut self.pages, &mut roots, leaves_max);
        // What was moved before a page was missing stays moved.
        if let Some(trees) = Trees::from_roots(&roots) {
            self.trees = trees;
        }
        done
    }

    /// Whether nothing is to be moved for now. What is under way is given up.
    pub fn hold_relocation(&mut self, is_held: bool) {
        self.relocator.hold(&mut self.pages, is_held);
    }

    /// Bytes changed by it since the store was opened.
    pub fn relocated_bytes(&self) -> u64 {
        self.relocator.moved_bytes()
    }
}
