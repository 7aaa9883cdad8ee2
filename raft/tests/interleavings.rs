//! D7 of the scenarios: a follower through every order of messages, writes, applying and crashes up to a depth.
//!
//! Two leaders after one another send it entries, the second of which replaces what the first one sent. Whatever the order,
//! an acknowledgement speaks of what is durable, and entries are applied once, in order, and the same each time.

use std::collections::VecDeque;

use proto::raftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType};
use raft::{Config, Initial, Node};

/// Steps of one run. All five to the power of this many runs are made.
const DEPTH: u32 = 8;
/// The log that both leaders' committed entries make, as the terms of index 1, 2, ...
const COMMITTED: [u64; 4] = [1, 1, 2, 2];

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        r#type: Some(EntryType::EntryNormal as i32),
        term: Some(term),
        index: Some(index),
        data: None,
    }
}

/// What the leaders send: n2 in term 1, then n3 in term 2, of whose entries n1 has missed nothing.
fn messages() -> VecDeque<Message> {
    let append =
        |from: u64, term: u64, prev: (u64, u64), entries: Vec<Entry>, commit: u64| Message {
            r#type: Some(MessageType::MsgApp as i32),
            from: Some(from),
            to: Some(1),
            term: Some(term),
            index: Some(prev.0),
            log_term: Some(prev.1),
            entries,
            commit: Some(commit),
            ..Message::default()
        };
    VecDeque::from([
        append(2, 1, (1, 1), vec![entry(2, 1), entry(3, 1)], 1),
        append(2, 1, (3, 1), vec![entry(4, 1)], 2),
        append(3, 2, (1, 1), vec![entry(2, 1), entry(3, 2)], 2),
        append(3, 2, (3, 2), vec![entry(4, 2)], 4),
    ])
}

struct Write {
    seq: u64,
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
}

/// The node, its disk and its state machine.
struct Host {
    node: Node,
    inbox: VecDeque<Message>,
    writes: VecDeque<Write>,
    to_apply: VecDeque<Entry>,
    /// The durable image.
    hard_state: HardState,
    log: Vec<Entry>,
    /// The state machine, which is as durable as the log below it.
    applied: Vec<u64>,
    acknowledged: u64,
    seen: Vec<&'static str>,
}

impl Host {
    fn new() -> Host {
        let hard_state = HardState {
            term: Some(1),
            vote: Some(0),
            commit: Some(0),
        };
        let log = vec![entry(1, 1)];
        Host {
            node: start(hard_state, &log, 0),
            inbox: messages(),
            writes: VecDeque::new(),
            to_apply: VecDeque::new(),
            hard_state,
            log,
            applied: Vec::new(),
            acknowledged: 0,
            seen: Vec::new(),
        }
    }

    fn step(&mut self, choice: u64) {
        match choice {
            0 => {
                self.seen.push("message");
                if let Some(mut m) = self.inbox.pop_front() {
                    self.rebase(&mut m);
                    self.node.step(m).expect("no log was lost");
                }
            }
            1 => self.take(),
            2 => self.write(),
            3 => self.apply(),
            _ => self.crash(),
        }
        self.check();
    }

    /// A leader that begins below the commit index learns of it from the answer, and goes on from there.
    fn rebase(&self, m: &mut Message) {
        let commit = self.node.commit_index();
        if m.term() >= self.node.term() && m.index() < commit {
            m.entries.retain(|entry| entry.index() > commit);
            m.index = Some(commit);
            m.log_term = Some(COMMITTED[commit as usize - 1]);
        }
    }

    fn take(&mut self) {
        self.seen.push("take");
        let ready = self.node.ready();
        if ready.must_sync || ready.hard_state.is_some() {
            self.writes.push_back(Write {
                seq: ready.seq,
                hard_state: ready.hard_state,
                entries: ready.entries,
            });
        }
        self.to_apply.extend(ready.committed);
        for m in ready.messages {
            self.check_message(&m);
        }
    }

    /// I8: what a message speaks of is durable when it leaves.
    fn check_message(&mut self, m: &Message) {
        assert!(
            m.term() <= self.hard_state.term() || m.reject(),
            "{:?}",
            self.seen
        );
        if m.r#type() != MessageType::MsgAppResp || m.reject() {
            return;
        }
        let of_leader: &[u64] = if m.term() == 1 {
            &[1, 1, 1, 1]
        } else {
            &COMMITTED
        };
        for index in 1..=m.index() {
            let at = index as usize - 1;
            let stored = self.log.get(at).map(|entry| entry.term());
            assert_eq!(
                stored,
                Some(of_leader[at]),
                "entry {index} after {:?}",
                self.seen
            );
        }
        if m.term() == 2 {
            self.acknowledged = self.acknowledged.max(m.index());
        }
    }

    fn write(&mut self) {
        self.seen.push("write");
        let Some(write) = self.writes.pop_front() else {
            return;
        };
        if let Some(first) = write.entries.first() {
            self.log.truncate(first.index() as usize - 1);
            self.log.extend(write.entries);
        }
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        self.node.persisted(write.seq);
    }

    fn apply(&mut self) {
        self.seen.push("apply");
        if let Some(entry) = self.to_apply.pop_front() {
            assert_eq!(
                entry.index() as usize,
                self.applied.len() + 1,
                "{:?}",
                self.seen
            );
            self.applied.push(entry.term());
            self.node.applied(entry.index());
        }
    }

    fn crash(&mut self) {
        self.seen.push("crash");
        self.writes.clear();
        self.to_apply.clear();
        // A checkpoint holds no more than what the own log has made durable.
        self.applied.truncate(self.log.len());
        self.node = start(self.hard_state, &self.log, self.applied.len() as u64);
        // The leader of the moment sends again what was not acknowledged.
        let sent = messages().len() - self.inbox.len();
        let again = if sent <= 2 { 0 } else { 2 };
        self.inbox = messages().split_off(again);
    }

    fn check(&self) {
        let count = self.applied.len();
        assert_eq!(self.applied, COMMITTED[..count], "{:?}", self.seen);
        for index in 1..=self.acknowledged as usize {
            let stored = self.log.get(index - 1).map(|entry| entry.term());
            assert_eq!(stored, Some(COMMITTED[index - 1]), "{:?}", self.seen);
        }
    }

    /// Everything that is left is done: the node ends with the second leader's log.
    fn finish(&mut self) {
        while !self.inbox.is_empty() {
            self.step(0);
        }
        while self.node.has_ready() || !self.writes.is_empty() || !self.to_apply.is_empty() {
            self.step(1);
            self.step(2);
            self.step(3);
        }
        assert_eq!(self.applied, COMMITTED, "{:?}", self.seen);
        assert_eq!(self.acknowledged, 4, "{:?}", self.seen);
    }
}

fn start(hard_state: HardState, log: &[Entry], applied: u64) -> Node {
    let initial = Initial {
        hard_state,
        conf_state: ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        },
        entries: log.to_vec(),
        applied,
        ..Initial::default()
    };
    Node::new(Config::new(1), initial).expect("a valid start")
}

#[test]
fn every_order_keeps_what_was_acknowledged() {
    for run in 0..5u64.pow(DEPTH) {
        let mut host = Host::new();
        let mut choices = run;
        for _ in 0..DEPTH {
            host.step(choices % 5);
            choices /= 5;
        }
        host.finish();
    }
}
