//! G1-G14 of the scenarios, and the conflict hints as a pure function.

use super::*;
use crate::message::entry;
use proptest::prelude::*;
use proto::raftpb::EntryType;

const BIG: u64 = 1 << 20;

fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
    terms
        .iter()
        .zip(first..)
        .map(|(term, index)| entry(EntryType::EntryNormal, *term, index, None))
        .collect()
}

fn log(terms: &[u64]) -> Log {
    Log::new((0, 0), &[], entries(1, terms), BIG)
}

fn terms(log: &Log) -> Vec<u64> {
    (log.start() + 1..=log.last())
        .map(|index| log.term(index).unwrap_or(0))
        .collect()
}

#[test]
fn first_new_entry() {
    let log = log(&[1, 2, 3]);
    for (first, terms, expected) in [
        (1, vec![1, 2, 3], None),
        (2, vec![2, 3], None),
        (3, vec![3], None),
        (1, vec![1, 2, 3, 4, 4], Some(4)),
        (2, vec![2, 3, 4, 4], Some(4)),
        (4, vec![4, 4], Some(4)),
        (1, vec![4, 4], Some(1)),
        (2, vec![1, 4, 4], Some(2)),
        (3, vec![1, 2, 4, 4], Some(3)),
    ] {
        let sent = entries(first, &terms);
        let found = log.first_new(&sent).map(|at| sent[at].index());
        assert_eq!(found, expected, "{first} {terms:?}");
    }
}

#[test]
fn conflict_by_term_looks_for_the_last_possible_agreement() {
    let full = log(&[2, 2, 5, 5, 5]);
    let cut = Log::new((3, 5), &[], entries(4, &[5, 5]), BIG);
    for (log, index, term, expected) in [
        (&full, 5, 5, (5, 5)),
        (&full, 5, 4, (2, 2)),
        (&full, 2, 4, (2, 2)),
        (&full, 2, 1, (0, 0)),
        (&full, 5, 0, (0, 0)),
        (&full, 9, 5, (9, 0)),
        (&cut, 5, 5, (5, 5)),
        (&cut, 4, 4, (2, 0)),
        (&cut, 2, 5, (2, 0)),
    ] {
        assert_eq!(
            log.find_conflict_by_term(index, term),
            expected,
            "{index} {term}"
        );
    }
}

#[test]
fn a_log_is_up_to_date_by_term_first() {
    let log = log(&[1, 2, 3]);
    for (index, term, expected) in [
        (2, 4, true),
        (3, 4, true),
        (4, 4, true),
        (2, 2, false),
        (3, 2, false),
        (4, 2, false),
        (2, 3, false),
        (3, 3, true),
        (4, 3, true),
    ] {
        assert_eq!(log.is_up_to_date(index, term), expected, "{term}/{index}");
    }
}

#[test]
fn appending_replaces_what_differs_and_never_what_is_committed() {
    let mut one = log(&[1, 2]);
    assert_eq!(one.append(entries(3, &[2])), Ok(None));
    assert_eq!(terms(&one), [1, 2, 2]);
    assert_eq!((one.durable(), one.has_unissued()), (2, true));
    assert_eq!(one.append(entries(1, &[2])), Ok(Some(1)));
    assert_eq!(terms(&one), [2]);
    assert_eq!(one.durable(), 0);
    let mut two = log(&[1, 2, 2]);
    two.commit_to(2);
    assert_eq!(two.append(entries(3, &[3, 3])), Ok(Some(3)));
    assert_eq!(terms(&two), [1, 2, 3, 3]);
    let conflict = two.append(entries(2, &[4])).expect_err("2 is committed");
    assert_eq!(
        (conflict.index, conflict.own_term, conflict.sent_term),
        (2, 2, 4)
    );
    assert_eq!(terms(&two), [1, 2, 3, 3]);
}

#[test]
fn the_commit_index_never_goes_back() {
    let mut log = log(&[1, 2, 3]);
    assert!(log.commit_to(2));
    assert!(!log.commit_to(1));
    assert_eq!(log.commit(), 2);
}

#[test]
#[should_panic(expected = "is not in the log")]
fn committing_what_is_not_there_is_an_error() {
    log(&[1, 2, 3]).commit_to(4);
}

#[test]
fn committed_entries_come_in_pages_of_one_entry_at_least() {
    let mut log = log(&[1; 6]);
    log.commit_to(5);
    let two = crate::message::ENTRY_OVERHEAD_BYTES * 2;
    assert_eq!(log.take_committed(u64::MAX, two).0.len(), 2);
    assert_eq!(log.take_committed(u64::MAX, 0).0.len(), 1);
    assert_eq!(log.take_committed(4, u64::MAX).0.len(), 1);
    assert_eq!(log.take_committed(u64::MAX, u64::MAX).0.len(), 1);
    assert_eq!(log.take_committed(u64::MAX, u64::MAX).0.len(), 0);
    assert_eq!(log.handed(), 5);
}

#[test]
fn a_truncation_takes_durability_back() {
    let mut log = log(&[1, 1, 1]);
    assert_eq!(log.append(entries(2, &[2, 2])), Ok(Some(2)));
    assert_eq!(log.durable(), 1);
    assert_eq!(log.take_unissued().len(), 2);
    assert_eq!(
        log.undurable_bytes(),
        2 * crate::message::ENTRY_OVERHEAD_BYTES
    );
    log.set_durable(2);
    assert_eq!(log.undurable_bytes(), crate::message::ENTRY_OVERHEAD_BYTES);
    log.set_durable(1);
    assert_eq!(log.durable(), 2);
}

#[test]
fn a_snapshot_replaces_the_log() {
    let mut log = log(&[1, 1, 1]);
    log.restore(7, 2);
    assert_eq!(
        (log.start(), log.last(), log.commit(), log.handed()),
        (7, 7, 7, 7)
    );
    assert_eq!(
        (log.term(7), log.term(6), log.term(8)),
        (Some(2), None, None)
    );
    assert_eq!(
        (log.applied(), log.durable(), log.has_unissued()),
        (0, 0, false)
    );
    log.installed(7);
    assert_eq!((log.applied(), log.durable()), (7, 7));
}

#[test]
fn compaction_keeps_what_is_needed() {
    let mut log = log(&[1, 1, 2, 2, 3]);
    log.commit_to(4);
    log.take_committed(u64::MAX, u64::MAX);
    log.set_applied_to(3);
    assert!(!log.compact(4), "not applied yet");
    assert!(log.compact(3));
    assert!(!log.compact(3) && !log.compact(2));
    assert_eq!((log.start(), terms(&log)), (3, vec![2, 3]));
    assert_eq!((log.term(2), log.term(3)), (None, Some(2)));
}

#[test]
fn what_is_durable_leaves_memory_and_its_term_stays() {
    let mut log = Log::new((0, 0), &[], Vec::new(), 100);
    for entry in entries(1, &[1, 1, 2, 2, 3, 3, 4, 4]) {
        log.push(entry);
    }
    assert_eq!(log.ring_first(), 1, "nothing is durable");
    log.take_unissued();
    log.set_durable(5);
    assert_eq!(log.ring_first(), 6);
    assert_eq!(log.term(1), Some(1));
    assert_eq!(log.find_conflict_by_term(8, 2), (4, 2));
    log.set_durable(8);
    assert_eq!(log.append(entries(3, &[5])), Ok(Some(3)));
    assert_eq!(
        (log.ring_first(), log.last(), terms(&log)),
        (3, 3, vec![1, 1, 5])
    );
}

#[test]
fn terms_of_older_entries_can_be_given_alone() {
    let runs = [TermRun { first: 4, term: 2 }, TermRun { first: 6, term: 3 }];
    let log = Log::new((2, 1), &runs, entries(8, &[3, 4]), BIG);
    assert_eq!(terms(&log), [1, 2, 2, 3, 3, 3, 4]);
    assert_eq!(log.ring_first(), 8);
}

proptest! {
    /// The ring, the runs of terms and the marks against a plain vector.
    #[test]
    fn a_log_is_a_vector(steps in prop::collection::vec((0u8..5, 0u64..12, 1u64..4), 1..80)) {
        let mut log = Log::new((0, 0), &[], Vec::new(), 200);
        let mut model: Vec<u64> = Vec::new();
        let mut durable = 0;
        for (what, at, more) in steps {
            match what {
                0 | 1 => {
                    let term = log.last_term() + u64::from(what);
                    let term = term.max(1);
                    for _ in 0..more {
                        log.push(entries(log.last() + 1, &[term]).remove(0));
                        model.push(term);
                    }
                }
                2 => {
                    // A leader of a later term replaces the tail.
                    let first = (log.commit() + 1 + at % 4).min(log.last() + 1);
                    let term = log.last_term() + more;
                    log.append(entries(first, &[term])).expect("behind the commit index");
                    model.truncate(first as usize - 1);
                    model.push(term);
                    durable = durable.min(first - 1);
                }
                3 => {
                    let from = log.issued.max(durable) + 1;
                    let written: Vec<u64> = log.take_unissued().iter().map(|e| e.term()).collect();
                    let expected = &model[(from as usize - 1).min(model.len())..];
                    prop_assert!(expected.ends_with(&written) || written.is_empty());
                    durable = log.last().saturating_sub(at % 3);
                    log.set_durable(durable);
                    durable = log.durable();
                }
                _ => {
                    log.commit_to(at.min(log.last()));
                }
            }
            let own: Vec<u64> = terms(&log);
            prop_assert_eq!(&own, &model);
            prop_assert_eq!(log.durable(), durable);
            let memory: Vec<u64> = log.ring.iter().map(|e| e.term()).collect();
            prop_assert!(model.ends_with(&memory));
            prop_assert!(log.ring_first() <= log.durable() + 1);
            let bytes: u64 = log.ring.iter().map(crate::message::entry_bytes).sum();
            prop_assert_eq!(log.ring_bytes, bytes);
            let undurable = log.last() - log.durable();
            prop_assert_eq!(log.undurable_bytes, undurable * crate::message::ENTRY_OVERHEAD_BYTES);
        }
    }

    #[test]
    fn hints_equal_their_definition(
        steps in prop::collection::vec(0u64..3, 1..20),
        index in 0u64..24,
        term in 0u64..30,
    ) {
        let mut last = 1;
        let list: Vec<u64> = steps.iter().map(|step| { last += step; last }).collect();
        let log = log(&list);
        let slow = if index > log.last() {
            (index, 0)
        } else {
            let fits = |i: &u64| log.term(*i).is_some_and(|t| t <= term);
            let best = (0..=index).rev().find(fits).unwrap_or(0);
            (best, log.term(best).unwrap_or(0))
        };
        prop_assert_eq!(log.find_conflict_by_term(index, term), slow);
    }
}
