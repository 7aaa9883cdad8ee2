//! A group of one: each commit waits for the node's own disk and for nothing else.

use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::{ConfChange, ConfState, Entry, EntryType, HardState};
use raft::{Config, Initial, Node, ReadState, Role};

fn voters(ids: &[u64]) -> ConfState {
    ConfState {
        voters: ids.to_vec(),
        ..ConfState::default()
    }
}

fn fresh() -> Node {
    let initial = Initial {
        conf_state: voters(&[1]),
        ..Initial::default()
    };
    Node::new(Config::new(1), initial).expect("valid")
}

/// Everything written so far is durable, everything committed is applied.
fn settle(node: &mut Node) -> Vec<Entry> {
    let mut applied = Vec::new();
    while node.has_ready() {
        let ready = node.ready();
        node.persisted(ready.seq);
        if let Some(last) = ready.committed.last() {
            node.applied(last.index.unwrap_or(0));
        }
        applied.extend(ready.committed);
    }
    applied
}

#[test]
fn each_step_waits_for_its_own_write() {
    let mut node = fresh();
    node.campaign();
    let vote = node.ready();
    assert!(vote.must_sync);
    let hard = vote.hard_state.expect("term and vote are to be written");
    assert_eq!((hard.term(), hard.vote(), hard.commit()), (1, 1, 0));
    assert!(vote.messages.is_empty());
    assert_eq!(
        node.role(),
        Role::Candidate,
        "the own vote is not durable yet"
    );

    node.persisted(vote.seq);
    assert_eq!(node.role(), Role::Leader);
    let empty = node.ready();
    assert_eq!(empty.entries.len(), 1);
    assert_eq!((empty.entries[0].term(), empty.entries[0].index()), (1, 1));
    assert!(empty.entries[0].data.is_none());
    assert!(empty.committed.is_empty());

    let proposed = node.propose(Bytes::from_static(b"x")).expect("leads");
    assert_eq!((proposed.term, proposed.index), (1, 2));
    let second = node.ready();
    assert_eq!(second.entries.len(), 1);
    assert!(second.committed.is_empty());

    node.read_index(7);
    assert!(!node.has_ready(), "nothing of the term is committed yet");
    node.persisted(empty.seq);
    let first = node.ready();
    assert_eq!(first.committed.len(), 1);
    assert_eq!(
        first.read_states,
        [ReadState {
            index: 1,
            context: 7
        }]
    );
    assert!(!first.must_sync, "a commit index alone need not be durable");

    node.persisted(second.seq);
    let ready = node.ready();
    assert_eq!(ready.committed.len(), 1);
    assert_eq!(ready.committed[0].data(), b"x");
    node.applied(2);
    node.read_index(8);
    assert_eq!(
        node.ready().read_states,
        [ReadState {
            index: 2,
            context: 8
        }]
    );
    assert!(!node.has_ready());
}

#[test]
fn many_writes_are_reported_at_once() {
    let mut node = fresh();
    node.campaign();
    settle(&mut node);
    let mut last = 0;
    for _ in 0..10 {
        node.propose(Bytes::from_static(b"y")).expect("leads");
        let ready = node.ready();
        assert_eq!(ready.entries.len(), 1);
        last = ready.seq;
    }
    node.persisted(last);
    assert_eq!(node.ready().committed.len(), 10);
}

#[test]
fn a_restart_applies_nothing_twice_and_skips_nothing() {
    let entries: Vec<Entry> = (6..=9)
        .map(|index| Entry {
            r#type: Some(EntryType::EntryNormal as i32),
            term: Some(1),
            index: Some(index),
            data: None,
        })
        .collect();
    let initial = Initial {
        hard_state: HardState {
            term: Some(1),
            vote: Some(1),
            commit: Some(8),
        },
        conf_state: voters(&[1]),
        start: (5, 1),
        entries,
        applied: 7,
        ..Initial::default()
    };
    let mut node = Node::new(Config::new(1), initial).expect("valid");
    assert_eq!((node.commit_index(), node.last_index()), (8, 9));
    let indexes = |entries: &[Entry]| entries.iter().map(|e| e.index()).collect::<Vec<_>>();
    assert_eq!(indexes(&settle(&mut node)), [8]);
    node.campaign();
    assert_eq!(indexes(&settle(&mut node)), [9, 10]);
    assert_eq!((node.term(), node.role()), (2, Role::Leader));
}

/// etcd starts a cluster from a log that adds each member, committed from the beginning.
#[test]
fn a_log_of_changes_sets_up_a_group() {
    let add = |index: u64| {
        let change = ConfChange {
            id: Some(0),
            r#type: Some(0),
            node_id: Some(index),
            context: None,
        };
        Entry {
            r#type: Some(EntryType::EntryConfChange as i32),
            term: Some(1),
            index: Some(index),
            data: Some(change.encode_to_vec().into()),
        }
    };
    let initial = Initial {
        hard_state: HardState {
            term: Some(1),
            vote: Some(0),
            commit: Some(3),
        },
        entries: vec![add(1), add(2), add(3)],
        ..Initial::default()
    };
    let mut node = Node::new(Config::new(1), initial).expect("valid");
    node.campaign();
    assert_eq!(
        node.role(),
        Role::Follower,
        "it does not know whose votes it needs"
    );
    for entry in node.ready().committed {
        let change = raft::ConfChange::decode(entry.r#type(), entry.data()).expect("valid");
        node.apply_conf_change(&change.to_v2()).expect("possible");
        node.applied(entry.index.unwrap_or(0));
    }
    assert_eq!(node.conf_state().voters, [1, 2, 3]);
    node.campaign();
    assert_eq!(node.role(), Role::PreCandidate);
    assert_eq!(node.ready().messages.len(), 2);
}

#[test]
fn a_log_shorter_than_what_was_applied_is_refused() {
    let initial = Initial {
        conf_state: voters(&[1]),
        applied: 3,
        ..Initial::default()
    };
    let error = Node::new(Config::new(1), initial).expect_err("lost log");
    assert!(error.to_string().contains("lost"), "{error}");
}

/// V24.
#[test]
fn lease_reads_without_a_quorum_check_are_refused() {
    let config = Config {
        check_quorum: false,
        read_only: raft::ReadOnly::Lease,
        ..Config::new(1)
    };
    assert!(matches!(
        Node::new(config, Initial::default()),
        Err(raft::Error::Config(_))
    ));
}
