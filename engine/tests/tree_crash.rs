//! Power lost at every write of several checkpoints, with every class of unflushed sectors kept: the file opens as the
//! checkpoint before or the one under way, never as anything else.

mod tree_world;

use engine::{
    page::{Keep, Meta, Options, PageFile, Pages, Progress, SimFile},
    tree::Tree,
};
use std::{collections::BTreeMap, sync::Arc};
use tree_world::{check, contents, options, World, EAGER};

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// What each checkpoint holds, and the newest one whose meta page was written in full.
struct History {
    states: BTreeMap<u64, Contents>,
    durable: u64,
}

/// The same changes and checkpoints each time, until the power goes. Every other seed also moves pages meanwhile.
fn scenario(seed: u64, power_lost_at: Option<u64>) -> (World, History) {
    let mut world = match seed % 2 {
        0 => World::new(seed, 300),
        _ => World::relocating(seed, 300, EAGER),
    };
    let base = world.file.operations();
    if let Some(at) = power_lost_at {
        world.file.lose_power_at(base + at);
    }
    let mut history = History {
        states: BTreeMap::from([(0, Contents::new())]),
        durable: 0,
    };
    for round in 0..5 {
        let changes = [400, 60, 200, 5, 100][round];
        for _ in 0..changes {
            if world.random.below(3) == 0 {
                world.remove();
            } else {
                world.insert();
            }
        }
        let job = world.begin_checkpoint(&[round as u8]);
        let mut job = job.expect("none is running");
        let values = world.model.iter().map(|(k, (v, _))| (k.clone(), v.clone()));
        history.states.insert(job.checkpoint(), values.collect());
        loop {
            match job.step() {
                Ok(Progress::Wrote(_)) => {
                    // Changes go on meanwhile.
                    world.insert();
                    world.relocate(4);
                }
                Ok(Progress::Finished(done)) => {
                    history.durable = done.checkpoint();
                    world.pages.checkpoint_done(done);
                    break;
                }
                Err(_) => return (world, history),
            }
        }
    }
    (world, history)
}

fn opened(image: &SimFile) -> (Pages, Option<Meta>) {
    let opened = Pages::open(Arc::new(image.clone()), options()).expect("a recoverable file");
    (opened.pages, opened.meta)
}

/// Opens an image; the checkpoint found has exactly its contents, and the file goes on working.
fn recover(image: &SimFile, history: &History) -> u64 {
    let (mut pages, meta) = opened(image);
    let number = meta.as_ref().map_or(0, |m| m.checkpoint);
    let mut tree = meta.map_or_else(Default::default, |m| m.roots[0]);
    assert!(
        contents(&mut pages, tree) == history.states[&number],
        "checkpoint {number} has other contents"
    );
    check(&mut pages, &[tree]);
    for n in 0..40u32 {
        let done = tree.insert(&mut pages, &n.to_le_bytes(), &[7; 1500], 1);
        assert_eq!(done, Ok(()), "{:?}", pages.load_error());
    }
    let job = pages.begin_checkpoint(&[tree], b"after").expect("a job");
    pages.checkpoint_done(job.run().expect("a sound disk"));
    check(&mut pages, &[tree]);
    let (_, meta) = opened(image);
    assert_eq!(meta.expect("a checkpoint").content[..], b"after"[..]);
    number
}

#[test]
fn power_lost_at_any_write_leaves_the_checkpoint_before_or_this_one() {
    for seed in 0..4 {
        let (world, _) = scenario(seed, None);
        assert_eq!(world.moved_bytes() > 0, seed % 2 == 1);
        let operations = world.file.operations();
        assert!(operations > 30, "{operations} operations");
        let mut torn = 0;
        for at in 0..operations {
            let (world, history) = scenario(seed, Some(at));
            let keeps = [
                Keep::None,
                Keep::All,
                Keep::Prefix(300),
                Keep::Prefix(900),
                Keep::Random(at),
                Keep::Random(at + 1000),
            ];
            for keep in keeps {
                let image = world.file.crash(keep);
                let found = recover(&image, &history);
                assert!(
                    found == history.durable || found == history.durable + 1,
                    "found {found}, durable {}, {keep:?} at {at}",
                    history.durable
                );
                torn += u64::from(found > history.durable);
            }
        }
        assert!(torn > 0, "a meta page written in full counts");
    }
}

#[test]
fn the_older_meta_page_works_after_a_crash_at_any_write() {
    let (world, _) = scenario(7, None);
    for at in 0..world.file.operations() {
        let (world, history) = scenario(7, Some(at));
        let image = world.file.crash(Keep::Random(at));
        let newest = Pages::open(Arc::new(image.clone()), options()).expect("a recoverable file");
        let (Some(meta), None) = (newest.meta, newest.report.fell_back) else {
            continue; // nothing to fall back from, or the power has torn the other one
        };
        // The first checkpoint of a file goes to the second meta page, and so on in turn.
        image.damage(4096 * (meta.checkpoint % 2) + 100, |b| b ^ 0x10);
        let (mut pages, older) = opened(&image);
        let number = older.as_ref().map_or(0, |m| m.checkpoint);
        assert_eq!(number, meta.checkpoint - 1);
        let tree = older.map_or_else(Default::default, |m| m.roots[0]);
        assert!(contents(&mut pages, tree) == history.states[&number]);
        check(&mut pages, &[tree]);
    }
}

#[test]
fn a_crash_while_a_file_is_laid_out_leaves_one_that_can_be_laid_out() {
    for at in 0..3 {
        for keep in [Keep::None, Keep::All, Keep::Prefix(500), Keep::Random(at)] {
            let file = SimFile::new();
            file.lose_power_at(at);
            assert!(Pages::open(Arc::new(file.clone()), options()).is_err());
            let (_, meta) = opened(&file.crash(keep));
            assert!(meta.is_none());
        }
    }
}

#[test]
fn a_failed_write_or_flush_ends_a_checkpoint_for_good() {
    let mut world = World::new(1, 300);
    (0..200).for_each(|_| world.insert());
    let job = world.pages.begin_checkpoint(&[world.tree], b"");
    let mut job = job.expect("a job");
    world.file.fail_flush(true);
    let failed = loop {
        if let Err(e) = job.step() {
            break e;
        }
    };
    assert!(failed.to_string().contains("flush"));
    world.file.fail_flush(false);
    assert!(job.step().is_err(), "no second try");
}

#[test]
fn a_full_disk_stops_a_checkpoint_before_its_first_write_and_lets_it_go_on_later() {
    let mut world = World::new(2, 300);
    world.file.limit_space(Some(8192));
    (0..200).for_each(|_| world.insert());
    let before = world.file.durable();
    let job = world.pages.begin_checkpoint(&[world.tree], b"");
    let mut job = job.expect("a job");
    for _ in 0..3 {
        let full = job.step().map(|_| ()).expect_err("no space");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }
    assert_eq!(world.file.durable(), before);
    world.file.limit_space(None);
    world.pages.checkpoint_done(job.run().expect("space again"));
    world.check();
}

#[test]
fn the_reserve_is_what_a_full_disk_leaves() {
    let file = SimFile::new();
    let reserving = Options {
        reserve_bytes: 256 << 10,
        ..options()
    };
    let opened = Pages::open(Arc::new(file.clone()), reserving).expect("a new file");
    let (mut pages, mut tree) = (opened.pages, Tree::new());
    let mut checkpoint = |n: u32| {
        for at in 0..40_u32 {
            let key = (n * 40 + at).to_be_bytes();
            tree.insert(&mut pages, &key, &[7; 900], 0).expect("room");
        }
        let mut job = pages.begin_checkpoint(&[tree], b"").expect("a job");
        loop {
            match job.step() {
                Ok(Progress::Wrote(_)) => {}
                Ok(Progress::Finished(done)) => {
                    let is_short = done.is_short_of_space();
                    pages.checkpoint_done(done);
                    return Ok(is_short);
                }
                Err(error) => return Err(error.kind()),
            }
        }
    };
    assert_eq!(checkpoint(0), Ok(false));
    let len = file.len().expect("a length");
    file.limit_space(Some(len));
    let mut short = 0;
    let refused = (1..100).find_map(|n| match checkpoint(n) {
        Ok(is_short) => {
            short += u32::from(is_short);
            assert!(is_short || short == 0, "checkpoint {n}");
            None
        }
        Err(kind) => Some(kind),
    });
    assert_eq!(refused, Some(std::io::ErrorKind::StorageFull));
    assert!(short >= 2, "{short} checkpoints lived on the reserve");
    assert_eq!(file.len().expect("a length"), len);
}
