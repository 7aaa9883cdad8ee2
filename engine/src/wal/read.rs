//! Reading old entries back: marks in memory say where, a job reads and checks.

use std::collections::VecDeque;

use bytes::Bytes;
use proto::raftpb::Entry;

use super::batch::Batch;
use super::dir::LogDir;
use super::format::BatchHeader;
use super::record::{Mark, Record, Records};
use super::scan::{ReadFailed, Reader, SegmentView};
use super::segment::{Place, Segment};
use super::{Identity, SegmentId};

/// Distance between two marks of a segment, in blocks: what a read skips at most before its first entry.
const MARK_EVERY_BLOCKS: u32 = 16;
/// What a read asks of the disk at once, in bytes.
const READ_WINDOW_BYTES: usize = 256 << 10;

/// A batch that holds entry `index` (the smallest that it holds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IndexMark {
    index: u64,
    segment: SegmentId,
    block: u32,
    /// The entries from here on replaced others: reading on from an earlier mark must stop before `index`.
    run: bool,
}

/// Sparse map from entry index to place, increasing in both.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    list: VecDeque<IndexMark>,
}

impl Marks {
    /// Notes a batch that was placed.
    pub fn note(&mut self, place: &Place, batch: &Batch) {
        self.note_batch(
            place.segment,
            place.block,
            batch.index_min,
            batch.starts,
            batch.before.last_index,
        );
    }

    /// The same from its parts: `before` is the last index of the log before the batch.
    pub fn note_batch(
        &mut self,
        segment: SegmentId,
        block: u32,
        index_min: Option<u64>,
        starts: bool,
        before: u64,
    ) {
        if starts {
            self.list.clear();
        }
        let Some(index) = index_min else { return };
        while self.list.back().is_some_and(|mark| mark.index >= index) {
            self.list.pop_back();
        }
        let run = starts || index <= before;
        let near =
            |mark: &IndexMark| mark.segment == segment && block - mark.block < MARK_EVERY_BLOCKS;
        if run || !self.list.back().is_some_and(near) {
            self.list.push_back(IndexMark {
                index,
                segment,
                block,
                run,
            });
        }
    }

    /// Forgets the segments before `oldest`.
    pub fn release(&mut self, oldest: SegmentId) {
        while self.list.front().is_some_and(|mark| mark.segment < oldest) {
            self.list.pop_front();
        }
    }

    pub fn first_index(&self) -> Option<u64> {
        self.list.front().map(|mark| mark.index)
    }

    pub fn job(
        &self,
        identity: Identity,
        live: &VecDeque<Segment>,
        from: u64,
        to: u64,
        bytes_max: u64,
    ) -> Option<ReadJob> {
        if from > to {
            return None;
        }
        let first = self
            .list
            .partition_point(|mark| mark.index <= from)
            .checked_sub(1)?;
        let mut pieces: Vec<Piece> = Vec::new();
        for mark in self
            .list
            .iter()
            .skip(first)
            .take_while(|mark| mark.index <= to)
        {
            if let Some(last) = pieces.last_mut() {
                if !mark.run {
                    continue;
                }
                last.to = mark.index - 1;
            }
            let from = from.max(mark.index);
            pieces.push(Piece {
                from,
                to,
                segment: mark.segment,
                block: mark.block,
            });
        }
        let oldest = pieces.first()?.segment;
        let view = |s: &Segment| SegmentView {
            id: s.id(),
            nonce: s.header.nonce,
            blocks: s.header.blocks(),
        };
        let segments = live.iter().filter(|s| s.id() >= oldest).map(view).collect();
        Some(ReadJob {
            identity,
            segments,
            pieces,
            bytes_max,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    from: u64,
    to: u64,
    segment: SegmentId,
    block: u32,
}

/// Why entries could not be read back.
#[derive(Debug)]
pub enum ReadError {
    Io {
        file: String,
        offset: u64,
        error: std::io::Error,
    },
    /// The log was released and its file recycled since the job was made: the entries are older than what is kept.
    Gone { file: String },
    /// A durable batch no longer passes its check.
    Damaged {
        file: String,
        offset: u64,
        why: &'static str,
    },
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Io {
                file,
                offset,
                error,
            } => write!(f, "reading {file} at offset {offset}: {error}"),
            ReadError::Gone { file } => write!(f, "{file} is no longer part of the log"),
            ReadError::Damaged { file, offset, why } => {
                write!(f, "{file} is damaged at offset {offset}: {why}")
            }
        }
    }
}

impl std::error::Error for ReadError {}

/// Reads entries back, on a pool thread.
#[derive(Clone, Debug)]
pub struct ReadJob {
    identity: Identity,
    segments: Vec<SegmentView>,
    pieces: Vec<Piece>,
    bytes_max: u64,
}

impl ReadJob {
    /// The entries asked for, consecutive and in order; fewer only where `max_bytes` was reached.
    pub fn run(&self, dir: &dyn LogDir) -> Result<Vec<Entry>, ReadError> {
        let mut reader = Reader::new(dir, self.identity, READ_WINDOW_BYTES);
        let mut out: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for piece in &self.pieces {
            let mut at = self
                .view(dir, piece.segment)?
                .map(|segment| (segment, piece.block, None));
            let mut next = piece.from;
            while next <= piece.to {
                let Some((segment, block, previous)) = at else {
                    return Err(damaged(
                        dir,
                        piece.segment,
                        piece.block,
                        "the log ends before the entries asked for",
                    ));
                };
                let (segment, header, crc) =
                    self.batch(dir, &mut reader, segment, block, previous)?;
                for entry in self.entries(dir, &mut reader, &segment, &header, next, piece.to)? {
                    let size = entry.data.as_ref().map_or(0, Bytes::len) as u64;
                    if !out.is_empty() && bytes + size > self.bytes_max {
                        return Ok(out);
                    }
                    bytes += size;
                    next += 1;
                    out.push(entry);
                }
                at = Some((
                    segment,
                    header.block + header.blocks,
                    Some((header.sequence, crc)),
                ));
            }
        }
        Ok(out)
    }

    fn view(&self, dir: &dyn LogDir, id: SegmentId) -> Result<Option<SegmentView>, ReadError> {
        let listed = self
            .segments
            .iter()
            .find(|segment| segment.id == id)
            .copied();
        if listed.is_none() {
            return Err(ReadError::Gone { file: dir.name(id) });
        }
        Ok(listed)
    }

    /// The batch at this place or, where the log went on in the next segment, the first one there.
    fn batch(
        &self,
        dir: &dyn LogDir,
        reader: &mut Reader<'_>,
        segment: SegmentView,
        block: u32,
        previous: Option<(u64, u32)>,
    ) -> Result<(SegmentView, BatchHeader, u32), ReadError> {
        let successor = self
            .segments
            .iter()
            .find(|next| next.id == segment.id.next())
            .copied();
        for (segment, block) in [Some((segment, block)), successor.map(|next| (next, 1))]
            .into_iter()
            .flatten()
        {
            let found = reader
                .header(&segment, block)
                .map_err(|failed| read_failed(dir, failed))?;
            let follows = |header: &BatchHeader| match previous {
                Some((sequence, crc)) => {
                    header.sequence == sequence + 1 && header.previous_crc == crc
                }
                None => true,
            };
            if let Some((header, crc)) = found.filter(|(header, _)| follows(header)) {
                return Ok((segment, header, crc));
            }
            if previous.is_none() {
                break;
            }
        }
        Err(damaged(
            dir,
            segment.id,
            block,
            "the batch that lies here is not the one expected",
        ))
    }

    /// The entries `from..=to` of a batch as they stand at its end.
    fn entries(
        &self,
        dir: &dyn LogDir,
        reader: &mut Reader<'_>,
        segment: &SegmentView,
        header: &BatchHeader,
        from: u64,
        to: u64,
    ) -> Result<Vec<Entry>, ReadError> {
        let payload = reader
            .payload(segment, header)
            .map_err(|failed| read_failed(dir, failed))?;
        let bad = |why| damaged(dir, segment.id, header.block, why);
        let payload = payload.ok_or_else(|| bad("the CRC of the payload is wrong"))?;
        let mut out: Vec<Entry> = Vec::new();
        for record in Records::new(payload) {
            match record.map_err(|record| bad(record.why))? {
                Record::Entry(entry) => {
                    let index = entry.index.unwrap_or(0);
                    while out
                        .last()
                        .is_some_and(|last| last.index.unwrap_or(0) >= index)
                    {
                        out.pop();
                    }
                    out.push(entry);
                }
                Record::Mark(Mark::Start { .. }) => out.clear(),
                Record::HardState(_) | Record::Mark(_) => {}
            }
        }
        out.retain(|entry| (from..=to).contains(&entry.index.unwrap_or(0)));
        let consecutive = out
            .iter()
            .zip(from..)
            .all(|(entry, index)| entry.index == Some(index));
        if !consecutive {
            return Err(bad("an entry is missing"));
        }
        Ok(out)
    }
}

fn read_failed(dir: &dyn LogDir, failed: ReadFailed) -> ReadError {
    let file = dir.name(failed.segment);
    if failed.error.kind() == std::io::ErrorKind::NotFound {
        return ReadError::Gone { file };
    }
    ReadError::Io {
        file,
        offset: failed.offset,
        error: failed.error,
    }
}

fn damaged(dir: &dyn LogDir, segment: SegmentId, block: u32, why: &'static str) -> ReadError {
    let offset = u64::from(block) * super::BLOCK_BYTES as u64;
    ReadError::Damaged {
        file: dir.name(segment),
        offset,
        why,
    }
}
