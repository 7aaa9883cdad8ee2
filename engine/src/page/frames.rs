//! Heap blocks: pages of the active generation, of the frozen one, and clean ones where the file has no mapping.

use super::{Page, PageNo, PAGE_BYTES};
use std::sync::Arc;

/// Blocks of one page kept for reuse at most: one checkpoint's worth (64 MiB), which spares the allocator and page faults.
const SPARE_BLOCKS_MAX: usize = 16384;

#[derive(Clone)]
pub(crate) struct Frame {
    pub page: PageNo,
    /// Whole pages; empty when the page was given up again.
    pub bytes: Box<[u8]>,
}

/// Which store of frames, and which one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FramePlace {
    pub store: Store,
    pub slot: u32,
}

/// Generations alternate between `Even` and `Odd`, so that freezing one changes no table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Even,
    Odd,
    Clean,
}

#[derive(Default)]
struct Slots {
    frames: Vec<Frame>,
    vacant: Vec<u32>,
    bytes: u64,
}

impl Slots {
    fn add(&mut self, frame: Frame) -> u32 {
        self.bytes += frame.bytes.len() as u64;
        if let Some(slot) = self.vacant.pop() {
            self.frames[slot as usize] = frame;
            return slot;
        }
        self.frames.push(frame);
        self.frames.len() as u32 - 1
    }

    fn remove(&mut self, slot: u32) -> Box<[u8]> {
        let bytes = std::mem::take(&mut self.frames[slot as usize].bytes);
        self.bytes -= bytes.len() as u64;
        self.vacant.push(slot);
        bytes
    }
}

pub(super) struct Frames {
    active_store: Store,
    active: Slots,
    frozen: Option<(Arc<Vec<Frame>>, u64)>,
    clean: Slots,
    spare: Vec<Box<[u8]>>,
}

impl Default for Frames {
    fn default() -> Frames {
        Frames {
            active_store: Store::Even,
            active: Slots::default(),
            frozen: None,
            clean: Slots::default(),
            spare: Vec::new(),
        }
    }
}

impl Frames {
    pub(super) fn active_bytes(&self) -> u64 {
        self.active.bytes
    }

    pub(super) fn frozen_bytes(&self) -> u64 {
        self.frozen.as_ref().map_or(0, |(_, bytes)| *bytes)
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// How often a block of the active generation does not lie behind the one before it: no fewer than the contiguous runs
    /// they form, since in order they can only join.
    pub(super) fn breaks(&self) -> usize {
        let mut end = u32::MAX;
        let mut breaks = 0;
        for frame in self.active.frames.iter().filter(|f| !f.bytes.is_empty()) {
            breaks += usize::from(frame.page.0 != end);
            end = frame.page.0 + (frame.bytes.len() / PAGE_BYTES) as u32;
        }
        breaks
    }

    #[inline]
    pub(super) fn bytes(&self, place: FramePlace) -> &[u8] {
        let slot = place.slot as usize;
        if place.store == self.active_store {
            return &self.active.frames[slot].bytes;
        }
        match (place.store, &self.frozen) {
            (Store::Clean, _) => &self.clean.frames[slot].bytes,
            (_, Some((frames, _))) => &frames[slot].bytes,
            (_, None) => &[],
        }
    }

    pub(super) fn is_clean(&self, place: FramePlace) -> bool {
        place.store == Store::Clean
    }

    #[inline]
    pub(super) fn is_active(&self, place: FramePlace) -> bool {
        place.store == self.active_store
    }

    pub(super) fn is_frozen_slot(&self, place: super::Place, slot: usize) -> bool {
        match place {
            super::Place::Frame(p) => {
                p.store != Store::Clean && !self.is_active(p) && p.slot as usize == slot
            }
            _ => false,
        }
    }

    #[inline]
    pub(super) fn active_mut(&mut self, place: FramePlace, no: PageNo) -> &mut Page {
        assert!(
            self.is_active(place),
            "page {} is changed without being owned",
            no.0
        );
        match self.active.frames[place.slot as usize]
            .bytes
            .first_chunk_mut()
        {
            Some(page) => page,
            None => panic!("page {} was given up", no.0),
        }
    }

    /// A block of one page with any content.
    pub(super) fn block(&mut self) -> Box<[u8]> {
        self.spare
            .pop()
            .unwrap_or_else(|| vec![0; PAGE_BYTES].into_boxed_slice())
    }

    pub(super) fn add_active(&mut self, frame: Frame) -> FramePlace {
        FramePlace {
            store: self.active_store,
            slot: self.active.add(frame),
        }
    }

    pub(super) fn remove_active(&mut self, place: FramePlace) {
        let block = self.active.remove(place.slot);
        self.keep_spare(block);
    }

    pub(super) fn add_clean(&mut self, frame: Frame) -> FramePlace {
        FramePlace {
            store: Store::Clean,
            slot: self.clean.add(frame),
        }
    }

    pub(super) fn remove_clean(&mut self, place: FramePlace) {
        if place.store == Store::Clean {
            self.clean.remove(place.slot);
        }
    }

    pub(super) fn freeze(&mut self) -> Arc<Vec<Frame>> {
        debug_assert!(self.frozen.is_none(), "two generations at most");
        let slots = std::mem::take(&mut self.active);
        let frames = Arc::new(slots.frames);
        self.frozen = Some((frames.clone(), slots.bytes));
        self.active_store = match self.active_store {
            Store::Even => Store::Odd,
            _ => Store::Even,
        };
        frames
    }

    pub(super) fn take_frozen(&mut self) -> Option<Arc<Vec<Frame>>> {
        self.frozen.take().map(|(frames, _)| frames)
    }

    pub(super) fn recycle(&mut self, frames: Arc<Vec<Frame>>) {
        // The job has let go of them by now; if not, its drop frees them.
        if let Ok(frames) = Arc::try_unwrap(frames) {
            frames.into_iter().for_each(|f| self.keep_spare(f.bytes));
        }
    }

    fn keep_spare(&mut self, block: Box<[u8]>) {
        if block.len() == PAGE_BYTES && self.spare.len() < SPARE_BLOCKS_MAX {
            self.spare.push(block);
        }
    }
}
