//! Random clusters: whatever is lost, repeated, reordered or crashed, the invariants hold and a healed cluster agrees.
//!
//! `RAFT_SEEDS=n` runs n seeds per size, `RAFT_SEED=s` one seed; a failure prints the seed.

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use raft::fuzzing::{Chance, Cluster, Options, Report};

/// Seeds per cluster size in an ordinary test run.
const SEEDS: u64 = 100;
const STEPS: usize = 12_000;

fn run(seed: u64, voters: u64) -> Report {
    run_with(seed, voters, |options| options)
}

fn run_with(seed: u64, voters: u64, change: impl Fn(Options) -> Options) -> Report {
    let mut chance = Chance::from_seed(seed);
    let options = Options::draw(&mut chance, voters, STEPS);
    Cluster::new(change(options), chance).run()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run_all(voters: u64) {
    let count = number("RAFT_SEEDS").unwrap_or(SEEDS);
    let seeds = number("RAFT_SEED").map_or(0..count, |seed| seed..seed + 1);
    let single = seeds.end - seeds.start == 1;
    let mut sum = Report::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed, voters))) {
            Ok(report) => {
                sum.leaders += report.leaders;
                sum.committed += report.committed;
                sum.reads += report.reads;
                sum.snapshots += report.snapshots;
                sum.crashes += report.crashes;
                sum.conf_changes += report.conf_changes;
                sum.checks += report.checks;
                sum.stuck += report.stuck;
            }
            Err(panic) => {
                eprintln!("failed: RAFT_SEED={seed}, {voters} voters");
                resume_unwind(panic);
            }
        }
    }
    assert!(
        sum.stuck * 100 <= count,
        "too many clusters ended without a leader: {sum:?}"
    );
    println!("{voters} voters: {sum:?}");
    if !single {
        // A test that has seen nothing of this has shown nothing.
        for seen in [
            sum.leaders,
            sum.committed,
            sum.reads,
            sum.snapshots,
            sum.crashes,
            sum.conf_changes,
        ] {
            assert!(seen > 0, "{sum:?}");
        }
    }
}

/// (voters, seed) of clusters that once broke an invariant.
const REGRESSIONS: [(u64, u64); 1] = [
    // A change that had been handed out was applied after a snapshot had arrived, and answered with the snapshot's
    // configuration.
    (3, 204),
];

#[test]
fn clusters_that_broke_once_stay_whole() {
    for (voters, seed) in REGRESSIONS {
        run(seed, voters);
    }
}

#[test]
fn clusters_of_three_keep_the_invariants() {
    run_all(3);
}

#[test]
fn clusters_of_five_keep_the_invariants() {
    run_all(5);
}

#[test]
fn clusters_of_one_and_two_keep_the_invariants() {
    run_all(1);
    run_all(2);
}

/// Disks lose everything, one after another; what was committed stays, and everybody comes back.
#[test]
fn clusters_whose_disks_lose_everything_keep_the_invariants() {
    let count = number("RAFT_SEEDS").unwrap_or(SEEDS);
    let seeds = number("RAFT_SEED").map_or(0..count, |seed| seed..seed + 1);
    let (mut losses, mut committed) = (0, 0);
    for seed in seeds {
        for voters in [3, 5] {
            let ran = catch_unwind(AssertUnwindSafe(|| {
                run_with(seed, voters, Options::with_losses)
            }));
            let report = ran.unwrap_or_else(|panic| {
                eprintln!("failed: RAFT_SEED={seed}, {voters} voters, with losses");
                resume_unwind(panic)
            });
            losses += report.losses;
            committed += report.committed;
        }
    }
    println!("{losses} disks lost everything, {committed} entries were committed");
    assert!(losses > 0 && committed > 0, "{losses} {committed}");
}

#[test]
fn two_runs_of_a_seed_are_the_same() {
    for seed in 1000..1010 {
        assert_eq!(run(seed, 3), run(seed, 3));
    }
}
