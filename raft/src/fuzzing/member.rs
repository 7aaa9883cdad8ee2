//! One member of the simulated cluster: a node, its disk, and what is under way between them.

use std::collections::VecDeque;

use proto::raftpb::{ConfState, Entry, EntryType, HardState, Snapshot};

use crate::{ConfChange, Config, Initial, Node, Ready};

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) hard_state: HardState,
    pub(super) start: (u64, u64),
    pub(super) entries: Vec<Entry>,
    /// The state machine's durable copy: applied index and configuration.
    pub(super) checkpoint: (u64, ConfState),
}

impl Disk {
    pub(super) fn last(&self) -> u64 {
        self.start.0 + self.entries.len() as u64
    }

    /// Term of an entry; what is compacted is known to be right.
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index == self.start.0 {
            return Some(self.start.1);
        }
        let at = index.checked_sub(self.start.0 + 1)?;
        self.entries.get(at as usize).map(|entry| entry.term())
    }

    /// Whether the entry is stored here, in the log or in the state machine.
    pub(super) fn holds(&self, index: u64, term: u64) -> bool {
        index <= self.start.0 || self.term(index) == Some(term)
    }

    fn write(&mut self, write: &Write) {
        if let Some(metadata) = write.snapshot.as_ref().and_then(|s| s.metadata.as_ref()) {
            self.start = (metadata.index(), metadata.term());
            self.entries.clear();
            let conf = metadata.conf_state.clone().unwrap_or_default();
            self.checkpoint = (metadata.index(), conf);
        }
        if let Some(first) = write.entries.first() {
            let keep = first.index() - self.start.0 - 1;
            assert!(keep <= self.entries.len() as u64, "a gap in the log");
            self.entries.truncate(keep as usize);
            self.entries.extend(write.entries.iter().cloned());
        }
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
    }
}

/// A write under way.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) seq: u64,
    hard_state: Option<HardState>,
    pub(super) snapshot: Option<Snapshot>,
    entries: Vec<Entry>,
}

/// A member, alive or crashed.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: u64,
    pub(super) node: Option<Node>,
    pub(super) disk: Disk,
    pub(super) writes: VecDeque<Write>,
    /// Committed entries that are not applied yet.
    pub(super) to_apply: VecDeque<Entry>,
    /// The state machine in memory.
    pub(super) applied: u64,
    pub(super) conf_state: ConfState,
    /// Reads under way: context, and the highest commit index anywhere when it was asked.
    pub(super) reads: Vec<(u64, u64)>,
    /// Requests for entries that have left memory.
    pub(super) entry_reads: VecDeque<crate::EntryRead>,
    /// The last term in which it can have promised something that its disk lost.
    pub(super) lost: Option<u64>,
    /// The highest term that it was ever in.
    term_max: u64,
}

impl Member {
    pub(super) fn new(id: u64, voters: &[u64]) -> Member {
        let conf_state = ConfState {
            voters: voters.to_vec(),
            auto_leave: Some(false),
            ..ConfState::default()
        };
        Member {
            id,
            node: None,
            disk: Disk {
                checkpoint: (0, conf_state.clone()),
                ..Disk::default()
            },
            writes: VecDeque::new(),
            to_apply: VecDeque::new(),
            applied: 0,
            conf_state,
            reads: Vec::new(),
            entry_reads: VecDeque::new(),
            lost: None,
            term_max: 0,
        }
    }

    /// The disk of a crashed member lost everything; where it can have promised something is known from elsewhere.
    pub(super) fn lose_disk(&mut self, first: ConfState) {
        self.lost = Some(self.term_max);
        self.disk = Disk {
            checkpoint: (0, first),
            ..Disk::default()
        };
    }

    /// Whether it has not made up for a loss.
    pub(super) fn is_refetching(&self) -> bool {
        match &self.node {
            Some(node) => node.is_refetching(),
            None => self.lost.is_some(),
        }
    }

    pub(super) fn start(&mut self, config: Config) {
        let initial = Initial {
            hard_state: self.disk.hard_state,
            conf_state: self.disk.checkpoint.1.clone(),
            start: self.disk.start,
            entries: self.disk.entries.clone(),
            applied: self.disk.checkpoint.0,
            lost_until: self.lost,
            ..Initial::default()
        };
        self.applied = self.disk.checkpoint.0;
        self.conf_state = self.disk.checkpoint.1.clone();
        self.node = Some(Node::new(config, initial).expect("a disk in order"));
    }

    /// Loses everything that is not durable, except that some of the writes under way may have made it.
    pub(super) fn crash(&mut self, completed_writes: usize) {
        let term = self.node.as_ref().map_or(0, Node::term);
        self.term_max = self.term_max.max(term);
        for write in self.writes.drain(..).take(completed_writes) {
            self.disk.write(&write);
        }
        self.writes.clear();
        self.to_apply.clear();
        self.reads.clear();
        self.entry_reads.clear();
        self.node = None;
    }

    /// Takes what a ready value wants done; messages are the caller's.
    pub(super) fn take(&mut self, ready: &Ready) {
        if ready.snapshot.is_some() {
            // What was to be applied is part of the snapshot.
            self.to_apply.clear();
        }
        if ready.must_sync || ready.hard_state.is_some() {
            self.writes.push_back(Write {
                seq: ready.seq,
                hard_state: ready.hard_state,
                snapshot: ready.snapshot.clone(),
                entries: ready.entries.clone(),
            });
        }
        self.to_apply.extend(ready.committed.iter().cloned());
        self.entry_reads.extend(ready.reads.iter().copied());
        for context in &ready.read_failures {
            self.reads.retain(|(read, _)| read != context);
        }
    }

    /// The oldest write becomes durable.
    pub(super) fn complete_write(&mut self) -> bool {
        let Some(write) = self.writes.pop_front() else {
            return false;
        };
        self.disk.write(&write);
        if let Some(metadata) = write.snapshot.as_ref().and_then(|s| s.metadata.as_ref()) {
            self.applied = metadata.index();
            self.conf_state = metadata.conf_state.clone().unwrap_or_default();
        }
        if let Some(node) = &mut self.node {
            node.persisted(write.seq);
        }
        true
    }

    /// Applies the next entry, which is returned.
    pub(super) fn apply_one(&mut self) -> Option<Entry> {
        let installing = self.writes.iter().any(|write| write.snapshot.is_some());
        let node = self.node.as_mut()?;
        if installing {
            return None;
        }
        let entry = self.to_apply.pop_front()?;
        assert_eq!(entry.index(), self.applied + 1, "applied without a gap");
        if entry.r#type() != EntryType::EntryNormal {
            let change = ConfChange::decode(entry.r#type(), entry.data());
            let change = change.expect("a change that was proposed");
            // A change that is not possible is rejected by every member alike.
            if let Ok(conf_state) = node.apply_conf_change(&change.to_v2()) {
                self.conf_state = conf_state;
            }
        }
        self.applied = entry.index();
        node.applied(entry.index());
        Some(entry)
    }

    /// Makes the state machine durable, if its log is.
    pub(super) fn checkpoint(&mut self) {
        let Some(node) = &self.node else {
            return;
        };
        let installing = self.writes.iter().any(|write| write.snapshot.is_some());
        let ahead = self.applied > node.durable_index() || self.applied > self.disk.last();
        if !installing && !ahead && self.applied >= self.disk.checkpoint.0 {
            self.disk.checkpoint = (self.applied, self.conf_state.clone());
        }
    }

    /// Drops the log up to `index`, which the checkpoint covers.
    pub(super) fn compact(&mut self, index: u64) {
        let Some(node) = &mut self.node else {
            return;
        };
        let index = index.min(self.disk.checkpoint.0);
        let Some(term) = self.disk.term(index) else {
            return;
        };
        if node.compact(index) {
            self.disk
                .entries
                .drain(..(index - self.disk.start.0) as usize);
            self.disk.start = (index, term);
        }
    }

    /// Answers a request for entries from the disk.
    pub(super) fn read_entries(&mut self) -> bool {
        let (Some(read), Some(node)) = (self.entry_reads.pop_front(), &mut self.node) else {
            return false;
        };
        let begin = read.from.checked_sub(self.disk.start.0 + 1);
        let entries = begin.map_or(Vec::new(), |begin| {
            let stored = self.disk.entries.iter().skip(begin as usize);
            stored.take(3).cloned().collect()
        });
        node.entries_read(read.from, entries);
        true
    }
}
