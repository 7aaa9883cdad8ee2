//! The two headers of the log: one per segment, one per batch. Byte diagrams are in `engine/FORMAT.md`.
//!
//! Parsing checks the CRC first; until then nothing in the bytes is used (P1). All numbers are little-endian.

use super::buffer::BLOCK_BYTES;
use super::{Identity, SegmentId};

/// Version of the segment and batch formats written here.
pub const FORMAT_VERSION: u32 = 1;
pub const SEGMENT_HEADER_BYTES: usize = 80;
pub const BATCH_HEADER_BYTES: usize = 136;

const SEGMENT_MAGIC: [u8; 8] = *b"ringdwal";
const BATCH_MAGIC: u32 = 0x6c61_5772; // "rWal"
/// The same place in every version, so that any version can tell a newer file from a damaged one.
const SEGMENT_CRC_AT: usize = 76;
const BATCH_CRC_AT: usize = 132;

const SEGMENT_RECYCLED: u32 = 1;
const BATCH_SEAL: u16 = 1;
const BATCH_OPENING: u16 = 2;

fn put<const N: usize>(out: &mut [u8], at: usize, bytes: [u8; N]) {
    out[at..at + N].copy_from_slice(&bytes);
}

fn get<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&from[at..at + N]);
    out
}

fn u64_at(from: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(from, at))
}

fn u32_at(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(from, at))
}

fn u16_at(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(get(from, at))
}

/// Why the bytes of a segment header were not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSegmentHeader {
    Short,
    Crc,
    Magic,
    Version(u32),
}

/// First block of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub identity: Identity,
    pub segment: SegmentId,
    /// Length of the file, this block included.
    pub bytes: u64,
    /// Random number of this life of the file. Every batch repeats it, so that neither a batch of an earlier life nor a
    /// value that a client made look like a batch is taken for one.
    pub nonce: u64,
    /// The segment before this one; `SegmentId(0)` in the first segment of a log.
    pub predecessor: SegmentId,
    pub predecessor_crc: u32,
    /// The file held another segment before: blocks behind the end are not zero.
    pub recycled: bool,
}

impl SegmentHeader {
    /// Writes the header at the start of `block` and returns its CRC.
    pub fn encode(&self, block: &mut [u8]) -> u32 {
        block[..SEGMENT_HEADER_BYTES].fill(0);
        put(block, 0, SEGMENT_MAGIC);
        put(block, 8, FORMAT_VERSION.to_le_bytes());
        put(
            block,
            12,
            (if self.recycled { SEGMENT_RECYCLED } else { 0 }).to_le_bytes(),
        );
        put(block, 16, self.identity.cluster_id.to_le_bytes());
        put(block, 24, self.identity.member_id.to_le_bytes());
        put(block, 32, self.segment.0.to_le_bytes());
        put(block, 40, self.bytes.to_le_bytes());
        put(block, 48, self.nonce.to_le_bytes());
        put(block, 56, self.predecessor.0.to_le_bytes());
        put(block, 64, self.predecessor_crc.to_le_bytes());
        let crc = crc32fast::hash(&block[..SEGMENT_CRC_AT]);
        put(block, SEGMENT_CRC_AT, crc.to_le_bytes());
        crc
    }

    /// Reads a header; the second value is its CRC, which the successor's header repeats.
    pub fn parse(block: &[u8]) -> Result<(SegmentHeader, u32), BadSegmentHeader> {
        if block.len() < SEGMENT_HEADER_BYTES {
            return Err(BadSegmentHeader::Short);
        }
        let crc = u32_at(block, SEGMENT_CRC_AT);
        if crc32fast::hash(&block[..SEGMENT_CRC_AT]) != crc {
            return Err(BadSegmentHeader::Crc);
        }
        if get::<8>(block, 0) != SEGMENT_MAGIC {
            return Err(BadSegmentHeader::Magic);
        }
        let version = u32_at(block, 8);
        if version != FORMAT_VERSION {
            return Err(BadSegmentHeader::Version(version));
        }
        let header = SegmentHeader {
            identity: Identity {
                cluster_id: u64_at(block, 16),
                member_id: u64_at(block, 24),
            },
            segment: SegmentId(u64_at(block, 32)),
            bytes: u64_at(block, 40),
            nonce: u64_at(block, 48),
            predecessor: SegmentId(u64_at(block, 56)),
            predecessor_crc: u32_at(block, 64),
            recycled: u32_at(block, 12) & SEGMENT_RECYCLED != 0,
        };
        Ok((header, crc))
    }

    pub(super) fn blocks(&self) -> u32 {
        u32::try_from(self.bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX)
    }
}

/// What the log amounts to at one place: the hard state, and the last entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
    pub last_index: u64,
    pub last_term: u64,
}

/// Start of every batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub identity: Identity,
    pub segment: SegmentId,
    pub nonce: u64,
    pub sequence: u64,
    /// Random number of the opening of the log that wrote this batch.
    pub incarnation: u64,
    /// Highest batch known durable when this one was written.
    pub claim: u64,
    /// Where the batch lies, in blocks from the start of the segment.
    pub block: u32,
    pub blocks: u32,
    pub payload_bytes: u32,
    pub records: u32,
    /// State of the log before the first record: what a reader needs whose log begins here.
    pub before: LogState,
    pub payload_crc: u32,
    /// CRC of the header of the batch before, 0 in the first batch of a log.
    pub previous_crc: u32,
    /// No records: it only makes a claim.
    pub seal: bool,
    /// The first batch of its incarnation; only such a batch may follow one of another incarnation.
    pub opening: bool,
}

impl BatchHeader {
    /// Writes the header at the start of `out` and returns its CRC, which the next batch repeats.
    pub fn encode(&self, out: &mut [u8]) -> u32 {
        let flags = (if self.seal { BATCH_SEAL } else { 0 })
            | (if self.opening { BATCH_OPENING } else { 0 });
        put(out, 0, BATCH_MAGIC.to_le_bytes());
        put(out, 4, (FORMAT_VERSION as u16).to_le_bytes());
        put(out, 6, flags.to_le_bytes());
        put(out, 8, self.identity.cluster_id.to_le_bytes());
        put(out, 16, self.identity.member_id.to_le_bytes());
        put(out, 24, self.segment.0.to_le_bytes());
        put(out, 32, self.nonce.to_le_bytes());
        put(out, 40, self.sequence.to_le_bytes());
        put(out, 48, self.incarnation.to_le_bytes());
        put(out, 56, self.claim.to_le_bytes());
        put(out, 64, self.block.to_le_bytes());
        put(out, 68, self.blocks.to_le_bytes());
        put(out, 72, self.payload_bytes.to_le_bytes());
        put(out, 76, self.records.to_le_bytes());
        put(out, 80, self.before.term.to_le_bytes());
        put(out, 88, self.before.vote.to_le_bytes());
        put(out, 96, self.before.commit.to_le_bytes());
        put(out, 104, self.before.last_index.to_le_bytes());
        put(out, 112, self.before.last_term.to_le_bytes());
        put(out, 120, self.payload_crc.to_le_bytes());
        put(out, 124, self.previous_crc.to_le_bytes());
        put(out, 128, [0; 4]);
        let crc = crc32fast::hash(&out[..BATCH_CRC_AT]);
        put(out, BATCH_CRC_AT, crc.to_le_bytes());
        crc
    }

    /// Reads a header whose CRC, magic and version are right and whose lengths agree with one another; the second value is
    /// its CRC. Whether it belongs at this place is for the caller to check.
    pub fn parse(bytes: &[u8]) -> Option<(BatchHeader, u32)> {
        // The magic is compared before the CRC to spare the CRC of most blocks in a search; nothing is used of it.
        if bytes.len() < BATCH_HEADER_BYTES || u32_at(bytes, 0) != BATCH_MAGIC {
            return None;
        }
        let crc = u32_at(bytes, BATCH_CRC_AT);
        if crc32fast::hash(&bytes[..BATCH_CRC_AT]) != crc
            || u16_at(bytes, 4) != FORMAT_VERSION as u16
        {
            return None;
        }
        let flags = u16_at(bytes, 6);
        let header = BatchHeader {
            identity: Identity {
                cluster_id: u64_at(bytes, 8),
                member_id: u64_at(bytes, 16),
            },
            segment: SegmentId(u64_at(bytes, 24)),
            nonce: u64_at(bytes, 32),
            sequence: u64_at(bytes, 40),
            incarnation: u64_at(bytes, 48),
            claim: u64_at(bytes, 56),
            block: u32_at(bytes, 64),
            blocks: u32_at(bytes, 68),
            payload_bytes: u32_at(bytes, 72),
            records: u32_at(bytes, 76),
            before: LogState {
                term: u64_at(bytes, 80),
                vote: u64_at(bytes, 88),
                commit: u64_at(bytes, 96),
                last_index: u64_at(bytes, 104),
                last_term: u64_at(bytes, 112),
            },
            payload_crc: u32_at(bytes, 120),
            previous_crc: u32_at(bytes, 124),
            seal: flags & BATCH_SEAL != 0,
            opening: flags & BATCH_OPENING != 0,
        };
        header.is_consistent().then_some((header, crc))
    }

    fn is_consistent(&self) -> bool {
        let bytes = BATCH_HEADER_BYTES as u64 + u64::from(self.payload_bytes);
        bytes.div_ceil(BLOCK_BYTES as u64) == u64::from(self.blocks)
            && self.block > 0
            && self.sequence > 0
            && self.claim < self.sequence
    }

    /// Whether bytes that failed [`BatchHeader::parse`] resemble a batch of this life of the segment. Only the wording
    /// of a report depends on it.
    pub(super) fn resembles(bytes: &[u8], nonce: u64, segment: SegmentId, sequence: u64) -> bool {
        bytes.len() >= BATCH_HEADER_BYTES
            && (u64_at(bytes, 32) == nonce
                || (u64_at(bytes, 24) == segment.0 && u64_at(bytes, 40) == sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> SegmentHeader {
        SegmentHeader {
            identity: Identity {
                cluster_id: 0x1122,
                member_id: 0x3344,
            },
            segment: SegmentId(7),
            bytes: 64 << 20,
            nonce: 0xdead_beef,
            predecessor: SegmentId(6),
            predecessor_crc: 99,
            recycled: true,
        }
    }

    fn batch() -> BatchHeader {
        BatchHeader {
            identity: Identity {
                cluster_id: 1,
                member_id: 2,
            },
            segment: SegmentId(3),
            nonce: 4,
            sequence: 50,
            incarnation: 6,
            claim: 48,
            block: 8,
            blocks: 2,
            payload_bytes: 4096,
            records: 10,
            before: LogState {
                term: 11,
                vote: 12,
                commit: 13,
                last_index: 14,
                last_term: 15,
            },
            payload_crc: 16,
            previous_crc: 17,
            seal: false,
            opening: true,
        }
    }

    #[test]
    fn headers_come_back_as_written_and_no_flipped_bit_is_accepted() {
        let mut block = vec![0; BLOCK_BYTES];
        let crc = segment().encode(&mut block);
        assert_eq!(SegmentHeader::parse(&block), Ok((segment(), crc)));
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::parse(&block).is_err(), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        let crc = batch().encode(&mut block);
        assert_eq!(BatchHeader::parse(&block), Some((batch(), crc)));
        for bit in 0..BATCH_HEADER_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHeader::parse(&block), None, "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut block = vec![0; BLOCK_BYTES];
        segment().encode(&mut block);
        put(&mut block, 8, 2u32.to_le_bytes());
        let crc = crc32fast::hash(&block[..SEGMENT_CRC_AT]);
        put(&mut block, SEGMENT_CRC_AT, crc.to_le_bytes());
        assert_eq!(
            SegmentHeader::parse(&block),
            Err(BadSegmentHeader::Version(2))
        );
    }

    #[test]
    fn lengths_that_contradict_one_another_are_refused() {
        let mut block = vec![0; BLOCK_BYTES];
        for broken in [
            BatchHeader {
                blocks: 1,
                ..batch()
            },
            BatchHeader {
                payload_bytes: u32::MAX,
                ..batch()
            },
            BatchHeader {
                block: 0,
                ..batch()
            },
            BatchHeader {
                claim: 50,
                ..batch()
            },
        ] {
            broken.encode(&mut block);
            assert_eq!(BatchHeader::parse(&block), None);
        }
    }
}
