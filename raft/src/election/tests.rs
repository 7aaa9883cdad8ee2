//! T9-T12: time-outs and transitions.

use super::*;
use crate::{Config, Initial};
use proto::raftpb::ConfState;
use std::collections::BTreeMap;

fn node(id: u64, seed: u64) -> Node {
    let config = Config {
        pre_vote: false,
        check_quorum: false,
        seed,
        ..Config::new(id)
    };
    let initial = Initial {
        conf_state: ConfState {
            voters: vec![1, 2, 3, 4, 5],
            ..ConfState::default()
        },
        ..Initial::default()
    };
    Node::new(config, initial).expect("valid")
}

#[test]
fn every_timeout_of_the_range_occurs_and_no_other() {
    let mut seen = BTreeMap::new();
    let mut one = node(1, 7);
    for candidate in [false, true] {
        for _ in 0..1000 {
            let term = one.term + 1;
            one.become_follower(term, 2);
            if candidate {
                one.become_candidate();
            }
            let (term, mut ticks) = (one.term, 0);
            while one.term == term {
                one.tick();
                ticks += 1;
            }
            *seen.entry((candidate, ticks)).or_insert(0) += 1;
        }
    }
    let expected: Vec<_> = [false, true]
        .into_iter()
        .flat_map(|candidate| (10..20).map(move |ticks| (candidate, ticks)))
        .collect();
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), expected);
}

#[test]
fn five_followers_seldom_fire_together() {
    let mut together = 0;
    let mut nodes: Vec<Node> = (1..=5).map(|id| node(id, id)).collect();
    for round in 1..=1000 {
        for one in &mut nodes {
            one.become_follower(round * 2, 0);
        }
        let mut fired = 0;
        while fired == 0 {
            for one in &mut nodes {
                one.tick();
                fired += usize::from(one.role == Role::Candidate);
            }
        }
        together += usize::from(fired > 1);
    }
    assert!(together <= 300, "{together} of 1000");
}

#[test]
fn the_share_of_timeouts_that_have_passed() {
    let mut one = node(1, 3);
    for (elapsed, share) in [
        (5, 0.0),
        (10, 0.1),
        (13, 0.4),
        (15, 0.6),
        (18, 0.9),
        (20, 1.0),
    ] {
        let passed = (0..10_000)
            .filter(|_| {
                one.draw_election_timeout();
                elapsed >= one.election_timeout
            })
            .count();
        let difference = (passed as f64 / 10_000.0 - share).abs();
        assert!(difference < 0.02, "{elapsed}: {passed}");
    }
}

#[test]
fn a_candidate_raises_the_term_and_a_pre_candidate_does_not() {
    let mut one = node(1, 1);
    one.become_follower(3, 2);
    one.vote = 2;
    one.become_pre_candidate();
    assert_eq!((one.term, one.vote, one.leader), (3, 2, 0));
    one.become_candidate();
    assert_eq!((one.term, one.vote, one.leader), (4, 1, 0));
}

#[test]
#[should_panic(expected = "only a candidate can win")]
fn a_follower_does_not_become_leader() {
    node(1, 1).become_leader();
}

#[test]
#[should_panic(expected = "a leader does not campaign")]
fn a_leader_does_not_become_candidate() {
    let mut one = node(1, 1);
    one.become_candidate();
    one.become_leader();
    one.become_candidate();
}

#[test]
#[should_panic(expected = "a leader does not campaign")]
fn a_leader_does_not_become_pre_candidate() {
    let mut one = node(1, 1);
    one.become_candidate();
    one.become_leader();
    one.become_pre_candidate();
}
