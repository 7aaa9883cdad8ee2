//! A cluster in one thread: nodes, disks and a network that loses, repeats, delays and reorders.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::raftpb::{ConfChangeSingle, ConfChangeV2, ConfState, Message, MessageType};

use super::chance::Chance;
use super::invariants::{check_adjacent, History};
use super::member::Member;
use crate::{Config, Configuration, Node, ProgressState, ProposeError, ReadOnly, Role};

/// Appends under way to one follower in simulated clusters: few, so that the limit is reached.
pub(super) const INFLIGHT_MESSAGES_MAX: usize = 3;
/// Weight of appends under way.
pub(super) const INFLIGHT_BYTES_MAX: u64 = 400;
/// Weight of one append: the limit of a message, or one entry.
pub(super) const MESSAGE_WEIGHT_MAX: u64 = 150;
/// Weight of entries that wait for a disk: little more than a message.
const UNDURABLE_BYTES_MAX: u64 = 250;
/// Messages under way; the oldest are lost beyond it.
const NETWORK_MESSAGES_MAX: usize = 400;
/// Ticks that a healed cluster may take to agree.
const HEALING_TICKS_MAX: u32 = 400;
/// Appended, but not applied, entries at which clients pause.
const BACKLOG_ENTRIES_MAX: u64 = 60;

/// What a run does, and how much of it.
#[derive(Clone, Debug)]
pub struct Options {
    voters: u64,
    spares: u64,
    steps: usize,
    pre_vote: bool,
    check_quorum: bool,
    apply_undurable: bool,
    step_down: bool,
    loss_percent: u64,
    repeat_percent: u64,
    crashes: bool,
    conf_changes: bool,
    transfers: bool,
    partitions: bool,
    compaction: bool,
    losses: bool,
    gather_commits: bool,
}

impl Options {
    /// Draws a mixture for a cluster of this size. Each run leaves some things out, so that the others get deeper.
    pub fn draw(chance: &mut Chance, voters: u64, steps: usize) -> Options {
        Options {
            voters,
            spares: 2,
            steps,
            pre_vote: chance.percent(60),
            check_quorum: chance.percent(60),
            apply_undurable: chance.percent(70),
            step_down: chance.percent(50),
            loss_percent: [0, 5, 30][chance.below(3) as usize],
            repeat_percent: [0, 5, 30][chance.below(3) as usize],
            crashes: chance.percent(60),
            conf_changes: chance.percent(60),
            transfers: chance.percent(50),
            partitions: chance.percent(60),
            compaction: chance.percent(60),
            losses: false,
            gather_commits: chance.percent(50),
        }
    }

    /// Disks lose everything, one at a time, in a cluster of three and more that stays as it is.
    pub fn with_losses(self) -> Options {
        Options {
            crashes: true,
            conf_changes: false,
            losses: true,
            ..self
        }
    }
}

/// What a run has seen, to show that it was not idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Terms that had a leader.
    pub leaders: u64,
    /// Highest committed index.
    pub committed: u64,
    /// Confirmed reads.
    pub reads: u64,
    /// Snapshots installed.
    pub snapshots: u64,
    /// Crashes.
    pub crashes: u64,
    /// Disks that lost everything.
    pub losses: u64,
    /// Configuration changes applied.
    pub conf_changes: u64,
    /// Clusters of which a removed leader's early retreat left nobody electable.
    pub stuck: u64,
    /// States checked.
    pub checks: u64,
    /// Order-dependent digest of all messages: two runs of a seed agree.
    pub digest: u64,
}

/// The cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    options: Options,
    chance: Chance,
    members: BTreeMap<u64, Member>,
    network: Vec<Message>,
    /// Nodes that can not be reached.
    isolated: Vec<u64>,
    history: History,
    lives: u64,
    next_value: u64,
    report: Report,
}

impl Cluster {
    /// A cluster that has just been started.
    pub fn new(options: Options, chance: Chance) -> Cluster {
        let voters: Vec<u64> = (1..=options.voters).collect();
        let mut members = BTreeMap::new();
        for id in 1..=options.voters + options.spares {
            // The first configuration is not in the log: also those who join later have to know it.
            members.insert(id, Member::new(id, &voters));
        }
        let mut cluster = Cluster {
            options,
            chance,
            members,
            network: Vec::new(),
            isolated: Vec::new(),
            history: History::default(),
            lives: 0,
            next_value: 0,
            report: Report::default(),
        };
        let ids: Vec<u64> = cluster.members.keys().copied().collect();
        for id in ids {
            cluster.start(id);
        }
        cluster
    }

    /// Runs all steps, heals the cluster and checks that it agrees.
    pub fn run(mut self) -> Report {
        for _ in 0..self.options.steps {
            if self.chance.is_spent() {
                break;
            }
            self.step();
        }
        self.heal();
        self.report.checks = self.history.checks;
        self.report.committed = self.history.commit_max;
        self.report
    }

    fn start(&mut self, id: u64) {
        self.lives += 1;
        let config = Config {
            pre_vote: self.options.pre_vote,
            check_quorum: self.options.check_quorum,
            apply_undurable: self.options.apply_undurable,
            step_down_on_removal: self.options.step_down,
            gather_commits: self.options.gather_commits,
            message_bytes_max: MESSAGE_WEIGHT_MAX,
            applying_bytes_max: 300,
            inflight_messages_max: INFLIGHT_MESSAGES_MAX,
            inflight_bytes_max: INFLIGHT_BYTES_MAX,
            uncommitted_bytes_max: 200,
            undurable_bytes_max: UNDURABLE_BYTES_MAX,
            undurable_ticks_max: 3,
            ring_bytes_max: 500,
            election_ticks: 5,
            read_only: ReadOnly::Safe,
            seed: self.lives << 20 | id,
            ..Config::new(id)
        };
        if let Some(member) = self.members.get_mut(&id) {
            member.start(config);
        }
    }

    fn any_member(&mut self) -> u64 {
        1 + self.chance.below(self.members.len() as u64)
    }

    fn node(&mut self, id: u64) -> Option<&mut Node> {
        self.members.get_mut(&id)?.node.as_mut()
    }

    fn step(&mut self) {
        let id = self.any_member();
        match self.chance.below(100) {
            0..=6 => {
                if let Some(node) = self.node(id) {
                    node.tick();
                }
            }
            7..=43 => return self.deliver_any(),
            44..=63 => self.take_ready(id),
            64..=73 => self.complete_write(id),
            74..=81 => self.apply(id),
            82..=86 => self.propose(id),
            87..=88 => self.ask_read(id),
            89 => self.change_members(id),
            90 => self.transfer(id),
            91 => self.disturb(id),
            92 => self.crash_or_start(id),
            93 => self.partition(id),
            94..=95 => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.checkpoint();
                }
            }
            96 => self.compact(id),
            _ => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.read_entries();
                }
            }
        }
        self.check(id);
    }

    fn check(&mut self, id: u64) {
        self.history.check_node(&self.members, id);
    }

    /// Any message may be the next to arrive, be lost, or arrive again later.
    fn deliver_any(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let at = self.chance.below(self.network.len() as u64) as usize;
        let m = if self.chance.percent(self.options.repeat_percent) {
            self.network[at].clone()
        } else {
            self.network.remove(at)
        };
        if !self.chance.percent(self.options.loss_percent) {
            self.deliver(m);
        }
    }

    fn deliver(&mut self, m: Message) {
        let (from, to) = (m.from(), m.to());
        if self.isolated.contains(&from) || self.isolated.contains(&to) {
            return;
        }
        let snapshot = m.r#type() == MessageType::MsgSnap;
        if let Some(node) = self.node(to) {
            if let Err(error) = node.step(m) {
                assert!(!error.is_fatal(), "n{to}: {error}");
            }
            self.check(to);
            if snapshot && self.chance.percent(50) {
                let delivered = self.chance.percent(80);
                if let Some(sender) = self.node(from) {
                    sender.report_snapshot(to, delivered);
                }
            }
        } else if let Some(sender) = self.node(from) {
            sender.report_unreachable(to);
            if snapshot {
                sender.report_snapshot(to, false);
            }
        }
    }

    fn take_ready(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let Some(node) = member.node.as_mut().filter(|node| node.has_ready()) else {
            return;
        };
        let ready = node.ready();
        self.history.check_ready(member, &ready);
        for state in &ready.read_states {
            if let Some(at) = member.reads.iter().position(|(c, _)| *c == state.context) {
                let (_, floor) = member.reads.swap_remove(at);
                assert!(
                    state.index >= floor,
                    "I12: read {} below {floor} at n{id}",
                    state.index
                );
                self.report.reads += 1;
            }
        }
        self.report.snapshots += u64::from(ready.snapshot.is_some());
        self.report.leaders += u64::from(
            ready
                .soft_state
                .is_some_and(|soft| soft.role == Role::Leader),
        );
        member.take(&ready);
        for m in ready.messages {
            let mark = m.term() ^ m.index() << 8 ^ m.to() << 16 ^ (m.r#type() as u64) << 24;
            self.report.digest = (self.report.digest ^ mark).wrapping_mul(0x100_0000_01b3);
            self.network.push(m);
        }
        if self.network.len() > NETWORK_MESSAGES_MAX {
            let excess = self.network.len() - NETWORK_MESSAGES_MAX;
            self.network.drain(..excess);
        }
    }

    fn complete_write(&mut self, id: u64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.complete_write();
        }
    }

    fn apply(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let before = member.conf_state.clone();
        if let Some(entry) = member.apply_one() {
            if before != member.conf_state {
                self.report.conf_changes += 1;
                check_adjacent(&before, &member.conf_state);
            }
            self.history.check_applied(member, &entry);
        }
    }

    fn propose(&mut self, id: u64) {
        self.next_value += 1;
        let data = Bytes::from(self.next_value.to_be_bytes().to_vec());
        if let Some(node) = self.node(id) {
            if node.last_index() < node.applied_index() + BACKLOG_ENTRIES_MAX {
                let taken = node.propose(data);
                debug_assert!(
                    taken.is_ok()
                        || taken != Err(ProposeError::WritesStalled)
                        || node.role() == Role::Leader
                );
            }
        }
    }

    fn ask_read(&mut self, id: u64) {
        self.next_value += 1;
        let (context, floor) = (self.next_value, self.history.commit_max);
        if let Some(member) = self.members.get_mut(&id) {
            if let Some(node) = &mut member.node {
                node.read_index(context);
                member.reads.push((context, floor));
            }
        }
    }

    /// A random change that leaves a voter, proposed at a leader.
    fn change_members(&mut self, id: u64) {
        if !self.options.conf_changes {
            return;
        }
        let count = [0, 1, 1, 1, 2, 3][self.chance.below(6) as usize];
        let transition = self.chance.below(3) as i32;
        let changes = (0..count)
            .map(|_| ConfChangeSingle {
                r#type: Some(self.chance.below(4) as i32),
                node_id: Some(self.any_member()),
            })
            .collect();
        let change = ConfChangeV2 {
            transition: Some(transition),
            changes,
            context: None,
        };
        if let Some(node) = self.node(id) {
            let possible = node.configuration().apply(&change).is_ok();
            if node.role() == Role::Leader && possible {
                let _ = node.propose_conf_change(change);
            }
        }
    }

    fn transfer(&mut self, id: u64) {
        let to = self.any_member();
        if self.options.transfers {
            if let Some(node) = self.node(id) {
                node.transfer_leader(to);
            }
        }
    }

    fn disturb(&mut self, id: u64) {
        let (what, other) = (self.chance.below(4), self.any_member());
        let Some(node) = self.node(id) else {
            return;
        };
        match what {
            0 => node.campaign(),
            1 => {
                node.forget_leader();
            }
            2 => {
                if node.leader_refused(other, node.term()).is_some() {
                    node.failover_due();
                }
            }
            _ => node.report_unreachable(other),
        }
    }

    fn crash_or_start(&mut self, id: u64) {
        if !self.options.crashes {
            return;
        }
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.node.is_none() {
            self.maybe_lose_disk(id);
            self.start(id);
        } else {
            let completed = self.chance.below(member.writes.len() as u64 + 1);
            member.crash(completed as usize);
            self.history.crashed(id);
            self.report.crashes += 1;
        }
    }

    /// More at a time than a minority, and nobody could be elected any more.
    fn maybe_lose_disk(&mut self, id: u64) {
        let voters = 1..=self.options.voters;
        let mut others = voters.clone().filter(|other| *other != id);
        let refetching = others.any(|other| self.members[&other].is_refetching());
        if !self.options.losses || refetching || !voters.contains(&id) || self.chance.percent(70) {
            return;
        }
        let first = ConfState {
            voters: voters.collect(),
            auto_leave: Some(false),
            ..ConfState::default()
        };
        if let Some(member) = self.members.get_mut(&id) {
            member.lose_disk(first);
            self.report.losses += 1;
        }
    }

    fn partition(&mut self, id: u64) {
        if !self.options.partitions {
            return;
        }
        if self.isolated.is_empty() {
            self.isolated.push(id);
            if self.chance.percent(30) {
                self.isolated
                    .push(self.chance.below(self.members.len() as u64) + 1);
            }
        } else {
            self.isolated.clear();
        }
    }

    fn compact(&mut self, id: u64) {
        let back = self.chance.below(6);
        if let Some(member) = self
            .members
            .get_mut(&id)
            .filter(|_| self.options.compaction)
        {
            let index = member.disk.checkpoint.0.saturating_sub(back);
            member.compact(index);
        }
    }

    /// All faults end; the cluster must agree soon.
    fn heal(&mut self) {
        self.isolated.clear();
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in &ids {
            if self.members[id].node.is_none() {
                self.start(*id);
            }
        }
        for _ in 0..HEALING_TICKS_MAX {
            for id in &ids {
                if let Some(node) = self.node(*id) {
                    node.tick();
                }
                self.check(*id);
            }
            self.settle(&ids);
            if self.agrees() {
                return;
            }
            self.report_lost_snapshots();
        }
        if self.options.conf_changes && (self.options.step_down || self.has_small_half()) {
            // See `Config::step_down_on_removal`: with two voters nobody may be left who can be elected.
            self.report.stuck += 1;
            return;
        }
        for node in self
            .members
            .values()
            .filter_map(|member| member.node.as_ref())
        {
            let status = node.status();
            eprintln!("{status:?} {:?}", node.conf_state());
        }
        panic!("no agreement after healing");
    }

    /// Whether some node still lives in a configuration in which two nodes are needed for a majority of two or one.
    fn has_small_half(&self) -> bool {
        let small = |voters: &crate::quorum::Majority| matches!(voters.ids.len(), 1 | 2);
        self.members
            .values()
            .filter_map(|member| member.node.as_ref())
            .map(|node| &node.configuration().voters)
            .any(|voters| small(&voters.incoming) || small(&voters.outgoing))
    }

    /// Nothing is under way any more: a snapshot that has not arrived never will. Transports report that.
    fn report_lost_snapshots(&mut self) {
        for node in self
            .members
            .values_mut()
            .filter_map(|member| member.node.as_mut())
        {
            for peer in node.status().peers {
                if peer.state == ProgressState::Snapshot {
                    node.report_snapshot(peer.id, false);
                }
            }
        }
    }

    /// Everything that can be done without time passing.
    fn settle(&mut self, ids: &[u64]) {
        for _ in 0..200 {
            let mut busy = false;
            for id in ids {
                self.take_ready(*id);
                while self.members.get_mut(id).is_some_and(Member::complete_write) {
                    self.check(*id);
                }
                while self.members[id].to_apply.front().is_some() {
                    self.apply(*id);
                }
                while self.members.get_mut(id).is_some_and(Member::read_entries) {}
                self.check(*id);
                busy |= self.members[id].node.as_ref().is_some_and(Node::has_ready);
            }
            let current = self.current_members();
            for m in std::mem::take(&mut self.network) {
                // Members close the connections of those who have been removed, as soon as they know.
                if self.connected(&current, m.from(), m.to()) {
                    let (from, to) = (m.from(), m.to());
                    let snapshot = m.r#type() == MessageType::MsgSnap;
                    self.deliver(m);
                    if snapshot {
                        if let Some(sender) = self.node(from) {
                            sender.report_snapshot(to, true);
                        }
                    }
                    busy = true;
                }
            }
            if !busy {
                return;
            }
        }
    }

    fn connected(&self, current: &crate::quorum::Ids, from: u64, to: u64) -> bool {
        let knows = |one: u64, other: u64| {
            let node = self.members.get(&one).and_then(|m| m.node.as_ref());
            current.contains(other) || node.is_some_and(|node| node.configuration().contains(other))
        };
        knows(from, to) && knows(to, from)
    }

    fn current_members(&self) -> crate::quorum::Ids {
        let initial = &self.members[&1].disk.checkpoint.1;
        let conf = self.history.latest_conf().unwrap_or(initial);
        Configuration::from_conf_state(conf)
            .map_or_else(|_| crate::quorum::Ids::default(), |c| c.members())
    }

    /// One leader, and all members have applied what it has committed.
    fn agrees(&self) -> bool {
        let current = self.current_members();
        let nodes = || {
            self.members
                .values()
                .filter(|member| current.contains(member.id))
                .filter_map(|member| member.node.as_ref())
        };
        let mut leaders = nodes().filter(|node| node.role() == Role::Leader);
        let (Some(leader), None) = (leaders.next(), leaders.next()) else {
            return false;
        };
        nodes().all(|node| {
            node.leader() == leader.id()
                && node.applied_index() == leader.last_index()
                && node.durable_index() == leader.last_index()
        })
    }
}
