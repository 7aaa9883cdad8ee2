//! The meta page (FORMAT.md, "Meta page").

use super::{Completed, CONTENT_BYTES_MAX, NOTHING, ROOTS_MAX};
use crate::{
    page::{u32_at, u64_at, AlignedBuf, Extent, PageNo, META_PAGES, PAGE_BYTES},
    tree::Tree,
};
use bytes::Bytes;

const MAGIC: &[u8; 8] = b"ringdtre";
const VERSION: u32 = 1;

const NUMBER: usize = 4;
const CHECKPOINT: usize = 8;
const MAGIC_AT: usize = 16;
const VERSION_AT: usize = 24;
const PAGE_SIZE: usize = 28;
const HIGH: usize = 32;
const INDEX: usize = 36;
const INDEX_PAGES: usize = 40;
const INDEX_CRC: usize = 44;
const ROOT_COUNT: usize = 48;
const CONTENT_LEN: usize = 52;
const ROOTS: usize = 64;
const CONTENT: usize = ROOTS + 4 * ROOTS_MAX;

/// What the newest durable checkpoint holds.
#[derive(Clone, Debug)]
pub struct Meta {
    pub roots: Vec<Tree>,
    /// The caller's own, [`CONTENT_BYTES_MAX`] bytes at most.
    pub content: Bytes,
    pub checkpoint: u64,
}

#[derive(Debug)]
pub(super) enum MetaFault {
    /// Not a meta page, or a damaged one.
    Damaged(String),
    /// A valid page of another version.
    Unknown(String),
}

pub(super) fn encode(completed: &Completed, index_crc: u32) -> AlignedBuf {
    let mut page = AlignedBuf::zeroed(PAGE_BYTES);
    let mut put = |at: usize, value: u32| page[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(NUMBER, completed.slot);
    put(VERSION_AT, VERSION);
    put(PAGE_SIZE, PAGE_BYTES as u32);
    put(HIGH, completed.high);
    put(INDEX, completed.index.start.0);
    put(INDEX_PAGES, completed.index.pages);
    put(INDEX_CRC, index_crc);
    put(ROOT_COUNT, completed.roots.len() as u32);
    put(CONTENT_LEN, completed.content.len() as u32);
    for (at, root) in completed.roots.iter().enumerate() {
        put(ROOTS + 4 * at, root.root.0);
    }
    page[CHECKPOINT..CHECKPOINT + 8].copy_from_slice(&completed.number.to_le_bytes());
    page[MAGIC_AT..MAGIC_AT + 8].copy_from_slice(MAGIC);
    page[CONTENT..CONTENT + completed.content.len()].copy_from_slice(&completed.content);
    let crc = crc32fast::hash(&page[NUMBER..]);
    page[..NUMBER].copy_from_slice(&crc.to_le_bytes());
    page
}

/// The checkpoint that a meta page names, and the checksum of its index.
pub(super) fn decode(page: &[u8], slot: u32) -> Result<(Completed, u32), MetaFault> {
    let damaged = |why: &str| Err(MetaFault::Damaged(why.to_owned()));
    if page.len() != PAGE_BYTES {
        return damaged("the page is cut short");
    }
    if u32_at(page, 0) != crc32fast::hash(&page[NUMBER..]) {
        return damaged("the checksum does not match");
    }
    if page[MAGIC_AT..MAGIC_AT + 8] != MAGIC[..] {
        return damaged("it is not a meta page");
    }
    if u32_at(page, VERSION_AT) != VERSION || u32_at(page, PAGE_SIZE) != PAGE_BYTES as u32 {
        return Err(MetaFault::Unknown(format!(
            "has format version {} with pages of {} bytes; this program reads version {VERSION} with {PAGE_BYTES}: use \
             the program that wrote it",
            u32_at(page, VERSION_AT),
            u32_at(page, PAGE_SIZE)
        )));
    }
    if u32_at(page, NUMBER) != slot {
        return damaged("it is the other meta page: a misdirected write");
    }
    let (roots, content) = (
        u32_at(page, ROOT_COUNT) as usize,
        u32_at(page, CONTENT_LEN) as usize,
    );
    let (high, index) = (u32_at(page, HIGH), u32_at(page, INDEX));
    let index = Extent {
        start: PageNo(index),
        pages: u32_at(page, INDEX_PAGES),
    };
    if roots > ROOTS_MAX || content > CONTENT_BYTES_MAX {
        return damaged("it states more than it can hold");
    }
    if high < META_PAGES || (index.pages > 0 && (index.start.0 < META_PAGES || index.end() > high))
    {
        return damaged("it names pages outside of the file");
    }
    let root = |at: usize| Tree::at(PageNo(u32_at(page, ROOTS + 4 * at)));
    let completed = Completed {
        number: u64_at(page, CHECKPOINT),
        slot,
        index,
        roots: (0..roots).map(root).collect(),
        content: Bytes::copy_from_slice(&page[CONTENT..CONTENT + content]),
        high,
    };
    Ok((completed, u32_at(page, INDEX_CRC)))
}

/// The state of a file that has no checkpoint yet: number 0.
pub(super) fn blank(slot: u32) -> Completed {
    Completed {
        number: 0,
        slot,
        index: NOTHING,
        roots: Vec::new(),
        content: Bytes::new(),
        high: META_PAGES,
    }
}

pub(crate) fn blank_meta_page(slot: u32) -> AlignedBuf {
    encode(&blank(slot), 0)
}
