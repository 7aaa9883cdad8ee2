//! A crash at every write boundary: what comes back is a prefix that holds everything acknowledged.

use engine::wal::Mark;

use crate::disk::{Fate, SECTOR};
use crate::seeds;
use crate::world::{Planted, World};

const BATCHES: usize = 1000;

/// Statistics of a run, to see that it went through what it is meant to go through.
#[derive(Debug, Default)]
struct Seen {
    images: usize,
    restarts: usize,
    torn_reports: usize,
    in_flight_most: usize,
    recycled: usize,
    segments: u64,
}

fn run(seed: u64, batches: usize, planted: Planted) -> Result<Seen, String> {
    let mut world = World::new(seed, planted);
    let mut seen = Seen::default();
    let mut issued = 0;
    while issued < batches {
        world.now_ns += world.rng.below(20_000_000);
        match world.rng.below(20) {
            0..=6 => world.append(),
            7..=11 => {
                if world.issue() {
                    issued += 1;
                    every_fate_of_the_last_write(&mut world, &mut seen)?;
                }
            }
            12..=15 => world.complete(),
            16 | 17 => {
                world.file_op();
                file_op_boundary(&mut world, &mut seen)?;
            }
            18 => {
                if world.rng.one_in(4) {
                    world.checkpoint();
                    let applied = world.metas[0].applied;
                    world.append_mark(Mark::Checkpoint {
                        number: 1,
                        index: applied,
                        term: 1,
                    });
                }
            }
            _ => {
                world.wal.on_timer(world.now_ns);
                if world.rng.one_in(12) {
                    restart(&mut world, &mut seen)?;
                }
            }
        }
        world.check_written()?;
        seen.in_flight_most = seen.in_flight_most.max(world.disk.flying.len());
        seen.segments = seen
            .segments
            .max(world.disk.files.keys().last().map_or(0, |id| id.0));
    }
    Ok(seen)
}

fn check(world: &World, seen: &mut Seen, image: &crate::disk::Image) -> Result<(), String> {
    let recovered = world.check_image(image)?;
    seen.images += 1;
    if recovered.report != engine::wal::Report::CleanEnd {
        seen.torn_reports += 1;
    }
    Ok(())
}

/// Absent, torn at each sector, complete; and random subsets of everything under way.
fn every_fate_of_the_last_write(world: &mut World, seen: &mut Seen) -> Result<(), String> {
    let Some(last) = world.disk.flying.last() else {
        return Ok(());
    };
    let sectors = last.buf.len() / SECTOR;
    let mut fates = vec![Fate::Absent; world.disk.flying.len()];
    let others = fates.len() - 1;
    for torn in 0..=sectors {
        for fate in &mut fates[..others] {
            *fate = if world.rng.one_in(2) {
                Fate::Complete
            } else {
                Fate::Absent
            };
        }
        fates[others] = Fate::Torn(torn);
        check(world, seen, &world.disk.crash(&fates))?;
    }
    for _ in 0..4 {
        let fates = world.disk.random_fates(&mut world.rng);
        check(world, seen, &world.disk.crash(&fates))?;
    }
    Ok(())
}

fn file_op_boundary(world: &mut World, seen: &mut Seen) -> Result<(), String> {
    let fates = world.disk.random_fates(&mut world.rng);
    let image = world.disk.crash(&fates);
    let images = world.disk.op_images(&image);
    seen.recycled += usize::from(images.len() > 2);
    images
        .iter()
        .try_for_each(|image| check(world, seen, image))
}

fn restart(world: &mut World, seen: &mut Seen) -> Result<(), String> {
    let fates = world.disk.random_fates(&mut world.rng);
    let mut image = world.disk.crash(&fates);
    let mut stages = world.disk.op_images(&image);
    if !stages.is_empty() {
        image = stages.swap_remove(world.rng.below(stages.len() as u64) as usize);
    }
    let recovered = world.check_image(&image)?;
    world.restart(image, recovered);
    seen.restarts += 1;
    Ok(())
}

#[test]
fn a_crash_at_any_write_boundary_loses_nothing_acknowledged() {
    for seed in seeds(1..2) {
        let seen =
            run(seed, BATCHES, Planted::Nothing).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        println!("seed {seed}: {seen:?}");
        assert!(
            seen.in_flight_most >= 3
                && seen.restarts > 5
                && seen.segments > 20
                && seen.recycled > 5,
            "{seen:?}"
        );
        assert!(seen.torn_reports > 100, "{seen:?}");
    }
}

/// The same run with a mistake in it must fail for one of a few seeds, or it could not fail at all.
#[test]
fn planted_mistakes_are_noticed() {
    for planted in [
        Planted::AckEarly,
        Planted::PrepareEarly,
        Planted::ReleaseEarly,
        Planted::MetaAhead,
    ] {
        let noticed = (1..20).find_map(|seed| run(seed, 400, planted).err().map(|why| (seed, why)));
        match noticed {
            Some((seed, why)) => println!("{planted:?} noticed with seed {seed}: {why}"),
            None => panic!("{planted:?} is not noticed"),
        }
    }
}
