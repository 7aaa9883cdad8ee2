//! Segments come and go: on a full disk, in another size, under a scrub, in a listing.

use std::io;
use std::sync::Arc;

use engine::wal::{
    dump, ConfigError, Expect, FileOpKind, Identity, LogDir, ReadError, SegmentId, Wal,
};

use crate::disk::ImageDir;
use crate::small::{holds, open, stranger, Small};
use crate::world::{config, ME};

#[test]
fn a_full_disk_stops_the_log_at_the_end_of_its_segments_and_no_earlier() {
    let mut log = Small::new(16 << 10, 1);
    log.write(10);
    let mut refused = 0;
    // From now on there is no space for another file.
    let full = |log: &mut Small, now_ns| {
        let Some(op) = log.wal.next_file_op() else {
            return 0;
        };
        assert!(matches!(op.kind, FileOpKind::Prepare { recycle: None, .. }));
        log.wal
            .file_op_done(op.tag, Err(io::ErrorKind::StorageFull.into()), now_ns)
            .expect("not a failure");
        1
    };
    loop {
        refused += full(&mut log, 0);
        log.append(10);
        let Some(write) = log.wal.next_write(0) else {
            break;
        };
        let tag = write.tag;
        log.disk.flying.push(write);
        log.complete(tag);
    }
    assert!(log.wal.disk_full() && !log.wal.has_room() && refused > 0);
    let index = log.wal.last_index();
    assert_eq!(log.wal.durable_index(), index - 1);
    assert_eq!(full(&mut log, 0), 0, "not tried again before the timer");
    let deadline = log.wal.deadline_ns().expect("a time for the next attempt");
    log.wal.on_timer(deadline);
    // Space has returned: it goes on by itself.
    let tag = log.issue().expect("there is room");
    log.complete(tag);
    assert_eq!(
        (log.wal.durable_index(), log.wal.disk_full()),
        (index, false)
    );
    assert!(holds(
        &open(&log.disk.files, Expect::default()).expect("opens"),
        index
    ));
}

#[test]
fn on_a_full_disk_released_segments_are_recycled_at_once() {
    let mut log = Small::new(16 << 10, 1);
    for _ in 0..12 {
        log.write(10);
    }
    // Use up what is prepared.
    let mut full = 0;
    loop {
        if let Some(op) = log.wal.next_file_op() {
            log.wal
                .file_op_done(op.tag, Err(io::ErrorKind::StorageFull.into()), 0)
                .expect("not a failure");
            full += 1;
        }
        log.append(10);
        let Some(write) = log.wal.next_write(0) else {
            break;
        };
        let tag = write.tag;
        log.disk.flying.push(write);
        log.complete(tag);
    }
    assert_eq!(full, 1);
    let needed = log.wal.first_needed(log.wal.durable_index());
    log.wal.release(needed);
    let tag = log.issue().expect("a recycled segment");
    log.complete(tag);
    assert!(!log.wal.disk_full());
}

#[test]
fn a_failed_preparation_is_final() {
    let mut log = Small::new(16 << 10, 1);
    let op = log.wal.next_file_op().expect("a first segment");
    let error = io::Error::from_raw_os_error(5);
    let failed = log
        .wal
        .file_op_done(op.tag, Err(error), 0)
        .expect_err("final");
    assert_eq!(
        (
            failed.errno,
            failed.file.ends_with(op.segment().file_name())
        ),
        (Some(5), true)
    );
    assert!(log.wal.next_file_op().is_none() && log.wal.append(&[], None).is_ok());
}

#[test]
fn segments_of_another_length_are_taken_over_and_replaced() {
    let mut log = Small::new(16 << 10, 1);
    for (incarnation, segment_bytes) in
        [(2, 64 << 10), (3, 32 << 10), (4, 16 << 10), (5, 128 << 10)]
    {
        for _ in 0..20 {
            log.write(50);
        }
        let needed = log.wal.first_needed(log.wal.durable_index() - 3);
        let meta = log.meta(log.wal.durable_index() - 3);
        log.wal.release(needed);
        log = Small::reopen(log.disk.files.clone(), segment_bytes, incarnation, meta);
    }
    for _ in 0..40 {
        log.write(9000);
    }
    let needed = log.wal.first_needed(log.wal.durable_index());
    log.wal.release(needed);
    for _ in 0..40 {
        log.write(9000);
    }
    assert_eq!(log.wal.durable_index(), 160);
    // The short ones were not recycled.
    assert!(log.disk.files.values().all(|file| file.len() == 128 << 10));
    let recovered = open(&log.disk.files, log.meta(150)).expect("opens");
    assert_eq!(recovered.entries.len(), 10);
}

#[test]
fn released_segments_are_recycled_and_few_are_kept() {
    let mut log = Small::new(16 << 10, 1);
    for _ in 0..30 {
        log.write(50);
    }
    assert!(log.disk.files.len() > 10);
    let needed = log.wal.first_needed(log.wal.durable_index());
    log.wal.release(needed);
    log.run_file_ops();
    assert!(log.disk.files.len() <= 6, "{}", log.disk.files.len());
    let newest = *log.disk.files.keys().last().expect("segments");
    for _ in 0..30 {
        log.write(50);
        let needed = log.wal.first_needed(log.wal.durable_index());
        log.wal.release(needed);
    }
    assert!(log.disk.files.len() <= 6 && log.disk.files.keys().next() > Some(&newest));
}

#[test]
fn a_scrub_finds_rot_in_a_sealed_segment() {
    let mut log = Small::new(32 << 10, 1);
    for _ in 0..20 {
        log.write(700);
    }
    let active = log.wal.position().segment;
    assert!(log.wal.scrub_job(active).is_none());
    let sealed: Vec<SegmentId> = log.wal.segment_ids().filter(|id| *id < active).collect();
    assert!(sealed.len() >= 2);
    let scrub = |log: &Small, id, image: &crate::disk::Image| -> Result<usize, ReadError> {
        let dir = ImageDir::new(image);
        image.keys().for_each(|id| dir.flush(*id).expect("flush"));
        let mut job = log.wal.scrub_job(id).expect("a sealed segment");
        let mut steps = 1;
        while job.step(&dir, 4096)? {
            steps += 1;
        }
        Ok(steps)
    };
    for id in sealed {
        assert!(scrub(&log, id, &log.disk.files).expect("sound") > 1);
        for placed in log.placed.iter().filter(|placed| placed.segment == id) {
            let mut image = log.disk.files.clone();
            Arc::make_mut(image.get_mut(&id).expect("the segment"))
                [placed.offset + placed.bytes - 9] ^= 4;
            match scrub(&log, id, &image) {
                Err(ReadError::Damaged { offset, .. }) => assert_eq!(offset, placed.offset as u64),
                other => panic!("{other:?}"),
            }
        }
        let mut image = log.disk.files.clone();
        image.remove(&id);
        assert!(matches!(
            scrub(&log, id, &image),
            Err(ReadError::Gone { .. })
        ));
    }
}

#[test]
fn a_listing_shows_every_batch_and_what_is_wrong() {
    let mut log = Small::new(16 << 10, 1);
    for _ in 0..5 {
        log.write(50);
    }
    let list = |image: &crate::disk::Image| {
        let dir = ImageDir::new(image);
        image.keys().for_each(|id| dir.flush(*id).expect("flush"));
        let mut out = Vec::new();
        dump(&dir, true, &mut out).expect("a listing");
        String::from_utf8(out).expect("text")
    };
    let text = list(&log.disk.files);
    assert_eq!(text.matches(" entry ").count(), 5, "{text}");
    assert_eq!(text.matches("hard state").count(), 5);
    assert!(!text.contains("WRONG") && !text.contains("NOT CHAINED"));
    let mut image = log.disk.files.clone();
    let placed = log.placed[2];
    Arc::make_mut(image.get_mut(&placed.segment).expect("the segment"))
        [placed.offset + placed.bytes - 1] ^= 1;
    let text = list(&image);
    assert!(
        text.contains("PAYLOAD CRC WRONG") && text.contains("NOT CHAINED"),
        "{text}"
    );
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let log = {
        let mut log = Small::new(16 << 10, 1);
        log.write(1);
        log.disk.files
    };
    let new = |identity: Identity, segment_bytes, incarnation| {
        let tail = open(&log, Expect::default()).expect("opens").tail;
        Wal::new(config(segment_bytes, incarnation), identity, tail).err()
    };
    assert!(matches!(
        new(stranger(), 64 << 10, 2),
        Some(ConfigError::Identity { .. })
    ));
    assert!(matches!(
        new(ME, 5000, 2),
        Some(ConfigError::SegmentBytes(5000))
    ));
    assert!(matches!(
        new(ME, 16 << 10, 2),
        Some(ConfigError::BatchBytes(_))
    ));
    assert_eq!(new(ME, 64 << 10, 1), Some(ConfigError::Incarnation));
    assert_eq!(new(ME, 64 << 10, 2), None);
}
