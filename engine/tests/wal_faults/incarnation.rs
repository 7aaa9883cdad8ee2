//! A batch that was durable behind a gap is never chained again, even if the gap is filled with the very same records.

use engine::wal::{Expect, Report};

use crate::disk::{Fate, Image};
use crate::small::{holds, open, Small};

const FIRST: u64 = 0xaaaa;
const SECOND: u64 = 0xbbbb;

/// A log that dies with batch N not on the disk and N+1 to N+3 complete.
fn dead_followers(mut log: Small) -> Image {
    for _ in 0..3 {
        log.write(100);
    }
    for _ in 0..4 {
        log.append(100);
        log.issue().expect("a write");
    }
    log.disk
        .crash(&[Fate::Absent, Fate::Complete, Fate::Complete, Fate::Complete])
}

/// Fills the gap with the very bytes that were lost (the header aside), and crashes again.
fn refill(image: Image, incarnation: u64, expect: Expect) -> (Small, u64) {
    let mut log = Small::reopen(image, 64 << 10, incarnation, expect);
    let before = log.wal.last_index();
    log.write(100);
    (log, before)
}

#[test]
fn an_identical_rewrite_does_not_bring_dead_batches_back() {
    let image = dead_followers(Small::new(64 << 10, FIRST));
    let opened = open(&image, Expect::default()).expect("opens");
    assert!(holds(&opened, 3));
    assert!(
        matches!(opened.report, Report::TornTail { .. }),
        "{:?}",
        opened.report
    );
    let (log, before) = refill(image, SECOND, Expect::default());
    assert_eq!(before, 3);
    let opened = open(&log.disk.files, Expect::default()).expect("opens");
    assert!(
        holds(&opened, 4),
        "dead batches came back: {} entries",
        opened.entries.len()
    );
}

/// The mistake that the incarnation is there against, to see that the test above could fail. Two openings share a number,
/// and the lost batch is the first of its opening: then nothing tells the new one from it.
#[test]
fn with_one_incarnation_for_two_openings_dead_batches_would_come_back() {
    let mut log = Small::new(64 << 10, FIRST);
    log.run_file_ops();
    for _ in 0..2 {
        log.append(100);
        log.issue().expect("a write");
    }
    let image = log.disk.crash(&[Fate::Absent, Fate::Complete]);
    let (same, _) = refill(image.clone(), FIRST, Expect::default());
    assert!(holds(
        &open(&same.disk.files, Expect::default()).expect("opens"),
        2
    ));
    let (other, _) = refill(image, SECOND, Expect::default());
    assert!(holds(
        &open(&other.disk.files, Expect::default()).expect("opens"),
        1
    ));
}

#[test]
fn nor_on_recycled_segments() {
    let mut log = Small::new(64 << 10, FIRST);
    // Fill and release segments until the log writes into one that held batches before.
    while log.placed.last().is_none_or(|p| p.segment.0 < 6) {
        log.write(100);
        let needed = log.wal.first_needed(log.wal.durable_index());
        log.wal.release(needed);
        log.run_file_ops();
    }
    let applied = log.wal.durable_index();
    let meta = log.meta(applied);
    let image = dead_followers(log);
    let opened = open(&image, meta).expect("opens");
    assert_eq!(opened.last_index, applied + 3);
    let (log, _) = refill(image, SECOND, meta);
    let opened = open(&log.disk.files, meta).expect("opens");
    assert_eq!(opened.last_index, applied + 4);
    // And once more, over the remains of two openings.
    let (log, _) = refill(log.disk.files, SECOND + 1, meta);
    let opened = open(&log.disk.files, meta).expect("opens");
    assert_eq!(opened.last_index, applied + 5);
}
