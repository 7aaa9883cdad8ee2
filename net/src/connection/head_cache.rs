//! Heads by header block: a client that repeats a request repeats its block.

use crate::limits;

/// A few decoded heads. A block that changed no table decodes to the same head for as long as nothing else changes the
/// table either; the generation tells.
#[derive(Debug)]
pub struct HeadCache<H> {
    entries: Vec<Entry<H>>,
    /// Replaced next.
    oldest: usize,
}

#[derive(Debug)]
struct Entry<H> {
    block: Vec<u8>,
    generation: u64,
    content_length: Option<u64>,
    head: H,
}

impl<H> Default for HeadCache<H> {
    fn default() -> Self {
        HeadCache {
            entries: Vec::new(),
            oldest: 0,
        }
    }
}

impl<H: Clone> HeadCache<H> {
    #[inline]
    pub fn get(&self, block: &[u8], generation: u64) -> Option<(H, Option<u64>)> {
        self.entries
            .iter()
            .find(|entry| entry.generation == generation && entry.block == block)
            .map(|entry| (entry.head.clone(), entry.content_length))
    }

    /// `generation` was the same before and after the block was decoded.
    pub fn put(&mut self, block: &[u8], generation: u64, head: &H, content_length: Option<u64>) {
        if block.len() > limits::HEAD_CACHE_BLOCK_BYTES_MAX {
            return;
        }
        if self.entries.len() < limits::HEAD_CACHE_ENTRIES {
            self.entries.push(Entry {
                block: block.to_vec(),
                generation,
                content_length,
                head: head.clone(),
            });
            return;
        }
        let entry = &mut self.entries[self.oldest];
        self.oldest = (self.oldest + 1) % limits::HEAD_CACHE_ENTRIES;
        entry.block.clear();
        entry.block.extend_from_slice(block);
        entry.generation = generation;
        entry.content_length = content_length;
        entry.head = head.clone();
    }
}
