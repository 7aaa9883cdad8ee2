//! Memory for the pages of a generation: pieces of 256 KiB straight from the kernel, so that what a checkpoint has
//! written goes back to it. Single pages from the allocator would stay in the heap for good.

use super::{Page, PAGE_BYTES};

/// Pages of a slab.
pub(super) const SLAB_PAGES: usize = 64;
pub(super) const SLAB_BYTES: usize = SLAB_PAGES * PAGE_BYTES;

/// Memory of [`SLAB_PAGES`] pages.
pub(super) enum Slab {
    Mapped(memmap2::MmapMut),
    /// Where the kernel refused: the allocator may have something left.
    Heap(Box<[u8]>),
}

impl Slab {
    /// With any content where `spares` has one, else zero.
    pub(super) fn new(spares: &mut Vec<Slab>) -> Slab {
        spares
            .pop()
            .unwrap_or_else(|| match memmap2::MmapMut::map_anon(SLAB_BYTES) {
                Ok(map) => {
                    // All at once, which costs less than a fault for each page; where it is refused they fault.
                    let _ = map.advise(memmap2::Advice::PopulateWrite);
                    Slab::Mapped(map)
                }
                Err(_) => Slab::Heap(vec![0; SLAB_BYTES].into_boxed_slice()),
            })
    }

    #[inline]
    pub(super) fn page(&self, at: usize) -> &[u8] {
        let bytes: &[u8] = match self {
            Slab::Mapped(map) => map,
            Slab::Heap(bytes) => bytes,
        };
        &bytes[at * PAGE_BYTES..][..PAGE_BYTES]
    }

    #[inline]
    pub(super) fn page_mut(&mut self, at: usize) -> &mut Page {
        let bytes: &mut [u8] = match self {
            Slab::Mapped(map) => map,
            Slab::Heap(bytes) => bytes,
        };
        match bytes[at * PAGE_BYTES..].first_chunk_mut() {
            Some(page) => page,
            None => unreachable!("a slab holds whole pages"),
        }
    }
}
