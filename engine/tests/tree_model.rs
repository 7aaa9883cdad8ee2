//! The tree against a `BTreeMap`, through checkpoints, restarts, evictions and copies of frozen pages.

mod tree_world;

use tree_world::{World, EAGER};

/// Bytes that were moved to make whole blocks.
fn run(mut world: World, steps: u64) -> u64 {
    for step in 0..steps {
        world.step();
        if step % 500 == 499 {
            world.check();
        }
    }
    while let Some(key) = world.model.keys().next().cloned() {
        assert!(world
            .tree
            .remove(&mut world.pages, &key)
            .expect("sound pages"));
        world.model.remove(&key);
        if world.random.below(50) == 0 {
            world.checkpoint();
        }
    }
    let verified = world.check();
    assert_eq!((verified.tree_pages, verified.overflow_pages), (0, 0));
    world.moved_bytes()
}

fn seeds() -> impl Iterator<Item = (u64, u64)> {
    let seeds = std::env::var("TREE_SEEDS").map_or(6, |s| s.parse().expect("a number"));
    let keys = |seed| [60, 600, 6000][seed as usize % 3];
    (0..seeds).map(move |seed| (seed, keys(seed)))
}

#[test]
fn agrees_with_a_map_through_checkpoints_and_restarts() {
    for (seed, keys) in seeds() {
        println!("seed {seed}");
        run(World::new(seed, keys), 4000);
    }
}

#[test]
fn agrees_with_a_map_while_pages_are_moved_to_make_whole_blocks() {
    let mut moved = 0;
    for (seed, keys) in seeds() {
        println!("seed {seed}");
        moved += run(World::relocating(seed, keys, EAGER), 4000);
    }
    assert!(moved > 1 << 20, "{moved} bytes were moved");
}
