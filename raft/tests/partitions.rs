//! W1-W8: partitions of every shape, in whole clusters driven tick by tick. Each test states how soon there must be a
//! leader, and how many elections a fault may cost.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::raftpb::{ConfChange, ConfChangeType, ConfState, Entry, HardState, Message};
use raft::{Config, Initial, Node, Role};

/// Election timeout, ticks.
const E: u32 = 10;

struct Cluster {
    nodes: BTreeMap<u64, Node>,
    /// What each node has stored: everything handed out so far, since here writes end at once.
    disks: BTreeMap<u64, (HardState, Vec<Entry>)>,
    /// Links (from, to) that lose everything.
    cut: Vec<(u64, u64)>,
    network: Vec<Message>,
    applied: BTreeMap<u64, Vec<Bytes>>,
    size: u64,
}

impl Cluster {
    fn new(size: u64) -> Cluster {
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            cut: Vec::new(),
            network: Vec::new(),
            applied: BTreeMap::new(),
            size,
        };
        for id in 1..=size {
            cluster.start(id);
        }
        cluster.ticks(3 * E);
        assert!(
            cluster.leader().is_some(),
            "a leader within three election timeouts"
        );
        cluster
    }

    /// Starts a node with what its disk holds.
    fn start(&mut self, id: u64) {
        let (hard_state, entries) = self.disks.entry(id).or_default().clone();
        let initial = Initial {
            hard_state,
            conf_state: ConfState {
                voters: (1..=self.size).collect(),
                ..ConfState::default()
            },
            entries,
            ..Initial::default()
        };
        let seed = id * 1000 + self.disks[&id].1.len() as u64;
        let config = Config {
            seed,
            ..Config::new(id)
        };
        self.applied.insert(id, Vec::new());
        self.nodes
            .insert(id, Node::new(config, initial).expect("a disk in order"));
    }

    fn ticks(&mut self, count: u32) {
        for _ in 0..count {
            for node in self.nodes.values_mut() {
                node.tick();
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            for id in ids {
                self.run(id);
            }
            if self.network.is_empty() {
                return;
            }
            for m in std::mem::take(&mut self.network) {
                let cut = self.cut.contains(&(m.from.unwrap_or(0), m.to.unwrap_or(0)));
                if let Some(node) = self.nodes.get_mut(&m.to.unwrap_or(0)).filter(|_| !cut) {
                    match node.step(m) {
                        Err(error) if error.is_fatal() => panic!("{error}"),
                        _ => {}
                    }
                }
            }
        }
    }

    fn run(&mut self, id: u64) {
        let (Some(node), Some(disk)) = (self.nodes.get_mut(&id), self.disks.get_mut(&id)) else {
            return;
        };
        while node.has_ready() {
            let ready = node.ready();
            if let Some(first) = ready.entries.first() {
                disk.1.truncate(first.index.unwrap_or(1) as usize - 1);
                disk.1.extend(ready.entries.iter().cloned());
            }
            disk.0 = ready.hard_state.unwrap_or(disk.0);
            self.network.extend(ready.messages);
            node.persisted(ready.seq);
            for entry in ready.committed {
                if entry.r#type == Some(1) {
                    let change =
                        raft::ConfChange::decode(entry.r#type(), entry.data()).expect("valid");
                    node.apply_conf_change(&change.to_v2()).expect("possible");
                }
                node.applied(entry.index.unwrap_or(0));
                let data = entry.data.unwrap_or_default();
                self.applied.entry(id).or_default().push(data);
            }
        }
    }

    /// The leader of the highest term.
    fn leader(&self) -> Option<u64> {
        let leaders = self
            .nodes
            .values()
            .filter(|node| node.role() == Role::Leader);
        leaders.max_by_key(|node| node.term()).map(Node::id)
    }

    fn term(&self) -> u64 {
        self.nodes.values().map(Node::term).max().unwrap_or(0)
    }

    fn isolate(&mut self, id: u64) {
        for other in 1..=self.size {
            self.cut.push((id, other));
            self.cut.push((other, id));
        }
    }

    fn propose(&mut self, at: u64, text: &'static str) -> bool {
        let node = self.nodes.get_mut(&at).expect("alive");
        let taken = node.propose(Bytes::from_static(text.as_bytes())).is_ok();
        self.settle();
        taken
    }

    fn has_applied(&self, id: u64, text: &str) -> bool {
        self.applied[&id].iter().any(|data| data == text.as_bytes())
    }

    /// All nodes have applied the same.
    fn agrees(&self) -> bool {
        let first = self.applied.values().next().expect("a node");
        self.applied.values().all(|applied| applied == first)
    }
}

#[test]
fn w1_a_leader_alone_steps_down_and_its_uncommitted_entries_vanish() {
    for size in [3, 5] {
        let mut cluster = Cluster::new(size);
        let old = cluster.leader().expect("leader");
        cluster.isolate(old);
        assert!(cluster.propose(old, "lost"));
        cluster.ticks(2 * E);
        assert_ne!(
            cluster.nodes[&old].role(),
            Role::Leader,
            "within two election timeouts"
        );
        cluster.ticks(3 * E);
        let new = cluster.leader().expect("the others have a leader");
        assert!(cluster.propose(new, "kept"));
        let term = cluster.term();
        cluster.cut.clear();
        cluster.ticks(2 * E);
        assert_eq!(cluster.term(), term, "no election after healing");
        assert!(cluster.agrees() && cluster.has_applied(old, "kept"));
        assert!(!cluster.has_applied(old, "lost"));
    }
}

#[test]
fn w2_a_follower_that_was_away_disturbs_nobody() {
    let mut cluster = Cluster::new(3);
    let (leader, term) = (cluster.leader().expect("leader"), cluster.term());
    let away = leader % 3 + 1;
    cluster.isolate(away);
    cluster.ticks(20 * E);
    cluster.cut.clear();
    cluster.ticks(2 * E);
    assert_eq!((cluster.leader(), cluster.term()), (Some(leader), term));
}

#[test]
fn w3_a_leader_that_hears_nobody_steps_down() {
    let mut cluster = Cluster::new(3);
    let old = cluster.leader().expect("leader");
    for other in (1..=3).filter(|other| *other != old) {
        cluster.cut.push((other, old));
    }
    cluster.ticks(2 * E);
    assert_ne!(cluster.nodes[&old].role(), Role::Leader);
    cluster.ticks(4 * E);
    let new = cluster.leader().expect("another leader");
    assert_ne!(new, old);
    assert!(cluster.propose(new, "x"));
}

#[test]
fn w4_a_leader_that_nobody_hears_learns_of_its_successor() {
    let mut cluster = Cluster::new(3);
    let old = cluster.leader().expect("leader");
    for other in (1..=3).filter(|other| *other != old) {
        cluster.cut.push((old, other));
    }
    cluster.ticks(4 * E);
    let new = cluster.leader().expect("another leader");
    assert_ne!(new, old);
    assert_eq!(cluster.nodes[&old].leader(), new, "it hears the new one");
}

#[test]
fn w5_a_bridge_has_a_stable_leader() {
    for (a, b) in [(1, 3), (1, 2), (2, 3)] {
        let mut cluster = Cluster::new(3);
        cluster.cut = vec![(a, b), (b, a)];
        cluster.ticks(20 * E);
        let (leader, term) = (
            cluster.leader().expect("within twenty election timeouts"),
            cluster.term(),
        );
        cluster.ticks(100 * E);
        assert!(
            cluster.term() <= term + 3,
            "{} elections",
            cluster.term() - term
        );
        let now = cluster.leader().expect("still");
        assert!(cluster.propose(now, "x"));
        cluster.ticks(E);
        assert!(cluster.has_applied(now, "x"), "first leader {leader}");
    }
}

#[test]
fn w6_all_nodes_restart_together() {
    let mut cluster = Cluster::new(5);
    let leader = cluster.leader().expect("leader");
    assert!(cluster.propose(leader, "before"));
    cluster.ticks(1);
    cluster.network.clear();
    for id in 1..=5 {
        cluster.start(id);
    }
    cluster.ticks(3 * E);
    let leader = cluster.leader().expect("within three election timeouts");
    assert!(cluster.propose(leader, "after"));
    cluster.ticks(1);
    assert!(
        cluster.agrees() && cluster.has_applied(1, "before") && cluster.has_applied(5, "after")
    );
}

#[test]
fn w8_the_leader_is_removed_twice_in_a_row() {
    let mut cluster = Cluster::new(5);
    for _ in 0..2 {
        let old = cluster.leader().expect("leader");
        let change = ConfChange {
            id: Some(0),
            r#type: Some(ConfChangeType::ConfChangeRemoveNode as i32),
            node_id: Some(old),
            context: None,
        };
        let node = cluster.nodes.get_mut(&old).expect("alive");
        assert!(!node.propose_conf_change(change).expect("taken").refused);
        cluster.ticks(1);
        // The embedding stops a member when its removal is applied and has had time to spread.
        cluster.nodes.remove(&old);
        cluster.applied.remove(&old);
        cluster.ticks(4 * E);
        let new = cluster.leader().expect("another leader");
        assert!(cluster.propose(new, "x"));
    }
    assert!(cluster.agrees());
    assert_eq!(cluster.nodes.len(), 3);
}
