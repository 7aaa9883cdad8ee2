//! Bodies of the fuzz targets, and the simulated cluster that they share with the tests.

mod chance;
mod cluster;
mod invariants;
mod member;

use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::{ConfState, Entry, EntryType, HardState, Message};

pub use chance::Chance;
pub use cluster::{Cluster, Options, Report};

use crate::{Config, Initial, Node, Role};

/// Bytes of input that are used; more only cost time.
const INPUT_BYTES_MAX: usize = 1 << 14;

/// Runs a cluster whose every choice is a byte of the plan. Panics when an invariant breaks.
pub fn raft_cluster(plan: &[u8]) {
    let plan = &plan[..plan.len().min(INPUT_BYTES_MAX)];
    let mut chance = Chance::from_plan(plan);
    let options = Options::draw(&mut chance, 3, plan.len());
    Cluster::new(options, chance).run();
}

/// Feeds one node with arbitrary messages, as a confused or hostile peer would. Panics only if the node does.
pub fn raft_step(data: &[u8]) {
    let data = &data[..data.len().min(INPUT_BYTES_MAX)];
    let mut chance = Chance::from_plan(data);
    let mut node = started_node(&mut chance);
    let mut input = Bytes::copy_from_slice(&data[data.len().min(8)..]);
    while !input.is_empty() {
        let action = input.split_to(1)[0];
        match action {
            0..=15 => node.tick(),
            16..=23 => node.campaign(),
            24..=31 => {
                let _ = node.propose(Bytes::from_static(b"data"));
            }
            32..=39 => node.read_index(u64::from(action)),
            40..=47 => node.transfer_leader(u64::from(action - 40)),
            48..=55 => {
                node.forget_leader();
            }
            _ => {
                let length = input.first().map_or(0, |length| usize::from(*length));
                let _ = input.split_to(1.min(input.len()));
                let bytes = input.split_to(length.min(input.len()));
                if let Ok(mut m) = Message::decode(bytes) {
                    m.to = Some(1);
                    if node.step(m).is_err_and(|error| error.is_fatal()) {
                        return;
                    }
                }
            }
        }
        run_ready(&mut node, action);
    }
}

/// A node of three with a few entries, in one of its roles.
fn started_node(chance: &mut Chance) -> Node {
    let entry = |index: u64, term: u64| Entry {
        r#type: Some(EntryType::EntryNormal as i32),
        term: Some(term),
        index: Some(index),
        data: None,
    };
    let initial = Initial {
        hard_state: HardState {
            term: Some(2),
            vote: Some(0),
            commit: Some(4),
        },
        conf_state: ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        },
        start: (3, 1),
        entries: vec![entry(4, 1), entry(5, 1), entry(6, 2)],
        applied: 3,
        ..Initial::default()
    };
    let config = Config {
        pre_vote: chance.below(2) == 0,
        check_quorum: chance.below(2) == 0,
        inflight_messages_max: 2,
        ring_bytes_max: 100,
        ..Config::new(1)
    };
    let mut node = Node::new(config, initial).expect("a valid state");
    let role = chance.below(3);
    if role > 0 {
        node.campaign();
        for kind in [17, 5] {
            run_ready(&mut node, 0);
            let vote = Message {
                r#type: Some(kind + 1),
                to: Some(1),
                from: Some(2),
                term: Some(3),
                ..Message::default()
            };
            if role == 2 {
                let _ = node.step(vote);
            }
        }
        debug_assert!(role == 1 || node.role() == Role::Leader);
    }
    node
}

fn run_ready(node: &mut Node, action: u8) {
    let ready = node.ready();
    if action % 3 != 1 {
        node.persisted(ready.seq);
    }
    for entry in &ready.committed {
        if let Ok(change) = crate::ConfChange::decode(entry.r#type(), entry.data()) {
            if entry.r#type() != EntryType::EntryNormal {
                let _ = node.apply_conf_change(&change.to_v2());
            }
        }
        node.applied(entry.index());
    }
    for read in ready.reads {
        node.entries_read(read.from, Vec::new());
    }
}
