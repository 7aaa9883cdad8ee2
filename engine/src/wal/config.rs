//! How the log is written: sizes and bounds.

use std::path::PathBuf;

use super::buffer::BLOCK_BYTES;
use super::format::BATCH_HEADER_BYTES;
use super::Identity;

/// Writes that may be under way at once: more bring nothing on any device measured.
pub const IN_FLIGHT_MAX: usize = 4;
/// Smallest segment, in bytes: a header block, a batch of two blocks and a seal.
pub const SEGMENT_BYTES_MIN: u64 = 4 * BLOCK_BYTES as u64;
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Largest segment, in bytes, so that every length inside one fits 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;
pub const BATCH_BYTES_DEFAULT: usize = 1 << 20;
pub const PENDING_BYTES_DEFAULT: usize = 128 << 20;
/// An idle log claims its last batches durable after this time, in nanoseconds.
pub const SEAL_AFTER_NS: u64 = 100_000_000;
/// Time between two attempts to make a segment on a full file system, in nanoseconds.
pub const FULL_DISK_RETRY_NS: u64 = 1_000_000_000;

/// How the log is written.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the files are; for messages only.
    pub directory: PathBuf,
    /// Length of new segments, in bytes: a multiple of the block.
    pub segment_bytes: u64,
    /// Writes under way at once, 1 to [`IN_FLIGHT_MAX`].
    pub in_flight_max: usize,
    /// A batch takes no further record beyond this length; only a single larger record makes a larger batch.
    pub batch_bytes_max: usize,
    /// What may wait to become durable, in bytes; beyond it [`Wal::append`] refuses. From half of it on the log is congested.
    pub pending_bytes_max: usize,
    pub seal_after_ns: u64,
    /// Random number of this opening, drawn by the caller. Two openings of a log must not share one.
    pub incarnation: u64,
}

impl Config {
    pub fn new(directory: impl Into<PathBuf>, incarnation: u64) -> Config {
        Config {
            directory: directory.into(),
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            in_flight_max: 2,
            batch_bytes_max: BATCH_BYTES_DEFAULT,
            pending_bytes_max: PENDING_BYTES_DEFAULT,
            seal_after_ns: SEAL_AFTER_NS,
            incarnation,
        }
    }

    /// Largest record that a segment can hold, in bytes.
    pub(super) fn record_bytes_max(&self) -> usize {
        (self.segment_bytes as usize).saturating_sub(BLOCK_BYTES + BATCH_HEADER_BYTES)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let bytes = self.segment_bytes;
        if bytes % BLOCK_BYTES as u64 != 0
            || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes)
        {
            return Err(ConfigError::SegmentBytes(bytes));
        }
        if !(1..=IN_FLIGHT_MAX).contains(&self.in_flight_max) {
            return Err(ConfigError::InFlight(self.in_flight_max));
        }
        if self.batch_bytes_max < BLOCK_BYTES
            || self.batch_bytes_max > (bytes as usize) - BLOCK_BYTES
        {
            return Err(ConfigError::BatchBytes(self.batch_bytes_max));
        }
        Ok(())
    }
}

/// A configuration that the log cannot work with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    SegmentBytes(u64),
    InFlight(usize),
    BatchBytes(usize),
    /// The incarnation is that of the opening before: it was not drawn anew.
    Incarnation,
    /// The files belong to another cluster or member.
    Identity {
        found: Identity,
        expected: Identity,
    },
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ConfigError::SegmentBytes(bytes) => write!(
                f,
                "log segments of {bytes} bytes: need a multiple of {BLOCK_BYTES} from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
            ),
            ConfigError::InFlight(n) => write!(f, "{n} log writes in flight: need 1 to {IN_FLIGHT_MAX}"),
            ConfigError::BatchBytes(bytes) => {
                write!(f, "log batches of up to {bytes} bytes: need at least {BLOCK_BYTES}, and to fit a segment")
            }
            ConfigError::Incarnation => {
                f.write_str("this opening of the log has the random number of the one before")
            }
            ConfigError::Identity { found, expected } => write!(
                f,
                "the log belongs to member {:x} of cluster {:x}, not to member {:x} of cluster {:x}",
                found.member_id, found.cluster_id, expected.member_id, expected.cluster_id
            ),
        }
    }
}

impl std::error::Error for ConfigError {}
