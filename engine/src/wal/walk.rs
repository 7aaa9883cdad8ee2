//! Following the chain of batches and keeping account of what they say.

use bytes::Bytes;
use proto::raftpb::{ConfState, Entry};

use super::buffer::BLOCK_BYTES;
use super::dir::LogDir;
use super::format::{BatchHeader, LogState};
use super::read::Marks;
use super::record::{Mark, RawEntry, RawRecord, RawRecords};
use super::recover::Walked;
use super::recover_error::{At, RecoverError};
use super::scan::{ReadFailed, Reader, SegmentView};
use super::survey::Found;
use super::{LogPosition, SegmentId};

/// Indexes and batch numbers beyond this are never reached; refusing them keeps the arithmetic on them free of overflow.
const NUMBER_MAX: u64 = 1 << 62;

/// Where the walk stands: the place and the number of the next batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub segment: SegmentId,
    pub block: u32,
    /// Number of the batch that should lie here; `None` where not even the first was found.
    pub batch: Option<u64>,
    pub incarnation: Option<u64>,
}

/// What the batches of a segment said.
#[derive(Clone, Debug)]
pub(super) struct SegmentFacts {
    pub id: SegmentId,
    pub first_batch: u64,
    pub last_batch: u64,
    pub index_min: Option<u64>,
}

/// The terms of a stretch of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermHistory {
    /// Index and term of an entry from which on all terms are known; (0, 0) is the beginning of the log.
    pub origin: (u64, u64),
    /// First index and term of each run behind the origin that differs in term from what precedes it.
    pub runs: Vec<(u64, u64)>,
}

impl TermHistory {
    fn after(index: u64, term: u64) -> TermHistory {
        TermHistory {
            origin: (index, term),
            runs: Vec::new(),
        }
    }

    /// An entry that takes the place of whatever stood at its index and behind it.
    fn note(&mut self, index: u64, term: u64) {
        if index <= self.origin.0 {
            *self = TermHistory::after(index, term);
            return;
        }
        while self.runs.last().is_some_and(|run| run.0 >= index) {
            self.runs.pop();
        }
        if self.runs.last().map_or(self.origin.1, |run| run.1) != term {
            self.runs.push((index, term));
        }
    }
}

/// Everything that the walk found.
#[derive(Default)]
pub(super) struct Findings {
    pub segments: Vec<SegmentFacts>,
    pub state: LogState,
    pub entries: Vec<Entry>,
    /// First entry that the walked part gives.
    pub first_index: u64,
    pub start: Option<(u64, u64)>,
    pub history: TermHistory,
    pub last: Option<Entry>,
    pub membership: Option<(u64, ConfState)>,
    pub marks: Marks,
    pub last_batch: u64,
    pub last_is_seal: bool,
    pub previous_crc: u32,
    pub batches: u64,
}

pub(super) struct Walk<'a> {
    segments: &'a [Found],
    applied: u64,
    /// Index of the current segment in `segments`.
    at: usize,
    block: u32,
    incarnation: Option<u64>,
    torn: bool,
    found: Findings,
}

impl<'a> Walk<'a> {
    /// `segments` is not empty.
    pub fn new(segments: &'a [Found], applied: u64) -> Walk<'a> {
        Walk {
            segments,
            applied,
            at: 0,
            block: 1,
            incarnation: None,
            torn: false,
            found: Findings::default(),
        }
    }

    pub fn end(&self) -> End {
        let known = self.incarnation.is_some() || self.segments[0].is_first();
        End {
            segment: self.segments[self.at].id,
            block: self.block,
            batch: known.then_some(self.found.last_batch + 1),
            incarnation: self.incarnation,
        }
    }

    /// A batch with the right header lies at the end, and its payload is not what was written.
    pub fn torn(&self) -> bool {
        self.torn
    }

    pub fn state(&self) -> LogState {
        self.found.state
    }

    /// Which segment holds the last batch.
    pub fn last_segment(&self) -> Option<usize> {
        self.incarnation.map(|_| self.at)
    }

    /// Whether the batch at a claimed position is part of the log, in the segment named.
    pub fn contains(&self, claim: LogPosition) -> bool {
        let facts = self
            .found
            .segments
            .iter()
            .find(|facts| facts.id == claim.segment);
        match facts {
            Some(facts) => (facts.first_batch..=facts.last_batch).contains(&claim.batch),
            // Released since: fine, as long as it is older than what is left.
            None => claim.segment < self.segments[0].id,
        }
    }

    pub fn walked(&self) -> Walked<'_> {
        Walked {
            entries: &self.found.entries,
            commit: self.found.state.commit,
            start: self.found.start,
        }
    }

    pub fn finish(self) -> Findings {
        self.found
    }

    /// Takes the next batch into account; false where there is none.
    pub fn step(
        &mut self,
        dir: &dyn LogDir,
        reader: &mut Reader<'_>,
    ) -> Result<bool, RecoverError> {
        self.torn = false;
        // In this segment, or, where it did not fit there, at the start of the next.
        let mut places = vec![(self.at, self.block)];
        if self.incarnation.is_some() && self.at + 1 < self.segments.len() {
            places.push((self.at + 1, 1));
        }
        for (at, block) in places {
            let Some(view) = self.segments[at].view() else {
                continue;
            };
            let header = reader
                .header(&view, block)
                .map_err(|failed| read_failed(dir, failed))?;
            let Some((header, crc)) = header.filter(|(header, _)| self.follows(header)) else {
                continue;
            };
            let payload = reader
                .payload(&view, &header)
                .map_err(|failed| read_failed(dir, failed))?;
            let Some(payload) = payload else {
                // A dead batch may lie here, torn in an earlier life, with its successor in the next segment.
                self.torn = true;
                continue;
            };
            self.torn = false;
            self.take(&view, &header, &payload).map_err(|why| {
                let offset = u64::from(block) * BLOCK_BYTES as u64;
                RecoverError::Malformed {
                    at: At {
                        file: dir.name(view.id),
                        segment: view.id,
                        offset,
                    },
                    why,
                }
            })?;
            (self.at, self.block) = (at, block + header.blocks);
            self.found.previous_crc = crc;
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether a batch continues the chain.
    fn follows(&self, header: &BatchHeader) -> bool {
        match self.incarnation {
            Some(incarnation) => {
                header.sequence == self.found.last_batch + 1
                    && header.previous_crc == self.found.previous_crc
                    && (header.incarnation == incarnation || header.opening)
            }
            // The oldest segment left begins in the middle of the chain, unless it is the log's first.
            None => {
                !self.segments[0].is_first()
                    || (header.sequence == 1 && header.previous_crc == 0 && header.opening)
            }
        }
    }

    fn take(
        &mut self,
        view: &SegmentView,
        header: &BatchHeader,
        payload: &Bytes,
    ) -> Result<(), &'static str> {
        if header.sequence > NUMBER_MAX || header.before.last_index > NUMBER_MAX {
            return Err("a number is beyond any bound");
        }
        if self.incarnation.is_none() {
            self.found.state = header.before;
            let before = header.before;
            self.found.history = TermHistory::after(before.last_index, before.last_term);
            self.found.first_index = header.before.last_index + 1;
        } else if self.found.state != header.before {
            return Err("the state before the batch is not the state after its predecessor");
        }
        let mut count = 0;
        let mut index_min: Option<u64> = None;
        let mut starts = false;
        let mut last = None;
        for record in RawRecords::new(payload) {
            count += 1;
            match record.map_err(|bad| bad.why)? {
                RawRecord::Entry(entry) => {
                    self.take_entry(&entry, payload)?;
                    index_min = Some(index_min.map_or(entry.index, |min| min.min(entry.index)));
                    last = Some(entry);
                }
                RawRecord::HardState(state) => {
                    self.found.state.term = state.term.unwrap_or(0);
                    self.found.state.vote = state.vote.unwrap_or(0);
                    self.found.state.commit = state.commit.unwrap_or(0);
                }
                RawRecord::Mark(Mark::Start { index, .. }) if index > NUMBER_MAX => {
                    return Err("a number is beyond any bound");
                }
                RawRecord::Mark(Mark::Start { index, term }) => {
                    self.found.entries.clear();
                    (self.found.last, last) = (None, None);
                    self.found.history = TermHistory::after(index, term);
                    self.found.start = Some((index, term));
                    self.found.first_index = index + 1;
                    (self.found.state.last_index, self.found.state.last_term) = (index, term);
                    (index_min, starts) = (None, true);
                }
                RawRecord::Mark(Mark::Membership { index, members }) => {
                    self.found.membership = Some((index, members))
                }
                RawRecord::Mark(Mark::Checkpoint { .. }) => {}
            }
        }
        if let Some(last) = last {
            self.found.last = Some(last.of(payload));
        }
        if count != header.records || header.seal != (count == 0) {
            return Err("the number of records is not the one stated");
        }
        self.found.marks.note_batch(
            view.id,
            header.block,
            index_min,
            starts,
            header.before.last_index,
        );
        self.note_segment(
            view.id,
            header.sequence,
            if starts { Some(0) } else { index_min },
        );
        self.incarnation = Some(header.incarnation);
        self.found.last_batch = header.sequence;
        self.found.last_is_seal = header.seal;
        self.found.batches += 1;
        Ok(())
    }

    fn take_entry(&mut self, entry: &RawEntry, payload: &Bytes) -> Result<(), &'static str> {
        let (index, term) = (entry.index, entry.term);
        if index == 0 || index > NUMBER_MAX || index - 1 > self.found.state.last_index {
            return Err("an entry does not follow the one before it");
        }
        while self
            .found
            .entries
            .last()
            .is_some_and(|last| last.index.unwrap_or(0) >= index)
        {
            self.found.entries.pop();
        }
        self.found.state.last_index = index;
        self.found.state.last_term = term;
        self.found.first_index = self.found.first_index.min(index);
        self.found.history.note(index, term);
        // What the tree holds already is not needed again: its place in the log is enough.
        if index > self.applied {
            self.found.entries.push(entry.of(payload));
        }
        Ok(())
    }

    fn note_segment(&mut self, id: SegmentId, batch: u64, index: Option<u64>) {
        match self
            .found
            .segments
            .last_mut()
            .filter(|facts| facts.id == id)
        {
            Some(facts) => {
                facts.last_batch = batch;
                facts.index_min = match (facts.index_min, index) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
            None => self.found.segments.push(SegmentFacts {
                id,
                first_batch: batch,
                last_batch: batch,
                index_min: index,
            }),
        }
    }
}

pub(super) fn read_failed(dir: &dyn LogDir, failed: ReadFailed) -> RecoverError {
    let ReadFailed {
        segment,
        offset,
        error,
    } = failed;
    RecoverError::Io {
        at: At {
            file: dir.name(segment),
            segment,
            offset,
        },
        doing: "reading",
        error,
    }
}
