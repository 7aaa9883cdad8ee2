//! The slotted page under leaves and branches.
//!
//! Slots grow up behind the header, cells grow down from the end. A slot holds the cell's place and a *hint*: the four key
//! bytes behind the prefix that all keys of the page share, so that a search seldom leaves the slots. The first cell of a
//! branch stands for everything below its second separator; its key is empty and takes no part in the prefix.
//!
//! Reading takes care not to panic even if a mapped page turns into zeros half-way, as it does when the device fails under
//! the mapping: what was read then is discarded later, but the member lives on.

use super::cell::{checked_len, BranchCell, KeyPart, LeafCell, KEY_HEAD, KEY_INLINE_MAX};
use crate::page::{
    level, u16_at, u32_at, Absent, Header, Kind, Page, Pages, HEADER_BYTES, PAGE_BYTES,
};
use crate::planted::{planted, Fault};
use std::cmp::Ordering;

const COUNT: usize = 18;
const HEAP: usize = 20;
const DEAD: usize = 22;
const PREFIX: usize = 24;
pub(super) const SLOT_BYTES: usize = 6;
const HINT_BYTES: usize = 4;
/// On a page with a long key the prefix ends so early that the hint of that key lies in its inline part as well.
const PREFIX_MAX_LONG: usize = KEY_HEAD - HINT_BYTES;
/// Bytes of slots and cells that a page holds.
pub(super) const CAPACITY: usize = PAGE_BYTES - HEADER_BYTES;

/// A tree page, read.
#[derive(Clone, Copy)]
pub(super) struct Node<'a>(pub &'a Page);

fn hint(key: &[u8]) -> u32 {
    match key.first_chunk() {
        Some(four) => u32::from_be_bytes(*four),
        None => {
            let mut four = [0; 4];
            four[..key.len()].copy_from_slice(key);
            u32::from_be_bytes(four)
        }
    }
}

fn prefix_max(has_long_key: bool) -> usize {
    if has_long_key {
        PREFIX_MAX_LONG
    } else {
        KEY_INLINE_MAX
    }
}

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl<'a> Node<'a> {
    #[inline]
    pub(super) fn is_leaf(self) -> bool {
        self.level() == 0
    }

    #[inline]
    pub(super) fn level(self) -> u8 {
        level(self.0)
    }

    #[inline]
    pub(super) fn count(self) -> usize {
        usize::from(u16_at(self.0, COUNT))
    }

    fn heap(self) -> usize {
        usize::from(u16_at(self.0, HEAP))
    }

    fn dead(self) -> usize {
        usize::from(u16_at(self.0, DEAD))
    }

    #[inline]
    fn prefix(self) -> usize {
        usize::from(u16_at(self.0, PREFIX))
    }

    /// The first cell whose key counts.
    #[inline]
    fn first_key(self) -> usize {
        usize::from(!self.is_leaf())
    }

    #[inline]
    fn slot_hint(self, at: usize) -> u32 {
        u32_at(self.0, HEADER_BYTES + at * SLOT_BYTES)
    }

    #[inline]
    fn slot_offset(self, at: usize) -> usize {
        usize::from(u16_at(self.0, HEADER_BYTES + at * SLOT_BYTES + 4))
    }

    /// The cell and whatever follows it on the page.
    #[inline]
    fn tail(self, at: usize) -> &'a [u8] {
        &self.0[self.slot_offset(at)..]
    }

    #[inline]
    pub(super) fn key(self, at: usize) -> KeyPart<'a> {
        KeyPart::of(self.tail(at))
    }

    #[inline]
    pub(super) fn leaf(self, at: usize) -> LeafCell<'a> {
        LeafCell(self.tail(at))
    }

    #[inline]
    pub(super) fn branch(self, at: usize) -> BranchCell<'a> {
        BranchCell(self.tail(at))
    }

    fn cell_len(self, at: usize) -> usize {
        if self.is_leaf() {
            self.leaf(at).len()
        } else {
            self.branch(at).len()
        }
    }

    pub(super) fn cell(self, at: usize) -> &'a [u8] {
        &self.tail(at)[..self.cell_len(at)]
    }

    pub(super) fn cells(self) -> impl Iterator<Item = &'a [u8]> {
        (0..self.count()).map(move |at| self.cell(at))
    }

    /// Bytes taken by slots and live cells.
    pub(super) fn used(self) -> usize {
        self.count() * SLOT_BYTES + PAGE_BYTES - self.heap() - self.dead()
    }

    /// Sum of the weights.
    pub(super) fn weight(self) -> u64 {
        self.weight_before(self.count())
    }

    /// Sum of the weights of the first cells.
    pub(super) fn weight_before(self, end: usize) -> u64 {
        let sum = |a: u64, b: u64| a.saturating_add(b);
        if self.is_leaf() {
            let weights = (0..end).map(|at| u64::from(self.leaf(at).weight()));
            return weights.fold(0, sum);
        }
        (0..end).map(|at| self.branch(at).weight()).fold(0, sum)
    }

    /// The first cell whose key is not below `key`, and whether it is that key.
    ///
    /// The search supposes that the key shares the page's prefix and asks afterwards, by a cell that is read in any case:
    /// on a page that is not in the processor's cache each cell looked at costs as much as all the rest.
    #[inline]
    pub(super) fn locate(self, pages: &Pages, key: &[u8]) -> Result<(usize, bool), Absent> {
        let (first, count) = (self.first_key(), self.count());
        if first >= count {
            return Ok((count, false));
        }
        let prefix = self.prefix();
        if let Some(rest) = key.get(prefix..) {
            let wanted = hint(rest);
            let (mut low, mut high) = (first, count);
            while low < high {
                let middle = (low + high) / 2;
                let order = match self.slot_hint(middle).cmp(&wanted) {
                    Ordering::Equal => self.key(middle).compare(pages, key)?,
                    unequal => unequal,
                };
                match order {
                    Ordering::Less => low = middle + 1,
                    Ordering::Greater => high = middle,
                    Ordering::Equal => return Ok((middle, true)),
                }
            }
            let witness = if low > first { low - 1 } else { low };
            if self.key(witness).inline().get(..prefix) == key.get(..prefix) {
                return Ok((low, false));
            }
        }
        // All keys of the page are on one side.
        let is_above = self.key(first).inline().get(..prefix) < Some(key);
        Ok((if is_above { count } else { first }, false))
    }

    /// The cell of a branch whose child a key belongs to.
    #[inline]
    pub(super) fn child_of(self, pages: &Pages, key: &[u8]) -> Result<usize, Absent> {
        let (at, is_equal) = self.locate(pages, key)?;
        Ok(if is_equal { at } else { at.saturating_sub(1) })
    }

    fn free_contiguous(self) -> usize {
        self.heap() - HEADER_BYTES - self.count() * SLOT_BYTES
    }

    /// Whether a cell of so many bytes finds room, in place of the cell at `replaced` if that is given.
    pub(super) fn has_room(self, bytes: usize, replaced: Option<usize>) -> bool {
        let gained = replaced.map_or(0, |at| self.cell_len(at) + SLOT_BYTES);
        self.used() - gained + bytes + SLOT_BYTES <= CAPACITY
    }
}

/// Checks a page from the device, so that reading it afterwards stays within it and its search makes sense.
pub(crate) fn check_shape(page: &Page) -> Result<(), &'static str> {
    let node = Node(page);
    let is_leaf = Header::of_bytes(page).kind() == Some(Kind::Leaf);
    if is_leaf != node.is_leaf() {
        return Err("has a level that its kind does not allow");
    }
    let (count, heap, dead) = (node.count(), node.heap(), node.dead());
    let slots_end = HEADER_BYTES + count * SLOT_BYTES;
    if heap > PAGE_BYTES || slots_end > heap || (count == 0 && !is_leaf) {
        return Err("has slots that overlap its cells");
    }
    let mut live = 0;
    for at in 0..count {
        let offset = node.slot_offset(at);
        let is_within = (heap..PAGE_BYTES).contains(&offset);
        if !is_within && !planted(Fault::ShapeUnchecked) {
            return Err("has a slot that points outside of its cells");
        }
        match checked_len(&page[offset..], is_leaf) {
            Some(len) => live += len,
            None => return Err("has a cell that does not fit"),
        }
    }
    if live + dead != PAGE_BYTES - heap {
        return Err("miscounts its free bytes");
    }
    let (first, prefix) = (node.first_key(), node.prefix());
    if first > 0 && node.key(0).len() != 2 {
        return Err("has a first separator");
    }
    for at in first..count {
        let key = node.key(at).inline();
        if key.len() < prefix || key[..prefix] != node.key(first).inline()[..prefix] {
            return Err("has a key without the common prefix");
        }
        if hint(&key[prefix..]) != node.slot_hint(at) {
            return Err("has a wrong hint");
        }
        if prefix > prefix_max(node.key(at).is_long()) {
            return Err("has a prefix that is too long");
        }
        if at > first && !are_ordered(node.key(at - 1), node.key(at)) {
            return Err("has keys out of order");
        }
    }
    Ok(())
}

/// Whether keys can be in this order, by what of them lies on the page.
fn are_ordered(low: KeyPart<'_>, high: KeyPart<'_>) -> bool {
    let known = if low.is_long() || high.is_long() {
        KEY_HEAD
    } else {
        KEY_INLINE_MAX
    };
    let head = |key: KeyPart<'_>| -> usize { key.inline().len().min(known) };
    low.inline()[..head(low)] <= high.inline()[..head(high)]
}

/// A tree page, changed.
pub(super) struct NodeMut<'a>(pub &'a mut Page);

impl NodeMut<'_> {
    fn read(&self) -> Node<'_> {
        Node(self.0)
    }

    fn put(&mut self, at: usize, value: usize) {
        debug_assert!(value <= PAGE_BYTES);
        self.0[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
    }

    pub(super) fn clear(&mut self) {
        self.put(COUNT, 0);
        self.put(HEAP, PAGE_BYTES);
        self.put(DEAD, 0);
        self.put(PREFIX, 0);
    }

    /// Makes these cells, in key order, the page's only ones. The caller knows that they fit.
    pub(super) fn fill<'c>(&mut self, cells: impl IntoIterator<Item = &'c [u8]>) {
        self.clear();
        let (mut count, mut heap) = (0, PAGE_BYTES);
        for cell in cells {
            heap -= cell.len();
            self.0[heap..heap + cell.len()].copy_from_slice(cell);
            let slot = HEADER_BYTES + count * SLOT_BYTES;
            self.0[slot + 4..slot + 6].copy_from_slice(&(heap as u16).to_le_bytes());
            count += 1;
        }
        self.put(COUNT, count);
        self.put(HEAP, heap);
        let first = self.read().first_key();
        if first < count {
            let prefix = common(
                self.read().key(first).inline(),
                self.read().key(count - 1).inline(),
            );
            let node = self.read();
            let has_long = (first..count).any(|at| node.key(at).is_long());
            self.set_prefix(prefix.min(prefix_max(has_long)));
        }
    }

    fn set_prefix(&mut self, prefix: usize) {
        self.put(PREFIX, prefix);
        for at in self.read().first_key()..self.read().count() {
            let value = hint(&self.read().key(at).inline()[prefix..]);
            self.set_hint(at, value);
        }
    }

    fn set_hint(&mut self, at: usize, value: u32) {
        let slot = HEADER_BYTES + at * SLOT_BYTES;
        self.0[slot..slot + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Gathers the live cells at the page's end.
    fn compact(&mut self) {
        let copy = *self.0;
        let node = Node(&copy);
        let mut heap = PAGE_BYTES;
        for at in 0..node.count() {
            let cell = node.cell(at);
            heap -= cell.len();
            self.0[heap..heap + cell.len()].copy_from_slice(cell);
            let slot = HEADER_BYTES + at * SLOT_BYTES;
            self.0[slot + 4..slot + 6].copy_from_slice(&(heap as u16).to_le_bytes());
        }
        self.put(HEAP, heap);
        self.put(DEAD, 0);
    }

    /// Inserts a cell before the one at `at`. The caller has asked whether it fits.
    pub(super) fn insert(&mut self, at: usize, cell: &[u8]) {
        if self.read().free_contiguous() < cell.len() + SLOT_BYTES {
            self.compact();
        }
        let (count, heap) = (self.read().count(), self.read().heap() - cell.len());
        self.0[heap..heap + cell.len()].copy_from_slice(cell);
        let slot = HEADER_BYTES + at * SLOT_BYTES;
        let end = HEADER_BYTES + count * SLOT_BYTES;
        self.0.copy_within(slot..end, slot + SLOT_BYTES);
        self.0[slot + 4..slot + 6].copy_from_slice(&(heap as u16).to_le_bytes());
        self.put(COUNT, count + 1);
        self.put(HEAP, heap);
        self.hint_new(at, cell);
    }

    /// Gives a new cell its hint; all of them anew if its key does not share the page's prefix.
    fn hint_new(&mut self, at: usize, cell: &[u8]) {
        let first = self.read().first_key();
        if at < first {
            return self.set_hint(at, 0);
        }
        let (key, max) = (
            KeyPart::of(cell).inline(),
            prefix_max(KeyPart::of(cell).is_long()),
        );
        let count = self.read().count();
        if count == first + 1 {
            return self.set_prefix(key.len().min(max));
        }
        let neighbour = if at > first { at - 1 } else { at + 1 };
        let prefix = self.read().prefix();
        let shared = common(&self.read().key(neighbour).inline()[..prefix], key).min(max);
        if shared < prefix {
            self.set_prefix(shared);
        } else {
            self.set_hint(at, hint(&key[prefix..]));
        }
    }

    /// Removes a cell. What its overflow references name is the caller's.
    pub(super) fn remove(&mut self, at: usize) {
        let (count, len) = (self.read().count(), self.read().cell_len(at));
        let slot = HEADER_BYTES + at * SLOT_BYTES;
        let end = HEADER_BYTES + count * SLOT_BYTES;
        let offset = self.read().slot_offset(at);
        if offset == self.read().heap() {
            self.put(HEAP, offset + len);
        } else {
            self.put(DEAD, self.read().dead() + len);
        }
        self.0.copy_within(slot + SLOT_BYTES..end, slot);
        self.put(COUNT, count - 1);
        if count == 1 {
            self.clear();
        }
    }

    /// Puts a cell of the same key in the place of another. The caller has asked whether it fits.
    pub(super) fn replace(&mut self, at: usize, cell: &[u8]) {
        let len = self.read().cell_len(at);
        if len == cell.len() {
            let offset = self.read().slot_offset(at);
            self.0[offset..offset + len].copy_from_slice(cell);
            return;
        }
        self.remove(at);
        self.insert(at, cell);
    }

    /// A cell, to change a field of fixed size in it.
    pub(super) fn cell_mut(&mut self, at: usize) -> &mut [u8] {
        let offset = self.read().slot_offset(at);
        &mut self.0[offset..]
    }

    /// Makes the first cell of a branch the one that stands for everything below.
    pub(super) fn blank_first(&mut self) {
        let cell = self.read().branch(0).as_first();
        self.remove(0);
        self.insert(0, &cell);
    }
}
