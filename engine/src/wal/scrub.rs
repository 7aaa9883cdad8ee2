//! Reading a segment again, to find rot before anyone needs what it took.

use std::ops::Range;

use super::buffer::BLOCK_BYTES;
use super::dir::LogDir;
use super::read::{damaged, read_failed, ReadError};
use super::scan::{Reader, SegmentView};
use super::Identity;

/// What a scrub asks of the disk at once, in bytes.
const READ_WINDOW_BYTES: usize = 256 << 10;

/// Checks the batches of a segment that takes no more of them, some at a time, on a pool thread.
#[derive(Clone, Debug)]
pub struct ScrubJob {
    identity: Identity,
    segment: SegmentView,
    /// Batches to check yet.
    batches: Range<u64>,
    block: u32,
    previous_crc: Option<u32>,
}

impl ScrubJob {
    pub(super) fn new(identity: Identity, segment: SegmentView, batches: Range<u64>) -> ScrubJob {
        ScrubJob {
            identity,
            segment,
            batches,
            block: 1,
            previous_crc: None,
        }
    }

    /// Checks `budget_bytes` and the batch that goes beyond them; true while there is more. The caller paces the steps.
    pub fn step(&mut self, dir: &dyn LogDir, budget_bytes: u64) -> Result<bool, ReadError> {
        let mut reader = Reader::new(dir, self.identity, READ_WINDOW_BYTES);
        let end = u64::from(self.block) + budget_bytes / BLOCK_BYTES as u64;
        while !self.batches.is_empty() && u64::from(self.block) <= end {
            let bad = |why| damaged(dir, self.segment.id, self.block, why);
            let header = reader
                .header(&self.segment, self.block)
                .map_err(|failed| read_failed(dir, failed))?;
            let follows = |crc| self.previous_crc.is_none_or(|previous| previous == crc);
            let (header, crc) = header
                .filter(|(header, _)| {
                    header.sequence == self.batches.start && follows(header.previous_crc)
                })
                .ok_or_else(|| bad("the batch that lies here is not the one expected"))?;
            let payload = reader
                .payload(&self.segment, &header)
                .map_err(|failed| read_failed(dir, failed))?;
            payload.ok_or_else(|| bad("the CRC of the payload is wrong"))?;
            self.batches.start += 1;
            self.block += header.blocks;
            self.previous_crc = Some(crc);
        }
        Ok(!self.batches.is_empty())
    }
}
