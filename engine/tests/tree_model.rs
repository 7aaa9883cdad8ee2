//! The tree against a `BTreeMap`, through checkpoints, restarts, evictions and copies of frozen pages.

mod tree_world;

use tree_world::World;

fn run(seed: u64, steps: u64) {
    println!("seed {seed}");
    let mut world = World::new(seed, [60, 600, 6000][seed as usize % 3]);
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
}

#[test]
fn agrees_with_a_map_through_checkpoints_and_restarts() {
    let seeds = std::env::var("TREE_SEEDS").map_or(6, |s| s.parse().expect("a number"));
    for seed in 0..seeds {
        run(seed, 4000);
    }
}
