//! L6: which index a set of acknowledgements commits.

use super::*;
use crate::{Config, Initial};
use proto::raftpb::{ConfState, Entry, HardState};

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
