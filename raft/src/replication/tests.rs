//! L6: which index a set of acknowledgements commits.

use super::*;
use crate::{Config, Initial};
use proto::raftpb::{ConfState, Entry, HardState, Message, MessageType};

fn commit(matches: &[u64], terms: &[u64], term: u64) -> u64 {
    let entries = terms.iter().zip(1..).map(|(term, index)| Entry {
        r#type: Some(0),
        term: Some(*term),
        index: Some(index),
        data: None,
    });
    let initial = Initial {
        hard_state: HardState {
            term: Some(term),
            ..HardState::default()
        },
        conf_state: ConfState {
            voters: (1..=matches.len() as u64).collect(),
            ..ConfState::default()
        },
        entries: entries.collect(),
        ..Initial::default()
    };
    let mut node = Node::new(Config::new(1), initial).expect("valid");
    node.term = term;
    for (peer, matched) in node.tracker.peers.iter_mut().zip(matches) {
        peer.progress.matched = *matched;
    }
    node.maybe_commit();
    node.commit_index()
}

#[test]
fn a_majority_commits_entries_of_the_own_term() {
    for (matches, log, term, expected) in [
        (vec![1], vec![1], 1, 1),
        (vec![1], vec![1], 2, 0),
        (vec![2], vec![1, 2], 2, 2),
        (vec![1], vec![2], 2, 1),
        (vec![2, 1, 1], vec![1, 2], 1, 1),
        (vec![2, 1, 1], vec![1, 1], 2, 0),
        (vec![2, 1, 2], vec![1, 2], 2, 2),
        (vec![2, 1, 2], vec![1, 1], 2, 0),
        (vec![2, 1, 1, 1], vec![1, 2], 1, 1),
        (vec![2, 1, 1, 2], vec![1, 2], 1, 1),
        (vec![2, 1, 2, 2], vec![1, 2], 2, 2),
        (vec![2, 1, 2, 2], vec![1, 1], 2, 0),
    ] {
        assert_eq!(
            commit(&matches, &log, term),
            expected,
            "{matches:?} {log:?} {term}"
        );
    }
}

#[test]
fn an_answer_to_a_message_of_an_older_term_ends_no_probe() {
    let entries = (15..=20).map(|index| Entry {
        r#type: Some(0),
        term: Some(1),
        index: Some(index),
        data: None,
    });
    let initial = Initial {
        hard_state: HardState {
            term: Some(1),
            vote: Some(0),
            commit: Some(20),
        },
        conf_state: ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        },
        start: (14, 1),
        entries: entries.collect(),
        applied: 14,
        ..Initial::default()
    };
    let config = Config {
        pre_vote: false,
        ..Config::new(1)
    };
    let mut node = Node::new(config, initial).expect("valid");
    node.campaign();
    let ready = node.ready();
    node.persisted(ready.seq);
    let answer = |kind: MessageType, from| Message {
        r#type: Some(kind as i32),
        to: Some(1),
        from: Some(from),
        term: Some(2),
        ..Message::default()
    };
    node.step(answer(MessageType::MsgVoteResp, 3))
        .expect("valid");
    // A heartbeat of the leader of term 1 came late: the follower says which term it is, in this form.
    node.step(answer(MessageType::MsgAppResp, 2))
        .expect("valid");
    let peers = node.status().peers;
    let peer = peers.iter().find(|peer| peer.id == 2).expect("a follower");
    assert_eq!((peer.state, peer.next), (ProgressState::Probe, 21));
    let snapshots = node.ready().messages;
    assert!(snapshots.iter().all(|m| m.r#type() != MessageType::MsgSnap));
}
