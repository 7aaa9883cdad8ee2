//! The world of a transcript: hosts, links, and the commands that move them.
//!
//! ```text
//! cluster N [option ...]    forget everything; nodes 1..N, all voters unless options say otherwise
//! node I [option ...]       (re)place one node; options as above, on top of the cluster's
//!     prevote checkquorum lease stepdown novalidate noforward durableonly manual   switches
//!     election=E inflight=M bytes=B message=B uncommitted=B undurable=B undurableticks=T ring=B applying=B   limits
//!     voters=1,2 learners=3 outgoing=1,2 next=3 autoleave   configuration
//!     log=1,1,2 start=T/I term=T vote=V commit=C applied=A lost=T  durable state
//! campaign I, tick I [count], timeout I T, forget I, passive I, transfer I TO
//! propose I DATA [count], change I auto|explicit|implicit|v1|leave [add|learner|remove|update J ...]
//! read I CONTEXT, unreachable I J, snapshot I J ok|failed, refused I LEADER TERM, due I
//! send I>J KIND [term=] [prev=T/I] [entries=T/I,..] [commit=] [index=] [reject] [hint=T/I] [transfer] [voters=..]
//! deliver [I>J | I>] [count], drop [I>J | I>], isolate I, heal, settle [quiet], again (repeat of the last delivery)
//! hold [I>J | I>], release  messages that are late
//! manual I: take I, write I, apply I [count]; otherwise each command runs all of it at once
//! compact I INDEX, crash I (and restart)
//! status [I ...], progress I, log [I ...], conf I, term I INDEX
//! ```
//! `transcript/pure.rs` has those that need no cluster. Each command prints the messages that it caused to be sent and the states that it changed.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::raftpb::{
    ConfChange as ChangeV1, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2,
    ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};
use raft::{Config, Initial, ReadOnly, Role};

use super::host::Host;
use super::pure::Algebra;
use super::show;

/// Rounds after which a script that does not come to rest is in error.
const SETTLE_ROUNDS_MAX: usize = 300;

#[derive(Default)]
pub struct World {
    hosts: BTreeMap<u64, Host>,
    network: Vec<Message>,
    held: Vec<Message>,
    isolated: Vec<u64>,
    shown: BTreeMap<u64, String>,
    options: Vec<String>,
    size: u64,
    last: Option<Message>,
    algebra: Algebra,
}

type Words<'a> = Vec<&'a str>;

impl World {
    pub fn run(&mut self, line: &str) -> Vec<String> {
        let words: Words = line.split_whitespace().collect();
        let mut out = Vec::new();
        self.command(&words, &mut out);
        self.run_hosts(&mut out);
        if words.last() != Some(&"quiet") {
            self.show_changes(&mut out);
        } else {
            out.clear();
            self.show_changes(&mut out);
        }
        out
    }

    fn command(&mut self, words: &Words, out: &mut Vec<String>) {
        let id = || number(words.get(1).copied().unwrap_or("0"));
        let second = || match words.get(2) {
            None | Some(&"quiet") => 0,
            Some(word) => number(word),
        };
        match words[0] {
            "cluster" => self.cluster(id(), &words[2..]),
            "node" => self.place(id(), &words[2..]),
            "campaign" => self.host(id()).node.campaign(),
            "timeout" => self.host(id()).node.set_election_timeout(second() as u32),
            "tick" => (0..second().max(1)).for_each(|_| {
                self.host(id()).node.tick();
                self.run_hosts(out);
            }),
            "forget" => {
                if !self.host(id()).node.forget_leader() {
                    out.push("no effect".to_string());
                }
            }
            "announce" => self.host(id()).node.announce_commit(),
            "passive" => self.host(id()).node.set_passive(true),
            "transfer" => self.host(id()).node.transfer_leader(second()),
            "propose" => self.propose(words, out),
            "change" => self.change(words, out),
            "read" => self.host(id()).node.read_index(second()),
            "unreachable" => self.host(id()).node.report_unreachable(second()),
            "snapshot" => self
                .host(id())
                .node
                .report_snapshot(second(), words[3] == "ok"),
            "refused" => {
                let term = number(words[3]);
                let delay = self.host(id()).node.leader_refused(second(), term);
                out.push(show_delay(delay));
            }
            "due" => {
                let delay = self.host(id()).node.failover_due();
                out.push(show_delay(delay));
            }
            "send" => self.craft(words, out),
            "deliver" => self.deliver(words.get(1).copied(), second(), out),
            "drop" => {
                let link = words.get(1).copied();
                self.network.retain(|m| !on_link(m, link));
            }
            "hold" => {
                let link = words.get(1).copied();
                let (held, rest) = std::mem::take(&mut self.network)
                    .into_iter()
                    .partition(|m| on_link(m, link));
                self.network = rest;
                self.held = held;
            }
            "release" => {
                let mut held = std::mem::take(&mut self.held);
                self.network.append(&mut held);
            }
            "again" => {
                let m = self.last.clone().expect("something was delivered");
                self.step(m, out);
            }
            "isolate" => self.isolated.push(id()),
            "heal" => self.isolated.clear(),
            "settle" => self.settle(out),
            _ if self.algebra.run(words, out) => {}
            _ => self.inspect(words, out),
        }
    }

    fn inspect(&mut self, words: &Words, out: &mut Vec<String>) {
        let id = || number(words.get(1).copied().unwrap_or("0"));
        match words[0] {
            "manual" => self.host(id()).manual = true,
            "take" => self.take(id(), out),
            "write" => {
                self.host(id()).write(out);
            }
            "apply" => {
                let count = words
                    .get(2)
                    .map_or(usize::MAX, |count| number(count) as usize);
                for _ in 0..count {
                    if !self.host(id()).apply(out) {
                        break;
                    }
                }
            }
            "compact" => {
                if !self.host(id()).compact(number(words[2])) {
                    out.push("still needed".to_string());
                }
            }
            "crash" => {
                let config = self.host(id()).config.clone();
                self.host(id()).restart(config);
                self.network.retain(|m| m.from() != id());
            }
            "status" => {
                for id in self.ids(&words[1..]) {
                    let text = self.state(id);
                    out.push(text);
                }
            }
            "progress" => {
                for peer in self.host(id()).node.status().peers {
                    if peer.id != id() {
                        out.push(show::progress(&peer));
                    }
                }
            }
            "log" => {
                for id in self.ids(&words[1..]) {
                    out.push(self.hosts[&id].terms());
                }
            }
            "term" => {
                let term = self.host(id()).node.entry_term(number(words[2]));
                out.push(term.map_or("not known".to_string(), |term| term.to_string()));
            }
            "conf" => out.push(show::conf(&self.host(id()).node.conf_state())),
            other => panic!("unknown command {other}"),
        }
    }

    fn host(&mut self, id: u64) -> &mut Host {
        self.hosts
            .get_mut(&id)
            .unwrap_or_else(|| panic!("no node {id}"))
    }

    fn ids(&self, words: &[&str]) -> Vec<u64> {
        if words.is_empty() {
            return self.hosts.keys().copied().collect();
        }
        words.iter().map(|word| number(word)).collect()
    }

    fn cluster(&mut self, size: u64, options: &[&str]) {
        *self = World {
            options: options.iter().map(|option| option.to_string()).collect(),
            size,
            ..World::default()
        };
        for id in 1..=size {
            self.place(id, &[]);
        }
    }

    fn place(&mut self, id: u64, options: &[&str]) {
        let shared = self.options.clone();
        let all: Vec<&str> = shared
            .iter()
            .map(String::as_str)
            .chain(options.iter().copied())
            .collect();
        let (config, initial) = settings(id, self.size, &all);
        let mut host = Host::new(config, initial);
        // So that nobody's timer fires unless the script says so.
        let timeout = host.config.election_ticks;
        host.node.set_election_timeout(timeout);
        host.manual = all.contains(&"manual");
        self.hosts.insert(id, host);
        self.shown.insert(id, self.state(id));
    }

    fn propose(&mut self, words: &Words, out: &mut Vec<String>) {
        let id = number(words[1]);
        let count = match words.get(3) {
            None | Some(&"quiet") => 1,
            Some(count) => number(count),
        };
        for _ in 0..count {
            let data = match words[2].strip_prefix("size=") {
                Some(size) => Bytes::from(vec![b'x'; number(size) as usize]),
                None => Bytes::from(words[2].trim_matches('"').to_string()),
            };
            if let Err(error) = self.host(id).node.propose(data) {
                out.push(error.to_string());
            }
            self.run_hosts(out);
        }
    }

    fn change(&mut self, words: &Words, out: &mut Vec<String>) {
        let id = number(words[1]);
        let change = conf_change(words[2], &words[3..]);
        let result = if words[2] == "v1" {
            let step = &change.changes[0];
            let change = ChangeV1 {
                id: Some(0),
                r#type: step.r#type,
                node_id: step.node_id,
                context: None,
            };
            self.host(id).node.propose_conf_change(change)
        } else {
            self.host(id).node.propose_conf_change(change)
        };
        match result {
            Ok(proposed) if proposed.refused => out.push("replaced by an empty entry".to_string()),
            Ok(_) => {}
            Err(error) => out.push(error.to_string()),
        }
    }

    /// A message made by hand.
    fn craft(&mut self, words: &Words, out: &mut Vec<String>) {
        let (from, to) = words[1].split_once('>').expect("a link");
        let kind = MessageType::from_str_name(&format!("Msg{}", words[2])).expect("a kind");
        let mut m = Message {
            r#type: Some(kind as i32),
            from: Some(number(from)),
            to: Some(number(to)),
            ..Message::default()
        };
        let mut voters = Vec::new();
        for word in &words[3..] {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "term" => m.term = Some(number(value)),
                "prev" | "last" => (m.log_term, m.index) = place(value),
                "hint" => (m.log_term, m.reject_hint) = place(value),
                "index" => m.index = Some(number(value)),
                "commit" => m.commit = Some(number(value)),
                "reject" => m.reject = Some(true),
                "transfer" => m.context = Some(Bytes::from_static(b"CampaignTransfer")),
                "entries" => m.entries = value.split(',').map(crafted_entry).collect(),
                "voters" => voters = numbers(value),
                other => panic!("unknown field {other}"),
            }
        }
        if kind == MessageType::MsgSnap {
            m.snapshot = Some(Snapshot {
                data: None,
                metadata: Some(SnapshotMetadata {
                    conf_state: Some(ConfState {
                        voters,
                        ..ConfState::default()
                    }),
                    index: m.index,
                    term: m.log_term,
                }),
            });
        }
        self.step(m, out);
    }

    fn step(&mut self, m: Message, out: &mut Vec<String>) {
        let to = m.to();
        self.last = Some(m.clone());
        if self.hosts.contains_key(&to) {
            if let Err(error) = self.host(to).node.step(m) {
                let first = error.to_string();
                out.push(format!("n{to}: {}", first.split(';').next().unwrap_or("")));
            }
            self.run_hosts(out);
        }
    }

    /// What is on the link now, and not what that causes.
    fn deliver(&mut self, link: Option<&str>, count: u64, out: &mut Vec<String>) {
        let count = if count == 0 {
            usize::MAX
        } else {
            count as usize
        };
        let (mut now, mut rest) = (Vec::new(), Vec::new());
        for m in std::mem::take(&mut self.network) {
            if on_link(&m, link) && now.len() < count {
                now.push(m);
            } else {
                rest.push(m);
            }
        }
        self.network = rest;
        for m in now {
            self.step(m, out);
        }
    }

    fn settle(&mut self, out: &mut Vec<String>) {
        for _ in 0..SETTLE_ROUNDS_MAX {
            let ids: Vec<u64> = self.hosts.keys().copied().collect();
            for id in ids {
                if self.host(id).manual {
                    self.take(id, out);
                    while self.host(id).write(out) {}
                    while self.host(id).apply(out) {}
                }
            }
            self.run_hosts(out);
            self.deliver(None, 0, out);
            let idle = |host: &Host| {
                !host.node.has_ready() && host.writes.is_empty() && host.to_apply.is_empty()
            };
            if self.network.is_empty() && self.hosts.values().all(idle) {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    fn take(&mut self, id: u64, out: &mut Vec<String>) {
        let messages = self.host(id).take(out);
        for m in messages {
            let lost = self.isolated.contains(&m.from()) || self.isolated.contains(&m.to());
            let known = self.hosts.contains_key(&m.to());
            let mark = if lost || !known { " (lost)" } else { "" };
            out.push(format!("{}{mark}", show::message(&m)));
            if !lost && known {
                self.network.push(m);
            }
        }
    }

    /// Nodes that are not manual write, send and apply at once.
    fn run_hosts(&mut self, out: &mut Vec<String>) {
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        for id in ids {
            while !self.host(id).manual && self.host(id).node.has_ready() {
                self.take(id, out);
                while self.host(id).write(out) {}
                while self.host(id).apply(out) {}
                while self.host(id).read_back() {}
            }
        }
    }

    fn state(&self, id: u64) -> String {
        let node = &self.hosts[&id].node;
        let status = node.status();
        let last_term = node.entry_term(status.last).unwrap_or(0);
        show::status(&status, last_term)
    }

    fn show_changes(&mut self, out: &mut Vec<String>) {
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        for id in ids {
            let now = self.state(id);
            if self.shown.get(&id) != Some(&now) {
                out.push(now.clone());
                self.shown.insert(id, now);
            }
        }
        let leaders = self
            .hosts
            .values()
            .filter(|host| host.node.role() == Role::Leader);
        let mut terms: Vec<u64> = leaders.map(|host| host.node.term()).collect();
        terms.dedup();
        let count = self
            .hosts
            .values()
            .filter(|host| host.node.role() == Role::Leader)
            .count();
        assert!(terms.len() == count || count > 1, "two leaders in one term");
    }
}

/// A change by its transition and its steps, each a kind and a node.
pub fn conf_change(transition: &str, steps: &[&str]) -> ConfChangeV2 {
    let transition = match transition {
        "explicit" => ConfChangeTransition::JointExplicit,
        "implicit" => ConfChangeTransition::JointImplicit,
        _ => ConfChangeTransition::Auto,
    };
    let step = |pair: &[&str]| {
        let kind = match pair[0] {
            "add" => ConfChangeType::ConfChangeAddNode,
            "learner" => ConfChangeType::ConfChangeAddLearnerNode,
            "remove" => ConfChangeType::ConfChangeRemoveNode,
            _ => ConfChangeType::ConfChangeUpdateNode,
        };
        ConfChangeSingle {
            r#type: Some(kind as i32),
            node_id: Some(number(pair[1])),
        }
    };
    ConfChangeV2 {
        transition: Some(transition as i32),
        changes: steps.chunks(2).map(step).collect(),
        context: None,
    }
}

pub fn number(word: &str) -> u64 {
    word.parse()
        .unwrap_or_else(|_| panic!("{word} is no number"))
}

fn numbers(list: &str) -> Vec<u64> {
    list.split(',')
        .filter(|word| !word.is_empty())
        .map(number)
        .collect()
}

fn place(value: &str) -> (Option<u64>, Option<u64>) {
    let (term, index) = value.split_once('/').expect("term/index");
    (Some(number(term)), Some(number(index)))
}

fn crafted_entry(value: &str) -> Entry {
    let (term, index) = place(value);
    Entry {
        r#type: Some(EntryType::EntryNormal as i32),
        term,
        index,
        data: None,
    }
}

fn on_link(m: &Message, link: Option<&str>) -> bool {
    match link.and_then(|link| link.split_once('>')) {
        None => true,
        Some(("", to)) => m.to() == number(to),
        Some((from, "")) => m.from() == number(from),
        Some((from, to)) => m.from() == number(from) && m.to() == number(to),
    }
}

fn show_delay(delay: Option<u32>) -> String {
    match delay {
        Some(ms) => {
            assert!((raft::FAILOVER_DELAY_MS_MIN..=raft::FAILOVER_DELAY_MS_MAX).contains(&ms));
            "waits 5-50 ms".to_string()
        }
        None => "no delay".to_string(),
    }
}

pub fn settings(id: u64, size: u64, options: &[&str]) -> (Config, Initial) {
    let mut config = Config {
        pre_vote: false,
        check_quorum: false,
        ..Config::new(id)
    };
    let mut initial = Initial::default();
    let mut hard = HardState::default();
    let mut conf = ConfState {
        voters: (1..=size).collect(),
        ..ConfState::default()
    };
    let mut terms = Vec::new();
    for option in options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "prevote" => config.pre_vote = true,
            "checkquorum" => config.check_quorum = true,
            "lease" => config.read_only = ReadOnly::Lease,
            "stepdown" => config.step_down_on_removal = true,
            "gather" => config.gather_commits = true,
            "novalidate" => config.validate_conf_changes = false,
            "manual" => {}
            "noforward" => config.forward_proposals = false,
            "durableonly" => config.apply_undurable = false,
            "election" => config.election_ticks = number(value) as u32,
            "inflight" => config.inflight_messages_max = number(value) as usize,
            "bytes" => config.inflight_bytes_max = number(value),
            "message" => config.message_bytes_max = number(value),
            "uncommitted" => config.uncommitted_bytes_max = number(value),
            "undurable" => config.undurable_bytes_max = number(value),
            "undurableticks" => config.undurable_ticks_max = number(value) as u32,
            "ring" => config.ring_bytes_max = number(value),
            "applying" => config.applying_bytes_max = number(value),
            "voters" => conf.voters = numbers(value),
            "learners" => conf.learners = numbers(value),
            "outgoing" => conf.voters_outgoing = numbers(value),
            "next" => conf.learners_next = numbers(value),
            "autoleave" => conf.auto_leave = Some(value != "no"),
            "log" => terms = numbers(value),
            "start" => {
                let (term, index) = place(value);
                initial.start = (index.unwrap_or(0), term.unwrap_or(0));
            }
            "term" => hard.term = Some(number(value)),
            "vote" => hard.vote = Some(number(value)),
            "commit" => hard.commit = Some(number(value)),
            "lost" => initial.lost_until = Some(number(value)),
            "applied" => initial.applied = number(value),
            other => panic!("unknown option {other}"),
        }
    }
    conf.voters.retain(|id| !conf.learners.contains(id));
    let first = initial.start.0 + 1;
    let numbered = terms.iter().zip(first..);
    initial.entries = numbered
        .map(|(term, index)| crafted_entry(&format!("{term}/{index}")))
        .collect();
    initial.applied = initial.applied.max(initial.start.0);
    initial.hard_state = hard;
    initial.conf_state = conf;
    (config, initial)
}
