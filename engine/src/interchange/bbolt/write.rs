//! Writing a database in one pass, page by page, in the order of the pages.
//!
//! Where everything lies follows from the sizes of keys and values alone. So the same entries are given twice where the
//! output cannot be gone back in: once to a writer that only counts, for [`Layout`], which the meta pages at the beginning
//! need, and once to one that writes. A page of a branch follows its last child as soon as that is there, so that no more is
//! kept in memory than one page of each level.

use super::{
    fnv1a, BUCKET_HEADER_BYTES, COUNT_MAX, ELEMENT_BYTES, FLAG_BRANCH, FLAG_BUCKET, FLAG_LEAF,
    FLAG_META, HEADER_BYTES, MAGIC, META_BYTES, META_PAGES, NO_FREE_LIST, VERSION,
};

/// Size of the pages that are written.
pub const PAGE_BYTES: usize = 4096;
/// Any number will do: the first meta page has it, the second the one before.
const TRANSACTION: u64 = 2;
/// A branch with a single child would be taken, and kill an etcd later.
const CHILDREN_MIN: usize = 2;

/// What the meta pages say of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    root: u64,
    high: u64,
}

impl Layout {
    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.high * PAGE_BYTES as u64
    }

    fn put_meta(&self, page: u64, out: &mut Vec<u8>) {
        let start = out.len();
        put_header(out, page, FLAG_META, 0, 1);
        let fields = out.len();
        for number in [MAGIC, VERSION, PAGE_BYTES as u32, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.root, 0, NO_FREE_LIST, self.high, TRANSACTION - page] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let sum = fnv1a(&out[fields..]);
        out.extend_from_slice(&sum.to_le_bytes());
        debug_assert_eq!(out.len() - fields, META_BYTES);
        out.resize(start + PAGE_BYTES, 0);
    }
}

/// A child of a branch: its first key and its page.
struct Child {
    key: Vec<u8>,
    page: u64,
}

/// Children that are not in a branch yet.
#[derive(Default)]
struct Level {
    children: Vec<Child>,
    /// What a branch with all of them would take.
    bytes: usize,
}

impl Level {
    /// How many of the first children fill a page.
    fn fitting(&self) -> usize {
        let mut bytes = HEADER_BYTES;
        let fitting = self.children.iter().take_while(|child| {
            bytes += ELEMENT_BYTES + child.key.len();
            bytes <= PAGE_BYTES
        });
        fitting.count().clamp(CHILDREN_MIN, COUNT_MAX)
    }
}

/// The entries of a leaf that is not full yet.
#[derive(Default)]
struct Leaf {
    first: Vec<u8>,
    /// Key and value sizes.
    sizes: Vec<(u32, u32)>,
    /// Keys and values, where they are kept.
    data: Vec<u8>,
    bytes: usize,
}

/// Lays a database out, and writes it if that is wanted.
pub struct Writer {
    writes: bool,
    next: u64,
    leaf: Leaf,
    levels: Vec<Level>,
    buckets: Vec<(&'static str, Vec<u8>)>,
    out: Vec<u8>,
}

impl Writer {
    /// Only counts.
    pub fn measuring() -> Writer {
        Writer {
            writes: false,
            next: META_PAGES,
            leaf: Leaf::default(),
            levels: Vec::new(),
            buckets: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Writes what was measured before.
    pub fn writing(layout: Layout) -> Writer {
        let mut writer = Writer::measuring();
        writer.writes = true;
        for page in 0..META_PAGES {
            layout.put_meta(page, &mut writer.out);
        }
        writer
    }

    /// Adds an entry to the bucket that is ended next. Keys ascend and are not empty.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        debug_assert!(!key.is_empty() && key.len() <= super::KEY_BYTES_MAX);
        let bytes = ELEMENT_BYTES + key.len() + value.len();
        let is_full = self.leaf.bytes + bytes > PAGE_BYTES || self.leaf.sizes.len() == COUNT_MAX;
        if is_full && !self.leaf.sizes.is_empty() {
            self.end_leaf();
        }
        let leaf = &mut self.leaf;
        if leaf.sizes.is_empty() {
            leaf.first = key.to_vec();
            leaf.bytes = HEADER_BYTES;
        }
        leaf.bytes += bytes;
        leaf.sizes.push((key.len() as u32, value.len() as u32));
        if self.writes {
            leaf.data.extend_from_slice(key);
            leaf.data.extend_from_slice(value);
        }
    }

    /// Ends the bucket that the entries since the last one are of. Names ascend.
    pub fn end_bucket(&mut self, name: &'static str) {
        let mut value = vec![0; BUCKET_HEADER_BYTES];
        if self.leaf.sizes.is_empty() {
            put_header(&mut value, 0, FLAG_LEAF, 0, 1);
        } else {
            self.end_leaf();
            let root = self.end_levels();
            value[..8].copy_from_slice(&root.to_le_bytes());
        }
        debug_assert!(self.buckets.last().is_none_or(|last| last.0 < name));
        self.buckets.push((name, value));
    }

    /// Ends the database with the tree of its buckets, which is one page.
    pub fn finish(&mut self) -> Layout {
        for (name, value) in std::mem::take(&mut self.buckets) {
            self.put(name.as_bytes(), &value);
        }
        let root = self.put_leaf(FLAG_BUCKET);
        Layout {
            root,
            high: self.next,
        }
    }

    /// What was written since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Bytes that [`Writer::take_output`] would give.
    pub fn output_bytes(&self) -> usize {
        self.out.len()
    }

    fn end_leaf(&mut self) {
        let key = std::mem::take(&mut self.leaf.first);
        let page = self.put_leaf(0);
        self.add_child(0, Child { key, page });
    }

    fn put_leaf(&mut self, flags: u32) -> u64 {
        let leaf = std::mem::take(&mut self.leaf);
        let page = self.take_pages(leaf.bytes);
        if !self.writes {
            return page;
        }
        let start = self.out.len();
        let pages = leaf.bytes.div_ceil(PAGE_BYTES).max(1);
        put_header(&mut self.out, page, FLAG_LEAF, leaf.sizes.len(), pages);
        let mut at = HEADER_BYTES + leaf.sizes.len() * ELEMENT_BYTES;
        for (element, (key, value)) in leaf.sizes.iter().enumerate() {
            let pos = at - (HEADER_BYTES + element * ELEMENT_BYTES);
            for number in [flags, pos as u32, *key, *value] {
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            at += (key + value) as usize;
        }
        self.out.extend_from_slice(&leaf.data);
        debug_assert_eq!(self.out.len() - start, leaf.bytes.max(HEADER_BYTES));
        self.out.resize(start + pages * PAGE_BYTES, 0);
        page
    }

    fn take_pages(&mut self, bytes: usize) -> u64 {
        let page = self.next;
        self.next += bytes.div_ceil(PAGE_BYTES).max(1) as u64;
        page
    }

    /// A page that a branch is to name. Branches are written while enough children stay for another one.
    fn add_child(&mut self, level: usize, child: Child) {
        if self.levels.len() == level {
            self.levels.push(Level {
                bytes: HEADER_BYTES,
                ..Level::default()
            });
        }
        let waiting = &mut self.levels[level];
        waiting.bytes += ELEMENT_BYTES + child.key.len();
        waiting.children.push(child);
        if waiting.bytes > 2 * PAGE_BYTES {
            let count = waiting.fitting();
            if waiting.children.len() >= count + CHILDREN_MIN {
                self.end_branch(level, count);
            }
        }
    }

    /// Writes a branch with the first `count` children that wait.
    fn end_branch(&mut self, level: usize, count: usize) {
        let waiting = &mut self.levels[level];
        let children: Vec<Child> = waiting.children.drain(..count).collect();
        let keys: usize = children.iter().map(|child| child.key.len()).sum();
        let data = count * ELEMENT_BYTES + keys;
        waiting.bytes -= data;
        let bytes = HEADER_BYTES + data;
        let page = self.take_pages(bytes);
        if self.writes {
            let start = self.out.len();
            let pages = bytes.div_ceil(PAGE_BYTES);
            put_header(&mut self.out, page, FLAG_BRANCH, count, pages);
            let mut at = HEADER_BYTES + count * ELEMENT_BYTES;
            for (element, child) in children.iter().enumerate() {
                let pos = at - (HEADER_BYTES + element * ELEMENT_BYTES);
                for number in [pos, child.key.len()] {
                    self.out.extend_from_slice(&(number as u32).to_le_bytes());
                }
                self.out.extend_from_slice(&child.page.to_le_bytes());
                at += child.key.len();
            }
            for child in &children {
                self.out.extend_from_slice(&child.key);
            }
            self.out.resize(start + pages * PAGE_BYTES, 0);
        }
        if let Some(first) = children.into_iter().next() {
            let key = first.key;
            self.add_child(level + 1, Child { key, page });
        }
    }

    /// Ends the levels from below until one page is left, and gives it.
    fn end_levels(&mut self) -> u64 {
        let mut level = 0;
        while level < self.levels.len() {
            loop {
                let waiting = self.levels[level].children.len();
                if waiting == 0 || (waiting == 1 && level + 1 == self.levels.len()) {
                    break;
                }
                let fitting = self.levels[level].fitting().min(waiting);
                let count = match waiting - fitting {
                    // Nobody may be left alone.
                    1 if fitting > CHILDREN_MIN => fitting - 1,
                    1 => waiting,
                    _ => fitting,
                };
                self.end_branch(level, count);
            }
            level += 1;
        }
        let top = self.levels.pop().and_then(|mut level| level.children.pop());
        self.levels.clear();
        top.map_or(0, |child| child.page)
    }
}

fn put_header(out: &mut Vec<u8>, page: u64, flags: u16, count: usize, pages: usize) {
    out.extend_from_slice(&page.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&(count as u16).to_le_bytes());
    out.extend_from_slice(&(pages as u32 - 1).to_le_bytes());
}
