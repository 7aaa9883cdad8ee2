//! The log as the state machine sees it: the terms of all entries, the recent entries themselves, and how far each of
//! writing, committing and applying has come.
//!
//! ```text
//!  start ........ [ring_first ......................... last]
//!    |  on disk only |   in memory (bounded by bytes)        |
//!    applied <= handed <= commit <= last
//!    durable <= issued <= last          (commit may be ahead of durable: other nodes' disks count)
//! ```
//!
//! Terms are kept as runs, one for each change of term, so that the term of any entry is known without reading it back.
//! Entries leave the ring, oldest first, once they are durable and the ring is over its bound.

use std::collections::VecDeque;

use proto::raftpb::Entry;

use crate::message::{entry_bytes, is_conf_change, payload_bytes};

/// Entries from `first` on have this term, up to the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermRun {
    /// First index of the run.
    pub first: u64,
    /// Its term.
    pub term: u64,
}

/// A committed entry contradicts what a leader sent: some log was lost or forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) index: u64,
    pub(crate) own_term: u64,
    pub(crate) sent_term: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Index before the first entry of the log: the last one compacted, or that of the snapshot.
    start: u64,
    /// Never empty; the first run begins at `start`.
    terms: VecDeque<TermRun>,
    ring: VecDeque<Entry>,
    ring_first: u64,
    ring_bytes: u64,
    ring_bytes_max: u64,
    /// Handed out for writing up to here.
    issued: u64,
    durable: u64,
    commit: u64,
    /// Handed out for applying up to here.
    handed: u64,
    applied: u64,
    /// Configuration entries behind `applied`, ascending.
    conf_changes: VecDeque<u64>,
    /// Weight of the entries that are not durable here.
    undurable_bytes: u64,
}

impl Log {
    /// A log in which everything given is durable. `terms` names the runs of entries between `start` and `entries`.
    pub(crate) fn new(
        start: (u64, u64),
        terms: &[TermRun],
        entries: Vec<Entry>,
        ring_bytes_max: u64,
    ) -> Log {
        let mut log = Log {
            start: start.0,
            terms: VecDeque::from([TermRun {
                first: start.0,
                term: start.1,
            }]),
            ring: VecDeque::new(),
            ring_first: entries.first().map_or(start.0 + 1, |entry| entry.index()),
            ring_bytes: 0,
            ring_bytes_max,
            issued: 0,
            durable: 0,
            commit: start.0,
            handed: start.0,
            applied: start.0,
            conf_changes: VecDeque::new(),
            undurable_bytes: 0,
        };
        for run in terms {
            log.note_term(run.first, run.term);
        }
        for entry in entries {
            log.push(entry);
        }
        log.issued = log.last();
        log.durable = log.last();
        log.undurable_bytes = 0;
        log
    }

    /// Where applying stands at start. Entries at or below are not handed out again.
    pub(crate) fn set_applied(&mut self, applied: u64, commit: u64) {
        debug_assert!(self.start <= applied && applied <= commit && commit <= self.last());
        (self.applied, self.handed, self.commit) = (applied, applied, commit);
        self.conf_changes.retain(|index| *index > applied);
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn last(&self) -> u64 {
        self.ring_first + self.ring.len() as u64 - 1
    }

    pub(crate) fn last_term(&self) -> u64 {
        self.terms[self.terms.len() - 1].term
    }

    pub(crate) fn commit(&self) -> u64 {
        self.commit
    }

    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    pub(crate) fn handed(&self) -> u64 {
        self.handed
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    pub(crate) fn ring_first(&self) -> u64 {
        self.ring_first
    }

    pub(crate) fn has_unissued(&self) -> bool {
        self.issued < self.last()
    }

    pub(crate) fn undurable_bytes(&self) -> u64 {
        self.undurable_bytes
    }

    /// The term of an entry; none if it was compacted or does not exist.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index < self.start || index > self.last() {
            return None;
        }
        let tail = self.terms[self.terms.len() - 1];
        if index >= tail.first {
            return Some(tail.term);
        }
        Some(self.terms[self.run_of(index)].term)
    }

    /// Position of the run that holds `index`, which is not below the first run.
    fn run_of(&self, index: u64) -> usize {
        self.terms.partition_point(|run| run.first <= index) - 1
    }

    pub(crate) fn matches(&self, index: u64, term: u64) -> bool {
        self.term(index) == Some(term)
    }

    /// Whether a log that ends with (`index`, `term`) holds at least as much as this one (Raft paper, section 5.4.1).
    pub(crate) fn is_up_to_date(&self, index: u64, term: u64) -> bool {
        term > self.last_term() || (term == self.last_term() && index >= self.last())
    }

    /// The largest index at or below `index` whose term is at or below `term`, and its term; the term is 0 where the
    /// log does not know it.
    pub(crate) fn find_conflict_by_term(&self, index: u64, term: u64) -> (u64, u64) {
        if index < self.start || index > self.last() {
            return (index, 0);
        }
        let mut at = self.run_of(index);
        let mut candidate = index;
        loop {
            let run = self.terms[at];
            if run.term <= term {
                return (candidate, run.term);
            }
            if at == 0 {
                // Everything known is newer: what lies before the start is not known.
                return (self.start.saturating_sub(1), 0);
            }
            candidate = run.first - 1;
            at -= 1;
        }
    }

    /// Appends one entry behind the last.
    pub(crate) fn push(&mut self, entry: Entry) {
        debug_assert_eq!(entry.index(), self.last() + 1);
        let bytes = entry_bytes(&entry);
        self.note_term(entry.index(), entry.term());
        if is_conf_change(&entry) {
            self.conf_changes.push_back(entry.index());
        }
        self.ring_bytes += bytes;
        self.undurable_bytes += bytes;
        self.ring.push_back(entry);
        if self.ring_bytes > self.ring_bytes_max {
            self.evict();
        }
    }

    fn note_term(&mut self, index: u64, term: u64) {
        if self.last_term() != term {
            self.terms.push_back(TermRun { first: index, term });
        }
    }

    /// Makes room. What is not durable yet must stay: it exists nowhere else.
    fn evict(&mut self) {
        while self.ring_bytes > self.ring_bytes_max && self.ring_first <= self.durable {
            let Some(entry) = self.ring.pop_front() else {
                break;
            };
            self.ring_bytes -= entry_bytes(&entry);
            self.ring_first += 1;
        }
    }

    /// The first of the entries, which follow `prev`, that this log does not hold; none if it holds all.
    pub(crate) fn first_new(&self, entries: &[Entry]) -> Option<usize> {
        entries
            .iter()
            .position(|entry| !self.matches(entry.index(), entry.term()))
    }

    /// Whether the place of a leader's message and its entries agree with what is committed here, as far as that is known:
    /// every leader holds all that is committed.
    pub(crate) fn check_committed(
        &self,
        prev: (u64, u64),
        entries: &[Entry],
    ) -> Result<(), Conflict> {
        let sent = entries.iter().map(|entry| (entry.index(), entry.term()));
        for (index, sent_term) in std::iter::once(prev).chain(sent) {
            match self.term(index) {
                Some(own_term) if index <= self.commit && own_term != sent_term => {
                    return Err(Conflict {
                        index,
                        own_term,
                        sent_term,
                    })
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Appends entries that follow `prev` (known to match), replacing what contradicts them. Returns whether entries
    /// were replaced, and from which index.
    pub(crate) fn append(&mut self, mut entries: Vec<Entry>) -> Result<Option<u64>, Conflict> {
        let Some(skip) = self.first_new(&entries) else {
            return Ok(None);
        };
        let first = entries[skip].index();
        if first <= self.commit {
            return Err(Conflict {
                index: first,
                own_term: self.term(first).unwrap_or(0),
                sent_term: entries[skip].term(),
            });
        }
        let replaced = (first <= self.last()).then_some(first);
        if replaced.is_some() {
            self.truncate(first);
        }
        for entry in entries.drain(skip..) {
            self.push(entry);
        }
        Ok(replaced)
    }

    /// Drops the entries from `first` on, none of which is committed.
    fn truncate(&mut self, first: u64) {
        assert!(
            first > self.commit,
            "committed entry {first} would be replaced"
        );
        if first < self.ring_first {
            // Everything in memory goes; what stays is on disk.
            self.ring.clear();
            self.ring_first = first;
            self.ring_bytes = 0;
            self.undurable_bytes = 0;
        } else {
            let keep = (first - self.ring_first) as usize;
            while self.ring.len() > keep {
                let Some(entry) = self.ring.pop_back() else {
                    break;
                };
                self.ring_bytes -= entry_bytes(&entry);
                if entry.index() > self.durable {
                    self.undurable_bytes -= entry_bytes(&entry);
                }
            }
        }
        while self.terms.len() > 1 && self.terms[self.terms.len() - 1].first >= first {
            self.terms.pop_back();
        }
        while self
            .conf_changes
            .back()
            .is_some_and(|index| *index >= first)
        {
            self.conf_changes.pop_back();
        }
        self.issued = self.issued.min(first - 1);
        self.durable = self.durable.min(first - 1);
    }

    /// Raises the commit index; false if it was there already.
    pub(crate) fn commit_to(&mut self, index: u64) -> bool {
        // Never wrong data: what was committed and is not there was lost.
        assert!(
            index <= self.last(),
            "committed entry {index} is not in the log"
        );
        if index <= self.commit {
            return false;
        }
        self.commit = index;
        true
    }

    /// The entries that were not handed out for writing yet.
    pub(crate) fn take_unissued(&mut self) -> Vec<Entry> {
        let from = (self.issued + 1).max(self.ring_first);
        self.issued = self.last();
        self.slice(from, self.issued).cloned().collect()
    }

    pub(crate) fn slice(&self, from: u64, to: u64) -> impl Iterator<Item = &Entry> {
        let begin = from
            .saturating_sub(self.ring_first)
            .min(self.ring.len() as u64) as usize;
        let end = (to + 1)
            .saturating_sub(self.ring_first)
            .min(self.ring.len() as u64) as usize;
        self.ring.range(begin..end.max(begin))
    }

    /// Everything up to `index` is durable here.
    pub(crate) fn set_durable(&mut self, index: u64) {
        if index <= self.durable {
            return;
        }
        debug_assert!(index <= self.issued);
        let freed: u64 = self.slice(self.durable + 1, index).map(entry_bytes).sum();
        self.undurable_bytes -= freed;
        self.durable = index;
        if self.ring_bytes > self.ring_bytes_max {
            self.evict();
        }
    }

    /// The next committed entries up to `limit`, at least one and else at most `bytes_max`, with their weight.
    /// Entries that have left memory must be read first: then the answer is empty.
    pub(crate) fn take_committed(&mut self, limit: u64, bytes_max: u64) -> (Vec<Entry>, u64) {
        let from = self.handed + 1;
        let to = limit.min(self.commit);
        if from > to || from < self.ring_first {
            return (Vec::new(), 0);
        }
        let (entries, bytes) = self.collect(from, to, bytes_max);
        self.handed += entries.len() as u64;
        (entries, bytes)
    }

    /// Notes entries handed out for applying that did not come from the ring.
    pub(crate) fn handed_out(&mut self, count: u64) {
        self.handed += count;
        debug_assert!(self.handed <= self.commit);
    }

    /// Entries `from..=to` of the ring, at least one and else at most `bytes_max`, with their weight.
    pub(crate) fn collect(&self, from: u64, to: u64, bytes_max: u64) -> (Vec<Entry>, u64) {
        debug_assert!(from >= self.ring_first);
        let mut weight = 0;
        let mut count = 0;
        for entry in self.slice(from, to) {
            let bytes = entry_bytes(entry);
            if count > 0 && weight + bytes > bytes_max {
                break;
            }
            weight += bytes;
            count += 1;
        }
        let entries = self
            .slice(from, from + count - u64::from(count > 0))
            .cloned();
        if count == 0 {
            return (Vec::new(), 0);
        }
        (entries.collect(), weight)
    }

    /// Payload of the entries behind `handed` that are in memory: what a new leader finds uncommitted or unapplied.
    pub(crate) fn unhanded_payload_bytes(&self) -> u64 {
        self.slice(self.handed + 1, self.last())
            .map(payload_bytes)
            .sum()
    }

    pub(crate) fn set_applied_to(&mut self, index: u64) {
        debug_assert!(self.applied <= index && index <= self.handed);
        self.applied = index;
        while self.conf_changes.front().is_some_and(|at| *at <= index) {
            self.conf_changes.pop_front();
        }
    }

    /// Whether a committed configuration change waits to be applied.
    pub(crate) fn has_unapplied_conf_change(&self) -> bool {
        self.conf_changes
            .front()
            .is_some_and(|index| *index <= self.commit)
    }

    /// Number of configuration changes that are not applied, committed or not.
    pub(crate) fn unapplied_conf_changes(&self) -> usize {
        self.conf_changes.len()
    }

    /// Forgets entries up to `index`, which the embedding no longer keeps on disk. Returns false if there is nothing
    /// to do or the entries are still needed here.
    pub(crate) fn compact(&mut self, index: u64) -> bool {
        if index <= self.start || index > self.applied || index > self.durable {
            return false;
        }
        let at = self.run_of(index);
        self.terms.drain(..at);
        self.terms[0].first = index;
        self.start = index;
        while self.ring_first <= index {
            let Some(entry) = self.ring.pop_front() else {
                break;
            };
            self.ring_bytes -= entry_bytes(&entry);
            self.ring_first += 1;
        }
        true
    }

    /// Replaces the whole log by a snapshot that ends at (`index`, `term`). It counts as applied only once it is
    /// installed.
    pub(crate) fn restore(&mut self, index: u64, term: u64) {
        debug_assert!(index > self.commit);
        self.durable = self.durable.min(self.commit);
        self.start = index;
        self.terms = VecDeque::from([TermRun { first: index, term }]);
        self.ring.clear();
        self.ring_first = index + 1;
        self.ring_bytes = 0;
        self.undurable_bytes = 0;
        self.conf_changes.clear();
        self.issued = index;
        self.commit = index;
        self.handed = index;
    }

    /// The snapshot at `index` is durable and installed.
    pub(crate) fn installed(&mut self, index: u64) {
        if index == self.start && self.applied < index {
            self.applied = index;
        }
        self.durable = self.durable.max(index);
    }
}

#[cfg(test)]
mod tests;
