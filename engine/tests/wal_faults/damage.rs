//! Damage to what was durable is found and named, never cut off silently.

use std::sync::Arc;

use engine::wal::{Expect, RecoverError, Report};

use crate::disk::Image;
use crate::small::{holds, open, stranger, Placed, Small};
use crate::{seeds, Rng};

/// Three segments' worth of small batches, the last of them claimed by a seal.
fn sealed_log() -> Small {
    let mut log = Small::new(16 << 10, 11);
    for bytes in [10, 200, 40, 60, 5000, 30, 1, 0] {
        log.write(bytes);
    }
    log.seal();
    log
}

fn flip(image: &mut Image, placed: &Placed, bit: usize) {
    let file = Arc::make_mut(image.get_mut(&placed.segment).expect("a segment"));
    file[placed.offset + bit / 8] ^= 1 << (bit % 8);
}

/// The damage is refused with the batch's file and offset, or with the header's of its segment.
fn names(error: &RecoverError, placed: &Placed) -> bool {
    match error {
        RecoverError::Damaged { at, batch, .. } => {
            at.segment == placed.segment
                && at.offset == placed.offset as u64
                && *batch == Some(placed.sequence)
        }
        _ => false,
    }
}

#[test]
fn every_flipped_bit_of_a_claimed_batch_is_refused_by_name() {
    let mut log = sealed_log();
    let seal = log.placed.pop().expect("the seal");
    assert_eq!(seal.claim, seal.sequence - 1);
    let mut refused = 0;
    for placed in &log.placed {
        for bit in 0..placed.bytes * 8 {
            let mut image = log.disk.files.clone();
            flip(&mut image, placed, bit);
            match open(&image, Expect::default()) {
                Err(error) if names(&error, placed) => refused += 1,
                Err(error) => panic!("bit {bit} of {placed:?}: {error}"),
                Ok(_) => panic!("bit {bit} of {placed:?} went unnoticed"),
            }
        }
    }
    println!("{refused} flips refused");
    // The seal itself holds nothing: cut off, and said so.
    for bit in 0..seal.bytes * 8 {
        let mut image = log.disk.files.clone();
        flip(&mut image, &seal, bit);
        let recovered = open(&image, Expect::default()).expect("only the seal is lost");
        assert!(holds(&recovered, 8));
        assert!(
            matches!(recovered.report, Report::TornTail { .. }),
            "bit {bit} of the seal"
        );
    }
}

/// Entries that the tree holds already are not decoded any more, but checked all the same.
#[test]
fn damage_below_what_the_tree_holds_is_refused_by_name_as_well() {
    let mut log = sealed_log();
    let seal = log.placed.pop().expect("the seal");
    let expect = Expect {
        applied: 7,
        ..Expect::default()
    };
    let recovered = open(&log.disk.files, expect).expect("nothing is damaged");
    let kept: Vec<_> = recovered.entries.iter().map(|entry| entry.index).collect();
    assert_eq!(kept, [Some(8)]);
    assert_eq!(recovered.last, recovered.entries.last().cloned());
    for placed in log.placed.iter().filter(|p| p.sequence < seal.sequence - 1) {
        for bit in (0..placed.bytes * 8).step_by(5) {
            let mut image = log.disk.files.clone();
            flip(&mut image, placed, bit);
            match open(&image, expect) {
                Err(error) if names(&error, placed) => {}
                Err(error) => panic!("bit {bit} of {placed:?}: {error}"),
                Ok(_) => panic!("bit {bit} of {placed:?} went unnoticed"),
            }
        }
    }
}

#[test]
fn a_flipped_bit_of_a_segment_header_is_refused_and_padding_is_harmless() {
    let log = sealed_log();
    let newest = *log.disk.files.keys().last().expect("segments");
    for (id, file) in &log.disk.files {
        for bit in 0..file.len() * 8 {
            let at = bit / 8;
            let in_header = at < 80;
            let used = log
                .placed
                .iter()
                .any(|p| p.segment == *id && (p.offset..p.offset + p.bytes).contains(&at));
            if used || (!in_header && bit % 4099 != 0) {
                continue;
            }
            let mut image = log.disk.files.clone();
            Arc::make_mut(image.get_mut(id).expect("the segment"))[at] ^= 1 << (bit % 8);
            match open(&image, Expect::default()) {
                Err(RecoverError::BadSegment { at, .. }) if in_header => {
                    assert_eq!(at.segment, *id)
                }
                Err(error) => panic!("bit {bit} of {id}: {error}"),
                // The newest one was only prepared; it is made anew.
                Ok(recovered) => {
                    assert!(holds(&recovered, 8));
                    assert!(
                        !in_header || (*id == newest && !recovered.notes.is_empty()),
                        "bit {bit} of {id}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_log_zeroed_from_any_byte_on_is_a_prefix_or_refused() {
    let log = sealed_log();
    let meta = log.meta(0);
    for (id, file) in &log.disk.files {
        for cut in 0..file.len() {
            // Every byte around what is used, every 61st elsewhere.
            let near =
                |p: &Placed| p.segment == *id && cut + 2 > p.offset && cut < p.offset + p.bytes + 2;
            if !(cut < 90 || cut % 61 == 0 || log.placed.iter().any(near)) {
                continue;
            }
            let mut image = log.disk.files.clone();
            for (_, file) in image.range_mut(id..) {
                let from = if Arc::ptr_eq(file, &log.disk.files[id]) {
                    cut
                } else {
                    4096
                };
                Arc::make_mut(file)[from..].fill(0);
            }
            let whole = |p: &&Placed| (p.segment, p.offset + p.bytes) <= (*id, cut);
            let trailing_zeros_survive = |p: &&Placed| {
                p.segment == *id
                    && file[cut.clamp(p.offset, p.offset + p.bytes)..p.offset + p.bytes]
                        .iter()
                        .all(|b| *b == 0)
            };
            let kept = log
                .placed
                .iter()
                .take_while(|p| whole(p) || trailing_zeros_survive(p))
                .last();
            match open(&image, Expect::default()) {
                Ok(recovered) => assert!(
                    holds(&recovered, kept.map_or(0, |p| p.last_index)),
                    "cut at {cut} of {id}"
                ),
                Err(error) => assert!(error.lost_acknowledged(), "{error}"),
            }
            // With the tree's claim, what is missing of it is always noticed.
            let all = kept.is_some_and(|p| p.sequence >= log.wal.position().batch);
            match open(&image, meta) {
                Ok(_) => assert!(all, "cut at {cut} of {id}"),
                Err(error) => assert!(error.lost_acknowledged(), "{error}"),
            }
        }
    }
}

#[test]
fn a_file_cut_off_at_any_byte_is_refused_if_it_held_anything() {
    let log = sealed_log();
    for (id, file) in &log.disk.files {
        let end = log
            .placed
            .iter()
            .filter(|p| p.segment == *id)
            .map(|p| p.offset + p.bytes)
            .max();
        let steps = (0..200)
            .chain((200..file.len()).step_by(127))
            .chain(end.map_or(0..0, |end| end - 3..end + 3));
        for cut in steps {
            let mut image = log.disk.files.clone();
            Arc::make_mut(image.get_mut(id).expect("the segment")).truncate(cut);
            match open(&image, log.meta(0)) {
                Ok(recovered) => {
                    assert!(
                        holds(&recovered, 8)
                            && end
                                .is_none_or(|end| file[cut.min(end)..end].iter().all(|b| *b == 0)),
                        "cut at {cut} of {id}"
                    );
                    assert!(!recovered.notes.is_empty(), "cut at {cut} of {id}");
                    // The log goes on, past the file that is too short.
                    let mut log = Small::reopen(image, log.segment_bytes, 12, log.meta(0));
                    log.write(100);
                    let recovered = open(&log.disk.files, log.meta(0)).expect("the log goes on");
                    assert!(holds(&recovered, 9));
                }
                Err(error) => assert!(
                    error.lost_acknowledged() && end.is_some(),
                    "cut at {cut} of {id}: {error}"
                ),
            }
        }
    }
}

/// A log of some segments, recycled ones among them, whose last batches are claimed.
fn long_log(rng: &mut Rng) -> Small {
    let mut log = Small::new(64 << 10, rng.draw());
    for i in 0..120 {
        let bytes = if rng.one_in(6) {
            rng.below(9000)
        } else {
            rng.below(400)
        };
        log.write(bytes as usize);
        if i == 80 {
            let needed = log.wal.first_needed(60);
            log.wal.release(needed);
        }
    }
    log.seal();
    log
}

/// Damage must be refused, unless it happened to change nothing.
fn must_refuse(log: &Small, image: &Image, what: &str) {
    let applied = 60;
    if *image == log.disk.files {
        return;
    }
    match open(
        image,
        Expect {
            applied,
            ..log.meta(applied)
        },
    ) {
        Err(error) => assert!(error.lost_acknowledged(), "{what}: {error}"),
        Ok(recovered) => {
            // Older segments than the tree needs may be given up, with a note.
            let entries = recovered.entries.len() as u64;
            assert_eq!(entries, log.wal.last_index() - applied, "{what}");
            assert!(!recovered.notes.is_empty(), "{what}");
        }
    }
}

#[test]
fn random_bits_lost_writes_and_misplaced_blocks_of_a_long_log_are_refused() {
    for seed in seeds(1..4) {
        println!("seed {seed}");
        let rng = &mut Rng::new(seed);
        let log = long_log(rng);
        let oldest = *log.disk.files.keys().next().expect("segments");
        let placed: Vec<Placed> = log
            .placed
            .iter()
            .filter(|p| p.segment >= oldest)
            .copied()
            .collect();
        let data = &placed[..placed.len() - 1];
        for _ in 0..300 {
            let victim = data[rng.below(data.len() as u64) as usize];
            let other = data[rng.below(data.len() as u64) as usize];
            let mut image = log.disk.files.clone();
            let what = match rng.below(4) {
                0 => {
                    flip(
                        &mut image,
                        &victim,
                        rng.below(victim.bytes as u64 * 8) as usize,
                    );
                    "a flipped bit"
                }
                1 => {
                    // The device acknowledged and kept what was there before: zeros, or an older life.
                    let file = Arc::make_mut(image.get_mut(&victim.segment).expect("a segment"));
                    let old: Vec<u8> = if rng.one_in(2) {
                        vec![0; victim.padded]
                    } else {
                        (0..victim.padded).map(|_| rng.draw() as u8).collect()
                    };
                    file[victim.offset..victim.offset + victim.padded].copy_from_slice(&old);
                    "a lost write"
                }
                2 => {
                    // A sector that holds something, zeroed.
                    let sectors = victim.bytes.div_ceil(512) as u64;
                    let from = victim.offset + rng.below(sectors) as usize * 512;
                    let file = Arc::make_mut(image.get_mut(&victim.segment).expect("a segment"));
                    if file[from..from + 512].iter().all(|b| *b == 0) {
                        continue;
                    }
                    file[from..from + 512].fill(0);
                    "a zeroed sector"
                }
                _ => {
                    // A write that went elsewhere: over another batch of the same or another segment.
                    let source =
                        image[&victim.segment][victim.offset..victim.offset + 4096].to_vec();
                    let target = Arc::make_mut(image.get_mut(&other.segment).expect("a segment"));
                    target[other.offset..other.offset + 4096].copy_from_slice(&source);
                    "a misdirected write"
                }
            };
            must_refuse(&log, &image, what);
        }
    }
}

#[test]
fn swapped_blocks_are_refused() {
    let log = sealed_log();
    for a in &log.placed {
        for b in log.placed.iter().filter(|b| b.sequence > a.sequence) {
            let mut image = log.disk.files.clone();
            let block = |p: &Placed| log.disk.files[&p.segment][p.offset..p.offset + 4096].to_vec();
            for (to, bytes) in [(a, block(b)), (b, block(a))] {
                let file = Arc::make_mut(image.get_mut(&to.segment).expect("a segment"));
                file[to.offset..to.offset + 4096].copy_from_slice(&bytes);
            }
            let error = open(&image, log.meta(0))
                .map(|r| r.position)
                .expect_err("swapped blocks");
            assert!(names(&error, a), "{a:?} and {b:?}: {error}");
        }
    }
}

#[test]
fn files_of_another_member_or_a_newer_version_are_told_from_damage() {
    let log = sealed_log();
    let foreign = engine::wal::recover(
        &crate::disk::ImageDir::new(&log.disk.files),
        Expect {
            identity: Some(stranger()),
            ..Expect::default()
        },
    );
    assert!(matches!(
        foreign.map(|r| r.position),
        Err(RecoverError::Foreign { .. })
    ));
}

#[test]
fn a_block_that_cannot_be_read_is_an_error_that_names_the_file_and_never_an_end() {
    let log = sealed_log();
    for (id, file) in &log.disk.files {
        for at in (0..file.len() as u64).step_by(4096) {
            let mut dir = crate::disk::ImageDir::new(&log.disk.files);
            dir.unreadable = Some((*id, at));
            match engine::wal::recover(&dir, Expect::default()) {
                Err(RecoverError::Io { at, error, .. }) => {
                    assert_eq!((at.segment, error.raw_os_error()), (*id, Some(5)));
                }
                other => panic!("{:?}", other.map(|recovered| recovered.position)),
            }
        }
    }
}
