//! The window in which damage looks like a torn write, and how the idle seal and the checkpoint close it.

use engine::wal::{Expect, Report};

use crate::small::{holds, open, Small};

const SEAL_AFTER_NS: u64 = 100_000_000;

/// `depth` batches in flight at a time, all durable in the end.
fn log_at_depth(depth: usize) -> Small {
    let mut log = Small::new(64 << 10, 9);
    log.run_file_ops();
    for _ in 0..3 {
        let mut tags = Vec::new();
        for _ in 0..depth {
            log.append(100);
            tags.push(log.issue().expect("a write"));
        }
        tags.into_iter().for_each(|tag| log.complete(tag));
    }
    log
}

fn flipped(log: &Small, at: usize) -> crate::disk::Image {
    let placed = log.placed[at];
    let mut image = log.disk.files.clone();
    let file = std::sync::Arc::make_mut(image.get_mut(&placed.segment).expect("a segment"));
    file[placed.offset + placed.bytes - 1] ^= 1;
    image
}

#[test]
fn only_the_last_batches_in_flight_can_be_cut_and_only_before_the_seal() {
    for depth in 1..=4 {
        let mut log = log_at_depth(depth);
        let claimed = log.placed.iter().map(|p| p.claim).max().expect("batches");
        let count = log.placed.len();
        assert_eq!(claimed as usize, count - depth);
        for at in 0..count {
            let batch = at as u64 + 1;
            match open(&flipped(&log, at), Expect::default()) {
                Err(_) => assert!(batch <= claimed),
                Ok(recovered) => {
                    assert!(batch > claimed && holds(&recovered, at as u64));
                    assert!(
                        matches!(recovered.report, Report::TornTail { batch: torn, .. } if torn == batch)
                    );
                }
            }
            // A checkpoint that covers them closes the window too.
            assert!(open(&flipped(&log, at), log.meta(0)).is_err());
        }
        log.seal();
        for at in 0..count {
            assert!(
                open(&flipped(&log, at), Expect::default()).is_err(),
                "depth {depth}, batch {}",
                at + 1
            );
        }
    }
}

#[test]
fn the_log_seals_itself_once_when_idle_and_not_at_all_under_a_checkpoint() {
    let mut log = Small::new(64 << 10, 9);
    assert_eq!(log.wal.deadline_ns(), None);
    log.append(10);
    let tag = log.issue().expect("a write");
    // Not idle while the write is under way.
    assert_eq!(log.wal.deadline_ns(), None);
    log.complete(tag);
    assert_eq!(log.wal.deadline_ns(), Some(SEAL_AFTER_NS));
    log.wal.on_timer(SEAL_AFTER_NS - 1);
    assert!(log.wal.next_write(0).is_none());
    log.wal.on_timer(SEAL_AFTER_NS);
    let tag = log.issue().expect("the seal");
    log.complete(tag);
    assert_eq!((log.wal.deadline_ns(), log.placed[1].claim), (None, 1));
    log.wal.on_timer(u64::MAX);
    assert!(log.wal.next_write(0).is_none(), "a seal needs no seal");

    log.write(10);
    assert!(log.wal.deadline_ns().is_some());
    log.wal.checkpoint_covers(log.wal.position());
    assert_eq!(log.wal.deadline_ns(), None);
    log.wal.on_timer(u64::MAX);
    assert!(
        log.wal.next_write(0).is_none(),
        "the meta page claims the tail already"
    );
}

#[test]
fn a_log_reopened_with_an_unclaimed_tail_is_sealed_at_once() {
    let log = log_at_depth(2);
    let mut reopened = Small::reopen(log.disk.files.clone(), 64 << 10, 10, Expect::default());
    assert_eq!(reopened.wal.deadline_ns(), Some(0));
    reopened.seal();
    let covered = Small::reopen(log.disk.files.clone(), 64 << 10, 10, log.meta(0));
    assert_eq!(covered.wal.deadline_ns(), None);
    let again = Small::reopen(reopened.disk.files, 64 << 10, 11, Expect::default());
    assert_eq!(again.wal.deadline_ns(), None);
}
