//! The segments of the log: which hold batches, which wait prepared, which may be recycled.

use std::collections::VecDeque;

use super::buffer::{AlignedBuf, BLOCK_BYTES};
use super::format::SegmentHeader;
use super::{Identity, SegmentId};

/// Released segments kept to be recycled, in number; more are removed.
const RELEASED_MAX: usize = 2;

/// A change of the directory, carried out away from the executor. One is out at a time.
pub struct FileOp {
    /// Given back with the result.
    pub tag: u64,
    pub kind: FileOpKind,
}

pub enum FileOpKind {
    /// Make a segment file: take `recycle`'s (rename it aside, flush the directory) or create one under a temporary name
    /// and write zeros through its whole length; write `header` at its start; flush the file; rename it to its name,
    /// replacing a file that is there; flush the directory. A crash in between leaves a temporary file at most.
    Prepare {
        segment: SegmentId,
        recycle: Option<SegmentId>,
        bytes: u64,
        header: AlignedBuf,
        /// The log waits for it: do not spare the disk.
        urgent: bool,
    },
    /// Remove a segment that is needed no more and flush the directory.
    Remove { segment: SegmentId },
}

impl FileOp {
    pub fn segment(&self) -> SegmentId {
        match self.kind {
            FileOpKind::Prepare { segment, .. } | FileOpKind::Remove { segment } => segment,
        }
    }
}

/// A segment that is part of the log, or prepared to become so.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub header: SegmentHeader,
    pub header_crc: u32,
    /// Sequence number of its first batch.
    pub first_batch: Option<u64>,
    /// Smallest entry index appended to it and durable; 0 where a snapshot took the place of all that came before.
    pub index_min: Option<u64>,
}

impl Segment {
    pub fn id(&self) -> SegmentId {
        self.header.segment
    }
}

/// Where a batch goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub segment: SegmentId,
    pub nonce: u64,
    pub block: u32,
}

enum Running {
    Prepare(Box<Segment>, Option<SegmentId>),
    Remove(SegmentId),
}

pub(super) struct Segments {
    identity: Identity,
    /// Length of the segments made from now on, in bytes.
    bytes: u64,
    /// Source of the nonces: the incarnation of this opening.
    seed: u64,
    /// Oldest first; batches are written to the last one.
    live: VecDeque<Segment>,
    /// Prepared successors, in order.
    spares: VecDeque<Segment>,
    /// Needed no more, oldest first.
    released: VecDeque<(SegmentId, u64)>,
    /// First free block of the last live segment.
    block: u32,
    running: Option<(u64, Running)>,
    next_tag: u64,
    /// The file system was full: no further attempt until the timer clears it.
    pub blocked_by_full_disk: bool,
}

impl Segments {
    pub fn new(
        identity: Identity,
        bytes: u64,
        seed: u64,
        live: Vec<Segment>,
        spares: Vec<Segment>,
        block: u32,
    ) -> Segments {
        Segments {
            identity,
            bytes,
            seed,
            live: live.into(),
            spares: spares.into(),
            released: VecDeque::new(),
            block,
            running: None,
            next_tag: 1,
            blocked_by_full_disk: false,
        }
    }

    pub fn live(&self) -> &VecDeque<Segment> {
        &self.live
    }

    pub fn spares(&self) -> usize {
        self.spares.len()
    }

    /// Adds segments below the live ones that recovery found and that nobody needs.
    pub fn add_released(&mut self, released: Vec<(SegmentId, u64)>) {
        self.released.extend(released);
    }

    fn fits_active(&self, blocks: u32) -> bool {
        self.live
            .back()
            .is_some_and(|active| blocks <= active.header.blocks().saturating_sub(self.block))
    }

    /// A segment gets its first batch only once its successor exists, so that the loss of either shows. The first one of
    /// a log has no predecessor whose end could point beyond it, and need not wait.
    fn can_roll(&self, blocks: u32) -> bool {
        let fits = self
            .spares
            .front()
            .is_some_and(|next| blocks < next.header.blocks());
        fits && (self.spares.len() >= 2 || self.live.is_empty())
    }

    pub fn has_room(&self, blocks: u32) -> bool {
        self.fits_active(blocks) || self.can_roll(blocks)
    }

    /// Takes the next `blocks` blocks, moving on to the next segment where they do not fit in this one.
    pub fn place(&mut self, blocks: u32, sequence: u64) -> Option<Place> {
        if !self.fits_active(blocks) {
            if !self.can_roll(blocks) {
                return None;
            }
            self.live.push_back(self.spares.pop_front()?);
            self.block = 1;
        }
        let active = self.live.back_mut()?;
        active.first_batch.get_or_insert(sequence);
        let place = Place {
            segment: active.id(),
            nonce: active.header.nonce,
            block: self.block,
        };
        self.block += blocks;
        Some(place)
    }

    /// Notes the smallest entry index of a batch that became durable.
    pub fn note_index(&mut self, segment: SegmentId, index: Option<u64>) {
        let Some(index) = index else { return };
        // The last or, with writes in flight across a boundary, the last but one.
        if let Some(segment) = self.live.iter_mut().rev().find(|live| live.id() == segment) {
            segment.index_min = Some(segment.index_min.map_or(index, |min| min.min(index)));
        }
    }

    /// The oldest segment that holds, in its final form, any entry after `index`.
    pub fn first_needed(&self, index: u64) -> Option<SegmentId> {
        let mut min = u64::MAX;
        let holds = self.live.iter().rev().find(|segment| {
            min = min.min(segment.index_min.unwrap_or(u64::MAX));
            min <= index.saturating_add(1)
        });
        holds.or(self.live.front()).map(Segment::id)
    }

    /// Gives up the segments before `first_needed`, the last live one excepted.
    pub fn release(&mut self, first_needed: SegmentId) {
        while self.live.len() > 1 && self.live[0].id() < first_needed {
            if let Some(segment) = self.live.pop_front() {
                self.released
                    .push_back((segment.id(), segment.header.bytes));
            }
        }
    }

    fn spares_wanted(&self) -> usize {
        let half_full = self
            .live
            .back()
            .is_some_and(|active| self.block > active.header.blocks() / 2);
        if self.live.is_empty() || half_full {
            2
        } else {
            1
        }
    }

    pub fn next_op(&mut self) -> Option<FileOp> {
        if self.running.is_some() || self.blocked_by_full_disk {
            return None;
        }
        if self.spares.len() < self.spares_wanted() {
            return Some(self.prepare());
        }
        // A file of another length cannot be recycled, and a few are enough.
        let &(segment, bytes) = self.released.front()?;
        if bytes == self.bytes && self.released.len() <= RELEASED_MAX {
            return None;
        }
        let tag = self.start(Running::Remove(segment));
        Some(FileOp {
            tag,
            kind: FileOpKind::Remove { segment },
        })
    }

    fn start(&mut self, running: Running) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.running = Some((tag, running));
        tag
    }

    fn prepare(&mut self) -> FileOp {
        let last = self.spares.back().or(self.live.back());
        let (predecessor, predecessor_crc) =
            last.map_or((SegmentId(0), 0), |s| (s.id(), s.header_crc));
        let segment = predecessor.next();
        let recycle = self
            .released
            .front()
            .filter(|(_, bytes)| *bytes == self.bytes)
            .map(|(id, _)| *id);
        let header = SegmentHeader {
            identity: self.identity,
            segment,
            bytes: self.bytes,
            nonce: mix(self.seed, segment.0),
            predecessor,
            predecessor_crc,
            recycled: recycle.is_some(),
        };
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
        let header_crc = header.encode(block.as_mut_slice());
        let urgent = self.live.is_empty() || self.spares.is_empty();
        let made = Segment {
            header,
            header_crc,
            first_batch: None,
            index_min: None,
        };
        let tag = self.start(Running::Prepare(Box::new(made), recycle));
        FileOp {
            tag,
            kind: FileOpKind::Prepare {
                segment,
                recycle,
                bytes: self.bytes,
                header: block,
                urgent,
            },
        }
    }

    /// Which file the running operation is about.
    pub fn running(&self) -> Option<(u64, SegmentId)> {
        let (tag, running) = self.running.as_ref()?;
        match running {
            Running::Prepare(segment, _) => Some((*tag, segment.id())),
            Running::Remove(id) => Some((*tag, *id)),
        }
    }

    /// The running operation was carried out in full.
    pub fn op_done(&mut self) {
        match self.running.take() {
            Some((_, Running::Prepare(segment, recycled))) => {
                if recycled.is_some() {
                    self.released.pop_front();
                }
                self.spares.push_back(*segment);
            }
            Some((_, Running::Remove(_))) => {
                self.released.pop_front();
            }
            None => {}
        }
    }

    /// There was no space for a new file; the driver has removed what it had written of it.
    pub fn op_found_disk_full(&mut self) {
        self.running = None;
        self.blocked_by_full_disk = true;
    }
}

/// Spreads the incarnation over the segments (the finalizer of SplitMix64), so that each life of a file has a nonce of
/// its own.
fn mix(seed: u64, segment: u64) -> u64 {
    let mut z = seed.wrapping_add(segment.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
