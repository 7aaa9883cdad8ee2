//! Why a log was not opened, in words for the operator.

use std::io;

use super::{Identity, LogPosition, SegmentId};

/// A place in a segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    pub file: String,
    pub segment: SegmentId,
    /// In bytes from the start of the file.
    pub offset: u64,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at offset {}", self.file, self.offset)
    }
}

/// Why the log was not opened. No file was changed.
#[derive(Debug)]
pub enum RecoverError {
    /// The directory or a file could not be read.
    Io {
        at: At,
        doing: &'static str,
        error: io::Error,
    },
    /// A batch that had been durable is not there, or fails its check. `batch` is its number where that is known,
    /// `last_index` the last entry before it.
    Damaged {
        at: At,
        batch: Option<u64>,
        last_index: u64,
        claimed_by: String,
    },
    /// The header of a segment is damaged or contradicts its place.
    BadSegment { at: At, why: String },
    /// A segment file is missing.
    Missing {
        file: String,
        segment: SegmentId,
        why: String,
    },
    /// A batch passes its checks and contradicts itself or its predecessor: a defect of the program, not of the disk.
    Malformed { at: At, why: &'static str },
    /// The files belong to another member or cluster.
    Foreign {
        at: At,
        found: Identity,
        expected: Identity,
    },
    /// Written in a format that this version does not know.
    Version { at: At, found: u32 },
    /// The log is whole and does not contain the position that the tree's meta page states: they do not belong together.
    Contradiction { file: String, claim: LogPosition },
    /// The log begins after the entry that the tree needs next.
    MissingEntries {
        file: String,
        first_index: u64,
        applied: u64,
    },
}

impl RecoverError {
    /// The segment, there but not usable, that the error is about.
    pub(super) fn unusable(&self) -> Option<SegmentId> {
        match self {
            RecoverError::Io { at, .. }
            | RecoverError::Damaged { at, .. }
            | RecoverError::BadSegment { at, .. }
            | RecoverError::Malformed { at, .. }
            | RecoverError::Version { at, .. } => Some(at.segment),
            RecoverError::Missing { .. }
            | RecoverError::Foreign { .. }
            | RecoverError::Contradiction { .. }
            | RecoverError::MissingEntries { .. } => None,
        }
    }

    /// Whether entries that this member acknowledged may be gone: in a cluster it may come back only as a member that
    /// does not vote until it has fetched them again (P3).
    pub fn lost_acknowledged(&self) -> bool {
        match self {
            RecoverError::Damaged { .. }
            | RecoverError::BadSegment { .. }
            | RecoverError::Missing { .. }
            | RecoverError::Malformed { .. }
            | RecoverError::MissingEntries { .. } => true,
            RecoverError::Io { .. }
            | RecoverError::Foreign { .. }
            | RecoverError::Version { .. }
            | RecoverError::Contradiction { .. } => false,
        }
    }
}

const REPLACE: &str = "the log was not changed; put the file back from a copy, or restore the member from a backup, or, in a \
                       cluster, remove this member and add it again with an empty data directory";

impl std::fmt::Display for RecoverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what())?;
        match self.lost_acknowledged() {
            true => write!(f, "; {REPLACE}"),
            false => Ok(()),
        }
    }
}

impl RecoverError {
    /// What is wrong, without what to do about it where entries may be lost.
    pub fn what(&self) -> String {
        match self {
            RecoverError::Io { at, doing, error } => {
                format!("{doing} {at}: {error}; check the device, nothing was changed")
            }
            RecoverError::Damaged { at, batch, last_index, claimed_by } => {
                let missing = match batch {
                    Some(batch) => format!("batch {batch}"),
                    None => "the first batch of the log".to_owned(),
                };
                format!(
                    "the log is damaged: {at} should hold {missing}, which was durable according to {claimed_by}, but does \
                     not; entries after {last_index} that were acknowledged may be lost"
                )
            }
            RecoverError::BadSegment { at, why } => format!("the log is damaged: {at}: {why}"),
            RecoverError::Missing { file, why, .. } => format!("the log segment {file} is missing: {why}"),
            RecoverError::Malformed { at, why } => format!(
                "the log contradicts itself: {at}: {why}, although its checksums are right; this is a defect of the \
                 program that wrote it, please report it with a copy of the file"
            ),
            RecoverError::Foreign { at, found, expected } => format!(
                "{at} belongs to member {:x} of cluster {:x}, not to member {:x} of cluster {:x}; check the data directory",
                found.member_id, found.cluster_id, expected.member_id, expected.cluster_id
            ),
            RecoverError::Version { at, found } => format!(
                "{at} is in log format {found}, this version knows format {} only; start the version that wrote it",
                super::format::FORMAT_VERSION
            ),
            RecoverError::Contradiction { file, claim } => format!(
                "the tree states that batch {} in {file} ended the log at entry {}, and the log says otherwise; the tree and \
                 the log do not belong together, put both back from the same copy",
                claim.batch, claim.index
            ),
            RecoverError::MissingEntries { file, first_index, applied } => format!(
                "the log begins with entry {first_index} in {file}, the tree holds entries up to {applied} only"
            ),
        }
    }
}

impl std::error::Error for RecoverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RecoverError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}
