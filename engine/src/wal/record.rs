//! Records inside a batch.
//!
//! Each has an 8-byte head (kind, flags, 16 bits of kind-specific data, length of the body) and a body. They are parsed
//! only from a payload whose CRC was right; what contradicts itself even so is an error, never a panic.

use std::ops::Range;

use crate::planted::{planted, Fault};
use bytes::Bytes;
use prost::Message;
use proto::raftpb::{ConfState, Entry, HardState};

use super::buffer::AlignedBuf;

const HEAD_BYTES: usize = 8;
const ENTRY_FIXED_BYTES: usize = 16;
const ENTRY_HAS_DATA: u8 = 1;

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_START: u8 = 3;
const KIND_CHECKPOINT: u8 = 4;
const KIND_MEMBERSHIP: u8 = 5;

/// Something to remember in the log besides entries and hard state.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// A snapshot took the place of everything up to this entry: the next entry is `index + 1`, older ones are gone.
    Start { index: u64, term: u64 },
    /// The tree's checkpoint `number` holds everything up to this entry. Nothing depends on it; it helps a reader of a dump.
    Checkpoint { number: u64, index: u64, term: u64 },
    /// The members as of this entry.
    Membership { index: u64, members: ConfState },
}

/// One record, as read back.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Entry(Entry),
    HardState(HardState),
    Mark(Mark),
}

/// Why a payload could not be read although its CRC is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// From the start of the payload, in bytes.
    pub offset: usize,
    pub why: &'static str,
}

/// Bytes that an entry takes in a batch; `None` for one that the format cannot hold.
pub(super) fn entry_bytes(entry: &Entry) -> Option<usize> {
    let data = entry.data.as_ref().map_or(0, Bytes::len);
    u16::try_from(entry.r#type.unwrap_or(0)).ok()?;
    u32::try_from(data + ENTRY_FIXED_BYTES).ok()?;
    Some(HEAD_BYTES + ENTRY_FIXED_BYTES + data)
}

pub(super) const HARD_STATE_BYTES: usize = HEAD_BYTES + 24;

fn head(kind: u8, flags: u8, extra: u16, body_bytes: usize) -> [u8; HEAD_BYTES] {
    let extra = extra.to_le_bytes();
    // The callers check that a body is below 4 GiB.
    let len = (body_bytes as u32).to_le_bytes();
    [
        kind, flags, extra[0], extra[1], len[0], len[1], len[2], len[3],
    ]
}

/// Appends an entry for which [`entry_bytes`] gave a size.
pub(super) fn put_entry(out: &mut AlignedBuf, entry: &Entry) {
    let data: &[u8] = entry.data.as_deref().unwrap_or(&[]);
    let flags = if entry.data.is_some() {
        ENTRY_HAS_DATA
    } else {
        0
    };
    let kind = entry.r#type.unwrap_or(0) as u16;
    let mut fixed = [0; HEAD_BYTES + ENTRY_FIXED_BYTES];
    fixed[..8].copy_from_slice(&head(
        KIND_ENTRY,
        flags,
        kind,
        ENTRY_FIXED_BYTES + data.len(),
    ));
    fixed[8..16].copy_from_slice(&entry.term.unwrap_or(0).to_le_bytes());
    fixed[16..].copy_from_slice(&entry.index.unwrap_or(0).to_le_bytes());
    out.put(&fixed);
    out.put(data);
}

pub(super) fn put_hard_state(out: &mut AlignedBuf, state: &HardState) {
    out.put(&head(KIND_HARD_STATE, 0, 0, 24));
    out.put(&state.term.unwrap_or(0).to_le_bytes());
    out.put(&state.vote.unwrap_or(0).to_le_bytes());
    out.put(&state.commit.unwrap_or(0).to_le_bytes());
}

/// The bytes of a mark, head included. Marks are rare, so a copy of their own does no harm.
pub(super) fn mark_bytes(mark: &Mark) -> Vec<u8> {
    let (kind, body) = match mark {
        Mark::Start { index, term } => (KIND_START, [*index, *term].map(u64::to_le_bytes).concat()),
        Mark::Checkpoint {
            number,
            index,
            term,
        } => (
            KIND_CHECKPOINT,
            [*number, *index, *term].map(u64::to_le_bytes).concat(),
        ),
        Mark::Membership { index, members } => {
            let mut body = index.to_le_bytes().to_vec();
            body.extend_from_slice(&members.encode_to_vec());
            (KIND_MEMBERSHIP, body)
        }
    };
    let mut out = head(kind, 0, 0, body.len()).to_vec();
    out.extend_from_slice(&body);
    out
}

/// A record whose data is still in its payload.
pub(super) enum RawRecord {
    Entry(RawEntry),
    HardState(HardState),
    Mark(Mark),
}

/// An entry, and where its data lies in the payload.
pub(super) struct RawEntry {
    pub kind: i32,
    pub term: u64,
    pub index: u64,
    data: Option<Range<usize>>,
}

impl RawEntry {
    /// The entry, which shares the payload's memory.
    pub fn of(&self, payload: &Bytes) -> Entry {
        Entry {
            r#type: Some(self.kind),
            term: Some(self.term),
            index: Some(self.index),
            data: self.data.clone().map(|range| payload.slice(range)),
        }
    }
}

/// Reads the records of a payload one by one where they lie; ends after the first bad one.
pub(super) struct RawRecords<'a> {
    payload: &'a [u8],
    at: usize,
}

impl<'a> RawRecords<'a> {
    pub fn new(payload: &'a [u8]) -> RawRecords<'a> {
        RawRecords { payload, at: 0 }
    }

    fn bad<T>(&self, why: &'static str) -> Result<T, BadRecord> {
        Err(BadRecord {
            offset: self.at,
            why,
        })
    }

    fn read(&mut self) -> Result<RawRecord, BadRecord> {
        let rest = &self.payload[self.at..];
        let Some((head, rest)) = rest.split_first_chunk::<HEAD_BYTES>() else {
            return self.bad("a record head runs past the end of the batch");
        };
        let (kind, flags) = (head[0], head[1]);
        let extra = u16::from_le_bytes([head[2], head[3]]);
        let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let body = match rest.get(..len) {
            None if planted(Fault::LengthsTrusted) => Some(&rest[..len]),
            body => body,
        };
        let Some(body) = body else {
            return self.bad("a record runs past the end of the batch");
        };
        let from = self.at + HEAD_BYTES;
        let Some(record) = decode(kind, flags, extra, body, from) else {
            return self.bad("a record is of an unknown kind or of the wrong length");
        };
        self.at = from + len;
        Ok(record)
    }
}

impl Iterator for RawRecords<'_> {
    type Item = Result<RawRecord, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.payload.len() {
            return None;
        }
        let record = self.read();
        if record.is_err() {
            self.at = self.payload.len();
        }
        Some(record)
    }
}

/// Reads the records of a payload one by one; entry data are slices of it, not copies.
pub struct Records {
    payload: Bytes,
    at: usize,
}

impl Records {
    pub fn new(payload: Bytes) -> Records {
        Records { payload, at: 0 }
    }
}

impl Iterator for Records {
    type Item = Result<Record, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut raw = RawRecords {
            payload: &self.payload,
            at: self.at,
        };
        let record = raw.next()?;
        self.at = raw.at;
        Some(record.map(|record| match record {
            RawRecord::Entry(entry) => Record::Entry(entry.of(&self.payload)),
            RawRecord::HardState(state) => Record::HardState(state),
            RawRecord::Mark(mark) => Record::Mark(mark),
        }))
    }
}

fn words<const N: usize>(body: &[u8]) -> Option<[u64; N]> {
    if body.len() != N * 8 {
        return None;
    }
    let mut out = [0; N];
    for (word, bytes) in out.iter_mut().zip(body.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    Some(out)
}

/// `from`: where the body begins in the payload.
fn decode(kind: u8, flags: u8, extra: u16, body: &[u8], from: usize) -> Option<RawRecord> {
    match kind {
        KIND_ENTRY => {
            let [term, index] = words::<2>(body.get(..ENTRY_FIXED_BYTES)?)?;
            let has_data = flags & ENTRY_HAS_DATA != 0;
            if !has_data && body.len() > ENTRY_FIXED_BYTES {
                return None;
            }
            Some(RawRecord::Entry(RawEntry {
                kind: i32::from(extra),
                term,
                index,
                data: has_data.then(|| from + ENTRY_FIXED_BYTES..from + body.len()),
            }))
        }
        KIND_HARD_STATE => {
            let [term, vote, commit] = words::<3>(body)?;
            Some(RawRecord::HardState(HardState {
                term: Some(term),
                vote: Some(vote),
                commit: Some(commit),
            }))
        }
        KIND_START => {
            let [index, term] = words::<2>(body)?;
            Some(RawRecord::Mark(Mark::Start { index, term }))
        }
        KIND_CHECKPOINT => {
            let [number, index, term] = words::<3>(body)?;
            Some(RawRecord::Mark(Mark::Checkpoint {
                number,
                index,
                term,
            }))
        }
        KIND_MEMBERSHIP => {
            let [index] = words::<1>(body.get(..8)?)?;
            let members = ConfState::decode(&body[8..]).ok()?;
            Some(RawRecord::Mark(Mark::Membership { index, members }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_written() {
        let entries = [
            Entry {
                r#type: Some(2),
                term: Some(3),
                index: Some(4),
                data: Some(Bytes::from_static(b"data")),
            },
            Entry {
                r#type: Some(0),
                term: Some(3),
                index: Some(5),
                data: None,
            },
            Entry {
                r#type: Some(0),
                term: Some(3),
                index: Some(6),
                data: Some(Bytes::new()),
            },
        ];
        let hard = HardState {
            term: Some(1),
            vote: Some(2),
            commit: Some(3),
        };
        let marks = [
            Mark::Start { index: 8, term: 9 },
            Mark::Checkpoint {
                number: 1,
                index: 2,
                term: 3,
            },
            Mark::Membership {
                index: 7,
                members: ConfState {
                    voters: vec![1, 2],
                    ..ConfState::default()
                },
            },
        ];
        let mut out = AlignedBuf::with_capacity(4096);
        let mut bytes = HARD_STATE_BYTES;
        for entry in &entries {
            put_entry(&mut out, entry);
            bytes += entry_bytes(entry).unwrap();
        }
        put_hard_state(&mut out, &hard);
        assert_eq!(out.len(), bytes);
        for mark in &marks {
            out.put(&mark_bytes(mark));
        }
        let payload = Bytes::copy_from_slice(out.as_slice());
        let read: Vec<Record> = Records::new(payload.clone()).map(Result::unwrap).collect();
        let mut expected: Vec<Record> = entries.into_iter().map(Record::Entry).collect();
        expected.push(Record::HardState(hard));
        expected.extend(marks.into_iter().map(Record::Mark));
        assert_eq!(read, expected);
        for cut in 1..payload.len() {
            // Whatever is cut, reading ends, with records that are a prefix.
            let read: Vec<_> = Records::new(payload.slice(..cut))
                .map_while(Result::ok)
                .collect();
            assert_eq!(read, expected[..read.len()]);
        }
    }
}
