//! Reading a database, verifying as it goes.
//!
//! No element of a page is used before the page was held against the rules: its place and kind, its elements inside it, in
//! order and without overlap, its keys ascending and between those that its parent gives it. No page is entered twice, so a
//! walk ends, and gives no more bytes than the file has.

use super::{
    fnv1a, BUCKET_HEADER_BYTES, COUNT_MAX, ELEMENT_BYTES, FLAG_BRANCH, FLAG_BUCKET, FLAG_LEAF,
    FLAG_META, HEADER_BYTES, KEY_BYTES_MAX, MAGIC, META_BYTES, META_PAGES, META_SUMMED_BYTES,
    PAGE_BYTES_MAX, PAGE_BYTES_MIN, VERSION,
};
use crate::page::{u16_at, u32_at, u64_at};
use crate::planted::{planted, Fault};
use std::{fmt, io, ops::Range};

/// Levels of a tree. Each page of a branch that bbolt writes has two children at least.
const DEPTH_MAX: usize = 32;
/// Buckets of a file; etcd has ten.
const BUCKETS_MAX: usize = 64;
/// A page with all that it goes on over. A leaf of etcd's has the two largest values that a request can write at most.
const RUN_BYTES_MAX: u64 = 256 << 20;

/// The bytes of a database.
pub trait Image {
    fn bytes(&self) -> u64;
    /// Fills `out`; what lies behind the end is an error.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

impl Image for &[u8] {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).ok();
        let part = from.and_then(|from| self.get(from..)?.get(..out.len()));
        out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Why a database is not read.
#[derive(Debug)]
pub enum ReadError {
    /// A rule of the format is broken at this byte of the file.
    Malformed {
        offset: u64,
        why: &'static str,
    },
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Malformed { offset, why } => {
                write!(f, "the database is malformed at offset {offset}: {why}")
            }
            ReadError::Io(error) => write!(f, "reading the database failed: {error}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        ReadError::Io(error)
    }
}

/// A database whose meta pages were understood.
pub struct Database<I> {
    image: I,
    page_bytes: u64,
    root: u64,
    /// Pages of the file that count.
    high: u64,
    /// A bit for each page that was entered.
    entered: Vec<u64>,
}

/// A bucket, by its entry in the root.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub name: Vec<u8>,
    root: Root,
}

#[derive(Clone, Debug)]
enum Root {
    Page(u64),
    /// The leaf that is the bucket's only page, and where it lies in the file.
    Inline(Vec<u8>, u64),
}

struct Meta {
    page_bytes: u64,
    root: u64,
    high: u64,
    transaction: u64,
}

impl Meta {
    fn decode(fields: &[u8; META_BYTES]) -> Option<Meta> {
        let is_sound = u32_at(fields, 0) == MAGIC
            && u32_at(fields, 4) == VERSION
            && fnv1a(&fields[..META_SUMMED_BYTES]) == u64_at(fields, META_SUMMED_BYTES);
        let meta = Meta {
            page_bytes: u64::from(u32_at(fields, 8)),
            root: u64_at(fields, 16),
            high: u64_at(fields, 40),
            transaction: u64_at(fields, 48),
        };
        let is_size = meta.page_bytes.is_power_of_two()
            && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&meta.page_bytes);
        (is_sound && is_size).then_some(meta)
    }

    /// The meta page at this offset, if it is one.
    fn at(image: &impl Image, offset: u64) -> Result<Option<Meta>, ReadError> {
        let mut page = [0; HEADER_BYTES + META_BYTES];
        if offset + page.len() as u64 > image.bytes() {
            return Ok(None);
        }
        image.read(offset, &mut page)?;
        let fields = page.last_chunk::<META_BYTES>();
        let fields = fields.filter(|_| u16_at(&page, 8) == FLAG_META);
        Ok(fields.and_then(Meta::decode))
    }
}

impl<I: Image> Database<I> {
    pub fn open(image: I) -> Result<Database<I>, ReadError> {
        let malformed = |why| ReadError::Malformed { offset: 0, why };
        let first = Meta::at(&image, 0)?;
        // Without the first one the page size is not known, and with it the place of the second.
        let mut size = PAGE_BYTES_MIN;
        let mut second = None;
        while second.is_none() && size <= PAGE_BYTES_MAX {
            let stated = first.as_ref().map(|meta| meta.page_bytes);
            if stated.is_none_or(|stated| stated == size) {
                second = Meta::at(&image, size)?.filter(|meta| meta.page_bytes == size);
            }
            size *= 2;
        }
        let newest = [first, second].into_iter().flatten();
        let Some(meta) = newest.max_by_key(|meta| meta.transaction) else {
            return Err(malformed("neither of the two meta pages is sound"));
        };
        if meta.high < META_PAGES || meta.high > image.bytes() / meta.page_bytes {
            return Err(malformed("the file is shorter than its meta page says"));
        }
        let words = meta.high.div_ceil(u64::from(u64::BITS));
        Ok(Database {
            image,
            page_bytes: meta.page_bytes,
            root: meta.root,
            high: meta.high,
            entered: vec![0; words as usize],
        })
    }

    /// The buckets, in the order of their names. To be asked for once.
    pub fn buckets(&mut self) -> Result<Vec<Bucket>, ReadError> {
        let mut walk = Walk::of_page(self.root, true);
        let mut buckets = Vec::new();
        while let Some(entry) = walk.next(self)? {
            let malformed = |why| ReadError::Malformed {
                offset: entry.offset,
                why,
            };
            let Some((header, inline)) = entry.value.split_at_checked(BUCKET_HEADER_BYTES) else {
                return Err(malformed("a bucket has no header"));
            };
            let root = match (u64_at(header, 0), inline) {
                (0, inline) => {
                    let offset = entry.offset + (entry.key.len() + BUCKET_HEADER_BYTES) as u64;
                    Root::Inline(inline.to_vec(), offset)
                }
                (page, []) => Root::Page(page),
                _ => return Err(malformed("a bucket has a page and is inline")),
            };
            if buckets.len() == BUCKETS_MAX {
                return Err(malformed("there are more than 64 buckets"));
            }
            let name = entry.key.to_vec();
            buckets.push(Bucket { name, root });
        }
        Ok(buckets)
    }

    /// Reads a page with all that it goes on over, and verifies it.
    fn enter(&mut self, page: u64, is_root: bool) -> Result<Node, ReadError> {
        let offset = page.saturating_mul(self.page_bytes);
        let malformed = |why| ReadError::Malformed { offset, why };
        if page < META_PAGES || page >= self.high {
            return Err(malformed("a page lies outside of the file"));
        }
        let mut header = [0; HEADER_BYTES];
        self.image.read(offset, &mut header)?;
        let pages = 1 + u64::from(u32_at(&header, 12));
        if pages > self.high - page {
            return Err(malformed("a page goes on behind the end of the file"));
        }
        if pages * self.page_bytes > RUN_BYTES_MAX {
            return Err(malformed("a page is longer than 256 MiB"));
        }
        if u64_at(&header, 0) != page {
            return Err(malformed("a page is not the one that it says"));
        }
        for page in page..page + pages {
            let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
            if self.entered[word] & bit != 0 {
                return Err(malformed("a page belongs to two places"));
            }
            self.entered[word] |= bit;
        }
        let mut bytes = vec![0; (pages * self.page_bytes) as usize];
        self.image.read(offset, &mut bytes)?;
        Node::verified(bytes, offset, is_root)
    }
}

/// A page that was verified, and how far a walk has come in it.
struct Node {
    bytes: Vec<u8>,
    /// Its place in the file.
    offset: u64,
    is_leaf: bool,
    count: usize,
    next: usize,
}

struct Element {
    flags: u32,
    key: Range<usize>,
    /// Empty in a branch.
    value: Range<usize>,
    child: u64,
}

impl Node {
    /// `is_root`: of the tree of buckets.
    fn verified(bytes: Vec<u8>, offset: u64, is_root: bool) -> Result<Node, ReadError> {
        let malformed = |why| ReadError::Malformed { offset, why };
        if bytes.len() < HEADER_BYTES {
            return Err(malformed("a page has no header"));
        }
        let is_leaf = match u16_at(&bytes, 8) {
            FLAG_LEAF => true,
            FLAG_BRANCH => false,
            _ => return Err(malformed("a page is neither branch nor leaf")),
        };
        let node = Node {
            count: usize::from(u16_at(&bytes, 10)),
            bytes,
            offset,
            is_leaf,
            next: 0,
        };
        let array = HEADER_BYTES + node.count * ELEMENT_BYTES;
        if node.count > COUNT_MAX || array > node.bytes.len() {
            return Err(malformed("a page has more elements than it has room for"));
        }
        if node.count == 0 && !is_leaf {
            return Err(malformed("a branch has no children"));
        }
        let mut end = array;
        let mut last: Option<Range<usize>> = None;
        for at in 0..node.count {
            let element = node.element(at);
            let element =
                element.ok_or_else(|| malformed("an element lies outside of its page"))?;
            if element.key.start < end && !planted(Fault::ElementsOverlap) {
                return Err(malformed("two elements of a page overlap"));
            }
            end = element.value.end;
            if !(1..=KEY_BYTES_MAX).contains(&element.key.len()) {
                return Err(malformed("a key is empty or longer than 32 KiB"));
            }
            let wanted = if is_root && is_leaf { FLAG_BUCKET } else { 0 };
            if element.flags != wanted {
                return Err(malformed(match is_root {
                    true => "the root holds something else than buckets",
                    false => "a bucket holds another bucket",
                }));
            }
            let before = last.map(|last| &node.bytes[last]);
            if before.is_some_and(|before| before >= &node.bytes[element.key.clone()]) {
                return Err(malformed("the keys of a page are not ascending"));
            }
            last = Some(element.key);
        }
        Ok(node)
    }

    /// None if it does not lie inside the page.
    fn element(&self, at: usize) -> Option<Element> {
        let start = HEADER_BYTES + at * ELEMENT_BYTES;
        let fields = self.bytes.get(start..start + ELEMENT_BYTES)?;
        let number = |at: usize| u32_at(fields, at) as usize;
        let (flags, pos, key, value, child) = match self.is_leaf {
            true => (u32_at(fields, 0), number(4), number(8), number(12), 0),
            false => (0, number(0), number(4), 0, u64_at(fields, 8)),
        };
        let key_start = start.checked_add(pos)?;
        let key_end = key_start.checked_add(key)?;
        let value_end = key_end.checked_add(value)?;
        (value_end <= self.bytes.len()).then_some(Element {
            flags,
            key: key_start..key_end,
            value: key_end..value_end,
            child,
        })
    }
}

/// An entry, borrowed from its page.
pub struct Entry<'w> {
    pub key: &'w [u8],
    pub value: &'w [u8],
    /// Place of the key in the file.
    pub offset: u64,
}

/// A page on the way to the current leaf.
struct Level {
    node: Node,
    /// The first key that it may not have; none for no bound.
    below: Option<Vec<u8>>,
}

/// A walk over a bucket, in the order of the keys.
pub struct Walk {
    start: Option<Root>,
    is_root: bool,
    levels: Vec<Level>,
}

impl Walk {
    pub fn new(bucket: &Bucket) -> Walk {
        Walk {
            start: Some(bucket.root.clone()),
            is_root: false,
            levels: Vec::new(),
        }
    }

    fn of_page(page: u64, is_root: bool) -> Walk {
        Walk {
            start: Some(Root::Page(page)),
            is_root,
            levels: Vec::new(),
        }
    }

    /// The next entry. After an error the database is of no use.
    pub fn next<I: Image>(
        &mut self,
        database: &mut Database<I>,
    ) -> Result<Option<Entry<'_>>, ReadError> {
        match self.start.take() {
            Some(Root::Page(page)) => {
                let node = database.enter(page, self.is_root)?;
                self.push(node, &[], None)?;
            }
            Some(Root::Inline(bytes, offset)) => {
                let node = Node::verified(bytes, offset, false)?;
                if !node.is_leaf {
                    let why = "an inline bucket is no leaf";
                    return Err(ReadError::Malformed { offset, why });
                }
                self.push(node, &[], None)?;
            }
            None => {}
        }
        loop {
            let Some(level) = self.levels.last_mut() else {
                return Ok(None);
            };
            if level.node.next == level.node.count {
                self.levels.pop();
                continue;
            }
            let at = level.node.next;
            level.node.next += 1;
            if level.node.is_leaf {
                return Ok(self.levels.last().and_then(|level| level.entry(at)));
            }
            let Some((child, least, below)) = level.child(at) else {
                continue; // every element of a verified page is inside it
            };
            let node = database.enter(child, self.is_root)?;
            self.push(node, &least, below)?;
        }
    }

    fn push(&mut self, node: Node, least: &[u8], below: Option<Vec<u8>>) -> Result<(), ReadError> {
        let offset = node.offset;
        let malformed = |why| ReadError::Malformed { offset, why };
        if self.levels.len() == DEPTH_MAX {
            return Err(malformed("a tree is deeper than 32 pages"));
        }
        let key = |at: usize| node.element(at).map(|element| &node.bytes[element.key]);
        let last = node.count.checked_sub(1).and_then(key);
        let is_late = |last: &[u8]| below.as_ref().is_some_and(|below| last >= &below[..]);
        if key(0).is_some_and(|first| first < least) || last.is_some_and(is_late) {
            return Err(malformed(
                "a page has keys that its parent does not give it",
            ));
        }
        self.levels.push(Level { node, below });
        Ok(())
    }
}

impl Level {
    fn entry(&self, at: usize) -> Option<Entry<'_>> {
        let element = self.node.element(at)?;
        Some(Entry {
            offset: self.node.offset + element.key.start as u64,
            key: &self.node.bytes[element.key],
            value: &self.node.bytes[element.value],
        })
    }

    /// A child, with the first key that it may have and the first that it may not.
    fn child(&self, at: usize) -> Option<(u64, Vec<u8>, Option<Vec<u8>>)> {
        let element = self.node.element(at)?;
        let below = match self
            .node
            .element(at + 1)
            .filter(|_| at + 1 < self.node.count)
        {
            Some(next) => Some(self.node.bytes[next.key].to_vec()),
            None => self.below.clone(),
        };
        let least = self.node.bytes[element.key].to_vec();
        Some((element.child, least, below))
    }
}
