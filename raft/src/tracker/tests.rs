//! F16: the window of appends; and the life of a progress.

use super::*;

#[test]
fn the_window_counts_messages_and_bytes() {
    let mut window = Inflights::new(3, 100);
    for (last, bytes) in [(5, 10), (6, 10), (9, 10)] {
        assert!(!window.is_full());
        window.add(last, bytes);
    }
    assert!(window.is_full());
    window.free_to(4);
    assert_eq!((window.count(), window.bytes()), (3, 30));
    window.free_to(6);
    assert_eq!((window.count(), window.bytes()), (1, 10));
    // One append may cross the limit of bytes.
    window.add(12, 95);
    assert!(window.is_full());
    window.free_to(u64::MAX);
    assert_eq!(
        (window.count(), window.bytes(), window.is_full()),
        (0, 0, false)
    );
}

#[test]
fn order_is_kept_over_many_turns() {
    let mut window = Inflights::new(4, 0);
    for round in 0..100u64 {
        while !window.is_full() {
            window.add(round * 10 + window.count() as u64, 1);
        }
        window.free_to(round * 10 + 1);
        assert_eq!(window.count() as u64, window.bytes());
        window.free_to(round * 10 + 9);
        assert_eq!(window.count(), 0);
    }
}

fn progress() -> Progress {
    Progress::new(5, Inflights::new(2, 0))
}

#[test]
fn a_snapshot_lets_the_probe_start_behind_it() {
    let mut one = progress();
    one.become_snapshot(11);
    assert!(one.is_paused());
    one.become_probe();
    assert_eq!((one.next, one.pending_snapshot), (12, 0));
    let mut failed = progress();
    failed.become_snapshot(11);
    failed.pending_snapshot = 0;
    failed.become_probe();
    assert_eq!(failed.next, 1);
}

#[test]
fn rejections_move_back_and_never_below_what_is_known() {
    let mut probe = progress();
    assert!(!probe.reject(9, 3), "answers another append");
    assert!(probe.reject(4, 9));
    assert_eq!(probe.next, 4);
    assert!(probe.reject(3, 0));
    assert_eq!(probe.next, 1);
    let mut replicate = progress();
    replicate.acknowledge(4);
    replicate.become_replicate();
    replicate.sent(3, 30, 2);
    assert_eq!(replicate.next, 8);
    assert!(!replicate.reject(4, 1), "known to be stored");
    assert!(replicate.reject(7, 4));
    assert_eq!(replicate.next, 5);
}

#[test]
fn a_window_of_entries_pauses_and_an_answer_resumes() {
    let mut replicate = progress();
    replicate.become_replicate();
    assert_eq!(replicate.next, 1);
    replicate.sent(1, 10, 0);
    assert!(!replicate.is_paused());
    replicate.sent(2, 20, 0);
    assert!(replicate.is_paused());
    assert!(replicate.acknowledge(1));
    assert!(!replicate.acknowledge(1), "says nothing new");
    replicate.inflights.free_to(1);
    assert!(!replicate.is_paused());
    assert_eq!((replicate.matched, replicate.next), (1, 4));
}
