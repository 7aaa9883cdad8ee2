//! Entries that take the place of others: in recovery, in what counts as durable, and in what is read back.

use bytes::Bytes;
use engine::wal::{Expect, Mark};
use proto::raftpb::Entry;

use crate::disk::ImageDir;
use crate::small::{entry, open, Small};
use crate::{seeds, Rng};

fn append(log: &mut Small, from: u64, to: u64, term: u64) {
    let entries: Vec<Entry> = (from..=to).map(|index| entry(index, term, 40)).collect();
    log.wal.append(&entries, None).expect("append");
}

fn flush(log: &mut Small) {
    while let Some(tag) = log.issue() {
        log.complete(tag);
    }
    log.run_file_ops();
}

#[test]
fn replaced_entries_no_longer_count_as_durable() {
    let mut log = Small::new(64 << 10, 1);
    append(&mut log, 1, 10, 1);
    flush(&mut log);
    assert_eq!(log.wal.durable_index(), 10);
    append(&mut log, 11, 20, 1);
    let in_flight = log.issue().expect("a write");
    append(&mut log, 8, 9, 2);
    assert_eq!((log.wal.durable_index(), log.wal.last_index()), (7, 9));
    // The older write completes: what it held from 8 on is not the log any more.
    log.complete(in_flight);
    assert_eq!(log.wal.durable_index(), 7);
    flush(&mut log);
    assert_eq!(log.wal.durable_index(), 9);
    let recovered = open(&log.disk.files, Expect::default()).expect("opens");
    let terms: Vec<u64> = recovered
        .entries
        .iter()
        .map(|e| e.term.unwrap_or(0))
        .collect();
    assert_eq!(terms, [1, 1, 1, 1, 1, 1, 1, 2, 2]);
}

#[test]
fn a_snapshot_takes_the_place_of_the_log() {
    let mut log = Small::new(64 << 10, 1);
    append(&mut log, 1, 10, 1);
    flush(&mut log);
    log.wal
        .append_mark(&Mark::Start {
            index: 1000,
            term: 7,
        })
        .expect("append");
    append(&mut log, 1001, 1003, 7);
    assert_eq!((log.wal.last_index(), log.wal.durable_index()), (1003, 10));
    flush(&mut log);
    assert_eq!(
        (log.wal.durable_index(), log.wal.first_index()),
        (1003, 1001)
    );
    assert!(log.wal.read_job(5, 6, 1).is_none());
    let recovered = open(
        &log.disk.files,
        Expect {
            applied: 1000,
            ..Expect::default()
        },
    )
    .expect("opens");
    assert_eq!(
        (recovered.start, recovered.first_index, recovered.last_term),
        (Some((1000, 7)), 1001, 7)
    );
    assert_eq!(
        recovered.entries,
        (1001..=1003).map(|i| entry(i, 7, 40)).collect::<Vec<_>>()
    );
}

#[test]
fn entries_out_of_order_or_too_many_are_refused_whole() {
    let mut log = Small::new(64 << 10, 1);
    append(&mut log, 1, 5, 1);
    for entries in [
        vec![entry(7, 1, 1)],
        vec![entry(0, 1, 1)],
        vec![entry(6, 1, 1), entry(8, 1, 1)],
    ] {
        assert!(log.wal.append(&entries, None).is_err());
    }
    assert!(log.wal.append(&[entry(6, 1, 70_000)], None).is_err());
    assert_eq!(log.wal.last_index(), 5);
    let mut index = 5;
    while log.wal.append(&[entry(index + 1, 1, 10_000)], None).is_ok() {
        index += 1;
    }
    assert!(log.wal.pending_bytes() <= 256 << 10 && index > 20);
    flush(&mut log);
    assert_eq!(
        (log.wal.durable_index(), log.wal.pending_bytes()),
        (index, 0)
    );
    assert!(log.wal.append(&[entry(index + 1, 1, 10_000)], None).is_ok());
}

/// Random appends and truncations against a plain vector; any range read back is that of the vector, before and after a
/// reopen.
#[test]
fn any_range_read_back_is_what_was_appended_last() {
    for seed in seeds(1..7) {
        let rng = &mut Rng::new(seed);
        let mut log = Small::new(32 << 10, rng.draw());
        let mut model: Vec<Entry> = Vec::new();
        let mut term = 1;
        let mut committed = 0;
        for step in 0..400 {
            let len = model.len() as u64;
            if rng.one_in(7) && len > committed {
                term += 1;
                model.truncate((committed + rng.below(len - committed)) as usize);
            }
            let from = model.len() as u64 + 1;
            let count = 1 + rng.below(4);
            let bytes = if rng.one_in(10) {
                6000
            } else {
                rng.below(200) as usize
            };
            let entries: Vec<Entry> = (from..from + count)
                .map(|i| entry(i, term, bytes))
                .collect();
            log.wal.append(&entries, None).expect("append");
            model.extend(entries);
            if rng.one_in(3) {
                flush(&mut log);
                committed += rng.below(model.len() as u64 - committed + 1) / 2;
            }
            if rng.one_in(40) {
                let needed = log.wal.first_needed(committed);
                log.wal.release(needed);
            }
            if rng.one_in(60) {
                flush(&mut log);
                let recovered = open(&log.disk.files, log.meta(committed)).expect("opens");
                assert_eq!(
                    recovered.entries,
                    model[committed as usize..],
                    "seed {seed} step {step}"
                );
                log = Small::reopen(
                    log.disk.files.clone(),
                    32 << 10,
                    rng.draw(),
                    log.meta(committed),
                );
            }
            let first = log.wal.first_index();
            let from = first + rng.below(log.wal.durable_index().saturating_sub(first) + 2);
            let to = from + rng.below(30);
            let most = log.wal.durable_index().min(to);
            let Some(job) = log.wal.read_job(from, to, 1 << 40) else {
                assert!(
                    from > log.wal.durable_index(),
                    "seed {seed} step {step}: {from} of {first}"
                );
                continue;
            };
            let dir = ImageDir::new(&log.disk.files);
            log.disk
                .files
                .keys()
                .for_each(|id| engine::wal::LogDir::flush(&dir, *id).expect("flush"));
            let read = job
                .run(&dir)
                .unwrap_or_else(|error| panic!("seed {seed} step {step}: {error}"));
            assert_eq!(
                read,
                model[from as usize - 1..most as usize],
                "seed {seed} step {step}"
            );
            let data: usize = read
                .iter()
                .map(|e| e.data.as_ref().map_or(0, Bytes::len))
                .sum();
            let half = log
                .wal
                .read_job(from, to, data as u64 / 2)
                .expect("a job")
                .run(&dir)
                .expect("reads");
            assert!(!half.is_empty() && read.starts_with(&half));
        }
    }
}
