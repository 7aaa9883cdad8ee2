//! Memory blocks: pages of the active generation, of the frozen one, and clean ones where the file has no mapping.

use super::{
    slab::{Slab, SLAB_BYTES, SLAB_PAGES},
    Page, PageNo, PAGE_BYTES,
};
use std::sync::Arc;

/// Memory kept for the pages to come beside what the active generation has, both together: it spares page faults. More is
/// given back, [`SHED_SLABS`] at a time.
const SPARE_BYTES_MAX: u64 = 32 << 20;
/// 1 MiB, which the kernel takes back in less than 100 us.
const SHED_SLABS: usize = 4;

/// What a slot of a generation holds.
enum Content {
    /// It was given up again.
    Vacant,
    /// One page, in the slab at the slot's place.
    Page,
    /// An extent of several pages.
    Extent(Box<[u8]>),
}

struct Frame {
    page: PageNo,
    content: Content,
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

/// The pages of one generation.
#[derive(Default)]
pub(crate) struct Generation {
    frames: Vec<Frame>,
    /// The memory of single pages: slot `n` has page `n % SLAB_PAGES` of slab `n / SLAB_PAGES`.
    slabs: Vec<Slab>,
    vacant: Vec<u32>,
    bytes: u64,
}

impl Generation {
    /// A slot for a page, whose bytes are still to be written.
    fn add(&mut self, page: PageNo, content: Content, spares: &mut Vec<Slab>) -> u32 {
        self.bytes += match &content {
            Content::Extent(bytes) => bytes.len() as u64,
            _ => PAGE_BYTES as u64,
        };
        let frame = Frame { page, content };
        if let Some(slot) = self.vacant.pop() {
            self.frames[slot as usize] = frame;
            return slot;
        }
        if self.frames.len() == self.slabs.len() * SLAB_PAGES {
            self.slabs.push(Slab::new(spares));
        }
        self.frames.push(frame);
        self.frames.len() as u32 - 1
    }

    fn remove(&mut self, slot: u32) {
        self.bytes -= self.bytes(slot).len() as u64;
        self.frames[slot as usize].content = Content::Vacant;
        self.vacant.push(slot);
    }

    #[inline]
    fn bytes(&self, slot: u32) -> &[u8] {
        let slot = slot as usize;
        match &self.frames[slot].content {
            Content::Page => self.slabs[slot / SLAB_PAGES].page(slot % SLAB_PAGES),
            Content::Extent(bytes) => bytes,
            Content::Vacant => &[],
        }
    }

    #[inline]
    fn page_mut(&mut self, slot: u32) -> Option<&mut Page> {
        let slot = slot as usize;
        match &mut self.frames[slot].content {
            Content::Page => Some(self.slabs[slot / SLAB_PAGES].page_mut(slot % SLAB_PAGES)),
            Content::Extent(bytes) => bytes.first_chunk_mut(),
            Content::Vacant => None,
        }
    }

    /// Slots, with their pages and bytes, that were not given up again.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, PageNo, &[u8])> {
        let used = (0..self.frames.len() as u32).map(|slot| (slot, self.bytes(slot)));
        used.filter(|(_, bytes)| !bytes.is_empty())
            .map(|(slot, bytes)| (slot, self.frames[slot as usize].page, bytes))
    }

    /// The page and the bytes of a slot.
    pub(crate) fn get(&self, slot: u32) -> (PageNo, &[u8]) {
        (self.frames[slot as usize].page, self.bytes(slot))
    }

    pub(crate) fn bytes_held(&self) -> u64 {
        self.bytes
    }
}

/// Clean pages of a file without a mapping.
#[derive(Default)]
struct Clean {
    frames: Vec<Box<[u8]>>,
    vacant: Vec<u32>,
}

impl Clean {
    fn add(&mut self, bytes: Box<[u8]>) -> u32 {
        if let Some(slot) = self.vacant.pop() {
            self.frames[slot as usize] = bytes;
            return slot;
        }
        self.frames.push(bytes);
        self.frames.len() as u32 - 1
    }

    fn remove(&mut self, slot: u32) {
        self.frames[slot as usize] = Box::default();
        self.vacant.push(slot);
    }
}

pub(super) struct Frames {
    active_store: Store,
    active: Generation,
    frozen: Option<Arc<Generation>>,
    clean: Clean,
    spares: Vec<Slab>,
}

impl Default for Frames {
    fn default() -> Frames {
        Frames {
            active_store: Store::Even,
            active: Generation::default(),
            frozen: None,
            clean: Clean::default(),
            spares: Vec::new(),
        }
    }
}

impl Frames {
    pub(super) fn active_bytes(&self) -> u64 {
        self.active.bytes
    }

    pub(super) fn frozen_bytes(&self) -> u64 {
        self.frozen.as_ref().map_or(0, |frozen| frozen.bytes)
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// How often a block of the active generation does not lie behind the one before it: no fewer than the contiguous runs
    /// they form, since in order they can only join.
    pub(super) fn breaks(&self) -> usize {
        let mut end = u32::MAX;
        let mut breaks = 0;
        for (_, page, bytes) in self.active.iter() {
            breaks += usize::from(page.0 != end);
            end = page.0 + (bytes.len() / PAGE_BYTES) as u32;
        }
        breaks
    }

    #[inline]
    pub(super) fn bytes(&self, place: FramePlace) -> &[u8] {
        if place.store == self.active_store {
            return self.active.bytes(place.slot);
        }
        match (place.store, &self.frozen) {
            (Store::Clean, _) => &self.clean.frames[place.slot as usize],
            (_, Some(frozen)) => frozen.bytes(place.slot),
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

    pub(super) fn is_frozen_slot(&self, place: super::Place, slot: u32) -> bool {
        match place {
            super::Place::Frame(p) => {
                p.store != Store::Clean && !self.is_active(p) && p.slot == slot
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
        match self.active.page_mut(place.slot) {
            Some(page) => page,
            None => panic!("page {} was given up", no.0),
        }
    }

    /// A page of the active generation with any content.
    pub(super) fn add_page(&mut self, no: PageNo) -> FramePlace {
        self.place(no, Content::Page)
    }

    /// An extent of the active generation.
    pub(super) fn add_extent(&mut self, no: PageNo, bytes: Box<[u8]>) -> FramePlace {
        self.place(no, Content::Extent(bytes))
    }

    fn place(&mut self, no: PageNo, content: Content) -> FramePlace {
        FramePlace {
            store: self.active_store,
            slot: self.active.add(no, content, &mut self.spares),
        }
    }

    pub(super) fn remove_active(&mut self, place: FramePlace) {
        self.active.remove(place.slot);
    }

    pub(super) fn add_clean(&mut self, bytes: Box<[u8]>) -> FramePlace {
        FramePlace {
            store: Store::Clean,
            slot: self.clean.add(bytes),
        }
    }

    pub(super) fn remove_clean(&mut self, place: FramePlace) {
        if place.store == Store::Clean {
            self.clean.remove(place.slot);
        }
    }

    pub(super) fn freeze(&mut self) -> Arc<Generation> {
        debug_assert!(self.frozen.is_none(), "two generations at most");
        let frozen = Arc::new(std::mem::take(&mut self.active));
        self.frozen = Some(frozen.clone());
        self.active_store = match self.active_store {
            Store::Even => Store::Odd,
            _ => Store::Even,
        };
        frozen
    }

    pub(super) fn take_frozen(&mut self) -> Option<Arc<Generation>> {
        self.frozen.take()
    }

    pub(super) fn recycle(&mut self, frozen: Arc<Generation>) {
        // The job has let go of it by now; if not, its drop frees the memory.
        if let Some(frozen) = Arc::into_inner(frozen) {
            self.spares.extend(frozen.slabs);
        }
    }

    /// Gives a little of the memory back that nothing will need soon.
    pub(super) fn shed(&mut self) {
        let held = |frames: &Frames| {
            (frames.active.slabs.len() + frames.spares.len()) as u64 * SLAB_BYTES as u64
        };
        for _ in 0..SHED_SLABS {
            if held(self) <= SPARE_BYTES_MAX || self.spares.pop().is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One checkpoint of `pages` pages, which all have been written.
    fn generation(frames: &mut Frames, pages: u32) {
        for no in 0..pages {
            let place = frames.add_page(PageNo(no));
            frames.active_mut(place, PageNo(no)).fill(1);
        }
        frames.freeze();
        let frozen = frames.take_frozen().unwrap();
        frames.recycle(frozen);
    }

    #[test]
    fn memory_beyond_the_spare_is_given_back_bit_by_bit() {
        let mut frames = Frames::default();
        let spare_pages = (SPARE_BYTES_MAX / PAGE_BYTES as u64) as u32;
        generation(&mut frames, spare_pages * 2);
        let whole = frames.spares.len();
        assert_eq!(whole * SLAB_PAGES, spare_pages as usize * 2);
        frames.shed();
        assert_eq!(frames.spares.len(), whole - SHED_SLABS);
        (0..whole).for_each(|_| frames.shed());
        assert_eq!(frames.spares.len() * SLAB_PAGES, spare_pages as usize);
        // What the next generation uses counts as well.
        for no in 0..spare_pages {
            frames.add_page(PageNo(no));
        }
        assert!(frames.spares.is_empty());
    }

    #[test]
    fn a_slot_is_used_again_and_keeps_its_place() {
        let mut frames = Frames::default();
        let places: Vec<FramePlace> = (2..200).map(|no| frames.add_page(PageNo(no))).collect();
        for (no, place) in (2..200).zip(&places) {
            frames.active_mut(*place, PageNo(no)).fill(no as u8);
        }
        frames.remove_active(places[70]);
        assert_eq!(frames.active_bytes(), 197 * PAGE_BYTES as u64);
        assert!(frames.bytes(places[70]).is_empty());
        let extent = frames.add_extent(PageNo(500), vec![7; 2 * PAGE_BYTES].into());
        assert_eq!(extent, places[70]);
        assert_eq!(frames.bytes(extent).len(), 2 * PAGE_BYTES);
        for (no, place) in (2..200).zip(&places).filter(|(_, p)| **p != extent) {
            assert!(frames.bytes(*place).iter().all(|byte| *byte == no as u8));
        }
    }
}
