//! What lies behind the end of the log, and what it says about the batch that is missing there.

use super::buffer::BLOCK_BYTES;
use super::dir::LogDir;
use super::format::BatchHeader;
use super::recover::Report;
use super::recover_error::{At, RecoverError};
use super::scan::Reader;
use super::survey::{self, Found};
use super::walk::{read_failed, End};
use super::SegmentId;

/// Smallest unit that a device writes whole, in bytes.
const SECTOR_BYTES: usize = 512;

/// What the blocks behind the end hold.
#[derive(Default)]
pub(super) struct Evidence {
    /// Highest batch that any header behind the end says was durable, and the place of that header. Batches that never
    /// became part of the log count as well: what they claim was true when they were written, and stays so.
    pub claim: Option<(u64, At)>,
    /// A batch of the last incarnation lies behind the end: it was in flight together with the missing one.
    follower: bool,
    /// Something lies behind the end of a segment that was zero when the log began in it.
    leftovers: bool,
    /// The block at the end looks like a batch of this life of the segment.
    resembles: bool,
    /// The same of the first block of the next segment.
    next_resembles: bool,
    /// Where the first batch behind the end lies, and its number.
    first: Option<(SegmentId, u32, u64)>,
    /// The first segment that holds batches behind one that cannot be used, or that itself cannot be.
    beyond_unusable: bool,
}

/// Looks through every block behind the end, in all segments: a lost length is no hindrance then.
pub(super) fn gather(
    dir: &dyn LogDir,
    reader: &mut Reader<'_>,
    segments: &[Found],
    end: End,
) -> Result<Evidence, RecoverError> {
    let mut evidence = Evidence::default();
    let mut unusable = false;
    for found in segments.iter().filter(|found| found.id >= end.segment) {
        let from = if found.id == end.segment {
            end.block
        } else {
            1
        };
        let view = found.view();
        unusable |= view.is_none();
        for block in from..found.blocks() {
            let bytes = reader
                .block(found.id, block)
                .map_err(|failed| read_failed(dir, failed))?;
            if found.id == end.segment || found.id == end.segment.next() {
                evidence.look(found, bytes, block, end);
            }
            let Some((header, _)) = BatchHeader::parse(bytes) else {
                continue;
            };
            let lies_here = header.segment == found.id && header.block == block;
            if !lies_here || view.is_some_and(|view| view.nonce != header.nonce) {
                continue;
            }
            if unusable {
                evidence.beyond_unusable = true;
                continue;
            }
            evidence
                .first
                .get_or_insert((found.id, block, header.sequence));
            let at = At {
                file: dir.name(found.id),
                segment: found.id,
                offset: u64::from(block) * BLOCK_BYTES as u64,
            };
            evidence.note(&header, at, end);
        }
    }
    Ok(evidence)
}

impl Evidence {
    fn note(&mut self, header: &BatchHeader, at: At, end: End) {
        if self
            .claim
            .as_ref()
            .is_none_or(|(claim, _)| header.claim > *claim)
        {
            self.claim = Some((header.claim, at));
        }
        let behind = end.batch.is_none_or(|batch| header.sequence >= batch);
        self.follower |= behind && end.incarnation == Some(header.incarnation);
    }

    /// Looks at a block for remains of a write. Nothing but the wording of the report depends on it.
    fn look(&mut self, found: &Found, bytes: &[u8], block: u32, end: End) {
        let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        let parsed = BatchHeader::parse(bytes).is_some();
        let nonce = found.view().map(|view| view.nonce);
        let batch = end.batch.unwrap_or(1);
        let resembles = || {
            let header =
                nonce.is_some_and(|nonce| BatchHeader::resembles(bytes, nonce, found.id, batch));
            !parsed && (header || (zero(&bytes[..SECTOR_BYTES]) && !zero(bytes)))
        };
        if (found.id, block) == (end.segment, end.block) {
            self.resembles = resembles();
        } else if (found.id, block) == (end.segment.next(), 1) {
            self.next_resembles = resembles();
        }
        if !found.recycled() && !self.leftovers && !parsed {
            self.leftovers = !zero(bytes);
        }
    }

    /// Where the batch that is missing at the end must have lain: there, or at the start of the next segment, if there was
    /// no room or the batches found leave the room there.
    pub fn place_of_missing(&self, segments: &[Found], end: End) -> (SegmentId, u32) {
        let next = (end.segment.next(), 1);
        let full = segments
            .iter()
            .any(|found| found.id == end.segment && found.is_full_at(end.block));
        let leaves_room = |(segment, block, number)| {
            segment == next.0 && block > 1 && end.batch.is_some_and(|batch| number == batch + 1)
        };
        let in_next =
            self.first.is_some_and(leaves_room) || (self.next_resembles && !self.resembles);
        if full || in_next {
            next
        } else {
            (end.segment, end.block)
        }
    }

    /// The error for a segment that cannot be used although it holds batches, or newer ones do.
    pub fn unusable_segment(
        &self,
        dir: &dyn LogDir,
        segments: &[Found],
        last: Option<usize>,
    ) -> Option<RecoverError> {
        let from = last.map_or(0, |last| last + 1);
        let unusable = segments
            .iter()
            .skip(from)
            .find(|found| found.view().is_none())?;
        // The very segment in which the log begins cannot be one that was only prepared.
        let oldest = last.is_none() && unusable.id == segments[0].id;
        (self.beyond_unusable || oldest).then(|| survey::unusable(dir, unusable))
    }

    /// How the log ended, for a reader of the server's messages.
    pub fn report(&self, dir: &dyn LogDir, segments: &[Found], end: End, torn: bool) -> Report {
        let why = if torn {
            "the batch there is incomplete"
        } else if self.follower {
            "the batch there is missing, later ones that were in flight with it are complete"
        } else if self.resembles || self.next_resembles {
            "the batch there has no valid header"
        } else if self.leftovers {
            "there are remains of a batch"
        } else {
            return Report::CleanEnd;
        };
        let (segment, block) = self.place_of_missing(segments, end);
        let offset = u64::from(block) * BLOCK_BYTES as u64;
        Report::TornTail {
            file: dir.name(segment),
            offset,
            batch: end.batch.unwrap_or(1),
            why,
        }
    }
}
