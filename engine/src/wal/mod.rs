//! The write-ahead log: what a member has promised to remember.
//!
//! In flow entries, the hard state and a few marks ([`Wal::append`]); out flow block-aligned writes ([`Wal::next_write`])
//! and, once their completions come back, "durable up to" ([`Wal::durable`]). The [`Wal`] itself does no I/O and knows no
//! clock; [`driver`] carries its writes to real files, a simulator to simulated ones. After a restart [`recover`] reads the
//! log back and decides where it ends.
//!
//! Invariants
//! * A block that became durable is never written again while its segment is part of the log.
//! * Durability advances over the completed prefix of the writes only, whatever order they complete in.
//! * A failed write is final: nothing is acknowledged after it ([`WalFailed`]).
//! * A segment receives its first batch only once its successor exists, durably. So the newest segment file never holds a
//!   batch (the very first one of a log excepted), and a segment that was lost always shows.
//! * Nothing in the files is used before the CRC over it was checked.
//! * A damaged batch is cut off only where nothing says that it had been durable: no claim of a later batch, none of the
//!   tree's meta page. Otherwise recovery refuses and names the place.
//!
//! Why a batch that was durable behind a gap can never come back: every batch repeats the CRC of the header before it and
//! carries the *incarnation*, a number drawn at each opening of the log. After a crash the gap is filled by a batch of the
//! next incarnation, whose header CRC differs even if the records are the same; and a batch of another incarnation than
//! its predecessor's is accepted only if it says that it opened the log, which it did from its predecessor's end.
//!
//! The format is in `engine/FORMAT.md`.

mod ahead;
mod batch;
pub mod buffer;
mod config;
mod dir;
pub mod driver;
mod dump;
mod evidence;
mod failure;
pub mod format;
mod fuzzing;
mod probe;
mod read;
mod record;
mod recover;
mod recover_error;
mod scan;
mod scrub;
mod segment;
mod survey;
mod threads;
mod walk;
mod writer;

pub use buffer::{AlignedBuf, BLOCK_BYTES};
pub use config::{Config, ConfigError};
pub use dir::{LogDir, MemoryDir, SegmentFile};
pub use dump::dump;
pub use failure::{AppendError, WalFailed};
pub use fuzzing::{wal_mutate, wal_open};
pub use probe::{probe, probe_once, Probe};
pub use read::{ReadError, ReadJob};
pub use record::{BadRecord, Mark, Record, Records};
pub use recover::{recover, recover_while, Expect, RecoverError, Recovered, Report, Tail, Walked};
pub use scrub::ScrubJob;
pub use segment::{Demand, FileOp, FileOpKind};
pub use threads::{Completion, WriterThreads};
pub use walk::TermHistory;
pub use writer::{Wal, Write};

/// Whose log it is. Files of another cluster or member are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
}

/// Number of a segment file; the first one of a log is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentId(pub u64);

/// Larger numbers are never reached.
const SEGMENTS_EVER_MAX: u64 = 1 << 62;

impl SegmentId {
    /// `00000000000000a1.wal`: fixed width, so that a listing is in order.
    pub fn file_name(self) -> String {
        format!("{:016x}.wal", self.0)
    }

    pub fn from_file_name(name: &str) -> Option<SegmentId> {
        let digits = name.strip_suffix(".wal")?;
        let canonical = digits.len() == 16
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !canonical {
            return None;
        }
        u64::from_str_radix(digits, 16)
            .ok()
            .filter(|id| (1..=SEGMENTS_EVER_MAX).contains(id))
            .map(SegmentId)
    }

    pub(crate) fn next(self) -> SegmentId {
        SegmentId(self.0 + 1)
    }
}

impl std::fmt::Display for SegmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file_name())
    }
}

/// Order number of an append. Everything appended is durable once [`Wal::durable`] has reached its ticket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A durable place in the log: a second, independent claim that the tree's meta page makes about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    pub segment: SegmentId,
    /// Sequence number of the last durable batch; 0 while there is none.
    pub batch: u64,
    /// Last durable entry.
    pub index: u64,
}

impl LogPosition {
    pub const BYTES: usize = 24;

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.segment.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.batch.to_le_bytes());
        out[16..].copy_from_slice(&self.index.to_le_bytes());
        out
    }

    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> LogPosition {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        LogPosition {
            segment: SegmentId(word(0)),
            batch: word(8),
            index: word(16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_round_trip_and_nothing_else_is_taken_for_a_segment() {
        for id in [1, 0xa1, SEGMENTS_EVER_MAX] {
            assert_eq!(
                SegmentId::from_file_name(&SegmentId(id).file_name()),
                Some(SegmentId(id))
            );
        }
        for name in [
            "",
            ".wal",
            "1.wal",
            "00000000000000A1.wal",
            "+00000000000000a.wal",
            "0000000000000000.wal",
            "ffffffffffffffff.wal",
            "00000000000000a1.tmp",
        ] {
            assert_eq!(SegmentId::from_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn positions_round_trip() {
        let position = LogPosition {
            segment: SegmentId(1),
            batch: 2,
            index: u64::MAX,
        };
        assert_eq!(LogPosition::from_bytes(&position.to_bytes()), position);
    }
}
