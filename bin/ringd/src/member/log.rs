//! Raft's output to the log, and the log's completions to Raft.

use super::{Effect, Member, Persisting};
use crate::planted::{planted, Fault};
use engine::wal::{AlignedBuf, ReadError, Ticket};
use proto::raftpb::{Entry, EntryType};
use raft::Ready;
use std::io;

impl Member {
    /// Takes what Raft wants done until it wants nothing more.
    pub(super) fn drain_ready(&mut self, now_ns: u64) {
        while self.node.has_ready() {
            let ready = self.node.ready();
            if let Some(snapshot) = &ready.snapshot {
                self.accept_snapshot(snapshot);
            }
            self.persist(&ready);
            if let Some(state) = &ready.soft_state {
                self.leadership(state, now_ns);
            }
            self.send(ready.messages);
            self.apply_queue.extend(ready.committed);
            for read in ready.reads {
                self.read_log(read.from, read.to, read.bytes_max);
            }
            for read in ready.read_states {
                self.round_confirmed(read.context, read.index);
            }
            for context in ready.read_failures {
                self.round_failed(context);
            }
        }
    }

    fn persist(&mut self, ready: &Ready) {
        let hard_state = ready.hard_state.or(self.lazy_hard_state);
        // That a change of members is committed may be known to nobody else soon, when a removed one is taken away.
        let changes_members = |entry: &Entry| entry.r#type() != EntryType::EntryNormal;
        let is_wanted = hard_state.is_some()
            && ready.committed.iter().any(changes_members)
            && !planted(Fault::ChangeLazy);
        if !ready.must_sync && !is_wanted {
            // Any other commit index alone is worth no flush: it goes along with the next entries.
            self.lazy_hard_state = hard_state;
            return;
        }
        self.lazy_hard_state = None;
        self.checkpoints.note_logged(&ready.entries);
        if self.defer(ready.seq, hard_state, &ready.entries) {
            return;
        }
        match self.wal.append(&ready.entries, hard_state.as_ref()) {
            Ok(ticket) => self.note_persisting(ticket, ready.seq),
            // Proposals stop long before the log's bound, so only what Raft must write can meet it.
            Err(error) => self.halt(format!("the write-ahead log cannot take more: {error}")),
        }
    }

    /// Reads entries back that have left memory.
    fn read_log(&mut self, from: u64, to: u64, bytes_max: u64) {
        match self.wal.read_job(from, to, bytes_max) {
            Some(job) => self.effects.push(Effect::ReadLog { from, job }),
            None => self.halt(format!(
                "log entries {from} to {to} are needed and no longer in the log: this is a defect of the server"
            )),
        }
    }

    pub(super) fn log_read(&mut self, from: u64, result: Result<Vec<Entry>, ReadError>) {
        match result {
            Ok(entries) => self.node.entries_read(from, entries),
            // For a follower that was overtaken meanwhile by what the log gives up: it gets a snapshot.
            Err(ReadError::Gone { .. }) if from < self.wal.first_index() => {
                self.node.entries_read(from, Vec::new())
            }
            Err(error) => self.halt(format!("reading the log back failed: {error}")),
        }
    }

    /// Hands gathered batches and file work to the shell.
    pub(super) fn emit_log_writes(&mut self, now_ns: u64) {
        if self.halted {
            return;
        }
        while let Some(write) = self.wal.next_write(now_ns) {
            self.effects.push(Effect::WriteLog(write));
        }
        while let Some(op) = self.wal.next_file_op() {
            self.effects.push(Effect::LogFile(op));
        }
    }

    pub(super) fn log_written(&mut self, tag: u64, result: io::Result<()>, buffer: AlignedBuf) {
        if let Err(failure) = self.wal.write_done(tag, result) {
            return self.halt(failure.to_string());
        }
        self.wal.reuse(buffer);
        self.report_durable();
    }

    pub(super) fn log_file_done(&mut self, tag: u64, result: io::Result<()>, now_ns: u64) {
        if let Err(failure) = self.wal.file_op_done(tag, result, now_ns) {
            return self.halt(failure.to_string());
        }
        self.look_at_space();
    }

    pub(super) fn note_persisting(&mut self, ticket: Ticket, seq: u64) {
        let term = self.node.term();
        self.persisting.push_back(Persisting { ticket, seq, term });
    }

    /// Tells Raft what is durable, as far as the bound of this member's promises is, too.
    pub(super) fn report_durable(&mut self) {
        let durable = self.wal.durable();
        let mut newest = None;
        while let Some(oldest) = self.persisting.front() {
            if oldest.ticket > durable || !self.kept.allows(oldest.term) {
                break;
            }
            newest = Some(oldest.seq);
            self.persisting.pop_front();
        }
        if let Some(seq) = newest {
            self.node.persisted(seq);
        }
    }

    /// Nothing is acknowledged from here on; the shell ends the process with the reason.
    pub(super) fn halt(&mut self, reason: String) {
        if !self.halted {
            self.halted = true;
            self.effects
                .retain(|effect| !matches!(effect, Effect::Reply { .. } | Effect::Stream { .. }));
            self.effects.push(Effect::Halt(reason));
        }
    }
}
