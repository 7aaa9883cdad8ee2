//! A node with its disk, as the embedding of the transcripts.

use std::collections::VecDeque;

use proto::raftpb::{ConfState, Entry, EntryType, HardState, Message, Snapshot};
use raft::{ConfChange, Config, EntryRead, Initial, Node};

use super::show;

pub struct Write {
    seq: u64,
    hard_state: Option<HardState>,
    snapshot: Option<Snapshot>,
    entries: Vec<Entry>,
}

pub struct Host {
    pub node: Node,
    pub config: Config,
    pub writes: VecDeque<Write>,
    pub to_apply: VecDeque<Entry>,
    pub reads: VecDeque<EntryRead>,
    /// Writes and applying are commands of the script.
    pub manual: bool,
    hard_state: HardState,
    start: (u64, u64),
    entries: Vec<Entry>,
    applied: (u64, ConfState),
}

impl Host {
    pub fn new(config: Config, initial: Initial) -> Host {
        let node = Node::new(config.clone(), initial.clone()).expect("a valid start");
        Host {
            node,
            config,
            writes: VecDeque::new(),
            to_apply: VecDeque::new(),
            reads: VecDeque::new(),
            manual: false,
            hard_state: initial.hard_state,
            start: initial.start,
            entries: initial.entries,
            applied: (initial.applied, initial.conf_state),
        }
    }

    /// Loses everything that is not durable.
    pub fn restart(&mut self, config: Config) {
        let initial = Initial {
            hard_state: self.hard_state,
            conf_state: self.applied.1.clone(),
            start: self.start,
            entries: self.entries.clone(),
            applied: self.applied.0.min(self.start.0 + self.entries.len() as u64),
            ..Initial::default()
        };
        let manual = self.manual;
        *self = Host::new(config, initial);
        self.manual = manual;
    }

    /// Takes what is ready: messages are returned, the rest is queued; remarks tell about it.
    pub fn take(&mut self, out: &mut Vec<String>) -> Vec<Message> {
        if !self.node.has_ready() {
            return Vec::new();
        }
        let ready = self.node.ready();
        let id = self.node.id();
        if self.manual && (ready.must_sync || ready.hard_state.is_some()) {
            let hard = ready.hard_state.map_or(String::new(), |hard| {
                format!(
                    " term={} vote={} commit={}",
                    hard.term(),
                    hard.vote(),
                    hard.commit()
                )
            });
            let sync = if ready.must_sync { "" } else { " (may wait)" };
            out.push(format!(
                "n{id} writes #{}{hard} {}{sync}",
                ready.seq,
                show::entries(&ready.entries)
            ));
        }
        if self.manual && !ready.committed.is_empty() {
            out.push(format!(
                "n{id} is to apply {}",
                show::entries(&ready.committed)
            ));
        }
        for state in &ready.read_states {
            out.push(format!(
                "n{id} may read {} at {}",
                state.context, state.index
            ));
        }
        for context in &ready.read_failures {
            out.push(format!("n{id} read {context} failed"));
        }
        for read in &ready.reads {
            out.push(format!(
                "n{id} reads entries {}..={} back",
                read.from, read.to
            ));
        }
        if ready.snapshot.is_some() {
            self.to_apply.clear();
        }
        if ready.must_sync || ready.hard_state.is_some() {
            self.writes.push_back(Write {
                seq: ready.seq,
                hard_state: ready.hard_state,
                snapshot: ready.snapshot,
                entries: ready.entries,
            });
        }
        self.to_apply.extend(ready.committed);
        self.reads.extend(ready.reads);
        ready.messages
    }

    /// The oldest write ends.
    pub fn write(&mut self, out: &mut Vec<String>) -> bool {
        let Some(write) = self.writes.pop_front() else {
            return false;
        };
        let meta = write.snapshot.and_then(|snapshot| snapshot.metadata);
        if let Some(meta) = meta {
            out.push(format!(
                "n{} installs snapshot {}/{}",
                self.node.id(),
                meta.term(),
                meta.index()
            ));
            self.start = (meta.index(), meta.term());
            self.entries.clear();
            self.applied = (meta.index(), meta.conf_state.clone().unwrap_or_default());
        }
        if let Some(first) = write.entries.first() {
            self.entries
                .truncate((first.index() - self.start.0 - 1) as usize);
            self.entries.extend(write.entries);
        }
        if let Some(hard) = write.hard_state {
            self.hard_state = hard;
        }
        self.node.persisted(write.seq);
        true
    }

    /// The next entry is applied.
    pub fn apply(&mut self, out: &mut Vec<String>) -> bool {
        let Some(entry) = self.to_apply.pop_front() else {
            return false;
        };
        let id = self.node.id();
        if entry.r#type() != EntryType::EntryNormal {
            let change = ConfChange::decode(entry.r#type(), entry.data()).expect("decodes");
            match self.node.apply_conf_change(&change.to_v2()) {
                Ok(conf) => {
                    out.push(format!("n{id} configuration {}", show::conf(&conf)));
                    self.applied.1 = conf;
                }
                Err(error) => out.push(format!("n{id} {error}")),
            }
        }
        self.applied.0 = entry.index();
        self.node.applied(entry.index());
        true
    }

    pub fn compact(&mut self, index: u64) -> bool {
        let term = self.node.entry_term(index).unwrap_or(0);
        let done = self.node.compact(index);
        if done {
            self.entries.drain(..(index - self.start.0) as usize);
            self.start = (index, term);
        }
        done
    }

    pub fn read_back(&mut self) -> bool {
        let Some(read) = self.reads.pop_front() else {
            return false;
        };
        let skip = (read.from - self.start.0 - 1) as usize;
        let count = (read.to - read.from + 1) as usize;
        let found = self
            .entries
            .iter()
            .skip(skip)
            .take(count)
            .cloned()
            .collect();
        self.node.entries_read(read.from, found);
        true
    }

    /// Terms of the whole log.
    pub fn terms(&self) -> String {
        let first = self.node.first_index();
        let terms: Vec<String> = (first..=self.node.last_index())
            .map(|index| self.node.entry_term(index).unwrap_or(0).to_string())
            .collect();
        let cut = if first > 1 {
            format!("(from {first}) ")
        } else {
            String::new()
        };
        format!("n{} log {cut}[{}]", self.node.id(), terms.join(" "))
    }
}
