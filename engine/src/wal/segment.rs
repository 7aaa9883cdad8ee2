//! The segments of the log: which hold batches, which wait prepared, which may be recycled.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use super::buffer::{AlignedBuf, BLOCK_BYTES};
use super::format::SegmentHeader;
use super::scan::SegmentView;
use super::{Identity, SegmentId};

/// Released segments kept to be recycled, in number; more are removed.
const RELEASED_MAX: usize = 2;

/// The second spare segment is begun when this share of the last live one is used, in thousandths...
const SECOND_SPARE_AT: u64 = 125;
/// ...and is to be there when this is.
const WANTED_AT: u64 = 875;
/// The log waits for the segment, or soon will.
const URGENT: u32 = 1000;

/// How far the log has come, since the making of a segment began, on its way to where it wants that segment, in thousandths.
/// Whoever fills the segment keeps step, and spares the disk otherwise: the zeros cost a lone client's puts as little as they
/// can, and are there in time when many come at once.
#[derive(Clone, Debug, Default)]
pub struct Demand(Arc<AtomicU32>);

impl Demand {
    /// For a file that somebody waits for.
    pub fn urgent() -> Demand {
        Demand(Arc::new(AtomicU32::new(URGENT)))
    }

    /// At most 1000.
    pub fn thousandths(&self) -> u64 {
        self.0.load(Ordering::Relaxed).min(URGENT).into()
    }

    pub fn is_urgent(&self) -> bool {
        self.thousandths() >= URGENT.into()
    }

    fn set(&self, thousandths: u32) {
        self.0.fetch_max(thousandths, Ordering::Relaxed);
    }
}

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
        demand: Demand,
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

    pub fn view(&self) -> SegmentView {
        SegmentView {
            id: self.id(),
            nonce: self.header.nonce,
            blocks: self.header.blocks(),
        }
    }
}

/// Where a batch goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub segment: SegmentId,
    pub nonce: u64,
    pub block: u32,
}

struct Preparing {
    segment: Segment,
    recycled: bool,
    demand: Demand,
    /// First free block of the last live segment when it began.
    began_at: u32,
}

enum Running {
    Prepare(Box<Preparing>),
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
    waits_for_space: bool,
    /// The last attempt to make a segment found the file system full.
    pub disk_full: bool,
}

impl Segments {
    pub fn new(
        identity: Identity,
        bytes: u64,
        seed: u64,
        live: Vec<Segment>,
        mut spares: Vec<Segment>,
        block: u32,
    ) -> Segments {
        // One of another length may be too short for a batch; it is made anew under the same name.
        let fitting = spares
            .iter()
            .take_while(|spare| spare.header.bytes == bytes)
            .count();
        spares.truncate(fitting);
        Segments {
            identity,
            bytes,
            seed,
            live: live.into(),
            spares: VecDeque::from(spares),
            released: VecDeque::new(),
            block,
            running: None,
            next_tag: 1,
            waits_for_space: false,
            disk_full: false,
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
                self.hurry(true);
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
        self.hurry(false);
        Some(place)
    }

    /// A segment that takes no more batches, and the numbers of those it holds.
    pub fn sealed(&self, id: SegmentId) -> Option<(SegmentView, Range<u64>)> {
        let at = self.live.iter().position(|segment| segment.id() == id)?;
        let batches = self.live[at].first_batch?..self.live.get(at + 1)?.first_batch?;
        Some((self.live[at].view(), batches))
    }

    /// Blocks of the last live segment, and those of them that are used.
    fn used(&self) -> (u64, u64) {
        let blocks = self.live.back().map_or(1, |active| active.header.blocks());
        (blocks.max(1).into(), self.block.into())
    }

    /// Tells whoever makes a segment how far the log has come meanwhile.
    fn hurry(&mut self, waiting: bool) {
        let Some((_, Running::Prepare(preparing))) = &self.running else {
            return;
        };
        let (blocks, used) = self.used();
        let wanted_at = blocks * WANTED_AT / 1000;
        let began_at = u64::from(preparing.began_at);
        let is_wanted = waiting || self.live.is_empty() || self.spares.is_empty();
        preparing.demand.set(match wanted_at.checked_sub(began_at) {
            Some(way @ 1..) if !is_wanted => {
                let share = used.saturating_sub(began_at) * u64::from(URGENT) / way;
                u32::try_from(share).unwrap_or(URGENT)
            }
            _ => URGENT,
        });
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
                // What can be recycled needs no space.
                self.waits_for_space = false;
            }
        }
    }

    /// One, and a second one early enough to be made at leisure until the first is needed.
    fn spares_wanted(&self) -> usize {
        let (blocks, used) = self.used();
        if self.live.is_empty() || used * 1000 >= blocks * SECOND_SPARE_AT {
            2
        } else {
            1
        }
    }

    pub fn next_op(&mut self) -> Option<FileOp> {
        if self.running.is_some() || self.waits_for_space {
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
        let demand = Demand::default();
        let segment_made = Segment {
            header,
            header_crc,
            first_batch: None,
            index_min: None,
        };
        let preparing = Preparing {
            segment: segment_made,
            recycled: recycle.is_some(),
            demand: demand.clone(),
            began_at: self.block,
        };
        let tag = self.start(Running::Prepare(Box::new(preparing)));
        self.hurry(false);
        FileOp {
            tag,
            kind: FileOpKind::Prepare {
                segment,
                recycle,
                bytes: self.bytes,
                header: block,
                demand,
            },
        }
    }

    /// Which file the running operation is about.
    pub fn running(&self) -> Option<(u64, SegmentId)> {
        let (tag, running) = self.running.as_ref()?;
        match running {
            Running::Prepare(preparing) => Some((*tag, preparing.segment.id())),
            Running::Remove(id) => Some((*tag, *id)),
        }
    }

    /// Lets a new file be tried again.
    pub fn try_again(&mut self) {
        self.waits_for_space = false;
    }

    /// The running operation was carried out in full.
    pub fn op_done(&mut self) {
        match self.running.take() {
            Some((_, Running::Prepare(preparing))) => {
                if preparing.recycled {
                    self.released.pop_front();
                }
                self.spares.push_back(preparing.segment);
                self.disk_full = false;
            }
            Some((_, Running::Remove(_))) => {
                self.released.pop_front();
            }
            None => {}
        }
    }

    /// There was no space for a new file; the driver has removed what it had written of it. False if the operation was
    /// another one, which no lack of space should stop.
    pub fn op_found_disk_full(&mut self) -> bool {
        let creating =
            matches!(&self.running, Some((_, Running::Prepare(preparing))) if !preparing.recycled);
        if creating {
            self.running = None;
            self.waits_for_space = true;
            self.disk_full = true;
        }
        creating
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

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: u32 = 800;

    fn segment(id: u64) -> Segment {
        let header = SegmentHeader {
            identity: Identity {
                cluster_id: 1,
                member_id: 2,
            },
            segment: SegmentId(id),
            bytes: u64::from(BLOCKS) * BLOCK_BYTES as u64,
            nonce: id,
            predecessor: SegmentId(id - 1),
            predecessor_crc: 0,
            recycled: false,
        };
        Segment {
            header,
            header_crc: 0,
            first_batch: None,
            index_min: None,
        }
    }

    #[test]
    fn a_second_spare_is_made_in_step_with_the_log() {
        let (live, spares) = (vec![segment(1)], vec![segment(2)]);
        let header = &live[0].header;
        let mut segments = Segments::new(header.identity, header.bytes, 1, live, spares, 1);
        let mut used = 1;
        let mut use_until = |segments: &mut Segments, block: u32| {
            segments.place(block - used, 1).expect("there is room");
            used = block;
        };
        use_until(&mut segments, 99);
        assert!(segments.next_op().is_none(), "an eighth is not used yet");
        use_until(&mut segments, 100);
        let op = segments.next_op().expect("the second spare");
        let FileOpKind::Prepare { demand, .. } = op.kind else {
            panic!("there is nothing to remove");
        };
        let mut seen = vec![demand.thousandths()];
        for block in [160, 400, 699, 700, 750] {
            use_until(&mut segments, block);
            seen.push(demand.thousandths());
        }
        assert_eq!(seen, [0, 100, 500, 998, 1000, 1000]);
        assert!(demand.is_urgent());
    }

    #[test]
    fn a_segment_that_the_log_waits_for_is_urgent_at_once() {
        let identity = segment(1).header.identity;
        let bytes = segment(1).header.bytes;
        let mut segments = Segments::new(identity, bytes, 1, Vec::new(), Vec::new(), 0);
        let Some(FileOpKind::Prepare { demand, .. }) = segments.next_op().map(|op| op.kind) else {
            panic!("a log without segments makes one");
        };
        assert!(demand.is_urgent());
    }
}
