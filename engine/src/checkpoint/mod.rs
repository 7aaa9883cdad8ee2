//! Checkpoints: how the trees in memory become the trees on the device, all at once.
//!
//! `begin_checkpoint` freezes the active generation: its pages, the roots and the caller's content form one state. The
//! [`CheckpointJob`] then works off the owner's thread, in this order: make the file long enough; write the frozen pages in
//! contiguous runs; write the *index* (which runs were written, with their checksums; which pages are free); flush; write
//! the meta page that names it all. A crash before the last step leaves the former state, after it the new one.
//!
//! Two meta pages alternate. At open the newest one is taken whose index and runs are found unharmed *on the device*; else
//! the other. That one always works as well, because pages given up are kept until both meta pages are past them.

mod copy;
mod index;
mod job;
mod meta;
mod open;
mod pin;

pub use copy::{Copy, CopyError, CopySource};
pub use job::{is_disk_full, CheckpointDone, CheckpointJob, Progress, Stage, STEP_BYTES};
pub use meta::Meta;
pub use open::{OpenReport, Opened};
pub use pin::Pin;

pub(crate) use job::Demand;
pub(crate) use meta::blank_meta_page;

use crate::{
    page::{extent_pages, Extent, PageNo, Pages, PAGE_BYTES},
    tree::Tree,
};
use bytes::Bytes;

/// Bytes of content that a meta page holds at most.
pub const CONTENT_BYTES_MAX: usize = 2048;
/// Roots that a meta page holds at most.
pub const ROOTS_MAX: usize = 256;

/// Checkpoints until neither meta page names a page that was moved or given up, until their own indexes have moved down in
/// the same way, and the cut itself.
const SHRINKING_CHECKPOINTS: u8 = 6;

/// The newest checkpoint that is durable.
#[derive(Clone)]
pub(crate) struct Completed {
    pub number: u64,
    /// Which meta page holds it.
    pub slot: u32,
    pub index: Extent,
    pub roots: Vec<Tree>,
    pub content: Bytes,
    /// Pages of the file that it needs.
    pub high: u32,
}

/// A meta page of a file that has no checkpoint yet.
pub(crate) fn blank_meta(slot: u32) -> Vec<u8> {
    blank_meta_page(slot).to_vec()
}

impl Pages {
    /// Freezes the active generation and returns the job that writes it, with these roots and this content. None while a
    /// former job is not done, and for a [`Pin`]'s reader.
    ///
    /// The caller sees to it that nothing in `content` claims more of the log than is durable when the job comes to
    /// [`Stage::Meta`].
    ///
    /// # Panics
    /// With more than [`ROOTS_MAX`] roots or [`CONTENT_BYTES_MAX`] bytes of content.
    pub fn begin_checkpoint(&mut self, roots: &[Tree], content: &[u8]) -> Option<CheckpointJob> {
        assert!(roots.len() <= ROOTS_MAX, "{} roots", roots.len());
        assert!(
            content.len() <= CONTENT_BYTES_MAX,
            "{} bytes of content",
            content.len()
        );
        if self.is_checkpointing() || self.is_read_only() {
            return None;
        }
        let number = self.generation;
        if self.completed.index.pages > 0 {
            self.space.retire(self.completed.index);
        }
        let shrink = self.shrink_checkpoints > 0;
        self.shrink_checkpoints = self.shrink_checkpoints.saturating_sub(1);
        if shrink {
            self.space.leave_run();
            self.space.forget_homes();
        }
        let runs_max = self.writes_max();
        let index_bytes = index::bytes_max(runs_max, self.space.runs_max());
        let reserve = self.space.take_index(extent_pages(index_bytes));
        self.index_reserve = Some(reserve);
        self.space.seal(number);
        let image = self.space.image();
        let completed = Completed {
            number,
            slot: 1 - self.completed.slot,
            index: reserve,
            roots: roots.to_vec(),
            content: Bytes::copy_from_slice(content),
            high: image.high,
        };
        let frames = self.freeze();
        self.demand = Demand::default();
        Some(CheckpointJob::new(self, completed, image, frames, shrink))
    }

    /// The checkpoint is durable: its pages leave the heap, and what both meta pages are past can be used again.
    pub fn checkpoint_done(&mut self, done: CheckpointDone) {
        debug_assert!(done.completed.number < self.generation);
        self.space.free(done.spare);
        if let Some(bytes) = done.file_bytes {
            self.note_length(bytes);
        }
        self.completed = done.completed;
        self.index_reserve = None;
        self.settle_space();
        self.thaw();
    }

    /// Tells the job of the running checkpoint how soon the next one is due, in thousandths of the way.
    pub fn press_checkpoint(&self, thousandths: u32) {
        self.demand.set(thousandths);
    }

    /// Pages that hold an index in use.
    pub(crate) fn index_extent(&self) -> Extent {
        self.index_reserve.unwrap_or(self.completed.index)
    }

    /// Has the next checkpoints cut the file's end as it becomes free.
    pub fn shrink(&mut self) {
        self.shrink_checkpoints = SHRINKING_CHECKPOINTS;
    }

    /// Whether checkpoints are still to come that cut the file's end off, after a [`crate::tree::Defragment`].
    pub fn is_shrinking(&self) -> bool {
        self.shrink_checkpoints > 0
    }

    /// Whether the file's end is being emptied, or cut off.
    pub(crate) fn is_being_emptied(&self) -> bool {
        self.space.is_compacting() || self.is_shrinking()
    }

    pub(crate) fn settle_space(&mut self) {
        self.pins.retain(|pin| pin.strong_count() > 0);
        let pinned = self.pins.iter().filter_map(|p| p.upgrade());
        let pinned = pinned.map(|number| *number).min();
        self.space.settle(self.completed.number, pinned);
    }

    /// The newest durable checkpoint.
    pub fn meta(&self) -> Meta {
        Meta {
            roots: self.completed.roots.clone(),
            content: self.completed.content.clone(),
            checkpoint: self.completed.number,
        }
    }
}

fn bytes_of(extent: Extent) -> usize {
    extent.pages as usize * PAGE_BYTES
}

const NOTHING: Extent = Extent {
    start: PageNo::NONE,
    pages: 0,
};
