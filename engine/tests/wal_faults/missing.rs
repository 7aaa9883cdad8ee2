//! A segment that is gone always shows.

use engine::wal::{Expect, LogPosition, RecoverError, SegmentId};

use crate::disk::Image;
use crate::small::{holds, open, Small};

fn log_of_segments() -> Small {
    let mut log = Small::new(16 << 10, 5);
    for _ in 0..14 {
        log.write(50);
    }
    log
}

#[test]
fn each_segment_removed_in_turn_and_all_of_them() {
    let log = log_of_segments();
    let ids: Vec<SegmentId> = log.disk.files.keys().copied().collect();
    assert!(ids.len() >= 5);
    let last_used = log.wal.position().segment;
    for id in &ids {
        let mut image = log.disk.files.clone();
        image.remove(id);
        for expect in [log.meta(0), Expect::default()] {
            match open(&image, expect) {
                Err(RecoverError::Missing { segment, .. }) => assert_eq!(segment, *id),
                Err(RecoverError::BadSegment { .. } | RecoverError::Damaged { .. }) => {}
                Err(RecoverError::MissingEntries { .. }) => assert_eq!(*id, ids[0]),
                Err(error) => panic!("without {id}: {error}"),
                // A prepared segment behind another prepared one holds nothing; nor does the second of a pair.
                Ok(recovered) => assert!(
                    holds(&recovered, 14) && *id > last_used.max(SegmentId(1)),
                    "without {id}"
                ),
            }
        }
    }
    assert!(matches!(
        open(&Image::new(), log.meta(0)).map(|r| r.position),
        Err(RecoverError::Missing { .. })
    ));
    // Without word from the tree an empty directory is a new log.
    assert_eq!(
        open(&Image::new(), Expect::default())
            .expect("opens")
            .position,
        LogPosition::default()
    );
}

#[test]
fn the_newest_segments_removed_together_are_missed_by_their_predecessor() {
    let log = log_of_segments();
    let ids: Vec<SegmentId> = log.disk.files.keys().copied().collect();
    for from in ids.iter().skip(2) {
        let mut image = log.disk.files.clone();
        image.retain(|id, _| id < from);
        match open(&image, Expect::default()) {
            Err(RecoverError::Missing { segment, .. }) => assert_eq!(segment, *from),
            Err(error) => panic!("{error}"),
            Ok(recovered) => assert!(holds(&recovered, 14), "from {from}"),
        }
    }
}

#[test]
fn a_segment_renamed_or_of_another_life_is_refused() {
    let log = log_of_segments();
    let mut image = log.disk.files.clone();
    let second = image.remove(&SegmentId(2)).expect("the second");
    image.insert(SegmentId(2), image[&SegmentId(3)].clone());
    image.insert(SegmentId(3), second);
    assert!(matches!(
        open(&image, log.meta(0)).map(|r| r.position),
        Err(RecoverError::BadSegment { .. })
    ));
    // The second segment of another log of the same member.
    let other = {
        let mut log = Small::new(16 << 10, 6);
        for _ in 0..14 {
            log.write(50);
        }
        log.disk.files
    };
    let mut image = log.disk.files.clone();
    image.insert(SegmentId(2), other[&SegmentId(2)].clone());
    assert!(matches!(
        open(&image, log.meta(0)).map(|r| r.position),
        Err(RecoverError::BadSegment { .. })
    ));
}

#[test]
fn damage_below_what_the_tree_needs_costs_only_old_entries() {
    let log = log_of_segments();
    let applied = 10;
    let meta = log.meta(applied);
    let needed = meta.first_needed.expect("a segment");
    assert!(needed > SegmentId(2));
    for older in (1..needed.0).map(SegmentId) {
        for damage in 0..2 {
            let mut image = log.disk.files.clone();
            if damage == 0 {
                image.remove(&older);
            } else {
                let file = std::sync::Arc::make_mut(image.get_mut(&older).expect("the segment"));
                file[4096 + 200] ^= 1;
            }
            let recovered =
                open(&image, meta).unwrap_or_else(|error| panic!("without {older}: {error}"));
            assert_eq!(recovered.entries.len(), 4);
            assert!(recovered.first_index <= applied + 1);
            // The log goes on, and the remains are recycled or removed.
            let mut log = Small::reopen(image, log.segment_bytes, 8, meta);
            for _ in 0..12 {
                log.write(50);
            }
            let recovered = open(&log.disk.files, Expect { applied, ..meta }).expect("opens");
            assert_eq!(recovered.last_index, 26);
        }
    }
}

#[test]
fn an_unreadable_segment_below_what_the_tree_needs_costs_only_old_entries() {
    let log = log_of_segments();
    let meta = log.meta(10);
    let needed = meta.first_needed.expect("a segment");
    for id in log.disk.files.keys() {
        for at in [0, 4096] {
            let mut dir = crate::disk::ImageDir::new(&log.disk.files);
            dir.unreadable = Some((*id, at));
            match engine::wal::recover(&dir, meta) {
                Ok(recovered) => {
                    assert!(*id < needed, "{id} at {at}");
                    assert_eq!(recovered.entries.len(), 4, "{id} at {at}");
                    assert!(!recovered.notes.is_empty(), "{id} at {at}");
                }
                Err(error) => assert!(*id >= needed, "{id}: {error}"),
            }
        }
    }
}

#[test]
fn older_segments_that_nobody_reads_stay_and_are_read_where_the_tree_names_too_late_a_one() {
    let log = log_of_segments();
    let meta = Expect {
        skips_older: true,
        ..log.meta(10)
    };
    let needed = meta.first_needed.expect("a segment");
    let mut image = log.disk.files.clone();
    let file = std::sync::Arc::make_mut(image.get_mut(&SegmentId(1)).expect("the segment"));
    file[4096 + 200] ^= 1;
    let recovered = open(&image, meta).expect("nothing of the damaged segment is read");
    assert_eq!((recovered.entries.len(), recovered.last_index), (4, 14));
    assert!(recovered.notes.is_empty(), "{:?}", recovered.notes);
    // The log goes on, and no segment was given up.
    let mut log = Small::reopen(image, log.segment_bytes, 8, meta);
    let ids: Vec<_> = log.wal.segment_ids().collect();
    assert_eq!(ids[0], SegmentId(1));
    assert_eq!(log.wal.first_needed(0), SegmentId(1));
    log.wal.release(needed);
    for _ in 0..12 {
        log.write(50);
    }
    let recovered = open(&log.disk.files, meta).expect("opens");
    assert_eq!(recovered.last_index, 26);

    let log = log_of_segments();
    let too_late = Expect {
        first_needed: Some(SegmentId(needed.0 + 1)),
        claim: None,
        ..meta
    };
    let recovered = open(&log.disk.files, too_late).expect("the one before has it");
    assert_eq!(recovered.entries.len(), 4);
}
