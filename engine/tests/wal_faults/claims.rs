//! What the tree's meta page says about the log is held against it.

use engine::wal::{Expect, LogPosition, RecoverError, SegmentId};

use crate::small::{open, Small};

#[test]
fn a_claim_beyond_the_log_is_refused() {
    let mut log = Small::new(16 << 10, 5);
    for _ in 0..6 {
        log.write(50);
    }
    let at = log.wal.position();
    let claims = [
        LogPosition {
            batch: at.batch + 1,
            ..at
        },
        LogPosition {
            segment: SegmentId(at.segment.0 + 9),
            batch: at.batch + 30,
            index: 40,
        },
        LogPosition {
            segment: SegmentId(1),
            ..at
        },
    ];
    for claim in claims {
        let expect = Expect {
            claim: Some(claim),
            ..Expect::default()
        };
        let error = open(&log.disk.files, expect)
            .map(|r| r.position)
            .expect_err("a claim that does not hold");
        match error {
            RecoverError::Damaged { .. } => assert_eq!(claim.batch, at.batch + 1),
            RecoverError::Missing { segment, .. } => assert_eq!(segment, claim.segment),
            RecoverError::Contradiction { .. } => assert_eq!(claim.segment, SegmentId(1)),
            error => panic!("{error}"),
        }
    }
    assert!(open(
        &log.disk.files,
        Expect {
            claim: Some(at),
            ..Expect::default()
        }
    )
    .is_ok());
}

#[test]
fn a_log_that_begins_after_the_trees_entries_is_refused() {
    let mut log = Small::new(16 << 10, 5);
    for _ in 0..12 {
        log.write(50);
    }
    let needed = log.wal.first_needed(8);
    log.wal.release(needed);
    for _ in 0..6 {
        log.write(50);
    }
    let first = open(&log.disk.files, log.meta(12))
        .expect("opens")
        .first_index;
    assert!(first > 2);
    let error = open(
        &log.disk.files,
        Expect {
            applied: first - 2,
            ..Expect::default()
        },
    );
    assert!(matches!(
        error.map(|r| r.position),
        Err(RecoverError::MissingEntries { .. })
    ));
    assert!(open(
        &log.disk.files,
        Expect {
            applied: first - 1,
            ..Expect::default()
        }
    )
    .is_ok());
}

#[test]
fn a_needed_segment_far_beyond_a_damaged_log_is_missed_at_once() {
    let mut log = Small::new(16 << 10, 5);
    for _ in 0..6 {
        log.write(50);
    }
    let mut image = log.disk.files.clone();
    for file in image.values_mut() {
        std::sync::Arc::make_mut(file)[20] ^= 1;
    }
    let expect = Expect {
        first_needed: Some(SegmentId(1 << 60)),
        ..Expect::default()
    };
    assert!(matches!(
        open(&image, expect).map(|r| r.position),
        Err(RecoverError::Missing { .. })
    ));
}
