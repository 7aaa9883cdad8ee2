//! The first 32 bytes of a page or extent (FORMAT.md, "Page header").

use super::{Page, PageFault, PageNo, PAGE_BYTES};

pub(crate) const HEADER_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Leaf = 1,
    Branch = 2,
    Overflow = 3,
    Index = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Leaf, Kind::Branch, Kind::Overflow, Kind::Index]
            .into_iter()
            .find(|k| *k as u8 == byte)
    }
}

/// Pages of an extent with this payload.
pub(crate) fn extent_pages(payload: usize) -> u32 {
    (payload + HEADER_BYTES).div_ceil(PAGE_BYTES) as u32
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

const CRC: usize = 0;
const NUMBER: usize = 4;
const GENERATION: usize = 8;
const KIND: usize = 16;
const LEVEL: usize = 17;
/// Extents only: payload length, page count, and a checksum over bytes 4..28 so that neither is used unchecked.
const PAYLOAD: usize = 20;
const PAGES: usize = 24;
const HEAD_CRC: usize = 28;

#[derive(Clone, Copy)]
pub(crate) struct Header<'a>(&'a [u8; HEADER_BYTES]);

impl<'a> Header<'a> {
    pub(crate) fn of(bytes: &'a [u8; HEADER_BYTES]) -> Header<'a> {
        Header(bytes)
    }

    /// The header of whole pages.
    pub(crate) fn of_bytes(bytes: &'a [u8]) -> Header<'a> {
        match bytes.first_chunk() {
            Some(head) => Header(head),
            None => Header(&[0; HEADER_BYTES]),
        }
    }

    pub(crate) fn number(self) -> u32 {
        u32_at(self.0, NUMBER)
    }

    pub(crate) fn generation(self) -> u64 {
        u64_at(self.0, GENERATION)
    }

    pub(crate) fn kind(self) -> Option<Kind> {
        Kind::from_byte(self.0[KIND])
    }

    pub(crate) fn payload_len(self) -> u32 {
        u32_at(self.0, PAYLOAD)
    }

    fn is_extent(self) -> bool {
        matches!(self.kind(), Some(Kind::Overflow | Kind::Index))
    }

    /// Pages that this header announces: read before the rest is there, so checked by the header's own checksum.
    pub(crate) fn announced_pages(self) -> Option<u32> {
        if !self.is_extent() {
            return Some(1);
        }
        if u32_at(self.0, HEAD_CRC) != crc32fast::hash(&self.0[NUMBER..HEAD_CRC]) {
            return None;
        }
        let payload = self.payload_len() as usize;
        let pages = u32_at(self.0, PAGES);
        (pages == extent_pages(payload)).then_some(pages)
    }

    pub(crate) fn init(bytes: &mut [u8], kind: Kind, level: u8) {
        bytes[..HEADER_BYTES].fill(0);
        bytes[KIND] = kind as u8;
        bytes[LEVEL] = level;
    }

    pub(crate) fn stamp(bytes: &mut [u8], no: PageNo, generation: u64) {
        bytes[NUMBER..GENERATION].copy_from_slice(&no.0.to_le_bytes());
        bytes[GENERATION..KIND].copy_from_slice(&generation.to_le_bytes());
    }

    pub(crate) fn set_payload(bytes: &mut [u8], len: u32, pages: u32) {
        bytes[PAYLOAD..PAGES].copy_from_slice(&len.to_le_bytes());
        bytes[PAGES..HEAD_CRC].copy_from_slice(&pages.to_le_bytes());
    }

    /// The eight-word header as it goes to the device: both checksums computed over whole pages whose header is otherwise
    /// complete.
    pub(crate) fn sealed(bytes: &[u8]) -> [u8; HEADER_BYTES] {
        let mut head = [0; HEADER_BYTES];
        head.copy_from_slice(&bytes[..HEADER_BYTES]);
        if Header(&head).is_extent() {
            let crc = crc32fast::hash(&head[NUMBER..HEAD_CRC]);
            head[HEAD_CRC..].copy_from_slice(&crc.to_le_bytes());
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head[NUMBER..]);
        hasher.update(&bytes[HEADER_BYTES..]);
        head[..NUMBER].copy_from_slice(&hasher.finalize().to_le_bytes());
        head
    }

    /// Checks whole pages against the number under which they were asked for.
    pub(crate) fn check(bytes: &[u8], no: PageNo) -> Result<(), PageFault> {
        let header = Header::of_bytes(bytes);
        if bytes.len() < PAGE_BYTES || u32_at(bytes, CRC) != crc32fast::hash(&bytes[NUMBER..]) {
            return Err(PageFault::Checksum);
        }
        if header.number() != no.0 {
            let found = header.number();
            return Err(PageFault::WrongPage { found });
        }
        match header.kind() {
            Some(_) => Ok(()),
            None => Err(PageFault::Malformed("is of an unknown kind")),
        }
    }
}

pub(crate) fn level(page: &Page) -> u8 {
    page[LEVEL]
}
