//! `Maintenance.Snapshot`: everything that was applied when a client asked, as a database of etcd's, in one stream.
//!
//! It is read from a pinned checkpoint like a snapshot for another member, at the pace at which the client takes it.
//!
//! Bounds: streams at a time, and an age and a number of bytes that a pin may hold back. At the bound a stream fails, not the
//! member.

use super::{
    snapshot::{PIN_AGE_MAX_NS, PIN_BYTES_MAX},
    Effect, Member,
};
use crate::{
    request::CallId,
    status::{code, Status},
};
use bytes::Bytes;
use engine::{
    error::RequestError,
    interchange::export::CHECKSUM_BYTES,
    page::CopySource,
    store::{meta, Outgoing},
};
use prost::Message as _;
use proto::etcdserverpb::SnapshotResponse;
use std::{collections::BTreeMap, io, sync::Arc};

/// Streams at a time. One more is told that there are too many requests.
const STREAMS_MAX: usize = 4;
/// Bytes of a message, as etcd has it.
const BLOB_BYTES: usize = 32 << 10;
/// Bytes that are read at once: fewer than make a reader slow.
const READ_BYTES_MAX: usize = 4 * BLOB_BYTES;

/// Stands for the member in effects that are about such a stream: no member has this id.
pub(super) const NO_PEER: u64 = 0;

struct Backup {
    begun_ns: u64,
    /// What it is to contain.
    index: u64,
    source: Option<Arc<CopySource>>,
    stream: Option<Arc<Outgoing>>,
    /// Bytes sent, and bytes read that do not make a message yet.
    sent: u64,
    rest: Vec<u8>,
    is_reading: bool,
    is_pinned: bool,
    blocked: bool,
}

#[derive(Default)]
pub(super) struct Backups {
    running: BTreeMap<CallId, Backup>,
}

impl Member {
    pub(super) fn back_up(&mut self, call: CallId) {
        if self.backups.running.len() >= STREAMS_MAX {
            return self.end_backup(call, Some(RequestError::TooManyRequests.into()));
        }
        let backup = Backup {
            begun_ns: self.now_ns,
            index: self.store.applied().0,
            source: None,
            stream: None,
            sent: 0,
            rest: Vec::new(),
            is_reading: false,
            is_pinned: false,
            blocked: false,
        };
        self.backups.running.insert(call, backup);
        self.start_backups();
    }

    /// Pins the newest checkpoint for those whom it is new enough for.
    pub(super) fn start_backups(&mut self) {
        let content = self.store.pages().meta().content;
        let index = meta::contained(&content).map_or(0, |contained| contained.applied_index);
        for (call, backup) in &mut self.backups.running {
            if backup.is_pinned {
                continue;
            }
            if index < backup.index {
                self.checkpoints.force();
                continue;
            }
            backup.is_pinned = true;
            let pin = self.store.pages_mut().pin();
            self.effects.push(Effect::PrepareSnapshot {
                peer: NO_PEER,
                id: call.0,
                pin,
            });
        }
    }

    pub(super) fn backup_prepared(&mut self, id: u64, result: Result<Box<CopySource>, String>) {
        let options = self.store.options().clone();
        let Some(backup) = self.backups.running.get_mut(&CallId(id)) else {
            return;
        };
        match result {
            Ok(source) => {
                let source: Arc<CopySource> = Arc::from(source);
                backup.stream = Some(Arc::new(Outgoing::backup(source.clone(), options)));
                backup.source = Some(source);
                self.read_backup(CallId(id));
            }
            Err(why) => self.fail_backup(CallId(id), &why),
        }
    }

    fn read_backup(&mut self, call: CallId) {
        let Some(backup) = self.backups.running.get_mut(&call) else {
            return;
        };
        let Some(source) = backup.stream.clone().filter(|_| !backup.blocked) else {
            return;
        };
        if std::mem::replace(&mut backup.is_reading, true) {
            return;
        }
        self.effects.push(Effect::ReadSnapshot {
            peer: NO_PEER,
            id: call.0,
            offset: backup.sent + backup.rest.len() as u64,
            bytes_max: READ_BYTES_MAX,
            source,
        });
    }

    pub(super) fn backup_read(&mut self, id: u64, result: io::Result<Vec<u8>>) {
        let call = CallId(id);
        let Some(backup) = self.backups.running.get_mut(&call) else {
            return;
        };
        backup.is_reading = false;
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(error) => return self.fail_backup(call, &error.to_string()),
        };
        backup.rest.extend_from_slice(&bytes);
        let all = backup.stream.as_ref().and_then(|stream| stream.bytes());
        let all = all.unwrap_or(u64::MAX);
        while let Some(message) = backup.next_message(all) {
            self.effects.push(Effect::Stream { call, message });
        }
        match backup.sent == all {
            true => self.end_backup(call, None),
            false => self.read_backup(call),
        }
    }

    /// The client takes less than it is sent, or has caught up.
    pub(super) fn set_backup_blocked(&mut self, call: CallId, blocked: bool) {
        if let Some(backup) = self.backups.running.get_mut(&call) {
            backup.blocked = blocked;
            self.read_backup(call);
        }
    }

    pub(super) fn forget_backup(&mut self, call: CallId) {
        if self.backups.running.remove(&call).is_some() {
            self.store.pages_mut().release_pins();
        }
    }

    /// Gives up what takes too long or holds too much back.
    pub(super) fn backup_timers(&mut self, now_ns: u64) {
        let pages = self.store.pages();
        let bytes_max = PIN_BYTES_MAX.max(pages.file_bytes() / 2);
        let over = |backup: &Backup| {
            let held = backup.source.as_ref();
            let held = held.map_or(0, |source| pages.pinned_bytes(source.pin()));
            now_ns.saturating_sub(backup.begun_ns) > PIN_AGE_MAX_NS || held > bytes_max
        };
        let late = self.backups.running.iter().filter(|(_, b)| over(b));
        let late: Vec<CallId> = late.map(|(call, _)| *call).collect();
        for call in late {
            self.fail_backup(call, "it took too long, or kept too much of the page file");
        }
    }

    fn fail_backup(&mut self, call: CallId, why: &str) {
        let text = format!("the snapshot is given up: {why}");
        self.notices.push(text.clone());
        self.end_backup(call, Some(Status::with_text(code::UNAVAILABLE, text)));
    }

    fn end_backup(&mut self, call: CallId, status: Option<Status>) {
        self.effects.push(Effect::End { call, status });
        self.forget_backup(call);
    }
}

impl Backup {
    /// The next message, if its bytes are there; `all` is the length of everything.
    fn next_message(&mut self, all: u64) -> Option<Bytes> {
        let checksum = all.saturating_sub(CHECKSUM_BYTES);
        // Nothing of the checksum goes into the message before it.
        let end = if self.sent < checksum { checksum } else { all };
        let wanted = (end - self.sent).min(BLOB_BYTES as u64) as usize;
        if wanted == 0 || self.rest.len() < wanted {
            return None;
        }
        let rest = self.rest.split_off(wanted);
        let blob = std::mem::replace(&mut self.rest, rest);
        self.sent += wanted as u64;
        // What remains is told of the database alone.
        let message = SnapshotResponse {
            remaining_bytes: checksum.saturating_sub(self.sent),
            blob: blob.into(),
            ..SnapshotResponse::default()
        };
        Some(message.encode_to_vec().into())
    }
}
