//! Snapshots: a member that is too far behind for the log gets a copy of a checkpoint.
//!
//! The sender pins its newest checkpoint, or makes one if that is older than what the log still has, and gives the
//! transport the bytes that it asks for, so that a broken transfer goes on where it stopped. The receiver writes them
//! beside its own page file; when all are there and verified, Raft is told, and if it accepts the snapshot the copy takes
//! the place of everything this member had (`engine::store::install` states the order of the steps).
//!
//! Bounds: one transfer to each member, one that comes in, and an age and a number of bytes that a pin may hold back.

use super::{backup::NO_PEER, rebuild::is_copy, Effect, Member, SnapshotFormat};
use crate::planted::{planted, Fault};
use bytes::Bytes;
use engine::{
    page::CopySource,
    store::{
        install::{Arriving, InstallError, InstallJob, StageError, StageJob},
        meta::{self, LogMark},
        Outgoing, Store,
    },
    wal::Mark,
};
use proto::raftpb::{Entry, HardState, Message, Snapshot, SnapshotMetadata};
use std::{collections::BTreeMap, io, sync::Arc};

/// A transfer that takes longer is given up.
pub(super) const PIN_AGE_MAX_NS: u64 = 3_600_000_000_000;
/// So is one that keeps so many bytes of replaced pages from being used again, or half of the file if that is more.
pub(super) const PIN_BYTES_MAX: u64 = 1 << 30;
/// The log is kept from the snapshot on for this long after its transfer, for the receiver to catch up from.
const LOG_KEPT_NS: u64 = 30_000_000_000;
/// A snapshot of which nothing more comes for this long is given up. Its sender does so before.
const INCOMING_IDLE_NS_MAX: u64 = 120_000_000_000;
/// Bytes of a snapshot that are read at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// A snapshot on its way to another member.
struct Sending {
    id: u64,
    message: Message,
    begun_ns: u64,
    /// Index that the copy contains.
    index: u64,
    /// None while it is being prepared.
    source: Option<Arc<CopySource>>,
    /// What is read of it.
    stream: Option<Arc<Outgoing>>,
}

/// A snapshot that is coming in.
struct Incoming {
    id: u64,
    from: u64,
    transfer: u64,
    message: Message,
    offset: u64,
    /// When something last came of it.
    heard_ns: u64,
    /// None while a job has it.
    copy: Option<Arriving>,
    /// The last bytes are being written.
    last: bool,
}

/// A snapshot that Raft accepted, and what is to be written behind it.
struct Installing {
    index: u64,
    term: u64,
    begun: bool,
    copy: Option<Arriving>,
    deferred: Vec<Deferred>,
}

/// Raft's output that has to be written after the snapshot.
struct Deferred {
    seq: u64,
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
}

#[derive(Default)]
pub(super) struct Snapshots {
    outgoing: BTreeMap<u64, Sending>,
    /// Members that wait for a newer checkpoint.
    wanted: BTreeMap<u64, Message>,
    /// Log indexes that are still wanted behind a transfer, and until when.
    kept: Vec<(u64, u64)>,
    incoming: Option<Incoming>,
    /// Bytes are being written to the incoming file. Until that ends no other transfer may begin: there is one such file, and
    /// whoever creates it last has it.
    is_staging: bool,
    /// A whole copy that Raft was told of.
    offered: Option<Arriving>,
    installing: Option<Installing>,
}

impl Snapshots {
    /// The first index that members who just got a snapshot may still need.
    pub fn log_wanted(&self) -> Option<u64> {
        let kept = self.kept.iter().map(|(index, _)| *index);
        let outgoing = self.outgoing.values().map(|outgoing| outgoing.index);
        kept.chain(outgoing).min().map(|index| index + 1)
    }

    pub fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// Whether this member is being sent one, or is to be.
    pub fn is_sending(&self, peer: u64) -> bool {
        self.outgoing.contains_key(&peer) || self.wanted.contains_key(&peer)
    }
}

impl Member {
    /// Raft wants this member sent a snapshot: what it needs is gone from the log.
    pub(super) fn send_snapshot(&mut self, message: Message) {
        self.snapshots.wanted.insert(message.to(), message);
        self.start_snapshots();
    }

    /// Starts the transfers for which there is a checkpoint that is new enough.
    pub(super) fn start_snapshots(&mut self) {
        for (peer, message) in std::mem::take(&mut self.snapshots.wanted) {
            let least = metadata(&message).index().max(self.node.first_index() - 1);
            let content = self.store.pages().meta().content;
            let index = meta::contained(&content).map_or(0, |contained| contained.applied_index);
            if index < least {
                self.checkpoints.force();
                self.snapshots.wanted.insert(peer, message);
                continue;
            }
            let id = self.next_request_id();
            let pin = self.store.pages_mut().pin();
            self.snapshots.outgoing.insert(
                peer,
                Sending {
                    id,
                    message,
                    begun_ns: self.now_ns,
                    index,
                    source: None,
                    stream: None,
                },
            );
            self.effects.push(Effect::PrepareSnapshot { peer, id, pin });
        }
    }

    pub(super) fn snapshot_prepared(
        &mut self,
        peer: u64,
        id: u64,
        result: Result<Box<CopySource>, String>,
    ) {
        if peer == NO_PEER {
            return self.backup_prepared(id, result);
        }
        let Some(outgoing) = self.outgoing(peer, id) else {
            return;
        };
        let prepared = result.and_then(|source| {
            let contained = meta::contained(source.content()).map_err(|error| error.to_string())?;
            Ok((source, contained))
        });
        match prepared {
            Ok((source, contained)) => {
                let mut message = outgoing.message.clone();
                message.snapshot = Some(Snapshot {
                    data: Some(Bytes::new()),
                    metadata: Some(SnapshotMetadata {
                        conf_state: Some(contained.conf_state),
                        index: Some(contained.applied_index),
                        term: Some(contained.applied_term),
                    }),
                });
                outgoing.source = Some(Arc::from(source));
                outgoing.message = message.clone();
                let message = Box::new(message);
                self.effects
                    .push(Effect::SendSnapshot { peer, id, message });
            }
            Err(error) => {
                self.notices
                    .push(format!("a snapshot for member {peer:x} failed: {error}"));
                self.end_outgoing(peer, false);
            }
        }
    }

    fn outgoing(&mut self, peer: u64, id: u64) -> Option<&mut Sending> {
        let outgoing = self.snapshots.outgoing.get_mut(&peer);
        outgoing.filter(|outgoing| outgoing.id == id)
    }

    pub(super) fn snapshot_wanted(
        &mut self,
        peer: u64,
        id: u64,
        format: SnapshotFormat,
        offset: u64,
    ) {
        match self.stream_of(peer, id, format, offset) {
            Some(source) => self.read_stream(peer, id, offset, source),
            None => self.effects.push(Effect::CancelSnapshot { peer, id }),
        }
    }

    /// What is to be read in this form. A database begins anew at its beginning.
    fn stream_of(
        &mut self,
        peer: u64,
        id: u64,
        format: SnapshotFormat,
        offset: u64,
    ) -> Option<Arc<Outgoing>> {
        let options = self.store.options().clone();
        let sending = self.outgoing(peer, id)?;
        let source = sending.source.clone()?;
        if offset == 0 || sending.stream.is_none() {
            sending.stream = Some(Arc::new(match format {
                SnapshotFormat::Ringd => Outgoing::Checkpoint(source),
                SnapshotFormat::Etcd => {
                    Outgoing::database(source, options, sending.message.clone())
                }
            }));
        }
        sending.stream.clone()
    }

    fn read_stream(&mut self, peer: u64, id: u64, offset: u64, source: Arc<Outgoing>) {
        self.effects.push(Effect::ReadSnapshot {
            peer,
            id,
            offset,
            bytes_max: READ_BYTES_MAX,
            source,
        });
    }

    pub(super) fn snapshot_read(
        &mut self,
        peer: u64,
        id: u64,
        offset: u64,
        result: io::Result<Vec<u8>>,
    ) {
        if peer == NO_PEER {
            return self.backup_read(id, result);
        }
        let Some(source) = self.outgoing(peer, id).and_then(|o| o.stream.clone()) else {
            return;
        };
        match result {
            // In slices: others need the pool as well.
            Ok(bytes) if bytes.is_empty() && !source.ends_at(offset) => {
                self.read_stream(peer, id, offset, source)
            }
            Ok(bytes) => {
                let last = source.ends_at(offset + bytes.len() as u64);
                let bytes = bytes.into();
                self.effects.push(Effect::SnapshotBytes {
                    peer,
                    id,
                    offset,
                    bytes,
                    last,
                });
            }
            Err(error) => {
                self.notices.push(format!(
                    "reading a snapshot for member {peer:x} failed: {error}"
                ));
                self.effects.push(Effect::CancelSnapshot { peer, id });
                self.end_outgoing(peer, false);
            }
        }
    }

    pub(super) fn snapshot_sent(&mut self, peer: u64, id: u64, delivered: bool) {
        if self.outgoing(peer, id).is_some() {
            self.end_outgoing(peer, delivered);
        }
    }

    fn end_outgoing(&mut self, peer: u64, delivered: bool) {
        if let Some(outgoing) = self.snapshots.outgoing.remove(&peer) {
            let until_ns = self.now_ns + LOG_KEPT_NS;
            self.snapshots.kept.push((outgoing.index, until_ns));
            let is_copy = is_copy(&outgoing.message);
            drop(outgoing);
            self.store.pages_mut().release_pins();
            if !is_copy {
                self.node.report_snapshot(peer, delivered);
            }
        }
    }

    /// The copy that is coming in is wanted no more.
    pub(super) fn forget_incoming_copy(&mut self) {
        self.snapshots
            .incoming
            .take_if(|incoming| is_copy(&incoming.message));
    }

    /// Gives up what takes too long or holds too much back.
    pub(super) fn snapshot_timers(&mut self, now_ns: u64) {
        self.snapshots.kept.retain(|(_, until)| *until > now_ns);
        self.discard_idle(now_ns);
        self.backup_timers(now_ns);
        let bytes_max = PIN_BYTES_MAX.max(self.store.pages().file_bytes() / 2);
        let pages = self.store.pages();
        let over = |outgoing: &Sending| {
            let held = outgoing.source.as_ref();
            let held = held.map_or(0, |source| pages.pinned_bytes(source.pin()));
            now_ns.saturating_sub(outgoing.begun_ns) > PIN_AGE_MAX_NS || held > bytes_max
        };
        let late = self.snapshots.outgoing.iter().filter(|(_, o)| over(o));
        let late: Vec<(u64, u64)> = late.map(|(peer, outgoing)| (*peer, outgoing.id)).collect();
        for (peer, id) in late {
            self.notices.push(format!(
                "the snapshot for member {peer:x} is given up: it took too long, or kept too much of the page file"
            ));
            self.effects.push(Effect::CancelSnapshot { peer, id });
            self.end_outgoing(peer, false);
        }
    }

    /// Gives up what does not go on to come in.
    fn discard_idle(&mut self, now_ns: u64) {
        let is_idle = |incoming: &mut Incoming| {
            now_ns.saturating_sub(incoming.heard_ns) > INCOMING_IDLE_NS_MAX
        };
        if self.snapshots.is_staging {
            return;
        }
        let idle = self.snapshots.incoming.take_if(is_idle);
        if let Some((transfer, copy)) = idle.and_then(|idle| Some((idle.transfer, idle.copy?))) {
            self.snapshots.is_staging = true;
            let job = StageJob::discard(copy);
            self.effects.push(Effect::Stage { transfer, job });
        }
    }

    /// Bytes of a snapshot arrived.
    pub(super) fn snapshot_chunk(&mut self, chunk: super::SnapshotChunk) {
        let transfer = chunk.transfer;
        let refuse = |member: &mut Member, why: &str| {
            let result = Err(why.to_string());
            member.effects.push(Effect::SnapshotTaken {
                transfer,
                offset: 0,
                result,
            });
        };
        let is_busy = self.snapshots.is_installing() || self.rebuild.is_installing();
        if is_busy || self.snapshots.offered.is_some() {
            return refuse(self, "another snapshot is being installed");
        }
        if is_copy(&chunk.message) {
            let has_room = self.snapshots.incoming.as_ref();
            let has_room = has_room.is_none_or(|incoming| is_copy(&incoming.message));
            let is_ours = chunk.format == SnapshotFormat::Ringd;
            if !is_ours || !has_room || !self.copy_comes(chunk.message.from()) {
                return refuse(self, "no copy is wanted");
            }
        }
        if self.snapshots.is_staging && !planted(Fault::TransfersOverlap) {
            return refuse(self, "the bytes before are still being written");
        }
        let now_ns = self.now_ns;
        let continues = self.snapshots.incoming.as_mut().filter(|incoming| {
            incoming.id == chunk.id
                && incoming.from == chunk.message.from()
                && incoming.offset == chunk.offset
        });
        let job = match continues {
            Some(incoming) => {
                incoming.transfer = transfer;
                incoming.last = chunk.last;
                incoming.heard_ns = now_ns;
                let copy = incoming.copy.take();
                copy.map(|copy| StageJob::take(copy, chunk.bytes.clone(), chunk.last))
            }
            None if chunk.offset != 0 => {
                return refuse(self, "there is no such transfer to go on with");
            }
            None => None,
        };
        self.give_copy_up();
        let job = job.unwrap_or_else(|| self.begin_incoming(chunk));
        self.snapshots.is_staging = true;
        self.effects.push(Effect::Stage { transfer, job });
    }

    /// Another snapshot takes the place of what was coming in.
    fn begin_incoming(&mut self, chunk: super::SnapshotChunk) -> StageJob {
        let snapshot = chunk.message.snapshot.clone().unwrap_or_default();
        let replaced = self.snapshots.incoming.replace(Incoming {
            id: chunk.id,
            from: chunk.message.from(),
            transfer: chunk.transfer,
            message: *chunk.message,
            offset: 0,
            heard_ns: self.now_ns,
            copy: None,
            last: chunk.last,
        });
        let job = match chunk.format {
            SnapshotFormat::Ringd => StageJob::copy(chunk.bytes),
            SnapshotFormat::Etcd => StageJob::database(snapshot, chunk.bytes, chunk.last),
        };
        job.in_place_of(replaced.and_then(|replaced| replaced.copy))
    }

    pub(super) fn staged(&mut self, transfer: u64, staged: Result<Arriving, StageError>) {
        self.snapshots.is_staging = false;
        let now_ns = self.now_ns;
        let incoming = self.snapshots.incoming.as_mut();
        let Some(incoming) = incoming.filter(|incoming| incoming.transfer == transfer) else {
            return; // a newer transfer took its place
        };
        let result = match staged {
            Err(error) => Err(error.to_string()),
            Ok(copy) if copy.is_working() => {
                // In slices: others need the pool as well.
                self.snapshots.is_staging = true;
                let job = StageJob::work(copy);
                return self.effects.push(Effect::Stage { transfer, job });
            }
            Ok(copy) => {
                incoming.offset = copy.offset();
                incoming.heard_ns = now_ns;
                let whole = copy.is_whole();
                incoming.copy = Some(copy);
                match incoming.last && !whole {
                    true => Err("the snapshot ended too early".into()),
                    false => Ok(whole),
                }
            }
        };
        let offset = incoming.offset;
        let result = match result {
            Ok(true) => self.offer_snapshot().map(|()| true),
            Ok(false) => Ok(false),
            Err(error) => {
                self.snapshots.incoming = None;
                Err(error)
            }
        };
        self.effects.push(Effect::SnapshotTaken {
            transfer,
            offset,
            result,
        });
    }

    /// A snapshot is here: Raft decides whether it is wanted.
    fn offer_snapshot(&mut self) -> Result<(), String> {
        let incoming = self.snapshots.incoming.take();
        let Some((message, copy)) = incoming.and_then(|i| Some((i.message, i.copy?))) else {
            return Err("no snapshot came in".into());
        };
        let content = copy.content().cloned().unwrap_or_default();
        let contained = meta::contained(&content).map_err(|error| error.to_string())?;
        let stated = metadata(&message);
        if (stated.index(), stated.term()) != (contained.applied_index, contained.applied_term) {
            return Err("the snapshot is not the one that its message describes".into());
        }
        self.notices.extend(copy.notice());
        if is_copy(&message) {
            self.copy_received(copy, &contained);
            return Ok(());
        }
        self.snapshots.offered = Some(copy);
        self.message(message);
        Ok(())
    }

    /// Raft accepted the snapshot that was offered: nothing of what this member had counts any more.
    pub(super) fn accept_snapshot(&mut self, snapshot: &Snapshot) {
        let Some(copy) = self.snapshots.offered.take() else {
            return self.halt(
                "Raft accepted a snapshot that is not here: this is a defect of the server".into(),
            );
        };
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        self.apply_queue.clear();
        self.give_rebuild_up();
        self.snapshots.installing = Some(Installing {
            index: metadata.index(),
            term: metadata.term(),
            begun: false,
            copy: Some(copy),
            deferred: Vec::new(),
        });
    }

    /// Puts Raft's output behind a snapshot that is being installed. False if there is none.
    pub(super) fn defer(
        &mut self,
        seq: u64,
        hard_state: Option<HardState>,
        entries: &[Entry],
    ) -> bool {
        if planted(Fault::InstallOvertaken) {
            return false;
        }
        let Some(installing) = &mut self.snapshots.installing else {
            return false;
        };
        installing.deferred.push(Deferred {
            seq,
            hard_state,
            entries: entries.to_vec(),
        });
        true
    }

    /// Begins to install once no checkpoint writes to the old file any more.
    pub(super) fn begin_install(&mut self) {
        // Raft has seen what was offered, and did not want it if it is still here.
        self.snapshots.offered = None;
        if self.halted || self.checkpoints.is_running() || self.rebuild.is_installing() {
            return;
        }
        let Some(installing) = &mut self.snapshots.installing else {
            return;
        };
        if std::mem::replace(&mut installing.begun, true) {
            return;
        }
        let Some(copy) = installing.copy.take() else {
            return;
        };
        let position = self.wal.position();
        let job = InstallJob {
            arriving: copy,
            log: LogMark {
                position: position.to_bytes().to_vec().into(),
                first_needed_segment: self.wal.first_needed(u64::MAX).0,
                restarts: true,
            },
            pages: self.store.pages().options().clone(),
            store: self.store.options().clone(),
        };
        self.effects.push(Effect::Install(Box::new(job)));
    }

    pub(super) fn installed(&mut self, result: Result<Box<Store>, InstallError>) {
        if self.rebuild.is_installing() {
            return self.copy_installed(result);
        }
        let Some(installing) = self.snapshots.installing.take() else {
            return;
        };
        let store = match result {
            Ok(store) => store,
            Err(error) => {
                return self.halt(format!(
                    "taking over a snapshot failed: {error}. Check the disk and start again: the member goes on with what \
                     it had or with the snapshot, whichever is in place"
                ))
            }
        };
        debug_assert_eq!(store.applied().0, installing.index);
        self.store.take_over(*store);
        self.reattached();
        self.notices.push(format!(
            "installed a snapshot through index {} from another member: the log no longer had what this one missed",
            installing.index
        ));
        self.after_install(installing.index);
        let mark = Mark::Start {
            index: installing.index,
            term: installing.term,
        };
        let mut written = self.wal.append_mark(&mark);
        for deferred in installing.deferred {
            let ticket = written.and_then(|_| {
                self.wal
                    .append(&deferred.entries, deferred.hard_state.as_ref())
            });
            if let Ok(ticket) = &ticket {
                self.note_persisting(*ticket, deferred.seq);
            }
            written = ticket;
        }
        if let Err(error) = written {
            self.halt(format!("the write-ahead log cannot take more: {error}"));
        }
    }

    /// Whoever waited for something of the old state is told, or asks again.
    fn after_install(&mut self, index: u64) {
        let mut lost = Vec::new();
        self.proposals.drop_through(index, &mut lost);
        self.lose(lost);
        self.reset_background();
        self.comparison.begin_anew();
        self.reads.pages_arrived();
        self.apply_awaits.clear(); // of another file
        self.checkpoints.begin_anew();
        self.effects.push(Effect::MembersChanged);
        if self.store.is_removed_member(self.config.member_id) {
            self.removed_after(0, self.now_ns);
        }
    }
}

fn metadata(message: &Message) -> SnapshotMetadata {
    let snapshot = message.snapshot.as_ref();
    snapshot
        .and_then(|snapshot| snapshot.metadata.clone())
        .unwrap_or_default()
}
