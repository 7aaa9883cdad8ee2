//! What a node wants done, and the reports that it was done.
//!
//! Writes are numbered. A [`Ready`] with something to write carries the next number; the embedding performs writes in
//! order and reports [`Node::persisted`] with the highest number up to which all are durable. Until then the node counts
//! none of it: not its own vote, not its own copy of an entry, and acknowledgements wait inside.

use proto::raftpb::{Entry, HardState, Message, Snapshot};

use crate::log::Log;
use crate::message::payload_bytes;
use crate::node::{Node, Role};
use crate::planted::Fault;

/// Effects for the embedding, all of them taken out of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ready {
    /// Number of the last write handed out, in this value or before. It is to be reported once everything handed out
    /// so far is durable; a value with nothing to write repeats the number of a write that may still be under way.
    pub seq: u64,
    /// Whether this value contains a write with the number `seq` that must become durable. A commit index alone need
    /// not: it may ride on the next write.
    pub must_sync: bool,
    /// Term, vote and commit index, if one of them changed.
    pub hard_state: Option<HardState>,
    /// A snapshot to install before the entries are written; it replaces the whole log. [`Node::persisted`] of `seq`
    /// also says that the state machine now is this snapshot.
    pub snapshot: Option<Snapshot>,
    /// Entries to write. One at or below the last index written truncates what follows.
    pub entries: Vec<Entry>,
    /// Messages to send now. A MsgSnap carries metadata only: the embedding adds the data, may raise index and term to
    /// those of the image that it really sends, and reports the outcome.
    pub messages: Vec<Message>,
    /// Committed entries to apply, in order. They may not be durable on this node.
    pub committed: Vec<Entry>,
    /// Reads that may be answered as soon as their index is applied.
    pub read_states: Vec<ReadState>,
    /// Reads that were dropped: to be asked again.
    pub read_failures: Vec<u64>,
    /// Entries that have left memory, to be read from the log and handed to [`Node::entries_read`].
    pub reads: Vec<EntryRead>,
    /// Leader and role, if one of them changed.
    pub soft_state: Option<SoftState>,
}

/// Who leads, and what this node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoftState {
    /// The leader, 0 if not known.
    pub leader: u64,
    /// The role of this node.
    pub role: Role,
}

/// A confirmed read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// What must be applied before the answer.
    pub index: u64,
    /// As given to [`Node::read_index`].
    pub context: u64,
}

/// A request for entries from the log on disk. The answer holds a prefix of them, at least one and else at most
/// `bytes_max`; none if the log no longer has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRead {
    /// First index.
    pub from: u64,
    /// Last index.
    pub to: u64,
    /// Weight of the answer.
    pub bytes_max: u64,
}

/// A message that waits for a write.
#[derive(Clone, Debug)]
pub(crate) struct Gated {
    pub(crate) seq: u64,
    pub(crate) message: Message,
}

/// A write under way: when it ends, the log is durable up to `last`, unless that was cut since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingWrite {
    pub(crate) seq: u64,
    /// When it was handed out.
    pub(crate) tick: u64,
    pub(crate) last: u64,
    /// Index of a snapshot in it, 0 if none.
    pub(crate) snapshot: u64,
}

/// Entries handed out for applying, up to `last`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applying {
    pub(crate) last: u64,
    pub(crate) bytes: u64,
    /// Payload that counts against the limit of uncommitted bytes.
    pub(crate) uncommitted: u64,
}

impl Node {
    /// Whether [`Node::ready`] has anything to give.
    pub fn has_ready(&self) -> bool {
        !self.messages.is_empty()
            || self.broadcast
            || self.unsynced()
            || self.written.commit() != self.log.commit()
            || !self.read_states.is_empty()
            || !self.read_failures.is_empty()
            || !self.reads.is_empty()
            || self.wants_read_round()
            || self.has_committed()
            || self.told != self.soft_state()
    }

    /// Takes everything that waits to be done.
    pub fn ready(&mut self) -> Ready {
        self.start_read_round();
        self.forward_reads();
        if self.broadcast {
            self.broadcast = false;
            self.commit_news = false;
            self.broadcast_appends();
        }
        self.request_apply_read();
        let must_sync = self.unsynced();
        let snapshot = self.take_snapshot();
        let entries = self.log.take_unissued();
        if must_sync {
            self.seq += 1;
            self.writes.push_back(PendingWrite {
                seq: self.seq,
                tick: self.ticks,
                last: self.log.last(),
                snapshot: snapshot.as_ref().map_or(0, |s| {
                    s.metadata.as_ref().map_or(0, |metadata| metadata.index())
                }),
            });
        }
        let hard_state = self.take_hard_state();
        let committed = self.take_committed();
        let soft = self.soft_state();
        let soft_state = (soft != self.told).then_some(soft);
        self.told = soft;
        Ready {
            seq: self.seq,
            must_sync,
            hard_state,
            snapshot,
            entries,
            messages: std::mem::take(&mut self.messages),
            committed,
            read_states: std::mem::take(&mut self.read_states),
            read_failures: std::mem::take(&mut self.read_failures),
            reads: std::mem::take(&mut self.reads),
            soft_state,
        }
    }

    /// All writes up to number `seq` are durable.
    ///
    /// # Panics
    /// If no such write was handed out.
    pub fn persisted(&mut self, seq: u64) {
        assert!(seq <= self.seq, "write {seq} was never handed out");
        if seq <= self.persisted_seq {
            return;
        }
        self.persisted_seq = seq;
        while let Some(write) = self.writes.front() {
            if write.seq > seq {
                break;
            }
            let write = *write;
            self.writes.pop_front();
            if write.snapshot != 0 {
                self.snapshot_installed(write.snapshot);
            }
            self.log.set_durable(write.last);
        }
        self.note_refetched();
        self.self_vote_durable();
        if self.role == Role::Leader {
            self.acknowledge_own(self.log.durable());
        }
        while let Some(waiting) = self.gated.front() {
            if waiting.seq > seq {
                break;
            }
            if let Some(waiting) = self.gated.pop_front() {
                self.messages.push(waiting.message);
            }
        }
    }

    /// The state machine holds everything up to `index`. While a snapshot waits to be installed this is ignored: it is
    /// about to be replaced.
    ///
    /// # Panics
    /// If entries up to there were never handed out.
    pub fn applied(&mut self, index: u64) {
        assert!(
            index <= self.log.handed(),
            "entry {index} was never handed out for applying"
        );
        if index <= self.log.applied() || self.installing.is_some() {
            return;
        }
        self.log.set_applied_to(index);
        while let Some(part) = self.applying.front() {
            if part.last > index {
                break;
            }
            self.applying_bytes -= part.bytes;
            self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(part.uncommitted);
            self.applying.pop_front();
        }
        self.leave_joint_if_due();
    }

    /// Entries up to `index`, applied and durable, are no longer kept on disk. Followers that need them will get a
    /// snapshot. False if they are still needed.
    pub fn compact(&mut self, index: u64) -> bool {
        self.log.compact(index)
    }

    /// The answer to an [`EntryRead`] that began at `from`.
    pub fn entries_read(&mut self, from: u64, entries: Vec<Entry>) {
        let usable = self.log.usable_prefix(from, &entries);
        if self.apply_reading == Some(from) {
            self.apply_reading = None;
            let commit = self.log.commit();
            self.apply_page = entries[..usable]
                .iter()
                .take_while(|entry| entry.index() <= commit)
                .cloned()
                .collect();
        }
        if self.role == Role::Leader {
            self.send_entries_read(from, &entries[..usable]);
        }
    }

    /// The number of the write after which everything decided so far is durable.
    pub(crate) fn gate(&self) -> u64 {
        if self.unsynced() {
            self.seq + 1
        } else {
            self.seq
        }
    }

    /// Whether something waits to be written that must become durable.
    fn unsynced(&self) -> bool {
        self.log.has_unissued()
            || self.written.term() != self.term
            || self.written.vote() != self.vote
            || matches!(self.installing, Some((_, false)))
    }

    /// Entries from `first` on were replaced: writes under way no longer make them durable, whatever they held.
    pub(crate) fn cut_writes(&mut self, first: u64) {
        if self.planted(Fault::AbaWrite) {
            return;
        }
        for write in &mut self.writes {
            write.last = write.last.min(first - 1);
        }
    }

    fn take_snapshot(&mut self) -> Option<Snapshot> {
        match &mut self.installing {
            Some((snapshot, told)) if !*told => {
                *told = true;
                Some(snapshot.clone())
            }
            _ => None,
        }
    }

    fn take_hard_state(&mut self) -> Option<HardState> {
        let now = HardState {
            term: Some(self.term),
            vote: Some(self.vote),
            commit: Some(self.log.commit()),
        };
        if now == self.written {
            return None;
        }
        self.written = now;
        Some(now)
    }

    fn soft_state(&self) -> SoftState {
        SoftState {
            leader: self.leader,
            role: self.role,
        }
    }

    /// Up to where entries may be applied now.
    fn apply_limit(&self) -> u64 {
        if self.installing.is_some() {
            return 0;
        }
        if self.config.apply_undurable {
            self.log.commit()
        } else {
            self.log.commit().min(self.log.durable())
        }
    }

    fn has_committed(&self) -> bool {
        let room = self.applying_bytes == 0 || self.applying_bytes < self.config.applying_bytes_max;
        room && self.log.handed() < self.apply_limit()
            && (self.log.handed() + 1 >= self.log.ring_first()
                || self.apply_reading.is_none()
                || !self.apply_page.is_empty())
    }

    fn take_committed(&mut self) -> Vec<Entry> {
        if !self.has_committed() {
            return Vec::new();
        }
        let room = self
            .config
            .applying_bytes_max
            .saturating_sub(self.applying_bytes);
        let entries = if self.apply_page.is_empty() {
            self.log.take_committed(self.apply_limit(), room).0
        } else {
            let page = std::mem::take(&mut self.apply_page);
            self.log.handed_out(page.len() as u64);
            page
        };
        if let Some(last) = entries.last() {
            let bytes = entries.iter().map(crate::message::entry_bytes).sum();
            let counts = self.role == Role::Leader && self.config.uncommitted_bytes_max != 0;
            let uncommitted = if counts {
                entries.iter().map(payload_bytes).sum()
            } else {
                0
            };
            self.applying.push_back(Applying {
                last: last.index(),
                bytes,
                uncommitted,
            });
            self.applying_bytes += bytes;
        }
        entries
    }

    /// Asks for committed entries that have left memory before they were applied.
    fn request_apply_read(&mut self) {
        let from = self.log.handed() + 1;
        let wanted = from < self.log.ring_first()
            && self.apply_reading.is_none()
            && self.apply_page.is_empty()
            && self.has_committed();
        if wanted {
            let to = self.apply_limit().min(self.log.ring_first() - 1);
            self.apply_reading = Some(from);
            self.request_read(from, to);
        }
    }

    /// Asks for entries, unless the same are being asked for already.
    pub(crate) fn request_read(&mut self, from: u64, to: u64) {
        if self.reads.iter().any(|read| read.from == from) {
            return;
        }
        self.reads.push(EntryRead {
            from,
            to,
            bytes_max: self.config.message_bytes_max,
        });
    }
}

impl Log {
    /// How many of the entries, read back from disk, are still those of this log from `from` on.
    fn usable_prefix(&self, from: u64, entries: &[Entry]) -> usize {
        entries
            .iter()
            .zip(from..)
            .take_while(|(entry, index)| {
                entry.index() == *index && self.matches(*index, entry.term())
            })
            .count()
    }
}
