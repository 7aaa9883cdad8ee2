//! The file format of bbolt, version 2, as far as etcd uses it: one level of buckets, each a B+tree of its own.
//!
//! Numbers are little-endian. A page begins with a header of 16 bytes, and may go on over the pages behind it:
//!
//! ```text
//! id u64 | flags u16: 1 branch, 2 leaf, 4 meta, 16 list of free pages | count u16 | overflow u32: pages behind the first
//! meta:    magic u32 | version u32 = 2 | page size u32 | flags u32 | root u64 | sequence u64 | free list u64 |
//!          high water u64 | transaction u64 | FNV-1a u64 over the 56 bytes before
//! branch:  count * (pos u32 | key size u32 | child u64), then the keys
//! leaf:    count * (flags u32: 1 bucket | pos u32 | key size u32 | value size u32), then keys and values
//! bucket:  root u64, or 0 if a leaf follows in the value | sequence u64
//! ```
//!
//! `pos` counts from the element's own beginning. The newer one of the two meta pages, the first two of the file, counts.

pub mod read;
pub mod write;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const META_PAGES: u64 = 2;
const HEADER_BYTES: usize = 16;
const ELEMENT_BYTES: usize = 16;
const BUCKET_HEADER_BYTES: usize = 16;
/// Meta fields behind the page's header, and those of them that the checksum covers.
const META_BYTES: usize = 64;
const META_SUMMED_BYTES: usize = 56;
const FLAG_BRANCH: u16 = 1;
const FLAG_LEAF: u16 = 2;
const FLAG_META: u16 = 4;
/// Of a leaf's element.
const FLAG_BUCKET: u32 = 1;
/// In place of a list of free pages: what is not reachable is free.
const NO_FREE_LIST: u64 = u64::MAX;
const KEY_BYTES_MAX: usize = 32_768;
/// Elements of a page.
const COUNT_MAX: usize = 0xFFFE;
const PAGE_BYTES_MIN: u64 = 1 << 10;
const PAGE_BYTES_MAX: u64 = 16 << 20;

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
