//! Building and reading `raftpb` messages.
//!
//! etcd's encoders write every scalar field, even a zero, and older releases rely on it; so each message and entry
//! built here carries them all.

use bytes::Bytes;
use proto::raftpb::{ConfState, Entry, EntryType, Message, MessageType};

/// What an entry weighs besides its payload: its own size in memory and, generously, its framing on the wire.
pub(crate) const ENTRY_OVERHEAD_BYTES: u64 = 32;

/// Context of a vote request that comes from a leadership transfer and is therefore heard in spite of a live leader.
pub(crate) const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

/// A message of the given kind; the term is filled in when it is sent.
pub(crate) fn message(kind: MessageType, from: u64, to: u64) -> Message {
    Message {
        r#type: Some(kind as i32),
        to: Some(to),
        from: Some(from),
        term: Some(0),
        log_term: Some(0),
        index: Some(0),
        entries: Vec::new(),
        commit: Some(0),
        snapshot: None,
        reject: Some(false),
        reject_hint: Some(0),
        context: None,
    }
}

/// A log entry. Without payload the data field stays absent, as etcd writes it.
pub(crate) fn entry(kind: EntryType, term: u64, index: u64, data: Option<Bytes>) -> Entry {
    Entry {
        r#type: Some(kind as i32),
        term: Some(term),
        index: Some(index),
        data: data.filter(|data| !data.is_empty()),
    }
}

/// Payload bytes of an entry.
pub(crate) fn payload_bytes(entry: &Entry) -> u64 {
    entry.data.as_ref().map_or(0, |data| data.len() as u64)
}

/// What an entry weighs in the ring, in messages and in flight.
pub(crate) fn entry_bytes(entry: &Entry) -> u64 {
    payload_bytes(entry) + ENTRY_OVERHEAD_BYTES
}

/// Whether the entry changes the configuration when it is applied.
pub(crate) fn is_conf_change(entry: &Entry) -> bool {
    entry.r#type() != EntryType::EntryNormal
}

/// A configuration with every field in place.
pub(crate) fn conf_state(
    voters: &[u64],
    learners: &[u64],
    outgoing: &[u64],
    next: &[u64],
    auto_leave: bool,
) -> ConfState {
    ConfState {
        voters: voters.to_vec(),
        learners: learners.to_vec(),
        voters_outgoing: outgoing.to_vec(),
        learners_next: next.to_vec(),
        auto_leave: Some(auto_leave),
    }
}
