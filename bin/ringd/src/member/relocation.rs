//! Moving pages in idle moments, so that checkpoints go on being written in long pieces (`engine::tree::Relocator`). What
//! may be moved, and when there is need, the engine decides; here only whether this is a time for it.

use super::Member;
use engine::page::Miss;

/// Leaves that one slice looks at: some 100 us of work. What it may change is bounded beside that.
const SLICE_LEAVES_MAX: usize = 64;

impl Member {
    /// Whether nothing is against it: no defragmentation, whose file is to become shorter; no
    /// other page file about to take this one's place; no damaged page that a walk would meet again and again; no want of
    /// space, since moving takes some before it gives it.
    fn may_relocate(&self) -> bool {
        !self.is_defragmenting()
            && !self.snapshots.is_installing()
            && !self.rebuild.is_under_way()
            && !self.rebuild.is_detached()
            && !self.corrupt
            && !self.is_at_reserve()
    }

    pub(super) fn is_relocating(&self) -> bool {
        self.store.relocation_pending() && self.may_relocate()
    }

    /// Before a checkpoint begins, with which blocks are chosen.
    pub(super) fn hold_relocation(&mut self) {
        let is_held = !self.may_relocate();
        self.store.hold_relocation(is_held);
    }

    pub(super) fn relocate_slice(&mut self) -> Result<(), Miss> {
        if !self.is_relocating() {
            return Ok(());
        }
        self.background.has_changed_pages = true;
        self.store.relocation_step(SLICE_LEAVES_MAX)
    }

    /// Bytes of pages that were moved since the start, or since the page file was replaced.
    pub fn relocated_bytes(&self) -> u64 {
        self.store.relocated_bytes()
    }
}
