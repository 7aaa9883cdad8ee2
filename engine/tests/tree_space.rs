//! Free space: what is used again, when, and how the file gets shorter.

mod tree_world;

use engine::{
    page::{Pages, SimFile},
    tree::{Defragment, Tree},
};
use std::{collections::BTreeSet, sync::Arc};
use tree_world::{check, contents, options, settled, World};

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
    let mut world = World::new(11, 500);
    let mut images: Vec<Vec<u8>> = Vec::new();
    for round in 0..40 {
        for _ in 0..250 {
            if round % 2 == 0 {
                world.insert();
            } else {
                world.remove();
            }
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
