//! Free space: what is used again, when, and how the file gets shorter.

mod tree_world;

use engine::{
    page::{Options, Pages, Relocation, SimFile},
    tree::{Defragment, Tree},
};
use std::{collections::BTreeSet, sync::Arc};
use tree_world::{check, contents, options, settled, World, EAGER};

/// Page numbers whose content on the device differs between two images.
fn changed(before: &[u8], after: &[u8]) -> BTreeSet<usize> {
    let page = |image: &[u8], no: usize| image.get(no * 4096..(no + 1) * 4096).map(<[u8]>::to_vec);
    let count = after.len() / 4096;
    (2..count)
        .filter(|no| page(before, *no) != page(after, *no))
        .collect()
}

/// Page numbers that a checkpoint's trees, extents and index take: all that a copy of it opened alone has in use.
fn in_use(image: &[u8]) -> BTreeSet<usize> {
    let file = SimFile::from_bytes(image.to_vec());
    let opened = Pages::open(Arc::new(file), options()).expect("a sound file");
    opened.pages.pages_in_use().map(|no| no as usize).collect()
}

#[test]
fn pages_are_written_again_only_when_both_meta_pages_are_past_them() {
    keeps_what_the_meta_pages_name(World::new(11, 500));
    let world = keeps_what_the_meta_pages_name(World::relocating(11, 500, EAGER));
    assert!(world.moved_bytes() > 0);
}

fn keeps_what_the_meta_pages_name(mut world: World) -> World {
    let mut images: Vec<Vec<u8>> = Vec::new();
    for round in 0..40 {
        for _ in 0..250 {
            if round % 2 == 0 {
                world.insert();
            } else {
                world.remove();
            }
            world.relocate(4);
        }
        world.whole_checkpoint();
        images.push(world.file.durable());
    }
    let mut reused = 0;
    for at in 2..images.len() {
        let written = changed(&images[at - 1], &images[at]);
        // While this checkpoint was written the metas named the one before it and the one before that.
        for older in [at - 1, at - 2] {
            let kept = in_use(&images[older]);
            let lost: Vec<_> = written.intersection(&kept).collect();
            assert!(
                lost.is_empty(),
                "checkpoint {at} overwrote {lost:?} of {older}"
            );
        }
        if at >= 3 {
            reused += written.intersection(&in_use(&images[at - 3])).count();
        }
    }
    assert!(reused > 0, "pages are used again some time");
    world
}

#[test]
fn a_file_of_steady_content_stops_growing() {
    let mut world = World::new(12, 400);
    (0..3000).for_each(|_| world.insert());
    (0..6).for_each(|_| world.whole_checkpoint());
    let mut sizes = Vec::new();
    for _ in 0..60 {
        (0..200).for_each(|_| world.insert());
        world.whole_checkpoint();
        sizes.push(world.pages.file_bytes());
    }
    let (early, late) = (sizes[..20].iter().max(), sizes[40..].iter().max());
    let (early, late) = (*early.expect("sizes"), *late.expect("sizes"));
    assert!(late < early + early / 4, "{sizes:?}");
    world.check();
}

#[test]
fn defragmentation_shortens_the_file_while_the_tree_is_used() {
    for seed in 0..4 {
        let mut world = World::new(20 + seed, 20_000);
        (0..9000).for_each(|_| world.insert());
        world.whole_checkpoint();
        while world.model.len() > 700 {
            world.remove();
        }
        (0..4).for_each(|_| world.whole_checkpoint());
        let before = world.pages.file_bytes();
        let mut trees = [world.tree, Tree::new()];
        let mut walk = Defragment::begin(&mut world.pages).expect("something to do");
        let mut steps = 0;
        while defragment(&mut walk, &mut world, &mut trees) {
            world.tree = trees[0];
            (0..3).for_each(|_| world.insert());
            if steps % 5 == 0 {
                world.checkpoint();
            }
            trees[0] = world.tree;
            steps += 1;
        }
        world.tree = trees[0];
        (0..7).for_each(|_| world.whole_checkpoint());
        world.check();
        let after = world.pages.file_bytes();
        assert!(after * 2 < before, "seed {seed}: {before} {after}");
        let len = world.file.durable().len() as u64;
        assert!(len * 2 < before, "cut at {len}, {after} in use");
        world.restart();
        let found = contents(&mut world.pages, world.tree);
        assert!(found
            .iter()
            .eq(world.model.iter().map(|(k, (v, _))| (k, v))));
    }
}

#[test]
fn scattered_holes_become_whole_blocks_until_nothing_is_written() {
    let rule = Relocation {
        file_pages_min: 512,
        ..Relocation::default()
    };
    let still = Relocation {
        cost_share: 0,
        ..rule
    };
    // What only leaves name that are not in memory is not moved, so all of them are.
    let options = Options {
        resident_bytes_max: 1 << 30,
        ..options()
    };
    let mut moving = World::with(40, 60_000, rule, options.clone());
    let mut still = World::with(40, 60_000, still, options);
    let mut writes = Vec::new();
    for world in [&mut moving, &mut still] {
        (0..20_000).for_each(|_| world.insert());
        world.whole_checkpoint();
        // Most keys go again, all over the file; then a few change at a time.
        while world.model.len() > 4_000 {
            world.remove();
        }
        let mut before = 0;
        for round in 0..60 {
            if round == 30 {
                before = world.file.operations();
            }
            (0..100).for_each(|_| world.insert());
            world.whole_checkpoint();
            while world.relocator.wants_step() {
                world.relocate(64);
            }
        }
        writes.push(world.file.operations() - before);
    }
    assert!(writes[0] * 3 < writes[1] * 2, "{writes:?} writes");
    // Nothing else is written any more: what was begun ends.
    let mut moved = Vec::new();
    for _ in 0..12 {
        moving.whole_checkpoint();
        while moving.relocator.wants_step() {
            moving.relocate(64);
        }
        moved.push(moving.moved_bytes());
    }
    assert_eq!(moved[4], moved[11], "{moved:?}");
    moving.check();
    moving.restart();
    moving.check();
}

#[test]
fn no_more_is_moved_than_a_share_of_what_is_written_anyway() {
    let rule = Relocation {
        cost_share: 4,
        ..EAGER
    };
    let mut world = World::relocating(41, 4_000, rule);
    let (mut written, mut moved) = (0, 0);
    for round in 0..60 {
        for n in 0..300 {
            match (round + n) % 2 {
                0 => world.insert(),
                _ => world.remove(),
            }
        }
        while world.relocator.wants_step() {
            world.relocate(1);
        }
        let dirty = world.pages.dirty_bytes();
        written += dirty.saturating_sub(world.moved_bytes() - moved);
        moved = world.moved_bytes();
        world.whole_checkpoint();
    }
    // One leaf with its large values may go beyond what was earned, and its path.
    let most = written / 4 + (2 << 20);
    assert!(
        moved > 0 && moved <= most,
        "{moved} moved, {written} written"
    );
}

#[test]
fn a_small_file_is_left_alone() {
    let rule = Relocation {
        file_pages_min: 1 << 20,
        ..EAGER
    };
    let mut world = World::relocating(42, 2_000, rule);
    for _ in 0..3000 {
        world.step();
    }
    assert_eq!(world.moved_bytes(), 0);
}

fn defragment(walk: &mut Defragment, world: &mut World, trees: &mut [Tree]) -> bool {
    loop {
        match walk.step(&mut world.pages, trees, 4, 20_000) {
            Ok(more) => return more,
            Err(miss) => {
                if let Some(job) = world.pages.fetch_job(&miss) {
                    world.pages.fetch_done(job.run()).expect("sound pages");
                }
            }
        }
    }
}

#[test]
fn plans_name_what_a_write_needs() {
    let mut world = World::new(30, 3000);
    (0..4000).for_each(|_| world.insert());
    world.restart();
    let tree = world.tree;
    let keys: Vec<_> = world.model.keys().cloned().collect();
    for (n, key) in keys.iter().enumerate().step_by(3) {
        let planned = |pages: &Pages| {
            let mut miss = engine::page::Miss::default();
            if n % 2 == 0 {
                tree.plan_insert(pages, key, &mut miss);
            } else {
                tree.plan_remove(pages, key, &mut miss);
            }
            match miss.is_empty() {
                true => Ok(()),
                false => Err(miss),
            }
        };
        settled(&mut world.pages, planned);
    }
    // Nothing is evicted from here on, so what is planned is there.
    let mut tree = world.tree;
    for (n, key) in keys.iter().enumerate().step_by(3).take(40) {
        let before = world.pages.sync_loads();
        loop {
            let mut miss = engine::page::Miss::default();
            if n % 2 == 0 {
                tree.plan_insert(&world.pages, key, &mut miss);
            } else {
                tree.plan_remove(&world.pages, key, &mut miss);
            }
            let Some(job) = world.pages.fetch_job(&miss) else {
                break;
            };
            world.pages.fetch_done_keeping(job.run()).expect("sound");
        }
        if n % 2 == 0 {
            tree.insert(&mut world.pages, key, b"short", 1)
                .expect("planned");
        } else {
            assert_eq!(tree.remove(&mut world.pages, key), Ok(true));
        }
        assert_eq!(world.pages.sync_loads(), before, "key {n} was planned");
    }
    check(&mut world.pages, &[tree]);
}
