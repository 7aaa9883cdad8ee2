//! The dynamic table (RFC 7541 sections 2.3.2 and 4).

use std::collections::VecDeque;

use super::ENTRY_OVERHEAD_BYTES;

/// Names and values stand in one buffer in the order of insertion; the live ones are its end, so inserting copies bytes
/// and allocates nothing once the buffer has grown.
#[derive(Debug)]
pub(super) struct Table {
    bytes: Vec<u8>,
    /// Newest at the front.
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
    generation: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u32,
    name_len: u32,
    value_len: u32,
}

impl Entry {
    fn size(&self) -> usize {
        (self.name_len + self.value_len) as usize + ENTRY_OVERHEAD_BYTES
    }
}

impl Table {
    pub fn new(limit: usize) -> Table {
        Table {
            bytes: Vec::new(),
            entries: VecDeque::new(),
            size: 0,
            limit,
            generation: 0,
        }
    }

    /// Sum of the entries' sizes, never above `limit`.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Changes whenever an index may mean something else than before.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entry by age, 0 the newest.
    #[inline]
    pub fn get(&self, age: usize) -> Option<(&[u8], &[u8])> {
        let entry = self.entries.get(age)?;
        let start = entry.start as usize;
        let name_end = start + entry.name_len as usize;
        Some((
            &self.bytes[start..name_end],
            &self.bytes[name_end..name_end + entry.value_len as usize],
        ))
    }

    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        self.generation += 1;
        let length = name.len() + value.len();
        let size = length + ENTRY_OVERHEAD_BYTES;
        if size > self.limit {
            // Section 4.4: not an error, the table is empty afterwards.
            self.clear();
            return;
        }
        self.evict(self.limit - size);
        if self.bytes.len() + length > 2 * self.limit {
            self.compact();
        }
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.entries.push_front(Entry {
            start,
            name_len: name.len() as u32,
            value_len: value.len() as u32,
        });
        self.size += size;
        debug_assert!(self.size <= self.limit);
    }

    pub fn resize(&mut self, limit: usize) {
        if limit != self.limit {
            self.generation += 1;
            self.limit = limit;
            self.evict(limit);
        }
    }

    fn evict(&mut self, target: usize) {
        while self.size > target {
            let Some(oldest) = self.entries.pop_back() else {
                break;
            };
            self.size -= oldest.size();
        }
        if self.entries.is_empty() {
            self.bytes.clear();
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        self.size = 0;
    }

    /// Moves the live bytes to the front of the buffer.
    fn compact(&mut self) {
        let dead = self
            .entries
            .back()
            .map_or(self.bytes.len(), |oldest| oldest.start as usize);
        self.bytes.drain(..dead);
        for entry in &mut self.entries {
            entry.start -= dead as u32;
        }
    }
}
