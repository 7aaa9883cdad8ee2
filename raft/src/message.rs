//! Building and reading `raftpb` messages.
//!
//! etcd's encoders write every scalar field, even a zero, and older releases rely on it; so each message and entry
//! built here carries them all.

use bytes::Bytes;
use proto::raftpb::{ConfState, Entry, EntryType, Message, MessageType};

use crate::node::StepError;

/// What an entry weighs besides its payload: its own size in memory and, generously, its framing on the wire.
pub(crate) const ENTRY_OVERHEAD_BYTES: u64 = 32;

/// Terms and indexes count up from 0; one as large as this can only be forged.
const NUMBER_MAX: u64 = u64::MAX / 2;

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

/// Rejects what no correct node sends, before anything is done with it.
pub(crate) fn check_inbound(m: &Message, own: u64) -> Result<(), StepError> {
    let kind = m.r#type();
    if is_local(kind)
        || m.r#type
            .is_some_and(|raw| MessageType::try_from(raw).is_err())
    {
        return Err(StepError::LocalMessage);
    }
    let from_self = m.from() == own && kind != MessageType::MsgTransferLeader;
    if m.to() != own || m.from() == 0 || from_self {
        return Err(StepError::WrongAddress);
    }
    if m.term() == 0 && !is_termless(kind) {
        return Err(StepError::Malformed("no term"));
    }
    // Everything counts up from terms and indexes; a value at the end of the range can only be forged.
    if [
        m.term(),
        m.index(),
        m.commit(),
        m.log_term(),
        m.reject_hint(),
    ]
    .iter()
    .any(|value| *value >= NUMBER_MAX)
    {
        return Err(StepError::Malformed("number out of range"));
    }
    match kind {
        MessageType::MsgApp => check_append(m),
        MessageType::MsgProp if m.entries.is_empty() => Err(StepError::Malformed("no entry")),
        MessageType::MsgReadIndex if m.entries.len() != 1 => {
            Err(StepError::Malformed("a read has one entry"))
        }
        MessageType::MsgSnap => check_snapshot(m),
        _ => Ok(()),
    }
}

fn check_snapshot(m: &Message) -> Result<(), StepError> {
    let metadata = m.snapshot.as_ref().and_then(|s| s.metadata.as_ref());
    let valid = metadata.is_some_and(|meta| {
        let term = meta.term() > 0 && meta.term() <= m.term();
        term && meta.index() > 0 && meta.index() < NUMBER_MAX
    });
    if valid {
        Ok(())
    } else {
        Err(StepError::Malformed("snapshot without index or term"))
    }
}

/// Kinds that carry no term: what is passed on to the leader is not bound to one.
pub(crate) fn is_termless(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgProp | MessageType::MsgReadIndex | MessageType::MsgTransferLeader
    )
}

/// Kinds that never travel between nodes.
fn is_local(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgStorageAppend
            | MessageType::MsgStorageAppendResp
            | MessageType::MsgStorageApply
            | MessageType::MsgStorageApplyResp
            | MessageType::MsgForgetLeader
    )
}

fn check_append(m: &Message) -> Result<(), StepError> {
    let (mut index, mut term) = (m.index(), m.log_term());
    for entry in &m.entries {
        if entry.index() != index + 1 {
            return Err(StepError::Malformed("entries are not consecutive"));
        }
        if entry.term() < term || entry.term() == 0 {
            return Err(StepError::Malformed("terms of entries go back"));
        }
        (index, term) = (entry.index(), entry.term());
    }
    if term > m.term() {
        return Err(StepError::Malformed(
            "entry of a later term than its leader",
        ));
    }
    Ok(())
}
