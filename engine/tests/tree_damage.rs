//! Damage of the file at rest: noticed before anything of it is used, and named.

mod tree_world;

use engine::page::{Miss, OpenError, PageError, PageFault, PageFile, PageNo, Pages, SimFile};
use std::{collections::BTreeMap, ops::Bound, sync::Arc};
use tree_world::{collect, options, World};

/// Checkpoints until the length of an index is what it was when that went wrong.
const ROUNDS: u64 = 700;

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

fn values(world: &World) -> Contents {
    let values = world.model.iter().map(|(k, (v, _))| (k.clone(), v.clone()));
    values.collect()
}

/// A file with three checkpoints, the last two of them small, and what these two hold.
fn file(seed: u64) -> (Vec<u8>, [Contents; 2]) {
    let mut world = World::new(seed, 400);
    (0..1200).for_each(|_| world.insert());
    world.whole_checkpoint();
    (0..3).for_each(|_| world.insert());
    world.whole_checkpoint();
    let older = values(&world);
    (0..3).for_each(|_| world.insert());
    world.whole_checkpoint();
    (world.file.durable(), [older, values(&world)])
}

#[derive(Debug)]
enum Failure {
    Open(OpenError),
    Page(PageError),
}

/// Opens a file and reads all of it.
fn read_all(bytes: Vec<u8>) -> Result<(bool, Contents), Failure> {
    let mut options = options();
    options.create = false;
    let opened =
        Pages::open(Arc::new(SimFile::from_bytes(bytes)), options).map_err(Failure::Open)?;
    let mut pages = opened.pages;
    let tree = opened.meta.expect("a checkpoint").roots[0];
    let (mut all, mut from) = (Contents::new(), Bound::Unbounded);
    loop {
        let start = from.as_ref().map(|k: &Vec<u8>| &k[..]);
        match collect(tree.range(&pages, start, Bound::Unbounded), 30) {
            Ok(some) => {
                let Some((last, _)) = some.last() else {
                    return Ok((opened.report.fell_back.is_some(), all));
                };
                from = Bound::Excluded(last.clone());
                all.extend(some);
            }
            Err(miss) => fetch(&mut pages, &miss)?,
        }
    }
}

fn fetch(pages: &mut Pages, miss: &Miss) -> Result<(), Failure> {
    let job = pages.fetch_job(miss).expect("pages that are not there");
    pages.fetch_done(job.run()).map_err(Failure::Page)
}

#[test]
fn every_byte_of_a_meta_page_is_guarded() {
    let (bytes, [older, newer]) = file(1);
    for slot in 0..2 {
        for at in 0..4096 {
            let mut damaged = bytes.clone();
            damaged[slot * 4096 + at] ^= 1 << (at % 8);
            // Three checkpoints: the newest is in the second meta page.
            let expected = if slot == 1 { &older } else { &newer };
            if at % 61 == 0 {
                let (_, found) = read_all(damaged.clone()).expect("the other meta page works");
                assert!(found == *expected, "slot {slot} byte {at}");
            }
            let file = SimFile::from_bytes(damaged);
            let opened = Pages::open(Arc::new(file), options()).expect("the other one works");
            assert_eq!(opened.report.checkpoint, 3 - slot as u64);
            assert!(opened.report.fell_back.is_some(), "slot {slot} byte {at}");
        }
    }
}

#[test]
fn two_bad_meta_pages_are_an_error_that_says_where() {
    let (mut bytes, _) = file(2);
    bytes[77] ^= 1;
    bytes[4096 + 99] ^= 1;
    let Err(Failure::Open(error @ OpenError::NoMeta { .. })) = read_all(bytes) else {
        panic!("opened");
    };
    let text = error.to_string();
    assert!(text.contains("at offset 0") && text.contains("at offset 4096"));
    assert!(text.contains("restore a snapshot"), "{text}");
}

#[test]
fn a_file_cut_at_any_length_is_refused_or_whole() {
    let (bytes, [_, newer]) = file(3);
    let mut whole = 0;
    let lengths = (0..bytes.len())
        .step_by(1021)
        .chain([1, 4095, 4096, 8191, 8192]);
    for len in lengths {
        match read_all(bytes[..len].to_vec()) {
            Err(Failure::Open(OpenError::NotThere { .. })) => assert!(len < 8192),
            Err(Failure::Open(OpenError::Truncated {
                len: found, needed, ..
            })) => {
                assert!(found == len as u64 && found < needed);
            }
            Ok((false, found)) => {
                assert!(found == newer, "cut at {len}");
                whole += 1;
            }
            other => panic!("cut at {len}: {other:?}"),
        }
    }
    assert!(whole > 0, "the file's spare end can be missed");
}

#[test]
fn a_flipped_bit_in_any_page_is_found_at_first_touch_and_named() {
    let (bytes, [older, newer]) = file(4);
    let (mut named, mut fell_back, mut unused) = (0, 0, 0);
    for page in 2..bytes.len() / 4096 {
        for at in [0, 5, 9, 17, 19, 24, 30, 33, 40, 1000 + page % 3000, 4095] {
            let mut damaged = bytes.clone();
            damaged[page * 4096 + at] ^= 1 << (page % 8);
            match read_all(damaged) {
                Err(Failure::Page(error)) => {
                    assert!(error.page.0 as usize <= page, "{error}");
                    assert!(matches!(error.fault, PageFault::Checksum), "{error}");
                    let text = error.to_string();
                    assert!(text.contains(&format!("offset {}", error.page.0 * 4096)));
                    named += 1;
                }
                Ok((true, found)) => {
                    assert!(found == older, "page {page}");
                    fell_back += 1;
                }
                Ok((false, found)) => {
                    assert!(found == newer, "page {page} byte {at}");
                    unused += 1;
                }
                Err(Failure::Open(error)) => panic!("page {page}: {error}"),
            }
        }
    }
    assert!(
        named > 500 && fell_back > 10 && unused > 0,
        "{named} {fell_back} {unused}"
    );
}

#[test]
fn swapped_pages_are_found() {
    let (bytes, [older, newer]) = file(5);
    let pages = bytes.len() / 4096;
    let mut wrong = 0;
    for page in 2..pages - 1 {
        let mut damaged = bytes.clone();
        let (low, high) = damaged.split_at_mut((page + 1) * 4096);
        low[page * 4096..].swap_with_slice(&mut high[..4096]);
        match read_all(damaged) {
            Err(Failure::Page(error)) => {
                wrong += usize::from(error.fault == PageFault::WrongPage { found: page as u32 })
                    + usize::from(
                        error.fault
                            == PageFault::WrongPage {
                                found: page as u32 + 1,
                            },
                    );
            }
            Ok((true, found)) => assert!(found == older),
            Ok((false, found)) => assert!(found == newer, "page {page}"),
            // Both of the last checkpoints have lost a page.
            Err(Failure::Open(OpenError::NoMeta { .. })) => {}
            Err(Failure::Open(error)) => panic!("page {page}: {error}"),
        }
    }
    assert!(wrong > 20, "{wrong}");
}

#[test]
fn an_unreadable_page_is_an_error_and_its_neighbours_are_not() {
    let mut world = World::new(6, 400);
    (0..1200).for_each(|_| world.insert());
    world.restart();
    let (root, all) = (PageNo(world.tree.root_page()), world.model.len());
    fetch(&mut world.pages, &Miss { pages: vec![root] }).expect("a sound root");
    // Some page that is not the root and that the walk will meet.
    let victim = (2..40).map(PageNo).find(|no| *no != root).expect("one");
    world.file.break_byte(Some(victim.offset() + 5));
    let miss = Miss {
        pages: (2..40).map(PageNo).collect(),
    };
    let job = world.pages.fetch_job(&miss).expect("pages");
    let error = world.pages.fetch_done(job.run()).expect_err("a bad page");
    // Pages inside of extents are no heads of their own, so others may be named; the bad one ends in an I/O error.
    assert!(matches!(
        error.fault,
        PageFault::Io(_) | PageFault::Checksum
    ));
    world.file.break_byte(None);
    assert_eq!(world.check().entries, all as u64);
}

/// Scrubs a whole file in slices; pages verified, and pages found damaged.
fn scrub(pages: &mut Pages, slice: u32) -> (u64, Vec<u32>) {
    let (mut verified, mut damaged, mut next) = (0, Vec::new(), None);
    while let Some(job) = pages.scrub_job(next, slice) {
        let done = job.run();
        verified += done.verified_pages;
        damaged.extend(done.damaged.iter().map(|e| e.page.0));
        next = done.next;
    }
    (verified, damaged)
}

/// The index of a checkpoint has any length, and now and then fills its pages to the last byte.
#[test]
fn a_scrub_takes_no_sound_index_for_damage() {
    let mut world = World::new(9, 40_000);
    for round in 0..ROUNDS {
        (0..40 + round % 7).for_each(|_| world.insert());
        world.whole_checkpoint();
        let (_, damaged) = scrub(&mut world.pages, 10_000);
        assert!(damaged.is_empty(), "after checkpoint {round}: {damaged:?}");
    }
}

#[test]
fn a_scrub_finds_rot_in_pages_that_nobody_reads() {
    let mut world = World::new(8, 1500);
    (0..1200).for_each(|_| world.insert());
    world.whole_checkpoint();
    // A running checkpoint and changes of the next generation are not to confuse it.
    (0..200).for_each(|_| world.insert());
    world.checkpoint();
    world.checkpoint();
    (0..200).for_each(|_| world.insert());
    for slice in [1, 7, 64, 10_000] {
        let (verified, damaged) = scrub(&mut world.pages, slice);
        assert!(damaged.is_empty(), "slices of {slice}: {damaged:?}");
        assert!(verified > 10, "{verified}");
    }
    world.finish_checkpoint();
    world.whole_checkpoint();
    let in_use: Vec<u32> = world.pages.pages_in_use().collect();
    let mut found = 0;
    for page in &in_use {
        let at = u64::from(*page) * 4096 + 2000;
        world.file.damage(at, |b| b ^ 4);
        let (_, damaged) = scrub(&mut world.pages, 50);
        world.file.damage(at, |b| b ^ 4);
        // The page itself, or the first one of its extent.
        found += usize::from(damaged.iter().any(|d| d <= page && page - d < 30));
    }
    // A page may come first in its slice and be skipped there as one that could be inside an extent.
    assert!(found + 12 > in_use.len(), "{found} of {}", in_use.len());
    assert!(scrub(&mut world.pages, 50).1.is_empty());
}

/// Whoever writes tries again with every turn, each time loading what it lacks. That must not keep the answer to an earlier
/// fetch from telling that the page is damaged.
#[test]
fn damage_is_told_however_often_a_write_tries_again_meanwhile() {
    let (bytes, [_, contents]) = file(11);
    let file = SimFile::from_bytes(bytes);
    let mut opened = Pages::open(Arc::new(file.clone()), options()).expect("a sound file");
    let mut tree = opened.meta.take().expect("a checkpoint").roots[0];
    let mut pages = opened.pages;
    for offset in (2 * 4096 + 2000..PageFile::len(&file).unwrap()).step_by(4096) {
        file.damage(offset, |byte| byte ^ 4);
    }
    let key = contents.keys().next().expect("keys").clone();
    let mut write = |pages: &mut Pages| tree.insert(pages, &key, b"other", 1).map(drop);
    let miss = write(&mut pages).expect_err("no page is sound");
    let job = pages.fetch_job(&miss).expect("nothing is on its way");
    assert!(write(&mut pages).is_err());
    assert!(pages.fetch_job(&miss).is_none(), "it is on its way");
    assert!(pages.fetch_done(job.run()).is_err());
}
